//! What an operator may ask of a running proxy: how its sessions stand, paths taken out and given back, an outage not waited
//! for any longer.
//!
//! # Contract
//! An order about a path is for every session of its target, those that begin later included, until it is taken back or Braid
//! ends, or its time is over: what takes a path out may say how long, so that it is given back even if whoever gave the order is
//! no longer there. Sessions are asked through their `Desk`, which costs them nothing until somebody asks. A path that some session
//! could not do without is not taken out unless that is insisted on.

use super::events::{About, Events, Kind};
use super::registry::Key;
use super::reload::Terms;
use super::session::Place;
use super::tape::Recording;
use super::{Shared, clock};
use crate::config::{Source, Target};
use crate::iscsi::{Cid, Tsih};
use crate::login::SessionParams;
use crate::metrics::{Carried, Failovers, Metrics};
use crate::session::{Barriers, Control, Fanout, FenceMethod, PathId, PathState, Status, UnitStatus};
use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// A session that does not say how it stands within this is shown without that.
const PATIENCE: Duration = Duration::from_secs(2);
/// What takes a path out for a time does so for no longer than this.
const LONGEST_LIMIT: Duration = Duration::from_secs(24 * 3600);
/// Questions and orders that wait for a session, at most.
const ROOM: usize = 16;

/// What is wanted of a path.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PathOrder {
    /// End what is under way, log out, and stay out.
    Drain,
    /// Reset its connections, and stay out.
    Fail,
    /// Take it in again.
    Restore,
    /// Another weight, at least 1.
    Weigh(u32),
}

/// Why an order was not carried out.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Refused {
    /// No such target.
    #[error("no target \"{target}\" is configured or in use; there are: {known}")]
    UnknownTarget {
        /// What was asked for.
        target: String,
        /// Those there are.
        known: String,
    },
    /// No such path.
    #[error("target \"{target}\" has no path \"{path}\"; it has: {known}")]
    UnknownPath {
        /// Its target.
        target: String,
        /// What was asked for.
        path: String,
        /// Those there are.
        known: String,
    },
    /// Some session would be left without a path.
    #[error(
        "the session of {initiator} works over no other path than \"{path}\"; bring another one up, or insist (--force)"
    )]
    LastPath {
        /// Whose session.
        initiator: String,
        /// The path.
        path: String,
    },
    /// Only what takes a path out has a limit in time.
    #[error("only drain and fail have a limit in time; leave it out")]
    NoLimit,
    /// A limit in time that is none.
    #[error("a limit in time is more than nothing and at most a day")]
    Limit,
    /// Weights are at least 1.
    #[error("a weight is at least 1; to keep commands off a path, drain it")]
    NoWeight,
}

/// How a target stands.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TargetStatus {
    /// Its name.
    pub name: String,
    /// Its paths.
    pub paths: Vec<PathStanding>,
    /// Its sessions.
    pub sessions: Vec<SessionStatus>,
    /// Its failovers so far.
    pub failovers: Failovers,
}

/// A path, for all sessions.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PathStanding {
    /// Name.
    pub name: String,
    /// Portal.
    pub portal: String,
    /// Taken out by the operator.
    pub out: bool,
    /// What it has carried, if that is counted.
    pub carried: Option<Carried>,
}

/// How a session stands.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SessionStatus {
    /// InitiatorName.
    pub initiator: String,
    /// Where the initiator is.
    pub peer: Option<IpAddr>,
    /// ISID, as 12 hexadecimal digits.
    pub isid: String,
    /// TSIH.
    pub tsih: u16,
    /// Names of its paths, in the order of the status; none while it begins, or does not answer.
    pub standing: Option<(Arc<[String]>, Status)>,
}

/// Where a session takes questions and orders.
#[derive(Clone, Debug)]
pub(super) struct Desk {
    pub(super) paths: Arc<[String]>,
    pub(super) basis: Arc<Basis>,
    peer: Option<IpAddr>,
    sender: mpsc::Sender<Asked>,
}

/// What a session rests on for as long as it runs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Basis {
    /// The table of its target.
    pub table: String,
    /// It ends with its only path, whatever the configuration says of outages.
    pub alone: bool,
    /// How it is fanned out.
    pub fanout: Fanout,
    /// Why so.
    pub why: &'static str,
    /// Who keeps barriers in order.
    pub barriers: Barriers,
    /// How ghosts of a lost nexus are fenced.
    pub fence: FenceMethod,
    /// How long they are feared at most.
    pub fence_time: Duration,
    /// The target keeps the tasks of a connection that is lost.
    pub keeps_tasks: bool,
}

