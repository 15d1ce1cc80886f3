//! Commands on their way through: data cut anew on each side, statuses, windows, memory.

use super::*;
use braid::iscsi::{AsyncMessage, NopOut, TaskManagementRequest, reject, tmf};

/// Parameters of both sides: downstream, upstream.
fn params(down: impl FnOnce(&mut Negotiated), up: impl FnOnce(&mut Negotiated)) -> Rig {
    let mut plan = plan(Fanout::Sessions, 1);
    down(&mut plan.downstream);
    up(&mut plan.home);
    Rig::new(plan)
}

#[test]
fn a_read_is_passed_on_piece_by_piece_and_sequences_end_at_the_initiators_burst_r127() {
    let mut rig = params(|d| d.session.max_burst_length = 1536, |_| {});
    let itt = rig.read(0, 6);
    let command = rig.sent_command(0);
    rig.read_data(0, command.itt, 0, 0..1024, false);
    let data = rig.told_data();
    assert_eq!((data.data.len(), data.final_), (1024, false));
    rig.read_data(0, command.itt, 1, 1024..3072, true);
    let lengths: Vec<_> = (0..2).map(|_| rig.told_data()).map(|d| (d.data.len(), d.final_)).collect();
    assert_eq!(lengths, [(512, true), (1536, true)]);
    rig.respond(0, &command, GOOD);
    assert_eq!(rig.told_status(itt, GOOD).exp_data_sn, 3, "R136");
    rig.quiet();
}

#[test]
fn status_residual_and_sense_are_passed_on_r134_r135() {
    let mut rig = Rig::sessions(1);
    let itt = rig.read(0, 2);
    let command = rig.sent_command(0);
    rig.read_data(0, command.itt, 0, 0..512, true);
    rig.told_data();
    let data = ScsiResponse::sense_data(&[0x72, 3, 0x11, 0, 0, 0, 0, 0]);
    let response = ScsiResponse {
        itt: command.itt,
        status: CHECK,
        underflow: true,
        residual: 512,
        data: data.clone(),
        ..ScsiResponse::default()
    };
    rig.respond_with(0, response);
    let told = rig.told_status(itt, CHECK);
    assert_eq!((told.underflow, told.overflow, told.residual), (true, false, 512));
    assert_eq!((told.data, told.exp_data_sn), (data, 1));
}

#[test]
fn a_read_that_ends_well_without_its_data_costs_the_connection_r119() {
    let mut rig = Rig::sessions(1);
    rig.read(0, 2);
    let command = rig.sent_command(0);
    rig.read_data(0, command.itt, 0, 0..512, true);
    rig.told_data();
    rig.respond(0, &command, GOOD);
    assert_eq!(rig.closed, [(0, How::Reset)]);
    rig.quiet();
}

#[test]
fn write_data_goes_where_its_command_went_and_names_its_unit_r108_r118() {
    let mut rig = Rig::sessions(2);
    rig.settle();
    for unit in [Lun(0), OTHER_UNIT] {
        let command = ScsiCommand { lun: unit, ..write(0, 32) };
        let itt = rig.command(ScsiCommand { data: command.data.slice(0, 8192), ..command });
        let r2t = rig.told_r2t();
        assert_eq!(r2t.lun, unit);
        rig.data_out(itt, r2t.ttt, 0, 8192..16384, true);
        let run = rig.next_command();
        assert_eq!((run.0, run.1.lun), (usize::from(unit == Lun(0)).try_into().unwrap(), unit));
        rig.reply(run.0, false, |stat_sn, exp_cmd_sn, max_cmd_sn| {
            let ttt = Ttt(7);
            let (lun, itt, buffer_offset, desired_length) = (unit, run.1.itt, 8192, 8192);
            Pdu::R2t(R2t {
                lun,
                itt,
                ttt,
                stat_sn,
                exp_cmd_sn,
                max_cmd_sn,
                buffer_offset,
                desired_length,
                ..R2t::default()
            })
        });
        let data = rig.sent_data(run.0);
        assert_eq!((data.itt, data.ttt, data.lun), (run.1.itt, Ttt(7), unit));
        rig.finish(itt, &run);
    }
    rig.quiet();
}

