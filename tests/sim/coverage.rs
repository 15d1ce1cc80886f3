//! How often each thing was met, over all seeds: a thing that never happens is not tested.

use std::collections::BTreeMap;
use std::fmt::Write as _;

/// What some seed must meet, besides the requirements.
const WANTED: &[&str] = &[
    "a link comes up",
    "access: another port group becomes active",
    "closed: by reset",
    "closed: in order",
    "command with NACA",
    "fault: all paths down",
    "fault: braid's host dies",
    "fault: braid's process dies",
    "fault: connections refused",
    "fault: flap",
    "fault: initiator reads nothing",
    "fault: initiator's connection is reset",
    "fault: medium error",
    "fault: paths clog one after the other",
    "fault: reset",
    "fault: silence both ways",
    "fault: silence towards braid",
    "fault: silence towards the target",
    "fault: slow drain",
    "fault: target closes in order",
    "fault: target loses power",
    "fault: one of two targets loses power",
    "sense: what is in the cache of a target that is gone cannot be flushed",
    "fault: all paths to one of two targets down",
    "fault: target restarts",
    "flush of a range",
    "flush to the end",
    "initiator logs out and in again",
    "fault: one of the initiator's connections is reset",
    "initiator logs one of its connections out",
    "lines: a command ended with its connection",
    "lines: a command that had not come is sent again over another connection",
    "lines: a connection joins",
    "lines: a connection is replaced",
    "lines: a lost connection is logged out over another",
    "lines: Braid asks what is acknowledged",
    "lines: Braid tells of a connection that is gone",
    "link: packet lost",
    "notice: access state changed",
    "notice: all paths down",
    "notice: commands asked again elsewhere",
    "notice: commands moved",
    "notice: commands given up",
    "notice: commands taken again",
    "notice: completed",
    "notice: fenced by an ordered command",
    "notice: fenced by reinstatement",
    "notice: fenced by time",
    "notice: gave up",
    "notice: late read answered elsewhere first",
    "notice: late read asked again",
    "notice: identity mismatch",
    "notice: identity proved",
    "notice: outcome unknown",
    "notice: path down",
    "notice: path marginal",
    "notice: path up",
    "notice: session recovered with its tasks",
    "notice: transition asked for",
    "notice: transition refused",
    "notice: unit attention absorbed",
    "notice: unit bound to home",
    "opened: a further session",
    "opened: home anew",
    "opened: joins home's session",
    "other initiator: changes a mode page",
    "other initiator: clears a task set",
    "other initiator: clears registrations",
    "other initiator: gives back its registration",
    "other initiator: holds a persistent reservation",
    "other initiator: preempts",
    "other initiator: preempts by key",
    "other initiator: registers",
    "other initiator: reserves a unit",
    "other initiator: resets a unit",
    "path: drained by the operator",
    "path: drained for the target",
    "path: drained since home is well again",
    "path: given back",
    "path: left in order",
    "path: lost",
    "path: marginal no more",
    "path: marginal while it works",
    "path: not connected",
    "path: suspect, no carrier",
    "path: suspect, nothing acknowledged",
    "path: suspect, sending again",
    "path: suspect, target silent",
    "path: trusted again",
    "persona: istgt",
    "persona: lab",
    "persona: lio",
    "persona: spdk",
    "persona: tgt",
    "persona: tgt-mcs",
    "persona: unknown",
    "recovery: Braid has the data no more",
    "recovery: a PDU of Braid lost to its data digest",
    "recovery: a PDU of Braid lost without a trace",
    "recovery: a PDU of the initiator comes spoilt",
    "recovery: a silent connection is given up",
    "recovery: a spoilt command is sent again",
    "recovery: an R2T lost and not missed",
    "recovery: write data lost without a trace",
    "recovery: asked for a sign of life",
    "recovery: answered before Braid was asked for data that it had no more",
    "recovery: data acknowledged",
    "recovery: leading login over a further path",
    "recovery: login refused",
    "recovery: no leading login",
    "recovery: predecessor is ended first",
    "recovery: tcp gives up",
    "recovery: what was there already came again",
    "sense: medium error",
    "sense: write data that never came",
    "sense: miscompare",
    "sense: not ready for the state of a port",
    "sense: outcome unknown",
    "sense: unit attention",
    "registrations shown",
    "session begins",
    "session ends in order",
    "status: reservation conflict",
    "status: busy while no path works",
    "status: busy after data that may be anything",
    "target asks for logout",
    "target: COMPARE AND WRITE did not match",
    "target: data before CHECK CONDITION",
    "target: HEAD OF QUEUE command executed before an older one",
    "target: NOP-In asked",
    "target: ORDERED command waited",
    "target: abort took a task out",
    "target: answer given again after a reassignment",
    "target: abort waited for the device",
    "target: command forgotten while clearing up",
    "target: command held by an ORDERED one",
    "target: command held until a CmdSN arrived",
    "target: connection dropped with notice",
    "target: connection joined a session",
    "target: connection removed for recovery",
    "target: all sessions ended by a reset",
    "target: function never answered",
    "target: function not supported",
    "target: join refused",
    "target: login replaced by a later one",
    "target: login waited for the device",
    "target: logout asked for",
    "target: logout with commands outstanding",
    "target: media error",
    "target: nothing ran because a CmdSN was missing",
    "target: overlapping command executed before an older write",
    "target: place of the window lost",
    "target: port groups change by themselves",
    "target: port groups changed on request",
    "target: port groups not changed on request",
    "target: power cut",
    "target: one of two heads lost power",
    "target: refused by an unavailable port",
    "target: refused during a transition",
    "target: refused in standby",
    "target: reservation conflict",
    "target: reset answered late",
    "target: reset closed other connections",
    "target: session closed because a NOP-In stayed unanswered",
    "target: session closed because it lost a connection",
    "target: session closed because write data stayed away",
    "target: session reinstated",
    "target: slow command",
    "target: status in Data-In",
    "target: target process restarted",
    "target: task dropped by a reinstatement",
    "target: task finished by a restart",
    "target: task reassigned",
    "target: task reassigned that waits for data",
    "target: task to abort not found",
    "target: unflushed write lost by a power cut",
    "target: unflushed write survived a power cut",
    "target: unit attention reported",
    "target: unit attention reported on arrival",
    "target: window opened by a NOP-In",
    "target: window shrunk to one",
    "target: write executed after its connection was lost",
    "target: write executed after its session was replaced",
    "task management: abort task",
    "task management: abort task set",
    "task management: clear task set",
    "task management: complete",
    "task management: logical unit reset",
    "task management: refused",
    "task management: target cold reset",
    "task management: target warm reset",
];

