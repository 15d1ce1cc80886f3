//! Authentication, in both roles, against peers that say anything, and between two that mean it: who knows the secret gets in,
//! nobody else does, whatever stands between them.

use super::login::{request, response};
use arbitrary::Arbitrary;
use braid::iscsi::text::KeyList;
use braid::iscsi::{Cid, CmdSn, Isid, Itt, LoginRequest, LoginResponse, Payload, Pdu, Receiver, Stage, Tsih};
use braid::login::chap::{Account, Accounts, Client, Credentials, Guard, Nonce, Secret};
use braid::login::relay::Told;
use braid::login::{
    ConnectionParams, InitiatorLogin, InitiatorStep, LoginError, LoginKind, LoginPlan, Offer, Proof,
    SessionParams, TargetLogin, TargetStep,
};
use std::sync::Arc;

#[derive(Arbitrary, Debug)]
enum Input<'a> {
    /// Both mean it.
    Pair { names: [&'a str; 2], secrets: [&'a [u8]; 2], same: bool, mutual: bool, random: [u8; 2] },
    /// An initiator that does not know the secret.
    Stranger(Vec<Text<'a>>),
    /// A target that does not know it.
    Impostor { mutual: bool, texts: Vec<Text<'a>> },
    /// Both sides of one who passes it on.
    Between(Vec<(Text<'a>, Text<'a>)>),
}

#[derive(Arbitrary, Debug)]
struct Text<'a> {
    words: Vec<Word<'a>>,
    on: bool,
    more: bool,
}

