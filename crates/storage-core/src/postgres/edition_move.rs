//! Statements that move a database from TimescaleDB's Apache edition to the Community edition in place. The migrations
//! of the Community edition run between them, in the same transaction.

use std::fmt::Write;

use crate::domain::timeframe::Timeframe;

/// Prefix of the tables of the larger timeframes until their rows are in the continuous aggregates.
const MOVED: &str = "moved_";

fn larger() -> impl Iterator<Item = &'static str> {
    Timeframe::ALL[1..].iter().map(|timeframe| timeframe.table())
}

/// Returns the statements that give the names of the larger timeframes to the continuous aggregates. `versions` are the
/// migrations of the Apache edition that were run.
pub(super) fn before_migrations(versions: &[String]) -> String {
    let mut statements =
        "CREATE TEMP TABLE moved_view ON COMMIT DROP AS SELECT pg_get_viewdef('candles_in_units'::regclass) AS body;"
            .to_owned();
    for table in larger() {
        let _ = write!(statements, "ALTER TABLE {table} RENAME TO {MOVED}{table};");
    }
    let versions: Vec<String> = versions.iter().map(|version| format!("'{version}'")).collect();
    let _ = write!(
        statements,
        "DROP TABLE rollup_progress; DELETE FROM __diesel_schema_migrations WHERE version IN ({});",
        versions.join(", ")
    );
    statements
}

/// Returns the statements that copy the candles into the continuous aggregates, and then drop the tables. A refresh
/// has to follow: it computes again the candles whose source is complete.
pub(super) fn after_migrations() -> String {
    let mut statements = String::new();
    for timeframe in &Timeframe::ALL[1..] {
        let (table, seconds) = (timeframe.table(), timeframe.seconds());
        // An aggregate shows the candles before its watermark, and computes the others from their source. A refresh
        // moves the watermark past what it computes, which is nothing if the source was dropped, but dropping chunks,
        // even none, moves it past the newest candle. So buckets that a refresh would not compute yet are not copied.
        let _ = write!(
            statements,
            "DO $$ BEGIN EXECUTE (
                 SELECT format(
                     'INSERT INTO %I.%I (time, symbol, open, high, low, close, volume, trades, revision)
                      SELECT time, symbol, open, high, low, close, volume, trades, revision FROM {MOVED}{table} candle
                      WHERE time < time_bucket(INTERVAL ''{seconds} s'', now() - INTERVAL ''{seconds} s'')
                         OR NOT EXISTS (
                             SELECT FROM candles_1m part WHERE part.symbol = candle.symbol
                               AND part.time >= candle.time
                               AND part.time < candle.time + INTERVAL ''{seconds} s'')',
                     materialization_hypertable_schema, materialization_hypertable_name)
                 FROM timescaledb_information.continuous_aggregates
                 WHERE view_schema = current_schema() AND view_name = '{table}'); END $$;
             SELECT drop_chunks('{table}', older_than => timestamptz '1900-01-01 00:00Z');"
        );
    }
    statements.push_str(
        "DO $$ BEGIN EXECUTE (SELECT 'CREATE OR REPLACE VIEW candles_in_units AS ' || body FROM moved_view); END $$;",
    );
    for table in larger() {
        let _ = write!(statements, "DROP TABLE {MOVED}{table};");
    }
    statements
}
