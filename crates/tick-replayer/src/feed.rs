//! Feeding: a thread reads or makes ticks, a task waits until they are due and publishes all that are, as one batch.

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

use crate::outgoing::Outgoing;
use crate::pace::Pace;
use crate::publish::Publisher;

/// Most ticks of a batch.
const BATCH: usize = 2_000;
/// Ticks that wait between the two; they are read while the batch before is published.
const BUFFER: usize = 4 * BATCH;

/// How far a feed came.
#[derive(Debug, Default)]
pub(crate) struct Report {
    pub(crate) ticks: u64,
    pub(crate) took: Duration,
    /// Latest time of a tick, in µs since 1970.
    pub(crate) reached_us: Option<i64>,
    /// Bad lines that were left out.
    pub(crate) skipped: u64,
    /// Whether it was told to stop before it was done.
    pub(crate) stopped: bool,
}

impl Report {
    /// Counts a tick.
    pub(crate) fn count(&mut self, at_us: i64) {
        self.ticks += 1;
        self.reached_us = self.reached_us.max(Some(at_us));
    }

    /// The last line, for a person. It goes to stderr: stdout may carry ticks.
    pub(crate) fn print(&self) {
        // A closed stderr is no failure.
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
            write!(f, "; {} bad lines left out", self.skipped)?;
        }
        if self.stopped {
            f.write_str("; stopped by a signal")?;
        }
        Ok(())
    }
}

/// A bar on a terminal, and nothing elsewhere; `total` in the unit of the positions, 0 where it isn't known.
pub(crate) fn progress_bar(total: u64) -> anyhow::Result<ProgressBar> {
    let bar = if total > 0 { ProgressBar::new(total) } else { ProgressBar::no_length() };
    let template = if total > 0 { "{bar:40} {percent:>3} %  {msg}  {eta} left" } else { "{spinner} {msg}" };
    Ok(bar.with_style(ProgressStyle::with_template(template).context("the progress bar's template")?))
}

/// Publishes the ticks of `source`, each with its position for `bar`, as they become due; until the end, or until `token`
/// is cancelled: then the batch that was begun is finished. The report tells how far it came, also after a failure.
pub(crate) async fn feed<S>(
    source: S,
    mut pace: Pace,
    publisher: &Publisher,
    bar: &ProgressBar,
    token: &CancellationToken,
    report: &mut Report,
) -> anyhow::Result<()>
where
    S: Iterator<Item = anyhow::Result<(Outgoing, u64)>> + Send + 'static,
{
    let (sender, mut receiver) = mpsc::channel(BUFFER);
    // Not joined: a thread that waits for a line on stdin can't be told to stop.
    tokio::task::spawn_blocking(move || {
        for tick in source {
            if sender.blocking_send(tick).is_err() {
                break;
            }
        }
    });
    let mut begin = None;
    let mut received = Vec::with_capacity(BATCH);
    let mut waiting = VecDeque::with_capacity(BATCH);
    let mut failure = None;
    loop {
        if waiting.is_empty() {
            match token.run_until_cancelled(receiver.recv_many(&mut received, BATCH)).await {
                None => return Err(Stopped.into()),
                Some(0) => return failure.map_or(Ok(()), Err),
                Some(_) => {}
            }
            let begin = *begin.get_or_insert_with(Instant::now);
            for tick in received.drain(..) {
                match tick {
                    Ok((tick, position)) => waiting.push_back((begin + pace.due(tick.at_us), tick, position)),
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
    use super::*;

    #[test]
    fn the_report_says_how_far_it_came() {
        let mut report = Report { took: Duration::from_secs(2), ..Report::default() };
        assert_eq!(report.to_string(), "0 ticks in 2.0 s (0 ticks/s)");
        for at_us in [1_570_752_011_620_000, 1_570_752_000_000_000] {
            report.count(at_us);
        }
        report.skipped = 3;
        report.stopped = true;
        let text = "2 ticks in 2.0 s (1 ticks/s), up to 2019-10-11T00:00:11.620Z; 3 bad lines left out; stopped by a signal";
        assert_eq!(report.to_string(), text);
    }
}
