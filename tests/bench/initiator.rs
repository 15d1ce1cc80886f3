//! The load generator: one connection, a closed loop of a fixed depth, as few instructions as possible.
//!
//! It is written for this benchmark and shares no code with Braid: bytes are put on a blocking socket by hand and payload
//! is not looked at, so that the box in the middle is what limits. Keys are offered as open-iscsi does by default.

use crate::placement::Placement;
use anyhow::{Context, Result, bail, ensure};
use hdrhistogram::Histogram;
use std::collections::BTreeMap;
use std::io::{IoSlice, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

const HEADER: usize = 48;
const BLOCK: u64 = 512;
/// Payload up to this size is gathered with its header and others before it is written.
const GATHER: usize = 16 << 10;
/// No answer for this long ends the benchmark.
const PATIENCE: Duration = Duration::from_secs(20);

/// Which logical unit, by whom.
#[derive(Clone, Debug)]
pub(crate) struct Login {
    pub(crate) portal: SocketAddr,
    pub(crate) target: String,
    /// Last part of the initiator's name; sessions of one run must differ in it.
    pub(crate) initiator: String,
    pub(crate) lun: u8,
    /// Bytes of the disk that may be used.
    pub(crate) size: u64,
}

/// What is done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Workload {
    pub(crate) name: &'static str,
    pub(crate) write: bool,
    pub(crate) random: bool,
    /// Bytes per command.
    pub(crate) bytes: u32,
    /// Commands in flight.
    pub(crate) depth: usize,
    pub(crate) placement: Placement,
    /// A SYNCHRONIZE CACHE after so many commands; 0 for none.
    pub(crate) flush_every: usize,
    /// The next commands only once all are answered.
    pub(crate) burst: bool,
}

/// What came of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Measured {
    pub(crate) bytes: u64,
    pub(crate) elapsed: Duration,
    /// Median time of a command.
    pub(crate) median: Duration,
}

impl Measured {
    /// MiB per second.
    pub(crate) fn rate(&self) -> f64 {
        self.bytes as f64 / f64::from(1 << 20) / self.elapsed.as_secs_f64()
    }
}

/// A session in full feature phase.
pub(crate) struct Initiator {
    stream: TcpStream,
    login: Login,
    cmd_sn: u32,
    max_cmd_sn: u32,
    exp_stat_sn: u32,
    /// The target's MaxRecvDataSegmentLength.
    segment: usize,
    /// Most bytes that may go along with a WRITE.
    immediate: usize,
    /// Bytes read; `parsed..filled` is still to be looked at.
    input: Vec<u8>,
    parsed: usize,
    filled: usize,
    output: Vec<u8>,
    payload: Vec<u8>,
    random: u64,
    next_block: u64,
}

/// A PDU's header, and the part of its data that is kept (text and sense; not Data-In).
struct Pdu {
    header: [u8; HEADER],
    data: Vec<u8>,
}

impl Pdu {
    fn opcode(&self) -> u8 {
        self.header[0] & 0x3f
    }

    fn number(&self, at: usize) -> u32 {
        u32::from_be_bytes(self.header[at..at + 4].try_into().expect("four bytes"))
    }
}

/// A header with opcode and flags set.
fn header(opcode: u8, flags: u8) -> [u8; HEADER] {
    let mut header = [0; HEADER];
    header[0] = opcode;
    header[1] = flags;
    header
}

fn put(header: &mut [u8; HEADER], at: usize, number: u32) {
    header[at..at + 4].copy_from_slice(&number.to_be_bytes());
}

fn put_length(header: &mut [u8; HEADER], length: usize) {
    let length = u32::try_from(length).expect("segments are small");
    header[5..8].copy_from_slice(&length.to_be_bytes()[1..]);
}

impl Initiator {
    /// Connects, logs in, and clears the unit attention of the new session.
    pub(crate) fn connect(login: Login) -> Result<Self> {
        let stream = TcpStream::connect_timeout(&login.portal, PATIENCE)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let mut initiator = Self {
            stream,
            cmd_sn: 1,
            max_cmd_sn: 1,
            exp_stat_sn: 0,
            segment: 8192,
            immediate: 0,
            input: vec![0; 1 << 20],
            parsed: 0,
            filled: 0,
            output: Vec::new(),
            payload: (0..1 << 20).map(|index: u32| index.to_le_bytes()[0]).collect(),
            random: 1,
            next_block: 0,
            login,
        };
        initiator.log_in()?;
        for _ in 0..10 {
            if initiator.test_unit_ready()? {
                return Ok(initiator);
            }
        }
        bail!("the logical unit does not become ready")
    }

