//! What must happen from time to time, done by one copy of this worker: TimescaleDB's jobs where the server has no
//! scheduler, and on the Apache edition, which has no jobs, the larger timeframes of the recent past.

use std::time::Duration;

use anyhow::Context;
use diesel_async::AsyncPgConnection;
use storage_core::domain::time::{TimeRange, duration_us, ms_to_us};
use storage_core::postgres::edition::Edition;
use storage_core::postgres::error::{Explained, describe};
use storage_core::postgres::queries::completeness;
use storage_core::postgres::queries::policies::{self, JobKind};
use storage_core::postgres::queries::rollups;
use storage_core::redis::clock::now_ms;
use storage_core::redis::lease::Membership;
use storage_core::redis::stream::AGGREGATOR_ADMIN;
use tokio::time::{Instant, sleep};

use crate::metrics::{LEADER, POLICY_FAILURES, POLICY_RUNS};
use crate::plan::{RETAINABLE, retention};
use crate::rollups::ranges::LARGER;
use crate::rollups::refresh;
use crate::worker::Worker;

/// A copy that vanished is replaced after this time.
const LEASE_TTL: Duration = Duration::from_secs(30);
/// How often the lease is renewed.
const RENEWAL: Duration = Duration::from_secs(5);
/// The one lease of this worker.
const LEASE: u16 = 0;

/// Runs policies while this copy holds the lease, until a shutdown is asked for or something fails.
pub(crate) async fn work(worker: Worker) -> anyhow::Result<()> {
    let membership = Membership::new(AGGREGATOR_ADMIN, worker.instance(), LEASE_TTL);
    let mut redis = worker.redis();
    let mut due = Instant::now();
    let mut caught_up = false;
    while !worker.token.is_cancelled() {
        let leads = membership
            .acquire(&mut redis, LEASE)
            .await
            .context("asking for the lease")?;
        LEADER.set(f64::from(u8::from(leads)));
        if leads && due <= Instant::now() {
            let now_us = ms_to_us(now_ms(&mut redis).await.context("reading the clock")?);
            if !caught_up {
                catch_up(&worker, now_us).await?;
                caught_up = true;
            }
            notice(&worker).await?;
            match worker.server.edition {
                Edition::Community if worker.server.has_scheduler => {}
                Edition::Community => run_jobs(&worker).await?,
                Edition::Apache => {
                    refresh_recent(&worker, now_us).await?;
                    drop_old_chunks(&worker).await?;
                }
            }
            due = Instant::now() + worker.config.admin.policy_interval;
        }
        worker.readiness.ok("policies");
        let _ = worker
            .token
            .run_until_cancelled(sleep(RENEWAL.min(worker.config.admin.policy_interval)))
            .await;
    }
    LEADER.set(0.0);
    membership
        .release(&mut redis, LEASE)
        .await
        .context("giving the lease back")
}

/// Notes what others dropped, before late rows create such a chunk again.
async fn notice(worker: &Worker) -> anyhow::Result<()> {
    let mut connection = worker.pool.get().await?;
    completeness::update_borders(&mut connection, worker.server.edition)
        .await
        .explained("looking for dropped chunks")
}

/// Closes the gap that a long stop leaves: what lies between the end of what was made and the window that policies
/// refresh, and what was announced by nobody because it was recent when it was written.
async fn catch_up(worker: &Worker, now_us: i64) -> anyhow::Result<()> {
    let mut connection = worker.pool.get().await?;
    let window_us = duration_us(worker.config.admin.refresh_window);
    // One bucket of the largest timeframe inside the window: only whole ones are refreshed there.
    let until_us = LARGER[LARGER.len() - 1].bucket_start_us(now_us - window_us) + LARGER[LARGER.len() - 1].micros();
    let made_us = made_until(worker, &mut connection).await?;
    if made_us >= until_us {
        return Ok(());
    }
    let gap = TimeRange {
        from_us: made_us,
        to_us: until_us,
    };
    refresh::buckets(&mut connection, worker.server.edition, &[gap], |_, _| Ok(())).await
}

/// The end of what was made in every timeframe, in µs since 1970; 0 where one was never made.
async fn made_until(worker: &Worker, connection: &mut AsyncPgConnection) -> anyhow::Result<i64> {
    let mut made_us = i64::MAX;
    for timeframe in LARGER {
        let watermark = rollups::watermark(connection, worker.server.edition, timeframe).await;
        made_us = made_us.min(watermark.explained("reading a watermark")?.unwrap_or(0));
    }
    Ok(made_us)
}

async fn refresh_recent(worker: &Worker, now_us: i64) -> anyhow::Result<()> {
    let mut connection = worker.pool.get().await?;
    let recent = TimeRange {
        from_us: now_us - duration_us(worker.config.admin.refresh_window),
        to_us: now_us + duration_us(worker.config.stream.max_future),
    };
    let refreshed = refresh::buckets(&mut connection, worker.server.edition, &[recent], |_, _| Ok(())).await;
    POLICY_RUNS.increment("refresh", 1);
    if refreshed.is_err() {
        POLICY_FAILURES.increment("refresh", 1);
    }
    refreshed
}

async fn drop_old_chunks(worker: &Worker) -> anyhow::Result<()> {
    let mut connection = worker.pool.get().await?;
    for table in RETAINABLE {
        let Some(kept) = retention(&worker.config.admin, table) else {
            continue;
        };
        if must_stay(worker, &mut connection, table, kept).await? {
            continue;
        }
        POLICY_RUNS.increment("retain", 1);
        let noted = completeness::advance_to_retention(&mut connection, table, kept).await;
        noted.explained(&format!("noting what is dropped of {table}"))?;
        let dropped = policies::drop_chunks(&mut connection, table, kept).await;
        let dropped = dropped.explained(&format!("dropping old chunks of {table}"))?;
        if dropped > 0 {
            tracing::info!(table, dropped, "dropped old chunks");
        }
    }
    Ok(())
}

/// Returns `true` while chunks of `ticks` must not be dropped, because larger candles are about to be computed from them.
async fn must_stay(
    worker: &Worker,
    connection: &mut AsyncPgConnection,
    table: &str,
    kept: Duration,
) -> anyhow::Result<bool> {
    if table != "ticks" {
        return Ok(false);
    }
    let waiting = completeness::has_uncounted_ticks(connection, worker.server.edition, kept)
        .await
        .explained("looking for late ticks")?;
    if waiting {
        tracing::info!(table, "old chunks stay until the late ticks in them are counted");
    }
    Ok(waiting)
}

/// Runs every job. One that fails doesn't keep the others, and is run again the next time.
async fn run_jobs(worker: &Worker) -> anyhow::Result<()> {
    let mut connection = worker.pool.get().await?;
    for job in policies::jobs(&mut connection, worker.server.edition)
        .await
        .explained("reading the policies")?
    {
        if worker.token.is_cancelled() {
            break;
        }
        let kind = match job.kind {
            JobKind::Refresh => "refresh",
            JobKind::Compress => "compress",
            JobKind::Retain => "retain",
        };
        if let (JobKind::Retain, Some(kept)) = (job.kind, job.age)
            && must_stay(worker, &mut connection, &job.table, kept).await?
        {
            continue;
        }
        POLICY_RUNS.increment(kind, 1);
        if let Err(error) = policies::run_job(&mut connection, &job).await {
            POLICY_FAILURES.increment(kind, 1);
            tracing::warn!(table = job.table, "the {kind} policy failed: {}", describe(&error));
        }
    }
    Ok(())
}
