//! What the three login targets have in common: made-up plans and offers, made-up keys, and what must hold of a result.

use arbitrary::Arbitrary;
use braid::iscsi::text::KeyList;
use braid::iscsi::{Cid, CmdSn, Isid, LoginRequest, LoginResponse, Payload, Pdu, Receiver, Stage, Tsih};
use braid::login::keys::TABLE;
use braid::login::{ConnectionParams, LoginKind, LoginPlan, Negotiated, Offer, SessionParams, name};

/// Longest data segment of a login PDU (R20).
const SEGMENT: usize = 8192;

/// Parameters of a session, legal or not.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub struct Params {
    counts: [u16; 4],
    bursts: [u32; 2],
    flags: [bool; 4],
    error_recovery_level: u8,
}

impl Params {
    /// As they come: the configuration keeps most nonsense out, the login must bear it all the same.
    #[must_use]
    pub fn session(self) -> SessionParams {
        let [max_connections, default_time2wait, default_time2retain, max_outstanding_r2t] = self.counts;
        let [initial_r2t, immediate_data, data_pdu_in_order, data_sequence_in_order] = self.flags;
        SessionParams {
            max_connections,
            initial_r2t,
            immediate_data,
            max_burst_length: self.bursts[0],
            first_burst_length: self.bursts[1],
            default_time2wait,
            default_time2retain,
            max_outstanding_r2t,
            data_pdu_in_order,
            data_sequence_in_order,
            error_recovery_level: self.error_recovery_level,
        }
    }
}

/// A made-up plan.
#[derive(Arbitrary, Debug)]
pub struct Plan<'a> {
    kind: Kind,
    names: [&'a str; 2],
    isid: [u8; 6],
    cid: u16,
    cmd_sn: u32,
    params: Params,
    digests: [bool; 2],
    max_recv: u32,
}

#[derive(Arbitrary, Clone, Copy, Debug)]
enum Kind {
    Leading,
    Joining(u16),
    Discovery,
}

impl Plan<'_> {
    /// A plan that the driver could have made: names are valid, MaxRecvDataSegmentLength is legal.
    #[must_use]
    pub fn plan(&self) -> LoginPlan {
        let session = self.params.session();
        let kind = match self.kind {
            Kind::Leading => LoginKind::Leading,
            Kind::Joining(tsih) => LoginKind::Joining { session: session.clone(), tsih: Tsih(tsih.max(1)) },
            Kind::Discovery => LoginKind::Discovery,
        };
        let target_name = match self.kind {
            Kind::Discovery if self.names[1].is_empty() => String::new(),
            _ => valid_name(self.names[1], "iqn.2026-01.example:t"),
        };
        LoginPlan {
            kind,
            initiator_name: valid_name(self.names[0], "iqn.2026-01.example:i"),
            target_name,
            isid: Isid(self.isid),
            cid: Cid(self.cid),
            cmd_sn: CmdSn(self.cmd_sn),
            offer: session,
            connection: ConnectionParams {
                header_digest: self.digests[0],
                data_digest: self.digests[1],
                max_recv_data_segment: self.max_recv.clamp(512, 0x00ff_ffff),
                ..ConnectionParams::default()
            },
        }
    }
}

fn valid_name(name: &str, otherwise: &str) -> String {
    if name::is_valid(name) { name } else { otherwise }.to_owned()
}

/// A made-up offer.
#[derive(Arbitrary, Debug)]
pub struct MadeOffer<'a> {
    params: Params,
    joining: bool,
    max_recv: u32,
    allow_digests: bool,
    tpgt: u16,
    alias: Option<&'a str>,
    /// An alias is repeated so often, to make the answer longer than a PDU.
    times: u8,
    tsih: u16,
    window: u16,
}

impl MadeOffer<'_> {
    /// An offer that the driver could have made.
    #[must_use]
    pub fn offer(&self) -> Offer {
        let alias = self.alias.map(|alias| alias.replace(char::is_control, "").repeat(self.times.into()));
        Offer {
            limits: self.params.session(),
            joining: self.joining,
            max_recv_data_segment: self.max_recv.clamp(512, 0x00ff_ffff),
            allow_digests: self.allow_digests,
            tpgt: self.tpgt,
            target_alias: alias.filter(|alias| alias.len() <= 8000),
            tsih: Tsih(self.tsih.max(1)),
            window: u32::from(self.window).max(1),
        }
    }
}

/// A pair that a peer may send.
#[derive(Arbitrary, Debug)]
pub struct Pair<'a> {
    key: MadeKey<'a>,
    value: Value<'a>,
}

#[derive(Arbitrary, Debug)]
enum MadeKey<'a> {
    Known(u8),
    Other(&'a str),
}

#[derive(Arbitrary, Debug)]
enum Value<'a> {
    Number(u32),
    Hex(u32),
    Word(u8),
    Other(&'a str),
}

