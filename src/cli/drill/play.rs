//! A drill as it runs: what is due is done, what happens is recorded, and everything is undone whatever comes.

use super::flags::DrillRun;
use super::load::{Outcome, Working};
use super::record::{Record, state};
use super::report::Event;
use super::scenario::{Action, Ground, Scenario, Span, longest_outage};
use super::scene::Scene;
use crate::admin::view;
use crate::cli::exit::Failure;
use crate::cli::screen::{Screen, Share, live};
use anyhow::{Context, anyhow};
use std::collections::VecDeque;
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{Instant, MissedTickBehavior};

/// Time between two looks at how the target stands.
const LOOK: Duration = Duration::from_millis(100);

/// Given to paths to come up before the drill begins: those of the lab have only just begun to, those of a running Braid had
/// their time.
const PATIENCE_IN_THE_LAB: Duration = Duration::from_secs(30);
const PATIENCE_LIVE: Duration = Duration::from_secs(5);

/// Events that are kept.
const MOST_EVENTS: usize = 1000;

/// How a drill ended.
pub(super) enum End {
    /// As it should.
    Finished,
    /// It was told to.
    Interrupted,
    /// Something went wrong with the drill itself.
    Failed(String),
}

/// What became of a span.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Deed {
    pub(super) began: Option<Duration>,
    pub(super) ended: Option<Duration>,
    /// When its path carried again.
    pub(super) back: Option<Duration>,
    /// Commands that the path had carried when it ended.
    carried: u64,
}

/// Everything that was seen.
pub(super) struct Seen {
    pub(super) end: End,
    pub(super) elapsed: Duration,
    pub(super) began: std::time::SystemTime,
    pub(super) deeds: Vec<Deed>,
    pub(super) load: Option<Outcome>,
    pub(super) record: Record,
    /// Since then the oldest command has waited, when the load was stopped.
    pub(super) oldest: Option<std::time::Instant>,
    pub(super) over: std::time::Instant,
    pub(super) events: Vec<Event>,
    /// How the target stood at the beginning and at the end.
    pub(super) stand: [view::Target; 2],
    pub(super) braid: String,
}

/// What is due when.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Move {
    at: Duration,
    span: usize,
    what: What,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum What {
    /// Before anything that begins at the same time.
    End,
    Begin,
    /// A link that flaps is down again, or up for a while.
    Flap {
        down: bool,
    },
}

/// What ends a drill early.
struct Interrupts([Signal; 3]);

impl Interrupts {
    fn new() -> anyhow::Result<Self> {
        let listen = |kind| signal(kind).context("cannot listen for signals");
        Ok(Self([
            listen(SignalKind::interrupt())?,
            listen(SignalKind::terminate())?,
            listen(SignalKind::hangup())?,
        ]))
    }

    async fn wait(&mut self) {
        let [interrupt, terminate, hangup] = &mut self.0;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
    }
}

/// Runs a scenario.
///
/// # Errors
/// It could not begin.
pub(super) async fn play(scenario: &mut Scenario, asked: &DrillRun) -> Result<(Seen, String), Failure> {
    let mut interrupts = Interrupts::new()?;
    let scene = Scene::set_up(scenario, asked).await?;
    let scenario = &*scenario;
    let load = begin_load(scenario, &scene, &mut interrupts).await?;
    let (braid, first) = settle(scenario, &scene, &mut interrupts).await?;
    let last = scene.braid().news(u64::MAX).await?.last;
    let start = Instant::now();
    let mut record = Record::new(start.into_std(), scenario.duration);
    record.set_resolution(if load.is_some() { Duration::ZERO } else { LOOK });
    let mut play = Play {
        scenario,
        scene: &scene,
        screen: Screen::lasting(scenario.duration),
        load,
        start,
        moves: moves(&scenario.spans),
        deeds: vec![Deed::default(); scenario.spans.len()],
        record,
        stand: first.clone(),
        events: Vec::new(),
        last,
    };
    #[expect(clippy::disallowed_methods, reason = "nothing depends on it: it is shown")]
    let began = std::time::SystemTime::now();
    let mut end = play.run(&mut interrupts).await;
    if let Err(complaint) = play.undo().await {
        end = End::Failed(complaint);
    }
    // What happened since the last look; if Braid does not answer any more that has been told.
    if let Ok((at, target, news)) = look(&scene, Instant::now(), play.last).await {
        play.see(at, target, news);
    }
    let elapsed = start.elapsed();
    let Play { screen, load, deeds, mut record, stand, events, .. } = play;
    screen.close();
    if let Some(load) = &load {
        record.completed(&load.progress().take_completions());
    }
    let oldest = load.as_ref().and_then(|load| load.progress().oldest());
    let over = Instant::now().into_std();
    let verify = matches!(end, End::Finished);
    let load = match load {
        Some(load) => Some(load.finish(verify).await),
        None => None,
    };
    let target = scene.target().to_owned();
    scene.tear_down().await;
    let stand = [first, stand];
    Ok((Seen { end, elapsed, began, deeds, load, record, oldest, over, events, stand, braid }, target))
}

