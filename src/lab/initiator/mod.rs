//! A small initiator with one connection that checks what the target does, and raw connections for bad manners.
//!
//! [`Initiator`] is owned by one task, like a submission queue: [`Initiator::submit`] any number of commands, then take
//! [`Initiator::complete`]d ones. [`Initiator::read`] and its like are for one command at a time. Commands beyond the queue
//! depth or the target's window wait inside. Every number the target sends is checked; a wrong one is an error.

mod raw;
mod tasks;

pub use raw::RawConnection;

use crate::iscsi::{Cdb, Cid, CmdSn, FrameError, Isid, Lun, Payload};
use crate::login::{ConnectionParams, LoginError, LoginKind, LoginPlan, Negotiated, SessionParams};
use crate::scsi::Sense;
use crate::scsi::sense::{key, status};
use std::io;
use tasks::{Order, Tasks};

/// Attempts at the first command while unit attentions are reported.
const ATTENTIONS: usize = 8;

/// Whom to connect to, and how.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct InitiatorOptions {
    /// `host:port` of the portal.
    pub address: String,
    /// Target's name.
    pub target: String,
    /// Own name.
    pub name: String,
    /// Session id.
    pub isid: Isid,
    /// Unit to use.
    pub lun: Lun,
    /// What to offer for the session.
    pub session: SessionParams,
    /// What to offer for the connection.
    pub connection: ConnectionParams,
    /// Commands sent at a time at most.
    pub queue_depth: usize,
}

impl InitiatorOptions {
    /// Unit 0 of a target, with generous parameters and no digests.
    #[must_use]
    pub fn new(address: impl Into<String>, target: impl Into<String>) -> Self {
        Self {
            address: address.into(),
            target: target.into(),
            name: "iqn.2026-01.org.braid:lab-initiator".into(),
            isid: Isid([0x80, 0, 0, 0, 0, 1]),
            lun: Lun::from_number(0),
            session: SessionParams {
                initial_r2t: false,
                max_burst_length: 1 << 20,
                first_burst_length: 256 << 10,
                default_time2retain: 0,
                ..SessionParams::default()
            },
            connection: ConnectionParams { max_recv_data_segment: 256 << 10, ..ConnectionParams::default() },
            queue_depth: 128,
        }
    }

    /// The login these options ask for.
    #[must_use]
    pub fn plan(&self) -> LoginPlan {
        LoginPlan {
            kind: LoginKind::Leading,
            initiator_name: self.name.clone(),
            target_name: self.target.clone(),
            isid: self.isid,
            cid: Cid(0),
            cmd_sn: CmdSn(1),
            offer: self.session.clone(),
            connection: self.connection,
        }
    }
}

/// What went wrong.
#[derive(Debug, thiserror::Error)]
pub enum InitiatorError {
    /// The connection broke.
    #[error("connection: {0}")]
    Io(#[from] io::Error),
    /// The target closed the connection.
    #[error("closed by the target")]
    Closed,
    /// The login failed.
    #[error(transparent)]
    Login(#[from] LoginError),
    /// The login was redirected.
    #[error("redirected to {0}")]
    Redirected(String),
    /// Received bytes are no PDU.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// The target broke the protocol.
    #[error("protocol: {0}")]
    Protocol(String),
    /// The target rejected a PDU.
    #[error("rejected, reason {0:#04x}")]
    Rejected(u8),
    /// A command ended with a status other than GOOD.
    #[error("SCSI status {status:#04x}, sense {sense:x?}")]
    Status {
        /// SCSI status.
        status: u8,
        /// Sense data, if any came.
        sense: Option<Sense>,
    },
}

/// A submitted command; never used twice.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Tag(pub u64);

/// Which way a command's data go.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Data {
    /// No data.
    None,
    /// At most so many bytes from the target.
    In(u32),
    /// These bytes to the target.
    Out(Payload),
}

/// How a command ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Completion {
    /// SCSI status.
    pub status: u8,
    /// Sense data as received.
    pub sense: Vec<u8>,
    /// Data received.
    pub data: Payload,
    /// Residual count: negative for less, positive for more than the expected length.
    pub residual: i64,
}

impl Completion {
    /// The data, if the status is GOOD.
    ///
    /// # Errors
    /// [`InitiatorError::Status`].
    pub fn good(self) -> Result<Payload, InitiatorError> {
        if self.status == status::GOOD {
            return Ok(self.data);
        }
        Err(InitiatorError::Status { status: self.status, sense: Sense::parse(&self.sense) })
    }
}

/// One session of one connection.
#[derive(Debug)]
pub struct Initiator {
    connection: RawConnection,
    tasks: Tasks,
    lun: Lun,
    blocks: u64,
    block_size: u32,
}

impl Initiator {
    /// Connects, logs in, waits out unit attentions and reads the capacity.
    ///
    /// # Errors
    /// Any.
    pub async fn connect(options: &InitiatorOptions) -> Result<Self, InitiatorError> {
        let mut connection = RawConnection::connect(&options.address).await?;
        let negotiated = connection.login(options.plan()).await?;
        let tasks = Tasks::new(negotiated, options.queue_depth);
        let mut this = Self { connection, tasks, lun: options.lun, blocks: 0, block_size: 0 };
        this.settle().await?;
        let capacity = this.command(&read_capacity(), Data::In(32)).await?.good()?.contiguous();
        let last = capacity.get(..8).and_then(|bytes| bytes.try_into().ok()).map(u64::from_be_bytes);
        let size = capacity.get(8..12).and_then(|bytes| bytes.try_into().ok()).map(u32::from_be_bytes);
        let (Some(last), Some(size @ 1..)) = (last, size) else {
            return Err(InitiatorError::Protocol("capacity data too short".into()));
        };
        (this.blocks, this.block_size) = (last.saturating_add(1), size);
        Ok(this)
    }

