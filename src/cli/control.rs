//! `braid status`, `braid path` and `braid give-up`: a running Braid, over its control socket.

use super::client::{NOTHING, ask, escaped, fetch_status, one_target};
use super::exit::Failure;
use super::flags::{GiveUp, PathOrder, Status, TakeOut, WhichPath};
use crate::admin::view;
use anyhow::Context;
use hyper::Method;
use std::fmt::Write;

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
        PathOrder::Drain(out) => (&out.which, "drain", take_out(out)),
        PathOrder::Fail(out) => (&out.which, "fail", take_out(out)),
        PathOrder::Restore(which) => (which, "restore", view::Order::default()),
        PathOrder::Weight(to) => {
            (&to.which, "weight", view::Order { weight: Some(to.weight), ..view::Order::default() })
        }
    };
    let WhichPath { path, target, running } = which;
    let target = one_target(running, target.as_deref())?;
    let uri = format!("/v1/targets/{}/paths/{}/{word}", escaped(&target), escaped(path));
    let done: view::Done = ask(running, Method::POST, &uri, Some(&order))?;
    Ok(format!("{word} {path} of {target}: {}\n", told(&done)))
}

fn take_out(out: &TakeOut) -> view::Order {
    let for_seconds = out.limit.map(|time| time.as_secs_f64());
    view::Order { force: out.force, for_seconds, weight: None }
}

/// Lets nothing wait for a target any longer; gives the text to print.
///
/// # Errors
/// No Braid answers, or it refuses.
pub fn give_up(asked: &GiveUp) -> Result<String, Failure> {
    let target = one_target(&asked.running, asked.target.as_deref())?;
    let uri = format!("/v1/targets/{}/give-up", escaped(&target));
    let done: view::Done = ask(&asked.running, Method::POST, &uri, NOTHING)?;
    Ok(format!("give up on {target}: {}\n", told(&done)))
}

fn told(done: &view::Done) -> String {
    match done.sessions {
        0 => "no session runs; those that begin are told".to_owned(),
        1 => "1 session told".to_owned(),
        several => format!("{several} sessions told"),
    }
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
    if standing.initiator_connections > 1 {
        lines.push(format!("    {} connections of the initiator", standing.initiator_connections));
    }
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
