//! `tick-replayer replay`: publishes the ticks of a file.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::Instant;

use anyhow::Context;
use storage_core::config::redis::RedisConfig;
use storage_core::domain::symbol::Symbol;
use storage_core::service::Stopped;
use tokio_util::sync::CancellationToken;

use crate::feed::{self, Report, progress_bar};
use crate::formats::{Format, Layout, Skipped, TickReader};
use crate::pace::{Pace, Speed};
use crate::publish::Publisher;
use crate::row_ids::RowIds;

/// Arguments of `tick-replayer replay`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// File of recorded trades, or `-` for stdin
    file: PathBuf,
    /// Format of the file
    #[arg(long)]
    format: Format,
    /// Symbol of the trades in a binance-agg-trades file, unless its name has it, as in
    /// BTCUSDT-aggTrades-2024-01-01.csv
    #[arg(long)]
    symbol: Option<Symbol>,
    /// Multiple of the recorded pace, or `max` for as fast as Redis accepts ticks
    #[arg(long, default_value = "1")]
    speed: Speed,
    /// Name of a feed for which heartbeats are sent, in the time of the recording; the recording must have no gaps
    #[arg(long, value_name = "NAME")]
    feed: Option<String>,
    /// Skips lines that are not ticks and counts them; otherwise the first one ends the replay
    #[arg(long)]
    skip_bad_lines: bool,
}

/// Replays a file and prints a report.
pub(crate) async fn run(args: Args, redis: &RedisConfig, token: &CancellationToken) -> anyhow::Result<()> {
    let layout = Layout::of(args.format, &args.file, args.symbol)?;
    let (input, name, size) = open(&args.file)?;
    let publisher = Publisher::open(redis, token).await?;
    let publisher = match args.feed {
        Some(feed) => publisher.with_heartbeats(feed),
        None => publisher,
    };

    let skipped = Skipped::default();
    let counter = args.skip_bad_lines.then(|| skipped.clone());
    let ticks = TickReader::new(input, name, layout, counter);
    let mut ids = RowIds::default();
    let source = ticks.map(move |tick| tick.map(|(tick, position)| (ids.identify(tick).into(), position)));
    let bar = progress_bar(size)?;
    let mut report = Report::default();
    let started = Instant::now();
    let result = feed::feed(source, Pace::new(args.speed), &publisher, &bar, token, &mut report).await;
    if let (Ok(()), Some(reached_us)) = (&result, report.reached_us) {
        publisher.end_feed(reached_us).await?;
    }
    bar.finish_and_clear();
    report.took = started.elapsed();
    report.skipped = skipped.load(Ordering::Relaxed);
    report.stopped = result.as_ref().is_err_and(|error| error.is::<Stopped>());
    report.print();
    result
}

/// Opens the input. Returns it with its name for messages, and its size in bytes or 0 if unknown.
fn open(path: &Path) -> anyhow::Result<(Box<dyn Read + Send>, String, u64)> {
    if path == Path::new("-") {
        return Ok((Box::new(io::stdin()), "stdin".to_owned(), 0));
    }
    let name = path.display().to_string();
    let opened = File::open(path).and_then(|file| Ok((file.metadata()?.len(), file)));
    let (size, file) = opened.with_context(|| format!("opening {name}"))?;
    Ok((Box::new(file), name, size))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use storage_core::domain::stream_id::StreamId;
    use storage_core::domain::tick::Tick;
    use storage_core::redis::partitions;
    use storage_core::redis::stream::{self, Stream};
    use storage_core::testing::redis::TestRedis;

    use super::*;

    #[tokio::test]
    async fn a_file_without_ids_that_is_mended_and_replayed_adds_no_trade_twice() {
        let redis = TestRedis::start().await;
        partitions::store_once(&mut redis.connect(), 1).await.unwrap();
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("ticks.csv");
        let replay = async |rows: &str| {
            std::fs::write(&file, format!("symbol,ts_us,price,qty,trade_id,side\n{rows}")).unwrap();
            let args = Args {
                feed: None,
                file: file.clone(),
                format: Format::TicksCsv,
                symbol: None,
                speed: Speed::Max,
                skip_bad_lines: false,
            };
            run(args, &redis.config(), &CancellationToken::new()).await
        };
        let equal = "A,1000001,1,1,,\nA,1000001,1,1,,\n";
        assert!(replay(&format!("{equal}rubbish\nA,1000002,2,1,,\n")).await.is_err());
        replay(&format!("{equal}A,1000001,1.5,1,,\nA,1000002,2,1,,\n"))
            .await
            .unwrap();
        let mut conn = redis.connect();
        let entries = stream::range(&mut conn, Stream::Ticks(0), StreamId::START, StreamId::END, 100).await;
        let ticks = entries.unwrap();
        let ids: BTreeSet<_> = ticks
            .iter()
            .map(|entry| Tick::from_entry(entry).unwrap().trade_id)
            .collect();
        assert_eq!((ticks.len(), ids.len()), (6, 4));
    }
}
