//! `braid run`: the proxy, its admin address and its end.

use super::check;
use super::exit::Failure;
use super::flags::Settings;
use super::log;
use crate::admin;
use crate::config::Config;
use crate::metrics::Metrics;
use crate::proxy;
use anyhow::{Context, anyhow};
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

/// Runs until told to stop.
///
/// # Errors
/// A configuration that is wrong, an address that cannot be listened on.
pub fn run(settings: &Settings) -> Result<(), Failure> {
    let config = settings.resolve()?;
    log::start(&config.log, config.log_format);
    tracing::info!(version = env!("CARGO_PKG_VERSION"), "braid starts");
    for line in check::describe(&config).lines() {
        tracing::info!("{}", line.trim_start());
    }
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    let runtime = tokio::runtime::Runtime::new().context("cannot start the runtime")?;
    runtime.block_on(serve(Arc::new(config)))
}

async fn serve(config: Arc<Config>) -> Result<(), Failure> {
    let metrics = Arc::new(Metrics::new());
    let mut signals = Signals::new()?;
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let admin = serve_admin(config.admin, Arc::clone(&metrics)).await?;
    let proxy = proxy::run(config, metrics, async {
        // An error means that the sender is gone, which also means to stop.
        stopped.await.ok();
    });
    tokio::pin!(proxy, admin);
    tokio::select! {
        ended = &mut proxy => return Ok(ended.map_err(|error| listen_failure(&error))?),
        failed = &mut admin => return Err(failed),
        () = signals.next() => {}
    }
    drop(stop);
    tokio::select! {
        ended = &mut proxy => Ok(ended.map_err(|error| listen_failure(&error))?),
        failed = &mut admin => Err(failed),
        () = signals.next() => Err(anyhow!("stopped at once, as asked by a second signal").into()),
    }
}

fn listen_failure(error: &proxy::StartError) -> anyhow::Error {
    match error {
        proxy::StartError::Listen { .. } => {
            anyhow!("{error}; free the address, or choose another with `listen` (--listen ADDR:PORT)")
        }
        proxy::StartError::Mark { .. } | proxy::StartError::Loop { .. } => anyhow!("{error}"),
    }
}

/// Binds the admin address at once; the future then serves until it fails, for ever if there is none.
async fn serve_admin(
    address: Option<SocketAddr>,
    metrics: Arc<Metrics>,
) -> Result<impl Future<Output = Failure>, Failure> {
    let listener = match address {
        None => None,
        Some(address) => Some(TcpListener::bind(address).await.map_err(|error| {
            anyhow!("cannot serve metrics on {address}: {error}; choose another address with `admin` (--admin ADDR:PORT), or \"off\"")
        })?),
    };
    Ok(async move {
        match listener {
            None => std::future::pending().await,
            Some(listener) => match admin::serve(listener, metrics, std::future::pending()).await {
                Ok(()) => Failure::Bug("the admin server ended by itself".to_owned()),
                Err(error) => anyhow!("the admin server failed: {error}").into(),
            },
        }
    })
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
