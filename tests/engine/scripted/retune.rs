//! Settings that change while the session runs.

use super::*;
use braid::session::{Exhausted, Tuning};

const BUSY: u8 = 0x08;

/// What a plan begins with.
fn tuning() -> Tuning {
    let plan = plan(Fanout::Sessions, 2);
    Tuning {
        policy: plan.policy,
        queue_time: plan.queue_time,
        exhausted: plan.exhausted,
        ping_interval: plan.ping_interval,
        ping_timeout: plan.ping_timeout,
        silence_timeout: plan.silence_timeout,
        task_timeout: plan.task_timeout,
        reconnect: plan.reconnect,
        marginal: plan.marginal,
        hedge: plan.hedge,
        max_window: plan.max_window,
        memory_budget: plan.memory_budget,
    }
}

fn settled() -> Rig {
    let mut rig = Rig::sessions(2);
    rig.settle();
    rig
}

impl Rig {
    fn retune(&mut self, tuning: Tuning) {
        self.handle(Event::Retune(Box::new(tuning)));
    }
}

#[test]
fn what_is_due_by_a_shorter_time_is_due_at_once() {
    let mut rig = settled();
    rig.pass(SECOND * 3);
    rig.quiet();
    rig.retune(Tuning { ping_interval: SECOND, ..tuning() });
    for conn in [0, 1] {
        assert!(matches!(rig.sent(conn), Pdu::NopOut(_)), "connection {conn} has been silent for longer");
    }
    rig.retune(Tuning { ping_interval: SECOND, ping_timeout: SECOND * 2, ..tuning() });
    rig.pass(SECOND * 2);
    assert_eq!(rig.paths_down(), [0, 1], "unanswered");
}

#[test]
fn an_outage_is_given_up_by_the_new_patience_in_the_new_way() {
    let mut rig = settled();
    rig.cut(1);
    rig.cut(0);
    let read = rig.read(0, 8);
    rig.pass(SECOND * 10);
    rig.quiet();
    rig.retune(Tuning { queue_time: SECOND * 5, exhausted: Exhausted::Busy, ..tuning() });
    rig.told_status(read, BUSY);
    assert!(!rig.downstream_closed);
}

#[test]
fn paths_come_back_by_the_new_delays() {
    let mut rig = settled();
    rig.cut(1);
    for _ in 0..5 {
        while rig.opens.is_empty() {
            rig.pass(SECOND);
        }
        rig.refuse(Cause::Tcp("refused".into()));
    }
    rig.retune(Tuning { reconnect: (SECOND / 100, SECOND / 10), ..tuning() });
    rig.pass(SECOND / 10);
    rig.connect();
}

#[test]
fn a_smaller_window_takes_nothing_back_and_a_larger_one_opens() {
    let mut rig = settled();
    let before = rig.max_cmd_sn;
    rig.retune(Tuning { max_window: 1, ..tuning() });
    let first = rig.read(0, 1);
    let command = rig.next_command();
    rig.serve_read(command.0, &command.1);
    assert_eq!(rig.told_data().itt, first);
    rig.told_status(first, GOOD);
    assert_eq!(rig.max_cmd_sn, before, "what was admitted stays so, and no more is");
    rig.retune(tuning());
    let second = rig.read(0, 1);
    let command = rig.next_command();
    rig.serve_read(command.0, &command.1);
    assert_eq!(rig.told_data().itt, second);
    rig.told_status(second, GOOD);
    assert!(before.is_before(rig.max_cmd_sn));
}
