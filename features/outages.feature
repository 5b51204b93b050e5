@serial
Feature: Outages under load
  A store or the network between fails for a while, trades go on arriving, and nobody does anything about it: afterwards
  every trade is in its candles once.

  @apache @own-redis @own-database
  Scenario: PostgreSQL is down, and then Redis
    Given a database server of its own
    And a running pipeline
    When 30000 trades begin to arrive, 1500 a second, from seed 2
    And 3000 more trades have arrived
    And PostgreSQL is down for 10 seconds
    And Redis is down for 3 seconds
    Then all trades have arrived
    And every stream is drained within 60 seconds
    And candles_1m holds every trade exactly once
    And ticks holds every trade exactly once
    And every larger timeframe is the plain grouping of candles_1m

  @apache @own-database
  Scenario: PostgreSQL crashes, and by default its commits don't wait for the disk
    Given a database server of its own with synchronous_commit = off
    And a running pipeline
    When 1500 trades begin to arrive, flat out, from seed 5
    Then all trades have arrived
    And every stream is drained within 60 seconds
    When PostgreSQL is down for 1 seconds
    Then candles_1m holds every trade exactly once
    And ticks holds every trade exactly once

  @apache @own-redis @own-network
  Scenario Outline: The network <fails>
    Given a network that can fail between the workers and their stores
    And a running pipeline
    When 15000 trades begin to arrive, 1500 a second, from seed 3
    And 1500 more trades have arrived
    And the network <fails> for 3 seconds to Redis, to PostgreSQL and to both
    Then all trades have arrived
    And every stream is drained within 60 seconds
    And candles_1m holds every trade exactly once
    And ticks holds every trade exactly once
    And every larger timeframe is the plain grouping of candles_1m

    Examples:
      | fails                          |
      | resets connections             |
      | swallows what is sent          |
      | refuses connections            |
      | is slow                        |
      | delivers a few bytes at a time |

  @apache @own-database
  Scenario: The disk of the database is full
    Given a database server of its own with a disk of 128 MB
    And a running pipeline
    When 60000 trades begin to arrive, 3000 a second, from seed 4
    And 1500 more trades have arrived
    And the disk of the database fills up
    Then the warm-syncer is not ready because of space
    When the disk of the database has room again
    Then all trades have arrived
    And every stream is drained within 60 seconds
    And candles_1m holds every trade exactly once
    And ticks holds every trade exactly once
    And every larger timeframe is the plain grouping of candles_1m

  @apache
  Scenario: Sessions are ended in the middle of their transactions
    Given a running pipeline
    When 15000 trades begin to arrive, 1500 a second, from seed 5
    And every session in a transaction is ended, 10 times
    Then all trades have arrived
    And every stream is drained within 60 seconds
    And candles_1m holds every trade exactly once
    And ticks holds every trade exactly once
    And every larger timeframe is the plain grouping of candles_1m

  @apache @own-redis @own-clock
  Scenario: The clock of Redis jumps
    Given a Redis whose clock can jump
    And a running pipeline
    When 15000 trades begin to arrive, 1500 a second, from seed 6
    And 1500 more trades have arrived
    And the clock of Redis is 90 seconds off
    And 3000 more trades have arrived
    And the clock of Redis is -30 seconds off
    And 3000 more trades have arrived
    And the clock of Redis is 0 seconds off
    Then all trades have arrived
    And every stream is drained within 60 seconds
    And candles_1m holds every trade exactly once
    And ticks holds every trade exactly once
    And every larger timeframe is the plain grouping of candles_1m

  @apache
  Scenario: Redis loses every function
    Given a running pipeline
    When 15000 trades begin to arrive, 1500 a second, from seed 7
    And 3000 more trades have arrived
    And Redis loses every function
    Then all trades have arrived
    And every stream is drained within 60 seconds
    And candles_1m holds every trade exactly once
    And ticks holds every trade exactly once
    And every larger timeframe is the plain grouping of candles_1m

  @apache
  Scenario Outline: Every consumer group is <what>
    Given a running pipeline
    When 15000 trades begin to arrive, 1500 a second, from seed 8
    And 3000 more trades have arrived
    And every consumer group is <what>
    And 3000 more trades have arrived
    And every consumer group is <what>
    Then all trades have arrived
    And every stream is drained within 60 seconds
    And candles_1m holds every trade exactly once
    And ticks holds every trade exactly once
    And every larger timeframe is the plain grouping of candles_1m

    Examples:
      | what                         |
      | destroyed                    |
      | set back to the oldest entry |

  @apache @own-redis @own-network
  Scenario: An owner sleeps through the end of its lease and wakes up in the middle of a write
    Given a network that can fail between the workers and their stores
    And a running pipeline with 2 hot-writers and 1 warm-syncers
    When 15000 trades begin to arrive, 1500 a second, from seed 9
    And 1500 more trades have arrived
    And the hot-writer sleeps in the middle of a write until others serve its partitions
    And 3000 more trades have arrived
    And the hot-writer sleeps in the middle of a write until others serve its partitions
    Then the hot-writer becomes ready
    And all trades have arrived
    And every stream is drained within 60 seconds
    And candles_1m holds every trade exactly once
    And ticks holds every trade exactly once
    And every larger timeframe is the plain grouping of candles_1m
