//! The configuration changes while Braid runs.
//!
//! # Contract
//! All or nothing: the file is read and checked as at the start, compared with what is in force ([`crate::config::diff`]), and
//! if anything of it cannot be changed now, nothing is. Then the new configuration takes the place of the old one in one
//! step. Logins that begin later are under the new one; a login under way keeps the one that it began with. Sessions that
//! run are told what concerns them ([`Effect::Now`]), in their own time and without a pause, and keep all else, their paths
//! included.
//!
//! # What is refused
//! What [`Effect::Never`] says; the removal of a target that has sessions; a path to Braid itself.

use super::dial::Timing;
use super::events::{About, Kind};
use super::operator::{Asked, Desk, Operator};
use super::orders::Orders;
use super::{Shared, StartError, intercept, plan};
use crate::config::diff::{Change, Effect, diff};
use crate::config::{Config, ConfigError, Source, Target, Written};
use crate::login::chap::Credentials;
use crate::session::{Exhausted, Tuning};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// What a session that runs is told of its table.
#[derive(Debug)]
pub(super) struct Terms {
    pub(super) tuning: Tuning,
    pub(super) timing: Timing,
    /// For each of its paths; nothing for those that are configured no longer.
    pub(super) paths: Vec<Option<PathTerms>>,
}

/// And of one path.
#[derive(Debug)]
pub(super) struct PathTerms {
    pub(super) credentials: Option<Arc<Credentials>>,
    /// If it is to change.
    pub(super) weight: Option<u32>,
}

/// A difference, and where the new setting is written.
pub type Placed = (Change, String);

/// What came of reading the configuration again.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Reloaded {
    /// What is different.
    pub changes: Vec<Placed>,
    /// Whether that is in force.
    pub applied: bool,
    /// Sessions that were told.
    pub sessions: usize,
    /// What is worth knowing.
    pub notes: Vec<String>,
}

/// Why everything is as it was.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum NotReloaded {
    /// There is no file.
    NoFile,
    /// The file is wrong.
    Wrong(ConfigError),
    /// Something cannot be changed now.
    Refused {
        /// All differences.
        changes: Vec<Placed>,
        /// What speaks against it.
        reasons: Vec<String>,
    },
}

impl fmt::Display for NotReloaded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoFile => f.write_str(
                "this Braid was started without a file, so there is nothing to read again; start it with --config FILE",
            ),
            Self::Wrong(error) => write!(f, "nothing is changed:\n{error}"),
            Self::Refused { reasons, .. } => write!(f, "nothing is changed:\n{}", reasons.join("\n")),
        }
    }
}

impl Operator {
    /// The same with a configuration to read again.
    #[must_use]
    pub fn reading(self, source: Source) -> Self {
        Self { source: Some(Arc::new(source)), ..self }
    }

    /// The configuration that is in force.
    #[must_use]
    pub fn config(&self) -> Arc<Config> {
        self.shared.config()
    }

    /// Changes whenever the configuration does.
    #[must_use]
    pub fn reloads(&self) -> watch::Receiver<()> {
        self.shared.reloads.1.subscribe()
    }

    /// Reads the configuration again, and puts it in force if that is wanted and all of it can be.
    ///
    /// # Errors
    /// [`NotReloaded`]; nothing has changed then.
    pub async fn reload(&self, apply: bool) -> Result<Reloaded, NotReloaded> {
        let _one_at_a_time = self.shared.reloads.0.lock().await;
        let done = match self.compare() {
            Ok((written, changes)) if apply => Ok(self.apply(&written, changes).await),
            Ok((written, changes)) => {
                let notes = notes(&written.config, &changes);
                Ok(Reloaded { changes, applied: false, sessions: 0, notes })
            }
            Err(failure) => Err(failure),
        };
        if apply {
            log(&done);
            self.tell(&done);
            self.shared.metrics.reloaded(done.is_ok());
        }
        done
    }

