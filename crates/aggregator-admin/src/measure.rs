//! Gauges about the history and the streams, measured from time to time.

use anyhow::Context;
use storage_core::domain::timeframe::Timeframe;
use storage_core::postgres::edition::Edition;
use storage_core::postgres::queries::{dead_letters, rollups, storage};
use storage_core::redis::connection::Connection;
use storage_core::redis::position::positions;
use storage_core::redis::stream::Stream;
use tokio::time::sleep;

use crate::metrics::{
    CHUNKS, COMPRESSED_CHUNKS, COMPRESSION_AVAILABLE, DEAD_LETTERS, GROUP_LAG, GROUP_PENDING, ROLLUP_LAG, TABLE_SIZE,
};
use crate::rollups::ranges::LARGER;
use crate::run::Worker;
use crate::stores::Explained;

/// Measures until a shutdown is asked for or something fails.
pub(crate) async fn work(worker: Worker) -> anyhow::Result<()> {
    COMPRESSION_AVAILABLE.set(f64::from(u8::from(worker.server.edition == Edition::Community)));
    let mut redis = worker.redis();
    while !worker.token.is_cancelled() {
        groups(&mut redis, worker.config.stream.partitions).await?;
        history(&worker).await?;
        worker.readiness.ok("measurements");
        let _ = worker
            .token
            .run_until_cancelled(sleep(worker.config.admin.measure_interval))
            .await;
    }
    Ok(())
}

#[allow(clippy::cast_precision_loss)] // metrics are doubles
async fn groups(redis: &mut Connection, partitions: u16) -> anyhow::Result<()> {
    for stream in Stream::all(partitions) {
        for position in positions(redis, stream)
            .await
            .context("reading the groups' positions")?
        {
            let name = stream.to_string();
            if let Some(lag) = position.lag {
                GROUP_LAG.set(&name, &position.group, lag as f64);
            }
            GROUP_PENDING.set(&name, &position.group, position.pending as f64);
        }
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
    }
    // A stream whose dead letters were all requeued is not in the answer any more.
    for stream in Stream::all(worker.config.stream.partitions) {
        DEAD_LETTERS.set(&stream.key().to_string(), 0.0);
    }
    for waiting in dead_letters::waiting(&mut connection)
        .await
        .explained("counting dead letters")?
    {
        DEAD_LETTERS.set(&waiting.stream, waiting.letters as f64);
    }
    let Some(newest_us) = storage::newest_minute(&mut connection)
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
