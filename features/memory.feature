@serial
Feature: Redis is full
  Nothing that Redis accepted is evicted or trimmed unread: when its memory is full producers wait, and the workers go on.

  @apache @own-redis
  Scenario: The database is down until Redis is full, and comes back
    Given the setting STORAGE_STREAM__RETENTION is "1s"
    And the setting STORAGE_HOT__DEDUP_WINDOW is "5s"
    And a database server of its own
    And a running pipeline
    And Redis has room for 4 MB more
    When PostgreSQL goes away
    And 150000 trades begin to arrive, flat out, from seed 13
    Then the feed has to wait
    And the aggregator-admin is not ready because of maxmemory
    And the hot-writers have folded all that Redis accepted
    When PostgreSQL comes back
    Then all trades have arrived
    And every stream is drained within 60 seconds
    And candles_1m holds every trade exactly once
    And ticks holds every trade exactly once
    And every larger timeframe is the plain grouping of candles_1m
    And the aggregator-admin becomes ready

  Scenario: A group that nobody reads as any more is found and removed
    Given the setting STORAGE_STREAM__RETENTION is "1s"
    And the setting STORAGE_HOT__DEDUP_WINDOW is "1s"
    And a running pipeline
    And a group audit on every tick stream that nobody reads as
    When the seed trades are replayed at speed max
    Then candles_1m holds every trade exactly once
    And the metric aggregator_admin_group_lag_entries{stream="ticks:2",group="audit"} of the aggregator-admin is 3991
    When I run `aggregator-admin groups`
    Then it exits 0
    And it says "another's"
    When I run `aggregator-admin groups remove ticks:2 hot-writer`
    Then it exits 64
    And it says "one of the pipeline's own groups"
    When I run `aggregator-admin groups remove ticks:2 audit`
    Then it exits 0
    And it says "3,991 entries were not read by it"
    And fewer than 200 entries of stream:ticks:2 are left
