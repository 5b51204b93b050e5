//! The larger timeframes: bringing a range of them up to date, and how far each has been made.
//!
//! What to refresh is the caller's business and the same on both editions; how, and what may be computed from its source at all, is
//! decided here.

pub(super) mod exclusive;
mod join;

use chrono::{DateTime, Utc};
use diesel::sql_types::{BigInt, Bool, Nullable, Text, Timestamptz};
use diesel::{OptionalExtension, QueryResult, QueryableByName, sql_query};
use diesel_async::{AsyncConnection, AsyncPgConnection, RunQueryDsl, SimpleAsyncConnection};

use super::completeness;
use super::verify::chunk_ranges;
use crate::domain::time::{TimeRange, rfc3339, to_datetime};
use crate::domain::timeframe::Timeframe;
use crate::postgres::edition::Edition;

/// The whole of history: from 1970 to the year 10000.
pub const ALWAYS: TimeRange = TimeRange {
    from_us: 0,
    to_us: 253_402_300_800_000_000,
};

/// The timeframe that `timeframe`'s candles are made from; `None` for the smallest, which is made from ticks.
pub fn source(timeframe: Timeframe) -> Option<Timeframe> {
    Timeframe::ALL
        .windows(2)
        .find(|pair| pair[1] == timeframe)
        .map(|pair| pair[0])
}

#[derive(QueryableByName)]
struct Stored {
    #[diesel(sql_type = Text)]
    name: String,
}

/// The hypertable that holds the rows of `timeframe`, as SQL: on Community that of the continuous aggregate.
///
/// # Errors
/// The database's.
pub(super) async fn stored(
    connection: &mut AsyncPgConnection,
    edition: Edition,
    timeframe: Timeframe,
) -> QueryResult<String> {
    if edition == Edition::Apache || source(timeframe).is_none() {
        return Ok(timeframe.table().to_owned());
    }
    let stored: Stored = sql_query(
        "SELECT format('%I.%I', materialization_hypertable_schema, materialization_hypertable_name) AS name
         FROM timescaledb_information.continuous_aggregates WHERE view_schema = current_schema() AND view_name = $1",
    )
    .bind::<Text, _>(timeframe.table())
    .get_result(connection)
    .await?;
    Ok(stored.name)
}

/// What a refresh is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Brings buckets up to date with changes of their source.
    Update,
    /// Computes every bucket again, also those whose source did not change: what was wrong in them is gone.
    Mend,
}

/// Recomputes at most this many µs of buckets in one transaction, which bounds the server's memory.
const PORTION_US: i64 = 30 * Timeframe::D1.micros();

