-- What one lot of a symbol is worth. Volumes are whole lots everywhere in the history, so that sums
-- are exact; this table says how to read them.
CREATE TABLE symbols (
    symbol          text        PRIMARY KEY CHECK (symbol ~ '^[A-Za-z0-9._/-]{1,64}$'),
    volume_decimals smallint    NOT NULL DEFAULT 8 CHECK (volume_decimals BETWEEN 0 AND 18),
    first_seen      timestamptz NOT NULL DEFAULT now()
);

COMMENT ON TABLE symbols IS 'every symbol that has reached the history, and the size of its lot';
COMMENT ON COLUMN symbols.volume_decimals IS
    'one lot is 10^-volume_decimals units; change it only with `aggregator-admin symbols set`, which rescales the rows';
COMMENT ON COLUMN symbols.first_seen IS 'when the symbol was first written here (the clock, not the market''s time)';

-- An exact number of units: no float on the way, and no trailing zeros.
CREATE FUNCTION lots_to_units(lots numeric, volume_decimals smallint) RETURNS numeric
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    RETURN trim_scale(lots * ('1e-' || volume_decimals)::numeric);

COMMENT ON FUNCTION lots_to_units IS 'lots of 10^-volume_decimals, as units';

-- For ad-hoc queries; the views join `symbols` once instead of looking it up for each row.
CREATE FUNCTION volume_units(of_symbol text, lots numeric) RETURNS numeric
    LANGUAGE sql STABLE STRICT PARALLEL SAFE
    RETURN lots_to_units(lots, coalesce((SELECT s.volume_decimals FROM symbols s WHERE s.symbol = of_symbol), 8::smallint));

COMMENT ON FUNCTION volume_units IS 'the volume of a symbol, given in lots, as units';
