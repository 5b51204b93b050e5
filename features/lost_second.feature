Feature: The last second of Redis
  When the machine under Redis crashes, what was written in the last second may not have reached the disk. A producer that
  sends again from its own position has everything counted once.

  @apache @own-redis @serial
  Scenario: Redis crashes under load, again and again
    Given a running pipeline
    When 30000 trades begin to arrive, 1500 a second, from seed 10
    And 3000 more trades have arrived
    And Redis crashes and has lost what was written in its last 1000 ms
    And 3000 more trades have arrived
    And Redis crashes and has lost what was written in its last 1000 ms
    And 3000 more trades have arrived
    And Redis crashes and has lost what was written in its last 100 ms
    Then all trades have arrived
    And every stream is drained within 60 seconds
    And candles_1m holds every trade exactly once
    And ticks holds every trade exactly once
    And every larger timeframe is the plain grouping of candles_1m
