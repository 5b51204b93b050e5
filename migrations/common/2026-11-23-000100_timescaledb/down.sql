-- The extension stays: dropping it would take every hypertable of the database along, also those
-- that do not belong to this schema.
SELECT 1;
