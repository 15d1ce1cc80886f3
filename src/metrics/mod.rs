//! What Braid counts, and under which names.
//!
//! # Contract
//! One [`Metrics`] per process. Targets and paths are declared from the configuration, so that every series exists from
//! the start; a session takes a [`SessionMetrics`], which looks up its series once and then turns each
//! [`Notice`] of the engine into a few atomic additions. What a session contributes to gauges is taken back when its
//! handle is dropped.
//! What has to be compared with the clock, or counts in the engine, is looked at once per turn ([`SessionMetrics::look`]).
//!
//! # Invariants
//! - All names are in `Families::new` and begin with `braid_`, but for those of the process, which every exporter has; each
//!   has a help text.
//! - Labels hold names from the configuration, those of so many targets and portals that were discovered, and words of this
//!   module, never what an initiator sent: the number of series does not grow without limit.
//! - What is neither declared nor used by a session any more has no series (`roll`).

mod carried;
mod health;
mod labels;
mod login;
mod path;
mod roll;
mod stall;
mod target;

pub use carried::{Carried, Failovers};
pub use health::TargetHealth;
pub use login::LoginResult;
pub use target::Terms;

use crate::iscsi::quirk::{self, Quirk, Side};
use crate::session::{Fanout, Notice, PathId, PathState, Session};
use path::PathSeries;
use prometheus::core::Collector;
use prometheus::{
    CounterVec, GaugeVec, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec,
    Opts, Registry, TextEncoder, process_collector::ProcessCollector,
};
use roll::{Family, Roll, Use};
use std::cell::RefCell;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use target::{Ages, TargetSeries};

/// Bounds of the command duration histogram, in seconds.
const DURATION_BUCKETS: [f64; 16] =
    [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 15.0, 60.0];

/// Bounds of the failover stall histogram, in seconds.
const STALL_BUCKETS: [f64; 15] =
    [0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 7.5, 10.0, 15.0, 20.0, 30.0, 60.0];

/// Targets, those of the configuration among them, up to which a discovered one gets series of its own.
const MAX_TARGETS: usize = 256;

/// Paths up to which one that was discovered does.
const MAX_PATHS: usize = 1024;

/// The label of targets and paths beyond that.
const OTHER: &str = "other";

const TARGET: &[&str] = &["target"];
const PATH: &[&str] = &["target", "path"];

/// The label for a fan-out.
#[must_use]
pub fn fanout_label(fanout: Fanout) -> &'static str {
    match fanout {
        Fanout::Mcs => "mcs",
        Fanout::Sessions => "sessions",
    }
}

/// Every family of series: name, help text and labels stand here and nowhere else.
#[derive(Debug)]
struct Families {
    build_info: IntGaugeVec,
    logins: IntCounterVec,
    sessions: IntGaugeVec,
    lines: IntGaugeVec,
    pathless: IntGaugeVec,
    irredundant: IntGaugeVec,
    guarantees: IntGaugeVec,
    memory: IntGaugeVec,
    memory_budget: IntGaugeVec,
    oldest_command: GaugeVec,
    stall: HistogramVec,
    held: IntCounterVec,
    held_seconds: CounterVec,
    window_stalls: IntCounterVec,
    window_stall_seconds: CounterVec,
    digest_errors: IntCounterVec,
    all_paths_down: IntCounterVec,
    given_up: IntCounterVec,
    single_path: IntCounterVec,
    passed_on: IntCounter,
    log_lines_lost: IntCounter,
    reload_successful: IntGauge,
    quirks: IntCounterVec,
    redirects: IntCounterVec,
    protocol_errors: IntCounterVec,
    connections: IntGaugeVec,
    down: IntGaugeVec,
    connects: IntCounterVec,
    losses: IntCounterVec,
    connect_failures: IntCounterVec,
    read: IntCounterVec,
    written: IntCounterVec,
    commands: IntCounterVec,
    in_flight: IntGaugeVec,
    moved: IntCounterVec,
    reassigned: IntCounterVec,
    states: IntGaugeVec,
    suspicions: IntCounterVec,
    demotions: IntCounterVec,
    evaded: IntCounterVec,
    hedged: IntCounterVec,
    hedges_won: IntCounterVec,
    unknown: IntCounterVec,
    fences: IntCounterVec,
    fence_seconds: CounterVec,
    identity_proofs: IntCounterVec,
    identity_mismatches: IntCounterVec,
    access_changes: IntCounterVec,
    transitions: IntCounterVec,
    transitions_refused: IntCounterVec,
    absorbed: IntCounterVec,
    duration: HistogramVec,
    /// All that have labels.
    all: Vec<Box<dyn Family>>,
}

