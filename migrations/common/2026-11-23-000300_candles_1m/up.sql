-- The smallest timeframe: what warm-syncer writes, and what every larger timeframe is made from.
CREATE TABLE candles_1m (
    time     timestamptz      NOT NULL,
    symbol   text             NOT NULL,
    open     double precision NOT NULL,
    high     double precision NOT NULL,
    low      double precision NOT NULL,
    close    double precision NOT NULL,
    volume   bigint           NOT NULL,
    trades   integer          NOT NULL,
    revision bigint           NOT NULL,
    PRIMARY KEY (symbol, time)
);

-- No index on time alone: queries name a symbol, and the refresh of a range reads whole chunks.
SELECT create_hypertable('candles_1m', by_range('time', INTERVAL '1 day'), create_default_indexes => false);

COMMENT ON TABLE candles_1m IS '1-minute candles in UTC, half open [time, time + 1 minute)';
COMMENT ON COLUMN candles_1m.time IS 'start of the minute';
COMMENT ON COLUMN candles_1m.open IS 'price of the first trade, in the quote currency';
COMMENT ON COLUMN candles_1m.high IS 'highest price, in the quote currency';
COMMENT ON COLUMN candles_1m.low IS 'lowest price, in the quote currency';
COMMENT ON COLUMN candles_1m.close IS 'price of the last trade, in the quote currency';
COMMENT ON COLUMN candles_1m.volume IS 'lots of 10^-symbols.volume_decimals units; see candles_in_units';
COMMENT ON COLUMN candles_1m.trades IS 'number of trades';
COMMENT ON COLUMN candles_1m.revision IS
    'stream ID of the last tick folded in (ms << 22 | seq); a write with an older one changes nothing';
