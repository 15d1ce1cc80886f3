//! HTTP for operators: `/metrics` for Prometheus, `/healthz` for load balancers, a page for eyes; [`control`] on a socket of
//! its own, and over TCP for those with a token ([`remote`]).
//!
//! The first three only read. `/healthz` answers 200 as long as no initiator is left without a path, else 503; the JSON body says
//! how many paths of each target work, and in either case Braid itself is alive. Targets without sessions count as
//! well: Braid connects when an initiator does, so nothing is known of them and nobody waits for them.

pub mod control;
pub mod explain;
mod page;
pub mod remote;
pub mod view;

use crate::metrics::TargetHealth;
use crate::proxy::operator::Operator;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use axum::{Json, Router};
use serde::Serialize;
use tokio::net::TcpListener;

/// Serves until `stop` completes.
///
/// # Errors
/// When the listener fails for good.
pub async fn serve(
    listener: TcpListener,
    operator: Operator,
    stop: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    let local = listener.local_addr()?.ip().is_loopback();
    axum::serve(listener, router(operator, local)).with_graceful_shutdown(stop).await
}

fn router(operator: Operator, local: bool) -> Router {
    Router::new()
        .route("/metrics", get(show_metrics))
        .route("/healthz", get(show_health))
        .with_state(operator.clone())
        .merge(page::router(operator, local))
}

async fn show_metrics(State(operator): State<Operator>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], operator.metrics().render())
}

async fn show_health(State(operator): State<Operator>) -> impl IntoResponse {
    let (code, health) = health(&operator.metrics().health());
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
    use crate::config::Config;
    use crate::metrics::{Metrics, Terms};
    use crate::proxy::Proxy;
    use crate::session::{Barriers, Fanout, FenceMethod, Notice, PathId};
    use std::sync::Arc;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;
    use tokio::sync::oneshot;

    /// A Braid with this target, whose paths lead nowhere.
    async fn proxy(target: &str, paths: &[&str]) -> (Proxy, Arc<Metrics>) {
        let path =
            |(port, name): (u16, &&str)| format!("{{ portal = \"127.0.0.1:{port}\", name = \"{name}\" }}");
        let paths: Vec<_> = (1..).zip(paths).map(path).collect();
        let text =
            format!("[[target]]\nname = \"{target}\"\nmode = \"sessions\"\npaths = [{}]\n", paths.join(", "));
        let mut config = Config::from_toml(&text, "test").unwrap();
        config.listen = vec![std::net::SocketAddr::from(([127, 0, 0, 1], 0)).into()];
        let metrics = Arc::new(Metrics::new());
        (Proxy::start(Arc::new(config), Arc::clone(&metrics)).await.unwrap(), metrics)
    }

    /// Serves on loopback; the sender stops it.
    async fn start(proxy: &Proxy) -> (std::net::SocketAddr, oneshot::Sender<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel();
        tokio::spawn(serve(listener, proxy.operator(), async {
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
        fetch_from(address, &address.to_string(), path).await
    }

    async fn fetch_from(address: std::net::SocketAddr, host: &str, path: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn metrics_and_health_are_served() {
        let (proxy, metrics) = proxy("iqn.2026-11.a:a", &["left", "right"]).await;
        let (address, _stop) = start(&proxy).await;

        let text = fetch(address, "/metrics").await;
        assert!(text.starts_with("HTTP/1.1 200") && text.contains("text/plain; version=0.0.4"), "{text}");
        assert!(text.contains("# HELP braid_build_info") && text.contains("path=\"left\""), "{text}");
        assert!(fetch(address, "/healthz").await.starts_with("HTTP/1.1 200"));
        assert!(fetch(address, "/nothing").await.starts_with("HTTP/1.1 404"));

        let mut session = metrics.session("iqn.2026-11.a:a", ["left", "right"], &terms());
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
        let (proxy, _) = proxy("iqn.2026-11.a:a", &["left"]).await;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        serve(listener, proxy.operator(), async {}).await.unwrap();
    }

    /// A page of somebody else's, whose name has been made to lead here, must not read along.
    #[tokio::test]
    async fn on_loopback_the_page_is_for_those_who_asked_for_loopback() {
        let (proxy, _) = proxy("iqn.2026-11.a:a", &["left"]).await;
        let (address, _stop) = start(&proxy).await;
        for page in ["/", "/page/main.js", "/v1/status", "/v1/events", "/v1/openapi.json"] {
            for host in [&*address.to_string(), "localhost", "localhost:1234", "[::1]:1234"] {
                let answer = fetch_from(address, host, page).await;
                assert!(answer.starts_with("HTTP/1.1 200"), "{host} {page}: {answer}");
            }
            for host in ["example.org", "localhost.example.org:9260", "127.0.0.1.example.org", ""] {
                let answer = fetch_from(address, host, page).await;
                assert!(answer.starts_with("HTTP/1.1 421"), "{host} {page}: {answer}");
            }
        }
        let answer = fetch_from(address, "example.org", "/metrics").await;
        assert!(answer.starts_with("HTTP/1.1 200"), "no secret, and scraped by any name: {answer}");
        let post = "/v1/targets/iqn.2026-11.a:a/give-up";
        assert!(fetch(address, post).await.starts_with("HTTP/1.1 404"), "nothing is ordered here");
    }
}