/// Begins the drill's own load, if it has one.
async fn begin_load(
    scenario: &Scenario,
    scene: &Scene<'_>,
    interrupts: &mut Interrupts,
) -> Result<Option<Working>, Failure> {
    let Some(load) = &scenario.load else { return Ok(None) };
    let paths: Vec<_> = scenario.spans.iter().map(|span| span.path.clone()).collect();
    let stuck = longest_outage(&scenario.spans, &paths).map_or(Duration::ZERO, |(from, to)| to - from);
    let to = scene.initiator(load);
    tokio::select! {
        begun = Working::begin(&to, load, stuck) => Ok(Some(begun?)),
        () = interrupts.wait() => Err(interrupted()),
    }
}

/// Waits until every path works that is not taken out: what is cut while it is not there yet proves nothing. Gives the version of
/// the Braid, and how the target stands.
async fn settle(
    scenario: &Scenario,
    scene: &Scene<'_>,
    interrupts: &mut Interrupts,
) -> Result<(String, view::Target), Failure> {
    let live = matches!(scenario.ground, Ground::Live(_));
    let end = Instant::now() + if live { PATIENCE_LIVE } else { PATIENCE_IN_THE_LAB };
    loop {
        let status = scene.braid().status().await?;
        let braid = status.version.clone();
        let target = scene.find(status)?;
        let works =
            |path: &view::ConfiguredPath| path.out || ["up", "none"].contains(&state(&target, &path.name));
        if target.paths.iter().all(works) {
            return Ok((braid, target));
        }
        if Instant::now() >= end {
            let touched =
                |path: &&view::ConfiguredPath| scenario.spans.iter().any(|span| span.path == path.name);
            let missing = target.paths.iter().filter(|path| !works(path)).find(touched);
            let Some(missing) = missing else { return Ok((braid, target)) };
            let (name, state) = (&missing.name, state(&target, &missing.name));
            let complaint =
                format!("path {name} is {state} already: a drill on it would prove nothing; mend it first");
            return Err(Failure::Unavailable(complaint));
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK) => {}
            () = interrupts.wait() => return Err(interrupted()),
        }
    }
}

/// What is said of a failure within a sentence.
fn plain(failure: &Failure) -> String {
    failure.to_string().trim_start_matches("braid: ").to_owned()
}

fn interrupted() -> Failure {
    Failure::Other(anyhow!("interrupted before the drill began; nothing was done"))
}

struct Play<'s, 'r> {
    scenario: &'s Scenario,
    scene: &'s Scene<'r>,
    screen: Screen,
    load: Option<Working>,
    start: Instant,
    moves: VecDeque<Move>,
    deeds: Vec<Deed>,
    record: Record,
    /// How the target stood last.
    stand: view::Target,
    events: Vec<Event>,
    /// Number of the last event.
    last: u64,
}

