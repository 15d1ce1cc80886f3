//! What went to the initiator and is not acknowledged, for an initiator that asks again for what it lost (error recovery
//! level 1; RFC 7143 sections 7.2.1, 11.16).
//!
//! Numbered responses stay until ExpStatSN has passed them; Data-In and R2T PDUs until the status of their task is acknowledged,
//! Data-In until a DataACK, and R2Ts until they are answered. Payload is shared with what was sent, but counts as memory: beyond
//! [`MOST_PDUS`], or the room that the budget leaves, the data of the oldest task goes. Responses, which are small as no data
//! travels with them here, have bounds of their own. What is asked for and gone is refused as the RFC allows it ([`Gone`]);
//! data that the initiator cannot have any more ends its command ([`super::snack`]).
//!
//! Invariants: `first` is the number of the front of `responses`; `bytes` and `pdus` count what all tasks hold, `response_bytes` what
//! the responses do; PDUs of a task ascend, and all of them are at `dropped` or later.

use crate::iscsi::{CmdSn, Itt, Pdu, StatSn, Ttt, reject};
use std::collections::{BTreeMap, VecDeque};

/// Data-In and R2T PDUs kept, at most.
const MOST_PDUS: usize = 16_384;

/// Responses kept, at most, and bytes of sense data and the like in them.
const MOST_RESPONSES: usize = 4096;
const MOST_RESPONSE_BYTES: usize = 256 << 10;

/// Why something is not sent again: the reason of the Reject.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Gone {
    /// It was never sent, or is acknowledged (R172).
    Never,
    /// It was not kept.
    Forgotten,
}

impl Gone {
    pub(super) const fn reason(self) -> u8 {
        match self {
            Self::Never => reject::PROTOCOL_ERROR,
            Self::Forgotten => reject::SNACK,
        }
    }
}

/// What was sent of a task.
#[derive(Debug, Default)]
struct Sent {
    /// The next DataSN or R2TSN.
    next: u32,
    /// Numbers before this are acknowledged.
    acknowledged: u32,
    /// Numbers before this are not kept.
    dropped: u32,
    pdus: VecDeque<(u32, Pdu)>,
    /// Of payload in them.
    bytes: u64,
    /// Acknowledgements asked for: the tag, and the number that they acknowledge up to.
    asks: Vec<(Ttt, u32)>,
    /// Its task ends with a response, and it goes when that is acknowledged.
    answered: bool,
    until: Option<StatSn>,
    /// The older, the lower.
    age: u64,
}

/// All that may be asked for again.
#[derive(Debug)]
pub(super) struct Replay {
    responses: VecDeque<Pdu>,
    response_bytes: usize,
    first: StatSn,
    acknowledged: StatSn,
    tasks: BTreeMap<u32, Sent>,
    bytes: u64,
    pdus: usize,
    begun: u64,
}

impl Replay {
    /// Nothing was sent yet; `next` is the first StatSN.
    pub(super) const fn new(next: StatSn) -> Self {
        Self {
            responses: VecDeque::new(),
            response_bytes: 0,
            first: next,
            acknowledged: next,
            tasks: BTreeMap::new(),
            bytes: 0,
            pdus: 0,
            begun: 0,
        }
    }

    /// Bytes of payload kept.
    pub(super) const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The StatSN behind all that were sent.
    fn next(&self) -> StatSn {
        self.first.plus(u32::try_from(self.responses.len()).unwrap_or(u32::MAX))
    }

    /// Keeps what is sent, for as long as payload has `room`. `alive` says that the PDU's task goes on. What is sent again was
    /// kept before.
    pub(super) fn note(&mut self, pdu: &Pdu, alive: bool, room: u64) {
        if let Pdu::DataIn(data) = pdu {
            let ask = data.acknowledge.then_some((data.ttt, data.data_sn + 1));
            self.note_data(pdu, data.data_sn, ask, alive);
        } else if let Pdu::R2t(r2t) = pdu {
            self.note_data(pdu, r2t.r2t_sn, None, alive);
        } else if pdu.takes_stat_sn()
            && pdu.target_numbers().is_some_and(|(number, ..)| number == self.next())
        {
            self.responses.push_back(pdu.clone());
            self.response_bytes += pdu.data().len();
        }
        self.trim(room);
    }

