//! Section `[service]`.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::telemetry::TelemetryConfig;

/// Who a copy of a worker is, and how it ends.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServiceConfig {
    /// How long tasks may take to finish what they began, after SIGTERM or SIGINT.
    #[serde(with = "humantime_serde")]
    pub shutdown_grace: Duration,
    /// What tells this copy of a worker apart from its like, the same after a restart, so that it finds its backlog again.
    /// The host's name and the port of `metrics_listen` where unset, or the process ID where that port is any.
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
    /// This copy's name among its like.
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
