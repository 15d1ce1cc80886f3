//! A login in either role, against a scripted peer.

use crate::script::Stage;
use crate::setup::{INITIATOR, ISID, TARGET, boolean, session_keys};
use crate::words::{Words, hex, raw};
use crate::{print, setup};
use braid::iscsi::{
    Cid, CmdSn, Isid, Itt, LoginRequest, LoginResponse, NopOut, Payload, Pdu, Stage as Phase, StatSn, Tsih,
};
use braid::login::discovery::parse_answer;
use braid::login::{
    ConnectionParams, InitiatorLogin, InitiatorStep, LoginKind, LoginPlan, Offer, Refusal, SessionParams,
    TargetLogin, TargetStep,
};

/// A new, empty stage.
pub(crate) fn stage() -> Box<dyn Stage> {
    Box::new(Logins(None))
}

/// The login of the latest `setup`; a script may hold several.
struct Logins(Option<Box<dyn Stage>>);

impl Stage for Logins {
    fn step(&mut self, input: &str) -> Result<Vec<String>, String> {
        let mut words = Words::new(input);
        if words.begin("setup Braid as target") {
            self.0 = Some(Box::new(AsTarget::new(&mut words)?));
        } else if words.begin("setup Braid as initiator") {
            self.0 = Some(Box::new(AsInitiator::new(&mut words)?));
        } else {
            let none = "begins with `setup Braid as target` or `setup Braid as initiator`";
            return self.0.as_mut().ok_or(none)?.step(input);
        }
        words.end()?;
        Ok(Vec::new())
    }
}

fn limits(words: &mut Words<'_>) -> Result<SessionParams, String> {
    let mut params = SessionParams::default();
    session_keys(words, &mut params)?;
    Ok(params)
}

/// The stage of a login PDU, as it is printed: `security`, `security->operational`.
fn phases(words: &mut Words<'_>) -> Result<(Phase, Phase, bool), String> {
    let stage = |name: &str| match name {
        "security" => Ok(Phase::Security),
        "operational" => Ok(Phase::Operational),
        "full" => Ok(Phase::FullFeature),
        _ => Err(format!("{name} is no stage")),
    };
    let text = words.next()?;
    match text.split_once("->") {
        Some((from, to)) => Ok((stage(from)?, stage(to)?, true)),
        None => Ok((stage(text)?, Phase::default(), false)),
    }
}

/// The data segment: text keys, or raw bytes.
fn text(words: &mut Words<'_>) -> Payload {
    let raw = words.value("raw").map(raw);
    Payload::from(raw.unwrap_or_else(|| words.keys().to_bytes()))
}

fn isid(words: &mut Words<'_>, otherwise: Isid) -> Result<Isid, String> {
    let Some(text) = words.value("isid") else { return Ok(otherwise) };
    <[u8; 6]>::try_from(hex(text)?).map(Isid).map_err(|_| "an ISID has six bytes".into())
}

fn number<'a>(text: &'a str) -> impl Fn() -> String + 'a {
    move || format!("{text} is not class/detail")
}

/// `class/detail` in hexadecimal.
fn status(text: &str) -> Result<(u8, u8), String> {
    let (class, detail) = text.split_once('/').ok_or_else(number(text))?;
    let byte = |part| u8::from_str_radix(part, 16).map_err(|_| number(text)());
    Ok((byte(class)?, byte(detail)?))
}

struct AsTarget {
    login: TargetLogin,
    offer: Offer,
    join_at: Option<CmdSn>,
}

impl AsTarget {
    fn new(words: &mut Words<'_>) -> Result<Self, String> {
        let join_at = words.number("joins-at-cmdsn")?.map(CmdSn);
        let offer = Offer {
            joining: join_at.is_some(),
            limits: limits(words)?,
            max_recv_data_segment: words.number_or("MaxRecvDataSegmentLength", 65_536)?,
            allow_digests: boolean(words, "digests", true)?,
            tpgt: words.number_or("tpgt", 1)?,
            target_alias: words.value("alias").map(str::to_owned),
            tsih: Tsih(words.number_or("tsih", 7)?),
            window: words.number_or("window", 32)?,
        };
        Ok(Self { login: TargetLogin::new(), offer, join_at })
    }

    fn request(words: &mut Words<'_>) -> Result<LoginRequest, String> {
        let (current, next, transit) = phases(words)?;
        Ok(LoginRequest {
            transit,
            continue_: words.flag("C"),
            current,
            next,
            version_max: words.number_or("version-max", 0)?,
            version_min: words.number_or("version-min", 0)?,
            isid: isid(words, ISID)?,
            tsih: Tsih(words.number_or("tsih", 0)?),
            itt: Itt(words.number_or("itt", 1)?),
            cid: Cid(words.number_or("cid", 0)?),
            cmd_sn: CmdSn(words.number_or("cmdsn", 100)?),
            exp_stat_sn: StatSn(words.number_or("expstatsn", 0)?),
            data: text(words),
        })
    }

