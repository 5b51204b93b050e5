//! The task for `stream:repairs`: recomputes minutes from `ticks`, and computes the bases of candles that hot-writer
//! lacks.
//!
//! A repair waits until the warm-syncers have finished the entry of its revision; until then `ticks` may lack some of
//! its ticks. If the minute's candle was written before its last ticks, the repair waits for these, too.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Context;
use storage_core::domain::entry::Entry;
use storage_core::domain::rejection::Rejection;
use storage_core::domain::stream_id::{Revision, StreamId};
use storage_core::domain::symbol::Symbol;
use storage_core::domain::time::rfc3339;
use storage_core::domain::timeframe::Timeframe;
use storage_core::postgres::error::{Fault, StatementError};
use storage_core::redis::codec::repairs::{Repair, Task, decode_task, entry_fields};
use storage_core::redis::codec::rollups;
use storage_core::redis::connection::Connection;
use storage_core::redis::functions;
use storage_core::redis::group_reader::GroupReader;
use storage_core::redis::stream::Stream;

use crate::bases::Bases;
use crate::dead_letter;
use crate::metrics::{REPAIRS, REPAIRS_WAITING};
use crate::minute::minute;
use crate::progress::HistoryProgress;
use crate::recompute::{Outcome, Repaired, more_trades, publish, recompute};
use crate::worker::Worker;

/// Requested minutes, each once.
#[derive(Default)]
struct PendingRepairs(BTreeMap<(Symbol, i64), Request>);

/// Request for a minute, combined from all entries that name it.
#[derive(Default)]
struct Request {
    /// Last entry that `ticks` must contain.
    revision: Revision,
    ids: BTreeSet<StreamId>,
}

impl PendingRepairs {
    fn add(&mut self, id: StreamId, repair: Repair) {
        let start_us = Timeframe::M1.bucket_start_us(repair.start_us);
        let request = self.0.entry((repair.symbol, start_us)).or_default();
        request.revision = request.revision.max(repair.revision);
        request.ids.insert(id);
    }

    /// Takes the minutes that are ready: `is_finished` returns `true` for their symbol and revision.
    fn take_ready(&mut self, is_finished: impl Fn(&Symbol, Revision) -> bool) -> Vec<((Symbol, i64), Request)> {
        self.0
            .extract_if(.., |(symbol, _), request| is_finished(symbol, request.revision))
            .collect()
    }
}

/// Runs until the shutdown or a failure. Entries that were read but not finished are read again after it.
pub(crate) async fn work(worker: Worker) -> anyhow::Result<()> {
    let mut reader = worker.reader(Stream::Repairs);
    let mut redis = worker.redis();
    let mut pending = PendingRepairs::default();
    let mut bases = Bases::default();
    while !worker.token.is_cancelled() {
        // The read waits for new entries, which also paces the checks of the pending ones.
        let mut malformed = Vec::new();
        for entry in reader.read().await.context("reading repairs")? {
            match decode_task(&entry) {
                Ok(Task::Minute(repair)) => pending.add(entry.id, repair),
                Ok(Task::Base(base)) => bases.add(entry.id, base),
                Err(reason) => {
                    REPAIRS.increment("malformed", 1);
                    dead_letter::send(&mut redis, Stream::Repairs, &entry, reason.to_string()).await?;
                    malformed.push(entry.id);
                }
            }
        }
        reader.acknowledge(&malformed).await.context("acknowledging repairs")?;
        if !pending.0.is_empty() || !bases.is_empty() {
            finish_ready(&worker, &mut reader, &mut redis, &mut pending, &mut bases).await?;
        }
        #[allow(clippy::cast_precision_loss)] // metrics are doubles
        REPAIRS_WAITING.set(pending.0.len() as f64);
        worker.readiness.ok("repairs");
    }
    Ok(())
}

