Feature: Migrations
  Only migrations change the schema. Each can be reverted.

  Scenario: The schema is migrated, reverted and migrated again
    Given an empty database
    When I run `aggregator-admin migrate`
    Then it exits 0
    And it says "schema: ran"
    And it says "partitions: 4"
    When I run `aggregator-admin migrate`
    Then it exits 0
    And it says "nothing to do"
    When I run `aggregator-admin migrate --down`
    Then it exits 64
    And it says "--yes"
    When I run `aggregator-admin migrate --down --yes`
    Then it exits 0
    And these queries return:
      | query                                                                                                                                       | result |
      | SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relname ~ '^(candles\|ticks\|signals\|symbols\|dead_letters)' | 0      |
    When I run `aggregator-admin migrate`
    Then it exits 0
    Given a running pipeline
    When the seed trades are replayed at speed max
    Then candles_1m holds every trade exactly once
