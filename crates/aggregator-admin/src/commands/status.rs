//! `status`: what an operator wants to know, on one screen or as JSON. What can't be asked is said, and the rest is shown.

use std::collections::BTreeMap;

use anyhow::{Context, bail};
use serde::Serialize;
use storage_core::domain::database_identity::DatabaseIdentity;
use storage_core::domain::time::{ms_to_us, rfc3339};
use storage_core::domain::timeframe::Timeframe;
use storage_core::postgres::edition::{Edition, Server};
use storage_core::postgres::error::Explained;
use storage_core::postgres::pool::Pool;
use storage_core::postgres::queries::policies::JobKind;
use storage_core::postgres::queries::{dead_letters, identity, policies, rollups, storage};
use storage_core::postgres::{known_versions, migrations};
use storage_core::redis::connection::Connection;
use storage_core::redis::functions;
use storage_core::redis::stream::{HOT_WRITER, Stream, WARM_SYNCER};
use storage_core::redis::{backups, clock, database, lease, lost, partitions, position, preflight, stream};
use storage_core::terminal::{say, size, span, table, thousands};

use crate::config::Config;
use crate::rollups::ranges::LARGER;
use crate::stores::Stores;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Prints JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Default, Serialize)]
struct Status {
    history: Option<History>,
    hot: Option<Hot>,
    /// Settings of Redis that may lose data.
    warnings: Vec<String>,
    /// What could not be asked, and why; settings of Redis that lose data.
    problems: Vec<String>,
}

#[derive(Debug, Serialize)]
struct History {
    postgres_version: String,
    timescaledb_version: String,
    edition: &'static str,
    scheduler: &'static str,
    database: String,
    /// Known faults of these versions, and settings of the server that put the history at risk.
    warnings: Vec<String>,
    schema_pending: Vec<String>,
    tables: Vec<Table>,
    compression: Compression,
    rollups: Vec<Rollup>,
    jobs: Vec<Job>,
    dead_letters: BTreeMap<String, i64>,
}

#[derive(Debug, Serialize)]
struct Table {
    table: String,
    rows: i64,
    oldest: Option<String>,
    newest: Option<String>,
    size_bytes: Option<i64>,
    chunks: Option<i64>,
    compressed_chunks: Option<i64>,
}

#[derive(Debug, Serialize)]
struct Compression {
    available: bool,
    reason: Option<&'static str>,
    tables: Vec<Compressed>,
}

#[derive(Debug, Serialize)]
struct Compressed {
    table: String,
    chunks: i64,
    compressed_chunks: i64,
    before_bytes: i64,
    after_bytes: i64,
}

#[derive(Debug, Serialize)]
struct Rollup {
    timeframe: &'static str,
    made_until: Option<String>,
    lag_seconds: Option<i64>,
}

#[derive(Debug, Serialize)]
struct Job {
    id: i32,
    kind: &'static str,
    table: String,
    every_seconds: u64,
    config: serde_json::Value,
}

#[derive(Debug, Serialize)]
struct Hot {
    functions: String,
    partitions: Option<u16>,
    /// The database that Redis belongs to.
    database: Option<String>,
    streams: Vec<StreamStatus>,
    hot_writers: Vec<Member>,
    leases: Leases,
    warm_syncers: Vec<Member>,
    warm_syncer_leases: Leases,
    lost: Vec<Lost>,
    backups: Vec<Backup>,
}

/// Who holds which partition.
type Leases = BTreeMap<u16, Option<String>>;

#[derive(Debug, Serialize)]
struct StreamStatus {
    stream: String,
    entries: u64,
    groups: Vec<Group>,
}

#[derive(Debug, Serialize)]
struct Group {
    group: String,
    lag: Option<u64>,
    pending: u64,
}

/// Entries that were removed before a group had read or finished them.
#[derive(Debug, Serialize)]
struct Lost {
    stream: String,
    group: String,
    entries: u64,
    last: String,
}

#[derive(Debug, Serialize)]
struct Member {
    instance: String,
    seen_seconds_ago: u64,
}

#[derive(Debug, Serialize)]
struct Backup {
    kind: String,
    name: String,
    started: String,
    age_seconds: i64,
    took_seconds: f64,
    size_bytes: u64,
}

