//! One iSCSI connection: a TCP socket with a [`Framer`] for what comes in and a [`SendQueue`] for what goes out.
//!
//! # Two ways to use it
//! - The data path is poll-style: [`Conn::poll_fill`] reads once, [`Conn::next_pdu`] hands out what has arrived,
//!   [`Conn::queue`] encodes, [`Conn::flush`] writes what the socket takes now, and [`Conn::poll_drain`] waits for the
//!   rest. No task, channel or lock stands between the socket and the engine.
//! - Logins and discovery are conversations: [`Conn::recv`] and [`Conn::send`].
//!
//! # Bounds
//! One call of `poll_fill` makes at most one read into the framer's buffer. A flush makes as many writes as the socket
//! takes; what it does not take waits, and the owner decides by [`Conn::queued`] when to stop producing.

use super::kernel;
use super::tape::{BlackBox, Label, Recording, Tape, Way};
use crate::iscsi::framer::{Framer, FramerLimits, Receiver};
use crate::iscsi::{FrameError, Pdu, SendQueue};
use crate::login::ConnectionParams;
use crate::session::Sample;
use std::future::Future;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt as _, AsyncWrite as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// Slices handed to one vectored write.
const MAX_SLICES: usize = 32;

/// How long a closing connection may take to send its last bytes, and then for the peer to close.
const LINGER: Duration = Duration::from_secs(1);

/// Bytes read and dropped from a peer that is being sent away, so that closing does not turn into a reset that would
/// destroy the last answer on its way.
const LINGER_BYTES: usize = 256 * 1024;

/// Why a connection is of no use any more.
#[derive(Debug, thiserror::Error)]
pub enum ConnError {
    /// The peer closed it.
    #[error("closed by the peer")]
    Closed,
    /// The socket failed.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// What the peer sent cannot be read.
    #[error("{0}")]
    Frame(#[from] FrameError),
}

/// The ends of a connection that somebody else has taken and made again to here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ends {
    /// Who made it.
    pub peer: SocketAddr,
    /// Whom it reached.
    pub reached: SocketAddr,
}

/// A connection in either role.
#[derive(Debug)]
pub struct Conn {
    stream: TcpStream,
    told: Option<Ends>,
    framer: Framer,
    out: SendQueue,
    tape: Option<Tape>,
}

impl Conn {
    /// What the kernel knows of it; none if it does not tell.
    #[must_use]
    pub fn sample(&self) -> Option<Sample> {
        kernel::sample(&self.stream).ok()
    }

    /// Takes a connected socket over, in the login phase.
    #[must_use]
    pub fn new(stream: TcpStream, receiver: Receiver) -> Self {
        Self { stream, told: None, framer: Framer::new(receiver), out: SendQueue::new(), tape: None }
    }

    /// The same where these bytes have been read already, and somebody has told whose it is.
    #[must_use]
    pub fn resumed(stream: TcpStream, receiver: Receiver, read: &[u8], told: Option<Ends>) -> Self {
        let mut conn = Self { told, ..Self::new(stream, receiver) };
        conn.framer.buffer().extend_from_slice(read);
        conn
    }

    /// Keeps the headers of its PDUs from now on.
    pub(super) fn record(&mut self, black_box: &Arc<BlackBox>, label: Label) {
        if let (Ok(local), Ok(peer)) = (self.stream.local_addr(), self.stream.peer_addr()) {
            self.tape = Some(black_box.tape(label, local, peer));
        }
    }

    /// Tells the time for the headers that are kept from now on.
    pub(super) fn tick(&mut self, now: Instant) {
        if let Some(tape) = &mut self.tape {
            tape.tick(now);
        }
    }

    /// What was kept.
    pub(super) fn recording(&self) -> Option<Recording> {
        self.tape.as_ref().map(Tape::recording)
    }

    /// The same, and keeps nothing any more.
    pub(super) fn take_tape(&mut self) -> Option<Tape> {
        self.tape.take()
    }

    /// The socket, for options and addresses.
    #[must_use]
    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// Its ends as a load balancer has told them.
    #[must_use]
    pub const fn told(&self) -> Option<Ends> {
        self.told
    }

