//! Section `[stream]`.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Partitions and retention of the streams.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StreamConfig {
    /// Number of partitions of `stream:ticks:<P>` and `stream:candles:<P>`, the same in every worker: the number that
    /// `aggregator-admin migrate` stored in Redis.
    pub partitions: u16,
    /// Time that an entry stays after every group has finished it, so that a restarted worker can restore its state.
    #[serde(with = "humantime_serde")]
    pub retention: Duration,
    /// Largest difference between the event time of a tick and its later acceptance by Redis; a tick beyond it is a
    /// dead letter. The same in every worker, so that all reject the same ticks.
    #[serde(with = "humantime_serde")]
    pub max_future: Duration,
    /// `true` to accept event times before 1973. Otherwise they are dead letters, because a time in seconds or
    /// milliseconds looks like one. The same in every worker.
    pub before_1973: bool,
}

impl Default for StreamConfig {
    fn default() -> Self {
        Self {
            partitions: 4,
            retention: Duration::from_secs(15 * 60),
            max_future: Duration::from_secs(5),
            before_1973: false,
        }
    }
}
