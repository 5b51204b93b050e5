-- All versions of the trades that were corrected or busted, the first one included; `ticks` holds the current one, and
-- of a busted trade none. Retention does not drop them, so that a busted trade that is sent again stays busted.
CREATE TABLE tick_versions (
    time      timestamptz      NOT NULL,
    symbol    text             NOT NULL,
    price     double precision,
    qty       numeric,
    side      text,
    trade_no  bigint           NOT NULL,
    trade_key text             NOT NULL,
    revision  bigint           NOT NULL,
    PRIMARY KEY (symbol, time, trade_no, trade_key, revision)
);

COMMENT ON TABLE tick_versions IS 'versions of the trades that were corrected or busted; the last one of a trade counts';
COMMENT ON COLUMN tick_versions.time IS 'the market''s time of the trade, as in ticks';
COMMENT ON COLUMN tick_versions.price IS 'in the quote currency; null: the trade was busted';
COMMENT ON COLUMN tick_versions.qty IS 'in units of the symbol; null: the trade was busted';
COMMENT ON COLUMN tick_versions.revision IS 'stream ID of the entry that made this version (ms << 22 | seq)';
