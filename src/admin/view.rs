//! What the control interface says and takes, as JSON: the shapes that server and command line share.
//!
//! Times are in seconds, sizes in bytes. Fields are added, never renamed, within `/v1`.

use crate::config::diff::Effect;
use crate::metrics::Carried;
use crate::proxy::{events, operator, reload};
use crate::session;
use serde::{Deserialize, Serialize};

/// The answer to `GET /v1/status`.
#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
pub struct Status {
    /// Version of the Braid that answers.
    pub version: String,
    /// How long it has run.
    pub uptime_seconds: f64,
    /// Its targets.
    pub targets: Vec<Target>,
}

/// A target.
#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
pub struct Target {
    /// TargetName.
    pub name: String,
    /// Its paths as configured.
    pub paths: Vec<ConfiguredPath>,
    /// Its sessions.
    pub sessions: Vec<Session>,
    /// Its failovers since Braid started.
    #[serde(default)]
    pub failovers: Failovers,
}

/// Failovers of a target.
#[derive(Serialize, Deserialize, Clone, PartialEq, Default, Debug)]
pub struct Failovers {
    /// How many there were, over all sessions.
    pub count: u64,
    /// The longest time without a completion of each, in sum.
    pub stall_seconds: f64,
}

/// A path as configured.
#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
pub struct ConfiguredPath {
    /// Name.
    pub name: String,
    /// Address and port of the portal.
    pub portal: String,
    /// Taken out by the operator, for all sessions.
    pub out: bool,
    /// What it has carried since Braid started; nothing for those of discovered paths that are not counted by themselves.
    pub totals: Option<Totals>,
}

/// What a path has carried.
#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
pub struct Totals {
    /// Payload read.
    pub read_bytes: u64,
    /// Payload written.
    pub written_bytes: u64,
    /// Commands completed.
    pub commands: u64,
    /// Time from their arrival to their status, in sum.
    pub command_seconds: f64,
}

impl Status {
    /// How everything stands now.
    pub async fn of(operator: &operator::Operator) -> Self {
        let targets = operator.status().await.into_iter().map(Target::from).collect();
        let version = env!("CARGO_PKG_VERSION").to_owned();
        Self { version, uptime_seconds: operator.uptime().as_secs_f64(), targets }
    }
}

/// A session.
#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
pub struct Session {
    /// InitiatorName.
    pub initiator: String,
    /// Address of the initiator.
    pub peer: Option<String>,
    /// ISID, in hexadecimal.
    pub isid: String,
    /// TSIH.
    pub tsih: u16,
    /// How it stands; nothing while it begins, or does not answer.
    pub standing: Option<Standing>,
}

/// How a session stands.
#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
pub struct Standing {
    /// `mcs` or `sessions`.
    pub fanout: String,
    /// Connections of the initiator.
    pub initiator_connections: usize,
    /// Commands of the initiator that are not answered.
    pub commands: usize,
    /// Those among them that are at no target.
    pub waiting: usize,
    /// Writes that may still reach a target over a path that was given up.
    pub ghosts: usize,
    /// How long no path has worked.
    pub outage_seconds: Option<f64>,
    /// Write data held.
    pub memory_bytes: u64,
    /// Its paths.
    pub paths: Vec<Path>,
}

/// A path of a session.
#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
pub struct Path {
    /// Name.
    pub name: String,
    /// `up`, `marginal`, `suspect`, `draining`, `probing`, `down` or `drained`.
    pub state: String,
    /// Whether it is home: what only one path may carry goes over it.
    pub home: bool,
    /// Connections.
    pub connections: usize,
    /// Commands under way.
    pub commands: u32,
    /// How long the oldest of them has been.
    pub oldest_seconds: Option<f64>,
    /// Weight.
    pub weight: u32,
    /// Tag of its portal group, as far as that is known.
    pub group: Option<u16>,
    /// When it is tried again, if it is down.
    pub retry_seconds: Option<f64>,
    /// When it is used like any other again, if it is marginal and all goes well.
    pub calm_seconds: Option<f64>,
}

/// The body of an order.
#[derive(Serialize, Deserialize, Clone, Default, PartialEq, Debug)]
#[serde(default, deny_unknown_fields)]
pub struct Order {
    /// Do it even if a session is left without a path.
    pub force: bool,
    /// For `drain` and `fail`: give the path back by itself after this time, at most a day.
    pub for_seconds: Option<f64>,
    /// The new weight, for `weight`.
    pub weight: Option<u32>,
}

/// The answer to an order that was carried out.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct Done {
    /// Sessions that were told.
    pub sessions: usize,
}

/// The answer to what could not be done.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct Refused {
    /// Why, and what to do; for a configuration with a line for each mistake.
    pub error: String,
    /// What would have changed, where that was a configuration.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub changes: Vec<Change>,
}

/// The body of `POST /v1/reload`.
#[derive(Serialize, Deserialize, Clone, Default, PartialEq, Eq, Debug)]
#[serde(default, deny_unknown_fields)]
pub struct ReloadOrder {
    /// Show what would change, and change nothing.
    pub check: bool,
}

/// What came of reading the configuration again.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct Reloaded {
    /// Whether the changes are in force.
    pub applied: bool,
    /// What is different.
    pub changes: Vec<Change>,
    /// Running sessions that were told.
    pub sessions: usize,
    /// What is worth knowing.
    pub notes: Vec<String>,
}

