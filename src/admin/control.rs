//! Control: HTTP on a Unix socket that only its owner and group may use.
//!
//! | request | what it does |
//! | --- | --- |
//! | `GET /v1/status` | how targets, sessions and paths stand ([`view::Status`]) |
//! | `POST /v1/targets/TARGET/paths/PATH/drain` | takes a path out once it is idle |
//! | `POST /v1/targets/TARGET/paths/PATH/fail` | takes a path out at once |
//! | `POST /v1/targets/TARGET/paths/PATH/restore` | gives it back |
//! | `POST /v1/targets/TARGET/paths/PATH/weight` | changes its weight |
//! | `POST /v1/targets/TARGET/give-up` | no longer waits for a path |
//! | `GET /v1/targets/TARGET/explain` | why things are as they are with a target ([`super::explain::Explanation`]) |
//! | `POST /v1/reload` | reads the configuration again and changes to it; takes a [`view::ReloadOrder`] |
//! | `GET /v1/events?after=NUMBER&wait=SECONDS` | what happened after that event; waits for it if need be ([`view::News`]) |
//! | `GET /v1/capture?target=TARGET&initiator=INITIATOR` | the latest PDU headers, as a pcapng file; here alone |
//! | `GET /v1/openapi.json` | all this for machines |
//!
//! What only reads is on the admin address too (`page`). Orders about paths take a [`view::Order`] as JSON, or nothing, and answer with [`view::Done`] or, with 404 (no such target or path),
//! 409 (a session needs the path) or 422 (a weight or time that is none), with [`view::Refused`]. Reading again answers with [`view::Reloaded`] or with 409 (something
//! cannot be changed now) or 422 (the file is wrong, or there is none).

use super::explain::Explanation;
use super::view;
use crate::proxy::operator::{Operator, PathOrder, Refused};
use crate::proxy::reload::NotReloaded;
use axum::extract::{DefaultBodyLimit, FromRef, Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path as FilePath, PathBuf};
use std::time::Duration;
use tokio::net::UnixListener;

/// Bytes of an order, at most.
const LONGEST_ORDER: usize = 4096;
/// Longest wait for an event.
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// Owner and group.
const PERMISSIONS: u32 = 0o660;

/// The description of the interface.
const OPENAPI: &str = include_str!("openapi.json");

/// The socket, which is removed when this is dropped.
#[derive(Debug)]
pub struct Socket {
    listener: Option<UnixListener>,
    path: PathBuf,
}

impl Socket {
    /// Makes the socket, and its directory if that is missing, in place of one that nobody listens on.
    ///
    /// # Errors
    /// Another Braid listens there (`AddrInUse`), or the file cannot be made.
    pub fn bind(path: &FilePath) -> io::Result<Self> {
        if std::os::unix::net::UnixStream::connect(path).is_ok() {
            return Err(io::Error::new(io::ErrorKind::AddrInUse, "another Braid listens there"));
        }
        if let Some(directory) = path.parent() {
            std::fs::create_dir_all(directory)?;
        }
        match std::fs::symlink_metadata(path) {
            Ok(found) if std::os::unix::fs::FileTypeExt::is_socket(&found.file_type()) => {
                std::fs::remove_file(path)?;
            }
            Ok(_) => return Err(io::Error::new(io::ErrorKind::AlreadyExists, "it is there, and no socket")),
            Err(_) => {}
        }
        let listener = UnixListener::bind(path)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(PERMISSIONS))?;
        Ok(Self { listener: Some(listener), path: path.to_owned() })
    }

    /// Serves until it fails.
    ///
    /// # Errors
    /// When the listener fails for good.
    pub async fn serve(mut self, operator: Operator) -> io::Result<()> {
        match self.listener.take() {
            Some(listener) => axum::serve(listener, router(operator)).await,
            None => Ok(()),
        }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.path) {
            tracing::debug!(%error, path = %self.path.display(), "the control socket was gone already");
        }
    }
}

/// The requests and who answers them.
pub(super) fn router(operator: Operator) -> Router {
    reading()
        .route("/v1/status", get(show_status))
        .route("/v1/targets/{target}/paths/{path}/{order}", post(order_path))
        .route("/v1/targets/{target}/give-up", post(give_up))
        .route("/v1/reload", post(reload))
        .route("/v1/capture", get(capture))
        .layer(DefaultBodyLimit::max(LONGEST_ORDER))
        .with_state(operator)
}

