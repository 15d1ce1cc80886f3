//! The leading login of an initiator whose proof is for the target: Braid carries the words (see [`crate::login::relay`]).

use super::SERVICE_UNAVAILABLE;
use super::conn::Conn;
use super::dial::{DialError, Way, ask, converse, in_time, require_digests};
use super::leading::{Leading, Race};
use super::welcome::{End, Greeting, Halt};
use crate::config::Target;
use crate::iscsi::Pdu;
use crate::iscsi::text::KeyList;
use crate::login::relay::Told;
use crate::login::{InitiatorLogin, InitiatorStep, LoginError, LoginPlan, Proof, Refusal};
use crate::metrics::{LoginResult, Metrics};
use crate::session::Exhausted;
use std::time::Duration;

/// A leading login whose authentication is over.
pub(super) struct Proved {
    conn: Conn,
    machine: InitiatorLogin,
    next: Pdu,
    path: usize,
    /// Whether the target asked for a proof, so that it will on other paths too.
    pub(super) asked: bool,
}

/// A connection on which the target has answered the initiator's first words.
struct Begun {
    conn: Conn,
    machine: InitiatorLogin,
    told: Told,
    path: usize,
}

/// Lets the initiator prove itself to the target, over the first of these ways on which the target answers.
///
/// # Errors
/// [`End`]: what the initiator is to be told, the target's own refusal as it is.
pub(super) async fn prove(
    greeting: &mut Greeting,
    target: &Target,
    ways: &[Way],
    plan: &LoginPlan,
    (words, wish): (KeyList, bool),
) -> Result<Proved, End> {
    let Begun { mut conn, mut machine, mut told, path } = begin(ways, plan, &words, wish).await?;
    let way = ways.get(path).ok_or_else(|| upstream(SERVICE_UNAVAILABLE))?;
    let mut asked = false;
    loop {
        let next = match told {
            Told::More(next) => next,
            Told::Over(words, next) => {
                greeting.login.relayed(words);
                return Ok(Proved { conn, machine, next, path, asked });
            }
            Told::Words(words) => {
                asked |= words.value("AuthMethod") == Some("CHAP");
                let tpgt = greeting.tpgt(target, path, machine.tpgt(), &plan.initiator_name);
                let step = greeting.login.relay(&words, tpgt);
                let Halt::Decide(_) = greeting.talk(Some(step)).await? else { return Err(End::Told) };
                let (words, wish) = greeting.login.words().ok_or(End::Told)?;
                machine.relay(&words, wish)
            }
            Told::Redirect(address) => {
                way.route.shown(machine.quirks());
                tracing::warn!(address, "the target redirects, which a relayed login cannot follow");
                return Err(upstream(SERVICE_UNAVAILABLE));
            }
        };
        let answer = in_time(way.timing.login, step(&mut conn, &mut machine, next)).await;
        told = answer.map_err(|failure| {
            way.route.shown(machine.quirks());
            tracing::warn!(portal = way.route.portal, %failure, "no relayed login over this path");
            upstream(refusal(&failure).unwrap_or(SERVICE_UNAVAILABLE))
        })?;
    }
}

impl Proved {
    /// Carries the login to its end.
    ///
    /// # Errors
    /// What the initiator is to be told.
    pub(super) async fn finish(mut self, ways: &[Way]) -> Result<Leading, Refusal> {
        let way = ways.get(self.path).ok_or(SERVICE_UNAVAILABLE)?;
        let whole = way.timing.login;
        let talk = in_time(whole, converse(&mut self.conn, &mut self.machine, self.next, whole));
        let done = talk.await.and_then(|step| match step {
            InitiatorStep::Done(agreed) => require_digests(way, &agreed).map(|()| agreed),
            InitiatorStep::Send(_) => Err(DialError::NotLogin),
            InitiatorStep::Redirect { address, .. } => Err(DialError::Redirects(address)),
        });
        match done {
            Ok(agreed) => Ok(Leading { conn: self.conn, agreed: *agreed, path: self.path }),
            Err(failure) => {
                way.route.shown(self.machine.quirks());
                tracing::warn!(portal = way.route.portal, %failure, "no relayed login over this path");
                Err(refusal(&failure).unwrap_or(SERVICE_UNAVAILABLE))
            }
        }
    }
}

/// Leaves those paths away over which Braid cannot log in: the initiator's proof is good for one login only. If that of the
/// relayed login is the only one left, the session ends as soon as it is lost, so that the initiator logs in again, over
/// whichever path works then; the result says whether it is so.
pub(super) fn restrict(
    metrics: &Metrics,
    target: &mut Target,
    ways: &mut Vec<Way>,
    leading: &mut Leading,
) -> bool {
    let home = leading.path;
    let usable: Vec<bool> = target
        .paths
        .iter()
        .enumerate()
        .map(|(index, path)| index == home || path.credentials.is_some())
        .collect();
    if usable.iter().all(|usable| *usable) && target.paths.len() > 1 {
        return false;
    }
    leading.path = usable.iter().take(home).filter(|usable| **usable).count();
    let mut keep = usable.iter();
    target.paths.retain(|_| keep.next() == Some(&true));
    let mut keep = usable.iter();
    ways.retain(|_| keep.next() == Some(&true));
    let mut alone = false;
    if let [only] = target.paths.as_slice() {
        alone = only.credentials.is_none();
        if alone {
            target.queue_time = Duration::ZERO;
            target.exhausted = Exhausted::Close;
        }
        if usable.len() > 1 {
            tracing::warn!(
                path = only.name,
                left_away = usable.len() - 1,
                "the session runs on one path: its authentication is relayed, and Braid has no credentials of its own \
                 (upstream_chap) for the others"
            );
            metrics.single_path(&target.name);
        }
    }
    alone
}

/// Passes the initiator's first words on, over one way after the other until a target answers them.
async fn begin(ways: &[Way], plan: &LoginPlan, words: &KeyList, wish: bool) -> Result<Begun, End> {
    let mut race = Race::new(ways);
    let mut refused = None;
    while let Some((path, way, conn)) = race.winner().await {
        let failure = match conn {
            Ok(mut conn) => {
                let (mut machine, first) =
                    InitiatorLogin::start_with(plan.clone(), Proof::Relayed(words.clone(), wish));
                match in_time(race.timing(way).answer, step(&mut conn, &mut machine, first)).await {
                    Ok(told) => return Ok(Begun { conn, machine, told, path }),
                    Err(failure) => {
                        way.route.shown(machine.quirks());
                        failure
                    }
                }
            }
            Err(failure) => failure,
        };
        tracing::warn!(portal = way.route.portal, %failure, "no relayed login over this path");
        race.lost(path, &failure);
        refused = refused.or_else(|| refusal(&failure));
    }
    Err(upstream(refused.unwrap_or(SERVICE_UNAVAILABLE)))
}

/// One request and its response.
async fn step(conn: &mut Conn, machine: &mut InitiatorLogin, request: Pdu) -> Result<Told, DialError> {
    Ok(machine.handle_relayed(ask(conn, request).await?)?)
}

/// The target's own words for a refusal, if it said any.
fn refusal(failure: &DialError) -> Option<Refusal> {
    if let DialError::Login(LoginError::Refused { class, detail }) = failure {
        return Some(Refusal { class: *class, detail: *detail, address: None });
    }
    None
}

const fn upstream(refusal: Refusal) -> End {
    End::Refused(refusal, LoginResult::Upstream)
}
