//! A further connection of the initiator's in a session that runs (RFC 7143 section 6.3.1: a login with its TSIH).
//!
//! It has to prove itself like any other. Then the session is asked, which ends a connection that has the same CID, and what is
//! granted is what the session has. When the login is over, the socket goes to the task that owns the session.

use super::{End, Greeting, Halt, key};
use crate::config::Target;
use crate::login::{Intent, Negotiated, Offer};
use crate::metrics::LoginResult;
use crate::proxy::operator::Asked;
use crate::proxy::room::Seat;
use crate::proxy::session::Joined;
use crate::proxy::{DEFAULT_TPGT, NO_SESSION, OUT_OF_RESOURCES, TOO_MANY_CONNECTIONS};
use tokio::sync::oneshot;

impl Greeting {
    /// Carries such a login on to its end.
    pub(super) async fn join(mut self, intent: &Intent, target: &Target) {
        let (way, agreed, seat) = match self.log_in(intent, target).await {
            Ok(place) => place,
            Err(end) => return self.ended(end).await,
        };
        self.shared.metrics.login(LoginResult::Joined);
        self.shared.oddities.shown_by_initiator(&agreed);
        let joined = Joined { conn: self.conn, agreed: *agreed, seat };
        if way.send(Box::new(joined)).is_err() {
            tracing::info!("the session ended before its new connection came");
        }
    }

    /// Logs the connection in; gives its way to the session.
    async fn log_in(
        &mut self,
        intent: &Intent,
        target: &Target,
    ) -> Result<(oneshot::Sender<Box<Joined>>, Box<Negotiated>, Seat), End> {
        let refused = |refusal| End::Refused(refusal, LoginResult::Protocol);
        let session = self.shared.registry.session(&key(intent, None), intent.tsih);
        let session = session.ok_or_else(|| refused(NO_SESSION))?;
        let most = self.config.limits.max_sessions;
        let seat = self.shared.sessions.take(most).ok_or_else(|| {
            tracing::warn!(
                max_sessions = most,
                "as many sessions and further connections as limits.max_sessions allows: login refused"
            );
            End::Refused(OUT_OF_RESOURCES, LoginResult::Limit)
        })?;
        let place = session.ask(|answer| Asked::Join(intent.cid, answer)).await.flatten();
        let (awaited, way) = place.ok_or_else(|| refused(TOO_MANY_CONNECTIONS))?;
        self.login.join_at(awaited.cmd_sn);
        let offer = Offer {
            window: awaited.max_cmd_sn.next().since(awaited.cmd_sn),
            limits: awaited.session,
            joining: true,
            max_recv_data_segment: target.max_recv_data_segment,
            allow_digests: true,
            tpgt: awaited.tpgt.unwrap_or(DEFAULT_TPGT),
            target_alias: awaited.target_alias,
            tsih: awaited.tsih,
        };
        let step = self.login.accept(offer);
        match self.talk(Some(step)).await? {
            Halt::Done(agreed) => Ok((way, agreed, seat)),
            Halt::Decide(_) | Halt::Failed => Err(End::Told),
        }
    }
}
