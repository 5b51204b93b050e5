//! `ticks`: every accepted tick, once.

use std::collections::BTreeMap;

use diesel::sql_types::{Array, BigInt, Double, Nullable, Text, Timestamptz};
use diesel::{OptionalExtension, QueryResult, QueryableByName, sql_query};
use diesel_async::{AsyncPgConnection, RunQueryDsl};

use crate::domain::decimal::Decimal;
use crate::domain::rejection::Rejection;
use crate::domain::stream_id::Revision;
use crate::domain::symbol::Symbol;
use crate::domain::tick::{AcceptedTick, Side, Tick};
use crate::domain::time::{TimeRange, to_datetime};
use crate::domain::timeframe::Timeframe;
use crate::domain::trade_id;
use crate::postgres::columns::{Micros, TextValue, TimeValue};

/// A row of `ticks`.
#[derive(Clone, Debug, PartialEq, QueryableByName)]
pub struct TickRow {
    /// Event time in µs since 1970.
    #[diesel(sql_type = Timestamptz, column_name = time, deserialize_as = Micros)]
    pub ts_us: i64,
    /// Symbol that was traded.
    #[diesel(sql_type = Text)]
    pub symbol: Symbol,
    /// Price of a unit.
    #[diesel(sql_type = Double)]
    pub price: f64,
    /// Quantity in lots of the symbol.
    #[diesel(sql_type = BigInt)]
    pub lots: i64,
    /// Side of the taker.
    #[diesel(sql_type = Nullable<Text>)]
    pub side: Option<Side>,
    /// Stream entry of the tick.
    #[diesel(sql_type = BigInt)]
    pub revision: Revision,
    #[diesel(embed)]
    pub(super) key: Key,
}

/// Columns of a [`TickRow`]. A side other than `buy` and `sell` is read as unknown.
const COLUMNS: &str =
    "time, symbol, price, lots, CASE WHEN side IN ('buy', 'sell') THEN side END AS side, revision, trade_no, trade_key";

/// Key of a tick among its symbol's ticks of the same time; the migration of `ticks` describes it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, QueryableByName)]
pub(super) struct Key {
    #[diesel(sql_type = BigInt, column_name = trade_no)]
    pub(super) number: i64,
    #[diesel(sql_type = Text, column_name = trade_key)]
    pub(super) text: String,
}

impl Key {
    fn of(tick: &AcceptedTick) -> Result<Self, Rejection> {
        match tick.tick.trade_id.as_deref() {
            None => Ok(Self {
                number: Revision::try_from(tick.origin)?.as_i64(),
                text: "@".to_owned(),
            }),
            Some(id) => Ok(Self::of_id(id)),
        }
    }

    /// Returns the key of a canonical trade ID.
    pub(super) fn of_id(id: &str) -> Self {
        let (number, text) = trade_id::as_number(id).map_or((0, id), |number| (number.cast_signed(), ""));
        Self {
            number,
            text: text.to_owned(),
        }
    }

    /// Returns the trade ID; `None` for a tick without one.
    pub(super) fn trade_id(&self) -> Option<String> {
        match self.text.as_str() {
            "@" => None,
            "" => Some(self.number.to_string()),
            text => Some(text.to_owned()),
        }
    }
}

impl TickRow {
    /// Returns the primary key of the row.
    fn identity(&self) -> (&Symbol, i64, i64, &str) {
        (&self.symbol, self.ts_us, self.key.number, &self.key.text)
    }

    /// Creates the row of a tick whose quantity is `lots`. Fails if the ID of its first entry can't be a revision.
    pub fn new(accepted: &AcceptedTick, lots: i64) -> Result<Self, Rejection> {
        Ok(Self {
            ts_us: accepted.tick.ts_us,
            symbol: accepted.tick.symbol.clone(),
            price: accepted.tick.price,
            lots,
            side: accepted.tick.side,
            revision: accepted.revision,
            key: Key::of(accepted)?,
        })
    }

    /// Returns the tick of this row. `decimals` are those of its symbol's lots.
    pub fn accepted(&self, decimals: u8) -> AcceptedTick {
        let trade_id = self.key.trade_id().map(Into::into);
        let origin = match trade_id {
            None => Revision::try_from(self.key.number).unwrap_or(self.revision),
            Some(_) => self.revision,
        };
        AcceptedTick {
            tick: Tick {
                symbol: self.symbol.clone(),
                ts_us: self.ts_us,
                price: self.price,
                qty: Decimal::from_lots(self.lots.into(), decimals),
                trade_id,
                side: self.side,
            },
            revision: self.revision,
            origin: origin.stream_id(),
        }
    }
}

