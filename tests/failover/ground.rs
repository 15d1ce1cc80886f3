//! Links, a target behind them, Braid in front and a load on it.

use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use ::braid::lab::target::{Disk, Listen, RamTarget, TargetOptions};
use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use tokio::sync::oneshot;

use crate::braid::{Braid, Metrics};
use crate::net::{Net, PORT, Wire, enter};
use crate::steady::{Manners, Steady};
use crate::target::{self, Endpoint, Site, Target};
use crate::trouble::Trouble;
use crate::wait::poll;

/// Sparse. At full speed random writes fill gigabytes in a minute, so it is no larger than what may well be filled.
pub(crate) const DISK: u64 = 2 << 30;
const BLOCK: u32 = 512;
/// Backing off may take ten seconds, and reinstatement on istgt three.
const PATIENCE: Duration = Duration::from_secs(180);
/// What a path must have moved to count as carrying.
const SOME: f64 = 100_000.0;

/// Which target.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum Kind {
    /// tgt.
    Tgt,
    /// istgt.
    Istgt,
    /// LIO, in user-mode Linux.
    Lio,
    /// Braid's own RAM disk, in this process.
    Ram,
}

/// How the initiator's session is fanned out.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum Mode {
    /// Several sessions.
    Sessions,
    /// Several connections in one session.
    Mcs,
}

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Tgt => "tgt",
            Self::Istgt => "istgt",
            Self::Lio => "lio",
            Self::Ram => "ram",
        }
    }

    /// LIO does not survive several connections in a session for long.
    pub(crate) fn offers(self, mode: Mode) -> bool {
        (self, mode) != (Self::Lio, Mode::Mcs)
    }

    /// Whether it can be stopped and killed.
    pub(crate) fn is_process(self) -> bool {
        matches!(self, Self::Tgt | Self::Istgt)
    }
}

impl Mode {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Sessions => "sessions",
            Self::Mcs => "mcs",
        }
    }
}

/// What the load does.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Work {
    pub(crate) depth: usize,
    /// Of a hundred operations.
    pub(crate) reads: u8,
    /// Shortest and longest operation, in bytes.
    pub(crate) size: (u32, u32),
    /// Bytes of the disk that are used.
    pub(crate) region: u64,
}

/// One configuration.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub(crate) kind: Kind,
    pub(crate) mode: Mode,
    pub(crate) links: usize,
    pub(crate) work: Work,
}

impl Plan {
    /// The first cells of a row of a table.
    pub(crate) fn cells(&self) -> String {
        format!("| {} | {} | {} ", self.kind.name(), self.mode.name(), self.links)
    }

    /// Links as they should be.
    pub(crate) fn net(&self) -> Net {
        if self.kind == Kind::Lio { Net::to_guest(self.links, Wire::Packets) } else { Net::new(self.links) }
    }
}

/// The heads of [`Plan::cells`].
pub(crate) const HEADS: &str = "| target | mode | links ";

/// What serves the disk.
enum Server {
    Real(Box<Target>),
    Ram(Ram),
}

/// Everything, in the order in which it has to end.
pub(crate) struct Ground {
    load: Option<Steady>,
    braid: Braid,
    server: Server,
    net: Net,
}

/// What a load has met.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Harm {
    pub(crate) errors: u64,
    /// Wrong blocks.
    pub(crate) wrong: u64,
    /// Neither, and it ended as it should.
    pub(crate) well: bool,
}

impl Ground {
    /// Starts all of it over these links.
    pub(crate) fn new(plan: &Plan, net: Net) -> Self {
        let kind = match (plan.kind, plan.mode) {
            (Kind::Tgt, Mode::Sessions) => Some(target::Kind::Tgt),
            (Kind::Tgt, Mode::Mcs) => Some(target::Kind::TgtMcs),
            (Kind::Istgt, _) => Some(target::Kind::Istgt),
            (Kind::Lio, _) => Some(target::Kind::LioRam),
            (Kind::Ram, _) => None,
        };
        let server = match kind {
            Some(kind) => Server::Real(Box::new(Target::start(kind, Site::Behind(&net), DISK))),
            None => Server::Ram(Ram::start(&net)),
        };
        let portals = match &server {
            Server::Real(target) => target.endpoints(),
            Server::Ram(ram) => &ram.endpoints,
        };
        // A path that is lost often is used like any other, so that each cut hits commands.
        let braid = Braid::over(portals, plan.mode.name(), "marginal.losses = 0");
        let work = plan.work;
        let load = Some(Steady::start(
            braid.endpoint(),
            &Manners {
                name: "failover",
                depth: work.depth,
                reads: work.reads,
                flushes: 0,
                sizes: work.size,
                region: (0, work.region.min(DISK) / u64::from(BLOCK)),
                blank: true,
            },
        ));
        Self { load, braid, server, net }
    }

