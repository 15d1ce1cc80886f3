//! Where a drill happens, and how its actions are done and undone there.
//!
//! # What cannot stay
//! In the lab everything ends with the process, links of the kernel's too. A running Braid is told with each order how long it may last at most, a little
//! more than the scenario says, so that it gives the path back by itself should nobody be left to do so.

use super::braid::Braid;
use super::flags::DrillRun;
use super::scenario::{ALL, Action, Ground, Live, Load, Scenario, Span};
use crate::admin::view;
use crate::cli::exit::Failure;
use crate::cli::stage::{Laid, Plan, Stage};
use crate::cli::wire::Wire;
use crate::iscsi::Lun;
use crate::lab::cutter::Direction;
use crate::lab::initiator::InitiatorOptions;
use crate::lab::links::Cut;
use crate::proxy::operator::PathOrder;
use anyhow::{Context, anyhow};
use std::time::Duration;

/// How much longer than the scenario says a path may stay out.
const GRACE: Duration = Duration::from_secs(10);

/// The drill's own name as an initiator of a running Braid.
const INITIATOR: &str = "iqn.2026-01.org.braid:drill";

/// A place for a drill, set up.
pub(super) struct Scene<'r> {
    stage: Option<Stage>,
    braid: Braid<'r>,
    target: String,
    /// Sessions may be left without a path.
    force: bool,
}

impl<'r> Scene<'r> {
    /// Sets up the lab, or looks at the running Braid.
    ///
    /// # Errors
    /// It cannot be set up, no Braid answers, or it does not fit the scenario.
    pub(super) async fn set_up(scenario: &mut Scenario, asked: &'r DrillRun) -> Result<Self, Failure> {
        match &scenario.ground {
            Ground::Lab(_) if asked.last_path => Err(Failure::Wrong(
                "--last-path is for a running Braid (where = \"live\"); leave it out".to_owned(),
            )),
            Ground::Lab(plan) => {
                let laid = Laid::new(plan).await?;
                rehearse(&laid, plan, scenario).await?;
                let stage = Stage::set_up(plan, laid).await?;
                let (braid, target) = (Braid::Here(stage.operator()), stage.name().to_owned());
                Ok(Self { stage: Some(stage), braid, target, force: true })
            }
            Ground::Live(live) => {
                let live = live.clone();
                agree(&live, asked.last_path, &scenario.file)?;
                let braid = Braid::There(&asked.running);
                let target = one_target(braid.status().await?, live.target.as_deref())?;
                let spans = meet(&target, scenario)?;
                scenario.spans = spans;
                let (target, force) = (target.name, asked.last_path);
                let scene = Self { stage: None, braid, target, force };
                Ok(scene)
            }
        }
    }

    pub(super) const fn braid(&self) -> &Braid<'r> {
        &self.braid
    }

    /// The target's name.
    pub(super) fn target(&self) -> &str {
        &self.target
    }

    /// How the target stands.
    pub(super) fn find(&self, status: view::Status) -> Result<view::Target, Failure> {
        let found = status.targets.into_iter().find(|target| target.name == self.target);
        found.ok_or_else(|| anyhow!("the target {} is gone", self.target).into())
    }

    /// Where the drill's own load logs in.
    pub(super) fn initiator(&self, load: &Load) -> InitiatorOptions {
        match (&self.stage, &load.scratch) {
            (Some(stage), _) => stage.initiator(),
            (None, scratch) => {
                let (portal, lun) = scratch.as_ref().map_or(("", 0), |unit| (unit.portal.as_str(), unit.lun));
                let options = InitiatorOptions::new(portal, &self.target);
                InitiatorOptions { name: INITIATOR.to_owned(), lun: Lun::from_number(lun), ..options }
            }
        }
    }

    /// Does it. With `down` false, what flaps is up for a while.
    ///
    /// # Errors
    /// Braid refuses, or does not answer.
    pub(super) async fn act(&self, span: &Span, down: bool) -> Result<(), Failure> {
        let path = (self.target.as_str(), span.path.as_str());
        let limit = span.to - span.from + GRACE;
        if let Some(order) = order(span.action) {
            if !self.force {
                self.spare(&span.path).await?;
            }
            return self.braid.take_out(path, order, self.force, limit).await;
        }
        if span.action == Action::StopTarget {
            self.lab()?.target().set_stopped(true);
            return Ok(());
        }
        Ok(begin(self.wire(span)?, span.action, down).await?)
    }

    /// Makes sure that there is another path: for every session one that works, and for those to come one that is not out.
    async fn spare(&self, path: &str) -> Result<(), Failure> {
        let target = self.find(self.braid.status().await?)?;
        let standings = target.sessions.iter().filter_map(|session| session.standing.as_ref());
        let works = |own: &view::Path| own.name != path && own.state == "up";
        let needed = standings.filter(|standing| !standing.paths.iter().any(works)).count();
        if needed == 0 && target.paths.iter().any(|own| own.name != path && !own.out) {
            return Ok(());
        }
        Err(anyhow!(
            "it is the last path that works, for {needed} sessions; a drill takes it out only with last_path = true in \
             [live] and --last-path on the command line"
        )
        .into())
    }

    /// Undoes it.
    ///
    /// # Errors
    /// Braid does not answer.
    pub(super) async fn undo(&self, span: &Span) -> Result<(), Failure> {
        if order(span.action).is_some() {
            return self.braid.give_back((&self.target, &span.path)).await;
        }
        if span.action == Action::StopTarget {
            self.lab()?.target().set_stopped(false);
            return Ok(());
        }
        Ok(end(self.wire(span)?, span.action).await?)
    }

    /// What to say of a span that could not be undone.
    pub(super) fn consolation(&self, span: &Span) -> String {
        let limit = humantime::format_duration(span.to - span.from + GRACE);
        format!("Braid gives {} back by itself, {limit} after it was taken out", span.path)
    }

    /// Ends what was set up.
    pub(super) async fn tear_down(self) {
        if let Some(stage) = self.stage {
            stage.tear_down().await;
        }
    }

    fn lab(&self) -> Result<&Stage, Failure> {
        self.stage.as_ref().ok_or_else(|| Failure::Bug("an action of the lab in a running Braid".to_owned()))
    }

    fn wire(&self, span: &Span) -> Result<&Wire, Failure> {
        Ok(self.lab()?.link_named(&span.path).with_context(|| format!("no link {}", span.path))?)
    }
}

