//! Decodes stream entries into ticks, and converts their quantities to lots.

use std::time::{Duration, Instant};

use redis::RedisResult;
use storage_core::domain::decimal::Decimal;
use storage_core::domain::entry::Entry;
use storage_core::domain::rejection::Rejection;
use storage_core::domain::tick::AcceptedTick;
use storage_core::domain::tick_rules::TickRules;
use storage_core::redis::connection::Connection;
use storage_core::redis::symbols::VolumeDecimals;

/// Age at which the volume decimals are read again.
const MAX_DECIMALS_AGE: Duration = Duration::from_secs(1);

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

/// Decodes the entries of a partition with the volume decimals that Redis holds.
pub(crate) struct Decoder {
    pub(crate) rules: TickRules,
    decimals: VolumeDecimals,
    decimals_read: Instant,
}

impl Decoder {
    pub(crate) async fn new(rules: TickRules, conn: &mut Connection) -> RedisResult<Self> {
        Ok(Self {
            rules,
            decimals: VolumeDecimals::load(conn).await?,
            decimals_read: Instant::now(),
        })
    }

    /// Decodes an entry.
    ///
    /// # Errors
    /// The reason for which the entry becomes a dead letter.
    pub(crate) fn decode(&self, entry: &Entry) -> Result<DecodedTick, Rejection> {
        let accepted = self.rules.decode(entry)?;
        let decimals = self.decimals.of(&accepted.tick.symbol);
        let lots = accepted.tick.lots(decimals)?;
        Ok(DecodedTick {
            qty: Decimal::from_lots(lots.count.into(), decimals),
            decimals,
            rounded: lots.rounded,
            accepted,
        })
    }

    /// Reads the volume decimals again if they are older than [`MAX_DECIMALS_AGE`].
    pub(crate) async fn refresh_decimals(&mut self, conn: &mut Connection) -> RedisResult<()> {
        if self.decimals_read.elapsed() >= MAX_DECIMALS_AGE {
            self.read_decimals(conn).await?;
        }
        Ok(())
    }

    /// Reads the volume decimals again.
    pub(crate) async fn read_decimals(&mut self, conn: &mut Connection) -> RedisResult<()> {
        self.decimals = VolumeDecimals::load(conn).await?;
        self.decimals_read = Instant::now();
        Ok(())
    }
}

/// Returns `true` if a quantity does not fit the lots of its symbol, whose decimals may just have been changed.
pub(crate) fn does_not_fit(rejection: &Rejection) -> bool {
    matches!(rejection, Rejection::TooFine { .. } | Rejection::TooLarge { .. })
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
