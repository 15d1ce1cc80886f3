//! Finding out what a target does with several connections in one session, by a session of Braid's own.
//!
//! Granting MaxConnections proves nothing: most targets that grant it break its rules. So a throwaway session shows what
//! counts. It is harmless by design: an ISID of its own, error recovery level 0, nothing but INQUIRY to LUN 0, no
//! immediate requests while numbers are missing, no task management, each connection logged out only over itself and
//! only when nothing is unanswered. Each step waits for a bounded time; the longest probe is one against a target that
//! stops answering.
//!
//! 1. Leading login over the first route, offering 8 connections; INQUIRY.
//! 2. A second connection over the second route; none to a product that is known not to survive it.
//! 3. Order: a command on the second connection whose predecessor is not sent yet. It must be answered only after the
//!    predecessor has come over the first connection; then the same with the connections exchanged.
//! 4. Loss: the idle second connection is reset, and the first is used and watched for longer than known targets take to
//!    give the session up (2 seconds). If the session lives, a new connection must be able to join.
//! 5. Logout.
//!
//! What speaks against several connections counts only if it shows twice.

mod render;

pub use render::render;

use super::conn::ConnError;
use super::dial::{DialError, Route, Timing, dial};
use super::errand::{Event, Line, Numbers};
use super::verdict::{Loss, Order, Product, Second, StateFile, Verdict};
use crate::iscsi::{Cid, CmdSn, Isid, Itt};
use crate::login::{ConnectionParams, LoginError, LoginKind, LoginPlan, Negotiated, SessionParams};
use crate::scsi::Inquiry;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// MaxConnections offered.
const CONNECTIONS: u16 = 8;

/// Commands with a predecessor missing: enough room in the window for both.
const PAIR: u32 = 2;

/// Commands sent at most to see the window open.
const WARM_UP: u32 = 4;

/// What to probe, and how.
#[derive(Clone, Debug)]
pub struct ProbePlan {
    /// Where the first and the second connection go; may be the same.
    pub routes: [Route; 2],
    /// Bounds of connecting and logging in.
    pub timing: Timing,
    /// TargetName.
    pub target: String,
    /// InitiatorName to log in with: one that the target admits.
    pub initiator: String,
    /// Session id; must not be that of a real session, which the probe would reinstate. See [`throwaway_isid`].
    pub isid: Isid,
    /// How long to watch.
    pub patience: Patience,
}

/// How long the probe watches and waits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Patience {
    /// For a command that must not be answered yet.
    pub hold: Duration,
    /// For a session that has lost a connection.
    pub loss: Duration,
    /// For an answer that must come.
    pub answer: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            hold: Duration::from_millis(300),
            loss: Duration::from_secs(3),
            answer: Duration::from_secs(5),
        }
    }
}

/// What came out, with the circumstances.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ProbeReport {
    /// The portals of the two connections.
    pub portals: [String; 2],
    /// What matters later.
    pub verdict: Verdict,
    /// After which time the session was ended by the loss of a connection, if it was.
    pub ended_after: Option<Duration>,
    /// Whether all connections that were left could be logged out.
    pub clean_logout: bool,
}

/// A session id that no other session has: of the random kind (R8).
#[must_use]
pub fn throwaway_isid() -> Isid {
    let [a, b, c, d, e, ..] = RandomState::new().build_hasher().finish().to_be_bytes();
    Isid([0x80, a, b, c, d, e])
}

/// The verdict on a target: the remembered one if it is still the same product, else that of a new probe, which is
/// remembered if it is final. Takes one login and one INQUIRY to find out, and some seconds for a probe.
///
/// # Errors
/// [`DialError`] if the target cannot be logged in to: nothing is known about it then.
pub async fn settle(plan: &ProbePlan, state: &Mutex<StateFile>) -> Result<Verdict, DialError> {
    let lock = || state.lock().unwrap_or_else(PoisonError::into_inner);
    let mut probe = Probe::start(plan).await?;
    let answers = probe.identify().await;
    let recalled = lock().recall(&plan.target, &probe.verdict.product).cloned();
    if let Some(verdict) = recalled {
        probe.finish().await;
        return Ok(verdict);
    }
    let verdict = confirmed(plan, probe.experiment(answers).await).await.verdict;
    let reason = verdict.objection().unwrap_or("order proved, loss of a connection known");
    tracing::info!(target = plan.target, mcs = verdict.mcs_ok(), reason, "target probed");
    if verdict.is_final()
        && let Err(error) = lock().remember(verdict.clone())
    {
        tracing::warn!(%error, "state file not written; the target is probed again at the next start");
    }
    Ok(verdict)
}

