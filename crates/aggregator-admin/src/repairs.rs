//! Minutes computed again from `ticks`: the task for `stream:repairs`, and the one way to do it for a single minute.
//!
//! A minute waits until the warm-syncers have finished everything up to the revision that it must hold; before that
//! `ticks` may lack some of it. And a candle is never replaced by one with fewer trades: where ticks were dropped by
//! retention, the candle knows more than they do.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use anyhow::Context;
use diesel_async::{AsyncConnection, AsyncPgConnection};
use storage_core::domain::candle::Candle;
use storage_core::domain::entry::Entry;
use storage_core::domain::lots::DEFAULT_VOLUME_DECIMALS;
use storage_core::domain::partition::partition_of;
use storage_core::domain::rejection::Rejection;
use storage_core::domain::stream_id::{Revision, StreamId};
use storage_core::domain::symbol::Symbol;
use storage_core::domain::time::{TimeRange, rfc3339};
use storage_core::domain::timeframe::Timeframe;
use storage_core::postgres::error::{Fault, describe};
use storage_core::postgres::queries::{candles, symbols, ticks};
use storage_core::redis::codec::repairs::{Repair, Task, decode_task, entry_fields};
use storage_core::redis::codec::rollups;
use storage_core::redis::connection::Connection;
use storage_core::redis::functions;
use storage_core::redis::hot;
use storage_core::redis::position::{floor, position_of};
use storage_core::redis::stream::{Stream, WARM_SYNCER};

use crate::bases::Bases;
use crate::dead_letter;
use crate::metrics::{REPAIRS, REPAIRS_WAITING};
use crate::run::Worker;
use crate::stores::Explained;

/// What became of a minute.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Outcome {
    /// The candle is what its ticks give: this one.
    Replaced(Box<Candle>),
    /// There are no ticks, so nothing was done.
    NoTicks,
    /// The candle has more trades than there are ticks, so nothing was done.
    FewerTrades {
        /// How many ticks there are.
        ticks: i32,
    },
}

/// Computes the minute that starts at `start_us` again, and replaces its candle unless that has more trades.
///
/// # Errors
/// The database's; among them 22003 where the volume is beyond a bigint.
pub(crate) async fn recompute(
    connection: &mut AsyncPgConnection,
    symbol: &Symbol,
    start_us: i64,
) -> diesel::QueryResult<Outcome> {
    connection
        .transaction(async |connection| {
            symbols::keep_decimals(connection).await?;
            let Some(minute) = ticks::minute(connection, symbol, start_us).await? else {
                return Ok(Outcome::NoTicks);
            };
            if !candles::replace_1m(connection, &minute.row).await? {
                return Ok(Outcome::FewerTrades {
                    ticks: minute.row.trades,
                });
            }
            let known = symbols::decimals(connection, &[symbol]).await?;
            let decimals = known.get(symbol).copied().unwrap_or(DEFAULT_VOLUME_DECIMALS);
            Ok(Outcome::Replaced(Box::new(minute.candle(decimals))))
        })
        .await
}

/// Tells subscribers of the symbol's minutes what a candle of the past is now.
pub(crate) async fn publish(redis: &mut Connection, symbol: &Symbol, candle: &Candle) -> anyhow::Result<()> {
    hot::publish_final(Timeframe::M1, symbol, candle)
        .exec_async(redis)
        .await
        .context("publishing a repaired minute")
}

/// The minute that starts at `start_us`.
pub(crate) fn minute(start_us: i64) -> TimeRange {
    TimeRange {
        from_us: start_us,
        to_us: start_us + Timeframe::M1.micros(),
    }
}

/// Minutes that were asked for, each once however often it was asked for.
#[derive(Default)]
struct Waiting(BTreeMap<(Symbol, i64), Asked>);

/// Who asked for a minute, and what it must hold.
#[derive(Default)]
struct Asked {
    revision: Revision,
    ids: BTreeSet<StreamId>,
}

