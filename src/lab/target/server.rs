//! Sockets around the target core: a listener per portal, a task per connection, one timer.
//!
//! The core stands behind one mutex, held while a batch of received PDUs is handled and never across a wait. What the core
//! wants done on a connection goes into that connection's mail, and its task is woken if it is not the one at work.

use super::core::{ConnId, Options, Output, PortalAddress, SessionInfo, Target};
use crate::iscsi::framer::Receiver;
use crate::iscsi::{FrameError, Pdu};
use crate::lab::netns::Namespace;
use crate::lab::wire::{Event, Wire};
use socket2::SockRef;
use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;

/// Bytes queued to an initiator above which its requests are not read.
const BACKLOG: usize = 8 << 20;
/// PDUs handled under one lock.
const BATCH: usize = 64;
/// Time for an initiator to close after the target did.
const LINGER: Duration = Duration::from_secs(2);

/// One portal.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Listen {
    /// Where to listen; port 0 takes any free one.
    pub address: SocketAddr,
    /// Portal group tag.
    pub tpgt: u16,
    /// `host:port` to tell in discovery, if not the listening address.
    pub advertise: Option<String>,
}

/// A target and where it listens.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct TargetOptions {
    /// Portals.
    pub listen: Vec<Listen>,
    /// The target; its list of portals is filled in from `listen`.
    pub target: Options,
}

impl TargetOptions {
    /// Portals on free ports of 127.0.0.1, all in portal group 1.
    #[must_use]
    pub fn loopback(portals: usize) -> Self {
        let listen = Listen { address: ([127, 0, 0, 1], 0).into(), tpgt: 1, advertise: None };
        Self { listen: vec![listen; portals], target: Options::default() }
    }
}

/// A running target; dropping it closes everything.
#[derive(Debug)]
pub struct RamTarget {
    shared: Arc<Shared>,
    addresses: Vec<SocketAddr>,
    /// Listeners and the timer.
    _tasks: JoinSet<()>,
}

impl RamTarget {
    /// Opens the portals and serves them.
    ///
    /// # Errors
    /// A portal cannot be opened, or the options contradict themselves.
    pub async fn start(options: TargetOptions) -> io::Result<Self> {
        let mut listeners = Vec::new();
        for listen in &options.listen {
            listeners.push(TcpListener::bind(listen.address).await?);
        }
        Self::serve(listeners, options)
    }

    /// The same in another network.
    ///
    /// # Errors
    /// As of [`RamTarget::start`].
    pub fn start_in(network: &Namespace, options: TargetOptions) -> io::Result<Self> {
        let bind = |listen: &Listen| {
            let socket = std::net::TcpListener::bind(listen.address)?;
            socket.set_nonblocking(true)?;
            Ok(socket)
        };
        let sockets =
            network.within(|| options.listen.iter().map(bind).collect::<io::Result<Vec<_>>>())??;
        let listeners = sockets.into_iter().map(TcpListener::from_std).collect::<io::Result<_>>()?;
        Self::serve(listeners, options)
    }

    fn serve(listeners: Vec<TcpListener>, options: TargetOptions) -> io::Result<Self> {
        let mut target = options.target;
        target.portals.clear();
        for (listen, listener) in options.listen.iter().zip(&listeners) {
            let address = listen
                .advertise
                .clone()
                .map_or_else(|| listener.local_addr().map(|address| address.to_string()), Ok)?;
            target.portals.push(PortalAddress { address, tpgt: listen.tpgt });
        }
        let most = target.max_sessions * usize::from(target.limits.max_connections.max(1)) + 16;
        let core = Target::new(target).map_err(io::Error::other)?;
        let state = State { core, mail: BTreeMap::new() };
        let stopped = watch::Sender::new(false);
        let shared = Arc::new(Shared { state: Mutex::new(state), timer: Notify::new(), stopped });
        let addresses = listeners.iter().map(TcpListener::local_addr).collect::<io::Result<_>>()?;
        let mut tasks = JoinSet::new();
        for (portal, listener) in listeners.into_iter().enumerate() {
            tasks.spawn(listen(listener, portal, Arc::clone(&shared), most));
        }
        tasks.spawn(keep_time(Arc::clone(&shared)));
        Ok(Self { shared, addresses, _tasks: tasks })
    }

