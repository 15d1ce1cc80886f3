//! What the operator wants, checked.
//!
//! # Contract
//! In: the text of a TOML file ([`Config::from_toml`], [`Config::load`]) or the same settings typed as flags
//! (`cli` builds a [`draft::Section`] from them). Out: a [`Config`] that holds no nonsense, or a [`ConfigError`] with
//! *every* problem found, each with its place, its key and what to do about it. No socket is opened and no name is
//! resolved here; secrets are read from the files that are named (`auth`). A [`Source`] can be read again while Braid runs;
//! [`diff`] says what is different then, and when that takes effect.
//!
//! # How
//! Text becomes a tree of values that remember where they stand ([`draft`]), the tree becomes settings by one schema
//! (`schema`, the only place that knows keys and defaults; `keys` reads them), and settings are checked against each other there too.
//! Flags and file go through the same schema, so neither can say what the other cannot. The scenarios of `braid drill` are read
//! with the same means, and say what is wrong with them in the same way.
//!
//! # Invariants of a `Config`
//! At least one listen address and one target; target names unique; each target has 1 to [`Config::MAX_PATHS`] paths
//! with unique names and no two alike, or is to be discovered and has as many portals to ask; no path leads to a listen address of Braid's own; at most one listener of each
//! address family intercepts, where the rules can reach it; every duration, size and
//! weight lies within its range; `first_burst <= max_burst`; several connections of an initiator only where Braid itself can let each in.

mod auth;
pub mod diff;
mod discover;
pub mod draft;
mod keys;
mod listener;
pub mod problem;
mod remote;
mod schema;
mod source;
pub(crate) mod value;

pub(crate) use keys::{Keys, checked};
pub use problem::{ConfigError, Place, Problem};
pub use remote::{Level, RemoteControl, Token};
pub use source::{Source, Written};

use crate::login::chap::{Accounts, Credentials};
use crate::path::select::Policy;
use crate::session::{Barriers, Exhausted, FenceMethod, Hedge, Marginal};
use ipnet::IpNet;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use wildmatch::WildMatch;

/// Everything `braid run` is told.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Config {
    /// Where initiators connect.
    pub listen: Vec<Listen>,
    /// Firewall mark of Braid's own connections while a listener intercepts; packets on their way to a TPROXY listener
    /// carry the next one, which is the number of their routing table too. At least 256, below which are the kernel's tables.
    pub mark: u32,
    /// Where metrics and health are served; none if switched off.
    pub admin: Option<SocketAddr>,
    /// The socket on which Braid is controlled.
    pub control: ControlSocket,
    /// Where it is controlled over TCP, if it is.
    pub remote_control: Option<RemoteControl>,
    /// Where the verdicts of probes are kept between starts; without it they last as long as the process.
    pub state_file: Option<PathBuf>,
    /// Log filter in the syntax of tracing-subscriber's `EnvFilter`.
    pub log: String,
    /// Log format.
    pub log_format: LogFormat,
    /// Limits that protect Braid from its clients.
    pub limits: Limits,
    /// What is kept of the headers of PDUs.
    pub black_box: BlackBox,
    /// How initiators prove themselves in discovery sessions that name no target; never [`Chap::Relay`].
    pub discovery_chap: Chap,
    /// Targets served, in the order written.
    pub targets: Vec<Target>,
    /// What is legal but probably not meant; to be logged at start.
    pub warnings: Vec<String>,
}

/// Where Braid is controlled.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum ControlSocket {
    /// Nothing is configured: at [`Config::DEFAULT_CONTROL`] if that can be had.
    #[default]
    Usual,
    /// There.
    At(PathBuf),
    /// Nowhere.
    Off,
}

/// An address where connections are taken.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Listen {
    /// The address.
    pub address: SocketAddr,
    /// How it gets connections that were meant for a target's own address, if it does.
    pub intercept: Option<Intercept>,
    /// Load balancers that tell whose connection it is, by the PROXY protocol. If there are any, all connections are to come
    /// from them and to begin with its header.
    pub balancers: Arc<[IpNet]>,
}

