//! `tick_versions`: all versions of the trades that were corrected or busted.

use diesel::sql_types::{Array, BigInt, Bool, Double, Nullable, Text, Timestamptz};
use diesel::{QueryResult, QueryableByName, sql_query};
use diesel_async::{AsyncPgConnection, RunQueryDsl};

use super::candles::Candidate;
use super::ticks::{Key, RANGES};
use crate::domain::amendment::{Amendment, Change, Values, Version};
use crate::domain::decimal::Decimal;
use crate::domain::stream_id::Revision;
use crate::domain::symbol::Symbol;
use crate::domain::tick::Side;
use crate::domain::time::{TimeRange, to_datetime};
use crate::domain::timeframe::Timeframe;
use crate::postgres::columns::{IntegerValue, Micros};

/// A version of an amended trade.
#[derive(Clone, Debug, PartialEq, QueryableByName)]
pub struct VersionRow {
    /// Event time of the trade in µs since 1970.
    #[diesel(sql_type = Timestamptz, column_name = time, deserialize_as = Micros)]
    pub ts_us: i64,
    /// Symbol that was traded.
    #[diesel(sql_type = Text)]
    pub symbol: Symbol,
    #[diesel(sql_type = Nullable<Double>)]
    price: Option<f64>,
    #[diesel(sql_type = Nullable<Text>)]
    qty: Option<Decimal>,
    #[diesel(sql_type = Nullable<Text>)]
    side: Option<Side>,
    #[diesel(sql_type = BigInt)]
    revision: Revision,
    #[diesel(embed)]
    pub(super) key: Key,
}

const COLUMNS: &str = "time, symbol, price, qty::text AS qty, side, revision, trade_no, trade_key";

impl VersionRow {
    pub(super) fn new(symbol: &Symbol, ts_us: i64, key: &Key, version: &Version) -> Self {
        let values = version.values;
        Self {
            ts_us,
            symbol: symbol.clone(),
            price: values.map(|values| values.price),
            qty: values.map(|values| values.qty),
            side: values.and_then(|values| values.side),
            revision: version.revision,
            key: key.clone(),
        }
    }

    /// Returns the version.
    pub fn version(&self) -> Version {
        let values = self.price.zip(self.qty);
        Version {
            revision: self.revision,
            values: values.map(|(price, qty)| Values {
                price,
                qty,
                side: self.side,
            }),
        }
    }

    /// Returns the amendment that makes this version.
    fn amendment(&self) -> Amendment {
        Amendment {
            symbol: self.symbol.clone(),
            ts_us: self.ts_us,
            trade_id: self.trade_id().into(),
            change: match self.price.zip(self.qty) {
                Some((price, qty)) => Change::Correction {
                    price,
                    qty,
                    side: self.side,
                },
                None => Change::Bust,
            },
            replaces: None,
            revision: self.revision,
        }
    }

    /// Returns the trade ID.
    pub fn trade_id(&self) -> String {
        self.key.trade_id().unwrap_or_default()
    }
}

/// Reads the last amendment of each trade of `symbol` from `from_us` on whose entry lies in `(after, until]`.
pub async fn amendments_between(
    connection: &mut AsyncPgConnection,
    symbol: &Symbol,
    from_us: i64,
    after: Revision,
    until: Revision,
) -> QueryResult<Vec<Amendment>> {
    let rows: Vec<VersionRow> = sql_query(format!(
        "SELECT {COLUMNS} FROM (
             SELECT DISTINCT ON (time, trade_no, trade_key) *,
                    count(*) OVER (PARTITION BY time, trade_no, trade_key) AS versions
             FROM tick_versions WHERE symbol = $1 AND time >= $2 AND revision <= $4
             ORDER BY time, trade_no, trade_key, revision DESC) last
         WHERE revision > $3 AND versions > 1 ORDER BY revision"
    ))
    .bind::<Text, _>(symbol.as_str())
    .bind::<Timestamptz, _>(to_datetime(from_us))
    .bind::<BigInt, _>(after.as_i64())
    .bind::<BigInt, _>(until.as_i64())
    .get_results(connection)
    .await?;
    Ok(rows.iter().map(VersionRow::amendment).collect())
}

/// Reads the versions of the amended trades in `ranges`, each trade's in the order in which they were made.
pub(super) async fn in_ranges(
    connection: &mut AsyncPgConnection,
    ranges: &[(&Symbol, TimeRange)],
) -> QueryResult<Vec<VersionRow>> {
    let time = |time: fn(&TimeRange) -> i64| {
        ranges
            .iter()
            .map(|(_, range)| to_datetime(time(range)))
            .collect::<Vec<_>>()
    };
    sql_query(format!(
        "SELECT {COLUMNS} FROM ({RANGES}) ranges
         CROSS JOIN LATERAL (
             SELECT * FROM tick_versions version
             WHERE version.symbol = ranges.wanted AND version.time >= ranges.first AND version.time < ranges.after
             OFFSET 0) stored
         ORDER BY revision"
    ))
    .bind::<Array<Text>, _>(ranges.iter().map(|(symbol, _)| symbol.as_str()).collect::<Vec<_>>())
    .bind::<Array<Timestamptz>, _>(time(|range| range.from_us))
    .bind::<Array<Timestamptz>, _>(time(|range| range.to_us))
    .get_results(connection)
    .await
}

