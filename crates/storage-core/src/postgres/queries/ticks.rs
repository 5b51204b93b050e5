//! `ticks`: every accepted tick, once.

use chrono::{DateTime, Utc};
use diesel::sql_types::{Array, BigInt, Double, Nullable, Text, Timestamptz};
use diesel::{QueryResult, QueryableByName, sql_query};
use diesel_async::{AsyncPgConnection, RunQueryDsl};

use crate::domain::decimal::Decimal;
use crate::domain::rejection::Rejection;
use crate::domain::stream_id::Revision;
use crate::domain::symbol::Symbol;
use crate::domain::tick::{AcceptedTick, Side, Tick};
use crate::domain::time::to_datetime;
use crate::domain::timeframe::Timeframe;

/// A tick as the table holds it.
#[derive(Clone, Debug, PartialEq)]
pub struct TickRow {
    /// Event time in µs since 1970.
    pub ts_us: i64,
    /// What was traded.
    pub symbol: Symbol,
    /// Price of a unit.
    pub price: f64,
    /// Quantity in lots of the symbol.
    pub lots: i64,
    /// `buy` or `sell`, the taker's side.
    pub side: Option<&'static str>,
    /// The stream entry that carried it.
    pub revision: Revision,
    key: Key,
}

/// What tells a tick apart from its symbol's others of the same time: see the migration of `ticks`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Key {
    number: i64,
    text: Box<str>,
}

/// The most digits that every number of so many fits a bigint with.
const MAX_DIGITS: usize = 18;

impl Key {
    fn of(tick: &AcceptedTick) -> Result<Self, Rejection> {
        Ok(match tick.tick.trade_id.as_deref() {
            None => Self {
                number: Revision::try_from(tick.origin)?.as_i64(),
                text: "@".into(),
            },
            Some(id) => match counted(id) {
                Some(number) => Self {
                    number,
                    text: "".into(),
                },
                None => Self {
                    number: 0,
                    text: id.into(),
                },
            },
        })
    }
}

/// The number that `id` is the one way to write of.
fn counted(id: &str) -> Option<i64> {
    let canonical = id == "0" || !id.starts_with('0');
    let digits = (1..=MAX_DIGITS).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_digit());
    (canonical && digits).then(|| id.parse().ok()).flatten()
}

impl TickRow {
    /// What the table holds once.
    fn identity(&self) -> (&Symbol, i64, i64, &str) {
        (&self.symbol, self.ts_us, self.key.number, &self.key.text)
    }

    /// The row of a tick whose quantity is `lots`.
    ///
    /// # Errors
    /// When the entry that first carried it has an ID that Redis never gives.
    pub fn new(accepted: &AcceptedTick, lots: i64) -> Result<Self, Rejection> {
        Ok(Self {
            ts_us: accepted.tick.ts_us,
            symbol: accepted.tick.symbol.clone(),
            price: accepted.tick.price,
            lots,
            side: accepted.tick.side.map(|side| side.as_str()),
            revision: accepted.revision,
            key: Key::of(accepted)?,
        })
    }

    /// The tick of this row, where its symbol has `decimals`.
    pub fn accepted(&self, decimals: u8) -> AcceptedTick {
        let first = Revision::try_from(self.key.number).unwrap_or(self.revision);
        let (trade_id, origin) = match self.key.text.as_ref() {
            "@" => (None, first),
            "" => (Some(self.key.number.to_string().into()), self.revision),
            text => (Some(text.into()), self.revision),
        };
        AcceptedTick {
            tick: Tick {
                symbol: self.symbol.clone(),
                ts_us: self.ts_us,
                price: self.price,
                qty: Decimal::from_lots(self.lots.into(), decimals),
                trade_id,
                side: self.side.and_then(|side| side.parse().ok()),
            },
            revision: self.revision,
            origin: origin.stream_id(),
        }
    }
}

