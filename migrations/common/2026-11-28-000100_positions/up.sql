-- How far the history holds each stream. Written in the transaction that writes the rows, so that it is exact: a Redis that was
-- emptied or restored from a backup is recognised by it.
CREATE TABLE positions (
    stream   text   PRIMARY KEY,
    revision bigint NOT NULL
);

COMMENT ON TABLE positions IS 'the last entry of each Redis stream that was written to the history';
COMMENT ON COLUMN positions.stream IS 'the key of the stream';
COMMENT ON COLUMN positions.revision IS 'stream ID of the entry (ms << 22 | seq)';
