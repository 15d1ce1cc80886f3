//! What goes wrong.

use super::{Happening, World};
use crate::inventory;
use crate::net::{Dir, End, Link, Role};
use crate::scenario::Fault;
use crate::target::{Deed, LunChange};
use braid::iscsi::tmf;
use braid::session::{PathId, Session};
use std::time::Duration;

/// A target needs some time to boot.
const BETWEEN_POWER_CUTS: Duration = Duration::from_secs(60);
/// How often a cut looks whether the one before is over.
const BETWEEN_CUTS: Duration = Duration::from_millis(50);

impl World {
    pub(super) fn go_wrong(&mut self, fault: Fault) {
        if self.healing {
            return;
        }
        if self.is_too_early(fault) {
            return;
        }
        self.coverage.hit(fault.name());
        self.trace(&[6], || format!("*** {fault:?}"));
        match fault {
            Fault::Reset(path) => self.reset(path),
            Fault::Fin(path) => self.of_path(path).into_iter().for_each(|w| self.target_drops(w)),
            Fault::Silence(path, up, down, how_long) => self.silence(path, up, down, how_long),
            Fault::Flap(path) => {
                for n in 0..self.random.below(6) {
                    let pause = self.random.between(Duration::ZERO, Duration::from_millis(700));
                    self.after(pause * u32::try_from(n).unwrap(), Happening::Fault(Fault::Reset(path)));
                }
                self.silence(path, true, true, Duration::from_millis(300));
            }
            Fault::SlowDrain(path, how_long) => self.silence(path, true, false, how_long),
            Fault::Down(path, how_long) => {
                self.links[path].refuses = Some(self.now + how_long);
                self.reset(path);
            }
            Fault::AllDown(how_long) => self.down(|_, _| true, how_long),
            Fault::Clog(how_long) => self.clog(how_long),
            Fault::TargetRestart => {
                self.targets[0].restart(self.now);
                self.drain_target(0);
            }
            Fault::PowerCut => self.power_cut(),
            Fault::HeadLosesPower(head) => self.head_loses_power(head),
            Fault::HeadDown(head, how_long) => {
                self.down(|w, path| w.scenario.heads.of(w.scenario.paths[path].group) == head, how_long)
            }
            Fault::BraidCrash { host } => self.braid_dies(host),
            Fault::InitiatorCrash => {
                self.initiator_loses_all();
            }
            Fault::InitiatorLogout => self.initiator_logs_out(),
            Fault::LineLost => self.reset_line(),
            Fault::LineLeaves => self.line_leaves(),
            Fault::InitiatorPauses(how_long) => {
                self.set_paused(true);
                self.after(how_long, Happening::Resume);
            }
            Fault::ForeignReset
            | Fault::ForeignClear
            | Fault::ForeignModeSelect
            | Fault::ForeignReserve
            | Fault::ForeignPreempt
            | Fault::Foreign(_)
            | Fault::MediaError
            | Fault::AccessShifts(_)
            | Fault::AsyncLogout(_) => self.somebody_else(fault),
            Fault::Operator(order) => self.order(order),
            Fault::Luns(change) => self.change_luns(change),
            Fault::AbortTask => self.manage(tmf::ABORT_TASK),
            Fault::AbortTaskSet => self.manage(tmf::ABORT_TASK_SET),
            Fault::ClearTaskSet => self.manage(tmf::CLEAR_TASK_SET),
            Fault::ResetUnit => self.manage(tmf::LOGICAL_UNIT_RESET),
            Fault::ResetTarget => self.manage(tmf::TARGET_WARM_RESET),
            Fault::ColdReset => self.manage(tmf::TARGET_COLD_RESET),
        }
    }

    /// Whether something must not go wrong yet; then it does later, if it still can.
    fn is_too_early(&mut self, fault: Fault) -> bool {
        // Which of two disks is the right one is settled by what home shows first, and that may last: without access, or while
        // somebody else has reserved them.
        if self.scenario.may_mislead() && !self.initiator.has_seen_all() {
            if self.initiator.issued < self.scenario.commands {
                let pause = if self.scenario.access.is_some() { 50 } else { 20 };
                self.after(Duration::from_millis(pause), Happening::Fault(fault));
            }
            return true;
        }
        if self.stall.is_some() && !self.is_well() {
            self.after(BETWEEN_CUTS, Happening::Fault(fault));
            return true;
        }
        false
    }

    /// Whether all links speak, and Braid has and trusts a connection over each.
    fn is_well(&self) -> bool {
        let speaks = |link: &Link| !link.is_silent(Dir::Up, self.now) && !link.is_silent(Dir::Down, self.now);
        let suspect =
            |session: &Session| (0..self.scenario.paths.len()).any(|p| session.is_suspect(PathId(p)));
        self.links.iter().all(speaks) && self.missing_path().is_none() && !self.session().is_some_and(suspect)
    }

    fn initiator_logs_out(&mut self) {
        if self.initiator.logged_in {
            self.initiator.log_out();
            self.send_downstream();
        }
    }

    fn change_luns(&mut self, change: LunChange) {
        self.initiator.conditions.other_luns_changed();
        self.targets[0].change_luns(inventory::GROUP, change, self.now);
        self.drain_target(0);
    }

    fn manage(&mut self, code: u8) {
        self.initiator.manage(code, self.now);
        self.send_downstream();
    }

