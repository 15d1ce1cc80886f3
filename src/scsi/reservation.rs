//! Persistent reservations as they stand in CDBs and parameter data (SPC-4 sections 5.13, 6.15 and 6.16).
//!
//! # Contract
//! [`Request`] is a PERSISTENT RESERVE OUT with the basic parameter list, both ways. The readers of PERSISTENT RESERVE IN
//! data take what is whole and leave out what is cut off. [`hide_keys`] and [`hide_ports`] take registrations out of such
//! data and correct its ADDITIONAL LENGTH; everything else stays as it was.

use super::inquiry::Cdb;

/// Operation codes.
const OUT: u8 = 0x5f;
const IN: u8 = 0x5e;
const ACTION_MASK: u8 = 0x1f;
/// Length of the basic parameter list of PERSISTENT RESERVE OUT, in bytes.
pub const PARAMETERS: usize = 24;
/// Length of the header of PERSISTENT RESERVE IN data, in bytes.
const HEADER: usize = 8;

/// Service actions of PERSISTENT RESERVE OUT (SPC-4 table 208).
#[expect(missing_docs, reason = "the standard's names say it")]
pub mod action {
    pub const REGISTER: u8 = 0;
    pub const RESERVE: u8 = 1;
    pub const RELEASE: u8 = 2;
    pub const CLEAR: u8 = 3;
    pub const PREEMPT: u8 = 4;
    pub const PREEMPT_AND_ABORT: u8 = 5;
    pub const REGISTER_AND_IGNORE: u8 = 6;
    pub const REGISTER_AND_MOVE: u8 = 7;
    pub const REPLACE_LOST: u8 = 8;
}

/// A PERSISTENT RESERVE OUT, as far as Braid looks at it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Request {
    /// Service action.
    pub action: u8,
    /// Type of the reservation.
    pub kind: u8,
    /// RESERVATION KEY.
    pub key: u64,
    /// SERVICE ACTION RESERVATION KEY.
    pub service_key: u64,
    /// Activate persist through power loss.
    pub aptpl: bool,
}

impl Request {
    /// Reads one; none if it is another command, or if its parameter list is cut off.
    #[must_use]
    pub fn parse(cdb: &[u8], parameters: &[u8]) -> Option<Self> {
        let [OUT, action, kind, ..] = *cdb else { return None };
        Some(Self {
            action: action & ACTION_MASK,
            kind: kind & 0x0f,
            key: number(parameters, 0)?,
            service_key: number(parameters, 8)?,
            aptpl: parameters.get(20)? & 1 != 0,
        })
    }

    /// REGISTER AND IGNORE EXISTING KEY; a key of zero takes the registration away.
    #[must_use]
    pub const fn register_anyway(service_key: u64, aptpl: bool) -> Self {
        Self { action: action::REGISTER_AND_IGNORE, kind: 0, key: 0, service_key, aptpl }
    }

    /// REGISTER: done only by a nexus that is registered with `key`.
    #[must_use]
    pub const fn register_over(key: u64, service_key: u64, aptpl: bool) -> Self {
        Self { action: action::REGISTER, kind: 0, key, service_key, aptpl }
    }

    /// Its CDB.
    #[must_use]
    pub fn cdb(&self) -> Cdb {
        let mut cdb = Cdb::default();
        [cdb[0], cdb[1], cdb[2], cdb[8]] = [OUT, self.action, self.kind, 24];
        cdb
    }

    /// Its parameter list.
    #[must_use]
    pub fn parameters(&self) -> Vec<u8> {
        let mut list = [self.key.to_be_bytes(), self.service_key.to_be_bytes()].concat();
        list.extend_from_slice(&[0, 0, 0, 0, u8::from(self.aptpl), 0, 0, 0]);
        list
    }
}

/// What a reservation of one nexus leaves to others that are registered with the same key (SPC-4 table 66).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Leaves {
    /// Exclusive Access (3): nothing.
    Nothing,
    /// Write Exclusive (1): reading.
    Reads,
    /// Registrants Only (5, 6) and All Registrants (7, 8): everything.
    All,
}

impl Leaves {
    /// By the type of the reservation; one that is unknown leaves nothing.
    #[must_use]
    pub const fn of(kind: u8) -> Self {
        match kind {
            1 => Self::Reads,
            5..=8 => Self::All,
            _ => Self::Nothing,
        }
    }
}

/// A PERSISTENT RESERVE IN.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Question {
    /// READ KEYS.
    Keys,
    /// READ RESERVATION.
    Reservation,
    /// REPORT CAPABILITIES.
    Capabilities,
    /// READ FULL STATUS.
    FullStatus,
}

impl Question {
    /// Which one a CDB asks, if one of them.
    #[must_use]
    pub fn parse(cdb: &[u8]) -> Option<Self> {
        let of = |action| [Self::Keys, Self::Reservation, Self::Capabilities, Self::FullStatus].get(action);
        let [IN, action, ..] = *cdb else { return None };
        of(usize::from(action & ACTION_MASK)).copied()
    }

    /// Whether its answer tells who is registered.
    #[must_use]
    pub const fn shows_registrations(self) -> bool {
        matches!(self, Self::Keys | Self::FullStatus)
    }

