//! The connections of the initiator. There is one of them unless the initiator adds more (MC/S), and nothing here costs more
//! than a look at the first of a short list.

use super::{Conn, Driver, Errand, Event};
use crate::iscsi::{Cid, FrameError, Pdu};
use crate::login::Negotiated;
use crate::proxy::conn::ConnError;
use crate::proxy::room::Seat;
use crate::session::{LineId, SessionPlan};
use smallvec::SmallVec;
use std::io;
use std::task::{Context, Poll};
use std::time::Instant;
use tokio::sync::oneshot;

/// A connection that has logged in to a running session.
#[derive(Debug)]
pub(in crate::proxy) struct Joined {
    pub(in crate::proxy) conn: Conn,
    pub(in crate::proxy) agreed: Negotiated,
    /// Counts it.
    pub(in crate::proxy) seat: Seat,
}

/// Where a connection that logs in is to go: what was agreed to with the initiator, and the way there. To drop it is to give up.
pub(in crate::proxy) type Place = (Box<Negotiated>, oneshot::Sender<Box<Joined>>);

/// What became of reading and writing.
pub(super) type Results = SmallVec<[(LineId, Result<(), ConnError>); 2]>;

#[derive(Debug)]
struct Line {
    id: LineId,
    conn: Conn,
    /// The first is counted as the session.
    _seat: Option<Seat>,
}

/// All of them.
#[derive(Debug)]
pub(super) struct Front {
    lines: SmallVec<[Line; 1]>,
    next: u32,
}

impl Front {
    pub(super) fn new(conn: Conn) -> Self {
        let first = Line { id: SessionPlan::FIRST_LINE, conn, _seat: None };
        Self { lines: SmallVec::from_buf([first]), next: SessionPlan::FIRST_LINE.0 + 1 }
    }

    fn add(&mut self, conn: Conn, seat: Seat) -> LineId {
        let id = LineId(self.next);
        self.next += 1;
        self.lines.push(Line { id, conn, _seat: Some(seat) });
        id
    }

    pub(super) fn ids(&self) -> impl Iterator<Item = LineId> {
        self.lines.iter().map(|line| line.id)
    }

    pub(super) fn conns(&self) -> impl Iterator<Item = &Conn> {
        self.lines.iter().map(|line| &line.conn)
    }

    pub(super) fn conns_mut(&mut self) -> impl Iterator<Item = &mut Conn> {
        self.lines.iter_mut().map(|line| &mut line.conn)
    }

    fn get(&mut self, id: LineId) -> Option<&mut Conn> {
        self.lines.iter_mut().find(|line| line.id == id).map(|line| &mut line.conn)
    }

    fn remove(&mut self, id: LineId) -> Option<Conn> {
        let at = self.lines.iter().position(|line| line.id == id)?;
        Some(self.lines.remove(at).conn)
    }

    pub(super) fn queue(&mut self, id: LineId, pdu: &Pdu) {
        if let Some(conn) = self.get(id) {
            tracing::trace!(line = id.0, ?pdu, "to initiator");
            conn.queue(pdu);
        }
    }

    /// Whether more waits to be written over one of them.
    pub(super) fn has_queued(&self, limit: usize) -> bool {
        self.lines.iter().any(|line| line.conn.queued() > limit)
    }

    /// Writes what could not be written at the end of a turn.
    pub(super) fn poll_drain(&mut self, results: &mut Results, cx: &mut Context<'_>) {
        for line in &mut self.lines {
            if let Poll::Ready(Err(error)) = line.conn.poll_drain(cx) {
                results.push((line.id, Err(error.into())));
            }
        }
    }

    /// Reads each once, but for those that have failed.
    pub(super) fn poll_fill(&mut self, results: &mut Results, cx: &mut Context<'_>) {
        for line in &mut self.lines {
            if results.iter().any(|(id, _)| *id == line.id) {
                continue;
            }
            if let Poll::Ready(result) = line.conn.poll_fill(cx) {
                results.push((line.id, result));
            }
        }
    }

    /// Writes each once; tells of the first that fails.
    pub(super) fn flush(&mut self) -> Result<(), (LineId, io::Error)> {
        self.lines.iter_mut().try_for_each(|line| line.conn.flush().map_err(|error| (line.id, error)))
    }
}

impl Driver {
    /// Feeds the engine what has arrived over a connection.
    pub(super) fn pump_downstream(&mut self, id: LineId, now: Instant) {
        while let Some(conn) = self.front.get(id) {
            match conn.next_pdu() {
                Ok(Some(pdu)) => {
                    tracing::trace!(line = id.0, ?pdu, "from initiator");
                    self.feed(Event::Downstream(id, pdu), now);
                }
                Ok(None) => return,
                Err(FrameError::Rejectable { header, reason, error }) => {
                    tracing::warn!(%error, reason, "PDU of the initiator rejected");
                    self.feed(Event::DownstreamRejectable { line: id, header, reason }, now);
                }
                Err(FrameError::Fatal(error)) => {
                    self.observer.downstream_spoilt(error);
                    return self.lose_downstream(id, &error.to_string(), now);
                }
            }
        }
    }

    pub(super) fn lose_downstream(&mut self, id: LineId, why: &str, now: Instant) {
        if let Some(mut conn) = self.front.remove(id) {
            tracing::info!(why, "initiator's connection ended");
            self.recorder.keep(&mut conn);
            self.feed(Event::DownstreamClosed(id), now);
        }
    }

    /// Prepares for a login under this CID, if the engine will have it.
    pub(super) fn await_line(&mut self, cid: Cid, answer: oneshot::Sender<Option<Place>>, now: Instant) {
        self.feed(Event::DownstreamAwaited(cid), now);
        let place = self.engine.awaited(cid).map(|agreed| {
            let (sender, joined) = oneshot::channel();
            self.errands.spawn(async move { Errand::Login(cid, joined.await.ok()) });
            (agreed, sender)
        });
        // Whoever asked may have lost patience: that gives the place up.
        drop(answer.send(place));
    }

    /// The initiator has logged in over a further connection, which may have brought commands already.
    pub(super) fn joined(&mut self, Joined { mut conn, agreed, seat }: Joined, now: Instant) {
        tracing::info!(peer = ?conn.peer(), cid = agreed.cid.0, "a connection of the initiator joins the session");
        self.recorder.begin(&mut conn, None);
        conn.tick(now);
        let id = self.front.add(conn, seat);
        self.feed(Event::DownstreamJoined(id, Box::new(agreed)), now);
        self.pump_downstream(id, now);
    }

    pub(super) fn close_line(&mut self, id: LineId) {
        if let Some(mut conn) = self.front.remove(id) {
            self.recorder.keep(&mut conn);
            self.close_in_order(conn);
        }
    }

    pub(super) fn close_downstream(&mut self) {
        for Line { conn, .. } in std::mem::take(&mut self.front.lines) {
            self.close_in_order(conn);
        }
    }
}
