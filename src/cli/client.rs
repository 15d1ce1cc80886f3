//! A running Braid, over its control socket or over TCP.

use super::exit::Failure;
use super::flags::Running;
use crate::admin::view;
use anyhow::{Context, anyhow};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::header::HeaderValue;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fmt::Write;
use std::io::ErrorKind;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use zeroize::Zeroizing;

/// Given to an answer.
const PATIENCE: Duration = Duration::from_secs(30);
/// Bytes of an answer, at most.
const LONGEST_ANSWER: usize = 1 << 30;

/// The target that is named, or the only one there is.
pub(super) fn one_target(running: &Running, named: Option<&str>) -> Result<String, Failure> {
    if let Some(named) = named {
        return Ok(named.to_owned());
    }
    let targets = fetch_status(running)?.targets;
    match targets.as_slice() {
        [only] => Ok(only.name.clone()),
        several => {
            let names: Vec<_> = several.iter().map(|target| target.name.as_str()).collect();
            Err(anyhow!("say which target with --target; there are: {}", names.join(", ")).into())
        }
    }
}

/// Refuses a name that is none of its targets'.
pub(super) fn must_know(running: &Running, named: Option<&str>) -> Result<(), Failure> {
    let Some(named) = named else { return Ok(()) };
    let targets = fetch_status(running)?.targets;
    if targets.iter().any(|target| target.name == named) {
        return Ok(());
    }
    let names: Vec<_> = targets.iter().map(|target| target.name.as_str()).collect();
    let names = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
    Err(anyhow!("no target \"{named}\" is configured or in use; there are: {names}").into())
}

/// How everything stands.
pub(super) fn fetch_status(running: &Running) -> Result<view::Status, Failure> {
    ask(running, Method::GET, "/v1/status", NOTHING)
}

/// Lets time pass.
pub(super) fn pause(time: Duration) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
    runtime.context("cannot start the runtime")?.block_on(async { tokio::time::sleep(time).await });
    Ok(())
}

/// The body of a request that has none.
pub(super) const NOTHING: Option<&()> = None;

/// One request and its answer.
pub(super) fn ask<T: DeserializeOwned>(
    running: &Running,
    method: Method,
    uri: &str,
    order: Option<&impl Serialize>,
) -> Result<T, Failure> {
    block_on(answer(running, method, uri, order))?
}

/// The same, for those who wait for other things too.
pub(super) async fn answer<T: DeserializeOwned>(
    running: &Running,
    method: Method,
    uri: &str,
    order: Option<&impl Serialize>,
) -> Result<T, Failure> {
    match send(running, method, uri, order).await? {
        Ok(body) => understand(&body),
        Err((_, refused)) => Err(anyhow!(refused.error).into()),
    }
}

/// What a body says.
pub(super) fn understand<T: DeserializeOwned>(body: &[u8]) -> Result<T, Failure> {
    Ok(serde_json::from_slice(body).context("an answer that makes no sense; another version of Braid?")?)
}

/// A body, or why what was asked is refused.
type Answered = Result<Bytes, (StatusCode, view::Refused)>;

/// One request and its answer, which may be that it is refused.
pub(super) fn request(
    running: &Running,
    method: Method,
    uri: &str,
    order: Option<&impl Serialize>,
) -> Result<Answered, Failure> {
    block_on(send(running, method, uri, order))?
}

fn block_on<T>(work: impl Future<Output = T>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    Ok(runtime.context("cannot start the runtime")?.block_on(work))
}

async fn send(
    running: &Running,
    method: Method,
    uri: &str,
    order: Option<&impl Serialize>,
) -> Result<Answered, Failure> {
    let at = place(running);
    let token = token(running)?;
    let token = token.as_ref().map(|token| token.as_str());
    let body = match order {
        Some(order) => Some(Bytes::from(serde_json::to_vec(order).context("cannot write JSON")?)),
        None => None,
    };
    let exchanged = async {
        match running.remote {
            None => exchange(connect(running).await?, method, uri, body, None).await,
            Some(address) => {
                let stream = TcpStream::connect(address).await;
                exchange(stream.context("no connection")?, method, uri, body, token).await
            }
        }
    };
    let (code, body) = tokio::time::timeout(PATIENCE, exchanged)
        .await
        .map_err(|_| Failure::Unavailable(format!("the Braid at {at} does not answer")))?
        .map_err(|error| Failure::Unavailable(format!("the Braid at {at}: {error:#}")))?;
    if code == StatusCode::OK {
        return Ok(Ok(body));
    }
    let unclear = |_| view::Refused { error: format!("refused: {code}"), changes: Vec::new() };
    Ok(Err((code, serde_json::from_slice(&body).unwrap_or_else(unclear))))
}

/// Where it is, for people.
fn place(running: &Running) -> String {
    running.remote.map_or_else(|| running.socket.display().to_string(), |address| address.to_string())
}

async fn connect(running: &Running) -> anyhow::Result<UnixStream> {
    let connected = UnixStream::connect(&running.socket).await;
    let denied = connected.as_ref().is_err_and(|error| error.kind() == ErrorKind::PermissionDenied);
    connected.context(if denied {
        "you may not use this socket; only root and its group may (see `ls -l` of it): use sudo, or join the group"
    } else {
        "no connection; is it running, and with which `control` socket? (--socket FILE, or --remote ADDR:PORT)"
    })
}

/// The token for control over TCP.
fn token(running: &Running) -> Result<Option<Zeroizing<String>>, Failure> {
    let Some(file) = &running.token_file else { return Ok(None) };
    let read = std::fs::read_to_string(file).map(Zeroizing::new);
    let token = read.with_context(|| format!("cannot read the token in {}", file.display()))?;
    Ok(Some(Zeroizing::new(format!("Bearer {}", token.trim_end_matches(['\r', '\n'])))))
}

async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    method: Method,
    uri: &str,
    body: Option<Bytes>,
    token: Option<&str>,
) -> anyhow::Result<(StatusCode, Bytes)> {
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let mut request = Request::builder().method(method).uri(uri).header("host", "braid");
    if let Some(token) = token {
        let mut value =
            HeaderValue::from_str(token).context("the token has characters that no header has")?;
        value.set_sensitive(true);
        request = request.header("authorization", value);
    }
    if body.is_some() {
        request = request.header("content-type", "application/json");
    }
    let answer = sender.send_request(request.body(Full::new(body.unwrap_or_default()))?).await?;
    let code = answer.status();
    let body = Limited::new(answer.into_body(), LONGEST_ANSWER).collect().await;
    connection.abort();
    Ok((code, body.map_err(|error| anyhow!(error))?.to_bytes()))
}

/// A name as one segment of a URI.
pub(super) fn escaped(name: &str) -> String {
    let mut text = String::new();
    for byte in name.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'-' | b'_' | b':' => {
                text.push(char::from(byte))
            }
            // Writing to a String cannot fail.
            _ => {
                write!(text, "%{byte:02X}").ok();
            }
        }
    }
    text
}