    fn tell(&self, done: &Result<Reloaded, NotReloaded>) {
        let (kind, text) = match done {
            Ok(Reloaded { changes, .. }) => {
                let keys: Vec<_> = changes.iter().map(|(change, _)| change.key.as_str()).collect();
                let text = if keys.is_empty() { "nothing is different".to_owned() } else { keys.join(", ") };
                (Kind::Reloaded, text)
            }
            Err(failure) => (Kind::NotReloaded, failure.to_string()),
        };
        self.shared.events.tell(kind, About::default(), &text);
    }

    /// What would change, if it may.
    fn compare(&self) -> Result<(Written, Vec<Placed>), NotReloaded> {
        let source =
            self.source.as_ref().filter(|source| source.file().is_some()).ok_or(NotReloaded::NoFile)?;
        // A few small files, now and then: not worth a thread of their own.
        let written = source.read().map_err(NotReloaded::Wrong)?;
        let changes = diff(&self.config(), &written.config);
        let changes: Vec<_> = changes.into_iter().map(|change| (written.place(&change), change)).collect();
        let changes: Vec<Placed> = changes.into_iter().map(|(place, change)| (change, place)).collect();
        let reasons = self.objections(&written.config, &changes);
        if reasons.is_empty() {
            Ok((written, changes))
        } else {
            Err(NotReloaded::Refused { changes, reasons })
        }
    }

    fn objections(&self, new: &Config, changes: &[Placed]) -> Vec<String> {
        let mut reasons = Vec::new();
        let show = |value: &Option<String>| value.clone().unwrap_or_else(|| "nothing".to_owned());
        for (change, place) in changes {
            if let Effect::Never(why) = change.effect {
                let (old, new) = (show(&change.old), show(&change.new));
                reasons.push(format!(
                    "{place}: {}: {new} cannot take the place of {old} while Braid runs, as {why}; restart Braid, or write {old} again",
                    change.key
                ));
            }
            if let (Some(table), true) = (&change.table, change.is_removal()) {
                let desks = self.desks_of(table);
                if let [(initiator, _), ..] = desks.as_slice() {
                    reasons.push(format!(
                        "{place}: target: {table} is gone, but has {} open, of {initiator}; log out there first, or write the target again",
                        if desks.len() == 1 { "a session".to_owned() } else { format!("{} sessions", desks.len()) }
                    ));
                }
            }
        }
        let listeners = &self.shared.portals;
        for path in new.targets.iter().flat_map(|target| &target.paths) {
            if let Some(&listener) = listeners.iter().find(|listener| intercept::own(**listener, path.portal))
            {
                reasons.push(StartError::Loop { portal: path.portal, listener }.to_string());
            }
        }
        reasons
    }

    /// Sessions of a table's targets, with the names of their initiators.
    fn desks_of(&self, table: &str) -> Vec<(String, Desk)> {
        let all = self.shared.registry.desks().into_iter();
        let begun = all.filter_map(|(key, _, desk)| Some((key.initiator, desk?)));
        begun.filter(|(_, desk)| desk.basis.table == table).collect()
    }

    async fn apply(&self, written: &Written, changes: Vec<Placed>) -> Reloaded {
        let shared = &self.shared;
        let (old, new) = (shared.config(), Arc::new(written.config.clone()));
        forget_weights(&shared.orders, &old, &new);
        for target in shared.metrics.targets().iter().filter(|target| new.tables(target).next().is_none()) {
            shared.metrics.forget(target);
        }
        for target in new.targets.iter().filter(|target| target.discover.is_none()) {
            shared.metrics.declare(&target.name, target.paths.iter().map(|path| path.name.as_str()));
        }
        shared.config.store(Arc::clone(&new));
        shared.verdicts.ask_all(&new);
        let concerns = |table: &Target| {
            let of_it = |(change, _): &Placed| change.table.as_ref() == Some(&table.table);
            changes.iter().any(|change| of_it(change) && change.0.effect == Effect::Now)
        };
        let mut told = Vec::new();
        for table in new.targets.iter().filter(|table| concerns(table)) {
            for (_, desk) in self.desks_of(&table.table) {
                let terms = Box::new(terms(table, &shared.orders, &desk));
                told.push(async move { desk.order(Asked::Retune(terms)).await });
            }
        }
        let told = futures_util::future::join_all(told).await;
        shared.reloads.1.send_replace(());
        let notes = notes(&new, &changes);
        Reloaded { changes, applied: true, sessions: told.into_iter().filter(|told| *told).count(), notes }
    }
}

