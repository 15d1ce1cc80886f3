//! PDUs: what parses is written as it was read, by the codec alone and through send queue and framer; what is printed of
//! it is one line.

use arbitrary::Arbitrary;
use braid::iscsi::{
    BHS_LEN, Framer, FramerLimits, Payload, Pdu, Receiver, SendQueue, WireError, ahs_len, data_len, opcode,
    opcode_of,
};
use bytes::Bytes;
use std::io::IoSlice;

#[derive(Arbitrary, Debug)]
struct Input<'a> {
    at_target: bool,
    header_digest: bool,
    data_digest: bool,
    /// How many bytes are written at a time, taken in turn.
    writes: [u8; 2],
    parts: Vec<Part<'a>>,
}

#[derive(Arbitrary, Debug)]
struct Part<'a> {
    header: [u8; BHS_LEN],
    ahs: &'a [u8],
    data: &'a [u8],
    /// Where the data is torn into two slices.
    tear: u8,
}

/// Runs one input.
pub fn run(bytes: &[u8]) {
    super::with_input(bytes, go);
}

fn go(input: &Input<'_>) {
    let receiver = if input.at_target { Receiver::Target } else { Receiver::Initiator };
    let pdus: Vec<Pdu> = input.parts.iter().filter_map(|part| parse(receiver, part)).collect();
    for pdu in &pdus {
        check(receiver, pdu);
    }
    travel(input, receiver, &pdus);
}

fn parse(receiver: Receiver, part: &Part<'_>) -> Option<Pdu> {
    let data = part.data;
    let (head, tail) = data.split_at(usize::from(part.tear).min(data.len()));
    let mut payload = Payload::from(Bytes::copy_from_slice(head));
    payload.push(Bytes::copy_from_slice(tail));
    let code = opcode_of(&part.header);
    let other = if receiver == Receiver::Target { Receiver::Initiator } else { Receiver::Target };
    let wrong = Pdu::parse(other, &part.header, part.ahs, payload.clone());
    let right = Pdu::parse(receiver, &part.header, part.ahs, payload);
    let strange = Err(WireError::Opcode(code));
    match opcode::receiver(code) {
        None => assert!(wrong == strange && right == strange),
        Some(role) if role == receiver => assert_eq!(wrong, strange),
        Some(_) => assert_eq!(right, strange),
    }
    // Without what its kind has no room for, there may still be something in it.
    right.or_else(|_| Pdu::parse(receiver, &part.header, &[], Payload::new())).ok()
}

fn check(receiver: Receiver, pdu: &Pdu) {
    let (header, ahs) = pdu.encode();
    assert_eq!((ahs_len(&header), data_len(&header)), (ahs.len(), pdu.data().len()));
    assert_eq!(opcode_of(&header), pdu.opcode());
    assert_eq!(opcode::receiver(pdu.opcode()), Some(receiver));
    let back = Pdu::parse(receiver, &header, &ahs, pdu.data().clone());
    assert_eq!(back.as_ref(), Ok(pdu));
    assert_eq!(pdu.target_numbers().is_some(), receiver == Receiver::Initiator);
    let line = pdu.to_string();
    assert!(!line.contains(|c: char| c.is_control()), "{line:?}");
    assert!(line.len() < 1 << 17, "a line of {} bytes", line.len());
    if let Pdu::ScsiResponse(response) = pdu {
        let sense = response.sense();
        assert!(sense.is_none_or(|sense| sense.len() + 2 <= pdu.data().len()));
    }
}

/// Over the wire: queue, partial writes, framer.
fn travel(input: &Input<'_>, receiver: Receiver, pdus: &[Pdu]) {
    let Input { header_digest, data_digest, .. } = *input;
    let mut queue = SendQueue::new();
    queue.set_digests(header_digest, data_digest);
    let mut framer = Framer::new(receiver);
    framer.set_limits(FramerLimits { max_data: 1 << 20, header_digest, data_digest });
    let mut steps = input.writes.iter().cycle();
    let mut back = Vec::new();
    for pdu in pdus {
        queue.push(pdu);
        write(&mut queue, usize::from(*steps.next().unwrap()), &mut framer, &mut back);
    }
    while !queue.is_empty() {
        write(&mut queue, usize::from(*steps.next().unwrap()).max(1), &mut framer, &mut back);
    }
    assert_eq!(back, pdus);
}

fn write(queue: &mut SendQueue, most: usize, framer: &mut Framer, back: &mut Vec<Pdu>) {
    let mut slices = [IoSlice::new(&[]); 4];
    let filled = queue.slices(&mut slices);
    let bytes: Vec<u8> = slices[..filled].iter().flat_map(|slice| slice.iter().copied()).take(most).collect();
    let before = queue.len();
    queue.advance(bytes.len());
    assert_eq!(queue.len(), before - bytes.len());
    framer.buffer().extend_from_slice(&bytes);
    while let Some(pdu) = framer.next_pdu().expect("what was written does not read") {
        back.push(pdu);
    }
}