    /// Where each portal listens.
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Time every command spends in the device, from now on.
    pub fn set_delay(&self, delay: Duration) {
        self.shared.lock().core.set_delay(delay);
    }

    /// Stops it, or lets it go on: like a process that is stopped it keeps its connections, and answers nothing.
    pub fn set_stopped(&self, stopped: bool) {
        self.shared.stopped.send_replace(stopped);
    }

    /// The sessions there are.
    #[must_use]
    pub fn sessions(&self) -> Vec<SessionInfo> {
        self.shared.lock().core.sessions()
    }

    /// Drops a connection from the target's side.
    pub fn kick(&self, conn: ConnId) {
        self.shared.with_core(None, |core| core.kick(conn, Instant::now()));
    }

    /// Blocks as they are on the medium of a unit; none if there is no such unit or range.
    #[must_use]
    pub fn read_medium(&self, unit: usize, lba: u64, blocks: u64) -> Option<Vec<u8>> {
        let mut state = self.shared.lock();
        let medium = state.core.medium(unit)?;
        let there = lba.checked_add(blocks).is_some_and(|end| end <= medium.blocks());
        there.then(|| medium.read(lba, blocks).contiguous().to_vec())
    }

    /// Test hook: spoils one block behind everybody's back.
    pub fn corrupt(&self, unit: usize, lba: u64) {
        if let Some(medium) = self.shared.lock().core.medium(unit) {
            medium.corrupt(lba);
        }
    }

    /// Test hook: the next `count` writes to a unit are answered but not done.
    pub fn lose_writes(&self, unit: usize, count: u32) {
        if let Some(medium) = self.shared.lock().core.medium(unit) {
            medium.lose_writes(count);
        }
    }
}

/// What all tasks share.
#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// The next deadline moved to an earlier time.
    timer: Notify,
    /// Nothing is done as long as this is so.
    stopped: watch::Sender<bool>,
}

#[derive(Debug)]
struct State {
    core: Target,
    mail: BTreeMap<ConnId, Mail>,
}

/// What is to be done on one connection.
#[derive(Debug, Default)]
struct Mail {
    outputs: Vec<Output>,
    bell: Arc<Notify>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Calls the core and distributes what it wants done; returns the mail of `own`, whose task is the caller.
    fn with_core(&self, own: Option<ConnId>, call: impl FnOnce(&mut Target)) -> Vec<Output> {
        let mut guard = self.lock();
        let state = &mut *guard;
        let before = state.core.next_deadline();
        call(&mut state.core);
        while let Some((conn, output)) = state.core.poll() {
            if let Some(mail) = state.mail.get_mut(&conn) {
                mail.outputs.push(output);
                if own != Some(conn) {
                    mail.bell.notify_one();
                }
            }
        }
        let after = state.core.next_deadline();
        if after.is_some() && (before.is_none() || after < before) {
            self.timer.notify_one();
        }
        let mail = own.and_then(|conn| state.mail.get_mut(&conn));
        mail.map(|mail| std::mem::take(&mut mail.outputs)).unwrap_or_default()
    }
}

/// Waits for as long as the target is stopped.
async fn going(stopped: &mut watch::Receiver<bool>) {
    if *stopped.borrow() {
        // Whoever holds the other end is gone together with this task.
        stopped.wait_for(|stopped| !stopped).await.ok();
    }
}

/// Calls the core at its deadlines.
async fn keep_time(shared: Arc<Shared>) {
    let mut stopped = shared.stopped.subscribe();
    loop {
        let deadline = shared.lock().core.next_deadline();
        match deadline {
            None => shared.timer.notified().await,
            Some(at) => tokio::select! {
                () = shared.timer.notified() => continue,
                () = tokio::time::sleep_until(at.into()) => {}
            },
        }
        going(&mut stopped).await;
        shared.with_core(None, |core| core.handle_timeout(Instant::now()));
    }
}

