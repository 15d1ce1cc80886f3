//! Properties of the wire layer as a whole: any PDU survives queue, stream and framer, however the stream is cut; no
//! bytes whatever make it panic.

use super::framer::{Framer, FramerLimits, Receiver};
use super::pdu::AHS_MAX;
use super::text::{KeyList, TextCollector};
use super::*;
use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;
use std::io::IoSlice;

const MAX_DATA: usize = 3000;

/// A data segment of one to three slices, or none.
fn payload() -> impl Strategy<Value = Payload> {
    let chunk = prop_oneof![vec(any::<u8>(), 0..20), vec(any::<u8>(), 500..1000)];
    vec(chunk, 0..4).prop_map(|chunks| {
        let mut payload = Payload::new();
        chunks.into_iter().for_each(|chunk| payload.push(Bytes::from(chunk)));
        payload
    })
}

fn itt() -> impl Strategy<Value = Itt> {
    (0..u32::MAX).prop_map(Itt)
}

fn ttt() -> impl Strategy<Value = Ttt> {
    prop_oneof![Just(Ttt::NONE), any::<u32>().prop_map(Ttt)]
}

fn request_numbers() -> impl Strategy<Value = (CmdSn, StatSn)> {
    any::<(u32, u32)>().prop_map(|(cmd, stat)| (CmdSn(cmd), StatSn(stat)))
}

fn numbers() -> impl Strategy<Value = (StatSn, CmdSn, CmdSn)> {
    any::<(u32, u32, u32)>().prop_map(|(stat, exp, max)| (StatSn(stat), CmdSn(exp), CmdSn(max)))
}

fn lun() -> impl Strategy<Value = Lun> {
    any::<u64>().prop_map(Lun)
}

fn attribute() -> impl Strategy<Value = TaskAttribute> {
    use TaskAttribute::{Aca, HeadOfQueue, Ordered, Simple, Untagged};
    prop_oneof![Just(Untagged), Just(Simple), Just(Ordered), Just(HeadOfQueue), Just(Aca)]
}

/// T and C, current and next stage, as they may stand together.
fn stages() -> impl Strategy<Value = (bool, bool, Stage, Stage)> {
    let current = prop_oneof![Just(Stage::Security), Just(Stage::Operational)];
    let next = prop_oneof![Just(Stage::Security), Just(Stage::Operational), Just(Stage::FullFeature)];
    (0..3, current, next).prop_map(|(kind, current, next)| match kind {
        0 => (true, false, current, next),
        1 => (false, true, current, Stage::default()),
        _ => (false, false, current, Stage::default()),
    })
}

/// F and C as they may stand together.
fn text_flags() -> impl Strategy<Value = (bool, bool)> {
    prop_oneof![Just((true, false)), Just((false, true)), Just((false, false))]
}

fn scsi_command() -> impl Strategy<Value = Pdu> {
    let flags = any::<[bool; 4]>();
    let cdb = prop_oneof![vec(any::<u8>(), 16..17), vec(any::<u8>(), 17..261)];
    let rest = (cdb, any::<Option<u32>>(), payload());
    (flags, attribute(), lun(), itt(), any::<u32>(), request_numbers(), rest).prop_map(
        |([immediate, f, read, write], attribute, lun, itt, expected_length, (cmd_sn, exp_stat_sn), rest)| {
            let (cdb, bidi_read_length, data) = rest;
            Pdu::ScsiCommand(ScsiCommand {
                immediate,
                final_: f || !write,
                read,
                write,
                attribute,
                lun,
                itt,
                expected_length,
                cmd_sn,
                exp_stat_sn,
                cdb: Cdb(cdb.into_iter().collect()),
                bidi_read_length,
                data,
            })
        },
    )
}

