Feature: Compression
  Chunks older than a day take a fraction of their space, and are read as before.

  Background:
    Given the setting STORAGE_ADMIN__POLICY_INTERVAL is "2s"

  @community
  Scenario: The policy compresses chunks older than 24 hours
    Given a running pipeline
    And trades of 4 days ago up to now
    Then candles_1m holds every trade exactly once
    And TimescaleDB's own views say:
      | query                                                                                                                                                               | answer |
      | SELECT bool_and(is_compressed) FROM timescaledb_information.chunks WHERE hypertable_name = 'candles_1m' AND range_end < now() - INTERVAL '24 hours'                 | t      |
      | SELECT count(*) >= 2 FROM timescaledb_information.chunks WHERE hypertable_name = 'candles_1m' AND range_end < now() - INTERVAL '24 hours'                           | t      |
      | SELECT count(*) FROM timescaledb_information.chunks WHERE hypertable_name = 'candles_1m' AND range_end > now() AND is_compressed                                    | 0      |
      | SELECT count(*) FROM timescaledb_information.jobs WHERE proc_name = 'policy_compression'                                                                            | 3      |
    And candles_1m holds every trade exactly once
    When I run `aggregator-admin status`
    Then it exits 0
    And it says "chunks"
    And it does not say "unavailable"

  @community
  Scenario: A late trade gets into a compressed chunk
    Given a running pipeline
    And trades of 4 days ago up to now
    Then TimescaleDB's own views say:
      | query                                                                                                                                               | answer |
      | SELECT bool_and(is_compressed) FROM timescaledb_information.chunks WHERE hypertable_name = 'candles_1m' AND range_end < now() - INTERVAL '24 hours' | t      |
    When a trade of ETHUSDT arrives that is 3 days late
    Then candles_1m holds every trade exactly once
    And every larger timeframe is the plain grouping of candles_1m

  @apache
  Scenario: Where there is no compression, status says so and why
    Given a running pipeline
    When I run `aggregator-admin status`
    Then it exits 0
    And it says "unavailable: TimescaleDB's Apache edition has no compression"
    And the metric aggregator_admin_compression_available of the aggregator-admin is 0
