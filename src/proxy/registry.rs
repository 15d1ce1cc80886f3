//! Which sessions run: by (initiator, ISID, target), so that a new login ends its predecessor first.
//!
//! A login takes a `Claim` on its `Key` and keeps it as long as anything of it lives; dropping the claim says that
//! nothing does. The claim of a later login with the same key is session reinstatement (R195): the earlier holder is
//! told to stop, and the later one waits in `Predecessor::end` until it is gone. Claims on a key thus form a queue,
//! and at most its head has connections to the target.
//!
//! A session that does not end in order may leave commands at the target, and one that does may leave something in caches; the
//! registry remembers when and what that was, and whether it may have happened to the process before this one
//! ([`Claim::left_behind`]).
//!
//! The lock is held for map operations only and never on the data path.

use super::clock;
use super::operator::Desk;
use crate::iscsi::{Isid, Tsih};
use crate::session::Unwashed;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// What makes two logins the same session.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Key {
    /// InitiatorName.
    pub(super) initiator: String,
    /// Session id.
    pub(super) isid: Isid,
    /// TargetName; empty for an unnamed discovery session.
    pub(super) target: String,
    /// The portal, for discovery sessions, which are told apart by it (R236).
    pub(super) portal: Option<SocketAddr>,
}

/// What a session is asked to do. Orders only get stronger.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Order {
    /// Carry on.
    Run,
    /// End in order.
    Stop,
    /// End at once.
    Kill,
}

/// All running sessions.
#[derive(Debug, Default)]
pub(super) struct Registry {
    /// When the process before this one died at the latest, if it may have.
    died: Option<Instant>,
    state: Mutex<State>,
}

/// So long a session that did not end in order is remembered: no `fence_time` is longer.
const MEMORY: Duration = Duration::from_secs(3600);
/// Of more keys it is not remembered what they left in caches: the worst is assumed of all.
const MOST_UNWASHED: usize = 4096;

#[derive(Debug, Default)]
struct State {
    closed: bool,
    last_id: u64,
    last_tsih: u16,
    running: BTreeMap<Key, Entry>,
    /// When sessions ended that did not end in order.
    killed: BTreeMap<Key, Instant>,
    /// What sessions left in caches, where that is not what is assumed of a key without one.
    unwashed: BTreeMap<Key, Unwashed>,
    /// Some of those were forgotten.
    forgot: bool,
    /// Claims that were superseded but still live, so that stopping everything reaches them too.
    superseded: Vec<Entry>,
}

#[derive(Debug)]
struct Entry {
    id: u64,
    tsih: Tsih,
    order: Arc<watch::Sender<Order>>,
    alive: watch::Receiver<()>,
    /// Once its session has begun.
    desk: Option<Desk>,
}

/// A login's place in the registry.
#[derive(Debug)]
pub(super) struct Claim {
    registry: Arc<Registry>,
    key: Key,
    id: u64,
    /// The session's handle, unique among those running.
    pub(super) tsih: Tsih,
    /// Commands are under way, or were when it ended.
    at_risk: bool,
    /// What it has left in caches, once that is known.
    unwashed: Option<Unwashed>,
    order: watch::Receiver<Order>,
    _alive: watch::Sender<()>,
}

/// The session that a claim replaces.
#[derive(Debug)]
pub(super) struct Predecessor {
    order: Arc<watch::Sender<Order>>,
    alive: watch::Receiver<()>,
}

impl Registry {
    /// One that has nothing running; `died` is when the process before this one died at the latest, if it may have.
    pub(super) fn new(died: Option<Instant>) -> Self {
        Self { died, state: Mutex::default() }
    }

    /// Whether all sessions that ended have ended in order, or long enough ago, and nothing was left in caches.
    pub(super) fn is_clean(&self) -> bool {
        let mut state = self.lock();
        state.forget(clock::now());
        state.killed.is_empty() && !state.forgot && state.unwashed.values().all(Unwashed::is_nothing)
    }