    fn print(&self, step: TargetStep) -> Vec<String> {
        let sent = |pdus: &[Pdu]| -> Vec<String> {
            pdus.iter().map(|pdu| format!("to initiator: {}", print::pdu(pdu, 0))).collect()
        };
        match step {
            TargetStep::Send(pdus) => sent(&pdus),
            TargetStep::Done(pdus, done) => {
                let mut lines = sent(&pdus);
                lines.extend(print::negotiated(&done));
                lines
            }
            TargetStep::Close(pdus) => {
                let mut lines = sent(&pdus);
                let why = self.login.failure().map(|why| format!(": {why}")).unwrap_or_default();
                lines.push(format!("close the connection{why}"));
                lines
            }
            TargetStep::Decide(intent) => {
                let kind = if intent.discovery { "discovery" } else { "a session" };
                vec![format!(
                    "asks: {kind} of {} with {:?}, isid={} tsih={} cid={} cmdsn={}",
                    intent.initiator_name,
                    intent.target_name,
                    intent.isid,
                    intent.tsih.0,
                    intent.cid.0,
                    intent.cmd_sn
                )]
            }
        }
    }
}

impl Stage for AsTarget {
    fn step(&mut self, input: &str) -> Result<Vec<String>, String> {
        let mut words = Words::new(input);
        let step = if words.begin("initiator: Login Request") {
            let request = Self::request(&mut words)?;
            self.login.handle(request)
        } else if words.begin("initiator: NOP-Out") {
            self.login.handle_other(&Pdu::NopOut(NopOut::default()))
        } else if words.begin("accept") {
            if let Some(cmd_sn) = self.join_at {
                self.login.join_at(cmd_sn);
            }
            self.login.accept(self.offer.clone())
        } else if words.begin("refuse") {
            let (class, detail) = status(words.next()?)?;
            let address = words.value("TargetAddress").map(str::to_owned);
            self.login.refuse(Refusal { class, detail, address })
        } else {
            return Err("not an input".into());
        };
        words.end()?;
        Ok(self.print(step))
    }
}

struct AsInitiator {
    plan: LoginPlan,
    login: Option<InitiatorLogin>,
    stat_sn: StatSn,
}

impl AsInitiator {
    fn new(words: &mut Words<'_>) -> Result<Self, String> {
        let digests = boolean(words, "digests", false)?;
        let joins: Option<u16> = words.number("joins-tsih")?;
        let offer = limits(words)?;
        let kind = match joins {
            Some(tsih) => LoginKind::Joining { session: offer.clone(), tsih: Tsih(tsih) },
            None if words.flag("discovery") => LoginKind::Discovery,
            None => LoginKind::Leading,
        };
        let connection = ConnectionParams {
            header_digest: digests,
            data_digest: digests,
            max_recv_data_segment: words.number_or("MaxRecvDataSegmentLength", 65_536)?,
            ..ConnectionParams::default()
        };
        let discovery = kind == LoginKind::Discovery;
        let plan = LoginPlan {
            kind,
            initiator_name: INITIATOR.into(),
            target_name: if discovery { String::new() } else { TARGET.into() },
            isid: ISID,
            cid: Cid(words.number_or("cid", 0)?),
            cmd_sn: CmdSn(words.number_or("cmdsn", 100)?),
            offer,
            connection,
        };
        Ok(Self { plan, login: None, stat_sn: StatSn(0) })
    }

    fn response(&mut self, words: &mut Words<'_>) -> Result<LoginResponse, String> {
        let (class, detail) = words.value("status").map_or(Ok((0, 0)), status)?;
        let (current, next, transit) = phases(words)?;
        let stat_sn = StatSn(words.number_or("statsn", self.stat_sn.0)?);
        self.stat_sn = stat_sn.next();
        Ok(LoginResponse {
            transit,
            continue_: words.flag("C"),
            current,
            next,
            version_max: 0,
            version_active: words.number_or("version", 0)?,
            isid: isid(words, self.plan.isid)?,
            tsih: Tsih(words.number_or("tsih", 0)?),
            itt: Itt(words.number_or("itt", InitiatorLogin::itt(self.plan.cid).0)?),
            stat_sn,
            exp_cmd_sn: self.plan.cmd_sn,
            max_cmd_sn: words
                .number("maxcmdsn")?
                .map_or_else(|| self.plan.cmd_sn.plus(setup::TARGET_WINDOW).minus(1), CmdSn),
            status_class: class,
            status_detail: detail,
            data: text(words),
        })
    }
}

impl Stage for AsInitiator {
    fn step(&mut self, input: &str) -> Result<Vec<String>, String> {
        let mut words = Words::new(input);
        let sent = |pdu: &Pdu| vec![format!("to target: {}", print::pdu(pdu, 0))];
        if words.begin("the login starts") {
            let (login, pdu) = InitiatorLogin::start(self.plan.clone());
            self.login = Some(login);
            words.end()?;
            return Ok(sent(&pdu));
        }
        if words.begin("the target answers SendTargets with") {
            let records = parse_answer(&words.keys(), "192.0.2.1:3260");
            words.end()?;
            let portal = |(address, tag): &(String, u16)| format!(" {address},{tag}");
            let line = |r: &braid::login::discovery::TargetRecord| {
                format!("found: {} at{}", r.name, r.portals.iter().map(portal).collect::<String>())
            };
            return Ok(records.iter().map(line).collect());
        }
        if !words.begin("target: Login Response") {
            return Err("not an input".into());
        }
        let response = self.response(&mut words)?;
        words.end()?;
        let login = self.login.as_mut().ok_or("the login has not started")?;
        Ok(match login.handle(response) {
            Ok(InitiatorStep::Send(pdu)) => sent(&pdu),
            Ok(InitiatorStep::Done(done)) => print::negotiated(&done),
            Ok(InitiatorStep::Redirect { address, permanent }) => {
                let how = if permanent { "for good" } else { "for now" };
                vec![format!("close the connection: the target is at {address} {how}")]
            }
            Err(error) => vec![format!("close the connection: {error}")],
        })
    }
}
