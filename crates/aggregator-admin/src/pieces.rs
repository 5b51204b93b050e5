//! Pieces in which commands process the history: the memory that they need does not depend on the length of the
//! history, and a command that was interrupted can be continued.

use std::time::Duration;

use anyhow::Context;
use diesel_async::AsyncPgConnection;
use storage_core::domain::time::{TimeRange, duration_us, rfc3339};
use storage_core::domain::timeframe::Timeframe;
use storage_core::postgres::edition::Edition;
use storage_core::postgres::error::Explained;
use storage_core::postgres::queries::verify::extent;
use storage_core::terminal::show_progress;
use tokio::time::Instant;

/// Durations of a piece below which the next one is twice as long, and above which it is half as long. A statement
/// should take less than a second, because it keeps other clients waiting, on the embedded server all of them.
const DURATIONS: [Duration; 2] = [Duration::from_millis(250), Duration::from_millis(1_000)];
/// Longest piece: planning takes time per chunk, and what follows a difference is done per piece.
const LONGEST: Duration = Duration::from_secs(64 * 86_400);

/// Longest time without minutes and ticks within a part of [`days`].
const LONGEST_GAP: Duration = Duration::from_secs(8 * 86_400);

/// Length of the next piece, in multiples of a unit.
#[derive(Clone, Debug)]
pub(crate) struct Pace {
    unit: Timeframe,
    units: i64,
    durations: [Duration; 2],
}

impl Pace {
    pub(crate) fn new(unit: Timeframe, units: i64) -> Self {
        Self {
            unit,
            units,
            durations: DURATIONS,
        }
    }

    /// Sets the shortest and the longest duration of a piece.
    pub(crate) fn lasting(self, durations: [Duration; 2]) -> Self {
        Self { durations, ..self }
    }

    /// Returns the end of the piece that starts at `from_us`.
    pub(crate) fn end(&self, from_us: i64) -> i64 {
        self.unit
            .bucket_start_us(from_us)
            .saturating_add(self.units.saturating_mul(self.unit.micros()))
    }

    /// Adapts the length to the duration of the last piece.
    pub(crate) fn took(&mut self, duration: Duration) {
        let longest = i64::try_from(LONGEST.as_micros()).unwrap_or(i64::MAX) / self.unit.micros();
        let [short, long] = self.durations;
        if duration < short {
            self.units = (self.units * 2).min(longest);
        } else if duration > long {
            self.units = (self.units / 2).max(1);
        }
    }
}

/// Returns the whole days within `range` that ticks and candles of `timeframes` cover. A new part begins where minutes
/// or ticks begin, because chunks of larger candles also cover years before.
pub(crate) async fn days(
    connection: &mut AsyncPgConnection,
    edition: Edition,
    range: TimeRange,
    timeframes: &[Timeframe],
) -> anyhow::Result<Vec<TimeRange>> {
    let doing = "reading the chunks";
    let covered = extent(connection, edition, timeframes).await.explained(doing)?;
    let minutes = extent(connection, edition, &[Timeframe::M1]).await.explained(doing)?;
    Ok(parts(range, &covered, minutes))
}

fn parts(range: TimeRange, covered: &[TimeRange], minutes: Vec<TimeRange>) -> Vec<TimeRange> {
    let days = range.parts_in(covered).into_iter();
    let days = TimeRange::merge(days.map(|part| part.widened_to(Timeframe::D1)).collect(), 0);
    let minutes = TimeRange::merge(minutes, duration_us(LONGEST_GAP));
    minutes.iter().fold(days, |days, minutes| {
        let border_us = Timeframe::D1.bucket_start_us(minutes.from_us);
        let split = |part: TimeRange| <[_; 2]>::from(part.split_at(border_us));
        days.into_iter().flat_map(split).flatten().collect()
    })
}

