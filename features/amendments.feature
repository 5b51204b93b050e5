@any-redis
Feature: One identity of a trade
  The same trade counts once in any resolution of time and from any source. Corrections and busts change it in every
  candle, and what contradicts it is kept as a dead letter.

  Scenario: A trade counts once, in whatever resolution its time comes
    Given a running pipeline
    When these trades arrive:
      | symbol | time                        | price | qty | id    |
      | FEED   | 2024-03-01T12:00:20.123456Z | 102   | 1   | 701   |
      | FEED   | 2024-03-01T12:00:20.124001Z | 103   | 1   | 702   |
      | FEED   | 2024-03-01T12:00:21.999999Z | 104   | 1   | 703   |
      | FEED   | 2024-03-01T12:00:20.123Z    | 102   | 1   | 701.0 |
      | FEED   | 2024-03-01T12:00:20Z        | 103   | 1   | 702.0 |
      | FEED   | 2024-03-01T12:00:21.999Z    | 104   | 1   | 703   |
      | VENUES | 2024-03-01T12:00:20.100Z    | 102   | 1   | 9     |
      | VENUES | 2024-03-01T12:00:20.300Z    | 101   | 1   | 9     |
      | DAYS   | 2024-03-01T12:00:20Z        | 102   | 1   | 1     |
      | DAYS   | 2024-03-02T12:00:20Z        | 103   | 1   | 1     |
      | DAYS   | 2024-03-03T12:00:20Z        | 104   | 1   | 1     |
    Then the open candle of every symbol in every timeframe is the aggregate of its trades
    And candles_1m holds every trade exactly once
    And every larger timeframe holds every trade exactly once
    And these queries return:
      | query                                                    | result |
      | SELECT count(*) FROM ticks WHERE symbol = 'FEED'         | 3      |
      | SELECT sum(trades) FROM candles_1d WHERE symbol = 'DAYS' | 3      |

  Scenario: Another price of the same trade becomes a dead letter that names what is kept
    Given a running pipeline
    When these trades arrive:
      | symbol  | time                     | price | qty | id |
      | BTCUSDT | 2024-03-01T12:00:20.100Z | 102   | 1   | 7  |
    Then the open candle of BTCUSDT in every timeframe is the aggregate of its trades
    When these trades arrive:
      | symbol  | time                     | price | qty | id |
      | BTCUSDT | 2024-03-01T12:00:20.100Z | 103   | 1   | 7  |
    Then a dead letter reports "conflicts with price 102 and qty 1 of the same trade"
    And candles_1m holds every trade exactly once
    And every larger timeframe holds every trade exactly once

  Scenario: Corrections and busts change candles of every age
    Given a running pipeline
    And a subscriber to every channel
    And 400 trades of ETHUSDT from the last 12 days
    Then candles_1m holds every trade exactly once
    When trade number 1 is corrected to price 120.25
    And trade number 2 is busted
    And trade number 398 is corrected to price 121.75
    And trade number 399 is busted
    And trade number 400 is corrected to price 122.25
    Then candles_1m holds every trade exactly once
    And ticks holds every trade exactly once
    And every larger timeframe holds every trade exactly once
    And the open candle of ETHUSDT in every timeframe is the aggregate of its trades
    And the channel candle:1m:ETHUSDT publishes a message with:
      | open   | close  | trades | final |
      | 120.25 | 120.25 | 1      | true  |
    And `aggregator-admin verify` soon exits 0

  Scenario: A feed with corrections and busts that is sent again changes nothing
    Given a running pipeline
    When these trades arrive:
      | time                 | price | qty | id | kind       |
      | 2024-03-01T12:00:20Z | 102   | 1   | 1  |            |
      | 2024-03-01T12:00:21Z | 103   | 1   | 2  |            |
      | 2024-03-01T12:00:20Z | 100   | 2   | 1  | correction |
      | 2024-03-01T12:00:21Z |       |     | 2  | bust       |
      | 2024-03-01T12:00:22Z | 104   | 1   | 3  |            |
      | 2024-03-01T12:00:20Z | 102   | 1   | 1  |            |
      | 2024-03-01T12:00:21Z | 103   | 1   | 2  |            |
      | 2024-03-01T12:00:20Z | 100   | 2   | 1  | correction |
    Then the open candle of BTCUSDT in every timeframe is the aggregate of its trades
    And candles_1m holds every trade exactly once
    And every larger timeframe holds every trade exactly once
    And the query "SELECT count(*) FROM tick_versions" returns "4"
    And the query "SELECT count(*) FROM dead_letters" returns "0"

  Scenario: An amendment of an unknown trade becomes a dead letter
    Given a running pipeline
    When these trades arrive:
      | time                 | price | qty | id | kind |
      | 2024-03-01T12:00:20Z | 102   | 1   | 1  |      |
      | 2024-03-01T12:00:20Z |       |     | 2  | bust |
    Then a dead letter reports "the history has no trade `2` at 2024-03-01T12:00:20Z"
    And candles_1m holds every trade exactly once

  Scenario: An operator corrects a trade, busts it, and counts it again
    Given a running pipeline
    When these trades arrive:
      | time                     | price | qty | id |
      | 2024-03-01T12:00:20.100Z | 102   | 1   | 1  |
      | 2024-03-01T12:00:21.200Z | 103   | 1   | 2  |
    Then candles_1m holds every trade exactly once
    When I run `aggregator-admin ticks correct BTCUSDT --id 2 --time 2024-03-01T12:00:21.200Z --price 99 --qty 3`
    Then it exits 0
    And the query "SELECT close || ' ' || volume || ' ' || trades FROM candles_1m" returns "99 400000000 2"
    When I run `aggregator-admin ticks bust BTCUSDT --id 2 --time 2024-03-01T12:00:21.200Z`
    Then it exits 0
    And the query "SELECT close || ' ' || volume || ' ' || trades FROM candles_1d" returns "102 100000000 1"
    And the hash tick:latest:BTCUSDT contains:
      | price | trade_id |
      | 102   | 1        |
    When I run `aggregator-admin ticks correct BTCUSDT --id 2 --time 2024-03-01T12:00:21.200Z --price 103 --qty 1`
    Then it exits 0
    And candles_1m holds every trade exactly once
    And every larger timeframe holds every trade exactly once
    And the open candle of BTCUSDT in every timeframe is the aggregate of its trades
