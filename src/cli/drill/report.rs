//! What a drill found out, as JSON. `report.schema.json` describes it; within a version fields are added, never renamed.
//!
//! Times are in seconds since the drill began, sizes in bytes, as in the control interface.

use crate::admin::view;
use serde::Serialize;

/// What `format` says.
pub(super) const FORMAT: &str = "braid-drill-report";
/// What `version` says.
pub(super) const VERSION: u32 = 1;
/// The description of it all.
pub(super) const SCHEMA: &str = include_str!("report.schema.json");

/// A report.
#[derive(Serialize, Clone, PartialEq, Debug)]
pub(super) struct Report {
    pub(super) format: &'static str,
    pub(super) version: u32,
    /// Version of the Braid that was drilled.
    pub(super) braid: String,
    pub(super) scenario: Scenario,
    /// When, as RFC 3339 in UTC.
    pub(super) began: String,
    pub(super) ended: Ended,
    /// It went to its end, and every objective was met.
    pub(super) passed: bool,
    pub(super) objectives: Vec<Verdict>,
    pub(super) steps: Vec<Step>,
    pub(super) load: Load,
    pub(super) stalls: Stalls,
    pub(super) paths: Vec<Path>,
    pub(super) series: Series,
    pub(super) events: Vec<Event>,
}

/// Which scenario.
#[derive(Serialize, Clone, PartialEq, Debug)]
pub(super) struct Scenario {
    pub(super) name: String,
    pub(super) file: String,
    /// `lab`, `links` or `live`.
    #[serde(rename = "where")]
    pub(super) ground: &'static str,
    /// TargetName.
    pub(super) target: String,
    pub(super) duration_seconds: f64,
}

/// How it ended.
#[derive(Serialize, Clone, PartialEq, Debug)]
pub(super) struct Ended {
    /// `finished`, `interrupted` or `failed`.
    pub(super) how: &'static str,
    pub(super) why: Option<String>,
    pub(super) after_seconds: f64,
}

/// An objective, and whether it was met.
#[derive(Serialize, Clone, PartialEq, Debug)]
pub(super) struct Verdict {
    pub(super) objective: &'static str,
    /// `seconds`, `count` or `bytes_per_second`.
    pub(super) unit: &'static str,
    pub(super) wanted: f64,
    /// Nothing where that could not be found out, and the objective is not met.
    pub(super) found: Option<f64>,
    pub(super) met: bool,
    /// More of it.
    pub(super) note: Option<String>,
}

/// A step that was done.
#[derive(Serialize, Clone, PartialEq, Debug)]
pub(super) struct Step {
    /// Line of the scenario.
    pub(super) line: usize,
    /// In one word.
    pub(super) action: &'static str,
    /// With what belongs to it.
    pub(super) description: String,
    pub(super) at_seconds: f64,
    pub(super) paths: Vec<Affected>,
}

/// What a step did to a path.
#[derive(Serialize, Clone, PartialEq, Debug)]
pub(super) struct Affected {
    pub(super) path: String,
    pub(super) from_seconds: f64,
    pub(super) to_seconds: f64,
    /// After its end the path carried again; nothing if it did not before the drill ended.
    pub(super) back_after_seconds: Option<f64>,
}

/// The load.
#[derive(Serialize, Clone, PartialEq, Debug)]
pub(super) struct Load {
    /// `own`, or `watched`: then Braid's figures stand for it.
    pub(super) whose: &'static str,
    pub(super) commands: u64,
    pub(super) read_bytes: u64,
    pub(super) written_bytes: u64,
    /// Compared with what had been written.
    pub(super) verified_bytes: Option<u64>,
    pub(super) errors: u64,
    pub(super) wrong_blocks: Option<u64>,
    pub(super) latency: Option<Latency>,
    /// The first of what went wrong.
    pub(super) complaints: Vec<String>,
}

/// Times from submission to completion.
#[derive(Serialize, Clone, PartialEq, Debug)]
pub(super) struct Latency {
    pub(super) median_seconds: f64,
    pub(super) p99_seconds: f64,
    pub(super) max_seconds: f64,
}

/// Times between completions while commands were under way.
#[derive(Serialize, Clone, PartialEq, Default, Debug)]
pub(super) struct Stalls {
    pub(super) longest_seconds: f64,
    /// When that began.
    pub(super) longest_at_seconds: Option<f64>,
    /// What is shorter was not seen, but where Braid told of it around the loss of a path.
    pub(super) resolution_seconds: f64,
    pub(super) classes: Vec<Class>,
}

/// How many there were up to a length.
#[derive(Serialize, Clone, PartialEq, Debug)]
pub(super) struct Class {
    /// Longer ones are in the next class; the last has no bound.
    pub(super) below_seconds: Option<f64>,
    pub(super) count: u64,
}

/// What a path carried.
#[derive(Serialize, Clone, PartialEq, Debug)]
pub(super) struct Path {
    pub(super) name: String,
    pub(super) portal: String,
    pub(super) read_bytes: u64,
    pub(super) written_bytes: u64,
    pub(super) commands: u64,
}

/// What was seen over time: each list has an entry for each time.
#[derive(Serialize, Clone, PartialEq, Default, Debug)]
pub(super) struct Series {
    /// Ends of the intervals.
    pub(super) at_seconds: Vec<f64>,
    pub(super) commands_per_second: Vec<f64>,
    /// By Braid's clock, for all sessions of the target.
    pub(super) latency_mean_seconds: Vec<Option<f64>>,
    /// By the load's clock, if it is the drill's own.
    pub(super) latency_median_seconds: Vec<Option<f64>>,
    pub(super) latency_max_seconds: Vec<Option<f64>>,
    pub(super) paths: Vec<PathSeries>,
}

/// A path over time.
#[derive(Serialize, Clone, PartialEq, Default, Debug)]
pub(super) struct PathSeries {
    pub(super) name: String,
    pub(super) read_bytes_per_second: Vec<f64>,
    pub(super) written_bytes_per_second: Vec<f64>,
    /// `up`, `marginal`, `suspect`, `draining`, `probing`, `down`, `drained` or `none`: the worst of all sessions at the end of the interval.
    pub(super) state: Vec<String>,
}

impl PathSeries {
    /// Both ways together.
    pub(super) fn bytes_per_second(&self) -> impl Iterator<Item = f64> {
        self.read_bytes_per_second
            .iter()
            .zip(&self.written_bytes_per_second)
            .map(|(read, written)| read + written)
    }
}

/// What Braid said.
#[derive(Serialize, Clone, PartialEq, Debug)]
pub(super) struct Event {
    /// When it was heard.
    pub(super) at_seconds: f64,
    #[serde(flatten)]
    pub(super) event: view::Event,
}