impl Basis {
    /// Of a session of this target, of which this was agreed.
    pub(super) fn of(
        target: &Target,
        (fanout, why): (Fanout, &'static str),
        alone: bool,
        agreed: &SessionParams,
    ) -> Self {
        let Target { table, barriers, fence, fence_time, .. } = target;
        let (barriers, fence, fence_time) = (*barriers, *fence, *fence_time);
        let keeps_tasks = agreed.error_recovery_level >= 2;
        Self { table: table.clone(), alone, fanout, why, barriers, fence, fence_time, keeps_tasks }
    }
}

impl Basis {
    /// The word for how ghosts are fenced.
    #[must_use]
    pub fn fence_word(&self) -> String {
        format!("{:?}", self.fence).to_lowercase()
    }
}

impl fmt::Display for Basis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fanout = match self.fanout {
            Fanout::Mcs => "connections of one session",
            Fanout::Sessions => "several sessions",
        };
        let barriers = match self.barriers {
            Barriers::Strict => "strict",
            Barriers::Native => "native",
        };
        let fence = self.fence_word();
        let time = humantime::format_duration(self.fence_time);
        let kept = if self.keeps_tasks { ", tasks of a lost connection are reassigned" } else { "" };
        write!(f, "{fanout} ({}); barriers {barriers}, fence {fence} (fence time {time}){kept}", self.why)
    }
}

/// What a session is asked.
#[derive(Debug)]
pub(super) enum Asked {
    /// How it stands.
    Status(oneshot::Sender<Status>),
    /// What its units may do over which path.
    Units(oneshot::Sender<Vec<UnitStatus>>),
    /// The latest headers of its PDUs.
    Recordings(oneshot::Sender<Vec<Recording>>),
    /// An order.
    Control(Control),
    /// The configuration has changed.
    Retune(Box<Terms>),
    /// Whether the initiator may log in over a further connection, or over one in the place of another with this CID.
    Join(Cid, oneshot::Sender<Option<Place>>),
}

impl Desk {
    /// For a session with these paths, whose initiator is there.
    pub(super) fn open(
        paths: &[String],
        peer: Option<IpAddr>,
        basis: Basis,
    ) -> (Self, mpsc::Receiver<Asked>) {
        let (sender, receiver) = mpsc::channel(ROOM);
        (Self { paths: paths.into(), basis: Arc::new(basis), peer, sender }, receiver)
    }

    /// Tells the session, which has just begun, of a change.
    pub(super) fn begin_with(&self, terms: Terms) {
        if self.sender.try_send(Asked::Retune(Box::new(terms))).is_err() {
            tracing::debug!("the session ends already");
        }
    }

    async fn status(&self) -> Option<Status> {
        self.ask(Asked::Status).await
    }

    /// What its units may do; nothing if it does not answer.
    pub(super) async fn units(&self) -> Vec<UnitStatus> {
        self.ask(Asked::Units).await.unwrap_or_default()
    }

    pub(super) async fn ask<T>(&self, question: impl FnOnce(oneshot::Sender<T>) -> Asked) -> Option<T> {
        let (answer, answered) = oneshot::channel();
        let asked = async {
            self.sender.send(question(answer)).await.ok()?;
            answered.await.ok()
        };
        tokio::time::timeout(PATIENCE, asked).await.ok().flatten()
    }

    /// Orders something; false if the session is ending.
    pub(super) async fn order(&self, order: Asked) -> bool {
        let sent = self.sender.send(order);
        matches!(tokio::time::timeout(PATIENCE, sent).await, Ok(Ok(())))
    }

    fn path(&self, name: &str) -> Option<PathId> {
        self.paths.iter().position(|path| path == name).map(PathId)
    }
}

/// A running proxy, as an operator has it.
#[derive(Clone, Debug)]
pub struct Operator {
    pub(super) shared: Arc<Shared>,
    /// What can be read again.
    pub(super) source: Option<Arc<Source>>,
}

