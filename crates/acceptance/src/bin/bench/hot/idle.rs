//! Commands that a hot-writer sends while nothing is traded.

use std::time::Duration;

use tokio::time::sleep;

use super::drain::start_hot_writer;
use super::usage::redis_usage;
use crate::bench::Bench;
use crate::figure::{Figure, Target};

/// Time after the start that is not measured.
const SETTLING: Duration = Duration::from_secs(2);

/// Counts the commands of Redis while a hot-writer waits for ticks.
pub(crate) async fn idle(bench: &Bench) -> anyhow::Result<Vec<Figure>> {
    let mut figure = Figure::new(
        "idle hot-writer, commands of Redis",
        "`total_commands_processed` while one hot-writer serves four partitions and nothing is traded. Redis also \
         counts the commands that a function calls.",
        "1/s",
        "-",
        Target::OursAtMost(75.0),
    );
    let length = Duration::from_secs(bench.sized(20, 4));
    for _ in 0..bench.rounds {
        let redis = bench.redis().await?;
        let _worker = start_hot_writer(bench, &redis).await?;
        sleep(SETTLING).await;
        let before = redis_usage(&redis).await?;
        sleep(length).await;
        let after = redis_usage(&redis).await?;
        figure
            .ours
            .0
            .push((after.commands - before.commands) / length.as_secs_f64());
    }
    Ok(vec![figure])
}
