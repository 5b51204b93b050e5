Feature: Migrations
  The schema changes by migrations only, and they go down as well as up.

  Scenario: Up, down and up again
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
    And the query "SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relname ~ '^(candles|ticks|signals|symbols|dead_letters)'" gives "0"
    When I run `aggregator-admin migrate`
    Then it exits 0
    Given a running pipeline
    When the seed trades are replayed at speed max
    Then candles_1m holds every trade exactly once
