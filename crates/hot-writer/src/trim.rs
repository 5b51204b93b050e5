//! Trims what every group has finished. The owner of a partition trims its two streams; the owner of partition 0 also
//! trims the streams without partitions.

use std::time::Duration;

use anyhow::Result;
use storage_core::redis::connection::Connection;
use storage_core::redis::lease::Membership;
use storage_core::redis::stream::{HOT_WRITER, Stream};
use storage_core::redis::trim;
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::metrics;

/// Trims until `token` is cancelled. A failed attempt is repeated at the next interval.
pub(crate) async fn trim(config: Config, token: CancellationToken) -> Result<()> {
    let membership = Membership::new(
        HOT_WRITER,
        config.service.instance(&config.telemetry),
        config.hot.lease_ttl,
    );
    let mut conn = Connection::ordinary(&config.redis);
    // A new owner restores the dedup window from the stream, so the stream must reach back further than the window.
    let retention = config.stream.retention.max(config.hot.dedup_window.mul_f64(1.1));
    loop {
        if tokio::time::timeout(config.hot.trim_interval, token.cancelled())
            .await
            .is_ok()
        {
            return Ok(());
        }
        match trim_own(&config, &membership, &mut conn, retention).await {
            Ok(trimmed) => metrics::ENTRIES_TRIMMED.increment(trimmed),
            Err(error) => tracing::warn!(
                error = format!("{error:#}"),
                "trimming streams failed; retrying at the next interval"
            ),
        }
    }
}

async fn trim_own(config: &Config, membership: &Membership, conn: &mut Connection, retention: Duration) -> Result<u64> {
    let mut trimmed = 0;
    for partition in membership.share(conn, config.stream.partitions).await? {
        let mut streams = vec![Stream::Ticks(partition), Stream::Candles(partition)];
        if partition == 0 {
            streams.extend(Stream::UNPARTITIONED);
        }
        for stream in streams {
            trimmed += trim::trim(conn, stream, retention).await?;
        }
    }
    Ok(trimmed)
}
