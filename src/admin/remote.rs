//! Control over TCP, for those who have a token: the interface of [`control`] behind a check of who asks.
//!
//! Each request says `Authorization: Bearer TOKEN`. A token of the level `read` is good for GET, one of the level `control` for
//! everything; without a token that is known the answer is 401, with one that is not good enough 403. Who guesses waits: a refusal takes
//! `PENALTY`. There is no TLS: tokens and answers go in clear.
//!
//! # Bounds
//! `MOST_CONNECTIONS` at a time, each for one request, which has `PATIENCE` to come and be answered.

use super::control;
use super::view;
use crate::config::{Level, RemoteControl, Token};
use crate::proxy::operator::Operator;
use axum::extract::{Request, State};
use axum::http::{Method, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::{Json, Router};
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

const MOST_CONNECTIONS: usize = 64;
/// How long a refusal takes.
const PENALTY: Duration = Duration::from_secs(1);
/// Longer than the longest wait for an event.
const PATIENCE: Duration = Duration::from_secs(90);
/// After an `accept` that failed, for want of descriptors perhaps.
const PAUSE: Duration = Duration::from_millis(100);

/// The address, listened on.
#[derive(Debug)]
pub struct Remote {
    listener: TcpListener,
    tokens: Arc<[Token]>,
}

impl Remote {
    /// Listens.
    ///
    /// # Errors
    /// The address cannot be had.
    pub async fn bind(config: &RemoteControl) -> io::Result<Self> {
        let listener = TcpListener::bind(config.address).await?;
        Ok(Self { listener, tokens: config.tokens.as_slice().into() })
    }

    /// Where.
    ///
    /// # Errors
    /// The system does not say.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves for ever.
    pub async fn serve(self, operator: Operator) {
        let places = Arc::new(Semaphore::new(MOST_CONNECTIONS));
        let admission = middleware::from_fn_with_state(self.tokens, admit);
        let router: Router = control::router(operator).layer(admission);
        loop {
            // The semaphore is never closed.
            let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
            let (stream, peer) = match self.listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "remote control takes no connection");
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
            };
            let service = TowerToHyperService::new(router.clone());
            tokio::spawn(async move {
                let connection =
                    http1::Builder::new().keep_alive(false).serve_connection(TokioIo::new(stream), service);
                match tokio::time::timeout(PATIENCE, connection).await {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => tracing::debug!(%peer, %error, "remote control"),
                    Err(_) => tracing::debug!(%peer, "remote control: too slow"),
                }
                drop(place);
            });
        }
    }
}

/// Lets those pass whose token is good for what they ask.
async fn admit(State(tokens): State<Arc<[Token]>>, request: Request, next: Next) -> Response {
    let wanted = if request.method() == Method::GET { Level::Read } else { Level::Control };
    let told = request.headers().get(header::AUTHORIZATION).map(|value| value.as_bytes());
    let told = told.and_then(|value| value.strip_prefix(b"Bearer "));
    let known = told.and_then(|told| tokens.iter().find(|token| token.account.secret.is(told)));
    let Some(Token { account, level }) = known else {
        tokio::time::sleep(PENALTY).await;
        let error = "a token is needed: Authorization: Bearer TOKEN, one of `remote_control.tokens` in the configuration";
        return refusal(StatusCode::UNAUTHORIZED, error);
    };
    if *level < wanted {
        let error = "this token may ask, and give no orders; take one whose level is \"control\"";
        return refusal(StatusCode::FORBIDDEN, error);
    }
    if wanted == Level::Control {
        tracing::info!(who = account.name, order = request.uri().path(), "order by remote control");
    }
    next.run(request).await
}

fn refusal(code: StatusCode, error: &str) -> Response {
    let body = Json(view::Refused { error: error.to_owned(), changes: Vec::new() });
    if code == StatusCode::UNAUTHORIZED {
        return (code, [(header::WWW_AUTHENTICATE, "Bearer")], body).into_response();
    }
    (code, body).into_response()
}
