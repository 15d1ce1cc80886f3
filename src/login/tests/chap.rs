//! Logins in which somebody has to prove himself: both machines against each other, and a third between them.

use super::*;
use crate::login::chap::{Account, Accounts, Client, Credentials, Guard, Nonce, Secret};
use crate::login::relay::Told;
use std::sync::Arc;

fn account(name: &str, secret: &str) -> Account {
    Account { name: name.to_owned(), secret: Secret::new(secret) }
}

/// A target, and what its initiators have to pass; none if anybody may come.
struct Door {
    login: TargetLogin,
    guard: Option<Guard>,
}

impl Door {
    /// Feeds a request, asks for the proof, and grants the offer.
    fn feed(&mut self, offer: &Offer, request: LoginRequest) -> TargetStep {
        let mut step = self.login.handle(request);
        if matches!(step, TargetStep::Decide(_))
            && let Some(guard) = self.guard.take()
        {
            step = self.login.require(guard, 3);
        }
        if matches!(step, TargetStep::Decide(_)) { self.login.accept(offer.clone()) } else { step }
    }
}

fn open_door() -> Door {
    Door { login: TargetLogin::new(), guard: None }
}

fn guarded(mutual: bool) -> Door {
    let own = mutual.then(|| account("disk", "secret-of-target"));
    let accounts = Accounts { initiators: vec![account("host", "secret-of-host")], own };
    let guard = Guard::new(Arc::new(accounts), Nonce::new([1; Nonce::LENGTH]));
    Door { login: TargetLogin::new(), guard: Some(guard) }
}

fn proof(secret: &str, mutual: bool) -> Proof {
    let peer = mutual.then(|| account("disk", "secret-of-target"));
    let credentials = Credentials { own: account("host", secret), peer };
    Proof::Chap(Box::new(Client::new(Arc::new(credentials), Nonce::new([2; Nonce::LENGTH]))))
}

fn plan(kind: LoginKind) -> LoginPlan {
    let target_name = if kind == LoginKind::Discovery { String::new() } else { "iqn.t".to_owned() };
    LoginPlan {
        kind,
        initiator_name: "iqn.i".to_owned(),
        target_name,
        isid: ISID,
        cid: Cid(1),
        cmd_sn: CmdSn(1),
        offer: SessionParams { max_connections: 4, ..SessionParams::default() },
        connection: ConnectionParams::default(),
    }
}

/// Runs a login to its end on both sides: the initiator's result, and whether the target granted anything.
fn run(plan: LoginPlan, proof: Proof, mut target: Door) -> (Result<Negotiated, LoginError>, bool) {
    let granted_offer = match &plan.kind {
        LoginKind::Joining { session, .. } => Offer { limits: session.clone(), joining: true, ..offer() },
        LoginKind::Leading | LoginKind::Discovery => offer(),
    };
    let (mut initiator, mut pdu) = InitiatorLogin::start_with(plan, proof);
    loop {
        let Pdu::LoginRequest(request) = pdu else { panic!("not a request: {pdu:?}") };
        let step = target.feed(&granted_offer, request);
        let granted = matches!(step, TargetStep::Done(..));
        match initiator.handle(response(step)) {
            Ok(InitiatorStep::Send(next)) => pdu = next,
            Ok(InitiatorStep::Done(own)) => return (Ok(*own), granted),
            Ok(InitiatorStep::Redirect { .. }) => panic!("redirected"),
            Err(error) => return (Err(error), granted),
        }
    }
}

fn refused_with(result: &Result<Negotiated, LoginError>) -> Option<(u8, u8)> {
    match result {
        Err(LoginError::Refused { class, detail }) => Some((*class, *detail)),
        _ => None,
    }
}

/// R84: on each connection, and in discovery too.
#[test]
fn r84_every_kind_of_login_is_proved() {
    let session = SessionParams::default();
    for kind in [LoginKind::Leading, LoginKind::Joining { session, tsih: TSIH }, LoginKind::Discovery] {
        for mutual in [false, true] {
            let (result, granted) = run(plan(kind.clone()), proof("secret-of-host", mutual), guarded(mutual));
            assert!(result.is_ok() && granted, "{kind:?} {mutual} {result:?}");
            let (result, granted) = run(plan(kind.clone()), proof("secret-of-hose", mutual), guarded(mutual));
            assert_eq!(refused_with(&result), Some((2, 1)), "{kind:?} {mutual}");
            assert!(!granted);
        }
    }
}

#[test]
fn r55_authentication_that_nobody_asks_for_is_left_away() {
    let (result, granted) = run(plan(LoginKind::Leading), proof("secret-of-host", false), open_door());
    assert!(result.is_ok() && granted, "{result:?}");
    // A target that must prove itself does not get away with none.
    let (result, granted) = run(plan(LoginKind::Leading), proof("secret-of-host", true), open_door());
    assert_eq!(refused_with(&result), Some((2, 1)));
    assert!(!granted);
}