/// A write of 4 KiB with InitialR2T, ImmediateData and FirstBurstLength as told on each side: sends it whole and
/// returns what the target got: immediate bytes, unsolicited Data-Out bytes, solicited bytes.
fn first_data(down: (bool, bool, u32), up: (bool, bool, u32)) -> (u32, u32, u32) {
    let set = |n: &mut Negotiated, (initial_r2t, immediate_data, first_burst): (bool, bool, u32)| {
        n.session.initial_r2t = initial_r2t;
        n.session.immediate_data = immediate_data;
        n.session.first_burst_length = first_burst;
        n.connection.max_send_data_segment = 1024;
    };
    let mut rig = params(|d| set(d, down), |u| set(u, up));
    let burst = down.2.min(4096);
    let immediate = if down.1 { burst.min(512) } else { 0 };
    let unsolicited = !down.0 && immediate < burst;
    let data = Payload::from(pattern(0, immediate));
    let itt = rig.command(ScsiCommand { final_: !unsolicited, data, ..write(0, 8) });
    if unsolicited {
        rig.data_out(itt, Ttt::NONE, 0, immediate..burst, true);
    }
    while let Some(Pdu::R2t(r2t)) = rig.told.pop_front() {
        let end = r2t.buffer_offset + r2t.desired_length;
        rig.data_out(itt, r2t.ttt, 0, r2t.buffer_offset..end, true);
    }
    let command = rig.sent_command(0);
    let mut all = command.data.contiguous().to_vec();
    let immediate = u32::try_from(all.len()).unwrap();
    if !command.final_ {
        loop {
            let data = rig.sent_data(0);
            assert_eq!((data.ttt, data.buffer_offset as usize), (Ttt::NONE, all.len()));
            all.extend_from_slice(&data.data.contiguous());
            if data.final_ {
                break;
            }
        }
    }
    let unsolicited = u32::try_from(all.len()).unwrap() - immediate;
    let asked = 4096 - immediate - unsolicited;
    if asked > 0 {
        rig.ask(0, command.itt, 5, 0, 4096 - asked..4096);
        while rig.has_sent(0) {
            all.extend_from_slice(&rig.sent_data(0).data.contiguous());
        }
    }
    assert_eq!(all, pattern(0, 4096));
    rig.respond(0, &command, GOOD);
    rig.told_status(itt, GOOD);
    rig.quiet();
    (immediate, unsolicited, asked)
}

#[test]
fn unsolicited_data_follows_each_sides_own_rules_r120_r121_r122() {
    for down_r2t in [true, false] {
        for down_immediate in [true, false] {
            for down_burst in [512, 1536, 65536] {
                let down = (down_r2t, down_immediate, down_burst);
                assert_eq!(first_data(down, (true, true, 65536)), (1024, 0, 3072), "{down:?}");
                assert_eq!(first_data(down, (true, false, 65536)), (0, 0, 4096), "{down:?}");
                assert_eq!(first_data(down, (false, true, 65536)), (1024, 3072, 0), "{down:?}");
                assert_eq!(first_data(down, (false, true, 2048)), (1024, 1024, 2048), "{down:?}");
                assert_eq!(first_data(down, (false, false, 2048)), (0, 2048, 2048), "{down:?}");
                assert_eq!(first_data(down, (true, true, 512)), (512, 0, 3584), "{down:?}");
            }
        }
    }
}

#[test]
fn commands_of_no_length_need_no_data() {
    let mut rig = Rig::sessions(1);
    for command in [read(0, 0), write(0, 0)] {
        let itt = rig.command(ScsiCommand { data: Payload::new(), ..command });
        let sent = rig.sent_command(0);
        assert!(sent.final_ && sent.data.is_empty() && sent.expected_length == 0);
        rig.respond(0, &sent, GOOD);
        rig.told_status(itt, GOOD);
    }
    rig.quiet();
}

