//! Minutes computed again from `ticks`: the task for `stream:repairs`, and the one way to do it for a single minute.
//!
//! A minute waits until the warm-syncers have finished everything up to the revision that it must hold; before that
//! `ticks` may lack some of it. What its candle becomes is in [`crate::minute`].

use std::collections::{BTreeMap, BTreeSet, HashMap};

use anyhow::Context;
use diesel_async::{AsyncConnection, AsyncPgConnection};
use storage_core::domain::candle::Candle;
use storage_core::domain::decimal::Decimal;
use storage_core::domain::entry::Entry;
use storage_core::domain::lots::{DEFAULT_VOLUME_DECIMALS, LotsError};
use storage_core::domain::partition::partition_of;
use storage_core::domain::rejection::Rejection;
use storage_core::domain::stream_id::{Revision, StreamId};
use storage_core::domain::symbol::Symbol;
use storage_core::domain::tick::AcceptedTick;
use storage_core::domain::time::{TimeRange, rfc3339};
use storage_core::domain::timeframe::Timeframe;
use storage_core::postgres::error::{Fault, StatementError};
use storage_core::postgres::queries::{candles, completeness, dead_letters, symbols, ticks};
use storage_core::redis::codec::repairs::{Repair, Task, decode_task, entry_fields};
use storage_core::redis::codec::rollups;
use storage_core::redis::codec::ticks::entry_fields as entry_fields_of_tick;
use storage_core::redis::connection::Connection;
use storage_core::redis::functions;
use storage_core::redis::hot;
use storage_core::redis::position::{first_unfinished, position_of};
use storage_core::redis::stream::{Stream, WARM_SYNCER};

use crate::bases::Bases;
use crate::commands::dead_letters::REQUEUED;
use crate::dead_letter;
use crate::metrics::{REPAIRS, REPAIRS_WAITING};
use crate::minute::{Computed, LeftOut, minute};
use crate::worker::Worker;

/// What became of a minute.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Repaired {
    /// Its candle.
    pub(crate) candle: Candle,
    pub(crate) how: How,
    /// Why trades were left out; each is a dead letter.
    pub(crate) left_out: Vec<Rejection>,
}

/// How a minute was computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum How {
    /// From its ticks alone.
    FromTicks,
    /// From its candle, of whose ticks retention has dropped some, and the ticks that came later.
    Joined,
    /// As [`Joined`](Self::Joined), but nothing was dropped: the candle counts more than there ever was.
    MoreTrades {
        /// How many ticks there are.
        ticks: usize,
    },
}

impl How {
    fn label(self) -> &'static str {
        match self {
            Self::FromTicks => "replaced",
            Self::Joined => "joined",
            Self::MoreTrades { .. } => "fewer_trades",
        }
    }
}

/// Computes the minute that starts at `start_us` again; `None` where it has no ticks. The trades of a candle become fewer only by
/// `force`, and only where no tick of the minute was dropped.
///
/// # Errors
/// When a database or Redis fails, or refuses the row.
pub(crate) async fn recompute(
    connection: &mut AsyncPgConnection,
    redis: &mut Connection,
    partitions: u16,
    symbol: &Symbol,
    start_us: i64,
    force: bool,
) -> anyhow::Result<Option<Repaired>> {
    let partition = partition_of(symbol, partitions);
    connection
        .transaction(async |connection| {
            symbols::lock_decimals(connection).await?;
            candles::lock_partition(connection, partition).await?;
            let known = symbols::decimals(connection, &[symbol]).await?;
            let decimals = known.get(symbol).copied().unwrap_or(DEFAULT_VOLUME_DECIMALS);
            let held = candles::minute(connection, symbol, start_us).await?;
            let ticks = ticks::of_minute(connection, symbol, start_us).await?;
            let since_us = completeness::since(connection, "ticks").await?;
            let has_all = since_us.is_none_or(|since_us| since_us <= start_us);
            let kept = held.as_ref().filter(|_| !(force && has_all));
            let Some(computed) = Computed::of(kept, &ticks, decimals).filter(|_| !ticks.is_empty()) else {
                return Ok(None);
            };
            let mut left_out = Vec::new();
            for left in &computed.left_out {
                left_out.push(set_aside(connection, redis, Stream::Ticks(partition), left, decimals).await?);
                if computed.is_joined {
                    ticks::delete(connection, &left.tick).await?;
                }
            }
            let row = computed.row(symbol);
            if held.as_ref() != Some(&row) {
                candles::replace_1m(connection, &row).await?;
            }
            Ok(Some(Repaired {
                candle: computed.candle,
                how: match computed.is_joined {
                    false => How::FromTicks,
                    true if has_all => How::MoreTrades { ticks: ticks.len() },
                    true => How::Joined,
                },
                left_out,
            }))
        })
        .await
}

