//! Telemetry of a worker: log lines on stderr, metrics, and the HTTP server of metrics and health.

pub mod http;
pub mod metrics;
pub mod readiness;
pub mod tracing;

use std::net::SocketAddr;
use std::time::Duration;

use self::metrics::Definitions;
use self::readiness::Readiness;
use crate::cli::Program;
use crate::config::telemetry::TelemetryConfig;
use crate::service::Service;

/// Interval at which samples of histograms are folded into their buckets.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(5);

/// Installs the metrics, all at zero, and serves them with `/healthz` and `/readyz` until every other task of `service`
/// has ended. Returns the address.
///
/// # Errors
/// [`Misconfigured`](crate::config::Misconfigured) if the address can't be bound.
pub async fn serve(
    service: &mut Service,
    config: &TelemetryConfig,
    program: &Program,
    definitions: Definitions,
    readiness: &Readiness,
) -> anyhow::Result<SocketAddr> {
    // The metrics' prefix.
    let worker = program.name.replace('-', "_");
    let handle = metrics::install(&worker, program.version, definitions)?;
    let listener = http::bind(config.metrics_listen).await?;
    let address = listener.local_addr()?;
    let router = http::router(handle.clone(), readiness.clone(), service.token());
    service.spawn_background("metrics upkeep", async move {
        loop {
            tokio::time::sleep(UPKEEP_INTERVAL).await;
            handle.run_upkeep();
        }
    });
    service.spawn_background("http", async move { Ok(axum::serve(listener, router).await?) });
    ::tracing::info!(%address, "serving /metrics, /healthz and /readyz");
    Ok(address)
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    use super::*;
    use crate::config::service::ServiceConfig;

    crate::define_metrics! {
        prefix "test";

        /// Ticks folded into candles.
        Counter TICKS = "ticks_total";
    }

    async fn get(address: SocketAddr, path: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut response = String::new();
        stream.read_to_string(&mut response).await.unwrap();
        response
    }

    #[tokio::test]
    async fn metrics_health_and_readiness_are_served_until_the_other_tasks_end() {
        let mut service = Service::new(&ServiceConfig::default()).unwrap();
        let readiness = Readiness::waiting_for(["redis"]);
        let config = TelemetryConfig::default();
        let program = Program {
            name: "test",
            version: "1.2.3",
            about: "",
        };
        let address = serve(&mut service, &config, &program, DEFINITIONS, &readiness)
            .await
            .unwrap();
        let token = service.token();
        service.spawn("probe", async move {
            TICKS.increment(2);
            let metrics = get(address, "/metrics").await;
            assert!(metrics.contains("content-type: text/plain; version=0.0.4"), "{metrics}");
            assert!(metrics.contains("\ntest_ticks_total 2\n"), "{metrics}");
            assert!(
                metrics.contains("\ntest_build_info{version=\"1.2.3\"} 1\n"),
                "{metrics}"
            );
            assert!(get(address, "/healthz").await.starts_with("HTTP/1.0 200 OK"));
            assert!(get(address, "/readyz").await.ends_with("redis: not yet\n"));
            readiness.ok("redis");
            assert!(get(address, "/readyz").await.ends_with("ready\n"));
            token.cancel();
            let ready = get(address, "/readyz").await;
            assert!(ready.starts_with("HTTP/1.0 503 Service Unavailable"), "{ready}");
            assert!(ready.ends_with("shutting down\n"), "{ready}");
            Ok(())
        });
        service.run().await.unwrap();
        assert!(TcpStream::connect(address).await.is_err());
    }
}
