Feature: Restarts under load lose no trade
  A worker may stop at any time for any reason; every trade is counted exactly once.

  Scenario Outline: The <worker> receives SIGTERM and is started again
    Given a running pipeline
    When the replay of the seed trades begins at speed 10000
    And 1000 trades have been folded
    And the <worker> receives SIGTERM
    Then the <worker> exits 0 within its grace period
    When the <worker> is started again
    Then the replay succeeds
    And candles_1m holds every trade exactly once
    And ticks holds every trade exactly once
    And every larger timeframe is the aggregate of candles_1m

    Examples:
      | worker           |
      | hot-writer       |
      | warm-syncer      |
      | aggregator-admin |

  Scenario Outline: The <worker> is killed and started again
    Given a running pipeline
    When the replay of the seed trades begins at speed 10000
    And 1000 trades have been folded
    And the <worker> is killed
    And the <worker> is started again
    Then the replay succeeds
    And candles_1m holds every trade exactly once
    And ticks holds every trade exactly once
    And every larger timeframe is the aggregate of candles_1m

    Examples:
      | worker           |
      | hot-writer       |
      | warm-syncer      |
      | aggregator-admin |

  Scenario: Other replicas acquire the partitions of a killed replica
    Given a running pipeline with 2 hot-writers and 2 warm-syncers
    When the replay of the seed trades begins at speed 10000
    And 1000 trades have been folded
    And the hot-writer is killed
    And the warm-syncer is killed
    Then the replay succeeds
    And candles_1m holds every trade exactly once
    And ticks holds every trade exactly once

  Scenario: The backup-runner exits 0 after SIGTERM
    Given migrated stores
    And the setting STORAGE_BACKUP__FOLDER is "<folder>/backups"
    And the backup-runner is started
    When the backup-runner receives SIGTERM
    Then the backup-runner exits 0 within its grace period

  @own-redis
  Scenario: Redis is killed under load and started again
    Given a running pipeline
    When the replay of the seed trades begins at speed 10000
    And 1000 trades have been folded
    And Redis is killed
    And Redis is started again
    Then the replay succeeds
    And candles_1m holds every trade exactly once

  @apache @own-redis
  Scenario: Redis is stopped and killed repeatedly under load
    Given a running pipeline
    When a feed starts sending 15000 trades at 1500 per second, with seed 14
    And 1500 more trades have arrived
    And Redis is stopped and started again
    And 1500 more trades have arrived
    And Redis is killed and started again
    And 1500 more trades have arrived
    And Redis is stopped and started again
    And 1500 more trades have arrived
    And Redis is killed and started again
    Then all trades have arrived
    And every stream is drained within 60 seconds
    And candles_1m holds every trade exactly once
    And ticks holds every trade exactly once
    And every larger timeframe is the aggregate of candles_1m
    And the open candle of every symbol in every timeframe is the aggregate of its trades
    And the metric hot_writer_lost_entries_total of the hot-writer is 0
    And the metric warm_syncer_lost_entries_total of the warm-syncer is 0
    And the metric aggregator_admin_lost_entries_total of the aggregator-admin is 0

  @apache
  Scenario: PostgreSQL terminates every session under load
    Given a running pipeline
    When the replay of the seed trades begins at speed 10000
    And 1000 trades have been folded
    And PostgreSQL terminates every session
    Then the replay succeeds
    And candles_1m holds every trade exactly once
    And ticks holds every trade exactly once
    And every larger timeframe is the aggregate of candles_1m

  @apache @own-network
  Scenario Outline: The connection of the <worker> to <store> breaks at any message of its start
    Given migrated stores
    And a proxy between each worker and each of its stores
    When the <worker> is started again and again, and its connection to <store> breaks at each "<message>" in turn
    Then it broke at least <times> times, and the worker became ready each time

    Examples:
      | worker           | store      | message | times |
      | hot-writer       | Redis      | *       | 3     |
      | warm-syncer      | PostgreSQL | SELECT  | 5     |
      | aggregator-admin | PostgreSQL | SELECT  | 5     |