/// What Braid is told, if it is told something.
fn order(action: Action) -> Option<PathOrder> {
    let orders = [(Action::Drain, PathOrder::Drain), (Action::Fail, PathOrder::Fail)];
    orders.into_iter().find(|(own, _)| *own == action).map(|(_, order)| order)
}

/// Does to a link what is asked for. With `down` false, what flaps is up for a while.
async fn begin(wire: &Wire, action: Action, down: bool) -> anyhow::Result<()> {
    match action {
        Action::Flap { .. } if !down => wire.heal().await,
        Action::Reset | Action::Flap { reset: true, .. } => wire.cut(Cut::Reset).await,
        Action::Silent | Action::Flap { reset: false, .. } => wire.cut(Cut::Drop).await,
        Action::HalfOpen(Direction::ToTarget) => wire.cut(Cut::DropOut).await,
        Action::HalfOpen(Direction::ToInitiator) => wire.cut(Cut::DropIn).await,
        Action::Lossy(one_in) => wire.cut(Cut::Loss(one_in)).await,
        Action::Unplug => wire.unplug().await,
        Action::Slow(slow) => wire.slow(slow).await,
        Action::StopTarget | Action::Drain | Action::Fail | Action::Heal => Ok(()),
    }
}

/// Undoes it.
async fn end(wire: &Wire, action: Action) -> anyhow::Result<()> {
    match action {
        Action::Reset | Action::Silent | Action::HalfOpen(_) | Action::Lossy(_) | Action::Flap { .. } => {
            wire.heal().await
        }
        Action::Unplug => wire.plug().await,
        Action::Slow(_) => wire.as_usual().await,
        Action::StopTarget | Action::Drain | Action::Fail | Action::Heal => Ok(()),
    }
}

/// Does and undoes each action once on links of the kernel's, as long as nothing goes over them: what the machine lacks is known
/// before the drill begins.
async fn rehearse(laid: &Laid, plan: &Plan, scenario: &Scenario) -> Result<(), Failure> {
    for span in scenario.spans.iter().filter(|_| plan.real) {
        let Some(wire) = laid.link_named(&span.path) else { continue };
        begin(wire, span.action, true).await?;
        end(wire, span.action).await?;
    }
    Ok(())
}

/// What only both together may do: the scenario and the command line.
fn agree(live: &Live, flag: bool, file: &str) -> Result<(), Failure> {
    let complaint = match (live.last_path, flag) {
        (true, false) => {
            format!(
                "{file} may take out the last path of a session (last_path = true): run it with --last-path if that is meant"
            )
        }
        (false, true) => {
            format!(
                "--last-path is given, but {file} does not say last_path = true in [live]: both are needed"
            )
        }
        (true, true) | (false, false) => return Ok(()),
    };
    Err(Failure::Wrong(complaint))
}

fn one_target(status: view::Status, named: Option<&str>) -> Result<view::Target, Failure> {
    let names: Vec<_> = status.targets.iter().map(|target| target.name.clone()).collect();
    let mut fitting =
        status.targets.into_iter().filter(|target| named.is_none_or(|name| target.name == name));
    match (fitting.next(), fitting.next()) {
        (Some(only), None) => Ok(only),
        (Some(_), Some(_)) => {
            let names = names.join(", ");
            Err(Failure::Wrong(format!(
                "write which target is drilled, target = \"...\" in [live]; there are {names}"
            )))
        }
        (None, _) => {
            let named = named.map_or_else(String::new, |named| format!(" \"{named}\""));
            let names = names.join(", ");
            Err(Failure::Wrong(format!("that Braid has no target{named}; it has: {names}")))
        }
    }
}

/// The spans as the target's paths have them; complains of paths that are not there, or out already.
fn meet(target: &view::Target, scenario: &Scenario) -> Result<Vec<Span>, Failure> {
    let mut spans = Vec::new();
    let mut complaints = Vec::new();
    for span in &scenario.spans {
        let step = scenario.steps.get(span.step);
        let line = step.map_or(0, |step| step.line);
        let meant: Vec<_> =
            target.paths.iter().filter(|path| span.path == ALL || path.name == span.path).collect();
        if meant.is_empty() {
            let known: Vec<_> = target.paths.iter().map(|path| path.name.as_str()).collect();
            let known = known.join(", ");
            complaints.push(format!(
                "{}:{line}: step.paths: {} has no path \"{}\"; it has: {known}",
                scenario.file, target.name, span.path
            ));
        }
        for path in &meant {
            if path.out {
                complaints.push(format!(
                    "{}:{line}: step.paths: {} is taken out already, and would be given back at the end; give it back \
                     first (braid path restore {})",
                    scenario.file, path.name, path.name
                ));
            }
        }
        spans.extend(meant.iter().map(|path| Span { path: path.name.clone(), ..span.clone() }));
    }
    if complaints.is_empty() { Ok(spans) } else { Err(Failure::Wrong(complaints.join("\n"))) }
}