    /// The peer's address: as it was told, or else as it is.
    #[must_use]
    pub fn peer(&self) -> Option<SocketAddr> {
        self.told.map(|ends| ends.peer).or_else(|| self.stream.peer_addr().ok())
    }

    /// Puts a finished login's parameters in force, for the next PDU of each direction.
    pub fn enter_full_feature(&mut self, agreed: &ConnectionParams) {
        self.framer.set_limits(FramerLimits {
            max_data: usize::try_from(agreed.max_recv_data_segment).unwrap_or(usize::MAX),
            header_digest: agreed.header_digest,
            data_digest: agreed.data_digest,
        });
        self.out.set_digests(agreed.header_digest, agreed.data_digest);
    }

    /// Reads once; ready when bytes came or the connection is over.
    ///
    /// # Errors
    /// [`ConnError::Closed`] at the end of the stream, [`ConnError::Io`] if the socket failed.
    pub fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ConnError>> {
        let read = pin!(self.stream.read_buf(self.framer.buffer()));
        match ready!(read.poll(cx))? {
            0 => Poll::Ready(Err(ConnError::Closed)),
            _ => Poll::Ready(Ok(())),
        }
    }

    /// The next PDU among the bytes that have arrived.
    ///
    /// # Errors
    /// As [`Framer::next_pdu`].
    pub fn next_pdu(&mut self) -> Result<Option<Pdu>, FrameError> {
        let next = self.framer.next_pdu();
        if let (Some(tape), Ok(Some(_)) | Err(FrameError::Rejectable { .. })) = (&mut self.tape, &next) {
            let (header, ahs) = self.framer.latest_header();
            tape.note(Way::Received, header, ahs);
        }
        next
    }

    /// Encodes a PDU behind those already waiting.
    pub fn queue(&mut self, pdu: &Pdu) {
        let (header, ahs) = self.out.push(pdu);
        if let Some(tape) = &mut self.tape {
            tape.note(Way::Sent, &header, &ahs);
        }
    }

    /// Bytes that wait to be written.
    #[must_use]
    pub fn queued(&self) -> usize {
        self.out.len()
    }

