//! CHAP with real targets and initiators: ended by Braid (each side has secrets of its own) and relayed to the target, one-way
//! and mutual; wrong secrets are refused with the status that says so; and no secret stands in Braid's log at its most
//! talkative.
//!
//! What was learned:
//!
//! - tgt knows MD5 and means SHA-1 by 7, which is SHA-256's number: it takes 7 from a list, and answers the longer hash with
//!   02/00. Braid then tries MD5 alone.
//! - istgt knows MD5 only. LIO's accounts without access lists are those of the portal group (`auth/` of `tpgt_1`). Where it
//!   wants CHAP it closes on an initiator that offers none, without a status; Braid then says 03/01.
//! - libiscsi proves itself with MD5 (`user%secret@`), and checks the target's proof with `target_user` and
//!   `target_password`.

use std::fs;
use std::time::Duration;

use crate::braid::Braid;
use crate::net::{GATE_ADDRESS, Net, loopback};
use crate::process::{Done, command, run, temporary, words};
use crate::target::{DISK, Endpoint, HOST, Kind, Site, Target};
use crate::uml::Machine;
use crate::wait::{HEAVY, PATIENCE, poll};

const LIMIT: Duration = Duration::from_secs(60);
const SIZE: u64 = 16 << 20;

/// What Braid's own initiators have, and what it proves itself with to them.
const NEAR: (&str, &str) = ("near", "Of-the-near-1");
const OWN: (&str, &str) = ("own", "Of-braid-as-target-1");

const SECRETS: [(&str, &str); 4] = [HOST, DISK, NEAR, OWN];

/// Initiators prove themselves to Braid as `near`, and Braid to the target as `host`, each side mutual.
const TERMINATE: &str = "chap = { initiators = [{ name = \"near\", secret_file = \"@near\" }], \
     target = { name = \"own\", secret_file = \"@own\" } }\n\
     upstream_chap = { name = \"host\", secret_file = \"@host\", target = { name = \"disk\", secret_file = \"@disk\" } }";
/// To the target, which Braid knows nothing to say to.
const RELAY: &str = "chap = \"relay\"";
/// To the target, to which Braid proves itself on the other paths.
const RELAY_AND_OWN: &str = "chap = \"relay\"\nupstream_chap = { name = \"host\", secret_file = \"@host\" }";

/// The logical unit as a URL for libiscsi, with a secret and perhaps that of the target.
fn url(endpoint: &Endpoint, (name, secret): (&str, &str), target: Option<(&str, &str)>) -> String {
    let Endpoint { portal, iqn, lun, .. } = endpoint;
    let query = target
        .map_or(String::new(), |(name, secret)| format!("?target_user={name}&target_password={secret}"));
    format!("iscsi://{name}%{secret}@{portal}/{iqn}/{lun}{query}")
}

fn call(endpoint: &Endpoint, tool: &[&str], url: String) -> Done {
    run(command(endpoint.netns.as_deref(), &[words(tool), vec![url]].concat()), LIMIT)
}

/// A wrong proof, as libiscsi tells it.
const WRONG: &str = "Authentication failure(513)";

fn assert_refused(done: &Done, how: &str) {
    assert!(!done.ok() && done.show().contains(how), "{}", done.show());
}

