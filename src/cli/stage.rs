//! What the demo and drills in the lab play on: a RAM-disk target with a portal per path, a link before each portal, and Braid
//! before the links, all in this process.
//!
//! Links are relays on loopback, or the kernel's: then the target is in a network of its own, and the process in another
//! ([`crate::lab::netns::isolate`]), so that nothing of the machine's is touched. Either way all of it ends with the process.

use super::screen::Share;
use super::wire::Wire;
use crate::admin;
use crate::config::draft::{Placed, Section, Value};
use crate::config::{Config, ConfigError, Place};
use crate::lab::cutter::{Cutter, LinkOptions};
use crate::lab::initiator::InitiatorOptions;
use crate::lab::links::{Link, Shape};
use crate::lab::netns::Namespace;
use crate::lab::target::{Listen, RamTarget, TargetOptions};
use crate::metrics::Metrics;
use crate::proxy::Proxy;
use crate::proxy::operator::Operator;
use anyhow::Context;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

/// How long Braid may take to end its sessions.
const PATIENCE: Duration = Duration::from_secs(5);

/// Where the target listens on links of the kernel's.
const PORT: u16 = 3260;

const LOOPBACK: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// What to set up.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Plan {
    /// Paths to the target.
    pub(super) paths: usize,
    /// Links are the kernel's.
    pub(super) real: bool,
    /// What each link is like.
    pub(super) link: LinkOptions,
    /// Time every command spends in the device.
    pub(super) device: Duration,
    /// Settings of Braid's for the target, in place of the usual ones here.
    pub(super) target: Section,
    /// Where those are written.
    pub(super) file: String,
}

impl Plan {
    /// Bytes per second of each link, each way: slow enough that links are what limits, so that they add up visibly.
    pub(super) const RATE: u64 = 40 << 20;

    /// Pings on links without delay can be quick.
    pub(super) const PING_INTERVAL: Duration = Duration::from_millis(250);
    pub(super) const PING_TIMEOUT: Duration = Duration::from_secs(1);

    /// So many links, and nothing unusual.
    pub(super) fn of(paths: usize) -> Self {
        Self {
            paths,
            real: false,
            link: LinkOptions { rate: Some(Self::RATE), ..LinkOptions::default() },
            device: Duration::ZERO,
            target: Section::new(Place::Flag(String::new())),
            file: String::new(),
        }
    }

    /// Braid's configuration for these portals.
    ///
    /// # Errors
    /// The settings for the target are wrong.
    pub(super) fn config(&self, target: &str, portals: &[SocketAddr]) -> Result<Config, ConfigError> {
        let here = Place::Flag("the lab".to_owned());
        let placed = |value| Placed { place: here.clone(), value };
        let text = |text: &str| Value::Text(text.to_owned());
        let table = |entries: &[(&str, Value)]| {
            let mut section = Section::new(here.clone());
            entries.iter().for_each(|(key, value)| section.set(key, "the lab", value.clone()));
            Value::Table(section)
        };
        let time = |time: Duration| Value::Text(humantime::format_duration(time).to_string());
        let reconnect = table(&[("first", text("200ms")), ("longest", text("1s"))]);
        let usual = [
            ("mode", text("sessions")),
            ("ping_interval", time(Self::PING_INTERVAL)),
            ("ping_timeout", time(Self::PING_TIMEOUT)),
            ("login_timeout", text("2s")),
            ("reconnect", reconnect),
        ];
        let path = |(number, portal): (usize, &SocketAddr)| {
            let entries = [("portal", text(&portal.to_string())), ("name", text(&Self::link(number)))];
            placed(table(&entries))
        };
        let mut settings = self.target.clone();
        for (key, value) in usual {
            if settings.get(key).is_none() {
                settings.set(key, "the lab", value);
            }
        }
        settings.set("name", "the lab", text(target));
        settings.set("paths", "the lab", Value::List(portals.iter().enumerate().map(path).collect()));
        let mut whole = Section::new(here.clone());
        whole.set("target", "the lab", Value::List(vec![placed(Value::Table(settings))]));
        let mut config = Config::from_section(whole, &self.file)?;
        config.listen = vec![LOOPBACK.into()];
        Ok(config)
    }

    /// The name of a link, and of the path over it.
    pub(super) fn link(index: usize) -> String {
        format!("link{}", index + 1)
    }
}

/// The target and the links to it, without Braid.
pub(super) struct Laid {
    name: String,
    links: Vec<(String, Wire)>,
    target: RamTarget,
}

