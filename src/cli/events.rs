//! `braid events`: what happened in a running Braid.

use super::client::{NOTHING, ask, must_know};
use super::exit::Failure;
use super::flags::Events;
use crate::admin::view::{Event, News};
use anyhow::Context;
use hyper::Method;
use std::io::Write;

/// Seconds that Braid lets a follower wait for news: less than what a request may take.
const WAIT: u32 = 20;

/// Prints what happened, and with `--follow` what happens, until that cannot be printed any more.
///
/// # Errors
/// No Braid answers, or answers no longer.
pub fn events(asked: &Events) -> Result<(), Failure> {
    must_know(&asked.running, asked.target.as_deref())?;
    let mut last = 0;
    let mut wait = 0;
    loop {
        let uri = format!("/v1/events?after={last}&wait={wait}");
        let news: News = ask(&asked.running, Method::GET, &uri, NOTHING)?;
        // At the beginning nobody can have missed anything.
        let missed = if wait == 0 { 0 } else { news.missed };
        let text = show(asked, &news.events, missed)?;
        let mut out = std::io::stdout().lock();
        // Whoever reads has gone.
        if out.write_all(text.as_bytes()).and_then(|()| out.flush()).is_err() || !asked.follow {
            return Ok(());
        }
        (last, wait) = (news.last, WAIT);
    }
}

fn show(asked: &Events, events: &[Event], missed: u64) -> Result<String, Failure> {
    let mut text = String::new();
    if missed > 0 {
        text += &if asked.json {
            format!("{{\"missed\":{missed}}}\n")
        } else {
            format!("... {missed} events are gone: they came faster than they were read\n")
        };
    }
    let wanted = |event: &&Event| asked.target.is_none() || asked.target == event.target;
    for event in events.iter().filter(wanted) {
        text += &if asked.json {
            serde_json::to_string(event).context("cannot write JSON")?
        } else {
            line(event)
        };
        text.push('\n');
    }
    Ok(text)
}

/// An event in one line.
fn line(event: &Event) -> String {
    let mut parts = vec![event.time.clone(), format!("{:17}", event.kind)];
    let named = [("", &event.path), ("", &event.target), ("of ", &event.initiator)];
    parts.extend(named.iter().filter_map(|(word, name)| Some(format!("{word}{}", (*name).as_ref()?))));
    let head = parts.join("  ");
    if event.text.is_empty() { head } else { format!("{head}: {}", event.text) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::flags::Running;

    #[test]
    fn events_are_lines_and_those_that_are_gone_are_told() {
        let event = Event {
            number: 7,
            time: "2026-11-23T00:00:00.000Z".to_owned(),
            kind: "path-lost".to_owned(),
            target: Some("iqn.a".to_owned()),
            initiator: None,
            path: Some("left".to_owned()),
            text: "cut".to_owned(),
        };
        let running = || Running { socket: "/none".into(), remote: None, token_file: None };
        let plain = Events { follow: false, json: false, target: None, running: running() };
        let text = show(&plain, std::slice::from_ref(&event), 3).unwrap();
        assert_eq!(
            text,
            "... 3 events are gone: they came faster than they were read\n\
             2026-11-23T00:00:00.000Z  path-lost          left  iqn.a: cut\n"
        );
        let json = Events { json: true, target: Some("iqn.b".to_owned()), ..plain };
        assert_eq!(show(&json, std::slice::from_ref(&event), 3).unwrap(), "{\"missed\":3}\n");
    }
}
