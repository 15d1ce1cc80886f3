//! The Linux kernel's own initiator in a guest ([`Machine`]), with open-iscsi and whatever else the host has installed: up to
//! two sessions, `A` and `B`, as two initiators with names of their own, each with a disk as `/dev/sdX` and `/dev/sgX`.
//!
//! In the guest's `/run`, where its scripts begin, `A` and `B` are the generic devices, `A.disk` and `B.disk` the block
//! devices.

use std::sync::Arc;
use std::time::Duration;

use crate::braid::Braid;
use crate::lio::Guest;
use crate::net::{GATE_ADDRESS, Net, Wire};
use crate::target::{Endpoint, Kind, Site, Target};
use crate::uml::Machine;
use crate::wait::{PATIENCE, poll};

/// Paths of Braid.
const PATHS: usize = 4;
const DISK: u64 = 64 << 20;

/// A guest with the kernel's initiator, and what is needed for targets that it reaches straight and through Braid.
pub(crate) struct Ground {
    kind: Kind,
    initiator: Machine,
    guest: Option<Arc<Guest>>,
    net: Net,
}

/// What scripts said with A straight at the target, and with A behind Braid.
pub(crate) struct Said {
    pub(crate) direct: String,
    pub(crate) through: String,
}

impl Ground {
    /// Boots the guest, and another one if the target needs it.
    pub(crate) fn new(kind: Kind) -> Self {
        crate::setup::tools();
        let net = if kind.in_guest() { Net::to_guest(PATHS, Wire::Tap) } else { Net::new(PATHS) };
        net.open_gate();
        let guest = kind.in_guest().then(|| Arc::new(Guest::boot(&net)));
        let initiator = Machine::initiator(net.near());
        Self { kind, initiator, guest, net }
    }

    /// Runs a script twice, each time on a fresh target: B is straight at the target, A first too, and then behind a Braid with
    /// four sessions.
    pub(crate) fn play(&self, limit: Duration, script: &str) -> Said {
        let direct = {
            let target = self.target();
            let [first, _, third, ..] = target.endpoints() else { panic!("a target has a portal per path") };
            self.log_in(third, first);
            self.initiator.run_for(limit, script)
        };
        let target = self.target();
        let braid = Braid::at(GATE_ADDRESS, &target);
        self.log_in(braid.endpoint(), target.endpoints().first().expect("a portal"));
        let up = || braid.paths().iter().all(|path| braid.metrics().connections(path) > 0.0);
        assert!(poll(PATIENCE, || up().then_some(())).is_some(), "paths are missing\n{}", braid.log());
        let through = self.initiator.run_for(limit, script);
        let end = braid.metrics();
        assert_eq!(end.fanout(), Some("sessions"), "{}", end.show());
        let carried = braid.paths().iter().all(|path| end.bytes(path) > 0.0);
        assert!(carried, "a path had no part\n{}", end.show());
        self.initiator.run(LOG_OUT);
        Said { direct, through }
    }

    fn target(&self) -> Target {
        let site = self.guest.as_ref().map_or(Site::Behind(&self.net), |guest| Site::In(guest, PATHS));
        Target::start(self.kind, site, DISK)
    }

    /// Logs both initiators in, anew.
    fn log_in(&self, a: &Endpoint, b: &Endpoint) {
        let logins = [("A", a), ("B", b)].map(|(name, to)| {
            let Endpoint { portal, iqn, lun, .. } = to;
            format!("log_in {name} {portal} {iqn} {lun}\n")
        });
        self.initiator.run(&[LOG_OUT, LOG_IN, &logins.concat()].concat());
    }
}

const LOG_OUT: &str =
    "iscsiadm -m node -u >/dev/null 2>&1 || true\niscsiadm -m node -o delete >/dev/null 2>&1 || true\n";
const LOG_IN: &str = "
log_in() {
    iscsiadm -m iface -I $1 -o new >/dev/null 2>&1 || true
    iscsiadm -m iface -I $1 -o update -n iface.initiatorname -v iqn.2026-11.net.braid:initiator-$1
    iscsiadm -m node -T $3 -p $2 -I $1 -o new
    iscsiadm -m node -T $3 -p $2 -I $1 -l
    session=$(dirname $(grep -lx $1 /sys/class/iscsi_session/*/ifacename))
    while ! unit=$(ls -d $session/device/target*/*:$4/block/sd* 2>/dev/null); do sleep 0.1; done
    ln -sfn /dev/$(basename $unit) $1.disk
    ln -sfn /dev/$(basename $session/device/target*/*:$4/scsi_generic/sg*) $1
}
";