    fn note_data(&mut self, pdu: &Pdu, number: u32, ask: Option<(Ttt, u32)>, alive: bool) {
        if alive {
            self.sent(pdu.itt());
        }
        let Some(sent) = self.tasks.get_mut(&pdu.itt().0).filter(|sent| number == sent.next) else { return };
        let bytes = pdu.data().len() as u64;
        sent.next += 1;
        sent.pdus.push_back((number, pdu.clone()));
        sent.asks.extend(ask);
        sent.bytes += bytes;
        self.pdus += 1;
        self.bytes += bytes;
    }

    fn sent(&mut self, itt: Itt) -> &mut Sent {
        self.begun += 1;
        let age = self.begun;
        self.tasks.entry(itt.0).or_insert_with(|| Sent { age, ..Sent::default() })
    }

    /// A task is about to end with a response, of which the number is not known yet.
    pub(super) fn answers(&mut self, itt: Itt) {
        self.sent(itt).answered = true;
    }

    /// A task has ended with this response.
    pub(super) fn answered_with(&mut self, itt: Itt, stat_sn: StatSn) {
        self.sent(itt).until = Some(stat_sn);
    }

    /// A task has ended. Without a response nobody wants its data any more (R152).
    pub(super) fn ended(&mut self, itt: Itt) {
        if self.tasks.get(&itt.0).is_some_and(|sent| !sent.answered) {
            self.begin(itt);
        }
    }

    /// A command begins under this tag.
    pub(super) fn begin(&mut self, itt: Itt) {
        if let Some(sent) = self.tasks.remove(&itt.0) {
            self.forget(&sent.pdus);
        }
    }

    /// The initiator has all responses before this.
    pub(super) fn acknowledge(&mut self, expected: StatSn) {
        if !expected.is_after(self.acknowledged) || expected.is_after(self.next()) {
            return;
        }
        self.acknowledged = expected;
        while self.first.is_before(expected) {
            self.drop_response();
        }
        let over = |sent: &Sent| sent.until.is_some_and(|until| until.is_before(expected));
        let gone: Vec<u32> = self.tasks.iter().filter(|(_, sent)| over(sent)).map(|(itt, _)| *itt).collect();
        for itt in gone {
            self.begin(Itt(itt));
        }
    }

    /// The initiator has the data of a task before this number, and was asked to say so.
    pub(super) fn acknowledge_data(&mut self, ttt: Ttt, expected: u32) -> Result<(), Gone> {
        let asked = |sent: &&mut Sent| sent.asks.iter().any(|(tag, _)| *tag == ttt);
        // Acknowledged with its status meanwhile.
        let Some(sent) = self.tasks.values_mut().find(asked) else { return Ok(()) };
        if expected > sent.next || expected < sent.acknowledged {
            return Err(Gone::Never);
        }
        sent.acknowledged = expected;
        sent.asks.retain(|(_, to)| *to > expected);
        let rest = sent.pdus.partition_point(|(number, _)| *number < expected);
        let gone: VecDeque<_> = sent.pdus.drain(..rest).collect();
        sent.bytes -= payload(&gone);
        self.forget(&gone);
        Ok(())
    }

    /// An R2T is answered.
    pub(super) fn answered(&mut self, itt: Itt, ttt: Ttt) {
        let Some(sent) = self.tasks.get_mut(&itt.0) else { return };
        let before = sent.pdus.len();
        sent.pdus.retain(|(_, pdu)| !matches!(pdu, Pdu::R2t(r2t) if r2t.ttt == ttt));
        self.pdus -= before - sent.pdus.len();
    }

