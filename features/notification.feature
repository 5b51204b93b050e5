@redis-only
Feature: Notification
  Redis publishes ticks, candles and signals as they change. A subscriber detects missed messages by the
  revision.

  Background:
    Given a running hot-writer
    And a subscriber to every channel

  Scenario: The latest tick and the open candles are published
    When these trades arrive:
      | time                 | price | qty | id |
      | 2024-03-01T12:00:20Z | 102   | 1.5 | 7  |
    Then the channel tick:BTCUSDT publishes a message with:
      | symbol  | price | qty | trade_id | ts_us            |
      | BTCUSDT | 102   | 1.5 | 7        | 1709294420000000 |
    And the channel candle:1m:BTCUSDT publishes a message with:
      | time                 | open | close | volume | trades | final |
      | 2024-03-01T12:00:00Z | 102  | 102   | 1.5    | 1      | false |
    And the channel candle:1d:BTCUSDT publishes a message with:
      | time                 | trades | final |
      | 2024-03-01T00:00:00Z | 1      | false |

  Scenario: The final candle is published, and then its correction by a late trade
    When these trades arrive:
      | time                 | price | qty | id |
      | 2024-03-01T12:00:20Z | 102   | 1   | 7  |
      | 2024-03-01T12:01:03Z | 103   | 1   | 8  |
    Then the channel candle:1m:BTCUSDT publishes a message with:
      | time                 | close | trades | final |
      | 2024-03-01T12:00:00Z | 102   | 1      | true  |
    When these trades arrive:
      | time                 | price | qty | id |
      | 2024-03-01T12:00:50Z | 99    | 1   | 9  |
    Then the channel candle:1m:BTCUSDT publishes a message with:
      | time                 | close | low | trades | final |
      | 2024-03-01T12:00:00Z | 99    | 99  | 2      | true  |
    And the correction on candle:1m:BTCUSDT has a higher revision than the final candle before it

  Scenario: A signal is published
    When a signal of the strategy momentum for BTCUSDT arrives with a TTL of 60000 ms
    Then the channel signal:BTCUSDT publishes a message with:
      | strategy | side | strength |
      | momentum | buy  | 0.8      |
