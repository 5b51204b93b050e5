//! Computes a minute's candle again from `ticks` and writes it. The rules of the computation are in [`crate::minute`].

use std::collections::BTreeSet;

use anyhow::Context;
use diesel_async::{AsyncConnection, AsyncPgConnection};
use storage_core::domain::candle::Candle;
use storage_core::domain::decimal::Decimal;
use storage_core::domain::entry::Entry;
use storage_core::domain::lots::{DEFAULT_VOLUME_DECIMALS, LotsError};
use storage_core::domain::partition::partition_of;
use storage_core::domain::rejection::Rejection;
use storage_core::domain::stream_id::Revision;
use storage_core::domain::symbol::Symbol;
use storage_core::domain::tick::{AcceptedTick, REQUEUED};
use storage_core::domain::time::{TimeRange, rfc3339};
use storage_core::domain::timeframe::Timeframe;
use storage_core::postgres::error::Explained;
use storage_core::postgres::queries::candles::{self, CandleRow};
use storage_core::postgres::queries::{completeness, dead_letters, symbols, tick_versions, ticks};
use storage_core::redis::codec::ticks::entry_fields;
use storage_core::redis::connection::Connection;
use storage_core::redis::hot;
use storage_core::redis::stream::Stream;

use crate::dead_letter;
use crate::minute::{ComputedMinute, ExcludedTick, minute};

/// Repaired minute.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Repaired {
    pub(crate) candle: Candle,
    pub(crate) outcome: Outcome,
    /// Reasons of the ticks that were left out and became dead letters.
    pub(crate) excluded: Vec<Rejection>,
}

/// Source of a repaired candle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The minute's ticks.
    FromTicks,
    /// The stored candle, of whose ticks retention has dropped some, and its later ticks.
    Joined,
    /// No tick: all trades of the minute were busted, and its candle was removed.
    Busted,
    /// The stored candle. No tick was dropped, so it has trades that never existed or whose ticks are still to come.
    MoreTrades {
        /// Number of the minute's ticks.
        ticks: usize,
    },
}

impl Outcome {
    /// Returns the value of the metric's label.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::FromTicks => "replaced",
            Self::Joined => "joined",
            Self::Busted => "busted",
            Self::MoreTrades { .. } => "fewer_trades",
        }
    }
}

/// Recomputes the minute that starts at `start_us` as [`recompute_all`] does.
pub(crate) async fn recompute(
    connection: &mut AsyncPgConnection,
    redis: &mut Connection,
    partitions: u16,
    symbol: &Symbol,
    start_us: i64,
    force: bool,
) -> anyhow::Result<Option<Repaired>> {
    let repaired = recompute_all(connection, redis, partitions, &[(symbol, start_us)], force).await?;
    Ok(repaired.into_iter().next().flatten())
}

/// Recomputes minutes, each of a symbol and with its start, and writes their candles in one transaction. Returns what
/// became of each; `None` for a minute without ticks. Only busts and `force` reduce the number of a candle's trades,
/// and only if no tick of the minute was dropped.
pub(crate) async fn recompute_all(
    connection: &mut AsyncPgConnection,
    redis: &mut Connection,
    partitions: u16,
    minutes: &[(&Symbol, i64)],
    force: bool,
) -> anyhow::Result<Vec<Option<Repaired>>> {
    let symbols: Vec<&Symbol> = minutes.iter().map(|(symbol, _)| *symbol).collect();
    // All writers lock partitions in ascending order.
    let locked: BTreeSet<u16> = symbols.iter().map(|symbol| partition_of(symbol, partitions)).collect();
    connection
        .transaction(async |connection| {
            symbols::lock_decimals(connection).await?;
            for partition in locked {
                candles::lock_partition(connection, partition).await?;
            }
            let known = symbols::decimals(connection, &symbols).await?;
            let since_us = completeness::since(connection, "ticks").await?;
            let mut repaired = Vec::with_capacity(minutes.len());
            for (symbol, start_us) in minutes {
                let of_minute = Minute {
                    symbol,
                    start_us: *start_us,
                    partition: partition_of(symbol, partitions),
                    decimals: known.get(*symbol).copied().unwrap_or(DEFAULT_VOLUME_DECIMALS),
                    has_all: since_us.is_none_or(|since_us| since_us <= *start_us),
                };
                repaired.push(of_minute.recompute(connection, redis, force).await?);
            }
            Ok(repaired)
        })
        .await
}

/// A minute to recompute.
struct Minute<'a> {
    symbol: &'a Symbol,
    start_us: i64,
    partition: u16,
    decimals: u8,
    /// `true` if retention has dropped no tick of the minute.
    has_all: bool,
}

