//! The lab's parts against each other, over loopback.

mod chaos;
mod cutting;
mod protocol;
mod recovery;
mod transfer;
mod units;
mod working;

use super::initiator::{Initiator, InitiatorOptions, RawConnection};
use super::target::{RamTarget, TargetOptions};
use crate::iscsi::{Cdb, Cid, CmdSn, Isid, Itt, ScsiCommand, StatSn, Tsih};
use crate::login::{LoginKind, LoginPlan, Negotiated, SessionParams};
use std::future::Future;
use std::time::Duration;

/// A target with some portals, changed as the test wants.
async fn target(portals: usize, change: impl FnOnce(&mut TargetOptions)) -> RamTarget {
    let mut options = TargetOptions::loopback(portals);
    change(&mut options);
    RamTarget::start(options).await.unwrap()
}

fn options(target: &RamTarget) -> InitiatorOptions {
    InitiatorOptions::new(target.addresses()[0].to_string(), "iqn.2026-01.org.braid:lab")
}

async fn initiator(target: &RamTarget) -> Initiator {
    Initiator::connect(&options(target)).await.unwrap()
}

/// A raw connection through a portal, logged in with this plan.
async fn raw(target: &RamTarget, portal: usize, plan: LoginPlan) -> (RawConnection, Negotiated) {
    let mut raw = RawConnection::connect(&target.addresses()[portal].to_string()).await.unwrap();
    let negotiated = raw.login(plan).await.unwrap();
    (raw, negotiated)
}

/// A leading login that offers several connections.
fn leading(target: &RamTarget, isid: u8) -> LoginPlan {
    let mut plan = options(target).plan();
    plan.isid = Isid([0x80, 0, 0, 0, 0, isid]);
    plan.offer = SessionParams { max_connections: 4, ..plan.offer };
    plan
}

fn joining(first: &LoginPlan, session: &Negotiated, cid: u16) -> LoginPlan {
    let kind = LoginKind::Joining { session: session.session.clone(), tsih: session.tsih };
    LoginPlan { kind, cid: Cid(cid), ..first.clone() }
}

/// A command without data that succeeds.
fn test_unit_ready(itt: u32, cmd_sn: u32) -> ScsiCommand {
    ScsiCommand {
        final_: true,
        itt: Itt(itt),
        cmd_sn: CmdSn(cmd_sn),
        exp_stat_sn: StatSn(0),
        cdb: Cdb([0; 16].as_slice().into()),
        ..ScsiCommand::default()
    }
}

/// Fails instead of hanging; the time is no measure of anything.
async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), what).await.expect("nothing happened")
}

/// Bytes that differ from block to block and within blocks.
fn pattern(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed | 1;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        bytes.extend(state.to_be_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// No session has this handle.
const UNKNOWN_SESSION: Tsih = Tsih(0xfff0);
