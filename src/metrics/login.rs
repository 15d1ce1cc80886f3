//! How logins of initiators end, and where those of Braid's own are sent.

use super::{Families, Metrics};

/// How a downstream login ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LoginResult {
    /// A normal session began.
    Accepted,
    /// A further connection of a session that runs was made.
    Joined,
    /// A discovery session began.
    Discovery,
    /// No such target is configured.
    UnknownTarget,
    /// The initiator is not let in.
    Denied,
    /// The initiator has not proved itself.
    Unauthenticated,
    /// A limit on sessions was reached.
    Limit,
    /// No path led to the target, or the target refused.
    Upstream,
    /// The initiator broke the protocol, or its wishes could not be met.
    Protocol,
    /// It took too long, or the connection ended before it was done.
    Unfinished,
}

impl LoginResult {
    pub(super) const ALL: [Self; 10] = [
        Self::Accepted,
        Self::Joined,
        Self::Discovery,
        Self::UnknownTarget,
        Self::Denied,
        Self::Unauthenticated,
        Self::Limit,
        Self::Upstream,
        Self::Protocol,
        Self::Unfinished,
    ];

    /// The word for it.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Joined => "joined",
            Self::Discovery => "discovery",
            Self::UnknownTarget => "unknown_target",
            Self::Denied => "denied",
            Self::Unauthenticated => "unauthenticated",
            Self::Limit => "limit",
            Self::Upstream => "upstream",
            Self::Protocol => "protocol",
            Self::Unfinished => "unfinished",
        }
    }
}

fn redirect_label(permanent: bool) -> &'static str {
    if permanent { "permanent" } else { "temporary" }
}

/// Makes the series, at zero.
pub(super) fn declare(families: &Families) {
    for result in LoginResult::ALL {
        families.logins.with_label_values(&[result.label()]);
    }
    for permanent in [true, false] {
        families.redirects.with_label_values(&[redirect_label(permanent)]);
    }
}

impl Metrics {
    /// Counts a login of an initiator.
    pub fn login(&self, result: LoginResult) {
        self.families.logins.with_label_values(&[result.label()]).inc();
    }

    /// Counts a login of Braid's that a target sent elsewhere.
    pub fn redirected(&self, permanent: bool) {
        self.families.redirects.with_label_values(&[redirect_label(permanent)]).inc();
    }
}