fn task_requests() -> impl Strategy<Value = Pdu> {
    (any::<bool>(), 0..128u8, lun(), itt(), request_numbers(), any::<[u32; 3]>()).prop_map(
        |(immediate, function, lun, itt, (cmd_sn, exp_stat_sn), [task, ref_cmd_sn, exp_data_sn])| {
            Pdu::TaskManagementRequest(TaskManagementRequest {
                immediate,
                function,
                lun,
                itt,
                referenced_itt: Itt(task),
                cmd_sn,
                exp_stat_sn,
                ref_cmd_sn: CmdSn(ref_cmd_sn),
                exp_data_sn,
            })
        },
    )
}

fn login_request() -> impl Strategy<Value = Pdu> {
    let ids = (any::<[u8; 6]>(), any::<[u16; 2]>(), any::<u32>());
    (stages(), any::<[u8; 2]>(), ids, request_numbers(), payload()).prop_map(
        |(stages, [version_max, version_min], (isid, [tsih, cid], itt), (cmd_sn, exp_stat_sn), data)| {
            let (transit, continue_, current, next) = stages;
            Pdu::LoginRequest(LoginRequest {
                transit,
                continue_,
                current,
                next,
                version_max,
                version_min,
                isid: Isid(isid),
                tsih: Tsih(tsih),
                itt: Itt(itt),
                cid: Cid(cid),
                cmd_sn,
                exp_stat_sn,
                data,
            })
        },
    )
}

fn text_request() -> impl Strategy<Value = Pdu> {
    (any::<bool>(), text_flags(), lun(), itt(), ttt(), request_numbers(), payload()).prop_map(
        |(immediate, (final_, continue_), lun, itt, ttt, (cmd_sn, exp_stat_sn), data)| {
            Pdu::TextRequest(TextRequest {
                immediate,
                final_,
                continue_,
                lun,
                itt,
                ttt,
                cmd_sn,
                exp_stat_sn,
                data,
            })
        },
    )
}

fn data_out() -> impl Strategy<Value = Pdu> {
    (any::<bool>(), lun(), itt(), ttt(), any::<[u32; 3]>(), payload()).prop_map(
        |(final_, lun, itt, ttt, [exp_stat_sn, data_sn, buffer_offset], data)| {
            let exp_stat_sn = StatSn(exp_stat_sn);
            Pdu::DataOut(DataOut { final_, lun, itt, ttt, exp_stat_sn, data_sn, buffer_offset, data })
        },
    )
}

fn other_requests() -> impl Strategy<Value = Pdu> {
    let logout = (any::<bool>(), 0..3u8, itt(), any::<u16>(), request_numbers()).prop_map(
        |(immediate, reason, itt, cid, (cmd_sn, exp_stat_sn))| {
            let cid = Cid(cid);
            Pdu::LogoutRequest(LogoutRequest { immediate, reason, itt, cid, cmd_sn, exp_stat_sn })
        },
    );
    let snack = (0..4u8, lun(), any::<u32>(), ttt(), any::<[u32; 3]>()).prop_map(
        |(kind, lun, itt, ttt, [exp_stat_sn, begin_run, run_length])| {
            let (itt, exp_stat_sn) = (Itt(itt), StatSn(exp_stat_sn));
            Pdu::SnackRequest(SnackRequest { kind, lun, itt, ttt, exp_stat_sn, begin_run, run_length })
        },
    );
    let nop = (any::<bool>(), lun(), any::<u32>(), ttt(), request_numbers(), payload()).prop_map(
        |(immediate, lun, itt, ttt, (cmd_sn, exp_stat_sn), data)| {
            let itt = Itt(itt);
            Pdu::NopOut(NopOut { immediate, lun, itt, ttt, cmd_sn, exp_stat_sn, data })
        },
    );
    prop_oneof![logout, snack, nop]
}

fn scsi_response() -> impl Strategy<Value = Pdu> {
    (any::<[bool; 4]>(), any::<[u8; 2]>(), any::<u32>(), any::<[u32; 4]>(), numbers(), payload()).prop_map(
        |(flags, [response, status], itt, counts, (stat_sn, exp_cmd_sn, max_cmd_sn), data)| {
            let [bidi_overflow, bidi_underflow, overflow, underflow] = flags;
            let [snack_tag, exp_data_sn, bidi_residual, residual] = counts;
            Pdu::ScsiResponse(ScsiResponse {
                bidi_overflow,
                bidi_underflow,
                overflow,
                underflow,
                response,
                status,
                itt: Itt(itt),
                snack_tag,
                stat_sn,
                exp_cmd_sn,
                max_cmd_sn,
                exp_data_sn,
                bidi_residual,
                residual,
                data,
            })
        },
    )
}

