@serial
Feature: Redis at its memory limit
  No entry is evicted or trimmed unread. At the memory limit, Redis refuses producers' writes while the workers
  go on.

  @apache @own-redis
  Scenario: Redis reaches its memory limit while the database is down, and no trade is lost
    Given the setting STORAGE_STREAM__RETENTION is "1s"
    And the setting STORAGE_HOT__DEDUP_WINDOW is "5s"
    And a dedicated database server
    And a running pipeline
    And Redis has 4 MB of free memory
    When PostgreSQL is killed
    And a feed starts sending 150000 trades at full speed, with seed 13
    Then Redis refuses further trades
    And the aggregator-admin is not ready and reports "maxmemory"
    And the hot-writer has read every trade that Redis accepted
    When PostgreSQL is started again
    Then all trades have arrived
    And every stream is drained within 60 seconds
    And candles_1m holds every trade exactly once
    And ticks holds every trade exactly once
    And every larger timeframe is the aggregate of candles_1m
    And the aggregator-admin becomes ready

  Scenario: An abandoned consumer group is reported and can be removed
    Given the setting STORAGE_STREAM__RETENTION is "1s"
    And the setting STORAGE_HOT__DEDUP_WINDOW is "1s"
    And a running pipeline
    And a consumer group audit without consumers on every tick stream
    When the seed trades are replayed at speed max
    Then candles_1m holds every trade exactly once
    And the metric aggregator_admin_group_lag_entries{stream="ticks:2",group="audit"} of the aggregator-admin is 3991
    When I run `aggregator-admin groups`
    Then it exits 0
    And it says "external"
    When I run `aggregator-admin groups remove ticks:2 hot-writer`
    Then it exits 64
    And it says "one of the pipeline's own groups"
    When I run `aggregator-admin groups remove ticks:2 audit`
    Then it exits 0
    And it says "3,991 entries were not read by it"
    And stream:ticks:2 contains fewer than 200 entries
