//! One link after the other is cut and healed, and the longest gap of each cut told.

use std::time::{Duration, Instant};

use anyhow::Result;
use clap::ValueEnum;

use crate::gaps::{Cycle, FAILOVER, Spread, class_heads, rule};
use crate::ground::{Ground, HEADS, Harm, Plan};
use crate::net::Cut;
use crate::trouble::{Trouble, pause};

/// A command that takes longer is stuck.
const OLD: Duration = Duration::from_secs(1);
/// How long a stopped target is stopped.
const STOP_MS: u64 = 5000;

/// What happens.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum How {
    /// Both ends get a TCP reset.
    Reset,
    /// Nothing, by the same commands: what these alone cost on this machine.
    Sham,
    /// Packets vanish.
    Drop,
    /// Packets to the initiator vanish.
    DropIn,
    /// Packets to the target vanish.
    DropOut,
    /// The target is stopped for 5 s.
    Stop,
    /// The target is killed and started again.
    Kill,
    /// The link is up and down again and again, silently.
    Flap,
}

impl How {
    fn name(self) -> &'static str {
        match self {
            Self::Reset => "reset",
            Self::Sham => "sham",
            Self::Drop => "drop",
            Self::DropIn => "drop in",
            Self::DropOut => "drop out",
            Self::Stop => "stop 5 s",
            Self::Kill => "kill",
            Self::Flap => "flap",
        }
    }

    fn trouble(self, link: usize) -> Trouble {
        match self {
            Self::Reset => Trouble::Link(link, Cut::Reset),
            Self::Sham => Trouble::Link(link, Cut::Loss(0)),
            Self::Drop => Trouble::Link(link, Cut::Drop),
            Self::DropIn => Trouble::Link(link, Cut::DropIn),
            Self::DropOut => Trouble::Link(link, Cut::DropOut),
            Self::Stop => Trouble::Stopped,
            Self::Kill => Trouble::Restarted,
            Self::Flap => Trouble::Flapping(link, Cut::Drop),
        }
    }

    fn needs_a_process(self) -> bool {
        matches!(self, Self::Stop | Self::Kill)
    }
}

/// All that was seen of one configuration.
struct Row {
    heads: String,
    cycles: Vec<Cycle>,
    harm: Harm,
    losses: f64,
    moved: f64,
}

/// Runs every configuration with every trouble; whether nothing went wrong at the initiator.
pub(crate) fn run(plans: &[Plan], hows: &[How], cuts: usize, down: u64) -> Result<bool> {
    let mut rows = Vec::new();
    for plan in plans {
        for how in hows {
            if how.needs_a_process() && !plan.kind.is_process() {
                eprintln!("{} is no process: no {}", plan.kind.name(), how.name());
                continue;
            }
            rows.push(row(plan, *how, cuts, Duration::from_secs(down))?);
        }
    }
    report(plans, &rows)?;
    Ok(rows.iter().all(|row| row.harm.well))
}

fn row(plan: &Plan, how: How, cuts: usize, down: Duration) -> Result<Row> {
    let mut ground = Ground::new(plan, plan.net());
    ground.until_carrying()?;
    let heads = format!("{}| {} ", plan.cells(), how.name());
    let mut last = ground.load().progress().take_completions().pop();
    let mut cycles = Vec::new();
    for cut in 0..cuts {
        let (began, healed) = cycle(&mut ground, how.trouble(cut % plan.links), down)?;
        let completions: Vec<_> =
            last.into_iter().chain(ground.load().progress().take_completions()).collect();
        last = completions.last().copied();
        let cycle = Cycle::new(&completions, began, healed);
        let Cycle { undisturbed, failover, cut: later, healed } = cycle;
        eprintln!(
            "{heads}| {} of {cuts}: before {:.1?}, first {:.1?}, later {:.1?}, healed {:.1?}",
            cut + 1,
            undisturbed.gap,
            failover.gap,
            later.gap,
            healed.gap
        );
        cycles.push(cycle);
    }
    let end = ground.metrics();
    let (losses, moved) = (end.losses(), end.sum("braid_path_commands_moved_total", &[]));
    Ok(Row { heads, cycles, harm: ground.finish()?, losses, moved })
}

/// One trouble from begin to end, and until all paths carry again; when it began and ended. A link stays cut until no command is
/// [`OLD`]: a load that goes on over other links hides commands that are stuck.
fn cycle(ground: &mut Ground, trouble: Trouble, down: Duration) -> Result<(Instant, Instant)> {
    // As long as what is compared with it.
    pause(u64::try_from(FAILOVER.as_millis()).expect("small"));
    let began = Instant::now();
    ground.begin(trouble);
    match trouble {
        Trouble::Link(..) | Trouble::AllLinks(_) => {
            let stuck = || ground.load().progress().oldest().is_some_and(|since| since.elapsed() > OLD);
            ground.until("no command is stuck", || began.elapsed() >= down && !stuck())?;
        }
        Trouble::Stopped => pause(STOP_MS),
        Trouble::Flapping(..) | Trouble::Restarted => {}
    }
    let healed = Instant::now();
    ground.end(trouble);
    ground.until_carrying()?;
    Ok((began, healed))
}

fn report(plans: &[Plan], rows: &[Row]) -> Result<()> {
    let Some(work) = plans.first().map(|plan| plan.work) else { return Ok(()) };
    println!(
        "\nOperations of {} KiB, {} under way, {} % reads, over {} MiB. Milliseconds: median, 99th percentile and maximum \
         over the cuts. Gap: longest time between two completions, of those that began within {} ms of the cut, later \
         while it lasted, after healing, and in as many undisturbed milliseconds as first. Slowest: longest time of a command.\n",
        work.size.0 >> 10,
        work.depth,
        work.reads,
        work.region >> 20,
        FAILOVER.as_millis()
    );
    let three = |name: &str| format!("| {name} p50 | p99 | max ");
    let heads = format!(
        "{HEADS}| trouble | cuts {}{}{}{}{}| connections lost | moved | errors | wrong blocks |",
        three("gap"),
        three("gap later"),
        three("slowest"),
        three("gap after healing"),
        three("gap undisturbed")
    );
    println!("{heads}\n{}", rule(heads.trim_end_matches('|')));
    for row in rows {
        let spread = |of: fn(&Cycle) -> Duration| Spread::new(row.cycles.iter().map(of));
        let cells = [
            spread(|cycle| cycle.failover.gap)?,
            spread(|cycle| cycle.cut.gap)?,
            spread(|cycle| cycle.failover.took.max(cycle.cut.took))?,
            spread(|cycle| cycle.healed.gap)?,
            spread(|cycle| cycle.undisturbed.gap)?,
        ]
        .map(|spread| spread.cells())
        .concat();
        let Row { heads, cycles, harm, losses, moved } = row;
        println!(
            "{heads}| {} {cells}| {losses} | {moved} | {} | {} |",
            cycles.len(),
            harm.errors,
            harm.wrong
        );
    }
    let heads = format!("{HEADS}| trouble {}|", class_heads());
    println!(
        "\nHow many cuts had a longest gap that began so soon of\n\n{heads}\n{}",
        rule(heads.trim_end_matches('|'))
    );
    for row in rows {
        println!(
            "{}{}|",
            row.heads,
            Spread::new(row.cycles.iter().map(|cycle| cycle.failover.gap))?.classes()
        );
    }
    Ok(())
}
