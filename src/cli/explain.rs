//! `braid explain`: why things are as they are with a target of a running Braid.

use super::client::{NOTHING, ask, escaped, one_target};
use super::exit::Failure;
use super::flags::Explain;
use crate::admin::explain::{Explanation, Probe, SessionFacts, UnitFacts};
use anyhow::Context;
use hyper::Method;
use std::fmt::Write;

/// Explains it; gives the text to print.
///
/// # Errors
/// No Braid answers, or it has no such target.
pub fn explain(asked: &Explain) -> Result<String, Failure> {
    let target = one_target(&asked.running, asked.target.as_deref())?;
    let uri = format!("/v1/targets/{}/explain", escaped(&target));
    let told: Explanation = ask(&asked.running, Method::GET, &uri, NOTHING)?;
    if asked.json {
        return Ok(serde_json::to_string_pretty(&told).context("cannot write JSON")? + "\n");
    }
    Ok(text_of(&told))
}

fn text_of(told: &Explanation) -> String {
    let mut text = String::new();
    for line in lines(told) {
        // Writing to a String cannot fail.
        writeln!(text, "{}", line.trim_end()).ok();
    }
    text
}

fn lines(told: &Explanation) -> Vec<String> {
    let mode = told.mode.as_deref().map_or_else(
        || "which the configuration has no longer".to_owned(),
        |mode| format!("mode {mode}{}", if told.discovered { ", discovered" } else { "" }),
    );
    let mut lines = vec![format!("target {}, {mode}", told.target)];
    let next = told.next_fanout.as_deref().map_or("not known yet", fanout);
    lines.push(format!("  the next session: {next} ({})", told.next_why));
    for probe in &told.probes {
        lines.push(format!("  probe of {}: {}", probe.target, outcome(probe)));
        lines.extend((1..).zip(&probe.steps).map(|(number, step)| format!("    {number}. {step}")));
    }
    let kept = told.remembered.file.as_ref().map_or("until Braid ends", |file| file.as_str());
    for verdict in &told.remembered.verdicts {
        let product = verdict.steps.first().map_or("", String::as_str);
        lines.push(format!("  remembered ({kept}): {product}: {}", outcome(verdict)));
    }
    for (place, tag) in &told.remembered.tags {
        lines.push(format!("  remembered ({kept}): initiators know {place} under portal group tag {tag}"));
    }
    for path in &told.paths {
        let out = if path.out { ", taken out" } else { "" };
        let weight =
            path.ordered_weight.map_or(String::new(), |weight| format!(", weight {weight} by order"));
        let portal = if path.name == path.portal { String::new() } else { format!(" {}", path.portal) };
        lines.push(format!("  path {}{portal}{out}{weight}", path.name));
    }
    if told.sessions.is_empty() {
        lines.push("  no session: Braid connects when an initiator does".to_owned());
    }
    told.sessions.iter().for_each(|session| lines.extend(session_lines(session)));
    lines
}

fn fanout(word: &str) -> &'static str {
    if word == "mcs" { "connections of one session" } else { "several sessions" }
}

fn outcome(probe: &Probe) -> String {
    match (probe.state.as_str(), &probe.objection) {
        ("under-way", _) => "it is under way".to_owned(),
        ("none", _) => "there was none yet, or it found nothing out".to_owned(),
        (_, Some(objection)) => format!("several connections in a session are not used: {objection}"),
        (_, None) => "several connections in a session are sound".to_owned(),
    }
}

fn session_lines(facts: &SessionFacts) -> Vec<String> {
    let session = &facts.session;
    let peer = session.peer.as_deref().unwrap_or("?");
    let mut lines = vec![format!("  session {} from {peer}, ISID {}", session.initiator, session.isid)];
    if let Some(guarantees) = &facts.guarantees {
        lines.push(format!("    {} ({})", fanout(&guarantees.fanout), guarantees.why));
        lines.push(format!("    order: {}", guarantees.order));
        lines.push(format!("    loss: {}", guarantees.loss));
        lines.push(format!("    ghosts: {}", guarantees.fence));
    }
    let Some(standing) = &session.standing else {
        lines.push("    begins, or does not answer".to_owned());
        return lines;
    };
    if standing.initiator_connections > 1 {
        lines.push(format!("    {} connections of the initiator", standing.initiator_connections));
    }
    for (path, why) in standing.paths.iter().zip(&facts.paths) {
        let group = path.group.map_or(String::new(), |group| format!(", portal group {group}"));
        let weight = path.weight;
        lines.push(format!("    path {}: {}{group}, weight {weight}: {why}", path.name, path.state));
    }
    facts.units.iter().for_each(|unit| lines.extend(unit_lines(unit)));
    lines
}

fn unit_lines(unit: &UnitFacts) -> Vec<String> {
    let who = unit.who.as_deref().unwrap_or("home has not said yet who it is");
    let mut lines = vec![format!("    LUN {}: {who}", unit.lun)];
    for path in &unit.paths {
        let may = if path.may == "blocks" { "reads and writes" } else { &path.may };
        let why = if path.why.is_empty() { String::new() } else { format!(": {}", path.why) };
        lines.push(format!("      over {}: {may}{why}", path.path));
    }
    lines
}
