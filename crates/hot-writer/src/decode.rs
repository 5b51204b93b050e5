//! Decodes stream entries into ticks and amendments, and converts the quantities of ticks to lots.

use std::time::{Duration, Instant};

use redis::RedisResult;
use storage_core::domain::amendment::Amendment;
use storage_core::domain::decimal::Decimal;
use storage_core::domain::entry::Entry;
use storage_core::domain::rejection::Rejection;
use storage_core::domain::tick::AcceptedTick;
use storage_core::domain::tick_event::TickEvent;
use storage_core::domain::tick_rules::TickRules;
use storage_core::redis::clock::local_ms;
use storage_core::redis::connection::Connection;
use storage_core::redis::symbols::SymbolProperties;

/// Age at which the properties of symbols are read again.
const MAX_PROPERTIES_AGE: Duration = Duration::from_secs(1);

/// A tick with its quantity in lots.
#[derive(Clone, Debug)]
pub struct DecodedTick {
    /// The tick and its place in the stream.
    pub accepted: AcceptedTick,
    /// The quantity, rounded to whole lots.
    pub qty: Decimal,
    /// Volume decimals of the symbol.
    pub decimals: u8,
    /// `true` if the quantity was rounded.
    pub rounded: bool,
}

/// A decoded entry.
#[derive(Clone, Debug)]
pub(crate) enum Decoded {
    Tick(DecodedTick),
    Amendment(Amendment),
}

/// Decodes the entries of a partition with the properties of symbols that Redis holds.
pub(crate) struct Decoder {
    pub(crate) rules: TickRules,
    symbols: SymbolProperties,
    symbols_read: Instant,
    /// The clock of this machine at the last read.
    now_ms: u64,
}

impl Decoder {
    pub(crate) async fn new(rules: TickRules, conn: &mut Connection) -> RedisResult<Self> {
        Ok(Self {
            rules,
            symbols: SymbolProperties::load(conn).await?,
            symbols_read: Instant::now(),
            now_ms: local_ms(),
        })
    }

    /// Decodes an entry.
    ///
    /// # Errors
    /// The reason for which the entry becomes a dead letter.
    pub(crate) fn decode(&self, entry: &Entry) -> Result<Decoded, Rejection> {
        let event = self.rules.decode(entry, self.now_ms)?;
        if event.price().is_some_and(|price| price <= 0.0) {
            event.check_price(self.symbols.prices(event.symbol()))?;
        }
        let decimals = self.symbols.decimals(event.symbol());
        let accepted = match event {
            TickEvent::Trade(accepted) => accepted,
            TickEvent::Amendment(amendment) => return Ok(Decoded::Amendment(amendment.rounded(decimals)?)),
        };
        let lots = accepted.tick.lots(decimals)?;
        Ok(Decoded::Tick(DecodedTick {
            qty: Decimal::from_lots(lots.count.into(), decimals),
            decimals,
            rounded: lots.rounded,
            accepted,
        }))
    }

    /// Returns the clock of this machine at the last read, in ms since 1970.
    pub(crate) fn now_ms(&self) -> u64 {
        self.now_ms
    }

    /// Reads the clock, and the properties of symbols if they are older than [`MAX_PROPERTIES_AGE`].
    pub(crate) async fn refresh(&mut self, conn: &mut Connection) -> RedisResult<()> {
        self.now_ms = local_ms();
        if self.symbols_read.elapsed() >= MAX_PROPERTIES_AGE {
            self.read_symbols(conn).await?;
        }
        Ok(())
    }

    /// Reads the properties of symbols again.
    pub(crate) async fn read_symbols(&mut self, conn: &mut Connection) -> RedisResult<()> {
        self.symbols = SymbolProperties::load(conn).await?;
        self.symbols_read = Instant::now();
        Ok(())
    }
}

/// Returns `true` if the verdict depends on the properties of the symbol, which may just have been changed.
pub(crate) fn depends_on_symbol(rejection: &Rejection) -> bool {
    matches!(
        rejection,
        Rejection::TooFine { .. } | Rejection::TooLarge { .. } | Rejection::NotPositive { .. }
    )
}

/// Returns `true` if the producer sent a side that can't be interpreted.
pub(crate) fn has_unknown_side(entry: &Entry, accepted: &AcceptedTick) -> bool {
    let is_word = |value: &[u8]| !value.trim_ascii().is_empty();
    accepted.tick.side.is_none() && entry.optional("side").is_some_and(is_word)
}

#[cfg(test)]
impl DecodedTick {
    /// Creates a tick of symbol `A` with quantity 1.
    pub(crate) fn example(id: storage_core::domain::stream_id::StreamId, ts_us: i64, price: u32) -> Self {
        let fields = [
            ("symbol", "A".to_owned()),
            ("ts_us", ts_us.to_string()),
            ("price", price.to_string()),
            ("qty", "1".to_owned()),
        ];
        let accepted = AcceptedTick::from_entry(&Entry::new(id, fields), Duration::MAX).unwrap();
        Self {
            qty: accepted.tick.qty,
            decimals: 8,
            rounded: false,
            accepted,
        }
    }
}
