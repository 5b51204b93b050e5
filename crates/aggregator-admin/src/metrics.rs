//! What aggregator-admin tells about itself and about the history.

use storage_core::telemetry::metrics::LONG_SECONDS;

/// What became of a minute on `stream:repairs`.
pub(crate) const OUTCOMES: &[&str] = &["replaced", "joined", "no_ticks", "fewer_trades", "refused", "malformed"];
const TIMEFRAMES: &[&str] = &["5m", "15m", "1h", "4h", "1d"];
const KINDS: &[&str] = &["refresh", "compress", "retain"];

storage_core::define_metrics! {
    prefix "aggregator_admin";

    /// Minutes from stream:repairs, by what became of them.
    Counter REPAIRS = "repairs_total", outcome = OUTCOMES;
    /// Minutes from stream:repairs that wait until ticks holds everything that they need.
    Gauge REPAIRS_WAITING = "repairs_waiting";
    /// Beginnings of candles that were computed from the history for hot-writer.
    Counter BASES = "bases_total";
    /// Entries that were removed from a stream before this worker had read or finished them.
    Counter LOST_ENTRIES = "lost_entries_total";
    /// Entries of stream:rollups whose buckets were refreshed.
    Counter ROLLUPS = "rollups_total";
    /// Time to bring the announced buckets of a timeframe up to date.
    Histogram(LONG_SECONDS) REFRESH = "refresh_seconds", timeframe = TIMEFRAMES;
    /// TimescaleDB's jobs that were run here because the server has no scheduler, by kind.
    Counter POLICY_RUNS = "policy_runs_total", kind = KINDS;
    /// Runs of policies that failed, by kind.
    Counter POLICY_FAILURES = "policy_failures_total", kind = KINDS;
    /// Whether this copy is the one that runs policies.
    Gauge LEADER = "leader";

    /// 1 where TimescaleDB's edition has compression, else 0.
    Gauge COMPRESSION_AVAILABLE = "compression_available";
    /// Size on disk of a hypertable or continuous aggregate, indexes included.
    Gauge TABLE_SIZE = "table_size_bytes", table = &[];
    /// Chunks of a hypertable or continuous aggregate.
    Gauge CHUNKS = "chunks", table = &[];
    /// Compressed chunks of a hypertable or continuous aggregate.
    Gauge COMPRESSED_CHUNKS = "compressed_chunks", table = &[];
    /// Market time between the end of the newest minute and the end of the newest bucket that was made.
    Gauge ROLLUP_LAG = "rollup_lag_seconds", timeframe = TIMEFRAMES;
    /// Entries that a consumer group has not read yet.
    Gauge GROUP_LAG = "group_lag_entries", stream = &[], group = &[];
    /// Entries that a consumer group has read but not acknowledged.
    Gauge GROUP_PENDING = "group_pending_entries", stream = &[], group = &[];
    /// Time since a group that is none of the pipeline's was heard of, while there is something that it has not finished: that is
    /// never trimmed.
    Gauge FOREIGN_IDLE = "foreign_group_idle_seconds", stream = &[], group = &[];
    /// What counts against the memory limit of Redis; of the fullest master of a cluster.
    Gauge REDIS_MEMORY_USED = "redis_memory_used_bytes";
    /// The memory limit of Redis, at which producers wait; 0: none.
    Gauge REDIS_MEMORY_LIMIT = "redis_memory_limit_bytes";
    /// 1 while a setting of Redis loses data: an eviction policy that takes streams, or a default user that may not run what the
    /// append-only file holds.
    Gauge REDIS_FAULTS = "redis_setting_faults";
    /// Dead letters that were not requeued, by the stream that held the entry.
    Gauge DEAD_LETTERS = "dead_letters_waiting", stream = &[];

    /// When the last backup of a kind was begun, as seconds since 1970.
    Gauge LAST_BACKUP = "last_backup_timestamp_seconds", kind = &[];
    /// Size of the last backup of a kind.
    Gauge LAST_BACKUP_SIZE = "last_backup_size_bytes", kind = &[];
    /// How long the last backup of a kind took.
    Gauge LAST_BACKUP_DURATION = "last_backup_duration_seconds", kind = &[];
}
