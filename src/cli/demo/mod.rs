//! `braid demo`: a link is cut under load, and nothing is lost.
//!
//! A RAM-disk target with a portal per path, a link of limited rate before each portal, Braid before the links, and a
//! workload that knows what every block must hold, all in this process and on loopback. The workload runs in thirds: all
//! links up; one link silent, as if its cable was pulled; healed again. Each third lasts as long as asked for, and longer
//! if what it is to show has not happened yet, so that a slow machine makes a slow demo and not a failed one.
//!
//! What is set up is `stage`'s, which drills in the lab use too.
//!
//! - `report`: what is shown in the end, and whether it is good.

mod report;

use super::exit::Failure;
use super::flags::Demo;
use super::log;
use super::screen::{Screen, Share, bytes, live};
use super::stage::{Laid, Plan, Stage};
use crate::lab::initiator::Initiator;
use crate::lab::links::Cut;
use crate::lab::workload::{Limit, Progress, Report, Workload, WorkloadOptions};
use anyhow::{Context, anyhow};
use report::Outcome;
use std::time::Duration;
use tokio::time::{Instant, MissedTickBehavior};

/// The link that is cut: that of the home session, the hardest to lose.
const CUT: usize = 0;

/// How much longer than asked for a third may last until it has shown what it is to show.
const PATIENCE: Duration = Duration::from_secs(60);

/// Commands that the workload keeps in flight.
const QUEUE_DEPTH: usize = 32;

/// Runs the demo.
///
/// # Errors
/// Something could not be set up, or not all was well.
pub fn demo(settings: &Demo) -> Result<(), Failure> {
    log::errors();
    let runtime = tokio::runtime::Runtime::new().context("cannot start the runtime")?;
    runtime.block_on(async {
        let plan = Plan::of(settings.paths as usize);
        let stage = Stage::set_up(&plan, Laid::new(&plan).await?).await?;
        println!("{}\n", describe(&stage));
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
    let acts = acts(stage, &progress, time / 3).await?;
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

async fn acts(stage: &Stage, progress: &Progress, third: Duration) -> anyhow::Result<Acts> {
    let screen = Screen::spinner();
    let link = stage.link(CUT);
    let wire = stage.link_named(link).context("no link to cut")?;
    show_until(&screen, stage, "all links up", third, || true).await;
    wire.cut(Cut::Drop).await?;
    let hit = || stage.moved() > 0 || progress.sample().errors > 0;
    show_until(&screen, stage, &format!("{link} cut"), third, hit).await;
    let before = stage.carried_by(CUT);
    wire.heal().await?;
    let back = || stage.is_up(CUT) && stage.carried_by(CUT) > before;
    show_until(&screen, stage, &format!("{link} healed"), third, back).await;
    screen.close();
    let after_heal = stage.is_up(CUT).then(|| stage.carried_by(CUT) - before);
    Ok(Acts { carried: stage.carried(), moved: stage.moved(), after_heal })
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

fn describe(stage: &Stage) -> String {
    let link = stage.link(CUT);
    format!(
        "A RAM disk with {} portals, a link of {}/s to each, Braid on {}, one initiator connection.\n\
         A third of the way, {link} goes silent as if unplugged; Braid is set to notice that after at most {} ms.",
        stage.paths(),
        bytes(Plan::RATE),
        stage.address(),
        (Plan::PING_INTERVAL + Plan::PING_TIMEOUT).as_millis(),
    )
}

fn how_to_connect(stage: &Stage) -> String {
    let (name, address, admin) = (stage.name(), stage.address(), stage.admin());
    let quoted = name.replace(':', "%3A");
    format!(
        "Everything keeps running until Ctrl-C. Connect to it with one of\n\
         \n  iscsi-ls -s iscsi://{address}\
         \n  qemu-img info iscsi://{address}/{quoted}/0\
         \n  iscsiadm -m discovery -t sendtargets -p {address}\
         \n  iscsiadm -m node -T {name} -p {address} --login\
         \n\nand look at http://{admin}/ in a browser, or at http://{admin}/metrics"
    )
}

/// Leaves everything running until Ctrl-C.
async fn keep(stage: &Stage) -> Result<(), Failure> {
    println!("\n{}", how_to_connect(stage));
    tokio::signal::ctrl_c().await.context("cannot wait for Ctrl-C")?;
    Ok(())
}

/// Shows what happens for `time`, and on until it is `enough`, but not beyond the patience.
async fn show_until(screen: &Screen, stage: &Stage, act: &str, time: Duration, enough: impl Fn() -> bool) {
    let start = Instant::now();
    let mut ticks = tokio::time::interval_at(start + screen.tick(), screen.tick());
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut last = (start, stage.carried());
    if screen.is_plain() {
        println!("{act}:");
    }
    loop {
        let rest = time.saturating_sub(start.elapsed());
        tokio::select! {
            _ = ticks.tick() => {
                let now = (Instant::now(), stage.carried());
                screen.show(live(act, &last.1, &now.1, now.0 - last.0));
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
