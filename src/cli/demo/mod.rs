//! `braid demo`: a link is cut under load, and nothing is lost.
//!
//! A RAM-disk target with a portal per path, a link of limited rate before each portal, Braid before the links, and a
//! workload that knows what every block must hold, all in this process and on loopback. The workload runs in thirds: all
//! links up; one link silent, as if its cable was pulled; healed again. Each third lasts as long as asked for, and longer
//! if what it is to show has not happened yet, so that a slow machine makes a slow demo and not a failed one.
//!
//! - `stage`: what is set up.
//! - `report`: what is shown, and whether it is good.

mod report;
mod stage;

use super::exit::Failure;
use super::flags::Demo;
use super::log;
use crate::config::LogFormat;
use crate::lab::initiator::Initiator;
use crate::lab::workload::{Limit, Progress, Report, Workload, WorkloadOptions};
use anyhow::{Context, anyhow};
use indicatif::{ProgressBar, ProgressStyle};
use report::{Outcome, Share};
use stage::Stage;
use std::io::IsTerminal;
use std::time::Duration;
use tokio::time::{Instant, MissedTickBehavior};

/// The link that is cut: that of the home session, the hardest to lose.
const CUT: usize = 0;

/// How much longer than asked for a third may last until it has shown what it is to show.
const PATIENCE: Duration = Duration::from_secs(60);

/// Time between two live lines on a terminal, and elsewhere.
const TICK: [Duration; 2] = [Duration::from_millis(500), Duration::from_secs(2)];

/// Commands that the workload keeps in flight.
const QUEUE_DEPTH: usize = 32;

/// Runs the demo.
///
/// # Errors
/// Something could not be set up, or not all was well.
pub fn demo(settings: &Demo) -> Result<(), Failure> {
    drop(log::start("error", LogFormat::Human));
    let runtime = tokio::runtime::Runtime::new().context("cannot start the runtime")?;
    runtime.block_on(async {
        let stage = Stage::set_up(settings.paths as usize).await?;
        println!("{}\n", stage.describe(CUT));
        let outcome = perform(&stage, Duration::from_secs(settings.seconds.into())).await?;
        print!("\n{}", outcome.summary());
        if settings.keep {
            keep(&stage).await?;
        }
        stage.tear_down().await;
        if outcome.complaints().is_empty() { Ok(()) } else { Err(anyhow!("the demo did not go well").into()) }
    })
}

/// The play in its three acts, and the reading of every block afterwards.
async fn perform(stage: &Stage, time: Duration) -> anyhow::Result<Outcome> {
    let mut initiator = Initiator::connect(&stage.initiator()).await.context("cannot log in to Braid")?;
    let options = WorkloadOptions { queue_depth: QUEUE_DEPTH, ..WorkloadOptions::default() };
    let mut workload = Workload::new(options, &initiator)?;
    let progress = workload.progress();
    // The acts end it; this is for the case that they do not.
    let limit = Limit::Time(time + PATIENCE * 4);
    let prepared = workload.prepare(&mut initiator).await;
    let play = tokio::spawn(async move {
        let ran = workload.run(&mut initiator, limit).await;
        (ran, workload, initiator)
    });
    let acts = acts(stage, &progress, time / 3).await;
    progress.stop();
    let (ran, mut workload, mut initiator) = play.await.context("the workload ended by itself")?;
    progress.resume();
    let verified = workload.verify(&mut initiator).await;
    initiator.logout().await.context("cannot log out")?;
    Ok(outcome(stage, &acts, [&prepared, &ran, &verified]))
}

/// What was seen from outside while the workload ran.
struct Acts {
    carried: Vec<Share>,
    moved: u64,
    after_heal: Option<u64>,
}

async fn acts(stage: &Stage, progress: &Progress, third: Duration) -> Acts {
    let mut screen = Screen::new();
    let link = stage.link(CUT);
    screen.show_until(stage, "all links up", third, || true).await;
    stage.cut(CUT).await;
    let hit = || stage.moved() > 0 || progress.sample().errors > 0;
    screen.show_until(stage, &format!("{link} cut"), third, hit).await;
    let before = stage.carried_by(CUT);
    stage.heal(CUT).await;
    let back = || stage.is_up(CUT) && stage.carried_by(CUT) > before;
    screen.show_until(stage, &format!("{link} healed"), third, back).await;
    screen.close();
    let after_heal = stage.is_up(CUT).then(|| stage.carried_by(CUT) - before);
    Acts { carried: stage.carried(), moved: stage.moved(), after_heal }
}

fn outcome(stage: &Stage, acts: &Acts, [prepared, ran, verified]: [&Report; 3]) -> Outcome {
    let all = [prepared, ran, verified];
    let mut errors = Vec::new();
    for report in all {
        if report.errors > 0 {
            errors.push(format!("{} commands failed", report.errors));
        }
        errors.extend(report.ended.iter().map(|ended| format!("{ended:?}")));
    }
    Outcome {
        ran: ran.elapsed,
        commands: ran.operations,
        transferred: ran.bytes_read + ran.bytes_written,
        verified: ran.bytes_read + verified.bytes_read,
        errors,
        wrong: all.iter().flat_map(|report| &report.wrong).map(|block| format!("{block:?}")).collect(),
        wrong_blocks: all.iter().map(|report| report.wrong_blocks).sum(),
        stall: ran.stall,
        slowest: Duration::from_micros(ran.latency.max()),
        carried: acts.carried.clone(),
        cut: stage.link(CUT).to_owned(),
        moved: acts.moved,
        after_heal: acts.after_heal,
    }
}

/// Leaves everything running until Ctrl-C.
async fn keep(stage: &Stage) -> Result<(), Failure> {
    println!("\n{}", stage.how_to_connect());
    tokio::signal::ctrl_c().await.context("cannot wait for Ctrl-C")?;
    Ok(())
}

/// The live line: redrawn on a terminal, one line after the other elsewhere.
struct Screen {
    bar: Option<ProgressBar>,
    tick: Duration,
}

impl Screen {
    fn new() -> Self {
        let [fast, slow] = TICK;
        if !std::io::stderr().is_terminal() {
            return Self { bar: None, tick: slow };
        }
        let bar = ProgressBar::new_spinner();
        if let Ok(style) = ProgressStyle::with_template("{spinner} {elapsed:>3} {msg}") {
            bar.set_style(style);
        }
        Self { bar: Some(bar), tick: fast }
    }

    /// Shows what happens for `time`, and on until it is `enough`, but not beyond the patience.
    async fn show_until(&mut self, stage: &Stage, act: &str, time: Duration, enough: impl Fn() -> bool) {
        let start = Instant::now();
        let mut ticks = tokio::time::interval_at(start + self.tick, self.tick);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut last = (start, stage.carried());
        if self.bar.is_none() {
            println!("{act}:");
        }
        loop {
            let rest = time.saturating_sub(start.elapsed());
            tokio::select! {
                _ = ticks.tick() => {
                    let now = (Instant::now(), stage.carried());
                    self.show(report::live(act, &last.1, &now.1, now.0 - last.0));
                    last = now;
                }
                () = tokio::time::sleep(rest), if !rest.is_zero() => {}
            }
            let elapsed = start.elapsed();
            if elapsed >= time && (enough() || elapsed >= time + PATIENCE) {
                return;
            }
        }
    }

    fn show(&self, line: String) {
        match &self.bar {
            Some(bar) => {
                bar.set_message(line);
                bar.tick();
            }
            None => println!("{line}"),
        }
    }

    fn close(self) {
        if let Some(bar) = self.bar {
            bar.finish();
        }
    }
}
