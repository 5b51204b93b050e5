-- The Apache edition has no continuous aggregates: the larger timeframes are hypertables under the
-- same names and columns, and aggregator-admin fills them. trades is wider than in candles_1m and
-- volume is numeric, because a sum must not overflow and stop every refresh.
-- Chunks hold about as many rows as a day of candles_1m or less.

CREATE TABLE candles_5m (
    time     timestamptz      NOT NULL,
    symbol   text             NOT NULL,
    open     double precision NOT NULL,
    high     double precision NOT NULL,
    low      double precision NOT NULL,
    close    double precision NOT NULL,
    volume   numeric          NOT NULL,
    trades   bigint           NOT NULL,
    revision bigint           NOT NULL,
    PRIMARY KEY (symbol, time)
);
SELECT create_hypertable('candles_5m', by_range('time', INTERVAL '7 days'), create_default_indexes => false);
COMMENT ON TABLE candles_5m IS '5-minute candles in UTC, kept by aggregator-admin from candles_1m; volume in lots';

CREATE TABLE candles_15m (
    time     timestamptz      NOT NULL,
    symbol   text             NOT NULL,
    open     double precision NOT NULL,
    high     double precision NOT NULL,
    low      double precision NOT NULL,
    close    double precision NOT NULL,
    volume   numeric          NOT NULL,
    trades   bigint           NOT NULL,
    revision bigint           NOT NULL,
    PRIMARY KEY (symbol, time)
);
SELECT create_hypertable('candles_15m', by_range('time', INTERVAL '14 days'), create_default_indexes => false);
COMMENT ON TABLE candles_15m IS '15-minute candles in UTC, kept by aggregator-admin from candles_5m; volume in lots';

CREATE TABLE candles_1h (
    time     timestamptz      NOT NULL,
    symbol   text             NOT NULL,
    open     double precision NOT NULL,
    high     double precision NOT NULL,
    low      double precision NOT NULL,
    close    double precision NOT NULL,
    volume   numeric          NOT NULL,
    trades   bigint           NOT NULL,
    revision bigint           NOT NULL,
    PRIMARY KEY (symbol, time)
);
SELECT create_hypertable('candles_1h', by_range('time', INTERVAL '60 days'), create_default_indexes => false);
COMMENT ON TABLE candles_1h IS '1-hour candles in UTC, kept by aggregator-admin from candles_15m; volume in lots';

CREATE TABLE candles_4h (
    time     timestamptz      NOT NULL,
    symbol   text             NOT NULL,
    open     double precision NOT NULL,
    high     double precision NOT NULL,
    low      double precision NOT NULL,
    close    double precision NOT NULL,
    volume   numeric          NOT NULL,
    trades   bigint           NOT NULL,
    revision bigint           NOT NULL,
    PRIMARY KEY (symbol, time)
);
SELECT create_hypertable('candles_4h', by_range('time', INTERVAL '180 days'), create_default_indexes => false);
COMMENT ON TABLE candles_4h IS '4-hour candles in UTC, kept by aggregator-admin from candles_1h; volume in lots';

CREATE TABLE candles_1d (
    time     timestamptz      NOT NULL,
    symbol   text             NOT NULL,
    open     double precision NOT NULL,
    high     double precision NOT NULL,
    low      double precision NOT NULL,
    close    double precision NOT NULL,
    volume   numeric          NOT NULL,
    trades   bigint           NOT NULL,
    revision bigint           NOT NULL,
    PRIMARY KEY (symbol, time)
);
SELECT create_hypertable('candles_1d', by_range('time', INTERVAL '1000 days'), create_default_indexes => false);
COMMENT ON TABLE candles_1d IS '1-day candles in UTC, kept by aggregator-admin from candles_4h; volume in lots';

-- How far each table has been made, as continuous aggregates know it by their watermark: after a long
-- stop aggregator-admin goes on from here, so that no gap stays between this and its refresh window.
CREATE TABLE rollup_progress (
    timeframe       text        PRIMARY KEY,
    refreshed_until timestamptz NOT NULL
);

COMMENT ON TABLE rollup_progress IS 'end of the newest range that aggregator-admin has made, per timeframe';