impl Operator {
    /// How all targets stand.
    pub async fn status(&self) -> Vec<TargetStatus> {
        let mut all = Vec::new();
        for Known { name, paths } in self.known() {
            let carried = self.shared.metrics.carried(&name);
            let path = |(path, portal): (String, String)| PathStanding {
                out: self.shared.orders.is_out(&name, &path),
                carried: carried.iter().find(|carried| carried.path == path).cloned(),
                name: path,
                portal,
            };
            let paths = paths.into_iter().map(path).collect();
            let sessions = self.sessions(&name).await;
            let failovers = self.shared.metrics.failovers(&name);
            all.push(TargetStatus { name, paths, sessions, failovers });
        }
        all
    }

    /// All targets: those with a table of their own, and discovered ones that have sessions.
    fn known(&self) -> Vec<Known> {
        let config = self.shared.config();
        let own = config.targets.iter().filter(|target| target.discover.is_none());
        let mut known: Vec<Known> = own
            .map(|target| Known {
                name: target.name.clone(),
                paths: target.paths.iter().map(|p| (p.name.clone(), p.portal.to_string())).collect(),
            })
            .collect();
        // What sessions have beside that: targets that were discovered, and paths that are configured no longer.
        for (key, _, desk) in self.shared.registry.desks() {
            let Some(desk) = desk else { continue };
            if !known.iter().any(|target| target.name == key.target) {
                known.push(Known { name: key.target.clone(), paths: Vec::new() });
            }
            let Some(target) = known.iter_mut().find(|target| target.name == key.target) else { continue };
            for path in desk.paths.iter() {
                if !target.paths.iter().any(|(name, _)| name == path) {
                    target.paths.push((path.clone(), path.clone()));
                }
            }
        }
        known
    }

    async fn sessions(&self, target: &str) -> Vec<SessionStatus> {
        let asked = self.desks(target).into_iter().map(session_status);
        futures_util::future::join_all(asked).await
    }

    /// Sessions of a target, but for discovery sessions.
    pub(super) fn desks(&self, target: &str) -> Vec<(Key, Tsih, Option<Desk>)> {
        let all = self.shared.registry.desks();
        all.into_iter().filter(|(key, ..)| key.target == target && key.portal.is_none()).collect()
    }

    /// Carries out an order about a path; gives the number of sessions that have it.
    ///
    /// # Errors
    /// [`Refused`]; nothing has changed then.
    pub async fn order(
        &self,
        target: &str,
        path: &str,
        order: PathOrder,
        insists: bool,
    ) -> Result<usize, Refused> {
        self.order_for(target, path, order, insists, None).await
    }

    /// The same, and if it takes the path out, that is given back by itself after this time.
    ///
    /// # Errors
    /// [`Refused`]; nothing has changed then.
    pub async fn order_for(
        &self,
        target: &str,
        path: &str,
        order: PathOrder,
        insists: bool,
        limit: Option<Duration>,
    ) -> Result<usize, Refused> {
        let Known { name: target, paths } = self.target(target)?;
        if !paths.iter().any(|(known, _)| known == path) {
            let known = list(paths.iter().map(|(path, _)| path));
            return Err(Refused::UnknownPath { target, path: path.to_owned(), known });
        }
        let takes_out = matches!(order, PathOrder::Drain | PathOrder::Fail);
        match limit {
            Some(_) if !takes_out => return Err(Refused::NoLimit),
            Some(time) if time.is_zero() || time > LONGEST_LIMIT => return Err(Refused::Limit),
            Some(_) | None => {}
        }
        match order {
            PathOrder::Weigh(0) => return Err(Refused::NoWeight),
            PathOrder::Drain | PathOrder::Fail if !insists => self.spare(&target, path).await?,
            PathOrder::Drain | PathOrder::Fail | PathOrder::Restore | PathOrder::Weigh(_) => {}
        }
        let number = self.shared.orders.take(&target, path, order);
        if let Some(limit) = limit {
            let timer =
                give_back(Arc::downgrade(&self.shared), target.clone(), path.to_owned(), number, limit);
            let timer = tokio::spawn(timer).abort_handle();
            self.shared.orders.limit(&target, path, number, timer);
        }
        let text = match (order, limit) {
            (PathOrder::Drain, None) => "drain".to_owned(),
            (PathOrder::Fail, None) => "fail".to_owned(),
            (PathOrder::Drain, Some(limit)) => format!("drain for {}", humantime::format_duration(limit)),
            (PathOrder::Fail, Some(limit)) => format!("fail for {}", humantime::format_duration(limit)),
            (PathOrder::Restore, _) => "restore".to_owned(),
            (PathOrder::Weigh(weight), _) => format!("weight {weight}"),
        };
        Ok(self.carry_out(&target, path, order, &text).await)
    }