#[test]
fn a_long_cdb_is_carried_whole_r133() {
    let mut rig = Rig::sessions(1);
    let mut long = vec![0x7f, 0, 0, 0, 0, 0, 0, 24, 0, 9];
    long.resize(32, 0);
    long[31] = 1;
    let cdb = Cdb(long.iter().copied().collect());
    let itt = rig.command(ScsiCommand { cdb, ..read(0, 1) });
    let sent = rig.sent_command(0);
    assert_eq!(sent.cdb.0.to_vec(), long);
    rig.serve_read(0, &sent);
    assert_eq!(rig.told_data().itt, itt);
    rig.told_status(itt, GOOD);
}

/// XDWRITEREAD(10): one block each way.
fn bidirectional() -> ScsiCommand {
    ScsiCommand {
        read: true,
        bidi_read_length: Some(1024),
        cdb: cdb(&[0x53, 0, 0, 0, 0, 0, 0, 0, 2]),
        data: Payload::from(pattern(0, 512)),
        ..write(0, 2)
    }
}

#[test]
fn a_bidirectional_command_has_one_count_of_data_and_r2ts_and_its_status_comes_alone_r126_r128() {
    let mut rig = params(|_| {}, |u| u.session.first_burst_length = 512);
    let itt = rig.command(bidirectional());
    let sent = rig.sent_command(0);
    assert_eq!((sent.bidi_read_length, sent.expected_length), (Some(1024), 1024));
    let r2t = rig.told_r2t();
    assert_eq!(r2t.r2t_sn, 0);
    rig.data_out(itt, r2t.ttt, 0, 512..1024, true);
    rig.ask(0, sent.itt, 3, 0, 512..1024);
    rig.sent_data(0);
    // The target counts its R2T: the first data has number 1 on both sides.
    rig.read_data(0, sent.itt, 1, 0..1024, true);
    assert_eq!(rig.told_data().data_sn, 1);
    rig.respond(0, &sent, GOOD);
    assert_eq!(rig.told_status(itt, GOOD).exp_data_sn, 1, "R136 leaves R2Ts out");
    rig.quiet();
}

#[test]
fn the_status_of_a_bidirectional_command_does_not_travel_with_data_r128() {
    let mut rig = Rig::sessions(1);
    let data = Payload::from(pattern(0, 1024));
    let itt = rig.command(ScsiCommand { data, ..bidirectional() });
    let sent = rig.sent_command(0);
    let data = Payload::from(pattern(0, 1024));
    let last = DataIn { final_: true, has_status: true, itt: sent.itt, data, ..DataIn::default() };
    rig.data_in(0, last);
    assert!(!rig.told_data().has_status);
    rig.told_status(itt, GOOD);
}

#[test]
fn a_tag_in_use_and_the_reserved_tag_are_refused_r107() {
    let mut rig = Rig::sessions(1);
    let itt = rig.read(0, 1);
    rig.sent_command(0);
    let cmd_sn = rig.take_cmd_sn();
    rig.send(Pdu::ScsiCommand(ScsiCommand { itt, cmd_sn, ..read(8, 1) }));
    assert_eq!(rig.told_refusal(), reject::TASK_IN_PROGRESS);
    let cmd_sn = rig.take_cmd_sn();
    rig.send(Pdu::ScsiCommand(ScsiCommand { itt: Itt::NONE, cmd_sn, ..read(8, 1) }));
    rig.told_reject();
    rig.quiet();
}

#[test]
fn immediate_commands_take_no_number_and_a_flood_of_them_is_refused_r92_r104() {
    let mut rig = params(|_| {}, |u| u.max_cmd_sn = CmdSn(64));
    for n in 0..32 {
        rig.command(ScsiCommand { immediate: true, ..read(n, 1) });
        rig.sent_command(0);
    }
    let itt = rig.command(ScsiCommand { immediate: true, ..read(0, 1) });
    assert_eq!(rig.told_reject(), reject::IMMEDIATE_REJECTED);
    // Places of numbered commands and task management are not affected (R104).
    let numbered = rig.read(100, 1);
    let sent = rig.sent_command(0);
    rig.serve_read(0, &sent);
    assert_eq!(rig.told_data().itt, numbered);
    rig.told_status(numbered, GOOD);
    let (tag, cmd_sn) = (rig.tag(), rig.cmd_sn);
    rig.send(Pdu::TaskManagementRequest(TaskManagementRequest {
        immediate: true,
        function: tmf::ABORT_TASK,
        itt: tag,
        referenced_itt: itt,
        cmd_sn,
        ref_cmd_sn: cmd_sn,
        ..TaskManagementRequest::default()
    }));
    assert!(matches!(rig.told(), Pdu::TaskManagementResponse(r) if r.itt == tag));
}

