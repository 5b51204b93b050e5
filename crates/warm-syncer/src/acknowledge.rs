//! Announces the effects of a committed batch, before its entries are acknowledged.

use redis::RedisResult;
use storage_core::domain::entry::Fields;
use storage_core::domain::time::TimeRange;
use storage_core::domain::timeframe::Timeframe;
use storage_core::redis::codec::{repairs, rollups};
use storage_core::redis::connection::Connection;
use storage_core::redis::functions::announce_all;
use storage_core::redis::stream::Stream;

use crate::metrics;
use crate::outcome::Written;

/// Ranges with a smaller gap are announced as one entry.
const MAX_GAP_US: i64 = Timeframe::H1.micros();

/// Announcements of a batch. They are sent before the batch is acknowledged, because repeating them is harmless and
/// omitting them is not.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Announcements {
    repairs: Vec<Fields>,
    rollups: Vec<Fields>,
    dead: Vec<Fields>,
}

impl Announcements {
    pub(crate) fn new(written: &Written, dead: Vec<Fields>) -> Self {
        let ranges = TimeRange::merge(written.rollups.clone(), MAX_GAP_US);
        Self {
            repairs: written.repairs.iter().map(repairs::entry_fields).collect(),
            rollups: ranges.into_iter().map(rollups::entry_fields).collect(),
            dead,
        }
    }

    /// Adds the announcements to their streams.
    pub(crate) async fn send(&self, redis: &mut Connection) -> RedisResult<()> {
        announce_all(redis, Stream::Dead, &self.dead).await?;
        announce_all(redis, Stream::Repairs, &self.repairs).await?;
        announce_all(redis, Stream::Rollups, &self.rollups).await
    }

    /// Counts the announcements after they were sent.
    pub(crate) fn count(&self) {
        metrics::REPAIRS_REQUESTED.increment(len(&self.repairs));
        metrics::ROLLUPS_REQUESTED.increment(len(&self.rollups));
    }
}

/// Returns the length as a metric value.
pub(crate) fn len<T>(items: &[T]) -> u64 {
    items.len().try_into().unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR_US: i64 = 3_600_000_000;

    #[test]
    fn minutes_of_neighbouring_hours_are_announced_as_one_range() {
        let minute = |start_us: i64| TimeRange {
            from_us: start_us,
            to_us: start_us + 60_000_000,
        };
        let rollups = vec![minute(9 * HOUR_US), minute(0), minute(HOUR_US / 2), minute(HOUR_US)];
        let announcements = Announcements::new(
            &Written {
                rollups,
                ..Written::default()
            },
            Vec::new(),
        );
        let range = |from: &str, to: &str| vec![("from", from.to_owned()), ("to", to.to_owned())];
        assert_eq!(
            announcements.rollups,
            [
                range("1970-01-01T00:00:00Z", "1970-01-01T01:01:00Z"),
                range("1970-01-01T09:00:00Z", "1970-01-01T09:01:00Z"),
            ]
        );
    }
}
