//! Rules for the ticks of a partition.

use std::time::Duration;

use super::entry::Entry;
use super::event_time::check_unit;
use super::partition::partition_of;
use super::rejection::Rejection;
use super::stream_id::StreamId;
use super::tick_event::TickEvent;
use super::time::{duration_ms, duration_us, ms_to_us};

/// Time by which the clock of Redis may be ahead of the clock of a reader. An ID beyond it was chosen by a client and
/// says nothing about the time of acceptance.
pub const MAX_CLOCK_LEAD: Duration = Duration::from_secs(60);

/// Rules for the ticks of a partition. hot-writer and warm-syncer apply the same ones, so they reject the same ticks.
#[derive(Clone, Copy, Debug)]
pub struct TickRules {
    /// Partition of the stream.
    pub partition: u16,
    /// Number of partitions.
    pub partitions: u16,
    /// Maximum time from the acceptance of a tick by Redis to its event time.
    pub max_future: Duration,
    /// `true` if times before 1973 are accepted.
    pub before_1973: bool,
}

impl TickRules {
    /// Decodes an entry of the partition's stream. `now_ms` is the clock of the reader; it matters only for an ID of
    /// the future.
    ///
    /// # Errors
    /// The reason for which the entry becomes a dead letter.
    pub fn decode(&self, entry: &Entry, now_ms: u64) -> Result<TickEvent, Rejection> {
        let event = TickEvent::from_entry(entry, self.max_future)?;
        check_unit(event.ts_us(), self.before_1973)?;
        let ahead_us = event.ts_us().saturating_sub(ms_to_us(now_ms));
        if ahead_us > duration_us(self.max_future) && is_of_the_future(entry.id, now_ms) {
            return Err(Rejection::Future { ahead_us });
        }
        let expected = partition_of(event.symbol(), self.partitions);
        if expected == self.partition {
            return Ok(event);
        }
        Err(Rejection::WrongPartition {
            expected,
            found: self.partition,
        })
    }
}

/// Returns `true` if an ID can't be a time at which Redis accepted an entry.
pub fn is_of_the_future(id: StreamId, now_ms: u64) -> bool {
    id.ms > now_ms.saturating_add(duration_ms(MAX_CLOCK_LEAD))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW_MS: u64 = 1_700_000_000_000;

    fn verdict(id_ms: u64, ts_ms: u64) -> Option<String> {
        let rules = TickRules {
            partition: 0,
            partitions: 1,
            max_future: Duration::from_secs(5),
            before_1973: false,
        };
        let fields = [
            ("symbol", "A".to_owned()),
            ("ts_us", (ts_ms * 1_000).to_string()),
            ("price", "1".to_owned()),
            ("qty", "1".to_owned()),
        ];
        let entry = Entry::new(StreamId::at_ms(id_ms), fields);
        rules.decode(&entry, NOW_MS).err().map(|reason| reason.to_string())
    }

    #[test]
    fn a_tick_with_an_id_of_the_future_is_compared_with_the_clock() {
        let year_ms = 365 * 86_400_000;
        for id_ms in [NOW_MS, NOW_MS + 30_000, NOW_MS + year_ms] {
            assert_eq!(verdict(id_ms, NOW_MS), None, "{id_ms}");
        }
        assert_eq!(verdict(NOW_MS + 30_000, NOW_MS + 35_000), None);
        let reason = verdict(NOW_MS + year_ms, NOW_MS + 60_000).unwrap();
        assert!(reason.contains("60000000 µs ahead"), "{reason}");
        // A reader that lags behind reaches the same verdict as the others.
        assert_eq!(verdict(NOW_MS - year_ms, NOW_MS - year_ms), None);
    }
}