const WORDS: [&str; 12] = [
    "Yes",
    "No",
    "None",
    "CRC32C",
    "CRC32C,None",
    "Reject",
    "Irrelevant",
    "NotUnderstood",
    "Normal",
    "Discovery",
    "",
    "iqn.2026-01.example:x",
];

impl Pair<'_> {
    /// Key and value.
    #[must_use]
    pub fn pair(&self) -> (String, String) {
        let key = match self.key {
            MadeKey::Known(index) => TABLE[usize::from(index) % TABLE.len()].name,
            MadeKey::Other(name) => name,
        };
        let value = match self.value {
            Value::Number(number) => number.to_string(),
            Value::Hex(number) => format!("{number:#x}"),
            Value::Word(index) => WORDS[usize::from(index) % WORDS.len()].to_owned(),
            Value::Other(text) => text.to_owned(),
        };
        (key.to_owned(), value)
    }
}

/// A stage from a byte.
#[must_use]
pub fn stage(code: u8) -> Stage {
    [Stage::Security, Stage::Operational, Stage::FullFeature][usize::from(code) % 3]
}

/// The answers that agree to everything proposed in `said`, where an answer is due.
#[must_use]
pub fn agree(said: &KeyList) -> Vec<(String, String)> {
    let answered = |name: &str| TABLE.iter().any(|key| key.name == name && !key.is_declaration());
    let first = |value: &str| value.split(',').next().unwrap_or_default().to_owned();
    said.iter().filter(|(key, _)| answered(key)).map(|(key, value)| (key.to_owned(), first(value))).collect()
}

/// The request as the other side's framer would give it.
#[must_use]
pub fn request(pdu: &Pdu) -> LoginRequest {
    match over_the_wire(Receiver::Target, pdu) {
        Pdu::LoginRequest(request) => request,
        other => panic!("not a request: {other}"),
    }
}

/// The response as the other side's framer would give it.
#[must_use]
pub fn response(pdu: &Pdu) -> LoginResponse {
    match over_the_wire(Receiver::Initiator, pdu) {
        Pdu::LoginResponse(response) => response,
        other => panic!("not a response: {other}"),
    }
}

fn over_the_wire(receiver: Receiver, pdu: &Pdu) -> Pdu {
    assert!(pdu.data().len() <= SEGMENT, "R20: {pdu}");
    let (header, ahs) = pdu.encode();
    let back = Pdu::parse(receiver, &header, &ahs, pdu.data().clone());
    assert_eq!(back.as_ref(), Ok(pdu), "not what was meant");
    back.unwrap()
}

/// Puts one side's key lists together out of its PDUs; none while one is incomplete.
#[must_use]
pub fn hear(heard: &mut Vec<u8>, data: &Payload, more: bool) -> Option<KeyList> {
    heard.extend_from_slice(&data.contiguous());
    (!more).then(|| KeyList::parse(&std::mem::take(heard)).expect("a text that does not read"))
}

/// What must hold of any session agreed, by this side's limits (R54, R57, R58, R76).
pub fn judge(session: &SessionParams, limits: &SessionParams) {
    let most = |agreed: u32, limit: u32, least: u32| agreed <= limit.max(least);
    assert!(session.max_connections >= 1 && session.max_outstanding_r2t >= 1);
    assert!(most(session.max_connections.into(), limits.max_connections.into(), 1));
    assert!(most(session.max_burst_length, limits.max_burst_length, 512));
    assert!(most(session.first_burst_length, limits.first_burst_length, 512));
    assert!(most(session.default_time2retain.into(), limits.default_time2retain.into(), 0));
    assert!(most(session.max_outstanding_r2t.into(), limits.max_outstanding_r2t.into(), 1));
    assert!(most(session.error_recovery_level.into(), limits.error_recovery_level.into(), 0));
    assert!(session.default_time2wait >= limits.default_time2wait.min(3600));
    assert!(session.initial_r2t || !limits.initial_r2t);
    assert!(!session.immediate_data || limits.immediate_data);
    assert!(session.data_pdu_in_order || !limits.data_pdu_in_order);
    assert!(session.data_sequence_in_order || !limits.data_sequence_in_order);
    assert!((512..=0x00ff_ffff).contains(&session.first_burst_length));
    assert!(
        session.first_burst_length <= session.max_burst_length && session.max_burst_length <= 0x00ff_ffff
    );
    let recovers = session.error_recovery_level > 0 && session.data_sequence_in_order;
    assert!(!recovers || session.max_outstanding_r2t == 1);
}

/// What must hold of any connection agreed.
pub fn judge_connection(done: &Negotiated, header_digest: bool, data_digest: bool, max_recv: u32) {
    let ConnectionParams { max_recv_data_segment, max_send_data_segment, .. } = done.connection;
    assert!(header_digest || !done.connection.header_digest);
    assert!(data_digest || !done.connection.data_digest);
    assert_eq!(max_recv_data_segment, max_recv);
    assert!((512..=0x00ff_ffff).contains(&max_send_data_segment));
}
