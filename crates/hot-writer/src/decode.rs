//! From entries to ticks: judging each, and counting its quantity in lots.

use std::time::{Duration, Instant};

use redis::RedisResult;
use storage_core::domain::decimal::Decimal;
use storage_core::domain::entry::Entry;
use storage_core::domain::partition::partition_of;
use storage_core::domain::rejection::Rejection;
use storage_core::domain::tick::AcceptedTick;
use storage_core::redis::connection::Connection;
use storage_core::redis::symbols::VolumeDecimals;

/// How long volume decimals are believed.
const DECIMALS_AGE: Duration = Duration::from_secs(1);

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

/// Decodes a partition's entries with the volume decimals that Redis holds.
pub(crate) struct Decoder {
    pub(crate) admission: Admission,
    decimals: VolumeDecimals,
    decimals_read: Instant,
}

impl Decoder {
    /// A decoder that knows the volume decimals of this moment.
    ///
    /// # Errors
    /// When Redis can't be asked.
    pub(crate) async fn new(admission: Admission, conn: &mut Connection) -> RedisResult<Self> {
        Ok(Self {
            admission,
            decimals: VolumeDecimals::load(conn).await?,
            decimals_read: Instant::now(),
        })
    }

    /// Judges an entry.
    ///
    /// # Errors
    /// Says why it is a dead letter.
    pub(crate) fn decode(&self, entry: &Entry) -> Result<Countable, Rejection> {
        self.admission.decode(entry, &self.decimals)
    }

    /// Reads the volume decimals again if they are old.
    ///
    /// # Errors
    /// When Redis can't be asked.
    pub(crate) async fn refresh(&mut self, conn: &mut Connection) -> RedisResult<()> {
        if self.decimals_read.elapsed() >= DECIMALS_AGE {
            self.read_decimals(conn).await?;
        }
        Ok(())
    }

    /// Reads the volume decimals again.
    ///
    /// # Errors
    /// When Redis can't be asked.
    pub(crate) async fn read_decimals(&mut self, conn: &mut Connection) -> RedisResult<()> {
        self.decimals = VolumeDecimals::load(conn).await?;
        self.decimals_read = Instant::now();
        Ok(())
    }
}

/// Whether a quantity did not fit its symbol's lots: the operator may just have changed them.
pub(crate) fn does_not_fit(rejection: &Rejection) -> bool {
    matches!(rejection, Rejection::TooFine { .. } | Rejection::TooLarge { .. })
}
