//! What a service manager is told (sd_notify(3), by way of `NOTIFY_SOCKET`): that Braid serves, that it lives, that it stops.
//! Where there is no manager nothing happens.

use sd_notify::NotifyState;
use std::time::Duration;

/// Tells that Braid serves.
pub(super) fn ready() {
    tell(&[NotifyState::Ready]);
}

/// Tells that Braid stops.
pub(super) fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// Tells that Braid lives, twice in the time after which it would be restarted (`WATCHDOG_USEC`). Never ends. It runs where all
/// of Braid runs: what keeps that from running ends this too.
pub(super) async fn live() {
    let Some(patience) = sd_notify::watchdog_enabled().filter(|patience| *patience > Duration::ZERO) else {
        return std::future::pending().await;
    };
    let mut beat = tokio::time::interval(patience / 2);
    loop {
        beat.tick().await;
        tell(&[NotifyState::Watchdog]);
    }
}

fn tell(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!(%error, "the service manager could not be told");
    }
}
