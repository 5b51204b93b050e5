//! Section `[stream]`.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// How the Redis streams are cut.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StreamConfig {
    /// Partitions of `stream:ticks:<P>` and `stream:candles:<P>`; the same everywhere, and equal to
    /// what `aggregator-admin migrate` stored in Redis.
    pub partitions: u16,
    /// How long an entry stays after every group has finished it, so that a restarted worker can
    /// build its state again.
    #[serde(with = "humantime_serde")]
    pub retention: Duration,
}

impl Default for StreamConfig {
    fn default() -> Self {
        Self {
            partitions: 4,
            retention: Duration::from_secs(15 * 60),
        }
    }
}
