//! The metrics of aggregator-admin.

use storage_core::telemetry::metrics::LONG_SECONDS;

/// Outcomes of a repair.
pub(crate) const OUTCOMES: &[&str] = &[
    "replaced",
    "joined",
    "busted",
    "no_ticks",
    "fewer_trades",
    "refused",
    "malformed",
];
const TIMEFRAMES: &[&str] = &["5m", "15m", "1h", "4h", "1d"];
const KINDS: &[&str] = &["refresh", "compress", "retain"];

storage_core::define_metrics! {
    prefix "aggregator_admin";

    /// Total number of minutes from stream:repairs, by outcome.
    Counter REPAIRS = "repairs_total", outcome = OUTCOMES;
    /// Number of minutes from stream:repairs whose ticks are not all written yet.
    Gauge REPAIRS_WAITING = "repairs_waiting";
    /// Total number of candle bases computed from the history for hot-writer.
    Counter BASES = "bases_total";
    /// Total number of changes of a symbol's lots because quantities did not fit.
    Counter SYMBOLS_RESCALED = "symbols_rescaled_total";
    /// Total number of dead letters requeued after the lots of their symbol were changed.
    Counter LETTERS_REQUEUED = "dead_letters_requeued_total";
    /// Total number of stream entries that were removed before this worker had read or finished them.
    Counter LOST_ENTRIES = "lost_entries_total";
    /// Total number of stream entries that were removed before an external group had read them, or that a group had not
    /// finished when their stream was deleted whole.
    Counter GROUP_LOST = "group_lost_entries_total", stream = &[], group = &[];
    /// Total number of entries of stream:rollups whose buckets were refreshed.
    Counter ROLLUPS = "rollups_total";
    /// Duration of refreshing the announced buckets of a timeframe in seconds.
    Histogram(LONG_SECONDS) REFRESH = "refresh_seconds", timeframe = TIMEFRAMES;
    /// Total number of policy runs by this worker, or by TimescaleDB's scheduler while this replica watches it, by
    /// kind.
    Counter POLICY_RUNS = "policy_runs_total", kind = KINDS;
    /// Total number of failed policy runs, by kind.
    Counter POLICY_FAILURES = "policy_failures_total", kind = KINDS;
    /// 1 if the last run of a policy by TimescaleDB's scheduler failed, else 0.
    Gauge POLICY_FAILING = "policy_failing", kind = KINDS, table = &[];
    /// 1 if this replica runs or watches the policies, else 0.
    Gauge LEADER = "leader";

    /// 1 if TimescaleDB's edition has compression, else 0.
    Gauge COMPRESSION_AVAILABLE = "compression_available";
    /// Size of a hypertable or continuous aggregate on disk in bytes, including indexes.
    Gauge TABLE_SIZE = "table_size_bytes", table = &[];
    /// Number of chunks of a hypertable or continuous aggregate.
    Gauge CHUNKS = "chunks", table = &[];
    /// Number of compressed chunks of a hypertable or continuous aggregate.
    Gauge COMPRESSED_CHUNKS = "compressed_chunks", table = &[];
    /// Number of chunks of a hypertable or continuous aggregate that the last two runs of its compression policy should
    /// have compressed and did not.
    Gauge OVERDUE_CHUNKS = "overdue_chunks", table = &[];
    /// Market time from the end of the newest materialized bucket to the end of the newest minute in seconds.
    Gauge ROLLUP_LAG = "rollup_lag_seconds", timeframe = TIMEFRAMES;
    /// Lag in seconds above which a timeframe is behind: two buckets, three intervals of its refresh and 15 minutes.
    Gauge ROLLUP_LAG_LIMIT = "rollup_lag_limit_seconds", timeframe = TIMEFRAMES;
    /// Number of entries that a consumer group has not read.
    Gauge GROUP_LAG = "group_lag_entries", stream = &[], group = &[];
    /// Number of entries that a consumer group has read but not acknowledged.
    Gauge GROUP_PENDING = "group_pending_entries", stream = &[], group = &[];
    /// Seconds since an external consumer group was last active, while it has unfinished entries, which are never
    /// trimmed; else 0.
    Gauge FOREIGN_IDLE = "foreign_group_idle_seconds", stream = &[], group = &[];
    /// Memory that counts against the limit of Redis in bytes; for a cluster, of its fullest master.
    Gauge REDIS_MEMORY_USED = "redis_memory_used_bytes";
    /// Memory limit of Redis in bytes, at which producers wait; 0 without a limit.
    Gauge REDIS_MEMORY_LIMIT = "redis_memory_limit_bytes";
    /// 1 if a setting of Redis loses data: an eviction policy that evicts streams, or a default user without the rights
    /// to load the append-only file; else 0.
    Gauge REDIS_FAULTS = "redis_setting_faults";
    /// Number of dead letters that were not requeued, by the stream of the entry.
    Gauge DEAD_LETTERS = "dead_letters_waiting", stream = &[];

    /// Number of candles that differed from their source when their day was last compared.
    Gauge DIFFERENCES = "verify_differences";
    /// Number of hashes of the hot view that differed from the history when they were last compared.
    Gauge HOT_DIFFERENCES = "verify_hot_differences";
    /// Number of minutes whose trades were missing when their day was last examined, of all symbols.
    Gauge MISSING = "missing_minutes";
    /// Number of days that were compared in the background.
    Counter VERIFIED = "verified_days_total";
    /// Seconds since the least recently compared day was compared; 0 until every day was.
    Gauge VERIFY_AGE = "verify_age_seconds";

    /// Unix time at which the last backup of a kind began.
    Gauge LAST_BACKUP = "last_backup_timestamp_seconds", kind = &[];
    /// Size of the last backup of a kind in bytes.
    Gauge LAST_BACKUP_SIZE = "last_backup_size_bytes", kind = &[];
    /// Duration of the last backup of a kind in seconds.
    Gauge LAST_BACKUP_DURATION = "last_backup_duration_seconds", kind = &[];
}