    /// Connections of a path, as Braid sees it.
    pub(super) fn of_path(&self, path: usize) -> Vec<u32> {
        let open = |(n, w): (usize, &crate::net::Wire)| {
            let here = w.link == path && w.near == End::Open && w.role != Role::Downstream;
            here.then(|| u32::try_from(n).unwrap())
        };
        self.wires.iter().enumerate().filter_map(open).collect()
    }

    /// Something on the way resets the path's connections, towards both ends or one first.
    fn reset(&mut self, path: usize) {
        for wire in self.of_path(path) {
            match self.random.below(3) {
                0 => self.target_drops(wire),
                1 => self.break_near(wire, "connection reset"),
                _ => {
                    self.far_gone(wire);
                    self.break_near(wire, "connection reset");
                }
            }
        }
    }

    /// The target's end closes, and its TCP tells Braid's.
    fn target_drops(&mut self, wire: u32) {
        let which = usize::from(self.scenario.paths[self.wires[wire as usize].link].wrong);
        if self.wires[wire as usize].far == End::Open {
            self.far_closes(wire);
            self.targets[which].closed(wire, self.now);
            self.drain_target(which);
        }
    }

    fn silence(&mut self, path: usize, up: bool, down: bool, how_long: Duration) {
        let until = self.now + how_long;
        // Acknowledgements that have come by now are not lost.
        let now = self.now;
        let speaks = down && !self.links[path].is_silent(Dir::Down, now);
        self.wires.iter_mut().filter(|w| w.link == path && speaks).for_each(|w| w.kernel.hear(now));
        for (dir, wanted) in [(Dir::Up, up), (Dir::Down, down)] {
            if wanted {
                self.links[path].silence(dir, until);
            }
        }
        if up && down && self.scenario.order.told_of_links {
            self.carrier(path, false);
        }
        self.schedule(until, Happening::Heal { link: path });
    }

    fn clog(&mut self, how_long: Duration) {
        let count = self.scenario.paths.len();
        for path in 0..count {
            let ends = how_long * u32::try_from(count - path).unwrap();
            self.silence(path, true, true, ends);
        }
    }

    /// Over some paths new connections are refused for a while, and those there are reset.
    fn down(&mut self, which: impl Fn(&Self, usize) -> bool, how_long: Duration) {
        for path in 0..self.scenario.paths.len() {
            if which(self, path) {
                self.links[path].refuses = Some(self.now + how_long);
                self.reset(path);
            }
        }
    }

    fn head_loses_power(&mut self, head: usize) {
        if self.power_cut_at.is_some_and(|at| self.now < at + BETWEEN_POWER_CUTS) {
            return;
        }
        self.power_cut_at = Some(self.now);
        let event = self.targets[0].head_loses_power(head, self.now);
        let target = &self.targets[0];
        self.initiator.oracle.head_lost_power(|unit, lba| target.block(unit, lba));
        self.initiator.conditions.power_on(event);
        self.drain_target(0);
    }

    fn power_cut(&mut self) {
        // Nobody could tell two attentions of power on apart that come at the same time.
        if self.power_cut_at.is_some_and(|at| self.now < at + BETWEEN_POWER_CUTS) {
            return;
        }
        self.power_cut_at = Some(self.now);
        let event = self.targets[0].power_cut(self.now);
        let target = &self.targets[0];
        self.initiator.oracle.power_cut(|unit, lba| target.block(unit, lba));
        self.initiator.conditions.power_on(event);
        self.drain_target(0);
    }

    fn somebody_else(&mut self, fault: Fault) {
        let unit = self.random.below(self.scenario.units);
        let target = &mut self.targets[0];
        match fault {
            Fault::ForeignReset => {
                let event = target.foreign_reset(unit);
                self.initiator.conditions.foreign_reset(event, unit);
                self.initiator.excuse(unit);
            }
            Fault::ForeignClear => {
                if let Some(event) = target.foreign_clear(unit) {
                    self.initiator.conditions.foreign_clear(event, unit);
                    self.initiator.excuse(unit);
                }
            }
            Fault::ForeignModeSelect => {
                let event = target.foreign_mode_select(unit);
                self.initiator.conditions.mode_changed(event, unit);
            }
            Fault::ForeignReserve => {
                let holds = target.foreign_reserve(unit);
                self.initiator.conditions.foreign_reserves(unit, holds);
            }
            Fault::ForeignPreempt => {
                if let Some(event) = target.foreign_preempt(unit) {
                    self.initiator.conditions.preempted(event, unit);
                }
            }
            Fault::Foreign(deed) => {
                if let Some((event, code, home)) = target.foreign_deed(unit, deed) {
                    self.initiator.conditions.interfered(event, unit, code, home);
                }
                if matches!(deed, Deed::Preempt { abort: true, .. }) {
                    self.initiator.excuse(unit);
                }
            }
            Fault::MediaError => {
                let choice = self.random.below(1000);
                if target.media_error(choice) {
                    self.initiator.conditions.expect_medium_error();
                }
            }
            Fault::AccessShifts(group) => target.shift_access(unit, group, self.now),
            Fault::AsyncLogout(path) => {
                for wire in self.of_path(path) {
                    self.targets[0].async_logout(wire, 3);
                }
            }
            _ => {}
        }
        self.drain_target(0);
    }
}
