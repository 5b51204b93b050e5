-- Hypertables need the extension. A database administrator may have created it already, and other
-- schemas of the same database may use it: so it is taken as found, and `down.sql` leaves it.
CREATE EXTENSION IF NOT EXISTS timescaledb;