fn data_in() -> impl Strategy<Value = Pdu> {
    let place = (lun(), any::<u32>(), ttt());
    (any::<[bool; 5]>(), any::<u8>(), place, numbers(), any::<[u32; 3]>(), payload()).prop_map(
        |(flags, status, (lun, itt, ttt), (stat_sn, exp_cmd_sn, max_cmd_sn), counts, data)| {
            let [final_, acknowledge, overflow, underflow, has_status] = flags;
            let [data_sn, buffer_offset, residual] = counts;
            Pdu::DataIn(DataIn {
                final_,
                acknowledge,
                overflow,
                underflow,
                has_status,
                status,
                lun,
                itt: Itt(itt),
                ttt,
                stat_sn,
                exp_cmd_sn,
                max_cmd_sn,
                data_sn,
                buffer_offset,
                residual,
                data,
            })
        },
    )
}

fn login_response() -> impl Strategy<Value = Pdu> {
    let ids = (any::<[u8; 6]>(), any::<u16>(), any::<u32>());
    (stages(), any::<[u8; 4]>(), ids, numbers(), payload()).prop_map(
        |(stages, bytes, (isid, tsih, itt), (stat_sn, exp_cmd_sn, max_cmd_sn), data)| {
            let (transit, continue_, current, next) = stages;
            let [version_max, version_active, status_class, status_detail] = bytes;
            Pdu::LoginResponse(LoginResponse {
                transit,
                continue_,
                current,
                next,
                version_max,
                version_active,
                isid: Isid(isid),
                tsih: Tsih(tsih),
                itt: Itt(itt),
                stat_sn,
                exp_cmd_sn,
                max_cmd_sn,
                status_class,
                status_detail,
                data,
            })
        },
    )
}

fn text_response() -> impl Strategy<Value = Pdu> {
    (text_flags(), lun(), any::<u32>(), ttt(), numbers(), payload()).prop_map(
        |((final_, continue_), lun, itt, ttt, (stat_sn, exp_cmd_sn, max_cmd_sn), data)| {
            let itt = Itt(itt);
            Pdu::TextResponse(TextResponse {
                final_,
                continue_,
                lun,
                itt,
                ttt,
                stat_sn,
                exp_cmd_sn,
                max_cmd_sn,
                data,
            })
        },
    )
}

fn task_responses() -> impl Strategy<Value = Pdu> {
    let task = (any::<u8>(), any::<u32>(), numbers(), 0..1u32 << 24).prop_map(
        |(response, itt, (stat_sn, exp_cmd_sn, max_cmd_sn), additional)| {
            let itt = Itt(itt);
            Pdu::TaskManagementResponse(TaskManagementResponse {
                response,
                itt,
                stat_sn,
                exp_cmd_sn,
                max_cmd_sn,
                additional,
            })
        },
    );
    let logout = (any::<u8>(), any::<u32>(), numbers(), any::<[u16; 2]>()).prop_map(
        |(response, itt, (stat_sn, exp_cmd_sn, max_cmd_sn), [time2wait, time2retain])| {
            let itt = Itt(itt);
            Pdu::LogoutResponse(LogoutResponse {
                response,
                itt,
                stat_sn,
                exp_cmd_sn,
                max_cmd_sn,
                time2wait,
                time2retain,
            })
        },
    );
    let r2t = (lun(), any::<[u32; 4]>(), 1..=u32::MAX, numbers()).prop_map(
        |(lun, [itt, ttt, r2t_sn, buffer_offset], desired_length, (stat_sn, exp_cmd_sn, max_cmd_sn))| {
            let (itt, ttt) = (Itt(itt), Ttt(ttt >> 1));
            Pdu::R2t(R2t {
                lun,
                itt,
                ttt,
                stat_sn,
                exp_cmd_sn,
                max_cmd_sn,
                r2t_sn,
                buffer_offset,
                desired_length,
            })
        },
    );
    prop_oneof![task, logout, r2t]
}

