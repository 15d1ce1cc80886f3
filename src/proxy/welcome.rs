//! A downstream connection from its first byte to its last: login, then a discovery session or a normal one.

mod join;

use super::balancer::Told;
use super::catalogue::{Found, Sought};
use super::conn::{Conn, ConnError};
use super::dial::Way;
use super::events::{About, Kind};
use super::leading::{self, Leading};
use super::notice::Observer;
use super::operator::{Basis, Desk};
use super::plan::{login_plan, offer, session_plan, ways};
use super::recorder::Recorder;
use super::registry::{Claim, Key};
use super::room::{Place, Seat};
use super::session::{Beside, Driver, Ending};
use super::{
    NOT_ALLOWED, NOT_FOUND, OUT_OF_RESOURCES, SERVICE_UNAVAILABLE, Shared, access, clock, dial, discovery,
    relay,
};
use crate::config::{Chap, Config, Local, PathConfig, Target};
use crate::iscsi::framer::Receiver;
use crate::iscsi::text::KeyList;
use crate::iscsi::{Pdu, Tsih};
use crate::login::discovery::answer;
use crate::login::{Intent, LoginPlan, Negotiated, Offer, Refusal, SessionParams, TargetLogin, TargetStep};
use crate::metrics::{LoginResult, Terms};
use crate::session::{Fanout, PathId, Session, SessionPlan, Unwashed};
use bytes::BytesMut;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tracing::Instrument as _;

/// How long a session may take to end when a new login replaces it, beside the time that its ghosts need: it fences them
/// before it ends, and its successor must not write before that.
const REINSTATEMENT_PATIENCE: Duration = Duration::from_secs(15);

/// A login under way.
pub(super) struct Greeting {
    shared: Arc<Shared>,
    /// As it was when the login began.
    config: Arc<Config>,
    conn: Conn,
    pub(super) login: TargetLogin,
    /// Who wants what, once that is known.
    about: About,
    /// The target's portal that the initiator wanted to reach, if the connection was intercepted.
    wanted: Option<SocketAddr>,
    /// Counts it among the logins under way.
    place: Place,
}

/// Where a login's conversation comes to a halt.
pub(super) enum Halt {
    /// It has to be decided what to grant.
    Decide(Box<Intent>),
    /// Full feature phase.
    Done(Box<Negotiated>),
    /// It failed, and the initiator has been told.
    Failed,
}

/// Why a login did not get further.
pub(super) enum End {
    /// The initiator is to be told.
    Refused(Refusal, LoginResult),
    /// The connection is of no use.
    Lost(ConnError),
    /// Too slow.
    Slow,
    /// Failed, and the initiator has been told.
    Told,
    /// The initiator has not proved itself, and has been told.
    Unproved,
}

impl From<ConnError> for End {
    fn from(error: ConnError) -> Self {
        Self::Lost(error)
    }
}

/// What is known of a connection before it says anything to Braid itself.
#[derive(Default)]
pub(super) struct Approach {
    /// The target's portal that it wanted to reach, if it was intercepted.
    pub(super) wanted: Option<SocketAddr>,
    /// What a load balancer has told of it.
    pub(super) told: Option<Told>,
    /// What has been read of it.
    pub(super) read: BytesMut,
}

/// Serves a connection to its end. `place` counts it among the logins under way.
pub(super) async fn serve(
    shared: Arc<Shared>,
    stream: TcpStream,
    Approach { wanted, told, read }: Approach,
    place: Place,
) {
    let ends = told.and_then(Told::ends);
    let conn = Conn::resumed(stream, Receiver::Target, &read, ends);
    let config = shared.config();
    let (login, about) = (TargetLogin::new(), About::default());
    let mut greeting = Greeting { shared, config, conn, login, about, wanted, place };
    match greeting.talk(None).await {
        Ok(Halt::Decide(intent)) => {
            let span = tracing::info_span!(
                "session",
                peer = greeting.conn.peer().map(tracing::field::display),
                initiator = intent.initiator_name,
                isid = %intent.isid,
                target = intent.target_name,
                portal = wanted.map(tracing::field::display)
            );
            greeting.about.initiator = Some(intent.initiator_name.clone());
            greeting.about.target = (!intent.target_name.is_empty()).then(|| intent.target_name.clone());
            greeting.decided(&intent).instrument(span).await;
        }
        Ok(Halt::Done(_) | Halt::Failed) => greeting.ended(End::Told).await,
        Err(End::Lost(ConnError::Closed | ConnError::Io(_))) if told == Some(Told::Own) => {
            tracing::debug!(balancer = ?greeting.conn.peer(), "a balancer has checked that Braid is there");
        }
        Err(end) => greeting.ended(end).await,
    }
}