    /// Data-In and R2T PDUs of a task: `length` of them from `begin` on, or all of those if it is zero; if both are, all that
    /// are not acknowledged.
    pub(super) fn run(&self, itt: Itt, begin: u32, length: u32) -> Result<Vec<Pdu>, Gone> {
        let all = begin == 0 && length == 0;
        let Some(sent) = self.tasks.get(&itt.0) else {
            return if all { Ok(Vec::new()) } else { Err(Gone::Never) };
        };
        let from = if all { sent.acknowledged } else { begin };
        let end = if length == 0 { sent.next } else { begin.checked_add(length).ok_or(Gone::Never)? };
        if from < sent.acknowledged || end > sent.next || (!all && from >= end) {
            return Err(Gone::Never);
        }
        if from < sent.dropped && from < end {
            return Err(Gone::Forgotten);
        }
        let wanted = sent.pdus.iter().filter(|(number, _)| (from..end).contains(number));
        let pdus: Vec<Pdu> = wanted.map(|(_, pdu)| pdu.clone()).collect();
        // What is missing now are answered R2Ts.
        if all || pdus.len() == (end - from) as usize { Ok(pdus) } else { Err(Gone::Never) }
    }

    /// The same for numbered responses.
    pub(super) fn responses(&self, begin: u32, length: u32) -> Result<Vec<Pdu>, Gone> {
        let all = begin == 0 && length == 0;
        let (from, next) = (if all { self.acknowledged } else { StatSn(begin) }, self.next());
        let end = if length == 0 { next } else { from.plus(length) };
        if from.is_before(self.acknowledged) || end.is_after(next) || (!all && !from.is_before(end)) {
            return Err(Gone::Never);
        }
        if from.is_before(self.first) {
            return Err(Gone::Forgotten);
        }
        let (skip, take) = (from.since(self.first) as usize, end.since(from) as usize);
        Ok(self.responses.iter().skip(skip).take(take).cloned().collect())
    }

    /// Forgets the oldest until all bounds are kept.
    pub(super) fn trim(&mut self, room: u64) {
        while self.responses.len() > MOST_RESPONSES || self.response_bytes > MOST_RESPONSE_BYTES {
            self.drop_response();
        }
        while self.bytes > room || self.pdus > MOST_PDUS {
            // Nothing else would make the initiator send the data that an R2T asks for.
            let full = self.tasks.values_mut().filter(|sent| sent.bytes > 0);
            let Some(oldest) = full.min_by_key(|sent| sent.age) else { return };
            (oldest.dropped, oldest.bytes) = (oldest.next, 0);
            let gone = std::mem::take(&mut oldest.pdus);
            self.forget(&gone);
        }
    }

    fn drop_response(&mut self) {
        self.first = self.first.next();
        if let Some(pdu) = self.responses.pop_front() {
            self.response_bytes -= pdu.data().len();
        }
    }

    fn forget(&mut self, gone: &VecDeque<(u32, Pdu)>) {
        self.pdus -= gone.len();
        self.bytes -= payload(gone);
    }
}

fn payload(pdus: &VecDeque<(u32, Pdu)>) -> u64 {
    pdus.iter().map(|(_, pdu)| pdu.data().len() as u64).sum()
}

