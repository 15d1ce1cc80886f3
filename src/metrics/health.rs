//! How targets are, for people and load balancers.

/// What is known of a target's paths.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TargetHealth {
    /// Name.
    pub target: String,
    /// Sessions of initiators open now.
    pub sessions: i64,
    /// Paths in the order of the configuration, with the number of connections up.
    pub paths: Vec<(String, i64)>,
}

impl TargetHealth {
    /// Paths with a connection up.
    #[must_use]
    pub fn usable(&self) -> usize {
        self.paths.iter().filter(|(_, connections)| *connections > 0).count()
    }

    /// Whether somebody waits for a path: a session is open and no path works. Without sessions nothing is known of the
    /// paths, and nobody is hurt.
    #[must_use]
    pub fn is_down(&self) -> bool {
        self.sessions > 0 && self.usable() == 0
    }
}
