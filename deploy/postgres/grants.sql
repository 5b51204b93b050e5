-- Grants each role its rights on the tables. Run it as their owner aggregator-admin after each migration.
\set ON_ERROR_STOP on
\set QUIET on
BEGIN;

-- warm-syncer inserts, and updates and deletes rows of `ticks` that are corrected or busted. Retention is the owner's
-- task.
GRANT SELECT, INSERT ON signals, symbols, dead_letters, tick_versions, lost_entries TO "warm-syncer";
GRANT SELECT, INSERT, UPDATE ON candles_1m, ticks, positions, coverage TO "warm-syncer";
GRANT DELETE ON ticks TO "warm-syncer";
GRANT SELECT ON __diesel_schema_migrations, database_identity TO "warm-syncer";

GRANT SELECT ON ALL TABLES IN SCHEMA public TO reader;
ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT SELECT ON TABLES TO reader;

COMMIT;
