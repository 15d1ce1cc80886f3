//! Error recovery level 1 towards the initiator: what it lost to a digest is sent or asked for again, within the connection.
//!
//! What it did not get it asks for by SNACK, out of [`super::replay`]. An R-Data SNACK, which wants data cut anew because segments
//! may be shorter since, is refused. A command of which data were asked for in vain ends with CHECK CONDITION (R139).
//! Write data that came broken is asked for again by a recovery R2T ([`super::data`]); a command or ping that came broken
//! keeps its number open and is sent again by the initiator. After a bad header digest nobody knows where the next
//! PDU begins: the connection is closed at any level (R176).
//!
//! At level 0 nothing is kept, and a SNACK is refused. Each connection of the initiator's has what was sent over it.

use super::Session;
use super::api::{LineId, Notice};
use super::replay::{Gone, renew};
use super::tasks::TaskKey;
use crate::iscsi::pdu::{BHS_LEN, opcode, opcode_of};
use crate::iscsi::{DataOut, Itt, Pdu, ScsiResponse, SnackRequest, Ttt, reject};
use crate::scsi::Sense;
use crate::scsi::sense::key;
use std::time::Instant;

/// Types of SNACK (RFC 7143 section 11.16.1).
const DATA: u8 = 0;
const STATUS: u8 = 1;
const DATA_ACK: u8 = 2;

/// SNACK was rejected, and with it the command.
const LOST_DATA: Sense = Sense { key: key::ABORTED_COMMAND, asc: 0x11, ascq: 0x13 };

impl Session {
    /// Whether the initiator may ask again for what it lost.
    pub(super) const fn recovers(&self) -> bool {
        self.plan.downstream.session.error_recovery_level > 0
    }

    /// Keeps what is sent to the initiator.
    pub(super) fn keep(&mut self, line: LineId, pdu: &Pdu) {
        if !self.recovers() {
            return;
        }
        let (room, kept) = (self.room_to_keep(), self.lines.kept());
        let alive = self.tasks.find(pdu.itt()).is_some();
        if let Some(replay) = self.replay(line) {
            replay.note(pdu, alive, room.saturating_sub(kept - replay.bytes()));
        }
    }

    /// What the budget leaves for all connections.
    fn room_to_keep(&self) -> u64 {
        self.plan.memory_budget.saturating_sub(self.held + self.promised)
    }

    /// Write data goes before what is kept.
    pub(super) fn make_room(&mut self) {
        if !self.recovers() {
            return;
        }
        let mut room = self.room_to_keep();
        for replay in self.lines.iter_mut().filter_map(|line| line.replay.as_mut()) {
            replay.trim(room);
            room -= replay.bytes().min(room);
        }
    }

    /// Takes ExpStatSN. A DataACK comes before it: its data may go with the status that it acknowledges.
    pub(super) fn take_acknowledgements(&mut self, line: LineId, pdu: &Pdu, now: Instant) {
        if self.lines.are_several()
            && let Some(expected) = pdu.exp_stat_sn()
        {
            self.acknowledged(line, expected, now);
        }
        let Some(replay) = self.replay(line) else { return };
        let refused = if let Pdu::SnackRequest(snack) = pdu
            && snack.kind == DATA_ACK
        {
            replay.acknowledge_data(snack.ttt, snack.begin_run).is_err()
        } else {
            false
        };
        if let Some(expected) = pdu.exp_stat_sn() {
            replay.acknowledge(expected);
        }
        if refused {
            self.reject(line, pdu, reject::INVALID_DATA_ACK);
        }
    }

    pub(super) fn snack(&mut self, line: LineId, request: &SnackRequest) {
        let Some(replay) = self.replay(line) else {
            return self.reject(line, &Pdu::SnackRequest(request.clone()), reject::NOT_SUPPORTED);
        };
        let (begin, length) = (request.begin_run, request.run_length);
        let wanted = match request.kind {
            DATA_ACK => return,
            DATA => replay.run(request.itt, begin, length),
            STATUS => replay.responses(begin, length),
            _ => Err(Gone::Forgotten),
        };
        match wanted {
            Ok(pdus) => {
                let numbers = self.peek(line);
                for mut pdu in pdus {
                    renew(&mut pdu, numbers);
                    self.tell(line, pdu);
                }
            }
            Err(gone) => {
                self.reject(line, &Pdu::SnackRequest(request.clone()), gone.reason());
                if let (Gone::Forgotten, Some(key)) = (gone, self.tasks.find(request.itt))
                    && let Some(task) = self.tasks.get_mut(key)
                {
                    task.unrecovered = true;
                }
            }
        }
    }