/// Reads the versions of the amended trades of `symbol` in `range`, each trade's in the order in which they were made.
pub async fn of_symbol(
    connection: &mut AsyncPgConnection,
    symbol: &Symbol,
    range: TimeRange,
) -> QueryResult<Vec<VersionRow>> {
    sql_query(format!(
        "SELECT {COLUMNS} FROM tick_versions WHERE symbol = $1 AND time >= $2 AND time < $3 ORDER BY revision"
    ))
    .bind::<Text, _>(symbol.as_str())
    .bind::<Timestamptz, _>(to_datetime(range.from_us))
    .bind::<Timestamptz, _>(to_datetime(range.to_us))
    .get_results(connection)
    .await
}

/// Adds versions.
pub(super) async fn insert(connection: &mut AsyncPgConnection, rows: &[VersionRow]) -> QueryResult<()> {
    if rows.is_empty() {
        return Ok(());
    }
    sql_query(
        "INSERT INTO tick_versions (time, symbol, price, qty, side, trade_no, trade_key, revision)
         SELECT unnest($1), unnest($2), unnest($3), unnest($4)::numeric, unnest($5), unnest($6), unnest($7), unnest($8)
         ON CONFLICT (symbol, time, trade_no, trade_key, revision) DO NOTHING",
    )
    .bind::<Array<Timestamptz>, _>(rows.iter().map(|row| to_datetime(row.ts_us)).collect::<Vec<_>>())
    .bind::<Array<Text>, _>(rows.iter().map(|row| row.symbol.as_str()).collect::<Vec<_>>())
    .bind::<Array<Nullable<Double>>, _>(rows.iter().map(|row| row.price).collect::<Vec<_>>())
    .bind::<Array<Nullable<Text>>, _>(
        rows.iter()
            .map(|row| row.qty.map(|qty| qty.to_string()))
            .collect::<Vec<_>>(),
    )
    .bind::<Array<Nullable<Text>>, _>(rows.iter().map(|row| row.side.map(Side::as_str)).collect::<Vec<_>>())
    .bind::<Array<BigInt>, _>(rows.iter().map(|row| row.key.number).collect::<Vec<_>>())
    .bind::<Array<Text>, _>(rows.iter().map(|row| row.key.text.as_str()).collect::<Vec<_>>())
    .bind::<Array<BigInt>, _>(rows.iter().map(|row| row.revision.as_i64()).collect::<Vec<_>>())
    .execute(connection)
    .await?;
    Ok(())
}

/// Amendments of the trades of a minute.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, QueryableByName)]
pub struct Amendments {
    /// Number of busted trades.
    #[diesel(sql_type = BigInt)]
    pub busted: i64,
    /// Revision of the last amendment; 0 without amendments.
    #[diesel(sql_type = BigInt)]
    pub revision: Revision,
}

/// Reads the amendments of the minute that starts at `start_us`.
pub async fn of_minute(connection: &mut AsyncPgConnection, symbol: &Symbol, start_us: i64) -> QueryResult<Amendments> {
    sql_query(
        "SELECT count(*) FILTER (WHERE price IS NULL) AS busted, coalesce(max(revision), 0) AS revision
         FROM (SELECT DISTINCT ON (time, trade_no, trade_key) price, revision FROM tick_versions
               WHERE symbol = $1 AND time >= $2 AND time < $3
               ORDER BY time, trade_no, trade_key, revision DESC) current",
    )
    .bind::<Text, _>(symbol.as_str())
    .bind::<Timestamptz, _>(to_datetime(start_us))
    .bind::<Timestamptz, _>(to_datetime(start_us + Timeframe::M1.micros()))
    .get_result(connection)
    .await
}

