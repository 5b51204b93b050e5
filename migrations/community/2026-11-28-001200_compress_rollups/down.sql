SELECT remove_compression_policy(rollup)
FROM unnest('{candles_5m,candles_15m,candles_1h,candles_4h,candles_1d}'::regclass[]) rollup;

SELECT set_chunk_time_interval('candles_1h', INTERVAL '10 days');
SELECT set_chunk_time_interval('candles_4h', INTERVAL '10 days');
SELECT set_chunk_time_interval('candles_1d', INTERVAL '10 days');

-- Compression can only be switched off where no chunk is compressed.
SELECT decompress_chunk(chunk, if_compressed => true)
FROM unnest('{candles_5m,candles_15m,candles_1h,candles_4h,candles_1d}'::regclass[]) rollup, show_chunks(rollup) chunk;

ALTER MATERIALIZED VIEW candles_5m  SET (timescaledb.compress = false);
ALTER MATERIALIZED VIEW candles_15m SET (timescaledb.compress = false);
ALTER MATERIALIZED VIEW candles_1h  SET (timescaledb.compress = false);
ALTER MATERIALIZED VIEW candles_4h  SET (timescaledb.compress = false);
ALTER MATERIALIZED VIEW candles_1d  SET (timescaledb.compress = false);
