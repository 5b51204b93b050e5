//! The HTTP server: `/metrics`, `/healthz` (the process is alive; uses no store) and `/readyz` (the worker can work;
//! else 503 and the reasons).

use std::io;
use std::net::SocketAddr;

use axum::Router;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::routing::get;
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::readiness::Readiness;
use crate::config::Misconfigured;

/// Content type of the text format of Prometheus.
const PROMETHEUS_TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Binds `address`; port 0 takes a free one.
///
/// # Errors
/// [`Misconfigured`] if another process listens there or the machine does not have the address.
pub async fn bind(address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.map_err(|error| {
        let remedy = match error.kind() {
            io::ErrorKind::AddrInUse => {
                "end the other process, or choose another address with --metrics-listen or METRICS_LISTEN (port 0 \
                 takes a free one)"
            }
            _ => "choose another address with --metrics-listen or METRICS_LISTEN",
        };
        Misconfigured::new(format!("cannot listen on {address}: {error}; {remedy}")).into()
    })
}

/// Creates the routes. A cancelled `shutdown` makes the worker not ready.
pub fn router(metrics: PrometheusHandle, readiness: Readiness, shutdown: CancellationToken) -> Router {
    Router::new()
        .route(
            "/metrics",
            get(move || async move { ([(CONTENT_TYPE, PROMETHEUS_TEXT)], metrics.render()) }),
        )
        .route("/healthz", get(async || "alive\n"))
        .route(
            "/readyz",
            get(move || async move { ready(readiness.problems(), shutdown.is_cancelled()) }),
        )
}

fn ready(mut problems: Vec<String>, draining: bool) -> (StatusCode, String) {
    if draining {
        problems.insert(0, "shutting down".into());
    }
    if problems.is_empty() {
        return (StatusCode::OK, "ready\n".into());
    }
    (StatusCode::SERVICE_UNAVAILABLE, problems.join("\n") + "\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_says_why_not() {
        let readiness = Readiness::waiting_for(["redis", "postgres"]);
        readiness.ok("postgres");
        assert_eq!(
            ready(readiness.problems(), false),
            (StatusCode::SERVICE_UNAVAILABLE, "redis: not yet\n".into())
        );
        readiness.ok("redis");
        assert_eq!(ready(readiness.problems(), false), (StatusCode::OK, "ready\n".into()));
        assert_eq!(
            ready(readiness.problems(), true),
            (StatusCode::SERVICE_UNAVAILABLE, "shutting down\n".into())
        );
    }

    #[tokio::test]
    async fn a_port_in_use_is_a_misconfiguration_that_says_what_to_do() {
        let first = bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap();
        let error = bind(first.local_addr().unwrap()).await.unwrap_err();
        assert!(Misconfigured::caused(&error));
        assert!(error.to_string().contains("--metrics-listen"), "{error}");
    }
}
