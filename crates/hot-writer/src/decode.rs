//! From entries to ticks: judging each, and counting its quantity in lots.

use std::time::Duration;

use storage_core::domain::decimal::Decimal;
use storage_core::domain::entry::Entry;
use storage_core::domain::partition::partition_of;
use storage_core::domain::rejection::Rejection;
use storage_core::domain::tick::AcceptedTick;
use storage_core::redis::symbols::VolumeDecimals;

/// A tick that can be counted.
#[derive(Debug)]
pub(crate) struct Countable {
    pub(crate) accepted: AcceptedTick,
    /// The quantity in whole lots.
    pub(crate) qty: Decimal,
    /// The symbol's volume decimals.
    pub(crate) decimals: u8,
    /// Whether the quantity was rounded to a lot.
    pub(crate) rounded: bool,
}

/// What a partition's entries must satisfy.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Admission {
    pub(crate) partition: u16,
    pub(crate) partitions: u16,
    pub(crate) max_future: Duration,
}

impl Admission {
    /// Judges an entry.
    ///
    /// # Errors
    /// Says why it is a dead letter.
    pub(crate) fn decode(&self, entry: &Entry, decimals: &VolumeDecimals) -> Result<Countable, Rejection> {
        let accepted = AcceptedTick::from_entry(entry, self.max_future)?;
        let expected = partition_of(&accepted.tick.symbol, self.partitions);
        if expected != self.partition {
            return Err(Rejection::WrongPartition {
                expected,
                found: self.partition,
            });
        }
        let decimals = decimals.of(&accepted.tick.symbol);
        let lots = accepted.tick.lots(decimals)?;
        Ok(Countable {
            qty: Decimal::from_lots(lots.count.into(), decimals),
            decimals,
            rounded: lots.rounded,
            accepted,
        })
    }
}
