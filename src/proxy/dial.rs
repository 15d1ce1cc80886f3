//! Connecting to a target: over one path, with a login, in bounded time.
//!
//! A [`Route`] says where to and over which local address or interface; [`Timing`] bounds every step. [`connect`] gives
//! the bare connection, [`log_in`] logs in on it and follows redirections (R39), and [`dial`] does both. Nothing here is
//! shared between calls but what a route carries: where its portal has moved for good ([`Moved`]).

use super::conn::{Conn, ConnError};
pub use super::moved::Moved;
use super::oddities::Oddities;
use crate::config::{Local, PathConfig, Target};
use crate::iscsi::framer::Receiver;
use crate::iscsi::quirk::{Quirk, Quirks};
use crate::iscsi::{LoginResponse, Pdu};
use crate::login::chap::{Algorithm, Client, Credentials, Nonce};
use crate::login::{InitiatorLogin, InitiatorStep, LoginError, LoginPlan, Negotiated, Proof};
use crate::session::Cause;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpSocket, TcpStream};

/// Where a path leads and where it starts.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Route {
    /// The target portal, `host:port`.
    pub portal: String,
    /// Local address to connect from.
    pub source: Option<IpAddr>,
    /// Network interface to connect over.
    pub interface: Option<String>,
    /// Firewall mark of the connection (SO_MARK).
    pub mark: Option<u32>,
    /// What to prove oneself with there, if the target wants it.
    pub credentials: Option<Arc<Credentials>>,
    /// Where the portal is now, if the target has said that it moved.
    pub moved: Moved,
}

impl Route {
    /// The way to a portal that the routing table gives.
    pub fn to(portal: impl Into<String>) -> Self {
        Self {
            portal: portal.into(),
            source: None,
            interface: None,
            mark: None,
            credentials: None,
            moved: Moved::default(),
        }
    }

    /// The same to where the portal is, as far as is known.
    fn where_it_is(&self) -> Self {
        let portal = self.moved.address().unwrap_or_else(|| self.portal.clone());
        Self { portal, ..self.clone() }
    }

    /// The same for a login of Braid's own, whose redirections and quirks are noted.
    pub(super) fn noted_by(self, oddities: &Arc<Oddities>) -> Self {
        Self { moved: Moved::noted_by(oddities), ..self }
    }

    /// The target has shown these there, in a login of which no session tells: it failed, or was Braid's own.
    pub(super) fn shown(&self, quirks: Quirks) {
        self.moved.shown(&self.portal, quirks);
    }

    /// The same without wanting a proof of the target.
    pub(super) fn unasked(mut self) -> Self {
        if let Some(credentials) = &mut self.credentials {
            Arc::make_mut(credentials).peer = None;
        }
        self
    }
}

impl From<&PathConfig> for Route {
    fn from(path: &PathConfig) -> Self {
        let (source, interface) = match &path.local {
            Local::Any => (None, None),
            Local::Source(address) => (Some(*address), None),
            Local::Interface(name) => (None, Some(name.clone())),
        };
        Self {
            portal: path.portal.to_string(),
            source,
            interface,
            mark: path.mark,
            credentials: path.credentials.clone(),
            moved: Moved::default(),
        }
    }
}

/// The local address that the routing table gives a connection to this one. Nothing is sent.
///
/// # Errors
/// What the system says, if there is no way.
pub fn local_address(portal: SocketAddr) -> io::Result<IpAddr> {
    let any: IpAddr =
        if portal.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect(portal)?;
    Ok(socket.local_addr()?.ip())
}

/// How long each step may take.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Timing {
    /// Name resolution and TCP connect.
    pub connect: Duration,
    /// The first answer to a login.
    pub answer: Duration,
    /// One whole login.
    pub login: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        let login = Duration::from_secs(15);
        Self { connect: Duration::from_secs(3), answer: login, login }
    }
}

impl From<&Target> for Timing {
    fn from(target: &Target) -> Self {
        let login = target.login_timeout;
        Self { connect: target.connect_timeout, answer: login, login }
    }
}

/// How many redirections of one login are followed.
const MAX_REDIRECTS: usize = 3;

