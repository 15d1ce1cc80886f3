//! What portals have told of their targets: asked when somebody wants to know, and remembered.
//!
//! # Contract
//! `Told::by` gives what some portals tell an initiator, each asked in a discovery session of its own under the initiator's
//! name, because a target may show itself to some names only. An answer younger than `FRESH` is given as it is. Else the
//! portal is asked in the background, and the caller waits for it: for an older answer to be replaced, or for the others once
//! what is known is enough for it, no longer than `GRACE`; for a first answer `PATIENCE`. A portal that does
//! not answer keeps its old answer.
//!
//! # Bounds
//! One question per portal and initiator is under way at a time, `MAX_ASKING` in all, each with short timeouts.
//! `MAX_SLOTS` answers of `MAX_BYTES` together are remembered; those that were not used for the longest time go first.

use super::clock;
use super::dial::{Route, Timing};
use super::discover::{DiscoverError, discover};
use super::oddities::Oddities;
use super::probe::throwaway_isid;
use crate::config::{Local, PathConfig};
use crate::login::discovery::TargetRecord;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

/// Age from which on an answer is asked for again when it is used.
const FRESH: Duration = Duration::from_secs(30);

/// Age from which on an answer is asked for again if it lacks what is looked for.
const SCARCE: Duration = Duration::from_secs(2);

/// How long to wait for what is not needed: a newer answer, or one more.
const GRACE: Duration = Duration::from_millis(300);

/// How long asking may take: the initiator waits for it.
const ASKING: Timing =
    Timing { connect: Duration::from_secs(2), answer: Duration::from_secs(3), login: Duration::from_secs(3) };

/// How long to wait for a first answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Questions under way at most.
const MAX_ASKING: usize = 64;

/// Answers remembered at most.
const MAX_SLOTS: usize = 1024;

/// Size of the answers remembered at most, in bytes.
const MAX_BYTES: usize = 32 << 20;

/// An answer.
pub type Answer = Arc<[TargetRecord]>;

/// What portals have told.
#[derive(Debug)]
pub(super) struct Told {
    memory: Arc<Memory>,
    questions: Mutex<JoinSet<()>>,
    room: Arc<Semaphore>,
    oddities: Arc<Oddities>,
}

#[derive(Debug, Default)]
struct Memory {
    slots: Mutex<BTreeMap<Question, Slot>>,
    /// Counts changes.
    changes: watch::Sender<u64>,
}

/// Who asks which portal, and how it is reached.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Question {
    initiator: String,
    way: Way,
}

/// The portal, the local end, and the name that Braid proves itself with.
type Way = (SocketAddr, Local, Option<String>);

#[derive(Debug)]
struct Slot {
    answer: Option<Answer>,
    /// Size of the answer in bytes.
    size: usize,
    /// When the answer came.
    answered: Option<Instant>,
    /// When the portal was asked last.
    asked: Instant,
    asking: bool,
    /// It did not answer when it was asked last.
    missed: bool,
    used: Instant,
}

impl Slot {
    fn new(now: Instant) -> Self {
        Self { answer: None, size: 0, answered: None, asked: now, asking: false, missed: false, used: now }
    }
}

impl Told {
    pub(super) fn new(oddities: Arc<Oddities>) -> Self {
        Self {
            memory: Arc::default(),
            questions: Mutex::default(),
            room: Arc::new(Semaphore::new(MAX_ASKING)),
            oddities,
        }
    }

