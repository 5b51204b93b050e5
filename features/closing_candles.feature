@redis-only
Feature: Closing candles
  A 1-minute candle is closed by a later trade of its symbol or, if the symbol is quiet, by the clock. A closed
  candle is sent to the history.

  Background:
    Given a running hot-writer

  Scenario: A later trade of the same symbol closes the candle
    When these trades arrive:
      | time                 | price | qty |
      | 2024-03-01T12:00:20Z | 102   | 1   |
      | 2024-03-01T12:01:02Z | 103   | 1   |
    Then the hash candle:recent:1m:BTCUSDT:1709294400 contains:
      | close | final |
      | 102   | 1     |

  Scenario: The clock closes the candle of a quiet symbol
    When these trades arrive:
      | time                 | price | qty |
      | 2024-03-01T12:00:20Z | 102   | 1   |
    Then the stream of closed candles of BTCUSDT contains 1 entry
    And the hash candle:current:1m:BTCUSDT contains:
      | close | final |
      | 102   | 1     |

  Scenario: A candle stays open until its bucket ends
    When a trade of BTCUSDT arrives with the current time
    Then the hash candle:current:1d:BTCUSDT contains:
      | trades | final |
      | 1      | 0     |

  Scenario: A late trade amends its closed candle, which is sent to the history again
    When these trades arrive:
      | time                 | price | qty |
      | 2024-03-01T12:00:20Z | 102   | 1   |
      | 2024-03-01T12:01:20Z | 103   | 1   |
    Then the stream of closed candles of BTCUSDT contains 2 entries
    When these trades arrive:
      | time                 | price | qty |
      | 2024-03-01T12:00:50Z | 90    | 2   |
    Then the stream of closed candles of BTCUSDT contains 3 entries
    And the hash candle:recent:1m:BTCUSDT:1709294400 contains:
      | close | volume | trades | final |
      | 90    | 3      | 2      | 1     |