impl Waiting {
    fn add(&mut self, id: StreamId, repair: Repair) {
        let start_us = Timeframe::M1.bucket_start_us(repair.start_us);
        let asked = self.0.entry((repair.symbol, start_us)).or_default();
        asked.revision = asked.revision.max(repair.revision);
        asked.ids.insert(id);
    }

    /// Takes the minutes for which everything was finished, as `finished` says of a symbol and revision.
    fn take_ready(&mut self, finished: impl Fn(&Symbol, Revision) -> bool) -> Vec<((Symbol, i64), Asked)> {
        self.0
            .extract_if(.., |(symbol, _), asked| finished(symbol, asked.revision))
            .collect()
    }
}

/// Works until a shutdown is asked for or something fails; then what was read but not done is read again.
pub(crate) async fn work(worker: Worker) -> anyhow::Result<()> {
    let mut reader = worker.reader(Stream::Repairs);
    let mut redis = worker.redis();
    let mut waiting = Waiting::default();
    let mut bases = Bases::default();
    while !worker.token.is_cancelled() {
        // Waits a while for new entries, and so paces the looking whether old ones became ready.
        let mut useless = Vec::new();
        for entry in reader.read().await.context("reading repairs")? {
            match decode_task(&entry) {
                Ok(Task::Minute(repair)) => waiting.add(entry.id, repair),
                Ok(Task::Base(base)) => bases.add(entry.id, base),
                Err(reason) => {
                    REPAIRS.increment("malformed", 1);
                    dead_letter::send(&mut redis, Stream::Repairs, &entry, &reason).await?;
                    useless.push(entry.id);
                }
            }
        }
        reader.acknowledge(&useless).await.context("acknowledging repairs")?;
        if !waiting.0.is_empty() || !bases.is_empty() {
            let finished = Finished::now(&mut redis, worker.config.stream.partitions).await?;
            let covers = |symbol: &Symbol, revision| finished.covers(symbol, revision);
            loop {
                let handed_over = bases.hand_over(&worker, &mut redis, covers).await?;
                if handed_over.is_empty() {
                    break;
                }
                reader
                    .acknowledge(&handed_over)
                    .await
                    .context("acknowledging repairs")?;
            }
            for ((symbol, start_us), asked) in waiting.take_ready(|symbol, revision| finished.covers(symbol, revision))
            {
                repair(&worker, &mut redis, &symbol, start_us, &asked).await?;
                let ids: Vec<_> = asked.ids.into_iter().collect();
                reader.acknowledge(&ids).await.context("acknowledging repairs")?;
            }
        }
        #[allow(clippy::cast_precision_loss)] // nobody counts minutes beyond 2^52
        REPAIRS_WAITING.set(waiting.0.len() as f64);
        worker.readiness.ok("repairs");
    }
    Ok(())
}

async fn repair(
    worker: &Worker,
    redis: &mut Connection,
    symbol: &Symbol,
    start_us: i64,
    asked: &Asked,
) -> anyhow::Result<()> {
    let mut connection = worker.pool.get().await?;
    let time = rfc3339(start_us);
    let outcome = match recompute(&mut connection, symbol, start_us).await {
        Err(error) if Fault::of(&error) == Fault::BadRow => {
            REPAIRS.increment("refused", 1);
            return put_aside(
                redis,
                symbol,
                start_us,
                asked,
                Rejection::Refused(describe(&error)).to_string(),
            )
            .await;
        }
        outcome => outcome.explained("computing a minute from its ticks")?,
    };
    match outcome {
        Outcome::Replaced(candle) => {
            // Both come before the acknowledgement, so that a crash only does it all again.
            publish(redis, symbol, &candle).await?;
            let range = rollups::entry_fields(minute(start_us));
            functions::announce(Stream::Rollups, &range)
                .query_async::<()>(redis)
                .await
                .context("announcing a repaired minute")?;
            REPAIRS.increment("replaced", 1);
            tracing::info!(%symbol, %time, "computed a minute from its ticks");
            Ok(())
        }
        Outcome::NoTicks => {
            REPAIRS.increment("no_ticks", 1);
            tracing::info!(%symbol, %time, "a minute to repair has no ticks");
            Ok(())
        }
        Outcome::FewerTrades { ticks } => {
            REPAIRS.increment("fewer_trades", 1);
            let reason = format!(
                "the candle of {symbol} at {time} has more trades than the {ticks} ticks that are kept; it stays as it is"
            );
            put_aside(redis, symbol, start_us, asked, reason).await
        }
    }
}