    pub(crate) fn load(&self) -> &Steady {
        self.load.as_ref().expect("it ends with the ground")
    }

    pub(crate) fn metrics(&self) -> Metrics {
        self.braid.metrics()
    }

    /// Memory of Braid's, in bytes.
    pub(crate) fn resident(&self) -> u64 {
        self.braid.resident()
    }

    pub(crate) fn begin(&mut self, trouble: Trouble) {
        match &mut self.server {
            Server::Real(target) => trouble.begin(&self.net, Some(target)),
            Server::Ram(_) => trouble.begin(&self.net, None),
        }
    }

    pub(crate) fn end(&mut self, trouble: Trouble) {
        match &mut self.server {
            Server::Real(target) => trouble.end(&self.net, Some(target)),
            Server::Ram(_) => trouble.end(&self.net, None),
        }
    }

    /// Waits for something, as long as the load goes on.
    pub(crate) fn until(&self, what: &str, mut good: impl FnMut() -> bool) -> Result<()> {
        let met = poll(PATIENCE, || (self.load().is_over() || good()).then(|| !self.load().is_over()));
        if met != Some(true) {
            let (state, log) = (self.metrics().show(), self.braid.log());
            bail!("in vain, waiting until {what}\n{:?}\n{state}\n{log}", self.load().progress().sample());
        }
        Ok(())
    }

    /// Waits until every path is up and each has moved something from now on.
    pub(crate) fn until_carrying(&self) -> Result<()> {
        let (before, paths) = (self.metrics(), self.braid.paths());
        self.until("every path carries", || {
            let now = self.metrics();
            paths
                .iter()
                .all(|path| now.connections(path) > 0.0 && now.bytes(path) > before.bytes(path) + SOME)
        })
    }

    /// Ends the load with a look at every block.
    pub(crate) fn finish(mut self) -> Result<Harm> {
        let load = self.load.take().context("a load")?;
        let progress = Arc::clone(load.progress());
        let ended = load.finish();
        let sample = progress.sample();
        let harm = Harm { errors: sample.errors, wrong: sample.wrong_blocks, well: ended.is_ok() };
        if let Err(why) = ended {
            eprintln!("{why}\n{}", self.braid.log());
        }
        Ok(harm)
    }
}

/// The lab's RAM disk, on a thread in the namespace of the target.
struct Ram {
    endpoints: Vec<Endpoint>,
    /// Dropped, the thread ends.
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Ram {
    fn start(net: &Net) -> Self {
        const NAME: &str = "iqn.2026-11.net.braid:ram";
        let mut options = TargetOptions::default();
        options.target.name = NAME.to_owned();
        options.target.limits.max_connections = 8;
        options.target.disks =
            vec![Disk { blocks: DISK / u64::from(BLOCK), block_size: BLOCK, serial: "FAILOVER".to_owned() }];
        let portals: Vec<String> =
            net.addresses().iter().map(|address| format!("{address}:{PORT}")).collect();
        let listen =
            |portal: &String| Listen { address: portal.parse().expect("portal"), tpgt: 1, advertise: None };
        options.listen = portals.iter().map(listen).collect();
        let endpoint =
            |portal| Endpoint { portal, iqn: NAME.to_owned(), lun: 0, netns: Some(net.near().to_owned()) };
        let endpoints = portals.into_iter().map(endpoint).collect();
        let far = net.far().map(str::to_owned);
        let (stop, stopped) = oneshot::channel();
        let (ready, serving) = sync_channel(1);
        let thread = thread::spawn(move || {
            enter(far.as_deref());
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
            runtime.block_on(async move {
                let _target = RamTarget::start(options).await.expect("RAM disk");
                ready.send(()).expect("its owner waits");
                drop(stopped.await);
            });
        });
        serving.recv().expect("the RAM disk serves");
        Self { endpoints, stop: Some(stop), thread: Some(thread) }
    }
}

impl Drop for Ram {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}
