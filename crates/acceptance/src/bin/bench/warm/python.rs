//! The job of warm-syncer in plain Python: `python/warm_worker.py`.

use std::path::Path;

use acceptance::pipeline::PARTITIONS;
use acceptance::process::{command, project};
use anyhow::{Context, ensure};
use serde_json::Value;

use super::stores::Stores;
use crate::Bench;

/// Where the worker is, in the project.
const WORKER: &str = "crates/acceptance/src/bin/bench/python/warm_worker.py";

/// Entries a second that it drains, `batch` of a stream in a transaction, until it has had `entries`.
pub(super) async fn drain(
    bench: &Bench,
    stores: &Stores,
    kind: &str,
    batch: usize,
    entries: usize,
) -> anyhow::Result<f64> {
    let output = command(Path::new(&bench.python), &[])
        .arg(project().join(WORKER))
        .args([kind, "--redis", stores.redis.url(), "--database", stores.database.url()])
        .args(["--partitions", &PARTITIONS.to_string(), "--batch", &batch.to_string()])
        .args(["--entries", &entries.to_string()])
        .output()
        .await?;
    ensure!(
        output.status.success(),
        "warm_worker.py: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let result: Value = serde_json::from_slice(&output.stdout)?;
    let number = |name: &str| {
        result[name]
            .as_f64()
            .with_context(|| format!("no `{name}` in {result}"))
    };
    Ok(number("entries")? / number("seconds")?)
}
