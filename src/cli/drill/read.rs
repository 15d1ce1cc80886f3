//! How a scenario is written: the keys, and what is wrong with them.
//!
//! It is read as the configuration is ([`crate::config`]): all mistakes at once, each with its line and what to write instead.

use super::scenario::{
    ACTIONS, ALL, Action, Ground, LONGEST, Live, Load, Objectives, Scenario, Scratch, Span, Step, TARGET,
    longest_outage,
};
use crate::cli::stage::Plan;
use crate::cli::wire::Slow;
use crate::config::draft::{self, Placed, Section, Value};
use crate::config::value;
use crate::config::{Config, ConfigError, Keys, Place, Problem, checked};
use crate::lab::cutter::{Direction, LinkOptions};
use humantime::format_duration;
use std::path::Path;
use std::time::Duration;

const MS: fn(u64) -> Duration = Duration::from_millis;

/// The shortest that a link may be down, and up, when it flaps.
const FASTEST_FLAP: Duration = Duration::from_millis(100);

/// The lab's disk, in bytes.
const DISK: u64 = 64 << 20;

/// Where the scenario is played, in its words.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Where {
    Lab,
    Links,
    Live,
}

/// A step as it is written.
struct Written {
    place: Place,
    at: Duration,
    action: Action,
    /// None for all.
    paths: Option<Vec<(String, Place)>>,
    lasts: Option<Duration>,
}

impl Scenario {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// All that is wrong with it.
    pub(super) fn load(file: &Path) -> Result<Self, ConfigError> {
        let name = file.display().to_string();
        match std::fs::read_to_string(file) {
            Ok(text) => Self::parse(&text, &name),
            Err(error) => Err(ConfigError::unreadable(name, &error)),
        }
    }

    /// Reads and checks the text of a file.
    ///
    /// # Errors
    /// All that is wrong with it.
    pub(super) fn parse(text: &str, file: &str) -> Result<Self, ConfigError> {
        let (section, problems) = draft::parse_toml(text);
        // What is read in spite of a syntax error is guesswork: do not complain about it too.
        ConfigError::unless_empty(problems, file)?;
        let mut problems = Vec::new();
        let scenario = scenario(&section, file, &mut problems);
        ConfigError::unless_empty(problems, file)?;
        Ok(scenario)
    }
}

fn scenario(section: &Section, file: &str, problems: &mut Vec<Problem>) -> Scenario {
    let mut keys = Keys::new(section, "", problems);
    let name = keys.optional("name", value::text);
    let words = [("lab", Where::Lab), ("links", Where::Links), ("live", Where::Live)];
    let ground = keys.or("where", Where::Lab, |value| value::word(value, &words));
    let live = ground == Where::Live;
    let remedy = "write how long the drill lasts, such as duration = \"20s\"";
    let limits = |value: &Value| value::duration(value, MS(1000), LONGEST);
    let duration = keys.required("duration", remedy, limits);
    let (ground, config) = if live {
        (Ground::Live(keys.table("live", self::live)), None)
    } else {
        let plan = keys.table("lab", |keys| lab(keys, file, ground == Where::Links));
        let config = check_target(&plan, &mut keys);
        (Ground::Lab(plan), config)
    };
    let scratch = live && keys.has("load");
    let load = (!live || scratch).then(|| keys.table("load", |keys| load(keys, live)));
    let written = keys.list("step", step).unwrap_or_default();
    let mut objectives = keys.table("objectives", objectives);
    if !keys.has("step") {
        let remedy = "is missing; write at least one, such as\n  [[step]]\n  at = \"3s\"\n  do = \"silent\"\n  \
                      paths = \"link1\"\n  for = \"5s\"";
        keys.problem(section.place.clone(), "step", remedy);
    }
    reject_the_other_ground(section, ground.word(), &mut keys);
    keys.reject_unknown();
    objectives.errors = objectives.errors.or(Some(0));
    objectives.wrong_blocks = objectives.wrong_blocks.or_else(|| load.is_some().then_some(0));
    let known = match &ground {
        Ground::Lab(plan) => Some((0..plan.paths).map(Plan::link).collect::<Vec<_>>()),
        Ground::Live(_) => None,
    };
    let duration = duration.unwrap_or(LONGEST);
    let (steps, spans) = lay_out(written, known.as_deref(), duration, problems);
    let file = file.to_owned();
    let name = name.unwrap_or_else(|| file.clone());
    let scenario = Scenario { file, name, duration, ground, load, steps, spans, objectives };
    // Where something is wrong already, more complaints about what follows from it do not help.
    if problems.is_empty() {
        check_ground(&scenario, section, problems);
        check_objectives(&scenario, section, config.as_ref(), problems);
    }
    scenario
}

