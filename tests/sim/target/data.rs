//! Commands as they arrive, and the data that goes with them, both ways.

use super::Target;
use super::commands::{Op, Outcome};
use super::device::{Asked, State, Task};
use super::trigger::Trigger;
use crate::initiator::ANYTHING;
use braid::iscsi::{DataIn, DataOut, Payload, Pdu, R2t, ScsiCommand, ScsiResponse, Ttt};
use braid::scsi::sense::status;

impl Target {
    /// A command's turn has come.
    pub(super) fn arrive(&mut self, conn: u32, session: usize, mut command: ScsiCommand) {
        self.judge_command(session, &command);
        let op = Op::parse(&command.cdb.0);
        if let Some(outcome) = self.traded(conn, session, command.lun, op) {
            self.respond(conn, &command, 0, outcome);
            return;
        }
        let Some(unit) = self.unit_of(session, command.lun) else {
            let outcome = self.no_such_unit(session, &command);
            self.respond(conn, &command, 0, outcome);
            return;
        };
        if self.persona.attention_on_arrival
            && command.final_
            && let Some(outcome) = self.attention((conn, session), unit, op, command.itt)
        {
            self.count(Trigger::AttentionOnArrival);
            self.respond(conn, &command, 0, outcome);
            return;
        }
        let counted = !command.immediate;
        self.sessions[session].open += u32::from(counted);
        let data = std::mem::take(&mut command.data);
        let wanted = if command.write { command.expected_length as usize } else { 0 };
        let burst = self.sessions[session].params.first_burst_length.min(command.expected_length);
        let end = if command.final_ { data.len() } else { burst as usize };
        self.next_age += 1;
        self.tasks.push(Task {
            age: self.next_age,
            place: self.next_age,
            session,
            conn,
            unit,
            op,
            command,
            data,
            wanted,
            asked: Asked { ttt: Ttt::NONE, end, data_sn: 0 },
            r2ts: 0,
            state: State::Collecting(self.entered_at()),
            counted,
            entered: self.entered_at(),
            ghost: false,
        });
        let itt = self.tasks[self.tasks.len() - 1].command.itt;
        self.collect(self.tasks.len() - 1);
        let kept = std::mem::take(&mut self.sessions[session].early_data);
        let (mine, others) = kept.into_iter().partition(|(from, d)| *from == conn && d.itt == itt);
        self.sessions[session].early_data = others;
        let mine: Vec<(u32, DataOut)> = mine;
        mine.iter().for_each(|(from, data)| self.data_out(*from, data));
    }

    /// What a command must not do.
    fn judge_command(&self, session: usize, command: &ScsiCommand) {
        let params = &self.sessions[session].params;
        let (itt, data) = (command.itt, command.data.len());
        let open = |t: &&Task| t.session == session && t.command.itt == itt && self.conn(t.conn).is_some();
        assert!(!self.tasks.iter().any(|t| open(&t)), "R107: task tag {itt:?} used twice: {command:?}");
        assert!(command.write || command.final_, "R131: neither W nor F: {command:?}");
        assert!(data == 0 || command.write && params.immediate_data, "R122: immediate data: {command:?}");
        assert!(command.final_ || !params.initial_r2t, "R122: unsolicited data: {command:?}");
        let most = params.first_burst_length.min(command.expected_length) as usize;
        assert!(data <= most, "R121: {data} bytes of immediate data, {most} allowed: {command:?}");
        assert!(data <= self.persona.segment as usize, "R127: {data} bytes of immediate data: {command:?}");
    }

    pub(super) fn data_out(&mut self, conn: u32, pdu: &DataOut) {
        let waiting = |t: &Task| t.conn == conn && t.command.itt == pdu.itt;
        let Some(at) = self.tasks.iter().position(waiting) else {
            self.keep_early_data(conn, pdu);
            return;
        };
        let now = self.entered_at();
        let (task, segment) = (&mut self.tasks[at], self.persona.segment as usize);
        assert!(task.state.is_collecting(), "R124: data that was not asked for: {pdu:?}");
        assert!(pdu.ttt == task.asked.ttt, "R124: {:?} asked, not {:?}", task.asked.ttt, pdu.ttt);
        assert!(pdu.ttt == Ttt::NONE || pdu.lun == task.command.lun, "R124: another LUN than the R2T's");
        assert!(pdu.data_sn == task.asked.data_sn, "R126: DataSN {} expected: {pdu:?}", task.asked.data_sn);
        let (from, end) = (task.data.len(), task.data.len() + pdu.data.len());
        assert!(pdu.buffer_offset as usize == from, "R124: offset {from} expected: {pdu:?}");
        assert!(pdu.data.len() <= segment, "R127: the target takes {segment} bytes at a time: {pdu:?}");
        assert!(
            end <= task.asked.end,
            "R124: data beyond {}, which was not asked for: {pdu:?}",
            task.asked.end
        );
        assert!(
            pdu.final_ == (end == task.asked.end),
            "R124: F belongs to the last PDU of a sequence: {pdu:?}"
        );
        task.asked.data_sn += 1;
        task.data.append(&pdu.data);
        task.state = State::Collecting(now);
        self.collect(at);
    }

    /// Data of a command that waits for its number is kept; of one that was ended it is not.
    fn keep_early_data(&mut self, conn: u32, pdu: &DataOut) {
        let Some(session) = self.conn(conn).map(|c| c.session) else { return };
        let early = self.sessions[session].early.values().flatten();
        let waits = |(from, kept): &(u32, Pdu)| *from == conn && kept.itt() == pdu.itt;
        if early.into_iter().any(waits) {
            self.sessions[session].early_data.push((conn, pdu.clone()));
        }
    }