impl Minute<'_> {
    async fn recompute(
        &self,
        connection: &mut AsyncPgConnection,
        redis: &mut Connection,
        force: bool,
    ) -> anyhow::Result<Option<Repaired>> {
        let Self {
            symbol,
            start_us,
            partition,
            decimals,
            has_all,
        } = *self;
        let stored = candles::minute(connection, symbol, start_us).await?;
        let ticks = ticks::of_minute(connection, symbol, start_us).await?;
        let amendments = tick_versions::of_minute(connection, symbol, start_us).await?;
        if let Some(stored) = stored.as_ref().filter(|_| ticks.is_empty()) {
            let is_busted = has_all && i64::from(stored.trades) <= amendments.busted;
            return match is_busted {
                true => remove(connection, stored, amendments.revision, decimals)
                    .await
                    .map(Some),
                false => Ok(None),
            };
        }
        let kept = stored.as_ref().filter(|_| !(force && has_all));
        let Some(computed) = ComputedMinute::of(kept, &ticks, amendments, decimals, has_all) else {
            return Ok(None);
        };
        let mut excluded = Vec::new();
        for tick in &computed.excluded {
            excluded.push(send_to_dead_letters(connection, redis, Stream::Ticks(partition), tick, decimals).await?);
            if computed.is_joined {
                ticks::delete(connection, &tick.tick).await?;
            }
        }
        let row = computed.row(symbol);
        if stored.as_ref() != Some(&row) {
            candles::replace_1m(connection, &row)
                .await
                .explained("writing a recomputed candle")?;
        }
        Ok(Some(Repaired {
            candle: computed.candle,
            outcome: match computed.is_joined {
                false => Outcome::FromTicks,
                true if has_all => Outcome::MoreTrades { ticks: ticks.len() },
                true => Outcome::Joined,
            },
            excluded,
        }))
    }
}

/// Removes the candle of a minute whose trades were all busted. Returns it without trades, for its subscribers.
async fn remove(
    connection: &mut AsyncPgConnection,
    stored: &CandleRow,
    revision: Revision,
    decimals: u8,
) -> anyhow::Result<Repaired> {
    candles::delete(connection, &stored.symbol, stored.start_us)
        .await
        .explained("deleting the candle of a minute without trades")?;
    Ok(Repaired {
        candle: Candle {
            volume: Decimal::ZERO,
            trades: 0,
            revision: revision.max(stored.revision),
            ..stored.candle(decimals)
        },
        outcome: Outcome::Busted,
        excluded: Vec::new(),
    })
}

/// Writes a tick that does not fit its minute to the dead letters, unless it is one already. Returns the reason.
async fn send_to_dead_letters(
    connection: &mut AsyncPgConnection,
    redis: &mut Connection,
    stream: Stream,
    excluded: &ExcludedTick,
    decimals: u8,
) -> anyhow::Result<Rejection> {
    let AcceptedTick { tick, revision, origin } = excluded.tick.accepted(decimals);
    let volume_before = Decimal::from_lots(excluded.volume_before_lots.into(), decimals);
    let reason = tick.lots_rejection(volume_before, LotsError::TooLarge, decimals);
    // A requeued dead letter that still does not fit becomes a dead letter of the requeued entry.
    let (key, mut id) = (stream.key().to_string(), revision.stream_id());
    while let Some(letter) = dead_letters::lock(connection, &key, &id.to_string()).await? {
        match letter.requeued_as {
            Some(again) => id = again.parse()?,
            None => return Ok(reason),
        }
    }
    let mut fields = entry_fields(&tick);
    if origin != id {
        fields.push((REQUEUED, origin.to_string()));
    }
    dead_letter::send(redis, stream, &Entry::new(id, fields), reason.to_string()).await?;
    Ok(reason)
}

/// Publishes the correction of a past minute to its subscribers.
pub(crate) async fn publish(redis: &mut Connection, symbol: &Symbol, candle: &Candle) -> anyhow::Result<()> {
    hot::publish_final(Timeframe::M1, symbol, candle)
        .exec_async(redis)
        .await
        .context("publishing a repaired minute")
}

/// Returns the message for a candle with more trades than ticks, although none of its ticks was dropped.
pub(crate) fn more_trades(symbol: &Symbol, candle: &Candle, ticks: usize) -> String {
    let TimeRange { from_us, to_us } = minute(candle.start_us);
    let (from, to) = (rfc3339(from_us), rfc3339(to_us));
    format!(
        "the candle of {symbol} at {from} has {} trades, more than the {ticks} ticks of its minute; if it is wrong, \
         run `aggregator-admin repair {} --from {from} --to {to} --force`",
        candle.trades,
        symbol.shell_word()
    )
}
