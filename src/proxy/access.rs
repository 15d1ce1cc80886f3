//! Who is let in: by name and address, and by proof.

use super::dial;
use crate::config::{Chap, Config, Target};
use crate::login::Intent;
use crate::login::chap::Guard;
use std::net::IpAddr;
use std::sync::Arc;

/// Whether a target's door is open to the initiator from this address.
pub(super) fn admits(target: &Target, intent: &Intent, address: Option<IpAddr>) -> bool {
    target.allow.admits(&intent.initiator_name, address)
}

/// What the initiator has to pass at Braid, if anything: the target's accounts, and in a discovery session, if those of the
/// target that it names are none, the accounts for discovery.
///
/// # Errors
/// If the system has no randomness.
pub(super) fn guard(
    config: &Config,
    target: Option<&Target>,
    intent: &Intent,
) -> Result<Option<Guard>, getrandom::Error> {
    let of_target = target.map_or(&Chap::None, |target| &target.chap);
    let accounts = match (of_target, &config.discovery_chap) {
        (Chap::Terminate(accounts), _) => accounts,
        (Chap::None | Chap::Relay, Chap::Terminate(accounts)) if intent.discovery => accounts,
        (Chap::None | Chap::Relay, _) => return Ok(None),
    };
    Ok(Some(Guard::new(Arc::clone(accounts), dial::nonce()?)))
}

/// Whether a discovery session may be told of a target of this name, which is served by this table: if it admits the initiator.
/// Who has passed by the accounts of one target, where discovery has its own, hears of that one.
pub(super) fn shows(
    config: &Config,
    intent: &Intent,
    address: Option<IpAddr>,
    table: &Target,
    name: &str,
) -> bool {
    let by_target = |table: &Target| matches!(table.chap, Chap::Terminate(_));
    let only = config.discovery_chap != Chap::None && config.tables(&intent.target_name).any(by_target);
    admits(table, intent, address) && (!only || name == intent.target_name)
}