/// Makes a tick that does not fit its minute a dead letter, unless it waits as one already. Returns why.
async fn set_aside(
    connection: &mut AsyncPgConnection,
    redis: &mut Connection,
    stream: Stream,
    left: &LeftOut,
    decimals: u8,
) -> anyhow::Result<Rejection> {
    let AcceptedTick { tick, revision, origin } = left.tick.accepted(decimals);
    let held = Decimal::from_lots(left.held_lots.into(), decimals);
    let reason = tick.lots_rejection(held, LotsError::TooLarge, decimals);
    // A dead letter that was requeued too early comes again under the ID that it got then.
    let (key, mut id) = (stream.key().to_string(), revision.stream_id());
    while let Some(letter) = dead_letters::lock(connection, &key, &id.to_string()).await? {
        match letter.requeued_as {
            Some(again) => id = again.parse()?,
            None => return Ok(reason),
        }
    }
    let mut fields = entry_fields_of_tick(&tick);
    if origin != id {
        fields.push((REQUEUED, origin.to_string()));
    }
    dead_letter::send(redis, stream, &Entry::new(id, fields), &reason).await?;
    Ok(reason)
}

/// Tells subscribers of the symbol's minutes what a candle of the past is now.
pub(crate) async fn publish(redis: &mut Connection, symbol: &Symbol, candle: &Candle) -> anyhow::Result<()> {
    hot::publish_final(Timeframe::M1, symbol, candle)
        .exec_async(redis)
        .await
        .context("publishing a repaired minute")
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
    let partitions = worker.config.stream.partitions;
    let repaired = match recompute(&mut connection, redis, partitions, symbol, start_us, false).await {
        Err(error) if refuses_row(&error) => {
            REPAIRS.increment("refused", 1);
            return put_aside(
                redis,
                symbol,
                start_us,
                asked,
                Rejection::Refused(format!("{error:#}")).to_string(),
            )
            .await;
        }
        repaired => repaired.context("computing a minute from its ticks")?,
    };
    let Some(Repaired { candle, how, .. }) = repaired else {
        REPAIRS.increment("no_ticks", 1);
        tracing::info!(%symbol, %time, "a minute to repair has no ticks");
        return Ok(());
    };
    // All of it comes before the acknowledgement, so that a crash only does it all again.
    publish(redis, symbol, &candle).await?;
    let range = rollups::entry_fields(minute(start_us));
    functions::announce(Stream::Rollups, &range)
        .query_async::<()>(redis)
        .await
        .context("announcing a repaired minute")?;
    if let How::MoreTrades { ticks } = how {
        let reason = more_trades(symbol, &candle, ticks);
        put_aside(redis, symbol, start_us, asked, reason).await?;
    }
    REPAIRS.increment(how.label(), 1);
    tracing::info!(%symbol, %time, outcome = how.label(), "computed a minute from its ticks");
    Ok(())
}

/// What to do about a candle that counts more than the `ticks` of its minute, of which none was dropped.
pub(crate) fn more_trades(symbol: &Symbol, candle: &Candle, ticks: usize) -> String {
    let TimeRange { from_us, to_us } = minute(candle.start_us);
    let (from, to) = (rfc3339(from_us), rfc3339(to_us));
    format!(
        "the candle of {symbol} at {from} has {} trades, more than the {ticks} ticks of its minute; \
         if it is wrong, run `aggregator-admin repair {symbol} --from {from} --to {to} --force`",
        candle.trades
    )
}

fn refuses_row(error: &anyhow::Error) -> bool {
    error
        .downcast_ref()
        .is_some_and(|StatementError(error)| Fault::of(error) == Fault::BadRow)
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
pub(crate) struct Finished {
    partitions: u16,
    before: HashMap<u16, StreamId>,
}

impl Finished {
    pub(crate) async fn now(redis: &mut Connection, partitions: u16) -> anyhow::Result<Self> {
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
                false => first_unfinished(redis, ticks, &position).await.context(doing)?,
            };
            before.insert(partition, id);
        }
        Ok(Self { partitions, before })
    }

    /// Whether every tick up to `id` is in `ticks`, or was refused.
    pub(crate) fn covers_all(&self, id: StreamId) -> bool {
        self.before.values().all(|before| *before > id)
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
