//! What can be typed, and how it becomes a [`Config`].
//!
//! Flags are text here; they become a [`Section`] and go through the same schema as a file, so that a value is right or
//! wrong for the same reasons in both.

use super::drill::flags::DrillCommand;
use crate::config::draft::{Placed, Section, Value};
use crate::config::{Config, ConfigError, Place, Source};
use clap::{ArgGroup, Args, Parser, Subcommand};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Transparent multipath proxy for iSCSI.
///
/// An ordinary initiator logs in to Braid as if it were the target. Braid carries that session over several network
/// paths to the real target: bandwidth adds up, and a path that fails costs a short pause instead of an error.
#[derive(Parser, Debug)]
#[command(name = "braid", version, after_help = EXAMPLES, arg_required_else_help = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

const EXAMPLES: &str = "Examples:
  braid demo                                     see a cut cable cost nothing, in 20 seconds
  braid drill run SCENARIO --html report.html    cut what a file says, and judge what that did
  braid run --config /etc/braid.toml             serve what the file says
  braid run --target iqn.2003-01.org.example:disk \\
            --path 10.0.1.1:3260 --path 10.0.2.1:3260

Exit status: 0 well, 1 failure, 64 wrong usage or configuration, 69 target unavailable, 70 bug in Braid.
`braid COMMAND --help` shows each command's flags with an example.";

/// Name under which Braid asks on its own account.
const INITIATOR: &str = "iqn.2026-01.org.braid:probe";

/// The commands.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// Stand between initiators and targets until told to stop (SIGTERM or Ctrl-C).
    #[command(after_help = "Examples:
  braid run --config /etc/braid.toml
  braid run --listen 0.0.0.0:3260 --target iqn.2003-01.org.example:disk \\
            --path 10.0.1.1:3260,source=10.0.1.9 --path 10.0.2.1:3260,source=10.0.2.9
  braid run --target '*' --discover --path 10.0.1.1 --path 10.0.2.1

Flags win over the file. Everything else (timing, sizes, digests, several targets) is set in the file.")]
    Run(Settings),
    /// Check a configuration and show what it comes to, without opening a socket.
    #[command(after_help = "Example:
  braid check --config /etc/braid.toml

Prints every problem with its line, and what to write instead. Exit status 64 if there is one.")]
    Check(Settings),
    /// Show the firewall rules that bring connections for the target's own addresses to Braid, put them up or take them down.
    #[command(after_help = "Examples:
  braid intercept --config /etc/braid.toml             print them
  braid intercept --config /etc/braid.toml --apply     put them up, in place of earlier ones
  braid intercept --config /etc/braid.toml --remove    take them down
  braid intercept --listen 127.0.0.1:3261,intercept=redirect --target '*' --discover --path 10.0.1.1

