//! sg3-utils on the kernel's initiator, through Braid with four sessions and straight: what they say must be equal, line by
//! line. The steps are in `sg.sh`, those for a unit behind two target port groups in `sg-groups.sh`.

use std::fmt::Write as _;
use std::time::Duration;

use crate::initiator::Ground;
use crate::target::Kind;
use crate::wait::HEAVY;

const STEPS: &str = include_str!("sg.sh");
const STEPS_WITH_GROUPS: &str = include_str!("sg-groups.sh");
const LIMIT: Duration = Duration::from_secs(240);

/// At least so many steps are done.
fn through_equals_direct(kind: Kind, script: &str, so_many: usize) {
    let _place = HEAVY.enter();
    let said = Ground::new(kind).play(LIMIT, script);
    let (direct, through) = (steps(&said.direct), steps(&said.through));
    assert!(direct.len() > so_many, "the steps were not done:\n{}", said.direct);
    let mut report = String::new();
    for (n, (expected, found)) in direct.iter().zip(&through).enumerate() {
        if expected != found {
            writeln!(report, "step {n}, direct:\n{expected}through Braid:\n{found}").expect("string");
        }
    }
    assert!(report.is_empty() && direct.len() == through.len(), "through Braid is not as direct:\n{report}");
}

/// Each command with what it said, without what differs from target to target and from login to login, and without the
/// generation of registrations: Braid's own sessions are registered too.
fn steps(said: &str) -> Vec<String> {
    // The name of a target, and what LIO makes of it; the kernel's ISID.
    let chance =
        [":disk-", "serial number: disk", "FILEIO:disk", "0x6001405", "0x00023d", "PR generation=0x"];
    let text = chance.iter().fold(said.to_owned(), |text, before| without_number(&text, before));
    text.split_inclusive("\n").fold(Vec::new(), |mut steps: Vec<String>, line| {
        match steps.last_mut() {
            Some(step) if !line.starts_with('$') => step.push_str(line),
            _ => steps.push(line.to_owned()),
        }
        steps
    })
}

/// Takes out the hexadecimal digits behind `before`, wherever it is.
fn without_number(text: &str, before: &str) -> String {
    let mut parts = text.split(before);
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |text, part| text + before + part.trim_start_matches(|c: char| c.is_ascii_hexdigit()))
}

#[test]
fn tgt() {
    through_equals_direct(Kind::Tgt, STEPS, 300);
}

#[test]
fn lio() {
    through_equals_direct(Kind::LioThin, STEPS, 300);
}

#[test]
fn lio_groups() {
    through_equals_direct(Kind::LioGroups, STEPS_WITH_GROUPS, 80);
}
