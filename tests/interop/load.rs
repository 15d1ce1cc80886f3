//! A load that checks itself: one `qemu-io` that writes patterns all over a region with many commands in flight, reads
//! everything back and compares, round after round, with a pattern per block and round.
//!
//! Each round is two halves: writes and reads of separate areas at once, then a flush. A read expects what an earlier
//! round wrote there. At the end the whole disk file is compared with what must be in it.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Child, ChildStdin, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::process::{command, kill, words};
use crate::setup::tools;
use crate::target::Endpoint;

/// Slots of the region; each is written and read by one command.
const SLOTS: u64 = 32;
/// Distance of slots.
const STRIDE: u64 = 1 << 20;
/// Lengths of commands, in turn: below a segment, a segment, several bursts.
const LENGTHS: [u64; 4] = [4 << 10, 64 << 10, 256 << 10, 1 << 20];
/// What a disk must hold for this load.
pub(crate) const REGION: u64 = SLOTS * STRIDE;

/// The running load.
pub(crate) struct Load {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
    readers: Vec<JoinHandle<()>>,
    /// The round in which each slot was written last; 0: never.
    written: Vec<u64>,
    round: u64,
    name: String,
}

impl Load {
    /// Logs in to `endpoint`.
    pub(crate) fn start(endpoint: &Endpoint) -> Self {
        // With a buffered stdin it would sit on lines that it has read together with the one it executes.
        let mut line = [words(&["stdbuf", "-i0", "-oL"]), tools().qemu("qemu-io")].concat();
        line.extend(words(&["-f", "raw", "-t", "none"]));
        line.push(endpoint.url());
        let mut command = command(endpoint.netns.as_deref(), &line);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("qemu-io");
        let (sender, lines) = sync_channel(10_000);
        let mut readers = Vec::new();
        let streams: [Box<dyn Read + Send>; 2] =
            [Box::new(child.stdout.take().expect("stdout")), Box::new(child.stderr.take().expect("stderr"))];
        for stream in streams {
            let sender = sender.clone();
            readers.push(thread::spawn(move || {
                for line in BufReader::new(stream).lines().map_while(Result::ok) {
                    if sender.send(line).is_err() {
                        break;
                    }
                }
            }));
        }
        let stdin = child.stdin.take();
        let written = (0..SLOTS).map(|_| 0).collect();
        Self { child, stdin, lines, readers, written, round: 0, name: endpoint.url() }
    }

    /// One round: half of the slots are written anew while the other half is read and compared; then a flush.
    ///
    /// # Errors
    /// When a command fails, a byte is wrong, or the round does not end within `limit`.
    pub(crate) fn round(&mut self, limit: Duration) -> Result<(), String> {
        self.begin(|slot, round| (slot + round).is_multiple_of(2))?;
        self.end(limit)
    }

    /// Writes all slots anew; [`Load::end`] waits for that.
    pub(crate) fn begin_writes(&mut self) -> Result<(), String> {
        self.begin(|_, _| true)
    }

    /// Sends the commands of a round: writes to the slots that `writes` chooses, reads of the others.
    fn begin(&mut self, writes: impl Fn(u64, u64) -> bool) -> Result<(), String> {
        self.round += 1;
        let mut script = String::new();
        for slot in 0..SLOTS {
            let (at, length) = (slot * STRIDE, length(slot));
            let last = self.written.get_mut(usize::try_from(slot).expect("small")).expect("slot");
            if writes(slot, self.round) {
                *last = self.round;
                script += &format!("aio_write -P {} {at} {length}\n", pattern(slot, *last));
            } else {
                script += &format!("aio_read -P {} {at} {length}\n", pattern(slot, *last));
            }
        }
        script += "aio_flush\n";
        self.say(&script)
    }

    /// Waits until the round is over.
    pub(crate) fn end(&self, limit: Duration) -> Result<(), String> {
        let began = Instant::now();
        for _ in 0..SLOTS {
            self.completion(began + limit)?;
        }
        Ok(())
    }

