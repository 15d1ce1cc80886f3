//! A second initiator, straight at the target, that resets, reserves and preempts while the first one carries load: what becomes
//! of the first one behind Braid is what becomes of it without Braid. The steps are in `neighbour.sh`.

use std::time::Duration;

use crate::initiator::Ground;
use crate::target::Kind;
use crate::wait::HEAVY;

const STEPS: &str = include_str!("neighbour.sh");
const LIMIT: Duration = Duration::from_secs(240);

fn same_through_and_direct(kind: Kind, preempts: &str) {
    let _place = HEAVY.enter();
    let said = Ground::new(kind).play(LIMIT, &format!("preempts={preempts}\n{STEPS}"));
    let facts =
        |said: &str| -> String { said.split_inclusive('\n').filter(|line| !line.starts_with('#')).collect() };
    let (direct, through) = (facts(&said.direct), facts(&said.through));
    let well = direct == through && !direct.contains("not: ");
    assert!(well, "with the first one behind Braid:\n{}\nwithout:\n{}", said.through, said.direct);
}

#[test]
fn tgt() {
    same_through_and_direct(Kind::Tgt, "yes");
}

/// LIO waits in a busy loop for whoever uses a registration that PREEMPT removes. That is for ever where the guest has one
/// processor and the other one sleeps, which it does while it writes the file with the registrations.
#[test]
fn lio() {
    same_through_and_direct(Kind::LioThin, "no");
}
