//! A link that can be cut: a TCP relay with one listening address and one address to forward to.
//!
//! Each way of cutting imitates one way in which networks fail: a reset is a host or a firewall that says so, a silent cut is
//! a cable pulled, half a cut is a route that works one way. The link may also be slow, long or lossy, from the start or from
//! any moment on ([`Cutter::set_options`]).

use bytes::{Bytes, BytesMut};
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

/// Bytes moved at a time.
const CHUNK: usize = 256 * 1024;
/// Chunks under way on a link with a delay.
const IN_FLIGHT: usize = 256;
/// Payload of a packet.
const PACKET: usize = 1448;
/// How long a lost packet holds up what is behind it: the shortest retransmission timeout of Linux.
const RETRANSMISSION: Duration = Duration::from_millis(200);
/// How far ahead of its rate a link may run, so that timers of a millisecond are fine enough.
const BURST: Duration = Duration::from_millis(4);

/// One way through the link.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Direction {
    /// From the initiator.
    ToTarget,
    /// From the target.
    ToInitiator,
}

/// What the link is like.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct LinkOptions {
    /// Bytes per second each way; unlimited without.
    pub rate: Option<u64>,
    /// Time each byte takes.
    pub delay: Duration,
    /// One packet in so many is lost, and holds up what is behind it until it is sent again; none without.
    pub loses_one_in: Option<u32>,
}

/// What passes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Mode {
    Open,
    Refused,
    Silent,
    Half(Direction),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct State {
    mode: Mode,
    /// Resets so far: a connection made before the last one is gone, however soon the link healed.
    resets: u64,
    /// Grows with every change.
    version: u64,
    options: LinkOptions,
}

impl State {
    fn passes(&self, direction: Direction) -> bool {
        match self.mode {
            Mode::Open => true,
            Mode::Refused | Mode::Silent => false,
            Mode::Half(cut) => cut != direction,
        }
    }
}

/// What the parts of a link share.
#[derive(Debug)]
struct Link {
    upstream: SocketAddr,
    lanes: [Lane; 2],
    connections: AtomicU64,
}

impl Link {
    const fn lane(&self, direction: Direction) -> &Lane {
        let [to_target, to_initiator] = &self.lanes;
        match direction {
            Direction::ToTarget => to_target,
            Direction::ToInitiator => to_initiator,
        }
    }
}

/// One direction of all connections of a link.
#[derive(Debug)]
struct Lane {
    bytes: AtomicU64,
    packets: AtomicU64,
    /// When all that was let through will have passed at the given rate.
    free: Mutex<Instant>,
}

impl Lane {
    fn new() -> Self {
        Self { bytes: AtomicU64::new(0), packets: AtomicU64::new(0), free: Mutex::new(Instant::now()) }
    }

    /// Waits until bytes may pass.
    async fn pass(&self, bytes: usize, options: LinkOptions) {
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        if let Some(rate) = options.rate {
            let nanos = (bytes as u64).saturating_mul(1_000_000_000) / rate.max(1);
            let until = {
                let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
                *free = (*free).max(Instant::now()) + Duration::from_nanos(nanos);
                *free
            };
            if let Some(at) = until.checked_sub(BURST).filter(|at| *at > Instant::now()) {
                tokio::time::sleep_until(at.into()).await;
            }
        }
        if options.loses_one_in.is_some_and(|one_in| self.loses(bytes, one_in)) {
            tokio::time::sleep(RETRANSMISSION).await;
        }
    }

    /// Whether one of the packets that carry these bytes is lost. It is every so many-th, not by chance.
    fn loses(&self, bytes: usize, one_in: u32) -> bool {
        let (packets, one_in) = (bytes.div_ceil(PACKET) as u64, u64::from(one_in.max(1)));
        let before = self.packets.fetch_add(packets, Ordering::Relaxed);
        before / one_in != (before + packets) / one_in
    }
}

/// A link that runs until dropped.
#[derive(Debug)]
pub struct Cutter {
    address: SocketAddr,
    link: Arc<Link>,
    state: watch::Sender<State>,
    /// The last version that the listener acted on.
    applied: watch::Receiver<u64>,
    _tasks: JoinSet<()>,
}

impl Cutter {
    /// Listens (port 0 takes any) and forwards every connection.
    ///
    /// # Errors
    /// The address cannot be listened on.
    pub async fn start(listen: SocketAddr, upstream: SocketAddr, options: LinkOptions) -> io::Result<Self> {
        let socket = bind(listen)?;
        let address = socket.local_addr()?.as_socket().ok_or_else(|| io::Error::other("no IP address"))?;
        let listener = to_listener(&socket)?;
        let (state, seen) = watch::channel(State { mode: Mode::Open, resets: 0, version: 0, options });
        let (report, applied) = watch::channel(0);
        let link =
            Arc::new(Link { upstream, lanes: [Lane::new(), Lane::new()], connections: AtomicU64::new(0) });
        let mut tasks = JoinSet::new();
        let work = Arc::clone(&link);
        tasks.spawn(async move {
            if let Err(error) = listen_and_relay(listener, address, &work, seen, &report).await {
                tracing::error!(%address, %error, "link gave up");
            }
        });
        Ok(Self { address, link, state, applied, _tasks: tasks })
    }