fn lab(keys: &mut Keys<'_>, file: &str, real: bool) -> Plan {
    let paths = keys.or("paths", 4, |value| value::number(value, 1, 16));
    let rate = keys.optional("rate", |value| value::size(value, 1 << 20, 10 << 30));
    let rate = rate.or(if real { None } else { Some(Plan::RATE) });
    let delay = keys.or("delay", Duration::ZERO, |value| value::duration(value, Duration::ZERO, MS(1000)));
    let device = keys.or("device", Duration::ZERO, |value| value::duration(value, Duration::ZERO, MS(1000)));
    let link = LinkOptions { rate, delay, ..LinkOptions::default() };
    let mut plan = Plan { real, link, device, file: file.to_owned(), ..Plan::of(paths as usize) };
    match keys.placed("target") {
        Some(Placed { value: Value::Table(section), .. }) => {
            for own in ["name", "paths", "discover"] {
                if let Some(placed) = section.get(own) {
                    let message = "is for the lab to say; leave it out (lab.paths says how many there are)";
                    keys.problem(placed.place.clone(), &format!("target.{own}"), message);
                }
            }
            plan.target = section.clone();
        }
        Some(other) => keys.problem(
            other.place.clone(),
            "target",
            "must be a table with settings of Braid's for the target, such as [lab.target] with mode = \"mcs\"",
        ),
        None => {}
    }
    plan
}

/// Braid's own opinion of what is to be set for the target.
fn check_target(plan: &Plan, keys: &mut Keys<'_>) -> Option<Config> {
    let portals: Vec<_> = (1..=16_u16).take(plan.paths).map(|port| ([127, 0, 0, 1], port).into()).collect();
    match plan.config("iqn.2026-01.org.braid:lab", &portals) {
        Ok(config) => Some(config),
        Err(error) => {
            for problem in error.problems {
                keys.problem(problem.place, &format!("lab.{}", problem.key), &problem.message);
            }
            None
        }
    }
}

fn live(keys: &mut Keys<'_>) -> Live {
    Live {
        target: keys.optional("target", value::iscsi_name),
        last_path: keys.or("last_path", false, value::boolean),
    }
}

/// Settings for the ground that this scenario is not for.
fn reject_the_other_ground(section: &Section, word: &str, keys: &mut Keys<'_>) {
    let other = if word == "live" { "lab" } else { "live" };
    if let Some((.., place, _)) = section.entries.iter().find(|(key, ..)| key == other) {
        let message =
            format!("is not used with where = \"{word}\"; leave it out, or write where = \"{other}\"");
        keys.placed(other);
        keys.problem(place.clone(), other, &message);
    }
}

