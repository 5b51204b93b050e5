-- Results of the comparison of the history with its sources that aggregator-admin runs in the background.
CREATE TABLE verified_days (
    day         date        PRIMARY KEY,
    checked     timestamptz NOT NULL,
    differences bigint      NOT NULL,
    missing     bigint      NOT NULL
);

COMMENT ON TABLE verified_days IS 'last comparison of each day of candles with their ticks, by aggregator-admin';
COMMENT ON COLUMN verified_days.differences IS 'number of candles that differed from their source';
COMMENT ON COLUMN verified_days.missing IS 'number of minutes of all symbols whose trades are missing';

-- A Redis that lost entries accepts the same trades again under later stream IDs. The first ID counts in `ticks`, the
-- later one in the candle.
CREATE TABLE lost_entries (
    stream   text        NOT NULL,
    after    bigint      NOT NULL,
    until    bigint      NOT NULL,
    found_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (stream, after, until)
);

COMMENT ON TABLE lost_entries IS 'written entries that Redis has lost: it was emptied or restored to an earlier state';
COMMENT ON COLUMN lost_entries.after IS 'last entry that Redis still had (ms << 22 | seq)';
COMMENT ON COLUMN lost_entries.until IS 'last entry that was lost';
