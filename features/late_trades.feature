Feature: Late trades
  A late trade is added to its candle in every timeframe, and the correction is published.

  Background:
    Given the setting STORAGE_ADMIN__POLICY_INTERVAL is "2s"
    And a running pipeline
    And a subscriber to every channel
    And 400 trades of ETHUSDT from the last 12 days

  Scenario: A trade one hour late corrects its candles
    Then candles_1m holds every trade exactly once
    When a trade of ETHUSDT arrives 1 hour late
    Then candles_1m holds every trade exactly once
    And ticks holds every trade exactly once
    And every larger timeframe is the aggregate of candles_1m
    And the channel candle:1m:ETHUSDT publishes the correction of the late trade's minute

  @community
  Scenario: A trade ten days late corrects its candles in compressed chunks
    Then candles_1m holds every trade exactly once
    And these queries return:
      | query                                                                                                                                               | result |
      | SELECT bool_and(is_compressed) FROM timescaledb_information.chunks WHERE hypertable_name = 'candles_1m' AND range_end < now() - INTERVAL '24 hours' | t      |
      | SELECT bool_and(is_compressed) FROM timescaledb_information.chunks WHERE hypertable_name = 'ticks' AND range_end < now() - INTERVAL '24 hours'      | t      |
    When a trade of ETHUSDT arrives 10 days late
    Then candles_1m holds every trade exactly once
    And ticks holds every trade exactly once
    And every larger timeframe is the aggregate of candles_1m
    And the channel candle:1m:ETHUSDT publishes the correction of the late trade's minute
    When trade number 1 is corrected to price 120.25
    And trade number 2 is busted
    Then candles_1m holds every trade exactly once
    And ticks holds every trade exactly once
    And every larger timeframe is the aggregate of candles_1m

  @apache
  Scenario: A trade ten days late corrects its candles
    Then candles_1m holds every trade exactly once
    When a trade of ETHUSDT arrives 10 days late
    Then candles_1m holds every trade exactly once
    And ticks holds every trade exactly once
    And every larger timeframe is the aggregate of candles_1m
    And the channel candle:1m:ETHUSDT publishes the correction of the late trade's minute