/// Probes a target.
///
/// # Errors
/// [`DialError`] if it cannot be logged in to. Whatever happens later is part of the report.
pub async fn probe(plan: &ProbePlan) -> Result<ProbeReport, DialError> {
    let mut probe = Probe::start(plan).await?;
    let answers = probe.identify().await;
    let report = probe.experiment(answers).await;
    Ok(confirmed(plan, report).await)
}

/// What speaks against several connections and could have been chance (a target under load, a race in it) is looked for once
/// more, in another session: the second finding counts. If the target cannot even be logged in to any more, the first does.
async fn confirmed(plan: &ProbePlan, first: ProbeReport) -> ProbeReport {
    if !first.verdict.may_be_chance() {
        return first;
    }
    let plan = ProbePlan { isid: throwaway_isid(), ..plan.clone() };
    let Ok(mut probe) = Probe::start(&plan).await else { return first };
    let answers = probe.identify().await;
    probe.experiment(answers).await
}

struct Probe<'a> {
    plan: &'a ProbePlan,
    login: LoginPlan,
    /// The leading login's result.
    agreed: Negotiated,
    numbers: Numbers,
    first: Line,
    second: Option<Line>,
    /// Whether a command may be unanswered, or a connection dead: no logout then.
    broken: bool,
    verdict: Verdict,
    ended_after: Option<Duration>,
}

impl<'a> Probe<'a> {
    async fn start(plan: &'a ProbePlan) -> Result<Self, DialError> {
        let login = LoginPlan {
            kind: LoginKind::Leading,
            initiator_name: plan.initiator.clone(),
            target_name: plan.target.clone(),
            isid: plan.isid,
            cid: Cid(1),
            cmd_sn: CmdSn(1),
            offer: SessionParams { max_connections: CONNECTIONS, ..SessionParams::default() },
            connection: ConnectionParams::default(),
        };
        let [route, _] = &plan.routes;
        let (conn, agreed) = dial(route, &login, &plan.timing).await?;
        route.shown(agreed.quirks);
        let verdict = Verdict {
            target: plan.target.clone(),
            product: Product { tpgt: agreed.tpgt, ..Product::default() },
            max_connections: agreed.session.max_connections,
            second: Second::NotAllowed,
            order: Order::Unknown,
            loss: Loss::Unknown,
        };
        let (numbers, first) = (Numbers::new(&agreed), Line::new(conn, &agreed));
        Ok(Self {
            plan,
            login,
            agreed,
            numbers,
            first,
            second: None,
            broken: false,
            verdict,
            ended_after: None,
        })
    }

    /// Tries out several connections, if the target answers at all, and ends the session.
    async fn experiment(mut self, answers: bool) -> ProbeReport {
        if answers && self.join().await {
            self.verdict.order = self.order().await;
            if self.verdict.order == Order::Held {
                self.lose().await;
            }
        }
        self.finish().await
    }

    /// INQUIRY over the first connection, until the window has room for the test of order.
    async fn identify(&mut self) -> bool {
        for _ in 0..WARM_UP {
            let Ok(data) = self.inquire().await else {
                self.broken = true;
                return false;
            };
            if let Some(inquiry) = Inquiry::parse(&data) {
                let product = &mut self.verdict.product;
                (product.vendor, product.product, product.revision) =
                    (inquiry.vendor, inquiry.product, inquiry.revision);
            }
            if self.numbers.room() >= PAIR {
                return true;
            }
        }
        false
    }

    /// One INQUIRY over the first connection.
    async fn inquire(&mut self) -> Result<Vec<u8>, Mute> {
        let (itt, cmd_sn) = (self.numbers.tag(), self.numbers.take(1));
        let (line, numbers) = (&mut self.first, &mut self.numbers);
        let answer = tokio::time::timeout(self.plan.patience.answer, async {
            line.inquire(itt, cmd_sn).await?;
            await_answer(line, numbers, itt).await
        });
        answer.await.unwrap_or(Err(Mute::Silent))
    }

    /// Lets a further connection join the session.
    async fn connect(&mut self, cid: Cid) -> Result<(Line, Negotiated), DialError> {
        let plan = LoginPlan {
            kind: LoginKind::Joining { session: self.agreed.session.clone(), tsih: self.agreed.tsih },
            cid,
            // R35.
            cmd_sn: self.numbers.next(),
            ..self.login.clone()
        };
        let [_, route] = &self.plan.routes;
        let (conn, agreed) = dial(route, &plan, &self.plan.timing).await?;
        route.shown(agreed.quirks);
        Ok((Line::new(conn, &agreed), agreed))
    }

