//! What the demo sets up: RAM-disk target, links, Braid.

use super::report::{Share, bytes};
use crate::admin;
use crate::config::Config;
use crate::lab::cutter::{Cutter, LinkOptions};
use crate::lab::initiator::InitiatorOptions;
use crate::lab::target::{RamTarget, TargetOptions};
use crate::metrics::Metrics;
use crate::proxy::Proxy;
use anyhow::Context;
use std::fmt::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

/// Bytes per second of each link, each way: slow enough that links are what limits, so that they add up visibly.
const RATE: u64 = 40 << 20;

/// How long Braid may take to end its sessions.
const PATIENCE: Duration = Duration::from_secs(5);

/// Pings on links without delay can be quick.
const PING_INTERVAL: Duration = Duration::from_millis(250);
const PING_TIMEOUT: Duration = Duration::from_secs(1);

const LOOPBACK: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// All that runs.
pub(super) struct Stage {
    name: String,
    links: Vec<(String, Cutter)>,
    metrics: Arc<Metrics>,
    proxy: Proxy,
    address: SocketAddr,
    admin: SocketAddr,
    _target: RamTarget,
    _admin: JoinSet<std::io::Result<()>>,
}

impl Stage {
    pub(super) async fn set_up(paths: usize) -> anyhow::Result<Self> {
        let options = TargetOptions::loopback(paths);
        let name = options.target.name.clone();
        let target = RamTarget::start(options).await.context("cannot start the RAM disk")?;
        let mut links = Vec::new();
        for (number, portal) in (1..).zip(target.addresses()) {
            let options = LinkOptions { rate: Some(RATE), ..LinkOptions::default() };
            let link = Cutter::start(LOOPBACK, *portal, options).await.context("cannot start a link")?;
            links.push((format!("link{number}"), link));
        }
        let metrics = Arc::new(Metrics::new());
        let proxy = Proxy::start(Arc::new(config(&name, &links)?), Arc::clone(&metrics)).await?;
        let address = *proxy.addresses().first().context("Braid does not listen")?;
        let listener = TcpListener::bind(LOOPBACK).await.context("cannot serve metrics")?;
        let admin = listener.local_addr()?;
        let mut server = JoinSet::new();
        server.spawn(admin::serve(listener, Arc::clone(&metrics), std::future::pending()));
        Ok(Self { name, links, metrics, proxy, address, admin, _target: target, _admin: server })
    }

    pub(super) async fn tear_down(self) {
        self.proxy.stop(PATIENCE).await;
    }

    pub(super) fn describe(&self, cut: usize) -> String {
        format!(
            "A RAM disk with {} portals, a link of {}/s to each, Braid on {}, one initiator connection.\n\
             A third of the way, {} goes silent as if unplugged; Braid is set to notice that after at most {} ms.",
            self.links.len(),
            bytes(RATE),
            self.address,
            self.link(cut),
            (PING_INTERVAL + PING_TIMEOUT).as_millis(),
        )
    }

    pub(super) fn how_to_connect(&self) -> String {
        let (name, address, admin) = (&self.name, self.address, self.admin);
        let quoted = name.replace(':', "%3A");
        format!(
            "Everything keeps running until Ctrl-C. Connect to it with one of\n\
             \n  iscsi-ls -s iscsi://{address}\
             \n  qemu-img info iscsi://{address}/{quoted}/0\
             \n  iscsiadm -m discovery -t sendtargets -p {address}\
             \n  iscsiadm -m node -T {name} -p {address} --login\
             \n\nand look at http://{admin}/metrics and http://{admin}/healthz"
        )
    }

    pub(super) fn initiator(&self) -> InitiatorOptions {
        InitiatorOptions::new(self.address.to_string(), &self.name)
    }

    pub(super) fn link(&self, index: usize) -> &str {
        self.links.get(index).map_or("", |(name, _)| name)
    }

    pub(super) async fn cut(&self, index: usize) {
        if let Some((_, link)) = self.links.get(index) {
            link.cut_silent().await;
        }
    }

    pub(super) async fn heal(&self, index: usize) {
        if let Some((_, link)) = self.links.get(index) {
            link.heal().await;
        }
    }

    /// Commands moved off lost and suspect paths so far.
    pub(super) fn moved(&self) -> u64 {
        self.metrics.moved(&self.name)
    }

    /// Payload carried by each path so far.
    pub(super) fn carried(&self) -> Vec<Share> {
        let carried = self.metrics.carried(&self.name).into_iter();
        carried.map(|own| Share { path: own.path, bytes: own.read + own.written }).collect()
    }

    pub(super) fn carried_by(&self, index: usize) -> u64 {
        self.carried().get(index).map_or(0, |share| share.bytes)
    }

    /// Whether a path has a connection.
    pub(super) fn is_up(&self, index: usize) -> bool {
        let health = self.metrics.health();
        health.iter().filter_map(|target| target.paths.get(index)).any(|(_, connections)| *connections > 0)
    }
}

/// As an operator would write it, with timing that suits links without delay.
fn config(target: &str, links: &[(String, Cutter)]) -> anyhow::Result<Config> {
    let mut paths = String::new();
    for (name, link) in links {
        writeln!(paths, "  {{ portal = \"{}\", name = \"{name}\" }},", link.address())?;
    }
    let text = format!(
        "[[target]]\nname = \"{target}\"\npaths = [\n{paths}]\nmode = \"sessions\"\n\
         ping_interval = \"{}ms\"\nping_timeout = \"{}ms\"\nlogin_timeout = \"2s\"\n\
         reconnect = {{ first = \"200ms\", longest = \"1s\" }}\n",
        PING_INTERVAL.as_millis(),
        PING_TIMEOUT.as_millis(),
    );
    let mut config = Config::from_toml(&text, "demo")?;
    config.listen = vec![LOOPBACK.into()];
    Ok(config)
}
