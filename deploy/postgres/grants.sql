-- What each role may do with the tables, by their owner aggregator-admin and after each migration.
\set ON_ERROR_STOP on
\set QUIET on
BEGIN;

-- Only adds: the history is corrected by revision, and nothing is deleted but by the owner's retention.
GRANT SELECT, INSERT ON ticks, signals, symbols, dead_letters TO "warm-syncer";
GRANT SELECT, INSERT, UPDATE ON candles_1m, positions TO "warm-syncer";
GRANT SELECT ON __diesel_schema_migrations TO "warm-syncer";

GRANT SELECT ON ALL TABLES IN SCHEMA public TO reader;
ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT SELECT ON TABLES TO reader;

COMMIT;
