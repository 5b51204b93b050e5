@serial
Feature: Failover of Redis
  A replica becomes the master; the old master is gone or becomes a replica. The workers find the new master and
  resume from its state.

  @apache @own-redis @one-server
  Scenario: Sentinel promotes a replica twice, and every trade is counted once
    Given Redis with a replica and a Sentinel
    And a running pipeline
    When a feed starts sending 20000 trades of distinct times at 1500 per second, with seed 12
    And 3000 more trades have arrived
    And I trigger a failover
    And 3000 more trades have arrived
    And the master is killed and its replica is promoted
    And 3000 more trades have arrived
    Then all trades have arrived
    And every stream is drained within 60 seconds
    And candles_1m holds every trade exactly once
    And ticks holds every trade exactly once
    And every larger timeframe is the aggregate of candles_1m
