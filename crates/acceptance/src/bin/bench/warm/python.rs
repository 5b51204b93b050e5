//! Baseline: the work of warm-syncer done by plain Python, `python/warm_worker.py`.

use acceptance::producer::PARTITIONS;
use anyhow::{Context, ensure};
use serde_json::Value;

use super::stores::Stores;
use crate::bench::Bench;

/// Returns the entries per second that the Python worker drains, with `batch` entries of a stream per transaction,
/// until it has drained `entries`.
pub(super) async fn drain(
    bench: &Bench,
    stores: &Stores<'_>,
    kind: &str,
    batch: usize,
    entries: usize,
) -> anyhow::Result<f64> {
    let [partitions, batch, entries] = [usize::from(PARTITIONS), batch, entries].map(|number| number.to_string());
    let arguments = [
        kind,
        "--redis",
        stores.redis.url(),
        "--database",
        stores.database.url(),
        "--partitions",
        &partitions,
        "--batch",
        &batch,
        "--entries",
        &entries,
    ];
    let worker = bench.python("warm_worker.py", &arguments)?;
    let output = worker.wait_with_output().await?;
    ensure!(output.status.success(), "warm_worker.py failed: {}", output.status);
    let result: Value = serde_json::from_slice(&output.stdout)?;
    let number = |name: &str| {
        result[name]
            .as_f64()
            .with_context(|| format!("warm_worker.py printed no `{name}`: {result}"))
    };
    Ok(number("entries")? / number("seconds")?)
}
