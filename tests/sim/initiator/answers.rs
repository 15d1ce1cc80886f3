//! What it is told, and whether there was a reason for it.

use super::{ANYTHING, BLOCK, Initiator, Kind, Once, Pending, Reserving};
use crate::claims::{Claim, What};
use crate::oracle::Stamp;
use braid::iscsi::{
    DataIn, Itt, NopIn, NopOut, Pdu, R2t, ScsiResponse, TaskAttribute, TaskManagementResponse, Ttt, tmf,
};
use braid::scsi::Sense;
use braid::scsi::sense::status;
use braid::session::Barriers;
use std::time::Instant;

impl Initiator {
    /// A PDU of Braid.
    pub(super) fn receive(&mut self, pdu: Pdu, now: Instant) {
        let (stat_sn, expected, max) = pdu.target_numbers().unwrap();
        // What was sent before over another connection may come later.
        let ended = self.cold_reset == Some(true) && !self.has_lines();
        assert!(!ended, "R165: the session outlives a cold reset: {pdu:?}");
        self.max_cmd_sn = self.max_cmd_sn.max(max);
        if pdu.takes_stat_sn() {
            self.exp_stat_sn = stat_sn.next();
            self.heard_status(stat_sn.next());
        }
        match pdu {
            Pdu::R2t(r2t) => self.asked(&r2t),
            Pdu::DataIn(data) => self.data_in(&data, now),
            Pdu::ScsiResponse(response) => self.answered(&response, now),
            Pdu::TaskManagementResponse(answer) => self.managed(&answer, now),
            Pdu::NopIn(nop) => {
                let at = self.pings.iter().position(|tag| *tag == nop.itt.0);
                if nop.ttt != Ttt::NONE && self.has_lines() {
                    self.asked_to_answer(nop.ttt);
                } else if nop.itt != Itt::NONE {
                    self.pings.swap_remove(at.expect("R224: an echo of no ping"));
                } else if nop.ttt != Ttt::NONE {
                    self.show_life(&nop);
                }
            }
            Pdu::AsyncMessage(message) if message.event == 2 && self.has_lines() => {
                self.coverage.hit("lines: Braid tells of a connection that is gone");
                self.dropped.push(message.parameters[0]);
            }
            Pdu::LogoutResponse(answer) if self.line_logged_out(answer.itt, expected) => {
                assert_eq!(answer.response, 0, "R213: a connection that there was is not known");
            }
            Pdu::LogoutResponse(answer) => {
                assert_eq!(answer.response, 0, "P3: a logout refused");
                self.logged_out = true;
            }
            other => panic!("P3: the initiator did not expect {other}"),
        }
    }

    /// Braid asks whether it is there (R225).
    fn show_life(&mut self, ping: &NopIn) {
        self.coverage.hit("recovery: asked for a sign of life");
        self.out.push(Pdu::NopOut(NopOut {
            immediate: true,
            lun: ping.lun,
            itt: Itt::NONE,
            ttt: ping.ttt,
            cmd_sn: self.cmd_sn,
            exp_stat_sn: self.exp_stat_sn,
            ..NopOut::default()
        }));
    }

    fn asked(&mut self, r2t: &R2t) {
        let Some(pending) = self.pending.get(&r2t.itt.0) else { return };
        let data = pending.data.clone();
        let from = r2t.buffer_offset as usize;
        let to = from + r2t.desired_length as usize;
        assert!(to <= data.len(), "R125: asked beyond the end");
        self.send_data(r2t.itt.0, r2t.ttt, r2t.lun, &data, from..to);
    }

    fn data_in(&mut self, data: &DataIn, now: Instant) {
        let pending = self.pending.get_mut(&data.itt.0).expect("P3: data for no command");
        assert_eq!(data.buffer_offset as usize, pending.got.len(), "R126: data out of order");
        for chunk in data.data.chunks() {
            pending.got.extend_from_slice(chunk);
        }
        assert!(pending.got.len() <= pending.reads, "P3: more data than asked for");
        if data.has_status {
            let response = ScsiResponse { itt: data.itt, status: data.status, ..ScsiResponse::default() };
            self.answered(&response, now);
        }
    }

