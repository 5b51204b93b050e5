Feature: Replicas can be added and removed at any time
  A replica that receives SIGTERM hands over its partitions immediately. The partitions of a killed replica are
  acquired when its lease has expired.

  @apache @own-redis @serial
  Scenario: Hot-writers and warm-syncers are killed, stopped and added at random, and every trade is counted once
    Given the setting STORAGE_HOT__LEASE_TTL is "5s"
    And the setting STORAGE_WARM__LEASE_TTL is "5s"
    And a running pipeline with 3 hot-writers and 2 warm-syncers
    When a feed starts sending 45000 trades at 1500 per second, with seed 11
    And replicas are killed, stopped and added at random for 30 seconds, with seed 11
    Then every handover took at most 15 seconds, and at most 5 seconds after SIGTERM
    And all trades have arrived
    And every stream is drained within 30 seconds
    And candles_1m holds every trade exactly once
    And ticks holds every trade exactly once
    And every larger timeframe is the aggregate of candles_1m
