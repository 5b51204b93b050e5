//! Reads both stores for the status report.

use anyhow::{Context, bail};
use storage_core::config::redis::RedisConfig;
use storage_core::domain::time::ms_to_us;
use storage_core::domain::timeframe::Timeframe;
use storage_core::postgres::edition::Server;
use storage_core::postgres::error::Explained;
use storage_core::postgres::pool::Pool;
use storage_core::postgres::queries::{dead_letters, identity, policies, rollups, spans, storage, verified};
use storage_core::postgres::{drift, known_versions, migrations};
use storage_core::redis::connection::Connection;
use storage_core::redis::functions;
use storage_core::redis::position::Position;
use storage_core::redis::stream::{HOT_WRITER, WARM_SYNCER};
use storage_core::redis::{backups, clock, database, lease, lost, partitions, position, stream, unread, write_load};

use super::report::{
    Backup, Compression, Group, History, Hot, Job, Leases, Replica, Rollup, Stream, Table, UnreadStream, scheduler,
};
use crate::jobs::failure;
use crate::rollups::ranges::LARGER;

/// Returns what was changed in the schema by hand; nothing before the first migration.
pub(super) async fn drift(pool: &Pool) -> anyhow::Result<Vec<String>> {
    let mut connection = pool.get().await?;
    match migrations::ensure_current(&mut connection).await {
        Ok(_) => drift::find(&mut connection).await.explained("comparing the schema"),
        // Reported as the state of the history.
        Err(_) => Ok(Vec::new()),
    }
}

pub(super) async fn history(pool: &Pool) -> anyhow::Result<History> {
    let mut connection = pool.get().await?;
    let connection = &mut *connection;
    let Some(server) = Server::detect(connection)
        .await
        .explained("detecting the versions of PostgreSQL and TimescaleDB")?
    else {
        bail!("the database has no schema; run `aggregator-admin migrate`");
    };
    let schema = migrations::status(connection, server.edition).await?;
    if schema.applied.is_empty() || !schema.pending.is_empty() {
        let behind = schema.pending.len();
        bail!("the schema is {behind} migrations behind; run `aggregator-admin migrate`");
    }
    let chunks = storage::chunks(connection).await.explained("measuring the tables")?;
    let spans = spans::spans(connection, server.edition, &chunks)
        .await
        .explained("counting rows")?;
    let minutes = spans.iter().find(|span| span.table == Timeframe::M1.table());
    let newest_us = minutes.and_then(|span| span.newest_us);
    let mut larger = Vec::new();
    for timeframe in LARGER {
        let watermark_us = rollups::watermark(connection, server.edition, timeframe)
            .await
            .explained("reading a watermark")?;
        larger.push(Rollup::new(timeframe, watermark_us, newest_us));
    }
    let jobs = policies::jobs(connection, server.edition)
        .await
        .explained("reading the policies")?;
    let runs = policies::runs(connection, server.edition)
        .await
        .explained("reading the runs of the policies")?;
    let waiting = dead_letters::waiting(connection)
        .await
        .explained("counting dead letters")?;
    let risks = identity::risks(connection)
        .await
        .explained("reading the server's settings")?;
    let compression = storage::compression(connection, server.edition)
        .await
        .explained("measuring compression")?;
    let database = identity::identity(connection)
        .await
        .explained("reading the database's identity")?;
    let privileges = drift::missing_privileges(connection)
        .await
        .explained("reading the privileges")?;
    let runs_of = |job: &policies::Job| runs.iter().find(|runs| runs.job_id == job.id);
    let failing = jobs
        .iter()
        .filter_map(|job| Some((job, runs_of(job).filter(|runs| runs.is_failing)?)))
        .map(|(job, runs)| failure(job, runs))
        .collect();
    Ok(History {
        database: database.to_string(),
        warnings: [
            known_versions::faults(&server),
            failing,
            risks,
            Vec::from_iter(privileges),
        ]
        .concat(),
        compression: Compression::new(compression),
        edition: server.edition.to_string(),
        scheduler: scheduler(&server),
        postgres_version: server.postgres_version,
        timescaledb_version: server.timescale_version,
        schema_pending: schema.pending,
        tables: spans.iter().map(|span| Table::new(span, &chunks)).collect(),
        rollups: larger,
        jobs: jobs
            .into_iter()
            .map(|job| (runs_of(&job), job))
            .map(|(runs, job)| Job::new(job, runs))
            .collect(),
        verification: verified::all(connection)
            .await
            .explained("reading the compared days")?
            .into(),
        dead_letters: waiting
            .into_iter()
            .map(|waiting| (waiting.stream, waiting.letters))
            .collect(),
    })
}

