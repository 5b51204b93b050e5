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
    /// How far a tick's event time may be ahead of its acceptance by Redis; one that is further ahead is a dead letter. The
    /// same everywhere, so that every reader comes to the same verdict.
    #[serde(with = "humantime_serde")]
    pub max_future: Duration,
}

impl Default for StreamConfig {
    fn default() -> Self {
        Self {
            partitions: 4,
            retention: Duration::from_secs(15 * 60),
            max_future: Duration::from_secs(5),
        }
    }
}