impl Shared {
    /// Tells a session, which may be asked from now on, what has changed since its login began.
    pub(super) fn catch_up(&self, began: &Arc<Config>, desk: &Desk) {
        let current = self.config();
        let table = current.targets.iter().find(|target| target.table == desk.basis.table);
        if let Some(table) = table.filter(|_| !Arc::ptr_eq(&current, began)) {
            desk.begin_with(terms(table, &self.orders, desk));
        }
    }
}

/// Where the configuration gives a path another weight, that counts, and not what was ordered before.
fn forget_weights(orders: &Orders, old: &Config, new: &Config) {
    for target in &old.targets {
        let now = new.targets.iter().find(|other| other.table == target.table);
        for path in now.iter().flat_map(|target| &target.paths) {
            if target.paths.iter().any(|before| before.name == path.name && before.weight != path.weight) {
                orders.forget_weight(&target.name, &path.name);
            }
        }
    }
}

fn terms(table: &Target, orders: &Orders, desk: &Desk) -> Terms {
    let mut target = table.clone();
    orders.weigh(&mut target);
    let mut tuning = plan::tuning(&target);
    if desk.basis.alone {
        (tuning.queue_time, tuning.exhausted) = (Duration::ZERO, Exhausted::Close);
    }
    let path = |name: &String| {
        let written = target.paths.iter().find(|path| path.name == *name);
        match (&target.discover, written) {
            (None, Some(path)) => {
                Some(PathTerms { credentials: path.credentials.clone(), weight: Some(path.weight) })
            }
            (Some(_), Some(path)) => Some(PathTerms { credentials: path.credentials.clone(), weight: None }),
            (Some(discover), None) => {
                Some(PathTerms { credentials: discover.credentials.clone(), weight: None })
            }
            (None, None) => None,
        }
    };
    Terms { tuning, timing: Timing::from(&target), paths: desk.paths.iter().map(path).collect() }
}

fn notes(new: &Config, changes: &[Placed]) -> Vec<String> {
    let mut notes = new.warnings.clone();
    let later =
        changes.iter().any(|(change, _)| change.effect == Effect::NewSessions && !change.is_removal());
    if later {
        notes.push(
            "sessions that run keep what is for new ones, until their initiators log in again".to_owned(),
        );
    }
    let moved = changes.iter().any(|(change, _)| change.key == "target" || change.key.starts_with("paths "));
    if moved && new.own_mark().is_some() {
        notes.push(
            "the firewall still catches connections to the portals of before; put the rules up again: braid intercept --config FILE --apply"
                .to_owned(),
        );
    }
    notes
}

fn log(done: &Result<Reloaded, NotReloaded>) {
    match done {
        Ok(Reloaded { changes, sessions, notes, .. }) => {
            for (change, place) in changes {
                let (table, old, new) = (&change.table, &change.old, &change.new);
                tracing::info!(target = table, setting = change.key, old, new, place, "setting changed");
            }
            notes.iter().for_each(|note| tracing::info!("{note}"));
            tracing::info!(changes = changes.len(), sessions, "configuration read again");
        }
        Err(failure) => {
            failure.to_string().lines().for_each(|line| tracing::warn!(line, "configuration not read again"))
        }
    }
}
