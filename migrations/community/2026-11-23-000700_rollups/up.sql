-- Each larger timeframe is a continuous aggregate on the smaller one, so a refresh reads few rows.
-- materialized_only = false: what was not refreshed yet is computed when somebody reads it.
-- WITH NO DATA: a refresh is not possible inside a transaction, and migrations run in one.
-- sum(volume) is numeric and sum(trades) bigint, because a sum must not overflow and stop every refresh.

CREATE MATERIALIZED VIEW candles_5m
    WITH (timescaledb.continuous, timescaledb.materialized_only = false) AS
SELECT time_bucket(INTERVAL '5 minutes', time) AS time,
       symbol,
       first(open, time)   AS open,
       max(high)           AS high,
       min(low)            AS low,
       last(close, time)   AS close,
       sum(volume)         AS volume,
       sum(trades)::bigint AS trades,
       max(revision)       AS revision
FROM candles_1m
GROUP BY 1, 2
WITH NO DATA;
COMMENT ON VIEW candles_5m IS '5-minute candles in UTC, from candles_1m; volume in lots';

CREATE MATERIALIZED VIEW candles_15m
    WITH (timescaledb.continuous, timescaledb.materialized_only = false) AS
SELECT time_bucket(INTERVAL '15 minutes', time) AS time,
       symbol,
       first(open, time)   AS open,
       max(high)           AS high,
       min(low)            AS low,
       last(close, time)   AS close,
       sum(volume)         AS volume,
       sum(trades)::bigint AS trades,
       max(revision)       AS revision
FROM candles_5m
GROUP BY 1, 2
WITH NO DATA;
COMMENT ON VIEW candles_15m IS '15-minute candles in UTC, from candles_5m; volume in lots';

CREATE MATERIALIZED VIEW candles_1h
    WITH (timescaledb.continuous, timescaledb.materialized_only = false) AS
SELECT time_bucket(INTERVAL '1 hour', time) AS time,
       symbol,
       first(open, time)   AS open,
       max(high)           AS high,
       min(low)            AS low,
       last(close, time)   AS close,
       sum(volume)         AS volume,
       sum(trades)::bigint AS trades,
       max(revision)       AS revision
FROM candles_15m
GROUP BY 1, 2
WITH NO DATA;
COMMENT ON VIEW candles_1h IS '1-hour candles in UTC, from candles_15m; volume in lots';

CREATE MATERIALIZED VIEW candles_4h
    WITH (timescaledb.continuous, timescaledb.materialized_only = false) AS
SELECT time_bucket(INTERVAL '4 hours', time) AS time,
       symbol,
       first(open, time)   AS open,
       max(high)           AS high,
       min(low)            AS low,
       last(close, time)   AS close,
       sum(volume)         AS volume,
       sum(trades)::bigint AS trades,
       max(revision)       AS revision
FROM candles_1h
GROUP BY 1, 2
WITH NO DATA;
COMMENT ON VIEW candles_4h IS '4-hour candles in UTC, from candles_1h; volume in lots';

CREATE MATERIALIZED VIEW candles_1d
    WITH (timescaledb.continuous, timescaledb.materialized_only = false) AS
SELECT time_bucket(INTERVAL '1 day', time) AS time,
       symbol,
       first(open, time)   AS open,
       max(high)           AS high,
       min(low)            AS low,
       last(close, time)   AS close,
       sum(volume)         AS volume,
       sum(trades)::bigint AS trades,
       max(revision)       AS revision
FROM candles_4h
GROUP BY 1, 2
WITH NO DATA;
COMMENT ON VIEW candles_1d IS '1-day candles in UTC, from candles_4h; volume in lots';

-- Refresh windows, 4 days for all, so that there is one border to know: warm-syncer announces every change
-- of a minute older than 2 days on stream:rollups, and these jobs see every younger one. A bucket is
-- refreshed only while it lies in the window whole, so of the 4 days one goes off for the largest bucket,
-- and the other lets a job be late by as much. The window ends one bucket before now: a bucket
-- that still fills is computed when it is read. Only what changed is computed, so a wide window costs little.
-- `aggregator-admin plan` and `apply` change the windows.
SELECT add_continuous_aggregate_policy('candles_5m',  start_offset => INTERVAL '4 days', end_offset => INTERVAL '5 minutes',  schedule_interval => INTERVAL '5 minutes');
SELECT add_continuous_aggregate_policy('candles_15m', start_offset => INTERVAL '4 days', end_offset => INTERVAL '15 minutes', schedule_interval => INTERVAL '15 minutes');
SELECT add_continuous_aggregate_policy('candles_1h',  start_offset => INTERVAL '4 days', end_offset => INTERVAL '1 hour',     schedule_interval => INTERVAL '1 hour');
SELECT add_continuous_aggregate_policy('candles_4h',  start_offset => INTERVAL '4 days', end_offset => INTERVAL '4 hours',    schedule_interval => INTERVAL '1 hour');
SELECT add_continuous_aggregate_policy('candles_1d',  start_offset => INTERVAL '4 days', end_offset => INTERVAL '1 day',      schedule_interval => INTERVAL '1 hour');