pub(crate) async fn run(config: &Config, args: &Args) -> anyhow::Result<()> {
    let mut stores = Stores::new(config);
    let mut status = Status::default();
    match history(&stores.pool).await {
        Ok(history) => status.history = Some(history),
        Err(error) => status.problems.push(format!("{error:#}")),
    }
    match hot(&mut stores.redis).await {
        Ok(hot) => status.hot = Some(hot),
        Err(error) => status
            .problems
            .push(format!("Redis at {}: {error:#}", config.redis.url)),
    }
    if let (Some(history), Some(hot)) = (&status.history, &status.hot) {
        let [noted, found] =
            [hot.database.clone(), Some(history.database.clone())].map(|name| name.map(DatabaseIdentity::new));
        let other = found.map(|found| database::check(noted.as_ref(), &found));
        status
            .problems
            .extend(other.and_then(Result::err).map(|error| error.to_string()));
    }
    // That Redis can't be asked stands there already.
    if status.hot.is_some() {
        match preflight::inspect(&config.redis).await {
            Ok(found) => {
                status.warnings.extend(found.warnings);
                status.problems.extend(found.faults);
            }
            Err(error) => status.problems.push(format!("checking the settings of Redis: {error}")),
        }
    }
    if args.json {
        say(serde_json::to_string_pretty(&status)?)?;
    } else {
        show(&status)?;
    }
    if status.problems.is_empty() {
        Ok(())
    } else {
        bail!("{}", status.problems.join("; "))
    }
}

async fn history(pool: &Pool) -> anyhow::Result<History> {
    let mut connection = pool.get().await?;
    let connection = &mut *connection;
    let Some(server) = Server::detect(connection)
        .await
        .explained("asking PostgreSQL what it is")?
    else {
        bail!("the database has no schema; run `aggregator-admin migrate`");
    };
    let schema = migrations::status(connection, server.edition).await?;
    if schema.applied.is_empty() || !schema.pending.is_empty() {
        let behind = schema.pending.len();
        bail!("the schema is {behind} migrations behind; run `aggregator-admin migrate`");
    }
    let chunks = storage::chunks(connection).await.explained("measuring the tables")?;
    let chunks_of = |name: &str| chunks.iter().find(|chunks| chunks.table_name == name);
    let spans = storage::spans(connection).await.explained("counting rows")?;
    let newest_us = spans
        .iter()
        .find(|span| span.table_name == Timeframe::M1.table())
        .and_then(|span| span.newest);
    let table = |span: storage::Span| Table {
        rows: span.rows,
        oldest: span.oldest.map(|time| rfc3339(time.timestamp_micros())),
        newest: span.newest.map(|time| rfc3339(time.timestamp_micros())),
        size_bytes: chunks_of(&span.table_name).map(|chunks| chunks.size_bytes),
        chunks: chunks_of(&span.table_name).map(|chunks| chunks.chunks),
        compressed_chunks: chunks_of(&span.table_name).map(|chunks| chunks.compressed),
        table: span.table_name,
    };
    let mut made = Vec::new();
    for timeframe in LARGER {
        let made_us = rollups::watermark(connection, server.edition, timeframe)
            .await
            .explained("reading a watermark")?;
        let lag = |made_us: i64| newest_us.map(|newest| (newest.timestamp() + 60 - made_us / 1_000_000).max(0));
        made.push(Rollup {
            timeframe: timeframe.label(),
            made_until: made_us.map(rfc3339),
            lag_seconds: made_us.and_then(lag),
        });
    }
    let jobs = policies::jobs(connection, server.edition)
        .await
        .explained("reading the policies")?;
    let waiting = dead_letters::waiting(connection)
        .await
        .explained("counting dead letters")?;
    let risks = identity::risks(connection)
        .await
        .explained("reading the server's settings")?;
    Ok(History {
        database: identity::identity(connection)
            .await
            .explained("asking which database this is")?
            .to_string(),
        warnings: [known_versions::faults(&server), risks].concat(),
        compression: compression(
            storage::compression(connection, server.edition)
                .await
                .explained("measuring compression")?,
        ),
        edition: match server.edition {
            Edition::Community => "community",
            Edition::Apache => "apache",
        },
        scheduler: match (server.edition, server.has_scheduler) {
            (Edition::Community, true) => "timescaledb",
            _ => "aggregator-admin run",
        },
        postgres_version: server.postgres_version,
        timescaledb_version: server.timescale_version,
        schema_pending: schema.pending,
        tables: spans.into_iter().map(table).collect(),
        rollups: made,
        jobs: jobs.into_iter().map(job).collect(),
        dead_letters: waiting
            .into_iter()
            .map(|waiting| (waiting.stream, waiting.letters))
            .collect(),
    })
}

fn compression(found: Option<Vec<storage::Compression>>) -> Compression {
    let available = found.is_some();
    let compressed = |table: storage::Compression| Compressed {
        table: table.table_name,
        chunks: table.chunks,
        compressed_chunks: table.compressed_chunks,
        before_bytes: table.before_bytes,
        after_bytes: table.after_bytes,
    };
    Compression {
        available,
        reason: (!available).then_some("TimescaleDB's Apache edition has no compression; the Community edition has"),
        tables: found.unwrap_or_default().into_iter().map(compressed).collect(),
    }
}

