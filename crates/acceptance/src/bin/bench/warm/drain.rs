//! Draining streams by warm-syncers.

use std::time::{Duration, Instant};

use acceptance::producer::PARTITIONS;
use anyhow::{Context, ensure};
use redis::Value;
use storage_core::redis::position::position_of;
use storage_core::redis::stream::{Stream, WARM_SYNCER};
use tokio::time::sleep;

use super::stores::{Session, Stores, streams};
use crate::bench::serves;

const INTERVAL: Duration = Duration::from_millis(10);
const PATIENCE: Duration = Duration::from_secs(300);

/// Returns the time in which `replicas` of warm-syncer, with the default configuration, drain all entries of a kind of
/// stream.
///
/// At first the group is at the end of the streams, so that the replicas have no work. When they are ready, the group
/// is reset to the start, and one more entry, which repeats the last, wakes the readers. The time from this entry to
/// the last acknowledgement is measured.
pub(super) async fn drain(
    stores: &Stores<'_>,
    session: &Session,
    of: fn(u16) -> Stream,
    replicas: usize,
) -> anyhow::Result<Duration> {
    for stream in streams(of) {
        set_group(stores, stream, "$").await?;
    }
    let mut workers = Vec::new();
    for number in 1..=replicas {
        workers.push(stores.syncer(&number.to_string()));
    }
    for worker in &mut workers {
        serves(worker, PARTITIONS / u16::try_from(replicas)?).await?;
    }
    session.client.batch_execute("CHECKPOINT").await?;

    let begun = Instant::now();
    for stream in streams(of) {
        set_group(stores, stream, "0").await?;
        repeat_last(stores, stream).await?;
    }
    let mut redis = stores.redis.connect();
    for stream in streams(of) {
        loop {
            let position = position_of(&mut redis, stream, WARM_SYNCER).await?;
            if position.is_some_and(|position| position.has_finished()) {
                break;
            }
            ensure!(
                begun.elapsed() < PATIENCE,
                "{stream} is not drained within {PATIENCE:?}"
            );
            sleep(INTERVAL).await;
        }
    }
    Ok(begun.elapsed())
}

async fn set_group(stores: &Stores<'_>, stream: Stream, to: &str) -> anyhow::Result<()> {
    let key = format!("stream:{stream}");
    let mut command = vec!["XGROUP", "SETID", &key, WARM_SYNCER, to];
    // Redis computes the lag from this number.
    let read = stores.redis.ask::<u64>(&["XLEN", &key]).await?.to_string();
    command.extend(["ENTRIESREAD", if to == "0" { "0" } else { &read }]);
    Ok(stores.redis.ask(&command).await?)
}

async fn repeat_last(stores: &Stores<'_>, stream: Stream) -> anyhow::Result<()> {
    let key = format!("stream:{stream}");
    let mut entries: Vec<(String, Vec<String>)> =
        stores.redis.ask(&["XREVRANGE", &key, "+", "-", "COUNT", "1"]).await?;
    let (_, fields) = entries.pop().with_context(|| format!("{key} is empty"))?;
    let mut command = vec!["XADD", &key, "*"];
    command.extend(fields.iter().map(String::as_str));
    stores.redis.ask::<Value>(&command).await?;
    Ok(())
}
