//! What only looks like a dead path, and must not cost one: a target that does nothing for 5 s while its kernel is well, a
//! link that loses 2 % of its packets, one on which they take up to 50 ms, and send buffers that stay full.

use std::time::{Duration, Instant};

use anyhow::Result;

use crate::gaps::{Spread, rule};
use crate::ground::{Ground, HEADS, Harm, Kind, Plan, Work};
use crate::net::{Cut, Net};
use crate::trouble::{Trouble, pause};

const STOP_MS: u64 = 5000;
/// Between two stops, and the step in which the rest is watched.
const STEP_MS: u64 = 2000;
const JITTER: Duration = Duration::from_millis(50);
const LOSS: u32 = 50;
/// Writes that fill every buffer of a target that does not read.
const FILLING: Work = Work { depth: 32, reads: 0, size: (1 << 20, 1 << 20), region: 256 << 20 };

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Alarm {
    Stop,
    Full,
    Loss,
    Jitter,
}

impl Alarm {
    const ALL: [Self; 4] = [Self::Stop, Self::Full, Self::Loss, Self::Jitter];

    fn name(self) -> &'static str {
        match self {
            Self::Stop => "target stopped for 5 s",
            Self::Full => "send buffers full for 5 s",
            Self::Loss => "2 % loss on a link",
            Self::Jitter => "50 ms jitter on a link",
        }
    }

    /// Whether it can be done to such a target: LIO's links end in the guest.
    fn fits(self, kind: Kind) -> bool {
        match self {
            Self::Stop | Self::Full => kind.is_process(),
            Self::Loss => true,
            Self::Jitter => kind != Kind::Lio,
        }
    }
}

/// Runs everything for an equal part of the time per configuration; whether nothing went wrong at the initiator.
pub(crate) fn run(plans: &[Plan], minutes: f64) -> Result<bool> {
    let mut rows = Vec::new();
    let mut well = true;
    for plan in plans {
        let alarms: Vec<_> = Alarm::ALL.into_iter().filter(|alarm| alarm.fits(plan.kind)).collect();
        let time = Duration::from_secs_f64(minutes * 60.0).div_f64(alarms.len() as f64);
        for alarm in alarms {
            let (row, harm) = watch(plan, alarm, time)?;
            eprintln!("{row}");
            rows.push(row);
            well &= harm.well;
        }
    }
    let heads = format!(
        "{HEADS}| what | s | operations | longest gap ms | **connections lost** | errors | wrong blocks |"
    );
    println!("\n{heads}\n{}\n{}", rule(heads.trim_end_matches('|')), rows.join("\n"));
    Ok(well)
}

fn watch(plan: &Plan, alarm: Alarm, time: Duration) -> Result<(String, Harm)> {
    let net = if alarm == Alarm::Jitter { Net::with_jitter(plan.links, JITTER) } else { plan.net() };
    if alarm == Alarm::Full {
        net.squeeze();
    }
    let work = if alarm == Alarm::Full { FILLING } else { plan.work };
    let mut ground = Ground::new(&Plan { work, ..*plan }, net);
    ground.until_carrying()?;
    let (before, began) = (ground.metrics().losses(), Instant::now());
    let first = ground.load().progress().sample().operations;
    drop(ground.load().progress().take_completions());
    let mut gaps = Vec::new();
    if alarm == Alarm::Loss {
        ground.begin(Trouble::Link(0, Cut::Loss(LOSS)));
    }
    while began.elapsed() < time {
        if matches!(alarm, Alarm::Stop | Alarm::Full) {
            ground.begin(Trouble::Stopped);
            pause(STOP_MS);
            ground.end(Trouble::Stopped);
        }
        pause(STEP_MS);
        let completions = ground.load().progress().take_completions();
        gaps.extend(completions.windows(2).map(|pair| pair[1].at - pair[0].at).max());
    }
    if alarm == Alarm::Loss {
        ground.end(Trouble::Link(0, Cut::Loss(LOSS)));
    }
    ground.until_carrying()?;
    let seconds = began.elapsed().as_secs();
    let operations = ground.load().progress().sample().operations - first;
    let losses = ground.metrics().losses() - before;
    let harm = ground.finish()?;
    let Harm { errors, wrong, .. } = harm;
    let (cells, gap) = (plan.cells(), Spread::new(gaps)?.at(1.0));
    let name = alarm.name();
    Ok((
        format!("{cells}| {name} | {seconds} | {operations} | {gap:.1} | {losses} | {errors} | {wrong} |"),
        harm,
    ))
}