/// Puts today's numbers into a PDU that is sent again: all else is as it was (R171).
pub(super) fn renew(pdu: &mut Pdu, (stat_sn, exp, max): (StatSn, CmdSn, CmdSn)) {
    let numbers = match pdu {
        Pdu::DataIn(pdu) => (&mut pdu.exp_cmd_sn, &mut pdu.max_cmd_sn),
        Pdu::ScsiResponse(pdu) => (&mut pdu.exp_cmd_sn, &mut pdu.max_cmd_sn),
        Pdu::TaskManagementResponse(pdu) => (&mut pdu.exp_cmd_sn, &mut pdu.max_cmd_sn),
        Pdu::NopIn(pdu) => (&mut pdu.exp_cmd_sn, &mut pdu.max_cmd_sn),
        Pdu::TextResponse(pdu) => (&mut pdu.exp_cmd_sn, &mut pdu.max_cmd_sn),
        Pdu::LogoutResponse(pdu) => (&mut pdu.exp_cmd_sn, &mut pdu.max_cmd_sn),
        Pdu::AsyncMessage(pdu) => (&mut pdu.exp_cmd_sn, &mut pdu.max_cmd_sn),
        Pdu::Reject(pdu) => (&mut pdu.exp_cmd_sn, &mut pdu.max_cmd_sn),
        Pdu::R2t(pdu) => {
            pdu.stat_sn = stat_sn;
            (&mut pdu.exp_cmd_sn, &mut pdu.max_cmd_sn)
        }
        Pdu::LoginResponse(_)
        | Pdu::NopOut(_)
        | Pdu::ScsiCommand(_)
        | Pdu::TaskManagementRequest(_)
        | Pdu::LoginRequest(_)
        | Pdu::TextRequest(_)
        | Pdu::DataOut(_)
        | Pdu::LogoutRequest(_)
        | Pdu::SnackRequest(_) => return,
    };
    (*numbers.0, *numbers.1) = (exp, max);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::iscsi::{DataIn, NopIn, Payload, R2t, ScsiResponse};

    const ROOM: u64 = 1 << 20;

    fn data(itt: u32, data_sn: u32, len: usize, ask: Option<u32>) -> Pdu {
        let (acknowledge, ttt) = (ask.is_some(), ask.map_or(Ttt::NONE, Ttt));
        let data = Payload::from(vec![0; len]);
        Pdu::DataIn(DataIn { itt: Itt(itt), data_sn, acknowledge, ttt, data, ..DataIn::default() })
    }

    fn response(itt: u32, stat_sn: u32) -> Pdu {
        Pdu::ScsiResponse(ScsiResponse { itt: Itt(itt), stat_sn: StatSn(stat_sn), ..ScsiResponse::default() })
    }

    /// Ends a task as the engine does.
    fn answer(replay: &mut Replay, itt: u32, stat_sn: u32) {
        replay.answers(Itt(itt));
        replay.ended(Itt(itt));
        replay.answered_with(Itt(itt), StatSn(stat_sn));
        replay.note(&response(itt, stat_sn), false, ROOM);
    }

    fn numbers(found: Result<Vec<Pdu>, Gone>) -> Vec<u32> {
        let number = |pdu: &Pdu| {
            if let Pdu::DataIn(data) = pdu {
                data.data_sn
            } else if let Pdu::R2t(r2t) = pdu {
                r2t.r2t_sn
            } else {
                pdu.target_numbers().unwrap().0.0
            }
        };
        found.unwrap().iter().map(number).collect()
    }

    #[test]
    fn all_is_kept_until_it_is_acknowledged_r171_r172() {
        let mut replay = Replay::new(StatSn(u32::MAX));
        (0..4).for_each(|n| replay.note(&data(1, n, 10, (n == 1).then_some(7)), true, ROOM));
        assert_eq!(numbers(replay.run(Itt(1), 0, 0)), [0, 1, 2, 3]);
        assert_eq!(numbers(replay.run(Itt(1), 1, 2)), [1, 2]);
        assert_eq!(numbers(replay.run(Itt(1), 2, 0)), [2, 3]);
        assert_eq!(replay.run(Itt(1), 3, 2).unwrap_err(), Gone::Never);
        assert_eq!(replay.run(Itt(1), 4, 0).unwrap_err(), Gone::Never);
        assert_eq!(replay.run(Itt(2), 0, 1).unwrap_err(), Gone::Never);
        assert!(numbers(replay.run(Itt(2), 0, 0)).is_empty(), "nothing is not acknowledged");
        assert_eq!(replay.acknowledge_data(Ttt(7), 5), Err(Gone::Never));
        assert_eq!(replay.acknowledge_data(Ttt(7), 2), Ok(()));
        assert_eq!((replay.bytes(), numbers(replay.run(Itt(1), 0, 0))), (20, vec![2, 3]));
        assert_eq!(replay.run(Itt(1), 1, 1).unwrap_err(), Gone::Never);
        answer(&mut replay, 1, u32::MAX);
        answer(&mut replay, 3, 0);
        assert_eq!(numbers(replay.run(Itt(1), 2, 1)), [2], "its status is not acknowledged");
        assert_eq!(numbers(replay.responses(0, 0)), [u32::MAX, 0]);
        assert_eq!(numbers(replay.responses(u32::MAX, 1)), [u32::MAX]);
        assert_eq!(replay.responses(0, 2).unwrap_err(), Gone::Never);
        replay.acknowledge(StatSn(2));
        assert_eq!(
            numbers(replay.responses(0, 0)),
            [u32::MAX, 0],
            "what was not sent cannot be acknowledged"
        );
        replay.acknowledge(StatSn(0));
        assert_eq!((replay.bytes(), replay.run(Itt(1), 2, 1).unwrap_err()), (0, Gone::Never));
        assert_eq!(replay.responses(u32::MAX, 1).unwrap_err(), Gone::Never);
        assert_eq!(numbers(replay.responses(0, 0)), [0]);
    }

    #[test]
    fn an_answered_r2t_is_acknowledged_r172() {
        let mut replay = Replay::new(StatSn(0));
        for n in 0..2 {
            let r2t = R2t { itt: Itt(1), ttt: Ttt(n), r2t_sn: n, ..R2t::default() };
            replay.note(&Pdu::R2t(r2t), true, ROOM);
        }
        replay.answered(Itt(1), Ttt(0));
        assert_eq!(replay.run(Itt(1), 0, 2).unwrap_err(), Gone::Never);
        assert_eq!(numbers(replay.run(Itt(1), 0, 0)), [1]);
        replay.ended(Itt(1));
        assert_eq!((replay.run(Itt(1), 1, 1).unwrap_err(), replay.pdus), (Gone::Never, 0), "aborted");
    }

    #[test]
    fn what_there_is_no_room_for_is_forgotten_the_oldest_first() {
        let mut replay = Replay::new(StatSn(0));
        for itt in 1..=3 {
            replay.note(&data(itt, 0, 100, None), true, 250);
        }
        assert_eq!(replay.run(Itt(1), 0, 0).unwrap_err(), Gone::Forgotten);
        assert_eq!((replay.bytes(), numbers(replay.run(Itt(2), 0, 1))), (200, vec![0]));
        replay.note(&data(1, 1, 10, None), true, 250);
        assert_eq!(numbers(replay.run(Itt(1), 1, 1)), [1], "what came since is there");
        assert_eq!(replay.run(Itt(1), 0, 2).unwrap_err(), Gone::Forgotten);
        let r2t = R2t { itt: Itt(4), ttt: Ttt(1), ..R2t::default() };
        replay.note(&Pdu::R2t(r2t), true, 0);
        assert_eq!((replay.bytes(), numbers(replay.run(Itt(4), 0, 1))), (0, vec![0]), "R2Ts take no room");
    }

    #[test]
    fn bounds_hold_whatever_the_room() {
        let mut replay = Replay::new(StatSn(0));
        for n in 0..u32::try_from(2 * MOST_PDUS).unwrap() {
            replay.note(&data(n % 64, n / 64, 1, None), true, ROOM);
            assert!(replay.pdus <= MOST_PDUS);
        }
        for n in 0..u32::try_from(2 * MOST_RESPONSES).unwrap() {
            let echo = NopIn {
                itt: Itt(1),
                stat_sn: StatSn(n),
                data: Payload::from(vec![0; 100]),
                ..NopIn::default()
            };
            replay.note(&Pdu::NopIn(echo), false, ROOM);
            let (count, bytes) = (replay.responses.len(), replay.response_bytes);
            assert!(count <= MOST_RESPONSES && bytes <= MOST_RESPONSE_BYTES);
        }
        assert_eq!(replay.responses(0, 0).unwrap_err(), Gone::Forgotten);
        assert_eq!(numbers(replay.responses(u32::try_from(2 * MOST_RESPONSES - 1).unwrap(), 1)).len(), 1);
    }
}