    /// Writes what the socket takes without waiting.
    ///
    /// # Errors
    /// If the socket failed.
    pub fn flush(&mut self) -> io::Result<()> {
        while !self.out.is_empty() {
            let mut slices = [IoSlice::new(&[]); MAX_SLICES];
            let filled = self.out.slices(&mut slices);
            match self.stream.try_write_vectored(slices.get(..filled).unwrap_or_default()) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => self.out.advance(written),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Writes until nothing waits; ready then, or when the socket failed.
    ///
    /// # Errors
    /// If the socket failed.
    pub fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.out.is_empty() {
            let mut slices = [IoSlice::new(&[]); MAX_SLICES];
            let filled = self.out.slices(&mut slices);
            let slices = slices.get(..filled).unwrap_or_default();
            match ready!(Pin::new(&mut self.stream).poll_write_vectored(cx, slices))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => self.out.advance(written),
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Waits for the next PDU.
    ///
    /// # Errors
    /// [`ConnError`]: the connection is of no use any more.
    pub async fn recv(&mut self) -> Result<Pdu, ConnError> {
        loop {
            if let Some(pdu) = self.framer.next_pdu()? {
                tracing::trace!(%pdu, "received");
                return Ok(pdu);
            }
            std::future::poll_fn(|cx| self.poll_fill(cx)).await?;
        }
    }

    /// Sends PDUs and waits until the kernel has them.
    ///
    /// # Errors
    /// If the socket failed.
    pub async fn send(&mut self, pdus: &[Pdu]) -> Result<(), ConnError> {
        for pdu in pdus {
            tracing::trace!(%pdu, "sent");
            self.queue(pdu);
        }
        std::future::poll_fn(|cx| self.poll_drain(cx)).await?;
        Ok(())
    }

    /// Closes in order: sends what waits, says that nothing follows, and gives the peer a moment to close as well.
    /// Ends within a few seconds whatever the peer does.
    pub async fn close(mut self) {
        let drained = tokio::time::timeout(LINGER, std::future::poll_fn(|cx| self.poll_drain(cx))).await;
        if matches!(drained, Ok(Ok(()))) && self.stream.shutdown().await.is_ok() {
            drop(tokio::time::timeout(LINGER, swallow(&mut self.stream)).await);
        }
    }

    /// Closes with a reset: what waits is dropped, here and in the kernel.
    pub fn reset(self) {
        if let Err(error) = socket2::SockRef::from(&self.stream).set_linger(Some(Duration::ZERO)) {
            tracing::debug!(%error, "no reset on close");
        }
    }
}

/// Reads to the end of the stream, or until enough is enough.
async fn swallow(stream: &mut TcpStream) {
    let mut dropped = 0;
    let mut buffer = [0; 4096];
    while dropped < LINGER_BYTES {
        match stream.read(&mut buffer).await {
            Ok(0) | Err(_) => return,
            Ok(read) => dropped += read,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::iscsi::{Itt, NopIn, NopOut, Payload};
    use tokio::net::TcpListener;

    async fn pair() -> (Conn, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let peer = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (Conn::new(listener.accept().await.unwrap().0, Receiver::Target), peer)
    }

    fn pong(tag: u32, len: usize) -> Pdu {
        let data = Payload::from(vec![7; len]);
        Pdu::NopIn(NopIn { itt: Itt(tag), data, ..NopIn::default() })
    }

    #[tokio::test]
    async fn what_the_socket_does_not_take_waits_and_comes_in_order() {
        let (mut conn, peer) = pair().await;
        let mut peer = Conn::new(peer, Receiver::Initiator);
        for tag in 0..4000 {
            conn.queue(&pong(tag, 4096));
        }
        conn.flush().unwrap();
        assert!(conn.queued() > 0, "16 MiB do not fit into socket buffers");
        let reader = tokio::spawn(async move {
            for tag in 0..4000 {
                assert_eq!(peer.recv().await.unwrap(), pong(tag, 4096));
            }
        });
        std::future::poll_fn(|cx| conn.poll_drain(cx)).await.unwrap();
        assert_eq!(conn.queued(), 0);
        reader.await.unwrap();
    }

    #[tokio::test]
    async fn unread_input_does_not_destroy_the_last_answer() {
        let (mut conn, mut peer) = pair().await;
        peer.write_all(&[0xff; 100_000]).await.unwrap();
        conn.queue(&pong(1, 8));
        let closing = tokio::spawn(conn.close());
        let mut answer = Vec::new();
        peer.read_to_end(&mut answer).await.unwrap();
        assert_eq!(answer.len(), 48 + 8);
        drop(peer);
        closing.await.unwrap();
    }

    #[tokio::test]
    async fn a_reset_is_seen_as_one() {
        let (conn, mut peer) = pair().await;
        conn.reset();
        let error = peer.read(&mut [0; 8]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    }

    #[tokio::test]
    async fn a_truncated_header_is_no_pdu() {
        let (mut conn, mut peer) = pair().await;
        peer.write_all(&[0x40; 47]).await.unwrap();
        drop(peer);
        assert!(matches!(conn.recv().await, Err(ConnError::Closed)));
    }

    #[tokio::test]
    async fn pdus_before_and_after_the_end_of_login_follow_their_own_rules() {
        let (mut conn, peer) = pair().await;
        let mut peer = Conn::new(peer, Receiver::Initiator);
        let digests = ConnectionParams {
            header_digest: true,
            data_digest: true,
            max_recv_data_segment: 65_536,
            max_send_data_segment: 65_536,
        };
        let ping = |len| {
            let data = Payload::from(vec![9; len]);
            Pdu::NopOut(NopOut { immediate: true, itt: Itt(1), data, ..NopOut::default() })
        };
        peer.send(&[ping(100)]).await.unwrap();
        peer.enter_full_feature(&digests);
        peer.send(&[ping(20_000)]).await.unwrap();
        assert_eq!(conn.recv().await.unwrap(), ping(100));
        conn.enter_full_feature(&digests);
        assert_eq!(conn.recv().await.unwrap(), ping(20_000));
    }
}
