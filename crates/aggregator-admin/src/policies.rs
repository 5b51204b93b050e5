//! The policies, run by the replica that holds the lease. On a server without a scheduler these are TimescaleDB's jobs;
//! the jobs of a scheduler are watched. On the Apache edition, which has no jobs, they are the refresh of the recent
//! past and the removal of old chunks. Each policy runs at the first look after its interval has passed.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Context;
use diesel_async::AsyncPgConnection;
use storage_core::domain::time::{TimeRange, duration_us, ms_to_us};
use storage_core::domain::timeframe::Timeframe;
use storage_core::postgres::edition::{Edition, Server};
use storage_core::postgres::error::{Explained, describe};
use storage_core::postgres::queries::completeness;
use storage_core::postgres::queries::policies::{self, Job, JobKind};
use storage_core::postgres::queries::rollups;
use storage_core::redis::clock::now_ms;
use storage_core::redis::connection::Connection;
use storage_core::redis::lease::Membership;
use storage_core::redis::refresh_windows;
use storage_core::redis::stream::AGGREGATOR_ADMIN;
use tokio::time::{Instant, sleep};

use crate::config::AdminConfig;
use crate::jobs::WatchedJobs;
use crate::metrics::{LEADER, POLICY_FAILURES, POLICY_RUNS};
use crate::plan::{self, RETAINABLE, retention};
use crate::rollups::ranges::LARGER;
use crate::rollups::refresh;
use crate::schedule::Schedule;
use crate::worker::Worker;

/// Time after which another replica replaces one that died.
const LEASE_TTL: Duration = Duration::from_secs(30);
/// Time between two renewals of the lease.
const RENEWAL: Duration = Duration::from_secs(5);
/// Condition of `/readyz`: the refresh window agrees with the warm-syncers.
const REFRESH_WINDOW: &str = "refresh window";
/// Number of the worker's only lease.
const LEASE: u16 = 0;