#[test]
fn numbers_outside_the_window_are_ignored_r96() {
    let mut rig = Rig::sessions(1);
    let first = rig.cmd_sn;
    for cmd_sn in [first.minus(1), first.minus(1000), rig.max_cmd_sn.next(), first.plus(1 << 30)] {
        let itt = rig.tag();
        rig.send(Pdu::ScsiCommand(ScsiCommand { itt, cmd_sn, ..read(0, 1) }));
        rig.quiet();
    }
    rig.read(0, 1);
    rig.sent_command(0);
}

#[test]
fn a_hole_is_waited_for_and_plugged_in_order_r94_r95_r103() {
    let mut rig = Rig::sessions(1);
    let first = rig.cmd_sn;
    let tags: Vec<Itt> = (0..3).map(|_| rig.tag()).collect();
    rig.cmd_sn = first.plus(3);
    for n in [2, 1] {
        let (itt, cmd_sn) = (tags[n], first.plus(u32::try_from(n).unwrap()));
        rig.send(Pdu::ScsiCommand(ScsiCommand { itt, cmd_sn, ..read(u32::try_from(n).unwrap(), 1) }));
        rig.quiet();
    }
    rig.send(Pdu::ScsiCommand(ScsiCommand { itt: tags[0], cmd_sn: first, ..read(0, 1) }));
    let order: Vec<_> = (0..3).map(|_| rig.sent_command(0).cdb).collect();
    assert_eq!(order, [read(0, 1).cdb, read(1, 1).cdb, read(2, 1).cdb]);
    rig.quiet();
    let sent = rig.read(3, 1);
    let command = rig.sent_command(0);
    rig.sense(0, &command, 3, 0x11, 0);
    assert_eq!(
        rig.told_status(sent, CHECK).exp_cmd_sn,
        first.plus(4),
        "acknowledged with its status at the latest"
    );
}

#[test]
fn the_window_closes_with_commands_and_opens_with_their_answers_r96() {
    let mut rig = Rig::sessions(1);
    rig.target_window = 64;
    let mut sent = Vec::new();
    while !rig.cmd_sn.is_after(rig.max_cmd_sn) {
        let itt = rig.read(u32::try_from(sent.len()).unwrap(), 1);
        sent.push((itt, rig.sent_command(0)));
    }
    assert_eq!(sent.len(), 16);
    // One too many is ignored.
    let itt = rig.tag();
    let cmd_sn = rig.cmd_sn;
    rig.send(Pdu::ScsiCommand(ScsiCommand { itt, cmd_sn, ..read(0, 1) }));
    rig.quiet();
    for (done, (itt, command)) in sent.into_iter().enumerate() {
        rig.serve_read(0, &command);
        rig.told_data();
        let told = rig.told_status(itt, GOOD);
        assert_eq!(told.max_cmd_sn.since(told.exp_cmd_sn) as usize, done, "one place for each answer");
    }
}