/// Idle time before the kernel probes a connection, between probes, and how many go unanswered.
const KEEPALIVE: (Duration, Duration, u32) = (Duration::from_secs(10), Duration::from_secs(5), 3);

/// Why no connection came about.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// The TCP connection could not be made.
    #[error("cannot connect to {portal}: {error}")]
    Connect {
        /// The portal tried.
        portal: String,
        /// What the system said.
        error: io::Error,
    },
    /// The connection ended during login.
    #[error("connection lost during login: {0}")]
    Lost(#[from] ConnError),
    /// The login did not end in time.
    #[error("login not finished after {0:?}")]
    Slow(Duration),
    /// The login failed.
    #[error(transparent)]
    Login(#[from] LoginError),
    /// The target sent something else than login responses (R17).
    #[error("the target sent a PDU that is no login response")]
    NotLogin,
    /// The target did not agree to a digest that the configuration asks for.
    #[error("the target does not agree to {0}=CRC32C, which the configuration requires")]
    Digest(&'static str),
    /// The target redirects in circles.
    #[error("redirected in circles or more than {MAX_REDIRECTS} times, last to {0}")]
    Redirects(String),
    /// The system has no randomness for a challenge.
    #[error("the system gives no random numbers: {0}")]
    NoChance(#[from] getrandom::Error),
}

impl From<DialError> for Cause {
    fn from(error: DialError) -> Self {
        let text = error.to_string();
        match error {
            DialError::Connect { .. } | DialError::Lost(ConnError::Closed | ConnError::Io(_)) => {
                Self::Tcp(text)
            }
            DialError::Lost(ConnError::Frame(_)) | DialError::NotLogin => Self::Protocol(text),
            DialError::Slow(_)
            | DialError::Login(_)
            | DialError::Digest(_)
            | DialError::Redirects(_)
            | DialError::NoChance(_) => Self::Login(text),
        }
    }
}

/// Connects over a route and logs in, following redirections.
///
/// # Errors
/// [`DialError`]; nothing stays open then.
pub async fn dial(route: &Route, plan: &LoginPlan, timing: &Timing) -> Result<(Conn, Negotiated), DialError> {
    let conn = connect(route, timing).await?;
    log_in(conn, route, plan, timing).await
}

/// Logs in on a fresh connection over this route, following redirections to further ones. What the target has shown is the
/// caller's to note if it succeeds, and is noted if it fails.
///
/// # Errors
/// [`DialError`]; nothing stays open then.
pub async fn log_in(
    conn: Conn,
    route: &Route,
    plan: &LoginPlan,
    timing: &Timing,
) -> Result<(Conn, Negotiated), DialError> {
    let mut trail = Trail::new(route);
    let done = log_in_along(conn, &mut trail, plan, timing).await;
    match (&done, trail.lasting) {
        (Ok(_), Some(address)) => route.moved.keep(address),
        (Ok(_), None) => {}
        (Err(_), _) => {
            route.moved.forget();
            route.shown(trail.quirks);
        }
    }
    done
}

/// Where one login has been.
struct Trail {
    /// The way to where it is.
    route: Route,
    /// Portals that it has asked.
    asked: Vec<String>,
    /// Where it went for good; whatever follows a redirection for the time being is for that time too.
    lasting: Option<String>,
    fleeting: bool,
    /// What was met on the way.
    quirks: Quirks,
}

impl Trail {
    fn new(route: &Route) -> Self {
        let route = route.where_it_is();
        let (asked, quirks) = (vec![route.portal.clone()], Quirks::default());
        Self { asked, route, lasting: None, fleeting: false, quirks }
    }

    /// Goes where a redirection says.
    fn follow(&mut self, address: String, permanent: bool) -> Result<(), DialError> {
        self.route.moved.met(permanent);
        if self.asked.contains(&address) || self.asked.len() > MAX_REDIRECTS {
            return Err(DialError::Redirects(address));
        }
        tracing::info!(from = self.route.portal, to = address, permanent, "login redirected");
        self.fleeting |= !permanent;
        if !self.fleeting {
            self.lasting = Some(address.clone());
        }
        self.asked.push(address.clone());
        self.route.portal = address;
        Ok(())
    }
}

async fn log_in_along(
    mut conn: Conn,
    trail: &mut Trail,
    plan: &LoginPlan,
    timing: &Timing,
) -> Result<(Conn, Negotiated), DialError> {
    let mut narrow = false;
    loop {
        let (mut machine, first) = InitiatorLogin::start_with(plan.clone(), proof(&trail.route, narrow)?);
        let talk = in_time(timing.login, converse(&mut conn, &mut machine, first, timing.answer)).await;
        trail.quirks = trail.quirks.and(machine.quirks());
        match talk {
            Ok(InitiatorStep::Redirect { address, permanent }) => trail.follow(address, permanent)?,
            Ok(InitiatorStep::Done(agreed)) => {
                let quirks = trail.quirks.and(agreed.quirks);
                return Ok((conn, Negotiated { quirks, ..*agreed }));
            }
            Ok(InitiatorStep::Send(_)) => return Err(DialError::NotLogin),
            // tgt means SHA-1 by the number of SHA-256, and finds the answer wrong or too long.
            Err(DialError::Login(LoginError::Refused { class: 2, detail: 0 | 1 }))
                if !narrow && machine.algorithm() == Some(Algorithm::Sha256) =>
            {
                tracing::info!(portal = trail.route.portal, "CHAP with SHA-256 refused: trying MD5");
                narrow = true;
                trail.quirks.insert(Quirk::ChapAlgorithm);
            }
            Err(error) => return Err(error),
        }
        conn = connect_to(&trail.route, timing).await?;
    }
}

/// How to prove oneself over a route: offering all algorithms, or in a narrow way only MD5.
fn proof(route: &Route, narrow: bool) -> Result<Proof, DialError> {
    let Some(credentials) = route.credentials.clone() else { return Ok(Proof::None) };
    let client = if narrow { Client::narrowed } else { Client::new };
    Ok(Proof::Chap(Box::new(client(credentials, nonce()?))))
}

/// Fresh random bytes for one login.
///
/// # Errors
/// If the system has none.
pub(super) fn nonce() -> Result<Nonce, getrandom::Error> {
    let mut random = [0; Nonce::LENGTH];
    getrandom::fill(&mut random)?;
    Ok(Nonce::new(random))
}

/// Connects over a route, to where its portal is now.
///
/// # Errors
/// [`DialError::Connect`].
pub async fn connect(route: &Route, timing: &Timing) -> Result<Conn, DialError> {
    let conn = connect_to(&route.where_it_is(), timing).await;
    if conn.is_err() {
        route.moved.forget();
    }
    conn
}

async fn connect_to(route: &Route, timing: &Timing) -> Result<Conn, DialError> {
    let stream = connect_tcp(route, timing).await;
    let stream = stream.map_err(|error| DialError::Connect { portal: route.portal.clone(), error })?;
    Ok(Conn::new(stream, Receiver::Initiator))
}

/// Connects over a route, whatever is spoken there.
///
/// # Errors
/// What the system says.
pub(super) async fn connect_tcp(route: &Route, timing: &Timing) -> io::Result<TcpStream> {
    let connecting = tokio::time::timeout(timing.connect, connect_any(route));
    let stream = connecting.await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))?;
    tune(&stream)?;
    Ok(stream)
}

/// Bounds a conversation of a login.
pub(super) async fn in_time<T>(
    limit: Duration,
    talk: impl Future<Output = Result<T, DialError>>,
) -> Result<T, DialError> {
    tokio::time::timeout(limit, talk).await.unwrap_or(Err(DialError::Slow(limit)))
}

/// Runs a login from this request, which is answered within `soon`, to its end; never gives [`InitiatorStep::Send`].
pub(super) async fn converse(
    conn: &mut Conn,
    machine: &mut InitiatorLogin,
    request: Pdu,
    soon: Duration,
) -> Result<InitiatorStep, DialError> {
    let mut response = in_time(soon, ask(conn, request)).await?;
    loop {
        match machine.handle(response)? {
            InitiatorStep::Send(next) => response = ask(conn, next).await?,
            step @ InitiatorStep::Redirect { .. } => return Ok(step),
            InitiatorStep::Done(agreed) => {
                conn.enter_full_feature(&agreed.connection);
                return Ok(InitiatorStep::Done(agreed));
            }
        }
    }
}

/// One login request and its response.
pub(super) async fn ask(conn: &mut Conn, request: Pdu) -> Result<LoginResponse, DialError> {
    conn.send(&[request]).await?;
    let Pdu::LoginResponse(response) = conn.recv().await? else { return Err(DialError::NotLogin) };
    Ok(response)
}

/// A path of a target as it is dialled.
#[derive(Clone, Debug)]
pub struct Way {
    /// Where it leads.
    pub route: Route,
    /// Name of the target there.
    pub target: String,
    /// How long dialling may take.
    pub timing: Timing,
    /// Digests without which the path is not used.
    pub required: RequiredDigests,
    /// Taken out by the operator: not for a leading login.
    pub out: bool,
}

impl Way {
    /// The same without anything to prove oneself with.
    pub(super) fn without_proof(mut self) -> Self {
        self.route.credentials = None;
        self
    }
}

/// Digests that must be agreed on.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct RequiredDigests {
    /// Of headers.
    pub header: bool,
    /// Of data.
    pub data: bool,
}

