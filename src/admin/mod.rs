//! HTTP for operators: `/metrics` for Prometheus, `/healthz` for load balancers and eyes; [`control`] on a socket of its own.
//!
//! The first two only read. `/healthz` answers 200 as long as no initiator is left without a path, else 503; the JSON body says
//! how many paths of each target work, and in either case Braid itself is alive. Targets without sessions count as
//! well: Braid connects when an initiator does, so nothing is known of them and nobody waits for them.

pub mod control;
pub mod explain;
pub mod view;

use crate::metrics::{Metrics, TargetHealth};
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use axum::{Json, Router};
use serde::Serialize;
use std::sync::Arc;
use tokio::net::TcpListener;

/// Serves until `stop` completes.
///
/// # Errors
/// When the listener fails for good.
pub async fn serve(
    listener: TcpListener,
    metrics: Arc<Metrics>,
    stop: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    axum::serve(listener, router(metrics)).with_graceful_shutdown(stop).await
}

fn router(metrics: Arc<Metrics>) -> Router {
    Router::new()
        .route("/", get("Braid: /metrics for Prometheus, /healthz for the state of the paths\n"))
        .route("/metrics", get(show_metrics))
        .route("/healthz", get(show_health))
        .with_state(metrics)
}

async fn show_metrics(State(metrics): State<Arc<Metrics>>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], metrics.render())
}

async fn show_health(State(metrics): State<Arc<Metrics>>) -> impl IntoResponse {
    let (code, health) = health(&metrics.health());
    (code, Json(health))
}

/// The body of `/healthz`.
#[derive(Serialize, PartialEq, Eq, Debug)]
struct Health {
    ok: bool,
    version: &'static str,
    targets: Vec<HealthOfTarget>,
}

#[derive(Serialize, PartialEq, Eq, Debug)]
struct HealthOfTarget {
    target: String,
    ok: bool,
    sessions: i64,
    usable_paths: usize,
    paths: Vec<HealthOfPath>,
}

#[derive(Serialize, PartialEq, Eq, Debug)]
struct HealthOfPath {
    path: String,
    connections: i64,
}

fn health(targets: &[TargetHealth]) -> (StatusCode, Health) {
    let ok = !targets.iter().any(TargetHealth::is_down);
    let code = if ok { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let targets = targets.iter().map(|target| HealthOfTarget {
        target: target.target.clone(),
        ok: !target.is_down(),
        sessions: target.sessions,
        usable_paths: target.usable(),
        paths: (target.paths.iter())
            .map(|(path, connections)| HealthOfPath { path: path.clone(), connections: *connections })
            .collect(),
    });
    (code, Health { ok, version: env!("CARGO_PKG_VERSION"), targets: targets.collect() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Terms;
    use crate::session::{Barriers, Fanout, FenceMethod, Notice, PathId};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;
    use tokio::sync::oneshot;

    /// Serves on loopback; the sender stops it.
    async fn start(metrics: Arc<Metrics>) -> (std::net::SocketAddr, oneshot::Sender<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel();
        tokio::spawn(serve(listener, metrics, async {
            stopped.await.ok();
        }));
        (address, stop)
    }

    fn terms() -> Terms {
        Terms {
            fanout: Fanout::Sessions,
            barriers: Barriers::Strict,
            fence: FenceMethod::Auto,
            memory_budget: 1,
        }
    }

    async fn fetch(address: std::net::SocketAddr, path: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: braid\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn metrics_and_health_are_served() {
        let metrics = Arc::new(Metrics::new());
        metrics.declare("iqn.a", ["left", "right"]);
        let (address, _stop) = start(Arc::clone(&metrics)).await;

        let text = fetch(address, "/metrics").await;
        assert!(text.starts_with("HTTP/1.1 200") && text.contains("text/plain; version=0.0.4"), "{text}");
        assert!(text.contains("# HELP braid_build_info") && text.contains("path=\"left\""), "{text}");
        assert!(fetch(address, "/healthz").await.starts_with("HTTP/1.1 200"));
        assert!(fetch(address, "/nothing").await.starts_with("HTTP/1.1 404"));

        let mut session = metrics.session("iqn.a", ["left", "right"], &terms());
        let text = fetch(address, "/healthz").await;
        assert!(text.starts_with("HTTP/1.1 503") && text.contains("\"ok\":false"), "{text}");
        session.note(&Notice::PathUp { path: PathId(1), home: true });
        let text = fetch(address, "/healthz").await;
        assert!(text.starts_with("HTTP/1.1 200") && text.contains("\"usable_paths\":1"), "{text}");
        let body: serde_json::Value = serde_json::from_str(text.split("\r\n\r\n").nth(1).unwrap()).unwrap();
        assert_eq!(body["targets"][0]["paths"][1]["path"], "right");
    }

    #[tokio::test]
    async fn serving_stops_when_told() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        serve(listener, Arc::new(Metrics::new()), async {}).await.unwrap();
    }
}
