//! The statements. `$1` and `$2` are the range, `$3` the symbols or null. Pure.

use std::fmt::Write;

use super::{Borders, source_table};
use crate::domain::time::rfc3339;
use crate::domain::timeframe::Timeframe;

const CONDITION: &str = "time >= $1 AND time < $2 AND ($3 IS NULL OR symbol = ANY($3))";

const COLUMNS: &str = "open, high, low, close, volume, trades, revision";

/// Candle of the history with the types of the computed ones.
fn found(timeframe: Timeframe) -> String {
    format!(
        "SELECT symbol, time, open, high, low, close, volume::numeric AS volume, trades::bigint AS trades, revision
         FROM {} WHERE {CONDITION}",
        timeframe.table()
    )
}

/// Minutes of the ticks. Their revision includes corrections and busts of their trades.
fn of_ticks() -> String {
    format!(
        "SELECT symbol, time, open, high, low, close, volume, trades, greatest(revision, amended) AS revision
         FROM (SELECT symbol, time_bucket(INTERVAL '1 minute', time) AS time,
                      (array_agg(price ORDER BY time, revision))[1] AS open, max(price) AS high, min(price) AS low,
                      (array_agg(price ORDER BY time DESC, revision DESC))[1] AS close, sum(lots) AS volume,
                      count(*) AS trades, max(revision) AS revision
               FROM ticks WHERE {CONDITION} GROUP BY 1, 2) minutes
         LEFT JOIN (SELECT symbol, time_bucket(INTERVAL '1 minute', time) AS time, max(revision) AS amended
                    FROM tick_versions WHERE {CONDITION} GROUP BY 1, 2) versions USING (symbol, time)"
    )
}

/// Candles of `timeframe` computed from candles in `source`, which lie within the range.
fn of_candles(source: &str, timeframe: Timeframe, condition: &str) -> String {
    format!(
        "SELECT symbol, time_bucket(INTERVAL '{} seconds', time) AS time, first(open, time) AS open,
                max(high) AS high, min(low) AS low, last(close, time) AS close, sum(volume) AS volume,
                sum(trades)::bigint AS trades, max(revision) AS revision
         FROM {source} WHERE {condition} GROUP BY 1, 2",
        timeframe.seconds()
    )
}

fn timestamp(ts_us: i64) -> String {
    match ts_us {
        i64::MIN => "TIMESTAMPTZ '-infinity'".to_owned(),
        _ => format!("TIMESTAMPTZ '{}'", rfc3339(ts_us)),
    }
}

fn name(kind: &str, timeframe: Timeframe) -> String {
    format!("{kind}_{}", timeframe.label())
}

/// Returns the queries `expected_*` and `found_*` of `timeframes`. Each larger timeframe is computed from the expected
/// candles of the next smaller one, so that a wrong candle does not make larger ones differ. Before the border of its
/// source it is the candle of the history.
fn candles(borders: &Borders, timeframes: &[Timeframe]) -> String {
    let mut queries = Vec::new();
    for timeframe in timeframes {
        let computed = match timeframe {
            Timeframe::M1 => of_ticks(),
            Timeframe::M5 => of_candles(source_table(*timeframe), *timeframe, CONDITION),
            larger => of_candles(
                &name("expected", larger.source().unwrap_or(Timeframe::M1)),
                *larger,
                "true",
            ),
        };
        let border = timestamp(borders.source_us(*timeframe));
        let (expected, found_name) = (name("expected", *timeframe), name("found", *timeframe));
        queries.push(format!("{found_name} AS ({})", found(*timeframe)));
        queries.push(match borders.source_us(*timeframe) {
            i64::MIN => format!("{expected} AS ({computed})"),
            _ => format!(
                "{expected} AS (SELECT * FROM ({computed}) computed WHERE time >= {border}
                 UNION ALL SELECT * FROM {found_name} WHERE time < {border})"
            ),
        });
    }
    format!("WITH {}", queries.join(",\n"))
}

