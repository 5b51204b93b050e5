-- The symbols of more markets: `^GSPC`, `M&M.NS`, options, names in other scripts. The workers also refuse invisible
-- characters, which PostgreSQL has no class for.
ALTER TABLE symbols
    DROP CONSTRAINT symbols_symbol_check,
    ADD CONSTRAINT symbols_symbol_check CHECK (
        octet_length(symbol) BETWEEN 1 AND 64 AND symbol !~ '[{}:[:space:][:cntrl:]]'
    );

-- Spreads, funding rates and power have prices below zero.
ALTER TABLE symbols
    ADD COLUMN prices text NOT NULL DEFAULT 'positive' CHECK (prices IN ('positive', 'any'));

COMMENT ON COLUMN symbols.prices IS
    '`any` if prices may be zero or negative; change it with `aggregator-admin symbols set`';
