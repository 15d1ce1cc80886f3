//! Which path takes the next command, and sending it there.
//!
//! Commands wait in two queues in order of arrival: block I/O that any path may take, and what only home may take.
//! A command leaves its queue at the moment it gets a CmdSN, so that numbering and queueing are one step (R93).

use super::Session;
use super::api::{ConnId, Output, PathId};
use super::data::WriteBuffer;
use super::nexus::{Conn, ConnState, HOME, NexusId, NexusState};
use super::tasks::{Run, Task, TaskKey};
use super::unit::Grade;
use super::watch::Standing;
use crate::iscsi::{DataOut, Itt, Lun, Payload, Pdu, ScsiCommand, ScsiResponse, TaskAttribute, Ttt};
use crate::scsi::Class;
use smallvec::SmallVec;
use std::collections::VecDeque;
use std::time::Instant;

impl Session {
    /// Puts a command into its queue, at the place that its order of arrival gives it, if nothing holds it back.
    pub(super) fn queue_if_ready(&mut self, key: TaskKey) {
        let Some(task) = self.tasks.get(key).filter(|t| self.is_ready(t)) else { return };
        let (place, home_only) = (place(task), task.home_only);
        let queue = if home_only { &mut self.home_queue } else { &mut self.any_queue };
        let tasks = &self.tasks;
        let at = queue.partition_point(|k| tasks.get(*k).is_some_and(|t| self::place(t) < place));
        queue.insert(at, key);
        if let Some(task) = self.tasks.get_mut(key) {
            task.queued = true;
        }
    }

    /// Whether a command belongs into a queue and stands in none.
    pub(super) fn is_ready(&self, task: &Task) -> bool {
        let unsolicited = self.nexus(HOME).map_or(0, |n| n.params.first_burst_length);
        // A write starts with what it may send unasked; once a path was lost under it, only with all its data, so that
        // a slow initiator cannot make a target lose patience twice.
        let needed = if task.losses > 0 { task.expected } else { task.expected.min(unsolicited) };
        let has_data = !task.write || (task.inbound.received() >= needed && !task.is_starving());
        let busy = task.queued || task.run.is_some() || task.held_response.is_some();
        let held = self.is_held(task) || self.waits_for_registrations(task);
        !busy && !task.undecided && task.blockers == 0 && has_data && !held
    }

    /// Takes a command out of the queues.
    pub(super) fn unqueue(&mut self, key: TaskKey) {
        for queue in [&mut self.any_queue, &mut self.home_queue, &mut self.own_queue] {
            queue.retain(|k| *k != key);
        }
    }

    /// A task of Braid's own: goes out on its nexus as soon as there is room.
    pub(super) fn submit_own(&mut self, task: Task, now: Instant) {
        let key = self.tasks.insert(task);
        self.own_queue.push_back(key);
        self.dispatch(now);
    }

    /// Sends what can be sent.
    pub(super) fn dispatch(&mut self, now: Instant) {
        self.begin_looking_at_caches();
        self.dispatch_own(now);
        self.dispatch_home(now);
        self.dispatch_any(now);
        // Some may have waited until those were sent.
        self.dispatch_home(now);
        // Or have to wait for washes.
        self.dispatch_own(now);
        self.watch_windows(now);
    }

    /// Whether home takes a command although it is plain block I/O.
    fn goes_home(&self, key: TaskKey) -> bool {
        self.tasks.get(key).is_some_and(|t| self.is_single_file(t.lun) && !self.is_shut_out(t))
    }

    fn dispatch_any(&mut self, now: Instant) {
        let (mut at, mut stuck) = (0, SmallVec::<[Lun; 4]>::new());
        while let Some(key) = self.any_queue.get(at).copied() {
            let Some(lun) = self.tasks.get(key).map(|t| t.lun) else { break };
            if self.report_attention(key, now) {
                // It may have let others go.
                self.dispatch(now);
                return;
            }
            // A unit that no path can take now does not hold up the others.
            let conn = match self.goes_home(key) {
                _ if stuck.contains(&lun) => None,
                true => self.choose_home(key),
                false => self.choose_any(key, now),
            };
            let Some(conn) = conn else {
                if !stuck.contains(&lun) {
                    stuck.push(lun);
                }
                at += 1;
                continue;
            };
            self.any_queue.remove(at);
            self.send(key, conn, now);
        }
    }

