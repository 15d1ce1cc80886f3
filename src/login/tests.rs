//! Both roles against each other, and the target against what real and wrong initiators send.

mod chap;
mod pair;
mod scripts;
mod wrong;

use super::*;
use crate::iscsi::text::KeyList;
use crate::iscsi::{Cid, CmdSn, Isid, Itt, LoginRequest, LoginResponse, Payload, Pdu, Stage, StatSn, Tsih};

const ISID: Isid = Isid([0x80, 1, 2, 3, 4, 5]);
const TSIH: Tsih = Tsih(0x77);

fn offer() -> Offer {
    Offer {
        limits: SessionParams { max_connections: 4, initial_r2t: false, ..SessionParams::default() },
        joining: false,
        max_recv_data_segment: 65_536,
        allow_digests: true,
        tpgt: 3,
        target_alias: None,
        tsih: TSIH,
        window: 64,
    }
}

fn keys(pairs: &[(&str, &str)]) -> KeyList {
    let mut keys = KeyList::new();
    for (key, value) in pairs {
        keys.push(*key, *value);
    }
    keys
}

/// The names that a normal login starts with.
const NAMES: [(&str, &str); 3] =
    [("InitiatorName", "iqn.i"), ("TargetName", "iqn.t"), ("SessionType", "Normal")];

/// A request that stays in its stage.
fn request(stage: Stage, pairs: &[(&str, &str)]) -> LoginRequest {
    LoginRequest {
        current: stage,
        isid: ISID,
        itt: Itt(5),
        cid: Cid(1),
        cmd_sn: CmdSn(100),
        data: Payload::from(keys(pairs).to_bytes()),
        ..LoginRequest::default()
    }
}

/// A request that wants to move on.
fn transit(stage: Stage, next: Stage, pairs: &[(&str, &str)]) -> LoginRequest {
    LoginRequest { transit: true, next, ..request(stage, pairs) }
}

/// The one response of a step.
fn response(step: TargetStep) -> LoginResponse {
    let (TargetStep::Send(pdus) | TargetStep::Done(pdus, _) | TargetStep::Close(pdus)) = step else {
        panic!("nothing was sent: {step:?}");
    };
    match <[Pdu; 1]>::try_from(pdus) {
        Ok([Pdu::LoginResponse(response)]) => response,
        other => panic!("not one response: {other:?}"),
    }
}

/// Feeds a request and grants the offer where the login asks.
fn feed(login: &mut TargetLogin, offer: &Offer, request: LoginRequest) -> TargetStep {
    let step = login.handle(request);
    if matches!(step, TargetStep::Decide(_)) { login.accept(offer.clone()) } else { step }
}

fn text(response: &LoginResponse) -> KeyList {
    KeyList::parse(&response.data.contiguous()).unwrap()
}

/// Status of a step that ends the login, after which the machine must be dead.
fn refused(login: &mut TargetLogin, step: TargetStep) -> (u8, u8) {
    assert!(matches!(step, TargetStep::Close(_)), "not refused: {step:?}");
    assert!(login.failure().is_some());
    let response = response(step);
    assert!(!response.transit && !response.continue_);
    let after = login.handle(request(Stage::Operational, &NAMES));
    assert_eq!(after, TargetStep::Close(Vec::new()), "nothing is answered after a refusal");
    (response.status_class, response.status_detail)
}