    /// Where the link listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Resets all connections at both ends and refuses new ones.
    pub async fn cut_reset(&self) {
        self.change(|state| {
            state.mode = Mode::Refused;
            state.resets += 1;
        })
        .await;
    }

    /// Swallows everything both ways; connections stay, new ones are never answered.
    pub async fn cut_silent(&self) {
        self.change(|state| state.mode = Mode::Silent).await;
    }

    /// Swallows one direction only.
    pub async fn cut_half(&self, direction: Direction) {
        self.change(|state| state.mode = Mode::Half(direction)).await;
    }

    /// Lets everything pass again, held-up bytes first.
    pub async fn heal(&self) {
        self.change(|state| state.mode = Mode::Open).await;
    }

    /// Makes the link another one from now on; what is under way passes as it would have.
    pub async fn set_options(&self, options: LinkOptions) {
        self.change(|state| state.options = options).await;
    }

    /// Bytes received for a direction so far.
    #[must_use]
    pub fn bytes(&self, direction: Direction) -> u64 {
        self.link.lane(direction).bytes.load(Ordering::Relaxed)
    }

    /// Connections forwarded so far.
    #[must_use]
    pub fn connections(&self) -> u64 {
        self.link.connections.load(Ordering::Relaxed)
    }

    /// Changes what passes, and waits until new connections see it.
    async fn change(&self, how: impl FnOnce(&mut State)) {
        let mut version = 0;
        self.state.send_modify(|state| {
            how(state);
            state.version += 1;
            version = state.version;
        });
        // An error means that the listener gave up, and said so.
        let mut applied = self.applied.clone();
        if applied.wait_for(|done| *done >= version).await.is_err() {
            tracing::error!(address = %self.address, "link does not listen any more");
        }
    }
}

fn bind(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

fn to_listener(socket: &Socket) -> io::Result<TcpListener> {
    socket.listen(128)?;
    TcpListener::from_std(socket.try_clone()?.into())
}

/// Accepts while the state allows. While connections are refused, the port stays taken by a socket that does not listen.
async fn listen_and_relay(
    first: TcpListener,
    address: SocketAddr,
    link: &Arc<Link>,
    mut state: watch::Receiver<State>,
    report: &watch::Sender<u64>,
) -> io::Result<()> {
    let mut relays = JoinSet::new();
    let mut listener = Some(first);
    loop {
        let now = *state.borrow_and_update();
        let mut closed = None;
        if now.mode == Mode::Refused {
            listener = None;
            closed = Some(bind(address)?);
        } else if listener.is_none() {
            listener = Some(to_listener(&bind(address)?)?);
        }
        report.send_replace(now.version);
        let accepts = now.mode != Mode::Silent;
        let more = loop {
            tokio::select! {
                changed = state.changed() => break changed.is_ok(),
                accepted = accept(listener.as_ref()), if accepts => {
                    relays.spawn(relay(accepted?, Arc::clone(link), state.clone(), now.resets));
                }
                Some(_) = relays.join_next() => {}
            }
        };
        drop(closed);
        if !more {
            return Ok(());
        }
    }
}

async fn accept(listener: Option<&TcpListener>) -> io::Result<TcpStream> {
    match listener {
        Some(listener) => listener.accept().await.map(|(stream, _)| stream),
        None => std::future::pending().await,
    }
}

/// Carries one connection until it ends or is reset.
async fn relay(near: TcpStream, link: Arc<Link>, mut state: watch::Receiver<State>, resets: u64) {
    let mut watcher = state.clone();
    let work = async {
        let far = TcpStream::connect(link.upstream).await?;
        link.connections.fetch_add(1, Ordering::Relaxed);
        near.set_nodelay(true)?;
        far.set_nodelay(true)?;
        let mut other = state.clone();
        let carried = {
            let there = carry(&near, &far, Direction::ToTarget, &link, &mut state);
            let back = carry(&far, &near, Direction::ToInitiator, &link, &mut other);
            let both = async { tokio::try_join!(there, back) };
            tokio::select! {
                ended = both => ended.map(|_| ()),
                _ = watcher.wait_for(|state| state.resets != resets) => Err(io::ErrorKind::ConnectionReset.into()),
            }
        };
        if carried.is_err() {
            SockRef::from(&far).set_linger(Some(Duration::ZERO))?;
        }
        carried
    };
    if work.await.is_err()
        && let Err(error) = SockRef::from(&near).set_linger(Some(Duration::ZERO))
    {
        tracing::debug!(%error, "link cannot reset a connection");
    }
}

/// Carries one direction until it ends, directly or, as long as the link is a long one, with bytes under way.
async fn carry(
    from: &TcpStream,
    to: &TcpStream,
    direction: Direction,
    link: &Link,
    state: &mut watch::Receiver<State>,
) -> io::Result<()> {
    let mut buffer = BytesMut::with_capacity(CHUNK);
    loop {
        let long = is_long(state);
        let way = Way { from, to, direction, lane: link.lane(direction) };
        let ended = if long {
            way.carry_with_delay(state, &mut buffer).await?
        } else {
            way.carry_directly(state, &mut buffer).await?
        };
        if ended {
            return SockRef::from(to).shutdown(std::net::Shutdown::Write);
        }
    }
}

fn is_long(state: &watch::Receiver<State>) -> bool {
    !state.borrow().options.delay.is_zero()
}

/// One direction of one connection.
#[derive(Clone, Copy)]
struct Way<'l> {
    from: &'l TcpStream,
    to: &'l TcpStream,
    direction: Direction,
    lane: &'l Lane,
}