/// Returns the index of each candle whose minute has an amendment that the candle's last entry precedes.
pub async fn amended_after(connection: &mut AsyncPgConnection, candles: &[Candidate]) -> QueryResult<Vec<usize>> {
    let amended: Vec<IntegerValue> = sql_query(
        "SELECT at::bigint AS value
         FROM (SELECT generate_series(0, cardinality($1) - 1) AS at,
                      unnest($1) AS symbol, unnest($2) AS start, unnest($3) AS revision) candles
         CROSS JOIN LATERAL (
             SELECT FROM tick_versions version
             WHERE version.symbol = candles.symbol AND version.time >= candles.start
               AND version.time < candles.start + INTERVAL '1 minute' AND version.revision > candles.revision
             LIMIT 1) amended",
    )
    .bind::<Array<Text>, _>(candles.iter().map(|candle| candle.symbol.as_str()).collect::<Vec<_>>())
    .bind::<Array<Timestamptz>, _>(
        candles
            .iter()
            .map(|candle| to_datetime(candle.start_us))
            .collect::<Vec<_>>(),
    )
    .bind::<Array<BigInt>, _>(
        candles
            .iter()
            .map(|candle| candle.revision.as_i64())
            .collect::<Vec<_>>(),
    )
    .get_results(connection)
    .await?;
    Ok(amended
        .into_iter()
        .filter_map(|row| usize::try_from(row.value).ok())
        .collect())
}

/// A version of a trade, amended or not.
#[derive(Clone, Debug, PartialEq, QueryableByName)]
pub struct ListedVersion {
    /// Event time in µs since 1970.
    #[diesel(sql_type = Timestamptz, column_name = time, deserialize_as = Micros)]
    pub ts_us: i64,
    #[diesel(embed)]
    key: Key,
    /// Price of a unit; `None` for a bust.
    #[diesel(sql_type = Nullable<Double>)]
    pub price: Option<f64>,
    /// Quantity in units; `None` for a bust.
    #[diesel(sql_type = Nullable<Text>)]
    pub qty: Option<Decimal>,
    /// Side of the taker.
    #[diesel(sql_type = Nullable<Text>)]
    pub side: Option<Side>,
    /// Revision of the entry that made the version.
    #[diesel(sql_type = BigInt)]
    pub revision: Revision,
    /// Number of earlier versions of the trade.
    #[diesel(sql_type = BigInt)]
    pub earlier: i64,
    /// `true` if a later version has replaced it.
    #[diesel(sql_type = Bool)]
    pub is_replaced: bool,
}

impl ListedVersion {
    /// Returns the trade ID; `None` for a trade without one.
    pub fn trade_id(&self) -> Option<String> {
        self.key.trade_id()
    }
}

/// Lists the versions of the newest trades of `symbol` in `range`, oldest first: at most `limit` versions that were
/// made up to `until`, optionally of one trade ID.
pub async fn list(
    connection: &mut AsyncPgConnection,
    symbol: &Symbol,
    range: TimeRange,
    trade_id: Option<&str>,
    until: Revision,
    limit: i64,
) -> QueryResult<Vec<ListedVersion>> {
    let key = trade_id.map(Key::of_id);
    let mut found: Vec<ListedVersion> = sql_query(
        "WITH amended AS (
             SELECT time, trade_no, trade_key, price, qty::text AS qty, side, revision,
                    row_number() OVER trade - 1 AS earlier, lead(revision) OVER trade IS NOT NULL AS is_replaced
             FROM tick_versions
             WHERE symbol = $1 AND time >= $2 AND time < $3 AND revision <= $4
               AND ($5 IS NULL OR (trade_no, trade_key) = ($5, $6))
             WINDOW trade AS (PARTITION BY time, trade_no, trade_key ORDER BY revision)),
         others AS (
             SELECT time, trade_no, trade_key, price,
                    lots_to_units(lots, coalesce((SELECT volume_decimals FROM symbols WHERE symbol = $1), 8::smallint))
                        ::text AS qty,
                    CASE WHEN side IN ('buy', 'sell') THEN side END AS side, revision, 0::bigint AS earlier,
                    false AS is_replaced
             FROM ticks
             WHERE symbol = $1 AND time >= $2 AND time < $3 AND revision <= $4
               AND ($5 IS NULL OR (trade_no, trade_key) = ($5, $6))
               AND NOT EXISTS (
                   SELECT FROM tick_versions version
                   WHERE version.symbol = $1 AND version.time = ticks.time
                     AND (version.trade_no, version.trade_key) = (ticks.trade_no, ticks.trade_key))
             ORDER BY time DESC LIMIT $7)
         SELECT * FROM (SELECT * FROM amended UNION ALL SELECT * FROM others) all_versions
         ORDER BY time DESC, trade_no DESC, trade_key DESC, revision DESC LIMIT $7",
    )
    .bind::<Text, _>(symbol.as_str())
    .bind::<Timestamptz, _>(to_datetime(range.from_us))
    .bind::<Timestamptz, _>(to_datetime(range.to_us))
    .bind::<BigInt, _>(until.as_i64())
    .bind::<Nullable<BigInt>, _>(key.as_ref().map(|key| key.number))
    .bind::<Nullable<Text>, _>(key.as_ref().map(|key| key.text.as_str()))
    .bind::<BigInt, _>(limit)
    .get_results(connection)
    .await?;
    found.reverse();
    Ok(found)
}