    /// Claims a key. None if the registry is closed.
    pub(super) fn claim(self: &Arc<Self>, key: Key) -> Option<(Claim, Option<Predecessor>)> {
        let (order_sender, order) = watch::channel(Order::Run);
        let (alive_sender, alive) = watch::channel(());
        let mut state = self.lock();
        if state.closed {
            return None;
        }
        let (id, tsih) = state.next_names()?;
        let entry = Entry { id, tsih, order: Arc::new(order_sender), alive, desk: None };
        let replaced = state.running.insert(key.clone(), entry);
        let predecessor = replaced.map(|entry| {
            let predecessor = Predecessor { order: Arc::clone(&entry.order), alive: entry.alive.clone() };
            state.superseded.push(entry);
            predecessor
        });
        let registry = Arc::clone(self);
        let claim =
            Claim { registry, key, id, tsih, at_risk: false, unwashed: None, order, _alive: alive_sender };
        Some((claim, predecessor))
    }

    /// All sessions, with where they can be asked if they have begun.
    pub(super) fn desks(&self) -> Vec<(Key, Tsih, Option<Desk>)> {
        let state = self.lock();
        state.running.iter().map(|(key, entry)| (key.clone(), entry.tsih, entry.desk.clone())).collect()
    }

    /// Where the running session with this key and handle can be asked.
    pub(super) fn session(&self, key: &Key, tsih: Tsih) -> Option<Desk> {
        let state = self.lock();
        state.running.get(key).filter(|entry| entry.tsih == tsih)?.desk.clone()
    }

    /// Number of claims.
    #[must_use]
    pub(super) fn len(&self) -> usize {
        let state = self.lock();
        state.running.len() + state.superseded.len()
    }

    /// Takes no further claims, asks all sessions to stop, and waits up to `patience` until they are gone; then kills
    /// the rest.
    pub(super) async fn close(&self, patience: Duration) {
        let mut running: Vec<_> = {
            let mut state = self.lock();
            state.closed = true;
            let all = state.running.values().chain(&state.superseded);
            all.map(|entry| Predecessor { order: Arc::clone(&entry.order), alive: entry.alive.clone() })
                .collect()
        };
        running.iter().for_each(|session| session.give(Order::Stop));
        if tokio::time::timeout(patience, all_gone(&mut running)).await.is_err() {
            running.iter().for_each(|session| session.give(Order::Kill));
            all_gone(&mut running).await;
        }
    }

    /// What is assumed to be in caches of a key that is not remembered.
    fn assumed(&self, state: &State) -> Unwashed {
        if state.forgot || self.died.is_some() { Unwashed::everything() } else { Unwashed::default() }
    }

    /// A panic while the lock was held cannot have left a map half changed.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn forget(&mut self, now: Instant) {
        self.killed.retain(|_, at| now.saturating_duration_since(*at) < MEMORY);
    }

    fn remember(&mut self, key: &Key, unwashed: Unwashed, assumed: &Unwashed) {
        if unwashed == *assumed {
            self.unwashed.remove(key);
            return;
        }
        if self.unwashed.len() >= MOST_UNWASHED && !self.unwashed.contains_key(key) {
            self.unwashed.clear();
            self.forgot = true;
        }
        self.unwashed.insert(key.clone(), unwashed);
    }

    fn knows(&self, tsih: Tsih) -> bool {
        self.running.values().chain(&self.superseded).any(|entry| entry.tsih == tsih)
    }

    /// A fresh id and a handle that no running session has (R4); none only if all 65535 are taken.
    fn next_names(&mut self) -> Option<(u64, Tsih)> {
        self.last_id += 1;
        for _ in 0..=u16::MAX {
            self.last_tsih = self.last_tsih.wrapping_add(1);
            let tsih = Tsih(self.last_tsih);
            if tsih != Tsih(0) && !self.knows(tsih) {
                return Some((self.last_id, tsih));
            }
        }
        None
    }
}

impl Claim {
    /// When an earlier session with this key may last have ended with commands under way, if one may have, and what such
    /// sessions may have left in caches.
    pub(super) fn left_behind(&self) -> (Option<Instant>, Unwashed) {
        let state = self.registry.lock();
        let killed = state.killed.get(&self.key).copied();
        let unwashed = state.unwashed.get(&self.key).cloned();
        (killed.max(self.registry.died), unwashed.unwrap_or_else(|| self.registry.assumed(&state)))
    }

