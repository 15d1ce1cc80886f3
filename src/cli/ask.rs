//! `braid probe` and `braid discover`: questions to a target, answered on standard output.

use super::exit::Failure;
use super::flags::{Discover, Probe};
use crate::login::discovery::TargetRecord;
use crate::proxy::dial::{Route, Timing};
use crate::proxy::discover::discover as send_targets;
use crate::proxy::probe::{self, Patience, ProbePlan, throwaway_isid};
use anyhow::Context;
use std::fmt::Write;
use std::net::IpAddr;

/// Probes a target; gives the table to print.
///
/// # Errors
/// The target cannot be logged in to.
pub fn probe(asked: &Probe) -> Result<String, Failure> {
    let first = Route::to(portal(&asked.first));
    let second = asked.second.as_ref().map_or_else(|| first.clone(), |second| Route::to(portal(second)));
    let plan = ProbePlan {
        routes: [first, second],
        timing: Timing::default(),
        target: asked.target.clone(),
        initiator: asked.initiator.clone(),
        isid: throwaway_isid(),
        patience: Patience::default(),
    };
    let report = runtime()?.block_on(probe::probe(&plan));
    let report = report.map_err(|error| Failure::Unavailable(format!("{}: {error}", asked.target)))?;
    Ok(probe::render(&report))
}

/// Asks a portal for its targets; gives the list to print.
///
/// # Errors
/// The portal does not answer.
pub fn discover(asked: &Discover) -> Result<String, Failure> {
    let route = Route::to(portal(&asked.portal));
    let timing = Timing::default();
    let answer = runtime()?.block_on(send_targets(&route, &asked.initiator, throwaway_isid(), &timing));
    let targets = answer.map_err(|error| Failure::Unavailable(format!("{}: {error}", route.portal)))?;
    Ok(list(&targets))
}

fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    Ok(runtime.context("cannot start the runtime")?)
}

/// `host:port`, with the iSCSI port if none was typed.
fn portal(typed: &str) -> String {
    let bare = typed.trim_start_matches('[').trim_end_matches(']');
    match bare.parse::<IpAddr>() {
        Ok(IpAddr::V6(address)) => format!("[{address}]:3260"),
        Ok(IpAddr::V4(address)) => format!("{address}:3260"),
        Err(_) if typed.contains(':') => typed.to_owned(),
        Err(_) => format!("{typed}:3260"),
    }
}

/// One line per target and portal.
fn list(targets: &[TargetRecord]) -> String {
    let mut text = String::new();
    for target in targets {
        for (address, group) in &target.portals {
            // Writing to a String cannot fail.
            writeln!(text, "{}  {address}  portal group {group}", target.name).ok();
        }
    }
    if text.is_empty() {
        text.push_str("no targets are offered to this initiator name\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_portal_gets_the_iscsi_port() {
        for (typed, meant) in [
            ("10.0.0.1", "10.0.0.1:3260"),
            ("10.0.0.1:860", "10.0.0.1:860"),
            ("storage", "storage:3260"),
            ("storage:860", "storage:860"),
            ("fd00::1", "[fd00::1]:3260"),
            ("[fd00::1]", "[fd00::1]:3260"),
            ("[fd00::1]:860", "[fd00::1]:860"),
        ] {
            assert_eq!(portal(typed), meant);
        }
    }

    #[test]
    fn every_portal_is_a_line() {
        let portals = vec![("10.0.0.1:3260".to_owned(), 1), ("10.0.0.2:3260".to_owned(), 2)];
        let shown = list(&[TargetRecord { name: "iqn.a".to_owned(), portals }]);
        assert_eq!(shown, "iqn.a  10.0.0.1:3260  portal group 1\niqn.a  10.0.0.2:3260  portal group 2\n");
        assert!(list(&[]).contains("no targets"));
    }

    #[test]
    fn a_portal_that_is_not_there_is_unavailable() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let portal = listener.local_addr().unwrap().to_string();
        drop(listener);
        let initiator = "iqn.2026-01.org.braid:test".to_owned();
        let failure =
            discover(&Discover { portal: portal.clone(), initiator: initiator.clone() }).unwrap_err();
        assert_eq!(failure.number(), 69, "{failure}");
        let asked = Probe { first: portal, target: "iqn.a".to_owned(), second: None, initiator };
        assert_eq!(probe(&asked).unwrap_err().number(), 69);
    }
}
