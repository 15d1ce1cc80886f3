//! `braid run`: the proxy, its admin address, its control socket and its end.

use super::check;
use super::exit::Failure;
use super::flags::Settings;
use super::log::Log;
use super::service;
use crate::admin;
use crate::admin::control::Socket;
use crate::admin::remote::Remote;
use crate::config::{Config, ControlSocket, RemoteControl, Source};
use crate::metrics::Metrics;
use crate::proxy::operator::Operator;
use crate::proxy::{Proxy, STOP_PATIENCE, StartError};
use anyhow::{Context, anyhow};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

/// Runs until told to stop.
///
/// # Errors
/// A configuration that is wrong, an address that cannot be listened on.
pub fn run(settings: &Settings) -> Result<(), Failure> {
    let source = settings.source();
    let config = source.read()?.config;
    let log = Log::start(&config.log, config.log_format);
    tracing::info!(version = env!("CARGO_PKG_VERSION"), "braid starts");
    for line in check::describe(&config).lines() {
        tracing::info!("{}", line.trim_start());
    }
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    let runtime = tokio::runtime::Runtime::new().context("cannot start the runtime")?;
    runtime.block_on(serve(Arc::new(config), source, &log))
}

async fn serve(config: Arc<Config>, source: Source, log: &Log) -> Result<(), Failure> {
    let metrics = Arc::new(Metrics::new());
    let mut signals = Signals::new()?;
    let admin = listen_admin(config.admin).await?;
    let socket = control_socket(&config.control)?;
    let remote = remote_control(config.remote_control.as_ref()).await?;
    let proxy = Proxy::start(config, Arc::clone(&metrics)).await.map_err(|error| listen_failure(&error))?;
    let operator = proxy.operator().reading(source);
    let admin = serve_admin(admin, operator.clone());
    let control = serve_control(socket, operator.clone());
    let remote = serve_remote(remote, operator.clone());
    let reload = follow_reloads(operator, log)?;
    tokio::pin!(control, remote, admin, reload);
    service::ready();
    tokio::select! {
        failed = &mut admin => return Err(failed),
        failed = &mut control => return Err(failed),
        () = &mut remote => {}
        () = &mut reload => {}
        () = log.watch(&metrics) => {}
        () = service::live() => {}
        () = signals.next() => {}
    }
    service::stopping();
    tracing::info!(sessions = proxy.sessions(), "stopping");
    let stopped = proxy.stop(STOP_PATIENCE);
    tokio::pin!(stopped);
    tokio::select! {
        () = &mut stopped => Ok(()),
        failed = &mut admin => Err(failed),
        failed = &mut control => Err(failed),
        () = signals.next() => Err(anyhow!("stopped at once, as asked by a second signal").into()),
    }
}

/// Reads the configuration again at each SIGHUP, and lets the log follow it, whoever has changed it. Never ends.
fn follow_reloads(operator: Operator, log: &Log) -> Result<impl Future<Output = ()>, Failure> {
    let mut hangup = signal(SignalKind::hangup()).context("cannot catch signals")?;
    let mut reloads = operator.reloads();
    let mut filter = operator.config().log.clone();
    Ok(async move {
        loop {
            tokio::select! {
                _ = hangup.recv() => {
                    // What came of it is in the log.
                    operator.reload(true).await.ok();
                }
                _ = reloads.changed() => {
                    let wanted = operator.config().log.clone();
                    if wanted != filter {
                        (log.refilter)(&wanted);
                        filter = wanted;
                    }
                }
            }
        }
    })
}

/// Makes the control socket. Where none was asked for, Braid does without if the usual one cannot be had.
fn control_socket(wanted: &ControlSocket) -> Result<Option<Socket>, Failure> {
    match wanted {
        ControlSocket::Off => Ok(None),
        ControlSocket::At(path) => Socket::bind(path).map(Some).map_err(|error| {
            anyhow!(
                "cannot be controlled at {}: {error}; choose another path with `control` (--control FILE), or \"off\"",
                path.display()
            )
            .into()
        }),
        ControlSocket::Usual => {
            let bound = Socket::bind(Path::new(Config::DEFAULT_CONTROL));
            if let Err(error) = &bound {
                tracing::warn!(
                    socket = Config::DEFAULT_CONTROL,
                    %error,
                    "no control: `braid status` and `braid path` will not work; choose another path with `control` (--control FILE)"
                );
            }
            Ok(bound.ok())
        }
    }
}

/// Serves control until it fails, for ever if there is none.
async fn serve_control(socket: Option<Socket>, operator: Operator) -> Failure {
    match socket {
        None => std::future::pending().await,
        Some(socket) => match socket.serve(operator).await {
            Ok(()) => Failure::Bug("the control server ended by itself".to_owned()),
            Err(error) => anyhow!("the control server failed: {error}").into(),
        },
    }
}

/// Listens for control over TCP, if that is wanted.
async fn remote_control(wanted: Option<&RemoteControl>) -> Result<Option<Remote>, Failure> {
    let Some(wanted) = wanted else { return Ok(None) };
    let address = wanted.address;
    let bound = Remote::bind(wanted).await.with_context(|| {
        format!("cannot be controlled at {address}; choose another address with `remote_control.listen`")
    });
    Ok(Some(bound?))
}

/// Serves control over TCP, or does nothing; for ever.
async fn serve_remote(remote: Option<Remote>, operator: Operator) {
    match remote {
        None => std::future::pending().await,
        Some(remote) => remote.serve(operator).await,
    }
}

fn listen_failure(error: &StartError) -> anyhow::Error {
    match error {
        StartError::Listen { .. } => {
            anyhow!("{error}; free the address, or choose another with `listen` (--listen ADDR:PORT)")
        }
        StartError::Mark { .. } | StartError::Loop { .. } => anyhow!("{error}"),
    }
}

/// Binds the admin address, if there is one.
async fn listen_admin(address: Option<SocketAddr>) -> Result<Option<TcpListener>, Failure> {
    let Some(address) = address else { return Ok(None) };
    let bound = TcpListener::bind(address).await;
    let bound = bound.map_err(|error| {
        anyhow!("cannot serve the status page and metrics on {address}: {error}; choose another address with `admin` (--admin ADDR:PORT), or \"off\"")
    });
    Ok(Some(bound?))
}

/// Serves the admin address until it fails, for ever if there is none.
async fn serve_admin(listener: Option<TcpListener>, operator: Operator) -> Failure {
    match listener {
        None => std::future::pending().await,
        Some(listener) => match admin::serve(listener, operator, std::future::pending()).await {
            Ok(()) => Failure::Bug("the admin server ended by itself".to_owned()),
            Err(error) => anyhow!("the admin server failed: {error}").into(),
        },
    }
}

/// SIGTERM and SIGINT.
struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

impl Signals {
    fn new() -> Result<Self, Failure> {
        let catch = |kind| signal(kind).context("cannot catch signals");
        Ok(Self { terminate: catch(SignalKind::terminate())?, interrupt: catch(SignalKind::interrupt())? })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