#[test]
fn r89_there_is_no_way_around_a_required_proof() {
    let (result, granted) = run(plan(LoginKind::Leading), Proof::None, guarded(false));
    assert_eq!(refused_with(&result), Some((2, 1)));
    assert!(!granted);
    let firsts = [
        request(Stage::Operational, &NAMES),
        transit(Stage::Operational, Stage::FullFeature, &NAMES),
        transit(Stage::Security, Stage::Operational, &NAMES),
        transit(Stage::Security, Stage::FullFeature, &NAMES),
    ];
    for first in firsts {
        let mut door = guarded(false);
        let step = door.feed(&offer(), first);
        assert_eq!(refused(&mut door.login, step), (2, 1));
    }
    // Begun is not done.
    let mut door = guarded(false);
    let mut pairs = NAMES.to_vec();
    pairs.push(("AuthMethod", "CHAP,None"));
    let next = Stage::FullFeature;
    let agreed = response(door.feed(&offer(), transit(Stage::Security, next, &pairs)));
    assert!(!agreed.transit && text(&agreed).value("AuthMethod") == Some("CHAP"));
    // R40.
    assert_eq!(text(&agreed).value("TargetPortalGroupTag"), Some("3"));
    for pairs in [&[("CHAP_A", "5")][..], &[]] {
        assert!(!response(door.login.handle(transit(Stage::Security, next, pairs))).transit);
    }
    let step = door.login.handle(transit(Stage::Operational, next, &[]));
    assert_eq!(refused(&mut door.login, step), (2, 0));
}

/// Nothing is granted, and so nothing of an earlier session is touched, before the proof.
#[test]
fn r89_the_decision_comes_after_the_proof() {
    let Door { mut login, guard } = guarded(false);
    let (mut initiator, mut pdu) =
        InitiatorLogin::start_with(plan(LoginKind::Leading), proof("secret-of-host", false));
    let mut guard = guard;
    let mut rounds = 0;
    loop {
        let Pdu::LoginRequest(request) = pdu else { panic!() };
        rounds += 1;
        let mut step = login.handle(request);
        if let Some(guard) = guard.take() {
            assert!(matches!(step, TargetStep::Decide(_)));
            step = login.require(guard, 3);
        }
        if let TargetStep::Decide(intent) = &step {
            assert_eq!((intent.initiator_name.as_str(), rounds), ("iqn.i", 3));
            break;
        }
        match initiator.handle(response(step)) {
            Ok(InitiatorStep::Send(next)) => pdu = next,
            other => panic!("{other:?}"),
        }
    }
    let step = login.refuse(Refusal { class: 2, detail: 2, address: None });
    assert_eq!(refused(&mut login, step), (2, 2));
}

#[test]
fn a_malformed_proof_is_the_initiators_error() {
    let mut door = guarded(false);
    let mut pairs = NAMES.to_vec();
    pairs.push(("AuthMethod", "CHAP"));
    door.feed(&offer(), request(Stage::Security, &pairs));
    let step = door.login.handle(request(Stage::Security, &[("CHAP_R", "0x00")]));
    assert_eq!(refused(&mut door.login, step), (2, 0));
    // What is proved is proved.
    let mut login = TargetLogin::new();
    login.handle(request(Stage::Security, &pairs));
    login.relayed(KeyList::new());
    login.accept(offer());
    let step = login.handle(request(Stage::Security, &[("AuthMethod", "None")]));
    assert_eq!(refused(&mut login, step), (2, 0));
}

/// A target that waves an initiator through which wants it to prove itself, or answers out of turn.
#[test]
fn r84_a_target_cannot_end_the_stage_early() {
    let stay = |pairs: &[(&str, &str)]| LoginResponse {
        current: Stage::Security,
        isid: ISID,
        itt: InitiatorLogin::itt(Cid(1)),
        data: Payload::from(keys(pairs).to_bytes()),
        ..LoginResponse::default()
    };
    let leave =
        |pairs: &[(&str, &str)]| LoginResponse { transit: true, next: Stage::Operational, ..stay(pairs) };
    let (mut login, _) = InitiatorLogin::start_with(plan(LoginKind::Leading), proof("secret-of-host", true));
    let error = login.handle(leave(&[("AuthMethod", "CHAP")])).unwrap_err();
    assert!(matches!(error, LoginError::Protocol(_)), "it was not asked to: {error}");
    let (mut login, _) = InitiatorLogin::start_with(plan(LoginKind::Leading), proof("secret-of-host", true));
    login.handle(stay(&[("AuthMethod", "CHAP")])).unwrap();
    login.handle(stay(&[("CHAP_A", "5"), ("CHAP_I", "1"), ("CHAP_C", "0x0102")])).unwrap();
    let error = login.handle(leave(&[])).unwrap_err();
    assert!(matches!(error, LoginError::Unproved(_)), "{error}");
}

/// What happens at the middle of a relayed login.
struct Middle {
    near: TargetLogin,
    far: InitiatorLogin,
}

