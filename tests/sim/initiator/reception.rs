//! Error recovery level 1: what comes to the initiator, and what it sends, may be spoilt on the way, PDU by PDU.
//!
//! What is spoilt is drawn here for both directions, from a stream of its own. The model itself gets everything once and in order,
//! as at level 0: a response when all before it have come, and all data of its command. What is missing it asks for by SNACK:
//! at once, where the header told what it was; where nothing is known, a little later for whatever is not acknowledged. A command or
//! ping that Braid rejects for its digest is sent again as it was, under its own number.
//!
//! Now and then an R2T is lost that nobody misses (R175), or write data that Braid cannot miss at once; and of some commands all data
//! are lost, always.

use super::Initiator;
use crate::random::Random;
use braid::iscsi::{Itt, Pdu, SnackRequest, StatSn, Ttt, opcode, reject};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

/// One PDU in so many is spoilt, either way.
const SPOILT: usize = 24;

/// One R2T or Data-Out PDU in so many disappears.
const UNSEEN: usize = 48;
/// Of one command in so many no data ever come.
const DOOMED: usize = 150;

/// The data of one command.
#[derive(Debug, Default)]
struct Flow {
    /// The DataSN or R2TSN that comes next.
    next: u32,
    /// What came behind a hole.
    held: BTreeMap<u32, Pdu>,
    /// Braid does not have it any more.
    given_up: bool,
}

/// What has come, and what is still to come.
#[derive(Debug)]
pub(super) struct Reception {
    random: Random,
    /// For what is lost unseen.
    unseen: Random,
    /// Commands of which no data come.
    doomed: BTreeSet<u32>,
    /// The first response that has not come, or not been taken.
    next: StatSn,
    /// Responses that came behind a hole, or before the data of their command.
    held: BTreeMap<u32, Pdu>,
    flows: BTreeMap<u32, Flow>,
    /// Commands and pings as they were sent, with their unsolicited data.
    sent: BTreeMap<u32, Vec<Pdu>>,
    /// Commands that came spoilt and were not sent again yet.
    unheard: Vec<u32>,
    /// Something was lost of which nothing is known; and it will soon ask for all that it may be.
    blind: bool,
    wonders: bool,
}

impl Reception {
    pub(super) fn new(random: Random, next: StatSn) -> Self {
        let (held, flows, sent) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        let (unseen, doomed) = (random.branch(UNSEEN as u64), BTreeSet::new());
        Self {
            random,
            unseen,
            doomed,
            next,
            held,
            flows,
            sent,
            unheard: Vec::new(),
            blind: false,
            wonders: false,
        }
    }

    /// Commands begin.
    pub(super) fn sends(&mut self, tag: u32, pdus: &[Pdu]) {
        self.flows.remove(&tag);
        self.sent.insert(tag, pdus.to_vec());
        if self.unseen.once_in(DOOMED) {
            self.doomed.insert(tag);
        }
    }

    /// Whether Braid still lacks commands that came spoilt.
    pub(super) fn is_unheard(&self) -> bool {
        !self.unheard.is_empty()
    }

    /// Puts a PDU where it belongs; false if it was there before.
    fn file(&mut self, pdu: Pdu) -> bool {
        let (stat_sn, ..) = pdu.target_numbers().unwrap();
        if let Some(number) = number(&pdu) {
            let flow = self.flows.entry(pdu.itt().0).or_default();
            return flow.given_up || number >= flow.next && flow.held.insert(number, pdu).is_none();
        }
        !stat_sn.is_before(self.next) && self.held.insert(stat_sn.0, pdu).is_none()
    }

    /// The next PDU whose turn it is.
    fn take(&mut self) -> Option<Pdu> {
        for flow in self.flows.values_mut() {
            if let Some(pdu) = flow.held.remove(&flow.next) {
                flow.next += 1;
                return Some(pdu);
            }
        }
        let pdu = self.held.get(&self.next.0).filter(|pdu| !self.is_torn(pdu))?.clone();
        self.held.remove(&self.next.0);
        self.next = self.next.next();
        Some(pdu)
    }

    /// Whether data are missing of the command that this answers.
    fn is_torn(&self, response: &Pdu) -> bool {
        let Pdu::ScsiResponse(response) = response else { return false };
        let flow = self.flows.get(&response.itt.0);
        let (next, given_up) = flow.map_or((0, false), |flow| (flow.next, flow.given_up));
        next < response.exp_data_sn && !given_up
    }

    /// Braid does not have the data of this command any more.
    fn give_up(&mut self, tag: u32) {
        let flow = self.flows.entry(tag).or_default();
        flow.held.clear();
        flow.given_up = true;
    }

    fn has_given_up(&self, tag: u32) -> bool {
        self.flows.get(&tag).is_some_and(|flow| flow.given_up)
    }
}

