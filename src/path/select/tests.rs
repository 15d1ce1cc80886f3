use super::*;
use proptest::prelude::*;
use std::collections::BTreeSet;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

/// A path in virtual time: one server that works through its commands in order, behind a link with a delay.
#[derive(Clone)]
struct Link {
    bytes_per_second: u64,
    round_trip: u64,
    /// When the server is done with what it has, in nanoseconds.
    busy_until: u64,
}

fn link(megabytes_per_second: u64, round_trip_us: u64) -> Link {
    Link {
        bytes_per_second: megabytes_per_second * 1_000_000,
        round_trip: round_trip_us * 1000,
        busy_until: 0,
    }
}

/// A closed loop: a number of commands is always in flight.
struct Sim {
    links: Vec<Link>,
    loads: Vec<PathLoad>,
    selector: Selector,
    now: u64,
    /// Completion time, order, path, bytes, start.
    in_flight: BTreeSet<(u64, u64, usize, u64, u64)>,
    sent: u64,
}

impl Sim {
    fn new(links: &[Link]) -> Self {
        Self {
            links: links.to_vec(),
            loads: vec![PathLoad::new(1); links.len()],
            selector: Selector::new(Policy::ServiceTime),
            now: 0,
            in_flight: BTreeSet::new(),
            sent: 0,
        }
    }

    fn send(&mut self, bytes: u64) -> usize {
        let path = self.selector.choose(&self.loads, &vec![true; self.links.len()], bytes).unwrap();
        self.loads[path].started(bytes);
        let link = &mut self.links[path];
        let service = bytes * 1_000_000_000 / link.bytes_per_second;
        link.busy_until = link.busy_until.max(self.now) + service;
        self.in_flight.insert((link.busy_until + link.round_trip, self.sent, path, bytes, self.now));
        self.sent += 1;
        path
    }

    fn finish(&mut self) {
        let (at, _, path, bytes, started) = self.in_flight.pop_first().unwrap();
        self.now = at;
        self.loads[path].finished(bytes, Duration::from_nanos(at - started));
    }

    /// Runs `commands` commands of these sizes in turn; the bytes that each path took.
    fn run(&mut self, depth: usize, commands: usize, sizes: &[u64]) -> Vec<u64> {
        let mut taken = vec![0; self.links.len()];
        for index in 0..commands {
            while self.in_flight.len() >= depth {
                self.finish();
            }
            let bytes = sizes[index % sizes.len()];
            taken[self.send(bytes)] += bytes;
        }
        taken
    }

    /// As [`Sim::run`], in shares of all bytes.
    fn shares(&mut self, depth: usize, commands: usize, sizes: &[u64]) -> Vec<f64> {
        let taken = self.run(depth, commands, sizes);
        let all: u64 = taken.iter().sum();
        taken.iter().map(|bytes| *bytes as f64 / all as f64).collect()
    }
}

fn assert_about(found: f64, wanted: f64, tolerance: f64, what: &str) {
    assert!((found - wanted).abs() <= tolerance, "{what}: {found:.3}, not {wanted:.3}");
}

#[test]
fn a_path_that_is_back_is_given_its_share_by_every_policy() {
    let policies =
        [Policy::ServiceTime, Policy::QueueDepth, Policy::RoundRobin, Policy::Weighted, Policy::Failover];
    for policy in policies {
        let mut selector = Selector::new(policy);
        let mut loads = vec![PathLoad::new(1); 2];
        loads[0].share = 4;
        let mut chosen = |loads: &[PathLoad], usable: [bool; 2]| {
            (0..320).filter(|_| selector.choose(loads, &usable, KIB) == Some(0)).count()
        };
        assert!((19..=20).contains(&chosen(&loads, [true, true])), "{policy:?}: a sixteenth");
        assert_eq!(chosen(&loads, [true, false]), 320, "{policy:?}: the only one");
        assert!(chosen(&loads, [true, true]) <= 21, "{policy:?}: nothing was saved up");
        loads[1].share = 60;
        assert!(chosen(&loads, [true, true]) >= 160, "{policy:?}: both are new");
    }
}

#[test]
fn a_path_of_a_quarter_of_the_rate_gets_a_fifth_of_the_work() {
    for (depth, bytes) in [(16, 64 * KIB), (32, 64 * KIB), (8, MIB), (64, 16 * KIB)] {
        let mut sim = Sim::new(&[link(500, 100), link(125, 100)]);
        sim.run(depth, 500, &[bytes]);
        let shares = sim.shares(depth, 4000, &[bytes]);
        assert_about(shares[1], 0.2, 0.03, &format!("share at depth {depth} of {bytes}"));
    }
}

