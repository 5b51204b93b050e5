Feature: Larger timeframes
  Whoever looks at hours and days reads ready tables; they say the same as a grouping of the minutes.

  Background:
    Given the setting STORAGE_ADMIN__POLICY_INTERVAL is "2s"
    And a running pipeline

  Scenario: Recent trades and old ones
    Given trades of 5 days ago up to now
    Then candles_1m holds every trade exactly once
    And every larger timeframe is the plain grouping of candles_1m

  @community
  Scenario: On the Community edition they are continuous aggregates, kept by TimescaleDB's jobs
    When the seed trades are replayed at speed max
    Then every larger timeframe is the plain grouping of candles_1m
    And TimescaleDB's own views say:
      | query                                                                                                               | answer                                                |
      | SELECT view_name::text FROM timescaledb_information.continuous_aggregates ORDER BY view_name::text COLLATE "C"       | candles_15m, candles_1d, candles_1h, candles_4h, candles_5m |
      | SELECT count(*) FROM timescaledb_information.jobs WHERE proc_name = 'policy_refresh_continuous_aggregate'             | 5                                                     |

  @apache
  Scenario: On the Apache edition they are hypertables under the same names
    When the seed trades are replayed at speed max
    Then every larger timeframe is the plain grouping of candles_1m
    And TimescaleDB's own views say:
      | query                                                                                                 | answer |
      | SELECT count(*) FROM timescaledb_information.hypertables WHERE hypertable_name LIKE 'candles%'         | 6      |

  Scenario: The first seven columns are what others rely on
    Then the query "SELECT column_name::text, data_type::text FROM information_schema.columns WHERE table_name = 'candles_1m' AND ordinal_position <= 7 ORDER BY ordinal_position" gives "time timestamp with time zone, symbol text, open double precision, high double precision, low double precision, close double precision, volume bigint"

  Scenario: Larger timeframes made again by hand
    When the seed trades are replayed at speed max
    Then candles_1m holds every trade exactly once
    When I run `aggregator-admin refresh --all`
    Then it exits 0
    And every larger timeframe is the plain grouping of candles_1m

  Scenario: History and the candle in the making as one series
    When the seed trades are replayed at speed max
    Then candles_1m holds every trade exactly once
    When I run `aggregator-admin candles XRPETH 1h --format csv`
    Then it exits 0
    And it says "2019-10-11T00:00:00Z"
    And it says "2019-10-11T14:00:00Z"

  Scenario: A trade that is later than the minutes are kept
    Given trades of 30 days ago up to now
    Then every larger timeframe holds every trade exactly once
    And every stream is drained
    When the minutes older than 8 days are dropped
    And a trade of ETHUSDT arrives that is 20 days late
    Then every larger timeframe holds every trade exactly once
    When I run `aggregator-admin verify`
    Then it exits 0
    When I run `aggregator-admin refresh --all`
    Then it exits 0
    And every larger timeframe holds every trade exactly once
