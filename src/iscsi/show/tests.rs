use super::*;
use crate::iscsi::text::KeyList;
use crate::iscsi::{Cid, Isid, Tsih};

#[test]
fn commands_and_data() {
    let command = Pdu::ScsiCommand(ScsiCommand {
        final_: true,
        read: true,
        itt: Itt(0x12),
        expected_length: 4096,
        cmd_sn: CmdSn(5),
        exp_stat_sn: StatSn(3),
        cdb: Cdb([0x28, 0, 0, 0, 1, 0, 0, 0, 8, 0].into_iter().collect()),
        ..ScsiCommand::default()
    });
    let line =
        "SCSI Command itt=0x12 lun=0 SIMPLE READ F cmdsn=5 expstatsn=3 len=4096 cdb=28000000010000000800";
    assert_eq!(command.to_string(), line);
    let data = Pdu::DataIn(DataIn {
        final_: true,
        has_status: true,
        underflow: true,
        residual: 512,
        itt: Itt(0x12),
        stat_sn: StatSn(3),
        data: Payload::from(vec![0; 3584]),
        ..DataIn::default()
    });
    let line = "Data-In itt=0x12 F status=0x00 underflow=512 statsn=3 expcmdsn=0 maxcmdsn=0 datasn=0 offset=0 data=3584";
    assert_eq!(data.to_string(), line);
    let without_status = Pdu::DataIn(DataIn { itt: Itt(1), ttt: Ttt(2), ..DataIn::default() });
    let line = "Data-In itt=0x1 ttt=0x2 lun=0 expcmdsn=0 maxcmdsn=0 datasn=0 offset=0";
    assert_eq!(without_status.to_string(), line, "StatSN means nothing without status");
}

#[test]
fn tasks_and_tags() {
    let abort = Pdu::TaskManagementRequest(TaskManagementRequest {
        immediate: true,
        function: tmf::ABORT_TASK,
        itt: Itt(2),
        referenced_itt: Itt(1),
        ..TaskManagementRequest::default()
    });
    let line = "TMF Request itt=0x2 lun=0 ABORT TASK function=1 reftask=0x1 I cmdsn=0 expstatsn=0 refcmdsn=0 expdatasn=0";
    assert_eq!(abort.to_string(), line);
    let ping = Pdu::NopIn(NopIn { ttt: Ttt(7), lun: Lun::from_number(3), ..NopIn::default() });
    assert_eq!(ping.to_string(), "NOP-In itt=- ttt=0x7 lun=3 statsn=0 expcmdsn=0 maxcmdsn=0");
}

fn login(text: Vec<u8>) -> String {
    Pdu::LoginRequest(LoginRequest {
        transit: true,
        next: Stage::Operational,
        isid: Isid([0x80, 0, 0, 0, 0, 1]),
        tsih: Tsih(0),
        cid: Cid(1),
        itt: Itt(1),
        data: Payload::from(text),
        ..LoginRequest::default()
    })
    .to_string()
}

#[test]
fn logins_show_names_and_hide_secrets() {
    let mut keys = KeyList::new();
    keys.push("InitiatorName", "iqn.a");
    keys.push("CHAP_N", "alice");
    keys.push("CHAP_R", "0xc0ffee");
    keys.push("CHAP_C", "0xbeef");
    keys.push("X-com.example.password", "hunter2");
    keys.push("X-com.example.other", "NotUnderstood");
    let line = login(keys.to_bytes());
    let head = "Login Request itt=0x1 security->operational isid=800000000001 tsih=0 cid=1 cmdsn=0 expstatsn=0 version=0..0";
    let length = keys.to_bytes().len();
    let text = "InitiatorName=iqn.a CHAP_N=<hidden> CHAP_R=<hidden> CHAP_C=<hidden>";
    let others = "X-com.example.password=<hidden> X-com.example.other=NotUnderstood";
    assert_eq!(line, format!("{head} data={length} {text} {others}"));
}

#[test]
fn a_piece_of_a_text_shows_no_piece_of_a_value() {
    // The first PDU ended in the middle of CHAP_R: nothing of this may be taken for a key or a value.
    assert!(login(b"c0ffee\0".to_vec()).ends_with(" data=7"));
    assert!(login(b"CHAP_R=c0ff".to_vec()).ends_with(" data=11"));
    assert!(login(b"c0ff=ee\0".to_vec()).ends_with(" data=8 <hidden>"));
}

#[test]
fn lines_stay_lines() {
    let line = login(b"InitiatorName=a\nERROR forged\x1b[2J\0Initiator\nAlias=\0".to_vec());
    assert!(!line.contains(['\n', '\x1b']), "{line}");
    let mut keys = KeyList::new();
    for _ in 0..1000 {
        keys.push("TargetAlias", "\u{7f}".repeat(5000));
    }
    assert!(login(keys.to_bytes()).len() < 1 << 20);
}
