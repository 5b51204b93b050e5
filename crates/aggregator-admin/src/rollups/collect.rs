//! The task for `stream:rollups`: collects ranges for a short time, refreshes the buckets that they touch, then
//! acknowledges them.

use std::time::Duration;

use anyhow::Context;
use storage_core::domain::entry::Entry;
use storage_core::domain::stream_id::StreamId;
use storage_core::domain::time::TimeRange;
use storage_core::domain::timeframe::Timeframe;
use storage_core::postgres::error::Explained;
use storage_core::postgres::queries::completeness;
use storage_core::redis::clock::now_ms;
use storage_core::redis::codec::rollups::decode_entry;
use storage_core::redis::connection::Connection;
use storage_core::redis::group_reader::GroupReader;
use storage_core::redis::stream::Stream;
use tokio::time::{Instant, sleep};

use super::refresh;
use crate::dead_letter;
use crate::metrics::{REFRESH, ROLLUPS};
use crate::progress::HistoryProgress;
use crate::worker::{BLOCK, Worker};

/// Maximum number of ranges in a batch.
const MAX_RANGES: usize = 10_000;

/// Pause between two checks of the warm-syncers' positions.
const PAUSE: Duration = Duration::from_millis(200);

/// Ranges that are refreshed together, and the entries that announced them.
#[derive(Default)]
struct Batch {
    ids: Vec<StreamId>,
    ranges: Vec<TimeRange>,
}

/// Runs until the shutdown or a failure. Ranges that were collected but not refreshed are read again after it.
pub(crate) async fn work(worker: Worker) -> anyhow::Result<()> {
    let mut reader = worker.reader(Stream::Rollups);
    let mut redis = worker.redis();
    while !worker.token.is_cancelled() {
        let batch = next_batch(&worker, &mut reader, &mut redis).await?;
        if !batch.ids.is_empty() {
            refresh(&worker, &mut redis, &batch).await?;
            reader.acknowledge(&batch.ids).await.context("acknowledging rollups")?;
        }
        worker.readiness.ok("rollups");
    }
    Ok(())
}

async fn next_batch(worker: &Worker, reader: &mut GroupReader, redis: &mut Connection) -> anyhow::Result<Batch> {
    let mut batch = Batch::default();
    take(reader.read().await.context("reading rollups")?, &mut batch, redis).await?;
    if batch.ids.is_empty() {
        return Ok(batch);
    }
    let until = Instant::now() + worker.config.admin.rollup_collect;
    while batch.ids.len() < MAX_RANGES && !worker.token.is_cancelled() {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            break;
        }
        let more = reader
            .read_more(worker.config.admin.batch, left.min(BLOCK))
            .await
            .context("reading rollups")?;
        take(more, &mut batch, redis).await?;
    }
    Ok(batch)
}

async fn take(entries: Vec<Entry>, batch: &mut Batch, redis: &mut Connection) -> anyhow::Result<()> {
    for entry in entries {
        batch.ids.push(entry.id);
        match decode_entry(&entry) {
            Ok(range) => batch.ranges.push(range),
            Err(reason) => dead_letter::send(redis, Stream::Rollups, &entry, reason.to_string()).await?,
        }
    }
    Ok(())
}

/// Waits until `ticks` contains every tick that Redis has accepted by now. For dropped minutes, late ticks are added to
/// larger candles from `ticks`, and a closed candle may be written before its last ticks.
async fn await_ticks(worker: &Worker, redis: &mut Connection) -> anyhow::Result<()> {
    let newest = StreamId {
        ms: now_ms(redis).await.context("reading the clock")?,
        seq: u64::MAX,
    };
    while !HistoryProgress::now(redis, worker.config.stream.partitions)
        .await?
        .covers_all(newest)
    {
        let paused = worker.token.run_until_cancelled(sleep(PAUSE)).await;
        anyhow::ensure!(
            paused.is_some(),
            "shutdown before warm-syncer wrote the ticks of dropped minutes; they are refreshed after the next start"
        );
    }
    Ok(())
}

async fn refresh(worker: &Worker, redis: &mut Connection, batch: &Batch) -> anyhow::Result<()> {
    let mut connection = worker.pool.get().await?;
    let complete_since_us = completeness::first_bucket(&mut connection, Timeframe::M1.table(), Timeframe::M1)
        .await
        .explained("reading the time from which on minutes are complete")?;
    if batch.ranges.iter().any(|range| range.from_us < complete_since_us) {
        await_ticks(worker, redis).await?;
    }
    refresh::buckets(
        &mut connection,
        worker.server.edition,
        &batch.ranges,
        |timeframe, took| {
            REFRESH.record(timeframe.label(), took.as_secs_f64());
            Ok(())
        },
    )
    .await?;
    ROLLUPS.increment(u64::try_from(batch.ranges.len())?);
    tracing::debug!(ranges = batch.ranges.len(), "refreshed the larger timeframes");
    Ok(())
}
