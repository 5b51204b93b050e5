-- The larger timeframes are compressed like candles_1m: segments by symbol, order by time.
ALTER MATERIALIZED VIEW candles_5m  SET (timescaledb.compress, timescaledb.compress_segmentby = 'symbol', timescaledb.compress_orderby = 'time');
ALTER MATERIALIZED VIEW candles_15m SET (timescaledb.compress, timescaledb.compress_segmentby = 'symbol', timescaledb.compress_orderby = 'time');
ALTER MATERIALIZED VIEW candles_1h  SET (timescaledb.compress, timescaledb.compress_segmentby = 'symbol', timescaledb.compress_orderby = 'time');
ALTER MATERIALIZED VIEW candles_4h  SET (timescaledb.compress, timescaledb.compress_segmentby = 'symbol', timescaledb.compress_orderby = 'time');
ALTER MATERIALIZED VIEW candles_1d  SET (timescaledb.compress, timescaledb.compress_segmentby = 'symbol', timescaledb.compress_orderby = 'time');

-- TimescaleDB compresses up to 1,000 rows of a symbol together. The default chunks of 10 days hold 2,880 and 960 candles
-- of 5 and 15 minutes, but only 10 of a day, which compression would make larger. Existing chunks keep their length.
SELECT set_chunk_time_interval('candles_1h', INTERVAL '40 days');
SELECT set_chunk_time_interval('candles_4h', INTERVAL '160 days');
SELECT set_chunk_time_interval('candles_1d', INTERVAL '1000 days');

-- The age is that of candles_1m, which `aggregator-admin apply` may have changed.
SELECT add_compression_policy(rollup, schedule_interval => INTERVAL '1 hour', compress_after => coalesce(
    (SELECT (config->>'compress_after')::interval FROM timescaledb_information.jobs
     WHERE proc_name = 'policy_compression' AND hypertable_name = 'candles_1m'), INTERVAL '24 hours'))
FROM unnest('{candles_5m,candles_15m,candles_1h,candles_4h,candles_1d}'::regclass[]) rollup;
