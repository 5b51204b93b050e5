Feature: Trades reach the history
  Every trade that Redis accepted is counted exactly once in its 1-minute candle in TimescaleDB and in every
  larger timeframe.

  Scenario: Real trades at maximum speed are counted once
    Given a running pipeline
    When the seed trades are replayed at speed max
    Then candles_1m holds every trade exactly once
    And ticks holds every trade exactly once
    And every larger timeframe is the aggregate of candles_1m

  Scenario: Trades that are replayed twice to two replicas of each worker are counted once
    Given a running pipeline with 2 hot-writers and 2 warm-syncers
    When the seed trades are replayed 2 times at speed max
    Then candles_1m holds every trade exactly once
    And ticks holds every trade exactly once

  @real-trades
  Scenario Outline: The recorded trades give the recorded candles: <workers>, replayed <times> at speed <speed>
    Given a running pipeline with <workers>
    When the recorded trades are replayed <times> at speed <speed>
    Then candles_1m holds exactly the 2469 candles that another program computed from them
    And ticks holds every trade exactly once
    And every larger timeframe is the aggregate of candles_1m

    Examples:
      | workers                          | speed | times   |
      | 1 hot-writer and 1 warm-syncer   | max   | 1 time  |
      | 1 hot-writer and 1 warm-syncer   | 5000  | 1 time  |
      | 1 hot-writer and 1 warm-syncer   | max   | 2 times |
      | 2 hot-writers and 2 warm-syncers | max   | 1 time  |
      | 3 hot-writers and 3 warm-syncers | max   | 2 times |

  Scenario: A trade that arrives after the amend window is added to its candle
    Given a running pipeline
    When these trades arrive:
      | time                 | price | qty | id |
      | 2024-03-01T12:00:20Z | 102   | 1   | 1  |
      | 2024-03-01T14:00:00Z | 103   | 1   | 2  |
      | 2024-03-01T14:05:00Z | 104   | 1   | 3  |
    Then candles_1m holds every trade exactly once
    When these trades arrive:
      | time                 | price | qty | id |
      | 2024-03-01T12:00:30Z | 99    | 5   | 4  |
    Then candles_1m holds every trade exactly once
    And every larger timeframe is the aggregate of candles_1m

  Scenario: A signal is written to the history
    Given a running pipeline
    When a signal of the strategy momentum for BTCUSDT arrives with a TTL of 60000 ms
    Then the query "SELECT symbol, strategy, side FROM signals" returns "BTCUSDT momentum buy"

  Scenario: `aggregator-admin verify` confirms that the history matches the ticks
    Given a running pipeline
    When the seed trades are replayed at speed max
    Then candles_1m holds every trade exactly once
    And ticks holds every trade exactly once
    And every larger timeframe is the aggregate of candles_1m
    When I run `aggregator-admin verify`
    Then it exits 0

  Scenario: A busy feed with late, repeated and invalid trades gives a correct history
    Given a running pipeline
    When I run `tick-replayer generate` with these options:
      | ticks | symbols | rate | speed | late | lateness | duplicate | invalid |
      | 10000 | 8       | 5    | max   | 0.02 | 15m      | 0.02      | 0.002   |
    Then it exits 0
    And every stream is drained
    And `aggregator-admin verify` soon exits 0
    And the query "SELECT count(*) > 5 FROM dead_letters" returns "t"
    And every larger timeframe is the aggregate of candles_1m