impl Play<'_, '_> {
    /// Until the end, whichever it is.
    async fn run(&mut self, interrupts: &mut Interrupts) -> End {
        let scene = self.scene;
        let end = self.start + self.scenario.duration;
        let mut ticks = tokio::time::interval_at(self.start + self.screen.tick(), self.screen.tick());
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut shown = (self.start, shares(&self.stand));
        let mut looking = Box::pin(look(scene, self.start, self.last));
        loop {
            let due = self.moves.front().map_or(end, |due| (self.start + due.at).min(end));
            tokio::select! {
                biased;
                () = interrupts.wait() => return End::Interrupted,
                () = tokio::time::sleep_until(due) => {
                    if due >= end {
                        return End::Finished;
                    }
                    let Some(due) = self.moves.pop_front() else { return End::Finished };
                    if let Err(failure) = self.act(due).await {
                        return End::Failed(failure);
                    }
                }
                looked = &mut looking => {
                    match looked {
                        Ok((at, target, news)) => self.see(at, target, news),
                        Err(failure) => return End::Failed(plain(&failure)),
                    }
                    if self.load.as_ref().is_some_and(Working::is_over) {
                        return End::Failed("the load ended before its time".to_owned());
                    }
                    looking = Box::pin(look(scene, Instant::now() + LOOK, self.last));
                }
                _ = ticks.tick() => {
                    let now = (Instant::now(), shares(&self.stand));
                    self.screen.advance(now.0 - self.start);
                    self.screen.show(live(&self.doing(), &shown.1, &now.1, now.0 - shown.0));
                    shown = now;
                }
            }
        }
    }

    /// Does what is due; gives what to complain of.
    async fn act(&mut self, due: Move) -> Result<(), String> {
        let Some(span) = self.scenario.spans.get(due.span) else { return Ok(()) };
        let done = match due.what {
            What::Begin | What::Flap { down: true } => self.scene.act(span, true).await,
            What::Flap { down: false } => self.scene.act(span, false).await,
            What::End => self.scene.undo(span).await,
        };
        let line = self.scenario.steps.get(span.step).map_or(0, |step| step.line);
        done.map_err(|failure| {
            let failure = plain(&failure);
            format!("{}:{line}: {} {}: {failure}", self.scenario.file, span.action.word(), span.path)
        })?;
        let at = self.start.elapsed();
        let carried = carried(&self.stand, &span.path);
        let Some(deed) = self.deeds.get_mut(due.span) else { return Ok(()) };
        let word = match due.what {
            What::Begin => {
                deed.began = Some(at);
                span.action.describe()
            }
            What::End => {
                (deed.ended, deed.carried) = (Some(at), carried);
                format!("{} healed", span.action.word())
            }
            What::Flap { .. } => return Ok(()),
        };
        self.screen.note(&format!("{:7.1} s  {}: {word}", at.as_secs_f64(), span.path));
        Ok(())
    }

    /// Takes note of how everything stands.
    fn see(&mut self, at: Instant, target: view::Target, news: view::News) {
        let at = at.into_std();
        let now = self.record.since(at);
        if let Some(load) = &self.load {
            self.record.completed(&load.progress().take_completions());
        }
        self.record.seen(at, &target, self.load.is_none());
        let idle = commands(&target) == commands(&self.stand);
        for (deed, span) in self.deeds.iter_mut().zip(&self.scenario.spans) {
            let Some(ended) = deed.ended.filter(|ended| deed.back.is_none() && *ended < now) else {
                continue;
            };
            if is_back(&target, span, deed.carried, idle && self.load.is_none()) {
                deed.back = Some(now.saturating_sub(ended));
            }
        }
        self.stand = target;
        self.last = news.last;
        let ours =
            |event: &view::Event| event.target.as_ref().is_none_or(|target| target == self.scene.target());
        let room = MOST_EVENTS.saturating_sub(self.events.len());
        let events = news.events.into_iter().filter(ours).take(room);
        self.events.extend(events.map(|event| Event { at_seconds: now.as_secs_f64(), event }));
    }

    /// What is done at the moment.
    fn doing(&self) -> String {
        let on = |deed: &Deed| deed.began.is_some() && deed.ended.is_none();
        let spans = self.deeds.iter().zip(&self.scenario.spans).filter(|(deed, _)| on(deed));
        let words: Vec<_> = spans.map(|(_, span)| format!("{} {}", span.path, span.action.word())).collect();
        if words.is_empty() { "all well".to_owned() } else { words.join(", ") }
    }