/// Runs policies while this replica holds the lease, until the shutdown or a failure.
pub(crate) async fn work(worker: Worker) -> anyhow::Result<()> {
    let membership = Membership::new(AGGREGATOR_ADMIN, worker.instance(), LEASE_TTL);
    let mut redis = worker.redis();
    let mut due = Instant::now();
    let mut caught_up = false;
    let mut has_scheduler = worker.server.has_scheduler;
    let mut jobs = WatchedJobs::default();
    let mut schedule = Schedule::default();
    while !worker.token.is_cancelled() {
        let leads = membership
            .acquire(&mut redis, LEASE)
            .await
            .context("acquiring the lease")?;
        LEADER.set(f64::from(u8::from(leads)));
        if leads && due <= Instant::now() {
            let now_us = ms_to_us(now_ms(&mut redis).await.context("reading the clock")?);
            if !caught_up {
                catch_up(&worker, now_us).await?;
                caught_up = true;
            }
            check_refresh_window(&worker, &mut redis).await?;
            record_dropped_chunks(&worker).await?;
            let was_there = std::mem::replace(&mut has_scheduler, finds_scheduler(&worker).await?);
            match (was_there, has_scheduler) {
                (true, false) => tracing::warn!("TimescaleDB's scheduler has stopped; this worker runs the policies"),
                (false, true) => tracing::info!("TimescaleDB's scheduler has started and runs the policies"),
                _ => {}
            }
            match worker.server.edition {
                Edition::Community if has_scheduler => {
                    jobs.look(&mut *worker.pool.get().await?, Edition::Community).await?;
                    schedule = Schedule::default();
                }
                Edition::Community => run_jobs(&worker, &mut schedule).await?,
                Edition::Apache => {
                    refresh_recent(&worker, &mut schedule, now_us).await?;
                    drop_old_chunks(&worker, &mut schedule).await?;
                }
            }
            due = Instant::now() + worker.config.admin.policy_interval;
        }
        if !leads || !has_scheduler {
            jobs.forget();
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
        .context("releasing the lease")
}

/// Returns the intervals at which the larger timeframes are refreshed. A timeframe without a policy is missing.
pub(crate) async fn refresh_intervals(
    connection: &mut AsyncPgConnection,
    server: &Server,
    settings: &AdminConfig,
) -> anyhow::Result<BTreeMap<Timeframe, Duration>> {
    let jobs = policies::jobs(connection, server.edition)
        .await
        .explained("reading the policies")?;
    let is_refresh = |job: &Job, table: &str| job.kind == JobKind::Refresh && job.table == table;
    let interval = |table: &str| match server.edition {
        Edition::Apache => Some(plan::interval(settings, Edition::Apache, JobKind::Refresh, table)),
        Edition::Community => {
            let job = jobs.iter().find(|job| is_refresh(job, table))?;
            Some(match server.has_scheduler {
                true => job.every,
                false => job.every.max(settings.policy_interval),
            })
        }
    };
    let intervals = LARGER.map(|timeframe| Some((timeframe, interval(timeframe.table())?)));
    Ok(intervals.into_iter().flatten().collect())
}

/// Reports changes of a warm-syncer that no refresh would see.
async fn check_refresh_window(worker: &Worker, redis: &mut Connection) -> anyhow::Result<()> {
    let announced = refresh_windows::announced(redis)
        .await
        .context("reading the refresh windows of warm-syncers")?;
    match plan::check::windows(&worker.config.admin, worker.server.edition, &announced) {
        Ok(()) => worker.readiness.ok(REFRESH_WINDOW),
        Err(error) => {
            tracing::error!("{error}");
            worker.readiness.fail(REFRESH_WINDOW, error);
        }
    }
    Ok(())
}

async fn finds_scheduler(worker: &Worker) -> anyhow::Result<bool> {
    let mut connection = worker.pool.get().await?;
    Ok(worker.detect_server(&mut connection).await?.has_scheduler)
}

/// Records chunks that a job or an operator has dropped. It must run before late rows create such a chunk again.
async fn record_dropped_chunks(worker: &Worker) -> anyhow::Result<()> {
    let mut connection = worker.pool.get().await?;
    completeness::update_borders(&mut connection, worker.server.edition)
        .await
        .explained("looking for dropped chunks")
}

/// Refreshes the gap after a long stop: from the watermark to the window of the policies. Minutes in it were recent
/// when they were written, so no entry of `stream:rollups` announced them.
async fn catch_up(worker: &Worker, now_us: i64) -> anyhow::Result<()> {
    let mut connection = worker.pool.get().await?;
    let window_us = duration_us(worker.config.admin.refresh_window);
    // Overlaps the window by one bucket of the largest timeframe, because policies refresh only whole buckets.
    let until_us = LARGER[LARGER.len() - 1].bucket_start_us(now_us - window_us) + LARGER[LARGER.len() - 1].micros();
    let materialized_us = materialized_until(worker, &mut connection).await?;
    if materialized_us >= until_us {
        return Ok(());
    }
    let gap = TimeRange {
        from_us: materialized_us,
        to_us: until_us,
    };
    refresh::buckets(&mut connection, worker.server.edition, &[gap], |_, _| Ok(())).await
}

/// Returns the lowest watermark of all larger timeframes in µs since 1970; 0 if one was never refreshed.
async fn materialized_until(worker: &Worker, connection: &mut AsyncPgConnection) -> anyhow::Result<i64> {
    let mut materialized_us = i64::MAX;
    for timeframe in LARGER {
        let watermark = rollups::watermark(connection, worker.server.edition, timeframe).await;
        materialized_us = materialized_us.min(watermark.explained("reading a watermark")?.unwrap_or(0));
    }
    Ok(materialized_us)
}

/// Returns `true` if the policy of the Apache edition is due at `now`.
fn is_due(worker: &Worker, schedule: &Schedule, kind: JobKind, table: &str, now: Instant) -> bool {
    let every = plan::interval(&worker.config.admin, worker.server.edition, kind, table);
    schedule.is_due(kind, table, every, now)
}

async fn refresh_recent(worker: &Worker, schedule: &mut Schedule, now_us: i64) -> anyhow::Result<()> {
    let (now, largest) = (Instant::now(), Timeframe::D1.table());
    if !is_due(worker, schedule, JobKind::Refresh, largest, now) {
        return Ok(());
    }
    let mut connection = worker.pool.get().await?;
    let recent = TimeRange {
        from_us: now_us - duration_us(worker.config.admin.refresh_window),
        to_us: now_us + duration_us(worker.config.stream.max_future),
    };
    let refreshed = refresh::buckets(&mut connection, worker.server.edition, &[recent], |_, _| Ok(())).await;
    POLICY_RUNS.increment("refresh", 1);
    match &refreshed {
        Ok(()) => schedule.record(JobKind::Refresh, largest, now),
        Err(_) => POLICY_FAILURES.increment("refresh", 1),
    }
    refreshed
}

async fn drop_old_chunks(worker: &Worker, schedule: &mut Schedule) -> anyhow::Result<()> {
    let now = Instant::now();
    let mut connection = worker.pool.get().await?;
    for table in RETAINABLE {
        let Some(kept) = retention(&worker.config.admin, table) else {
            continue;
        };
        if !is_due(worker, schedule, JobKind::Retain, table, now) {
            continue;
        }
        if has_uncounted_ticks(worker, &mut connection, table, kept).await? {
            continue;
        }
        POLICY_RUNS.increment("retain", 1);
        let noted = completeness::advance_to_retention(&mut connection, worker.server.edition, table, kept).await;
        noted.explained(&format!("recording the end of dropped chunks of {table}"))?;
        let dropped = policies::drop_chunks(&mut connection, table, kept).await;
        let dropped = dropped.explained(&format!("dropping old chunks of {table}"))?;
        schedule.record(JobKind::Retain, table, now);
        if dropped > 0 {
            tracing::info!(table, dropped, "dropped old chunks");
        }
    }
    Ok(())
}

/// Returns `true` if `table` is `ticks` and its old chunks contain late ticks that larger candles don't count yet.
async fn has_uncounted_ticks(
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
        tracing::info!(
            table,
            "keeping old chunks until larger candles count the late ticks in them"
        );
    }
    Ok(waiting)
}

/// Runs every job that is due. A failed job is logged and runs again at the next look.
async fn run_jobs(worker: &Worker, schedule: &mut Schedule) -> anyhow::Result<()> {
    let now = Instant::now();
    let mut connection = worker.pool.get().await?;
    for job in policies::jobs(&mut connection, worker.server.edition)
        .await
        .explained("reading the policies")?
    {
        if worker.token.is_cancelled() {
            break;
        }
        if !schedule.is_due(job.kind, &job.table, job.every, now) {
            continue;
        }
        let kind = job.kind.label();
        if let (JobKind::Retain, Some(kept)) = (job.kind, job.age)
            && has_uncounted_ticks(worker, &mut connection, &job.table, kept).await?
        {
            continue;
        }
        POLICY_RUNS.increment(kind, 1);
        match policies::run_job(&mut connection, &job).await {
            Ok(()) => schedule.record(job.kind, &job.table, now),
            Err(error) => {
                POLICY_FAILURES.increment(kind, 1);
                tracing::warn!(
                    table = job.table,
                    "the {kind} policy failed and is repeated at the next look: {}",
                    describe(&error)
                );
            }
        }
    }
    Ok(())
}
