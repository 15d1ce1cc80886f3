//! What `GET /v1/targets/TARGET/explain` says, as JSON: the shapes that server and command line share.

use super::view::Session;
use crate::proxy::auto::Probed;
use crate::proxy::events::Event;
use crate::proxy::explain;
use crate::proxy::operator::Basis;
use crate::proxy::verdict::Verdict;
use crate::session::{Barriers, Doubt, Fanout, PathState, PathStatus, Share, UnitStatus};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Why things are as they are with a target.
#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
pub struct Explanation {
    /// TargetName.
    pub target: String,
    /// `auto`, `mcs` or `sessions`; nothing if the configuration has the target no longer.
    pub mode: Option<String>,
    /// Whether its paths are those that portals tell of.
    pub discovered: bool,
    /// How the next session will be fanned out: `mcs` or `sessions`; nothing while that is not known.
    pub next_fanout: Option<String>,
    /// Why.
    pub next_why: String,
    /// Probes.
    pub probes: Vec<Probe>,
    /// What is remembered over restarts.
    pub remembered: Remembered,
    /// Its paths.
    pub paths: Vec<PathFacts>,
    /// Its sessions.
    pub sessions: Vec<SessionFacts>,
}

/// What a probe has come to.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct Probe {
    /// The name that was probed.
    pub target: String,
    /// `none`, `under-way` or `settled`.
    pub state: String,
    /// What was found out.
    pub steps: Vec<String>,
    /// What speaks against several connections in a session; nothing if they are sound, or it is not settled.
    pub objection: Option<String>,
}

/// What is remembered.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct Remembered {
    /// In which file; nothing if only as long as Braid runs.
    pub file: Option<String>,
    /// Verdicts of probes.
    pub verdicts: Vec<Probe>,
    /// Portal group tags that initiators were told, by target, or by portal and target.
    pub tags: BTreeMap<String, u16>,
}

/// A path, for all sessions.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
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
#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
pub struct SessionFacts {
    /// How it stands.
    pub session: Session,
    /// How it is fanned out, why, and what is guaranteed; nothing while it begins.
    pub guarantees: Option<Guarantees>,
    /// For each of its paths, in the order of `session.standing.paths`, what it does and why.
    pub paths: Vec<String>,
    /// Its units, of 64 at most.
    pub units: Vec<UnitFacts>,
}

/// What is guaranteed in a session.
#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
pub struct Guarantees {
    /// `mcs` or `sessions`.
    pub fanout: String,
    /// Why.
    pub why: String,
    /// How ORDERED commands and flushes are kept in order.
    pub order: String,
    /// What becomes of a session that loses a connection.
    pub loss: String,
    /// How it is made sure that nothing of a lost path is carried out late.
    pub fence: String,
}

/// A unit.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct UnitFacts {
    /// Its number.
    pub lun: u64,
    /// Who it is.
    pub who: Option<String>,
    /// For each path.
    pub paths: Vec<UnitPath>,
}

/// A unit over a path.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct UnitPath {
    /// Name of the path.
    pub path: String,
    /// Which of its commands may go there: `everything`, `blocks` (reads and writes), `reads` or `nothing`.
    pub may: String,
    /// Why no more.
    pub why: String,
}

impl From<explain::Explanation> for Explanation {
    fn from(told: explain::Explanation) -> Self {
        let (fanout, why) = told.next();
        let remembered = Remembered {
            file: told.remembered.file.map(|file| file.display().to_string()),
            verdicts: told
                .remembered
                .verdicts
                .iter()
                .map(|verdict| probe(&verdict.target, Some(verdict)))
                .collect(),
            tags: told.remembered.tags,
        };
        let path = |path: explain::PathFacts| PathFacts {
            name: path.name,
            portal: path.portal,
            out: path.out,
            ordered_weight: path.ordered_weight,
        };
        Self {
            mode: told.table.as_ref().map(|table| {
                let [mode, ..] = table.words();
                mode.to_owned()
            }),
            discovered: told.table.as_ref().is_some_and(|table| table.discover.is_some()),
            next_fanout: fanout.map(|fanout| word(fanout).to_owned()),
            next_why: why,
            probes: told.probes.iter().map(|(name, probed)| probe_of(name, probed)).collect(),
            remembered,
            paths: told.paths.into_iter().map(path).collect(),
            sessions: told.sessions.into_iter().map(session).collect(),
            target: told.target,
        }
    }
}

const fn word(fanout: Fanout) -> &'static str {
    match fanout {
        Fanout::Mcs => "mcs",
        Fanout::Sessions => "sessions",
    }
}

