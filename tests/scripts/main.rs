//! Conversation scripts: text files that say what happens to the engine or to a login, each input followed by all that
//! comes out of it. They are made to be read in review without knowing Rust.
//!
//! A line of a script is a comment (`#`), an input (at the start of the line), or output (indented; it is compared). The
//! comment at the top says what the script shows and which requirements of the conformance list it is about. Inputs are
//! sentences; PDUs are written as they are printed, `name field=value FLAG`, and numbers that are left out are the ones
//! that a correct peer would use. Data segments are given by their length: each byte of a unit has a content of its own,
//! and data that is not what belongs to its place is printed as `WRONG BYTES`.
//!
//! `cargo test --test scripts` compares; `BLESS=1 cargo test --test scripts` writes what comes out into the files.

#![expect(clippy::wildcard_enum_match_arm, reason = "a script that meets any other PDU fails")]

mod engine;
mod initiator;
mod login;
mod print;
mod script;
mod setup;
mod targets;
mod words;

use libtest_mimic::{Arguments, Trial};
use std::path::{Path, PathBuf};

fn main() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scripts");
    let bless = std::env::var_os("BLESS").is_some_and(|value| value == "1");
    let mut trials = Vec::new();
    for folder in ["engine", "login"] {
        for path in scripts(&root.join(folder)) {
            let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            trials.push(Trial::test(format!("{folder}/{name}"), move || {
                script::run(
                    &path,
                    bless,
                    || if folder == "engine" { engine::stage() } else { login::stage() },
                )
                .map_err(Into::into)
            }));
        }
    }
    libtest_mimic::run(&Arguments::from_args(), trials).exit();
}

/// The scripts of a folder in order of their names. An empty folder is a mistake.
fn scripts(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).expect("the folder of scripts");
    let mut found: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry of it").path()).collect();
    found.sort();
    assert!(!found.is_empty(), "no script in {}", folder.display());
    found
}