#[test]
fn equal_links_share_equally_also_when_one_command_per_path_is_in_flight() {
    for (depth, bytes) in [(4, MIB), (8, 64 * KIB), (32, 4 * KIB), (128, 512)] {
        let mut sim = Sim::new(&vec![link(125, 100); 4]);
        let shares = sim.shares(depth, 4000, &[bytes]);
        for share in shares {
            assert_about(share, 0.25, 0.03, &format!("share at depth {depth} of {bytes}"));
        }
    }
}

#[test]
fn four_links_give_nearly_four_times_the_throughput() {
    for (depth, sizes) in [(4, vec![MIB]), (4, vec![256 * KIB]), (16, vec![4 * KIB, MIB, 64 * KIB, 512])] {
        let time = |links| {
            let mut sim = Sim::new(&vec![link(125, 100); links]);
            sim.run(depth, 4000, &sizes);
            sim.now as f64
        };
        let factor = time(1) / time(4);
        assert!(factor > 3.6, "{factor:.2} at depth {depth} of {sizes:?}");
    }
}

#[test]
fn equal_paths_limited_by_their_round_trip_share_equally() {
    let mut sim = Sim::new(&vec![link(100_000, 1000); 4]);
    for share in sim.shares(16, 4000, &[4 * KIB]) {
        assert_about(share, 0.25, 0.03, "share");
    }
}

#[test]
fn a_long_round_trip_is_avoided_while_the_short_one_has_room() {
    let mut sim = Sim::new(&[link(1000, 2000), link(1000, 100)]);
    let shares = sim.shares(4, 2000, &[4 * KIB]);
    assert!(shares[1] > 0.95, "{shares:?}");
}

#[test]
fn small_and_large_commands_together_still_share_by_rate() {
    let mut sim = Sim::new(&[link(500, 100), link(125, 100)]);
    let sizes = [4 * KIB, 4 * KIB, MIB, 4 * KIB, 64 * KIB, 4 * KIB, 4 * KIB];
    sim.run(32, 700, &sizes);
    assert_about(sim.shares(32, 7000, &sizes)[1], 0.2, 0.05, "share of the slow path");
}

#[test]
fn a_path_that_became_slow_is_left_and_found_again_when_it_recovers() {
    let mut sim = Sim::new(&[link(500, 100), link(500, 100)]);
    sim.run(8, 500, &[64 * KIB]);
    sim.links[0].round_trip = 200_000_000;
    sim.run(8, 500, &[64 * KIB]);
    let shares = sim.shares(8, 2000, &[64 * KIB]);
    assert!(shares[0] < 0.05, "slow: {shares:?}");
    sim.links[0].round_trip = 100_000;
    sim.run(8, 20_000, &[64 * KIB]);
    let shares = sim.shares(8, 2000, &[64 * KIB]);
    assert_about(shares[0], 0.5, 0.05, "recovered");
}

#[test]
fn a_single_hiccup_does_not_shut_a_path_out() {
    let mut sim = Sim::new(&[link(500, 100), link(500, 100)]);
    sim.run(8, 500, &[64 * KIB]);
    sim.loads[0].started(4 * KIB);
    sim.loads[0].finished(4 * KIB, Duration::from_millis(200));
    sim.run(8, 4000, &[64 * KIB]);
    assert_about(sim.shares(8, 2000, &[64 * KIB])[0], 0.5, 0.05, "share");
}

#[test]
fn every_path_is_measured_at_the_start_even_one_command_at_a_time() {
    let mut sim = Sim::new(&[link(500, 100), link(500, 100), link(100, 100), link(500, 100)]);
    let taken = sim.run(1, 8, &[4 * KIB]);
    assert!(taken.iter().all(|bytes| *bytes > 0), "{taken:?}");
}

#[test]
fn a_path_that_answers_nothing_takes_its_share_of_the_depth_and_no_more() {
    let links = [link(500, 100), link(500, 100)];
    for measured in [false, true] {
        let mut sim = Sim::new(&links);
        if measured {
            sim.run(8, 500, &[64 * KIB]);
        }
        sim.links[0].round_trip = u64::MAX / 4;
        let before = sim.now;
        sim.run(16, 3000, &[64 * KIB]);
        let swallowed = sim.in_flight.iter().filter(|(at, ..)| *at > before + u64::MAX / 8).count();
        assert!(swallowed <= 10, "{swallowed} of 16, measured: {measured}");
    }
}

