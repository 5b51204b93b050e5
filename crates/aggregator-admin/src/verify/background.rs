//! Compares the history in the background, a day at a time. The replica that runs the policies does it.
//!
//! Days that were never compared come first, the newest of them before the others, then those whose last comparison is
//! the oldest. Results are in the table `verified_days`, so another replica continues where this one stops.

use std::collections::HashMap;
use std::time::Duration;

use storage_core::domain::partition::partition_of;
use storage_core::domain::symbol::Symbol;
use storage_core::domain::time::{TimeRange, duration_us, rfc3339};
use storage_core::domain::timeframe::Timeframe;
use storage_core::postgres::error::Explained;
use storage_core::postgres::queries::rollups::ALWAYS;
use storage_core::postgres::queries::symbols;
use storage_core::postgres::queries::verified::{self, VerifiedDay};
use tokio::time::{Instant, sleep};

use super::Verifier;
use crate::gaps;
use crate::gaps::classify::State;
use crate::metrics::{DIFFERENCES, HOT_DIFFERENCES, MISSING, VERIFIED, VERIFY_AGE};
use crate::worker::Worker;

/// Pause between two checks of the lease, and the shortest between two days.
const PAUSE: Duration = Duration::from_secs(1);
/// Time after which a day, or the hot view, is compared again.
const INTERVAL: Duration = Duration::from_secs(3_600);
/// Longest wait for workers that have not processed their streams.
const PATIENCE: Duration = Duration::from_secs(5);

/// Compares days until the shutdown or a failure.
pub(crate) async fn work(worker: Worker) -> anyhow::Result<()> {
    let share = worker.config.admin.verify_share;
    if share <= 0.0 {
        worker.token.cancelled().await;
        return Ok(());
    }
    let mut hot_due = Instant::now();
    while !worker.token.is_cancelled() {
        let mut pause = PAUSE;
        if worker.leads().await? {
            let began = Instant::now();
            next_day(&worker).await?;
            if hot_due <= Instant::now() {
                hot_view(&worker).await?;
                hot_due = Instant::now() + INTERVAL;
            }
            pause = pause.max(began.elapsed().mul_f64(1.0 / share.min(1.0) - 1.0));
        }
        worker.readiness.ok("verification");
        let _ = worker.token.run_until_cancelled(sleep(pause)).await;
    }
    Ok(())
}

async fn verifier(worker: &Worker) -> anyhow::Result<Verifier<'_>> {
    let mut connection = worker.pool.get().await?;
    let server = worker.detect_server(&mut connection).await?;
    Verifier::new(&worker.config, connection, server, PATIENCE).await
}

/// Compares the day that is due, if any.
#[allow(clippy::cast_precision_loss)] // metrics are doubles
async fn next_day(worker: &Worker) -> anyhow::Result<()> {
    let mut verifier = verifier(worker).await?;
    let now_us = chrono::Utc::now().timestamp_micros();
    let past = TimeRange {
        to_us: now_us,
        ..ALWAYS
    };
    // Chunks of larger candles cover years of which most days have no rows.
    let days = verifier.days(past, &[Timeframe::M1, Timeframe::M5]).await?;
    let known = verified::all(&mut verifier.connection)
        .await
        .explained("reading the compared days")?;
    let summary = Summary::of(&days, &known, now_us);
    DIFFERENCES.set(summary.differences as f64);
    MISSING.set(summary.missing as f64);
    VERIFY_AGE.set(summary.age_us as f64 / 1e6);
    let Some(day_us) = summary.due_us else { return Ok(()) };
    let day = TimeRange {
        from_us: day_us,
        to_us: day_us + Timeframe::D1.micros(),
    };
    let findings = verifier.check(None, day).await?.findings;
    if let Some(first) = findings.first() {
        tracing::warn!(
            day = rfc3339(day_us), differences = findings.len(), symbol = first.difference.symbol,
            timeframe = %first.timeframe, time = rfc3339(first.difference.time.timestamp_micros()),
            "candles differ from their source; run `aggregator-admin verify --from {} --to {}`",
            rfc3339(day.from_us), rfc3339(day.to_us)
        );
    }
    let differences = i64::try_from(findings.len())?;
    let missing = missing_minutes(&mut verifier, day, now_us).await?;
    let doing = "recording a compared day";
    verified::record(&mut verifier.connection, day_us, differences, missing)
        .await
        .explained(doing)?;
    if let Some(first) = days.first() {
        verified::forget_before(&mut verifier.connection, first.from_us)
            .await
            .explained(doing)?;
    }
    VERIFIED.increment(1);
    DIFFERENCES.set((summary.without_due.differences + differences) as f64);
    MISSING.set((summary.without_due.missing + missing) as f64);
    Ok(())
}