/// Brings the buckets of `timeframe` that `ranges` touch up to date with the smaller timeframe, which must be so
/// already. Not for use inside a transaction.
///
/// Buckets from before the source is complete (see [`completeness`]) are not computed from it: late ticks are joined into them.
///
/// # Errors
/// The database's.
pub async fn refresh(
    connection: &mut AsyncPgConnection,
    edition: Edition,
    timeframe: Timeframe,
    ranges: &[TimeRange],
    purpose: Purpose,
) -> QueryResult<()> {
    let Some(source) = source(timeframe) else { return Ok(()) };
    let border_us = completeness::first_bucket(connection, source.table(), timeframe).await?;
    let (below, target) = (
        stored(connection, edition, source).await?,
        stored(connection, edition, timeframe).await?,
    );
    let mut chunks = chunk_ranges(connection, &below).await?;
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
    // TimescaleDB knows which buckets changed, so what lies between two ranges costs less than another call.
    let gap_us = match (edition, purpose) {
        (Edition::Community, Purpose::Update) => PORTION_US,
        _ => 0,
    };
    let parts = TimeRange::merge(parts, gap_us);
    let portions = parts.into_iter().flat_map(|part| part.pieces(PORTION_US));
    match edition {
        Edition::Community => {
            let calls: Vec<String> = portions
                .filter_map(|portion| refresh_call(timeframe, portion, purpose))
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

/// The call that refreshes a continuous aggregate; `None` where nothing of it may be materialized yet.
fn refresh_call(timeframe: Timeframe, range: TimeRange, purpose: Purpose) -> Option<String> {
    // A bucket stays unmade until it has been over for its own length, as in the policies (`end_offset`): once made, it is read
    // as it was then, and not from the smaller timeframe, until its policy comes to it again, which for a day is tomorrow. And
    // candles of its last minutes may still be on their way when it ends.
    let settled_us = timeframe.bucket_start_us(Utc::now().timestamp_micros() - timeframe.micros());
    let to_us = range.to_us.min(settled_us);
    // A call can't have parameters outside a function. Without `force` TimescaleDB leaves buckets alone whose source did not change.
    let force = match purpose {
        Purpose::Update => "",
        Purpose::Mend => ", force => true",
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
    let make = format!(
        "INSERT INTO {target} AS old (time, symbol, open, high, low, close, volume, trades, revision)
         SELECT time_bucket(INTERVAL '{seconds} seconds', time), symbol, first(open, time), max(high), min(low), last(close, time),
                sum(volume), sum(trades)::bigint, max(revision)
         FROM {source} WHERE time >= $1 AND time < $2
         GROUP BY 1, 2 ORDER BY 2, 1"
    );
    let replace = format!(
        "{make}
         ON CONFLICT (symbol, time) DO UPDATE SET
             open = excluded.open, high = excluded.high, low = excluded.low, close = excluded.close,
             volume = excluded.volume, trades = excluded.trades, revision = excluded.revision
         WHERE (old.open, old.high, old.low, old.close, old.volume, old.trades, old.revision)
             IS DISTINCT FROM (excluded.open, excluded.high, excluded.low, excluded.close, excluded.volume, excluded.trades, excluded.revision)"
    );
    // By equality of the bucket, so that the server can hash; a look for each row into its bucket took most of a refresh.
    let delete = format!(
        "DELETE FROM {target} gone WHERE time >= $1 AND time < $2 AND NOT EXISTS (
             SELECT FROM {source} part
             WHERE part.symbol = gone.symbol AND time_bucket(INTERVAL '{seconds} seconds', part.time) = gone.time
               AND part.time >= $1 AND part.time < $2)"
    );
    let note = format!(
        "INSERT INTO rollup_progress AS old (timeframe, refreshed_until)
         SELECT '{timeframe}', newest.until FROM (
             SELECT max(time) + INTERVAL '{seconds} seconds' AS until FROM {target} WHERE time >= $1 AND time < $2) newest
         WHERE newest.until IS NOT NULL
         ON CONFLICT (timeframe) DO UPDATE SET refreshed_until = greatest(old.refreshed_until, excluded.refreshed_until)"
    );
    connection
        .transaction(async |connection| {
            connection.batch_execute("SET LOCAL statement_timeout = 0").await?;
            // Two processes that refresh overlapping ranges would otherwise read before the other wrote.
            sql_query("SELECT pg_advisory_xact_lock(hashtext($1))")
                .bind::<Text, _>(target)
                .execute(connection)
                .await?;
            let statements = match holds_any(connection, target, range).await? {
                true => vec![replace, delete, note],
                false => vec![make, note],
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

#[derive(QueryableByName)]
struct Any {
    #[diesel(sql_type = Bool)]
    any: bool,
}

async fn holds_any(connection: &mut AsyncPgConnection, table: &str, range: TimeRange) -> QueryResult<bool> {
    let found: Any = sql_query(format!(
        "SELECT EXISTS (SELECT FROM {table} WHERE time >= $1 AND time < $2) AS any"
    ))
    .bind::<Timestamptz, _>(to_datetime(range.from_us))
    .bind::<Timestamptz, _>(to_datetime(range.to_us))
    .get_result(connection)
    .await?;
    Ok(found.any)
}

#[derive(QueryableByName)]
struct Mark {
    #[diesel(sql_type = Nullable<BigInt>)]
    internal_us: Option<i64>,
}

#[derive(QueryableByName)]
struct Until {
    #[diesel(sql_type = Timestamptz)]
    refreshed_until: DateTime<Utc>,
}

/// The end, in µs since 1970, of the newest bucket that was made; `None` where none was. On Community, what is newer is
/// computed when it is read, and what is older is as it was when it was refreshed last.
///
/// # Errors
/// The database's.
pub async fn watermark(
    connection: &mut AsyncPgConnection,
    edition: Edition,
    timeframe: Timeframe,
) -> QueryResult<Option<i64>> {
    match edition {
        Edition::Community => {
            let mark: Option<Mark> = sql_query(
                "SELECT _timescaledb_functions.cagg_watermark(mat_hypertable_id) AS internal_us
                 FROM _timescaledb_catalog.continuous_agg WHERE user_view_name = $1",
            )
            .bind::<Text, _>(timeframe.table())
            .get_result(connection)
            .await
            .optional()?;
            // TimescaleDB says "never" with the smallest number that it has.
            Ok(mark.and_then(|mark| mark.internal_us).filter(|us| *us > 0))
        }
        Edition::Apache => {
            let until: Option<Until> = sql_query("SELECT refreshed_until FROM rollup_progress WHERE timeframe = $1")
                .bind::<Text, _>(timeframe.label())
                .get_result(connection)
                .await
                .optional()?;
            Ok(until.map(|until| until.refreshed_until.timestamp_micros()))
        }
    }
}