/// Writes the ticks that the table does not hold yet; sorted, so that two writers can't wait for each other. Of a trade that
/// came several times the first entry counts, as it does in the candles, whichever is written first: several copies write side by
/// side. Returns how many rows were new or gave way to an earlier entry.
///
/// # Errors
/// The database's.
pub async fn insert(connection: &mut AsyncPgConnection, rows: &[TickRow]) -> QueryResult<usize> {
    let mut rows: Vec<&TickRow> = rows.iter().collect();
    rows.sort_unstable_by(|a, b| a.identity().cmp(&b.identity()).then(a.revision.cmp(&b.revision)));
    rows.dedup_by(|later, first| later.identity() == first.identity());
    // As in `candles`: set-returning functions in the SELECT list, as rows that stream.
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
    .bind::<Array<Nullable<Text>>, _>(rows.iter().map(|row| row.side).collect::<Vec<_>>())
    .bind::<Array<BigInt>, _>(rows.iter().map(|row| row.key.number).collect::<Vec<_>>())
    .bind::<Array<Text>, _>(rows.iter().map(|row| row.key.text.as_ref()).collect::<Vec<_>>())
    .bind::<Array<BigInt>, _>(rows.iter().map(|row| row.revision.as_i64()).collect::<Vec<_>>())
    .execute(connection)
    .await
}

#[derive(QueryableByName)]
struct Row {
    #[diesel(sql_type = Timestamptz)]
    time: DateTime<Utc>,
    #[diesel(sql_type = Double)]
    price: f64,
    #[diesel(sql_type = BigInt)]
    lots: i64,
    #[diesel(sql_type = Nullable<Text>)]
    side: Option<String>,
    #[diesel(sql_type = BigInt)]
    trade_no: i64,
    #[diesel(sql_type = Text)]
    trade_key: String,
    #[diesel(sql_type = BigInt)]
    revision: i64,
}

/// The ticks of the minute that starts at `start_us`, in the order in which Redis accepted them.
///
/// # Errors
/// The database's.
pub async fn of_minute(
    connection: &mut AsyncPgConnection,
    symbol: &Symbol,
    start_us: i64,
) -> QueryResult<Vec<TickRow>> {
    let rows: Vec<Row> = sql_query(
        "SELECT time, price, lots, side, trade_no, trade_key, revision FROM ticks
         WHERE symbol = $1 AND time >= $2 AND time < $3 ORDER BY revision",
    )
    .bind::<Text, _>(symbol.as_str())
    .bind::<Timestamptz, _>(to_datetime(start_us))
    .bind::<Timestamptz, _>(to_datetime(start_us + Timeframe::M1.micros()))
    .load(connection)
    .await?;
    let tick = |row: Row| TickRow {
        ts_us: row.time.timestamp_micros(),
        symbol: symbol.clone(),
        price: row.price,
        lots: row.lots,
        side: row.side.and_then(|side| side.parse().ok()).map(Side::as_str),
        revision: row.revision.try_into().unwrap_or_default(),
        key: Key {
            number: row.trade_no,
            text: row.trade_key.into(),
        },
    };
    Ok(rows.into_iter().map(tick).collect())
}

/// Takes a tick out, because its candle can't count it and keeps no record of that.
///
/// # Errors
/// The database's.
pub async fn delete(connection: &mut AsyncPgConnection, row: &TickRow) -> QueryResult<usize> {
    sql_query("DELETE FROM ticks WHERE symbol = $1 AND time = $2 AND trade_no = $3 AND trade_key = $4")
        .bind::<Text, _>(row.symbol.as_str())
        .bind::<Timestamptz, _>(to_datetime(row.ts_us))
        .bind::<BigInt, _>(row.key.number)
        .bind::<Text, _>(row.key.text.as_ref())
        .execute(connection)
        .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_one_way_to_write_a_number_is_kept_as_a_number() {
        for (id, number) in [
            ("0", 0),
            ("4711", 4711),
            ("999999999999999999", 999_999_999_999_999_999),
        ] {
            assert_eq!(counted(id), Some(number), "{id}");
        }
        for id in [
            "",
            "007",
            "+5",
            "-5",
            " 5",
            "5.0",
            "1e3",
            "9999999999999999999",
            "18446744073709551617",
            "a",
            "٣",
        ] {
            assert_eq!(counted(id), None, "{id}");
        }
    }
}