impl Families {
    #[rustfmt::skip] // A table: one row per family.
    fn new(registry: &Registry) -> Self {
        let all = RefCell::default();
        let counter = |name, help, labels| labelled(registry, &all, IntCounterVec::new(Opts::new(name, help), labels));
        let gauge = |name, help, labels| labelled(registry, &all, IntGaugeVec::new(Opts::new(name, help), labels));
        let seconds = |name, help, labels| labelled(registry, &all, CounterVec::new(Opts::new(name, help), labels));
        let histogram = |name, help, buckets: &[f64], labels| {
            labelled(registry, &all, HistogramVec::new(HistogramOpts::new(name, help).buckets(buckets.to_vec()), labels))
        };
        Self {
            build_info: gauge("braid_build_info", "Always 1; the version is the label.", &["version"]),
            logins: counter("braid_logins_total", "Logins of initiators, by how they ended (RFC 7147: denied is iscsiTgtLoginAuthorizeFails, unauthenticated iscsiTgtLoginAuthenticateFails).", &["result"]),
            sessions: gauge("braid_sessions", "Sessions of initiators open now, by how they are fanned out.", &["target", "fanout"]),
            lines: gauge("braid_initiator_connections", "Connections of initiators in the sessions open now.", TARGET),
            pathless: gauge("braid_sessions_without_path", "Sessions open now that have no working path.", TARGET),
            irredundant: gauge("braid_sessions_without_redundancy", "Sessions open now that have several paths, of which at most one works.", TARGET),
            guarantees: gauge("braid_session_guarantees", "Sessions open now, by who keeps barriers in order (one_path, strict, native) and how lost nexuses are fenced.", &["target", "order", "fence"]),
            memory: gauge("braid_memory_held_bytes", "Write data held now.", TARGET),
            memory_budget: gauge("braid_memory_budget_bytes", "Write data that the sessions open now may hold together.", TARGET),
            oldest_command: labelled(registry, &all, GaugeVec::new(Opts::new("braid_oldest_command_age_seconds", "Age of the oldest command that has no status yet; 0 without one."), TARGET)),
            stall: histogram("braid_failover_stall_seconds", "Longest time without a completion around the loss of a path under commands; its count is the number of failovers.", &STALL_BUCKETS, TARGET),
            held: counter("braid_commands_held_total", "Commands that had to wait before they were sent, by what for: an overlap, a barrier, or a write in doubt (quarantine).", &["target", "by"]),
            held_seconds: seconds("braid_commands_held_seconds_total", "Time that such commands waited, by what for.", &["target", "by"]),
            window_stalls: counter("braid_target_window_stalls_total", "Times that commands began to wait for a place in the target's command window.", TARGET),
            window_stall_seconds: seconds("braid_target_window_stall_seconds_total", "Time during which commands waited so.", TARGET),
            digest_errors: counter("braid_digest_errors_total", "PDUs that came with a wrong digest, by the side that they came from (RFC 7147 iscsiSsnCxnDigestErrors).", &["target", "from"]),
            all_paths_down: counter("braid_all_paths_down_total", "Times that a session was left without a working path.", TARGET),
            given_up: counter("braid_outages_given_up_total", "Times that commands of a session were given up because no path came back in time.", TARGET),
            single_path: counter("braid_sessions_single_path_total", "Sessions on one path because their authentication is relayed and the others have no credentials.", TARGET),
            redirects: counter("braid_login_redirects_total", "Logins of Braid's that a target sent elsewhere, for good (permanent) or for the time being (temporary) (RFC 7147 iscsiIntrLoginRedirectRsps).", &["kind"]),
            quirks: counter("braid_quirks_total", "What peers did that the standard does not say, or few do, and that was taken as it is, by its name and by who did it; the log says once per peer what it is.", &["quirk", "side"]),
            reload_successful: register(registry, IntGauge::new("braid_config_last_reload_successful", "1; 0 if the configuration was read again last and could not be used, so that Braid runs on as before.")),
            passed_on: register(registry, IntCounter::new("braid_connections_passed_on_total", "Intercepted connections that were nobody's session here, and went on untouched.")),
            log_lines_lost: register(registry, IntCounter::new("braid_log_lines_lost_total", "Log lines that were lost because standard error took no more: Braid does not wait for it.")),
            protocol_errors: counter("braid_initiator_protocol_errors_total", "Violations of the protocol by initiators.", TARGET),
            connections: gauge("braid_path_connections", "Connections up now; 0 with sessions open means that the path is down.", PATH),
            down: gauge("braid_path_sessions_down", "Sessions open now for which the path is down.", PATH),
            connects: counter("braid_path_connects_total", "Connections that came up.", PATH),
            losses: counter("braid_path_losses_total", "Connections lost after they were up, by cause.", &["target", "path", "cause"]),
            connect_failures: counter("braid_path_connect_failures_total", "Attempts to connect that failed, by cause.", &["target", "path", "cause"]),
            read: counter("braid_path_read_bytes_total", "Payload read by completed commands.", PATH),
            written: counter("braid_path_written_bytes_total", "Payload written by completed commands.", PATH),
            commands: counter("braid_path_commands_total", "Commands completed, by the path that carried them last.", PATH),
            in_flight: gauge("braid_path_commands_in_flight", "Commands under way now.", PATH),
            moved: counter("braid_path_commands_moved_total", "Commands moved to other paths because this one was lost.", PATH),
            reassigned: counter("braid_path_commands_reassigned_total", "Commands that go on over another connection of their session because this path was lost.", PATH),
            states: gauge("braid_path_state", "Sessions open now for which the path is in this state: up, marginal, suspect, draining, probing, down or drained.", &["target", "path", "state"]),
            suspicions: counter("braid_path_suspicions_total", "Times that the path became suspect for a session, by cause.", &["target", "path", "cause"]),
            demotions: counter("braid_path_demotions_total", "Times that a path became marginal for a session.", PATH),
            evaded: counter("braid_path_commands_evaded_total", "Commands asked again over other paths because this one was suspect.", PATH),
            hedged: counter("braid_path_reads_hedged_total", "Reads that were late on this path and were asked again over another.", PATH),
            hedges_won: counter("braid_path_hedges_won_total", "Such reads that the other path answered first.", PATH),
            unknown: counter("braid_path_outcomes_unknown_total", "Commands answered with ABORTED COMMAND because their path was lost and they must not run twice.", PATH),
            fences: counter("braid_fences_total", "Fences of lost nexuses, by method.", &["target", "path", "method"]),
            fence_seconds: seconds("braid_fence_seconds_total", "Time that fences of lost nexuses took.", PATH),
            identity_proofs: counter("braid_identity_proofs_total", "Logical units proved to be the same over a path as over home.", PATH),
            identity_mismatches: counter("braid_identity_mismatches_total", "Logical units found to be another over a path: the path stays out.", PATH),
            access_changes: counter("braid_access_changes_total", "Changes of a logical unit's access state (ALUA) behind a path.", PATH),
            transitions: counter("braid_transitions_total", "Times the target was asked to make a path's port group active, because no other was.", PATH),
            transitions_refused: counter("braid_transitions_refused_total", "Such requests that the target refused.", PATH),
            absorbed: counter("braid_unit_attentions_absorbed_total", "Unit attentions of further nexuses that home reports.", PATH),
            duration: histogram("braid_command_duration_seconds", "Time from a command's arrival to its status, by the path that carried it last and the direction of its data.", &DURATION_BUCKETS, &["target", "path", "direction"]),
            all: all.into_inner(),
        }
    }
}