impl From<SocketAddr> for Listen {
    fn from(address: SocketAddr) -> Self {
        Self { address, intercept: None, balancers: Arc::default() }
    }
}

impl Listen {
    /// Whether its connections begin with a header of the PROXY protocol.
    #[must_use]
    pub fn is_behind_balancers(&self) -> bool {
        !self.balancers.is_empty()
    }

    /// Whether this is the address of one of its load balancers.
    #[must_use]
    pub fn trusts(&self, address: IpAddr) -> bool {
        self.balancers.iter().any(|network| network.contains(&address.to_canonical()))
    }

    /// Whether initiators are told of it: those that intercept are where the targets' portals are, those behind a balancer are
    /// reached through it alone.
    #[must_use]
    pub fn is_public(&self) -> bool {
        self.intercept.is_none() && !self.is_behind_balancers()
    }
}

/// How connections on their way to a target are brought to Braid.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Intercept {
    /// The kernel rewrites their destination, and remembers it (nftables `redirect`).
    Redirect,
    /// They keep their destination (nftables `tproxy`, policy routing).
    Tproxy,
}

impl Intercept {
    /// The word for it.
    #[must_use]
    pub fn word(self) -> &'static str {
        value::name_of(value::INTERCEPTS, &self)
    }
}

/// How log lines look.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum LogFormat {
    /// For eyes.
    #[default]
    Human,
    /// One JSON object per line.
    Json,
}

/// What is kept of the headers of PDUs, and written when a path is lost.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BlackBox {
    /// Memory for it in bytes, beside 4 KiB per connection; 0: nothing is kept.
    pub memory: u64,
    /// Directory for a file when a path is lost.
    pub incidents: Option<PathBuf>,
    /// Files in there at most.
    pub files: u32,
    /// Bytes in there at most.
    pub bytes: u64,
}

/// Limits that protect Braid from its clients.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Limits {
    /// Most downstream sessions at a time, and most discovery sessions; further logins are refused with "out of resources" (03/02).
    pub max_sessions: u32,
    /// A downstream connection that has not finished its login after this long is closed.
    pub login_timeout: Duration,
    /// Most connections per second from one address, over a while; beyond it they are closed.
    pub login_rate: u32,
}

/// How initiators prove themselves.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum Chap {
    /// They need not.
    #[default]
    None,
    /// To the target, through Braid, which knows no secret.
    Relay,
    /// To Braid, with one of these accounts.
    Terminate(Arc<Accounts>),
}

/// Who is let in: whoever fits both lists, of which an empty one fits all.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Allow {
    /// Patterns of initiator names, in lower case; `*` stands for anything, `?` for one character.
    pub names: Vec<String>,
    /// Networks.
    pub addresses: Vec<IpNet>,
}

impl Allow {
    /// Whether nobody is kept out.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.names.is_empty() && self.addresses.is_empty()
    }

    /// Whether an initiator of this name, compared without regard to case, is let in from this address.
    #[must_use]
    pub fn admits(&self, name: &str, address: Option<IpAddr>) -> bool {
        let name = name.to_lowercase();
        let known = self.names.is_empty() || self.names.iter().any(|p| WildMatch::new(p).matches(&name));
        let address = address.map(|address| address.to_canonical());
        let near = |network: &IpNet| address.is_some_and(|address| network.contains(&address));
        known && (self.addresses.is_empty() || self.addresses.iter().any(near))
    }
}

