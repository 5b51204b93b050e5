@own-redis
Feature: Lost hot state
  hot-writer keeps its state in Redis. State that Redis has lost is computed again from the history. Until then,
  a candle that would lack trades is not written.

  Background:
    Given the setting STORAGE_HOT__CLOSE_GRACE is "1h"
    And a running pipeline

  Scenario: Open candles that expire while no hot-writer runs are restored
    When 8 trades of AAA arrive, one per second from 2024-01-15T10:00:00Z
    Then the open candle of AAA in every timeframe is the aggregate of its trades
    When the hot-writer is killed
    And every candle in Redis has expired
    And 5 trades of AAA arrive, one per second from 2024-01-15T10:00:20Z
    And the setting STORAGE_HOT__CLOSE_GRACE is "1s"
    And the hot-writer is started again
    Then candles_1m holds every trade exactly once
    And the open candle of AAA in every timeframe is the aggregate of its trades
    And the metric hot_writer_restored_candles_total of the hot-writer is 6

  Scenario Outline: Candles are restored if <expired> expires while the hot-writer is down
    When 50 trades of AAA arrive, one per second from 2024-01-15T10:00:00Z
    And a trade of AAA arrives with the event time 2024-01-15T10:01:00Z
    Then the key candle:recent:1m:AAA:1705312800 exists
    And the open candle of AAA in every timeframe is the aggregate of its trades
    When the hot-writer is killed
    And <expired> in Redis has expired
    And the setting STORAGE_HOT__CLOSE_GRACE is "1s"
    And the hot-writer is started again
    Then candles_1m holds every trade exactly once
    And the open candle of AAA in every timeframe is the aggregate of its trades

    Examples:
      | expired             |
      | every closed candle |
      | every candle        |

  Scenario: The hot view is restored after Redis was emptied
    When 8 trades of AAA arrive, one per second from 2024-01-15T10:00:00Z
    And 8 trades of BBB arrive, one per second from 2024-01-15T10:00:00Z
    Then ticks holds every trade exactly once
    And every stream is drained
    When Redis is emptied
    And the setting STORAGE_HOT__CLOSE_GRACE is "1s"
    And I run `aggregator-admin migrate`
    And every worker is killed and started again
    And 5 trades of AAA arrive, one per second from 2024-01-15T10:00:20Z
    Then candles_1m holds every trade exactly once
    And ticks holds every trade exactly once
    And the open candle of AAA in every timeframe is the aggregate of its trades

  Scenario: The hot view is restored after Redis was reset to a backup older than the database
    When 8 trades of AAA arrive, one per second from 2024-01-15T10:00:00Z
    Then the open candle of AAA in every timeframe is the aggregate of its trades
    And every stream is drained
    When Redis is backed up
    And 3 trades of AAA arrive, one per second from 2024-01-15T10:00:10Z
    And 2 trades of BBB arrive, one per second from 2024-01-15T10:00:10Z
    Then ticks holds every trade exactly once
    And every stream is drained
    When the setting STORAGE_HOT__CLOSE_GRACE is "1s"
    And Redis is restored from that backup
    And the hot-writer is killed
    And the hot-writer is started again
    And 5 trades of AAA arrive, one per second from 2024-01-15T10:00:20Z
    Then candles_1m holds every trade exactly once
    And ticks holds every trade exactly once
    And the open candle of AAA in every timeframe is the aggregate of its trades
    And the open candle of BBB in every timeframe is the aggregate of its trades
