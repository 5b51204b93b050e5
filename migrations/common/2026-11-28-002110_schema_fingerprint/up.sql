-- The schema as the migrations left it. `migrate` records it, and with `status` and `plan` names what differs from it.
CREATE TABLE schema_fingerprint (
    kind       text NOT NULL,
    object     text NOT NULL,
    definition text NOT NULL,
    PRIMARY KEY (kind, object)
);

COMMENT ON TABLE schema_fingerprint IS 'the schema as the last migration left it';
COMMENT ON COLUMN schema_fingerprint.definition IS 'the statement or clause that creates the object';
