//! PDUs over a TCP stream: a framer and a send queue around one socket.
//!
//! Every waiting method is cancel safe: bytes read are in the framer, bytes to write stay in the queue until written.

use crate::iscsi::framer::Receiver;
use crate::iscsi::{FrameError, Framer, FramerLimits, Pdu, SendQueue};
use crate::login::ConnectionParams;
use std::future::pending;
use std::io::{self, IoSlice};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Slices handed to one vectored write.
const SLICES: usize = 64;

/// What a wait ended with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    /// Bytes arrived, or none: the peer closed its side.
    Read(usize),
    /// The socket takes more bytes.
    Writable,
}

/// One connection as PDUs.
#[derive(Debug)]
pub struct Wire {
    stream: TcpStream,
    framer: Framer,
    queue: SendQueue,
}

impl Wire {
    /// A connection at the start of its login, for one role.
    ///
    /// # Errors
    /// The socket refuses TCP_NODELAY.
    pub fn new(stream: TcpStream, receiver: Receiver) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        Ok(Self { stream, framer: Framer::new(receiver), queue: SendQueue::new() })
    }

    /// The socket.
    #[must_use]
    pub const fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// Limits and digests of full feature phase, both ways, from the next PDU on.
    pub fn set_params(&mut self, params: &ConnectionParams) {
        self.framer.set_limits(FramerLimits {
            max_data: usize::try_from(params.max_recv_data_segment).unwrap_or(usize::MAX),
            header_digest: params.header_digest,
            data_digest: params.data_digest,
        });
        self.queue.set_digests(params.header_digest, params.data_digest);
    }

    /// Queues a PDU; [`Wire::try_flush`] or [`Wire::flush`] sends it.
    pub fn push(&mut self, pdu: &Pdu) {
        self.queue.push(pdu);
    }

    /// Bytes queued and not yet written.
    #[must_use]
    pub fn backlog(&self) -> usize {
        self.queue.len()
    }

    /// The next PDU among the bytes already read.
    ///
    /// # Errors
    /// As [`Framer::next_pdu`].
    pub fn next_pdu(&mut self) -> Result<Option<Pdu>, FrameError> {
        self.framer.next_pdu()
    }

    /// Writes what the socket takes without waiting.
    ///
    /// # Errors
    /// The connection is broken.
    pub fn try_flush(&mut self) -> io::Result<()> {
        while !self.queue.is_empty() {
            let mut slices = [IoSlice::new(&[]); SLICES];
            let used = self.queue.slices(&mut slices);
            let written = match self.stream.try_write_vectored(slices.get(..used).unwrap_or_default()) {
                Ok(written) => written,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            };
            self.queue.advance(written);
        }
        Ok(())
    }

    /// Writes all that is queued.
    ///
    /// # Errors
    /// The connection is broken.
    pub async fn flush(&mut self) -> io::Result<()> {
        loop {
            self.try_flush()?;
            if self.queue.is_empty() {
                return Ok(());
            }
            self.stream.writable().await?;
        }
    }

    /// Waits for bytes (if `read`) or, with a backlog, for room to write.
    ///
    /// # Errors
    /// The connection is broken.
    pub async fn event(&mut self, read: bool) -> io::Result<Event> {
        let backlog = !self.queue.is_empty();
        let (mut reader, writer) = self.stream.split();
        tokio::select! {
            biased;
            count = reader.read_buf(self.framer.buffer()), if read => Ok(Event::Read(count?)),
            ready = writer.writable(), if backlog => ready.map(|()| Event::Writable),
            else => pending().await,
        }
    }

    /// Reads and forgets until the peer closes.
    ///
    /// # Errors
    /// The connection is broken.
    pub async fn drain(&mut self) -> io::Result<()> {
        let mut sink = [0; 4096];
        while self.stream.read(&mut sink).await? > 0 {}
        Ok(())
    }

    /// Writes bytes as they are.
    ///
    /// # Errors
    /// The connection is broken.
    pub async fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes).await
    }
}
