//! The tokio driver: everything that touches a socket or a clock on the data path.
//!
//! # The life of a downstream connection
//! 1. `listener` accepts it, sets its socket options, and spawns one task for it, the only one it will ever have.
//!    Connections that have not finished their login are limited in number and in time.
//!    One that was on its way to a target's own address is sorted by `intercept`: if it is not Braid's it goes on untouched.
//!    One that comes through a load balancer begins with what the balancer tells of it (`balancer`).
//! 2. `welcome` runs the target's side of the login until it is known who wants what. A discovery session is
//!    answered by `discovery` with Braid's own portals and ends there.
//!    `access` decides who is let in, and asks for the proof if the target has accounts.
//! 3. A normal session claims its (initiator, ISID, target) in the `registry`. If such a session runs already, this
//!    is session reinstatement: the old one is ended, with all its upstream connections, before anything else happens.
//!    A login with the handle of a session that runs is a further connection of it, if more than one was agreed to
//!    (`welcome::join`): it goes to the task that has the session.
//! 4. `leading` logs in to the target over the first path that answers, with the initiator's own name and ISID.
//!    If the target refuses, its refusal is the initiator's. Otherwise the initiator is granted what Braid can keep.
//!    Where the authentication is the target's (`relay`), it comes first and the claim after it.
//! 5. The engine ([`crate::session`]) is made and handed with both connections to the `session` driver, which owns
//!    everything from then on and opens the other paths ([`dial`]) as the engine asks for them.
//! 6. The session ends when the engine says so: after a logout, after the initiator's connection is lost, when no path
//!    came back in time, or on the order to stop (reinstatement, or the whole of Braid stopping).
//!
//! Beside that, `catalogue` says which targets there are, `told` remembers what portals tell of them, `tags` what
//! initiators were told, `tape` is the black box, which `capture` and `incident` write as `pcapng`, [`probe`] finds out how a target treats several connections in one session ([`verdict`]), on which `auto`
//! rests its choice, [`discover`] asks a portal for its targets, and `links` tells sessions when a link of this machine
//! comes up.
//!
//! # Use
//! [`Proxy::start`] listens, [`Proxy::stop`] ends in order. [`operator`] is what can be asked and ordered meanwhile, [`reload`]
//! how the configuration changes. Inside a process bind to port 0 and ask for [`Proxy::addresses`].

mod access;
pub mod auto;
mod balancer;
mod capture;
pub mod catalogue;
pub mod clock;
pub mod conn;
pub mod dial;
pub mod discover;
mod discovery;
mod errand;
pub mod events;
pub mod explain;
mod incident;
mod intercept;
mod kernel;
mod leading;
mod links;
mod listener;
mod mark;
mod moved;
mod notice;
mod oddities;
pub mod operator;
mod orders;
mod pcapng;
mod plan;
pub mod probe;
mod rate;
mod recorder;
mod registry;
mod relay;
pub mod reload;
mod room;
mod session;
mod tags;
mod tape;
pub mod told;
pub mod verdict;
mod welcome;

use crate::config::{self, Config, Intercept, Listen, PathConfig, Target};
use crate::login::Refusal;
use crate::login::discovery::TargetRecord;
use crate::metrics::Metrics;
use arc_swap::ArcSwap;
use auto::Verdicts;
use conn::Conn;
use events::Events;
use links::Links;
use mark::Mark;
use oddities::Oddities;
use orders::Orders;
use registry::Registry;
use room::{Logins, Room};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tags::Tags;
use tape::BlackBox;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use told::{Answer, Told};
use verdict::StateFile;

/// Connections that have not finished their login, at most, and those of one address.
const MAX_LOGINS: u32 = 256;
const MAX_LOGINS_OF_ONE: u32 = 128;

/// How long sessions may take to end when Braid stops.
pub const STOP_PATIENCE: Duration = Duration::from_secs(10);

/// Portal group tag where the target's own is not known.
const DEFAULT_TPGT: u16 = 1;

const fn refusal(class: u8, detail: u8) -> Refusal {
    Refusal { class, detail, address: None }
}

const NOT_ALLOWED: Refusal = refusal(2, 2);
const NOT_FOUND: Refusal = refusal(2, 3);
const TOO_MANY_CONNECTIONS: Refusal = refusal(2, 6);
const NO_SESSION: Refusal = refusal(2, 10);
const SERVICE_UNAVAILABLE: Refusal = refusal(3, 1);
const OUT_OF_RESOURCES: Refusal = refusal(3, 2);

/// Why the proxy did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address cannot be listened on.
    #[error("cannot listen on {address}: {error}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        error: io::Error,
    },
    /// Braid's own connections cannot be told apart from those that it intercepts.
    #[error(
        "cannot mark connections with {mark:#x}, without which interception would loop ({error}); run as root or with CAP_NET_ADMIN"
    )]
    Mark {
        /// The mark.
        mark: u32,
        /// What the system said.
        error: io::Error,
    },
    /// A path would lead to Braid itself.
    #[error("{portal} is where Braid itself listens ({listener}); write the target's own portal")]
    Loop {
        /// The path's portal.
        portal: SocketAddr,
        /// The listener.
        listener: SocketAddr,
    },
}

