//! The task for `stream:repairs`: recomputes minutes from `ticks`, and computes the bases of candles that hot-writer
//! lacks.
//!
//! A repair waits until the warm-syncers have finished the entry of its revision; until then `ticks` may lack some of
//! its ticks. If the minute's candle was written before its last ticks, the repair waits for these, too.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Context;
use redis::pipe;
use storage_core::domain::entry::Entry;
use storage_core::domain::rejection::Rejection;
use storage_core::domain::stream_id::{Revision, StreamId};
use storage_core::domain::symbol::Symbol;
use storage_core::domain::time::{TimeRange, rfc3339};
use storage_core::domain::timeframe::Timeframe;
use storage_core::postgres::error::{Fault, StatementError};
use storage_core::redis::codec::repairs::{Repair, Task, decode_task, entry_fields};
use storage_core::redis::codec::rollups;
use storage_core::redis::connection::Connection;
use storage_core::redis::functions;
use storage_core::redis::group_reader::GroupReader;
use storage_core::redis::hot;
use storage_core::redis::stream::Stream;

use crate::bases::Bases;
use crate::dead_letter;
use crate::latest;
use crate::metrics::{REPAIRS, REPAIRS_WAITING};
use crate::minute::minute;
use crate::progress::HistoryProgress;
use crate::recompute::{Outcome, Repaired, more_trades, recompute_all};
use crate::worker::Worker;

/// Number of minutes that are repaired in one transaction.
const BATCH: usize = 50;

/// A requested minute, by symbol and start.
type Minute = ((Symbol, i64), Request);

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
    fn take_ready(&mut self, is_finished: impl Fn(&Symbol, Revision) -> bool) -> Vec<Minute> {
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
    let mut ready = pending.take_ready(covers).into_iter();
    loop {
        let batch: Vec<_> = ready.by_ref().take(BATCH).collect();
        if batch.is_empty() {
            return Ok(());
        }
        let done = repair(worker, redis, batch, pending, covers).await?;
        reader.acknowledge(&done).await.context("acknowledging repairs")?;
    }
}

/// Repairs minutes in one transaction, and returns the entries that requested them. A minute whose stored candle is
/// ahead of `ticks` becomes pending again, until the history contains its revision.
async fn repair(
    worker: &Worker,
    redis: &mut Connection,
    batch: Vec<Minute>,
    pending: &mut PendingRepairs,
    covers: impl Fn(&Symbol, Revision) -> bool + Copy,
) -> anyhow::Result<Vec<StreamId>> {
    let partitions = worker.config.stream.partitions;
    let minutes: Vec<_> = batch
        .iter()
        .map(|((symbol, start_us), _)| (symbol, *start_us))
        .collect();
    let mut connection = worker.pool.get().await?;
    let repaired = recompute_all(&mut connection, redis, partitions, &minutes, false).await;
    if repaired.is_ok() {
        let minutes = batch.iter();
        let minutes: Vec<_> = minutes
            .map(|((symbol, start_us), request)| (symbol, *start_us, request.revision))
            .collect();
        latest::correct(&mut connection, redis, &minutes).await?;
    }
    drop(connection);
    let repaired = match repaired {
        // One row must not stop the others.
        Err(error) if refuses_row(&error) && batch.len() > 1 => {
            let mut done = Vec::new();
            for minute in batch {
                done.extend(Box::pin(repair(worker, redis, vec![minute], pending, covers)).await?);
            }
            return Ok(done);
        }
        Err(error) if refuses_row(&error) => {
            REPAIRS.increment("refused", 1);
            let reason = Rejection::Refused(format!("{error:#}")).to_string();
            let mut done = Vec::new();
            for ((symbol, start_us), request) in batch {
                send_to_dead_letters(redis, &symbol, start_us, &request, reason.clone()).await?;
                done.extend(request.ids);
            }
            return Ok(done);
        }
        repaired => repaired.context("computing minutes from their ticks")?,
    };
    // Everything precedes the acknowledgement, so a crash repeats the repairs.
    let (mut done, mut ranges, mut messages) = (Vec::new(), Vec::new(), pipe());
    for (((symbol, start_us), mut request), repaired) in batch.into_iter().zip(repaired) {
        let time = rfc3339(start_us);
        let Some(Repaired { candle, outcome, .. }) = repaired else {
            REPAIRS.increment("no_ticks", 1);
            tracing::info!(%symbol, %time, "a requested minute has no ticks");
            done.extend(request.ids);
            continue;
        };
        if let Outcome::MoreTrades { ticks } = outcome {
            if !covers(&symbol, candle.revision) {
                request.revision = candle.revision;
                pending.0.insert((symbol, start_us), request);
                continue;
            }
            let reason = more_trades(&symbol, &candle, ticks);
            send_to_dead_letters(redis, &symbol, start_us, &request, reason).await?;
        }
        messages
            .add_command(hot::publish_final(Timeframe::M1, &symbol, &candle))
            .ignore();
        ranges.push(minute(start_us));
        REPAIRS.increment(outcome.label(), 1);
        tracing::info!(%symbol, %time, outcome = outcome.label(), "computed a minute from its ticks");
        done.extend(request.ids);
    }
    if ranges.is_empty() {
        return Ok(done);
    }
    messages
        .exec_async(redis)
        .await
        .context("publishing repaired minutes")?;
    let ranges: Vec<_> = TimeRange::merge(ranges, 0)
        .into_iter()
        .map(rollups::entry_fields)
        .collect();
    functions::announce_all(redis, Stream::Rollups, &ranges)
        .await
        .context("announcing repaired minutes")?;
    Ok(done)
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
