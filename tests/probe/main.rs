//! The probe and discovery against the lab's RAM target, and against a target that can be told to misbehave.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod fake;

use braid::lab::target::{Options, RamTarget, TargetOptions};
use braid::login::SessionParams;
use braid::proxy::dial::{Route, Timing};
use braid::proxy::discover::{DiscoverError, discover};
use braid::proxy::probe::{Patience, ProbePlan, probe, settle, throwaway_isid};
use braid::proxy::verdict::{Loss, Order, Second, StateFile, Verdict};
use fake::{AfterLoss, Gap, Manners};
use std::net::SocketAddr;
use std::sync::Mutex;
use std::time::Duration;

const INITIATOR: &str = "iqn.2026-01.org.braid:probe";

/// Longer than anything here takes: where it runs out, something is wrong.
const LONG: Duration = Duration::from_secs(30);

/// Where the target must stay silent, any time will do.
const SHORT: Duration = Duration::from_millis(50);

fn plan(target: &str, portals: [SocketAddr; 2], patience: Patience) -> ProbePlan {
    ProbePlan {
        routes: portals.map(|portal| Route::to(portal.to_string())),
        timing: Timing::default(),
        target: target.to_owned(),
        initiator: INITIATOR.to_owned(),
        isid: throwaway_isid(),
        patience,
    }
}

/// For targets that are expected to behave.
const BRISK: Patience = Patience { hold: SHORT, loss: Duration::from_millis(200), answer: LONG };

async fn lab(options: TargetOptions) -> (RamTarget, [SocketAddr; 2]) {
    let target = RamTarget::start(options).await.unwrap();
    let portals = <[SocketAddr; 2]>::try_from(target.addresses()).unwrap();
    (target, portals)
}

#[tokio::test]
async fn the_ram_target_is_fit_for_several_connections() {
    let name = Options::default().name;
    let (target, portals) = lab(TargetOptions::loopback(2)).await;
    let report = probe(&plan(&name, portals, BRISK)).await.unwrap();
    let verdict = report.verdict;
    assert_eq!((verdict.order, verdict.loss), (Order::Held, Loss::Rejoins));
    assert_eq!((verdict.second.clone(), verdict.max_connections), (Second::Joined, 8));
    assert_eq!(verdict.product.tpgt, Some(1));
    assert!(!verdict.product.vendor.is_empty() && !verdict.product.product.is_empty());
    assert!(verdict.mcs_ok() && report.clean_logout);
    assert!(target.sessions().is_empty(), "nothing stays behind: {:?}", target.sessions());
}

#[tokio::test]
async fn one_portal_will_do() {
    let name = Options::default().name;
    let (_target, [portal, _]) = lab(TargetOptions::loopback(2)).await;
    let report = probe(&plan(&name, [portal, portal], BRISK)).await.unwrap();
    assert!(report.verdict.mcs_ok());
}

#[tokio::test]
async fn a_target_with_one_connection_is_not_asked_for_more() {
    let mut options = TargetOptions::loopback(2);
    options.target.limits = SessionParams::default();
    let name = options.target.name.clone();
    let (_target, portals) = lab(options).await;
    let report = probe(&plan(&name, portals, BRISK)).await.unwrap();
    assert_eq!(report.verdict.second, Second::NotAllowed);
    assert!(!report.verdict.mcs_ok() && report.clean_logout);
}

#[tokio::test]
async fn r5_connections_do_not_span_portal_groups() {
    let mut options = TargetOptions::loopback(2);
    options.listen.last_mut().unwrap().tpgt = 2;
    let name = options.target.name.clone();
    let (_target, portals) = lab(options).await;
    let report = probe(&plan(&name, portals, BRISK)).await.unwrap();
    assert!(
        matches!(report.verdict.second, Second::Refused(_) | Second::Unreachable(_) | Second::OtherGroup(2)),
        "{report:?}"
    );
    assert!(!report.verdict.mcs_ok());
}