    /// Tells everybody who has this path, which `text` is for eyes.
    async fn carry_out(&self, target: &str, path: &str, order: PathOrder, text: &str) -> usize {
        tracing::info!(target, path, order = text, "ordered by the operator");
        let about = About { target: Some(target.to_owned()), path: Some(path.to_owned()), initiator: None };
        self.shared.events.tell(Kind::Ordered, about, text);
        let mut sessions = 0;
        for desk in self.desks(target).into_iter().filter_map(|(.., desk)| desk) {
            let Some(id) = desk.path(path) else { continue };
            let control = match order {
                PathOrder::Drain => Control::Drain(id),
                PathOrder::Fail => Control::Fail(id),
                PathOrder::Restore => Control::Restore(id),
                PathOrder::Weigh(weight) => Control::Weigh(id, weight),
            };
            sessions += usize::from(desk.order(Asked::Control(control)).await);
        }
        sessions
    }

    /// Makes sure that every session works over another path too.
    async fn spare(&self, target: &str, path: &str) -> Result<(), Refused> {
        for session in self.sessions(target).await {
            let Some((names, status)) = &session.standing else { continue };
            let has_it = names.iter().any(|name| name == path);
            let mut others = names.iter().zip(&status.paths).filter(|(name, _)| *name != path);
            if has_it && !others.any(|(_, other)| matches!(other.state, PathState::Up | PathState::Marginal))
            {
                return Err(Refused::LastPath { initiator: session.initiator, path: path.to_owned() });
            }
        }
        Ok(())
    }

    /// Lets what waits for a lost target wait no longer; gives the number of sessions told.
    ///
    /// # Errors
    /// [`Refused::UnknownTarget`].
    pub async fn give_up(&self, target: &str) -> Result<usize, Refused> {
        let target = self.target(target)?.name;
        tracing::info!(target, "told by the operator to give up what waits");
        let about = About { target: Some(target.clone()), ..About::default() };
        self.shared.events.tell(Kind::Ordered, about, "give up what waits");
        let mut sessions = 0;
        for desk in self.desks(&target).into_iter().filter_map(|(.., desk)| desk) {
            sessions += usize::from(desk.order(Asked::Control(Control::GiveUp)).await);
        }
        Ok(sessions)
    }

    /// How long the proxy has run.
    #[must_use]
    pub fn uptime(&self) -> Duration {
        clock::now().saturating_duration_since(self.shared.started)
    }

    /// What is counted.
    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        &self.shared.metrics
    }

    /// What happened.
    #[must_use]
    pub fn events(&self) -> &Events {
        &self.shared.events
    }

    pub(super) fn target(&self, name: &str) -> Result<Known, Refused> {
        let mut known = self.known();
        match known.iter().position(|target| target.name == name) {
            Some(at) => Ok(known.swap_remove(at)),
            None => Err(Refused::UnknownTarget {
                target: name.to_owned(),
                known: list(known.iter().map(|target| &target.name)),
            }),
        }
    }
}

/// Gives a path back when the time of its order is over. Braid may have ended by then.
async fn give_back(shared: Weak<Shared>, target: String, path: String, number: u64, limit: Duration) {
    tokio::time::sleep(limit).await;
    let Some(shared) = shared.upgrade() else { return };
    if shared.orders.end(&target, &path, number) {
        let operator = Operator { shared, source: None };
        operator.carry_out(&target, &path, PathOrder::Restore, "restore, as its time is over").await;
    }
}

/// A target that orders may be about.
pub(super) struct Known {
    pub(super) name: String,
    /// Its paths: name and portal.
    pub(super) paths: Vec<(String, String)>,
}

/// How a session stands.
pub(super) async fn session_status((key, tsih, desk): (Key, Tsih, Option<Desk>)) -> SessionStatus {
    let standing = match &desk {
        Some(desk) => desk.status().await.map(|status| (Arc::clone(&desk.paths), status)),
        None => None,
    };
    SessionStatus {
        initiator: key.initiator,
        peer: desk.and_then(|desk| desk.peer),
        isid: data_encoding::HEXLOWER.encode(&key.isid.0),
        tsih: tsih.0,
        standing,
    }
}

fn list<'n>(names: impl Iterator<Item = &'n String>) -> String {
    names.map(String::as_str).collect::<Vec<_>>().join(", ")
}
