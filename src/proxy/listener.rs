//! Accepting connections, each served by a task of its own.

use super::balancer::{self, Untold};
use super::events::{About, Kind};
use super::intercept::{self, Sorted};
use super::rate::Verdict;
use super::room::Place;
use super::welcome::{self, Approach};
use super::{Shared, clock, dial};
use crate::config::Listen;
use crate::metrics::LoginResult;
use std::net::IpAddr;
use std::sync::{Arc, PoisonError};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// How long sent data may stay unacknowledged by an initiator before the kernel gives the connection up.
const USER_TIMEOUT: Duration = Duration::from_secs(30);

/// Rest after a failed accept: it mostly means that there are no file descriptors left.
const REST: Duration = Duration::from_millis(100);

/// Accepts until told to stop, and gives back the connections that are still served.
pub(super) async fn run(
    shared: Arc<Shared>,
    (listener, listen): (TcpListener, Listen),
    mut stop: watch::Receiver<bool>,
) -> JoinSet<()> {
    let stop = async move { stop.wait_for(|stop| *stop).await.is_ok() };
    tokio::pin!(stop);
    let mut served = JoinSet::new();
    loop {
        tokio::select! {
            _ = &mut stop => return served,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => admit(&shared, &listen, stream, &mut served),
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(REST).await;
                }
            },
            Some(ended) = served.join_next() => if let Err(error) = ended {
                tracing::error!(%error, "a connection's task failed");
            },
        }
    }
}

fn admit(shared: &Arc<Shared>, listen: &Listen, stream: TcpStream, served: &mut JoinSet<()>) {
    let Ok(peer) = stream.peer_addr() else { return };
    // A balancer's connections are the initiators', and count as theirs once it has told whose.
    let from_balancer = listen.trusts(peer.ip());
    if !from_balancer && !in_time(shared, peer.ip()) {
        return;
    }
    if listen.is_behind_balancers() && !from_balancer {
        tracing::warn!(%peer, listener = %listen.address, "not from a balancer that proxy_protocol names: connection closed");
        return shared.metrics.login(LoginResult::Denied);
    }
    let tuned = dial::tune(&stream)
        .and_then(|()| socket2::SockRef::from(&stream).set_tcp_user_timeout(Some(USER_TIMEOUT)));
    if let Err(error) = tuned {
        tracing::debug!(%error, "connection lost before it was served");
        return;
    }
    match shared.logins.take((!from_balancer).then(|| peer.ip())) {
        Some(place) => drop(served.spawn(serve(Arc::clone(shared), listen.clone(), stream, place))),
        None => {
            tracing::warn!(peer = ?stream.peer_addr().ok(), "too many logins under way: connection closed")
        }
    }
}

/// Whether connections from this address do not come too fast.
fn in_time(shared: &Shared, address: IpAddr) -> bool {
    let rate = shared.config().limits.login_rate;
    let mut rates = shared.rate.lock().unwrap_or_else(PoisonError::into_inner);
    let verdict = rates.take(address, rate, clock::now());
    drop(rates);
    if verdict == Verdict::First {
        tracing::warn!(
            %address,
            rate,
            "connections come faster than limits.login_rate allows: those beyond are closed"
        );
    }
    verdict == Verdict::Pass
}

/// Serves a connection to its end, or passes it on if it was intercepted and is not Braid's.
async fn serve(shared: Arc<Shared>, listen: Listen, mut stream: TcpStream, place: Place) {
    if listen.is_behind_balancers() {
        if let Some(approach) = introduced(&shared, &mut stream).await {
            welcome::serve(shared, stream, approach, place).await;
        }
        return;
    }
    let wanted = listen.intercept.and_then(|how| intercept::original(&stream, listen.address, how));
    let Some(wanted) = wanted else {
        return welcome::serve(shared, stream, Approach::default(), place).await;
    };
    match intercept::sort(&shared, &mut stream, wanted).await {
        Sorted::Ours(read) => {
            let approach = Approach { wanted: Some(wanted), read, ..Approach::default() };
            welcome::serve(shared, stream, approach, place).await;
        }
        Sorted::Foreign(read) => {
            drop(place);
            intercept::pass_on(&shared, stream, wanted, &read).await;
        }
        Sorted::Gone => {}
    }
}

/// What a balancer tells of its connection; none if it does not, or of one that is too much.
async fn introduced(shared: &Shared, stream: &mut TcpStream) -> Option<Approach> {
    let balancer = stream.peer_addr().ok()?;
    let untold = match balancer::hear(stream).await {
        Ok((told, read)) => {
            let told = told.seen_from(balancer.ip());
            let passes = told.ends().is_none_or(|ends| in_time(shared, ends.peer.ip()));
            return passes.then(|| Approach { told: Some(told), read, ..Approach::default() });
        }
        Err(Untold::Silent) => {
            tracing::debug!(%balancer, "a balancer has checked that somebody listens");
            return None;
        }
        Err(why) => why,
    };
    let (why, result) = (untold.to_string(), untold.as_login());
    shared.metrics.login(result);
    let text = format!("{}: {why}, from balancer {balancer}", result.label());
    shared.events.tell(Kind::LoginRefused, About::default(), &text);
    tracing::warn!(%balancer, why, "connection closed");
    None
}
