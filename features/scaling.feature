Feature: Scaling out and in is a non-event
  Copies come and go as they like. Partitions are handed over at once by a copy that is told to stop, and within the time of its
  lease when it dies.

  @apache @own-redis @serial
  Scenario: Three hot-writers and two warm-syncers die, leave and join at random
    Given the setting STORAGE_HOT__LEASE_TTL is "5s"
    And the setting STORAGE_WARM__LEASE_TTL is "5s"
    And a running pipeline with 3 hot-writers and 2 warm-syncers
    When 45000 trades begin to arrive, 1500 a second, from seed 11
    And copies are killed, told to stop and added at random for 30 seconds, from seed 11
    Then no hand-over took longer than 15 seconds, and none of a copy that was told to stop longer than 5
    And all trades have arrived
    And every stream is drained within 30 seconds
    And candles_1m holds every trade exactly once
    And ticks holds every trade exactly once
    And every larger timeframe is the plain grouping of candles_1m