    /// What home alone takes, unless its port does not give access to what the command needs, or home is suspect and the
    /// command is one that others can carry.
    fn dispatch_home(&mut self, now: Instant) {
        let mut at = 0;
        while let Some(key) = self.home_queue.get(at).copied() {
            if self.report_attention(key, now) {
                continue;
            }
            let shut_out =
                self.tasks.get(key).is_some_and(|t| self.is_shut_out(t)) || self.flushes_elsewhere(key);
            let conn = if shut_out { self.choose_any(key, now) } else { self.choose_home(key) };
            match conn {
                Some(conn) if self.waits_for_caches(key, conn, now) => {
                    at += usize::from(self.home_queue.get(at) == Some(&key));
                }
                Some(conn) => {
                    self.home_queue.remove(at);
                    let away = self.conn(conn).is_some_and(|c| c.nexus != HOME);
                    if let Some((lun, command)) =
                        self.tasks.get(key).filter(|_| away).map(|t| (t.lun, t.command.clone()))
                    {
                        self.leaves_home(lun, &command);
                    }
                    self.send(key, conn, now);
                }
                None if shut_out => at += 1,
                None => break,
            }
        }
    }

    fn dispatch_own(&mut self, now: Instant) {
        let waiting: VecDeque<TaskKey> = std::mem::take(&mut self.own_queue);
        for key in waiting {
            let nexus = self.tasks.get(key).and_then(|t| t.only_nexus);
            let Some(nexus) = nexus else { continue };
            let open =
                self.nexus(nexus).is_some_and(|n| n.window.admits()) && !self.is_logging_out_lost(nexus);
            let conn = self.conns.iter().find(|c| c.nexus == nexus && c.state == ConnState::Up).map(|c| c.id);
            match conn.filter(|_| open) {
                Some(conn) => self.send(key, conn, now),
                None => self.own_queue.push_back(key),
            }
        }
    }

    fn takes_commands(&self, conn: &Conn, nexus: NexusId) -> bool {
        conn.nexus == nexus
            && conn.state == ConnState::Up
            && !self.is_logging_out_lost(nexus)
            && !(broken!(self.rules, LastPathEjected) && self.standing(conn) != Standing::Trusted)
            && self.nexus(nexus).is_some_and(|n| {
                let settling = n.state == NexusState::Settling && nexus == HOME;
                (n.state == NexusState::Up || settling && broken!(self.rules, SettlingHomeServes))
                    && (n.window.admits() || broken!(self.rules, WindowIgnored))
            })
    }

    /// The connection of home with the least to do; for units whose commands go one behind the other always the same.
    fn choose_home(&self, key: TaskKey) -> Option<ConnId> {
        let task = self.tasks.get(key)?;
        let single_file = self.is_single_file(task.lun);
        let able = self.conns.iter().filter(|c| self.takes_commands(c, HOME));
        let load = |c: &&Conn| (self.standing(c), self.loads.get(c.path.0).map_or(0, |l| l.commands));
        if !single_file {
            return able.min_by_key(load).map(|c| c.id);
        }
        // One that was opened earlier may come up later.
        let chosen = able.min_by_key(|c| (c.up_since, c.id)).map(|c| c.id)?;
        // What a connection that leaves still carries is waited for.
        let run_elsewhere = |r: &Run| r.nexus == HOME && r.conn != chosen;
        let elsewhere =
            |t: &Task| t.is_initiators() && t.lun == task.lun && t.run.as_ref().is_some_and(run_elsewhere);
        (!self.tasks.iter().any(|(_, t)| elsewhere(t))).then_some(chosen)
    }