    fn log_in(&mut self) -> Result<()> {
        const TRANSIT_TO_OPERATIONAL: u8 = 0x81;
        const TRANSIT_TO_FULL_FEATURE: u8 = 0x87;
        let Login { target, initiator, .. } = &self.login;
        let names = format!(
            "InitiatorName=iqn.2026-11.bench:{initiator}\0TargetName={target}\0SessionType=Normal\0AuthMethod=None\0"
        );
        self.login_round(TRANSIT_TO_OPERATIONAL, &names)?;
        let keys = "HeaderDigest=None\0DataDigest=None\0MaxConnections=1\0InitialR2T=No\0ImmediateData=Yes\0\
            MaxRecvDataSegmentLength=262144\0MaxBurstLength=16776192\0FirstBurstLength=262144\0MaxOutstandingR2T=1\0\
            DefaultTime2Wait=2\0DefaultTime2Retain=0\0DataPDUInOrder=Yes\0DataSequenceInOrder=Yes\0ErrorRecoveryLevel=0\0";
        let answer = self.login_round(TRANSIT_TO_FULL_FEATURE, keys)?;
        let number = |key: &str| answer.get(key).and_then(|value| value.parse().ok());
        self.segment = number("MaxRecvDataSegmentLength").unwrap_or(8192);
        let first_burst = number("FirstBurstLength").unwrap_or(65536);
        let immediate = answer.get("ImmediateData").is_none_or(|value| value == "Yes");
        self.immediate = if immediate { self.segment.min(first_burst) } else { 0 };
        Ok(())
    }

    /// One login stage: sends keys, and empty requests while the target has not moved on; its keys.
    fn login_round(&mut self, flags: u8, keys: &str) -> Result<BTreeMap<String, String>> {
        let mut answers = BTreeMap::new();
        let mut text = keys;
        for _ in 0..5 {
            let mut request = header(0x43, flags);
            request[8..14].copy_from_slice(&[0x40, 0, 0, 0xbe, 0, 1]);
            put(&mut request, 24, self.cmd_sn);
            put(&mut request, 28, self.exp_stat_sn);
            self.queue(request, text.as_bytes())?;
            let answer = self.receive()?;
            ensure!(answer.opcode() == 0x23, "login answered with opcode {:#x}", answer.opcode());
            ensure!(answer.header[36] == 0, "login refused: {:02x?}", &answer.header[36..38]);
            let pairs = String::from_utf8_lossy(&answer.data).into_owned();
            answers.extend(
                pairs.split('\0').filter_map(|pair| pair.split_once('=')).map(|(k, v)| (k.into(), v.into())),
            );
            if answer.header[1] & 0x80 != 0 {
                return Ok(answers);
            }
            text = "";
        }
        bail!("the login does not end")
    }

    fn test_unit_ready(&mut self) -> Result<bool> {
        self.command(0, 0x80, 0, &[0; 16], 0)?;
        loop {
            let answer = self.receive()?;
            if answer.opcode() == 0x21 {
                return Ok(answer.header[3] == 0);
            }
            self.unsolicited(&answer)?;
        }
    }

    /// Runs a workload for this long, then waits for what is in flight.
    pub(crate) fn run(&mut self, workload: Workload, duration: Duration) -> Result<Measured> {
        let mut times = Histogram::<u64>::new_with_bounds(1, 60_000_000_000, 3)?;
        let mut sent: Vec<Option<Instant>> = vec![None; workload.depth];
        let mut free: Vec<u32> = (0..u32::try_from(workload.depth)?).collect();
        let start = Instant::now();
        let (mut over, mut pausing, mut count) = (false, false, 0);
        loop {
            while !over && !pausing && self.max_cmd_sn.wrapping_sub(self.cmd_sn) < 1 << 31 {
                let Some(tag) = free.pop() else { break };
                sent[tag as usize] = Some(Instant::now());
                count += 1;
                if workload.flush_every > 0 && count % (workload.flush_every + 1) == 0 {
                    self.flush(tag)?;
                } else {
                    self.block_command(workload, tag)?;
                }
                pausing = workload.burst && free.is_empty();
            }
            if free.len() == workload.depth {
                if over {
                    break;
                }
                pausing = false;
                continue;
            }
            if let Some(tag) = self.next_completion(workload)? {
                let now = Instant::now();
                let started = sent.get_mut(tag as usize).and_then(Option::take).context("unknown tag")?;
                times.record(u64::try_from((now - started).as_nanos())?)?;
                free.push(tag);
                over = now - start >= duration;
            }
        }
        let bytes = times.len() * u64::from(workload.bytes);
        let median = Duration::from_nanos(times.value_at_quantile(0.5));
        Ok(Measured { bytes, elapsed: start.elapsed(), median })
    }

