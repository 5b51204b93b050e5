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

/// Returns the statements that copy every candle into the continuous aggregates, and then drop the tables. A refresh
/// has to follow: it makes the candles visible, and computes again those whose source is complete.
pub(super) fn after_migrations() -> String {
    let mut statements = String::new();
    for table in larger() {
        let _ = write!(
            statements,
            "DO $$ BEGIN EXECUTE (
                 SELECT format(
                     'INSERT INTO %I.%I (time, symbol, open, high, low, close, volume, trades, revision)
                      SELECT time, symbol, open, high, low, close, volume, trades, revision FROM {MOVED}{table}',
                     materialization_hypertable_schema, materialization_hypertable_name)
                 FROM timescaledb_information.continuous_aggregates
                 WHERE view_schema = current_schema() AND view_name = '{table}'); END $$;"
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