/// Calls `work` for consecutive pieces of `days` and shows the progress. Each part of `days` begins at the initial
/// `pace`. If `work` fails or the user interrupts it, the error contains `resume` of the start of the unfinished piece:
/// the command that continues.
pub(crate) async fn for_each(
    days: &[TimeRange],
    pace: Pace,
    mut work: impl AsyncFnMut(TimeRange) -> anyhow::Result<()>,
    resume: impl Fn(i64) -> String,
) -> anyhow::Result<()> {
    let total_us: i64 = days.iter().map(|part| part.to_us - part.from_us).sum();
    let mut done_us: i64 = 0;
    for part in days {
        let mut pace = pace.clone();
        let mut from_us = part.from_us;
        while from_us < part.to_us {
            let piece = TimeRange {
                from_us,
                to_us: pace.end(from_us).min(part.to_us),
            };
            let began = Instant::now();
            let worked = tokio::select! {
                worked = work(piece) => worked,
                _ = tokio::signal::ctrl_c() => Err(anyhow::anyhow!("interrupted")),
            };
            worked.with_context(|| {
                let resume = resume(from_us);
                format!("stopped at {}; continue with `{resume}`", rfc3339(from_us))
            })?;
            pace.took(began.elapsed());
            from_us = piece.to_us;
            done_us += piece.to_us - piece.from_us;
            let share = done_us.saturating_mul(100) / total_us;
            show_progress(format_args!("processed until {}, {share} %", rfc3339(from_us)));
        }
    }
    show_progress("");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_length_of_a_piece_follows_the_duration_of_the_last_one() {
        let day_us = Timeframe::D1.micros();
        let mut pace = Pace::new(Timeframe::D1, 1);
        assert_eq!(pace.end(day_us + 5), 2 * day_us, "pieces end on whole units");
        pace.took(Duration::from_millis(10));
        assert_eq!(pace.end(0), 2 * day_us);
        pace.took(Duration::from_millis(500));
        assert_eq!(pace.end(0), 2 * day_us);
        for _ in 0..3 {
            pace.took(Duration::from_secs(5));
        }
        assert_eq!(pace.end(0), day_us);
        for _ in 0..20 {
            pace.took(Duration::ZERO);
        }
        assert_eq!(pace.end(0), 64 * day_us);
    }

    #[test]
    fn a_part_begins_where_minutes_begin_after_a_long_gap() {
        let days = |from: i64, to: i64| TimeRange {
            from_us: from * Timeframe::D1.micros(),
            to_us: to * Timeframe::D1.micros(),
        };
        let covered = [days(0, 1_000), days(2_000, 3_000)];
        let minutes = vec![days(700, 705), days(707, 710), days(750, 760), days(2_000, 2_010)];
        assert_eq!(
            parts(days(10, 2_500), &covered, minutes),
            [days(10, 700), days(700, 750), days(750, 1_000), days(2_000, 2_500)]
        );
    }

    #[tokio::test]
    async fn every_day_is_processed_once_and_a_failure_names_the_command_that_continues() {
        let day_us = Timeframe::D1.micros();
        let days = [(3, 4), (7, 20)].map(|(from, to)| TimeRange {
            from_us: from * day_us,
            to_us: to * day_us,
        });
        let mut processed = Vec::new();
        let done = for_each(
            &days,
            Pace::new(Timeframe::D1, 1),
            async |piece| {
                processed.push(piece);
                Ok(())
            },
            |_| String::new(),
        )
        .await;
        done.unwrap();
        let lengths: Vec<i64> = processed
            .iter()
            .map(|piece| (piece.to_us - piece.from_us) / day_us)
            .collect();
        assert_eq!(lengths, [1, 1, 2, 4, 6], "each part begins at the initial pace");
        assert_eq!(TimeRange::merge(processed, 0), days);

        let mut pieces = 0;
        let failed = for_each(
            &days,
            Pace::new(Timeframe::D1, 1),
            async |_| {
                pieces += 1;
                anyhow::ensure!(pieces < 2, "the server ended");
                Ok(())
            },
            |from_us| format!("refresh --from {}", rfc3339(from_us)),
        )
        .await;
        assert_eq!(
            format!("{:#}", failed.unwrap_err()),
            "stopped at 1970-01-08T00:00:00Z; continue with `refresh --from 1970-01-08T00:00:00Z`: the server ended"
        );
    }
}
