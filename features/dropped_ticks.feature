Feature: Trades of minutes whose ticks were dropped
  Ticks are kept for a week, candles for ever. A trade that comes later than that joins the candle of its minute; what is left of the
  ticks is never taken for all that there were.

  Background:
    Given the setting STORAGE_ADMIN__RETAIN_TICKS is "7days"
    And the setting STORAGE_ADMIN__POLICY_INTERVAL is "1h"
    And a running pipeline
    And trades of XRPETH of 10 days ago arrive:
      | second | price | qty | id |
      | 20     | 50    | 7   | 1  |
    And trades of XRPETH of 0 days ago arrive:
      | second | price | qty | id |
      | 0      | 55    | 1   | 2  |
    Then the minute of XRPETH of 10 days ago is:
      | open | high | low | close | volume | trades |
      | 50   | 50   | 50  | 50    | 7      | 1      |
    And every larger timeframe is the plain grouping of candles_1m
    When I run `aggregator-admin apply`
    And the aggregator-admin is killed
    And the aggregator-admin is started again
    Then the query "SELECT count(*) FROM ticks WHERE time < now() - INTERVAL '9 days'" gives "0"

  Scenario: A late trade joins its minute, once
    When trades of XRPETH of 10 days ago arrive:
      | second | price | qty | id |
      | 30     | 60    | 1   | 3  |
    Then the minute of XRPETH of 10 days ago is:
      | open | high | low | close | volume | trades |
      | 50   | 60   | 50  | 60    | 8      | 2      |
    And every larger timeframe is the plain grouping of candles_1m
    And every stream is drained
    And `aggregator-admin verify` soon finds nothing wrong
    When trades of XRPETH of 10 days ago arrive:
      | second | price | qty | id |
      | 30     | 60    | 1   | 3  |
      | 10     | 40    | 2   | 4  |
    Then the minute of XRPETH of 10 days ago is:
      | open | high | low | close | volume | trades |
      | 50   | 60   | 40  | 60    | 10     | 3      |
    When the minute of XRPETH of 10 days ago is repaired by hand
    Then the minute of XRPETH of 10 days ago is:
      | open | high | low | close | volume | trades |
      | 50   | 60   | 40  | 60    | 10     | 3      |
    And every larger timeframe is the plain grouping of candles_1m
    And `aggregator-admin verify` soon finds nothing wrong

  Scenario: A late trade of a minute that had none is its candle
    When trades of ETHUSDT of 0 days ago arrive:
      | second | price | qty | id |
      | 0      | 55    | 1   | 1  |
    And trades of ETHUSDT of 10 days ago arrive:
      | second | price | qty | id |
      | 30     | 60    | 1   | 2  |
    Then the minute of ETHUSDT of 10 days ago is:
      | open | high | low | close | volume | trades |
      | 60   | 60   | 60  | 60    | 1      | 1      |
    And the minute of XRPETH of 10 days ago is:
      | open | high | low | close | volume | trades |
      | 50   | 50   | 50  | 50    | 7      | 1      |
    And `aggregator-admin verify` soon finds nothing wrong
