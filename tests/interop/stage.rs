//! A target, and perhaps Braid in front of it: what every test plays on.

use std::path::Path;

use crate::braid::{Braid, Manner};
use crate::target::{Endpoint, Kind, Site, Target};

/// How the initiator reaches the target.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Via {
    /// Straight.
    Direct,
    /// Through Braid, over all portals, with this `--mode`.
    Braid(&'static str),
    /// The same, with commands going to the paths in turn, and the second portal another listener of the same Braid.
    InTurn(&'static str),
    /// The first portal is such a Braid, the second the target's.
    Beside(&'static str),
    /// The other way round.
    Behind(&'static str),
    /// Each portal is such a Braid of its own.
    Twice(&'static str),
}

/// Everything started, in the order in which it has to end.
pub(crate) struct Stage {
    via: Via,
    braids: Vec<Braid>,
    target: Target,
}

impl Stage {
    /// A target with a disk of `size` bytes, and what is in front of it.
    pub(crate) fn new(kind: Kind, site: Site<'_>, via: Via, size: u64) -> Self {
        let target = Target::start(kind, site, size);
        let manners = match via {
            Via::Direct => Vec::new(),
            Via::Braid(mode) => vec![Manner { mode, in_turn: false }],
            Via::InTurn(mode) | Via::Beside(mode) | Via::Behind(mode) => {
                vec![Manner { mode, in_turn: true }]
            }
            Via::Twice(mode) => vec![Manner { mode, in_turn: true }; 2],
        };
        let braids = manners.into_iter().map(|manner| Braid::before(&target, manner)).collect();
        Self { via, braids, target }
    }

    /// Where the initiator goes.
    pub(crate) fn endpoint(&self) -> &Endpoint {
        match self.via {
            Via::Direct | Via::Behind(_) => self.portal(0),
            Via::Braid(_) | Via::InTurn(_) | Via::Beside(_) | Via::Twice(_) => self.braid().endpoint(),
        }
    }

    /// Where an initiator that wants two portals goes besides.
    pub(crate) fn second_endpoint(&self) -> &Endpoint {
        match self.via {
            Via::Direct | Via::Beside(_) => self.portal(1),
            Via::Braid(_) | Via::InTurn(_) => self.braid().second_endpoint(),
            Via::Behind(_) => self.braid().endpoint(),
            Via::Twice(_) => self.braids.last().expect("two").endpoint(),
        }
    }

    /// How the initiator reaches the target.
    pub(crate) fn via(&self) -> Via {
        self.via
    }

    /// How Braid must fan out here, as its metrics call it.
    pub(crate) fn fanout(&self) -> &'static str {
        let sessions = match self.via {
            Via::Direct => true,
            Via::Braid(mode)
            | Via::InTurn(mode)
            | Via::Beside(mode)
            | Via::Behind(mode)
            | Via::Twice(mode) => mode == "sessions",
        };
        if sessions || !self.target.kind().several_connections() { "sessions" } else { "mcs" }
    }

    /// A portal of the target itself.
    pub(crate) fn portal(&self, n: usize) -> &Endpoint {
        self.target.endpoints().get(n).expect("a portal of the target")
    }

    /// Braid; only on a stage that has it.
    pub(crate) fn braid(&self) -> &Braid {
        self.braids.first().expect("this stage has Braid")
    }

    /// All there are.
    pub(crate) fn braids(&self) -> &[Braid] {
        &self.braids
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
        self.braids.iter_mut().any(|braid| !braid.alive()).then_some("Braid died")
    }
}
