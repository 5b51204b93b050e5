-- What each role may do with the tables, by their owner aggregator-admin and after each migration.
\set ON_ERROR_STOP on
\set QUIET on
BEGIN;

-- Adds, and takes the first entry of a trade that came twice; deletes nothing, which is left to the owner's retention.
GRANT SELECT, INSERT ON signals, symbols, dead_letters TO "warm-syncer";
GRANT SELECT, INSERT, UPDATE ON candles_1m, ticks, positions TO "warm-syncer";
GRANT SELECT ON __diesel_schema_migrations, database_identity TO "warm-syncer";

GRANT SELECT ON ALL TABLES IN SCHEMA public TO reader;
ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT SELECT ON TABLES TO reader;

COMMIT;