/// A setting that is different.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct Change {
    /// The table of the target; nothing for settings of the whole.
    pub target: Option<String>,
    /// Which setting; `target` for a whole table.
    pub setting: String,
    /// Before; nothing if it was not there.
    pub old: Option<String>,
    /// Now; nothing if it is gone.
    pub new: Option<String>,
    /// `now`, `new-sessions` or `restart`.
    pub effect: String,
    /// Where it is written.
    pub place: String,
}

/// The query of `GET /v1/events`.
#[derive(Serialize, Deserialize, Clone, Copy, Default, PartialEq, Eq, Debug)]
#[serde(default, deny_unknown_fields)]
pub struct WhichNews {
    /// Only events with a higher number.
    pub after: u64,
    /// Seconds to wait for an event if there is none.
    pub wait: u64,
}

/// The query of `GET /v1/capture`.
#[derive(Serialize, Deserialize, Clone, Default, PartialEq, Eq, Debug)]
#[serde(default, deny_unknown_fields)]
pub struct WhichCapture {
    /// Of this target alone.
    pub target: Option<String>,
    /// Of this initiator alone.
    pub initiator: Option<String>,
}

/// What happened.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct News {
    /// Oldest first.
    pub events: Vec<Event>,
    /// Events after the number asked for that are not kept any more.
    pub missed: u64,
    /// What to ask with next time.
    pub last: u64,
}

/// An event.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct Event {
    /// Its number: the first since Braid started is 1.
    pub number: u64,
    /// When, as RFC 3339 in UTC.
    pub time: String,
    /// What kind, in one word.
    pub kind: String,
    /// TargetName, if it is about one.
    pub target: Option<String>,
    /// InitiatorName.
    pub initiator: Option<String>,
    /// Name of the path.
    pub path: Option<String>,
    /// More of it.
    pub text: String,
}

impl From<events::News> for News {
    fn from(news: events::News) -> Self {
        let event = |event: events::Event| Event {
            number: event.number,
            time: humantime::format_rfc3339_millis(event.time).to_string(),
            kind: event.kind.word().to_owned(),
            target: event.about.target,
            initiator: event.about.initiator,
            path: event.about.path,
            text: event.text,
        };
        Self { events: news.events.into_iter().map(event).collect(), missed: news.missed, last: news.last }
    }
}

impl From<reload::Reloaded> for Reloaded {
    fn from(reloaded: reload::Reloaded) -> Self {
        Self {
            applied: reloaded.applied,
            changes: reloaded.changes.into_iter().map(Change::from).collect(),
            sessions: reloaded.sessions,
            notes: reloaded.notes,
        }
    }
}

impl From<reload::Placed> for Change {
    fn from((change, place): reload::Placed) -> Self {
        let effect = match change.effect {
            Effect::Now => "now",
            Effect::NewSessions => "new-sessions",
            Effect::Never(_) => "restart",
        };
        Self {
            target: change.table,
            setting: change.key,
            old: change.old,
            new: change.new,
            effect: effect.to_owned(),
            place,
        }
    }
}

impl From<operator::TargetStatus> for Target {
    fn from(target: operator::TargetStatus) -> Self {
        let totals = |carried: Carried| Totals {
            read_bytes: carried.read,
            written_bytes: carried.written,
            commands: carried.commands,
            command_seconds: carried.time.as_secs_f64(),
        };
        let path = |path: operator::PathStanding| ConfiguredPath {
            name: path.name,
            portal: path.portal,
            out: path.out,
            totals: path.carried.map(totals),
        };
        Self {
            name: target.name,
            paths: target.paths.into_iter().map(path).collect(),
            sessions: target.sessions.into_iter().map(Session::from).collect(),
            failovers: Failovers {
                count: target.failovers.count,
                stall_seconds: target.failovers.stalled.as_secs_f64(),
            },
        }
    }
}

impl From<operator::SessionStatus> for Session {
    fn from(session: operator::SessionStatus) -> Self {
        Self {
            initiator: session.initiator,
            peer: session.peer.map(|peer| peer.to_string()),
            isid: session.isid,
            tsih: session.tsih,
            standing: session.standing.map(|(names, status)| standing(&names, &status)),
        }
    }
}

fn standing(names: &[String], status: &session::Status) -> Standing {
    let fanout = match status.fanout {
        session::Fanout::Mcs => "mcs",
        session::Fanout::Sessions => "sessions",
    };
    Standing {
        fanout: fanout.to_owned(),
        initiator_connections: status.lines,
        commands: status.commands,
        waiting: status.waiting,
        ghosts: status.ghosts,
        outage_seconds: status.outage.map(|time| time.as_secs_f64()),
        memory_bytes: status.memory,
        paths: names.iter().zip(&status.paths).map(|(name, path)| path_of(name, path)).collect(),
    }
}

fn path_of(name: &str, path: &session::PathStatus) -> Path {
    Path {
        name: name.to_owned(),
        state: path.state.word().to_owned(),
        home: path.home,
        connections: path.connections,
        commands: path.commands,
        oldest_seconds: path.oldest.map(|time| time.as_secs_f64()),
        weight: path.weight,
        group: path.group,
        retry_seconds: path.retry_in.map(|time| time.as_secs_f64()),
        calm_seconds: path.calm_in.map(|time| time.as_secs_f64()),
    }
}
