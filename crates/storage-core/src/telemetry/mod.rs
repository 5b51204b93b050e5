//! What a worker tells about itself: log lines on stderr, metrics, and the HTTP surface that shows
//! them together with its health.

pub mod http;
pub mod metrics;
pub mod readiness;
pub mod tracing;

use std::net::SocketAddr;
use std::time::Duration;

use self::metrics::Metric;
use self::readiness::Readiness;
use crate::config::telemetry::TelemetryConfig;
use crate::service::Service;

/// How often samples of histograms are folded into their buckets.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(5);

/// Installs the metrics, all at zero, and serves them with `/healthz` and `/readyz` until every
/// other task of `service` has ended. Returns the address that is served.
///
/// `worker` is the metrics' prefix (`hot_writer`), `version` the crate's, `groups` the `DEFINITIONS` of
/// each module that defines metrics.
///
/// # Errors
/// If the address can't be bound, or metrics were installed before.
pub async fn serve(
    service: &mut Service,
    config: &TelemetryConfig,
    worker: &str,
    version: &'static str,
    groups: &[&[&dyn Metric]],
    readiness: &Readiness,
) -> anyhow::Result<SocketAddr> {
    let handle = metrics::install(worker, version, groups)?;
    let listener = http::bind(config.metrics_listen).await?;
    let address = listener.local_addr()?;
    let router = http::router(handle.clone(), readiness.clone(), service.token());
    service.spawn_background("metrics upkeep", async move {
        loop {
            tokio::time::sleep(UPKEEP_INTERVAL).await;
            handle.run_upkeep();
        }
    });
    service.spawn_background(
        "http",
        async move { Ok(axum::serve(listener, router).await?) },
    );
    ::tracing::info!(%address, "serving /metrics, /healthz and /readyz");
    Ok(address)
}