/// What reading gave.
enum Got {
    Bytes(Bytes),
    End,
    /// The link has become a long one, or is one no longer.
    Changed,
}

impl Way<'_> {
    /// Returns whether the direction has ended; otherwise the link has become a long one.
    async fn carry_directly(
        self,
        state: &mut watch::Receiver<State>,
        buffer: &mut BytesMut,
    ) -> io::Result<bool> {
        let mut writer_state = state.clone();
        loop {
            match self.read(false, state, buffer).await? {
                Got::Bytes(chunk) => {
                    let options = state.borrow().options;
                    self.lane.pass(chunk.len(), options).await;
                    write(self.to, chunk, self.direction, &mut writer_state).await?;
                }
                Got::End => return Ok(true),
                Got::Changed => return Ok(false),
            }
        }
    }

    /// Returns whether the direction has ended; otherwise the link is a long one no longer, and nothing is under way.
    async fn carry_with_delay(
        self,
        state: &mut watch::Receiver<State>,
        buffer: &mut BytesMut,
    ) -> io::Result<bool> {
        let mut writer_state = state.clone();
        let (sender, mut receiver) = mpsc::channel::<(Instant, Bytes)>(IN_FLIGHT);
        let reader = async move {
            loop {
                let chunk = match self.read(true, state, buffer).await? {
                    Got::Bytes(chunk) => chunk,
                    Got::End => return Ok(true),
                    Got::Changed => return Ok(false),
                };
                let options = state.borrow().options;
                self.lane.pass(chunk.len(), options).await;
                if sender.send((Instant::now() + options.delay, chunk)).await.is_err() {
                    return Ok(true);
                }
            }
        };
        let writer = async {
            while let Some((due, chunk)) = receiver.recv().await {
                tokio::time::sleep_until(due.into()).await;
                write(self.to, chunk, self.direction, &mut writer_state).await?;
            }
            Ok::<_, io::Error>(())
        };
        tokio::try_join!(reader, writer).map(|(ended, ())| ended)
    }

    /// Some bytes, as long as the link stays long or does not; nothing is read while the direction is cut.
    async fn read(
        self,
        long: bool,
        state: &mut watch::Receiver<State>,
        buffer: &mut BytesMut,
    ) -> io::Result<Got> {
        loop {
            open(self.direction, state).await?;
            if is_long(state) != long {
                return Ok(Got::Changed);
            }
            tokio::select! {
                ready = self.from.readable() => ready?,
                _ = state.changed() => continue,
            }
            if !state.borrow().passes(self.direction) {
                continue;
            }
            buffer.reserve(CHUNK);
            match self.from.try_read_buf(buffer) {
                Ok(0) => return Ok(Got::End),
                Ok(_) => return Ok(Got::Bytes(buffer.split().freeze())),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// Waits until the direction passes.
async fn open(direction: Direction, state: &mut watch::Receiver<State>) -> io::Result<()> {
    let passes = state.wait_for(|state| state.passes(direction)).await;
    passes.map(|_| ()).map_err(|_| io::ErrorKind::ConnectionAborted.into())
}

/// Writes all of it; nothing is written while the direction is cut.
async fn write(
    to: &TcpStream,
    mut chunk: Bytes,
    direction: Direction,
    state: &mut watch::Receiver<State>,
) -> io::Result<()> {
    while !chunk.is_empty() {
        open(direction, state).await?;
        match to.try_write(&chunk) {
            Ok(written) => drop(chunk.split_to(written)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => to.writable().await?,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