They are for listeners that intercept, such as
  listen = [{ address = \"127.0.0.1:3261\", intercept = \"redirect\" }]
and need nftables; --apply and --remove need root. Start `braid run` first: without it connections are refused.")]
    Intercept(Intercept),
    /// Find out how a target treats several connections of a session, with throwaway sessions and without writing.
    #[command(after_help = "Example:
  braid probe 10.0.1.1:3260 iqn.2003-01.org.example:disk --portal 10.0.2.1:3260

The verdict decides what `mode = \"auto\"` does with the target. With CHAP:
  braid probe 10.0.1.1:3260 iqn.2003-01.org.example:disk --config /etc/braid.toml
  braid probe 10.0.1.1:3260 iqn.2003-01.org.example:disk --chap-name braid --chap-secret-file /etc/braid/upstream")]
    Probe(Probe),
    /// Ask a portal which targets it offers, and at which addresses; or show which paths a configuration's targets get.
    #[command(after_help = "Examples:
  braid discover 10.0.1.1:3260
  braid discover 10.0.1.1:3260 --chap-name braid --chap-secret-file /etc/braid/upstream
  braid discover --config /etc/braid.toml              the targets that are discovered, and their paths
  braid discover 10.0.1.1:3260 --config /etc/braid.toml   with the credentials and the local end of the path there")]
    Discover(Discover),
    /// Show how targets, sessions and paths stand in a running Braid.
    #[command(after_help = "Examples:
  braid status
  braid status --json | jq '.targets[].sessions[].standing.paths[] | select(.state != \"up\")'

Asks over the control socket (`control` in the configuration), which root and the socket's group may use.")]
    Status(Status),
    /// Take a path of a running Braid out, give it back, or change its weight; for all sessions, those to come included.
    #[command(after_help = "Examples:
  braid path drain 10.0.1.1:3260       before work on that network: no commands, then logged out
  braid path restore 10.0.1.1:3260     after it
  braid path fail left --for 30s       as if it had been cut, and back by itself whatever happens
  braid path weight left 3             for the policies that use weights

What a session has no other path for is refused, unless --force is given. It lasts until Braid ends, or as --for says.")]
    Path(PathCommand),
    /// Watch what the paths of a running Braid carry: rates, times, commands in flight and state, second by second.
    #[command(after_help = "Examples:
  braid top                            until q or Ctrl-C
  braid top --once                     one table, for scripts
  braid top --interval 10              ten seconds' means

TIME is the mean time of the commands that completed, from arrival to status. A path may be in different states in
different sessions; then they are counted.")]
    Top(Top),
    /// Show what happened in a running Braid: paths lost and back, failovers with their stall, logins refused, orders.
    #[command(after_help = "Examples:
  braid events
  braid events --follow                as it happens, until Ctrl-C
  braid events --json | jq 'select(.kind == \"failover\")'

Braid keeps the latest 1792 events, and beside them 256 logins that were refused. Times are UTC. With --json each event is one
line; {\"missed\": N} is said where a follower was too slow.")]
    Events(Events),
    /// Write the latest PDU headers of a running Braid's connections to a file that Wireshark reads; data is not among them.
    #[command(after_help = "Examples:
  braid capture /tmp/braid.pcapng
  braid capture --initiator iqn.1993-08.org.debian:host7 - | tshark -r - -Y 'iscsi.opcode == 0x01'

Each connection is an interface of the file, named after its path. Data segments are cut off, TCP's sequence numbers are
made up. Braid keeps the last 1100 PDUs of a connection, fewer if there are many (`black_box` in the configuration). With
`incidents` there it writes such a file whenever a path is lost.")]
    Capture(Capture),
    /// Say why things are as they are with a target: which fan-out, what is guaranteed, what each path may do and why no more.
    #[command(after_help = "Examples:
  braid explain iqn.2003-01.org.example:disk
  braid explain --json | jq '.sessions[].units[].paths[] | select(.may == \"nothing\")'

Shows what the probe found out step by step, what is remembered over restarts, and for each unit what of its commands may go
over which path: state, suspicion, identity, reservations, access state (ALUA).")]
    Explain(Explain),
    /// Let a running Braid read its configuration file again, and change to it without disturbing a session.
    #[command(after_help = "Examples:
  braid reload --check                 what would change, and when it would take effect
  braid reload                         change to it

All or nothing: if the file is wrong, or something in it cannot be changed while Braid runs (addresses, files), nothing is
changed, and it is said why and on which line. SIGHUP does the same, and says it in the log. The flags that Braid was
started with still win over the file. Exit status 64 if the file is wrong, 1 if something cannot be changed.")]
    Reload(Reload),
    /// Let what waits for a lost target wait no longer, as if queue_time had passed.
    #[command(after_help = "Example:
  braid give-up --target iqn.2003-01.org.example:disk

Does what `all_paths_down` says for that case: sessions are closed, or commands answered BUSY. Sessions with a path that
works are not touched.")]
    GiveUp(GiveUp),
    /// Cut, slow down, drain and heal paths as a scenario says, and judge what that did: in a lab of its own, or in a running Braid.
    #[command(after_help = "Examples:
  braid drill check examples/drills/silent-drop.toml
  braid drill run examples/drills/silent-drop.toml --html report.html
  braid drill run live.toml --json report.json         a scenario with where = \"live\"
  braid drill schema                                   what the JSON report looks like

A scenario says what happens when to which paths, and what is expected. In the lab (RAM disk, links, Braid and a verifying load in
one process, on loopback) anything may happen. A running Braid is asked over its control socket to fail or drain paths,
which it gives back by itself should the drill die. Exit status: 0 all objectives were met, 1 not, 64 wrong scenario or usage.")]
    Drill(DrillCommand),
    /// Cut a link under load and see that nothing is lost: RAM disk, four links, Braid and a verifying workload.
    #[command(after_help = "Example:
  braid demo --seconds 20

Uses loopback addresses only and needs no privileges. Exit status 0 only if all went well.")]
    Demo(Demo),
    /// Write manual pages and completions for bash, zsh and fish; packages have them already.
    #[command(after_help = "Example:
  braid generate /tmp/braid
  install -D -m 644 /tmp/braid/completions/braid.bash /usr/share/bash-completion/completions/braid
  install -D -m 644 -t /usr/share/man/man1 /tmp/braid/man/*.1")]
    Generate(Generate),
}

/// Settings of `run` and `check`.
#[derive(Args, Debug, Default)]
#[command(group = ArgGroup::new("what").required(true).args(["config", "target"]))]
pub struct Settings {
    /// Configuration file (TOML).
    #[arg(long, short, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Address to take initiators at; may be repeated [default: 0.0.0.0:3260]. With intercept=redirect or intercept=tproxy for
    /// connections to the targets' own addresses; with proxy_protocol=IP or NETWORK for connections from a load balancer there,
    /// which tells by the PROXY protocol whose they are.
    #[arg(long, value_name = "ADDR:PORT[,KEY=VALUE]")]
    pub listen: Vec<String>,
    /// Name of the target to serve.
    #[arg(long, value_name = "IQN", requires = "path", conflicts_with = "config")]
    pub target: Option<String>,
    /// One way to the target; repeat it for each. Options: source=IP or interface=IF for the local end, weight=N, name=NAME,
    /// target=IQN where the target has another name there.
    #[arg(long, value_name = "PORTAL[,OPTION=VALUE]...", requires = "target")]
    pub path: Vec<String>,
    /// Ask the portals of `--path` for the target's paths; its name may then be a pattern, such as '*'.
    #[arg(long, requires = "target")]
    pub discover: bool,
    /// Fan-out: auto, mcs or sessions [default: auto].
    #[arg(long, value_name = "MODE", requires = "target")]
    pub mode: Option<String>,
    /// Path choice: service-time, queue-depth, round-robin, weighted or failover [default: service-time].
    #[arg(long, value_name = "POLICY", requires = "target")]
    pub policy: Option<String>,
    /// Address for the status page, /metrics and /healthz, or off [default: 127.0.0.1:9260].
    #[arg(long, value_name = "ADDR:PORT")]
    pub admin: Option<String>,
    /// Socket for status and control, or off [default: /run/braid/control.sock].
    #[arg(long, value_name = "FILE")]
    pub control: Option<String>,
    /// Where verdicts of probes are kept between starts.
    #[arg(long, value_name = "FILE")]
    pub state_file: Option<String>,
    /// Log level or filter, such as debug or braid::proxy=debug,info [default: info].
    #[arg(long, value_name = "FILTER")]
    pub log: Option<String>,
    /// Log format: human or json [default: human].
    #[arg(long, value_name = "FORMAT")]
    pub log_format: Option<String>,
}

/// Which Braid to talk to.
#[derive(Args, Debug)]
pub struct Running {
    /// Its control socket.
    #[arg(long, value_name = "FILE", default_value = Config::DEFAULT_CONTROL)]
    pub socket: PathBuf,
    /// Its address for control over TCP (`remote_control` in its configuration).
    #[arg(long, value_name = "ADDR:PORT", conflicts_with = "socket", requires = "token_file")]
    pub remote: Option<SocketAddr>,
    /// File that holds the token for that.
    #[arg(long, value_name = "FILE", requires = "remote")]
    pub token_file: Option<PathBuf>,
}

/// Settings of `status`.
#[derive(Args, Debug)]
pub struct Status {
    /// Print everything as JSON, in the shape of the interface (GET /v1/openapi.json).
    #[arg(long)]
    pub json: bool,
    /// Which Braid.
    #[command(flatten)]
    pub running: Running,
}

/// Settings of `events`.
#[derive(Args, Debug)]
pub struct Events {
    /// Go on with what happens from now on.
    #[arg(long, short)]
    pub follow: bool,
    /// Print each event as a line of JSON, in the shape of the interface (GET /v1/openapi.json).
    #[arg(long)]
    pub json: bool,
    /// Of this target alone.
    #[arg(long, value_name = "IQN")]
    pub target: Option<String>,
    /// Which Braid.
    #[command(flatten)]
    pub running: Running,
}

/// Settings of `top`.
#[derive(Args, Debug)]
pub struct Top {
    /// Print one table, of the next interval, and end.
    #[arg(long)]
    pub once: bool,
    /// Seconds between two tables.
    #[arg(long, value_name = "SECONDS", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=3600))]
    pub interval: u32,
    /// Which Braid.
    #[command(flatten)]
    pub running: Running,
}

/// Settings of `capture`.
#[derive(Args, Debug)]
pub struct Capture {
    /// Where to; - for standard output.
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Of this target alone.
    #[arg(long, value_name = "IQN")]
    pub target: Option<String>,
    /// Of this initiator alone.
    #[arg(long, value_name = "IQN")]
    pub initiator: Option<String>,
    /// Which Braid.
    #[command(flatten)]
    pub running: Running,
}

/// Settings of `explain`.
#[derive(Args, Debug)]
pub struct Explain {
    /// Which target; needed if several are configured.
    #[arg(value_name = "TARGET")]
    pub target: Option<String>,
    /// Print everything as JSON, in the shape of the interface (GET /v1/openapi.json).
    #[arg(long)]
    pub json: bool,
    /// Which Braid.
    #[command(flatten)]
    pub running: Running,
}

/// Settings of `reload`.
#[derive(Args, Debug)]
pub struct Reload {
    /// Show what would change, and change nothing.
    #[arg(long)]
    pub check: bool,
    /// Print what is different as JSON.
    #[arg(long)]
    pub json: bool,
    /// Which Braid.
    #[command(flatten)]
    pub running: Running,
}

/// Settings of `path`.
#[derive(Args, Debug)]
pub struct PathCommand {
    /// What to do with it.
    #[command(subcommand)]
    pub order: PathOrder,
}

/// What may be done with a path.
#[derive(Subcommand, Debug)]
pub enum PathOrder {
    /// Let what is under way over it end, log it out, and leave it alone.
    #[command(after_help = "Example:\n  braid path drain 10.0.1.1:3260")]
    Drain(TakeOut),
    /// Reset its connections at once, and leave it alone.
    #[command(after_help = "Example:\n  braid path fail 10.0.1.1:3260")]
    Fail(TakeOut),
    /// Use it again.
    #[command(after_help = "Example:\n  braid path restore 10.0.1.1:3260")]
    Restore(WhichPath),
    /// Change its weight.
    #[command(after_help = "Example:\n  braid path weight 10.0.1.1:3260 3")]
    Weight(Weight),
}

/// A path of a running Braid.
#[derive(Args, Debug)]
pub struct WhichPath {
    /// Name of the path, which is its portal if it was given none.
    pub path: String,
    /// Its target; needed if several are configured.
    #[arg(long, value_name = "IQN")]
    pub target: Option<String>,
    /// Which Braid.
    #[command(flatten)]
    pub running: Running,
}

/// Settings of `path drain` and `path fail`.
#[derive(Args, Debug)]
pub struct TakeOut {
    /// Which path.
    #[command(flatten)]
    pub which: WhichPath,
    /// Do it even if a session is left without a path.
    #[arg(long)]
    pub force: bool,
    /// Give it back by itself after this time, such as 30s or 5min; at most a day.
    #[arg(long = "for", value_name = "TIME", value_parser = humantime::parse_duration)]
    pub limit: Option<Duration>,
}

/// Settings of `path weight`.
#[derive(Args, Debug)]
pub struct Weight {
    /// Which path.
    #[command(flatten)]
    pub which: WhichPath,
    /// The weight.
    #[arg(value_parser = clap::value_parser!(u32).range(1..))]
    pub weight: u32,
}

/// Settings of `give-up`.
#[derive(Args, Debug)]
pub struct GiveUp {
    /// Which target; needed if several are configured.
    #[arg(long, value_name = "IQN")]
    pub target: Option<String>,
    /// Which Braid.
    #[command(flatten)]
    pub running: Running,
}

/// Settings of `intercept`.
#[derive(Args, Debug)]
pub struct Intercept {
    /// The configuration, as `run` is told it.
    #[command(flatten)]
    pub settings: Settings,
    /// Put the rules up, in place of earlier ones.
    #[arg(long)]
    pub apply: bool,
    /// Take the rules down.
    #[arg(long, conflicts_with = "apply")]
    pub remove: bool,
}

/// Settings of `probe`.
#[derive(Args, Debug)]
pub struct Probe {
    /// The target's portal.
    #[arg(value_name = "PORTAL")]
    pub first: String,
    /// The target's name.
    #[arg(value_name = "TARGET")]
    pub target: String,
    /// A second portal of the target, for the second connection. Without it both go to the first.
    #[arg(long = "portal", value_name = "PORTAL")]
    pub second: Option<String>,
    /// Initiator name to log in with; the target must admit it.
    #[arg(long, value_name = "IQN", default_value = INITIATOR)]
    pub initiator: String,
    /// How to get there.
    #[command(flatten)]
    pub way: Way,
}

/// How `probe` and `discover` reach portals.
#[derive(Args, Debug, Default)]
pub struct Way {
    /// Configuration file (TOML): its paths to the portals say over which local end to go, and with which credentials.
    #[arg(long, short, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// CHAP name to prove oneself with, where it is asked for.
    #[arg(long, value_name = "NAME", requires = "chap_secret_file")]
    pub chap_name: Option<String>,
    /// File that holds the CHAP secret.
    #[arg(long, value_name = "FILE", requires = "chap_name")]
    pub chap_secret_file: Option<String>,
}

/// Settings of `discover`.
#[derive(Args, Debug)]
pub struct Discover {
    /// The portal to ask. Without it all those of the configuration's targets with `discover = true` are asked.
    #[arg(value_name = "PORTAL", required_unless_present = "config")]
    pub portal: Option<String>,
    /// Initiator name to log in with; targets may offer themselves to some names only.
    #[arg(long, value_name = "IQN", default_value = INITIATOR)]
    pub initiator: String,
    /// How to get there.
    #[command(flatten)]
    pub way: Way,
}

/// Settings of `generate`.
#[derive(Args, Debug)]
pub struct Generate {
    /// Where `man` and `completions` are made.
    pub directory: PathBuf,
}

/// Settings of `demo`.
#[derive(Args, Debug)]
pub struct Demo {
    /// How long the workload runs: the link is cut after a third of it and healed after two.
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(6..=3600))]
    pub seconds: u32,
    /// Paths to the target.
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(2..=16))]
    pub paths: u32,
    /// Keep everything running afterwards and print how to connect to it.
    #[arg(long)]
    pub keep: bool,
}

impl Settings {
    /// Checks what was typed, with the file if one was named.
    ///
    /// # Errors
    /// [`ConfigError`] with all problems of both.
    pub fn resolve(&self) -> Result<Config, ConfigError> {
        self.source().read().map(|written| written.config)
    }

    /// What was typed, to be read again.
    #[must_use]
    pub fn source(&self) -> Source {
        Source::new(self.config.clone(), self.section())
    }

    fn section(&self) -> Section {
        let mut section = Section::new(Place::Flag("--target".to_owned()));
        let mut text = |key: &str, flag: &str, typed: &Option<String>| {
            if let Some(typed) = typed {
                section.set(key, flag, Value::Text(typed.clone()));
            }
        };
        text("admin", "--admin", &self.admin);
        text("control", "--control", &self.control);
        text("state_file", "--state-file", &self.state_file);
        text("log", "--log", &self.log);
        text("log_format", "--log-format", &self.log_format);
        if !self.listen.is_empty() {
            let items = self.listen.iter().map(|typed| with_options("--listen", "address", typed));
            section.set("listen", "--listen", Value::List(items.collect()));
        }
        if self.target.is_some() {
            let place = Place::Flag("--target".to_owned());
            let target = Placed { place, value: Value::Table(self.target()) };
            section.set("target", "--target", Value::List(vec![target]));
        }
        section
    }

    fn target(&self) -> Section {
        let mut target = Section::new(Place::Flag("--target".to_owned()));
        for (key, flag, typed) in [
            ("name", "--target", &self.target),
            ("mode", "--mode", &self.mode),
            ("policy", "--policy", &self.policy),
        ] {
            if let Some(typed) = typed {
                target.set(key, flag, Value::Text(typed.clone()));
            }
        }
        if self.discover {
            target.set("discover", "--discover", Value::Boolean(true));
        }
        target.set(
            "paths",
            "--path",
            Value::List(self.path.iter().map(|typed| with_options("--path", "portal", typed)).collect()),
        );
        target
    }
}

/// `ADDRESS[,KEY=VALUE]...` as the table a file would hold, with the address under this key.
fn with_options(flag: &str, key: &str, typed: &str) -> Placed {
    let mut section = Section::new(Place::Flag(format!("{flag} {typed}")));
    let mut parts = typed.split(',');
    let address = parts.next().unwrap_or_default();
    section.set(key, &format!("{flag} {address}"), Value::Text(address.to_owned()));
    for part in parts {
        let (key, value) = part.split_once('=').unwrap_or((part, ""));
        section.set(key.trim(), &format!("{flag} ...,{part}"), Value::Text(value.trim().to_owned()));
    }
    Placed { place: section.place.clone(), value: Value::Table(section) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Local, LogFormat, Mode};
    use crate::path::select::Policy;
    use clap::CommandFactory;
    use std::io::Write;

    const BASE: [&str; 4] = ["--target", "iqn.2003-01.org.example:disk", "--path", "10.0.1.1"];

    fn parse(command: &str, args: &[&str]) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(["braid", command].iter().chain(args))
    }

    fn settings(args: &[&str]) -> Settings {
        let Command::Run(settings) = parse("run", args).unwrap_or_else(|error| panic!("{error}")).command
        else {
            panic!("`run` is another command");
        };
        settings
    }

    /// The configuration of the base flags with more.
    fn run(args: &[&str]) -> Config {
        settings(&[&BASE, args].concat()).resolve().unwrap_or_else(|error| panic!("{error}"))
    }

    fn refused(args: &[&str]) -> String {
        settings(&[&BASE, args].concat()).resolve().expect_err("must be refused").to_string()
    }

    #[test]
    fn the_definition_is_sound_and_every_command_has_an_example() {
        let mut command = Cli::command();
        command.build();
        command.clone().debug_assert();
        exemplary(&mut command, "braid");
    }

    /// Those of the command itself as well as of each below it.
    fn exemplary(command: &mut clap::Command, path: &str) {
        let help = command.render_long_help().to_string();
        assert!(help.contains("Example") && help.contains(&format!("  {path}")), "{path}:\n{help}");
        for command in command.get_subcommands_mut().filter(|command| command.get_name() != "help") {
            let path = format!("{path} {}", command.get_name());
            exemplary(command, &path);
        }
    }

    #[test]
    fn two_flags_are_enough() {
        let config = run(&[]);
        let same = "[[target]]\nname = \"iqn.2003-01.org.example:disk\"\npaths = [\"10.0.1.1\"]\n";
        assert_eq!(config, Config::from_toml(same, "t").unwrap());
    }

    #[test]
    fn listen() {
        let config = run(&["--listen", "10.0.0.1", "--listen", "[fd00::1]:860"]);
        assert_eq!(
            config.listen.iter().map(|listen| listen.address.to_string()).collect::<Vec<_>>(),
            ["10.0.0.1:3260", "[fd00::1]:860"]
        );
        let config = run(&["--listen", "127.0.0.1:3261,intercept=redirect"]);
        let file = "listen = [{ address = \"127.0.0.1:3261\", intercept = \"redirect\" }]\n[[target]]\n\
                    name = \"iqn.2003-01.org.example:disk\"\npaths = [\"10.0.1.1\"]\n";
        assert_eq!(config, Config::from_toml(file, "t").unwrap());
        let behind = &run(&["--listen", "10.0.9.1:3261,proxy_protocol=10.0.9.7"]).listen[0];
        assert!(behind.is_behind_balancers() && behind.trusts("10.0.9.7".parse().unwrap()));
        let wrong = refused(&["--listen", "127.0.0.1:3261,intercept=redirekt"]);
        assert!(
            wrong.starts_with("--listen ...,intercept=redirekt: ") && wrong.contains("did you mean"),
            "{wrong}"
        );
        assert!(refused(&["--listen", "here"]).starts_with("--listen here: \"here\" is not an IP address"));
    }

    #[test]
    fn path_with_options() {
        let paths = run(&[
            "--path",
            "10.0.2.1:3261,source=10.0.2.9,weight=3,name=left",
            "--path",
            "10.0.3.1,interface=eth1,target=iqn.twin",
            "--policy",
            "weighted",
        ])
        .targets
        .remove(0)
        .paths;
        assert_eq!(paths[0].portal.to_string(), "10.0.1.1:3260");
        assert_eq!(paths[1].local, Local::Source("10.0.2.9".parse().unwrap()));
        assert_eq!((paths[1].weight, paths[1].name.as_str()), (3, "left"));
        assert_eq!(paths[2].local, Local::Interface("eth1".to_owned()));
        assert_eq!([&paths[1].target, &paths[2].target], ["iqn.2003-01.org.example:disk", "iqn.twin"]);
        assert!(
            refused(&["--path", "10.0.2.1,weight=x"])
                .starts_with("--path ...,weight=x: must be a whole number")
        );
        assert!(refused(&["--path", "10.0.2.1,wight=1"]).contains("did you mean weight?"));
        assert!(refused(&["--path", "10.0.1.1:3260"]).contains("listed twice"));
    }

    #[test]
    fn discover_the_paths() {
        let args = ["--target", "*", "--discover", "--path", "10.0.1.1,interface=eth1"];
        let config = settings(&args).resolve().unwrap_or_else(|error| panic!("{error}"));
        let same = "[[target]]\nname = \"*\"\ndiscover = true\npaths = [{ portal = \"10.0.1.1\", interface = \"eth1\" }]\n";
        assert_eq!(config, Config::from_toml(same, "t").unwrap());
        let error = settings(&["--target", "*", "--path", "10.0.1.1"]).resolve().unwrap_err().to_string();
        assert!(error.starts_with("--target: \"*\" is a pattern"), "{error}");
        assert!(parse("run", &["--config", "f", "--discover"]).is_err());
    }

    #[test]
    fn mode_and_policy() {
        let target = run(&["--mode", "sessions", "--policy", "failover"]).targets.remove(0);
        assert_eq!((target.mode, target.policy), (Mode::Sessions, Policy::Failover));
        assert!(refused(&["--mode", "mcs1"]).starts_with("--mode: \"mcs1\" is not known"));
        assert!(refused(&["--policy", "roundrobin"]).contains("did you mean \"round-robin\"?"));
    }

    #[test]
    fn admin() {
        assert_eq!(run(&["--admin", "127.0.0.1:1234"]).admin.unwrap().port(), 1234);
        assert_eq!(run(&["--admin", "off"]).admin, None);
        assert!(refused(&["--admin", "on"]).starts_with("--admin: \"on\" is not an address"));
    }

    #[test]
    fn state_file() {
        assert_eq!(run(&["--state-file", "/x/y"]).state_file, Some(PathBuf::from("/x/y")));
        assert!(refused(&["--state-file", ""]).starts_with("--state-file: must not be empty"));
    }

    #[test]
    fn log_and_its_format() {
        let config = run(&["--log", "braid=trace,warn", "--log-format", "json"]);
        assert_eq!((config.log.as_str(), config.log_format), ("braid=trace,warn", LogFormat::Json));
        assert!(refused(&["--log", "braid=loud"]).starts_with("--log: "));
        assert!(refused(&["--log-format", "xml"]).contains("\"human\", \"json\""));
    }

    #[test]
    fn flags_win_over_the_file() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        let text = "listen = \"10.0.0.1\"\nlog = \"warn\"\n[[target]]\nname = \"iqn.a\"\npaths = [\"10.0.0.2\", \"10.0.0.3\"]\n";
        file.write_all(text.as_bytes()).unwrap();
        let path = file.path().to_str().unwrap();
        let config =
            settings(&["--config", path, "--listen", "10.0.0.9", "--admin", "off"]).resolve().unwrap();
        assert_eq!(config.listen[0].address.to_string(), "10.0.0.9:3260");
        assert_eq!((config.admin, config.log.as_str()), (None, "warn"));
        let error = settings(&["-c", path, "--admin", "x"]).resolve().unwrap_err().to_string();
        assert!(error.starts_with("--admin: "), "{error}");
    }

    #[test]
    fn flags_that_make_no_sense_together_are_usage_errors() {
        assert!(parse("run", &[]).is_err());
        assert!(parse("run", &["--target", "iqn.a"]).is_err());
        assert!(parse("run", &["--path", "10.0.0.1"]).is_err());
        assert!(parse("run", &["--config", "f", "--target", "iqn.a", "--path", "10.0.0.1"]).is_err());
        assert!(parse("run", &["--config", "f", "--mode", "auto"]).is_err());
        assert!(parse("demo", &["--seconds", "1"]).is_err());
        assert!(parse("demo", &["--paths", "1"]).is_err());
    }

    #[test]
    fn probe_discover_and_demo() {
        let args = ["10.0.0.1", "iqn.a", "--portal", "10.0.0.2", "--initiator", "iqn.me"];
        let Command::Probe(probe) = parse("probe", &args).unwrap().command else { panic!("not probe") };
        assert_eq!([probe.first.as_str(), &probe.target, &probe.initiator], ["10.0.0.1", "iqn.a", "iqn.me"]);
        assert_eq!(probe.second.as_deref(), Some("10.0.0.2"));
        let args = ["10.0.0.1", "--initiator", "iqn.me"];
        let Command::Discover(discover) = parse("discover", &args).unwrap().command else {
            panic!("not discover")
        };
        assert_eq!((discover.portal.as_deref(), discover.initiator.as_str()), (Some("10.0.0.1"), "iqn.me"));
        let args = ["--seconds", "9", "--paths", "3", "--keep"];
        let Command::Demo(demo) = parse("demo", &args).unwrap().command else { panic!("not demo") };
        assert_eq!((demo.seconds, demo.paths, demo.keep), (9, 3, true));
    }
}
