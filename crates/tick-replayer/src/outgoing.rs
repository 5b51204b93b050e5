//! [`OutgoingTick`]: a tick to publish.

use storage_core::domain::entry::Fields;
use storage_core::domain::symbol::Symbol;
use storage_core::domain::tick::Tick;
use storage_core::redis::codec::ticks;

/// A tick to publish. Its fields are text, because some are invalid on purpose.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct OutgoingTick {
    /// Determines the partition, even if the fields have no symbol or another one.
    pub(crate) symbol: Symbol,
    /// Publication time by the clock of the recording, in µs since 1970. Unless the tick is late, it is the event time.
    pub(crate) at_us: i64,
    /// Fields of the stream entry.
    pub(crate) fields: Fields,
}

impl From<Tick> for OutgoingTick {
    fn from(tick: Tick) -> Self {
        Self {
            at_us: tick.ts_us,
            fields: ticks::entry_fields(&tick),
            symbol: tick.symbol,
        }
    }
}