    fn say(&mut self, script: &str) -> Result<(), String> {
        let stdin = self.stdin.as_mut().ok_or("the load has ended")?;
        stdin.write_all(script.as_bytes()).map_err(|why| format!("{} is gone: {why}", self.name))
    }

    /// Waits for one command to complete well.
    fn completion(&self, end: Instant) -> Result<(), String> {
        loop {
            let left = end.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) if good(&line) => return Ok(()),
                Ok(line) if harmless(&line) => {}
                Ok(line) => return Err(format!("round {} of {}: {line}", self.round, self.name)),
                Err(RecvTimeoutError::Timeout) => {
                    return Err(format!("round {} of {} does not end", self.round, self.name));
                }
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(format!("qemu-io ended in round {} of {}", self.round, self.name));
                }
            }
        }
    }

    /// Ends the session and compares the disk file with what was written.
    pub(crate) fn finish(mut self, disk: &Path) -> Result<(), String> {
        self.say("flush\nquit\n")?;
        self.stdin = None;
        let status = self.child.wait().map_err(|why| why.to_string())?;
        for reader in self.readers.drain(..) {
            reader.join().expect("reader");
        }
        let bad: Vec<String> = self.lines.try_iter().filter(|line| !good(line) && !harmless(line)).collect();
        if !status.success() || !bad.is_empty() {
            return Err(format!("{} ended with {status}: {bad:?}", self.name));
        }
        self.compare(disk)
    }

    fn compare(&self, disk: &Path) -> Result<(), String> {
        let file = File::open(disk).map_err(|why| why.to_string())?;
        let mut found = vec![0; usize::try_from(STRIDE).expect("small")];
        for (slot, last) in (0..SLOTS).zip(&self.written) {
            file.read_exact_at(&mut found, slot * STRIDE).map_err(|why| why.to_string())?;
            let expected = pattern(slot, *last);
            let filled = usize::try_from(length(slot)).expect("small");
            let (inside, outside) = found.split_at(filled);
            if inside.iter().any(|&byte| byte != expected) || outside.iter().any(|&byte| byte != 0) {
                let first = inside.iter().position(|&byte| byte != expected);
                return Err(format!(
                    "the disk is wrong at slot {slot} (offset {}): expected pattern {expected} in {filled} bytes, first \
                     wrong byte at {first:?}, last written in round {last}",
                    slot * STRIDE
                ));
            }
        }
        Ok(())
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        kill(&mut self.child);
    }
}

/// How much a slot's commands move.
fn length(slot: u64) -> u64 {
    LENGTHS.into_iter().cycle().nth(usize::try_from(slot).expect("small")).expect("endless")
}

/// The byte that fills a slot; 0 before it was written for the first time.
fn pattern(slot: u64, round: u64) -> u8 {
    if round == 0 { 0 } else { u8::try_from(1 + (slot * 37 + round * 101) % 255).expect("a byte") }
}

/// A completion of a whole command: "wrote 4096/4096 bytes at offset 0".
fn good(line: &str) -> bool {
    let line = line.trim_start_matches("qemu-io> ");
    let Some(rest) = line.strip_prefix("wrote ").or_else(|| line.strip_prefix("read ")) else { return false };
    let counts = rest.split(' ').next().and_then(|counts| counts.split_once('/'));
    counts.is_some_and(|(done, wanted)| done == wanted)
}

/// Prompts, the second line of a completion: "4 KiB, 1 ops; 00.00 sec (...)", and what a target tells of its access states, upon
/// which a command is sent again.
fn harmless(line: &str) -> bool {
    let line = line.replace("qemu-io> ", "");
    line.trim().is_empty()
        || line.contains(" ops; ")
        || line.contains("UNIT_ATTENTION(6) ASCQ:(null)(0x2a06)")
}
