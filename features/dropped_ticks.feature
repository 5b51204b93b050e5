Feature: Late trades after retention has dropped the ticks
  Ticks are kept for a week, candles for ever. A trade that arrives later than that is added to the candle of
  its minute; the candle is never computed again from an incomplete set of ticks.

  Background:
    Given the setting STORAGE_ADMIN__RETAIN_TICKS is "7days"
    And the setting STORAGE_ADMIN__POLICY_INTERVAL is "1h"
    And a running pipeline
    And trades of XRPETH from 10 days ago arrive:
      | second | price | qty | id |
      | 20     | 50    | 7   | 1  |
    And trades of XRPETH from 3 days ago arrive:
      | second | price | qty | id |
      | 0      | 55    | 1   | 2  |
    Then the 1-minute candle of XRPETH from 10 days ago is:
      | open | high | low | close | volume | trades |
      | 50   | 50   | 50  | 50    | 7      | 1      |
    And every larger timeframe is the aggregate of candles_1m
    When I run `aggregator-admin apply`
    And the aggregator-admin is killed
    And the aggregator-admin is started again
    Then the query "SELECT count(*) FROM ticks WHERE time < now() - INTERVAL '9 days'" returns "0"

  Scenario: A late trade is added to its candle once
    When trades of XRPETH from 10 days ago arrive:
      | second | price | qty | id |
      | 30     | 60    | 1   | 3  |
    Then the 1-minute candle of XRPETH from 10 days ago is:
      | open | high | low | close | volume | trades |
      | 50   | 60   | 50  | 60    | 8      | 2      |
    And every larger timeframe is the aggregate of candles_1m
    And every stream is drained
    And `aggregator-admin verify` soon exits 0
    When trades of XRPETH from 10 days ago arrive:
      | second | price | qty | id |
      | 30     | 60    | 1   | 3  |
      | 10     | 40    | 2   | 4  |
    Then the 1-minute candle of XRPETH from 10 days ago is:
      | open | high | low | close | volume | trades |
      | 50   | 60   | 40  | 60    | 10     | 3      |
    When I repair the minute of XRPETH from 10 days ago
    Then the 1-minute candle of XRPETH from 10 days ago is:
      | open | high | low | close | volume | trades |
      | 50   | 60   | 40  | 60    | 10     | 3      |
    And every larger timeframe is the aggregate of candles_1m
    And `aggregator-admin verify` soon exits 0

  Scenario: A late trade of a minute without trades creates the candle
    When trades of ETHUSDT from 3 days ago arrive:
      | second | price | qty | id |
      | 0      | 55    | 1   | 1  |
    And trades of ETHUSDT from 10 days ago arrive:
      | second | price | qty | id |
      | 30     | 60    | 1   | 2  |
    Then the 1-minute candle of ETHUSDT from 10 days ago is:
      | open | high | low | close | volume | trades |
      | 60   | 60   | 60  | 60    | 1      | 1      |
    And the 1-minute candle of XRPETH from 10 days ago is:
      | open | high | low | close | volume | trades |
      | 50   | 50   | 50  | 50    | 7      | 1      |
    And `aggregator-admin verify` soon exits 0
