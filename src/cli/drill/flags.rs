//! The flags of `braid drill`.

use crate::cli::flags::Running;
use clap::{Args, Subcommand};
use std::path::PathBuf;

/// Settings of `drill`.
#[derive(Args, Debug)]
pub struct DrillCommand {
    /// What to do with a scenario.
    #[command(subcommand)]
    pub order: Drill,
}

/// What may be done with a scenario.
#[derive(Subcommand, Debug)]
pub enum Drill {
    /// Run it, show how it goes, and judge it.
    #[command(after_help = "Examples:
  braid drill run examples/drills/silent-drop.toml --html report.html --json report.json
  braid drill run examples/drills/unplugged-link.toml
  braid drill run live.toml --socket /run/braid/control.sock

Over links of the kernel's (where = \"links\") it takes root or user namespaces, and the programs ip, ss, nft and tc.
Ctrl-C ends it: everything is undone first, and the report says so. Exit status: 0 all objectives were met, 1 not,
64 wrong scenario, 69 no Braid answers.")]
    Run(DrillRun),
    /// Check it without running it: every mistake at once, with its line and what to write instead.
    #[command(after_help = "Example:\n  braid drill check examples/drills/silent-drop.toml")]
    Check(DrillCheck),
    /// Print the JSON schema of the report.
    #[command(after_help = "Example:\n  braid drill schema > braid-drill-report.schema.json")]
    Schema,
}

/// Settings of `drill check`.
#[derive(Args, Debug)]
pub struct DrillCheck {
    /// The scenario (TOML).
    #[arg(value_name = "FILE")]
    pub scenario: PathBuf,
}

/// Settings of `drill run`.
#[derive(Args, Debug)]
pub struct DrillRun {
    /// The scenario (TOML).
    #[arg(value_name = "FILE")]
    pub scenario: PathBuf,
    /// Write the report as one HTML file, with plots.
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// Write the report as JSON; `braid drill schema` describes it.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Take out even the last working path of a running Braid's session; the scenario must say last_path = true too.
    #[arg(long)]
    pub last_path: bool,
    /// Which Braid, if the scenario is for a running one.
    #[command(flatten)]
    pub running: Running,
}