fn job(job: policies::Job) -> Job {
    Job {
        id: job.id,
        kind: match job.kind {
            JobKind::Refresh => "refresh",
            JobKind::Compress => "compress",
            JobKind::Retain => "retain",
        },
        table: job.table,
        every_seconds: job.every.as_secs(),
        config: job.config,
    }
}

async fn hot(redis: &mut Connection) -> anyhow::Result<Hot> {
    let now_ms = clock::now_ms(redis).await.context("asking for the time")?;
    let partitions = partitions::stored(redis)
        .await
        .context("reading the number of partitions")?;
    let mut streams = Vec::new();
    for stream in Stream::all(partitions.unwrap_or(0)) {
        let groups = position::positions(redis, stream)
            .await
            .context("reading the groups' positions")?;
        let group = |position: position::Position| Group {
            group: position.group,
            lag: position.lag,
            pending: position.pending,
        };
        streams.push(StreamStatus {
            stream: stream.to_string(),
            entries: stream::length(redis, stream)
                .await
                .context("reading a stream's length")?,
            groups: groups.into_iter().map(group).collect(),
        });
    }
    let (hot_writers, leases) = copies(redis, HOT_WRITER, partitions, now_ms).await?;
    let (warm_syncers, warm_syncer_leases) = copies(redis, WARM_SYNCER, partitions, now_ms).await?;
    let last = backups::last(redis).await.context("reading the last backups")?;
    let now_us = ms_to_us(now_ms);
    #[allow(clippy::cast_precision_loss)] // for a person
    let backup = |backup: storage_core::redis::codec::backups::BackupAnnouncement| Backup {
        kind: backup.kind,
        name: backup.name,
        started: rfc3339(backup.started_us),
        age_seconds: (now_us - backup.started_us) / 1_000_000,
        took_seconds: backup.took_ms as f64 / 1e3,
        size_bytes: backup.size_bytes,
    };
    let lost = |record: lost::Record| Lost {
        stream: record.stream,
        group: record.group,
        entries: record.entries,
        last: rfc3339(ms_to_us(record.last_ms)),
    };
    let records = lost::records(redis)
        .await
        .context("reading the record of lost entries")?;
    Ok(Hot {
        database: database::stored(redis)
            .await
            .context("asking which database Redis belongs to")?
            .map(|database| database.to_string()),
        lost: records.into_iter().map(lost).collect(),
        functions: match functions::check(redis).await {
            Ok(()) => format!("version {}", functions::VERSION),
            Err(error) => error.to_string(),
        },
        partitions,
        streams,
        hot_writers,
        leases,
        warm_syncers,
        warm_syncer_leases,
        backups: last.into_iter().map(backup).collect(),
    })
}

/// The copies of a worker that live, and which partitions they hold.
async fn copies(
    redis: &mut Connection,
    worker: &str,
    partitions: Option<u16>,
    now_ms: u64,
) -> anyhow::Result<(Vec<Member>, Leases)> {
    let members = lease::members(redis, worker)
        .await
        .with_context(|| format!("looking for {worker}s"))?;
    let holders = lease::holders(redis, worker, partitions.unwrap_or(0))
        .await
        .context("reading leases")?;
    let member = |(instance, seen_ms): (String, u64)| Member {
        instance,
        seen_seconds_ago: now_ms.saturating_sub(seen_ms) / 1_000,
    };
    let members = members.into_iter().map(member).collect();
    Ok((members, (0..).zip(holders).collect()))
}

fn show(status: &Status) -> anyhow::Result<()> {
    if let Some(history) = &status.history {
        show_history(history)?;
    }
    if let Some(hot) = &status.hot {
        show_hot(hot)?;
    }
    let warnings = &status.warnings;
    warnings
        .iter()
        .try_for_each(|warning| say(format_args!("warning: {warning}")))
}

