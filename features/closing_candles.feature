@redis-only
Feature: Closing candles
  A minute goes to the history once it is over: when the symbol's own trades say so, or when the symbol
  has gone quiet.

  Background:
    Given a hot-writer

  Scenario: A later trade of the same symbol closes the minute
    When these trades arrive:
      | time                     | price | qty |
      | 2024-03-01T12:00:20Z     | 102   | 1   |
      | 2024-03-01T12:01:02Z     | 103   | 1   |
    Then the hash candle:recent:1m:BTCUSDT:1709294400 shows:
      | close | final |
      | 102   | 1     |

  Scenario: A quiet symbol's minute closes by the clock
    When these trades arrive:
      | time                 | price | qty |
      | 2024-03-01T12:00:20Z | 102   | 1   |
    Then 1 closed minute of BTCUSDT is on its way to the history
    And the hash candle:current:1m:BTCUSDT shows:
      | close | final |
      | 102   | 1     |

  Scenario: The minute that is running stays open
    When a trade of BTCUSDT arrives at this moment
    Then the hash candle:current:1d:BTCUSDT shows:
      | trades | final |
      | 1      | 0     |

  Scenario: A late trade amends its closed minute, which goes to the history again
    When these trades arrive:
      | time                 | price | qty |
      | 2024-03-01T12:00:20Z | 102   | 1   |
      | 2024-03-01T12:01:20Z | 103   | 1   |
    Then 2 closed minutes of BTCUSDT are on its way to the history
    When these trades arrive:
      | time                 | price | qty |
      | 2024-03-01T12:00:50Z | 90    | 2   |
    Then 3 closed minutes of BTCUSDT are on its way to the history
    And the hash candle:recent:1m:BTCUSDT:1709294400 shows:
      | close | volume | trades | final |
      | 90    | 3      | 2      | 1     |
