DROP TABLE rollup_progress;
DROP TABLE candles_1d;
DROP TABLE candles_4h;
DROP TABLE candles_1h;
DROP TABLE candles_15m;
DROP TABLE candles_5m;
