Feature: A crash at every point
  All that a worker does to the world is a message to Redis or PostgreSQL. Killed before, in the middle of, or after any of
  them, and started again, it loses nothing and counts nothing twice.

  @apache @own-redis @own-network @serial
  Scenario: Every worker is killed between any two of its effects
    Given a network that can fail between the workers and their stores
    And a running pipeline
    When 100000 trades begin to arrive, 1500 a second, every 100th of a new symbol, from seed 1
    And the workers are killed at each of these points, 2 times, and started again:
      | worker           | store      | message             | gets through | which is                                         |
      | hot-writer       | Redis      | storage_announce    | nothing      | a batch is read and nothing of it is written     |
      | hot-writer       | Redis      | storage_announce    | a part       | some are told of closed minutes and repairs      |
      | hot-writer       | Redis      | storage_announce    | all          | all are told, nothing is shown                   |
      | hot-writer       | Redis      | storage_opened      | nothing      | all is shown, the index of candles is behind     |
      | hot-writer       | Redis      | storage_opened      | all          | the index is right, and it does not know         |
      | hot-writer       | Redis      | tick:latest:        | nothing      | told, not shown                                  |
      | hot-writer       | Redis      | tick:latest:        | a part       | some candles are shown, others not               |
      | hot-writer       | Redis      | tick:latest:        | all          | everything is shown, the position has not moved  |
      | hot-writer       | Redis      | UNLINK              | nothing      | outlived candles are still there                 |
      | hot-writer       | Redis      | UNLINK              | all          | the batch is done, and it does not know          |
      | hot-writer       | Redis      | storage_closed      | nothing      | the index holds symbols with nothing open        |
      | hot-writer       | Redis      | storage_closed      | all          | the index is right, and it does not know         |
      | hot-writer       | Redis      | storage_advance     | nothing      | all is written but the position                  |
      | hot-writer       | Redis      | storage_advance     | a part       | the position's message is torn                   |
      | hot-writer       | Redis      | storage_advance     | all          | the position has moved, and it does not know     |
      | warm-syncer      | PostgreSQL | COMMIT              | nothing      | a batch is written and not committed             |
      | warm-syncer      | PostgreSQL | COMMIT              | a part       | the commit is torn                               |
      | warm-syncer      | PostgreSQL | COMMIT              | all          | it is committed, and the worker does not know    |
      | warm-syncer      | Redis      | storage_announce    | nothing      | it is committed and nobody is told               |
      | warm-syncer      | Redis      | storage_announce    | all          | it is told and the position has not moved        |
      | warm-syncer      | Redis      | storage_advance     | nothing      | told, and the position has not moved             |
      | warm-syncer      | Redis      | storage_advance     | a part       | the position's message is torn                   |
      | warm-syncer      | Redis      | storage_advance     | all          | the position has moved, and it does not know     |
      | aggregator-admin | PostgreSQL | COMMIT              | nothing      | a minute or a range is not committed             |
      | aggregator-admin | PostgreSQL | COMMIT              | all          | it is committed, and the worker does not know    |
      | aggregator-admin | Redis      | storage_announce    | nothing      | a minute is repaired and its range is not told   |
      | aggregator-admin | Redis      | storage_announce    | all          | it is told and the repair not acknowledged       |
      | aggregator-admin | Redis      | XACK stream:repairs | nothing      | told, and not acknowledged                       |
      | aggregator-admin | Redis      | XACK stream:repairs | all          | it is acknowledged, and the worker does not know |
      | aggregator-admin | Redis      | XACK stream:rollups | nothing      | a range is refreshed and not acknowledged        |
      | aggregator-admin | Redis      | XACK stream:rollups | a part       | the acknowledgement is torn                      |
      | aggregator-admin | Redis      | XACK stream:rollups | all          | it is acknowledged, and the worker does not know |
    Then there were at least 50 kills
    And all trades have arrived
    And every stream is drained within 30 seconds
    And candles_1m holds every trade exactly once
    And ticks holds every trade exactly once
    And every larger timeframe is the plain grouping of candles_1m
