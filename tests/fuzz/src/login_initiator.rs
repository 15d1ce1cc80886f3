//! The initiator's login against a target that says anything, most of it nearly right.

use super::login::{Pair, Plan, agree, hear, judge, judge_connection, request, stage};
use arbitrary::Arbitrary;
use braid::iscsi::text::KeyList;
use braid::iscsi::{Isid, Itt, LoginRequest, LoginResponse, Payload, Stage, StatSn, Tsih};
use braid::login::{InitiatorLogin, InitiatorStep, LoginKind, LoginPlan, Negotiated, SessionParams};

#[derive(Arbitrary, Debug)]
struct Input<'a> {
    plan: Plan<'a>,
    responses: Vec<Response<'a>>,
}

#[derive(Arbitrary, Debug)]
struct Response<'a> {
    /// Agrees to all that was proposed.
    agree: bool,
    pairs: Vec<Pair<'a>>,
    raw: &'a [u8],
    more: bool,
    transit: Transit,
    odd: Odd,
}

#[derive(Arbitrary, Debug)]
enum Transit {
    AsAsked,
    Stay,
    To(u8),
}

#[derive(Arbitrary, Debug)]
enum Odd {
    Nothing,
    Itt(u32),
    Isid([u8; 6]),
    Version(u8),
    Stage(u8),
    Status(u8, u8),
    Tsih(u16),
    StatSn(u32),
}

/// Runs one input.
pub fn run(bytes: &[u8]) {
    super::with_input(bytes, go);
}

fn go(input: &Input<'_>) {
    let plan = input.plan.plan();
    let (mut login, first) = InitiatorLogin::start(plan.clone());
    let (mut asked, mut heard, mut said) = (request(&first), Vec::new(), KeyList::new());
    let id = |r: &LoginRequest| (r.isid, r.tsih, r.itt, r.cid, r.cmd_sn);
    let constant = id(&asked);
    for (number, made) in input.responses.iter().enumerate() {
        assert_eq!(id(&asked), constant, "R30: it is no longer the same login");
        if let Some(keys) = hear(&mut heard, &asked.data, asked.continue_) {
            said = keys;
        }
        match login.handle(answer(made, number, &plan, &asked, &said)) {
            Ok(InitiatorStep::Send(next)) => {
                assert!(number < 64, "R43: it does not come to an end");
                asked = request(&next);
            }
            Ok(InitiatorStep::Done(done)) => return finished(&plan, &done),
            Ok(InitiatorStep::Redirect { address, .. }) => {
                assert!(address.contains(':') && address.len() > 1, "{address:?}");
                return;
            }
            Err(error) => {
                assert!(!error.to_string().is_empty());
                // A driver closes here. What it gets if it does not is all the same, as long as it gets it.
                drop(login.handle(answer(made, number, &plan, &asked, &said)));
                return;
            }
        }
    }
}

fn answer(
    made: &Response<'_>,
    number: usize,
    plan: &LoginPlan,
    asked: &LoginRequest,
    said: &KeyList,
) -> LoginResponse {
    let mut keys = KeyList::new();
    let pairs: Vec<_> = made.pairs.iter().map(Pair::pair).collect();
    let agreed = if made.agree && !asked.continue_ { agree(said) } else { Vec::new() };
    for (key, value) in agreed.into_iter().filter(|(key, _)| pairs.iter().all(|(other, _)| other != key)) {
        keys.push(key, value);
    }
    for (key, value) in pairs {
        keys.push(key, value);
    }
    let (transit, next) = match made.transit {
        Transit::AsAsked => (asked.transit && !made.more, asked.next),
        Transit::Stay => (false, Stage::default()),
        Transit::To(code) => (true, stage(code)),
    };
    let tsih = if matches!(plan.kind, LoginKind::Joining { .. }) { asked.tsih } else { Tsih(7) };
    let mut response = LoginResponse {
        transit,
        continue_: made.more,
        current: asked.current,
        next,
        isid: asked.isid,
        tsih,
        itt: asked.itt,
        stat_sn: StatSn(u32::try_from(number).unwrap()),
        exp_cmd_sn: asked.cmd_sn,
        max_cmd_sn: asked.cmd_sn.plus(7),
        data: Payload::from([&keys.to_bytes(), made.raw].concat()),
        ..LoginResponse::default()
    };
    match made.odd {
        Odd::Nothing => {}
        Odd::Itt(itt) => response.itt = Itt(itt),
        Odd::Isid(isid) => response.isid = Isid(isid),
        Odd::Version(version) => response.version_active = version,
        Odd::Stage(code) => response.current = stage(code),
        Odd::Status(class, detail) => (response.status_class, response.status_detail) = (class, detail),
        Odd::Tsih(tsih) => response.tsih = Tsih(tsih),
        Odd::StatSn(stat_sn) => response.stat_sn = StatSn(stat_sn),
    }
    response
}

fn finished(plan: &LoginPlan, done: &Negotiated) {
    let wanted = plan.connection;
    judge_connection(done, wanted.header_digest, wanted.data_digest, wanted.max_recv_data_segment);
    match &plan.kind {
        LoginKind::Leading => {
            assert_ne!(done.tsih, Tsih(0));
            judge(&done.session, &plan.offer);
        }
        LoginKind::Joining { session, tsih } => assert!(done.session == *session && done.tsih == *tsih),
        LoginKind::Discovery => judge(&done.session, &SessionParams::default()),
    }
    assert_eq!(done.discovery, plan.kind == LoginKind::Discovery);
    assert_eq!((done.isid, done.cid, done.cmd_sn), (plan.isid, plan.cid, plan.cmd_sn));
}
