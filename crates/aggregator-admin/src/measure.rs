//! Gauges of the history, the streams and Redis, measured at intervals.

use std::collections::BTreeSet;

use anyhow::Context;
use storage_core::domain::timeframe::Timeframe;
use storage_core::postgres::edition::Edition;
use storage_core::postgres::error::Explained;
use storage_core::postgres::queries::{dead_letters, rollups, spans, storage};
use storage_core::redis::clock::now_ms;
use storage_core::redis::connection::Connection;
use storage_core::redis::inspect::{self, Memory};
use storage_core::redis::stream::Stream;
use storage_core::redis::{groups, preflight};
use storage_core::telemetry::readiness::Readiness;
use tokio::time::sleep;

use crate::metrics::{
    CHUNKS, COMPRESSED_CHUNKS, COMPRESSION_AVAILABLE, DEAD_LETTERS, FOREIGN_IDLE, GROUP_LAG, GROUP_PENDING,
    OVERDUE_CHUNKS, REDIS_FAULTS, REDIS_MEMORY_LIMIT, REDIS_MEMORY_USED, ROLLUP_LAG, ROLLUP_LAG_LIMIT, TABLE_SIZE,
};
use crate::policies::refresh_intervals;
use crate::rollups::ranges::LARGER;
use crate::worker::Worker;

/// Lag of a larger timeframe, beyond its buckets and intervals, that is no fault, in seconds: a refresh takes time.
const LAG_MARGIN_S: f64 = 900.0;

/// Sets the gauges at intervals until a shutdown or a failure.
pub(crate) async fn work(worker: Worker) -> anyhow::Result<()> {
    COMPRESSION_AVAILABLE.set(f64::from(u8::from(worker.server.edition == Edition::Community)));
    let mut redis = worker.redis();
    let mut known = BTreeSet::new();
    while !worker.token.is_cancelled() {
        groups(&mut redis, worker.config.stream.partitions, &mut known).await?;
        memory(&mut redis, &worker.readiness).await?;
        settings(&worker).await?;
        history(&worker).await?;
        worker.readiness.ok("measurements");
        let _ = worker
            .token
            .run_until_cancelled(sleep(worker.config.admin.measure_interval))
            .await;
    }
    Ok(())
}

/// Sets the gauges of all groups. The gauges of groups in `known` that no longer exist become zero.
#[allow(clippy::cast_precision_loss)] // metrics are doubles
async fn groups(redis: &mut Connection, partitions: u16, known: &mut BTreeSet<(String, String)>) -> anyhow::Result<()> {
    let mut found = BTreeSet::new();
    for stream in Stream::all(partitions) {
        for group in groups::groups(redis, stream).await.context("reading the groups")? {
            let (name, position) = (stream.to_string(), &group.position);
            if let Some(lag) = position.lag {
                GROUP_LAG.set(&name, &position.group, lag as f64);
            }
            GROUP_PENDING.set(&name, &position.group, position.pending as f64);
            if !group.is_own() {
                let unheard_ms = now_ms(redis).await?.saturating_sub(position.delivered.ms);
                let idle_ms = match position.has_finished() {
                    true => 0,
                    false => group.idle_ms.unwrap_or(unheard_ms),
                };
                FOREIGN_IDLE.set(&name, &position.group, idle_ms as f64 / 1e3);
            }
            found.insert((name, group.position.group));
        }
    }
    for (stream, group) in known.difference(&found) {
        GROUP_LAG.set(stream, group, 0.0);
        GROUP_PENDING.set(stream, group, 0.0);
        FOREIGN_IDLE.set(stream, group, 0.0);
    }
    *known = found;
    Ok(())
}

/// Measures the memory of the fullest master. While it is full, producers wait, and the worker is not ready.
#[allow(clippy::cast_precision_loss)] // metrics are doubles
async fn memory(redis: &mut Connection, readiness: &Readiness) -> anyhow::Result<()> {
    let share = |memory: &Memory| {
        memory
            .limit_bytes
            .map_or(0.0, |limit| memory.used_bytes as f64 / limit as f64)
    };
    let masters = inspect::memory(redis).await.context("reading the memory of Redis")?;
    let Some(fullest) = masters.iter().max_by(|a, b| share(a).total_cmp(&share(b))) else {
        return Ok(());
    };
    REDIS_MEMORY_USED.set(fullest.used_bytes as f64);
    REDIS_MEMORY_LIMIT.set(fullest.limit_bytes.unwrap_or(0) as f64);
    if fullest.is_full() {
        let full = "Redis has reached `maxmemory`, so producers wait; run `aggregator-admin groups` to find a \
                    group that lags, or raise `maxmemory`";
        readiness.fail("redis memory", full);
    } else {
        readiness.ok("redis memory");
    }
    Ok(())
}

/// Checks the settings of Redis, which may change while it runs.
async fn settings(worker: &Worker) -> anyhow::Result<()> {
    let found = preflight::inspect(&worker.config.redis).await;
    let faults = found.context("checking the settings of Redis")?.faults;
    REDIS_FAULTS.set(f64::from(u8::from(!faults.is_empty())));
    match faults.is_empty() {
        true => worker.readiness.ok("redis settings"),
        false => worker.readiness.fail("redis settings", faults.join("; ")),
    }
    Ok(())
}

#[allow(clippy::cast_precision_loss)] // metrics are doubles
async fn history(worker: &Worker) -> anyhow::Result<()> {
    let mut connection = worker.pool.get().await?;
    for table in storage::chunks(&mut connection)
        .await
        .explained("measuring the tables")?
    {
        TABLE_SIZE.set(&table.table_name, table.size_bytes as f64);
        CHUNKS.set(&table.table_name, table.chunks as f64);
        COMPRESSED_CHUNKS.set(&table.table_name, table.compressed as f64);
        OVERDUE_CHUNKS.set(&table.table_name, table.overdue as f64);
    }
    // A stream whose dead letters were all requeued is missing in the answer.
    for stream in Stream::all(worker.config.stream.partitions) {
        DEAD_LETTERS.set(&stream.key().to_string(), 0.0);
    }
    for waiting in dead_letters::waiting(&mut connection)
        .await
        .explained("counting dead letters")?
    {
        DEAD_LETTERS.set(&waiting.stream, waiting.letters as f64);
    }
    for (timeframe, interval) in refresh_intervals(&mut connection, &worker.server, &worker.config.admin).await? {
        let limit_s = 2.0 * timeframe.seconds() as f64 + 3.0 * interval.as_secs_f64() + LAG_MARGIN_S;
        ROLLUP_LAG_LIMIT.set(timeframe.label(), limit_s);
    }
    let Some(newest_us) = spans::newest_minute(&mut connection)
        .await
        .explained("finding the newest minute")?
    else {
        return Ok(());
    };
    for timeframe in LARGER {
        let watermark = rollups::watermark(&mut connection, worker.server.edition, timeframe).await;
        if let Some(made_us) = watermark.explained("reading a watermark")? {
            let lag_us = (newest_us + Timeframe::M1.micros() - made_us).max(0);
            ROLLUP_LAG.set(timeframe.label(), lag_us as f64 / 1e6);
        }
    }
    Ok(())
}
