-- The history of what strategies said; what is in force now is signal:active:<SYMBOL> in Redis.
CREATE TABLE signals (
    time      timestamptz      NOT NULL,
    symbol    text             NOT NULL,
    signal_id text             NOT NULL,
    strategy  text             NOT NULL,
    side      text             NOT NULL,
    strength  double precision NOT NULL,
    price     double precision,
    expires   timestamptz      NOT NULL,
    revision  bigint           NOT NULL,
    PRIMARY KEY (symbol, time, signal_id)
);

SELECT create_hypertable('signals', by_range('time', INTERVAL '7 days'), create_default_indexes => false);

COMMENT ON TABLE signals IS 'signals of strategies; a redelivered one is the same row';
COMMENT ON COLUMN signals.time IS 'when the strategy made it, in microseconds';
COMMENT ON COLUMN signals.price IS 'price that the signal refers to, in the quote currency';
COMMENT ON COLUMN signals.expires IS 'from then on the signal was no longer active';
COMMENT ON COLUMN signals.revision IS 'stream ID of the entry (ms << 22 | seq)';
