//! The workload: clean on a good disk, and never silent about a bad one.

use super::{initiator, options, soon, target};
use crate::lab::initiator::Initiator;
use crate::lab::workload::{Ended, Limit, Workload, WorkloadOptions, Wrong};
use std::time::Duration;

/// Small enough that operations overlap often.
fn crowded() -> WorkloadOptions {
    WorkloadOptions { region: Some((64, 1024)), ..WorkloadOptions::default() }
}

#[tokio::test]
async fn a_good_disk_is_clean() {
    let target = target(1, |_| ()).await;
    let mut initiator = initiator(&target).await;
    let mut workload = Workload::new(crowded(), &initiator).unwrap();
    let prepared = soon(workload.prepare(&mut initiator)).await;
    assert_eq!((prepared.bytes_written, prepared.is_clean()), (1024 * 512, true));
    assert!(workload.progress().take_completions().is_empty(), "nobody had looked");
    let report = soon(workload.run(&mut initiator, Limit::Operations(2000))).await;
    assert!(report.is_clean(), "{report:?}");
    assert_eq!((report.operations, report.latency.len()), (2000, 2000));
    let completions = workload.progress().take_completions();
    assert!(completions.len() == 2000 && completions.is_sorted_by_key(|done| done.at));
    assert_eq!(workload.progress().oldest(), None, "nothing is under way");
    assert!(report.flushes > 0 && report.bytes_read > 0 && report.bytes_written > 0);
    let verified = soon(workload.verify(&mut initiator)).await;
    assert_eq!((verified.bytes_read, verified.is_clean()), (1024 * 512, true));
    assert_eq!(target.read_medium(0, 0, 64).unwrap(), [0; 64 * 512]);
    let total = workload.progress().sample();
    assert_eq!(total.operations, prepared.operations + 2000 + verified.operations);
    assert_eq!((total.errors, total.wrong_blocks), (0, 0));
}

#[tokio::test]
async fn a_stopped_target_answers_nothing_and_goes_on_where_it_was() {
    let target = target(1, |_| ()).await;
    let mut initiator = initiator(&target).await;
    target.set_stopped(true);
    let asked = tokio::time::timeout(Duration::from_millis(50), initiator.read(0, 1)).await;
    assert!(asked.is_err(), "{asked:?}");
    target.set_stopped(false);
    assert_eq!(soon(initiator.complete()).await.unwrap().1.status, 0);
}

#[tokio::test]
async fn the_same_seed_makes_the_same_choices() {
    let target = target(1, |_| ()).await;
    let mut initiator = initiator(&target).await;
    let mut totals = Vec::new();
    for _ in 0..2 {
        let mut workload = Workload::new(crowded(), &initiator).unwrap();
        let report = soon(workload.run(&mut initiator, Limit::Operations(300))).await;
        totals.push((report.bytes_read, report.bytes_written, report.flushes));
    }
    assert_eq!(totals[0], totals[1]);
}

#[tokio::test]
async fn a_spoilt_block_is_found() {
    let target = target(1, |_| ()).await;
    let mut initiator = initiator(&target).await;
    let mut workload = Workload::new(crowded(), &initiator).unwrap();
    soon(workload.prepare(&mut initiator)).await;
    target.corrupt(0, 500);
    let report = soon(workload.verify(&mut initiator)).await;
    assert_eq!((report.wrong_blocks, report.errors), (1, 0));
    assert_eq!((report.wrong[0].lba, report.wrong[0].wrong.clone()), (500, Wrong::Spoilt));
    assert!(!report.is_clean());
}

#[tokio::test]
async fn a_lost_write_is_found() {
    let target = target(1, |_| ()).await;
    let mut initiator = initiator(&target).await;
    let options = WorkloadOptions { reads: 0, flushes: 0, sizes: (4096, 4096), ..crowded() };
    let mut workload = Workload::new(options, &initiator).unwrap();
    soon(workload.prepare(&mut initiator)).await;
    target.lose_writes(0, 1);
    let report = soon(workload.run(&mut initiator, Limit::Operations(1))).await;
    assert!(report.is_clean());
    let report = soon(workload.verify(&mut initiator)).await;
    assert_eq!(report.wrong_blocks, 8);
    assert!(matches!(&report.wrong[0].wrong, Wrong::Stale { found, legal } if !legal.contains(found)));
}

