//! The status page at `/` of the admin address, and what it asks: `/v1/status`, `/v1/events` and whatever else only reads.
//!
//! # Safety
//! - The page is some files of this program (`page/`). Its content security policy allows nothing but these and questions to
//!   the same address. Names that peers chose become text nodes; `require-trusted-types-for` makes the browser refuse any
//!   other way.
//! - On a loopback address only those are answered who asked for an address or for `localhost`: a page from elsewhere whose
//!   name was made to lead to 127.0.0.1 would read along otherwise.
//!
//! # Cost
//! Asking for the status asks every session. However many pages are open, that is done once per `FRESH` at most.

use super::control;
use super::view::Status;
use crate::proxy::clock;
use crate::proxy::operator::Operator;
use axum::Router;
use axum::body::Bytes;
use axum::extract::{FromRef, Request, State};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderName, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Mutex;

/// For how long an answer about the status is given again.
const FRESH: Duration = Duration::from_millis(500);

/// What the page may do.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
     base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'";

const HTML: &str = "text/html; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const DRAWING: &str = "image/svg+xml";

/// The files of the page: where they are found, what they are, what is in them.
const FILES: [(&str, &str, &str); 11] = [
    ("/", HTML, include_str!("page/index.html")),
    ("/page/style.css", STYLE, include_str!("page/style.css")),
    ("/page/icon.svg", DRAWING, include_str!("page/icon.svg")),
    ("/page/main.js", SCRIPT, include_str!("page/main.js")),
    ("/page/model.js", SCRIPT, include_str!("page/model.js")),
    ("/page/target.js", SCRIPT, include_str!("page/target.js")),
    ("/page/picture.js", SCRIPT, include_str!("page/picture.js")),
    ("/page/chart.js", SCRIPT, include_str!("page/chart.js")),
    ("/page/events.js", SCRIPT, include_str!("page/events.js")),
    ("/page/words.js", SCRIPT, include_str!("page/words.js")),
    ("/page/dom.js", SCRIPT, include_str!("page/dom.js")),
];

/// Headers of every answer.
const fn headers() -> [(HeaderName, &'static str); 5] {
    [
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-cache"),
    ]
}

/// What the page is served from.
#[derive(Clone)]
struct Board {
    operator: Operator,
    /// The latest answer about the status, and when it was made.
    latest: Arc<Mutex<Option<(Instant, Bytes)>>>,
}

impl FromRef<Board> for Operator {
    fn from_ref(board: &Board) -> Self {
        board.operator.clone()
    }
}

/// The page and what it asks; `local` says that it is served on a loopback address.
pub(super) fn router(operator: Operator, local: bool) -> Router {
    let mut router = control::reading().route("/v1/status", get(show_status));
    for (place, kind, text) in FILES {
        router = router.route(place, get(([(header::CONTENT_TYPE, kind)], text)));
    }
    let guarded = move |request: Request, next: Next| async move {
        if local && !asks_for_this_machine(request.headers()) {
            return (StatusCode::MISDIRECTED_REQUEST, "ask for 127.0.0.1 or localhost\n").into_response();
        }
        (headers(), next.run(request).await).into_response()
    };
    router.route_layer(middleware::from_fn(guarded)).with_state(Board { operator, latest: Arc::default() })
}

/// Whether the name that the browser was given is an address, or means this machine everywhere.
fn asks_for_this_machine(headers: &HeaderMap) -> bool {
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()?.parse::<Authority>().ok());
    host.is_some_and(|host| {
        let name = host.host();
        let bare = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
        bare.eq_ignore_ascii_case("localhost") || bare.parse::<IpAddr>().is_ok()
    })
}

/// Those who ask while an answer is made wait for it.
async fn show_status(State(board): State<Board>) -> Response {
    let mut latest = board.latest.lock().await;
    let now = clock::now();
    let fresh = latest.as_ref().filter(|(at, _)| now.saturating_duration_since(*at) < FRESH);
    let body = match fresh {
        Some((_, body)) => body.clone(),
        None => match serde_json::to_vec(&Status::of(&board.operator).await) {
            Ok(body) => latest.insert((now, body.into())).1.clone(),
            Err(error) => return (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
        },
    };
    ([(header::CONTENT_TYPE, "application/json")], body).into_response()
}
