//! PERSISTENT RESERVE IN as one nexus would show it: registrations of replicas ([`super::registration`]) are taken out.
//!
//! What the target leaves out because of the initiator's allocation length cannot be judged. So where there are replicas
//! the question goes out with a long allocation length of Braid's own; the answer is collected, rewritten, and only then cut
//! to what the initiator has asked for, with the residual that follows from that.
//!
//! READ KEYS loses one copy of a key for each replica that has it, never home's own; READ FULL STATUS the registrations of
//! Braid's further nexuses, known by their TransportID. READ RESERVATION and REPORT CAPABILITIES show no replicas.

use crate::iscsi::{Cdb, DataIn, Payload, ScsiResponse};
use crate::scsi::reservation::{self, Port, Question};
use crate::scsi::sense::status;
use crate::session::Session;
use crate::session::nexus::{HOME, NexusId};
use crate::session::tasks::{Origin, Task, TaskKey};

/// Allocation length of Braid's own, in bytes.
const ALLOCATION: u16 = 0xfffc;

impl Session {
    /// Makes a task ask for more than the initiator did, if its answer will have to be rewritten.
    pub(in crate::session) fn widen(&mut self, key: TaskKey, nexus: NexusId) {
        let Some(task) = self.tasks.get(key) else { return };
        let question = Question::parse(&task.cdb.0).filter(|q| q.shows_registrations());
        let initiators = matches!(task.origin, Origin::Initiator { .. }) && task.read && !task.write;
        let replicas = match question {
            Some(Question::Keys) => {
                self.units.get(&task.lun).is_some_and(|u| !u.registrations.hidden().is_empty())
            }
            Some(_) => self.paths.len() > 1,
            None => false,
        };
        let widens = initiators && replicas && nexus == HOME && !broken!(self.rules, ReplicasShown);
        if let Some(task) = self.tasks.get_mut(key) {
            task.collected.clear();
            task.wide = question
                .filter(|_| widens)
                .map(|question| (Cdb(question.cdb(ALLOCATION).into_iter().collect()), u32::from(ALLOCATION)));
        }
    }

    /// The answer to a question that was widened: gives the initiator its data, and returns the response.
    pub(in crate::session) fn narrow(&mut self, key: TaskKey, response: ScsiResponse) -> ScsiResponse {
        let Some(task) = self.tasks.get_mut(key) else { return response };
        if task.wide.take().is_none() {
            return response;
        }
        let collected = std::mem::take(&mut task.collected);
        let (allocation, expected) = (usize::from(reservation::allocation(&task.cdb.0)), task.expected);
        let mut data = Vec::new();
        if response.response == 0 && response.status == status::GOOD {
            data = self.collapsed(key, &collected);
            data.truncate(allocation);
        }
        let length = u32::try_from(data.len()).unwrap_or(u32::MAX);
        data.truncate(expected as usize);
        if !data.is_empty() {
            let pdu = DataIn { final_: true, data: Payload::from(data), ..DataIn::default() };
            self.pass_on(key, &pdu, true);
        }
        ScsiResponse {
            overflow: length > expected,
            underflow: length < expected,
            residual: length.abs_diff(expected),
            ..response
        }
    }

    fn collapsed(&self, key: TaskKey, data: &[u8]) -> Vec<u8> {
        let unit = |t: &Task| self.units.get(&t.lun).map(|unit| &unit.registrations);
        let Some(task) = self.tasks.get(key) else { return data.to_vec() };
        let Some(registrations) = unit(task) else { return data.to_vec() };
        match Question::parse(&task.cdb.0) {
            Some(Question::Keys) => {
                reservation::hide_keys(data, &registrations.hidden(), &registrations.keys())
            }
            Some(Question::FullStatus) => {
                let name = &self.plan.home.initiator_name;
                let further = self.nexuses.get(1..=self.paths.len()).unwrap_or_default();
                let ours = |port: &Port| further.iter().any(|nexus| port.is(name, nexus.isid.0));
                reservation::hide_ports(data, ours)
            }
            Some(Question::Reservation | Question::Capabilities) | None => data.to_vec(),
        }
    }
}
