//! [`Outgoing`]: a tick on its way out.

use storage_core::domain::symbol::Symbol;
use storage_core::domain::tick::Tick;
use storage_core::redis::codec::ticks;
use storage_core::redis::stream::Fields;

/// A tick to publish. Its fields are text, as some are wrong on purpose.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Outgoing {
    /// Chooses the partition; also where the fields name none, or another.
    pub(crate) symbol: Symbol,
    /// When it goes out, in µs since 1970 by the recording's clock: the event time, where the tick isn't late.
    pub(crate) at_us: i64,
    /// The entry's fields.
    pub(crate) fields: Fields,
}

impl From<Tick> for Outgoing {
    fn from(tick: Tick) -> Self {
        Self {
            at_us: tick.ts_us,
            fields: ticks::entry_fields(&tick),
            symbol: tick.symbol,
        }
    }
}
