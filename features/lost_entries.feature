Feature: Entries that others remove
  The pipeline trims only what every group has finished. Where somebody else trims a stream, what was lost is counted,
  logged and alarmed.

  Scenario: Ticks are trimmed while the workers are away
    Given a running pipeline
    When every worker is told to stop
    And 1000 ticks of BTCUSDT arrive at once, of which the producer keeps 101
    And the hot-writer is started without waiting for it
    And the warm-syncer is started without waiting for it
    Then the metric hot_writer_lost_entries_total of the hot-writer is 899
    And the metric warm_syncer_lost_entries_total of the warm-syncer is 899
    And the metric hot_writer_ticks_folded_total of the hot-writer is 101
    And the hot-writer is not ready because of entries
    And the warm-syncer is not ready because of entries
    And the log of the hot-writer names the position and the first entry that is left
    When I run `aggregator-admin status`
    Then it exits 0
    And it says "899 of ticks:1 not read by hot-writer"
    And it says "899 of ticks:1 not read by warm-syncer"
    When the hot-writer is killed
    And the hot-writer is started again
    Then the metric hot_writer_ticks_folded_total of the hot-writer is 0
    And the metric hot_writer_lost_entries_total of the hot-writer is 0

  Scenario: Ticks are trimmed while the workers read
    Given a running pipeline
    When 1000 ticks of BTCUSDT arrive at once, of which the producer keeps 101
    Then the metric hot_writer_lost_entries_total of the hot-writer is 899
    And the metric hot_writer_ticks_folded_total of the hot-writer is 101
    And the metric warm_syncer_lost_entries_total of the warm-syncer is 899
    And the hot-writer is not ready because of entries

  Scenario: Announcements are trimmed before aggregator-admin has read them
    Given a running pipeline
    When the aggregator-admin is told to stop
    Then the aggregator-admin exits 0 within its grace period
    When 10 entries are added to stream:rollups and removed
    And the aggregator-admin is started without waiting for it
    Then the metric aggregator_admin_lost_entries_total of the aggregator-admin is 10
    And the aggregator-admin is not ready because of entries
