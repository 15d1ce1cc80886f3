//! Which processor cores the initiator, the box in the middle and the target run on.
//!
//! Left to the scheduler, a chain of processes that wake each other lands on one core or on several, and stays there. On a
//! virtual machine, waking another core costs ten times what the boxes cost: the same session then does 100,000 or 12,000
//! commands per second at depth 1, by luck, and no comparison means anything. So the placement is laid down per workload.

use crate::child::run;
use anyhow::{Context, Result};
use std::fs;

/// Where everything runs during a workload.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Placement {
    /// Initiator and middle box on a core each, the target on the others: as on machines of their own. Every hop pays for
    /// waking a core.
    Apart,
    /// All on one core: what the boxes themselves cost.
    Together,
    /// As the scheduler likes.
    Free,
}

/// The cores there are, and who is to be placed.
pub(crate) struct Placer {
    cores: Vec<u32>,
    target: u32,
    /// Middle boxes.
    boxes: Vec<u32>,
}

impl Placer {
    /// For these processes, and this one as the initiator.
    pub(crate) fn new(target: u32, boxes: Vec<u32>) -> Result<Self> {
        let status = fs::read_to_string("/proc/self/status")?;
        let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
        Ok(Self { cores: cores(list.context("no list of cores")?)?, target, boxes })
    }

    /// Whether there are cores enough to put everybody on one of their own.
    pub(crate) fn can_place(&self) -> bool {
        self.cores.len() >= 3
    }

    /// Moves everybody.
    pub(crate) fn place(&self, placement: Placement) -> Result<()> {
        let all = &self.cores[..];
        let (initiator, boxes, target) = match placement {
            Placement::Apart if self.can_place() => (&all[..1], &all[1..2], &all[2..]),
            Placement::Together => (&all[..1], &all[..1], &all[..1]),
            Placement::Apart | Placement::Free => (all, all, all),
        };
        pin(std::process::id(), initiator)?;
        self.boxes.iter().try_for_each(|process| pin(*process, boxes))?;
        pin(self.target, target)
    }
}

/// Confines all threads of a process.
fn pin(process: u32, cores: &[u32]) -> Result<()> {
    let list: Vec<String> = cores.iter().map(ToString::to_string).collect();
    run(&format!("taskset --all-tasks --pid --cpu-list {} {process}", list.join(",")))
}

/// A list such as `0-2,5`.
fn cores(list: &str) -> Result<Vec<u32>> {
    let mut cores = Vec::new();
    for part in list.trim().split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        cores.extend(first.parse::<u32>()?..=last.parse()?);
    }
    Ok(cores)
}