    /// Commands may be under way from now on. Should it be killed, this may be left in caches.
    pub(super) fn begins(&mut self, worst: Unwashed) {
        self.at_risk = true;
        self.unwashed = Some(worst);
    }

    /// Its session can be asked.
    pub(super) fn has_desk(&self, desk: Desk) {
        let mut state = self.registry.lock();
        if let Some(entry) = state.running.get_mut(&self.key).filter(|entry| entry.id == self.id) {
            entry.desk = Some(desk);
        }
    }

    /// It has ended in order: nothing is under way, and no more than this is left in caches.
    pub(super) fn ended_in_order(&mut self, unwashed: Unwashed) {
        self.at_risk = false;
        self.unwashed = Some(unwashed);
    }

    /// Ends when this session is asked to stop, or more.
    pub(super) fn stopped(&self) -> impl Future<Output = ()> + Send + 'static {
        self.ordered(Order::Stop)
    }

    /// Ends when this session is to end at once.
    pub(super) fn killed(&self) -> impl Future<Output = ()> + Send + 'static {
        self.ordered(Order::Kill)
    }

    fn ordered(&self, least: Order) -> impl Future<Output = ()> + Send + 'static {
        let mut order = self.order.clone();
        async move {
            // An error means that nobody is left who could give orders: the registry itself is gone.
            if order.wait_for(|order| *order >= least).await.is_err() {
                tracing::debug!("the registry is gone");
            }
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut state = self.registry.lock();
        if state.running.get(&self.key).is_some_and(|entry| entry.id == self.id) {
            state.running.remove(&self.key);
        }
        state.superseded.retain(|entry| entry.id != self.id);
        if let Some(unwashed) = self.unwashed.take() {
            let assumed = self.registry.assumed(&state);
            state.remember(&self.key, unwashed, &assumed);
        }
        if self.at_risk {
            let now = clock::now();
            state.forget(now);
            state.killed.insert(self.key.clone(), now);
        }
    }
}

impl Predecessor {
    /// Asks the session to stop and waits until it is gone, killing it after `patience`.
    pub(super) async fn end(mut self, patience: Duration) {
        self.give(Order::Stop);
        if tokio::time::timeout(patience, self.gone()).await.is_err() {
            self.give(Order::Kill);
            self.gone().await;
        }
    }

    fn give(&self, order: Order) {
        self.order.send_if_modified(|current| {
            let stronger = *current < order;
            *current = order.max(*current);
            stronger
        });
    }

    /// The other end is never sent to, only dropped.
    async fn gone(&mut self) {
        while self.alive.changed().await.is_ok() {}
    }
}