impl Greeting {
    /// Carries the login on from `step`, or from the next request, until it halts. Bounded in time.
    pub(super) async fn talk(&mut self, step: Option<TargetStep>) -> Result<Halt, End> {
        let limit = self.config.limits.login_timeout;
        let talk = converse(&mut self.conn, &mut self.login, step);
        Ok(tokio::time::timeout(limit, talk).await.map_err(|_| End::Slow)??)
    }

    async fn decided(mut self, intent: &Intent) {
        match self.admit(intent).await {
            Err(end) => self.ended(end).await,
            Ok(_) if intent.discovery => self.discovery(intent).await,
            Ok(Some(target)) if intent.tsih != Tsih(0) => self.join(intent, &target).await,
            Ok(Some(target)) => self.normal(intent, target).await,
            Ok(None) => self.ended(End::Refused(NOT_FOUND, LoginResult::UnknownTarget)).await,
        }
    }

    /// Lets in who may come in, once it has proved itself if that is asked for; gives the target, if one is named. Before that
    /// nothing happens to an earlier session, and nothing at the target but that it is asked where it is and for its tag.
    async fn admit(&mut self, intent: &Intent) -> Result<Option<Target>, End> {
        let shared = Arc::clone(&self.shared);
        let sought = Sought {
            name: &intent.target_name,
            initiator: &intent.initiator_name,
            peer: self.conn.peer().map(|peer| peer.ip()),
            wanted: self.wanted.filter(|_| !intent.discovery),
        };
        let target = match shared.target(&self.config, &sought).await {
            Found::Served(target) => Some(*target),
            Found::Nowhere if intent.discovery => None,
            Found::Nowhere => return Err(End::Refused(NOT_FOUND, LoginResult::UnknownTarget)),
            Found::Denied => {
                tracing::warn!("this initiator is not among those that allow lets in");
                return Err(End::Refused(NOT_ALLOWED, LoginResult::Denied));
            }
        };
        let guard = access::guard(&self.config, target.as_ref(), intent).map_err(|error| {
            tracing::error!(%error, "no random numbers for a challenge");
            End::Refused(OUT_OF_RESOURCES, LoginResult::Limit)
        })?;
        let Some(guard) = guard else { return Ok(target) };
        if let Some(target) = &target {
            shared.learn(target, &intent.initiator_name).await;
        }
        let step = self.login.require(guard, shared.tpgt(&intent.target_name));
        match self.talk(Some(step)).await? {
            Halt::Decide(_) => Ok(target),
            Halt::Done(_) | Halt::Failed => Err(End::Unproved),
        }
    }

    /// Ends a login that came to nothing.
    async fn ended(mut self, end: End) {
        let result = match &end {
            End::Refused(_, result) => *result,
            End::Told => LoginResult::Protocol,
            End::Unproved => LoginResult::Unauthenticated,
            End::Lost(ConnError::Frame(_)) => LoginResult::Protocol,
            End::Lost(ConnError::Closed | ConnError::Io(_)) | End::Slow => LoginResult::Unfinished,
        };
        self.shared.metrics.login(result);
        let why = match &end {
            End::Refused(Refusal { class, detail, .. }, _) => {
                format!("refused with {class:02x}/{detail:02x}")
            }
            End::Told | End::Unproved => self.login.failure().unwrap_or("failed").to_owned(),
            End::Lost(error) => format!("broken off: {error}"),
            End::Slow => "too slow".to_owned(),
        };
        let peer = self.conn.peer().map_or_else(|| "?".to_owned(), |peer| peer.to_string());
        let text = format!("{}: {why}, from {peer}", result.label());
        self.shared.events.tell(Kind::LoginRefused, self.about.clone(), &text);
        match end {
            End::Refused(refusal, _) => {
                tracing::info!(class = refusal.class, detail = refusal.detail, "login refused");
                let step = self.login.refuse(refusal);
                if self.talk(Some(step)).await.is_ok() {
                    self.conn.close().await;
                }
            }
            End::Told => {
                tracing::info!(peer = ?self.conn.peer(), why = self.login.failure(), "login failed");
                self.conn.close().await;
            }
            End::Unproved => {
                tracing::warn!(peer = ?self.conn.peer(), why = self.login.failure(), "initiator not let in");
                self.conn.close().await;
            }
            End::Lost(error) => tracing::info!(peer = ?self.conn.peer(), %error, "login broken off"),
            End::Slow => tracing::info!(peer = ?self.conn.peer(), "login too slow"),
        }
    }

