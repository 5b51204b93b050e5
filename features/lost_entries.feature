Feature: Stream entries that others remove
  The pipeline trims only entries that every consumer group has finished. Entries that another client removes
  unread are counted and logged, and the worker is not ready.

  Scenario: Ticks that are trimmed while the workers are stopped are reported
    Given a running pipeline
    When every worker is stopped
    And 1000 ticks of BTCUSDT arrive in one transaction that trims the stream to 101 entries
    And the hot-writer is started without waiting for readiness
    And the warm-syncer is started without waiting for readiness
    Then the metric hot_writer_lost_entries_total of the hot-writer is 899
    And the metric warm_syncer_lost_entries_total of the warm-syncer is 899
    And the metric hot_writer_ticks_folded_total of the hot-writer is 101
    And the hot-writer is not ready and reports "lost entries"
    And the warm-syncer is not ready and reports "lost entries"
    And the log of the hot-writer names the position and the first remaining entry
    When I run `aggregator-admin status`
    Then it exits 0
    And it says "899 of ticks:1 not read by hot-writer"
    And it says "899 of ticks:1 not read by warm-syncer"
    When the hot-writer is killed
    And the hot-writer is started again
    Then the metric hot_writer_ticks_folded_total of the hot-writer is 0
    And the metric hot_writer_lost_entries_total of the hot-writer is 0

  Scenario: Ticks that are trimmed while the workers run are reported
    Given a running pipeline
    When 1000 ticks of BTCUSDT arrive in one transaction that trims the stream to 101 entries
    Then the metric hot_writer_lost_entries_total of the hot-writer is 899
    And the metric hot_writer_ticks_folded_total of the hot-writer is 101
    And the metric warm_syncer_lost_entries_total of the warm-syncer is 899
    And the hot-writer is not ready and reports "lost entries"

  Scenario: Announcements that are trimmed before aggregator-admin has read them are reported
    Given a running pipeline
    When the aggregator-admin receives SIGTERM
    Then the aggregator-admin exits 0 within its grace period
    When 10 entries are added to stream:rollups and trimmed
    And the aggregator-admin is started without waiting for readiness
    Then the metric aggregator_admin_lost_entries_total of the aggregator-admin is 10
    And the aggregator-admin is not ready and reports "lost entries"

  Scenario: A stream that is deleted while the workers run is reported, and they go on
    Given the setting STORAGE_HOT__CLOSE_GRACE is "1s"
    And a running pipeline
    When 5 trades of BTCUSDT arrive, one per second from 2024-01-15T10:00:00Z
    Then ticks holds every trade exactly once
    And every stream is drained
    When aggregator-admin has seen 5 entries in stream:ticks:1
    And the key stream:ticks:1 is deleted
    Then the log of the aggregator-admin contains "the stream was deleted or evicted whole"
    When 5 trades of BTCUSDT arrive, one per second from 2024-01-15T10:00:20Z
    Then ticks holds every trade exactly once
    And candles_1m holds every trade exactly once
