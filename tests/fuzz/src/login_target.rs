//! The target's login against an initiator that says anything, most of it nearly right.

use super::login::{MadeOffer, Pair, agree, hear, judge, judge_connection, response, stage};
use arbitrary::Arbitrary;
use braid::iscsi::text::KeyList;
use braid::iscsi::{
    Cid, CmdSn, Isid, Itt, LoginRequest, LoginResponse, NopOut, Payload, Pdu, Receiver, Stage, StatSn, Tsih,
};
use braid::login::{Intent, Negotiated, Offer, Refusal, SessionParams, TargetLogin, TargetStep, name};

#[derive(Arbitrary, Debug)]
struct Input<'a> {
    offer: MadeOffer<'a>,
    decision: Decision<'a>,
    constant: Constant,
    requests: Vec<Request<'a>>,
}

#[derive(Arbitrary, Debug)]
enum Decision<'a> {
    Accept,
    JoinAt(u32),
    Refuse(u8, u8, Option<&'a str>),
}

#[derive(Arbitrary, Clone, Copy, Debug)]
struct Constant {
    isid: [u8; 6],
    tsih: u16,
    itt: u32,
    cid: u16,
    cmd_sn: u32,
}

#[derive(Arbitrary, Debug)]
struct Request<'a> {
    /// Names both sides first.
    named: Named,
    /// Agrees to all that the target proposed.
    agree: bool,
    pairs: Vec<Pair<'a>>,
    raw: &'a [u8],
    more: bool,
    stay: bool,
    next: u8,
    odd: Odd,
}

#[derive(Arbitrary, Debug)]
enum Named {
    No,
    Normal,
    Discovery,
}

#[derive(Arbitrary, Debug)]
enum Odd {
    Nothing,
    Constant(Constant),
    Stage(u8),
    Version(u8),
    /// Not a login request at all.
    Other,
}

struct Judge {
    offer: Offer,
    stat_sn: Option<StatSn>,
    stage: Stage,
    intent: Option<Intent>,
    heard: Vec<u8>,
    said: KeyList,
    over: bool,
}

/// Runs one input.
pub fn run(bytes: &[u8]) {
    super::with_input(bytes, go);
}

fn go(input: &Input<'_>) {
    let mut login = TargetLogin::new();
    let mut judge = Judge {
        offer: input.offer.offer(),
        stat_sn: None,
        stage: input.requests.first().map_or(Stage::Security, |first| stage(first.next / 3 % 2)),
        intent: None,
        heard: Vec::new(),
        said: KeyList::new(),
        over: false,
    };
    for (number, made) in input.requests.iter().enumerate() {
        let mut step = match made.odd {
            Odd::Other => login.handle_other(&Pdu::NopOut(NopOut::default())),
            _ => match received(request(made, input.constant, &judge)) {
                Some(request) => login.handle(request),
                None => return,
            },
        };
        if let TargetStep::Decide(intent) = &step {
            assert!(!judge.over && judge.intent.is_none(), "asked twice");
            assert!(name::is_valid(&intent.initiator_name));
            assert!(
                name::is_valid(&intent.target_name) || (intent.discovery && intent.target_name.is_empty())
            );
            judge.intent = Some((**intent).clone());
            step = decide(&mut login, &input.decision, &judge.offer);
        }
        judge.step(&step);
        assert!(judge.over || number < 64, "R43: it does not come to an end");
    }
}

fn decide(login: &mut TargetLogin, decision: &Decision<'_>, offer: &Offer) -> TargetStep {
    match decision {
        Decision::Accept => login.accept(offer.clone()),
        Decision::JoinAt(number) => {
            login.join_at(CmdSn(*number));
            login.accept(offer.clone())
        }
        Decision::Refuse(class, detail, address) => login.refuse(Refusal {
            class: 1 + class % 3,
            detail: *detail,
            address: address.map(|address| address.replace('\0', "")),
        }),
    }
}

