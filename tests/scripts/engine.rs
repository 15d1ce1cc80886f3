//! The engine between a scripted initiator and scripted targets.

use crate::initiator::Initiator;
use crate::script::Stage;
use crate::targets::{Targets, is_question};
use crate::words::{Words, hex};
use crate::{print, setup};
use braid::iscsi::{Cid, CmdSn, Itt, Pdu, Tsih, reject};
use braid::login::{LoginPlan, Negotiated};
use braid::session::{Cause, ConnId, Control, Event, Output, PathId, Session, SessionPlan};
use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

/// A new, empty stage.
pub(crate) fn stage() -> Box<dyn Stage> {
    Box::new(Preparing::new())
}

/// What `setup` lines change, then the running session.
struct Preparing {
    plan: SessionPlan,
    targets: Targets,
    shown: bool,
    /// The process before this one died just now.
    died: bool,
    running: Option<Engine>,
}

struct Engine {
    session: Session,
    now: Instant,
    initiator: Initiator,
    targets: Targets,
    upstream: Negotiated,
    opening: BTreeMap<u32, LoginPlan>,
    /// Braid's questions about units are left to the script.
    shown: bool,
    /// Questions to be answered for the script.
    asked: VecDeque<(u32, Itt)>,
    printed: Vec<String>,
    downstream_closed: bool,
    finished: bool,
}

impl Preparing {
    fn new() -> Self {
        Self { plan: setup::plan(), targets: Targets::new(), shown: false, died: false, running: None }
    }
}

impl Stage for Preparing {
    fn step(&mut self, input: &str) -> Result<Vec<String>, String> {
        let mut words = Words::new(input);
        if words.begin("setup anew") {
            *self = Self::new();
            return words.end().map(|()| Vec::new());
        }
        if let Some(engine) = &mut self.running {
            engine.printed.clear();
            engine.take(&mut words)?;
            words.end()?;
            return Ok(engine.said());
        }
        if words.begin("setup initiator") {
            setup::change_downstream(&mut words, &mut self.plan.downstream)?;
        } else if words.begin("setup targets") {
            setup::change_upstream(&mut words, &mut self.plan.home)?;
            self.targets.device_type = words.number_or("type", self.targets.device_type)?;
            if let Some(page) = words.value("control") {
                self.targets.control = Some(hex(page)?);
            }
            self.targets.window = words.number_or("window", self.targets.window)?;
            if let Some(vendor) = words.value("vendor") {
                self.targets.vendor = vendor.to_owned();
            }
        } else if words.begin("setup questions=shown") {
            self.shown = true;
        } else if words.begin("setup predecessor=died") {
            self.died = true;
        } else if words.begin("setup") {
            setup::change_plan(&mut words, &mut self.plan)?;
        } else if words.begin("the session starts") {
            let settles = words.begin("and settles");
            words.end()?;
            let targets = std::mem::replace(&mut self.targets, Targets::new());
            let mut engine = Engine::new(self.plan.clone(), targets, (self.shown, self.died))?;
            if settles {
                engine.settle()?;
            }
            let said = engine.said();
            self.running = Some(engine);
            return Ok(said);
        } else {
            return Err("the session has not started".into());
        }
        words.end()?;
        Ok(Vec::new())
    }
}

