//! `braid reload`: a running Braid reads its configuration again.

use super::client::{request, understand};
use super::exit::Failure;
use super::flags::Reload;
use crate::admin::view::{Change, Refused, ReloadOrder, Reloaded};
use anyhow::{Context, anyhow};
use hyper::{Method, StatusCode};
use std::fmt::Write;

/// Lets it; gives the text to print.
///
/// # Errors
/// No Braid answers, the file is wrong, or something cannot be changed while Braid runs.
pub fn reload(asked: &Reload) -> Result<String, Failure> {
    let order = ReloadOrder { check: asked.check };
    match request(&asked.running, Method::POST, "/v1/reload", Some(&order))? {
        Ok(body) => {
            let done: Reloaded = understand(&body)?;
            if asked.json {
                return Ok(serde_json::to_string_pretty(&done).context("cannot write JSON")? + "\n");
            }
            Ok(told(&done))
        }
        Err((StatusCode::UNPROCESSABLE_ENTITY, refused)) => Err(Failure::Wrong(refused.error)),
        Err((_, Refused { error, changes })) => {
            Err(anyhow!("{error}\n\n{}", table(&changes).trim_end()).into())
        }
    }
}

fn told(done: &Reloaded) -> String {
    let mut text = table(&done.changes);
    let mut line = |content: &str| {
        // Writing to a String cannot fail.
        writeln!(text, "{content}").ok();
    };
    done.notes.iter().for_each(|note| line(&format!("note: {note}")));
    match (done.changes.is_empty(), done.applied) {
        (true, _) => line("nothing is different"),
        (false, false) => line("nothing is changed: this was a check"),
        (false, true) => line(&format!("in force; {} running sessions told", done.sessions)),
    }
    text
}

/// What is different, in columns.
fn table(changes: &[Change]) -> String {
    let row = |change: &Change| {
        let or_nothing = |value: &Option<String>| value.clone().unwrap_or_else(|| "-".to_owned());
        let effect = match change.effect.as_str() {
            "now" => "at once",
            "new-sessions" => "new sessions",
            _ => "NOT WHILE BRAID RUNS",
        };
        let target = change.target.as_ref().map_or(String::new(), |target| format!("{target} "));
        let old = or_nothing(&change.old);
        [format!("{target}{}", change.setting), old, or_nothing(&change.new), effect.to_owned()]
    };
    if changes.is_empty() {
        return String::new();
    }
    let head = ["setting", "old", "new", "takes effect"].map(str::to_owned);
    let rows: Vec<_> = std::iter::once(head).chain(changes.iter().map(row)).collect();
    let width = |column: usize| rows.iter().filter_map(|row| Some(row.get(column)?.chars().count())).max();
    let [setting, old, new] = [0, 1, 2].map(|column| width(column).unwrap_or_default());
    let mut text = String::new();
    for [a, b, c, d] in rows {
        // Writing to a String cannot fail.
        writeln!(text, "{a:setting$}  {b:old$}  {c:new$}  {d}").ok();
    }
    text
}
