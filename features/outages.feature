@serial
Feature: Outages under load lose no trade
  A store or the network fails for a while under load and recovers. Without any action of an operator, every
  trade is counted exactly once.

  @apache @own-redis @own-database
  Scenario: PostgreSQL is down, and then Redis is down
    Given a dedicated database server
    And a running pipeline
    When a feed starts sending 30000 trades at 1500 per second, with seed 2
    And 3000 more trades have arrived
    And PostgreSQL is down for 10 seconds
    And Redis is down for 3 seconds
    Then all trades have arrived
    And every stream is drained within 60 seconds
    And candles_1m holds every trade exactly once
    And ticks holds every trade exactly once
    And every larger timeframe is the aggregate of candles_1m

  @apache @own-database
  Scenario: PostgreSQL crashes with synchronous_commit = off as its default
    Given a dedicated database server with synchronous_commit = off
    And a running pipeline
    When a feed starts sending 1500 trades at full speed, with seed 5
    Then all trades have arrived
    And every stream is drained within 60 seconds
    When PostgreSQL is down for 1 second
    Then candles_1m holds every trade exactly once
    And ticks holds every trade exactly once

  @apache @own-redis @own-network
  Scenario Outline: The network <fails>
    Given a proxy between each worker and each of its stores
    And a running pipeline
    When a feed starts sending 15000 trades at 1500 per second, with seed 3
    And 1500 more trades have arrived
    And the network <fails> for 3 seconds to Redis, then to PostgreSQL, then to both
    Then all trades have arrived
    And every stream is drained within 60 seconds
    And candles_1m holds every trade exactly once
    And ticks holds every trade exactly once
    And every larger timeframe is the aggregate of candles_1m

    Examples:
      | fails                          |
      | resets connections             |
      | drops all data silently        |
      | refuses connections            |
      | is slow                        |
      | delivers a few bytes at a time |

  @apache @own-database
  Scenario: The disk of the database is full
    Given a dedicated database server with a disk of 128 MB
    And a running pipeline
    When a feed starts sending 60000 trades at 3000 per second, with seed 4
    And 1500 more trades have arrived
    And the disk of the database becomes full
    Then the warm-syncer is not ready and reports "space"
    When the disk of the database has free space again
    Then all trades have arrived
    And every stream is drained within 60 seconds
    And candles_1m holds every trade exactly once
    And ticks holds every trade exactly once
    And every larger timeframe is the aggregate of candles_1m

  @apache
  Scenario: PostgreSQL terminates sessions in the middle of their transactions
    Given a running pipeline
    When a feed starts sending 15000 trades at 1500 per second, with seed 5
    And PostgreSQL terminates every session in a transaction, 10 times
    Then all trades have arrived
    And every stream is drained within 60 seconds
    And candles_1m holds every trade exactly once
    And ticks holds every trade exactly once
    And every larger timeframe is the aggregate of candles_1m

  @apache @own-redis @own-clock
  Scenario: The clock of Redis jumps
    Given a Redis with an adjustable clock
    And a running pipeline
    When a feed starts sending 15000 trades at 1500 per second, with seed 6
    And 1500 more trades have arrived
    And the clock of Redis is set 90 seconds ahead
    And 3000 more trades have arrived
    And the clock of Redis is set 30 seconds back
    And 3000 more trades have arrived
    And the clock of Redis is set to the correct time
    Then all trades have arrived
    And every stream is drained within 60 seconds
    And candles_1m holds every trade exactly once
    And ticks holds every trade exactly once
    And every larger timeframe is the aggregate of candles_1m

  @apache
  Scenario: Every function is removed from Redis
    Given a running pipeline
    When a feed starts sending 15000 trades at 1500 per second, with seed 7
    And 3000 more trades have arrived
    And every function is removed from Redis
    Then all trades have arrived
    And every stream is drained within 60 seconds
    And candles_1m holds every trade exactly once
    And ticks holds every trade exactly once
    And every larger timeframe is the aggregate of candles_1m

  @apache
  Scenario Outline: Every consumer group is <what>
    Given a running pipeline
    When a feed starts sending 15000 trades at 1500 per second, with seed 8
    And 3000 more trades have arrived
    And every consumer group is <what>
    And 3000 more trades have arrived
    And every consumer group is <what>
    Then all trades have arrived
    And every stream is drained within 60 seconds
    And candles_1m holds every trade exactly once
    And ticks holds every trade exactly once
    And every larger timeframe is the aggregate of candles_1m

    Examples:
      | what                         |
      | destroyed                    |
      | set back to the oldest entry |

  @apache
  Scenario: A candle that is read again after its only trade was busted does not stay
    Given a running pipeline
    When these trades arrive:
      | symbol  | time                 | price | qty | id | kind |
      | BTCUSDT | 2024-03-01T12:00:20Z | 102   | 1   | 1  |      |
      | BTCUSDT | 2024-03-01T12:02:20Z | 103   | 1   | 2  |      |
    Then candles_1m holds every trade exactly once
    When these trades arrive:
      | symbol  | time                 | price | qty | id | kind |
      | BTCUSDT | 2024-03-01T12:00:20Z |       |     | 1  | bust |
    Then candles_1m holds every trade exactly once
    When I send `XGROUP SETID stream:candles:1 warm-syncer 0` to Redis
    Then every stream is drained within 60 seconds
    And candles_1m holds every trade exactly once
    And every larger timeframe holds every trade exactly once

  @apache @own-redis @own-network
  Scenario: An owner is suspended beyond the end of its lease and resumes in the middle of a write
    Given a proxy between each worker and each of its stores
    And a running pipeline with 2 hot-writers and 1 warm-syncers
    When a feed starts sending 15000 trades at 1500 per second, with seed 9
    And 1500 more trades have arrived
    And the hot-writer is suspended in the middle of a write until other replicas own its partitions
    And 3000 more trades have arrived
    And the hot-writer is suspended in the middle of a write until other replicas own its partitions
    Then the hot-writer becomes ready
    And all trades have arrived
    And every stream is drained within 60 seconds
    And candles_1m holds every trade exactly once
    And ticks holds every trade exactly once
    And every larger timeframe is the aggregate of candles_1m