    fn answered(&mut self, response: &ScsiResponse, now: Instant) {
        let tag = response.itt.0;
        let pending = self.pending.remove(&tag).expect("P5: answered twice, or never asked");
        self.slowest = self.slowest.max(now.saturating_duration_since(pending.issued));
        assert_eq!(response.response, 0, "P3: the target failed");
        match response.status {
            0 => self.good(tag, &pending, now),
            2 => {
                let sense = response.sense().and_then(|s| Sense::parse(&s));
                let sense = sense.expect("R135: CHECK CONDITION without sense");
                self.failed(pending, sense, now);
            }
            0x18 => {
                self.coverage.hit("status: reservation conflict");
                let reserving = matches!(pending.kind, Kind::Reserve(_));
                // It may have met the reservation that somebody else's reset ended meanwhile.
                let reason = self.conditions.conflict(pending.unit) || pending.excused;
                if !reserving && !reason {
                    let write = !matches!(pending.kind, Kind::Read);
                    let (unit, issued) = (pending.unit, pending.issued);
                    self.claims.push(Claim { unit, issued, what: What::Conflict { write } });
                }
                self.settle_once(pending.kind, Once::DidNotRun);
                self.oracle.unknown(pending.op);
            }
            // Somebody else's reset took it, and the target says so.
            status::TASK_ABORTED if pending.excused && self.scenario.persona.task_aborted_status => {
                self.coverage.hit("status: task aborted");
                self.settle_once(pending.kind, Once::Unknown);
                self.oracle.unknown(pending.op);
            }
            // No path came back in time.
            status::BUSY if self.was_given_up(&pending) => {
                self.coverage.hit("status: busy while no path works");
                self.settle_once(pending.kind, Once::DidNotRun);
                self.oracle.unknown(pending.op);
            }
            // It has data that came before a unit attention, which Braid learned of too late.
            status::BUSY
                if matches!(pending.kind, Kind::Read | Kind::Query)
                    && self.scenario.persona.data_before_sense =>
            {
                self.coverage.hit("status: busy after data that may be anything");
                self.conditions.busy(pending.unit);
                self.oracle.unknown(pending.op);
            }
            other => panic!("P3: status {other:#x} without a reason"),
        }
    }

    /// One nexus answers an ORDERED command, or one that may change the unit, after all that came before it, and before all
    /// that came later (P1, R241, R244).
    fn judge_barriers(&self, tag: u32, done: &Pending) {
        let orderly = |p: &Pending| {
            let stateless = matches!(p.kind, Kind::Inquiry | Kind::Ready);
            !stateless && p.attribute != TaskAttribute::HeadOfQueue && !p.excused
        };
        let barrier = |p: &Pending| {
            p.naca || matches!(p.kind, Kind::Vendor { .. } | Kind::ModeSelect | Kind::Reserve(_))
        };
        // What is left to the target may pass what was lost with a connection, or what the target itself forgot.
        let setup = &self.scenario;
        let forgotten = setup.paths.len() == 1 && setup.persona.forgets;
        let left = setup.order.barriers == Barriers::Native || forgotten;
        let is_ordered = |p: &Pending| p.attribute == TaskAttribute::Ordered && !left || barrier(p);
        let earlier = |p: &&Pending| p.unit == done.unit && p.op < done.op && orderly(p);
        // What comes over different connections may cross on the way.
        let ending = |tag: &u32| self.ends(*tag);
        let known = |tag_of: &u32| self.share_a_line(*tag_of, tag) && !ending(tag_of);
        let behind = self.pending.iter().filter(|(other, _)| known(other)).map(|(_, p)| p);
        let passed = behind.filter(earlier).find(|p| is_ordered(p) || is_ordered(done));
        assert!(
            passed.is_none() || !orderly(done),
            "P1: {done:?} was answered before {passed:?}, one of them a barrier"
        );
    }

    /// A target that sends anything before sense data, and a path that was cut between the two: nobody can know.
    fn met_worst_data(&self, read: &Pending) -> bool {
        let anything = |block: &[u8]| block.iter().all(|byte| *byte == ANYTHING);
        self.scenario.persona.data_before_sense
            && self.conditions.has_lost_connections()
            && read.got.chunks(BLOCK).any(anything)
    }

    fn good(&mut self, tag: u32, pending: &Pending, now: Instant) {
        self.judge_barriers(tag, pending);
        let block_io = matches!(pending.kind, Kind::Read | Kind::Write | Kind::WriteOnce { .. });
        self.seen[pending.unit] |= block_io;
        match pending.kind {
            Kind::Read if self.met_worst_data(pending) => {
                self.coverage.hit("limit: data before sense, and a cut between the two");
                self.oracle.unknown(pending.op);
            }
            Kind::Read => {
                let blocks = pending.got.chunks(BLOCK);
                let stamps: Vec<Stamp> = blocks
                    .map(|block| {
                        let stamp = block.first_chunk().map_or(0, |s| Stamp::from_be_bytes(*s));
                        let whole = block.len() == BLOCK && block.chunks(8).all(|s| s == stamp.to_be_bytes());
                        assert!(whole, "P1: a torn block");
                        stamp
                    })
                    .collect();
                if self.crossed(tag, pending) && !self.oracle.is_legal(pending.op, &stamps) {
                    self.coverage.hit("limit: answers over two connections cross");
                    return self.oracle.unknown(pending.op);
                }
                self.oracle.read(pending.op, &stamps);
            }
            kind => {
                self.settle_once(kind, Once::Ran);
                if kind == Kind::ModeSelect {
                    self.conditions.mode_selected(pending.unit, now);
                }
                if let Kind::Reserve(what) = kind {
                    self.conditions.reserved(pending.unit, pending.op, what);
                    match what {
                        Reserving::Rekey(key) => self.keys[pending.unit] = key,
                        Reserving::Register => self.keys[pending.unit] = 0x42,
                        Reserving::Clear => self.keys[pending.unit] = 0,
                        _ => {}
                    }
                }
                if let Kind::Ask { full, allocation } = kind {
                    self.coverage.hit("registrations shown");
                    let scarred = self.conditions.scarred;
                    let what = What::Registered { full, allocation, data: pending.got.clone(), scarred };
                    self.claims.push(Claim { unit: pending.unit, issued: pending.issued, what });
                }
                self.oracle.done(pending.op, true);
            }
        }
    }