    /// What the portals of these paths tell an initiator, each if anything is known of it. `enough` says whether what is known
    /// is what is looked for.
    pub(super) async fn by<'p>(
        &self,
        initiator: &str,
        paths: impl IntoIterator<Item = &'p PathConfig>,
        enough: impl Fn(&[Option<Answer>]) -> bool,
    ) -> Vec<Option<Answer>> {
        let asked = questions(initiator, paths);
        let mut changes = self.memory.changes.subscribe();
        let begin = clock::now();
        let age = if enough(&self.memory.look(&asked, begin).0) { FRESH } else { SCARCE };
        asked.iter().for_each(|(question, route)| self.ask(question, route, age));
        loop {
            changes.mark_unchanged();
            let now = clock::now();
            let (known, waiting) = self.memory.look(&asked, now);
            let limit = if enough(&known) { GRACE } else { PATIENCE };
            let left = limit.saturating_sub(now.saturating_duration_since(begin));
            if !waiting || left.is_zero() {
                return known;
            }
            // Whether something changed or it is late: it is looked at again.
            tokio::time::timeout(left, changes.changed()).await.ok();
        }
    }

    /// Begins to ask the portals of these paths, for somebody who will want to know soon.
    pub(super) fn prompt(&self, initiator: &str, paths: &[PathConfig]) {
        for (question, route) in questions(initiator, paths) {
            self.ask(&question, &route, FRESH);
        }
    }

    /// What the portal of this path has told this initiator, without asking it.
    pub(super) fn remembered(&self, initiator: &str, path: &PathConfig) -> Option<Answer> {
        self.memory.look(&questions(initiator, [path]), clock::now()).0.pop()?
    }

    /// Ends all questions.
    pub(super) async fn stop(&self) {
        let mut questions = std::mem::take(&mut *lock(&self.questions));
        questions.shutdown().await;
    }

    /// Begins to ask if the answer is older than this and nobody asks already.
    fn ask(&self, question: &Question, route: &Route, age: Duration) {
        if !self.memory.begin(question, age) {
            return;
        }
        let (memory, room) = (Arc::clone(&self.memory), Arc::clone(&self.room));
        let (question, route) = (question.clone(), route.clone().noted_by(&self.oddities));
        let mut questions = lock(&self.questions);
        while questions.try_join_next().is_some() {}
        questions.spawn(async move {
            let answer = match room.acquire().await {
                Ok(_permit) => discover(&route, &question.initiator, throwaway_isid(), &ASKING).await,
                Err(_) => return,
            };
            memory.end(&question, answer, &route.portal);
        });
    }
}

fn questions<'p>(initiator: &str, paths: impl IntoIterator<Item = &'p PathConfig>) -> Vec<(Question, Route)> {
    let proof = |path: &PathConfig| path.credentials.as_ref().map(|credentials| credentials.own.name.clone());
    let question = |path: &PathConfig| Question {
        initiator: initiator.to_owned(),
        way: (path.portal, path.local.clone(), proof(path)),
    };
    paths.into_iter().map(|path| (question(path), Route::from(path))).collect()
}

impl Memory {
    /// What is known, and whether more is on its way.
    fn look(&self, asked: &[(Question, Route)], now: Instant) -> (Vec<Option<Answer>>, bool) {
        let mut slots = lock(&self.slots);
        let mut waiting = false;
        let mut known = |(question, _): &(Question, Route)| {
            let slot = slots.get_mut(question)?;
            slot.used = now;
            waiting |= slot.asking;
            slot.answer.clone()
        };
        (asked.iter().map(&mut known).collect(), waiting)
    }

    /// Whether to ask now.
    fn begin(&self, question: &Question, age: Duration) -> bool {
        let now = clock::now();
        let mut slots = lock(&self.slots);
        if let Some(slot) = slots.get_mut(question) {
            let due = !slot.asking && now.saturating_duration_since(slot.asked) >= age;
            slot.asking |= due;
            return due;
        }
        while slots.len() >= MAX_SLOTS {
            if !forget_oldest(&mut slots) {
                return false;
            }
        }
        slots.insert(question.clone(), Slot { asking: true, ..Slot::new(now) });
        true
    }

    /// Notes an answer, or that there was none.
    fn end(&self, question: &Question, answer: Result<Vec<TargetRecord>, DiscoverError>, portal: &str) {
        let now = clock::now();
        let mut slots = lock(&self.slots);
        if let Some(slot) = slots.get_mut(question) {
            (slot.asking, slot.asked) = (false, now);
            match answer {
                Ok(records) => slot.learn(records, now, portal),
                Err(error) => slot.miss(&error, now, portal),
            }
        }
        while slots.values().map(|slot| slot.size).sum::<usize>() > MAX_BYTES && forget_oldest(&mut slots) {}
        drop(slots);
        self.changes.send_modify(|changes| *changes = changes.wrapping_add(1));
    }
}

impl Slot {
    fn learn(&mut self, records: Vec<TargetRecord>, now: Instant, portal: &str) {
        if self.answer.as_deref() != Some(records.as_slice()) {
            tracing::info!(portal, targets = records.len(), "the portal tells of targets");
        }
        self.missed = false;
        self.size = records.iter().map(size).sum();
        self.answer = Some(records.into());
        self.answered = Some(now);
    }

