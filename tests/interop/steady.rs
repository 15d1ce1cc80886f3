//! A steady load that is judged block by block: the lab's verifying workload, on a thread inside the namespace, until it is
//! told to stop. Unlike [`crate::load`] it has overlapping operations under way at any time, and notes when each completed.

use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use braid::iscsi::Lun;
use braid::lab::initiator::{Initiator, InitiatorOptions};
use braid::lab::workload::{Limit, Progress, Report, Workload, WorkloadOptions};

use crate::net::enter;
use crate::target::Endpoint;

/// A stalled command is lost, not slow, after so long.
const STALL: Duration = Duration::from_secs(120);
/// Longer than anybody lets it run.
const FOREVER: Limit = Limit::Time(Duration::from_secs(1 << 30));

/// The running load.
pub(crate) struct Steady {
    progress: Arc<Progress>,
    thread: JoinHandle<Result<(), String>>,
}

/// What a load does.
#[derive(Clone, Debug)]
pub(crate) struct Manners {
    /// Last part of the initiator's name.
    pub(crate) name: &'static str,
    /// Operations under way.
    pub(crate) depth: usize,
    /// Of a hundred operations, how many read.
    pub(crate) reads: u8,
    /// Of a hundred operations, how many flush; the rest writes.
    pub(crate) flushes: u8,
    /// Shortest and longest operation, in bytes.
    pub(crate) sizes: (u32, u32),
    /// The part of the disk that is used, in blocks of 512 bytes: the first, and how many.
    pub(crate) region: (u64, u64),
    /// The disk is fresh: nothing need be written before it begins.
    pub(crate) blank: bool,
}

impl Steady {
    /// Logs in, writes everything once unless the disk is blank, and goes on at random.
    ///
    /// # Panics
    /// If it does not get so far.
    pub(crate) fn start(endpoint: &Endpoint, manners: &Manners) -> Self {
        let (ready, prepared) = sync_channel(1);
        let (endpoint, manners) = (endpoint.clone(), manners.clone());
        let thread = thread::spawn(move || {
            enter(endpoint.netns.as_deref());
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("runtime").block_on(work(&endpoint, &manners, &ready))
        });
        match prepared.recv() {
            Ok(progress) => Self { progress, thread },
            Err(_) => panic!("no load: {:?}", thread.join()),
        }
    }

    /// What it has done so far.
    pub(crate) fn progress(&self) -> &Arc<Progress> {
        &self.progress
    }

    /// Whether it ended by itself, which is not well.
    pub(crate) fn is_over(&self) -> bool {
        self.thread.is_finished()
    }

    /// Lets it end, reads all that was written and logs out.
    ///
    /// # Errors
    /// When anything went wrong since the start.
    pub(crate) fn finish(self) -> Result<(), String> {
        self.progress.stop();
        self.thread.join().map_err(|_| "the load panicked")?
    }
}

async fn work(
    endpoint: &Endpoint,
    manners: &Manners,
    ready: &SyncSender<Arc<Progress>>,
) -> Result<(), String> {
    let name = format!("iqn.2026-11.net.braid:{}", manners.name);
    let options = InitiatorOptions {
        name,
        lun: Lun::from_number(u16::from(endpoint.lun)),
        ..InitiatorOptions::new(&endpoint.portal, &endpoint.iqn)
    };
    let mut initiator = Initiator::connect(&options).await.map_err(|why| why.to_string())?;
    let options = WorkloadOptions {
        queue_depth: manners.depth,
        reads: manners.reads,
        flushes: manners.flushes,
        sizes: manners.sizes,
        region: Some(manners.region),
        blank: manners.blank,
        patience: STALL,
        ..WorkloadOptions::default()
    };
    let mut workload = Workload::new(options, &initiator).map_err(|why| why.to_string())?;
    if !manners.blank {
        clean("preparing", &workload.prepare(&mut initiator).await)?;
    }
    ready.send(workload.progress()).map_err(|_| "nobody waits for the load")?;
    clean("running", &workload.run(&mut initiator, FOREVER).await)?;
    workload.progress().resume();
    clean("verifying", &workload.verify(&mut initiator).await)?;
    initiator.logout().await.map_err(|why| why.to_string())
}

fn clean(doing: &str, report: &Report) -> Result<(), String> {
    if report.is_clean() { Ok(()) } else { Err(format!("{doing}: {report:?}")) }
}
