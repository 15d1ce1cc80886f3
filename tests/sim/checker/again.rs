//! What the initiator asks for again at error recovery level 1: what it gets is what it got before.

use super::takes_stat_sn;
use super::trials::{data_in, good, r2t};
use braid::iscsi::{Itt, Pdu, SnackRequest, StatSn, Ttt};
use std::collections::VecDeque;

/// Something that was sent and may be asked for.
struct Sent {
    pdu: Pdu,
    /// It may not, once this response is acknowledged.
    until: Option<StatSn>,
}

/// What the answer to a SNACK may be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Refusal {
    Wrong,
    /// Only because Braid has it no more.
    Forgotten,
    /// It asks for what was never sent, or is acknowledged.
    Due,
}

/// Everything that is not acknowledged.
#[derive(Default)]
pub(super) struct Again {
    sent: Vec<Sent>,
    /// What is to be sent now.
    owed: VecDeque<Pdu>,
    /// Of the last SNACK.
    refusal: Option<Refusal>,
}

fn number(pdu: &Pdu) -> Option<u32> {
    match pdu {
        Pdu::DataIn(data) => Some(data.data_sn),
        Pdu::R2t(r2t) => Some(r2t.r2t_sn),
        _ => None,
    }
}

/// The header without what may have changed since: ExpCmdSN and MaxCmdSN, and the StatSN of an R2T.
fn lasting(pdu: &Pdu) -> (Vec<u8>, Vec<u8>) {
    let (mut header, _) = pdu.encode();
    header[28..36].fill(0);
    if matches!(pdu, Pdu::R2t(_)) {
        header[24..28].fill(0);
    }
    (header.to_vec(), pdu.data().contiguous().to_vec())
}

impl Again {
    /// The initiator says something.
    pub(super) fn received(&mut self, pdu: &Pdu) {
        if let Pdu::SnackRequest(snack) = pdu
            && snack.kind == 2
        {
            self.data_acknowledged(snack);
        }
        if let Some(expected) = pdu.exp_stat_sn() {
            self.sent.retain(|sent| sent.until.is_none_or(|until| !until.is_before(expected)));
        }
        if let Pdu::SnackRequest(snack) = pdu {
            self.asked(snack);
        }
    }

    fn data_acknowledged(&mut self, snack: &SnackRequest) {
        let asks = |sent: &&Sent| matches!(&sent.pdu, Pdu::DataIn(d) if d.acknowledge && d.ttt == snack.ttt);
        let Some(itt) = self.sent.iter().find(asks).map(|sent| sent.pdu.itt()) else { return };
        self.sent.retain(|sent| {
            sent.pdu.itt() != itt || number(&sent.pdu).is_none_or(|number| number >= snack.begin_run)
        });
    }

    fn asked(&mut self, snack: &SnackRequest) {
        let (from, length) = (snack.begin_run, snack.run_length);
        let place = |sent: &Sent| match snack.kind {
            0 if sent.pdu.itt() == snack.itt => number(&sent.pdu),
            1 if takes_stat_sn(&sent.pdu) => sent.pdu.target_numbers().map(|(number, ..)| number.0),
            _ => None,
        };
        let all = from == 0 && length == 0;
        let wanted = |number: u32| all || length == 0 && number >= from || number.wrapping_sub(from) < length;
        let found = self.sent.iter().filter(|sent| place(sent).is_some_and(wanted));
        self.owed = found.map(|sent| sent.pdu.clone()).collect();
        let first = self.owed.front().and_then(|pdu| place(&Sent { pdu: pdu.clone(), until: None }));
        let whole = all || first == Some(from) && (length == 0 || self.owed.len() == length as usize);
        self.refusal = Some(match snack.kind {
            2 => Refusal::Wrong,
            0 if whole => Refusal::Forgotten,
            1 if whole => Refusal::Wrong,
            _ => {
                self.owed.clear();
                Refusal::Due
            }
        });
    }