impl Engine {
    fn new(mut plan: SessionPlan, mut targets: Targets, (shown, died): (bool, bool)) -> Result<Self, String> {
        let (_, exp, max) = targets.open(SessionPlan::HOME_CONN.0, &plan.home_login);
        (plan.home.cmd_sn, plan.home.max_cmd_sn) = (exp, max);
        let down = &mut plan.downstream;
        down.max_cmd_sn = down.cmd_sn.plus(plan.max_window).minus(1);
        let mut initiator = Initiator::new(down.cmd_sn, down.max_cmd_sn, down.stat_sn);
        initiator.recovers = down.session.error_recovery_level > 0;
        let upstream = plan.home.clone();
        #[expect(
            clippy::disallowed_methods,
            reason = "an arbitrary origin; time then passes only by adding to it"
        )]
        let now = Instant::now();
        plan.predecessor = died.then_some(now);
        let mut engine = Self {
            session: Session::new(plan, now),
            now,
            initiator,
            targets,
            upstream,
            opening: BTreeMap::new(),
            shown,
            asked: VecDeque::new(),
            printed: Vec::new(),
            downstream_closed: false,
            finished: false,
        };
        engine.drain()?;
        Ok(engine)
    }

    /// All paths come up, the initiator reads a block on home so that Braid learns who unit 0 is, and all further
    /// sessions prove to show it. Only where this leads is printed.
    fn settle(&mut self) -> Result<(), String> {
        while let Some(conn) = self.opening.keys().next().copied() {
            self.connect(conn, &mut Words::new(""))?;
        }
        let first = self.initiator.pdu(&mut Words::new("READ(10) itt=0xff lba=0 blocks=1"))?;
        self.handle(Event::Downstream(SessionPlan::FIRST_LINE, first))?;
        // The first tag that Braid gives out.
        self.answer(0, Itt(0x10000), false)?;
        let ready = |line: &&String| !line.contains("proved") && !line.contains("path");
        if let Some(odd) = self.printed.iter().filter(ready).find(|line| line.contains("notice")) {
            return Err(format!("the session does not settle: {odd}"));
        }
        self.printed = vec![format!("settled, the next command is cmdsn={}", self.initiator.cmd_sn)];
        Ok(())
    }

    fn said(&mut self) -> Vec<String> {
        let said = std::mem::take(&mut self.printed);
        if said.is_empty() { vec!["nothing".into()] } else { said }
    }

    fn take(&mut self, words: &mut Words<'_>) -> Result<(), String> {
        if words.begin("initiator:") {
            let pdu = self.initiator.pdu(words)?;
            return self.handle(Event::Downstream(SessionPlan::FIRST_LINE, pdu));
        }
        if words.begin("initiator, spoilt:") {
            let (header, _) = self.initiator.pdu(words)?.encode();
            return self.handle(Event::DownstreamRejectable {
                line: SessionPlan::FIRST_LINE,
                header,
                reason: reject::DATA_DIGEST,
            });
        }
        if words.begin("the initiator sends a broken header") {
            let mut header = [0; 48];
            let opcode: u8 = words.number_or("opcode", 0)?;
            header.iter_mut().take(1).for_each(|byte| *byte = opcode);
            let reason = words.number_or("reason", 0)?;
            return self.handle(Event::DownstreamRejectable {
                line: SessionPlan::FIRST_LINE,
                header,
                reason,
            });
        }
        if words.begin("the initiator is gone") {
            return self.handle(Event::DownstreamClosed(SessionPlan::FIRST_LINE));
        }
        if words.begin("a link of this machine comes up") {
            return self.handle(Event::LinkUp);
        }
        if words.begin("the operator waits no longer") {
            return self.handle(Event::Control(Control::GiveUp));
        }
        for (order, control) in [
            ("the operator drains path", Control::Drain as fn(PathId) -> Control),
            ("the operator fails path", Control::Fail),
            ("the operator gives back path", Control::Restore),
        ] {
            if words.begin(order) {
                let path = words.next()?;
                let path = path.parse().map_err(|_| format!("{path} is no path"))?;
                return self.handle(Event::Control(control(PathId(path))));
            }
        }
        if words.begin("the operator stops the session") {
            return self.handle(Event::Stop);
        }
        if words.begin("connection") {
            let name = words.next()?;
            let digits = name.trim_end_matches(':');
            let conn = digits.parse().map_err(|_| format!("{digits} is no connection"))?;
            return self.connection(conn, name.ends_with(':'), words);
        }
        if words.begin("reading from the targets pauses") {
            return self.handle(Event::Paused(true));
        }
        if words.begin("reading from the targets goes on") {
            return self.handle(Event::Paused(false));
        }
        if words.begin("time passes until something is due") {
            return self.pass(None);
        }
        if words.begin("time passes") {
            let time = setup::duration(words.next()?)?;
            return self.pass(Some(time));
        }
        Err("not an input".into())
    }

    /// Something happens to an upstream connection.
    fn connection(&mut self, conn: u32, sends: bool, words: &mut Words<'_>) -> Result<(), String> {
        let id = ConnId(conn);
        if sends {
            let pdu = self.targets.pdu(conn, words)?;
            return self.handle(Event::Upstream(id, pdu));
        }
        if words.begin("answers") {
            let foreign = words.flag("as-another-disk");
            return self.answer(conn, Itt(words.tag("itt")?), foreign);
        }
        if words.begin("logs in") {
            return self.connect(conn, words);
        }
        if words.begin("is reset") {
            self.targets.close(conn);
            return self.handle(Event::Disconnected(id, Cause::Tcp("connection reset".into())));
        }
        self.opening.remove(&conn).ok_or("this connection is not being opened")?;
        if words.begin("cannot be made") {
            return self.handle(Event::Disconnected(id, Cause::Tcp("no route to host".into())));
        }
        if words.begin("is refused") {
            let cause = Cause::Login(format!("refused with {}", words.next()?));
            return self.handle(Event::Disconnected(id, cause));
        }
        Err("nothing that happens to a connection".into())
    }

    fn connect(&mut self, conn: u32, words: &mut Words<'_>) -> Result<(), String> {
        let plan = self.opening.remove(&conn).ok_or("this connection is not being opened")?;
        let (session, exp, max) = self.targets.open(conn, &plan);
        let mut negotiated = Negotiated {
            isid: plan.isid,
            tsih: Tsih(u16::try_from(1000 + session).unwrap_or(0)),
            cid: Cid(plan.cid.0),
            cmd_sn: exp,
            max_cmd_sn: CmdSn(words.number_or("maxcmdsn", max.0)?),
            tpgt: words.number("tpgt")?.or(self.upstream.tpgt),
            ..self.upstream.clone()
        };
        negotiated.session.max_connections =
            plan.offer.max_connections.min(negotiated.session.max_connections);
        self.handle(Event::Connected(ConnId(conn), Box::new(negotiated)))
    }

    fn answer(&mut self, conn: u32, itt: Itt, foreign: bool) -> Result<(), String> {
        for pdu in self.targets.answer(conn, itt, foreign)? {
            self.handle(Event::Upstream(ConnId(conn), pdu))?;
        }
        Ok(())
    }

    fn handle(&mut self, event: Event) -> Result<(), String> {
        self.session.handle(event, self.now);
        self.drain()?;
        self.answer_questions()
    }

    /// Time passes, or else it becomes the next time at which the engine wants to be woken.
    fn pass(&mut self, time: Option<Duration>) -> Result<(), String> {
        let start = self.now;
        let due = self.session.next_deadline();
        let mut end = match time {
            Some(time) => start + time,
            None => due.ok_or("nothing is due")?,
        };
        while let Some(at) = self.session.next_deadline().filter(|at| *at <= end) {
            let before = self.printed.len();
            self.now = self.now.max(at);
            self.session.handle_timeout(self.now);
            self.drain()?;
            self.answer_questions()?;
            let after = at - start;
            for line in self.printed.iter_mut().skip(before) {
                *line = format!("after {after:?} {line}");
            }
            // The engine may look at what its kernel knows, and find nothing.
            if time.is_none() && self.printed.len() == before {
                end = self.session.next_deadline().ok_or("nothing is due")?;
            }
        }
        self.now = end;
        Ok(())
    }

    fn answer_questions(&mut self) -> Result<(), String> {
        while let Some((conn, itt)) = self.asked.pop_front() {
            if self.targets.is_open(conn) {
                for pdu in self.targets.answer(conn, itt, false)? {
                    self.session.handle(Event::Upstream(ConnId(conn), pdu), self.now);
                    self.drain()?;
                }
            }
        }
        Ok(())
    }

    fn drain(&mut self) -> Result<(), String> {
        while let Some(output) = self.session.poll() {
            if self.finished {
                return Err(format!("comes after the end: {output:?}"));
            }
            let line = self.output(output)?;
            self.printed.extend(line);
        }
        self.session.check().map_err(|broken| format!("invariant: {broken}"))
    }

    /// The line for an output; none for a question that is answered for the script, and for a change that the line of its connection says.
    fn output(&mut self, output: Output) -> Result<Option<String>, String> {
        Ok(Some(match output {
            Output::ToInitiator(_, pdu) => {
                if self.downstream_closed {
                    return Err(format!("sent after the end: {pdu}"));
                }
                let base = self.initiator.base(pdu.itt());
                self.initiator.judge(&pdu)?;
                format!("to initiator: {}", print::pdu(&pdu, base))
            }
            Output::ToTarget(conn, pdu) => {
                let base = self.targets.receive(conn.0, &pdu)?;
                if let Some(line) = self.question(conn.0, &pdu) {
                    return Ok(line);
                }
                format!("to connection {}: {}", conn.0, print::pdu(&pdu, base))
            }
            // A kernel that tells nothing.
            Output::Sample(_) => return Ok(None),
            Output::Open(conn, PathId(path), plan) => {
                let twin = if plan.target_name.ends_with(".twin") { " to the twin" } else { "" };
                let line =
                    format!("open connection {} over path {path}{twin}: {}", conn.0, print::plan(&plan));
                self.opening.insert(conn.0, *plan);
                line
            }
            Output::Close(conn, how) => {
                self.opening.remove(&conn.0);
                self.targets.close(conn.0);
                format!("close connection {} {}", conn.0, print::how(how))
            }
            Output::CloseLine(line) => format!("close the initiator's connection {}", line.0),
            Output::CloseDownstream => {
                self.downstream_closed = true;
                "close the initiator's connection".into()
            }
            Output::Finished(_) => {
                if !self.downstream_closed || !self.targets.is_empty() {
                    return Err("finished too early".into());
                }
                self.finished = true;
                "finished".into()
            }
            Output::Note(notice) if print::comes_with_connection(&notice) => return Ok(None),
            Output::Note(notice) => format!("notice: {}", print::notice(&notice)),
        }))
    }

    /// Files a question about a unit to be answered; such questions are printed once for all that one input leads to.
    fn question(&mut self, conn: u32, pdu: &Pdu) -> Option<Option<String>> {
        let Pdu::ScsiCommand(command) = pdu else { return None };
        if self.shown || !is_question(command) || self.initiator.wants(command) {
            return None;
        }
        self.asked.push_back((conn, command.itt));
        let line = format!("to connection {conn}: questions about lun {}, answered", command.lun);
        Some(Some(line).filter(|line| !self.printed.contains(line)))
    }
}