fn probe_of(name: &str, probed: &Probed) -> Probe {
    let (state, verdict) = match probed {
        Probed::Not => ("none", None),
        Probed::UnderWay => ("under-way", None),
        Probed::Settled(verdict) => ("settled", Some(&**verdict)),
    };
    Probe { state: state.to_owned(), ..probe(name, verdict) }
}

fn probe(name: &str, verdict: Option<&Verdict>) -> Probe {
    Probe {
        target: name.to_owned(),
        state: "settled".to_owned(),
        steps: verdict.map(Verdict::steps).unwrap_or_default(),
        objection: verdict.and_then(Verdict::objection).map(str::to_owned),
    }
}

fn session(facts: explain::SessionFacts) -> SessionFacts {
    let names = facts.status.standing.as_ref().map(|(names, _)| names.to_vec()).unwrap_or_default();
    let standing = facts.status.standing.iter().flat_map(|(_, status)| &status.paths);
    let paths =
        standing.zip(&facts.troubles).map(|(path, trouble)| words_of(path, trouble.as_ref())).collect();
    SessionFacts {
        paths,
        guarantees: facts.basis.as_deref().map(|basis| guarantees(basis, names.len())),
        units: facts.units.into_iter().map(|unit| unit_facts(unit, &names)).collect(),
        session: facts.status.into(),
    }
}

fn guarantees(basis: &Basis, paths: usize) -> Guarantees {
    let order = match basis.barriers {
        _ if paths == 1 => "the target keeps ORDERED commands and flushes in order: there is one path",
        Barriers::Strict => {
            "Braid sends an ORDERED command or a flush when what it must follow has completed"
        }
        Barriers::Native if basis.fanout == Fanout::Mcs => {
            "the target keeps ORDERED commands and flushes in order within home's session; what is lost with one of its connections may be overtaken"
        }
        Barriers::Native => {
            "the target keeps ORDERED commands and flushes in order within home's session, Braid across sessions"
        }
    };
    let loss = if basis.keeps_tasks {
        "home's session goes on without a connection that is cut, and its commands go on over another (ErrorRecoveryLevel 2)"
    } else {
        "a session that loses a connection is opened anew, and what was under way in it runs again"
    };
    let time = humantime::format_duration(basis.fence_time);
    Guarantees {
        fanout: word(basis.fanout).to_owned(),
        why: basis.why.to_owned(),
        order: order.to_owned(),
        loss: loss.to_owned(),
        fence: format!(
            "writes that were under way on a lost path hold back newer ones to the same blocks until a fence ({}), and for {time} at most",
            basis.fence_word()
        ),
    }
}

/// What a path does, and why no more.
fn words_of(path: &PathStatus, trouble: Option<&Event>) -> String {
    let trouble = trouble.map(|event| {
        format!("{} at {}: {}", event.kind.word(), humantime::format_rfc3339_millis(event.time), event.text)
    });
    let trouble = trouble.unwrap_or_default();
    let and = |words: &str| if trouble.is_empty() { words.to_owned() } else { format!("{trouble}; {words}") };
    match path.state {
        PathState::Drained => "taken out by the operator; `braid path restore` gives it back".to_owned(),
        PathState::Down => match path.retry_in {
            Some(time) => and(&format!("tried again in {:.1} s", time.as_secs_f64())),
            None => and("tried again when it is needed"),
        },
        PathState::Probing => and("a connection is being made"),
        PathState::Draining => "what is under way ends, and nothing new is sent".to_owned(),
        PathState::Suspect => {
            let why = match path.doubt {
                Some(Doubt::Resending) => "the kernel sends again and again",
                Some(Doubt::TargetSilent) => "the target does not answer",
                Some(Doubt::NoCarrier) => "its link has no carrier",
                Some(Doubt::Unacknowledged) | None => "what was sent is not acknowledged",
            };
            format!("{why}; nothing new is sent as long as another path is trusted")
        }
        PathState::Marginal => {
            let calm = path.calm_in.unwrap_or_default().as_secs_f64();
            and(&format!(
                "kept for emergencies: nothing new is sent as long as another path is better, for {calm:.0} s more if all is well"
            ))
        }
        PathState::Up if path.home => "carries everything: it is home".to_owned(),
        PathState::Up => "carries reads and writes of the units below".to_owned(),
    }
}

fn unit_facts(unit: UnitStatus, names: &[String]) -> UnitFacts {
    let path = |(name, (share, why)): (&String, (Share, String))| {
        let may = match share {
            Share::Nothing => "nothing",
            Share::Reads => "reads",
            Share::Blocks => "blocks",
            Share::Everything => "everything",
        };
        UnitPath { path: name.clone(), may: may.to_owned(), why }
    };
    UnitFacts { lun: unit.lun, who: unit.who, paths: names.iter().zip(unit.paths).map(path).collect() }
}
