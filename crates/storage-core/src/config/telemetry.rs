//! Section `[telemetry]`.

use std::net::{Ipv4Addr, SocketAddr};

use serde::{Deserialize, Serialize};

/// What a worker tells about itself.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TelemetryConfig {
    /// Address of `/metrics`, `/healthz` and `/readyz`; port 0 takes a free one and logs it.
    pub metrics_listen: SocketAddr,
    /// Form of the log lines on stderr.
    pub log_format: LogFormat,
}

/// Form of the log lines.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For a person.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

impl TelemetryConfig {
    /// The default of a worker whose HTTP surface is at `port` of the loopback address.
    pub fn listening_on(port: u16) -> Self {
        Self {
            metrics_listen: SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
            log_format: LogFormat::default(),
        }
    }
}