    fn miss(&mut self, error: &DiscoverError, now: Instant, portal: &str) {
        if std::mem::replace(&mut self.missed, true) {
            return tracing::debug!(portal, %error, "the portal still tells nothing");
        }
        match self.answered {
            None => tracing::warn!(portal, %error, "the portal tells nothing"),
            Some(at) => tracing::warn!(
                portal,
                %error,
                age = ?now.saturating_duration_since(at),
                "the portal tells nothing: what it told before holds"
            ),
        }
    }
}

/// What a target costs to remember, roughly.
fn size(record: &TargetRecord) -> usize {
    let portals = record.portals.iter().map(|(address, _)| address.len() + size_of::<(String, u16)>());
    record.name.len() + size_of::<TargetRecord>() + portals.sum::<usize>()
}

/// Forgets the answer that was not used for the longest time, if one can be.
fn forget_oldest(slots: &mut BTreeMap<Question, Slot>) -> bool {
    let idle = slots.iter().filter(|(_, slot)| !slot.asking);
    let oldest = idle.min_by_key(|(_, slot)| slot.used).map(|(question, _)| question.clone());
    oldest.is_some_and(|question| slots.remove(&question).is_some())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn question(initiator: &str) -> Question {
        let portal = "10.0.0.1:3260".parse().unwrap();
        Question { initiator: initiator.to_owned(), way: (portal, Local::Any, None) }
    }

    fn record(name: &str) -> TargetRecord {
        TargetRecord { name: name.to_owned(), portals: Vec::new() }
    }

    fn known(memory: &Memory, initiator: &str) -> Option<Answer> {
        let asked = [(question(initiator), Route::to("10.0.0.1:3260"))];
        memory.look(&asked, clock::now()).0.pop().unwrap()
    }

    #[test]
    fn one_question_at_a_time_and_none_about_what_is_fresh() {
        let memory = Memory::default();
        let me = question("iqn.me");
        assert!(memory.begin(&me, FRESH));
        assert!(!memory.begin(&me, Duration::ZERO), "it is asked already");
        memory.end(&me, Ok(vec![record("iqn.a")]), "p");
        assert!(!memory.begin(&me, FRESH));
        assert!(memory.begin(&me, Duration::ZERO), "it is old enough");
    }

    #[test]
    fn failure_keeps_the_old_answer_and_a_new_one_takes_its_place() {
        let memory = Memory::default();
        let me = question("iqn.me");
        for (answer, holds) in [
            (Err(DiscoverError::Slow), None),
            (Ok(vec![record("iqn.a")]), Some("iqn.a")),
            (Err(DiscoverError::Slow), Some("iqn.a")),
            (Ok(vec![record("iqn.b")]), Some("iqn.b")),
        ] {
            memory.begin(&me, Duration::ZERO);
            memory.end(&me, answer, "p");
            assert_eq!(known(&memory, "iqn.me").as_deref().map(|all| all[0].name.as_str()), holds);
        }
        assert_eq!(known(&memory, "iqn.other"), None, "what others are told is not for everybody");
    }

    #[test]
    fn no_more_is_remembered_than_there_is_room_for() {
        let memory = Memory::default();
        for n in 0..MAX_SLOTS + 10 {
            let who = question(&format!("iqn.{n}"));
            assert!(memory.begin(&who, FRESH));
            memory.end(&who, Ok(vec![record("iqn.a")]), "p");
        }
        assert_eq!(lock(&memory.slots).len(), MAX_SLOTS);
        assert_eq!(known(&memory, "iqn.0"), None, "the oldest goes first");
        let name = "x".repeat(MAX_BYTES / 4);
        for n in 0..5 {
            let who = question(&format!("iqn.{n}"));
            memory.begin(&who, FRESH);
            memory.end(&who, Ok(vec![record(&name)]), "p");
        }
        assert!(lock(&memory.slots).values().map(|slot| slot.size).sum::<usize>() <= MAX_BYTES);
        assert!(known(&memory, "iqn.4").is_some(), "the newest stays");
    }

    #[test]
    fn questions_under_way_are_not_forgotten() {
        let memory = Memory::default();
        for n in 0..MAX_SLOTS {
            assert!(memory.begin(&question(&format!("iqn.{n}")), FRESH));
        }
        assert!(!memory.begin(&question("iqn.more"), FRESH), "there is no room");
    }
}
