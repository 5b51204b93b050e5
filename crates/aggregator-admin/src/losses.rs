//! Losses that no reader of the pipeline notices: entries that other clients removed before an external group had read
//! them, and streams that were deleted or evicted whole.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Context;
use storage_core::domain::time::{ms_to_us, rfc3339};
use storage_core::redis::clock::now_ms;
use storage_core::redis::connection::Connection;
use storage_core::redis::look::{self, Look, Looks};
use storage_core::redis::lost::{self, LostEntries};
use storage_core::redis::stream::Stream;
use tokio::time::sleep;

use crate::metrics::GROUP_LOST;
use crate::worker::Worker;

/// Interval between two looks at the streams.
const INTERVAL: Duration = Duration::from_secs(2);

/// Looks for losses until a shutdown or a failure, in the replica that runs the policies.
pub(crate) async fn work(worker: Worker) -> anyhow::Result<()> {
    let mut redis = worker.redis();
    while !worker.token.is_cancelled() {
        if worker.leads().await? {
            check(&worker, &mut redis).await?;
        }
        worker.readiness.ok("losses");
        let _ = worker.token.run_until_cancelled(sleep(INTERVAL)).await;
    }
    Ok(())
}

/// Compares the streams with the last looks at them, and reports what was lost since.
async fn check(worker: &Worker, redis: &mut Connection) -> anyhow::Result<()> {
    let now_ms = now_ms(redis).await.context("reading the clock")?;
    let mut before = look::stored(redis).await.context("reading the last looks")?;
    let mut looks = Looks::new();
    let mut deleted = BTreeMap::new();
    for stream in Stream::all(worker.config.stream.partitions) {
        let name = stream.to_string();
        let known = before.remove(&name);
        if let Some(known) = &known {
            check_external_groups(redis, stream, known).await?;
        }
        let now = Look::at(redis, stream, now_ms)
            .await
            .with_context(|| format!("looking at {}", stream.key()))?;
        if let Some(known) = known.filter(|known| known.was_deleted(now.as_ref())) {
            deleted.insert(stream, known);
        }
        // Shows a zero.
        for group in now.iter().flat_map(|now| now.groups.keys()) {
            GROUP_LOST.increment(&name, group, 0);
        }
        looks.extend(now.map(|now| (name, now)));
    }
    // Stored first, so that no loss is counted again after a failure.
    look::store(redis, &looks).await.context("storing the looks")?;
    for (stream, known) in deleted {
        report_deleted(worker, redis, stream, &known).await?;
    }
    Ok(())
}

async fn check_external_groups(redis: &mut Connection, stream: Stream, known: &Look) -> anyhow::Result<()> {
    let own = stream.groups();
    for (group, seen) in known.groups.iter().filter(|(group, _)| !own.contains(&group.as_str())) {
        let lost = lost::of_external_group(redis, stream, group, seen.position)
            .await
            .with_context(|| format!("looking for lost entries of {}", stream.key()))?;
        if let Some(LostEntries {
            entries,
            position,
            first_left,
        }) = lost
        {
            let first_left = first_left.map_or_else(|| "none".to_owned(), |id| id.to_string());
            tracing::warn!(%stream, group, lost = entries, %position, first_left,
                "entries were removed from the stream before an external group had read them; find the client that \
                 trims it or deletes from it");
            count(redis, stream, group, entries).await?;
        }
    }
    Ok(())
}

/// Reports the entries that each group had not finished at the last look.
async fn report_deleted(worker: &Worker, redis: &mut Connection, stream: Stream, known: &Look) -> anyhow::Result<()> {
    let looked_at = rfc3339(ms_to_us(known.at_ms));
    tracing::error!(%stream, entries = known.length, last = %known.last, looked_at,
        "the stream was deleted or evicted whole; the number of entries that were added after the last look is not \
         known; find the client that deletes it, and set `maxmemory-policy noeviction` in Redis");
    for (group, seen) in &known.groups {
        let position = seen.position;
        // Redis does not know how many entries follow a position that was set by an ID.
        let entries = seen.unfinished.unwrap_or(known.length);
        if entries == 0 {
            continue;
        }
        match seen.unfinished {
            Some(_) => tracing::error!(%stream, group, lost = entries, %position, last = %known.last, looked_at,
                "the group had not finished these entries of the deleted stream at the last look"),
            None => tracing::error!(%stream, group, lost_at_most = entries, %position, last = %known.last, looked_at,
                "the group had not finished some entries of the deleted stream at the last look; their number is not \
                 known, so all entries are counted"),
        }
        let at_ms = count(redis, stream, group, entries).await?;
        if stream.groups().contains(&group.as_str()) {
            worker.losses.alarm(stream, entries, at_ms);
        }
    }
    Ok(())
}

/// Counts lost entries in the metric and in Redis, for `status`. Returns the time.
async fn count(redis: &mut Connection, stream: Stream, group: &str, entries: u64) -> anyhow::Result<u64> {
    GROUP_LOST.increment(&stream.to_string(), group, entries);
    lost::record(redis, stream, group, entries)
        .await
        .context("recording lost entries")
}
