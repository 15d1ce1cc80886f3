//! Echoes of pings that wait behind other answers while these are still without numbers (istgt: one thread numbers the answers it
//! sends, another those that it puts into the first one's queue). What is queued meanwhile has its number before
//! the echo has, and is sent after it: the numbers of the two change places on the wire.

use super::Target;
use super::trigger::Trigger;
use crate::random::Random;
use braid::iscsi::{CmdSn, Itt, NopIn, Payload, Pdu, StatSn};
use std::time::{Duration, Instant};

/// An echo that waits, and until when if nothing comes that sends it on its way.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) until: Instant,
    echo: NopIn,
}

impl Target {
    /// Answers a ping.
    pub(super) fn echo(&mut self, conn: u32, itt: Itt, data: Payload) {
        if self.persona.odd_numbers {
            self.let_go(conn);
            // Not from the target's own stream, so that other targets stay what they were.
            let mut random = Random::new(u64::from(itt.0));
            let until = self.entered_at() + random.between(Duration::ZERO, Duration::from_millis(20));
            let echo = NopIn { itt, data, ..NopIn::default() };
            if let Some(conn) = self.conn_mut(conn) {
                conn.held = Some(Held { until, echo });
            }
            return;
        }
        self.reply(conn, true, |stat_sn, exp_cmd_sn, max_cmd_sn| {
            Pdu::NopIn(NopIn { itt, stat_sn, exp_cmd_sn, max_cmd_sn, data, ..NopIn::default() })
        });
    }

    /// An echo leaves after which nothing was queued.
    pub(super) fn let_go(&mut self, conn: u32) {
        if let Some(held) = self.conn_mut(conn).and_then(|c| c.held.take()) {
            self.reply(conn, true, |stat_sn, exp_cmd_sn, max_cmd_sn| {
                Pdu::NopIn(NopIn { stat_sn, exp_cmd_sn, max_cmd_sn, ..held.echo })
            });
        }
    }

    /// An echo that was held leaves before an answer, with the number after that one's. Returns whether there is one.
    pub(super) fn overtake(&mut self, conn: u32, stat_sn: StatSn, window: (CmdSn, CmdSn)) -> Option<Pdu> {
        let held = self.conn_mut(conn)?.held.take()?;
        self.count(Trigger::NumberOvertaken);
        let (exp_cmd_sn, max_cmd_sn) = window;
        Some(Pdu::NopIn(NopIn { stat_sn: stat_sn.next(), exp_cmd_sn, max_cmd_sn, ..held.echo }))
    }
}
