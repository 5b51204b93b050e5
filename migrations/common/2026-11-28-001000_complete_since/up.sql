-- From when on a hypertable holds every row that was ever written to it. Chunks before `since` were dropped; a late row
-- creates such a chunk again with nothing but itself, so that a chunk is no proof that its rows are complete.
-- A table without a row here was never dropped from. `since` only moves forward.
CREATE TABLE complete_since (
    table_name text        PRIMARY KEY,
    since      timestamptz NOT NULL
);

COMMENT ON TABLE complete_since IS 'from when on a hypertable is complete; candles of older times are never computed from it again';
