-- Creates the roles of the workers and sets their passwords. Run it as the superuser before the first migration, and
-- again after a password changed. psql reads the passwords from files, so that no password is a program's argument.
\set ON_ERROR_STOP on
\set QUIET on
SET log_statement = 'none';
SET log_min_error_statement = 'panic';
SET log_min_duration_statement = -1;
SET client_min_messages = warning;

SELECT format('CREATE ROLE %I', name)
FROM unnest(ARRAY['aggregator-admin', 'warm-syncer', 'backup-runner', 'reader']) AS name
WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = name) \gexec

\set secrets `echo "${POSTGRES_SECRETS:-/run/secrets}"`
\set password `cat :secrets/postgres-aggregator-admin`
ALTER ROLE "aggregator-admin" LOGIN PASSWORD :'password';
\set password `cat :secrets/postgres-warm-syncer`
ALTER ROLE "warm-syncer" LOGIN PASSWORD :'password';
\set password `cat :secrets/postgres-backup-runner`
ALTER ROLE "backup-runner" LOGIN REPLICATION PASSWORD :'password';
\set password `cat :secrets/postgres-reader`
ALTER ROLE reader LOGIN PASSWORD :'password';
\unset password

-- aggregator-admin owns the schema that it migrates, and with it TimescaleDB's jobs, which run its policies.
SELECT format('ALTER DATABASE %I OWNER TO "aggregator-admin"', current_database()) \gexec
SELECT format('REVOKE ALL ON DATABASE %I FROM PUBLIC', current_database()) \gexec
SELECT format('GRANT CONNECT ON DATABASE %I TO "warm-syncer", "backup-runner", reader', current_database()) \gexec
CREATE EXTENSION IF NOT EXISTS timescaledb;

-- A dump reads everything. The superuser restores, into another database.
GRANT pg_read_all_data TO "backup-runner";

ALTER ROLE reader SET default_transaction_read_only = on;
ALTER ROLE reader SET statement_timeout = '60s';
