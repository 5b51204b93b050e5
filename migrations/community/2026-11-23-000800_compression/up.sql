-- A chunk is compressed once all of it is older than 24 hours. Segments by symbol: queries name one,
-- and an upsert into a compressed chunk then unpacks only that symbol's batches around its time.
-- The rest of the key belongs into the order, so that a tick's trade_no is a small step from the last.
ALTER TABLE candles_1m SET (timescaledb.compress, timescaledb.compress_segmentby = 'symbol', timescaledb.compress_orderby = 'time');
ALTER TABLE ticks      SET (timescaledb.compress, timescaledb.compress_segmentby = 'symbol', timescaledb.compress_orderby = 'time, trade_no, trade_key');
ALTER TABLE signals    SET (timescaledb.compress, timescaledb.compress_segmentby = 'symbol', timescaledb.compress_orderby = 'time, signal_id');

SELECT add_compression_policy('candles_1m', compress_after => INTERVAL '24 hours', schedule_interval => INTERVAL '1 hour');
SELECT add_compression_policy('ticks',      compress_after => INTERVAL '24 hours', schedule_interval => INTERVAL '1 hour');
SELECT add_compression_policy('signals',    compress_after => INTERVAL '24 hours', schedule_interval => INTERVAL '1 hour');