    async fn discovery(mut self, intent: &Intent) {
        let local = self.conn.stream().local_addr().ok();
        let key = key(intent, self.wanted.or(local));
        let most = self.config.limits.max_sessions;
        let Some(_seat) = self.shared.discoveries.take(most) else {
            tracing::warn!(max_sessions = most, "as many discovery sessions as limits.max_sessions allows");
            return self.ended(End::Refused(OUT_OF_RESOURCES, LoginResult::Limit)).await;
        };
        let Some(claim) = claim(&self.shared, key, Duration::ZERO).await else {
            return self.ended(End::Refused(SERVICE_UNAVAILABLE, LoginResult::Limit)).await;
        };
        let offer = Offer {
            limits: SessionParams { default_time2retain: 0, ..SessionParams::default() },
            joining: false,
            max_recv_data_segment: 8192,
            allow_digests: true,
            tpgt: self.shared.tpgt(&intent.target_name),
            target_alias: None,
            tsih: claim.tsih,
            window: discovery::WINDOW,
        };
        let step = self.login.accept(offer);
        let agreed = match self.talk(Some(step)).await {
            Ok(Halt::Done(agreed)) => agreed,
            Ok(Halt::Decide(_) | Halt::Failed) => return self.ended(End::Told).await,
            Err(end) => return self.ended(end).await,
        };
        self.shared.metrics.login(LoginResult::Discovery);
        self.shared.oddities.shown_by_initiator(&agreed);
        let peer = self.conn.peer().map(|peer| peer.ip());
        let config = &self.config;
        let shows = |table: &Target, name: &str| access::shows(config, intent, peer, table, name);
        let targets = match self.wanted {
            Some(portal) => self.shared.records_at(config, portal, &agreed.initiator_name, shows).await,
            None => {
                let targets = self.shared.shown_to(config, intent, peer).await;
                targets.iter().map(|target| self.shared.record(&target.name, &self.conn)).collect()
            }
        };
        let Self { conn, place, .. } = self;
        drop(place);
        tokio::select! {
            result = discovery::run(conn, &agreed, targets) => {
                if let Err(error) = result {
                    tracing::debug!(%error, "discovery session broken off");
                }
            }
            () = claim.stopped() => {}
        }
    }

    async fn normal(mut self, intent: &Intent, target: Target) {
        match self.grant(intent, target).await {
            Ok(granted) => {
                self.shared.metrics.login(LoginResult::Accepted);
                let Self { shared, config, conn, about, wanted, login: _, place } = self;
                drop(place);
                run(&shared, &config, (conn, about), wanted, granted).await;
            }
            Err(end) => self.ended(end).await,
        }
    }

    /// Logs in upstream first, so that the initiator is promised only what the target can keep.
    async fn grant(&mut self, intent: &Intent, mut target: Target) -> Result<Granted, End> {
        let shared = Arc::clone(&self.shared);
        // The initiator expects the tag of the portal that it wanted: if it can be reached, that is home.
        target.paths.sort_by_key(|path| self.wanted.is_some_and(|wanted| path.portal != wanted));
        if target.chap == Chap::Relay
            && let Some(words) = self.login.words()
        {
            return self.grant_relayed(intent, target, words).await;
        }
        let (claim, seat) = self.room(intent, &target).await?;
        let ways: Vec<Way> = ways(&shared, &target);
        let chosen = tokio::select! {
            biased;
            () = claim.stopped() => return Err(End::Refused(SERVICE_UNAVAILABLE, LoginResult::Upstream)),
            chosen = shared.verdicts.fanout(&target, &intent.initiator_name) => chosen,
        };
        tracing::info!(fanout = ?chosen.0, why = chosen.1, "fan-out chosen");
        let plan = login_plan(&target, chosen.0, intent);
        // Who is to prove himself to the target and does not is not lent Braid's proof.
        let bare: Vec<Way> = ways.iter().cloned().map(Way::without_proof).collect();
        let leading = tokio::select! {
            biased;
            () = claim.stopped() => Err(SERVICE_UNAVAILABLE),
            leading = leading::log_in(if target.chap == Chap::Relay { &bare } else { &ways }, &plan) => leading,
        };
        let leading = leading.map_err(|refusal| End::Refused(refusal, LoginResult::Upstream))?;
        let alone = false;
        self.accept(Footing { target, claim, seat, ways, chosen, plan, leading, alone }).await
    }