    /// An R2T is answered.
    pub(super) fn answered(&mut self, ttt: Ttt) {
        self.sent.retain(|sent| !matches!(&sent.pdu, Pdu::R2t(r2t) if r2t.ttt == ttt));
    }

    /// A task has ended without a response.
    pub(super) fn ended(&mut self, itt: Itt) {
        self.sent.retain(|sent| sent.pdu.itt() != itt || number(&sent.pdu).is_none());
    }

    /// Whether this is what is to be sent again next, and if so, whether it is as it was.
    pub(super) fn repeats(&mut self, pdu: &Pdu) -> Option<bool> {
        if matches!(pdu, Pdu::Reject(_))
            && self.owed.front().is_some_and(|owed| lasting(owed) != lasting(pdu))
        {
            return None;
        }
        self.owed.pop_front().map(|owed| lasting(&owed) == lasting(pdu))
    }

    /// A SNACK is refused.
    pub(super) fn refused(&mut self) -> Option<Refusal> {
        self.owed.clear();
        self.refusal.take()
    }

    /// Braid says something for the first time.
    pub(super) fn sent(&mut self, pdu: &Pdu) {
        let status = takes_stat_sn(pdu).then(|| pdu.target_numbers().map(|(number, ..)| number)).flatten();
        if status.is_none() && number(pdu).is_none() {
            return;
        }
        if matches!(pdu, Pdu::ScsiResponse(_)) {
            let own = self
                .sent
                .iter_mut()
                .filter(|sent| sent.pdu.itt() == pdu.itt() && number(&sent.pdu).is_some());
            own.for_each(|sent| sent.until = sent.until.or(status));
        }
        self.sent.push(Sent { pdu: pdu.clone(), until: status });
    }
}

pub(super) fn trials() -> Vec<(&'static str, fn())> {
    vec![("checker::again", only_what_was_sent_and_as_it_was)]
}

fn only_what_was_sent_and_as_it_was() {
    let mut again = Again::default();
    let snack = |again: &mut Again, kind, itt, begin_run, run_length, expected| {
        let (itt, exp_stat_sn) = (Itt(itt), StatSn(expected));
        let snack = SnackRequest { kind, itt, exp_stat_sn, begin_run, run_length, ..SnackRequest::default() };
        again.received(&Pdu::SnackRequest(snack));
    };
    let data = [data_in(1, 0, 0..8, false, false), data_in(1, 1, 8..16, true, false)];
    data.iter().for_each(|pdu| again.sent(pdu));
    assert_eq!(again.repeats(&data[0]), None, "nobody asked");
    snack(&mut again, 0, 1, 0, 0, 0);
    assert_eq!(
        [again.repeats(&data[0]), again.repeats(&data[1]), again.repeats(&data[1])],
        [Some(true), Some(true), None]
    );
    snack(&mut again, 0, 1, 1, 1, 0);
    assert_eq!(again.repeats(&data[0]), Some(false), "another than was asked for");
    for (begin, length, refusal) in [(1, 0, Refusal::Forgotten), (1, 2, Refusal::Due), (2, 1, Refusal::Due)] {
        snack(&mut again, 0, 1, begin, length, 0);
        assert_eq!(again.refused(), Some(refusal), "{length} from {begin}");
        assert_eq!(again.repeats(&data[1]), None, "it was refused");
    }
    again.sent(&good(1, 2));
    snack(&mut again, 1, u32::MAX, 0, 1, 0);
    assert_eq!(
        (again.refusal, again.repeats(&good(1, 1))),
        (Some(Refusal::Wrong), Some(false)),
        "not as it was"
    );
    snack(&mut again, 0, 1, 0, 2, 1);
    assert_eq!(again.refused(), Some(Refusal::Due), "its response is acknowledged");
    let asked = r2t(2, 5, 0, 0..8);
    again.sent(&asked);
    again.answered(Ttt(5));
    snack(&mut again, 0, 2, 0, 1, 1);
    assert_eq!(again.refused(), Some(Refusal::Due), "it is answered");
}
