-- When each feed was connected, and to which symbols it was subscribed, from its heartbeats on stream:feeds.
CREATE TABLE coverage (
    feed    text        NOT NULL,
    since   timestamptz NOT NULL,
    until   timestamptz NOT NULL,
    symbols text[]      NOT NULL,
    is_down boolean     NOT NULL,
    PRIMARY KEY (feed, since)
);

COMMENT ON TABLE coverage IS 'times in which a feed was connected and subscribed to the same symbols without interruption';
COMMENT ON COLUMN coverage.until IS 'last heartbeat of this time';
COMMENT ON COLUMN coverage.is_down IS 'the feed has announced the end of this time';