    /// Undoes whatever is not undone yet; gives what to complain of.
    async fn undo(&mut self) -> Result<(), String> {
        let mut complaints = Vec::new();
        for (deed, span) in self.deeds.iter_mut().zip(&self.scenario.spans) {
            if deed.began.is_none() || deed.ended.is_some() {
                continue;
            }
            match self.scene.undo(span).await {
                Ok(()) => deed.ended = Some(self.start.elapsed()),
                Err(failure) => {
                    complaints.push(format!("{}; {}", plain(&failure), self.scene.consolation(span)));
                }
            }
        }
        if complaints.is_empty() { Ok(()) } else { Err(complaints.join("; ")) }
    }
}

/// Looks once at how everything stands, not before this time.
async fn look(
    scene: &Scene<'_>,
    at: Instant,
    last: u64,
) -> Result<(Instant, view::Target, view::News), Failure> {
    tokio::time::sleep_until(at).await;
    let target = scene.find(scene.braid().status().await?)?;
    let at = Instant::now();
    let news = scene.braid().news(last).await?;
    Ok((at, target, news))
}

/// Whether a path is used again: it is up for everybody, and has carried something unless nobody does anything.
fn is_back(target: &view::Target, span: &Span, before: u64, idle: bool) -> bool {
    let back = |name: &str, before: u64| {
        ["up", "none"].contains(&state(target, name)) && (idle || carried(target, name) > before)
    };
    if span.action == Action::StopTarget { commands(target) > before } else { back(&span.path, before) }
}

fn commands(target: &view::Target) -> u64 {
    target.paths.iter().map(|path| carried(target, &path.name)).sum()
}

/// Commands that a path has carried; for the target those of all paths.
fn carried(target: &view::Target, path: &str) -> u64 {
    let own = |own: &&view::ConfiguredPath| own.name == path || path == super::scenario::TARGET;
    target.paths.iter().filter(own).filter_map(|own| own.totals.as_ref()).map(|totals| totals.commands).sum()
}

fn shares(target: &view::Target) -> Vec<Share> {
    let share = |path: &view::ConfiguredPath| Share {
        path: path.name.clone(),
        bytes: path.totals.as_ref().map_or(0, |totals| totals.read_bytes + totals.written_bytes),
    };
    target.paths.iter().map(share).collect()
}

/// What is due, in the order of time.
fn moves(spans: &[Span]) -> VecDeque<Move> {
    let mut moves = Vec::new();
    for (number, span) in spans.iter().enumerate() {
        let mut add = |at, what| moves.push(Move { at, span: number, what });
        add(span.from, What::Begin);
        if let Action::Flap { down, up, .. } = span.action {
            let (mut at, mut is_down) = (span.from + down, true);
            while at < span.to {
                is_down = !is_down;
                add(at, What::Flap { down: is_down });
                at += if is_down { down } else { up };
            }
        }
        add(span.to, What::End);
    }
    moves.sort_by_key(|due| (due.at, due.what, due.span));
    moves.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(action: Action, from: u64, to: u64) -> Span {
        let [from, to] = [from, to].map(Duration::from_millis);
        Span { step: 0, path: "a".to_owned(), action, from, to }
    }

    fn due(spans: &[Span]) -> Vec<(u64, usize, What)> {
        let millis = |due: Move| u64::try_from(due.at.as_millis()).unwrap();
        moves(spans).into_iter().map(|due| (millis(due), due.span, due.what)).collect()
    }

    #[test]
    fn what_ends_does_so_before_what_begins_at_the_same_time() {
        let spans = [span(Action::Reset, 500, 900), span(Action::Silent, 0, 500)];
        let begin_and_end =
            [(0, 1, What::Begin), (500, 1, What::End), (500, 0, What::Begin), (900, 0, What::End)];
        assert_eq!(due(&spans), begin_and_end);
    }

    #[test]
    fn what_flaps_is_down_and_up_in_turn_until_its_end() {
        let [down, up] = [200, 100].map(Duration::from_millis);
        let flap = What::Flap { down: false };
        let expected =
            [(0, What::Begin), (200, flap), (300, What::Flap { down: true }), (500, flap), (550, What::End)];
        let found = due(&[span(Action::Flap { reset: false, down, up }, 0, 550)]);
        assert_eq!(found, expected.map(|(at, what)| (at, 0, what)));
    }
}