fn load(keys: &mut Keys<'_>, live: bool) -> Load {
    let percent =
        |value: &Value| value::number(value, 0, 100).map(|number| u8::try_from(number).unwrap_or(100));
    let size = |value: &Value| {
        let bytes = value::size(value, 512, 1 << 20)?;
        if bytes.is_power_of_two() {
            Ok(u32::try_from(bytes).unwrap_or(512))
        } else {
            Err("must be a power of two, such as \"4KiB\"".to_owned())
        }
    };
    let (shortest, longest) = (keys.or("shortest", 4096, size), keys.or("longest", 65_536, size));
    if shortest > longest {
        let place = keys.place();
        keys.problem(place, "shortest", "is longer than longest; lower it, or raise longest");
    }
    let (reads, flushes) = (keys.or("reads", 50, percent), keys.or("flushes", 1, percent));
    if reads + flushes > 100 {
        let place = keys.place();
        keys.problem(place, "reads", "and flushes are more than 100 percent together; lower one of them");
    }
    let most = if live { 1 << 40 } else { DISK };
    let scratch = live.then(|| scratch(keys));
    Load {
        queue_depth: keys.or("queue_depth", 32, |value| value::number(value, 1, 256)),
        reads,
        flushes,
        sizes: (shortest, longest),
        seed: keys.or("seed", 1, |value| value::number(value, 0, u32::MAX)),
        region: keys.or("region", 32 << 20, |value| value::size(value, 1 << 20, most)),
        scratch,
    }
}

fn scratch(keys: &mut Keys<'_>) -> Scratch {
    let portal = "write where initiators find Braid, such as portal = \"127.0.0.1:3260\"";
    let portal = keys.required("portal", portal, |value| value::portal(&value::text(value)?));
    let lun =
        keys.required("lun", "write the LUN that is overwritten", |value| value::number(value, 0, 16_383));
    let word = "the load overwrites that LUN: write overwrite = true if nothing on it is needed any more";
    let overwrite = keys.required("overwrite", word, value::boolean);
    if overwrite == Some(false) {
        let place = keys.place();
        keys.problem(
            place,
            "overwrite",
            &format!("is false, and {word}; without [load] the real load is watched"),
        );
    }
    let lun = lun.and_then(|lun| u16::try_from(lun).ok()).unwrap_or_default();
    Scratch { portal: portal.map(|portal| portal.to_string()).unwrap_or_default(), lun }
}

fn objectives(keys: &mut Keys<'_>) -> Objectives {
    let time = |value: &Value| value::duration(value, MS(1), LONGEST);
    let count = |value: &Value| value::number(value, 0, u32::MAX).map(u64::from);
    Objectives {
        longest_stall: keys.optional("longest_stall", time),
        slowest_command: keys.optional("slowest_command", time),
        errors: keys.optional("errors", count),
        wrong_blocks: keys.optional("wrong_blocks", count),
        paths_back_within: keys.optional("paths_back_within", time),
        throughput_at_least: keys.optional("throughput_at_least", |value| value::size(value, 1, 1 << 50)),
    }
}

fn step(item: &Placed, problems: &mut Vec<Problem>) -> Option<Written> {
    let Value::Table(section) = &item.value else {
        let message = format!("is {}, must be a table; write [[step]] above its keys", item.value.kind());
        problems.push(Problem { place: item.place.clone(), key: "step".to_owned(), message });
        return None;
    };
    let mut keys = Keys::new(section, "step", problems);
    let at = keys.required("at", "write when, such as at = \"3s\"", |value| {
        value::duration(value, Duration::ZERO, LONGEST)
    });
    let remedy = format!("write what is done, one of {}", ACTIONS.join(", "));
    let words: Vec<_> = ACTIONS.iter().map(|word| (*word, *word)).collect();
    let word = keys.required("do", &remedy, |value| value::word(value, &words));
    let place = section.get("do").map_or_else(|| section.place.clone(), |placed| placed.place.clone());
    // What belongs to an unknown action is not known either.
    let action = action(&mut keys, word?);
    let paths = match action {
        Action::StopTarget => Some(vec![(TARGET.to_owned(), place.clone())]),
        Action::Reset
        | Action::Silent
        | Action::HalfOpen(_)
        | Action::Unplug
        | Action::Slow(_)
        | Action::Lossy(_)
        | Action::Flap { .. }
        | Action::Drain
        | Action::Fail
        | Action::Heal => which(&mut keys, section),
    };
    let lasts = if action == Action::Heal {
        None
    } else {
        keys.optional("for", |value| value::duration(value, MS(50), LONGEST))
    };
    keys.reject_unknown();
    Some(Written { place, at: at?, action, paths, lasts })
}