/// What only reads, but for the status.
pub(super) fn reading<S>() -> Router<S>
where
    S: Clone + Send + Sync + 'static,
    Operator: FromRef<S>,
{
    Router::new()
        .route("/v1/targets/{target}/explain", get(explain_target))
        .route("/v1/events", get(tell_events))
        .route("/v1/openapi.json", get(([(header::CONTENT_TYPE, "application/json")], OPENAPI)))
}

async fn show_status(State(operator): State<Operator>) -> Json<view::Status> {
    Json(view::Status::of(&operator).await)
}

async fn order_path(
    State(operator): State<Operator>,
    Path((target, path, order)): Path<(String, String, String)>,
    asked: Option<Json<view::Order>>,
) -> Response {
    let asked = asked.map(|Json(asked)| asked).unwrap_or_default();
    let limit = asked.for_seconds.map(|time| Duration::try_from_secs_f64(time).unwrap_or_default());
    let order = match (order.as_str(), asked.weight) {
        ("drain", _) => PathOrder::Drain,
        ("fail", _) => PathOrder::Fail,
        ("restore", _) => PathOrder::Restore,
        ("weight", Some(weight)) => PathOrder::Weigh(weight),
        ("weight", None) => {
            return refusal(
                StatusCode::UNPROCESSABLE_ENTITY,
                "say which, such as {\"weight\": 2}".to_owned(),
            );
        }
        (other, _) => {
            let error = format!("\"{other}\" is no order; there are drain, fail, restore and weight");
            return refusal(StatusCode::NOT_FOUND, error);
        }
    };
    answer(operator.order_for(&target, &path, order, asked.force, limit).await)
}

async fn give_up(State(operator): State<Operator>, Path(target): Path<String>) -> Response {
    answer(operator.give_up(&target).await)
}

async fn tell_events(
    State(operator): State<Operator>,
    Query(asked): Query<view::WhichNews>,
) -> Json<view::News> {
    let patience = Duration::from_secs(asked.wait).min(LONGEST_WAIT);
    Json(operator.events().wait_after(asked.after, patience).await.into())
}

async fn capture(State(operator): State<Operator>, Query(asked): Query<view::WhichCapture>) -> Response {
    match operator.capture(asked.target.as_deref(), asked.initiator.as_deref()).await {
        Some(file) => ([(header::CONTENT_TYPE, "application/vnd.tcpdump.pcap")], file).into_response(),
        None => {
            let why = "no headers are kept: `memory` in [black_box] is 0; change that, and start Braid again";
            refusal(StatusCode::NOT_FOUND, why.to_owned())
        }
    }
}

async fn reload(State(operator): State<Operator>, asked: Option<Json<view::ReloadOrder>>) -> Response {
    let check = asked.is_some_and(|Json(asked)| asked.check);
    match operator.reload(!check).await {
        Ok(reloaded) => Json(view::Reloaded::from(reloaded)).into_response(),
        Err(failure) => {
            let error = failure.to_string();
            let (code, changes) = match failure {
                NotReloaded::NoFile | NotReloaded::Wrong(_) => (StatusCode::UNPROCESSABLE_ENTITY, Vec::new()),
                NotReloaded::Refused { changes, .. } => (StatusCode::CONFLICT, changes),
            };
            let changes = changes.into_iter().map(view::Change::from).collect();
            (code, Json(view::Refused { error, changes })).into_response()
        }
    }
}

async fn explain_target(State(operator): State<Operator>, Path(target): Path<String>) -> Response {
    match operator.explain(&target).await {
        Ok(told) => Json(Explanation::from(told)).into_response(),
        Err(refused) => refusal(StatusCode::NOT_FOUND, refused.to_string()),
    }
}

fn answer(done: Result<usize, Refused>) -> Response {
    match done {
        Ok(sessions) => Json(view::Done { sessions }).into_response(),
        Err(refused) => {
            let code = match refused {
                Refused::UnknownTarget { .. } | Refused::UnknownPath { .. } => StatusCode::NOT_FOUND,
                Refused::LastPath { .. } => StatusCode::CONFLICT,
                Refused::NoWeight | Refused::NoLimit | Refused::Limit => StatusCode::UNPROCESSABLE_ENTITY,
            };
            refusal(code, refused.to_string())
        }
    }
}

fn refusal(code: StatusCode, error: String) -> Response {
    (code, Json(view::Refused { error, changes: Vec::new() })).into_response()
}
