ALTER TABLE symbols DROP COLUMN prices;

-- Symbols that were accepted meanwhile keep their rows.
ALTER TABLE symbols
    DROP CONSTRAINT symbols_symbol_check,
    ADD CONSTRAINT symbols_symbol_check CHECK (symbol ~ '^[A-Za-z0-9._/-]{1,64}$') NOT VALID;