/// Registers a family of the table whose series have labels, and keeps it with the others.
fn labelled<C: Collector + Family + Clone + 'static>(
    registry: &Registry,
    all: &RefCell<Vec<Box<dyn Family>>>,
    family: prometheus::Result<C>,
) -> C {
    let family = register(registry, family);
    all.borrow_mut().push(Box::new(family.clone()));
    family
}

/// Registers a family of the table.
fn register<C: Collector + Clone + 'static>(registry: &Registry, family: prometheus::Result<C>) -> C {
    let family = family.expect("names and labels of the table are legal");
    registry.register(Box::new(family.clone())).expect("names of the table are unique");
    family
}

/// All metrics of the process.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    families: Families,
    roll: Mutex<Roll>,
    ages: Ages,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// Nothing counted yet.
    #[must_use]
    pub fn new() -> Self {
        let registry = Registry::new();
        let families = Families::new(&registry);
        let process = ProcessCollector::for_self();
        registry.register(Box::new(process)).expect("nothing of the table is named so");
        families.build_info.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        families.reload_successful.set(1);
        login::declare(&families);
        for (row, side) in quirk::TABLE.iter().flat_map(|row| row.sides.iter().map(move |side| (row, side))) {
            families.quirks.with_label_values(&[row.name, side.label()]);
        }
        Self { registry, families, roll: Mutex::default(), ages: Ages::default() }
    }

    /// Makes the series of a target, at zero, and lists it in [`Metrics::health`]. Those of paths that it had before and that no
    /// session uses any more go.
    pub fn declare<'p>(&self, target: &str, paths: impl IntoIterator<Item = &'p str>) {
        let paths: Vec<String> = paths.into_iter().map(str::to_owned).collect();
        let mut roll = self.roll();
        self.make(target, &paths);
        let before = roll.declared.insert(target.to_owned(), paths).unwrap_or_default();
        self.sweep(&roll, target, &before);
    }

    /// The same for a target that was discovered, or was found to have further paths. There is room for `MAX_TARGETS`
    /// targets and `MAX_PATHS` paths; sessions with others are counted under `OTHER`.
    pub fn declare_discovered<'p>(&self, target: &str, paths: impl IntoIterator<Item = &'p str>) {
        let mut roll = self.roll();
        let targets = &mut roll.declared;
        let known = targets.values().map(Vec::len).sum::<usize>();
        if !targets.contains_key(target) && targets.len() >= MAX_TARGETS {
            return;
        }
        let own = targets.entry(target.to_owned()).or_default();
        let fresh: Vec<_> =
            paths.into_iter().filter(|path| !own.iter().any(|own| own == path)).map(str::to_owned).collect();
        let room = MAX_PATHS.saturating_sub(known);
        own.extend(fresh.into_iter().take(room));
        self.make(target, own);
    }

    /// Makes the series of a target, those that are there already excepted.
    fn make(&self, target: &str, paths: &[String]) {
        Terms::declare(&self.families, target);
        TargetSeries::new(&self.families, target);
        self.families.single_path.with_label_values(&[target]);
        for path in paths {
            PathSeries::new(&self.families, target, path);
        }
    }

    /// The targets that are declared.
    #[must_use]
    pub fn targets(&self) -> Vec<String> {
        self.roll().declared.keys().cloned().collect()
    }

    /// The series of a session; `paths` in the order of its plan.
    pub fn session<'p>(
        self: &Arc<Self>,
        target: &'p str,
        paths: impl IntoIterator<Item = &'p str>,
        terms: &Terms,
    ) -> SessionMetrics {
        let mut roll = self.roll();
        let (target, paths) = roll.labels(target, paths);
        let in_use = Use::begin(self, &mut roll, target, &paths);
        let paths: Vec<_> =
            paths.into_iter().map(|path| PathSeries::new(&self.families, target, path)).collect();
        let open = terms.enter(&self.families, target, paths.len());
        let target =
            TargetSeries::new(&self.families, target).of_session(terms, self.ages.new_session(target));
        let mut session = SessionMetrics { _open: open, target, paths, _in_use: in_use };
        session.count_paths();
        session.paths.iter_mut().for_each(|path| path.stands(PathState::Down));
        session
    }

    /// Counts a quirk that a peer has shown.
    pub fn quirk(&self, quirk: Quirk, side: Side) {
        self.families.quirks.with_label_values(&[quirk.row().name, side.label()]).inc();
    }

    /// Tells whether the configuration could be used when it was read again.
    pub fn reloaded(&self, successful: bool) {
        self.families.reload_successful.set(i64::from(successful));
    }

    /// Counts log lines that nobody took.
    pub fn log_lines_lost(&self, lines: u64) {
        self.families.log_lines_lost.inc_by(lines);
    }

    /// Counts an intercepted connection that was passed on untouched.
    pub fn passed_on(&self) {
        self.families.passed_on.inc();
    }

    /// Counts a session that runs on one path because Braid cannot log in over the others.
    pub fn single_path(&self, target: &str) {
        let roll = self.roll();
        self.families.single_path.with_label_values(&[roll.labels(target, []).0]).inc();
    }

    /// The state of each declared target.
    #[must_use]
    pub fn health(&self) -> Vec<TargetHealth> {
        let roll = self.roll();
        let connections =
            |target: &str, path: &str| self.families.connections.with_label_values(&[target, path]).get();
        let health = roll.declared.iter().map(|(target, paths)| TargetHealth {
            target: target.clone(),
            sessions: [Fanout::Mcs, Fanout::Sessions]
                .map(|fanout| {
                    self.families.sessions.with_label_values(&[target.as_str(), fanout_label(fanout)]).get()
                })
                .iter()
                .sum(),
            paths: paths.iter().map(|path| (path.clone(), connections(target, path))).collect(),
        });
        health.collect()
    }

    /// Commands moved off lost and suspect paths of a target so far.
    #[must_use]
    pub fn moved(&self, target: &str) -> u64 {
        let roll = self.roll();
        let paths = roll.declared.get(target).into_iter().flatten();
        let families = [&self.families.moved, &self.families.evaded];
        let of = |path: &String| families.map(|f| f.with_label_values(&[target, path.as_str()]).get());
        paths.flat_map(of).sum()
    }

    /// Everything in the Prometheus text format.
    #[must_use]
    pub fn render(&self) -> String {
        self.ages.publish(&self.families.oldest_command);
        TextEncoder::new().encode_to_string(&self.registry.gather()).unwrap_or_default()
    }
}

