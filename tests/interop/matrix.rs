//! Every combination of digests, InitialR2T, ImmediateData and burst sizes with the kernel's initiator: what it asks for is in
//! force as far as Braid's own limits allow, and what it wrote comes back. The steps are in `matrix.sh`.
//!
//! What was learned: open-iscsi rounds lengths down to a multiple of four; tgt agrees to digests only if told to.

use std::time::Duration;

use crate::braid::Braid;
use crate::net::{GATE_ADDRESS, Net};
use crate::target::{Endpoint, Kind, Site, Target};
use crate::uml::Machine;
use crate::wait::HEAVY;

const STEPS: &str = include_str!("matrix.sh");
const LIMIT: Duration = Duration::from_secs(300);
const SIZE: u64 = 128 << 20;

/// How Braid and the target are set up for some of the combinations.
struct Half {
    /// What the target negotiates, but for its defaults.
    keys: &'static [(&'static str, &'static str)],
    /// Lines of its target's table.
    settings: &'static str,
    /// Its `first_burst`, `max_burst` and `max_recv_data_segment`.
    limits: [u32; 3],
    /// FirstBurstLength, MaxBurstLength and MaxRecvDataSegmentLength that the initiator asks for.
    asked: [[u32; 3]; 2],
    /// Bytes that each combination writes. Not a multiple of any length.
    written: usize,
}

const LONGEST: u32 = (1 << 24) - 1;

const HALVES: [Half; 2] = [
    Half {
        keys: &[],
        settings: "policy = \"round-robin\"",
        limits: [256 << 10, 1 << 20, 256 << 10],
        asked: [[512, 512, 512], [64 << 10, 256 << 10, 8 << 10]],
        written: (1 << 20) + 1536,
    },
    Half {
        keys: &[
            ("HeaderDigest", "CRC32C"),
            ("DataDigest", "CRC32C"),
            ("FirstBurstLength", "4096"),
            ("MaxBurstLength", "16384"),
            ("MaxRecvDataSegmentLength", "4096"),
        ],
        settings: "policy = \"round-robin\"\nheader_digest = \"crc32c\"\ndata_digest = \"crc32c\"\n\
             first_burst = 16777215\nmax_burst = 16777215\nmax_recv_data_segment = 16777215",
        limits: [LONGEST; 3],
        asked: [[512, LONGEST, 64 << 10], [LONGEST; 3]],
        written: (2 << 20) + 1536,
    },
];

impl Half {
    /// What the initiator asks for in one combination.
    fn cells(&self) -> Vec<([bool; 4], [u32; 3])> {
        let switches = (0..16_u8).map(|n| [1, 2, 4, 8].map(|bit| n & bit != 0));
        switches.flat_map(|switches| self.asked.map(|lengths| (switches, lengths))).collect()
    }

    /// What the guest must say of it.
    fn expected(&self, (switches, lengths): &([bool; 4], [u32; 3])) -> String {
        let [first, burst, segment] = lengths.map(|length| length & !3);
        let [first_limit, burst_limit, segment_limit] = self.limits;
        let [header, data, r2t, immediate] = switches.map(u8::from);
        format!(
            "{}: {header} {data} {r2t} {immediate} {} {} {segment} {segment_limit} same",
            asked(switches, lengths),
            first.min(first_limit),
            burst.min(burst_limit),
        )
    }

    fn play(&self, guest: &Machine, target: &Target) {
        target.set_keys(self.keys);
        let braid = Braid::configured(target, GATE_ADDRESS, self.settings);
        let Endpoint { portal, iqn, lun, .. } = braid.endpoint();
        let begin = format!("iqn={iqn}\nportal={portal}\nlun={lun}\nsize={}\n{STEPS}", self.written);
        let cells = self.cells();
        let tries = cells.iter().map(|(switches, lengths)| format!("try {}\n", asked(switches, lengths)));
        let said = guest.run_for(LIMIT, &tries.fold(begin, |script, line| script + &line));
        let expected: Vec<String> = cells.iter().map(|cell| self.expected(cell)).collect();
        let different: Vec<_> =
            expected.iter().zip(said.lines()).filter(|(one, other)| one != other).collect();
        assert!(different.is_empty(), "expected and found:\n{different:#?}\n{}", braid.log());
        assert_eq!(said.lines().count(), expected.len(), "{said}\n{}", braid.log());
        let end = braid.metrics();
        for path in braid.paths() {
            assert!(end.bytes(path) > 0.0, "{path}\n{}\n{}", end.show(), braid.log());
        }
        for (quirk, side) in [("markers", "initiator"), ("small_first_window", "target")] {
            let met = end.sum("braid_quirks_total", &[("quirk", quirk), ("side", side)]);
            assert!(met > 0.0, "{quirk}\n{}", end.show());
        }
        assert_eq!(end.sum("braid_digest_errors_total", &[]), 0.0, "{}", end.show());
        assert_eq!(end.losses(), 0.0, "{}\n{}", end.show(), braid.log());
    }
}

/// As the script takes it.
fn asked(switches: &[bool; 4], lengths: &[u32; 3]) -> String {
    let [header, data, r2t, immediate] = switches;
    let digest = |on: &bool| if *on { "CRC32C" } else { "None" };
    let word = |on: &bool| if *on { "Yes" } else { "No" };
    let [first, burst, segment] = lengths;
    let (header, data) = (digest(header), digest(data));
    format!("{header} {data} {} {} {first} {burst} {segment}", word(r2t), word(immediate))
}

#[test]
fn the_kernels_initiator_gets_what_it_asks_for() {
    let _place = HEAVY.enter();
    crate::setup::tools();
    let net = Net::new(2);
    net.open_gate();
    let guest = Machine::initiator(net.near());
    let target = Target::start(Kind::Tgt, Site::Behind(&net), SIZE);
    for half in &HALVES {
        half.play(&guest, &target);
    }
}
