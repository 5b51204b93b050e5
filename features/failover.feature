@serial
Feature: Another Redis takes over
  A replica becomes the master, whether the old one is gone or lives on as a replica. The workers find the new one by
  themselves and go on where it is.

  @apache @own-redis @one-server
  Scenario: Sentinel promotes the replica, twice
    Given Redis with a replica and a Sentinel
    And a running pipeline
    When 20000 trades of different times begin to arrive, 1500 a second, from seed 12
    And 3000 more trades have arrived
    And Redis is demoted for its replica
    And 3000 more trades have arrived
    And Redis dies and its replica takes over
    And 3000 more trades have arrived
    Then all trades have arrived
    And every stream is drained within 60 seconds
    And candles_1m holds every trade exactly once
    And ticks holds every trade exactly once
    And every larger timeframe is the plain grouping of candles_1m
