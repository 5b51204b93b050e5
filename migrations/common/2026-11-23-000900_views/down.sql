DROP VIEW ticks_in_units;
DROP VIEW candles_in_units;
