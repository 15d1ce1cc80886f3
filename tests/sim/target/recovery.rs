//! Error recovery level 2: a connection that is lost is logged out, and its tasks go on over another one. What was said and not
//! acknowledged is said again.

use super::commands::Outcome;
use super::device::{Asked, State};
use super::luns::exp_stat_sn;
use super::trigger::Trigger;
use super::{Effect, Target};
use braid::iscsi::{
    Cid, LogoutRequest, LogoutResponse, Pdu, ScsiCommand, StatSn, TaskManagementRequest, Ttt, tmf,
};

/// Seconds for which tasks are said to be kept. (They are until their session ends.)
const RETAINED: u16 = 20;

/// A connection that is gone.
pub(super) struct Lost {
    conn: u32,
    session: usize,
    cid: Cid,
    logged_out: bool,
}

/// An answer that may have to be given again.
pub(super) struct Said {
    conn: u32,
    session: usize,
    /// None while it could be said to nobody.
    stat_sn: Option<StatSn>,
    command: ScsiCommand,
    r2ts: u32,
    outcome: Outcome,
}

impl Target {
    fn is_at_level_2(&self, session: usize) -> bool {
        self.sessions[session].params.error_recovery_level >= 2
    }

    /// Whether tasks of a session outlive their connection.
    pub(super) fn keeps_tasks(&self, session: usize) -> bool {
        self.is_at_level_2(session) && self.persona.reassign == tmf::COMPLETE && self.sessions[session].alive
    }

    /// A connection is gone while others of its session are there. Returns whether its tasks are kept.
    pub(super) fn keep_lost(&mut self, conn: u32, session: usize, cid: Cid) -> bool {
        if !self.is_at_level_2(session) || self.conns_of(session).is_empty() {
            return false;
        }
        self.lost.push(Lost { conn, session, cid, logged_out: false });
        self.keeps_tasks(session)
    }

    /// A session has ended: what it had kept becomes ghosts.
    pub(super) fn end_kept(&mut self, session: usize) {
        self.said.retain(|said| said.session != session);
        let (ended, left) = std::mem::take(&mut self.lost).into_iter().partition(|l| l.session == session);
        self.lost = left;
        let ended: Vec<Lost> = ended;
        for lost in ended {
            self.drop_commands(lost.conn, session);
        }
    }

    /// The session that a connection belongs to, or belonged to.
    fn session_of(&self, conn: u32) -> Option<usize> {
        let lost = || self.lost.iter().find(|l| l.conn == conn).map(|l| l.session);
        self.conn(conn).map(|c| c.session).or_else(lost)
    }

    /// Answers a command, and keeps the answer where it may be wanted again.
    pub(super) fn respond(&mut self, conn: u32, command: &ScsiCommand, r2ts: u32, outcome: Outcome) {
        let kept = self.session_of(conn).filter(|session| self.keeps_tasks(*session));
        let said = kept.map(|session| {
            let (command, outcome) = (command.clone(), outcome.clone());
            Said { conn, session, stat_sn: None, command, r2ts, outcome }
        });
        self.say(conn, command, (r2ts, 0), outcome);
        if let Some(said) = said {
            let stat_sn = self.conn(conn).map(|c| c.stat_sn.minus(1));
            self.said.push(Said { stat_sn, ..said });
        }
    }

    /// What was said over a connection has arrived.
    pub(super) fn forget_said(&mut self, conn: u32, pdu: &Pdu) {
        let Some(exp_stat_sn) = exp_stat_sn(pdu) else { return };
        let arrived = |said: &Said| said.stat_sn.is_some_and(|number| number.is_before(exp_stat_sn));
        self.said.retain(|said| said.conn != conn || !arrived(said));
    }

    /// Logout of a connection for recovery; false if this target has nothing of the kind.
    pub(super) fn remove_for_recovery(&mut self, conn: u32, session: usize, request: &LogoutRequest) -> bool {
        let (answer, time2wait) = self.persona.recovery_logout;
        if !self.is_at_level_2(session) || answer != 0 {
            return false;
        }
        let named = self.conns.iter().find(|c| c.session == session && c.cid == request.cid).map(|c| c.id);
        assert!(named != Some(conn), "R210: a connection asks to be removed for recovery itself");
        if let Some(named) = named {
            self.effects.push_back(Effect::Reset(named));
            self.lose_conn(named);
        }
        let lost = self.lost.iter_mut().find(|l| (l.session, l.cid) == (session, request.cid));
        let gone = lost.map(|lost| {
            lost.logged_out = true;
            lost.conn
        });
        if let Some(gone) = gone {
            self.count(Trigger::RemovedForRecovery);
            let session = &mut self.sessions[session];
            session.early_data.retain(|(from, _)| *from != gone);
            session.early.retain(|_, kept| kept.as_ref().is_none_or(|(from, _)| *from != gone));
        }
        let (response, itt) = (u8::from(gone.is_none()), request.itt);
        self.reply(conn, true, |stat_sn, exp_cmd_sn, max_cmd_sn| {
            let numbers = LogoutResponse { stat_sn, exp_cmd_sn, max_cmd_sn, ..LogoutResponse::default() };
            Pdu::LogoutResponse(LogoutResponse { response, itt, time2wait, time2retain: RETAINED, ..numbers })
        });
        self.device_changed();
        true
    }

    /// The response to a TASK REASSIGN.
    pub(super) fn judge_reassignment(&self, session: usize, request: &TaskManagementRequest) -> u8 {
        let itt = request.referenced_itt;
        let task = self.tasks.iter().find(|t| t.session == session && t.command.itt == itt).map(|t| t.conn);
        let said = || self.said.iter().find(|s| s.session == session && s.command.itt == itt).map(|s| s.conn);
        let Some(conn) = task.or_else(said) else { return tmf::TASK_DOES_NOT_EXIST };
        let free = self.lost.iter().any(|l| l.conn == conn && l.logged_out);
        if free { tmf::COMPLETE } else { tmf::TASK_STILL_ALLEGIANT }
    }

    /// A task goes on over another connection: asks for the data that it lacks, or says again what it had said.
    pub(super) fn resume(&mut self, conn: u32, session: usize, request: &TaskManagementRequest) {
        let itt = request.referenced_itt;
        if let Some(at) = self.tasks.iter().position(|t| t.session == session && t.command.itt == itt) {
            self.count(Trigger::Reassigned);
            let now = self.entered_at();
            let task = &mut self.tasks[at];
            let before = std::mem::replace(&mut task.conn, conn);
            if let Some(sent) = self.sent.remove(&(before, itt.0)) {
                self.sent.insert((conn, itt.0), sent);
            }
            let task = &mut self.tasks[at];
            if task.state.is_collecting() {
                self.counts.count(Trigger::ReassignedCollecting);
                task.state = State::Collecting(now);
                task.asked = Asked { ttt: Ttt::NONE, end: task.data.len(), data_sn: 0 };
                self.collect(at);
            }
        } else if let Some(at) = self.said.iter().position(|s| s.session == session && s.command.itt == itt) {
            self.count(Trigger::SaidAgain);
            let said = self.said.remove(at);
            self.say(conn, &said.command, (said.r2ts, request.exp_data_sn), said.outcome.clone());
            let stat_sn = self.conn(conn).map(|c| c.stat_sn.minus(1));
            self.said.push(Said { conn, stat_sn, ..said });
        }
    }
}