    /// A command ended with sense data.
    fn failed(&mut self, pending: Pending, sense: Sense, now: Instant) {
        let unit = pending.unit;
        match (sense.key, sense.asc, sense.ascq) {
            (0xe, 0x1d, 0) if matches!(pending.kind, Kind::Swap { .. }) => {
                self.coverage.hit("sense: miscompare");
                self.settle_once(pending.kind, Once::DidNotRun);
                self.oracle.done(pending.op, false);
                return;
            }
            (6, asc, ascq) => {
                self.coverage.hit("sense: unit attention");
                assert!(pending.kind != Kind::Inquiry, "P3: INQUIRY reports no unit attention");
                self.conditions.told(unit, pending.op, (asc, ascq), now);
                ((asc, ascq) == (0x29, 1)).then(|| self.oracle.power_loss_told(unit));
                self.settle_once(pending.kind, Once::DidNotRun);
            }
            (2, 4, 0x0a..=0x0c) => {
                self.coverage.hit("sense: not ready for the state of a port");
                if !matches!(pending.kind, Kind::Reserve(_)) {
                    self.conditions.refused(unit, pending.issued, now);
                }
                self.settle_once(pending.kind, Once::DidNotRun);
            }
            (3, ..) => {
                self.coverage.hit("sense: medium error");
                self.conditions.medium_error();
                self.settle_once(pending.kind, Once::Unknown);
            }
            (0xb, 0x29, 7) => {
                self.coverage.hit("sense: outcome unknown");
                let device_type = self.scenario.persona.device_type;
                let once = pending.naca || pending.kind.runs_once_on(device_type);
                let given_up = self.was_given_up(&pending);
                self.conditions.outcome_unknown(unit, once, pending.excused, given_up);
                match pending.kind {
                    Kind::ModeSelect => self.conditions.mode_maybe_changed(unit, now),
                    Kind::Reserve(_) => self.conditions.reservation_unknown(unit),
                    _ => {}
                }
                self.settle_once(pending.kind, Once::Unknown);
            }
            (4, 0x0c, 0) if matches!(pending.kind, Kind::Flush) => {
                self.coverage.hit("sense: what is in the cache of a target that is gone cannot be flushed");
                self.conditions.flush_failed(unit);
                self.oracle.flush_failed(pending.op);
            }
            (0xb, 0x11, 0x13) if self.reception.is_some() => {
                self.coverage.hit("sense: data that Braid had no more");
                self.settle_once(pending.kind, Once::Unknown);
            }
            (0xb, 0x47, 5) if self.reception.is_some() => {
                self.coverage.hit("sense: write data that never came");
                self.settle_once(pending.kind, Once::Unknown);
            }
            (5, 0x26 | 0x24, _) if matches!(pending.kind, Kind::Reserve(_) | Kind::Ask { .. }) => {}
            other => panic!("P3: sense {other:x?} without a reason, for {:?}", pending.kind),
        }
        self.oracle.unknown(pending.op);
    }

    fn managed(&mut self, answer: &TaskManagementResponse, now: Instant) {
        let function = self.functions.remove(&answer.itt.0).expect("P5: a function answered twice");
        if function.clears() {
            self.conditions.clears((!function.is_for_all()).then_some(function.unit), now);
        }
        match answer.response {
            tmf::COMPLETE => {
                self.coverage.hit("task management: complete");
                match function.code {
                    tmf::LOGICAL_UNIT_RESET => self.conditions.was_reset(Some(function.unit)),
                    tmf::TARGET_WARM_RESET => self.conditions.was_reset(None),
                    tmf::TARGET_COLD_RESET => self.cold_reset = Some(true),
                    _ => {}
                }
                for (itt, op) in function.concerned {
                    if self.pending.get(&itt).is_some_and(|p| p.op == op) {
                        self.unknown(itt);
                    }
                }
            }
            tmf::TASK_DOES_NOT_EXIST => {
                assert_eq!(function.code, tmf::ABORT_TASK, "P3: only a task can be missing");
                let (task, op) = function.concerned[0];
                let doomed = self.functions.values().any(|f| f.concerned.contains(&(task, op)));
                let open = self.pending.get(&task).filter(|p| p.op == op);
                let excused = open.is_some_and(|p| p.excused);
                // Some targets lose commands, and it takes an abort to find out.
                let gone = open.is_some() && (excused || self.scenario.persona.forgets);
                assert!(open.is_none() || doomed || gone, "R149: a task that exists was said not to");
                if gone {
                    self.unknown(task);
                }
            }
            tmf::NOT_SUPPORTED | tmf::REJECTED => {
                self.coverage.hit("task management: refused");
            }
            other => panic!("P3: task management answered {other}"),
        }
    }
}
