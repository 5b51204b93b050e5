//! Section `[telemetry]`.

use std::net::{Ipv4Addr, SocketAddr};

use serde::{Deserialize, Serialize};

/// Logs and the HTTP server.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TelemetryConfig {
    /// Address of `/metrics`, `/healthz` and `/readyz`; port 0 takes a free one and logs it.
    pub metrics_listen: SocketAddr,
    /// Format of the log lines on stderr.
    pub log_format: LogFormat,
}

/// Format of the log lines.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// Readable text.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

/// Each worker has a port of its own, see [`Configuration::DEFAULTS`](super::Configuration::DEFAULTS).
impl Default for TelemetryConfig {
    fn default() -> Self {
        Self {
            metrics_listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            log_format: LogFormat::default(),
        }
    }
}