/// Connects over a way and logs in.
///
/// # Errors
/// As [`dial`], and if a required digest was not agreed on.
pub async fn dial_way(way: &Way, plan: &LoginPlan) -> Result<(Conn, Negotiated), DialError> {
    let conn = connect(&way.route, &way.timing).await?;
    log_in_way(conn, way, plan).await
}

/// Logs in on a connection over a way.
///
/// # Errors
/// As [`dial_way`].
pub async fn log_in_way(conn: Conn, way: &Way, plan: &LoginPlan) -> Result<(Conn, Negotiated), DialError> {
    let (conn, agreed) = log_in(conn, &way.route, plan, &way.timing).await?;
    require_digests(way, &agreed).inspect_err(|_| way.route.shown(agreed.quirks))?;
    Ok((conn, agreed))
}

/// Whether all was agreed without which the way is not used.
///
/// # Errors
/// [`DialError::Digest`].
pub(super) fn require_digests(way: &Way, agreed: &Negotiated) -> Result<(), DialError> {
    if way.required.header && !agreed.connection.header_digest {
        return Err(DialError::Digest("HeaderDigest"));
    }
    if way.required.data && !agreed.connection.data_digest {
        return Err(DialError::Digest("DataDigest"));
    }
    Ok(())
}

/// Tries the portal's addresses in turn.
async fn connect_any(route: &Route) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "no address of the source's family");
    for address in tokio::net::lookup_host(&route.portal).await? {
        if route.source.is_some_and(|source| source.is_ipv4() != address.is_ipv4()) {
            continue;
        }
        match connect_one(route, address).await {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}

async fn connect_one(route: &Route, address: SocketAddr) -> io::Result<TcpStream> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    if let Some(mark) = route.mark {
        socket2::SockRef::from(&socket).set_mark(mark)?;
    }
    if let Some(interface) = &route.interface {
        socket.bind_device(Some(interface.as_bytes()))?;
    }
    if let Some(source) = route.source {
        socket.bind(SocketAddr::new(source, 0))?;
    }
    socket.connect(address).await
}