    /// TEST UNIT READY until no unit attention is left.
    async fn settle(&mut self) -> Result<(), InitiatorError> {
        for _ in 0..ATTENTIONS {
            let done = self.command(&[0; 6], Data::None).await?;
            if Sense::parse(&done.sense).is_none_or(|sense| sense.key != key::UNIT_ATTENTION) {
                return done.good().map(|_| ());
            }
        }
        Err(InitiatorError::Protocol("unit attentions without end".into()))
    }

    /// What was agreed at login.
    #[must_use]
    pub const fn negotiated(&self) -> &Negotiated {
        &self.tasks.negotiated
    }

    /// Number of blocks of the unit.
    #[must_use]
    pub const fn blocks(&self) -> u64 {
        self.blocks
    }

    /// Bytes of a block.
    #[must_use]
    pub const fn block_size(&self) -> u32 {
        self.block_size
    }

    /// Commands submitted and not yet taken from [`Initiator::complete`].
    #[must_use]
    pub fn outstanding(&self) -> usize {
        self.tasks.outstanding()
    }

    /// Queues a command; it is sent when the queue depth and the target's window allow, with the next call that waits.
    pub fn submit(&mut self, cdb: &[u8], data: Data) -> Tag {
        let order = Order { cdb: Cdb(cdb.into()), lun: self.lun, data };
        self.tasks.submit(order, &mut self.connection.wire)
    }

    /// Queues READ(16).
    pub fn submit_read(&mut self, lba: u64, blocks: u32) -> Tag {
        let bytes = blocks.saturating_mul(self.block_size);
        self.submit(&block_command(0x88, lba, blocks), Data::In(bytes))
    }

    /// Queues WRITE(16) of whole blocks.
    pub fn submit_write(&mut self, lba: u64, data: impl Into<Payload>) -> Tag {
        let data = data.into();
        let blocks = data.len() as u64 / u64::from(self.block_size.max(1));
        let blocks = u32::try_from(blocks).unwrap_or(u32::MAX);
        self.submit(&block_command(0x8a, lba, blocks), Data::Out(data))
    }

    /// Queues SYNCHRONIZE CACHE(16) of everything.
    pub fn submit_flush(&mut self) -> Tag {
        self.submit(&block_command(0x91, 0, 0), Data::None)
    }

    /// The next completed command. Cancel safe.
    ///
    /// # Errors
    /// The session is over: nothing outstanding will complete any more.
    pub async fn complete(&mut self) -> Result<(Tag, Completion), InitiatorError> {
        loop {
            if let Some(done) = self.tasks.take_done() {
                return Ok(done);
            }
            self.connection.pump().await?;
            while let Some(pdu) = self.connection.wire.next_pdu()? {
                self.tasks.handle(pdu, &mut self.connection.wire)?;
            }
        }
    }

    /// Runs one command; others go on meanwhile.
    ///
    /// # Errors
    /// As [`Initiator::complete`]; a bad status is no error here.
    pub async fn command(&mut self, cdb: &[u8], data: Data) -> Result<Completion, InitiatorError> {
        let tag = self.submit(cdb, data);
        let mut others = Vec::new();
        loop {
            let (done, completion) = self.complete().await?;
            if done == tag {
                self.tasks.put_back(others);
                return Ok(completion);
            }
            others.push((done, completion));
        }
    }

    /// Reads blocks.
    ///
    /// # Errors
    /// Any; a status other than GOOD too.
    pub async fn read(&mut self, lba: u64, blocks: u32) -> Result<Payload, InitiatorError> {
        let bytes = blocks.saturating_mul(self.block_size);
        let data = self.command(&block_command(0x88, lba, blocks), Data::In(bytes)).await?.good()?;
        if data.len() != bytes as usize {
            return Err(InitiatorError::Protocol(format!("read {} of {bytes} bytes", data.len())));
        }
        Ok(data)
    }

    /// Writes whole blocks.
    ///
    /// # Errors
    /// Any; a status other than GOOD too.
    pub async fn write(&mut self, lba: u64, data: impl Into<Payload>) -> Result<(), InitiatorError> {
        let data = data.into();
        let blocks = u32::try_from(data.len() as u64 / u64::from(self.block_size)).unwrap_or(u32::MAX);
        self.command(&block_command(0x8a, lba, blocks), Data::Out(data)).await?.good().map(|_| ())
    }

    /// Makes all completed writes durable.
    ///
    /// # Errors
    /// Any; a status other than GOOD too.
    pub async fn flush(&mut self) -> Result<(), InitiatorError> {
        self.command(&block_command(0x91, 0, 0), Data::None).await?.good().map(|_| ())
    }

    /// Ends the session in order. Commands still outstanding are lost.
    ///
    /// # Errors
    /// The target does not answer the logout.
    pub async fn logout(mut self) -> Result<(), InitiatorError> {
        self.tasks.logout(&mut self.connection.wire);
        while !self.tasks.logged_out() {
            self.connection.pump().await?;
            while let Some(pdu) = self.connection.wire.next_pdu()? {
                self.tasks.handle(pdu, &mut self.connection.wire)?;
            }
        }
        Ok(())
    }
}

/// A 16-byte block command.
fn block_command(opcode: u8, lba: u64, blocks: u32) -> [u8; 16] {
    let mut cdb = [0; 16];
    let fields = [opcode, 0].into_iter().chain(lba.to_be_bytes()).chain(blocks.to_be_bytes());
    cdb.iter_mut().zip(fields).for_each(|(to, from)| *to = from);
    cdb
}

/// READ CAPACITY(16) with room for 32 bytes.
const fn read_capacity() -> [u8; 16] {
    [0x9e, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 32, 0, 0]
}