fn other_responses() -> impl Strategy<Value = Pdu> {
    let nop = (lun(), any::<u32>(), ttt(), numbers(), payload()).prop_map(
        |(lun, itt, ttt, (stat_sn, exp_cmd_sn, max_cmd_sn), data)| {
            let itt = Itt(itt);
            Pdu::NopIn(NopIn { lun, itt, ttt, stat_sn, exp_cmd_sn, max_cmd_sn, data })
        },
    );
    let message = (lun(), any::<[u8; 2]>(), any::<[u16; 3]>(), numbers(), payload()).prop_map(
        |(lun, [event, vendor_code], parameters, (stat_sn, exp_cmd_sn, max_cmd_sn), data)| {
            Pdu::AsyncMessage(AsyncMessage {
                lun,
                stat_sn,
                exp_cmd_sn,
                max_cmd_sn,
                event,
                vendor_code,
                parameters,
                data,
            })
        },
    );
    let reject = (any::<u8>(), any::<u32>(), numbers(), payload()).prop_map(
        |(reason, data_sn, (stat_sn, exp_cmd_sn, max_cmd_sn), data)| {
            Pdu::Reject(Reject { reason, stat_sn, exp_cmd_sn, max_cmd_sn, data_sn, data })
        },
    );
    prop_oneof![nop, message, reject]
}

/// Any PDUs of one direction.
fn conversation() -> impl Strategy<Value = (Receiver, Vec<Pdu>)> {
    let request = prop_oneof![
        2 => scsi_command(), 1 => task_requests(), 1 => login_request(), 1 => text_request(), 2 => data_out(),
        2 => other_requests(),
    ];
    let response = prop_oneof![
        1 => scsi_response(), 2 => data_in(), 1 => login_response(), 1 => text_response(), 3 => task_responses(),
        2 => other_responses(),
    ];
    prop_oneof![
        vec(request, 1..6).prop_map(|pdus| (Receiver::Target, pdus)),
        vec(response, 1..6).prop_map(|pdus| (Receiver::Initiator, pdus)),
    ]
}

/// What goes over the wire when the queue is written `step` bytes at a time, through at most `slots` slices.
fn send(pdus: &[Pdu], digests: (bool, bool), step: usize, slots: usize) -> Vec<u8> {
    let mut queue = SendQueue::new();
    queue.set_digests(digests.0, digests.1);
    let mut stream = Vec::new();
    for pdu in pdus {
        queue.push(pdu);
        write(&mut queue, &mut stream, step, slots);
    }
    while !queue.is_empty() {
        write(&mut queue, &mut stream, step, slots);
    }
    stream
}

fn write(queue: &mut SendQueue, stream: &mut Vec<u8>, step: usize, slots: usize) {
    let mut slices = vec![IoSlice::new(&[]); slots];
    let filled = queue.slices(&mut slices);
    let ready = slices[..filled].iter().flat_map(|slice| slice.iter());
    let before = stream.len();
    stream.extend(ready.take(step));
    let written = stream.len() - before;
    let waiting = queue.len();
    queue.advance(written);
    assert_eq!(queue.len(), waiting - written);
}

fn framer(receiver: Receiver, digests: (bool, bool)) -> Framer {
    let mut framer = Framer::new(receiver);
    framer.set_limits(FramerLimits { max_data: MAX_DATA, header_digest: digests.0, data_digest: digests.1 });
    framer
}