#[tokio::test]
async fn a_verdict_is_remembered_as_long_as_the_product_is_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.json");
    let name = Options::default().name;
    let (_target, portals) = lab(TargetOptions::loopback(2)).await;
    let plan = plan(&name, portals, BRISK);
    let verdict = settle(&plan, &Mutex::new(StateFile::load(&path))).await.unwrap();
    assert!(verdict.mcs_ok());

    // What the file says counts, so no second probe was made.
    let other = Verdict { loss: Loss::Shrinks, ..verdict.clone() };
    StateFile::load(&path).remember(other.clone()).unwrap();
    assert_eq!(settle(&plan, &Mutex::new(StateFile::load(&path))).await.unwrap(), other);

    // Another firmware is another target.
    let mut older = other;
    older.product.revision = "0".to_owned();
    StateFile::load(&path).remember(older).unwrap();
    assert_eq!(settle(&plan, &Mutex::new(StateFile::load(&path))).await.unwrap(), verdict);
}

#[tokio::test]
async fn a_target_that_cannot_be_logged_in_to_gets_no_verdict() {
    let (_target, portals) = lab(TargetOptions::loopback(2)).await;
    let state = Mutex::new(StateFile::in_memory());
    assert!(settle(&plan("iqn.nobody", portals, BRISK), &state).await.is_err());
}

async fn verdict_on(manners: Manners, patience: Patience) -> (Verdict, bool) {
    let portal = fake::start(manners).await;
    let report = probe(&plan("iqn.fake", [portal, portal], patience)).await.unwrap();
    (report.verdict, report.clean_logout)
}

#[tokio::test]
async fn a_good_fake_is_good() {
    let (verdict, clean) = verdict_on(Manners::default(), BRISK).await;
    assert!(verdict.mcs_ok() && clean, "{verdict:?}");
}

#[tokio::test]
async fn a_target_that_runs_commands_as_they_arrive() {
    let patient = Patience { hold: LONG, ..BRISK };
    let (verdict, _) = verdict_on(Manners { gap: Gap::Run, ..Manners::default() }, patient).await;
    assert_eq!((verdict.order, verdict.loss), (Order::RanEarly, Loss::Unknown));
    assert!(!verdict.mcs_ok());
}

#[tokio::test]
async fn a_target_that_closes_over_a_gap() {
    let patient = Patience { hold: LONG, ..BRISK };
    let (verdict, clean) = verdict_on(Manners { gap: Gap::Close, ..Manners::default() }, patient).await;
    assert_eq!(verdict.order, Order::Closed);
    assert!(!verdict.mcs_ok() && !clean);
}

#[tokio::test]
async fn a_target_that_forgets_what_it_holds() {
    let patience = Patience { answer: Duration::from_secs(1), ..BRISK };
    let (verdict, clean) = verdict_on(Manners { gap: Gap::Forget, ..Manners::default() }, patience).await;
    assert_eq!(verdict.order, Order::Stuck);
    assert!(!verdict.mcs_ok() && !clean, "no logout with a command outstanding");
}

#[tokio::test]
async fn a_target_that_ends_the_session_with_a_connection() {
    let patience = Patience { loss: LONG, ..BRISK };
    let manners = Manners { after_loss: AfterLoss::EndSession, ..Manners::default() };
    let (verdict, _) = verdict_on(manners, patience).await;
    assert_eq!((verdict.order, verdict.loss), (Order::Held, Loss::EndsSession));
    assert!(verdict.mcs_ok(), "it is known how a connection is lost");
}

#[tokio::test]
async fn a_target_that_falls_silent_after_a_loss() {
    let patience = Patience { loss: LONG, answer: Duration::from_secs(1), ..BRISK };
    let manners = Manners { after_loss: AfterLoss::Silence, ..Manners::default() };
    let (verdict, clean) = verdict_on(manners, patience).await;
    assert_eq!(verdict.loss, Loss::Stuck);
    assert!(!verdict.mcs_ok() && !clean);
}

