//! Rules for the ticks of a partition.

use std::time::Duration;

use super::entry::Entry;
use super::event_time::check_unit;
use super::partition::partition_of;
use super::rejection::Rejection;
use super::tick_event::TickEvent;

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
    /// Decodes an entry of the partition's stream.
    ///
    /// # Errors
    /// The reason for which the entry becomes a dead letter.
    pub fn decode(&self, entry: &Entry) -> Result<TickEvent, Rejection> {
        let event = TickEvent::from_entry(entry, self.max_future)?;
        check_unit(event.ts_us(), self.before_1973)?;
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