/// What the model target does to those who ignore how it was measured to behave: Braid never makes it happen.
const FORBIDDEN: &[&str] = &[
    "target: command executed before an earlier CmdSN",
    "target: connection closed because a CmdSN came late",
    "target: duplicate CmdSN",
    "target: immediate command rejected",
    "target: logout closed the connection it came on",
    "target: unit wedged by an ORDERED command",
];

/// Requirements that the checkers judge on what the engine sends, whenever there is occasion.
const JUDGED: &[usize] = &[
    3, 5, 8, 15, 21, 31, 32, 34, 35, 41, 42, 66, 75, 92, 93, 94, 95, 96, 97, 99, 100, 103, 106, 107, 108,
    111, 112, 115, 116, 118, 119, 120, 121, 122, 123, 124, 125, 126, 127, 128, 130, 131, 133, 134, 135, 136,
    138, 141, 142, 147, 148, 149, 151, 152, 154, 155, 166, 181, 187, 189, 191, 195, 210, 211, 213, 214, 216,
    218, 219, 224, 225, 226, 229,
];

/// Counts by name, and by requirement.
#[derive(Clone, Debug)]
pub(crate) struct Coverage {
    names: BTreeMap<&'static str, u64>,
    requirements: [u64; 246],
}

impl Default for Coverage {
    fn default() -> Self {
        Self { names: BTreeMap::new(), requirements: [0; 246] }
    }
}

impl Coverage {
    pub(crate) fn hit(&mut self, name: &'static str) {
        self.hits(name, 1);
    }

    pub(crate) fn hits(&mut self, name: &'static str, times: u64) {
        *self.names.entry(name).or_default() += times;
    }

    /// Adds what one seed met and how often each requirement was judged in it.
    pub(crate) fn merge(&mut self, other: &Self, judged: &[u64; 246]) {
        self.add(other);
        for (sum, times) in self.requirements.iter_mut().zip(judged) {
            *sum += times;
        }
    }

    pub(crate) fn add(&mut self, other: &Self) {
        for (name, times) in &other.names {
            self.hits(name, *times);
        }
        for (sum, times) in self.requirements.iter_mut().zip(&other.requirements) {
            *sum += times;
        }
    }

    fn times(&self, name: &str) -> u64 {
        self.names.get(name).copied().unwrap_or(0)
    }

    /// What had to happen and never did.
    pub(crate) fn missing(&self) -> Vec<String> {
        let names = WANTED.iter().filter(|name| self.times(name) == 0).map(|name| (*name).to_owned());
        let judged = JUDGED.iter().filter(|r| self.requirements[**r] == 0).map(|r| format!("R{r} judged"));
        names.chain(judged).collect()
    }

    /// What must not happen and did.
    pub(crate) fn forbidden(&self) -> Vec<&'static str> {
        FORBIDDEN.iter().copied().filter(|name| self.times(name) > 0).collect()
    }

    /// A table, one line each.
    pub(crate) fn table(&self) -> String {
        let mut text = String::new();
        for (name, times) in &self.names {
            writeln!(text, "{times:>12}  {name}").expect("a string takes what is written");
        }
        text.push_str("times judged, by requirement:");
        let judged = self.requirements.iter().enumerate().filter(|(_, times)| **times > 0);
        for (at, (requirement, times)) in judged.enumerate() {
            text.push_str(if at % 8 == 0 { "\n  " } else { "  " });
            write!(text, "R{requirement} {times}").expect("a string takes what is written");
        }
        text
    }
}