#[test]
fn write_data_beyond_the_memory_budget_is_not_asked_for_but_the_oldest_write_gets_its_own() {
    let mut plan = plan(Fanout::Sessions, 1);
    plan.memory_budget = 4096;
    plan.home.session.first_burst_length = 512;
    let mut rig = Rig::new(plan);
    let tags: Vec<_> =
        (0..3).map(|n| rig.command(ScsiCommand { data: Payload::new(), ..write(n * 16, 16) })).collect();
    // 8 KiB each: the first alone exceeds the budget, and is asked for all the same.
    for itt in tags {
        let r2t = rig.told_r2t();
        assert_eq!((r2t.itt, r2t.desired_length), (itt, 8192));
        rig.quiet();
        rig.data_out(itt, r2t.ttt, 0, 0..8192, true);
        let sent = rig.sent_command(0);
        rig.ask(0, sent.itt, 1, 0, 512..8192);
        rig.sent_data(0);
        // Once it has its data, the next is the oldest; the answer frees the memory.
        rig.respond(0, &sent, GOOD);
        let at = rig.told.iter().position(|p| matches!(p, Pdu::ScsiResponse(r) if r.itt == itt)).unwrap();
        rig.told.remove(at);
    }
    assert_eq!(rig.session.memory(), 0);
    rig.quiet();
}

#[test]
fn a_full_memory_budget_closes_the_window_and_an_answer_opens_it_r96() {
    let mut plan = plan(Fanout::Sessions, 1);
    plan.memory_budget = 16384;
    plan.downstream.session.first_burst_length = 8192;
    let mut rig = Rig::new(plan);
    let mut writes = Vec::new();
    while !rig.cmd_sn.is_after(rig.max_cmd_sn) {
        let itt = rig.write(u32::try_from(writes.len()).unwrap() * 16, 16);
        writes.push((itt, rig.sent_command(0)));
    }
    assert_eq!(writes.len(), 16, "a window once opened never shrinks");
    for (n, (itt, command)) in writes.into_iter().enumerate() {
        rig.respond(0, &command, GOOD);
        let told = rig.told_status(itt, GOOD);
        let free = told.max_cmd_sn.plus(1).since(told.exp_cmd_sn);
        assert_eq!(free, u32::try_from((n + 1).saturating_sub(14)).unwrap(), "after {n}");
    }
}

#[test]
fn pings_and_refused_commands_do_not_use_up_the_window_r96() {
    let mut rig = Rig::sessions(1);
    for _ in 0..40 {
        assert!(!rig.cmd_sn.is_after(rig.max_cmd_sn));
        let (itt, cmd_sn) = (rig.tag(), rig.take_cmd_sn());
        rig.send(Pdu::NopOut(NopOut { itt, cmd_sn, ..NopOut::default() }));
        assert!(matches!(rig.told(), Pdu::NopIn(_)));
    }
    for _ in 0..40 {
        assert!(!rig.cmd_sn.is_after(rig.max_cmd_sn));
        rig.command(ScsiCommand { final_: false, ..read(0, 1) });
        rig.told_refusal();
    }
    assert_eq!(rig.max_cmd_sn.since(rig.cmd_sn), 15, "sixteen places");
}

#[test]
fn a_refused_request_counts_as_not_received_r105_r110() {
    let refuse = |rig: &mut Rig| {
        let itt = rig.tag();
        let cmd_sn = rig.take_cmd_sn();
        rig.send(Pdu::ScsiCommand(ScsiCommand { itt, cmd_sn, final_: false, ..read(0, 1) }));
        assert_eq!(rig.told_reject(), reject::PROTOCOL_ERROR);
        (itt, cmd_sn)
    };
    let later = |rig: &mut Rig| {
        let itt = rig.read(8, 1);
        rig.quiet();
        itt
    };
    // The initiator sends it again as it should be, or another request under its number.
    let mut rig = Rig::sessions(1);
    let (itt, cmd_sn) = refuse(&mut rig);
    later(&mut rig);
    rig.send(Pdu::ScsiCommand(ScsiCommand { itt, cmd_sn, ..read(0, 1) }));
    assert_eq!([rig.sent_command(0).cdb, rig.sent_command(0).cdb], [read(0, 1).cdb, read(8, 1).cdb]);
    // Or it gives it up.
    let mut rig = Rig::sessions(1);
    let (itt, cmd_sn) = refuse(&mut rig);
    later(&mut rig);
    let function = rig.abort(itt, cmd_sn);
    assert_eq!(rig.told_function(function), tmf::COMPLETE);
    assert_eq!(rig.sent_command(0).cdb, read(8, 1).cdb);
    // So it is with one that was broken on its way.
    let mut rig = Rig::sessions(1);
    let (itt, cmd_sn) = (rig.tag(), rig.take_cmd_sn());
    let command = Pdu::ScsiCommand(ScsiCommand { itt, cmd_sn, ..write(0, 1) });
    let (header, _) = command.encode();
    rig.handle(Event::DownstreamRejectable {
        line: SessionPlan::FIRST_LINE,
        header,
        reason: reject::DATA_DIGEST,
    });
    rig.told_reject();
    later(&mut rig);
    rig.send(command);
    assert_eq!([rig.sent_command(0).cdb, rig.sent_command(0).cdb], [write(0, 1).cdb, read(8, 1).cdb]);
}

