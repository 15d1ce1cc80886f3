//! The leading upstream login: over the first path that answers.
//!
//! Initiators wait for it, open-iscsi 15 s, and firmware tries but once: so neither a path that takes no connection nor a
//! portal that takes it and says nothing may cost more than a moment while there are others ([`Race`]).

use super::conn::Conn;
use super::dial::{self, DialError, Timing, Way, log_in_way};
use crate::login::{LoginError, LoginPlan, Negotiated, Refusal};
use std::collections::VecDeque;
use std::time::Duration;
use tokio::task::JoinSet;

/// Head start of a path before the next one is tried as well.
const STAGGER: Duration = Duration::from_millis(300);

/// How long the first answer to a login may take while there are other ways to try; only when none of these works either, it
/// gets its whole time. What follows always has that: a target may wait for its disk before it replaces a session.
const PATIENCE: Duration = Duration::from_secs(3);

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

/// Logs in over the first of these ways that works.
///
/// TCP connections race, each way with a head start over the next, so that a dead path costs little; logins go one
/// after the other, because two of them with the same session id would reinstate each other. One without an answer is broken
/// off while there are others, and begun again when none of these has worked. The plan is for all ways but for the name of the
/// target, which is the way's.
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
                let in_time = Way { timing: race.timing(way), ..way.clone() };
                match log_in_way(conn, &in_time, &plan).await {
                    Ok((conn, agreed)) => return Ok(Leading { conn, agreed, path }),
                    Err(failure) => failure,
                }
            }
            Err(failure) => failure,
        };
        tracing::warn!(portal = way.route.portal, %failure, "no leading login over this path");
        race.lost(path, &failure);
        if let DialError::Login(LoginError::Refused { class, detail }) = failure {
            refused.get_or_insert(Refusal { class, detail, address: None });
        }
    }
    Err(refused.unwrap_or(super::SERVICE_UNAVAILABLE))
}

/// Connections being made, over each way once, and once more over those whose login was broken off.
#[derive(Debug)]
pub(super) struct Race<'w> {
    ways: &'w [Way],
    next: usize,
    /// Those whose login was broken off.
    slow: VecDeque<usize>,
    /// They have their second turns.
    again: bool,
    connecting: JoinSet<(usize, Result<Conn, DialError>)>,
}

impl<'w> Race<'w> {
    /// Of the connections over these ways.
    pub(super) fn new(ways: &'w [Way]) -> Self {
        Self { ways, next: 0, slow: VecDeque::new(), again: false, connecting: JoinSet::new() }
    }

    /// How long a login over this way may take now.
    pub(super) fn timing(&self, way: &Way) -> Timing {
        let others = self.untried().is_some() || !self.connecting.is_empty() || !self.slow.is_empty();
        let short = others && !self.again;
        let answer = if short { way.timing.answer.min(PATIENCE) } else { way.timing.answer };
        Timing { answer, ..way.timing }
    }

    /// The login over this way has failed: if it was broken off, it gets another turn.
    pub(super) fn lost(&mut self, path: usize, failure: &DialError) {
        let whole = self.ways.get(path).map(|way| way.timing.answer);
        if let DialError::Slow(after) = failure
            && whole.is_some_and(|whole| *after < whole)
            && !self.again
        {
            self.slow.push_back(path);
        }
    }

    fn untried(&self) -> Option<usize> {
        let left = self.ways.iter().enumerate().skip(self.next);
        left.filter(|(_, way)| !way.out).map(|(path, _)| path).next()
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
                () = tokio::time::sleep(STAGGER), if self.untried().is_some() => {
                    self.start_next();
                }
            }
        }
    }

    /// Starts another connection, if there is a way left.
    fn start_next(&mut self) -> bool {
        let path = match self.untried() {
            Some(path) => {
                self.next = path + 1;
                path
            }
            None => match self.slow.pop_front() {
                Some(path) => {
                    self.again = true;
                    path
                }
                None => return false,
            },
        };
        let Some(way) = self.ways.get(path).cloned() else { return false };
        self.connecting.spawn(async move { (path, dial::connect(&way.route, &way.timing).await) });
        true
    }
}

#[cfg(test)]
mod tests {
    use super::super::dial::{RequiredDigests, Route};
    use super::*;

    const WHOLE: Duration = Duration::from_secs(60);

    /// Ways to portals that refuse at once.
    fn ways(number: usize) -> Vec<Way> {
        let timing = Timing { connect: WHOLE, answer: WHOLE, login: WHOLE };
        let way = || Way {
            route: Route::to("127.0.0.1:0"),
            target: "iqn.t".to_owned(),
            timing,
            required: RequiredDigests::default(),
            out: false,
        };
        (0..number).map(|_| way()).collect()
    }

    #[tokio::test]
    async fn a_login_that_was_broken_off_gets_its_whole_time_when_no_other_way_is_left() {
        let ways = ways(3);
        let mut race = Race::new(&ways);
        let mut turns = Vec::new();
        while let Some((path, way, _)) = race.winner().await {
            let answer = race.timing(way).answer;
            turns.push((path, answer));
            race.lost(path, &if path == 1 { DialError::NotLogin } else { DialError::Slow(answer) });
        }
        assert_eq!(turns, [(0, PATIENCE), (1, PATIENCE), (2, PATIENCE), (0, WHOLE), (2, WHOLE)]);
    }

    #[tokio::test]
    async fn the_only_way_has_its_whole_time_at_once() {
        let ways = ways(1);
        let mut race = Race::new(&ways);
        let (_, way, _) = race.winner().await.expect("a way");
        assert_eq!(race.timing(way), way.timing);
    }
}
