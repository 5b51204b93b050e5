@own-redis
Feature: Lost state
  The hot view is built from what hot-writer left in Redis. Whatever Redis has lost of it is computed from the history again, and
  until then a candle is not shown rather than shown with a part of its trades.

  Background:
    Given the setting STORAGE_HOT__CLOSE_GRACE is "1h"
    And a running pipeline

  Scenario: Every hot-writer is away for longer than candles live
    When 8 trades of AAA arrive from 2024-01-15T10:00:00Z on, one a second
    Then the candles in the making of AAA in every timeframe are the plain grouping of its trades
    When the hot-writer is killed
    And every candle in Redis has expired
    And 5 trades of AAA arrive from 2024-01-15T10:00:20Z on, one a second
    And the setting STORAGE_HOT__CLOSE_GRACE is "1s"
    And the hot-writer is started again
    Then candles_1m holds every trade exactly once
    And the candles in the making of AAA in every timeframe are the plain grouping of its trades
    And the metric hot_writer_restored_candles_total of the hot-writer is 6

  Scenario Outline: A hot-writer is killed while a minute waits for late trades, and is away until <expired> has expired
    When 50 trades of AAA arrive from 2024-01-15T10:00:00Z on, one a second
    And 1 trade of AAA arrives from 2024-01-15T10:01:00Z on, one a second
    Then Redis holds the key candle:recent:1m:AAA:1705312800
    And the candles in the making of AAA in every timeframe are the plain grouping of its trades
    When the hot-writer is killed
    And <expired> in Redis has expired
    And the setting STORAGE_HOT__CLOSE_GRACE is "1s"
    And the hot-writer is started again
    Then candles_1m holds every trade exactly once
    And the candles in the making of AAA in every timeframe are the plain grouping of its trades

    Examples:
      | expired             |
      | every closed candle |
      | every candle        |

  Scenario: Redis is emptied
    When 8 trades of AAA arrive from 2024-01-15T10:00:00Z on, one a second
    And 8 trades of BBB arrive from 2024-01-15T10:00:00Z on, one a second
    Then ticks holds every trade exactly once
    And every stream is drained
    When Redis is emptied
    And the setting STORAGE_HOT__CLOSE_GRACE is "1s"
    And I run `aggregator-admin migrate`
    And the hot-writer, the warm-syncer and the aggregator-admin are killed and started again
    And 5 trades of AAA arrive from 2024-01-15T10:00:20Z on, one a second
    Then candles_1m holds every trade exactly once
    And ticks holds every trade exactly once
    And the candles in the making of AAA in every timeframe are the plain grouping of its trades

  Scenario: Redis is restored from a backup that is older than the database
    When 8 trades of AAA arrive from 2024-01-15T10:00:00Z on, one a second
    Then the candles in the making of AAA in every timeframe are the plain grouping of its trades
    And every stream is drained
    When Redis is backed up
    And 3 trades of AAA arrive from 2024-01-15T10:00:10Z on, one a second
    And 2 trades of BBB arrive from 2024-01-15T10:00:10Z on, one a second
    Then ticks holds every trade exactly once
    And every stream is drained
    When the setting STORAGE_HOT__CLOSE_GRACE is "1s"
    And Redis is restored from that backup
    And the hot-writer is killed
    And the hot-writer is started again
    And 5 trades of AAA arrive from 2024-01-15T10:00:20Z on, one a second
    Then candles_1m holds every trade exactly once
    And ticks holds every trade exactly once
    And the candles in the making of AAA in every timeframe are the plain grouping of its trades
    And the candles in the making of BBB in every timeframe are the plain grouping of its trades
