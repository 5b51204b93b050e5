Feature: The last second of Redis
  A crash of Redis's machine may lose the writes of the last second. If the producer resends from its own
  position, every trade is counted once.

  @apache @own-redis @serial
  Scenario: Redis crashes repeatedly under load, and every trade is counted once
    Given a running pipeline
    When a feed starts sending 30000 trades at 1500 per second, with seed 10
    And 3000 more trades have arrived
    And Redis crashes and loses the writes of its last 1000 ms
    And 3000 more trades have arrived
    And Redis crashes and loses the writes of its last 1000 ms
    And 3000 more trades have arrived
    And Redis crashes and loses the writes of its last 100 ms
    Then all trades have arrived
    And every stream is drained within 60 seconds
    And candles_1m holds every trade exactly once
    And ticks holds every trade exactly once
    And every larger timeframe is the aggregate of candles_1m