/// The paths of a step; none for all.
fn which(keys: &mut Keys<'_>, section: &Section) -> Option<Vec<(String, Place)>> {
    let path = |item: &Placed, problems: &mut Vec<Problem>| {
        checked(item, "step.paths", problems, value::text).map(|name| (name, item.place.clone()))
    };
    let named = keys.list("paths", path);
    if section.get("paths").is_none() {
        let remedy = "is missing; write paths = \"link1\", paths = [\"link1\", \"link2\"] or paths = \"all\"";
        keys.problem(section.place.clone(), "paths", remedy);
    }
    named.filter(|named| !named.iter().any(|(name, _)| name == ALL))
}

fn action(keys: &mut Keys<'_>, word: &str) -> Action {
    let time = |value: &Value| value::duration(value, FASTEST_FLAP, LONGEST);
    match word {
        "reset" => Action::Reset,
        "silent" => Action::Silent,
        "half-open" => {
            let words = [("to-target", Direction::ToTarget), ("to-initiator", Direction::ToInitiator)];
            let remedy = "write in which direction nothing passes: \"to-target\" or \"to-initiator\"";
            let silent = keys.required("silent", remedy, |value| value::word(value, &words));
            Action::HalfOpen(silent.unwrap_or(Direction::ToTarget))
        }
        "unplug" => Action::Unplug,
        "slow" => Action::Slow(slow(keys)),
        "lossy" => {
            let remedy = "write how many packets there are to one that is lost, such as one_in = 1000";
            Action::Lossy(
                keys.required("one_in", remedy, |value| value::number(value, 2, 1_000_000)).unwrap_or(2),
            )
        }
        "flap" => {
            let reset =
                keys.or("how", false, |value| value::word(value, &[("silent", false), ("reset", true)]));
            Action::Flap { reset, down: keys.or("down", MS(500), time), up: keys.or("up", MS(500), time) }
        }
        "stop-target" => Action::StopTarget,
        "drain" => Action::Drain,
        "fail" => Action::Fail,
        _ => Action::Heal,
    }
}

fn slow(keys: &mut Keys<'_>) -> Slow {
    let rate = keys.optional("rate", |value| value::size(value, 16 << 10, 10 << 30));
    let time = |value: &Value| value::duration(value, MS(1), MS(10_000));
    let (delay, jitter) = (keys.optional("delay", time), keys.optional("jitter", time));
    let place = keys.place();
    if !keys.has("rate") && !keys.has("delay") {
        let remedy = "and delay are missing; write one, such as rate = \"2MiB\" or delay = \"50ms\"";
        keys.problem(place.clone(), "rate", remedy);
    }
    if jitter > delay {
        keys.problem(
            place,
            "jitter",
            "is by how much the delay varies: write a delay that is as long at least",
        );
    }
    Slow { rate, delay, jitter }
}

/// What the steps do to which path, and until when.
fn lay_out(
    mut written: Vec<Written>,
    known: Option<&[String]>,
    duration: Duration,
    problems: &mut Vec<Problem>,
) -> (Vec<Step>, Vec<Span>) {
    written.sort_by_key(|step| step.at);
    let mut layout = Layout { known, duration, spans: Vec::new(), problems };
    let steps = written.into_iter().enumerate().map(|(number, step)| layout.add(number, step)).collect();
    (steps, layout.spans.into_iter().map(|(span, _)| span).collect())
}

/// Spans as they come together.
struct Layout<'a> {
    /// The paths there are; none if that is not known yet.
    known: Option<&'a [String]>,
    duration: Duration,
    /// Each with whether it lasts until it is healed.
    spans: Vec<(Span, bool)>,
    problems: &'a mut Vec<Problem>,
}

