//! What a package brings beside the program: manual pages and completions for shells, written from the commands themselves.
//!
//! Below the directory: `man/braid.1`, one page for each command (`man/braid-run.1`), and `completions/braid.bash`,
//! `completions/_braid` (zsh), `completions/braid.fish`.

use super::exit::Failure;
use super::flags::{Cli, Generate};
use anyhow::Context;
use clap::CommandFactory;
use clap_complete::Shell;
use std::fs;
use std::path::Path;

const SHELLS: [Shell; 3] = [Shell::Bash, Shell::Zsh, Shell::Fish];

/// Writes everything; says what.
pub(super) fn generate(asked: &Generate) -> Result<String, Failure> {
    let (man, completions) = (asked.directory.join("man"), asked.directory.join("completions"));
    let mut command = Cli::command();
    for shell in SHELLS {
        let directory = made(&completions)?;
        clap_complete::generate_to(shell, &mut command, "braid", directory)
            .with_context(|| format!("cannot write to {}", completions.display()))?;
    }
    let command = Cli::command().disable_help_subcommand(true);
    clap_mangen::generate_to(command, made(&man)?)
        .with_context(|| format!("cannot write to {}", man.display()))?;
    Ok(format!("manual pages: {}\ncompletions: {}\n", man.display(), completions.display()))
}

/// The directory, which is made if it is missing.
fn made(directory: &Path) -> Result<&Path, Failure> {
    fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
    Ok(directory)
}
