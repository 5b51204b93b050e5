Feature: Restarts in mid-flow
  Whatever ends a worker, and whenever, every trade is counted exactly once.

  Scenario Outline: The <worker> is told to stop and started again
    Given a running pipeline
    When the replay of the seed trades begins at speed 10000
    And 1000 trades have been folded
    And the <worker> is told to stop
    Then the <worker> exits 0 within its grace period
    When the <worker> is started again
    Then the replay ends well
    And candles_1m holds every trade exactly once
    And ticks holds every trade exactly once
    And every larger timeframe is the plain grouping of candles_1m

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
    Then the replay ends well
    And candles_1m holds every trade exactly once
    And ticks holds every trade exactly once
    And every larger timeframe is the plain grouping of candles_1m

    Examples:
      | worker           |
      | hot-writer       |
      | warm-syncer      |
      | aggregator-admin |

  Scenario: A killed copy that never comes back is replaced by the others
    Given a running pipeline with 2 hot-writers and 2 warm-syncers
    When the replay of the seed trades begins at speed 10000
    And 1000 trades have been folded
    And the hot-writer is killed
    And the warm-syncer is killed
    Then the replay ends well
    And candles_1m holds every trade exactly once
    And ticks holds every trade exactly once

  Scenario: The backup-runner is told to stop
    Given migrated stores
    And the setting STORAGE_BACKUP__FOLDER is "<folder>/backups"
    And the backup-runner is started
    When the backup-runner is told to stop
    Then the backup-runner exits 0 within its grace period

  @own-redis
  Scenario: Redis goes away in mid-flow and comes back
    Given a running pipeline
    When the replay of the seed trades begins at speed 10000
    And 1000 trades have been folded
    And Redis goes away
    And Redis comes back
    Then the replay ends well
    And candles_1m holds every trade exactly once

  @apache @own-redis
  Scenario: Redis is restarted and killed under load
    Given a running pipeline
    When 15000 trades begin to arrive, 1500 a second, from seed 14
    And 1500 more trades have arrived
    And Redis is told to stop and started again
    And 1500 more trades have arrived
    And Redis is killed and started again
    And 1500 more trades have arrived
    And Redis is told to stop and started again
    And 1500 more trades have arrived
    And Redis is killed and started again
    Then all trades have arrived
    And every stream is drained within 60 seconds
    And candles_1m holds every trade exactly once
    And ticks holds every trade exactly once
    And every larger timeframe is the plain grouping of candles_1m
    And the candles in the making of every symbol are the plain grouping of its trades
    And the metric hot_writer_lost_entries_total of the hot-writer is 0
    And the metric warm_syncer_lost_entries_total of the warm-syncer is 0
    And the metric aggregator_admin_lost_entries_total of the aggregator-admin is 0

  @apache
  Scenario: The database ends every connection in mid-flow
    Given a running pipeline
    When the replay of the seed trades begins at speed 10000
    And 1000 trades have been folded
    And the database ends every connection
    Then the replay ends well
    And candles_1m holds every trade exactly once
    And ticks holds every trade exactly once
    And every larger timeframe is the plain grouping of candles_1m
