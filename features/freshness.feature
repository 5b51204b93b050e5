@redis-only
Feature: The open candle is fresh
  A trader who watches open candles sees each of them renewed as often as the share of Redis that the operator
  grants allows. No symbol waits while another one is renewed again and again.

  Scenario: A busy feed of many symbols renews every candle in turn
    Given the setting STORAGE_HOT__WRITE_SHARE is "0.0004"
    And the setting STORAGE_HOT__CLOSE_GRACE is "10m"
    And a running hot-writer
    And a subscriber to every channel
    When a feed starts sending 40000 trades of 30 symbols in this minute at 1000 per second
    And 3000 more trades have arrived
    Then open candles wait to be written
    When the hash candle:current:1m:FRESH0 is deleted
    Then the hash candle:current:1m:FRESH0 is written whole again
    And the open 1-minute candle of every symbol is published 3 times or more
    And all trades have arrived
    And the open candle of every symbol in every timeframe is the aggregate of its trades
    And between two messages of a symbol's 1-minute candle no other symbol has more than 6

  @own-redis @own-network
  Scenario: Candles get older while Redis is slow, and nothing is lost
    Given the setting STORAGE_HOT__CLOSE_GRACE is "10m"
    And the setting STORAGE_HOT__LEASE_TTL is "5s"
    And a proxy between each worker and each of its stores
    And a running hot-writer
    When a feed starts sending 10000 trades of 30 symbols in this minute at 500 per second
    And 500 more trades have arrived
    Then open 1-minute candles are published that are at most 250 ms old
    When the network to Redis delays all data by 300 ms for 5 seconds
    Then open 1-minute candles were published that were more than 250 ms old, and none that was less
    And open 1-minute candles are published that are at most 250 ms old
    And all trades have arrived
    And the open candle of every symbol in every timeframe is the aggregate of its trades
