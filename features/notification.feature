@redis-only
Feature: Notification
  A subscriber learns of trades and candles as they happen, and can tell from the revision when it has
  missed something.

  Background:
    Given a hot-writer
    And a subscriber to every channel

  Scenario: Trades and candles in the making
    When these trades arrive:
      | time                 | price | qty | id |
      | 2024-03-01T12:00:20Z | 102   | 1.5 | 7  |
    Then the channel tick:BTCUSDT carries a message with:
      | symbol  | price | qty | trade_id | ts_us            |
      | BTCUSDT | 102   | 1.5 | 7        | 1709294420000000 |
    And the channel candle:1m:BTCUSDT carries a message with:
      | time                 | open | close | volume | trades | final |
      | 2024-03-01T12:00:00Z | 102  | 102   | 1.5    | 1      | false |
    And the channel candle:1d:BTCUSDT carries a message with:
      | time                 | trades | final |
      | 2024-03-01T00:00:00Z | 1      | false |

  Scenario: The final candle, and the correction that a late trade makes
    When these trades arrive:
      | time                 | price | qty | id |
      | 2024-03-01T12:00:20Z | 102   | 1   | 7  |
      | 2024-03-01T12:01:03Z | 103   | 1   | 8  |
    Then the channel candle:1m:BTCUSDT carries a message with:
      | time                 | close | trades | final |
      | 2024-03-01T12:00:00Z | 102   | 1      | true  |
    When these trades arrive:
      | time                 | price | qty | id |
      | 2024-03-01T12:00:50Z | 99    | 1   | 9  |
    Then the channel candle:1m:BTCUSDT carries a message with:
      | time                 | close | low | trades | final |
      | 2024-03-01T12:00:00Z | 99    | 99  | 2      | true  |
    And the last message on candle:1m:BTCUSDT has a higher revision than the final one before it

  Scenario: Signals
    When a signal of momentum for BTCUSDT arrives that lives 60000 ms
    Then the channel signal:BTCUSDT carries a message with:
      | strategy | side | strength |
      | momentum | buy  | 0.8      |
