//! The black box: what Wireshark makes of the headers that Braid has kept of a real initiator's session, on demand and after a
//! path was lost.

use std::fs;
use std::path::Path;
use std::time::Duration;

use crate::braid::Braid;
use crate::load::{Load, REGION};
use crate::net::{Cut, Net, PORT, loopback};
use crate::process::{command, run, temporary, words};
use crate::setup::tools;
use crate::target::{Kind, Site, Target};
use crate::wait::{HEAVY, PATIENCE, poll};

/// A stalled command is lost, not slow, after so long.
const STALL: Duration = Duration::from_secs(120);
/// So many commands of a path tell enough, and are there after so many rounds at the latest.
const SOME_COMMANDS: f64 = 40.0;
const ROUNDS: usize = 1000;
const COMMAND: u32 = 1;
const READ_10: Option<u32> = Some(0x28);
const WRITE_10: Option<u32> = Some(0x2a);

/// A request as tshark tells of it.
#[derive(Debug)]
struct Told {
    interface: String,
    opcode: u32,
    cmd_sn: u32,
    lun: Option<u32>,
    /// None of commands that every device has.
    cdb: Option<u32>,
}

/// The fields of each frame that fits, as tshark finds them.
fn fields(file: &Path, filter: &str, names: &[&str]) -> Vec<Vec<String>> {
    tools();
    let ports = format!("tcp.port=={PORT},iscsi");
    let mut line = words(&["tshark", "-n", "-r", &file.display().to_string(), "-d", &ports, "-Y", filter]);
    line.extend(words(&["-T", "fields", "-E", "separator=|", "-E", "occurrence=f"]));
    line.extend(names.iter().flat_map(|name| words(&["-e", name])));
    let told = run(command(None, &line), PATIENCE).expect_ok().stdout;
    told.lines().map(|line| line.split('|').map(str::to_owned).collect()).collect()
}

/// Some are told in hexadecimal.
fn number(text: &str) -> u32 {
    let number = match text.strip_prefix("0x") {
        Some(digits) => u32::from_str_radix(digits, 16),
        None => text.parse(),
    };
    number.unwrap_or_else(|why| panic!("{text:?}: {why}"))
}

/// The requests on one interface, in the order in which they went.
fn requests(file: &Path, interface: &str) -> Vec<Told> {
    let filter = format!("iscsi.cmdsn && frame.interface_name == \"{interface}\"");
    let names = ["frame.interface_name", "iscsi.opcode", "iscsi.cmdsn", "scsi.lun", "scsi_sbc.opcode"];
    let told = |fields: Vec<String>| {
        let [interface, opcode, cmd_sn, lun, cdb] = fields.try_into().expect("five fields");
        Told {
            interface,
            opcode: number(&opcode),
            cmd_sn: number(&cmd_sn),
            lun: (!lun.is_empty()).then(|| number(&lun)),
            cdb: (!cdb.is_empty()).then(|| number(&cdb)),
        }
    };
    fields(file, &filter, &names).into_iter().map(told).collect()
}

/// Every PDU is understood, and every segment follows the one before it.
fn is_sound(file: &Path) {
    let unsound = "_ws.malformed || tcp.analysis.lost_segment || tcp.analysis.retransmission || tcp.analysis.ack_lost_segment";
    let unsound = fields(file, unsound, &["frame.number", "_ws.col.info"]);
    assert_eq!(unsound, Vec::<Vec<String>>::new());
    let all = fields(file, "tcp.len > 0", &["frame.number"]).len();
    assert!(all > 50, "{all} frames");
    let headers = fields(file, "frame.cap_len > 80", &["frame.number"]).len();
    let understood = fields(file, "iscsi.opcode", &["frame.number"]).len();
    assert_eq!(understood, headers, "every frame with a header is a PDU");
}

/// What the load did is there: on its own connection and on this path.
fn tells_of_the_load(file: &Path, path: &str) {
    for interface in ["initiator", path] {
        let told = requests(file, interface);
        assert!(told.iter().all(|one| one.interface == interface), "{told:?}");
        // What is immediate has the number of what comes next.
        let steps = told.windows(2).map(|pair| match pair {
            [one, next] => next.cmd_sn.wrapping_sub(one.cmd_sn),
            _ => 0,
        });
        assert!(steps.max().is_some_and(|widest| widest == 1), "none is missing: {told:?}");
        let on_disk: Vec<_> = told
            .iter()
            .filter(|one| one.opcode == COMMAND && [READ_10, WRITE_10].contains(&one.cdb))
            .collect();
        assert!(on_disk.len() > 10 && on_disk.iter().all(|one| one.lun == Some(1)), "{told:?}");
    }
}

#[test]
fn wireshark_reads_what_was_kept() {
    let _place = HEAVY.enter();
    let net = Net::new(2);
    let target = Target::start(Kind::Tgt, Site::Behind(&net), REGION);
    let incidents = temporary();
    let settings = format!("policy = \"round-robin\"\n[black_box]\nincidents = {:?}", incidents.path());
    let braid = Braid::configured(&target, &loopback(), &settings);
    let [path, other] = braid.paths() else { panic!("two paths") };
    let mut load = Load::start(braid.endpoint());
    let until = |what: &str, met: &dyn Fn() -> bool| {
        assert!(
            poll(PATIENCE, || met().then_some(())).is_some(),
            "in vain, waiting for: {what}\n{}",
            braid.log()
        );
    };
    until("both paths", &|| [path, other].iter().all(|path| braid.metrics().connections(path) > 0.0));
    // A path is up before it is proved to lead to the same unit.
    let idle = || [path, other].iter().any(|path| braid.metrics().commands(path) < SOME_COMMANDS);
    for _ in 0..ROUNDS {
        load.round(STALL).unwrap_or_else(|why| panic!("{why}\n{}", braid.log()));
        if !idle() {
            break;
        }
    }
    assert!(!idle(), "a path carries nothing\n{}", braid.log());
    let file = braid.capture();
    is_sound(&file);
    tells_of_the_load(&file, path);
    tells_of_the_load(&file, other);
    let made = || {
        let entries = fs::read_dir(incidents.path()).expect("the directory of incidents");
        entries
            .map(|entry| entry.expect("entry").path())
            .find(|file| file.extension().is_some_and(|end| end == "pcapng"))
    };
    assert_eq!(made(), None, "nothing has happened yet");
    net.cut(0, Cut::Reset);
    until("a file about the lost path", &|| made().is_some());
    let file = made().expect("a file");
    assert!(file.display().to_string().contains(&path.replace(':', "_")), "{}", file.display());
    is_sound(&file);
    tells_of_the_load(&file, path);
    load.finish(target.disk()).unwrap_or_else(|why| panic!("{why}\n{}", braid.log()));
}
