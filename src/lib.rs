//! Braid: a transparent multipath proxy for iSCSI.
//!
//! An initiator logs in to Braid over one connection, as if Braid were the target. Braid carries that session over
//! several paths to the real target. README.md says what for; this page says how.
//!
//! # The house
//! Each module uses only those below it (`tests/architecture.rs` sees to that), and those below the line do no I/O, read
//! no clock and draw no random numbers: they are told.
//!
//! | module | knows |
//! | --- | --- |
//! | [`cli`] | what a person types and sees |
//! | [`lab`] | a RAM-disk target, a verifying initiator, links to cut: for the demo, drills and the tests; never the engine |
//! | [`admin`] | HTTP: metrics and health |
//! | [`proxy`] | sockets, the clock, tokio: one task per session of an initiator; probes |
//! | [`config`] | the file and the flags, and what is wrong with them |
//! | [`metrics`] | what is counted, under which names |
//! | *no I/O below* | |
//! | [`session`] | **the engine**: one downstream session, its tasks, its paths, what to do when one is lost |
//! | [`login`] | negotiation in both roles |
//! | [`path`] | choosing a path; when to try a lost one again |
//! | [`scsi`] | what a CDB touches and whether it may run twice; identity of a unit |
//! | [`iscsi`] | PDUs, digests, serial numbers, text keys |
//!
//! # One login
//! [`proxy`] accepts a connection and lets [`login::TargetLogin`] read the initiator's first request until it is known
//! who wants which target. Before it is answered, Braid logs in to that target ([`login::InitiatorLogin`]) over the first
//! path that answers, under the initiator's own name and session id: the **home** nexus. Then the initiator is granted
//! what Braid can keep, and a [`session::Session`] is made of both results. The remaining paths follow in the background.
//!
//! # One WRITE, from socket to socket
//! 1. The session's task wakes because the initiator's socket is readable. `Driver::select` reads it once, straight into
//!    the buffer of [`iscsi::Framer`], which cuts it into [`iscsi::Pdu`]s; data segments are shared slices of that buffer.
//! 2. `Driver::apply` reads the clock once and hands each PDU to [`session::Session::handle`].
//! 3. `session::sequence` admits the command in CmdSN order. `session::downstream` looks up what the CDB means
//!    ([`scsi::cdb`]), files a task, keeps the immediate data and asks for the rest with R2Ts of Braid's own.
//! 4. `session::order` says whether an earlier command, or the ghost of one, has to end first. If so the task waits.
//! 5. `session::select` asks [`path::select`] for a path, takes a CmdSN of that path's nexus and a tag of Braid's own, and
//!    puts out the command with as much data as the target has agreed to take unasked.
//! 6. The driver queues it on that path's [`iscsi::SendQueue`] and writes each socket once, with a vectored write of the
//!    same slices that were read.
//! 7. The target's R2Ts come back as events; `session::upstream` answers each from the kept data (`session::data`), cut to
//!    the target's sizes, whatever the initiator's were.
//! 8. The target's response completes the task: it goes to the initiator under its own tag and the next StatSN, the kept
//!    data is let go, commands that waited for this one go on, and the window opens again.
//!
//! # One cut
//! A connection ends, or its ping stays unanswered. `session::recover` gives the whole nexus up: what may run twice goes
//! back to its place in the queue and out over the next best path; writes that may still arrive leave ghosts, which hold
//! back newer commands that they could overwrite, until the nexus is fenced by reinstating it over a living path. The
//! path is dialled again with growing delays, proves that it shows the same unit, and takes its share again.

pub mod admin;
pub mod cli;
pub mod config;
pub mod iscsi;
pub mod lab;
pub mod login;
pub mod metrics;
pub mod path;
pub mod proxy;
pub mod scsi;
pub mod session;