impl Laid {
    pub(super) async fn new(plan: &Plan) -> anyhow::Result<Self> {
        let mut options = TargetOptions::loopback(plan.paths);
        options.target.delay = plan.device;
        let name = options.target.name.clone();
        let (target, wires) =
            if plan.real { kernel(plan, options).await? } else { relays(plan, options).await? };
        let name_of = |(index, wire)| (Plan::link(index), wire);
        Ok(Self { name, links: wires.into_iter().enumerate().map(name_of).collect(), target })
    }

    /// The link of this name.
    pub(super) fn link_named(&self, name: &str) -> Option<&Wire> {
        self.links.iter().find(|(own, _)| own == name).map(|(_, link)| link)
    }
}

async fn relays(plan: &Plan, options: TargetOptions) -> anyhow::Result<(RamTarget, Vec<Wire>)> {
    let target = RamTarget::start(options).await.context("cannot start the RAM disk")?;
    let mut wires = Vec::new();
    for portal in target.addresses() {
        let relay = Cutter::start(LOOPBACK, *portal, plan.link).await.context("cannot start a link")?;
        wires.push(Wire::Relay(relay, plan.link));
    }
    Ok((target, wires))
}

/// The process has been isolated before.
async fn kernel(plan: &Plan, mut options: TargetOptions) -> anyhow::Result<(RamTarget, Vec<Wire>)> {
    let (near, far) = (Arc::new(Namespace::own()?), Arc::new(Namespace::new()?));
    near.run(&["ip", "link", "set", "lo", "up"])?;
    let mut wires = Vec::new();
    for number in (0..u8::MAX).take(plan.paths) {
        let link = Link::between(Arc::clone(&near), Some(Arc::clone(&far)), number, PORT);
        link.lay().and_then(|()| link.switch_on()).context("cannot make a link")?;
        let usual = Shape { rate: plan.link.rate, delay: plan.link.delay, jitter: Duration::ZERO };
        let wire = Wire::Kernel(link, usual);
        if usual != Shape::default() {
            wire.as_usual().await?;
        }
        wires.push(wire);
    }
    let listen = |wire: &Wire| Listen { address: wire.portal(), tpgt: 1, advertise: None };
    options.listen = wires.iter().map(listen).collect();
    let target = RamTarget::start_in(&far, options).context("cannot start the RAM disk")?;
    Ok((target, wires))
}

/// All that runs.
pub(super) struct Stage {
    laid: Laid,
    metrics: Arc<Metrics>,
    proxy: Proxy,
    address: SocketAddr,
    admin: SocketAddr,
    _admin: JoinSet<std::io::Result<()>>,
}

impl Stage {
    pub(super) async fn set_up(plan: &Plan, laid: Laid) -> anyhow::Result<Self> {
        let portals: Vec<_> = laid.links.iter().map(|(_, link)| link.portal()).collect();
        let metrics = Arc::new(Metrics::new());
        let config = plan.config(&laid.name, &portals)?;
        let proxy = Proxy::start(Arc::new(config), Arc::clone(&metrics)).await?;
        let address = *proxy.addresses().first().context("Braid does not listen")?;
        let listener = TcpListener::bind(LOOPBACK).await.context("cannot serve metrics")?;
        let admin = listener.local_addr()?;
        let mut server = JoinSet::new();
        server.spawn(admin::serve(listener, proxy.operator(), std::future::pending()));
        Ok(Self { laid, metrics, proxy, address, admin, _admin: server })
    }

    pub(super) async fn tear_down(self) {
        self.proxy.stop(PATIENCE).await;
    }

    /// The target's name.
    pub(super) fn name(&self) -> &str {
        &self.laid.name
    }

    /// Where initiators find Braid.
    pub(super) const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where metrics and health are served.
    pub(super) const fn admin(&self) -> SocketAddr {
        self.admin
    }

    pub(super) fn initiator(&self) -> InitiatorOptions {
        InitiatorOptions::new(self.address.to_string(), &self.laid.name)
    }

    /// The target.
    pub(super) const fn target(&self) -> &RamTarget {
        &self.laid.target
    }

    /// Braid, as an operator has it.
    pub(super) fn operator(&self) -> Operator {
        self.proxy.operator()
    }

    pub(super) const fn paths(&self) -> usize {
        self.laid.links.len()
    }

    pub(super) fn link(&self, index: usize) -> &str {
        self.laid.links.get(index).map_or("", |(name, _)| name)
    }

    /// The link of this name.
    pub(super) fn link_named(&self, name: &str) -> Option<&Wire> {
        self.laid.link_named(name)
    }

    /// Commands moved off lost and suspect paths so far.
    pub(super) fn moved(&self) -> u64 {
        self.metrics.moved(&self.laid.name)
    }

    /// Payload carried by each path so far.
    pub(super) fn carried(&self) -> Vec<Share> {
        let carried = self.metrics.carried(&self.laid.name).into_iter();
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