#[tokio::test]
async fn a_target_that_does_not_take_a_connection_back() {
    let manners = Manners { after_loss: AfterLoss::RefuseJoin, ..Manners::default() };
    let (verdict, clean) = verdict_on(manners, BRISK).await;
    assert_eq!(verdict.loss, Loss::Shrinks);
    assert!(!verdict.mcs_ok() && clean);
}

#[tokio::test]
async fn what_shows_once_only_does_not_speak_against_a_target() {
    let patience = Patience { answer: Duration::from_secs(1), ..BRISK };
    for sessions in [1, 2] {
        let forgets = Manners { gap: Gap::Forget, sessions, ..Manners::default() };
        assert_eq!(verdict_on(forgets, patience).await.0.mcs_ok(), sessions == 1);
        let shrinks = Manners { after_loss: AfterLoss::RefuseJoin, sessions, ..Manners::default() };
        assert_eq!(verdict_on(shrinks, patience).await.0.mcs_ok(), sessions == 1);
    }
}

#[tokio::test]
async fn a_target_that_grants_connections_and_refuses_them() {
    let (verdict, clean) = verdict_on(Manners { most: 1, ..Manners::default() }, BRISK).await;
    assert_eq!(verdict.second, Second::Refused("status 02/06".to_owned()));
    assert!(!verdict.mcs_ok() && clean);
}

async fn ask(portal: SocketAddr) -> Result<Vec<(String, Vec<(String, u16)>)>, DiscoverError> {
    let route = Route::to(portal.to_string());
    let timing = Timing { login: Duration::from_secs(5), ..Timing::default() };
    let targets = discover(&route, INITIATOR, throwaway_isid(), &timing).await?;
    Ok(targets.into_iter().map(|target| (target.name, target.portals)).collect())
}

#[tokio::test]
async fn r231_a_portal_tells_of_all_portals() {
    let (_target, portals) = lab(TargetOptions::loopback(2)).await;
    let expected = portals.map(|portal| (portal.to_string(), 1)).to_vec();
    let [first, _] = portals;
    assert_eq!(ask(first).await.unwrap(), [(Options::default().name, expected)]);
}

#[tokio::test]
async fn r61_r237_r238_an_answer_in_parts_is_put_together() {
    let text = b"TargetName=iqn.a\0TargetAddress=192.0.2.1,2\0TargetName=iqn.b\0".to_vec();
    let portal = fake::start(Manners { targets: text, ..Manners::default() }).await;
    let expected = [
        ("iqn.a".to_owned(), vec![("192.0.2.1:3260".to_owned(), 2)]),
        ("iqn.b".to_owned(), vec![(portal.to_string(), 1)]),
    ];
    assert_eq!(ask(portal).await.unwrap(), expected);
}

#[tokio::test]
async fn an_answer_without_end_is_given_up() {
    let long = b"TargetName=iqn.a\0".repeat(100_000);
    let portal = fake::start(Manners { targets: long, part: 8192, ..Manners::default() }).await;
    assert!(matches!(ask(portal).await, Err(DiscoverError::TooLong)));
    let portal =
        fake::start(Manners { targets: b"TargetName=iqn.a\0".to_vec(), part: 0, ..Manners::default() }).await;
    let timing = Timing { login: Duration::from_millis(200), ..Timing::default() };
    let asked = discover(&Route::to(portal.to_string()), INITIATOR, throwaway_isid(), &timing).await;
    assert!(matches!(asked, Err(DiscoverError::Slow)), "parts that hold nothing");
}

#[tokio::test]
async fn an_answer_that_cannot_be_read_is_an_error() {
    let portal = fake::start(Manners { targets: b"no key".to_vec(), ..Manners::default() }).await;
    assert!(matches!(ask(portal).await, Err(DiscoverError::Unreadable(_))));
}