/// Options of every connection, whoever opened it: no delay for small PDUs, and the kernel notices when an idle one is dead.
/// (One that is in use is watched by the engine: a timeout of the kernel's would also kill it while the peer merely reads
/// nothing.)
///
/// # Errors
/// If the system refuses an option.
pub fn tune(stream: &TcpStream) -> io::Result<()> {
    let (idle, interval, retries) = KEEPALIVE;
    let socket = socket2::SockRef::from(stream);
    socket.set_tcp_nodelay(true)?;
    let keepalive =
        socket2::TcpKeepalive::new().with_time(idle).with_interval(interval).with_retries(retries);
    socket.set_tcp_keepalive(&keepalive)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::iscsi::{Cid, CmdSn, Isid, NopIn, Tsih};
    use crate::login::{ConnectionParams, LoginKind, Offer, Refusal, SessionParams, TargetLogin, TargetStep};
    use crate::metrics::Metrics;
    use tokio::net::TcpListener;
    use tokio::task::JoinSet;

    const HALF: Duration = Duration::from_millis(500);
    const QUICK: Timing = Timing { connect: HALF, answer: HALF, login: HALF };

    const TEMPORARY: u8 = 1;
    const PERMANENT: u8 = 2;

    fn plan() -> LoginPlan {
        LoginPlan {
            kind: LoginKind::Leading,
            initiator_name: "iqn.2026-11.example:host".into(),
            target_name: "iqn.2026-11.example:disk".into(),
            isid: Isid([0x80, 0, 0, 0, 0, 1]),
            cid: Cid(0),
            cmd_sn: CmdSn(1),
            offer: SessionParams::default(),
            connection: ConnectionParams::default(),
        }
    }

    fn offer() -> Offer {
        Offer {
            limits: SessionParams::default(),
            joining: false,
            max_recv_data_segment: 8192,
            allow_digests: false,
            tpgt: 1,
            target_alias: None,
            tsih: Tsih(1),
            window: 8,
        }
    }

    /// Serves one login after the other; redirects each to `elsewhere` if there is such.
    async fn target(listener: TcpListener, elsewhere: Option<(u8, String)>) {
        while let Ok((stream, _)) = listener.accept().await {
            let mut conn = Conn::new(stream, Receiver::Target);
            let mut login = TargetLogin::new();
            while let Ok(Pdu::LoginRequest(request)) = conn.recv().await {
                let mut step = login.handle(request);
                if matches!(step, TargetStep::Decide(_)) {
                    step = match elsewhere.clone() {
                        None => login.accept(offer()),
                        Some((detail, address)) => {
                            login.refuse(Refusal { class: 1, detail, address: Some(address) })
                        }
                    };
                }
                let (TargetStep::Send(pdus) | TargetStep::Done(pdus, _) | TargetStep::Close(pdus)) = step
                else {
                    panic!("decided twice")
                };
                conn.send(&pdus).await.unwrap();
            }
        }
    }

    async fn bound() -> (TcpListener, Route) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let route = Route::to(listener.local_addr().unwrap().to_string());
        (listener, route)
    }

    #[tokio::test]
    async fn r39_redirections_are_followed() {
        let mut tasks = JoinSet::new();
        let (first, route) = bound().await;
        let (second, there) = bound().await;
        tasks.spawn(target(first, Some((TEMPORARY, there.portal.clone()))));
        tasks.spawn(target(second, None));
        let (conn, agreed) = dial(&route, &plan(), &QUICK).await.unwrap();
        assert_eq!(conn.peer().unwrap().to_string(), there.portal);
        assert_eq!(agreed.tsih, Tsih(1));
        assert_eq!(route.moved.address(), None, "for this login only");
    }

    #[tokio::test]
    async fn those_for_good_are_kept_until_nobody_is_there() {
        let mut tasks = JoinSet::new();
        let (first, route) = bound().await;
        let (second, there) = bound().await;
        tasks.spawn(target(first, Some((PERMANENT, there.portal.clone()))));
        let new = tasks.spawn(target(second, None));
        drop(dial(&route, &plan(), &QUICK).await.unwrap());
        assert_eq!(route.moved.address(), Some(there.portal.clone()));
        // Connecting is already to where it is, for those who do it by itself.
        let conn = connect(&route.clone(), &QUICK).await.unwrap();
        assert_eq!(conn.peer().unwrap().to_string(), there.portal);
        new.abort();
        assert!(tasks.join_next().await.is_some_and(|ended| ended.is_err()));
        assert!(connect(&route, &QUICK).await.is_err());
        let conn = connect(&route, &QUICK).await.unwrap();
        assert_eq!(conn.peer().unwrap().to_string(), route.portal, "as configured");
    }

    #[tokio::test]
    async fn what_follows_one_for_the_time_being_is_not_kept() {
        let mut tasks = JoinSet::new();
        let (first, route) = bound().await;
        let (second, between) = bound().await;
        let (third, there) = bound().await;
        tasks.spawn(target(first, Some((TEMPORARY, between.portal))));
        tasks.spawn(target(second, Some((PERMANENT, there.portal))));
        tasks.spawn(target(third, None));
        dial(&route, &plan(), &QUICK).await.unwrap();
        assert_eq!(route.moved.address(), None);
    }

    #[tokio::test]
    async fn but_not_in_circles() {
        let mut tasks = JoinSet::new();
        let (listener, route) = bound().await;
        tasks.spawn(target(listener, Some((PERMANENT, route.portal.clone()))));
        let error = dial(&route, &plan(), &QUICK).await.unwrap_err();
        assert!(matches!(error, DialError::Redirects(_)), "{error}");
    }

    #[tokio::test]
    async fn what_a_target_shows_in_a_login_that_fails_is_counted() {
        let mut tasks = JoinSet::new();
        let (listener, route) = bound().await;
        // With a tag, where none belongs.
        tasks.spawn(target(listener, Some((TEMPORARY, format!("{},1", route.portal)))));
        let metrics = Arc::new(Metrics::new());
        let route = route.noted_by(&Arc::new(Oddities::new(Arc::clone(&metrics))));
        let error = dial(&route, &plan(), &QUICK).await.unwrap_err();
        assert!(matches!(error, DialError::Redirects(_)), "{error}");
        let counted = "braid_quirks_total{quirk=\"redirection_tag\",side=\"target\"} 1\n";
        assert!(metrics.render().contains(counted), "{}", metrics.render());
    }

    #[tokio::test]
    async fn the_local_end_is_as_configured() {
        let mut tasks = JoinSet::new();
        let (listener, route) = bound().await;
        tasks.spawn(target(listener, None));
        let source = Some("127.0.0.7".parse().unwrap());
        let (conn, _) = dial(&Route { source, ..route.clone() }, &plan(), &QUICK).await.unwrap();
        assert_eq!(conn.stream().local_addr().unwrap().ip().to_string(), "127.0.0.7");
        drop(conn);
        let interface = Some("lo".to_owned());
        dial(&Route { interface, ..route.clone() }, &plan(), &QUICK).await.unwrap();
        let source = Some("::1".parse().unwrap());
        let error = dial(&Route { source, ..route }, &plan(), &QUICK).await.unwrap_err();
        assert!(matches!(Cause::from(error), Cause::Tcp(_)));
    }

    #[tokio::test]
    async fn a_target_that_does_not_answer_is_given_up() {
        let (_listener, route) = bound().await;
        let error = dial(&route, &plan(), &QUICK).await.unwrap_err();
        assert!(matches!(error, DialError::Slow(_)), "{error}");
        assert!(matches!(Cause::from(error), Cause::Login(_)));
    }

    #[tokio::test]
    async fn r17_anything_but_a_login_response_ends_the_login() {
        let (listener, route) = bound().await;
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut conn = Conn::new(listener.accept().await.unwrap().0, Receiver::Target);
            conn.recv().await.unwrap();
            conn.send(&[Pdu::NopIn(NopIn::default())]).await.unwrap();
            conn.close().await;
        });
        let error = dial(&route, &plan(), &QUICK).await.unwrap_err();
        assert!(matches!(error, DialError::NotLogin), "{error}");
    }

    #[tokio::test]
    async fn a_digest_that_is_required_and_refused_is_an_error() {
        let mut tasks = JoinSet::new();
        let (listener, route) = bound().await;
        tasks.spawn(target(listener, None));
        let required = RequiredDigests { header: true, data: false };
        let wanted = ConnectionParams { header_digest: true, ..ConnectionParams::default() };
        let way = Way { route, target: plan().target_name, timing: QUICK, required, out: false };
        let error = dial_way(&way, &LoginPlan { connection: wanted, ..plan() }).await.unwrap_err();
        assert!(matches!(error, DialError::Digest("HeaderDigest")), "{error}");
    }
}