pub(super) fn differing_hours(borders: &Borders, timeframes: &[Timeframe]) -> String {
    let side = |timeframe: Timeframe, kind: &str| {
        let [expected, found] = ["expected", "found"].map(|other| if other == kind { "count(*)" } else { "0" });
        format!(
            "SELECT '{timeframe}' AS timeframe, symbol, time_bucket(INTERVAL '1 hour', time) AS hour,
                    {expected} AS expected, {found} AS found,
                    bit_xor(hash_record_extended(ROW(time, {COLUMNS}), 0)) AS hash
             FROM {} WHERE time >= {} GROUP BY 2, 3",
            name(kind, timeframe),
            timestamp(borders.compared_us(timeframe))
        )
    };
    let sides = timeframes
        .iter()
        .flat_map(|timeframe| ["expected", "found"].map(|kind| side(*timeframe, kind)));
    let sides: Vec<String> = sides.collect();
    format!(
        "{},
         hours AS (
             SELECT timeframe, symbol, hour, sum(expected) AS expected, sum(found) AS found, bit_xor(hash) AS hash
             FROM ({}) sides GROUP BY 1, 2, 3)
         SELECT timeframe, NULL::text AS symbol, NULL::timestamptz AS hour,
                sum(greatest(expected, found))::bigint AS compared
         FROM hours GROUP BY 1
         UNION ALL SELECT timeframe, symbol, hour, 0 FROM hours WHERE expected <> found OR hash <> 0
         ORDER BY 1, 2, 3",
        candles(borders, timeframes),
        sides.join("\nUNION ALL ")
    )
}

/// Columns of a difference between the rows `e` and `f`, of which `f` may be one of several `copies`.
fn difference(timeframe: Timeframe) -> String {
    let mut columns = "symbol, time".to_owned();
    for (side, name) in [("f", "found"), ("e", "expected")] {
        let copies = match side {
            "f" => " || CASE WHEN copies > 1 THEN ' in ' || copies || ' rows' ELSE '' END",
            _ => "",
        };
        let _ = write!(
            columns,
            ", CASE WHEN {side}.open IS NOT NULL THEN
                   ({side}.open, {side}.high, {side}.low, {side}.close, {side}.volume, {side}.trades)::text{copies}
               END AS {name}, {side}.trades AS {name}_trades, {side}.revision AS {name}_revision"
        );
    }
    let is_minute = timeframe == Timeframe::M1;
    format!("{columns}, {is_minute} AND coalesce(e.volume > 9223372036854775807, false) AS is_beyond_bigint")
}

pub(super) fn differences(borders: &Borders, timeframe: Timeframe) -> String {
    let until = Timeframe::ALL.iter().position(|other| *other == timeframe).unwrap_or(0);
    let timeframes = match timeframe {
        Timeframe::M1 => &Timeframe::ALL[..1],
        _ => &Timeframe::ALL[1..=until],
    };
    let values = |side: &str| {
        COLUMNS
            .split(", ")
            .map(|column| format!("{side}.{column}"))
            .collect::<Vec<_>>()
            .join(", ")
    };
    format!(
        "{}
         SELECT DISTINCT {} FROM {} e
         FULL JOIN (SELECT *, count(*) OVER (PARTITION BY symbol, time) AS copies FROM {}) f USING (symbol, time)
         WHERE (symbol, time_bucket(INTERVAL '1 hour', time)) IN (SELECT unnest($4), unnest($5))
           AND time >= {} AND (copies > 1 OR ({}) IS DISTINCT FROM ({}))
         ORDER BY 1, 2 LIMIT $6",
        candles(borders, timeframes),
        difference(timeframe),
        name("expected", timeframe),
        name("found", timeframe),
        timestamp(borders.compared_us(timeframe)),
        values("e"),
        values("f"),
    )
}

pub(super) fn lacking_rows(timeframe: Timeframe) -> String {
    let source = match timeframe {
        Timeframe::M1 => of_ticks(),
        larger => of_candles(source_table(larger), larger, CONDITION),
    };
    format!(
        "WITH expected AS ({source}), found AS ({})
         SELECT {} FROM expected e LEFT JOIN (SELECT *, 1 AS copies FROM found) f USING (symbol, time)
         WHERE (f.high >= e.high AND f.low <= e.low AND f.volume >= e.volume AND f.trades >= e.trades
                AND f.revision >= e.revision) IS NOT TRUE
         ORDER BY 1, 2 LIMIT $4",
        found(timeframe),
        difference(timeframe),
    )
}
