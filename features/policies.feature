Feature: Policies
  Periods are settings. An operator sees what would change before it does, and can't lose data by a number.

  Background:
    Given migrated stores

  @community
  Scenario: A changed period is shown, then applied
    When I run `aggregator-admin plan --set admin.compress_after=48h`
    Then it exits 0
    And it says "candles_1m"
    When I run `aggregator-admin apply --set admin.compress_after=48h`
    Then it exits 0
    And TimescaleDB's own views say:
      | query                                                                                                                                                       | answer |
      | SELECT DISTINCT extract(epoch FROM (config->>'compress_after')::interval)::bigint FROM timescaledb_information.jobs WHERE proc_name = 'policy_compression'   | 172800 |

  Scenario: Retention that would delete aggregates is refused
    When I run `aggregator-admin apply --set admin.retain_candles_1m=2days`
    Then it exits 64
    And it says "admin.retain_candles_1m must be at least"
