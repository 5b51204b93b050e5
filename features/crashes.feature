Feature: A crash at every point
  Every effect of a worker is a message to Redis or PostgreSQL. A worker that is killed before, during or after
  any of these messages and started again loses no trade and counts none twice.

  @apache @own-redis @own-network @serial
  Scenario: Every worker is killed between every two effects, and every trade is counted once
    Given a proxy between each worker and each of its stores
    And a running pipeline
    When a feed starts sending 100000 trades at 1500 per second, every 100th of a new symbol, with seed 1
    And the workers are killed and started again at each of these points, 2 times:
      | worker           | store      | message             | delivered | state                                                     |
      | hot-writer       | Redis      | storage_announce    | nothing   | a batch is folded, and none of it is written              |
      | hot-writer       | Redis      | storage_announce    | a part    | some closed candles and repairs are announced             |
      | hot-writer       | Redis      | storage_announce    | all       | all are announced, and no closed candle is written        |
      | hot-writer       | Redis      | storage_opened      | nothing   | the candles of a new symbol are written, the index is not |
      | hot-writer       | Redis      | storage_opened      | all       | the index is written, without a reply to the worker       |
      | hot-writer       | Redis      | tick:latest:        | nothing   | latest ticks are folded and not written                   |
      | hot-writer       | Redis      | tick:latest:        | a part    | some latest ticks are written, others are not             |
      | hot-writer       | Redis      | tick:latest:        | all       | latest ticks are written, without a reply to the worker   |
      | hot-writer       | Redis      | candle:1m:          | nothing   | closed candles are announced, no candle is written        |
      | hot-writer       | Redis      | candle:1m:          | a part    | some candles are written, others are not                  |
      | hot-writer       | Redis      | candle:1m:          | all       | candles are written, without a reply to the worker        |
      | hot-writer       | Redis      | candle:1d:          | nothing   | smaller candles are written, daily ones are not           |
      | hot-writer       | Redis      | candle:1d:          | all       | all candles are written, the position has not moved       |
      | hot-writer       | Redis      | UNLINK              | nothing   | the position has moved, candles that ended still exist    |
      | hot-writer       | Redis      | UNLINK              | all       | they are removed, without a reply to the worker           |
      | hot-writer       | Redis      | storage_closed      | nothing   | the index contains symbols without an open candle         |
      | hot-writer       | Redis      | storage_closed      | all       | the index is written, without a reply to the worker       |
      | hot-writer       | Redis      | storage_advance     | nothing   | all is written except the position                        |
      | hot-writer       | Redis      | storage_advance     | a part    | the position's command is truncated                       |
      | hot-writer       | Redis      | storage_advance     | all       | the position has moved, without a reply to the worker     |
      | warm-syncer      | PostgreSQL | COMMIT              | nothing   | a batch is written and not committed                      |
      | warm-syncer      | PostgreSQL | COMMIT              | a part    | the COMMIT is truncated                                   |
      | warm-syncer      | PostgreSQL | COMMIT              | all       | the batch is committed, without a reply to the worker     |
      | warm-syncer      | Redis      | storage_announce    | nothing   | the batch is committed, and nothing is announced          |
      | warm-syncer      | Redis      | storage_announce    | all       | the ranges are announced, the position has not moved      |
      | warm-syncer      | Redis      | storage_advance     | nothing   | the ranges are announced, the position has not moved      |
      | warm-syncer      | Redis      | storage_advance     | a part    | the position's command is truncated                       |
      | warm-syncer      | Redis      | storage_advance     | all       | the position has moved, without a reply to the worker     |
      | aggregator-admin | PostgreSQL | COMMIT              | nothing   | a minute or a range is not committed                      |
      | aggregator-admin | PostgreSQL | COMMIT              | all       | it is committed, without a reply to the worker            |
      | aggregator-admin | Redis      | storage_announce    | nothing   | a minute is repaired, its range is not announced          |
      | aggregator-admin | Redis      | storage_announce    | all       | the range is announced, the repair is not acknowledged    |
      | aggregator-admin | Redis      | XACK stream:repairs | nothing   | the range is announced, the repair is not acknowledged    |
      | aggregator-admin | Redis      | XACK stream:repairs | all       | the repair is acknowledged, without a reply to the worker |
      | aggregator-admin | Redis      | XACK stream:rollups | nothing   | a range is refreshed and not acknowledged                 |
      | aggregator-admin | Redis      | XACK stream:rollups | a part    | the acknowledgement is truncated                          |
      | aggregator-admin | Redis      | XACK stream:rollups | all       | the range is acknowledged, without a reply to the worker  |
    Then the workers were killed at least 50 times
    And all trades have arrived
    And every stream is drained within 30 seconds
    And candles_1m holds every trade exactly once
    And ticks holds every trade exactly once
    And every larger timeframe is the aggregate of candles_1m
