//! Tells for each minute of a symbol whether it was traded, quiet, missing or not expected, and from which evidence.

pub(crate) mod classify;

use anyhow::Context;
use diesel_async::AsyncPgConnection;
use storage_core::domain::partition::partition_of;
use storage_core::domain::stream_id::{Revision, StreamId};
use storage_core::domain::symbol::Symbol;
use storage_core::domain::time::TimeRange;
use storage_core::domain::timeframe::Timeframe;
use storage_core::postgres::error::Explained;
use storage_core::postgres::queries::{completeness, coverage, positions};
use storage_core::redis::connection::Connection;
use storage_core::redis::position::position_of;
use storage_core::redis::stream::{Stream, WARM_SYNCER};

use self::classify::{Evidence, Span, classify};

/// Time around the range in which neighbouring trades are looked for.
const NEIGHBOURS_US: i64 = Timeframe::D1.micros();
/// Time after the end of a minute in which its candle may still be written.
const MARGIN_US: i64 = 5 * Timeframe::M1.micros();

/// Entries that Redis counts as written and the database lacks, as a range of the time at which Redis accepted them.
pub(crate) async fn behind(
    connection: &mut AsyncPgConnection,
    redis: &mut Connection,
    partition: u16,
) -> anyhow::Result<Option<TimeRange>> {
    let stream = Stream::Ticks(partition);
    let written = positions::of(connection, stream)
        .await
        .explained("reading the last written entry")?
        .map_or(StreamId::START, Revision::stream_id);
    let position = position_of(redis, stream, WARM_SYNCER)
        .await
        .context("reading the position of warm-syncer")?;
    let behind = position.filter(|position| position.delivered > written && written > StreamId::START);
    Ok(behind.map(|position| TimeRange {
        from_us: written.accepted_us(),
        to_us: position.delivered.accepted_us(),
    }))
}

/// Returns the spans of `symbol` in `range`, which is cut at the present.
pub(crate) async fn spans(
    connection: &mut AsyncPgConnection,
    symbol: &Symbol,
    range: TimeRange,
    behind: Option<TimeRange>,
    now_us: i64,
) -> anyhow::Result<Vec<Span>> {
    let range = TimeRange {
        from_us: Timeframe::M1.bucket_start_us(range.from_us),
        to_us: Timeframe::M1.bucket_start_us(range.to_us.min(now_us - MARGIN_US)),
    };
    if range.from_us >= range.to_us {
        return Ok(Vec::new());
    }
    let around = TimeRange {
        from_us: range.from_us.saturating_sub(NEIGHBOURS_US),
        to_us: range.to_us.saturating_add(NEIGHBOURS_US),
    };
    let whole = range.widened_to(Timeframe::M5);
    let doing = "reading the evidence of gaps";
    let evidence = Evidence {
        traded: coverage::traded_minutes(connection, symbol, range)
            .await
            .explained(doing)?,
        ids: coverage::id_steps(connection, symbol, around).await.explained(doing)?,
        incomplete: coverage::buckets_without_minutes(connection, symbol, whole)
            .await
            .explained(doing)?,
        coverage: coverage::of_symbol(connection, symbol, range.to_us)
            .await
            .explained(doing)?,
        behind,
        kept_us: completeness::first_bucket(connection, Timeframe::M1.table(), Timeframe::M1)
            .await
            .explained(doing)?,
    };
    Ok(classify(symbol, range, &evidence))
}

/// Returns the range of [`behind`] for the partition of `symbol`.
pub(crate) async fn behind_of(
    connection: &mut AsyncPgConnection,
    redis: &mut Connection,
    symbol: &Symbol,
) -> anyhow::Result<Option<TimeRange>> {
    let partitions = crate::stores::partitions(redis).await?;
    behind(connection, redis, partition_of(symbol, partitions)).await
}
