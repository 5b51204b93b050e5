//! Refresh of the larger timeframes, and their watermarks.
//!
//! The caller decides what to refresh, which is the same on both editions. This module decides how, and which buckets
//! may be computed from their source.

pub(super) mod exclusive;
mod join;

use chrono::Utc;
use diesel::sql_types::{Text, Timestamptz};
use diesel::{OptionalExtension, QueryResult, sql_query};
use diesel_async::{AsyncConnection, AsyncPgConnection, RunQueryDsl, SimpleAsyncConnection};

use super::completeness;
use super::hypertables::{chunk_ranges, hypertable_of};
use crate::domain::time::{TimeRange, rfc3339, to_datetime};
use crate::domain::timeframe::Timeframe;
use crate::postgres::columns::{BoolValue, IntegerValue, TimeValue};
use crate::postgres::edition::Edition;

/// The whole history, from 1970 to the year 10000.
pub const ALWAYS: TimeRange = TimeRange {
    from_us: 0,
    to_us: 253_402_300_800_000_000,
};

/// Buckets that a refresh computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Buckets whose source has changed.
    Changed,
    /// Every bucket, which also corrects wrong candles whose source has not changed.
    All,
}

/// Longest range in µs that one transaction computes, which bounds the memory of the server.
const PORTION_US: i64 = 30 * Timeframe::D1.micros();

/// Refreshes the buckets of `timeframe` that `ranges` touch from the next smaller timeframe, which must be up to date.
/// It can't run inside a transaction.
///
/// Buckets before the border from which the source is complete (see [`completeness`]) are not computed from it; late
/// ticks are joined into them.
pub async fn refresh(
    connection: &mut AsyncPgConnection,
    edition: Edition,
    timeframe: Timeframe,
    ranges: &[TimeRange],
    scope: Scope,
) -> QueryResult<()> {
    let Some(source) = timeframe.source() else {
        return Ok(());
    };
    let border_us = completeness::first_bucket(connection, source.table(), timeframe).await?;
    let target = hypertable_of(connection, edition, timeframe).await?;
    let source_table = hypertable_of(connection, edition, source).await?;
    let mut chunks = chunk_ranges(connection, &source_table).await?;
    chunks.extend(chunk_ranges(connection, &target).await?);
    let chunks = TimeRange::merge(chunks, 0);
    let mut parts = Vec::new();
    for range in ranges {
        let (incomplete, complete) = range.widened_to(timeframe).split_at(border_us);
        if let Some(incomplete) = incomplete {
            join::join(connection, &target, timeframe, incomplete).await?;
        }
        let complete = complete.into_iter().flat_map(|complete| complete.parts_in(&chunks));
        parts.extend(complete.map(|part| part.widened_to(timeframe)));
    }
    // TimescaleDB knows which buckets have changed, so the gap between two ranges costs less than another call.
    let gap_us = match (edition, scope) {
        (Edition::Community, Scope::Changed) => PORTION_US,
        _ => 0,
    };
    let parts = TimeRange::merge(parts, gap_us);
    let portions = parts.into_iter().flat_map(|part| part.pieces(PORTION_US));
    match edition {
        Edition::Community => {
            let calls: Vec<String> = portions
                .filter_map(|portion| refresh_call(timeframe, portion, scope))
                .collect();
            exclusive::run(connection, timeframe.table(), &calls).await
        }
        Edition::Apache => {
            for portion in portions {
                refresh_managed(connection, source, timeframe, portion).await?;
            }
            Ok(())
        }
    }
}

/// Returns the call that refreshes a continuous aggregate; `None` if no bucket of the range may be materialized yet.
fn refresh_call(timeframe: Timeframe, range: TimeRange, scope: Scope) -> Option<String> {
    // A bucket is materialized only when as much time as its length has passed since its end, like `end_offset` in the
    // policies. Once materialized, it is no longer computed from the smaller timeframe when it is read, until its
    // policy refreshes it again, which for a day is the next day. Candles of its last minutes may also arrive after it
    // ends.
    let settled_us = timeframe.bucket_start_us(Utc::now().timestamp_micros() - timeframe.micros());
    let to_us = range.to_us.min(settled_us);
    // CALL takes no parameters outside a function. Without `force`, TimescaleDB skips buckets whose source has not
    // changed.
    let force = match scope {
        Scope::Changed => "",
        Scope::All => ", force => true",
    };
    (range.from_us < to_us).then(|| {
        format!(
            "CALL refresh_continuous_aggregate('{}', '{}', '{}'{force})",
            timeframe.table(),
            rfc3339(range.from_us),
            rfc3339(to_us)
        )
    })
}

