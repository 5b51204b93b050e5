Feature: Metrics
  Every worker exports its metrics from its start.

  Scenario: Every metric exists from the start, with the value zero
    Given a running pipeline
    And the setting STORAGE_BACKUP__FOLDER is "<folder>/backups"
    And the backup-runner is started
    Then these metrics are exported with help and type:
      | worker           | metric                                 | type      |
      | hot-writer       | hot_writer_ticks_folded_total          | counter   |
      | hot-writer       | hot_writer_ticks_duplicate_total       | counter   |
      | hot-writer       | hot_writer_dead_letters_total          | counter   |
      | hot-writer       | hot_writer_candles_closed_total        | counter   |
      | hot-writer       | hot_writer_restored_candles_total      | counter   |
      | hot-writer       | hot_writer_lag_entries                 | gauge     |
      | hot-writer       | hot_writer_batch_seconds               | histogram |
      | hot-writer       | hot_writer_tick_age_seconds            | histogram |
      | hot-writer       | hot_writer_candle_age_seconds          | histogram |
      | hot-writer       | hot_writer_waiting_candles_count       | gauge     |
      | hot-writer       | hot_writer_write_share_ratio           | gauge     |
      | warm-syncer      | warm_syncer_rows_written_total         | counter   |
      | warm-syncer      | warm_syncer_dead_letters_total         | counter   |
      | warm-syncer      | warm_syncer_lag_entries                | gauge     |
      | warm-syncer      | warm_syncer_commit_seconds             | histogram |
      | aggregator-admin | aggregator_admin_repairs_total         | counter   |
      | aggregator-admin | aggregator_admin_rollups_total         | counter   |
      | aggregator-admin | aggregator_admin_compression_available | gauge     |
      | backup-runner    | backup_runner_backups_total            | counter   |
      | backup-runner    | backup_runner_last_size_bytes          | gauge     |
    And the metric hot_writer_ticks_folded_total of the hot-writer is 0
    When the seed trades are replayed at speed max
    Then the metric hot_writer_ticks_folded_total of the hot-writer is 3991
    And the metric warm_syncer_rows_written_total{kind="ticks"} of the warm-syncer is 3991

  @redis-only @own-redis
  Scenario: A worker that waits for Redis is alive but not ready
    Given Redis is down
    When the hot-writer is started without waiting for readiness
    Then /healthz of the hot-writer returns 200
    And the hot-writer receives SIGTERM
    And the hot-writer exits 0 within its grace period

  @prometheus
  Scenario: Prometheus scrapes all four workers
    Given a running pipeline
    And the setting STORAGE_BACKUP__FOLDER is "<folder>/backups"
    And the backup-runner is started
    When the seed trades are replayed at speed max
    And Prometheus scrapes every worker
    Then Prometheus reports 4 workers as up
    And Prometheus reports hot_writer_ticks_folded_total as 3991

  @prometheus @redis-only
  Scenario: The alert rules are valid
    When promtool checks the alert rules
    Then it exits 0
