SELECT remove_compression_policy('signals');
SELECT remove_compression_policy('ticks');
SELECT remove_compression_policy('candles_1m');

-- Compression can only be switched off where no chunk is compressed.
SELECT decompress_chunk(chunk, if_compressed => true)
FROM (VALUES ('signals'), ('ticks'), ('candles_1m')) AS t (hypertable), show_chunks(t.hypertable::regclass) AS chunk;

ALTER TABLE signals    SET (timescaledb.compress = false);
ALTER TABLE ticks      SET (timescaledb.compress = false);
ALTER TABLE candles_1m SET (timescaledb.compress = false);
