//! The leading upstream login: over the first path that answers.

use super::conn::Conn;
use super::dial::{self, DialError, Way, log_in_way};
use crate::login::{LoginError, LoginPlan, Negotiated, Refusal};
use std::time::Duration;
use tokio::task::JoinSet;

/// Head start of a path before the next one is tried as well.
const STAGGER: Duration = Duration::from_millis(300);

/// A finished leading login.
#[derive(Debug)]
pub(super) struct Leading {
    /// The connection.
    pub(super) conn: Conn,
    /// What was agreed.
    pub(super) agreed: Negotiated,
    /// Index of its path.
    pub(super) path: usize,
}

/// Logs in over the first of these ways that works, trying every one at most once.
///
/// TCP connections race, each way with a head start over the next, so that a dead path costs little; logins go one
/// after the other, because two of them with the same session id would reinstate each other. The plan is for all ways but
/// for the name of the target, which is the way's.
///
/// # Errors
/// What the initiator is to be told: the target's own refusal if there was one, else "service unavailable" (03/01).
pub(super) async fn log_in(ways: &[Way], plan: &LoginPlan) -> Result<Leading, Refusal> {
    let mut race = Race::new(ways);
    let mut refused = None;
    while let Some((path, way, conn)) = race.winner().await {
        let failure = match conn {
            Ok(conn) => {
                let plan = LoginPlan { target_name: way.target.clone(), ..plan.clone() };
                match log_in_way(conn, way, &plan).await {
                    Ok((conn, agreed)) => return Ok(Leading { conn, agreed, path }),
                    Err(failure) => failure,
                }
            }
            Err(failure) => failure,
        };
        tracing::warn!(portal = way.route.portal, %failure, "no leading login over this path");
        if let DialError::Login(LoginError::Refused { class, detail }) = failure {
            refused.get_or_insert(Refusal { class, detail, address: None });
        }
    }
    Err(refused.unwrap_or(super::SERVICE_UNAVAILABLE))
}

/// Connections being made.
pub(super) struct Race<'w> {
    ways: &'w [Way],
    next: usize,
    connecting: JoinSet<(usize, Result<Conn, DialError>)>,
}

impl<'w> Race<'w> {
    /// Of the connections over these ways.
    pub(super) fn new(ways: &'w [Way]) -> Self {
        Self { ways, next: 0, connecting: JoinSet::new() }
    }

    /// The next way that got or failed to get a connection; none when all have.
    pub(super) async fn winner(&mut self) -> Option<(usize, &'w Way, Result<Conn, DialError>)> {
        loop {
            if self.connecting.is_empty() && !self.start_next() {
                return None;
            }
            tokio::select! {
                biased;
                joined = self.connecting.join_next() => {
                    let (path, result) = joined?.ok()?;
                    return Some((path, self.ways.get(path)?, result));
                }
                () = tokio::time::sleep(STAGGER), if self.next < self.ways.len() => {
                    self.start_next();
                }
            }
        }
    }

    /// Starts another connection, if there is a way left.
    fn start_next(&mut self) -> bool {
        let left = self.ways.iter().enumerate().skip(self.next);
        let Some((path, way)) = left.filter(|(_, way)| !way.out).map(|(n, way)| (n, way.clone())).next()
        else {
            return false;
        };
        self.next = path + 1;
        self.connecting.spawn(async move { (path, dial::connect(&way.route, &way.timing).await) });
        true
    }
}
