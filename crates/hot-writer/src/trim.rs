//! Trims the streams of an owned partition. The owner of partition 0 also trims the streams without partitions.

use storage_core::redis::connection::Connection;
use storage_core::redis::stream::Stream;
use storage_core::redis::trim::{FutureEnds, trim};

use crate::config::Config;
use crate::metrics;

/// Trims the streams of `partition` at each `trim_interval`. An error is logged, and the next interval tries again.
pub(crate) async fn trim_partition(config: &Config, partition: u16) {
    let mut conn = Connection::ordinary(&config.redis);
    let own = Stream::of_partition(partition).into_iter();
    let shared = Stream::UNPARTITIONED.into_iter().filter(|_| partition == 0);
    let mut streams: Vec<_> = own
        .chain(shared)
        .map(|stream| (stream, FutureEnds::default()))
        .collect();
    // A new owner restores the dedup window from the stream, so the stream must reach back further than the window.
    let retention = config.stream.retention.max(config.hot.dedup_window.mul_f64(1.1));
    loop {
        tokio::time::sleep(config.hot.trim_interval).await;
        for (stream, ends) in &mut streams {
            match trim(&mut conn, *stream, retention, ends).await {
                Ok(trimmed) => metrics::ENTRIES_TRIMMED.increment(trimmed),
                Err(error) => {
                    tracing::warn!(%stream, %error, "trimming failed; retrying at the next interval");
                }
            }
        }
    }
}