    /// Its CDB; `allocation` in bytes.
    #[must_use]
    pub fn cdb(self, allocation: u16) -> Cdb {
        let mut cdb = Cdb::default();
        let action = match self {
            Self::Keys => 0,
            Self::Reservation => 1,
            Self::Capabilities => 2,
            Self::FullStatus => 3,
        };
        let [high, low] = allocation.to_be_bytes();
        [cdb[0], cdb[1], cdb[7], cdb[8]] = [IN, action, high, low];
        cdb
    }
}

/// ALLOCATION LENGTH of a PERSISTENT RESERVE IN.
#[must_use]
pub fn allocation(cdb: &[u8]) -> u16 {
    cdb.get(7..9).and_then(|b| b.first_chunk()).map_or(0, |b| u16::from_be_bytes(*b))
}

/// Whether REPORT CAPABILITIES data says that registrations persist through power loss now (PTPL_A).
#[must_use]
pub fn persists(data: &[u8]) -> bool {
    data.get(3).is_some_and(|byte| byte & 1 != 0)
}

/// The keys of READ KEYS data.
pub fn keys(data: &[u8]) -> impl Iterator<Item = u64> {
    body(data).chunks_exact(8).filter_map(|key| number(key, 0))
}

/// The name of an iSCSI initiator port, as a TransportID says it (SPC-4 section 7.6.4.6).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Port {
    /// iSCSI name, in lower case.
    pub name: String,
    /// ISID in hexadecimal digits; empty if the TransportID names the node only.
    pub isid: String,
}

impl Port {
    /// Reads a TransportID; none if it is none of iSCSI's.
    fn parse(id: &[u8]) -> Option<Self> {
        const ISCSI: u8 = 5;
        let ([first, _, high, low], rest) = id.split_first_chunk()?;
        let text = rest.get(..usize::from(u16::from_be_bytes([*high, *low]))).unwrap_or(rest);
        let text = text.split(|byte| *byte == 0).next().unwrap_or_default();
        let text = std::str::from_utf8(text).ok().filter(|_| first & 0x0f == ISCSI)?.to_ascii_lowercase();
        let (name, isid) = text.split_once(",i,0x").unwrap_or((&text, ""));
        Some(Self { name: name.to_owned(), isid: isid.to_owned() })
    }

    /// Whether it is the port of this name and ISID. Some targets cut the ISID short.
    #[must_use]
    pub fn is(&self, name: &str, isid: [u8; 6]) -> bool {
        const LEAST: usize = 6;
        let digits = isid.iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"));
        let fits = self.isid.len() >= LEAST && digits.starts_with(&self.isid);
        fits && self.name == name.to_ascii_lowercase()
    }
}

/// A registration of READ FULL STATUS data.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Registration {
    /// Reservation key.
    pub key: u64,
    /// Type of the reservation, if this registrant holds it.
    pub holds: Option<u8>,
    /// Who is registered, if that is an iSCSI port.
    pub port: Option<Port>,
}

/// The registrations of READ FULL STATUS data.
#[must_use]
pub fn registrations(data: &[u8]) -> Vec<Registration> {
    descriptors(data).filter_map(registration).collect()
}

fn registration(descriptor: &[u8]) -> Option<Registration> {
    const HOLDER: u8 = 0x01;
    let (flags, kind) = (descriptor.get(12)?, descriptor.get(13)? & 0x0f);
    Some(Registration {
        key: number(descriptor, 0)?,
        holds: (flags & HOLDER != 0).then_some(kind),
        port: Port::parse(descriptor.get(DESCRIPTOR..)?),
    })
}

/// Length of a full status descriptor before its TransportID, in bytes.
const DESCRIPTOR: usize = 24;

/// The full status descriptors that are whole.
fn descriptors(data: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = body(data);
    std::iter::from_fn(move || {
        let more = u32::from_be_bytes(*rest.get(20..DESCRIPTOR)?.first_chunk()?);
        let length = DESCRIPTOR.checked_add(usize::try_from(more).ok()?)?;
        let (descriptor, behind) = rest.split_at_checked(length)?;
        rest = behind;
        Some(descriptor)
    })
}

/// READ KEYS data without one copy of each of the keys `hidden`; the last copy of each that is `kept` stays.
#[must_use]
pub fn hide_keys(data: &[u8], hidden: &[u64], kept: &[u64]) -> Vec<u8> {
    let mut left: Vec<u64> = keys(data).collect();
    for key in hidden {
        let copies = left.iter().filter(|k| *k == key).count();
        // Home's own is as good as any: the newest, which is the last, is most likely a replica's.
        if copies > usize::from(kept.contains(key))
            && let Some(at) = left.iter().rposition(|k| k == key)
        {
            left.remove(at);
        }
    }
    rebuilt(data, left.iter().flat_map(|key| key.to_be_bytes()).collect())
}

/// READ FULL STATUS data without the registrations of ports that are `hidden`.
#[must_use]
pub fn hide_ports(data: &[u8], hidden: impl Fn(&Port) -> bool) -> Vec<u8> {
    let shown = |d: &&[u8]| !registration(d).and_then(|r| r.port).is_some_and(|port| hidden(&port));
    rebuilt(data, descriptors(data).filter(shown).flatten().copied().collect())
}

