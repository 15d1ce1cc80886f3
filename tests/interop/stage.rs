//! A target, and perhaps Braid in front of it: what every test plays on.

use std::path::Path;

use crate::braid::Braid;
use crate::target::{Endpoint, Kind, Site, Target};

/// How the initiator reaches the target.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Via {
    /// Straight.
    Direct,
    /// Through Braid, over all portals, with this `--mode`.
    Braid(&'static str),
}

/// Everything started, in the order in which it has to end.
pub(crate) struct Stage {
    braid: Option<Braid>,
    target: Target,
}

impl Stage {
    /// A target with a disk of `size` bytes, and what is in front of it.
    pub(crate) fn new(kind: Kind, site: Site<'_>, via: Via, size: u64) -> Self {
        let target = Target::start(kind, site, size);
        let braid = match via {
            Via::Direct => None,
            Via::Braid(mode) => Some(Braid::before(&target, mode)),
        };
        Self { braid, target }
    }

    /// Where the initiator goes.
    pub(crate) fn endpoint(&self) -> &Endpoint {
        self.braid.as_ref().map_or_else(|| self.portal(0), Braid::endpoint)
    }

    /// Where an initiator that wants two portals goes: to two of the target's, or twice to Braid.
    pub(crate) fn second_endpoint(&self) -> &Endpoint {
        self.braid.as_ref().map_or_else(|| self.portal(1), Braid::endpoint)
    }

    /// A portal of the target itself.
    pub(crate) fn portal(&self, n: usize) -> &Endpoint {
        self.target.endpoints().get(n).expect("a portal of the target")
    }

    /// Braid; only on a stage that has it.
    pub(crate) fn braid(&self) -> &Braid {
        self.braid.as_ref().expect("this stage has Braid")
    }

    /// The target.
    pub(crate) fn target(&self) -> &Target {
        &self.target
    }

    /// The file behind the disk.
    pub(crate) fn disk(&self) -> &Path {
        self.target.disk()
    }

    /// The program of this stage that died, if one did.
    pub(crate) fn casualty(&mut self) -> Option<&'static str> {
        if !self.target.alive() {
            return Some("the target died");
        }
        self.braid.as_mut().is_some_and(|braid| !braid.alive()).then_some("Braid died")
    }
}