/// Delivers the bases and repairs the minutes whose ticks are all written, and acknowledges their entries.
async fn finish_ready(
    worker: &Worker,
    reader: &mut GroupReader,
    redis: &mut Connection,
    pending: &mut PendingRepairs,
    bases: &mut Bases,
) -> anyhow::Result<()> {
    let progress = HistoryProgress::now(redis, worker.config.stream.partitions).await?;
    let covers = |symbol: &Symbol, revision| progress.covers(symbol, revision);
    loop {
        let delivered = bases.deliver(worker, redis, covers).await?;
        if delivered.is_empty() {
            break;
        }
        reader.acknowledge(&delivered).await.context("acknowledging repairs")?;
    }
    for ((symbol, start_us), mut request) in pending.take_ready(covers) {
        if let Some(revision) = repair(worker, redis, &symbol, start_us, &request, covers).await? {
            request.revision = revision;
            pending.0.insert((symbol, start_us), request);
            continue;
        }
        let ids: Vec<_> = request.ids.into_iter().collect();
        reader.acknowledge(&ids).await.context("acknowledging repairs")?;
    }
    Ok(())
}

/// Repairs a minute. Returns the revision that the history must contain first if the stored candle is ahead of `ticks`.
async fn repair(
    worker: &Worker,
    redis: &mut Connection,
    symbol: &Symbol,
    start_us: i64,
    request: &Request,
    covers: impl Fn(&Symbol, Revision) -> bool,
) -> anyhow::Result<Option<Revision>> {
    let mut connection = worker.pool.get().await?;
    let time = rfc3339(start_us);
    let partitions = worker.config.stream.partitions;
    let repaired = match recompute(&mut connection, redis, partitions, symbol, start_us, false).await {
        Err(error) if refuses_row(&error) => {
            REPAIRS.increment("refused", 1);
            let reason = Rejection::Refused(format!("{error:#}")).to_string();
            send_to_dead_letters(redis, symbol, start_us, request, reason).await?;
            return Ok(None);
        }
        repaired => repaired.context("computing a minute from its ticks")?,
    };
    let Some(Repaired { candle, outcome, .. }) = repaired else {
        REPAIRS.increment("no_ticks", 1);
        tracing::info!(%symbol, %time, "a requested minute has no ticks");
        return Ok(None);
    };
    let has_more_trades = matches!(outcome, Outcome::MoreTrades { .. });
    if has_more_trades && !covers(symbol, candle.revision) {
        return Ok(Some(candle.revision));
    }
    // Everything precedes the acknowledgement, so a crash repeats the repair.
    publish(redis, symbol, &candle).await?;
    let range = rollups::entry_fields(minute(start_us));
    functions::announce(Stream::Rollups, &range)
        .query_async::<()>(redis)
        .await
        .context("announcing a repaired minute")?;
    if let Outcome::MoreTrades { ticks } = outcome {
        let reason = more_trades(symbol, &candle, ticks);
        send_to_dead_letters(redis, symbol, start_us, request, reason).await?;
    }
    REPAIRS.increment(outcome.label(), 1);
    tracing::info!(%symbol, %time, outcome = outcome.label(), "computed a minute from its ticks");
    Ok(None)
}

fn refuses_row(error: &anyhow::Error) -> bool {
    error
        .downcast_ref()
        .is_some_and(|StatementError(error)| Fault::of(error) == Fault::BadRow)
}

async fn send_to_dead_letters(
    redis: &mut Connection,
    symbol: &Symbol,
    start_us: i64,
    request: &Request,
    reason: String,
) -> anyhow::Result<()> {
    let repair = Repair {
        symbol: symbol.clone(),
        start_us,
        revision: request.revision,
    };
    let id = request.ids.last().copied().unwrap_or_default();
    let entry = Entry::new(id, entry_fields(&repair));
    dead_letter::send(redis, Stream::Repairs, &entry, reason).await
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
    fn a_minute_that_is_requested_twice_is_computed_once_for_the_later_revision() {
        let mut pending = PendingRepairs::default();
        pending.add(id(1), repair(60_000_000, 7));
        pending.add(id(2), repair(60_000_001, 9));
        pending.add(id(3), repair(120_000_000, 5));
        pending.add(id(3), repair(120_000_000, 5));
        let ready = pending.take_ready(|_, revision| revision.as_i64() <= 5);
        assert_eq!(
            ready
                .iter()
                .map(|((_, start), request)| (*start, request.ids.len()))
                .collect::<Vec<_>>(),
            [(120_000_000, 1)]
        );
        let ready = pending.take_ready(|_, revision| revision.as_i64() <= 9);
        assert_eq!(ready[0].1.ids, [id(1), id(2)].into());
        assert!(pending.0.is_empty());
    }
}