/// Runs a login of `proof` through a middle that knows no secret, to a target that may require one. The offer that the
/// middle grants carries the target's tag. Gives the initiator's result.
fn through(proof: Proof, mut target: Door) -> Result<Negotiated, LoginError> {
    let (mut initiator, first) = InitiatorLogin::start_with(plan(LoginKind::Leading), proof);
    let Pdu::LoginRequest(mut request) = first else { panic!() };
    let mut near = TargetLogin::new();
    assert!(matches!(near.handle(request), TargetStep::Decide(_)));
    let (words, wish) = near.words().expect("CHAP is offered");
    let (far, mut out) = InitiatorLogin::start_with(plan(LoginKind::Leading), Proof::Relayed(words, wish));
    let mut middle = Middle { near, far };
    loop {
        let Pdu::LoginRequest(there) = out else { panic!() };
        let step = match middle.far.handle_relayed(response(target.feed(&offer(), there))) {
            Ok(Told::Words(words)) => middle.near.relay(&words, 3),
            Ok(Told::Over(words, pdu)) => {
                middle.near.relayed(words);
                let agreed = finish(&mut middle.far, &mut target, pdu);
                assert_eq!(agreed.tpgt, Some(3));
                middle.near.accept(offer())
            }
            Ok(Told::More(_) | Told::Redirect(_)) => panic!("nothing of that is due"),
            Err(LoginError::Refused { class, detail }) => {
                middle.near.refuse(Refusal { class, detail, address: None })
            }
            Err(error) => panic!("{error}"),
        };
        let answer = response(step);
        let mut next = initiator.handle(answer)?;
        loop {
            let pdu = match next {
                InitiatorStep::Send(pdu) => pdu,
                InitiatorStep::Done(agreed) => return Ok(*agreed),
                InitiatorStep::Redirect { .. } => panic!("redirected"),
            };
            let Pdu::LoginRequest(again) = pdu else { panic!() };
            request = again;
            let step = middle.near.handle(request);
            if matches!(step, TargetStep::Decide(_)) {
                break;
            }
            next = initiator.handle(response(step))?;
        }
        let (words, wish) = middle.near.words().expect("words");
        out = middle.far.relay(&words, wish);
    }
}

/// Carries the middle's own login to its end.
fn finish(far: &mut InitiatorLogin, target: &mut Door, mut pdu: Pdu) -> Negotiated {
    loop {
        let Pdu::LoginRequest(request) = pdu else { panic!() };
        match far.handle(response(target.login.handle(request))) {
            Ok(InitiatorStep::Send(next)) => pdu = next,
            Ok(InitiatorStep::Done(agreed)) => return *agreed,
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn r84_a_proof_can_be_passed_on() {
    for mutual in [false, true] {
        let agreed = through(proof("secret-of-host", mutual), guarded(mutual)).unwrap();
        assert_eq!(agreed.tpgt, Some(3));
        let error = through(proof("secret-of-hose", mutual), guarded(mutual)).unwrap_err();
        assert_eq!(error, LoginError::Refused { class: 2, detail: 1 });
    }
    assert!(through(proof("secret-of-host", false), open_door()).is_ok());
}

#[test]
fn only_chap_is_passed_on() {
    let words = |methods: &str| {
        let mut login = TargetLogin::new();
        let mut pairs = NAMES.to_vec();
        pairs.push(("AuthMethod", methods));
        assert!(matches!(login.handle(request(Stage::Security, &pairs)), TargetStep::Decide(_)));
        login.words().map(|(words, _)| words.to_string())
    };
    assert_eq!(words("KRB5,CHAP,SRP,None"), Some("AuthMethod=CHAP,None".to_owned()));
    assert_eq!(words("CHAP"), Some("AuthMethod=CHAP".to_owned()));
    assert_eq!(words("None"), None);
    let mut login = TargetLogin::new();
    login.handle(request(Stage::Operational, &NAMES));
    assert!(login.words().is_none());
}

/// Other keys of the security stage wait for the end of the authentication, and are answered then.
#[test]
fn other_keys_wait_while_a_proof_is_passed_on() {
    let mut login = TargetLogin::new();
    let mut pairs = NAMES.to_vec();
    pairs.extend([("AuthMethod", "CHAP,None"), ("HeaderDigest", "CRC32C,None"), ("X-key", "1")]);
    login.handle(request(Stage::Security, &pairs));
    let told = text(&response(login.relay(&keys(&[("AuthMethod", "None")]), 9)));
    assert_eq!(told, keys(&[("TargetPortalGroupTag", "9"), ("AuthMethod", "None")]));
    let step = login.handle(transit(Stage::Security, Stage::Operational, &[("DataDigest", "None")]));
    assert!(matches!(step, TargetStep::Decide(_)));
    login.relayed(KeyList::new());
    let granted = response(login.accept(offer()));
    assert!(granted.transit && granted.next == Stage::Operational);
    let told = text(&granted);
    for (key, value) in [("HeaderDigest", "CRC32C"), ("DataDigest", "None"), ("X-key", "NotUnderstood")] {
        assert_eq!(told.value(key), Some(value), "{told}");
    }
    assert_eq!(told.value("TargetPortalGroupTag"), None, "it was told");
    // Nothing to answer to: an error, not a panic.
    let mut login = TargetLogin::new();
    let step = login.relay(&KeyList::new(), 1);
    assert_eq!(refused(&mut login, step), (2, 0));
}