/// What all connections share.
#[derive(Debug)]
struct Shared {
    config: ArcSwap<Config>,
    /// Changes with the configuration; its lock is held while that is done.
    reloads: (tokio::sync::Mutex<()>, watch::Sender<()>),
    metrics: Arc<Metrics>,
    /// The addresses listened on, with the ports that were given out.
    portals: Vec<SocketAddr>,
    /// Those among them that initiators are told of.
    public: Vec<SocketAddr>,
    /// Connections that are passed on.
    passing: Room,
    registry: Arc<Registry>,
    mark: Mark,
    links: Links,
    sessions: Room,
    discoveries: Room,
    logins: Logins,
    rate: Mutex<rate::Rates>,
    verdicts: Verdicts,
    told: Told,
    tags: Tags,
    oddities: Arc<Oddities>,
    moves: moved::Moves,
    started: Instant,
    orders: Orders,
    events: Arc<Events>,
    /// None if nothing is kept.
    black_box: Option<Arc<BlackBox>>,
}

/// A running proxy. Dropping it closes everything at once.
#[derive(Debug)]
pub struct Proxy {
    shared: Arc<Shared>,
    stop: watch::Sender<bool>,
    listeners: JoinSet<JoinSet<()>>,
    _writer: JoinSet<()>,
}

impl Proxy {
    /// Starts listening.
    ///
    /// # Errors
    /// [`StartError`]; nothing is left running.
    pub async fn start(config: Arc<Config>, metrics: Arc<Metrics>) -> Result<Self, StartError> {
        let bound = bind(&config).await?;
        let listen = bound.iter().map(|(_, listen)| listen.clone()).collect();
        let config = Arc::new(Config { listen, ..Config::clone(&config) });
        for target in config.targets.iter().filter(|target| target.discover.is_none()) {
            metrics.declare(&target.name, target.paths.iter().map(|path| path.name.as_str()));
        }
        let (mark, died) = Mark::leave(config.state_file.as_deref());
        let state = config.state_file.as_ref().map_or_else(StateFile::in_memory, StateFile::load);
        let state = Arc::new(Mutex::new(state));
        let oddities = Arc::new(Oddities::new(Arc::clone(&metrics)));
        let verdicts = Verdicts::new(Arc::clone(&state), Arc::clone(&oddities));
        verdicts.ask_all(&config);
        let mut writer = JoinSet::new();
        let black_box = black_box(&config.black_box, &mut writer);
        let shared = Arc::new(Shared {
            config: ArcSwap::new(config),
            reloads: (tokio::sync::Mutex::new(()), watch::Sender::new(())),
            verdicts,
            started: clock::now(),
            orders: Orders::default(),
            events: Arc::default(),
            black_box,
            metrics,
            portals: bound.iter().map(|(_, listen)| listen.address).collect(),
            public: bound
                .iter()
                .filter(|(_, listen)| listen.is_public())
                .map(|(_, listen)| listen.address)
                .collect(),
            passing: Room::default(),
            registry: Arc::new(Registry::new(died.then(clock::now))),
            mark,
            links: Links::listen(),
            sessions: Room::default(),
            discoveries: Room::default(),
            logins: Logins::new(MAX_LOGINS, MAX_LOGINS_OF_ONE),
            rate: Mutex::default(),
            told: Told::new(Arc::clone(&oddities)),
            tags: Tags::new(state),
            oddities,
            moves: moved::Moves::default(),
        });
        let (stop, stopped) = watch::channel(false);
        let mut listeners = JoinSet::new();
        for (listener, listen) in bound {
            let (intercept, proxy_protocol) =
                (listen.intercept.map(Intercept::word), listen.is_behind_balancers());
            tracing::info!(address = %listen.address, intercept, proxy_protocol, "listening");
            listeners.spawn(listener::run(Arc::clone(&shared), (listener, listen), stopped.clone()));
        }
        Ok(Self { shared, stop, listeners, _writer: writer })
    }

    /// The addresses listened on, in the order of the configuration, with the real ports.
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.shared.portals
    }

    /// What an operator has of it.
    #[must_use]
    pub fn operator(&self) -> operator::Operator {
        operator::Operator { shared: Arc::clone(&self.shared), source: None }
    }

    /// Sessions (discovery included) that are running or ending.
    #[must_use]
    pub fn sessions(&self) -> usize {
        self.shared.registry.len()
    }

    /// Stops: accepts nothing more, ends the sessions in order within `patience`, and then whatever is left.
    pub async fn stop(mut self, patience: Duration) {
        self.stop.send_replace(true);
        let mut connections = Vec::new();
        while let Some(served) = self.listeners.join_next().await {
            connections.extend(served);
        }
        self.shared.verdicts.stop().await;
        self.shared.told.stop().await;
        self.shared.registry.close(patience).await;
        if self.shared.registry.is_clean() {
            self.shared.mark.remove();
        }
        for mut served in connections {
            served.shutdown().await;
        }
    }
}