impl Layout<'_> {
    fn complain(&mut self, place: &Place, key: &str, message: String) {
        self.problems.push(Problem { place: place.clone(), key: format!("step.{key}"), message });
    }

    fn add(&mut self, number: usize, step: Written) -> Step {
        let Written { place, at, action, paths, lasts } = step;
        let all = paths.is_none();
        let paths = paths.unwrap_or_else(|| {
            let all = [ALL.to_owned()];
            self.known.unwrap_or(&all).iter().map(|name| (name.clone(), place.clone())).collect()
        });
        let end = lasts.map(|lasts| at + lasts);
        if at >= self.duration || end.is_some_and(|end| end > self.duration) {
            let (key, time) = end.map_or(("at", at), |end| ("for", end));
            let message = format!(
                "is at {}, and the drill ends at {}; do it earlier, or raise duration",
                format_duration(time),
                format_duration(self.duration)
            );
            self.complain(&place, key, message);
        }
        for (path, place) in &paths {
            match self.known {
                Some(known) if path != TARGET && !known.contains(path) => {
                    let known = known.join(", ");
                    let message = format!("\"{path}\" is no path of the lab; there are {known}");
                    self.complain(place, "paths", message);
                }
                _ if action == Action::Heal => self.heal(path, place, at, all),
                _ => self.begin(
                    Span {
                        step: number,
                        path: path.clone(),
                        action,
                        from: at,
                        to: end.unwrap_or(self.duration),
                    },
                    place,
                    end.is_none(),
                ),
            }
        }
        if action == Action::Heal && all {
            self.heal(TARGET, &place, at, all);
        }
        let line = match place {
            Place::File { line, .. } => line,
            Place::Flag(_) => 0,
        };
        Step { line, at, action, paths: paths.into_iter().map(|(path, _)| path).collect() }
    }

    fn on(&mut self, path: &str, at: Duration) -> Option<&mut (Span, bool)> {
        self.spans.iter_mut().find(|(span, _)| span.touches(path) && span.is_on(at))
    }

    fn begin(&mut self, span: Span, place: &Place, until_healed: bool) {
        if let Some((earlier, _)) = self.on(&span.path, span.from) {
            let (from, to) = (format_duration(earlier.from), format_duration(earlier.to));
            let (path, word) = (&span.path, earlier.action.word());
            let message = format!(
                "{path} is under \"{word}\" from {from} to {to} already; begin later, or heal it before"
            );
            return self.complain(place, "at", message);
        }
        self.spans.push((span, until_healed));
    }

    fn heal(&mut self, path: &str, place: &Place, at: Duration, all: bool) {
        let some = !self.spans.is_empty();
        match self.on(path, at) {
            Some((span, true)) => span.to = at,
            Some((span, false)) => {
                let message = format!(
                    "{path} is healed by itself at {}, because its step says `for`; leave out either",
                    format_duration(span.to)
                );
                self.complain(place, "do", message);
            }
            // All are healed: those to which nothing was done too.
            None if all && some => {}
            None => {
                let message = format!("there is nothing to heal on {path} at that time; leave it out");
                self.complain(place, "do", message);
            }
        }
    }
}

/// What cannot be done there, and what is not done on one word alone.
fn check_ground(scenario: &Scenario, section: &Section, problems: &mut Vec<Problem>) {
    let mut complain = |line: usize, key: &str, message: String| {
        problems.push(Problem { place: Place::File { line, column: 1 }, key: key.to_owned(), message });
    };
    let live = match &scenario.ground {
        Ground::Live(live) => live,
        Ground::Lab(plan) if plan.real => return,
        Ground::Lab(_) => {
            for (step, word) in
                scenario.steps.iter().filter_map(|step| Some((step, beyond_relays(step.action)?)))
            {
                let message = format!(
                    "\"{word}\" takes links of the kernel's, which the lab has not; write where = \"links\""
                );
                complain(step.line, "step.do", message);
            }
            return;
        }
    };
    for step in scenario.steps.iter().filter(|step| !step.action.is_an_order()) {
        let message = format!(
            "\"{}\" is for the lab: a running Braid cannot do that to its own network; write \"fail\" (at once) or \
             \"drain\" (in order), or where = \"lab\"",
            step.action.word()
        );
        complain(step.line, "step.do", message);
    }
    for step in scenario.steps.iter().filter(|step| step.paths.iter().any(|path| path == ALL)) {
        if !live.last_path && step.action != Action::Heal {
            let message = "takes out the last path of every session; name the paths, or write last_path = true in [live] and \
                           run it with --last-path";
            complain(step.line, "step.paths", message.to_owned());
        }
    }
    if scenario.load.is_none() {
        let Some(Placed { value: Value::Table(objectives), .. }) = section.get("objectives") else { return };
        for key in ["slowest_command", "wrong_blocks"] {
            if let Some(Placed { place: Place::File { line, .. }, .. }) = objectives.get(key) {
                let message = "is known of the drill's own load only; leave it out, or write [load] with a LUN to overwrite";
                complain(*line, &format!("objectives.{key}"), message.to_owned());
            }
        }
    }
}

