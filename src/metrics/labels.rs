//! Words that labels hold, besides names from the configuration.

use crate::session::{Cause, Doubt, FenceMethod};

pub(super) const CAUSES: [&str; 4] = ["tcp", "login", "protocol", "digest"];
pub(super) const DIRECTIONS: [&str; 3] = ["read", "write", "none"];
pub(super) const DOUBTS: [&str; 4] = ["unacknowledged", "resending", "target_silent", "no_carrier"];
pub(super) const FENCES: [&str; 3] = ["reinstate", "ordered", "time"];

/// The label for a cause; none if nothing was wrong.
pub(super) fn cause_label(cause: &Cause) -> Option<&'static str> {
    let label = match cause {
        Cause::Tcp(_) => "tcp",
        Cause::Login(_) => "login",
        Cause::Protocol(_) => "protocol",
        Cause::Digest(_) => "digest",
        Cause::Logout => return None,
    };
    Some(label)
}

/// The label for what made a connection suspect.
pub(super) fn doubt_label(doubt: Doubt) -> &'static str {
    match doubt {
        Doubt::Unacknowledged => "unacknowledged",
        Doubt::Resending => "resending",
        Doubt::TargetSilent => "target_silent",
        Doubt::NoCarrier => "no_carrier",
    }
}

/// The label for how a fence was made.
pub(super) fn fence_label(method: FenceMethod) -> &'static str {
    match method {
        // A fence that was carried out has been decided; `auto` that falls through decided for time.
        FenceMethod::Auto | FenceMethod::Time => "time",
        FenceMethod::Reinstate => "reinstate",
        FenceMethod::Ordered => "ordered",
    }
}
