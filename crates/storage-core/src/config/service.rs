//! Section `[service]`.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::telemetry::TelemetryConfig;

/// Identity of a replica, and its shutdown.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServiceConfig {
    /// Time for tasks to finish their current work after SIGTERM or SIGINT.
    #[serde(with = "humantime_serde")]
    pub shutdown_grace: Duration,
    /// Name of the replica, the same after a restart, so that it finds its pending entries again. If unset: the name of
    /// the host and the port of `metrics_listen`, or the process ID if that port is 0.
    pub instance: Option<String>,
}

impl Default for ServiceConfig {
    fn default() -> Self {
        Self {
            shutdown_grace: Duration::from_secs(10),
            instance: None,
        }
    }
}

impl ServiceConfig {
    /// Returns the name of the replica.
    pub fn instance(&self, telemetry: &TelemetryConfig) -> String {
        if let Some(instance) = &self.instance {
            return instance.clone();
        }
        let host = nix::unistd::gethostname()
            .map(|name| name.to_string_lossy().into_owned())
            .unwrap_or_default();
        match telemetry.metrics_listen.port() {
            0 => format!("{host}-{}", std::process::id()),
            port => format!("{host}-{port}"),
        }
    }
}
