//! `braid drill`: a scenario is played and judged.
//!
//! A scenario (TOML) says what is done to which path from when to when, and what is expected. It is played in a lab of its own,
//! where links (relays, or the kernel's) can be cut in every way and a verifying load runs, or in a running Braid, which is told to take paths out and
//! give them back while the real load is watched. Either way everything is undone in the end, whatever that end is, and what was
//! seen becomes a report: on the terminal, as one HTML file, and as JSON.
//!
//! - [`flags`]: what is typed.
//! - `read`: how a scenario is written, `scenario`: what it comes to.
//! - `scene`: where it is played; `braid`: the Braid there; `load`: the drill's own load.
//! - `play`: the drill as it runs; `record`: what is seen meanwhile.
//! - `judge`: whether objectives were met; `report`: the shape of the report; `text`, `html` and `plot`: the report for eyes.

mod braid;
pub mod flags;
mod html;
mod judge;
mod load;
mod play;
mod plot;
mod read;
mod record;
mod report;
mod scenario;
mod scene;
mod text;

#[cfg(test)]
mod tests;

use super::exit::Failure;
use super::log;
use super::screen::say;
use crate::lab::netns;
use anyhow::{Context, anyhow};
use flags::{Drill, DrillRun};
use report::Report;
use scenario::{Ground, Scenario};
use std::fs;
use std::io::IsTerminal;
use std::path::Path;

/// Does what is asked with a scenario.
///
/// # Errors
/// The scenario is wrong, something could not be set up, or an objective was not met.
pub fn drill(asked: &Drill) -> Result<(), Failure> {
    match asked {
        Drill::Schema => print!("{}", report::SCHEMA),
        Drill::Check(asked) => print!("{}", text::describe(&Scenario::load(&asked.scenario)?)),
        Drill::Run(asked) => run(asked)?,
    }
    Ok(())
}

fn run(asked: &DrillRun) -> Result<(), Failure> {
    log::errors();
    let mut scenario = Scenario::load(&asked.scenario)?;
    // Whoever gave a file that cannot be written is told before the drill, not after it.
    for file in [&asked.html, &asked.json].into_iter().flatten() {
        write(file, "")?;
    }
    say(&text::describe(&scenario));
    if matches!(&scenario.ground, Ground::Lab(plan) if plan.real) {
        leave_the_network()?;
    }
    let runtime = tokio::runtime::Runtime::new().context("cannot start the runtime")?;
    let (seen, target) = runtime.block_on(play::play(&mut scenario, asked))?;
    let report = judge::judge(&scenario, seen, target);
    show(&report, asked)?;
    match (&report.ended.why, report.passed) {
        (_, true) => Ok(()),
        (Some(why), false) => Err(anyhow!("{why}").into()),
        (None, false) => Err(anyhow!("objectives were not met").into()),
    }
}

/// What is done to links is done in a network that ends with the process. There is one thread yet.
fn leave_the_network() -> anyhow::Result<()> {
    netns::isolate().context(
        "cannot make a network of its own: run it as root, or let users make namespaces (sysctl user.max_user_namespaces, \
         kernel.unprivileged_userns_clone, kernel.apparmor_restrict_unprivileged_userns)",
    )
}

fn show(report: &Report, asked: &DrillRun) -> Result<(), Failure> {
    say(text::show(report, std::io::stdout().is_terminal()).trim_end());
    if let Some(file) = &asked.html {
        write(file, &html::page(report))?;
        say(&format!("report: {}", file.display()));
    }
    if let Some(file) = &asked.json {
        let text = serde_json::to_string_pretty(report).context("cannot write JSON")?;
        write(file, &(text + "\n"))?;
        say(&format!("JSON: {}", file.display()));
    }
    Ok(())
}

fn write(file: &Path, text: &str) -> Result<(), Failure> {
    fs::write(file, text).with_context(|| format!("cannot write {}", file.display())).map_err(Failure::from)
}
