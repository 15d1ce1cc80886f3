use super::*;
use crate::iscsi::{Cdb, CmdSn, DataIn, DataOut, Itt, NopOut, ScsiCommand, SendQueue};
use bytes::Bytes;
use std::io::IoSlice;

fn wire(queue: &SendQueue) -> Vec<u8> {
    let mut slices = [IoSlice::new(&[]); 64];
    let filled = queue.slices(&mut slices);
    let bytes: Vec<u8> = slices[..filled].iter().flat_map(|slice| slice.to_vec()).collect();
    assert_eq!(bytes.len(), queue.len(), "all of the queue in one go");
    bytes
}

fn bytes_of(pdu: &Pdu, header: bool, data: bool) -> Vec<u8> {
    let mut queue = SendQueue::new();
    queue.set_digests(header, data);
    queue.push(pdu);
    wire(&queue)
}

fn nop(data: &[u8]) -> Pdu {
    let data = Payload::from(data.to_vec());
    Pdu::NopOut(NopOut { itt: Itt(7), cmd_sn: CmdSn(3), data, ..NopOut::default() })
}

fn data_out(len: usize) -> Pdu {
    let data: Vec<u8> = (0..len).map(|i| (i % 251).to_le_bytes()[0]).collect();
    Pdu::DataOut(DataOut { itt: Itt(9), data: Payload::from(data), ..DataOut::default() })
}

fn target(max_data: usize, digests: bool) -> Framer {
    let mut framer = Framer::new(Receiver::Target);
    framer.set_limits(FramerLimits { max_data, header_digest: digests, data_digest: digests });
    framer
}

/// Feeds as a socket would: never more than the spare room of the buffer.
fn feed(framer: &mut Framer, mut bytes: &[u8]) -> Vec<Result<Pdu, FrameError>> {
    let mut out = Vec::new();
    while !bytes.is_empty() {
        let buffer = framer.buffer();
        let room = (buffer.capacity() - buffer.len()).min(bytes.len());
        assert!(room > 0);
        buffer.extend_from_slice(&bytes[..room]);
        bytes = &bytes[room..];
        drain(framer, &mut out);
    }
    out
}

fn drain(framer: &mut Framer, out: &mut Vec<Result<Pdu, FrameError>>) {
    loop {
        match framer.next_pdu() {
            Ok(None) => return,
            Ok(Some(pdu)) => out.push(Ok(pdu)),
            Err(error) => {
                let fatal = matches!(error, FrameError::Fatal(_));
                out.push(Err(error));
                if fatal {
                    return;
                }
            }
        }
    }
}

#[test]
fn pdus_come_out_whole_and_in_order() {
    let mut stream = bytes_of(&nop(b"abc"), false, false);
    stream.extend(bytes_of(&data_out(5000), false, false));
    let mut framer = Framer::new(Receiver::Target);
    for byte in &stream[..stream.len() - 1] {
        framer.buffer().extend_from_slice(&[*byte]);
        if let Some(pdu) = framer.next_pdu().unwrap() {
            assert_eq!(pdu, nop(b"abc"));
        }
    }
    assert_eq!(feed(&mut framer, &stream[stream.len() - 1..]), [Ok(data_out(5000))]);
    assert_eq!(framer.next_pdu(), Ok(None));
}

#[test]
fn payload_is_not_copied() {
    let mut framer = target(100_000, false);
    let stream = bytes_of(&data_out(1000), false, false);
    let buffer = framer.buffer();
    let start = buffer.as_ptr().wrapping_add(buffer.len());
    buffer.extend_from_slice(&stream);
    let pdu = framer.next_pdu().unwrap().unwrap();
    assert_eq!(pdu.data().chunks().len(), 1);
    assert_eq!(pdu.data().chunks()[0].as_ptr(), start.wrapping_add(48));
}

#[test]
fn straddling_payload_becomes_slices_that_are_not_copied() {
    let mut framer = target(100_000, true);
    let stream = bytes_of(&data_out(40_001), true, true);
    let mut places = Vec::new();
    let mut rest = &stream[..];
    let mut out = Vec::new();
    while !rest.is_empty() {
        let buffer = framer.buffer();
        let room = (buffer.capacity() - buffer.len()).min(rest.len());
        places.push((buffer.as_ptr().wrapping_add(buffer.len()), room));
        buffer.extend_from_slice(&rest[..room]);
        rest = &rest[room..];
        drain(&mut framer, &mut out);
    }
    assert_eq!(out, [Ok(data_out(40_001))]);
    let pdu = out.pop().unwrap().unwrap();
    let chunks: Vec<&Bytes> = pdu.data().chunks().iter().collect();
    assert_eq!(chunks.len(), places.len());
    assert!(chunks.len() > 1);
    assert_eq!(chunks[0].as_ptr(), places[0].0.wrapping_add(52));
    for (chunk, (place, _)) in chunks.iter().zip(&places).skip(1) {
        assert_eq!(chunk.as_ptr(), *place);
    }
}