async fn refresh_managed(
    connection: &mut AsyncPgConnection,
    source: Timeframe,
    timeframe: Timeframe,
    range: TimeRange,
) -> QueryResult<()> {
    let (source, target, seconds) = (source.table(), timeframe.table(), timeframe.seconds());
    let insert = format!(
        "INSERT INTO {target} AS old (time, symbol, open, high, low, close, volume, trades, revision)
         SELECT time_bucket(INTERVAL '{seconds} seconds', time), symbol,
                first(open, time), max(high), min(low), last(close, time),
                sum(volume), sum(trades)::bigint, max(revision)
         FROM {source} WHERE time >= $1 AND time < $2
         GROUP BY 1, 2 ORDER BY 2, 1"
    );
    let replace = format!(
        "{insert}
         ON CONFLICT (symbol, time) DO UPDATE SET
             open = excluded.open, high = excluded.high, low = excluded.low, close = excluded.close,
             volume = excluded.volume, trades = excluded.trades, revision = excluded.revision
         WHERE (old.open, old.high, old.low, old.close, old.volume, old.trades, old.revision)
             IS DISTINCT FROM (excluded.open, excluded.high, excluded.low, excluded.close,
                               excluded.volume, excluded.trades, excluded.revision)"
    );
    // Compares buckets by equality, so that the server can use a hash join; an index lookup per row took most of a
    // refresh.
    let delete = format!(
        "DELETE FROM {target} gone WHERE time >= $1 AND time < $2 AND NOT EXISTS (
             SELECT FROM {source} part
             WHERE part.symbol = gone.symbol AND time_bucket(INTERVAL '{seconds} seconds', part.time) = gone.time
               AND part.time >= $1 AND part.time < $2)"
    );
    let progress = format!(
        "INSERT INTO rollup_progress AS old (timeframe, refreshed_until)
         SELECT '{timeframe}', newest.until FROM (
             SELECT max(time) + INTERVAL '{seconds} seconds' AS until
             FROM {target} WHERE time >= $1 AND time < $2) newest
         WHERE newest.until IS NOT NULL
         ON CONFLICT (timeframe) DO UPDATE
             SET refreshed_until = greatest(old.refreshed_until, excluded.refreshed_until)"
    );
    connection
        .transaction(async |connection| {
            connection.batch_execute("SET LOCAL statement_timeout = 0").await?;
            exclusive::lock_table(connection, target).await?;
            let statements = match holds_any(connection, target, range).await? {
                true => vec![replace, delete, progress],
                false => vec![insert, progress],
            };
            for statement in statements {
                sql_query(statement)
                    .bind::<Timestamptz, _>(to_datetime(range.from_us))
                    .bind::<Timestamptz, _>(to_datetime(range.to_us))
                    .execute(connection)
                    .await?;
            }
            Ok(())
        })
        .await
}

async fn holds_any(connection: &mut AsyncPgConnection, table: &str, range: TimeRange) -> QueryResult<bool> {
    let found: BoolValue = sql_query(format!(
        "SELECT EXISTS (SELECT FROM {table} WHERE time >= $1 AND time < $2) AS value"
    ))
    .bind::<Timestamptz, _>(to_datetime(range.from_us))
    .bind::<Timestamptz, _>(to_datetime(range.to_us))
    .get_result(connection)
    .await?;
    Ok(found.value)
}

/// Returns the end of the newest materialized bucket in µs since 1970; `None` before the first refresh. On Community,
/// newer buckets are computed when they are read, and older ones show the state of their last refresh.
pub async fn watermark(
    connection: &mut AsyncPgConnection,
    edition: Edition,
    timeframe: Timeframe,
) -> QueryResult<Option<i64>> {
    match edition {
        Edition::Community => {
            let mark_us: Option<IntegerValue> = sql_query(
                "SELECT coalesce(_timescaledb_functions.cagg_watermark(mat_hypertable_id), 0) AS value
                 FROM _timescaledb_catalog.continuous_agg WHERE user_view_name = $1",
            )
            .bind::<Text, _>(timeframe.table())
            .get_result(connection)
            .await
            .optional()?;
            // Before the first refresh the watermark is the smallest number of its type.
            Ok(mark_us.map(|row| row.value).filter(|us| *us > 0))
        }
        Edition::Apache => {
            let until: Option<TimeValue> =
                sql_query("SELECT refreshed_until AS value FROM rollup_progress WHERE timeframe = $1")
                    .bind::<Text, _>(timeframe.label())
                    .get_result(connection)
                    .await
                    .optional()?;
            Ok(until.and_then(TimeValue::us))
        }
    }
}
