@redis-only
Feature: The hot view in Redis
  Whoever trades reads the latest price and the candles in the making from Redis, a few milliseconds
  after the trade. Nothing there outlives its use.

  Background:
    Given a hot-writer

  Scenario: The latest trade of a symbol
    When these trades arrive:
      | time                        | price   | qty   | id  |
      | 2024-03-01T12:00:00.100Z    | 42000.1 | 0.005 | 123 |
      | 2024-03-01T12:00:00.123456Z | 42000.2 | 0.25  | 124 |
    Then the hash tick:latest:BTCUSDT shows:
      | price   | qty  | ts_us            | trade_id |
      | 42000.2 | 0.25 | 1709294400123456 | 124      |
    And tick:latest:BTCUSDT expires in at least 3500 and at most 3600 seconds

  Scenario: The candles in the making, in every timeframe
    When these trades arrive:
      | time                     | price | qty | id |
      | 2024-03-01T11:58:10Z     | 95    | 1   | 1  |
      | 2024-03-01T12:00:01Z     | 100   | 1   | 2  |
      | 2024-03-01T12:00:02Z     | 103.5 | 0.5 | 3  |
      | 2024-03-01T12:00:02Z     | 99    | 2   | 4  |
      | 2024-03-01T12:01:30.250Z | 101   | 1.5 | 5  |
    Then the candles in the making of BTCUSDT in every timeframe are the plain grouping of its trades
    And candle:current:1m:BTCUSDT expires in at least 3500 and at most 3700 seconds
    And candle:current:1d:BTCUSDT expires in at least 86400 and at most 90000 seconds

  Scenario: Trades that arrive out of order keep the order of their own time
    When these trades arrive:
      | time                 | price | qty |
      | 2024-03-01T12:00:20Z | 102   | 1   |
      | 2024-03-01T12:00:10Z | 101   | 1   |
      | 2024-03-01T12:00:30Z | 103   | 1   |
      | 2024-03-01T12:00:25Z | 100   | 1   |
    Then the hash candle:current:1m:BTCUSDT shows:
      | open | high | low | close | volume | trades |
      | 101  | 103  | 100 | 103   | 4      | 4      |
    And the hash tick:latest:BTCUSDT shows:
      | price |
      | 103   |

  Scenario: A trade that is sent twice counts once, equal trades without ids count each
    When these trades arrive:
      | symbol | time                 | price | qty | id |
      | WITHID | 2024-03-01T12:00:20Z | 102   | 1   | 7  |
      | WITHID | 2024-03-01T12:00:20Z | 102   | 1   | 7  |
      | NOID   | 2024-03-01T12:00:20Z | 102   | 1   |    |
      | NOID   | 2024-03-01T12:00:20Z | 102   | 1   |    |
    Then the hash candle:current:1h:NOID shows:
      | volume | trades |
      | 2      | 2      |
    And the hash candle:current:1h:WITHID shows:
      | volume | trades |
      | 1      | 1      |

  Scenario: Nothing is in Redis that is not documented, and nothing stays for ever
    When these trades arrive:
      | symbol  | time                 | price | qty | id |
      | BTCUSDT | 2024-03-01T12:00:20Z | 102   | 1   | 7  |
      | BTCUSDT | 2024-03-01T12:01:20Z | 103   | 1   | 8  |
      | ETH/USD | 2024-03-01T12:00:20Z | 102   | 1   |    |
      | A.B_C-D | 2024-03-01T12:00:20Z | -1    | 1   |    |
    And a signal of momentum for BTCUSDT arrives that lives 60000 ms
    Then Redis holds the key signal:active:BTCUSDT
    And Redis holds the key candle:current:1d:ETH/USD
    And Redis holds the key candle:recent:1m:BTCUSDT:1709294400
    And every key is one of the documented ones
    And every key but the streams and their bookkeeping has a time to live
