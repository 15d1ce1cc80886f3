//! How logins of initiators end.

/// How a downstream login ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LoginResult {
    /// A normal session began.
    Accepted,
    /// A discovery session began.
    Discovery,
    /// No such target is configured.
    UnknownTarget,
    /// The initiator is not let in, or has not proved itself.
    Denied,
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
    pub(super) const ALL: [Self; 8] = [
        Self::Accepted,
        Self::Discovery,
        Self::UnknownTarget,
        Self::Denied,
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
            Self::Discovery => "discovery",
            Self::UnknownTarget => "unknown_target",
            Self::Denied => "denied",
            Self::Limit => "limit",
            Self::Upstream => "upstream",
            Self::Protocol => "protocol",
            Self::Unfinished => "unfinished",
        }
    }
}