/// Feeds `stream` in pieces as long as `cuts` says, over and over, never more than fits.
fn receive(framer: &mut Framer, mut stream: &[u8], cuts: &[usize]) -> Vec<Result<Pdu, FrameError>> {
    let mut out = Vec::new();
    for cut in cuts.iter().cycle() {
        if stream.is_empty() {
            break;
        }
        let buffer = framer.buffer();
        let room = buffer.capacity() - buffer.len();
        assert!(room >= 4096);
        let (piece, rest) = stream.split_at(room.min(*cut).min(stream.len()));
        buffer.extend_from_slice(piece);
        stream = rest;
        loop {
            match framer.next_pdu() {
                Ok(None) => break,
                Ok(Some(pdu)) => out.push(Ok(pdu)),
                Err(FrameError::Fatal(error)) => {
                    out.push(Err(FrameError::Fatal(error)));
                    return out;
                }
                Err(error) => out.push(Err(error)),
            }
        }
    }
    out
}

proptest! {
    #[test]
    fn pdus_survive_the_wire(
        (receiver, pdus) in conversation(),
        digests in any::<(bool, bool)>(),
        step in 1..5000usize,
        slots in 1..9usize,
        cuts in vec(1..3000usize, 1..8),
    ) {
        let stream = send(&pdus, digests, step, slots);
        prop_assert_eq!(stream.len() % 4, 0, "R143");
        let received = receive(&mut framer(receiver, digests), &stream, &cuts);
        prop_assert_eq!(received, pdus.into_iter().map(Ok).collect::<Vec<_>>());
    }

    #[test]
    fn a_flipped_bit_never_makes_another_pdu(
        (receiver, pdus) in conversation(),
        bit in any::<prop::sample::Index>(),
        cuts in vec(1..3000usize, 1..4),
    ) {
        let mut stream = send(&pdus, (true, true), usize::MAX, 64);
        let bit = bit.index(stream.len() * 8);
        stream[bit / 8] ^= 1 << (bit % 8);
        let received = receive(&mut framer(receiver, (true, true)), &stream, &cuts);
        let bad = received.iter().position(Result::is_err).unwrap_or(received.len());
        prop_assert!(bad < pdus.len());
        for (index, outcome) in received.iter().enumerate() {
            if index != bad {
                prop_assert_eq!(outcome.as_ref(), Ok(&pdus[index]));
            }
        }
    }

    #[test]
    fn what_parses_is_what_is_encoded(
        receiver in prop_oneof![Just(Receiver::Target), Just(Receiver::Initiator)],
        header in any::<[[u8; 16]; 3]>(),
        code in 0..64u8,
        ahs in prop_oneof![
            3 => Just(Vec::new()),
            1 => vec(any::<u8>(), 0..AHS_MAX),
            1 => vec(0..6u8, 8..=8),
        ],
        data in payload(),
    ) {
        let mut bytes = [0; 48];
        bytes.copy_from_slice(&header.concat());
        bytes[0] = bytes[0] & 0x40 | code;
        if let Ok(pdu) = Pdu::parse(receiver, &bytes, &ahs, data.clone()) {
            let (header, ahs) = pdu.encode();
            prop_assert_eq!(Pdu::parse(receiver, &header, &ahs, data), Ok(pdu.clone()));
            prop_assert!(!pdu.to_string().contains('\n'));
        }
    }

    #[test]
    fn texts_survive_any_cut(
        pairs in vec(("[A-Z][A-Za-z0-9#.+-]{0,62}", "[^\\x00]{0,40}"), 0..8),
        cut in 1..50usize,
    ) {
        let mut list = KeyList::new();
        pairs.iter().for_each(|(key, value)| list.push(key, value));
        let bytes = list.to_bytes();
        let mut collector = TextCollector::new();
        for piece in bytes.chunks(cut) {
            prop_assert_eq!(collector.push(&Payload::from(piece.to_vec()), true), Ok(None));
        }
        prop_assert_eq!(collector.push(&Payload::new(), false), Ok(Some(list)));
    }

    #[test]
    fn any_text_is_read_or_refused(text in vec(prop_oneof![any::<u8>(), Just(0), Just(b'='), Just(b'A')], 0..200)) {
        if let Ok(list) = KeyList::parse(&text) {
            prop_assert_eq!(KeyList::parse(&list.to_bytes()), Ok(list.clone()));
            prop_assert!(!list.to_string().contains('\n'));
        }
    }
}
