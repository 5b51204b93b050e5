//! How long warm-syncers take for what is in the streams.

use std::time::{Duration, Instant};

use acceptance::pipeline::PARTITIONS;
use anyhow::{Context, ensure};
use redis::Value;
use storage_core::redis::position::position_of;
use storage_core::redis::stream::{Stream, WARM_SYNCER};
use tokio::time::sleep;

use super::stores::{Session, Stores, streams};
use crate::bench::serves;

/// How often the groups are looked at.
const INTERVAL: Duration = Duration::from_millis(10);
/// How long a drain may take.
const PATIENCE: Duration = Duration::from_secs(300);

/// The time that `copies` of warm-syncer, as by default, take for all entries of a kind of stream.
///
/// They start with nothing to do: the group stands at the end of the streams. Once they are ready, it is set back to their begin and
/// one entry more, a copy of the last, wakes the readers. There the clock starts; it stops when everything is acknowledged.
pub(super) async fn drain(
    stores: &Stores<'_>,
    session: &Session,
    of: fn(u16) -> Stream,
    copies: usize,
) -> anyhow::Result<Duration> {
    for stream in streams(of) {
        set_group(stores, stream, "$").await?;
    }
    let mut workers = Vec::new();
    for number in 1..=copies {
        workers.push(stores.syncer(&number.to_string()));
    }
    for worker in &mut workers {
        serves(worker, PARTITIONS / u16::try_from(copies)?).await?;
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
            ensure!(begun.elapsed() < PATIENCE, "{stream} is not drained after {PATIENCE:?}");
            sleep(INTERVAL).await;
        }
    }
    Ok(begun.elapsed())
}

async fn set_group(stores: &Stores<'_>, stream: Stream, to: &str) -> anyhow::Result<()> {
    let key = format!("stream:{stream}");
    let mut command = vec!["XGROUP", "SETID", &key, WARM_SYNCER, to];
    // With this number Redis knows the lag from then on.
    let read = stores.redis.ask::<u64>(&["XLEN", &key]).await?.to_string();
    command.extend(["ENTRIESREAD", if to == "0" { "0" } else { &read }]);
    Ok(stores.redis.ask(&command).await?)
}

async fn repeat_last(stores: &Stores<'_>, stream: Stream) -> anyhow::Result<()> {
    let key = format!("stream:{stream}");
    let mut entries: Vec<(String, Vec<String>)> =
        stores.redis.ask(&["XREVRANGE", &key, "+", "-", "COUNT", "1"]).await?;
    let (_, fields) = entries.pop().context("a stream with entries")?;
    let mut command = vec!["XADD", &key, "*"];
    command.extend(fields.iter().map(String::as_str));
    stores.redis.ask::<Value>(&command).await?;
    Ok(())
}