async fn put_aside(
    redis: &mut Connection,
    symbol: &Symbol,
    start_us: i64,
    asked: &Asked,
    reason: String,
) -> anyhow::Result<()> {
    let repair = Repair {
        symbol: symbol.clone(),
        start_us,
        revision: asked.revision,
    };
    let id = asked.ids.last().copied().unwrap_or_default();
    let entry = Entry::new(id, entry_fields(&repair));
    dead_letter::send_because(redis, Stream::Repairs, &entry, reason).await
}

/// How far the warm-syncers have come, by partition.
struct Finished {
    partitions: u16,
    before: HashMap<u16, StreamId>,
}

impl Finished {
    async fn now(redis: &mut Connection, partitions: u16) -> anyhow::Result<Self> {
        let mut before = HashMap::new();
        for partition in 0..partitions {
            let ticks = Stream::Ticks(partition);
            let doing = "asking how far the warm-syncers have come";
            let Some(position) = position_of(redis, ticks, WARM_SYNCER).await.context(doing)? else {
                continue;
            };
            let id = match position.has_finished() {
                true => StreamId {
                    ms: u64::MAX,
                    seq: u64::MAX,
                },
                false => floor(redis, ticks, &position).await.context(doing)?,
            };
            before.insert(partition, id);
        }
        Ok(Self { partitions, before })
    }

    /// Whether every tick of `symbol` up to `revision` is in `ticks`, or was refused.
    fn covers(&self, symbol: &Symbol, revision: Revision) -> bool {
        let partition = partition_of(symbol, self.partitions);
        self.before
            .get(&partition)
            .is_some_and(|before| *before > revision.stream_id())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn repair(time_us: i64, revision: i64) -> Repair {
        Repair {
            symbol: "XRPETH".parse().unwrap(),
            start_us: time_us,
            revision: revision.try_into().unwrap(),
        }
    }

    fn id(ms: u64) -> StreamId {
        StreamId::at_ms(ms)
    }

    #[test]
    fn a_minute_that_was_asked_for_twice_is_computed_once_for_the_later_revision() {
        let mut waiting = Waiting::default();
        waiting.add(id(1), repair(60_000_000, 7));
        waiting.add(id(2), repair(60_000_001, 9));
        waiting.add(id(3), repair(120_000_000, 5));
        waiting.add(id(3), repair(120_000_000, 5));
        let ready = waiting.take_ready(|_, revision| revision.as_i64() <= 5);
        assert_eq!(
            ready
                .iter()
                .map(|((_, start), asked)| (*start, asked.ids.len()))
                .collect::<Vec<_>>(),
            [(120_000_000, 1)]
        );
        let ready = waiting.take_ready(|_, revision| revision.as_i64() <= 9);
        assert_eq!(ready[0].1.ids, [id(1), id(2)].into());
        assert!(waiting.0.is_empty());
    }

    #[test]
    fn a_minute_waits_for_the_warm_syncer_of_its_own_partition() {
        let revision = Revision::try_from(StreamId { ms: 5, seq: 1 }).unwrap();
        let symbol: Symbol = "XRPETH".parse().unwrap();
        let mut finished = Finished {
            partitions: 4,
            before: HashMap::new(),
        };
        assert!(!finished.covers(&symbol, revision));
        finished
            .before
            .insert(partition_of(&symbol, 4), StreamId { ms: 5, seq: 1 });
        assert!(!finished.covers(&symbol, revision));
        finished
            .before
            .insert(partition_of(&symbol, 4), StreamId { ms: 5, seq: 2 });
        assert!(finished.covers(&symbol, revision));
    }
}