fn picks(policy: Policy, weights: &[u32], usable: &[bool], count: usize) -> Vec<usize> {
    let loads: Vec<_> = weights.iter().map(|weight| PathLoad::new(*weight)).collect();
    let mut selector = Selector::new(policy);
    (0..count).map(|_| selector.choose(&loads, usable, 4096).unwrap()).collect()
}

#[test]
fn round_robin_takes_turns_among_the_usable() {
    assert_eq!(picks(Policy::RoundRobin, &[1, 1, 1], &[true; 3], 7), [0, 1, 2, 0, 1, 2, 0]);
    assert_eq!(picks(Policy::RoundRobin, &[9, 1, 1], &[true, false, true], 4), [0, 2, 0, 2]);
}

#[test]
fn weighted_is_smooth_and_exact() {
    assert_eq!(picks(Policy::Weighted, &[5, 1, 1], &[true; 3], 7), [0, 0, 1, 0, 2, 0, 0]);
    assert_eq!(picks(Policy::Weighted, &[2, 1, 7], &[true, true, false], 6), [0, 1, 0, 0, 1, 0]);
}

#[test]
fn a_weighted_path_that_returns_gets_no_burst() {
    let loads = vec![PathLoad::new(1), PathLoad::new(1)];
    let mut selector = Selector::new(Policy::Weighted);
    for _ in 0..100 {
        assert_eq!(selector.choose(&loads, &[true, false], 0), Some(0));
    }
    let back: Vec<_> = (0..10).filter_map(|_| selector.choose(&loads, &[true, true], 0)).collect();
    assert_eq!(back.iter().filter(|path| **path == 1).count(), 5, "{back:?}");
}

#[test]
fn failover_stays_on_the_first_usable() {
    assert_eq!(picks(Policy::Failover, &[1, 1, 9], &[true; 3], 3), [0, 0, 0]);
    assert_eq!(picks(Policy::Failover, &[1, 1, 9], &[false, true, true], 3), [1, 1, 1]);
}

#[test]
fn queue_depth_evens_out_commands_per_weight() {
    let mut loads = vec![PathLoad::new(1), PathLoad::new(3), PathLoad::new(1)];
    let mut selector = Selector::new(Policy::QueueDepth);
    for _ in 0..50 {
        let path = selector.choose(&loads, &[true; 3], MIB).unwrap();
        loads[path].started(MIB);
    }
    assert_eq!(loads.iter().map(|load| load.commands).collect::<Vec<_>>(), [10, 30, 10]);
    loads[0].finished(MIB, Duration::from_secs(9));
    assert_eq!(selector.choose(&loads, &[true; 3], 0), Some(0));
    assert_eq!(picks(Policy::QueueDepth, &[1, 1, 1], &[true; 3], 4), [0, 1, 2, 0], "idle paths take turns");
}

#[test]
fn load_is_what_was_started_and_neither_finished_nor_forgotten() {
    let mut load = PathLoad::new(0);
    assert_eq!(load.weight, 1);
    load.started(10);
    load.started(20);
    load.started(30);
    load.finished(10, Duration::ZERO);
    load.forgotten(20);
    assert_eq!((load.commands, load.bytes), (1, 30));
    load.reset();
    load.forgotten(30);
    assert_eq!((load.commands, load.bytes), (0, 0), "a command of the old path");
}

proptest! {
    #[test]
    fn a_usable_path_is_chosen_if_there_is_one(
        policy in prop::sample::select(vec![
            Policy::ServiceTime, Policy::QueueDepth, Policy::RoundRobin, Policy::Weighted, Policy::Failover,
        ]),
        steps in prop::collection::vec((prop::collection::vec(any::<bool>(), 0..5), any::<u64>(), any::<u64>()), 0..40),
    ) {
        let mut selector = Selector::new(policy);
        let mut loads = Vec::new();
        for (usable, bytes, nanoseconds) in steps {
            loads.resize_with(usable.len(), || PathLoad::new(u32::MAX));
            let chosen = selector.choose(&loads, &usable, bytes);
            prop_assert_eq!(chosen.is_some(), usable.contains(&true));
            if let Some(path) = chosen {
                prop_assert!(usable[path]);
                loads[path].started(bytes);
                if nanoseconds % 2 == 0 {
                    loads[path].finished(bytes, Duration::from_nanos(nanoseconds));
                }
            }
        }
    }
}
