-- Entries that no worker could use, kept with the reason until somebody looks at them.
-- An ordinary table: there are few of them, and they are changed (requeued).
CREATE TABLE dead_letters (
    stream      text        NOT NULL,
    entry_id    text        NOT NULL,
    reason      text        NOT NULL,
    fields      jsonb       NOT NULL,
    truncated   boolean     NOT NULL DEFAULT false,
    first_seen  timestamptz NOT NULL DEFAULT now(),
    requeued_at timestamptz,
    requeued_as text,
    PRIMARY KEY (stream, entry_id)
);

CREATE INDEX dead_letters_first_seen ON dead_letters (first_seen);

COMMENT ON TABLE dead_letters IS 'stream entries that could not be used, and why';
COMMENT ON COLUMN dead_letters.stream IS 'the stream that held the entry';
COMMENT ON COLUMN dead_letters.entry_id IS 'the entry''s ID in that stream';
COMMENT ON COLUMN dead_letters.fields IS 'the original fields; bytes that are not text were replaced';
COMMENT ON COLUMN dead_letters.truncated IS 'a value was too long and was cut, so the entry cannot be requeued';
COMMENT ON COLUMN dead_letters.requeued_as IS 'ID of the entry that was written in its place';
