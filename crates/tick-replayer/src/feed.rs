//! Publishes ticks when they are due: a thread reads or generates them, and a task publishes all that are due as one
//! batch.

use std::collections::VecDeque;
use std::fmt;
use std::io::{self, Write};
use std::time::Duration;

use anyhow::Context;
use indicatif::{ProgressBar, ProgressStyle};
use storage_core::domain::time::rfc3339;
use storage_core::service::Stopped;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::outgoing::OutgoingTick;
use crate::pace::Pace;
use crate::publish::Publisher;

/// Maximum number of ticks in a batch.
const BATCH: usize = 2_000;
/// Number of ticks that may wait in the channel between thread and task.
const BUFFER: usize = 4 * BATCH;

/// Progress of a feed.
#[derive(Debug, Default)]
pub(crate) struct Report {
    pub(crate) ticks: u64,
    pub(crate) took: Duration,
    /// Latest time of a published tick, in µs since 1970.
    pub(crate) reached_us: Option<i64>,
    /// Number of bad lines that were skipped.
    pub(crate) skipped: u64,
    /// `true` if a signal stopped the feed before its end.
    pub(crate) stopped: bool,
}

impl Report {
    pub(crate) fn count(&mut self, at_us: i64) {
        self.ticks += 1;
        self.reached_us = self.reached_us.max(Some(at_us));
    }

    /// Prints the report to stderr, because stdout may carry ticks.
    pub(crate) fn print(&self) {
        // A closed stderr is not an error.
        let _ = writeln!(io::stderr(), "{self}");
    }
}

/// `12477 ticks in 0.2 s (59414 ticks/s), up to 2019-10-13T12:14:51.213Z`
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.took.as_secs_f64();
        let rate = Duration::from_secs(self.ticks).as_secs_f64() / seconds.max(1e-6);
        write!(f, "{} ticks in {seconds:.1} s ({rate:.0} ticks/s)", self.ticks)?;
        if let Some(reached_us) = self.reached_us {
            write!(f, ", up to {}", rfc3339(reached_us))?;
        }
        if self.skipped > 0 {
            write!(f, "; {} bad lines skipped", self.skipped)?;
        }
        if self.stopped {
            f.write_str("; stopped by a signal")?;
        }
        Ok(())
    }
}

/// Creates a progress bar, which is visible on a terminal only. `total` is in the unit of the positions, or 0 if
/// unknown.
pub(crate) fn progress_bar(total: u64) -> anyhow::Result<ProgressBar> {
    let bar = if total > 0 {
        ProgressBar::new(total)
    } else {
        ProgressBar::no_length()
    };
    let template = if total > 0 {
        "{bar:40} {percent:>3} %  {msg}  {eta} left"
    } else {
        "{spinner} {msg}"
    };
    Ok(bar.with_style(ProgressStyle::with_template(template).context("creating the progress bar")?))
}