/// Counts the minutes of `day` whose trades are missing, of all symbols.
async fn missing_minutes(verifier: &mut Verifier<'_>, day: TimeRange, now_us: i64) -> anyhow::Result<i64> {
    let Verifier { connection, redis, .. } = verifier;
    let known = symbols::list(connection).await.explained("reading the symbols")?;
    let partitions = crate::stores::partitions(redis).await?;
    let mut behind = Vec::new();
    for partition in 0..partitions {
        behind.push(gaps::behind(connection, redis, partition).await?);
    }
    let mut missing = 0;
    for symbol in known.iter().filter_map(|known| known.symbol.parse::<Symbol>().ok()) {
        let behind = behind[usize::from(partition_of(&symbol, partitions))];
        let spans = gaps::spans(connection, &symbol, day, behind, now_us).await?;
        let of_symbol = spans.iter().filter(|span| span.state == State::Missing);
        let count: i64 = of_symbol.map(gaps::classify::Span::minutes).sum();
        if count > 0 {
            tracing::warn!(
                %symbol, day = rfc3339(day.from_us), minutes = count,
                "trades are missing; run `aggregator-admin gaps {symbol} --from {} --to {}`",
                rfc3339(day.from_us), rfc3339(day.to_us)
            );
        }
        missing += count;
    }
    Ok(missing)
}

#[allow(clippy::cast_precision_loss)] // metrics are doubles
async fn hot_view(worker: &Worker) -> anyhow::Result<()> {
    let findings = verifier(worker).await?.check_hot(None).await?.findings;
    HOT_DIFFERENCES.set(findings.len() as f64);
    if let Some(first) = findings.first() {
        tracing::warn!(
            differences = findings.len(), key = %first.key, found = first.found, expected = first.expected,
            "hashes of the hot view differ from the history; run `aggregator-admin verify --repair`"
        );
    }
    Ok(())
}

#[derive(Debug, PartialEq, Eq)]
struct Counts {
    differences: i64,
    missing: i64,
}

/// State of the comparison.
#[derive(Debug, PartialEq, Eq)]
struct Summary {
    /// Day to compare next; `None` if each was compared within the last interval.
    due_us: Option<i64>,
    differences: i64,
    missing: i64,
    /// The same of the other days than the one that is due.
    without_due: Counts,
    /// Age of the oldest comparison; 0 until every day was compared.
    age_us: i64,
}

impl Summary {
    fn of(days: &[TimeRange], known: &[VerifiedDay], now_us: i64) -> Self {
        let known: HashMap<i64, &VerifiedDay> = known.iter().map(|day| (day.day_us, day)).collect();
        let days = days.iter().flat_map(|part| part.pieces(Timeframe::D1.micros()));
        let (mut differences, mut missing, mut oldest, mut never) = (0, 0, None, None);
        for day_us in days.map(|day| day.from_us) {
            match known.get(&day_us) {
                Some(day) => {
                    differences += day.differences;
                    missing += day.missing;
                    let checked = (day.checked.timestamp_micros(), day_us);
                    oldest = Some(oldest.map_or(checked, |oldest: (i64, i64)| oldest.min(checked)));
                }
                None => never = never.max(Some(day_us)),
            }
        }
        let is_old = |checked_us: i64| now_us - checked_us >= duration_us(INTERVAL);
        let due_us = never.or_else(|| {
            oldest
                .filter(|(checked_us, _)| is_old(*checked_us))
                .map(|(_, day_us)| day_us)
        });
        let of_due = due_us.and_then(|day_us| known.get(&day_us));
        Self {
            due_us,
            differences,
            missing,
            without_due: Counts {
                differences: differences - of_due.map_or(0, |day| day.differences),
                missing: missing - of_due.map_or(0, |day| day.missing),
            },
            age_us: match (never, oldest) {
                (None, Some((checked_us, _))) => (now_us - checked_us).max(0),
                _ => 0,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use storage_core::domain::time::to_datetime;

    const DAY_US: i64 = Timeframe::D1.micros();

    fn verified(day: i64, hours_ago: i64, differences: i64) -> VerifiedDay {
        VerifiedDay {
            day_us: day * DAY_US,
            checked: to_datetime(100 * DAY_US - hours_ago * Timeframe::H1.micros()),
            differences,
            missing: 10 * differences,
        }
    }

    #[test]
    fn new_days_come_first_and_then_those_that_were_not_compared_for_longest() {
        let days = [TimeRange {
            from_us: 3 * DAY_US,
            to_us: 6 * DAY_US,
        }];
        let summary = |known: &[VerifiedDay]| Summary::of(&days, known, 100 * DAY_US);
        assert_eq!(summary(&[]).due_us, Some(5 * DAY_US));
        assert_eq!(summary(&[verified(5, 9, 2)]).due_us, Some(4 * DAY_US));
        let all = summary(&[
            verified(1, 9, 50),
            verified(3, 2, 1),
            verified(4, 3, 2),
            verified(5, 1, 4),
        ]);
        let expected = Summary {
            due_us: Some(4 * DAY_US),
            differences: 7,
            missing: 70,
            without_due: Counts {
                differences: 5,
                missing: 50,
            },
            age_us: 3 * Timeframe::H1.micros(),
        };
        assert_eq!(all, expected, "day 1 has no rows");
        assert_eq!(
            summary(&[verified(3, 0, 0), verified(4, 0, 0), verified(5, 0, 0)]).due_us,
            None
        );
    }
}
