//! Why things are as they are with a target: how its sessions are fanned out, what is guaranteed in them, and what each path
//! may do.

use super::auto::{self, Probed};
use super::events::{Event, Kind};
use super::operator::{Basis, Known, Operator, Refused, SessionStatus, session_status};
use super::verdict::Verdict;
use crate::config::{Mode, Target};
use crate::session::{Fanout, UnitStatus};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

/// Everything that is known of a target.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Explanation {
    /// Its name.
    pub target: String,
    /// The table that serves it, if one still does.
    pub table: Option<Target>,
    /// What probes have come to, by the names that the target has upstream; only of those with which there is a choice.
    pub probes: Vec<(String, Probed)>,
    /// What is remembered of it over restarts.
    pub remembered: Remembered,
    /// Its paths.
    pub paths: Vec<PathFacts>,
    /// Its sessions.
    pub sessions: Vec<SessionFacts>,
}

/// What is remembered of a target.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Remembered {
    /// Where; none if only as long as Braid runs.
    pub file: Option<PathBuf>,
    /// Verdicts of probes.
    pub verdicts: Vec<Verdict>,
    /// Portal group tags that initiators were told; by portal where they were intercepted.
    pub tags: BTreeMap<String, u16>,
}

/// A path, for all sessions.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PathFacts {
    /// Name.
    pub name: String,
    /// Portal.
    pub portal: String,
    /// Taken out by the operator.
    pub out: bool,
    /// The weight that the operator has ordered.
    pub ordered_weight: Option<u32>,
}

/// A session.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SessionFacts {
    /// How it stands.
    pub status: SessionStatus,
    /// What it rests on; none while it begins.
    pub basis: Option<Arc<Basis>>,
    /// Its units.
    pub units: Vec<UnitStatus>,
    /// For each of its paths the latest event that tells why it is down or suspect.
    pub troubles: Vec<Option<Event>>,
}

impl Explanation {
    /// How the next session will be fanned out, if that is known, and why.
    #[must_use]
    pub fn next(&self) -> (Option<Fanout>, String) {
        let (fanout, why) = match self.table.as_ref().map(|table| table.mode) {
            None => (None, "no table of the configuration has the target"),
            Some(Mode::Mcs) => (Some(Fanout::Mcs), "configured"),
            Some(Mode::Sessions) => (Some(Fanout::Sessions), "configured"),
            Some(Mode::Auto) if self.probes.is_empty() => {
                (Some(Fanout::Sessions), "there is one path that Braid can log in over by itself")
            }
            Some(Mode::Auto) => self.by_probes(),
        };
        (fanout, why.to_owned())
    }

    fn by_probes(&self) -> (Option<Fanout>, &'static str) {
        let mut open = false;
        for (_, probed) in &self.probes {
            match probed {
                Probed::Not | Probed::UnderWay => open = true,
                Probed::Settled(verdict) => {
                    if let Some(objection) = verdict.objection() {
                        return (Some(Fanout::Sessions), objection);
                    }
                }
            }
        }
        if open { (None, "the probe decides") } else { (Some(Fanout::Mcs), "proved by the probe") }
    }
}

impl Operator {
    /// Explains a target.
    ///
    /// # Errors
    /// [`Refused::UnknownTarget`].
    pub async fn explain(&self, target: &str) -> Result<Explanation, Refused> {
        let Known { name: target, paths } = self.target(target)?;
        let shared = &self.shared;
        let config = shared.config();
        let table = config.tables(&target).next().cloned();
        let open = table.as_ref().filter(|table| table.mode == Mode::Auto);
        // Of a target that is discovered nothing is known but its own name.
        let names: Vec<String> = match open {
            Some(table) if table.discover.is_none() => {
                auto::open(table).into_iter().map(str::to_owned).collect()
            }
            Some(_) => vec![target.clone()],
            None => Vec::new(),
        };
        let probes = names.into_iter().map(|name| (name.clone(), shared.verdicts.known(&name))).collect();
        let remembered = {
            let state = shared.verdicts.state();
            let (verdicts, tags) = state.of(&target);
            Remembered { file: state.path().map(PathBuf::from), verdicts, tags }
        };
        let path = |(name, portal): (String, String)| PathFacts {
            out: shared.orders.is_out(&target, &name),
            ordered_weight: shared.orders.weight(&target, &name),
            name,
            portal,
        };
        let paths = paths.into_iter().map(path).collect();
        let events = shared.events.after(0).events;
        let sessions = self.desks(&target).into_iter().map(async |(key, tsih, desk)| {
            let units = match &desk {
                Some(desk) => desk.units().await,
                None => Vec::new(),
            };
            let names = desk.as_ref().map(|desk| Arc::clone(&desk.paths));
            let trouble = |path: &String| trouble(&events, &target, &key.initiator, path);
            let troubles = names.iter().flat_map(|names| names.iter()).map(trouble).collect();
            let basis = desk.as_ref().map(|desk| Arc::clone(&desk.basis));
            SessionFacts { status: session_status((key.clone(), tsih, desk)).await, basis, units, troubles }
        });
        let sessions = futures_util::future::join_all(sessions).await;
        Ok(Explanation { target: target.clone(), table, probes, remembered, paths, sessions })
    }
}

/// The latest event of this kind.
fn trouble(events: &[Event], target: &str, initiator: &str, path: &str) -> Option<Event> {
    let bad = |kind| {
        matches!(kind, Kind::PathLost | Kind::PathUnreachable | Kind::PathSuspect | Kind::PathMarginal)
    };
    let own = |event: &&Event| {
        let about = &event.about;
        bad(event.kind)
            && about.target.as_deref() == Some(target)
            && about.initiator.as_deref() == Some(initiator)
            && about.path.as_deref() == Some(path)
    };
    events.iter().rev().find(own).cloned()
}