/// Publishes the ticks of `source` when they are due, until its end or until `token` is cancelled; the current batch is
/// completed. Each tick has its position for `bar`. `report` is valid after an error, too.
pub(crate) async fn feed<S>(
    source: S,
    mut pace: Pace,
    publisher: &Publisher,
    bar: &ProgressBar,
    token: &CancellationToken,
    report: &mut Report,
) -> anyhow::Result<()>
where
    S: Iterator<Item = anyhow::Result<(OutgoingTick, u64)>> + Send + 'static,
{
    let (sender, mut receiver) = mpsc::channel(BUFFER);
    // The thread is not joined, because it can't be stopped while it waits for a line on stdin.
    tokio::task::spawn_blocking(move || {
        for tick in source {
            if sender.blocking_send(tick).is_err() {
                break;
            }
        }
    });
    let mut start = None;
    let mut received = Vec::with_capacity(BATCH);
    let mut waiting = VecDeque::with_capacity(BATCH);
    let mut failure = None;
    loop {
        if waiting.is_empty() {
            match token
                .run_until_cancelled(receiver.recv_many(&mut received, BATCH))
                .await
            {
                None => return Err(Stopped.into()),
                Some(0) => return failure.map_or(Ok(()), Err),
                Some(_) => {}
            }
            let start = *start.get_or_insert_with(Instant::now);
            for tick in received.drain(..) {
                match tick {
                    Ok((tick, position)) => waiting.push_back((start + pace.due(tick.at_us), tick, position)),
                    Err(error) => failure = Some(error),
                }
            }
        }
        if let Some((due, ..)) = waiting.front()
            && token.run_until_cancelled(sleep_until(*due)).await.is_none()
        {
            return Err(Stopped.into());
        }
        let now = Instant::now();
        let due = waiting.iter().take_while(|(due, ..)| *due <= now).count();
        let mut batch = Vec::with_capacity(due);
        let mut done = Report::default();
        for (_, tick, position) in waiting.drain(..due) {
            done.count(tick.at_us);
            bar.set_position(position);
            batch.push(tick);
        }
        publisher.publish(batch).await?;
        report.ticks += done.ticks;
        report.reached_us = report.reached_us.max(done.reached_us);
        bar.set_message(format!("{} ticks", report.ticks));
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use storage_core::config::Misconfigured;
    use storage_core::domain::partition::partition_of;
    use storage_core::domain::stream_id::StreamId;
    use storage_core::domain::tick::Tick;
    use storage_core::redis::partitions;
    use storage_core::redis::stream::{self, Stream};
    use storage_core::testing::redis::TestRedis;

    use super::*;
    use crate::formats::{Layout, TickReader};
    use crate::generate::{Generator, Limit, Plan, Shares};
    use crate::pace::Speed;

    const PARTITIONS: u16 = 3;
    const LAST: StreamId = StreamId {
        ms: u64::MAX,
        seq: u64::MAX,
    };

    async fn migrated() -> TestRedis {
        let redis = TestRedis::start().await;
        partitions::store_once(&mut redis.connect(), PARTITIONS).await.unwrap();
        redis
    }

    fn generated(ticks: u64) -> impl Iterator<Item = anyhow::Result<(OutgoingTick, u64)>> + Send + 'static {
        let plan = Plan {
            symbols: 20,
            rate: 1_000.0,
            limit: Limit::Ticks(ticks),
            seed: 1,
            start_us: 1_700_000_000_000_000,
            shares: Shares::new(0.0, 0.0, 0.0).unwrap(),
            lateness: Duration::from_secs(30),
        };
        Generator::new(plan).zip(1..).map(Ok)
    }

    /// Returns the ticks in the stream of each partition.
    async fn published(redis: &TestRedis) -> Vec<Vec<Tick>> {
        let mut all = Vec::new();
        for partition in 0..PARTITIONS {
            let stream = Stream::Ticks(partition);
            let entries = stream::range(&mut redis.connect(), stream, StreamId::START, LAST, 100_000)
                .await
                .unwrap();
            all.push(entries.iter().map(|entry| Tick::from_entry(entry).unwrap()).collect());
        }
        all
    }

    async fn feed_all(
        source: impl Iterator<Item = anyhow::Result<(OutgoingTick, u64)>> + Send + 'static,
        redis: &TestRedis,
        speed: Speed,
        token: &CancellationToken,
    ) -> (Report, anyhow::Result<()>) {
        let publisher = Publisher::open(&redis.config(), &CancellationToken::new())
            .await
            .unwrap();
        let mut report = Report::default();
        let result = feed(
            source,
            Pace::new(speed),
            &publisher,
            &ProgressBar::hidden(),
            token,
            &mut report,
        )
        .await;
        (report, result)
    }

    #[tokio::test]
    async fn every_tick_is_once_in_its_partition_and_in_order() {
        let redis = migrated().await;
        let (report, result) = feed_all(generated(9_000), &redis, Speed::Max, &CancellationToken::new()).await;
        result.unwrap();
        assert_eq!(report.ticks, 9_000);
        let mut ids = HashSet::new();
        for (partition, ticks) in (0..).zip(published(&redis).await) {
            assert!(
                ticks
                    .iter()
                    .all(|tick| partition_of(&tick.symbol, PARTITIONS) == partition)
            );
            assert!(ticks.is_sorted_by_key(|tick| tick.ts_us));
            ids.extend(ticks.into_iter().map(|tick| (tick.symbol, tick.trade_id)));
        }
        assert_eq!(ids.len(), 9_000);
    }

    #[tokio::test]
    async fn ticks_before_a_bad_line_are_published_and_reported() {
        let redis = migrated().await;
        let text =
            "symbol,ts_us,price,qty,trade_id,side\nA,1,0.1,0.30000000000000004,,\nA,2,1,1,,\nrubbish\nA,3,1,1,,\n";
        let source = TickReader::new(text.as_bytes(), "t.csv", Layout::TicksCsv, None)
            .map(|tick| tick.map(|(tick, position)| (tick.into(), position)));
        let (report, result) = feed_all(source, &redis, Speed::Max, &CancellationToken::new()).await;
        assert!(format!("{:#}", result.unwrap_err()).starts_with("t.csv:4: "));
        assert_eq!((report.ticks, report.reached_us), (2, Some(2)));
        let ticks: Vec<Tick> = published(&redis).await.concat();
        assert_eq!(ticks[0].qty.to_string(), "0.30000000000000004");
        assert_eq!(ticks.len(), 2);
    }

    #[tokio::test]
    async fn a_shutdown_ends_the_feed_and_every_counted_tick_is_published() {
        let redis = migrated().await;
        let token = CancellationToken::new();
        let stop = async {
            while published(&redis).await.iter().all(Vec::is_empty) {
                tokio::task::yield_now().await;
            }
            token.cancel();
        };
        let speed = Speed::Times(1.0);
        let ((report, result), ()) = tokio::join!(feed_all(generated(1_000_000), &redis, speed, &token), stop);
        assert!(result.unwrap_err().is::<Stopped>());
        assert!(report.ticks > 0);
        assert_eq!(
            published(&redis).await.concat().len().to_string(),
            report.ticks.to_string()
        );
    }

    #[tokio::test]
    async fn every_tick_is_published_once_after_redis_was_full() {
        let redis = migrated().await;
        limit_memory(&redis, 1).await;
        let token = CancellationToken::new();
        let make_room = async {
            tokio::time::sleep(Duration::from_millis(300)).await;
            assert!(published(&redis).await.iter().all(Vec::is_empty));
            limit_memory(&redis, 0).await;
        };
        let ((report, result), ()) = tokio::join!(feed_all(generated(100), &redis, Speed::Max, &token), make_room);
        result.unwrap();
        assert_eq!((report.ticks, published(&redis).await.concat().len()), (100, 100));
    }

    #[allow(clippy::disallowed_methods, reason = "tests may change settings of Redis")]
    async fn limit_memory(redis: &TestRedis, bytes: u64) {
        let mut command = redis::cmd("CONFIG");
        command.arg("SET").arg("maxmemory").arg(bytes);
        command.query_async::<()>(&mut redis.connect()).await.unwrap();
    }

    #[tokio::test]
    async fn a_missing_number_of_partitions_names_the_command() {
        let redis = TestRedis::start().await;
        let error = Publisher::open(&redis.config(), &CancellationToken::new())
            .await
            .err()
            .unwrap();
        assert!(Misconfigured::caused(&error));
        assert!(error.to_string().contains("`aggregator-admin migrate`"), "{error}");
    }

    #[test]
    fn the_report_shows_the_progress() {
        let mut report = Report {
            took: Duration::from_secs(2),
            ..Report::default()
        };
        assert_eq!(report.to_string(), "0 ticks in 2.0 s (0 ticks/s)");
        for at_us in [1_570_752_011_620_000, 1_570_752_000_000_000] {
            report.count(at_us);
        }
        report.skipped = 3;
        report.stopped = true;
        let text =
            "2 ticks in 2.0 s (1 ticks/s), up to 2019-10-11T00:00:11.620Z; 3 bad lines skipped; stopped by a signal";
        assert_eq!(report.to_string(), text);
    }
}
