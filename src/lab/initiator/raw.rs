//! A connection that sends what it is told, good or bad.

use super::InitiatorError;
use crate::iscsi::framer::Receiver;
use crate::iscsi::{Pdu, SendQueue};
use crate::lab::wire::{Event, Wire};
use crate::login::{ConnectionParams, InitiatorLogin, InitiatorStep, LoginPlan, Negotiated};
use std::io::{self, IoSlice};
use tokio::net::TcpStream;

/// A connection of an initiator, PDU by PDU or byte by byte.
#[derive(Debug)]
pub struct RawConnection {
    pub(super) wire: Wire,
    params: ConnectionParams,
}

impl RawConnection {
    /// Connects, no more.
    ///
    /// # Errors
    /// The connection cannot be made.
    pub async fn connect(address: &str) -> io::Result<Self> {
        let wire = Wire::new(TcpStream::connect(address).await?, Receiver::Initiator)?;
        Ok(Self { wire, params: ConnectionParams::default() })
    }

    /// Logs in; agreed limits and digests hold from then on.
    ///
    /// # Errors
    /// The login fails or is redirected.
    pub async fn login(&mut self, plan: LoginPlan) -> Result<Negotiated, InitiatorError> {
        let (mut login, first) = InitiatorLogin::start(plan);
        let mut next = first;
        loop {
            self.send(&next).await?;
            let Pdu::LoginResponse(response) = self.receive().await? else {
                return Err(InitiatorError::Protocol("no login response during login".into()));
            };
            match login.handle(response)? {
                InitiatorStep::Send(pdu) => next = pdu,
                InitiatorStep::Redirect { address, .. } => return Err(InitiatorError::Redirected(address)),
                InitiatorStep::Done(negotiated) => {
                    self.set_params(&negotiated.connection);
                    return Ok(*negotiated);
                }
            }
        }
    }

    /// Takes other limits and digests than those agreed.
    pub fn set_params(&mut self, params: &ConnectionParams) {
        self.params = *params;
        self.wire.set_params(params);
    }

    /// Sends a PDU.
    ///
    /// # Errors
    /// The connection is broken.
    pub async fn send(&mut self, pdu: &Pdu) -> io::Result<()> {
        self.wire.push(pdu);
        self.wire.flush().await
    }

    /// Sends bytes as they are.
    ///
    /// # Errors
    /// The connection is broken.
    pub async fn send_bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.wire.flush().await?;
        self.wire.write_all(bytes).await
    }

    /// A PDU as it would be sent now, with the digests in force: to be spoiled and given to
    /// [`RawConnection::send_bytes`].
    #[must_use]
    pub fn encode(&self, pdu: &Pdu) -> Vec<u8> {
        let mut queue = SendQueue::new();
        queue.set_digests(self.params.header_digest, self.params.data_digest);
        queue.push(pdu);
        let mut bytes = Vec::new();
        while !queue.is_empty() {
            let mut slices = [IoSlice::new(&[]); 16];
            let used = queue.slices(&mut slices);
            let front: Vec<u8> = slices.iter().take(used).flat_map(|slice| slice.iter().copied()).collect();
            queue.advance(front.len());
            bytes.extend(front);
        }
        bytes
    }

    /// The next PDU from the target. Cancel safe.
    ///
    /// # Errors
    /// [`InitiatorError::Closed`] when the target closed; bytes that are no PDU; a broken connection.
    pub async fn receive(&mut self) -> Result<Pdu, InitiatorError> {
        loop {
            if let Some(pdu) = self.wire.next_pdu()? {
                return Ok(pdu);
            }
            self.pump().await?;
        }
    }

    /// Writes what is queued and waits for bytes.
    pub(super) async fn pump(&mut self) -> Result<(), InitiatorError> {
        loop {
            self.wire.try_flush()?;
            match self.wire.event(true).await? {
                Event::Read(0) => return Err(InitiatorError::Closed),
                Event::Read(_) => return Ok(()),
                Event::Writable => {}
            }
        }
    }
}