/// What of an action relays cannot do.
fn beyond_relays(action: Action) -> Option<&'static str> {
    let varies = matches!(action, Action::Slow(Slow { jitter: Some(_), .. }));
    let word = if varies { "jitter" } else { action.word() };
    (varies || action == Action::Unplug).then_some(word)
}

/// What cannot be met whatever Braid does, and what nobody would see.
fn check_objectives(
    scenario: &Scenario,
    section: &Section,
    config: Option<&Config>,
    problems: &mut Vec<Problem>,
) {
    let table = match section.get("objectives") {
        Some(Placed { value: Value::Table(table), .. }) => table,
        _ => section,
    };
    let mut complain = |key: &str, message: String| {
        let place = table.get(key).map_or_else(|| table.place.clone(), |placed| placed.place.clone());
        problems.push(Problem { place, key: format!("objectives.{key}"), message });
    };
    let Objectives { longest_stall, slowest_command, errors, paths_back_within, .. } = scenario.objectives;
    let time = |time: Duration| format_duration(time).to_string();
    // Which paths a running Braid has is not known yet, but that all of them are meant is.
    let (paths, spans) = match &scenario.ground {
        Ground::Lab(plan) => ((0..plan.paths).map(Plan::link).collect(), scenario.spans.clone()),
        Ground::Live(_) => {
            let all = scenario.spans.iter().filter(|span| span.path == ALL).cloned();
            (vec![ALL.to_owned()], all.collect())
        }
    };
    if let Some((from, to)) = longest_outage(&spans, &paths) {
        let outage = format!("nothing can pass from {} to {}", time(from), time(to));
        for (key, wanted) in [("longest_stall", longest_stall), ("slowest_command", slowest_command)] {
            if wanted.is_some_and(|wanted| wanted <= to - from) {
                let message = format!("can never be met: {outage}; write more than {}", time(to - from));
                complain(key, message);
            }
        }
        let queue = config.and_then(|config| config.targets.first()).map(|target| target.queue_time);
        if errors == Some(0) && queue.is_some_and(|queue| queue <= to - from) {
            let message = format!(
                "can never be met: {outage}, and Braid gives up after {} (all_paths_down.queue in [lab.target])",
                time(queue.unwrap_or_default())
            );
            complain("errors", message);
        }
    }
    let last = scenario.spans.iter().map(|span| span.to).max();
    if let (Some(within), Some(last)) = (paths_back_within, last)
        && last + within > scenario.duration
    {
        let message = format!(
            "cannot be seen: the last path is healed at {}, and the drill ends at {}; write duration = \"{}\"",
            time(last),
            time(scenario.duration),
            time(last + within)
        );
        complain("paths_back_within", message);
    }
    if let (Some(least), Ground::Lab(plan)) = (scenario.objectives.throughput_at_least, &scenario.ground) {
        // Reads and writes go different ways.
        let most = plan.link.rate.unwrap_or(u64::MAX).saturating_mul(plan.paths as u64 * 2);
        if least > most {
            complain(
                "throughput_at_least",
                format!("can never be met: the links carry {most} bytes/s at most, both ways together"),
            );
        }
    }
}
