@any-redis
Feature: Bad input
  Producers send floats, unusual number formats and sometimes garbage. Usable trades are counted exactly. All
  others become dead letters with a reason, and do not delay the trades behind them.

  Background:
    Given a running pipeline

  Scenario: Unusual but valid numbers, symbols, sides and trade IDs are counted exactly
    When I run `aggregator-admin symbols set CL=F --prices any`
    And trades arrive with these fields:
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
      | PYTHON     | price    | 1e-05                                |
      | PLUS       | qty      | +.5                                  |
      | CL=F       | price    | -37.63                               |
      | ^GSPC      | side     | BUY                                  |
      | M&M.NS     | side     | bid                                  |
      | 币安人生USDT   | side     | 1                                    |
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
      | PYTHON     | 2                | 1      |
      | PLUS       | 0.5              | 1      |
      | CL=F       | 2                | 1      |
      | ^GSPC      | 2                | 1      |
      | M&M.NS     | 2                | 1      |
      | 币安人生USDT   | 2                | 1      |
    And the query "SELECT low FROM candles_1m WHERE symbol = 'CL=F'" returns "-37.63"
    And the query "SELECT symbol FROM ticks WHERE side = 'buy' AND symbol IN ('^GSPC', 'M&M.NS')" returns "^GSPC"
    And every larger timeframe is the aggregate of candles_1m

  Scenario: An entry with an ID beyond the year 2039 costs a command, and no trade
    When I send `XADD stream:ticks:0 9999999999999-1 symbol FUTURE` to Redis
    And these trades arrive:
      | symbol | time                 | price | qty | id |
      | A      | 2024-03-01T12:00:20Z | 102   | 1   | 1  |
      | D      | 2024-03-01T12:00:20Z | 102   | 1   | 1  |
    Then the query "SELECT count(*) FROM dead_letters WHERE reason LIKE '%groups reset-ids`'" returns "1"
    And every stream is drained
    When I run `aggregator-admin groups reset-ids ticks:0`
    Then it exits 1
    And it says "hot-writers are running"
    When the hot-writer receives SIGTERM
    And the warm-syncer receives SIGTERM
    Then the hot-writer exits 0 within its grace period
    And the warm-syncer exits 0 within its grace period
    When I run `aggregator-admin groups reset-ids ticks:0`
    Then it exits 0
    When the hot-writer is started again
    And the warm-syncer is started again
    And I run `aggregator-admin dead-letters requeue --all`
    Then candles_1m holds every trade exactly once
    And every larger timeframe is the aggregate of candles_1m

  Scenario Outline: A trade with <field> <value> becomes a dead letter with a reason, and the next trade is counted
    When a trade of BTCUSDT arrives with <field> "<value>"
    And a valid trade of BTCUSDT arrives
    Then a dead letter reports "<reason>"
    And candles_1m holds every trade exactly once
    And every larger timeframe is the aggregate of candles_1m

    Examples:
      | field  | value           | reason                                                   |
      | qty    | 1e-19           | no number of decimals fits it                            |
      | qty    | 1e19            | no number of decimals fits it                            |
      | price  | -1              | field `price` must be positive                           |
      | price  | NaN             | field `price` is not a decimal number                    |
      | price  | 1 MB of garbage | field `price`                                            |
      | symbol |                 | field `symbol`                                           |
      | symbol | BTC:USDT        | field `symbol`                                           |
      | ts_us  | next year       | ahead of the time at which Redis accepted the entry      |
      | ts_us  | soon            | field `ts_us`                                            |
      | ts_us  | 1700000000123   | field `ts_us` looks like milliseconds                    |

  Scenario: A trade without a required field becomes a dead letter
    When a trade of BTCUSDT arrives without qty
    And a valid trade of BTCUSDT arrives
    Then a dead letter reports "field `qty` is missing"
    And candles_1m holds every trade exactly once

  Scenario: A quantity that overflows bigint is counted once, without a command
    When a trade of MEME arrives with qty "100000000000"
    Then the volume of MEME in candles_1m is "100000000000" units in 1 trade
    And the query "SELECT count(*) FROM ticks WHERE symbol = 'MEME'" returns "1"
    When I run `aggregator-admin dead-letters list`
    Then it says "no dead letters"
    When I run `aggregator-admin symbols changes`
    Then it says "MEME"

  Scenario: Quantities finer than a lot are counted exactly, without a command
    When trades arrive with these fields:
      | symbol | field | value           |
      | DUST   | qty   | 2.5             |
      | DUST   | qty   | 0.000000001     |
      | DUST   | qty   | 12345.123456789 |
    Then the volume of DUST in candles_1m is "12347.62345679" units in 3 trades
    And every larger timeframe is the aggregate of candles_1m

  Scenario: A minute's volume must fit bigint, a day's volume need not
    When 2 trades of MEME arrive with qty "60000000000"
    And these trades arrive:
      | symbol | time                 | price | qty         |
      | BIG    | 2024-03-01T12:00:00Z | 1.5   | 90000000000 |
      | BIG    | 2024-03-01T12:01:00Z | 1.5   | 90000000000 |
      | BIG    | 2024-03-01T12:02:00Z | 1.5   | 90000000000 |
    Then the query "SELECT volume FROM candles_1d WHERE symbol = 'BIG'" returns "27000000000000000000"
    And every stream is drained
    And the volume of MEME in candles_1m is "120000000000" units in 2 trades
    And every larger timeframe is the aggregate of candles_1m
    And `aggregator-admin verify` soon exits 0

  Scenario: A repaired minute that would overflow bigint has all its trades
    When these trades arrive:
      | symbol | time                 | price | qty         | id |
      | WHALE  | 2024-03-01T14:00:00Z | 5     | 1           | 1  |
      | WHALE  | 2024-03-01T12:00:10Z | 6     | 60000000000 | 2  |
      | WHALE  | 2024-03-01T12:00:40Z | 9     | 60000000000 | 3  |
      | WHALE  | 2024-03-01T12:00:20Z | 4     | 0.5         | 4  |
    Then these queries return:
      | query                                                                                                      | result                     |
      | SELECT open, high, low, close, volume, trades FROM candles_1m WHERE symbol = 'WHALE' ORDER BY time LIMIT 1 | 6 9 4 9 1200000000005000 3 |
    And every larger timeframe is the aggregate of candles_1m
    And `aggregator-admin verify` soon exits 0

  Scenario: A closed minute that overflows bigint after the symbol got more decimals has all its trades
    When the warm-syncer receives SIGTERM
    Then the warm-syncer exits 0 within its grace period
    When these trades arrive:
      | symbol | time                 | price | qty        | id |
      | BIG    | 2024-03-01T12:00:10Z | 6     | 6000000000 | 1  |
      | BIG    | 2024-03-01T12:00:20Z | 7     | 6000000000 | 2  |
    Then the 1-minute candle of BIG is final in Redis
    When I run `aggregator-admin symbols set BIG --volume-decimals 9`
    Then it exits 0
    When the warm-syncer is started again
    Then the volume of BIG in candles_1m is "12000000000" units in 2 trades
    And every larger timeframe is the aggregate of candles_1m
    And `aggregator-admin verify` soon exits 0

  Scenario: The decimals of a symbol with rows change only with --rescale
    When a valid trade of BTCUSDT arrives
    Then candles_1m holds every trade exactly once
    When I run `aggregator-admin symbols set BTCUSDT --volume-decimals 4`
    Then it exits 64
    And it says "--rescale"