    async fn join(&mut self) -> bool {
        if self.verdict.max_connections < 2 {
            return false;
        }
        if self.verdict.product.hazard().is_some() {
            self.verdict.second = Second::Hazardous;
            return false;
        }
        self.verdict.second = match self.connect(Cid(2)).await {
            Ok((line, agreed)) => {
                self.second = Some(line);
                match agreed.tpgt {
                    Some(tag) if self.agreed.tpgt.is_some_and(|first| first != tag) => {
                        Second::OtherGroup(tag)
                    }
                    _ => Second::Joined,
                }
            }
            Err(DialError::Login(LoginError::Refused { class, detail })) => {
                Second::Refused(format!("status {class:02x}/{detail:02x}"))
            }
            Err(error) => Second::Unreachable(error.to_string()),
        };
        self.verdict.second == Second::Joined
    }

    /// Order in both directions.
    async fn order(&mut self) -> Order {
        let Some(mut second) = self.second.take() else { return Order::Unknown };
        let patience = &self.plan.patience;
        let (mut order, mut settled) =
            out_of_order(&mut second, &mut self.first, &mut self.numbers, patience).await;
        if order == Order::Held {
            (order, settled) = out_of_order(&mut self.first, &mut second, &mut self.numbers, patience).await;
        }
        self.broken = !settled;
        self.second = Some(second);
        order
    }

    /// Resets the second connection and watches the session.
    async fn lose(&mut self) {
        let Some(second) = self.second.take() else { return };
        second.reset();
        let start = Instant::now();
        while start.elapsed() < self.plan.patience.loss {
            match self.inquire().await {
                Ok(_) => {}
                Err(mute) => {
                    self.broken = true;
                    self.verdict.loss = mute.loss();
                    self.ended_after = (mute == Mute::Gone).then(|| start.elapsed());
                    return;
                }
            }
            tokio::time::sleep(self.plan.patience.hold.min(self.plan.patience.loss)).await;
        }
        self.verdict.loss = match self.connect(Cid(3)).await {
            Ok((line, _)) => {
                self.second = Some(line);
                Loss::Rejoins
            }
            Err(_) => Loss::Shrinks,
        };
    }

    /// Logs out what can be logged out, one connection after the other, and with the last one the session.
    async fn finish(mut self) -> ProbeReport {
        let mut clean = !self.broken;
        for (line, reason) in self.second.into_iter().map(|line| (line, 1)).chain([(self.first, 0)]) {
            if self.broken {
                line.reset();
            } else {
                clean &= line.log_out(&mut self.numbers, reason).await;
            }
        }
        ProbeReport {
            portals: self.plan.routes.clone().map(|route| route.portal),
            verdict: self.verdict,
            ended_after: self.ended_after,
            clean_logout: clean,
        }
    }
}

/// Why a command was not answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Mute {
    /// The connection ended.
    Gone,
    /// It did not, but no answer came.
    Silent,
}

impl Mute {
    const fn loss(self) -> Loss {
        match self {
            Self::Gone => Loss::EndsSession,
            Self::Silent => Loss::Stuck,
        }
    }

    const fn order(self) -> Order {
        match self {
            Self::Gone => Order::Closed,
            Self::Silent => Order::Stuck,
        }
    }
}

impl From<ConnError> for Mute {
    fn from(_: ConnError) -> Self {
        Self::Gone
    }
}

/// Waits for the answer to one command.
async fn await_answer(line: &mut Line, numbers: &mut Numbers, itt: Itt) -> Result<Vec<u8>, Mute> {
    loop {
        match line.event(numbers).await? {
            Event::Answer { itt: answered, data } if answered == itt => return Ok(data),
            Event::Rejected(_) => return Err(Mute::Silent),
            Event::Answer { .. } | Event::Text(_) | Event::LoggedOut => {}
        }
    }
}

/// Sends a command over `ahead` before its predecessor over `behind`: what the target makes of it, and whether both were
/// answered in the end.
async fn out_of_order(
    ahead: &mut Line,
    behind: &mut Line,
    numbers: &mut Numbers,
    patience: &Patience,
) -> (Order, bool) {
    if numbers.room() < PAIR {
        return (Order::Unknown, true);
    }
    let number = numbers.take(PAIR);
    let (early, late) = (numbers.tag(), numbers.tag());
    let answer = tokio::time::timeout(patience.hold, async {
        ahead.inquire(early, number.next()).await?;
        await_answer(ahead, numbers, early).await
    });
    let ran_early = match answer.await {
        Ok(Ok(_)) => true,
        Ok(Err(mute)) => return (mute.order(), false),
        Err(_) => false,
    };
    let rest = tokio::time::timeout(patience.answer, async {
        behind.inquire(late, number).await?;
        await_answer(behind, numbers, late).await?;
        if !ran_early {
            await_answer(ahead, numbers, early).await?;
        }
        Ok(())
    });
    let rest = rest.await.unwrap_or(Err(Mute::Silent));
    match (ran_early, rest) {
        (true, rest) => (Order::RanEarly, rest.is_ok()),
        (false, Ok(())) => (Order::Held, true),
        (false, Err(mute)) => (mute.order(), false),
    }
}