/// DataSN or R2TSN.
fn number(pdu: &Pdu) -> Option<u32> {
    match pdu {
        Pdu::DataIn(data) => Some(data.data_sn),
        Pdu::R2t(r2t) => Some(r2t.r2t_sn),
        _ => None,
    }
}

fn snack(kind: u8, itt: Itt, begin_run: u32, run_length: u32) -> SnackRequest {
    SnackRequest { kind, itt, ttt: Ttt::NONE, begin_run, run_length, ..SnackRequest::default() }
}

impl Initiator {
    /// A PDU of Braid, as it comes over the wire.
    pub(crate) fn hear(&mut self, pdu: Pdu, now: Instant) {
        let told_apart =
            number(&pdu).is_some() || pdu.takes_stat_sn() && !matches!(pdu, Pdu::LogoutResponse(_));
        if self.reception.is_none() || !told_apart {
            return self.receive(pdu, now);
        }
        let open = self.pending.contains_key(&pdu.itt().0);
        if number(&pdu).is_some() && !open {
            // Its command has ended otherwise.
            return;
        }
        if self.loses(&pdu) {
            return;
        }
        let (.., max) = pdu.target_numbers().unwrap();
        self.max_cmd_sn = self.max_cmd_sn.max(max);
        // What Braid refuses concerns what it says of it later: its turn is not waited for.
        let refusal = match &pdu {
            Pdu::Reject(rejected) => Some((rejected.reason, rejected.data.contiguous().to_vec())),
            _ => None,
        };
        let Some(reception) = &mut self.reception else { return };
        if !reception.file(pdu) {
            self.coverage.hit("recovery: what was there already came again");
        } else if let Some((reason, header)) = refusal {
            self.rejected(reason, &header);
        }
        while let Some(pdu) = self.reception.as_mut().and_then(Reception::take) {
            self.take(pdu, now);
        }
        if let Some(reception) = &mut self.reception {
            // There are holes, or nothing comes behind the last data: an answer without them is all that shows it.
            reception.blind |=
                !reception.held.is_empty() || reception.flows.values().any(|f| !f.held.is_empty());
        }
    }

    /// Whether a PDU comes spoilt. If its header can be read, it is asked for at once.
    fn loses(&mut self, pdu: &Pdu) -> bool {
        let Some(reception) = &mut self.reception else { return false };
        let may = matches!(
            pdu,
            Pdu::DataIn(_) | Pdu::R2t(_) | Pdu::ScsiResponse(_) | Pdu::NopIn(_) | Pdu::Reject(_)
        );
        if !may || !reception.random.once_in(SPOILT) {
            return false;
        }
        if pdu.data().is_empty() || reception.random.once_in(3) {
            self.coverage.hit("recovery: a PDU of Braid lost without a trace");
            reception.blind = true;
            return true;
        }
        self.coverage.hit("recovery: a PDU of Braid lost to its data digest");
        let (stat_sn, ..) = pdu.target_numbers().unwrap();
        let request = match number(pdu) {
            // It was there already, and may be acknowledged (R172).
            Some(number) if reception.flows.get(&pdu.itt().0).is_some_and(|flow| number < flow.next) => {
                return true;
            }
            Some(number) => snack(0, pdu.itt(), number, 1),
            None => snack(1, Itt::NONE, stat_sn.0, 1),
        };
        self.wants_again(request);
        true
    }

    fn wants_again(&mut self, request: SnackRequest) {
        let exp_stat_sn = self.exp_stat_sn;
        self.out.push(Pdu::SnackRequest(SnackRequest { exp_stat_sn, ..request }));
    }

    /// Whether it has to ask for what was lost without a trace, in a while.
    pub(crate) fn wonders(&mut self) -> bool {
        let Some(reception) = &mut self.reception else { return false };
        let begins = reception.blind && !reception.wonders;
        reception.wonders |= begins;
        begins
    }

    /// Asks for all that is not acknowledged.
    pub(crate) fn ask_for_all(&mut self) {
        let Some(reception) = &mut self.reception else { return };
        (reception.blind, reception.wonders) = (false, false);
        let next = reception.next;
        // The last may be lost as well as those in a hole.
        let mut requests = vec![match reception.held.is_empty() {
            true => snack(1, Itt::NONE, 0, 0),
            false => snack(1, Itt::NONE, next.0, 0),
        }];
        for (tag, pending) in &self.pending {
            let flow = reception.flows.get(tag);
            if flow.is_some_and(|flow| flow.given_up) {
                continue;
            }
            let first = flow.and_then(|flow| Some((flow.next, *flow.held.keys().next()?)));
            let torn = reception.held.values().any(|pdu| pdu.itt().0 == *tag && reception.is_torn(pdu));
            match first {
                Some((next, first)) => requests.push(snack(0, Itt(*tag), next, first - next)),
                None if torn => requests.push(snack(0, Itt(*tag), flow.map_or(0, |flow| flow.next), 0)),
                // An R2T may be lost: nothing comes behind it.
                None if !pending.data.is_empty() => requests.push(snack(0, Itt(*tag), 0, 0)),
                None => {}
            }
        }
        requests.into_iter().for_each(|request| self.wants_again(request));
    }