async fn all_gone(sessions: &mut [Predecessor]) {
    for session in sessions {
        session.gone().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> Key {
        Key { initiator: name.into(), isid: Isid([1; 6]), target: "iqn.t".into(), portal: None }
    }

    #[tokio::test(start_paused = true)]
    async fn a_second_claim_waits_until_the_first_is_dropped() {
        let registry = Arc::new(Registry::default());
        let (first, none) = registry.claim(key("a")).unwrap();
        assert!(none.is_none());
        let (second, predecessor) = registry.claim(key("a")).unwrap();
        assert_ne!(first.tsih, second.tsih);
        assert_eq!(registry.len(), 2);
        let stopped = first.stopped();
        let holder = tokio::spawn(async move {
            stopped.await;
            drop(first);
        });
        predecessor.unwrap().end(Duration::from_secs(10)).await;
        holder.await.unwrap();
        assert_eq!(registry.len(), 1);
        drop(second);
        assert!(registry.len() == 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_predecessor_that_does_not_stop_is_killed() {
        let registry = Arc::new(Registry::default());
        let (first, _) = registry.claim(key("a")).unwrap();
        let (_second, predecessor) = registry.claim(key("a")).unwrap();
        let killed = first.killed();
        tokio::spawn(async move {
            killed.await;
            drop(first);
        });
        predecessor.unwrap().end(Duration::from_secs(10)).await;
        assert_eq!(registry.len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn three_logins_queue_behind_each_other() {
        let registry = Arc::new(Registry::default());
        let (first, _) = registry.claim(key("a")).unwrap();
        let (second, before_second) = registry.claim(key("a")).unwrap();
        let (_third, before_third) = registry.claim(key("a")).unwrap();
        let second = tokio::spawn(async move {
            before_second.unwrap().end(Duration::from_secs(10)).await;
            drop(second);
        });
        let third = tokio::spawn(before_third.unwrap().end(Duration::from_secs(100)));
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert!(!third.is_finished(), "the first still lives");
        drop(first);
        second.await.unwrap();
        third.await.unwrap();
        assert_eq!(registry.len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn closing_reaches_everybody_and_admits_nobody() {
        let registry = Arc::new(Registry::default());
        let (first, _) = registry.claim(key("a")).unwrap();
        let (other, _) = registry.claim(key("b")).unwrap();
        for claim in [first, other] {
            let stopped = claim.stopped();
            tokio::spawn(async move {
                stopped.await;
                drop(claim);
            });
        }
        registry.close(Duration::from_secs(10)).await;
        assert!(registry.len() == 0);
        assert!(registry.claim(key("c")).is_none());
    }

    #[test]
    fn a_session_that_did_not_end_in_order_is_remembered() {
        let registry = Arc::new(Registry::default());
        let claim = |name| registry.claim(key(name)).unwrap().0;
        let nothing = (None, Unwashed::default());
        let mut first = claim("a");
        assert_eq!(first.left_behind(), nothing);
        first.begins(Unwashed::everything());
        first.ended_in_order(Unwashed::default());
        drop(first);
        assert!(registry.is_clean());
        let mut second = claim("a");
        assert_eq!(second.left_behind(), nothing);
        second.begins(Unwashed::everything());
        drop(second);
        let (killed, unwashed) = claim("a").left_behind();
        assert!(killed.is_some());
        assert_eq!(unwashed, Unwashed::everything());
        assert_eq!(claim("b").left_behind(), nothing);
        assert!(!registry.is_clean());
    }

    #[test]
    fn what_is_left_in_caches_is_remembered_until_it_is_washed() {
        let died = clock::now();
        let registry = Arc::new(Registry::new(Some(died)));
        let claim = |name| registry.claim(key(name)).unwrap().0;
        let worst = (Some(died), Unwashed::everything());
        assert_eq!(claim("a").left_behind(), worst);
        let ends = |unwashed| {
            let mut session = claim("a");
            session.begins(Unwashed::everything());
            session.ended_in_order(unwashed);
        };
        ends(Unwashed::default());
        assert_eq!(claim("a").left_behind(), (Some(died), Unwashed::default()));
        assert_eq!(claim("b").left_behind(), worst);
        assert!(registry.is_clean());
        ends(Unwashed::everything());
        assert_eq!(claim("a").left_behind(), worst);
    }

    #[test]
    fn of_too_many_sessions_the_worst_is_assumed() {
        let registry = Arc::new(Registry::default());
        for n in 0..=MOST_UNWASHED {
            let mut session = registry.claim(key(&n.to_string())).unwrap().0;
            session.begins(Unwashed::everything());
            session.ended_in_order(Unwashed::everything());
        }
        assert_eq!(registry.claim(key("another")).unwrap().0.left_behind().1, Unwashed::everything());
        assert!(!registry.is_clean());
    }

    #[test]
    fn handles_are_never_zero_and_never_shared_r4() {
        let registry = Arc::new(Registry::default());
        let (kept, _) = registry.claim(key("kept")).unwrap();
        registry.lock().last_tsih = u16::MAX;
        let (other, _) = registry.claim(key("other")).unwrap();
        assert_ne!(other.tsih, Tsih(0));
        assert_ne!(other.tsih, kept.tsih);
        let state = registry.lock();
        assert!(state.knows(kept.tsih) && !state.knows(Tsih(999)));
    }
}
