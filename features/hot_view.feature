@redis-only
Feature: The hot view in Redis
  A trader reads the latest tick and the open candles from Redis within milliseconds of a trade. Every key
  expires when it is no longer needed.

  Background:
    Given a running hot-writer

  Scenario: Redis holds the latest tick of a symbol
    When these trades arrive:
      | time                        | price   | qty   | id  |
      | 2024-03-01T12:00:00.100Z    | 42000.1 | 0.005 | 123 |
      | 2024-03-01T12:00:00.123456Z | 42000.2 | 0.25  | 124 |
    Then the hash tick:latest:BTCUSDT contains:
      | price   | qty  | ts_us            | trade_id |
      | 42000.2 | 0.25 | 1709294400123456 | 124      |
    And the key tick:latest:BTCUSDT expires in 3500 to 3600 seconds

  Scenario: Redis holds the open candle of every timeframe
    When these trades arrive:
      | time                     | price | qty | id |
      | 2024-03-01T11:58:10Z     | 95    | 1   | 1  |
      | 2024-03-01T12:00:01Z     | 100   | 1   | 2  |
      | 2024-03-01T12:00:02Z     | 103.5 | 0.5 | 3  |
      | 2024-03-01T12:00:02Z     | 99    | 2   | 4  |
      | 2024-03-01T12:01:30.250Z | 101   | 1.5 | 5  |
    Then the open candle of BTCUSDT in every timeframe is the aggregate of its trades
    And the key candle:current:1m:BTCUSDT expires in 3500 to 3700 seconds
    And the key candle:current:1d:BTCUSDT expires in 86400 to 90000 seconds

  Scenario: Trades that arrive out of order are ordered by event time
    When these trades arrive:
      | time                 | price | qty |
      | 2024-03-01T12:00:20Z | 102   | 1   |
      | 2024-03-01T12:00:10Z | 101   | 1   |
      | 2024-03-01T12:00:30Z | 103   | 1   |
      | 2024-03-01T12:00:25Z | 100   | 1   |
    Then the hash candle:current:1m:BTCUSDT contains:
      | open | high | low | close | volume | trades |
      | 101  | 103  | 100 | 103   | 4      | 4      |
    And the hash tick:latest:BTCUSDT contains:
      | price |
      | 103   |

  Scenario: A trade ID counts once, equal trades without ID all count
    When these trades arrive:
      | symbol | time                 | price | qty | id |
      | WITHID | 2024-03-01T12:00:20Z | 102   | 1   | 7  |
      | WITHID | 2024-03-01T12:00:20Z | 102   | 1   | 7  |
      | NOID   | 2024-03-01T12:00:20Z | 102   | 1   |    |
      | NOID   | 2024-03-01T12:00:20Z | 102   | 1   |    |
    Then the hash candle:current:1h:NOID contains:
      | volume | trades |
      | 2      | 2      |
    And the hash candle:current:1h:WITHID contains:
      | volume | trades |
      | 1      | 1      |

  Scenario: Every key in Redis is documented and has a TTL
    When these trades arrive:
      | symbol  | time                 | price | qty | id |
      | BTCUSDT | 2024-03-01T12:00:20Z | 102   | 1   | 7  |
      | BTCUSDT | 2024-03-01T12:01:20Z | 103   | 1   | 8  |
      | ETH/USD | 2024-03-01T12:00:20Z | 102   | 1   |    |
      | A.B_C-D | 2024-03-01T12:00:20Z | -1    | 1   |    |
    And a signal of the strategy momentum for BTCUSDT arrives with a TTL of 60000 ms
    Then the key signal:active:BTCUSDT exists
    And the key candle:current:1d:ETH/USD exists
    And the key candle:recent:1m:BTCUSDT:1709294400 exists
    And every key is documented
    And every key has a TTL, except the streams and their bookkeeping