/// What one session adds to a gauge shared by many; taken back on drop.
#[derive(Debug)]
struct Contribution {
    gauge: IntGauge,
    value: i64,
}

impl Contribution {
    fn new(gauge: IntGauge) -> Self {
        Self { gauge, value: 0 }
    }

    fn set(&mut self, value: i64) {
        if value != self.value {
            self.gauge.add(value - self.value);
            self.value = value;
        }
    }

    fn add(&mut self, by: i64) {
        self.set((self.value + by).max(0));
    }
}

impl Drop for Contribution {
    fn drop(&mut self) {
        self.gauge.sub(self.value);
    }
}

/// The series of one session.
#[derive(Debug)]
pub struct SessionMetrics {
    /// What counts it for as long as it is open.
    _open: [Contribution; 2],
    target: TargetSeries,
    paths: Vec<PathSeries>,
    /// The last: what the others leave behind goes with it, if nobody wants it.
    _in_use: Use,
}

impl SessionMetrics {
    /// Counts what the engine tells.
    pub fn note(&mut self, notice: &Notice) {
        self.target.note(notice);
        match notice {
            Notice::AllPathsDown => self.target.all_paths_down.inc(),
            Notice::GaveUp(_) => self.target.given_up.inc(),
            Notice::TakenAgain | Notice::Quirk { .. } | Notice::LineUp { .. } | Notice::LineDown { .. } => {}
            Notice::DownstreamProtocol(_) => self.target.protocol_errors.inc(),
            Notice::DownstreamDigest(_) => self.digest_error(Side::Initiator),
            Notice::PathUp { path, .. }
            | Notice::PathDown { path, .. }
            | Notice::Moved { path, .. }
            | Notice::Reassigned { path, .. }
            | Notice::PathState { path, .. }
            | Notice::PathMarginal { path }
            | Notice::Evaded { path, .. }
            | Notice::Hedged { path }
            | Notice::HedgeWon { path }
            | Notice::Fenced { path, .. }
            | Notice::IdentityMismatch { path, .. }
            | Notice::IdentityProved { path, .. }
            | Notice::UnitBound { path, .. }
            | Notice::AccessChanged { path, .. }
            | Notice::TransitionAsked { path, .. }
            | Notice::TransitionRefused { path, .. }
            | Notice::Completed { path, .. }
            | Notice::OutcomeUnknown { path }
            | Notice::UnitAttentionAbsorbed { path } => {
                if let Some(series) = self.paths.get_mut(path.0) {
                    series.note(notice);
                }
            }
        }
        if matches!(notice, Notice::PathUp { .. } | Notice::PathDown { .. }) {
            self.count_paths();
        }
    }