#[test]
fn buffers_are_used_again_once_their_payload_is_gone() {
    let mut framer = target(8192, false);
    let stream = bytes_of(&data_out(8192), false, false);
    feed(&mut framer, &stream.repeat(100));
    let mut places = std::collections::BTreeSet::new();
    for _ in 0..1000 {
        places.insert(framer.buffer().as_ptr() as usize / BUFFER_MAX);
        feed(&mut framer, &stream);
    }
    assert!(places.len() <= 4, "two buffers, each over one boundary at most: {places:?}");
}

#[test]
fn buffers_grow_with_the_traffic_and_shrink_with_quiet() {
    let mut framer = target(1 << 20, false);
    assert_eq!(framer.buffer().capacity(), BUFFER_MIN);
    let held = feed(&mut framer, &bytes_of(&data_out(1 << 20), false, false));
    let chunks = held[0].as_ref().unwrap().data().chunks();
    assert!(chunks.iter().any(|chunk| chunk.len() == BUFFER_MAX), "{:?}", chunks.len());
    let ping = bytes_of(&nop(b""), false, false);
    for _ in 0..3 * QUIET_READS {
        feed(&mut framer, &ping);
    }
    let buffer = framer.buffer();
    assert!(buffer.capacity() <= BUFFER_MIN);
    framer.release();
    assert_eq!(framer.buffer.capacity(), 0);
    assert_eq!(feed(&mut framer, &ping), [Ok(nop(b""))]);
}

#[test]
fn room_is_always_left() {
    let mut framer = target(1 << 20, false);
    let stream = [bytes_of(&nop(b"abcde"), false, false), bytes_of(&data_out(70_000), false, false)].concat();
    for piece in stream.repeat(5).chunks(997) {
        let buffer = framer.buffer();
        assert!(buffer.capacity() - buffer.len() >= SPARE_MIN);
        buffer.extend_from_slice(piece);
        while framer.next_pdu().unwrap().is_some() {}
    }
}

#[test]
fn data_over_the_limit_is_fatal_at_the_header() {
    let mut framer = Framer::new(Receiver::Target);
    let stream = bytes_of(&data_out(8193), false, false);
    assert!(feed(&mut framer, &stream[..47]).is_empty());
    let error = FrameError::Fatal(WireError::DataTooLong { length: 8193, limit: 8192 });
    assert_eq!(feed(&mut framer, &stream[47..48]), [Err(error.clone())]);
    // The stream stays lost and takes up no memory, whatever is read.
    for _ in 0..100 {
        assert_eq!(feed(&mut framer, &stream), [Err(error.clone())]);
    }
    assert!(framer.buffer.len() <= BUFFER_MAX);
}

#[test]
fn limits_hold_from_the_next_header_on() {
    let mut framer = Framer::new(Receiver::Target);
    let mut stream = bytes_of(&data_out(8192), false, false);
    stream.extend(bytes_of(&data_out(9000), true, true));
    framer.buffer().extend_from_slice(&stream[..4000]);
    assert_eq!(framer.next_pdu(), Ok(None));
    framer.set_limits(FramerLimits { max_data: 9000, header_digest: true, data_digest: true });
    assert_eq!(feed(&mut framer, &stream[4000..]), [Ok(data_out(8192)), Ok(data_out(9000))]);
}

#[test]
fn long_cdbs_pass_and_longer_ahs_are_fatal() {
    let command = |len: usize| {
        let cdb = Cdb((0..len).map(|i| i.to_le_bytes()[0]).collect());
        let itt = Itt(1);
        Pdu::ScsiCommand(ScsiCommand {
            final_: true,
            itt,
            cdb,
            bidi_read_length: Some(4096),
            ..Default::default()
        })
    };
    for len in [16, 17, 32, 260] {
        let stream = bytes_of(&command(len), true, true);
        assert_eq!(feed(&mut target(0, true), &stream), [Ok(command(len))]);
    }
    let mut stream = bytes_of(&nop(b""), false, false);
    stream[4] = (AHS_MAX / 4 + 1).to_le_bytes()[0];
    assert_eq!(feed(&mut target(0, false), &stream), [Err(FrameError::Fatal(WireError::Ahs))]);
}