fn request(made: &Request<'_>, constant: Constant, judge: &Judge) -> LoginRequest {
    let mut keys = KeyList::new();
    let names = [("InitiatorName", "iqn.2026-01.example:i"), ("TargetName", "iqn.2026-01.example:t")];
    for (key, value) in names.into_iter().filter(|_| !matches!(made.named, Named::No)) {
        keys.push(key, value);
    }
    match made.named {
        Named::Discovery => keys.push("SessionType", "Discovery"),
        Named::No | Named::Normal => {}
    }
    let pairs: Vec<_> = made.pairs.iter().map(Pair::pair).collect();
    let agreed = if made.agree { agree(&judge.said) } else { Vec::new() };
    for (key, value) in agreed.into_iter().filter(|(key, _)| pairs.iter().all(|(other, _)| other != key)) {
        keys.push(key, value);
    }
    for (key, value) in pairs {
        keys.push(key, value);
    }
    let constant = if let Odd::Constant(other) = made.odd { other } else { constant };
    LoginRequest {
        transit: !made.stay && !made.more,
        continue_: made.more,
        current: if let Odd::Stage(code) = made.odd { stage(code) } else { judge.stage },
        next: stage(made.next),
        version_max: 0,
        version_min: if let Odd::Version(version) = made.odd { version } else { 0 },
        isid: Isid(constant.isid),
        tsih: Tsih(constant.tsih),
        itt: Itt(constant.itt),
        cid: Cid(constant.cid),
        cmd_sn: CmdSn(constant.cmd_sn),
        exp_stat_sn: judge.stat_sn.unwrap_or_default(),
        data: Payload::from([&keys.to_bytes(), made.raw].concat()),
    }
}

/// The request as the framer lets it through; none if it does not.
fn received(request: LoginRequest) -> Option<LoginRequest> {
    let (header, _) = Pdu::LoginRequest(request.clone()).encode();
    match Pdu::parse(Receiver::Target, &header, &[], request.data) {
        Ok(Pdu::LoginRequest(request)) => Some(request),
        _ => None,
    }
}

impl Judge {
    fn step(&mut self, step: &TargetStep) {
        let (pdus, ends) = match step {
            TargetStep::Send(pdus) | TargetStep::Done(pdus, _) => {
                (pdus, matches!(step, TargetStep::Done(..)))
            }
            TargetStep::Close(pdus) => (pdus, true),
            TargetStep::Decide(_) => panic!("asked again after the decision"),
        };
        if self.over {
            assert!(
                matches!(step, TargetStep::Close(pdus) if pdus.is_empty()),
                "answered after the end: {step:?}"
            );
            return;
        }
        self.over = ends;
        if let [pdu] = &pdus[..] {
            self.response(&response(pdu), step);
        } else {
            assert!(pdus.is_empty() && ends && self.stat_sn.is_none(), "R18: one response to each request");
        }
        if let TargetStep::Done(_, done) = step {
            self.finished(done);
        }
    }

    fn response(&mut self, response: &LoginResponse, step: &TargetStep) {
        assert!(self.stat_sn.is_none_or(|expected| expected == response.stat_sn), "R112");
        self.stat_sn = Some(response.stat_sn.next());
        let refused = response.status_class != 0;
        assert_eq!(refused, matches!(step, TargetStep::Close(_)));
        let done = response.transit && response.next == Stage::FullFeature;
        assert_eq!(done, matches!(step, TargetStep::Done(..)), "{response:?}");
        if refused {
            assert!(!response.transit && !response.continue_);
            return;
        }
        assert!(self.intent.is_some() || response.data.is_empty(), "granted without having asked");
        if let Some(keys) = hear(&mut self.heard, &response.data, response.continue_) {
            self.said = keys;
        }
        if response.transit {
            self.stage = response.next;
        }
    }

    fn finished(&self, done: &Negotiated) {
        let Some(intent) = &self.intent else { panic!("done without having asked") };
        let offer = &self.offer;
        judge_connection(
            done,
            offer.allow_digests,
            offer.allow_digests,
            done.connection.max_recv_data_segment,
        );
        assert!([8192, offer.max_recv_data_segment].contains(&done.connection.max_recv_data_segment));
        if offer.joining {
            assert_eq!(done.session, offer.limits);
        } else if intent.discovery {
            judge(&done.session, &SessionParams::default());
        } else {
            judge(&done.session, &offer.limits);
        }
        assert_eq!(done.max_cmd_sn, done.cmd_sn.plus(offer.window).minus(1));
        assert_eq!(Some(done.stat_sn), self.stat_sn);
        assert_eq!((done.isid, done.cid, done.discovery), (intent.isid, intent.cid, intent.discovery));
    }
}