    /// Counts the paths that work, and those that do not.
    fn count_paths(&mut self) {
        let mut up = 0;
        for path in &mut self.paths {
            let works = path.connections.value > 0;
            path.down.set(i64::from(!works));
            up += usize::from(works);
        }
        self.target.paths_up(up, self.paths.len());
    }

    /// Looks at the engine at the end of a turn. If a failover is over, gives the longest time that nothing completed.
    pub fn look(&mut self, engine: &Session, now: Instant) -> Option<Duration> {
        self.memory(engine.memory());
        self.target.look(engine, now)
    }

    /// Counts a PDU with a wrong digest that ended its connection; of others the engine tells.
    pub fn digest_error(&self, from: Side) {
        self.target.digest_error(from);
    }

    /// Tells how many commands are under way on a path.
    pub fn in_flight(&mut self, path: PathId, commands: usize) {
        if let Some(series) = self.paths.get_mut(path.0) {
            series.in_flight.set(i64::try_from(commands).unwrap_or(i64::MAX));
        }
    }

    /// Tells how many bytes of write data may be held from now on.
    pub fn budget(&mut self, bytes: u64) {
        self.target.budget(bytes);
    }

    /// Tells how many bytes of write data are held.
    pub fn memory(&mut self, bytes: u64) {
        self.target.memory.set(i64::try_from(bytes).unwrap_or(i64::MAX));
    }
}

#[cfg(test)]
mod tests;