    /// A connection on a path chosen by policy, whose nexus may carry the unit, which is trusted as much as any, and as good
    /// for the unit as any of these. A path with two connections (its own nexus and, after a loss, home) prefers its own nexus.
    fn choose_any(&mut self, key: TaskKey, now: Instant) -> Option<ConnId> {
        let task = self.tasks.get(key)?;
        let (lun, bytes, class) = (task.lun, u64::from(task.expected), task.command.class.clone());
        let hedged = task.hedged;
        let Some((standing, grade)) = self.best_place(lun, &class) else {
            let arrived = task.arrived;
            return if self.waits_for_access(lun, &class, arrived, now) {
                None
            } else {
                self.choose_home(key)
            };
        };
        self.access_found(lun, &class);
        self.grow_shares(now);
        let place = (standing, grade);
        let elsewhere = |c: &Conn, late| c.path != late && self.fits(c, lun, &class, place);
        let avoided = hedged.filter(|late| self.conns.iter().any(|c| elsewhere(c, *late)));
        let fits = |s: &Self, c: &Conn| Some(c.path) != avoided && s.fits(c, lun, &class, place);
        let mut usable = std::mem::take(&mut self.usable);
        usable.clear();
        usable.resize(self.paths.len(), false);
        for conn in &self.conns {
            if fits(self, conn)
                && let Some(slot) = usable.get_mut(conn.path.0)
            {
                *slot = true;
            }
        }
        let chosen = self.selector.choose(&self.loads, &usable, bytes).map(PathId);
        self.usable = usable;
        let path = chosen?;
        let conns = self.conns.iter().filter(|c| c.path == path && fits(self, c));
        conns.max_by_key(|c| c.nexus).map(|c| c.id)
    }

    /// Whether a connection takes a command for a unit now, and is as good a place for it as is asked for.
    pub(super) fn fits(
        &self,
        conn: &Conn,
        lun: Lun,
        class: &Class,
        (standing, grade): (Standing, Grade),
    ) -> bool {
        self.takes_commands(conn, conn.nexus)
            && self.unit_usable(lun, conn.nexus, class)
            && self.has_grade(lun, conn.nexus, grade)
            && self.standing(conn) == standing
    }

    /// The LUN under which a task goes to a nexus.
    fn lun_of_run(&self, task: &Task, nexus: NexusId) -> Lun {
        task.lun_there.unwrap_or_else(|| self.lun_there(task.lun, nexus))
    }

    /// Sends a task as a new run over a connection.
    fn send(&mut self, key: TaskKey, conn: ConnId, now: Instant) {
        let itt = self.tasks.tag(key);
        if let Some(nexus) = self.conn(conn).map(|c| c.nexus) {
            self.widen(key, nexus);
        }
        let Some(conn) = self.conns.iter().find(|c| c.id == conn) else { return };
        let Some(lun) = self.tasks.get(key).map(|task| self.lun_of_run(task, conn.nexus)) else { return };
        let Some(nexus) = self.nexuses.get_mut(conn.nexus) else { return };
        let Some(task) = self.tasks.get_mut(key) else { return };
        let params = &nexus.params;
        let burst = task.expected.min(params.first_burst_length);
        let may_send = if task.write { burst.min(task.inbound.received()) } else { 0 };
        let immediate = if params.immediate_data { may_send.min(conn.max_send) } else { 0 };
        // Unsolicited data goes out whole or not at all (R121).
        let unsolicited = !params.initial_r2t && task.write && may_send == burst && burst > immediate;
        let cmd_sn = nexus.window.take();
        let command = ScsiCommand {
            immediate: false,
            final_: !unsolicited,
            read: task.read,
            write: task.write,
            attribute: task.attribute,
            lun,
            itt,
            expected_length: task.asked_length(),
            cmd_sn,
            exp_stat_sn: conn.statuses.expected(),
            cdb: task.asked_cdb().clone(),
            bidi_read_length: task.bidi_read,
            data: if immediate > 0 { task.inbound.slice(0, immediate) } else { Payload::new() },
        };
        let load = u64::from(task.expected) + u64::from(task.bidi_read.unwrap_or(0));
        task.queued = false;
        task.run = Some(Run {
            conn: conn.id,
            path: conn.path,
            nexus: conn.nexus,
            lun,
            itt,
            cmd_sn,
            sent_at: now,
            in_question: None,
            probes: 0,
            received: 0,
            data_sent: if unsolicited { burst } else { immediate },
            passed_on_before: task.outbound.delivered,
            next_sn: 0,
            solicited: VecDeque::new(),
            load,
        });
        if let Some(path) = self.loads.get_mut(conn.path.0) {
            path.started(load);
        }
        let command = Pdu::ScsiCommand(command);
        nexus.keep(conn.id, cmd_sn, &command);
        self.outputs.push_back(Output::ToTarget(conn.id, command));
        if unsolicited {
            let range = Transfer { ttt: Ttt::NONE, lun, from: immediate, to: burst, end: burst, data_sn: 0 };
            send_data(&mut self.outputs, conn, itt, &task.inbound, range);
        }
        self.handed_over(key);
        self.begin_hedging(now);
    }

