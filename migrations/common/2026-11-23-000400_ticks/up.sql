-- Every tick that was accepted, also those too late for their candle: minutes are repaired from here.
--
-- A trade id is any text, but nearly always a number that counts up. Kept as a number it takes less
-- than a byte once compressed, as text several; and it is needed only as part of the key. So:
--   trade_id '4711'           trade_no 4711       trade_key ''
--   trade_id 'f81d4fae-7dec'  trade_no 0          trade_key 'f81d4fae-7dec'
--   none                      trade_no revision   trade_key '@'      (equal trades are all distinct)
-- The view ticks_in_units shows the trade id again.
CREATE TABLE ticks (
    time      timestamptz      NOT NULL,
    symbol    text             NOT NULL,
    price     double precision NOT NULL,
    lots      bigint           NOT NULL,
    side      text,
    trade_no  bigint           NOT NULL,
    trade_key text             NOT NULL,
    revision  bigint           NOT NULL,
    PRIMARY KEY (symbol, time, trade_no, trade_key)
);

SELECT create_hypertable('ticks', by_range('time', INTERVAL '1 day'), create_default_indexes => false);

COMMENT ON TABLE ticks IS 'raw trades, unique by symbol, time and trade id (without one: stream ID)';
COMMENT ON COLUMN ticks.time IS 'the market''s time of the trade, in microseconds';
COMMENT ON COLUMN ticks.price IS 'in the quote currency';
COMMENT ON COLUMN ticks.lots IS 'size in lots of 10^-symbols.volume_decimals units; see ticks_in_units';
COMMENT ON COLUMN ticks.side IS 'of the aggressor: buy or sell; null: not known';
COMMENT ON COLUMN ticks.trade_no IS 'numeric trade id; 0 where trade_key holds the id; the stream ID where there is none';
COMMENT ON COLUMN ticks.trade_key IS 'empty for a numeric trade id, @ for none, else the id';
COMMENT ON COLUMN ticks.revision IS 'stream ID of the entry (ms << 22 | seq): orders ticks of the same microsecond';