    /// Takes one PDU; the tag if it completes a command.
    fn next_completion(&mut self, workload: Workload) -> Result<Option<u32>> {
        let answer = self.receive()?;
        let last_data = answer.opcode() == 0x25 && answer.header[1] & 0x01 != 0;
        match answer.opcode() {
            0x21 => ensure!(answer.header[2] == 0, "service response {:#x}", answer.header[2]),
            0x25 if last_data => {}
            0x25 => return Ok(None),
            0x31 => return self.send_solicited(&answer).map(|()| None),
            _ => return self.unsolicited(&answer).map(|()| None),
        }
        let (status, residual) = (answer.header[3], answer.number(44));
        ensure!(
            status == 0 && residual == 0,
            "{}: status {status:#x}, residual {residual}, sense {:02x?}",
            workload.name,
            answer.data
        );
        Ok(Some(answer.number(16)))
    }

    /// Queues READ(10) or WRITE(10) with as much immediate data as is allowed.
    fn block_command(&mut self, workload: Workload, tag: u32) -> Result<()> {
        let slots = self.login.size / u64::from(workload.bytes);
        let slot = if workload.random { self.random_number() } else { self.next_block } % slots;
        self.next_block = self.next_block.wrapping_add(1);
        let lba = u32::try_from(slot * u64::from(workload.bytes) / BLOCK)?;
        let blocks = u16::try_from(u64::from(workload.bytes) / BLOCK)?;
        let mut cdb = [0; 16];
        cdb[0] = if workload.write { 0x2a } else { 0x28 };
        cdb[2..6].copy_from_slice(&lba.to_be_bytes());
        cdb[7..9].copy_from_slice(&blocks.to_be_bytes());
        let immediate = if workload.write { self.immediate.min(workload.bytes as usize) } else { 0 };
        let flags = if workload.write { 0xa1 } else { 0xc1 };
        self.command(tag, flags, workload.bytes, &cdb, immediate)
    }

    /// Queues SYNCHRONIZE CACHE(10) for the whole disk.
    fn flush(&mut self, tag: u32) -> Result<()> {
        let mut cdb = [0; 16];
        cdb[0] = 0x35;
        self.command(tag, 0x80, 0, &cdb, 0)
    }

    fn command(
        &mut self,
        tag: u32,
        flags: u8,
        expected: u32,
        cdb: &[u8; 16],
        immediate: usize,
    ) -> Result<()> {
        let mut command = header(0x01, flags);
        command[9] = self.login.lun;
        put(&mut command, 16, tag);
        put(&mut command, 20, expected);
        put(&mut command, 24, self.cmd_sn);
        put(&mut command, 28, self.exp_stat_sn);
        command[32..48].copy_from_slice(cdb);
        self.cmd_sn = self.cmd_sn.wrapping_add(1);
        self.queue_payload(command, immediate)
    }

    /// Answers an R2T with Data-Out PDUs.
    fn send_solicited(&mut self, r2t: &Pdu) -> Result<()> {
        let (start, length) = (r2t.number(40), r2t.number(44) as usize);
        let mut done = 0;
        let mut data_sn = 0;
        while done < length {
            let part = self.segment.min(length - done);
            let last = done + part == length;
            let mut data = header(0x05, if last { 0x80 } else { 0 });
            data[8..24].copy_from_slice(&r2t.header[8..24]);
            put(&mut data, 28, self.exp_stat_sn);
            put(&mut data, 36, data_sn);
            put(&mut data, 40, start + u32::try_from(done)?);
            self.queue_payload(data, part)?;
            done += part;
            data_sn += 1;
        }
        Ok(())
    }

