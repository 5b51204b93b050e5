-- Volumes in units, for people and notebooks. A condition on `timeframe` leaves one table to read.
CREATE VIEW candles_in_units AS
SELECT c.timeframe, c.time, c.symbol, c.open, c.high, c.low, c.close,
       lots_to_units(c.volume, coalesce(s.volume_decimals, 8::smallint)) AS volume, c.trades, c.revision
FROM (
    SELECT '1m' AS timeframe, time, symbol, open, high, low, close, volume::numeric AS volume, trades::bigint AS trades, revision
    FROM candles_1m
    UNION ALL SELECT '5m',  time, symbol, open, high, low, close, volume, trades, revision FROM candles_5m
    UNION ALL SELECT '15m', time, symbol, open, high, low, close, volume, trades, revision FROM candles_15m
    UNION ALL SELECT '1h',  time, symbol, open, high, low, close, volume, trades, revision FROM candles_1h
    UNION ALL SELECT '4h',  time, symbol, open, high, low, close, volume, trades, revision FROM candles_4h
    UNION ALL SELECT '1d',  time, symbol, open, high, low, close, volume, trades, revision FROM candles_1d
) c
LEFT JOIN symbols s USING (symbol);

COMMENT ON VIEW candles_in_units IS 'candles of every timeframe, volume in units of the symbol';

CREATE VIEW ticks_in_units AS
SELECT t.time, t.symbol, t.price,
       lots_to_units(t.lots, coalesce(s.volume_decimals, 8::smallint)) AS qty,
       t.side,
       CASE t.trade_key WHEN '' THEN t.trade_no::text WHEN '@' THEN NULL ELSE t.trade_key END AS trade_id,
       t.revision
FROM ticks t
LEFT JOIN symbols s USING (symbol);

COMMENT ON VIEW ticks_in_units IS 'raw trades, size in units of the symbol, trade id as the exchange gave it';
