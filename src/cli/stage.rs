//! What the demo and drills in the lab play on: a RAM-disk target with a portal per path, a link before each portal, and Braid
//! before the links, all in this process and on loopback.

use super::screen::Share;
use crate::admin;
use crate::config::draft::{Placed, Section, Value};
use crate::config::{Config, ConfigError, Place};
use crate::lab::cutter::{Cutter, LinkOptions};
use crate::lab::initiator::InitiatorOptions;
use crate::lab::target::{RamTarget, TargetOptions};
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

const LOOPBACK: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// What to set up.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Plan {
    /// Paths to the target.
    pub(super) paths: usize,
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

/// All that runs.
pub(super) struct Stage {
    name: String,
    links: Vec<(String, Cutter)>,
    metrics: Arc<Metrics>,
    proxy: Proxy,
    address: SocketAddr,
    admin: SocketAddr,
    target: RamTarget,
    _admin: JoinSet<std::io::Result<()>>,
}

impl Stage {
    pub(super) async fn set_up(plan: &Plan) -> anyhow::Result<Self> {
        let mut options = TargetOptions::loopback(plan.paths);
        options.target.delay = plan.device;
        let name = options.target.name.clone();
        let target = RamTarget::start(options).await.context("cannot start the RAM disk")?;
        let mut links = Vec::new();
        for (index, portal) in target.addresses().iter().enumerate() {
            let link = Cutter::start(LOOPBACK, *portal, plan.link).await.context("cannot start a link")?;
            links.push((Plan::link(index), link));
        }
        let portals: Vec<_> = links.iter().map(|(_, link)| link.address()).collect();
        let metrics = Arc::new(Metrics::new());
        let config = plan.config(&name, &portals)?;
        let proxy = Proxy::start(Arc::new(config), Arc::clone(&metrics)).await?;
        let address = *proxy.addresses().first().context("Braid does not listen")?;
        let listener = TcpListener::bind(LOOPBACK).await.context("cannot serve metrics")?;
        let admin = listener.local_addr()?;
        let mut server = JoinSet::new();
        server.spawn(admin::serve(listener, proxy.operator(), std::future::pending()));
        Ok(Self { name, links, metrics, proxy, address, admin, target, _admin: server })
    }

    pub(super) async fn tear_down(self) {
        self.proxy.stop(PATIENCE).await;
    }

    /// The target's name.
    pub(super) fn name(&self) -> &str {
        &self.name
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
        InitiatorOptions::new(self.address.to_string(), &self.name)
    }

    /// The target.
    pub(super) const fn target(&self) -> &RamTarget {
        &self.target
    }

    /// Braid, as an operator has it.
    pub(super) fn operator(&self) -> Operator {
        self.proxy.operator()
    }

    pub(super) const fn paths(&self) -> usize {
        self.links.len()
    }

    pub(super) fn link(&self, index: usize) -> &str {
        self.links.get(index).map_or("", |(name, _)| name)
    }

    /// The link of this name.
    pub(super) fn link_named(&self, name: &str) -> Option<&Cutter> {
        self.links.iter().find(|(own, _)| own == name).map(|(_, link)| link)
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
