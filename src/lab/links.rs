//! Links that packets go over by the kernel's means, and that break by them.
//!
//! A [`Link`] leads from a near namespace, the initiator's, to a portal of a target in a far one. Usually it is a veth pair.
//!
//! What vanishes must vanish behind the sender's back, as on a cable: a packet that a filter drops on its way *out* is an
//! error to the sender's TCP, which then neither counts it as sent nor as lost. So packets are dropped where they arrive.

use super::netns::Namespace;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

/// Bytes that a link with a rate lets through at once: a packet of the largest size that TCP makes, and more.
const BURST: u64 = 128 << 10;
/// Packets under way on a link with a delay: as many as any window holds.
const UNDER_WAY: u32 = 100_000;

/// How a link is broken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cut {
    /// Both ends are told at once: connections are ended by a TCP reset, and so is every attempt to make one.
    Reset,
    /// Nobody is told: packets vanish.
    Drop,
    /// Those to the initiator vanish.
    DropIn,
    /// Those to the target vanish.
    DropOut,
    /// Connections can be made, but what is said to the target vanishes; where the far end is a namespace.
    Mute,
    /// One in so many vanishes in each direction; where the far end is no namespace twice as many from it. None of none.
    Loss(u32),
}

impl Cut {
    /// What becomes of packets to the initiator, and of those to the target.
    fn verdicts(self, guest: bool) -> (String, String) {
        let (drop, pass) = (|| "drop".to_owned(), || "accept".to_owned());
        let some =
            |one_in: u32| format!("numgen random mod {} < {} drop", one_in.max(1), u8::from(one_in > 0));
        match self {
            // The resets themselves have to get through.
            Self::Reset => ("tcp flags & rst == 0 reject with tcp reset".to_owned(), pass()),
            Self::Drop => (drop(), drop()),
            Self::DropIn => (drop(), pass()),
            Self::DropOut => (pass(), drop()),
            Self::Mute => (pass(), "meta length > 80 drop".to_owned()),
            Self::Loss(one_in) if guest => (some(one_in.div_ceil(2)), pass()),
            Self::Loss(one_in) => (some(one_in), some(one_in)),
        }
    }

    /// Whether packets to the target vanish, all of them.
    #[must_use]
    pub fn is_deaf(self) -> bool {
        matches!(self, Self::Drop | Self::DropOut)
    }
}

/// What a link is like besides.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Shape {
    /// Bytes per second each way; unlimited without.
    pub rate: Option<u64>,
    /// Time that each packet takes.
    pub delay: Duration,
    /// By how much that is more or less.
    pub jitter: Duration,
}

impl Shape {
    /// The kernel's name for it, with what belongs to it.
    fn discipline(self) -> Vec<String> {
        let micros = |time: Duration| format!("{}us", time.as_micros());
        let rate = |rate: u64| format!("{rate}bps");
        let words = |list: &[&str]| list.iter().map(|&word| word.to_owned()).collect::<Vec<_>>();
        if self.delay.is_zero() {
            let limit = self.rate.map_or_else(String::new, rate);
            return words(&["tbf", "rate", &limit, "burst", &BURST.to_string(), "latency", "100ms"]);
        }
        let mut line = words(&["netem", "limit", &UNDER_WAY.to_string(), "delay", &micros(self.delay)]);
        if !self.jitter.is_zero() {
            line.push(micros(self.jitter));
        }
        line.extend(self.rate.into_iter().flat_map(|limit| ["rate".to_owned(), rate(limit)]));
        line
    }
}

/// A link.
#[derive(Clone, Debug)]
pub struct Link {
    near: Arc<Namespace>,
    /// None: what is there is a guest, which has no filter.
    far: Option<Arc<Namespace>>,
    number: u8,
    port: u16,
}

impl Link {
    /// The link of this number, to this port of the target. Nothing is made yet.
    #[must_use]
    pub const fn between(near: Arc<Namespace>, far: Option<Arc<Namespace>>, number: u8, port: u16) -> Self {
        Self { near, far, number, port }
    }

    /// Its device, which has the same name at both ends.
    #[must_use]
    pub fn device(&self) -> String {
        format!("p{}", self.number)
    }

    /// Where the target listens.
    #[must_use]
    pub fn portal(&self) -> SocketAddr {
        (self.address(2), self.port).into()
    }

    /// Lays it: a veth pair. It has no addresses yet.
    ///
    /// # Errors
    /// It is not allowed, or there is such a link.
    pub fn lay(&self) -> io::Result<()> {
        let Some(far) = &self.far else { return Err(io::Error::other("the far end is a guest's to make")) };
        let (device, path) = (&self.device(), &far.path());
        self.near
            .run(&["ip", "link", "add", device, "type", "veth", "peer", "name", device, "netns", path])
            .map(drop)
    }

