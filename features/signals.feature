@redis-only
Feature: Signals expire
  A strategy's signal is active for as long as the strategy said.

  Background:
    Given a hot-writer

  Scenario: An active signal
    When a signal of momentum for BTCUSDT arrives that lives 600000 ms
    Then the hash signal:active:BTCUSDT shows:
      | signal_id | strategy | side | strength | price   |
      | s-1       | momentum | buy  | 0.8      | 42000.1 |
    And signal:active:BTCUSDT expires in at least 500 and at most 600 seconds

  Scenario: A signal that has had its time
    When a signal of momentum for BTCUSDT arrives that lives 3000 ms
    Then Redis holds the key signal:active:BTCUSDT
    And signal:active:BTCUSDT is gone