#[test]
fn r176_a_flipped_header_bit_is_fatal() {
    let stream = bytes_of(&nop(b"ping"), true, true);
    for bit in (0..52 * 8).filter(|bit| !(32..64).contains(bit)) {
        let mut bad = stream.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        let fatal = [Err(FrameError::Fatal(WireError::HeaderDigest))];
        assert_eq!(feed(&mut target(8192, true), &bad), fatal, "bit {bit}");
    }
}

#[test]
fn r177_a_flipped_data_bit_costs_one_pdu() {
    let stream = bytes_of(&nop(b"pings"), true, true);
    let header = *stream.first_chunk().unwrap();
    for bit in 0..(8 + 4) * 8 {
        let mut bad = stream.clone();
        bad[52 + bit / 8] ^= 1 << (bit % 8);
        bad.extend(&stream);
        let error = FrameError::Rejectable { header, reason: 0x02, error: WireError::DataDigest };
        assert_eq!(feed(&mut target(8192, true), &bad), [Err(error), Ok(nop(b"pings"))], "bit {bit}");
    }
}

#[test]
fn r182_bad_pdus_are_rejected_with_their_reason_and_skipped() {
    let good = bytes_of(&nop(b"abcdef"), false, false);
    let data_in = Pdu::DataIn(DataIn { data: Payload::from(vec![1; 10]), ..DataIn::default() });
    let mut reserved_attribute = bytes_of(
        &Pdu::ScsiCommand(ScsiCommand { itt: Itt(1), final_: true, ..ScsiCommand::default() }),
        false,
        false,
    );
    reserved_attribute[1] |= 7;
    let mut unknown = good.clone();
    unknown[0] = 0x1e;
    let mut ahs = good.clone();
    ahs[4] = 1;
    ahs.splice(48..48, [0; 4]);
    for (bad, reason, error) in [
        (unknown, 0x05, WireError::Opcode(0x1e)),
        (bytes_of(&data_in, false, false), 0x04, WireError::Opcode(0x25)),
        (reserved_attribute, 0x09, WireError::Field("task attribute")),
        (ahs, 0x09, WireError::Ahs),
    ] {
        let header = *bad.first_chunk().unwrap();
        let stream = [bad, good.clone()].concat();
        let rejected = Err(FrameError::Rejectable { header, reason, error });
        assert_eq!(feed(&mut Framer::new(Receiver::Target), &stream), [rejected, Ok(nop(b"abcdef"))]);
    }
}

/// Bytes a framer holds on to: what it has not handed out, and its receive buffers.
fn held(framer: &Framer) -> usize {
    let payload = framer.segment.as_ref().map_or(0, |segment| segment.payload.len());
    payload + framer.buffer.capacity() + framer.retired.capacity()
}

proptest::proptest! {
    #[test]
    fn no_bytes_make_it_panic_or_hoard(
        noise in proptest::collection::vec((0..66u8, 0..3u8, 0..3u8, proptest::num::u8::ANY, 0..200usize), 1..60),
        digests: bool,
        initiator: bool,
    ) {
        let limit = 50_000;
        let receiver = if initiator { Receiver::Initiator } else { Receiver::Target };
        let mut framer = Framer::new(receiver);
        framer.set_limits(FramerLimits { max_data: limit, header_digest: digests, data_digest: digests });
        for (code, ahs, high, low, repeat) in noise {
            // Something like a header, then something like data.
            let mut bytes = vec![low; 48];
            bytes[0] = code;
            bytes[4] = ahs;
            bytes[5] = high / 2;
            bytes[6] = high;
            if digests {
                bytes.extend(crc32c(&bytes).to_le_bytes());
            }
            bytes.extend(vec![low; repeat * 100]);
            let outcomes = feed(&mut framer, &bytes);
            let lost = matches!(outcomes.last(), Some(Err(FrameError::Fatal(_))));
            proptest::prop_assert_eq!(lost, framer.lost.is_some());
            proptest::prop_assert!(held(&framer) <= limit + 2 * BUFFER_MAX);
        }
    }
}