#[derive(Arbitrary, Debug)]
enum Word<'a> {
    Method(u8),
    Algorithm(u8),
    Id(u16),
    Hex(bool, &'a [u8]),
    Name(&'a str),
    Other(&'a str, &'a str),
}

const METHODS: [&str; 6] = ["CHAP", "CHAP,None", "None", "None,CHAP", "KRB5,SRP", "Reject"];
const ALGORITHMS: [&str; 7] = ["5", "6", "7", "8", "8,7,6,5", "0x5", "9"];

/// Runs one input.
pub fn run(bytes: &[u8]) {
    super::with_input(bytes, go);
}

fn go(input: &Input<'_>) {
    match input {
        Input::Pair { names, secrets, same, mutual, random } => {
            pair(*names, [secrets[0], if *same { secrets[0] } else { secrets[1] }], *mutual, *random);
        }
        Input::Stranger(texts) => stranger(texts),
        Input::Impostor { mutual, texts } => impostor(*mutual, texts),
        Input::Between(texts) => between(texts),
    }
}

fn account(name: &str, secret: &[u8]) -> Account {
    let name: String = name.chars().filter(|c| !c.is_control()).take(200).collect();
    Account { name: if name.is_empty() { "x".to_owned() } else { name }, secret: Secret::new(secret) }
}

const OF_TARGET: &[u8] = b"the secret that proves the target";
const OF_HOST: &[u8] = b"the secret that proves the initiator";

fn guard(initiator: Account, random: u8) -> Guard {
    let accounts = Accounts { initiators: vec![initiator], own: Some(account("target", OF_TARGET)) };
    Guard::new(Arc::new(accounts), Nonce::new([random; Nonce::LENGTH]))
}

fn client(own: Account, mutual: bool, random: u8) -> Proof {
    let peer = mutual.then(|| account("target", OF_TARGET));
    let credentials = Arc::new(Credentials { own, peer });
    Proof::Chap(Box::new(Client::new(credentials, Nonce::new([random; Nonce::LENGTH]))))
}

fn plan() -> LoginPlan {
    LoginPlan {
        kind: LoginKind::Leading,
        initiator_name: "iqn.2026-01.example:i".to_owned(),
        target_name: "iqn.2026-01.example:t".to_owned(),
        isid: Isid([0x80; 6]),
        cid: Cid(1),
        cmd_sn: CmdSn(1),
        offer: SessionParams::default(),
        connection: ConnectionParams::default(),
    }
}

fn offer() -> Offer {
    Offer {
        limits: SessionParams::default(),
        joining: false,
        max_recv_data_segment: 8192,
        allow_digests: true,
        tpgt: 1,
        target_alias: None,
        tsih: Tsih(1),
        window: 8,
    }
}

fn pair([name, other]: [&str; 2], [ours, theirs]: [&[u8]; 2], mutual: bool, random: [u8; 2]) {
    let (own, known) = (account(name, ours), account(other, theirs));
    // A challenge that is the other's own is refused, and so is a secret that proves both.
    let fits = own == known && random[0] != random[1] && ours != OF_TARGET;
    let (mut target, mut waiting) = (TargetLogin::new(), Some(guard(known, random[0])));
    let (mut initiator, mut next) = InitiatorLogin::start_with(plan(), client(own, mutual, random[1]));
    loop {
        let mut step = target.handle(request(&next));
        if let (TargetStep::Decide(_), Some(guard)) = (&step, waiting.take()) {
            step = target.require(guard, 1);
        }
        if matches!(step, TargetStep::Decide(_)) {
            assert!(fits, "let in without the secret");
            step = target.accept(offer());
        }
        match initiator.handle(sent(step)) {
            Ok(InitiatorStep::Send(pdu)) => next = pdu,
            Ok(InitiatorStep::Done(_)) => return assert!(fits, "done without the secret"),
            Ok(InitiatorStep::Redirect { .. }) => panic!("redirected"),
            Err(error) => return assert!(!fits, "{error}"),
        }
    }
}

fn sent(step: TargetStep) -> LoginResponse {
    let (TargetStep::Send(pdus) | TargetStep::Done(pdus, _) | TargetStep::Close(pdus)) = step else {
        panic!("nothing to send: {step:?}");
    };
    let [pdu]: [Pdu; 1] = pdus.try_into().expect("one response to each request");
    response(&pdu)
}

fn stranger(texts: &[Text<'_>]) {
    let mut target = TargetLogin::new();
    let mut waiting = Some(guard(account("host", OF_HOST), 1));
    for (number, text) in texts.iter().enumerate() {
        let Some(request) = said(text, number == 0) else { return };
        let mut step = target.handle(request);
        if let TargetStep::Decide(_) = &step {
            let guard = waiting.take().expect("let in without the secret");
            step = target.require(guard, 1);
        }
        assert!(!matches!(step, TargetStep::Decide(_) | TargetStep::Done(..)), "let in without the secret");
        if matches!(step, TargetStep::Close(_)) {
            return;
        }
    }
}

fn impostor(mutual: bool, texts: &[Text<'_>]) {
    let proof = client(account("host", OF_HOST), mutual, 2);
    let (mut initiator, mut next) = InitiatorLogin::start_with(plan(), proof);
    for text in texts {
        let asked = request(&next);
        let shown = format!("{asked:?} {initiator:?} {next}");
        assert!(!shown.contains("the secret that"), "{shown}");
        match initiator.handle(answered(text, &asked)) {
            Ok(InitiatorStep::Send(pdu)) => next = pdu,
            Ok(InitiatorStep::Done(_)) => return assert!(!mutual, "an impostor was believed"),
            Ok(InitiatorStep::Redirect { .. }) => panic!("redirected"),
            Err(error) => return drop(error.to_string()),
        }
        let moved_on = !mutual || request(&next).current == Stage::Security;
        assert!(moved_on, "an impostor was believed");
    }
}

/// Nothing that either side says makes the one between them panic, or lets the initiator in before the target has.
fn between(texts: &[(Text<'_>, Text<'_>)]) {
    let mut near = TargetLogin::new();
    let mut far: Option<(InitiatorLogin, Pdu)> = None;
    for (number, (question, reply)) in texts.iter().enumerate() {
        let Some(request_) = said(question, number == 0) else { return };
        match near.handle(request_) {
            TargetStep::Decide(_) => {}
            TargetStep::Send(_) => continue,
            TargetStep::Close(_) => return,
            TargetStep::Done(..) => panic!("let in by nobody"),
        }
        let Some((words, wish)) = near.words() else { return };
        let (mut machine, pdu) = match far.take() {
            None => InitiatorLogin::start_with(plan(), Proof::Relayed(words, wish)),
            Some((mut machine, _)) => {
                let pdu = machine.relay(&words, wish);
                (machine, pdu)
            }
        };
        match machine.handle_relayed(answered(reply, &request(&pdu))) {
            Ok(Told::Words(words)) => {
                if !matches!(near.relay(&words, 1), TargetStep::Send(_)) {
                    return;
                }
                far = Some((machine, pdu));
            }
            Ok(Told::Over(words, _)) => {
                near.relayed(words);
                drop(sent(near.accept(offer())));
                return;
            }
            Ok(Told::More(_) | Told::Redirect(_)) => return,
            Err(LoginError::Refused { .. } | LoginError::Protocol(_)) => return,
            Err(LoginError::Negotiation { .. } | LoginError::Unproved(_)) => return,
        }
    }
}

fn keys(text: &Text<'_>, names: bool) -> KeyList {
    let mut keys = KeyList::new();
    if names {
        keys.push("InitiatorName", "iqn.2026-01.example:i");
        keys.push("TargetName", "iqn.2026-01.example:t");
    }
    for word in &text.words {
        let (key, value) = match word {
            Word::Method(which) => ("AuthMethod", METHODS[usize::from(*which) % METHODS.len()].to_owned()),
            Word::Algorithm(which) => {
                ("CHAP_A", ALGORITHMS[usize::from(*which) % ALGORITHMS.len()].to_owned())
            }
            Word::Id(id) => ("CHAP_I", id.to_string()),
            Word::Hex(challenge, bytes) => {
                let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
                (if *challenge { "CHAP_C" } else { "CHAP_R" }, format!("0x{digits}"))
            }
            Word::Name(name) => ("CHAP_N", (*name).to_owned()),
            Word::Other(key, value) => (*key, (*value).to_owned()),
        };
        keys.push(key, value);
    }
    keys
}

/// A request of the security stage, if it fits into one PDU.
fn said(text: &Text<'_>, first: bool) -> Option<LoginRequest> {
    let pdu = Pdu::LoginRequest(LoginRequest {
        transit: text.on && !text.more,
        continue_: text.more,
        next: if text.on && !text.more { Stage::Operational } else { Stage::Security },
        isid: Isid([0x80; 6]),
        itt: Itt(1),
        data: Payload::from(keys(text, first).to_bytes()),
        ..LoginRequest::default()
    });
    let (header, ahs) = pdu.encode();
    let fits = pdu.data().len() <= 8192;
    let back = fits.then(|| Pdu::parse(Receiver::Target, &header, &ahs, pdu.data().clone()))?;
    match back {
        Ok(Pdu::LoginRequest(request)) => Some(request),
        _ => None,
    }
}

fn answered(text: &Text<'_>, asked: &LoginRequest) -> LoginResponse {
    LoginResponse {
        transit: text.on && !text.more,
        continue_: text.more,
        current: asked.current,
        next: if text.on && !text.more { asked.next } else { Stage::Security },
        isid: asked.isid,
        itt: asked.itt,
        data: Payload::from(keys(text, false).to_bytes()),
        ..LoginResponse::default()
    }
}