    /// Asks for what is missing, or hands a command that has all to the device.
    pub(super) fn collect(&mut self, at: usize) {
        let burst = self.sessions[self.tasks[at].session].params.max_burst_length as usize;
        let ttt = self.new_ttt();
        let task = &mut self.tasks[at];
        let have = task.data.len();
        if have >= task.wanted {
            self.enter(at);
            return;
        }
        if have < task.asked.end {
            return;
        }
        let length = (task.wanted - have).min(burst);
        task.asked = Asked { ttt, end: have + length, data_sn: 0 };
        let (conn, itt, lun, r2t_sn) = (task.conn, task.command.itt, task.command.lun, task.r2ts);
        task.r2ts += 1;
        let (from, length) = (u32::try_from(have).unwrap(), u32::try_from(length).unwrap());
        self.reply(conn, false, |stat_sn, exp_cmd_sn, max_cmd_sn| {
            let (buffer_offset, desired_length) = (from, length);
            let numbers = R2t { stat_sn, exp_cmd_sn, max_cmd_sn, ..R2t::default() };
            Pdu::R2t(R2t { lun, itt, ttt, r2t_sn, buffer_offset, desired_length, ..numbers })
        });
    }

    /// Write data stayed away too long.
    pub(super) fn data_late(&mut self, at: usize) {
        let session = self.tasks[at].session;
        self.count(Trigger::DataLate);
        self.kill_session(session);
    }

    /// Read data, if any, from a DataSN on, and status.
    pub(super) fn say(
        &mut self,
        conn: u32,
        command: &ScsiCommand,
        (r2ts, exp_data_sn): (u32, u32),
        outcome: Outcome,
    ) {
        let (code, data, sense) = match outcome {
            Outcome::Good => (status::GOOD, Vec::new(), Payload::new()),
            Outcome::Data(data) => (status::GOOD, data, Payload::new()),
            Outcome::Status(code) => (code, Vec::new(), Payload::new()),
            Outcome::Sense(sense) => {
                (status::CHECK_CONDITION, Vec::new(), ScsiResponse::sense_data(&sense.to_fixed()))
            }
        };
        let expected = if command.read { command.expected_length as usize } else { 0 };
        let before_sense = code == status::CHECK_CONDITION && self.persona.data_before_sense && expected > 0;
        let data = if before_sense {
            self.count(Trigger::DataBeforeSense);
            vec![ANYTHING; expected]
        } else {
            data
        };
        let (overflow, underflow) = (data.len() > expected && command.read, data.len() < expected);
        let residual = u32::try_from(data.len().abs_diff(expected)).unwrap();
        let residual = if overflow || underflow { residual } else { 0 };
        let length = data.len().min(expected);
        let collapse = length > 0 && length <= self.persona.collapses && !before_sense;
        let ending = ScsiResponse {
            overflow,
            underflow,
            status: code,
            itt: command.itt,
            residual,
            data: sense,
            ..ScsiResponse::default()
        };
        let count = self.data_in(conn, &Payload::from(data), (length, exp_data_sn), &ending, collapse);
        if collapse {
            self.count(Trigger::Collapsed);
            return;
        }
        self.reply(conn, true, |stat_sn, exp_cmd_sn, max_cmd_sn| {
            let exp_data_sn = count + r2ts;
            Pdu::ScsiResponse(ScsiResponse { stat_sn, exp_cmd_sn, max_cmd_sn, exp_data_sn, ..ending })
        });
    }

    /// Sends read data from a DataSN on, with the status in its last PDU if wanted; returns the number of PDUs.
    fn data_in(
        &mut self,
        conn: u32,
        data: &Payload,
        (length, exp_data_sn): (usize, u32),
        ending: &ScsiResponse,
        collapse: bool,
    ) -> u32 {
        let Some((session, segment)) = self.conn(conn).map(|c| (c.session, c.segment)) else { return 0 };
        let burst = self.sessions[session].params.max_burst_length as usize;
        let (mut at, mut data_sn) = (0, 0);
        while at < length {
            let size = segment.min(length - at).min(burst - at % burst);
            let last = at + size == length;
            let status = (last && collapse).then_some(ending);
            let piece = data.slice(at, size);
            if data_sn < exp_data_sn {
                assert!(status.is_none(), "R191: data acknowledged that had the status, and the status not");
                (at, data_sn) = (at + size, data_sn + 1);
                continue;
            }
            self.reply(conn, status.is_some(), |stat_sn, exp_cmd_sn, max_cmd_sn| {
                Pdu::DataIn(DataIn {
                    final_: last || (at + size).is_multiple_of(burst),
                    overflow: status.is_some_and(|s| s.overflow),
                    underflow: status.is_some_and(|s| s.underflow),
                    residual: status.map_or(0, |s| s.residual),
                    has_status: status.is_some(),
                    itt: ending.itt,
                    stat_sn,
                    exp_cmd_sn,
                    max_cmd_sn,
                    data_sn,
                    buffer_offset: u32::try_from(at).unwrap(),
                    data: piece,
                    ..DataIn::default()
                })
            });
            at += size;
            data_sn += 1;
        }
        assert!(exp_data_sn <= data_sn, "R191: {exp_data_sn} PDUs of data acknowledged, {data_sn} sent");
        data_sn
    }
}
