Feature: Late trades
  However late a trade comes, it gets into its minute and into every larger timeframe, and who follows the minutes is told.

  Background:
    Given the setting STORAGE_ADMIN__POLICY_INTERVAL is "2s"
    And a running pipeline
    And a subscriber to every channel
    And trades of 12 days ago up to now

  Scenario: One hour late
    Then candles_1m holds every trade exactly once
    When a trade of ETHUSDT arrives that is 1 hour late
    Then candles_1m holds every trade exactly once
    And ticks holds every trade exactly once
    And every larger timeframe is the plain grouping of candles_1m
    And the channel candle:1m:ETHUSDT carries the corrected minute of the late trade

  @community
  Scenario: Ten days late, into a compressed chunk
    Then candles_1m holds every trade exactly once
    And TimescaleDB's own views say:
      | query                                                                                                                                               | answer |
      | SELECT bool_and(is_compressed) FROM timescaledb_information.chunks WHERE hypertable_name = 'candles_1m' AND range_end < now() - INTERVAL '24 hours' | t      |
      | SELECT bool_and(is_compressed) FROM timescaledb_information.chunks WHERE hypertable_name = 'ticks' AND range_end < now() - INTERVAL '24 hours'      | t      |
    When a trade of ETHUSDT arrives that is 10 days late
    Then candles_1m holds every trade exactly once
    And ticks holds every trade exactly once
    And every larger timeframe is the plain grouping of candles_1m
    And the channel candle:1m:ETHUSDT carries the corrected minute of the late trade

  @apache
  Scenario: Ten days late
    Then candles_1m holds every trade exactly once
    When a trade of ETHUSDT arrives that is 10 days late
    Then candles_1m holds every trade exactly once
    And ticks holds every trade exactly once
    And every larger timeframe is the plain grouping of candles_1m
    And the channel candle:1m:ETHUSDT carries the corrected minute of the late trade