/// One target and the ways to it.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Target {
    /// The target's name: downstream, and upstream on paths that have none of their own.
    pub name: String,
    /// Its table: the name that is written there, with a number behind it if several tables have that name.
    pub table: String,
    /// Paths in order of preference; at least one. If the target is to be discovered, the portals to be asked.
    pub paths: Vec<PathConfig>,
    /// How its paths are found, if they are not those that are written. The name may then be a pattern.
    pub discover: Option<Discover>,
    /// Which initiators are let in.
    pub allow: Allow,
    /// How they prove themselves.
    pub chap: Chap,
    /// Fan-out.
    pub mode: Mode,
    /// Path choice.
    pub policy: Policy,
    /// Who keeps ORDERED commands and flushes in order.
    pub barriers: Barriers,
    /// How a session of several connections goes on that loses one.
    pub upstream_recovery: Recovery,
    /// Connections that an initiator may have in a session.
    pub initiator_connections: u16,
    /// How ghosts of a lost nexus are fenced.
    pub fence: FenceMethod,
    /// See [`crate::session::SessionPlan::fence_time`].
    pub fence_time: Duration,
    /// How long commands are held while no path works.
    pub queue_time: Duration,
    /// What becomes of them then.
    pub exhausted: Exhausted,
    /// Interval of pings on each upstream connection.
    pub ping_interval: Duration,
    /// A connection whose ping stays unanswered this long is given up.
    pub ping_timeout: Duration,
    /// See [`crate::session::SessionPlan::task_timeout`].
    pub task_timeout: Duration,
    /// See [`crate::session::SessionPlan::silence_timeout`].
    pub silence_timeout: Duration,
    /// Longest wait for a TCP connection to a portal.
    pub connect_timeout: Duration,
    /// Longest wait for an upstream login, from TCP connection to full feature phase.
    pub login_timeout: Duration,
    /// First and longest delay between attempts to bring a path back.
    pub reconnect: (Duration, Duration),
    /// When a path that comes and goes is kept for emergencies.
    pub marginal: Marginal,
    /// Which reads are asked again over another path because they are late.
    pub hedge: Option<Hedge>,
    /// Most commands admitted at a time per downstream session.
    pub window: u32,
    /// Most bytes of write data held per downstream session.
    pub memory: u64,
    /// Header digest towards the target.
    pub header_digest: Digest,
    /// Data digest towards the target.
    pub data_digest: Digest,
    /// MaxRecvDataSegmentLength that Braid declares on both sides, in bytes.
    pub max_recv_data_segment: u32,
    /// MaxBurstLength offered on both sides, in bytes.
    pub max_burst: u32,
    /// FirstBurstLength offered on both sides, in bytes; at most `max_burst`.
    pub first_burst: u32,
}

/// How the paths of a target are made of what portals tell.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Discover {
    /// The local ends of paths, by portal. If there are rules, a portal that fits none is not used.
    pub rules: Vec<PathRule>,
    /// What Braid proves itself with to the target over paths that are not written out.
    pub credentials: Option<Arc<Credentials>>,
}

/// The local end of paths to some portals. Where several rules fit a portal, there are several paths to it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PathRule {
    /// The portals it is for.
    pub portals: IpNet,
    /// The local end.
    pub local: Local,
    /// Weight, 1 to 1000.
    pub weight: u32,
}

/// One way to a target.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct PathConfig {
    /// Name in logs and metrics, unique within the target. Stable across restarts as long as the configuration is:
    /// the session id of the path's own nexus is derived from it.
    pub name: String,
    /// The target's portal.
    pub portal: SocketAddr,
    /// Name of the target there, upstream: that of the [`Target`] unless the path has one of its own. Targets of different
    /// names must show the same logical units.
    pub target: String,
    /// The local end.
    pub local: Local,
    /// Weight, 1 to 1000.
    pub weight: u32,
    /// Firewall mark of its connections: [`Config::mark`] while a listener intercepts.
    pub mark: Option<u32>,
    /// What Braid proves itself with to the target over this path: the path's own, or else the target's.
    pub credentials: Option<Arc<Credentials>>,
    /// Tag of the portal group, where the portal has told it.
    pub group: Option<u16>,
}

/// The local end of a path.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Local {
    /// The kernel's choice.
    Any,
    /// Bind to this address (same family as the portal).
    Source(IpAddr),
    /// Bind to this network interface (SO_BINDTODEVICE).
    Interface(String),
}

/// Fan-out of a target.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Mode {
    /// MC/S where a probe proved it sound, else several sessions.
    #[default]
    Auto,
    /// One session with many connections, on the operator's word.
    Mcs,
    /// One session per path.
    Sessions,
}

