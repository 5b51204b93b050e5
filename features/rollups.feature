@any-redis
Feature: Larger timeframes
  Every larger timeframe is a materialized table that equals the aggregate of the 1-minute candles.

  Background:
    Given the setting STORAGE_ADMIN__POLICY_INTERVAL is "2s"
    And a running pipeline

  Scenario: Recent and old trades are aggregated
    Given 400 trades of ETHUSDT from the last 5 days
    Then candles_1m holds every trade exactly once
    And every larger timeframe is the aggregate of candles_1m

  @community
  Scenario: On the Community edition, larger timeframes are continuous aggregates refreshed by TimescaleDB's jobs
    When the seed trades are replayed at speed max
    Then every larger timeframe is the aggregate of candles_1m
    And these queries return:
      | query                                                                                                          | result                                                      |
      | SELECT view_name::text FROM timescaledb_information.continuous_aggregates ORDER BY view_name::text COLLATE "C" | candles_15m, candles_1d, candles_1h, candles_4h, candles_5m |
      | SELECT count(*) FROM timescaledb_information.jobs WHERE proc_name = 'policy_refresh_continuous_aggregate'      | 5                                                           |

  @apache
  Scenario: On the Apache edition, larger timeframes are hypertables with the same names
    When the seed trades are replayed at speed max
    Then every larger timeframe is the aggregate of candles_1m
    And these queries return:
      | query                                                                                          | result |
      | SELECT count(*) FROM timescaledb_information.hypertables WHERE hypertable_name LIKE 'candles%' | 6      |

  Scenario: The first seven columns of candles_1m are public and stable
    Then these queries return:
      | query                                                                                                                                                         | result                                                                                                                                                |
      | SELECT column_name::text, data_type::text FROM information_schema.columns WHERE table_name = 'candles_1m' AND ordinal_position <= 7 ORDER BY ordinal_position | time timestamp with time zone, symbol text, open double precision, high double precision, low double precision, close double precision, volume bigint |

  Scenario: A forced refresh leaves larger timeframes correct
    When the seed trades are replayed at speed max
    Then candles_1m holds every trade exactly once
    When I run `aggregator-admin refresh --all`
    Then it exits 0
    And every larger timeframe is the aggregate of candles_1m

  Scenario: `aggregator-admin candles` prints history and the open candle as one series
    When the seed trades are replayed at speed max
    Then candles_1m holds every trade exactly once
    When I run `aggregator-admin candles XRPETH 1h --format csv`
    Then it exits 0
    And it says "2019-10-11T00:00:00Z"
    And it says "2019-10-11T14:00:00Z"

  Scenario: A trade older than the retention of candles_1m is added to larger timeframes
    Given 400 trades of ETHUSDT from the last 30 days
    Then every larger timeframe holds every trade exactly once
    And every stream is drained
    When the chunks of candles_1m older than 8 days are dropped
    And a trade of ETHUSDT arrives 20 days late
    Then every larger timeframe holds every trade exactly once
    When I run `aggregator-admin verify`
    Then it exits 0
    When I run `aggregator-admin refresh --all`
    Then it exits 0
    And every larger timeframe holds every trade exactly once