    /// The same where the initiator proves itself to the target. That comes first: until then anybody may have sent this
    /// login, and it must not end an earlier session. A target may end it by itself as soon as it has the proof; should
    /// the earlier session, on its way out, take this login with it, the initiator tries again and finds none.
    async fn grant_relayed(
        &mut self,
        intent: &Intent,
        mut target: Target,
        words: (KeyList, bool),
    ) -> Result<Granted, End> {
        let shared = Arc::clone(&self.shared);
        let mut ways: Vec<Way> = ways(&shared, &target);
        let chosen = shared.verdicts.fanout(&target, &intent.initiator_name).await;
        tracing::info!(fanout = ?chosen.0, why = chosen.1, "fan-out chosen");
        let plan = login_plan(&target, chosen.0, intent);
        let proved = relay::prove(self, &target, &ways, &plan, words).await?;
        let asked = proved.asked;
        let (claim, seat) = self.room(intent, &target).await?;
        let leading = tokio::select! {
            biased;
            () = claim.stopped() => Err(SERVICE_UNAVAILABLE),
            leading = proved.finish(&ways) => leading,
        };
        let mut leading = leading.map_err(|refusal| End::Refused(refusal, LoginResult::Upstream))?;
        let alone = asked && relay::restrict(&shared.metrics, &mut target, &mut ways, &mut leading);
        self.accept(Footing { target, claim, seat, ways, chosen, plan, leading, alone }).await
    }

    /// Takes the session's place, ending the one that held it, and counts it.
    async fn room(&self, intent: &Intent, target: &Target) -> Result<(Claim, Seat), End> {
        let limit = |refusal| End::Refused(refusal, LoginResult::Limit);
        let claim = claim(&self.shared, key(intent, None), target.fence_time)
            .await
            .ok_or_else(|| limit(SERVICE_UNAVAILABLE))?;
        let most = self.config.limits.max_sessions;
        let seat = self.shared.sessions.take(most).ok_or_else(|| {
            tracing::warn!(
                max_sessions = most,
                "as many sessions as limits.max_sessions allows: login refused"
            );
            limit(OUT_OF_RESOURCES)
        })?;
        Ok((claim, seat))
    }

    /// Grants the initiator what the target has granted.
    async fn accept(&mut self, footing: Footing) -> Result<Granted, End> {
        let Footing { target, leading, claim, .. } = &footing;
        let initiator = &footing.plan.initiator_name;
        let tpgt = self.tpgt(target, leading.path, leading.agreed.tpgt, initiator);
        let step = self.login.accept(offer(target, &leading.agreed, claim.tsih, tpgt));
        match self.talk(Some(step)).await? {
            Halt::Done(agreed) => Ok(Granted { footing, agreed: *agreed }),
            Halt::Decide(_) | Halt::Failed => Err(End::Told),
        }
    }
}

impl Greeting {
    /// The tag under which the initiator knows the target, whichever path is home: that of the portal which it wanted, or
    /// what it was told in discovery. `own` is that of the home path.
    pub(super) fn tpgt(&self, target: &Target, home: usize, own: Option<u16>, initiator: &str) -> u16 {
        let tags = &self.shared.tags;
        let home = target.paths.get(home).map(|path| path.portal);
        let wanted = match self.wanted {
            Some(wanted) if home == Some(wanted) => own,
            Some(wanted) => self.shared.tpgt_at(wanted, target, initiator),
            None => None,
        };
        let known = || self.wanted.and_then(|wanted| tags.known(&target.name, Some(wanted)));
        let tag = wanted.or_else(known).or_else(|| tags.known(&target.name, None)).or(own);
        let tag = tag.unwrap_or(super::DEFAULT_TPGT);
        tags.told(&target.name, self.wanted, tag);
        tag
    }
}

