//! `mode = auto`: MC/S where a probe proved it sound, several sessions everywhere else.
//!
//! A target is probed when Braid starts (one that is discovered, at its first login), under Braid's own name, and again at a login if that came to nothing, then under
//! the initiator's name, because a target may admit nobody else. One probe of a target runs at a time. A login waits
//! for it some seconds at most and then goes on with several sessions; what the probe finds out later serves the logins
//! after that.
//!
//! Where paths lead to targets of different names, each of these that several paths lead to is probed by itself, and all of
//! them must be sound: home may move from one to another.

use super::clock;
use super::dial::{DialError, Route, Timing};
use super::oddities::Oddities;
use super::probe::{Patience, ProbePlan, settle, throwaway_isid};
use super::verdict::{Second, StateFile, Verdict};
use crate::config::{Chap, Config, Mode, PathConfig, Target};
use crate::session::Fanout;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// What a probe has come to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Probed {
    /// There was none, or it found nothing out.
    Not,
    /// It is under way.
    UnderWay,
    /// This.
    Settled(Arc<Verdict>),
}

/// How long a login waits for a probe: long enough for one of a target that takes a second for each login (istgt), so
/// that the first session behind it is like all others, and half of what initiators allow for a login.
const PATIENCE: Duration = Duration::from_secs(8);

/// How long to rest after a probe without a result.
const REST: Duration = Duration::from_secs(60);

/// Targets of which something is known, at most: those that are discovered may come and go. Others get several sessions.
const MAX_TARGETS: usize = 4096;

/// The name under which targets are probed when no initiator is there yet.
const PROBE_NAME: &str = "iqn.2026-01.org.braid:probe";

/// What is known of the targets whose mode is `auto`, by their names upstream.
#[derive(Debug)]
pub(super) struct Verdicts {
    state: Arc<Mutex<StateFile>>,
    oddities: Arc<Oddities>,
    targets: Mutex<BTreeMap<String, watch::Sender<Knowledge>>>,
    probes: Mutex<JoinSet<()>>,
}

#[derive(Clone, Debug)]
enum Knowledge {
    /// Nothing; not to be asked before this time.
    None(Option<Instant>),
    /// A probe is under way.
    Asking,
    /// The verdict.
    Settled(Arc<Verdict>),
}

impl Verdicts {
    /// Nothing known but what stands in the state file.
    pub(super) fn new(state: Arc<Mutex<StateFile>>, oddities: Arc<Oddities>) -> Self {
        Self { state, oddities, targets: Mutex::default(), probes: Mutex::default() }
    }

    /// Begins to probe all targets.
    pub(super) fn ask_all(&self, config: &Config) {
        for target in config.targets.iter().filter(|target| target.discover.is_none()) {
            open(target).into_iter().for_each(|name| self.ask(target, name, PROBE_NAME));
        }
    }

    /// Ends all probes.
    pub(super) async fn stop(&self) {
        let mut probes = std::mem::take(&mut *lock(&self.probes));
        probes.shutdown().await;
    }

    /// How to fan out a session of this initiator, and why.
    pub(super) async fn fanout(&self, target: &Target, initiator: &str) -> (Fanout, &'static str) {
        match target.mode {
            Mode::Mcs => return (Fanout::Mcs, "configured"),
            Mode::Sessions => return (Fanout::Sessions, "configured"),
            Mode::Auto => {}
        }
        let names = open(target);
        if names.is_empty() {
            return (Fanout::Sessions, "there is one path that Braid can log in over by itself");
        }
        names.iter().for_each(|name| self.ask(target, name, initiator));
        let objection = async {
            for name in names {
                if let Some(why) = self.objection(name).await {
                    return Some(why);
                }
            }
            None
        };
        match tokio::time::timeout(PATIENCE, objection).await {
            Err(_) => (Fanout::Sessions, "the probe is still under way"),
            Ok(Some(why)) => (Fanout::Sessions, why),
            Ok(None) => (Fanout::Mcs, "proved by the probe"),
        }
    }

