Feature: Hot data reaches the history
  Every trade that Redis accepted is in its candle in TimescaleDB, exactly once, and so in every larger
  timeframe.

  Scenario: Real trades, flat out
    Given a running pipeline
    When the seed trades are replayed at speed max
    Then candles_1m holds every trade exactly once
    And ticks holds every trade exactly once
    And every larger timeframe is the plain grouping of candles_1m

  Scenario: A replay twice, by two copies of each worker
    Given a running pipeline with 2 hot-writers and 2 warm-syncers
    When the seed trades are replayed at speed max, 2 times
    Then candles_1m holds every trade exactly once
    And ticks holds every trade exactly once

  @real-trades
  Scenario Outline: The recorded trades give the recorded candles: <copies> copies, speed <speed>, <times> time(s)
    Given a running pipeline with <copies> hot-writers and <copies> warm-syncers
    When the recorded trades are replayed at speed <speed>, <times> times
    Then candles_1m holds exactly the 2469 candles that another program made of them
    And ticks holds every trade exactly once
    And every larger timeframe is the plain grouping of candles_1m

    Examples:
      | copies | speed | times |
      | 1      | max   | 1     |
      | 1      | 5000  | 1     |
      | 1      | max   | 2     |
      | 2      | max   | 1     |
      | 3      | max   | 2     |

  Scenario: A trade far too late for its minute still gets into it
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
    And every larger timeframe is the plain grouping of candles_1m

  Scenario: A signal is kept
    Given a running pipeline
    When a signal of momentum for BTCUSDT arrives that lives 60000 ms
    Then the query "SELECT symbol, strategy, side FROM signals" gives "BTCUSDT momentum buy"

  Scenario: History can be checked against what it was made from
    Given a running pipeline
    When the seed trades are replayed at speed max
    Then candles_1m holds every trade exactly once
    And ticks holds every trade exactly once
    And every larger timeframe is the plain grouping of candles_1m
    When I run `aggregator-admin verify`
    Then it exits 0

  Scenario: A busy feed with late, repeated and invalid trades
    Given a running pipeline
    When I run `tick-replayer generate --ticks 10000 --symbols 8 --rate 5 --speed max --late 0.02 --lateness 15m --duplicate 0.02 --invalid 0.002`
    Then it exits 0
    And every stream is drained
    And `aggregator-admin verify` soon finds nothing wrong
    And the query "SELECT count(*) > 5 FROM dead_letters" gives "t"
    And every larger timeframe is the plain grouping of candles_1m