/// Everything a session stands on, upstream.
struct Footing {
    target: Target,
    claim: Claim,
    seat: Seat,
    ways: Vec<Way>,
    /// How to fan out, and why.
    chosen: (Fanout, &'static str),
    plan: LoginPlan,
    leading: Leading,
    /// It ends with its only path, as Braid cannot log in by itself.
    alone: bool,
}

/// Everything a session begins with.
struct Granted {
    footing: Footing,
    agreed: Negotiated,
}

/// The session's life after both logins.
async fn run(
    shared: &Arc<Shared>,
    config: &Arc<Config>,
    (conn, about): (Conn, About),
    wanted: Option<SocketAddr>,
    granted: Granted,
) {
    let Granted { footing, agreed } = granted;
    let Footing { mut target, mut claim, seat, mut ways, chosen, plan, leading, alone } = footing;
    let names: Vec<String> = target.paths.iter().map(|path| path.name.clone()).collect();
    let peer = conn.peer().map(|peer| peer.ip());
    let basis = Basis::of(&target, chosen, alone, &leading.agreed.session);
    shared.events.tell(Kind::SessionBegun, about.clone(), &basis.to_string());
    let (desk, asked) = Desk::open(&names, peer, basis);
    claim.has_desk(desk.clone());
    // From now on the session is told of orders; until now it was not.
    for (way, name) in ways.iter_mut().zip(&names) {
        way.out = shared.orders.is_out(&target.name, name);
    }
    shared.orders.weigh(&mut target);
    shared.catch_up(config, &desk);
    tracing::info!(home = names.get(leading.path), tsih = claim.tsih.0, "session begins");
    let (fanout, barriers, fence, memory_budget) = (chosen.0, target.barriers, target.fence, target.memory);
    let terms = Terms { fanout, barriers, fence, memory_budget };
    if config.tables(&target.name).any(|table| table.discover.is_some()) {
        for PathConfig { name, portal, group, local, .. } in &target.paths {
            let source = (*local == Local::Any).then(|| dial::local_address(*portal).ok()).flatten();
            let source = source.map(tracing::field::display);
            tracing::info!(path = name, group, source, "this path was discovered");
        }
        shared.metrics.declare_discovered(&target.name, names.iter().map(String::as_str));
    }
    let metrics = shared.metrics.session(&target.name, names.iter().map(String::as_str), &terms);
    let home = PathId(leading.path);
    shared.oddities.shown_by_initiator(&agreed);
    let record = wanted.map_or_else(
        || shared.record(&target.name, &conn),
        |portal| shared.record_at(portal, &target, &agreed.initiator_name),
    );
    let portals = answer(&[record]);
    let home_login = (home, leading.agreed, plan);
    let plan = session_plan((&target, &ways), fanout, (agreed, portals), home_login, claim.left_behind());
    let worst = if plan.has_twins() { Unwashed::everything() } else { Unwashed::default() };
    let engine = Session::new(plan, clock::now());
    let recorder = Recorder::new(shared.black_box.clone(), &about, names.clone());
    let home = (SessionPlan::HOME_CONN, home, leading.conn);
    let orders = (claim.stopped(), claim.killed());
    let links = shared.links.watch();
    let beside = Beside { links, asked, recorder };
    let observer = Observer::new(
        metrics,
        Arc::clone(&shared.oddities),
        names,
        Arc::clone(&shared.events),
        about.clone(),
    );
    let driver = Driver::new(engine, ways, conn, home, orders, beside, observer);
    claim.begins(worst);
    let how = match driver.run().await {
        Ending::InOrder(unwashed) => {
            claim.ended_in_order(unwashed);
            tracing::info!("session ended");
            "in order"
        }
        Ending::Killed => {
            tracing::warn!("session killed: it did not end in time");
            "killed: it did not end in time"
        }
    };
    shared.events.tell(Kind::SessionEnded, about, how);
    drop(seat);
    drop(claim);
}

/// Runs the login's conversation until it halts.
async fn converse(
    conn: &mut Conn,
    login: &mut TargetLogin,
    mut step: Option<TargetStep>,
) -> Result<Halt, ConnError> {
    loop {
        let next = match step.take() {
            Some(step) => step,
            None => {
                let pdu = conn.recv().await?;
                if let Pdu::LoginRequest(request) = pdu {
                    login.handle(request)
                } else {
                    login.handle_other(&pdu)
                }
            }
        };
        match next {
            TargetStep::Send(pdus) => conn.send(&pdus).await?,
            TargetStep::Decide(intent) => return Ok(Halt::Decide(intent)),
            TargetStep::Done(pdus, agreed) => {
                conn.send(&pdus).await?;
                conn.enter_full_feature(&agreed.connection);
                return Ok(Halt::Done(agreed));
            }
            TargetStep::Close(pdus) => {
                conn.send(&pdus).await?;
                return Ok(Halt::Failed);
            }
        }
    }
}

/// Claims a session's key, ending the session that held it before.
async fn claim(shared: &Shared, key: Key, fence_time: Duration) -> Option<Claim> {
    let (claim, predecessor) = shared.registry.claim(key)?;
    if let Some(predecessor) = predecessor {
        tracing::info!("session reinstatement: ending the earlier session first");
        predecessor.end(REINSTATEMENT_PATIENCE + fence_time).await;
    }
    Some(claim)
}

/// Discovery sessions are told apart by portal (R236), normal ones are not: Braid has one portal group.
fn key(intent: &Intent, portal: Option<SocketAddr>) -> Key {
    Key {
        initiator: intent.initiator_name.clone(),
        isid: intent.isid,
        target: intent.target_name.clone(),
        portal,
    }
}
