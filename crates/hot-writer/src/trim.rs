//! Trims the streams of an owned partition. The owner of partition 0 also trims the streams without partitions.

use storage_core::redis::connection::Connection;
use storage_core::redis::stream::Stream;
use storage_core::redis::trim::trim;

use crate::config::Config;
use crate::metrics;

/// Trims the streams of `partition` at each `trim_interval`. An error is logged, and the next interval tries again.
pub(crate) async fn trim_partition(config: &Config, partition: u16) {
    let mut conn = Connection::ordinary(&config.redis);
    let mut streams = Stream::of_partition(partition).to_vec();
    if partition == 0 {
        streams.extend(Stream::UNPARTITIONED);
    }
    // A new owner restores the dedup window from the stream, so the stream must reach back further than the window.
    let retention = config.stream.retention.max(config.hot.dedup_window.mul_f64(1.1));
    loop {
        tokio::time::sleep(config.hot.trim_interval).await;
        for stream in &streams {
            match trim(&mut conn, *stream, retention).await {
                Ok(trimmed) => metrics::ENTRIES_TRIMMED.increment(trimmed),
                Err(error) => {
                    tracing::warn!(%stream, %error, "trimming failed; retrying at the next interval");
                }
            }
        }
    }
}
