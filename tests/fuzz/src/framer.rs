//! The framer against a model that has the whole stream before it: whatever the reads bring at a time, whatever is wrong
//! with the stream, and however long the payload is held, the same PDUs and errors come out.

use arbitrary::Arbitrary;
use braid::iscsi::{
    AHS_MAX, BHS_LEN, FrameError, Framer, FramerLimits, Payload, Pdu, Receiver, WireError, ahs_len, data_len,
    padding, reject,
};
use bytes::Bytes;
use crc32c::{crc32c, crc32c_append};

/// Longest stream made.
const LONGEST: usize = 256 * 1024;

#[derive(Arbitrary, Debug)]
struct Input<'a> {
    at_target: bool,
    limits: Limits,
    /// Other limits from the PDU of this number on, as at the end of login.
    change: Option<(u8, Limits)>,
    /// Lengths of the reads, taken in turn.
    reads: [u16; 3],
    /// Which PDUs are held until the end; the others are dropped at once.
    held: u8,
    /// Buffers are given back when nothing is pending.
    release: bool,
    parts: Vec<Part<'a>>,
}

#[derive(Arbitrary, Clone, Copy, Debug)]
struct Limits {
    max_data: u16,
    header_digest: bool,
    data_digest: bool,
}

#[derive(Arbitrary, Debug)]
enum Part<'a> {
    Raw(&'a [u8]),
    Pdu {
        header: [u8; BHS_LEN],
        ahs: &'a [u8],
        data: &'a [u8],
        harm: Harm,
    },
    /// A PDU with more data than the input has bytes.
    Long {
        header: [u8; BHS_LEN],
        length: u16,
        harm: Harm,
    },
}

#[derive(Arbitrary, Clone, Copy, PartialEq, Eq, Debug)]
enum Harm {
    Nothing,
    HeaderDigest,
    DataDigest,
    CutOff,
}

impl Limits {
    fn framer(self) -> FramerLimits {
        let Self { max_data, header_digest, data_digest } = self;
        FramerLimits { max_data: usize::from(max_data), header_digest, data_digest }
    }
}

/// Runs one input.
pub fn run(bytes: &[u8]) {
    super::with_input(bytes, go);
}

fn go(input: &Input<'_>) {
    let receiver = if input.at_target { Receiver::Target } else { Receiver::Initiator };
    let stream = stream(input);
    let expected = expected(input, receiver, &stream);
    let mut framer = Framer::new(receiver);
    framer.set_limits(input.limits.framer());
    let mut came = 0;
    let mut held = Vec::new();
    let mut rest = &stream[..];
    for length in input.reads.iter().cycle().map(|length| usize::from(*length).max(1)) {
        let buffer = framer.buffer();
        let spare = buffer.capacity() - buffer.len();
        assert!(spare >= 4096, "no room to read into");
        let (read, behind) = rest.split_at(length.min(spare).min(rest.len()));
        buffer.extend_from_slice(read);
        rest = behind;
        loop {
            if came >= expected.len() && !matches!(expected.last(), Some(Err(FrameError::Fatal(_)))) {
                assert_eq!(framer.next_pdu(), Ok(None), "more than was sent");
                break;
            }
            let next = framer.next_pdu();
            if next == Ok(None) {
                break;
            }
            let wanted = &expected[came.min(expected.len() - 1)];
            assert_eq!(&next.clone().map(Option::unwrap), wanted);
            came += 1;
            if input.change.is_some_and(|(at, _)| usize::from(at) == came) {
                framer.set_limits(input.change.unwrap().1.framer());
            }
            if matches!(next, Err(FrameError::Fatal(_))) {
                break;
            }
            if input.held >> (came % 8) & 1 == 1 {
                held.push((next, wanted));
            }
        }
        if input.release {
            framer.release();
        }
        if rest.is_empty() {
            break;
        }
    }
    assert!(came >= expected.len(), "{came} of {} came out", expected.len());
    for (pdu, wanted) in held {
        assert_eq!(&pdu.map(Option::unwrap), wanted, "payload changed while it was held");
    }
}

fn stream(input: &Input<'_>) -> Vec<u8> {
    let mut stream = Vec::new();
    for (index, part) in input.parts.iter().enumerate() {
        let limits = limits(input, index);
        match part {
            Part::Raw(bytes) => stream.extend_from_slice(bytes),
            Part::Pdu { header, ahs, data, harm } => put(&mut stream, limits, *header, ahs, data, *harm),
            Part::Long { header, length, harm } => {
                let data: Vec<u8> = (0..=u8::MAX).cycle().take(usize::from(*length)).collect();
                put(&mut stream, limits, *header, &[], &data, *harm);
            }
        }
        if stream.len() > LONGEST {
            break;
        }
    }
    stream
}