    /// Something that came in its turn.
    fn take(&mut self, pdu: Pdu, now: Instant) {
        let (stat_sn, ..) = pdu.target_numbers().unwrap();
        let tag = pdu.itt().0;
        match &pdu {
            Pdu::Reject(_) => {
                self.exp_stat_sn = stat_sn.next();
                return;
            }
            Pdu::ScsiResponse(response) => {
                let torn = self.reception.as_ref().is_some_and(|reception| reception.has_given_up(tag));
                self.forget(tag);
                if torn && response.status == 0 {
                    self.coverage
                        .hit("recovery: answered before Braid was asked for data that it had no more");
                    self.exp_stat_sn = stat_sn.next();
                    return self.unknown(tag);
                }
            }
            Pdu::DataIn(data) if data.acknowledge => {
                self.coverage.hit("recovery: data acknowledged");
                let acknowledged = snack(2, Itt::NONE, data.data_sn + 1, 0);
                self.wants_again(SnackRequest { ttt: data.ttt, lun: data.lun, ..acknowledged });
            }
            _ => {}
        }
        let ends = matches!(pdu, Pdu::TaskManagementResponse(_));
        self.receive(pdu, now);
        if ends && let Some(reception) = &mut self.reception {
            reception.flows.retain(|tag, _| self.pending.contains_key(tag));
        }
    }

    fn forget(&mut self, tag: u32) {
        if let Some(reception) = &mut self.reception {
            reception.flows.remove(&tag);
            reception.sent.remove(&tag);
            reception.doomed.remove(&tag);
        }
    }

    fn rejected(&mut self, reason: u8, header: &[u8]) {
        let word = |at: usize| u32::from_be_bytes(*header[at..].first_chunk().unwrap());
        let (code, tag) = (header[0] & 0x3f, word(16));
        let open = self.pending.contains_key(&tag);
        match (reason, code) {
            (reject::DATA_DIGEST, opcode::DATA_OUT) => {}
            (reject::DATA_DIGEST, _) => self.send_again(tag),
            (reject::SNACK, opcode::SNACK_REQUEST) if tag != Itt::NONE.0 => {
                self.coverage.hit("recovery: Braid has the data no more");
                if let Some(reception) = self.reception.as_mut().filter(|_| open) {
                    reception.give_up(tag);
                }
            }
            (reject::PROTOCOL_ERROR, opcode::SNACK_REQUEST) => {
                assert!(!open || !self.functions.is_empty(), "R172: nothing acknowledged was asked for");
            }
            other => panic!("P3: rejected for no reason: {other:x?}"),
        }
    }

    fn send_again(&mut self, tag: u32) {
        let Some(reception) = &mut self.reception else { return };
        reception.unheard.retain(|unheard| *unheard != tag);
        let again = reception.sent.get(&tag).cloned().unwrap_or_default();
        self.coverage.hit("recovery: a spoilt command is sent again");
        self.out.extend(again);
    }

    /// Whether a PDU of Braid disappears on its way, and it never asks for it.
    pub(crate) fn misses(&mut self, pdu: &Pdu) -> bool {
        let Some(reception) = &mut self.reception else { return false };
        let lost = matches!(pdu, Pdu::R2t(_)) && reception.unseen.once_in(UNSEEN);
        if lost {
            self.coverage.hit("recovery: an R2T lost and not missed");
        }
        lost
    }

    /// Whether a PDU disappears on its way to Braid.
    pub(crate) fn swallows(&mut self, pdu: &Pdu) -> bool {
        let Some(reception) = &mut self.reception else { return false };
        let doomed = reception.doomed.contains(&pdu.itt().0);
        let lost = matches!(pdu, Pdu::DataOut(_)) && (doomed || reception.unseen.once_in(UNSEEN));
        if lost {
            self.coverage.hit("recovery: write data lost without a trace");
        }
        lost
    }

    /// Whether a PDU that has reached Braid comes spoilt there.
    pub(crate) fn spoils(&mut self, pdu: &Pdu) -> bool {
        let managing = !self.functions.is_empty();
        let Some(reception) = &mut self.reception else { return false };
        let sequenced = matches!(pdu, Pdu::DataOut(_));
        // What a function is for must have come before it.
        let begins = matches!(pdu, Pdu::ScsiCommand(_) | Pdu::NopOut(_)) && !managing;
        if pdu.data().is_empty() || !(sequenced || begins) || !reception.random.once_in(SPOILT) {
            return false;
        }
        if begins {
            reception.unheard.push(pdu.itt().0);
        }
        self.coverage.hit("recovery: a PDU of the initiator comes spoilt");
        true
    }
}