    /// Gives its ends their addresses, and switches them on.
    ///
    /// # Errors
    /// It is not allowed.
    pub fn switch_on(&self) -> io::Result<()> {
        let device = &self.device();
        for (end, host) in [(Some(&self.near), 1), (self.far.as_ref(), 2)] {
            let Some(end) = end else { continue };
            end.run(&["ip", "addr", "add", &format!("{}/24", self.address(host)), "dev", device])?;
            end.run(&["ip", "link", "set", device, "up"])?;
        }
        Ok(())
    }

    /// Breaks it in the way that is said, until [`Link::heal`].
    ///
    /// # Errors
    /// It is not allowed, or it is broken already.
    pub fn cut(&self, how: Cut) -> io::Result<()> {
        let (target, port) = (self.address(2), self.port);
        let (inwards, outwards) = how.verdicts(self.far.is_none());
        let chain =
            |hook, rule: &str| format!("chain {hook} {{ type filter hook {hook} priority 0; {rule}; }};");
        let mut rules = chain("input", &format!("ip saddr {target} tcp sport {port} {inwards}"));
        let outgoing = |verdict: &str| format!("ip daddr {target} tcp dport {port} {verdict}");
        if how == Cut::Reset {
            rules += &chain("output", &outgoing(&inwards));
        }
        let table = |rules: &str| format!("table ip {} {{ {rules} }}", self.table());
        if let Some(far) = &self.far {
            far.run(&["nft", &table(&chain("input", &outgoing(&outwards)))])?;
        }
        let rules = table(&rules);
        if how == Cut::Reset {
            // Also to an end that is silent just now, and at once: until then it takes the link for a silent one.
            let script = format!("nft '{rules}' && ss -K dst {target} dport = :{port}");
            return self.near.run(&["sh", "-c", &script]).map(drop);
        }
        self.near.run(&["nft", &rules]).map(drop)
    }

    /// Ends the connections over it at the near end, by a reset that the other end hears of if it can.
    ///
    /// # Errors
    /// It is not allowed.
    pub fn abort(&self) -> io::Result<()> {
        let (target, port) = (self.address(2).to_string(), format!(":{}", self.port));
        self.near.run(&["ss", "-K", "dst", &target, "dport", "=", &port]).map(drop)
    }

    /// Mends what [`Link::cut`] broke, if anything was.
    ///
    /// # Errors
    /// It is not allowed.
    pub fn heal(&self) -> io::Result<()> {
        // What is not there cannot be deleted, and what is there may be added.
        let table = self.table();
        let rules = format!("add table ip {table}; delete table ip {table}");
        self.ends().try_for_each(|end| end.run(&["nft", &rules]).map(drop))
    }

    /// Switches the far end off: the near one loses its carrier.
    ///
    /// # Errors
    /// It is not allowed.
    pub fn unplug(&self) -> io::Result<()> {
        self.switch_far("down")
    }

    /// Switches it on again.
    ///
    /// # Errors
    /// It is not allowed.
    pub fn plug(&self) -> io::Result<()> {
        self.switch_far("up")
    }

    /// Makes it slow or long, both ways; with nothing to say it is as it was laid.
    ///
    /// # Errors
    /// The kernel cannot do it, or it was as it was laid already.
    pub fn shape(&self, shape: Shape) -> io::Result<()> {
        let device = self.device();
        let discipline = shape.discipline();
        let mut line = vec!["tc", "qdisc", "replace", "dev", &device, "root"];
        line.extend(discipline.iter().map(String::as_str));
        if shape == Shape::default() {
            line = vec!["tc", "qdisc", "del", "dev", &device, "root"];
        }
        self.ends().try_for_each(|end| end.run(&line).map(drop))
    }

    fn switch_far(&self, to: &str) -> io::Result<()> {
        let Some(far) = &self.far else { return Err(io::Error::other("the far end is a guest's")) };
        far.run(&["ip", "link", "set", &self.device(), to]).map(drop)
    }

    fn ends(&self) -> impl Iterator<Item = &Arc<Namespace>> {
        [Some(&self.near), self.far.as_ref()].into_iter().flatten()
    }

    const fn address(&self, host: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, self.number, 0, host)
    }

    fn table(&self) -> String {
        format!("cut{}", self.number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_link_is_like_is_said_in_the_words_of_tc() {
        let (rate, ms) = (Some(1 << 20), Duration::from_millis);
        let line =
            |rate, delay, jitter| Shape { rate, delay: ms(delay), jitter: ms(jitter) }.discipline().join(" ");
        assert_eq!(line(rate, 0, 0), "tbf rate 1048576bps burst 131072 latency 100ms");
        assert_eq!(line(None, 40, 0), "netem limit 100000 delay 40000us");
        assert_eq!(line(rate, 40, 10), "netem limit 100000 delay 40000us 10000us rate 1048576bps");
    }
}
