-- The largest first: each stands on the smaller one. Their refresh jobs go with them.
DROP MATERIALIZED VIEW candles_1d;
DROP MATERIALIZED VIEW candles_4h;
DROP MATERIALIZED VIEW candles_1h;
DROP MATERIALIZED VIEW candles_15m;
DROP MATERIALIZED VIEW candles_5m;