    /// What a command is answered with if the initiator cannot have its data any more.
    pub(super) fn answer_to_lost_data() -> ScsiResponse {
        ScsiResponse::check_condition(&LOST_DATA.to_fixed())
    }

    /// A PDU of the initiator came broken.
    pub(super) fn downstream_spoilt(
        &mut self,
        line: LineId,
        header: &[u8; BHS_LEN],
        reason: u8,
        now: Instant,
    ) {
        self.reject_header(line, header, reason);
        let word = |at| header.get(at..).and_then(|rest| rest.first_chunk()).map(|b| u32::from_be_bytes(*b));
        let (Some(itt), Some(ttt)) = (word(16).map(Itt), word(20).map(Ttt)) else { return };
        let final_ = header.get(1).is_some_and(|flags| flags & 0x80 != 0);
        let own = |key: &TaskKey| self.tasks.get(*key).is_some_and(|task| task.line() == Some(line));
        let task = self.tasks.find(itt).filter(own);
        let digest = reason == reject::DATA_DIGEST;
        if digest {
            self.note(Notice::DownstreamDigest(match opcode_of(header) {
                opcode::DATA_OUT if task.is_none() => "write data that nobody needs",
                opcode::DATA_OUT if self.recovers() => "write data: asked for again",
                opcode::DATA_OUT => {
                    "write data, which are not asked for again at error recovery level 0: the session ends"
                }
                _ => "a request: rejected, so that the initiator sends it again",
            }));
        }
        match (opcode_of(header), task) {
            // Its unsolicited data are nobody's.
            (opcode::SCSI_COMMAND, None) => self.tasks.expect_remains(line, itt),
            (opcode::DATA_OUT, Some(key)) if self.recovers() && digest => {
                self.write_data_lost(key, ttt, final_, now);
            }
            (opcode::DATA_OUT, None) => {
                let lost = DataOut { final_, itt, ttt, data_sn: u32::MAX, ..DataOut::default() };
                self.follows_early(line, &lost);
            }
            // Below error recovery level 1 write data that is lost is not asked for again (R177).
            (opcode::DATA_OUT, Some(_)) if digest => self.begin_finish(now),
            (opcode::DATA_OUT, Some(_)) => self.downstream_broken("write data came broken", now),
            _ => {}
        }
    }

    /// Keeps unsolicited data of a command that waits for one that came spoilt before it, or comes over another connection; says
    /// whether it does.
    pub(super) fn follows_early(&mut self, line: LineId, data: &DataOut) -> bool {
        let first_burst = u64::from(self.plan.downstream.session.first_burst_length);
        (self.recovers() || self.lines.may_be_several()) && self.front.keep_data(line, data, first_burst)
    }

    /// Takes the data that came before the turn of their command, which is now.
    pub(super) fn take_early_data(&mut self, line: LineId, itt: Itt, now: Instant) {
        for data in self.front.take_data(itt) {
            self.data_out(line, &data, now);
        }
    }

    /// The rest of the sequence is of no use; when it has come, all that is missing is asked for again.
    fn write_data_lost(&mut self, key: TaskKey, ttt: Ttt, final_: bool, now: Instant) {
        let Some(task) = self.tasks.get_mut(key) else { return };
        let (itt, line) = (task.initiator_tag(), task.line());
        if task.inbound.lose(ttt, final_) {
            if let Some(line) = line.filter(|_| final_) {
                self.r2t_answered(line, itt, ttt);
            }
            self.data_came(key, 0, now);
            self.sequence_went_on(key, 0, now);
        }
    }

    /// A sequence of write data has ended: its R2T need not be sent again.
    pub(super) fn r2t_answered(&mut self, line: LineId, itt: Itt, ttt: Ttt) {
        if let Some(replay) = self.replay(line) {
            replay.answered(itt, ttt);
        }
    }
}