/// The limits for the PDU of this number.
fn limits(input: &Input<'_>, index: usize) -> FramerLimits {
    let changed = input.change.filter(|(at, _)| *at > 0 && index >= usize::from(*at));
    changed.map_or(input.limits, |(_, limits)| limits).framer()
}

fn put(
    stream: &mut Vec<u8>,
    limits: FramerLimits,
    mut header: [u8; BHS_LEN],
    ahs: &[u8],
    data: &[u8],
    harm: Harm,
) {
    let mut ahs = ahs[..ahs.len().min(1020)].to_vec();
    ahs.resize(ahs.len().next_multiple_of(4), 0);
    header[4] = u8::try_from(ahs.len() / 4).unwrap();
    header[5..8].copy_from_slice(&u32::try_from(data.len()).unwrap().to_be_bytes()[1..]);
    stream.extend_from_slice(&header);
    stream.extend_from_slice(&ahs);
    if limits.header_digest {
        let digest = crc32c_append(crc32c(&header), &ahs) ^ u32::from(harm == Harm::HeaderDigest);
        stream.extend_from_slice(&digest.to_le_bytes());
    }
    let data = if harm == Harm::CutOff { &data[..data.len() / 2] } else { data };
    let start = stream.len();
    stream.extend_from_slice(data);
    stream.resize(stream.len() + padding(data.len()), 0);
    if limits.data_digest && !data.is_empty() {
        let digest = crc32c(&stream[start..]) ^ u32::from(harm == Harm::DataDigest);
        stream.extend_from_slice(&digest.to_le_bytes());
    }
}

/// What must come out: the stream read from its start to its end, without buffers.
fn expected(input: &Input<'_>, receiver: Receiver, stream: &[u8]) -> Vec<Result<Pdu, FrameError>> {
    let mut expected = Vec::new();
    let mut rest = stream;
    loop {
        let limits = limits(input, expected.len());
        match one(limits, receiver, &mut rest) {
            None => return expected,
            Some(fatal @ Err(FrameError::Fatal(_))) => {
                expected.push(fatal);
                return expected;
            }
            Some(next) => expected.push(next),
        }
    }
}

fn one(limits: FramerLimits, receiver: Receiver, rest: &mut &[u8]) -> Option<Result<Pdu, FrameError>> {
    let header: [u8; BHS_LEN] = *rest.first_chunk()?;
    let length = data_len(&header);
    if length > limits.max_data {
        let error = WireError::DataTooLong { length, limit: limits.max_data };
        return Some(Err(FrameError::Fatal(error)));
    }
    if ahs_len(&header) > AHS_MAX {
        return Some(Err(FrameError::Fatal(WireError::Ahs)));
    }
    let (head, mut behind) = rest.split_at_checked(BHS_LEN + ahs_len(&header))?;
    if limits.header_digest {
        let (digest, tail) = behind.split_at_checked(4)?;
        if digest != crc32c(head).to_le_bytes() {
            return Some(Err(FrameError::Fatal(WireError::HeaderDigest)));
        }
        behind = tail;
    }
    let (data, mut behind) = behind.split_at_checked(length + padding(length))?;
    let mut intact = true;
    if limits.data_digest && length > 0 {
        let (digest, tail) = behind.split_at_checked(4)?;
        intact = digest == crc32c(data).to_le_bytes();
        behind = tail;
    }
    *rest = behind;
    let payload = Payload::from(Bytes::copy_from_slice(&data[..length]));
    let parsed = Pdu::parse(receiver, &header, &head[BHS_LEN..], payload);
    Some(match parsed {
        _ if !intact => {
            let (reason, error) = (reject::DATA_DIGEST, WireError::DataDigest);
            Err(FrameError::Rejectable { header, reason, error })
        }
        Ok(pdu) => Ok(pdu),
        Err(error) => Err(FrameError::Rejectable { header, reason: reason(&header, error), error }),
    })
}

fn reason(header: &[u8; BHS_LEN], error: WireError) -> u8 {
    use braid::iscsi::opcode;
    match error {
        WireError::Opcode(code) if opcode::receiver(code).is_some() => reject::PROTOCOL_ERROR,
        WireError::Opcode(code) => {
            assert_eq!(code, header[0] & 0x3f);
            reject::NOT_SUPPORTED
        }
        _ => reject::INVALID_FIELD,
    }
}