pub(super) async fn hot(config: &RedisConfig, redis: &mut Connection) -> anyhow::Result<Hot> {
    let now_ms = clock::now_ms(redis).await.context("reading the clock")?;
    let partitions = partitions::stored(redis)
        .await
        .context("reading the number of partitions")?;
    let mut streams = Vec::new();
    for stream in stream::Stream::all(partitions.unwrap_or(0)) {
        let groups = position::positions(redis, stream)
            .await
            .context("reading the groups' positions")?;
        let group = |position: Position| Group {
            group: position.group,
            lag: position.lag,
            pending: position.pending,
        };
        streams.push(Stream {
            stream: stream.to_string(),
            entries: stream::length(redis, stream)
                .await
                .context("reading a stream's length")?,
            groups: groups.into_iter().map(group).collect(),
        });
    }
    let (hot_writers, leases) = replicas(redis, HOT_WRITER, partitions, now_ms).await?;
    let loads = write_load::loads(redis, now_ms)
        .await
        .context("reading the loads of hot-writer")?;
    let (warm_syncers, warm_syncer_leases) = replicas(redis, WARM_SYNCER, partitions, now_ms).await?;
    let backups = backups::last(redis).await.context("reading the last backups")?;
    let lost = lost::records(redis)
        .await
        .context("reading the record of lost entries")?;
    let database = database::stored(redis)
        .await
        .context("reading the database that Redis belongs to")?;
    let unread = unread::unread(config, partitions.unwrap_or(0))
        .await
        .context("looking for streams that no worker reads")?;
    let now_us = ms_to_us(now_ms);
    Ok(Hot {
        unread: unread
            .into_iter()
            .map(|(key, entries)| UnreadStream { key, entries })
            .collect(),
        database: database.map(|database| database.to_string()),
        lost: lost.into_iter().map(Into::into).collect(),
        functions: match functions::check(redis).await {
            Ok(()) => format!("version {}", functions::VERSION),
            Err(error) => error.to_string(),
        },
        partitions,
        streams,
        hot_writers,
        leases,
        open_candles: loads.into_iter().map(Into::into).collect(),
        warm_syncers,
        warm_syncer_leases,
        backups: backups.into_iter().map(|backup| Backup::new(backup, now_us)).collect(),
    })
}

/// Reads the live replicas of a worker and the owners of the partitions.
async fn replicas(
    redis: &mut Connection,
    worker: &str,
    partitions: Option<u16>,
    now_ms: u64,
) -> anyhow::Result<(Vec<Replica>, Leases)> {
    let members = lease::members(redis, worker)
        .await
        .with_context(|| format!("reading the replicas of {worker}"))?;
    let holders = lease::holders(redis, worker, partitions.unwrap_or(0))
        .await
        .with_context(|| format!("reading the leases of {worker}"))?;
    let replica = |(instance, seen_ms): (String, u64)| Replica {
        instance,
        seen_seconds_ago: now_ms.saturating_sub(seen_ms) / 1_000,
    };
    let replicas = members.into_iter().map(replica).collect();
    Ok((replicas, (0..).zip(holders).collect()))
}
