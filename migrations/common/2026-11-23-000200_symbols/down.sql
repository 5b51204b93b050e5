DROP FUNCTION volume_units(text, numeric);
DROP FUNCTION lots_to_units(numeric, smallint);
DROP TABLE symbols;
