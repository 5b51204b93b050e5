Feature: Backup and restore
  What is lost is brought back from the last backup, to the last lot; what is damaged is found before it is needed.

  Background:
    Given the setting STORAGE_BACKUP__FOLDER is "<folder>/backups"

  @own-redis
  Scenario: Both stores are lost and restored
    Given a running pipeline
    When the seed trades are replayed at speed max
    Then candles_1m holds every trade exactly once
    And every larger timeframe is the plain grouping of candles_1m
    When I run `backup-runner backup all`
    Then it exits 0
    When I run `backup-runner list`
    Then it exits 0
    And it says "postgres"
    And it says "redis"
    When I run `backup-runner verify`
    Then it exits 0
    When every worker is told to stop
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
    And every larger timeframe is the plain grouping of candles_1m
    And the candles in the making of XRPETH in every timeframe are the plain grouping of its trades
    Given a running pipeline
    When these trades arrive:
      | symbol | time                 | price | qty | id |
      | ETHBTC | 2024-03-01T12:00:20Z | 102   | 1   | 1  |
    Then candles_1m holds every trade exactly once

  Scenario Outline: A flipped byte of the <kind> backup is found
    Given migrated stores
    When I run `backup-runner backup all`
    Then it exits 0
    When a byte of the <kind> backup is flipped
    And I run `backup-runner verify`
    Then it exits 1
    And it says "was changed"

    Examples:
      | kind     |
      | redis    |
      | postgres |

  Scenario: Data is never restored over data
    Given migrated stores
    When I run `backup-runner backup all`
    Then it exits 0
    When I run `backup-runner restore postgres latest`
    Then it exits 1
    And it says "holds"
    When I run `backup-runner restore redis latest`
    Then it exits 1
    And it says "holds"
