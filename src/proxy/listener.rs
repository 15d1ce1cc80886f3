//! Accepting connections, each served by a task of its own.

use super::intercept::{self, Sorted};
use super::rate::Verdict;
use super::{Shared, clock, dial, welcome};
use crate::config::Listen;
use std::sync::{Arc, PoisonError};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::OwnedSemaphorePermit;
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
                Ok((stream, _)) => admit(&shared, listen, stream, &mut served),
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

fn admit(shared: &Arc<Shared>, listen: Listen, stream: TcpStream, served: &mut JoinSet<()>) {
    let Ok(peer) = stream.peer_addr() else { return };
    let rate = shared.config().limits.login_rate;
    match shared.rate.lock().unwrap_or_else(PoisonError::into_inner).take(peer.ip(), rate, clock::now()) {
        Verdict::Pass => {}
        Verdict::First => {
            tracing::warn!(
                address = %peer.ip(),
                rate,
                "connections come faster than limits.login_rate allows: those beyond are closed"
            );
            return;
        }
        Verdict::Refuse => return,
    }
    let tuned = dial::tune(&stream)
        .and_then(|()| socket2::SockRef::from(&stream).set_tcp_user_timeout(Some(USER_TIMEOUT)));
    if let Err(error) = tuned {
        tracing::debug!(%error, "connection lost before it was served");
        return;
    }
    match Arc::clone(&shared.logins).try_acquire_owned() {
        Ok(permit) => drop(served.spawn(serve(Arc::clone(shared), listen, stream, permit))),
        Err(_) => {
            tracing::warn!(peer = ?stream.peer_addr().ok(), "too many logins under way: connection closed")
        }
    }
}

/// Serves a connection to its end, or passes it on if it was intercepted and is not Braid's.
async fn serve(shared: Arc<Shared>, listen: Listen, mut stream: TcpStream, permit: OwnedSemaphorePermit) {
    let wanted = listen.intercept.and_then(|how| intercept::original(&stream, listen.address, how));
    let Some(wanted) = wanted else { return welcome::serve(shared, stream, None, permit).await };
    match intercept::sort(&shared, &mut stream, wanted).await {
        Sorted::Ours(read) => welcome::serve(shared, stream, Some((wanted, read)), permit).await,
        Sorted::Foreign(read) => {
            drop(permit);
            intercept::pass_on(&shared, stream, wanted, &read).await;
        }
        Sorted::Gone => {}
    }
}
