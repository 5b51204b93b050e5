-- Changes of the lots of a symbol. A change is complete when the larger timeframes of its range are refreshed.
CREATE TABLE symbol_changes (
    changed_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    symbol        text        NOT NULL,
    from_decimals smallint    NOT NULL,
    to_decimals   smallint    NOT NULL,
    candles       bigint      NOT NULL,
    ticks         bigint      NOT NULL,
    reason        text        NOT NULL,
    refresh_from  timestamptz,
    refresh_to    timestamptz,
    is_complete   boolean     NOT NULL DEFAULT false,
    PRIMARY KEY (symbol, changed_at)
);

COMMENT ON TABLE symbol_changes IS 'changes of the lots of symbols, by an operator or by aggregator-admin';
COMMENT ON COLUMN symbol_changes.candles IS 'number of rewritten rows of candles_1m';
COMMENT ON COLUMN symbol_changes.ticks IS 'number of rewritten rows of ticks';
COMMENT ON COLUMN symbol_changes.refresh_from IS 'begin of the range whose larger timeframes have to be refreshed';

CREATE INDEX symbol_changes_incomplete ON symbol_changes (changed_at) WHERE NOT is_complete;

-- Dead letters of quantities that did not fit the lots of their symbol; aggregator-admin looks for new ones.
CREATE INDEX dead_letters_of_lots ON dead_letters (first_seen)
    WHERE requeued_at IS NULL AND reason LIKE '%lots of 10^-%';