    /// Answers the target's R2Ts with what has arrived from the initiator.
    pub(super) fn answer_r2ts(&mut self, key: TaskKey) {
        loop {
            let Some(task) = self.tasks.get_mut(key) else { return };
            let received = task.inbound.received();
            let home_lun = task.lun;
            let Some(run) = task.run.as_mut() else { return };
            let (id, itt) = (run.conn, run.itt);
            let Some(asked) = run.solicited.front() else { return };
            let to = asked.end.min(received);
            if to <= asked.next {
                return;
            }
            let lun = if broken!(self.rules, DataUnderHomesLun) { home_lun } else { asked.lun };
            let range = Transfer {
                ttt: asked.ttt,
                lun,
                from: asked.next,
                to,
                end: if broken!(self.rules, FinalTooEarly) { to } else { asked.end },
                data_sn: asked.data_sn,
            };
            let Some(conn) = self.conns.iter().find(|c| c.id == id) else { return };
            let data_sn = send_data(&mut self.outputs, conn, itt, &task.inbound, range);
            let Some(run) = task.run.as_mut() else { return };
            if let Some(asked) = run.solicited.front_mut() {
                run.data_sent = run.data_sent.max(to);
                asked.next = to;
                asked.data_sn = if broken!(self.rules, DataSnRestarts) { 0 } else { data_sn };
                if to == asked.end {
                    run.solicited.pop_front();
                }
            }
            let all = to == task.expected;
            self.handed_over(key);
            if broken!(self.rules, WriteAnsweredOnceSent) && all {
                self.completed(key, id, ScsiResponse::default(), self.now);
                return;
            }
        }
    }
}

/// Place in a queue: HEAD OF QUEUE first, then in order of arrival.
pub(super) fn place(task: &Task) -> (bool, u64) {
    (task.attribute != TaskAttribute::HeadOfQueue, task.seq)
}

/// A part of a Data-Out sequence.
pub(super) struct Transfer {
    pub(super) ttt: Ttt,
    pub(super) lun: Lun,
    pub(super) from: u32,
    pub(super) to: u32,
    /// End of the whole sequence.
    pub(super) end: u32,
    pub(super) data_sn: u32,
}

/// Sends `from..to` of a command's data in PDUs the target accepts; returns the next DataSN.
pub(super) fn send_data(
    outputs: &mut VecDeque<Output>,
    conn: &Conn,
    itt: Itt,
    buffer: &WriteBuffer,
    range: Transfer,
) -> u32 {
    let (mut at, mut data_sn) = (range.from, range.data_sn);
    while at < range.to {
        let length = (range.to - at).min(conn.max_send);
        let pdu = DataOut {
            final_: at + length == range.end,
            lun: if range.ttt == Ttt::NONE { Lun(0) } else { range.lun },
            itt,
            ttt: range.ttt,
            exp_stat_sn: conn.statuses.expected(),
            data_sn,
            buffer_offset: at,
            data: buffer.slice(at, length),
        };
        outputs.push_back(Output::ToTarget(conn.id, Pdu::DataOut(pdu)));
        at += length;
        data_sn += 1;
    }
    data_sn
}
