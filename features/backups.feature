Feature: Backup and restore
  A restore brings back exactly what was backed up. `backup-runner verify` finds damaged backups.

  Background:
    Given the setting STORAGE_BACKUP__FOLDER is "<folder>/backups"

  @own-redis
  Scenario: Both stores are lost, and a restore brings back every trade
    Given a running pipeline
    When the seed trades are replayed at speed max
    Then candles_1m holds every trade exactly once
    And every larger timeframe is the aggregate of candles_1m
    When I run `backup-runner backup all`
    Then it exits 0
    When I run `backup-runner list`
    Then it exits 0
    And it says "postgres"
    And it says "redis"
    When I run `backup-runner verify`
    Then it exits 0
    When every worker is stopped
    And both stores are lost
    And I run `backup-runner restore redis latest`
    Then it exits 0
    When I run `backup-runner restore postgres latest`
    Then it exits 0
    And it says "aggregator-admin migrate --adopt-database"
    When I run `aggregator-admin migrate --adopt-database`
    Then it exits 0
    And candles_1m holds every trade exactly once
    And ticks holds every trade exactly once
    And every larger timeframe is the aggregate of candles_1m
    And the open candle of XRPETH in every timeframe is the aggregate of its trades
    Given a running pipeline
    When these trades arrive:
      | symbol | time                 | price | qty | id |
      | ETHBTC | 2024-03-01T12:00:20Z | 102   | 1   | 1  |
    Then candles_1m holds every trade exactly once

  @apache
  Scenario: Only the database is restored, from a dump that is older than Redis
    Given the setting STORAGE_HOT__CLOSE_GRACE is "1s"
    And a running pipeline
    When 20 trades of AAA arrive, one per second from 2024-01-15T10:00:50Z
    Then candles_1m holds every trade exactly once
    And every stream is drained
    When I run `backup-runner backup postgres`
    Then it exits 0
    When 20 trades of AAA arrive, one per second from 2024-01-15T10:02:50Z
    Then candles_1m holds every trade exactly once
    And every stream is drained
    When the database is lost
    And I run `backup-runner restore postgres latest`
    Then it exits 0
    When I run `aggregator-admin migrate --adopt-database`
    Then it exits 0
    Given a running pipeline
    Then the log of the warm-syncer contains "the database is older than Redis"
    And candles_1m holds every trade exactly once
    And ticks holds every trade exactly once
    And every larger timeframe is the aggregate of candles_1m
    And `aggregator-admin verify` soon exits 0

  Scenario Outline: A flipped byte in the <kind> backup is detected
    Given migrated stores
    When I run `backup-runner backup all`
    Then it exits 0
    When a byte in the <kind> backup is flipped
    And I run `backup-runner verify`
    Then it exits 1
    And it says "was changed"

    Examples:
      | kind     |
      | redis    |
      | postgres |

  Scenario: A restore into a store that contains data is refused
    Given migrated stores
    When I run `backup-runner backup all`
    Then it exits 0
    When I run `backup-runner restore postgres latest`
    Then it exits 1
    And it says "holds"
    When I run `backup-runner restore redis latest`
    Then it exits 1
    And it says "holds"
