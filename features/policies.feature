@any-redis
Feature: Policies
  Retention and compression periods are settings. An operator sees a change before it is applied. A period that
  would delete needed data is refused.

  Background:
    Given migrated stores

  @community
  Scenario: A changed period is planned, then applied
    When I run `aggregator-admin plan --set admin.compress_after=48h`
    Then it exits 0
    And it says "candles_1m"
    When I run `aggregator-admin apply --set admin.compress_after=48h`
    Then it exits 0
    And these queries return:
      | query                                                                                                                                                      | result |
      | SELECT DISTINCT extract(epoch FROM (config->>'compress_after')::interval)::bigint FROM timescaledb_information.jobs WHERE proc_name = 'policy_compression' | 172800 |

  Scenario: A retention that would delete the source of aggregates is refused
    When I run `aggregator-admin apply --set admin.retain_candles_1m=2days`
    Then it exits 64
    And it says "admin.retain_candles_1m must be at least"
