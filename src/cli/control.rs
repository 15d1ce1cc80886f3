//! `braid status`, `braid path` and `braid give-up`: a running Braid, over its control socket.

use super::exit::Failure;
use super::flags::{GiveUp, PathOrder, Running, Status, WhichPath};
use crate::admin::view;
use anyhow::{Context, anyhow};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use std::fmt::Write;
use std::time::Duration;
use tokio::net::UnixStream;

/// Given to an answer.
const PATIENCE: Duration = Duration::from_secs(30);
/// Bytes of an answer, at most.
const LONGEST_ANSWER: usize = 64 << 20;

/// Shows how everything stands; gives the text to print.
///
/// # Errors
/// No Braid answers.
pub fn status(asked: &Status) -> Result<String, Failure> {
    let status = fetch_status(&asked.running)?;
    if asked.json {
        let text = serde_json::to_string_pretty(&status).context("cannot write JSON")?;
        return Ok(text + "\n");
    }
    Ok(table(&status))
}

/// Gives an order about a path; gives the text to print.
///
/// # Errors
/// No Braid answers, or it refuses.
pub fn path(order: &PathOrder) -> Result<String, Failure> {
    let (which, word, order) = match order {
        PathOrder::Drain(out) => (&out.which, "drain", view::Order { force: out.force, weight: None }),
        PathOrder::Fail(out) => (&out.which, "fail", view::Order { force: out.force, weight: None }),
        PathOrder::Restore(which) => (which, "restore", view::Order::default()),
        PathOrder::Weight(to) => (&to.which, "weight", view::Order { force: false, weight: Some(to.weight) }),
    };
    let WhichPath { path, target, running } = which;
    let target = one_target(running, target.as_deref())?;
    let uri = format!("/v1/targets/{}/paths/{}/{word}", escaped(&target), escaped(path));
    let done: view::Done = ask(running, Method::POST, &uri, Some(&order))?;
    Ok(format!("{word} {path} of {target}: {}\n", told(&done)))
}

/// Lets nothing wait for a target any longer; gives the text to print.
///
/// # Errors
/// No Braid answers, or it refuses.
pub fn give_up(asked: &GiveUp) -> Result<String, Failure> {
    let target = one_target(&asked.running, asked.target.as_deref())?;
    let uri = format!("/v1/targets/{}/give-up", escaped(&target));
    let done: view::Done = ask(&asked.running, Method::POST, &uri, None)?;
    Ok(format!("give up on {target}: {}\n", told(&done)))
}

fn told(done: &view::Done) -> String {
    match done.sessions {
        0 => "no session runs; those that begin are told".to_owned(),
        1 => "1 session told".to_owned(),
        several => format!("{several} sessions told"),
    }
}

/// The target that is named, or the only one there is.
fn one_target(running: &Running, named: Option<&str>) -> Result<String, Failure> {
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

fn fetch_status(running: &Running) -> Result<view::Status, Failure> {
    ask(running, Method::GET, "/v1/status", None)
}

/// One request and its answer.
fn ask<T: DeserializeOwned>(
    running: &Running,
    method: Method,
    uri: &str,
    order: Option<&view::Order>,
) -> Result<T, Failure> {
    let socket = running.socket.display();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.context("cannot start the runtime")?;
    let answer = runtime.block_on(async {
        let stream = UnixStream::connect(&running.socket).await.map_err(|error| {
            Failure::Unavailable(format!(
                "no Braid answers at {socket} ({error}); is it running, and with which `control` socket? (--socket FILE)"
            ))
        })?;
        let answer = tokio::time::timeout(PATIENCE, exchange(stream, method, uri, order)).await;
        answer
            .map_err(|_| Failure::Unavailable(format!("the Braid at {socket} does not answer")))?
            .map_err(|error| Failure::Unavailable(format!("the Braid at {socket}: {error:#}")))
    });
    let (code, body) = answer?;
    if code == StatusCode::OK {
        return Ok(serde_json::from_slice(&body)
            .context("an answer that makes no sense; another version of Braid?")?);
    }
    let refused = serde_json::from_slice::<view::Refused>(&body).map(|refused| refused.error);
    Err(anyhow!(refused.unwrap_or_else(|_| format!("refused: {code}"))).into())
}

async fn exchange(
    stream: UnixStream,
    method: Method,
    uri: &str,
    order: Option<&view::Order>,
) -> anyhow::Result<(StatusCode, Bytes)> {
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let mut request = Request::builder().method(method).uri(uri).header("host", "braid");
    let body = match order {
        Some(order) => {
            request = request.header("content-type", "application/json");
            Bytes::from(serde_json::to_vec(order)?)
        }
        None => Bytes::new(),
    };
    let answer = sender.send_request(request.body(Full::new(body))?).await?;
    let code = answer.status();
    let body = Limited::new(answer.into_body(), LONGEST_ANSWER).collect().await;
    connection.abort();
    Ok((code, body.map_err(|error| anyhow!(error))?.to_bytes()))
}

/// A name as one segment of a URI.
fn escaped(name: &str) -> String {
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

/// Everything for eyes: targets, their sessions, and a line for each path.
fn table(status: &view::Status) -> String {
    let mut text = String::new();
    let mut line = |content: String| {
        // Writing to a String cannot fail.
        writeln!(text, "{}", content.trim_end()).ok();
    };
    for target in &status.targets {
        line(format!("target {}", target.name));
        for path in &target.paths {
            let out = if path.out { "  taken out" } else { "" };
            let portal = if path.name == path.portal { "" } else { path.portal.as_str() };
            line(format!("  path {} {portal}{out}", path.name));
        }
        if target.sessions.is_empty() {
            line("  no session: Braid connects when an initiator does".to_owned());
        }
        for session in &target.sessions {
            let peer = session.peer.as_deref().unwrap_or("?");
            line(format!("  session {} from {peer}, ISID {}", session.initiator, session.isid));
            match &session.standing {
                None => line("    begins, or does not answer".to_owned()),
                Some(standing) => describe(standing).into_iter().for_each(&mut line),
            }
        }
    }
    text
}

fn describe(standing: &view::Standing) -> Vec<String> {
    let mut lines = Vec::new();
    let fanout = if standing.fanout == "mcs" { "connections of one session" } else { "several sessions" };
    lines.push(format!(
        "    {fanout}; {} commands, {} of them waiting; {} KiB of write data",
        standing.commands,
        standing.waiting,
        standing.memory_bytes >> 10
    ));
    if let Some(seconds) = standing.outage_seconds {
        lines.push(format!("    NO PATH WORKS since {seconds:.1} s"));
    }
    if standing.ghosts > 0 {
        lines.push(format!("    {} writes in doubt: newer ones to the same blocks wait", standing.ghosts));
    }
    let width = standing.paths.iter().map(|path| path.name.len()).max().unwrap_or_default();
    for path in &standing.paths {
        let home = if path.home { "home" } else { "" };
        let oldest = path.oldest_seconds.map_or(String::new(), |s| format!("  oldest {:.1} ms", s * 1e3));
        lines.push(format!(
            "    {:width$}  {:8}  {home:4}  {:4} commands{oldest}",
            path.name, path.state, path.commands
        ));
    }
    lines
}