fn show_history(history: &History) -> anyhow::Result<()> {
    say(format_args!(
        "PostgreSQL {}, TimescaleDB {} ({}), policies run by {}, schema up to date",
        history.postgres_version, history.timescaledb_version, history.edition, history.scheduler
    ))?;
    say(format_args!("database {}", history.database))?;
    for warning in &history.warnings {
        say(format_args!("warning: {warning}"))?;
    }
    say("")?;
    let mut tables = table(&["table", ">rows", "oldest", "newest", ">chunks", ">compressed", ">size"]);
    for row in &history.tables {
        let number = |number: Option<i64>| number.map(thousands).unwrap_or_default();
        tables.add_row([
            row.table.clone(),
            thousands(row.rows),
            row.oldest.clone().unwrap_or_default(),
            row.newest.clone().unwrap_or_default(),
            number(row.chunks),
            number(row.compressed_chunks),
            row.size_bytes.map(size).unwrap_or_default(),
        ]);
    }
    say(tables)?;
    say("")?;
    show_compression(&history.compression)?;
    let rollups = history
        .rollups
        .iter()
        .map(|rollup| match (&rollup.made_until, rollup.lag_seconds) {
            (Some(until), Some(0)) => format!("{} until {until}", rollup.timeframe),
            (Some(until), Some(lag)) => format!("{} until {until} ({} behind)", rollup.timeframe, span(lag)),
            (Some(until), None) => format!("{} until {until}", rollup.timeframe),
            (None, _) => format!("{} not yet", rollup.timeframe),
        });
    say(format_args!(
        "rollups made   {}",
        rollups.collect::<Vec<_>>().join("\n               ")
    ))?;
    let letters: i64 = history.dead_letters.values().sum();
    let streams = history
        .dead_letters
        .iter()
        .map(|(stream, letters)| format!("{stream} {letters}"));
    let streams = streams.collect::<Vec<_>>().join(", ");
    match letters {
        0 => say("dead letters   none"),
        letters => say(format_args!(
            "dead letters   {letters}: {streams}; see `aggregator-admin dead-letters list`"
        )),
    }?;
    if !history.jobs.is_empty() {
        let jobs = history.jobs.iter().map(|job| {
            format!(
                "{} {} every {}",
                job.kind,
                job.table,
                span(job.every_seconds.try_into().unwrap_or(0))
            )
        });
        say(format_args!(
            "policies       {}",
            jobs.collect::<Vec<_>>().join("\n               ")
        ))?;
    }
    say("")
}

fn show_compression(compression: &Compression) -> anyhow::Result<()> {
    if let Some(reason) = compression.reason {
        return say(format_args!("compression    unavailable: {reason}"));
    }
    let tables = compression.tables.iter().map(|table| match table.compressed_chunks {
        0 => format!("{}: none of {} chunks", table.table, table.chunks),
        compressed => format!(
            "{}: {compressed} of {} chunks, {} became {}",
            table.table,
            table.chunks,
            size(table.before_bytes),
            size(table.after_bytes)
        ),
    });
    say(format_args!(
        "compression    {}",
        tables.collect::<Vec<_>>().join("\n               ")
    ))
}

fn show_copies(name: &str, members: &[Member], leases: &Leases) -> anyhow::Result<()> {
    let members = members
        .iter()
        .map(|member| format!("{} (seen {} s ago)", member.instance, member.seen_seconds_ago));
    let members = members.collect::<Vec<_>>().join(", ");
    say(format_args!(
        "{name:<14} {}",
        if members.is_empty() { "none" } else { &members }
    ))?;
    let leases = leases
        .iter()
        .map(|(partition, holder)| format!("{partition}: {}", holder.as_deref().unwrap_or("nobody")));
    say(format_args!("  partitions   {}", leases.collect::<Vec<_>>().join(", ")))
}

fn show_hot(hot: &Hot) -> anyhow::Result<()> {
    let partitions = hot
        .partitions
        .map_or("no partitions; run `aggregator-admin migrate`".to_owned(), |count| {
            format!("{count} partitions")
        });
    say(format_args!("Redis functions {}, {partitions}", hot.functions))?;
    say("")?;
    let mut streams = table(&["stream", ">entries", "group", ">lag", ">pending"]);
    for stream in &hot.streams {
        for (at, group) in stream.groups.iter().enumerate() {
            let (name, entries) = if at == 0 {
                (stream.stream.clone(), thousands(stream.entries))
            } else {
                Default::default()
            };
            let lag = group.lag.map_or("?".to_owned(), thousands);
            streams.add_row([name, entries, group.group.clone(), lag, thousands(group.pending)]);
        }
    }
    say(streams)?;
    say("")?;
    show_copies("hot-writers", &hot.hot_writers, &hot.leases)?;
    show_copies("warm-syncers", &hot.warm_syncers, &hot.warm_syncer_leases)?;
    let lost = hot.lost.iter().map(|lost| {
        format!(
            "{} of {} not read by {}, last at {}",
            thousands(lost.entries),
            lost.stream,
            lost.group,
            lost.last
        )
    });
    match lost.collect::<Vec<_>>().join("\n               ").as_str() {
        "" => say("lost entries   none"),
        lost => say(format_args!("lost entries   {lost}")),
    }?;
    if hot.backups.is_empty() {
        return say("last backup    none");
    }
    let backups = hot.backups.iter().map(|backup| {
        let size = size(i64::try_from(backup.size_bytes).unwrap_or(i64::MAX));
        format!(
            "{} {}, {} ago, {size} in {:.1} s",
            backup.kind,
            backup.name,
            span(backup.age_seconds),
            backup.took_seconds
        )
    });
    say(format_args!(
        "last backup    {}",
        backups.collect::<Vec<_>>().join("\n               ")
    ))
}