/// Accepts connections on one portal; its connections end with it.
async fn listen(listener: TcpListener, portal: usize, shared: Arc<Shared>, most: usize) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) if connections.len() < most => {
                    connections.spawn(connection(stream, portal, Arc::clone(&shared)));
                }
                Ok(_) => {}
                // Out of descriptors or the like: connections that end make room.
                Err(error) => {
                    tracing::warn!(%error, "lab target cannot accept");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn connection(stream: TcpStream, portal: usize, shared: Arc<Shared>) {
    let Ok(wire) = Wire::new(stream, Receiver::Target) else { return };
    let bell = Arc::new(Notify::new());
    let mut conn = ConnId::default();
    shared.with_core(None, |core| conn = core.accept(portal, Instant::now()));
    shared.lock().mail.insert(conn, Mail { outputs: Vec::new(), bell: Arc::clone(&bell) });
    let mut served = Served { wire, conn, shared, bell, full_feature: false };
    if let Err(error) = served.run().await {
        tracing::debug!(?conn, %error, "lab target connection ended");
    }
}

/// How a connection goes on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Course {
    On,
    Close,
    Reset,
}

/// Something from the initiator.
enum Inbound {
    Pdu(Pdu),
    Bad([u8; 48], u8),
}

struct Served {
    wire: Wire,
    conn: ConnId,
    shared: Arc<Shared>,
    bell: Arc<Notify>,
    full_feature: bool,
}

impl Drop for Served {
    fn drop(&mut self) {
        let conn = self.conn;
        self.shared.with_core(None, |core| core.closed(conn, Instant::now()));
        self.shared.lock().mail.remove(&conn);
    }
}

impl Served {
    async fn run(&mut self) -> io::Result<()> {
        let mut stopped = self.shared.stopped.subscribe();
        loop {
            let read = self.wire.backlog() < BACKLOG;
            let bell = Arc::clone(&self.bell);
            tokio::select! {
                biased;
                event = self.wire.event(read) => {
                    if event? == Event::Read(0) {
                        return Ok(());
                    }
                }
                () = bell.notified() => {}
            }
            going(&mut stopped).await;
            match self.turn()? {
                Course::On => {}
                Course::Close => return self.close().await,
                Course::Reset => return self.reset(),
            }
        }
    }

    /// Handles all that was received, and writes what the socket takes.
    fn turn(&mut self) -> io::Result<Course> {
        loop {
            let (batch, fatal) = self.batch();
            let whole = batch.len() < if self.full_feature { BATCH } else { 1 };
            let conn = self.conn;
            let outputs = self.shared.with_core(Some(conn), |core| {
                let now = Instant::now();
                for inbound in batch {
                    match inbound {
                        Inbound::Pdu(pdu) => core.handle(conn, pdu, now),
                        Inbound::Bad(header, reason) => core.handle_rejectable(conn, header, reason, now),
                    }
                }
            });
            for output in outputs {
                match output {
                    Output::Send(pdu) => self.wire.push(&pdu),
                    Output::FullFeature(params) => {
                        self.wire.set_params(&params);
                        self.full_feature = true;
                    }
                    Output::Close => return Ok(Course::Close),
                    Output::Reset => return Ok(Course::Reset),
                }
            }
            self.wire.try_flush()?;
            if let Some(error) = fatal {
                return Err(io::Error::other(error));
            }
            if whole {
                return Ok(Course::On);
            }
        }
    }

    /// Parsed PDUs, one at a time during login because the limits may change behind each.
    fn batch(&mut self) -> (Vec<Inbound>, Option<FrameError>) {
        let most = if self.full_feature { BATCH } else { 1 };
        let mut batch = Vec::new();
        while batch.len() < most {
            match self.wire.next_pdu() {
                Ok(Some(pdu)) => batch.push(Inbound::Pdu(pdu)),
                Ok(None) => break,
                Err(FrameError::Rejectable { header, reason, .. }) => {
                    batch.push(Inbound::Bad(header, reason))
                }
                Err(error @ FrameError::Fatal(_)) => return (batch, Some(error)),
            }
        }
        (batch, None)
    }

    /// Sends what is queued and closes this side first, as a logout asks (R214).
    async fn close(&mut self) -> io::Result<()> {
        let orderly = async {
            self.wire.flush().await?;
            SockRef::from(self.wire.stream()).shutdown(std::net::Shutdown::Write)?;
            self.wire.drain().await
        };
        tokio::time::timeout(LINGER, orderly).await.unwrap_or(Ok(()))
    }

    fn reset(&self) -> io::Result<()> {
        SockRef::from(self.wire.stream()).set_linger(Some(Duration::ZERO))
    }
}
