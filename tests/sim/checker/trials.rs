//! What the trials of both checkers share: a conversation whose steps have names, so that a trial can spoil one.

use super::{Broken, Downstream, Judged, Upstream, request, takes_stat_sn};
use braid::iscsi::text::KeyList;
use braid::iscsi::{
    Cdb, Cid, CmdSn, DataIn, DataOut, Isid, Itt, Payload, Pdu, R2t, ScsiCommand, ScsiResponse, StatSn, Tsih,
    Ttt,
};
use braid::login::{ConnectionParams, LoginKind, LoginPlan, Negotiated, SessionParams};
use braid::path::select::Policy;
use braid::session::{
    Barriers, ConnId, Exhausted, Fanout, FenceMethod, Marginal, PathId, PathPlan, SessionPlan, Unwashed,
};
use std::collections::BTreeSet;
use std::ops::Range;
use std::time::Duration;

/// One step of a conversation; PDUs with their connection.
#[derive(Clone)]
pub(super) enum Step {
    Opened(u32, Box<LoginPlan>),
    Connected(u32, Box<Negotiated>),
    Received(u32, Pdu),
    Sent(u32, Pdu),
    Closed(u32),
}

/// What happens behind a step.
type More = Option<(&'static str, fn(&mut Talk))>;

/// A conversation.
#[derive(Clone)]
pub(super) struct Talk {
    pub(super) login: LoginPlan,
    pub(super) negotiated: Negotiated,
    pub(super) steps: Vec<(&'static str, Step)>,
    /// For building: the next StatSN of each connection, the next CmdSN, and how far the window goes.
    stat_sn: Vec<StatSn>,
    pub(super) cmd_sn: CmdSn,
    pub(super) window: u32,
    /// Whether Braid is the initiator.
    upstream: bool,
    /// What else happens behind a step.
    pub(super) more: More,
    /// For `more` to put in its place.
    pub(super) later: More,
}

impl Talk {
    pub(super) fn new(session: SessionParams, upstream: bool) -> Self {
        let login = LoginPlan {
            kind: LoginKind::Leading,
            initiator_name: "iqn.2026-11.org.example:initiator".into(),
            target_name: "iqn.2026-11.org.example:target".into(),
            isid: Isid([0x80, 0, 0, 0, 0, 1]),
            cid: Cid(7),
            cmd_sn: CmdSn(u32::MAX - 3),
            offer: session.clone(),
            connection: ConnectionParams::default(),
        };
        let negotiated = Negotiated {
            session,
            connection: ConnectionParams { max_send_data_segment: 512, ..ConnectionParams::default() },
            discovery: false,
            initiator_name: login.initiator_name.clone(),
            target_name: login.target_name.clone(),
            target_alias: None,
            tpgt: Some(1),
            isid: login.isid,
            tsih: Tsih(9),
            cid: login.cid,
            cmd_sn: login.cmd_sn,
            max_cmd_sn: login.cmd_sn.plus(7),
            stat_sn: StatSn(u32::MAX - 1),
            quirks: Default::default(),
        };
        let (stat_sn, cmd_sn) = (vec![negotiated.stat_sn; 5], login.cmd_sn);
        Self {
            login,
            negotiated,
            steps: Vec::new(),
            stat_sn,
            cmd_sn,
            window: 8,
            upstream,
            more: None,
            later: None,
        }
    }

    /// A PDU from the side of the initiator, with its numbers filled in.
    fn ask(&mut self, conn: u32, mut pdu: Pdu) -> Pdu {
        let (cmd_sn, exp_stat_sn) = (self.cmd_sn, self.stat_sn[conn as usize]);
        match &mut pdu {
            Pdu::ScsiCommand(p) => (p.cmd_sn, p.exp_stat_sn) = (cmd_sn, exp_stat_sn),
            Pdu::TaskManagementRequest(p) => (p.cmd_sn, p.exp_stat_sn) = (cmd_sn, exp_stat_sn),
            Pdu::NopOut(p) => (p.cmd_sn, p.exp_stat_sn) = (cmd_sn, exp_stat_sn),
            Pdu::TextRequest(p) => (p.cmd_sn, p.exp_stat_sn) = (cmd_sn, exp_stat_sn),
            Pdu::LogoutRequest(p) => (p.cmd_sn, p.exp_stat_sn) = (cmd_sn, exp_stat_sn),
            Pdu::DataOut(p) => p.exp_stat_sn = exp_stat_sn,
            Pdu::SnackRequest(p) => p.exp_stat_sn = exp_stat_sn,
            _ => {}
        }
        if request(&pdu).is_some_and(|head| !head.immediate) {
            self.cmd_sn = cmd_sn.next();
        }
        pdu
    }

    /// A PDU from the side of the target, with its numbers filled in.
    fn tell(&mut self, conn: u32, mut pdu: Pdu) -> Pdu {
        let stat_sn = self.stat_sn[conn as usize];
        if takes_stat_sn(&pdu) {
            self.stat_sn[conn as usize] = stat_sn.next();
        }
        let numbers = (stat_sn, self.cmd_sn, self.cmd_sn.plus(self.window).minus(1));
        set_numbers(&mut pdu, numbers);
        pdu
    }

    pub(super) fn step(&mut self, name: &'static str, step: Step) {
        self.steps.push((name, step));
        if let Some((_, more)) = self.more.take_if(|(behind, _)| *behind == name) {
            more(self);
        }
    }

    /// Braid as initiator sends, or as target hears.
    pub(super) fn asks(&mut self, name: &'static str, conn: u32, pdu: Pdu) {
        let pdu = self.ask(conn, pdu);
        let sent = self.upstream;
        self.step(name, if sent { Step::Sent(conn, pdu) } else { Step::Received(conn, pdu) });
    }

    /// Braid as initiator hears, or as target sends.
    pub(super) fn tells(&mut self, name: &'static str, conn: u32, pdu: Pdu) {
        let pdu = self.tell(conn, pdu);
        let sent = !self.upstream;
        self.step(name, if sent { Step::Sent(conn, pdu) } else { Step::Received(conn, pdu) });
    }

    // What trials change.

    pub(super) fn at(&self, name: &str) -> usize {
        self.steps.iter().position(|(n, _)| *n == name).unwrap_or_else(|| panic!("no step {name}"))
    }

    pub(super) fn pdu(&mut self, name: &str) -> &mut Pdu {
        let at = self.at(name);
        match &mut self.steps[at].1 {
            Step::Sent(_, pdu) | Step::Received(_, pdu) => pdu,
            _ => panic!("{name} is no PDU"),
        }
    }

    pub(super) fn plan(&mut self, name: &str) -> &mut LoginPlan {
        let at = self.at(name);
        let Step::Opened(_, plan) = &mut self.steps[at].1 else { panic!("{name} opens nothing") };
        plan
    }

    pub(super) fn login_of(&mut self, name: &str) -> &mut Negotiated {
        let at = self.at(name);
        let Step::Connected(_, negotiated) = &mut self.steps[at].1 else { panic!("{name} is no login") };
        negotiated
    }

    /// The target says something else instead.
    pub(super) fn replace(&mut self, name: &str, mut with: Pdu) {
        let pdu = self.pdu(name);
        set_numbers(&mut with, pdu.target_numbers().unwrap());
        *pdu = with;
    }

    pub(super) fn drop(&mut self, name: &str) {
        let at = self.at(name);
        self.steps.remove(at);
    }

    pub(super) fn swap(&mut self, a: &str, b: &str) {
        let (a, b) = (self.at(a), self.at(b));
        self.steps.swap(a, b);
    }

    /// The request goes out once more, over this connection.
    pub(super) fn again(&mut self, name: &str, conn: u32, change: impl FnOnce(&mut ScsiCommand)) {
        let Pdu::ScsiCommand(mut command) = self.pdu(name).clone() else { panic!("{name} is no command") };
        command.exp_stat_sn = self.stat_sn[conn as usize];
        change(&mut command);
        self.step("again", Step::Sent(conn, Pdu::ScsiCommand(command)));
    }

    /// The step goes over connection 0, which lacks nothing for it.
    pub(super) fn divert(&mut self, name: &str) {
        let at = self.at(name);
        let acknowledged = self.steps[..at].iter().rev().find_map(|(_, step)| match step {
            Step::Received(0, pdu) if takes_stat_sn(pdu) => pdu.target_numbers().map(|n| n.0.next()),
            _ => None,
        });
        let Step::Sent(conn, pdu) = &mut self.steps[at].1 else { panic!("{name} is not sent") };
        *conn = 0;
        match pdu {
            Pdu::DataOut(p) => p.exp_stat_sn = acknowledged.unwrap(),
            Pdu::TaskManagementRequest(p) => p.exp_stat_sn = acknowledged.unwrap(),
            other => panic!("{other:?}"),
        }
    }

    // What judges.

    fn judge_upstream(&self) -> (Result<(), Broken>, Judged) {
        let mut checker = Upstream::new(&self.session_plan());
        let mut all = || {
            for (_, step) in &self.steps {
                match step {
                    Step::Opened(conn, plan) => checker.opened(ConnId(*conn), PathId(0), plan)?,
                    Step::Connected(conn, negotiated) => checker.connected(ConnId(*conn), negotiated),
                    Step::Received(conn, pdu) => checker.received(ConnId(*conn), pdu),
                    Step::Sent(conn, pdu) => checker.sent(ConnId(*conn), pdu)?,
                    Step::Closed(conn) => checker.closed(ConnId(*conn)),
                }
            }
            checker.end()
        };
        let verdict = all();
        (verdict, *checker.judged())
    }

    fn judge_downstream(&self) -> (Result<(), Broken>, Judged) {
        let mut checker = Downstream::new(&self.negotiated);
        let mut all = || {
            for (_, step) in &self.steps {
                match step {
                    Step::Received(_, pdu) => checker.received(SessionPlan::FIRST_LINE, pdu),
                    Step::Sent(_, pdu) => checker.sent(SessionPlan::FIRST_LINE, pdu)?,
                    _ => panic!("one connection, which is up"),
                }
            }
            checker.end(true)
        };
        let verdict = all();
        (verdict, *checker.judged())
    }

    fn session_plan(&self) -> SessionPlan {
        let long = Duration::from_secs(3600);
        SessionPlan {
            downstream: self.negotiated.clone(),
            paths: vec![PathPlan {
                name: String::new(),
                weight: 1,
                out: false,
                target: self.login.target_name.clone(),
            }],
            home_path: PathId(0),
            home: self.negotiated.clone(),
            home_login: self.login.clone(),
            fanout: Fanout::Mcs,
            policy: Policy::RoundRobin,
            fence: FenceMethod::Auto,
            barriers: Barriers::Strict,
            fence_time: long,
            queue_time: long,
            exhausted: Exhausted::Close,
            ping_interval: long,
            ping_timeout: long,
            silence_timeout: long,
            task_timeout: long,
            sequence_timeout: long,
            reconnect: (long, long),
            marginal: Marginal { losses: 5, within: long, calm: long },
            hedge: None,
            max_window: 8,
            memory_budget: 0,
            seed: 0,
            predecessor: None,
            unwashed: Unwashed::default(),
            send_targets: KeyList::new(),
        }
    }
}

/// A change to a conversation.
#[derive(Clone, Copy)]
pub(super) enum Change {
    /// Of what was agreed before it begins.
    First(fn(&mut Talk)),
    /// Something more behind a step; later numbers shift.
    After(&'static str, fn(&mut Talk)),
    /// Of what is said.
    Edit(fn(&mut Talk)),
}
use Change::{After, Edit, First};

/// A conversation, and how to spoil it.
pub(super) struct Trial {
    pub(super) session: SessionParams,
    pub(super) upstream: bool,
    pub(super) build: fn(&mut Talk),
    /// Rules, and how each is broken.
    pub(super) spoiled: &'static [&'static [(u16, Change)]],
    /// Changes that break nothing.
    pub(super) sound: &'static [Change],
}

impl Trial {
    fn judge(&self, change: Option<Change>) -> (Result<(), Broken>, Judged) {
        let mut talk = Talk::new(self.session.clone(), self.upstream);
        match change {
            Some(First(first)) => first(&mut talk),
            Some(After(name, more)) => talk.more = Some((name, more)),
            Some(Edit(_)) | None => {}
        }
        (self.build)(&mut talk);
        if let Some(Edit(edit)) = change {
            edit(&mut talk);
        }
        if self.upstream { talk.judge_upstream() } else { talk.judge_downstream() }
    }

    fn all(&self) -> impl Iterator<Item = &(u16, Change)> {
        self.spoiled.iter().flat_map(|table| table.iter())
    }

    /// The conversation passes as it stands; spoilt in one place, just the rule is found broken that is. No rule that it
    /// meets is left out.
    pub(super) fn run(&self) {
        let (verdict, judged) = self.judge(None);
        verdict.unwrap();
        for (at, change) in self.sound.iter().enumerate() {
            self.judge(Some(*change)).0.unwrap_or_else(|broken| panic!("sound change {at}: {broken}"));
        }
        let mut wrong = Vec::new();
        for (at, (requirement, change)) in self.all().enumerate() {
            match self.judge(Some(*change)).0 {
                Err(broken) if broken.requirement == *requirement => {}
                other => wrong.push(format!("entry {at}: R{requirement} is broken, but: {other:?}")),
            }
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
        let proved: BTreeSet<u16> = self.all().map(|(requirement, _)| *requirement).collect();
        let met = (0..).zip(judged.iter()).filter(|(_, n)| **n > 0).map(|(requirement, _)| requirement);
        let left: Vec<u16> = met.filter(|requirement| !proved.contains(requirement)).collect();
        assert!(left.is_empty(), "nothing shows that these can be broken: {left:?}");
    }
}

/// Spoils a PDU.
macro_rules! spoil {
    ($name:literal, $kind:ident, $pdu:ident => $change:expr) => {
        Change::Edit(|talk: &mut Talk| match talk.pdu($name) {
            Pdu::$kind($pdu) => $change,
            other => panic!("not what was expected: {other:?}"),
        })
    };
}
pub(super) use spoil;

/// Sets StatSN, ExpCmdSN and MaxCmdSN.
pub(super) fn set_numbers(pdu: &mut Pdu, numbers: (StatSn, CmdSn, CmdSn)) {
    let (stat_sn, exp_cmd_sn, max_cmd_sn) = match pdu {
        Pdu::NopIn(p) => (&mut p.stat_sn, &mut p.exp_cmd_sn, &mut p.max_cmd_sn),
        Pdu::ScsiResponse(p) => (&mut p.stat_sn, &mut p.exp_cmd_sn, &mut p.max_cmd_sn),
        Pdu::TaskManagementResponse(p) => (&mut p.stat_sn, &mut p.exp_cmd_sn, &mut p.max_cmd_sn),
        Pdu::LoginResponse(p) => (&mut p.stat_sn, &mut p.exp_cmd_sn, &mut p.max_cmd_sn),
        Pdu::TextResponse(p) => (&mut p.stat_sn, &mut p.exp_cmd_sn, &mut p.max_cmd_sn),
        Pdu::DataIn(p) => (&mut p.stat_sn, &mut p.exp_cmd_sn, &mut p.max_cmd_sn),
        Pdu::LogoutResponse(p) => (&mut p.stat_sn, &mut p.exp_cmd_sn, &mut p.max_cmd_sn),
        Pdu::R2t(p) => (&mut p.stat_sn, &mut p.exp_cmd_sn, &mut p.max_cmd_sn),
        Pdu::AsyncMessage(p) => (&mut p.stat_sn, &mut p.exp_cmd_sn, &mut p.max_cmd_sn),
        Pdu::Reject(p) => (&mut p.stat_sn, &mut p.exp_cmd_sn, &mut p.max_cmd_sn),
        _ => return,
    };
    (*stat_sn, *exp_cmd_sn, *max_cmd_sn) = numbers;
}

// PDUs without their numbers.

pub(super) fn bytes(length: u32) -> Payload {
    Payload::from(vec![7; length as usize])
}

pub(super) fn plain(itt: u32) -> ScsiCommand {
    let cdb = Cdb([0; 16].into_iter().collect());
    ScsiCommand { itt: Itt(itt), final_: true, cdb, ..ScsiCommand::default() }
}

pub(super) fn read(itt: u32, expected_length: u32) -> ScsiCommand {
    ScsiCommand { read: true, expected_length, ..plain(itt) }
}

/// A write with so much immediate data; more unsolicited data follows unless it is final.
pub(super) fn write(itt: u32, expected_length: u32, immediate: u32, final_: bool) -> ScsiCommand {
    ScsiCommand { write: true, expected_length, final_, data: bytes(immediate), ..plain(itt) }
}

pub(super) fn data_out(itt: u32, ttt: Ttt, data_sn: u32, range: Range<u32>, final_: bool) -> Pdu {
    let (buffer_offset, data) = (range.start, bytes(range.end - range.start));
    Pdu::DataOut(DataOut { itt: Itt(itt), ttt, data_sn, buffer_offset, data, final_, ..DataOut::default() })
}

pub(super) fn data_in(itt: u32, data_sn: u32, range: Range<u32>, final_: bool, has_status: bool) -> Pdu {
    let (buffer_offset, data) = (range.start, bytes(range.end - range.start));
    Pdu::DataIn(DataIn {
        itt: Itt(itt),
        data_sn,
        buffer_offset,
        data,
        final_,
        has_status,
        ..DataIn::default()
    })
}

pub(super) fn r2t(itt: u32, ttt: u32, r2t_sn: u32, range: Range<u32>) -> Pdu {
    let (buffer_offset, desired_length) = (range.start, range.end - range.start);
    Pdu::R2t(R2t { itt: Itt(itt), ttt: Ttt(ttt), r2t_sn, buffer_offset, desired_length, ..R2t::default() })
}

pub(super) fn good(itt: u32, exp_data_sn: u32) -> Pdu {
    Pdu::ScsiResponse(ScsiResponse { itt: Itt(itt), exp_data_sn, ..ScsiResponse::default() })
}