    /// Answers a ping; anything else that comes unasked is an error.
    fn unsolicited(&mut self, pdu: &Pdu) -> Result<()> {
        ensure!(pdu.opcode() == 0x20, "unexpected PDU {:02x?}", pdu.header);
        if pdu.number(20) == u32::MAX {
            return Ok(());
        }
        let mut pong = header(0x40, 0x80);
        pong[8..16].copy_from_slice(&pdu.header[8..16]);
        put(&mut pong, 16, u32::MAX);
        put(&mut pong, 20, pdu.number(20));
        put(&mut pong, 24, self.cmd_sn);
        put(&mut pong, 28, self.exp_stat_sn);
        self.queue(pong, &pdu.data)
    }

    /// Queues a PDU with data of its own.
    fn queue(&mut self, mut header: [u8; HEADER], data: &[u8]) -> Result<()> {
        put_length(&mut header, data.len());
        self.output.extend(header);
        self.output.extend(data);
        self.output.resize(self.output.len().next_multiple_of(4), 0);
        Ok(())
    }

    /// Queues a PDU with this much payload, whose content does not matter.
    fn queue_payload(&mut self, mut header: [u8; HEADER], length: usize) -> Result<()> {
        put_length(&mut header, length);
        self.output.extend(header);
        if length <= GATHER {
            self.output.extend(&self.payload[..length]);
            return Ok(());
        }
        let mut slices = &mut [IoSlice::new(&self.output), IoSlice::new(&self.payload[..length])][..];
        while !slices.is_empty() {
            let written = self.stream.write_vectored(slices)?;
            ensure!(written > 0, "connection closed");
            IoSlice::advance_slices(&mut slices, written);
        }
        self.output.clear();
        Ok(())
    }

    /// Sends what is queued if nothing is left to parse, then takes the next PDU.
    fn receive(&mut self) -> Result<Pdu> {
        let header: [u8; HEADER] = self.take(HEADER)?.try_into().expect("a whole header");
        let length = u32::from_be_bytes([0, header[5], header[6], header[7]]) as usize;
        let padded = usize::from(header[4]) * 4 + length.next_multiple_of(4);
        let is_data = header[0] & 0x3f == 0x25;
        let data =
            if is_data { self.skip(padded).map(|()| Vec::new())? } else { self.take(padded)?.to_vec() };
        let pdu = Pdu { header, data };
        self.note_numbers(&pdu);
        Ok(pdu)
    }

    /// StatSN to acknowledge, and the command window.
    fn note_numbers(&mut self, pdu: &Pdu) {
        let carries_stat_sn = match pdu.opcode() {
            0x25 => pdu.header[1] & 0x01 != 0,
            0x31 => false,
            0x20 => pdu.number(16) != u32::MAX,
            _ => true,
        };
        if carries_stat_sn {
            self.exp_stat_sn = pdu.number(24).wrapping_add(1);
        }
        self.max_cmd_sn = pdu.number(32);
    }

    /// The next `count` bytes.
    fn take(&mut self, count: usize) -> Result<&[u8]> {
        ensure!(count <= self.input.len(), "PDU too long");
        while self.filled - self.parsed < count {
            self.fill(count)?;
        }
        self.parsed += count;
        Ok(&self.input[self.parsed - count..self.parsed])
    }

    /// Passes over `count` bytes.
    fn skip(&mut self, mut count: usize) -> Result<()> {
        loop {
            let here = count.min(self.filled - self.parsed);
            self.parsed += here;
            count -= here;
            if count == 0 {
                return Ok(());
            }
            self.fill(1)?;
        }
    }

    /// Reads once, with room for `count` bytes from `parsed` on.
    fn fill(&mut self, count: usize) -> Result<()> {
        self.stream.write_all(&self.output)?;
        self.output.clear();
        if self.parsed == self.filled || self.parsed + count > self.input.len() {
            self.input.copy_within(self.parsed..self.filled, 0);
            self.filled -= self.parsed;
            self.parsed = 0;
        }
        let read = self.stream.read(&mut self.input[self.filled..]).context("waiting for an answer")?;
        ensure!(read > 0, "connection closed");
        self.filled += read;
        Ok(())
    }

    /// Xorshift.
    fn random_number(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }
}