/// The data with another body.
fn rebuilt(data: &[u8], body: Vec<u8>) -> Vec<u8> {
    let Some(generation) = data.get(..4).filter(|_| data.len() >= HEADER) else { return data.to_vec() };
    let length = u32::try_from(body.len()).unwrap_or(u32::MAX);
    let mut rebuilt = [generation, &length.to_be_bytes()].concat();
    rebuilt.extend(body);
    rebuilt
}

/// What follows the header, as far as ADDITIONAL LENGTH and the data reach.
fn body(data: &[u8]) -> &[u8] {
    let length = data.get(4..HEADER).and_then(|b| b.first_chunk()).map_or(0, |b| u32::from_be_bytes(*b));
    let body = data.get(HEADER..).unwrap_or_default();
    body.get(..usize::try_from(length).unwrap_or(usize::MAX)).unwrap_or(body)
}

fn number(data: &[u8], at: usize) -> Option<u64> {
    data.get(at..)?.first_chunk().map(|bytes| u64::from_be_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NAME: &str = "iqn.2026-11.org.example:a";

    fn of_keys(keys: &[u64]) -> Vec<u8> {
        rebuilt(&[0, 0, 0, 9, 0, 0, 0, 0], keys.iter().flat_map(|key| key.to_be_bytes()).collect())
    }

    fn descriptor(key: u64, holder: bool, name: &str) -> Vec<u8> {
        let mut text = name.as_bytes().to_vec();
        text.resize((name.len() / 4 + 1) * 4, 0);
        let mut id = vec![0x45, 0, 0, u8::try_from(text.len()).unwrap()];
        id.extend(text);
        let mut descriptor = key.to_be_bytes().to_vec();
        descriptor.extend_from_slice(&[0, 0, 0, 0, u8::from(holder), 5, 0, 0, 0, 0, 0, 1]);
        descriptor.extend_from_slice(&u32::try_from(id.len()).unwrap().to_be_bytes());
        descriptor.extend(id);
        descriptor
    }

    #[test]
    fn requests_come_back() {
        for request in [Request::register_anyway(7, true), Request::register_over(1 << 63, 5, false)] {
            assert_eq!(request.parameters().len(), PARAMETERS);
            assert_eq!(Request::parse(&request.cdb(), &request.parameters()), Some(request));
            assert_eq!(Request::parse(&request.cdb(), &request.parameters()[..20]), None);
        }
        assert_eq!(Request::parse(&[0x5e, 0, 0], &[0; 24]), None);
    }

    #[test]
    fn questions_come_back() {
        let all = [Question::Keys, Question::Reservation, Question::Capabilities, Question::FullStatus];
        for question in all {
            assert_eq!(Question::parse(&question.cdb(0x1234)), Some(question));
            assert_eq!(allocation(&question.cdb(0x1234)), 0x1234);
        }
        assert_eq!(Question::parse(&[0x5e, 4]), None);
        assert_eq!(Question::parse(&[0x5f, 0]), None);
    }

    #[test]
    fn as_many_copies_go_as_are_hidden_and_the_last_stays() {
        let data = of_keys(&[5, 6, 5, 5]);
        assert_eq!(hide_keys(&data, &[5], &[5]), of_keys(&[5, 6, 5]));
        assert_eq!(hide_keys(&data, &[5, 5, 5, 7], &[5]), of_keys(&[5, 6]));
        assert_eq!(hide_keys(&data, &[5, 5, 5], &[]), of_keys(&[6]));
        assert_eq!(hide_keys(&data[..7], &[5], &[]), data[..7]);
    }

    #[test]
    fn ports_are_hidden_by_name_and_isid() {
        let home = descriptor(5, true, &format!("{NAME},i,0x00023d000001"));
        let replica = descriptor(5, false, &format!("{NAME},i,0x80aabbccddee"));
        let short = descriptor(5, false, &format!("{NAME},i,0x80aabb"));
        let node = descriptor(6, false, "iqn.2026-11.org.example:b");
        let all = rebuilt(&[0; 8], [&home[..], &replica, &short, &node].concat());
        let isid = [0x80, 0xaa, 0xbb, 0xcc, 0xdd, 0xee];
        let left = hide_ports(&all, |port| port.is(NAME, isid));
        assert_eq!(left, rebuilt(&[0; 8], [&home[..], &node].concat()));
        let first = registrations(&left).into_iter().next().unwrap();
        assert_eq!((first.key, first.holds), (5, Some(5)));
        assert!(first.port.unwrap().is(NAME, [0, 2, 0x3d, 0, 0, 1]));
    }

    proptest! {
        #[test]
        fn any_data_is_taken(data: Vec<u8>) {
            let keys = hide_keys(&data, &[0], &[]);
            let ports = hide_ports(&data, |_| true);
            prop_assert!(keys.len() <= data.len() && ports.len() <= data.len());
            prop_assert!(registrations(&ports).is_empty());
        }
    }
}
