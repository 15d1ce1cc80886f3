//! Links of 1 Gbit/s: the target in a network namespace of its own, veth pairs in between, tbf at both ends.

use crate::child::run;
use anyhow::{Context, Result};
use std::net::SocketAddr;

/// What the links are, in words.
pub(crate) const SHAPE: &str = "links of 1 Gbit/s each";

/// Two network namespaces with links between them; they go with it.
pub(crate) struct Links {
    /// Where the target lives.
    pub(crate) far: String,
    /// Where the initiator and the boxes in the middle live.
    pub(crate) near: String,
}

/// The target's portals, one per link.
pub(crate) fn portals(count: u8) -> impl Iterator<Item = SocketAddr> {
    (1..=count).map(|link| SocketAddr::from(([10, 99, link, 2], 3260)))
}

impl Links {
    /// Makes the namespaces and this many links; needs root.
    pub(crate) fn new(count: u8) -> Result<Self> {
        let id = std::process::id();
        let (far, near) = (format!("bench-far-{id}"), format!("bench-near-{id}"));
        run(&format!("ip netns add {far}")).context("--shaped needs root and network namespaces")?;
        let links = Self { far, near };
        run(&format!("ip netns add {}", links.near))?;
        for namespace in [&links.far, &links.near] {
            run(&format!("ip -n {namespace} link set lo up"))?;
        }
        for link in 1..=count {
            links.add(link)?;
        }
        Ok(links)
    }

    fn add(&self, link: u8) -> Result<()> {
        let Self { far, near } = self;
        run(&format!("ip -n {near} link add link{link} type veth peer name link{link} netns {far}"))?;
        for (namespace, host) in [(near, 1), (far, 2)] {
            run(&format!("ip -n {namespace} addr add 10.99.{link}.{host}/24 dev link{link}"))?;
            run(&format!("ip -n {namespace} link set link{link} up"))?;
            let shape = "root tbf rate 1gbit burst 128kb latency 10ms";
            run(&format!("tc -n {namespace} qdisc add dev link{link} {shape}"))?;
        }
        Ok(())
    }
}

impl Drop for Links {
    fn drop(&mut self) {
        for namespace in [&self.near, &self.far] {
            if let Err(error) = run(&format!("ip netns del {namespace}")) {
                eprintln!("{error}");
            }
        }
    }
}
