@own-redis
Feature: Access control
  Each worker has its own Redis user, which has the permissions that the worker needs and no others.

  Scenario: The pipeline works with the least permissions
    Given a running pipeline
    And the setting STORAGE_BACKUP__FOLDER is "<folder>/backups"
    When the seed trades are replayed at speed max
    And a signal of the strategy momentum for BTCUSDT arrives with a TTL of 60000 ms
    Then candles_1m holds every trade exactly once
    And ticks holds every trade exactly once
    And every larger timeframe is the aggregate of candles_1m
    And the key signal:active:BTCUSDT exists
    When a trade of BTCUSDT arrives with price "-1"
    Then a dead letter reports "must be positive"
    When these trades arrive:
      | symbol | time                 | price   | qty | id |
      | XRPETH | 2019-10-11T00:00:30Z | 0.00141 | 5   | 9  |
    Then candles_1m holds every trade exactly once
    When I run `backup-runner backup redis`
    Then it exits 0
    When I run `aggregator-admin status`
    Then it exits 0

  @redis-only
  Scenario: Commands that a user does not need are rejected
    Then Redis rejects these commands:
      | user             | command                          |
      | default          | PING                             |
      | hot-writer       | FLUSHALL                         |
      | hot-writer       | CONFIG GET requirepass           |
      | hot-writer       | XADD stream:rollups * a b        |
      | hot-writer       | SET stream:partitions 9          |
      | warm-syncer      | HSET tick:latest:BTCUSDT price 1 |
      | warm-syncer      | FUNCTION FLUSH                   |
      | warm-syncer      | KEYS *                           |
      | aggregator-admin | DEL tick:latest:BTCUSDT          |
      | aggregator-admin | CONFIG SET appendonly no         |
      | backup-runner    | DEL tick:latest:BTCUSDT          |
      | backup-runner    | XADD stream:ticks:0 * a b        |
      | feed-handler     | XADD stream:signals * a b        |
      | feed-handler     | HGETALL tick:latest:BTCUSDT      |
      | strategy         | XADD stream:ticks:0 * a b        |
      | reader           | HSET tick:latest:BTCUSDT price 1 |
      | reader           | XADD stream:ticks:0 * a b        |

  @openssl
  Scenario: The pipeline works over TLS
    Given Redis with TLS
    And a running pipeline
    And the setting STORAGE_BACKUP__FOLDER is "<folder>/backups"
    When the seed trades are replayed at speed max
    Then candles_1m holds every trade exactly once
    When I run `backup-runner backup redis`
    Then it exits 0

  @openssl @redis-only
  Scenario: A certificate of an unknown authority is rejected
    Given Redis with TLS
    And the setting STORAGE_REDIS__CA_FILE is ""
    When I run `aggregator-admin migrate --wait 3s`
    Then it exits 64
    And it says "certificate"
