//! Watches the jobs that TimescaleDB's scheduler runs: their failures are counted and logged.

use std::collections::HashMap;

use diesel_async::AsyncPgConnection;
use storage_core::domain::time::rfc3339;
use storage_core::postgres::edition::Edition;
use storage_core::postgres::error::Explained;
use storage_core::postgres::queries::policies::{self, Job, Runs};

use crate::metrics::{POLICY_FAILING, POLICY_FAILURES, POLICY_RUNS};

/// Jobs as they were at the last look.
#[derive(Default)]
pub(crate) struct WatchedJobs(HashMap<i32, (Job, Runs)>);

impl WatchedJobs {
    /// Counts and logs what happened since the last look. Runs before the first look are not counted.
    pub(crate) async fn look(&mut self, connection: &mut AsyncPgConnection, edition: Edition) -> anyhow::Result<()> {
        let doing = "reading the runs of TimescaleDB's jobs";
        let jobs = policies::jobs(connection, edition).await.explained(doing)?;
        let mut runs: HashMap<i32, Runs> = policies::runs(connection, edition)
            .await
            .explained(doing)?
            .into_iter()
            .map(|runs| (runs.job_id, runs))
            .collect();
        let before = std::mem::take(&mut self.0);
        for (job, _) in before.values() {
            POLICY_FAILING.set(job.kind.label(), &job.table, 0.0);
        }
        for job in jobs {
            let Some(now) = runs.remove(&job.id) else { continue };
            report(&job, before.get(&job.id).map(|(_, before)| before), &now);
            self.0.insert(job.id, (job, now));
        }
        Ok(())
    }

    /// Sets the gauges to zero, because another replica watches the jobs.
    pub(crate) fn forget(&mut self) {
        for (job, _) in std::mem::take(&mut self.0).into_values() {
            POLICY_FAILING.set(job.kind.label(), &job.table, 0.0);
        }
    }
}

fn report(job: &Job, before: Option<&Runs>, now: &Runs) {
    let kind = job.kind.label();
    let failures = since(before.map(|before| before.failures), now.failures);
    POLICY_RUNS.increment(kind, since(before.map(|before| before.runs), now.runs));
    POLICY_FAILURES.increment(kind, failures);
    POLICY_FAILING.set(kind, &job.table, f64::from(u8::from(now.is_failing)));
    if failures > 0 || before.is_none() && now.is_failing {
        tracing::warn!(table = job.table, failures, "{}", failure(job, now));
    }
}

/// Describes the last failure of `job`.
pub(crate) fn failure(job: &Job, runs: &Runs) -> String {
    let failed = runs
        .failed
        .map(|failed| format!(" at {}", rfc3339(failed.timestamp_micros())));
    format!(
        "the {} policy of {} failed{}: {}",
        job.kind.label(),
        job.table,
        failed.unwrap_or_default(),
        runs.error
            .as_deref()
            .unwrap_or("TimescaleDB has no record of the error; see the log of PostgreSQL")
    )
}

/// Returns how much a number grew; it begins again if the job was created again.
fn since(before: Option<i64>, now: i64) -> u64 {
    let grown = match before {
        None => 0,
        Some(before) if now < before => now,
        Some(before) => now - before,
    };
    u64::try_from(grown).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use storage_core::domain::time::to_datetime;
    use storage_core::postgres::queries::policies::JobKind;

    use super::*;

    #[test]
    fn only_runs_after_the_first_look_are_counted() {
        assert_eq!(since(None, 7), 0);
        assert_eq!(since(Some(7), 7), 0);
        assert_eq!(since(Some(7), 9), 2);
        assert_eq!(since(Some(7), 1), 1, "the job was created again");
    }

    #[test]
    fn a_failure_is_described_with_its_time_and_error() {
        let job = Job {
            id: 1000,
            kind: JobKind::Compress,
            table: "ticks".to_owned(),
            every: Duration::from_secs(3_600),
            age: None,
            config: serde_json::Value::Null,
        };
        let mut runs = Runs {
            job_id: 1000,
            runs: 3,
            failures: 1,
            is_failing: true,
            failed: Some(to_datetime(1_800_000_000_000_000)),
            error: Some("columnstore policy failure".to_owned()),
        };
        assert_eq!(
            failure(&job, &runs),
            "the compress policy of ticks failed at 2027-01-15T08:00:00Z: columnstore policy failure"
        );
        (runs.failed, runs.error) = (None, None);
        assert!(failure(&job, &runs).starts_with("the compress policy of ticks failed: TimescaleDB has no record"));
    }
}