/// All that libiscsi can do at this Braid, which carries its sessions over so many paths.
fn every_way(target: &Target, lines: &str, [user, disk]: [(&str, &str); 2], paths: usize) {
    let braid = Braid::guarded(target, &loopback(), lines, &SECRETS);
    let endpoint = braid.endpoint();
    for mutual in [None, Some(disk)] {
        call(endpoint, &["iscsi-inq"], url(endpoint, user, mutual)).expect_ok();
    }
    let read = ["iscsi-perf", "-m", "4", "-b", "8", "-t", "2"];
    call(endpoint, &read, url(endpoint, user, None)).expect_ok();
    let wrong = (user.0, "Of-somebody-else");
    assert_refused(&call(endpoint, &["iscsi-inq"], url(endpoint, wrong, None)), WRONG);
    let closes = target.kind() == Kind::Lio && lines != TERMINATE;
    let without = if closes { "Service unavailable(769)" } else { WRONG };
    assert_refused(&call(endpoint, &["iscsi-inq"], endpoint.url()), without);
    let nobody = ("nobody", user.1);
    assert_refused(&call(endpoint, &["iscsi-inq"], url(endpoint, nobody, None)), WRONG);
    let metrics = braid.metrics();
    let used = braid.paths().iter().filter(|path| metrics.bytes(path) > 0.0).count();
    assert_eq!(used, paths, "{lines}\n{}\n{}", metrics.show(), braid.log());
    let single = metrics.sum("braid_sessions_single_path_total", &[]);
    assert_eq!(single > 0.0, paths == 1, "{}", metrics.show());
    assert_no_secret(&braid);
}

fn assert_no_secret(braid: &Braid) {
    let log = braid.whole_log();
    assert!(log.contains("CHAP_R=<hidden>"), "it was to log everything\n{}", braid.log());
    for (_, secret) in SECRETS {
        assert!(!log.contains(secret), "a secret in the log");
    }
}

fn with_libiscsi(kind: Kind) {
    let _place = HEAVY.enter();
    let mut target = Target::start(kind, Site::Alone(2), SIZE);
    target.require_chap();
    every_way(&target, TERMINATE, [NEAR, OWN], 2);
    every_way(&target, RELAY, [HOST, DISK], 1);
    every_way(&target, RELAY_AND_OWN, [HOST, DISK], 2);
}

#[test]
fn libiscsi_tgt() {
    with_libiscsi(Kind::Tgt);
}

#[test]
fn libiscsi_istgt() {
    with_libiscsi(Kind::Istgt);
}

#[test]
fn libiscsi_lio() {
    with_libiscsi(Kind::Lio);
}

/// Braid's own questions, with the credentials of a configuration, and with a secret in a file.
#[test]
fn braids_own_questions() {
    let _place = HEAVY.enter();
    let mut target = Target::start(Kind::Tgt, Site::Alone(2), SIZE);
    target.require_chap();
    let Endpoint { portal, iqn, .. } = target.endpoints().first().expect("a portal");
    let dir = temporary();
    let file = |name: &str, text: &str| {
        let path = dir.path().join(name);
        fs::write(&path, text).expect("file");
        path.display().to_string()
    };
    let (secret, wrong) = (file("secret", HOST.1), file("wrong", "Of-somebody-else"));
    let account = format!("{{ name = {:?}, secret_file = {secret:?} }}", HOST.0);
    let table = format!("[[target]]\nname = {iqn:?}\npaths = [{portal:?}]\nupstream_chap = {account}\n");
    let config = file("braid.toml", &table);
    let ask =
        |line: &[&str]| run(command(None, &words(&[&[env!("CARGO_BIN_EXE_braid")], line].concat())), LIMIT);
    for (how, proves) in [
        (&["--config", &config][..], true),
        (&["--chap-name", HOST.0, "--chap-secret-file", &secret], true),
        (&["--chap-name", HOST.0, "--chap-secret-file", &wrong], false),
        (&[], false),
    ] {
        let probed = ask(&[&["probe", portal, iqn], how].concat());
        assert_eq!(probed.ok(), proves, "{how:?}\n{}", probed.show());
        assert!(proves || probed.stderr.contains("refused"), "{}", probed.show());
        assert!(!probed.show().contains(HOST.1), "{}", probed.show());
        // tgt tells everybody of its targets, and takes a proof that it did not ask for.
        let found = ask(&[&["discover", portal], how].concat()).expect_ok().stdout;
        assert!(found.contains(iqn), "{found}");
    }
}

