Feature: Bad input
  Producers send floats, odd numbers and sometimes rubbish. What can be counted is counted to the lot; what
  can't is kept with the reason, and never in the way.

  Background:
    Given a running pipeline

  Scenario: Odd but sound numbers and ids are counted exactly
    When trades arrive with:
      | symbol     | field    | value                                |
      | FRACTION   | qty      | 0.12345678                           |
      | NOISE      | qty      | 0.00031099999999999997               |
      | LARGENOISE | qty      | 4043681.0359377135                   |
      | TINY       | qty      | 9.2E-7                               |
      | HUGE       | qty      | 1.01748847777E7                      |
      | EQUAL      | side     | buy                                  |
      | EQUAL      | side     | buy                                  |
      | GUID       | trade_id | 2f9e7c1a-5f0e-4d58-a6a2-6a3a3c9f0f11 |
      | GUID       | trade_id | 2f9e7c1a-5f0e-4d58-a6a2-6a3a3c9f0f11 |
      | LONGID     | trade_id | 18446744073709551617                 |
      | LONGID     | trade_id | 18446744073709551618                 |
      | CHEAP      | price    | 9.2E-7                               |
    Then the volume in candles_1m is:
      | symbol     | units            | trades |
      | FRACTION   | 0.12345678       | 1      |
      | NOISE      | 0.000311         | 1      |
      | LARGENOISE | 4043681.03593771 | 1      |
      | TINY       | 0.00000092       | 1      |
      | HUGE       | 10174884.7777    | 1      |
      | EQUAL      | 4                | 2      |
      | GUID       | 2                | 1      |
      | LONGID     | 4                | 2      |
      | CHEAP      | 2                | 1      |
    And every larger timeframe is the plain grouping of candles_1m

  Scenario Outline: A trade whose <field> is <value> is a dead letter that says why, and the flow goes on
    When a trade of BTCUSDT arrives whose <field> is "<value>"
    And a sound trade of BTCUSDT arrives
    Then a dead letter says "<reason>"
    And candles_1m holds every trade exactly once
    And every larger timeframe is the plain grouping of candles_1m

    Examples:
      | field  | value           | reason                                                        |
      | qty    | 0.000000001     | symbols set BTCUSDT --volume-decimals 9 --rescale`, then       |
      | qty    | 100000000000    | symbols set BTCUSDT --volume-decimals 4 --rescale`, then       |
      | price  | -1              | field `price` must be positive                                |
      | price  | NaN             | field `price` is not a decimal number                         |
      | price  | 1 MB of rubbish | field `price`                                                 |
      | symbol |                 | field `symbol`                                                |
      | symbol | BTC:USDT        | field `symbol`                                                |
      | ts_us  | next year       | ahead of the time at which Redis accepted the entry           |
      | ts_us  | soon            | field `ts_us`                                                 |
      | side   | both            | field `side` must be buy or sell                              |

  Scenario: A missing field
    When a trade of BTCUSDT arrives without qty
    And a sound trade of BTCUSDT arrives
    Then a dead letter says "field `qty` is missing"
    And candles_1m holds every trade exactly once

  Scenario: A size beyond bigint is counted, once, after the operator has done what the dead letter says
    When a trade of MEME arrives whose qty is "100000000000"
    Then a dead letter says "run `aggregator-admin symbols set MEME --volume-decimals 4 --rescale`, then requeue"
    When I do what the dead letters of MEME say
    Then the volume of MEME in candles_1m is "100000000000" units in 1 trade
    And the query "SELECT count(*) FROM ticks WHERE symbol = 'MEME'" gives "1"
    When I run `aggregator-admin dead-letters list`
    Then it says "no dead letters"

  Scenario: A size too fine for its lots is counted after the lots were made finer
    When a trade of DUST arrives whose qty is "0.000000001"
    Then a dead letter says "is too fine for lots of 10^-8"
    When I do what the dead letters of DUST say
    Then the volume of DUST in candles_1m is "0.000000001" units in 1 trade

  Scenario: A minute whose sum would leave bigint, and a day whose sum does
    When 2 trades of MEME arrive whose qty is "60000000000"
    Then a dead letter says "the minute's volume leaves bigint"
    When these trades arrive:
      | symbol | time                 | price | qty         |
      | BIG    | 2024-03-01T12:00:00Z | 1.5   | 90000000000 |
      | BIG    | 2024-03-01T12:01:00Z | 1.5   | 90000000000 |
      | BIG    | 2024-03-01T12:02:00Z | 1.5   | 90000000000 |
    Then the query "SELECT volume FROM candles_1d WHERE symbol = 'BIG'" gives "27000000000000000000"
    And every stream is drained
    And `aggregator-admin verify` soon finds nothing wrong
    When I do what the dead letters of MEME say
    Then the volume of MEME in candles_1m is "120000000000" units in 2 trades
    And every larger timeframe is the plain grouping of candles_1m
    And `aggregator-admin verify` soon finds nothing wrong

  Scenario: A late minute whose sum would leave bigint lacks only what does not fit, until the operator has done what the dead letter says
    When these trades arrive:
      | symbol | time                 | price | qty         | id |
      | WHALE  | 2024-03-01T14:00:00Z | 5     | 1           | 1  |
      | WHALE  | 2024-03-01T12:00:10Z | 6     | 60000000000 | 2  |
      | WHALE  | 2024-03-01T12:00:40Z | 9     | 60000000000 | 3  |
      | WHALE  | 2024-03-01T12:00:20Z | 4     | 0.5         | 4  |
    Then the query "SELECT open, high, low, close, volume, trades FROM candles_1m WHERE symbol = 'WHALE' ORDER BY time LIMIT 1" gives "6 6 4 4 6000000000050000000 2"
    And every stream is drained
    And `aggregator-admin verify` soon finds nothing wrong
    When I do what the dead letters of WHALE say
    Then the query "SELECT open, high, low, close, volume, trades FROM candles_1m WHERE symbol = 'WHALE' ORDER BY time LIMIT 1" gives "6 9 4 9 1200000000005000 3"
    And every larger timeframe is the plain grouping of candles_1m
    And `aggregator-admin verify` soon finds nothing wrong

  Scenario: A closed minute that does not fit lots which became finer lacks only what does not fit
    When the warm-syncer is told to stop
    Then the warm-syncer exits 0 within its grace period
    When these trades arrive:
      | symbol | time                 | price | qty        | id |
      | BIG    | 2024-03-01T12:00:10Z | 6     | 6000000000 | 1  |
      | BIG    | 2024-03-01T12:00:20Z | 7     | 6000000000 | 2  |
    Then a closed minute of BIG waits for the warm-syncer
    When I run `aggregator-admin symbols set BIG --volume-decimals 9`
    Then it exits 0
    When the warm-syncer is started again
    Then the query "SELECT close, volume, trades FROM candles_1m WHERE symbol = 'BIG'" gives "6 6000000000000000000 1"
    And every stream is drained
    And `aggregator-admin verify` soon finds nothing wrong
    When I do what the dead letters of BIG say
    Then the volume of BIG in candles_1m is "12000000000" units in 2 trades
    And every larger timeframe is the plain grouping of candles_1m
    And `aggregator-admin verify` soon finds nothing wrong

  Scenario: Lots of a symbol that has rows don't change unasked
    When a sound trade of BTCUSDT arrives
    Then candles_1m holds every trade exactly once
    When I run `aggregator-admin symbols set BTCUSDT --volume-decimals 4`
    Then it exits 64
    And it says "--rescale"
