@any-redis
Feature: Compression
  Chunks older than a day are compressed, those of larger timeframes too. Queries and late trades work as before.

  Background:
    Given the setting STORAGE_ADMIN__POLICY_INTERVAL is "2s"

  @community
  Scenario: The policy compresses chunks older than 24 hours
    Given a running pipeline
    And 400 trades of ETHUSDT from the last 4 days
    Then candles_1m holds every trade exactly once
    And these queries return:
      | query                                                                                                                                               | result |
      | SELECT bool_and(is_compressed) FROM timescaledb_information.chunks WHERE hypertable_name = 'candles_1m' AND range_end < now() - INTERVAL '24 hours' | t      |
      | SELECT count(*) >= 2 FROM timescaledb_information.chunks WHERE hypertable_name = 'candles_1m' AND range_end < now() - INTERVAL '24 hours'           | t      |
      | SELECT count(*) FROM timescaledb_information.chunks WHERE hypertable_name = 'candles_1m' AND range_end > now() AND is_compressed                    | 0      |
      | SELECT count(*) FROM timescaledb_information.jobs WHERE proc_name = 'policy_compression'                                                            | 8      |
    And candles_1m holds every trade exactly once
    When I run `aggregator-admin status`
    Then it exits 0
    And it says "chunks"
    And it does not say "unavailable"

  @community
  Scenario: A late trade is inserted into a compressed chunk
    Given a running pipeline
    And 400 trades of ETHUSDT from the last 4 days
    Then these queries return:
      | query                                                                                                                                               | result |
      | SELECT bool_and(is_compressed) FROM timescaledb_information.chunks WHERE hypertable_name = 'candles_1m' AND range_end < now() - INTERVAL '24 hours' | t      |
    When a trade of ETHUSDT arrives 3 days late
    Then candles_1m holds every trade exactly once
    And every larger timeframe is the aggregate of candles_1m

  @community
  Scenario: A late trade changes larger timeframes whose chunks are compressed
    Given a running pipeline
    And 400 trades of ETHUSDT from the last 30 days
    Then every larger timeframe is the aggregate of candles_1m
    And these queries return:
      | query                                                                                                                                                                      | result |
      | SELECT count(*) >= 4 AND bool_and(is_compressed) FROM timescaledb_information.chunks WHERE hypertable_name LIKE '_materialized%' AND range_end < now() - INTERVAL '24 hours' | t      |
    When a trade of ETHUSDT arrives 25 days late
    Then candles_1m holds every trade exactly once
    And every larger timeframe is the aggregate of candles_1m

  @apache
  Scenario: Without compression, status reports the reason
    Given a running pipeline
    When I run `aggregator-admin status`
    Then it exits 0
    And it says "unavailable: TimescaleDB's Apache edition has no compression"
    And the metric aggregator_admin_compression_available of the aggregator-admin is 0
