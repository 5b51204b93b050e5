@redis-only
Feature: Signals expire
  A signal is active until the TTL that its strategy chose has expired.

  Background:
    Given a running hot-writer

  Scenario: An active signal is in Redis
    When a signal of the strategy momentum for BTCUSDT arrives with a TTL of 600000 ms
    Then the hash signal:active:BTCUSDT contains:
      | signal_id | strategy | side | strength | price   |
      | s-1       | momentum | buy  | 0.8      | 42000.1 |
    And the key signal:active:BTCUSDT expires in 500 to 600 seconds

  Scenario: A signal expires after its TTL
    When a signal of the strategy momentum for BTCUSDT arrives with a TTL of 3000 ms
    Then the key signal:active:BTCUSDT exists
    And the key signal:active:BTCUSDT expires