/// Whatever makes room says so at once: an initiator that may send nothing would hear of nothing later (R98).
#[test]
fn room_is_told_of_by_what_makes_it() {
    let fill = |rig: &mut Rig| {
        let mut tags = Vec::new();
        while !rig.cmd_sn.is_after(rig.max_cmd_sn) {
            tags.push((
                rig.command(ScsiCommand { data: Payload::new(), ..write(0, 16) }),
                rig.cmd_sn.minus(1),
            ));
        }
        tags
    };
    let mut plan = plan(Fanout::Sessions, 1);
    plan.memory_budget = 8192;
    plan.downstream.session.first_burst_length = 8192;
    let mut rig = Rig::new(plan.clone());
    let tags = fill(&mut rig);
    for (itt, cmd_sn) in tags {
        let function = rig.abort(itt, cmd_sn);
        while !matches!(rig.told(), Pdu::TaskManagementResponse(response) if response.itt == function) {}
    }
    assert!(!rig.cmd_sn.is_after(rig.max_cmd_sn), "aborted one by one");
    let mut rig = Rig::new(plan);
    fill(&mut rig);
    let function = rig.unit_wide(tmf::ABORT_TASK_SET);
    let sent = rig.sent_function(0);
    rig.function_done(0, sent.itt, tmf::COMPLETE);
    // Data that was asked for is waited for no longer than that (R155).
    rig.pass(SECOND);
    while !matches!(rig.told(), Pdu::TaskManagementResponse(response) if response.itt == function) {}
    assert!(!rig.cmd_sn.is_after(rig.max_cmd_sn), "aborted together");
    // What takes a number and has no answer is refused.
    let cmd_sn = rig.take_cmd_sn();
    rig.send(Pdu::NopOut(NopOut { cmd_sn, ..NopOut::default() }));
    assert_eq!(rig.told_reject(), reject::INVALID_FIELD, "R226");
}

#[test]
fn what_cannot_be_sent_in_pieces_is_cut_to_the_initiators_segment_r127() {
    let mut rig = params(|d| d.connection.max_send_data_segment = 512, |_| {});
    let itt = rig.plain(&[0x35]);
    let command = rig.sent_command(0);
    let data = ScsiResponse::sense_data(&[0x70; 1000]);
    rig.respond_with(0, ScsiResponse { itt: command.itt, status: CHECK, data, ..ScsiResponse::default() });
    assert_eq!(rig.told_status(itt, CHECK).data.len(), 512);
    rig.reply(0, true, |stat_sn, exp_cmd_sn, max_cmd_sn| {
        let data = Payload::from(vec![0; 1000]);
        Pdu::AsyncMessage(AsyncMessage { stat_sn, exp_cmd_sn, max_cmd_sn, data, ..AsyncMessage::default() })
    });
    assert_eq!(rig.told().data().len(), 512);
}

#[test]
fn a_length_without_a_direction_is_not_passed_on_r131() {
    let mut rig = Rig::sessions(1);
    // VERIFY without data, and yet with an expected length: wrong, and no reason to wait for data for ever.
    let itt = rig.command(ScsiCommand { expected_length: 512, ..plain(&[0x2f, 0, 0, 0, 0, 0, 0, 0, 1]) });
    let command = rig.sent_command(0);
    assert_eq!(command.expected_length, 0);
    rig.respond(0, &command, GOOD);
    rig.told_status(itt, GOOD);
    rig.quiet();
}