#[tokio::test]
async fn on_a_blank_disk_a_lost_write_is_found_and_the_rest_is_not_read() {
    let target = target(1, |_| ()).await;
    let mut initiator = initiator(&target).await;
    let options =
        WorkloadOptions { reads: 0, flushes: 0, sizes: (4096, 4096), blank: true, region: None, ..crowded() };
    let mut workload = Workload::new(options, &initiator).unwrap();
    assert!(soon(workload.run(&mut initiator, Limit::Operations(1))).await.is_clean());
    let report = soon(workload.verify(&mut initiator)).await;
    assert_eq!((report.operations, report.is_clean()), (1, true), "one piece");
    target.lose_writes(0, 1);
    assert!(soon(workload.run(&mut initiator, Limit::Operations(1))).await.is_clean());
    let report = soon(workload.verify(&mut initiator)).await;
    assert_eq!(report.wrong_blocks, 8);
    assert_eq!(report.wrong[0].wrong, Wrong::Spoilt, "zeros where something was written");
}

/// A write that was overwritten comes back: what a ghost write looks like.
#[tokio::test]
async fn an_old_content_is_found() {
    let target = target(1, |_| ()).await;
    let mut initiator = initiator(&target).await;
    let options =
        WorkloadOptions { region: Some((0, 8)), reads: 0, flushes: 0, sizes: (4096, 4096), ..crowded() };
    let mut workload = Workload::new(options, &initiator).unwrap();
    soon(workload.prepare(&mut initiator)).await;
    let old = target.read_medium(0, 0, 8).unwrap();
    soon(workload.run(&mut initiator, Limit::Operations(1))).await;
    assert!(soon(workload.verify(&mut initiator)).await.is_clean());
    initiator.write(0, old).await.unwrap();
    assert_eq!(soon(workload.verify(&mut initiator)).await.wrong_blocks, 8);
}

#[tokio::test]
async fn a_misplaced_block_is_found() {
    let target = target(1, |_| ()).await;
    let mut initiator = initiator(&target).await;
    let mut workload = Workload::new(crowded(), &initiator).unwrap();
    soon(workload.prepare(&mut initiator)).await;
    let other = target.read_medium(0, 600, 1).unwrap();
    initiator.write(601, other).await.unwrap();
    let report = soon(workload.verify(&mut initiator)).await;
    assert_eq!(report.wrong[0].wrong, Wrong::Misplaced { from: 600 });
}

/// What was in flight when the session died may be there or not; the rest must be.
#[tokio::test]
async fn a_lost_session_is_reported_and_survived() {
    let target = target(1, |options| options.target.delay = Duration::from_millis(2)).await;
    let mut first = initiator(&target).await;
    let mut workload = Workload::new(crowded(), &first).unwrap();
    soon(workload.prepare(&mut first)).await;
    let progress = workload.progress();
    let before = progress.sample().operations;
    let (report, ()) = soon(async {
        tokio::join!(workload.run(&mut first, Limit::Time(Duration::from_secs(3600))), async {
            while progress.sample().operations < before + 50 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            let session = target.sessions().remove(0);
            target.kick(session.connections[0].1);
        })
    })
    .await;
    assert!(matches!(report.ended, Some(Ended::Connection(_))) && report.errors > 0);
    let mut second = Initiator::connect(&options(&target)).await.unwrap();
    target.set_delay(Duration::ZERO);
    assert!(soon(workload.verify(&mut second)).await.is_clean());
    assert!(soon(workload.run(&mut second, Limit::Operations(500))).await.is_clean());
    assert!(soon(workload.verify(&mut second)).await.is_clean());
}

#[tokio::test]
async fn a_run_is_stopped_from_outside() {
    let target = target(1, |_| ()).await;
    let mut initiator = initiator(&target).await;
    let mut workload = Workload::new(crowded(), &initiator).unwrap();
    let progress = workload.progress();
    let (report, ()) = soon(async {
        tokio::join!(workload.run(&mut initiator, Limit::Time(Duration::from_secs(3600))), async {
            while progress.sample().operations < 20 {
                tokio::task::yield_now().await;
            }
            progress.stop();
        })
    })
    .await;
    assert!(report.is_clean() && report.operations >= 20);
}