    /// What speaks against several connections in a session with a target, once its probe is over.
    async fn objection(&self, name: &str) -> Option<&'static str> {
        let Some(slot) = self.slot(name) else { return Some("too many targets were probed") };
        let mut knowledge = slot.subscribe();
        let known = knowledge.wait_for(|known| !matches!(known, Knowledge::Asking)).await;
        match known.map_or(Knowledge::None(None), |known| known.clone()) {
            Knowledge::Settled(verdict) => verdict.objection(),
            Knowledge::None(_) | Knowledge::Asking => Some("the target could not be probed"),
        }
    }

    /// What is known of a name upstream, and where that is kept. Nothing is asked for.
    pub(super) fn known(&self, name: &str) -> Probed {
        let slot = lock(&self.targets).get(name).cloned();
        let knowledge = slot.map_or(Knowledge::None(None), |slot| slot.borrow().clone());
        match knowledge {
            Knowledge::None(_) => Probed::Not,
            Knowledge::Asking => Probed::UnderWay,
            Knowledge::Settled(verdict) => Probed::Settled(verdict),
        }
    }

    /// The file with what is remembered.
    pub(super) fn state(&self) -> MutexGuard<'_, StateFile> {
        lock(&self.state)
    }

    /// The portal group tag that a probe met.
    pub(super) fn tpgt(&self, target: &str) -> Option<u16> {
        let slot = lock(&self.targets).get(target).cloned()?;
        match &*slot.borrow() {
            Knowledge::Settled(verdict) => verdict.product.tpgt,
            Knowledge::None(_) | Knowledge::Asking => None,
        }
    }

    /// What is known of a target; none if as many are known as may be.
    fn slot(&self, name: &str) -> Option<watch::Sender<Knowledge>> {
        let mut targets = lock(&self.targets);
        if targets.len() < MAX_TARGETS || targets.contains_key(name) {
            let new = || watch::Sender::new(Knowledge::None(None));
            return Some(targets.entry(name.to_owned()).or_insert_with(new).clone());
        }
        None
    }

    /// Begins a probe if there is something to find out and none is under way.
    fn ask(&self, target: &Target, name: &str, initiator: &str) {
        let Some(slot) = self.slot(name) else { return };
        let now = clock::now();
        let begin = slot.send_if_modified(|known| {
            let due = matches!(known, Knowledge::None(rest) if rest.is_none_or(|until| until <= now));
            if due {
                *known = Knowledge::Asking;
            }
            due
        });
        if begin {
            let state = Arc::clone(&self.state);
            let plans = plans(target, name, initiator, &self.oddities);
            let mut probes = lock(&self.probes);
            while probes.try_join_next().is_some() {}
            probes.spawn(async move {
                slot.send_replace(find_out(&plans, &state).await);
            });
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The names upstream with which there is something to choose: several paths lead to each. A target whose authentication
/// is relayed lets Braid in over those paths only for which it has credentials of its own.
pub(super) fn open(target: &Target) -> BTreeSet<&str> {
    let auto = target.mode == Mode::Auto;
    let own = |path: &&PathConfig| target.chap != Chap::Relay || path.credentials.is_some();
    let ways = |name: &str| target.paths.iter().filter(own).filter(|path| path.target == name).count();
    target.paths.iter().map(|path| path.target.as_str()).filter(|name| auto && ways(name) > 1).collect()
}

/// The probe of a target over each of its paths and the one after it, so that a dead path does not keep the others from
/// being probed.
fn plans(target: &Target, name: &str, initiator: &str, oddities: &Arc<Oddities>) -> Vec<ProbePlan> {
    let paths = target.paths.iter().filter(|path| path.target == name);
    let routes: Vec<_> = paths.map(|path| Route::from(path).noted_by(oddities)).collect();
    let next = routes.iter().cycle().skip(1);
    let plan = |(first, second): (&Route, &Route)| ProbePlan {
        routes: [first.clone(), second.clone()],
        timing: Timing::from(target),
        target: name.to_owned(),
        initiator: initiator.to_owned(),
        isid: throwaway_isid(),
        patience: Patience::default(),
    };
    routes.iter().zip(next).map(plan).collect()
}

/// Probes until a probe gets through. Portals that are all in groups of their own are a result too.
async fn find_out(plans: &[ProbePlan], state: &Mutex<StateFile>) -> Knowledge {
    let mut apart = None;
    let mut rest = None;
    for plan in plans {
        let [first, second] = plan.routes.each_ref().map(|route| route.portal.as_str());
        match settle(plan, state).await {
            Ok(verdict) if verdict.is_final() => return Knowledge::Settled(Arc::new(verdict)),
            Ok(verdict) => {
                tracing::info!(
                    target = plan.target,
                    first,
                    second,
                    why = verdict.objection(),
                    "probe undecided"
                );
                rest = Some(REST);
                apart = matches!(verdict.second, Second::OtherGroup(_)).then_some(verdict).or(apart);
            }
            // A target that does not admit one name may admit the next: no rest after that.
            Err(error) => {
                tracing::info!(target = plan.target, first, %error, "target not probed");
                if !matches!(error, DialError::Login(_)) {
                    rest = Some(REST);
                }
            }
        }
    }
    let undecided = || Knowledge::None(rest.map(|rest| clock::now() + rest));
    apart.map_or_else(undecided, |verdict| Knowledge::Settled(Arc::new(verdict)))
}
