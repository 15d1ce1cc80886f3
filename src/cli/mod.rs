//! What a person types and sees.
//!
//! - [`flags`]: the commands and their flags.
//! - [`run`]: the proxy until it is told to stop.
//! - [`ask`]: what a target says about itself.
//! - [`check`]: a configuration in words.
//! - `client`: a running Braid, asked over its control socket.
//! - [`control`]: how a running Braid stands, and orders for it.
//! - [`intercept`]: the rules that bring connections here.
//! - [`events`]: what happened in a running Braid.
//! - [`capture`]: the latest PDU headers of a running Braid.
//! - [`explain`]: why things are as they are with a target.
//! - [`reload`]: a running Braid changes to another configuration.
//! - [`demo`]: a link is cut, and nothing is lost.
//! - [`drill`]: a scenario is played, and judged.
//! - `stage`: what the two of them play on, `wire`: its links, and `screen`: what is seen meanwhile.
//! - `generate`: manual pages and completions.
//! - [`top`]: what the paths of a running Braid carry.
//! - [`log`]: log lines.
//! - [`exit`]: exit codes.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "commands print results to standard output, failures to standard error"
)]

pub mod ask;
pub mod capture;
pub mod check;
mod client;
pub mod control;
pub mod demo;
pub mod drill;
pub mod events;
pub mod exit;
pub mod explain;
pub mod flags;
mod generate;
pub mod intercept;
pub mod log;
pub mod reload;
pub mod run;
mod screen;
mod service;
mod stage;
pub mod top;
mod wire;

use clap::Parser;
use exit::Failure;
use flags::{Cli, Command};
use std::ffi::OsString;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;

/// Does what the arguments (the program's name first) say, and gives the exit code.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error) => {
            // Nobody is left to tell if this cannot be printed.
            error.print().ok();
            return if error.use_stderr() { exit::usage() } else { ExitCode::SUCCESS };
        }
    };
    // The panic's own message has been printed by then.
    let done = catch_unwind(AssertUnwindSafe(|| execute(cli.command)))
        .unwrap_or_else(|_| Err(Failure::Bug("a panic, see above".to_owned())));
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("{failure}");
            failure.code()
        }
    }
}

fn execute(command: Command) -> Result<(), Failure> {
    match command {
        Command::Run(settings) => run::run(&settings),
        Command::Check(settings) => {
            let config = settings.resolve()?;
            print!("{}", check::describe(&config));
            config.warnings.iter().for_each(|warning| println!("warning: {warning}"));
            Ok(())
        }
        Command::Intercept(asked) => intercept::intercept(&asked),
        Command::Status(asked) => control::status(&asked).map(|text| print!("{text}")),
        Command::Path(asked) => control::path(&asked.order).map(|text| print!("{text}")),
        Command::Events(asked) => events::events(&asked),
        Command::Capture(asked) => capture::capture(&asked),
        Command::Explain(asked) => explain::explain(&asked).map(|text| print!("{text}")),
        Command::Top(asked) => top::top(&asked),
        Command::Reload(asked) => reload::reload(&asked).map(|text| print!("{text}")),
        Command::GiveUp(asked) => control::give_up(&asked).map(|text| print!("{text}")),
        Command::Probe(asked) => ask::probe(&asked).map(|table| print!("{table}")),
        Command::Drill(asked) => drill::drill(&asked.order),
        Command::Demo(settings) => demo::demo(&settings),
        Command::Generate(asked) => generate::generate(&asked).map(|text| print!("{text}")),
        Command::Discover(asked) => ask::discover(&asked).map(|list| print!("{list}")),
    }
}