impl Shared {
    /// The configuration as it is now. A login keeps the one that it began with.
    fn config(&self) -> Arc<Config> {
        self.config.load_full()
    }

    /// The tag under which a target's portals are shown: the target's own once it is known (R239).
    fn tpgt(&self, target: &str) -> u16 {
        self.tags.known(target, None).unwrap_or(DEFAULT_TPGT)
    }

    /// Learns the tag of a target that nobody has logged in to yet: an initiator compares the tag it discovered with the one
    /// it meets at login. Where the portals do not tell, the default has to do.
    async fn learn(&self, target: &Target, initiator: &str) {
        let name = &target.name;
        if self.tags.known(name, None).is_some() {
            return;
        }
        let told = target.paths.iter().find_map(|path| path.group);
        if let Some(tag) = told.or_else(|| self.verdicts.tpgt(name)) {
            return self.tags.learn(name, tag);
        }
        let tag = |(path, answer): (&PathConfig, &Option<Answer>)| {
            let record = answer.as_ref()?.iter().find(|record| record.name == path.target)?;
            let own = record.portals.iter().find(|(address, _)| *address == path.portal.to_string());
            own.or_else(|| record.portals.first()).map(|(_, tag)| *tag)
        };
        let first = |answers: &[Option<Answer>]| target.paths.iter().zip(answers).find_map(tag);
        let answers = self.told.by(initiator, &target.paths, |answers| first(answers).is_some()).await;
        if let Some(tag) = first(&answers) {
            self.tags.learn(name, tag);
        }
    }

    /// A target as it is shown on a connection: with Braid's portals, or the balancer's through which it came.
    fn record(&self, target: &str, conn: &Conn) -> TargetRecord {
        let tpgt = self.tpgt(target);
        let portals = match conn.told() {
            Some(ends) => vec![ends.reached],
            None => shown(&self.public, conn.stream().local_addr().ok().map(|local| local.ip())),
        };
        let portals = portals.iter().map(|address| (address.to_string(), tpgt)).collect();
        TargetRecord { name: target.to_owned(), portals }
    }
}

/// The black box, if it is wanted; what writes its incidents runs in `writer`.
fn black_box(settings: &config::BlackBox, writer: &mut JoinSet<()>) -> Option<Arc<BlackBox>> {
    let room = usize::try_from(settings.memory).unwrap_or(usize::MAX);
    if room == 0 {
        return None;
    }
    let (incidents, pen) = incident::channel(settings).unzip();
    let black_box = BlackBox::new(room, incidents);
    if let Some(pen) = pen {
        writer.spawn(pen.run(&black_box));
    }
    Some(black_box)
}

/// Opens all listeners; each comes with its address as it was given out.
async fn bind(config: &Config) -> Result<Vec<(TcpListener, Listen)>, StartError> {
    if let Some(mark) = config.own_mark() {
        intercept::can_mark(mark).map_err(|error| StartError::Mark { mark, error })?;
    }
    let mut bound = Vec::new();
    for listen in &config.listen {
        let failed = |error| StartError::Listen { address: listen.address, error };
        let listener = match listen.intercept {
            None => TcpListener::bind(listen.address).await,
            Some(how) => intercept::bind(listen, how),
        };
        let listener = listener.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let portals = config.targets.iter().flat_map(|target| &target.paths).map(|path| path.portal);
        if let Some(portal) = portals.into_iter().find(|portal| intercept::own(address, *portal)) {
            return Err(StartError::Loop { portal, listener: address });
        }
        bound.push((listener, Listen { address, ..listen.clone() }));
    }
    Ok(bound)
}

/// The portals as seen from a connection to `local`: an unspecified address is shown as the one the initiator has
/// reached, and a loopback address only to those who are on it.
fn shown(portals: &[SocketAddr], local: Option<IpAddr>) -> Vec<SocketAddr> {
    let local = local.map(|local| local.to_canonical());
    let mut shown = Vec::new();
    for portal in portals {
        let ip = match local {
            Some(local) if portal.ip().is_unspecified() => local,
            _ => portal.ip(),
        };
        let address = SocketAddr::new(ip, portal.port());
        let reachable = !ip.is_loopback() || local.is_some_and(|local| local.is_loopback());
        if reachable && !ip.is_unspecified() && !shown.contains(&address) {
            shown.push(address);
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::shown;

    #[test]
    fn portals_are_shown_as_the_initiator_can_reach_them() {
        let portals = ["0.0.0.0:3260", "10.0.0.1:3261", "127.0.0.1:3262"].map(|text| text.parse().unwrap());
        let from = |local: &str| -> Vec<String> {
            shown(&portals, Some(local.parse().unwrap())).iter().map(ToString::to_string).collect()
        };
        assert_eq!(from("10.0.0.2"), ["10.0.0.2:3260", "10.0.0.1:3261"]);
        assert_eq!(from("::ffff:10.0.0.2"), ["10.0.0.2:3260", "10.0.0.1:3261"]);
        assert_eq!(from("127.0.0.1"), ["127.0.0.1:3260", "10.0.0.1:3261", "127.0.0.1:3262"]);
    }
}