/// The kernel's initiator, by each algorithm that it knows.
pub(crate) const LOG_IN: &str = "
set_key() { iscsiadm -m node -T $iqn -p $portal -o update -n node.session.auth.$1 -v \"$2\"; }
forget() { iscsiadm -m node -u >/dev/null 2>&1 || true; iscsiadm -m node -o delete >/dev/null 2>&1 || true; }
prepare() {
    forget
    iscsiadm -m node -T $iqn -p $portal,1 -o new >/dev/null
    iscsiadm -m node -T $iqn -p $portal -o update -n node.session.initial_login_retry_max -v 1
    [ -n \"$2\" ] || return 0
    set_key authmethod CHAP
    set_key chap_algs $1
    set_key username $2
    set_key password $3
    [ -n \"$4\" ] || return 0
    set_key username_in $4
    set_key password_in $5
}
works() {
    prepare \"$@\"
    iscsiadm -m node -T $iqn -p $portal -l >/dev/null
    session=$(ls -d /sys/class/iscsi_session/session* | tail -1)
    while ! unit=$(ls -d $session/device/target*/*:$lun/block/sd* 2>/dev/null); do sleep 0.1; done
    disk=/dev/$(basename $unit)
    head -c 1048576 /dev/urandom >there
    dd if=there of=$disk bs=64k oflag=direct 2>/dev/null
    dd if=$disk of=back bs=64k count=16 iflag=direct 2>/dev/null
    cmp there back
    forget
    echo works
}
fails() {
    prepare \"$@\"
    if iscsiadm -m node -T $iqn -p $portal -l >/dev/null 2>said; then echo 'logged in'; else cat said; fi
    forget
}
";

/// What the guest says of a login at `endpoint` that must work, and of one that must not.
fn kernel_logs_in(
    guest: &Machine,
    endpoint: &Endpoint,
    algorithms: &[&str],
    [(user, secret), (disk, answer)]: [(&str, &str); 2],
) {
    let Endpoint { portal, iqn, lun, .. } = endpoint;
    let begin = format!("{LOG_IN}iqn={iqn}\nportal={portal}\nlun={lun}\n");
    for algorithm in algorithms {
        for mutual in ["'' ''".to_owned(), format!("{disk} {answer}")] {
            let script = format!("{begin}works {algorithm} {user} {secret} {mutual}\n");
            assert_eq!(guest.run_for(LIMIT, &script).trim(), "works", "{algorithm} {mutual}");
        }
    }
    let algorithm = algorithms.first().expect("one");
    // The last word is whose: the target's refusal, or the initiator's own when the target does not prove itself.
    for (wrong, expected) in [
        (format!("fails {algorithm} {user} Of-somebody-else '' ''"), "authorization failure"),
        ("fails '' '' '' '' ''".to_owned(), "authorization failure"),
        (
            format!("fails {algorithm} {user} {secret} {disk} Of-somebody-else"),
            "non-retryable iSCSI login failure",
        ),
    ] {
        let said = guest.run_for(LIMIT, &format!("{begin}{wrong}\n"));
        assert!(said.contains(expected), "{wrong}: {said}");
    }
}

#[test]
fn the_kernels_initiator() {
    let _place = HEAVY.enter();
    crate::setup::tools();
    let net = Net::new(2);
    net.open_gate();
    let guest = Machine::initiator(net.near());
    let mut target = Target::start(Kind::Tgt, Site::Behind(&net), SIZE);
    target.require_chap();
    {
        let braid = Braid::guarded(&target, GATE_ADDRESS, TERMINATE, &SECRETS);
        let all = ["MD5", "SHA1", "SHA256", "SHA3-256", "SHA3-256,SHA256,SHA1,MD5"];
        kernel_logs_in(&guest, braid.endpoint(), &all, [NEAR, OWN]);
        assert_no_secret(&braid);
    }
    let braid = Braid::guarded(&target, GATE_ADDRESS, RELAY, &SECRETS);
    kernel_logs_in(&guest, braid.endpoint(), &["MD5"], [HOST, DISK]);
    let ended = || (braid.metrics().connections(&braid.paths()[0]) == 0.0).then_some(());
    assert!(poll(PATIENCE, ended).is_some(), "a session is left\n{}", braid.log());
    assert_no_secret(&braid);
}