/// Writes ticks and returns the number of rows inserted or replaced. Of several rows with one primary key the first
/// entry counts, in any order of writing. Rows are written sorted, so that two writers can't deadlock.
/// [`trades`](super::trades) decides which entries are the same trade.
pub async fn insert(connection: &mut AsyncPgConnection, rows: &[TickRow]) -> QueryResult<usize> {
    let mut rows: Vec<&TickRow> = rows.iter().collect();
    rows.sort_unstable_by(|a, b| a.identity().cmp(&b.identity()).then(a.revision.cmp(&b.revision)));
    rows.dedup_by(|later, first| later.identity() == first.identity());
    // Set-returning functions in the SELECT list stream their rows, as in `candles`.
    sql_query(
        "INSERT INTO ticks (time, symbol, price, lots, side, trade_no, trade_key, revision)
         SELECT unnest($1), unnest($2), unnest($3), unnest($4), unnest($5), unnest($6), unnest($7), unnest($8)
         ON CONFLICT (symbol, time, trade_no, trade_key) DO UPDATE
         SET price = excluded.price, lots = excluded.lots, side = excluded.side, revision = excluded.revision
         WHERE excluded.revision < ticks.revision",
    )
    .bind::<Array<Timestamptz>, _>(rows.iter().map(|row| to_datetime(row.ts_us)).collect::<Vec<_>>())
    .bind::<Array<Text>, _>(rows.iter().map(|row| row.symbol.as_str()).collect::<Vec<_>>())
    .bind::<Array<Double>, _>(rows.iter().map(|row| row.price).collect::<Vec<_>>())
    .bind::<Array<BigInt>, _>(rows.iter().map(|row| row.lots).collect::<Vec<_>>())
    .bind::<Array<Nullable<Text>>, _>(rows.iter().map(|row| row.side.map(Side::as_str)).collect::<Vec<_>>())
    .bind::<Array<BigInt>, _>(rows.iter().map(|row| row.key.number).collect::<Vec<_>>())
    .bind::<Array<Text>, _>(rows.iter().map(|row| row.key.text.as_str()).collect::<Vec<_>>())
    .bind::<Array<BigInt>, _>(rows.iter().map(|row| row.revision.as_i64()).collect::<Vec<_>>())
    .execute(connection)
    .await
}

/// Reads the ticks of the minute that starts at `start_us`, in stream order.
pub async fn of_minute(
    connection: &mut AsyncPgConnection,
    symbol: &Symbol,
    start_us: i64,
) -> QueryResult<Vec<TickRow>> {
    sql_query(format!(
        "SELECT {COLUMNS} FROM ticks WHERE symbol = $1 AND time >= $2 AND time < $3 ORDER BY revision"
    ))
    .bind::<Text, _>(symbol.as_str())
    .bind::<Timestamptz, _>(to_datetime(start_us))
    .bind::<Timestamptz, _>(to_datetime(start_us + Timeframe::M1.micros()))
    .get_results(connection)
    .await
}

/// Reads the ticks of `symbol` from `from_us` on whose entries lie in `(after, until]`, in stream order.
pub async fn between(
    connection: &mut AsyncPgConnection,
    symbol: &Symbol,
    from_us: i64,
    after: Revision,
    until: Revision,
) -> QueryResult<Vec<TickRow>> {
    sql_query(format!(
        "SELECT {COLUMNS} FROM ticks
         WHERE symbol = $1 AND time >= $2 AND revision > $3 AND revision <= $4 ORDER BY revision"
    ))
    .bind::<Text, _>(symbol.as_str())
    .bind::<Timestamptz, _>(to_datetime(from_us))
    .bind::<BigInt, _>(after.as_i64())
    .bind::<BigInt, _>(until.as_i64())
    .get_results(connection)
    .await
}

/// Reads the tick of `symbol` that is the latest by event time and then by stream ID.
pub async fn latest(connection: &mut AsyncPgConnection, symbol: &Symbol) -> QueryResult<Option<TickRow>> {
    // The key holds the time but not the stream ID, so one statement would sort all ticks of the newest chunk.
    let newest: Option<TimeValue> =
        sql_query("SELECT time AS value FROM ticks WHERE symbol = $1 ORDER BY time DESC LIMIT 1")
            .bind::<Text, _>(symbol.as_str())
            .get_result(connection)
            .await
            .optional()?;
    let Some(newest_us) = newest.and_then(TimeValue::us) else {
        return Ok(None);
    };
    sql_query(format!(
        "SELECT {COLUMNS} FROM ticks WHERE symbol = $1 AND time = $2 ORDER BY revision DESC LIMIT 1"
    ))
    .bind::<Text, _>(symbol.as_str())
    .bind::<Timestamptz, _>(to_datetime(newest_us))
    .get_result(connection)
    .await
    .optional()
}

