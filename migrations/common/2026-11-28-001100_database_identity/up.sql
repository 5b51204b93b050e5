-- Tells this history from every other one. Redis notes it together with the server and the database that hold it, so that a worker
-- that is led to another database writes nothing there. A dump carries it along.
CREATE TABLE database_identity (
    is_only boolean PRIMARY KEY DEFAULT true CHECK (is_only),
    id      uuid    NOT NULL DEFAULT gen_random_uuid()
);
INSERT INTO database_identity DEFAULT VALUES;

COMMENT ON TABLE database_identity IS 'one row: the identity of this history';