/// How a session of several connections goes on that loses one.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Recovery {
    /// It is opened anew, and what was under way in it runs again.
    #[default]
    Reinstate,
    /// ErrorRecoveryLevel 2 is proposed, on the operator's word that the target masters it. Where the target agrees, the session
    /// goes on, and what was under way over the lost connection goes on over another.
    Reassign,
}

/// What to offer for a digest.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Digest {
    /// None.
    #[default]
    None,
    /// CRC32C if the target agrees.
    Prefer,
    /// CRC32C, or the path is not used.
    Crc32c,
}

impl Target {
    /// The portals where initiators find it by its own name.
    pub fn portals(&self) -> impl Iterator<Item = SocketAddr> {
        self.paths.iter().filter(|path| path.target == self.name).map(|path| path.portal)
    }

    /// The words for mode, policy, barriers, recovery, fence and what follows an outage, as the configuration writes them.
    #[must_use]
    pub fn words(&self) -> [&'static str; 6] {
        [
            value::name_of(value::MODES, &self.mode),
            value::name_of(value::POLICIES, &self.policy),
            value::name_of(value::BARRIERS, &self.barriers),
            value::name_of(value::RECOVERIES, &self.upstream_recovery),
            value::name_of(value::FENCES, &self.fence),
            value::name_of(value::EXHAUSTED, &self.exhausted),
        ]
    }
}

impl Config {
    /// Default of `listen`.
    pub const DEFAULT_LISTEN: &'static str = "0.0.0.0:3260";
    /// Default of `admin`: reachable from this machine only.
    pub const DEFAULT_ADMIN: &'static str = "127.0.0.1:9260";
    /// Control socket if none is given.
    pub const DEFAULT_CONTROL: &'static str = "/run/braid/control.sock";
    /// Most paths of one target.
    pub const MAX_PATHS: usize = 64;

    /// The mark of Braid's own connections, if they need one.
    #[must_use]
    pub fn own_mark(&self) -> Option<u32> {
        self.listen.iter().any(|listen| listen.intercept.is_some()).then_some(self.mark)
    }

    /// Reads and checks a file.
    ///
    /// # Errors
    /// [`ConfigError`] with all problems; an unreadable file is one too.
    pub fn load(file: &Path) -> Result<Self, ConfigError> {
        let flags = draft::Section::new(Place::Flag(String::new()));
        Source::new(Some(file.to_owned()), flags).read().map(|written| written.config)
    }

    /// Checks the text of a file; `file` is its name in messages.
    ///
    /// # Errors
    /// [`ConfigError`] with all problems.
    pub fn from_toml(text: &str, file: &str) -> Result<Self, ConfigError> {
        let flags = draft::Section::new(Place::Flag(String::new()));
        Written::parse(text, file.to_owned(), &flags).map(|written| written.config)
    }

    /// From settings that were put together elsewhere; `file` is where those stand that stand in a file.
    ///
    /// # Errors
    /// [`ConfigError`] with all problems.
    pub fn from_section(section: draft::Section, file: &str) -> Result<Self, ConfigError> {
        Written::check(file.to_owned(), section).map(|written| written.config)
    }

    /// Credentials of which the name and the file with the secret were typed.
    ///
    /// # Errors
    /// [`ConfigError`] with all problems.
    pub fn credentials(name: &str, secret_file: &str) -> Result<Option<Arc<Credentials>>, ConfigError> {
        let mut account = draft::Section::new(Place::Flag("--chap-name".to_owned()));
        account.set("name", "--chap-name", draft::Value::Text(name.to_owned()));
        account.set("secret_file", "--chap-secret-file", draft::Value::Text(secret_file.to_owned()));
        let mut section = draft::Section::new(account.place.clone());
        section.set("upstream_chap", "--chap-name", draft::Value::Table(account));
        let mut problems = Vec::new();
        let credentials = auth::credentials(&mut Keys::new(&section, "", &mut problems), "upstream_chap");
        ConfigError::unless_empty(problems, "command line").map(|()| credentials)
    }
}

#[cfg(test)]
mod tests;