/// Rows of the ranges of a symbol's time that the parameters 1 to 3 hold.
pub(super) const RANGES: &str = "SELECT unnest($1) AS wanted, unnest($2) AS first, unnest($3) AS after";

/// Reads the ticks in `ranges`, none of which crosses the border of a day.
pub(super) async fn in_ranges(
    connection: &mut AsyncPgConnection,
    ranges: &[(&Symbol, TimeRange)],
) -> QueryResult<Vec<TickRow>> {
    let mut days: BTreeMap<i64, Vec<&(&Symbol, TimeRange)>> = BTreeMap::new();
    for range in ranges {
        let day_us = Timeframe::D1.bucket_start_us(range.1.from_us);
        days.entry(day_us).or_default().push(range);
    }
    let mut found = Vec::new();
    for (day_us, ranges) in days {
        let time = |time: fn(&TimeRange) -> i64| {
            ranges
                .iter()
                .map(|(_, range)| to_datetime(time(range)))
                .collect::<Vec<_>>()
        };
        // OFFSET 0 makes the planner look up each range in the index, as in `candles`.
        let rows: Vec<TickRow> = sql_query(format!(
            "SELECT {COLUMNS} FROM ({RANGES}) ranges
             CROSS JOIN LATERAL (
                 SELECT * FROM ticks tick
                 WHERE tick.symbol = ranges.wanted AND tick.time >= ranges.first AND tick.time < ranges.after
                   AND tick.time >= $4 AND tick.time < $5
                 OFFSET 0) stored"
        ))
        .bind::<Array<Text>, _>(ranges.iter().map(|(symbol, _)| symbol.as_str()).collect::<Vec<_>>())
        .bind::<Array<Timestamptz>, _>(time(|range| range.from_us))
        .bind::<Array<Timestamptz>, _>(time(|range| range.to_us))
        .bind::<Timestamptz, _>(to_datetime(day_us))
        .bind::<Timestamptz, _>(to_datetime(day_us + Timeframe::D1.micros()))
        .get_results(connection)
        .await?;
        found.extend(rows);
    }
    Ok(found)
}

/// Replaces the price, the quantity and the side of a tick.
pub(super) async fn correct(connection: &mut AsyncPgConnection, row: &TickRow) -> QueryResult<usize> {
    sql_query(
        "UPDATE ticks SET price = $5, lots = $6, side = $7
         WHERE symbol = $1 AND time = $2 AND trade_no = $3 AND trade_key = $4",
    )
    .bind::<Text, _>(row.symbol.as_str())
    .bind::<Timestamptz, _>(to_datetime(row.ts_us))
    .bind::<BigInt, _>(row.key.number)
    .bind::<Text, _>(row.key.text.as_str())
    .bind::<Double, _>(row.price)
    .bind::<BigInt, _>(row.lots)
    .bind::<Nullable<Text>, _>(row.side.map(Side::as_str))
    .execute(connection)
    .await
}

/// Returns the sum of the lots of the ticks in the minute that starts at `start_us`.
pub async fn lots_of_minute(connection: &mut AsyncPgConnection, symbol: &Symbol, start_us: i64) -> QueryResult<i128> {
    let sum: TextValue = sql_query(
        "SELECT coalesce(sum(lots), 0)::text AS value FROM ticks WHERE symbol = $1 AND time >= $2 AND time < $3",
    )
    .bind::<Text, _>(symbol.as_str())
    .bind::<Timestamptz, _>(to_datetime(start_us))
    .bind::<Timestamptz, _>(to_datetime(start_us + Timeframe::M1.micros()))
    .get_result(connection)
    .await?;
    sum.value
        .parse()
        .map_err(|error| diesel::result::Error::DeserializationError(Box::new(error)))
}

/// Deletes a tick that its candle can't count.
pub async fn delete(connection: &mut AsyncPgConnection, row: &TickRow) -> QueryResult<usize> {
    remove(connection, &row.symbol, row.ts_us, &row.key).await
}

/// Deletes a tick.
pub(super) async fn remove(
    connection: &mut AsyncPgConnection,
    symbol: &Symbol,
    ts_us: i64,
    key: &Key,
) -> QueryResult<usize> {
    sql_query("DELETE FROM ticks WHERE symbol = $1 AND time = $2 AND trade_no = $3 AND trade_key = $4")
        .bind::<Text, _>(symbol.as_str())
        .bind::<Timestamptz, _>(to_datetime(ts_us))
        .bind::<BigInt, _>(key.number)
        .bind::<Text, _>(key.text.as_str())
        .execute(connection)
        .await
}
