//! The schedule of policies that aggregator-admin runs itself. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use storage_core::postgres::queries::policies::JobKind;
use tokio::time::Instant;

/// Last run of each policy since this replica began to run them.
#[derive(Debug, Default)]
pub(crate) struct Schedule(BTreeMap<(JobKind, String), Instant>);

impl Schedule {
    /// Returns `true` if the policy has not run since `every` before `now`.
    pub(crate) fn is_due(&self, kind: JobKind, table: &str, every: Duration, now: Instant) -> bool {
        self.0
            .get(&(kind, table.to_owned()))
            .is_none_or(|last| now.duration_since(*last) >= every)
    }

    /// Records a successful run. A policy that failed stays due.
    pub(crate) fn record(&mut self, kind: JobKind, table: &str, now: Instant) {
        self.0.insert((kind, table.to_owned()), now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3_600);

    #[test]
    fn a_policy_runs_first_immediately_and_then_after_each_interval() {
        let start = Instant::now();
        let mut schedule = Schedule::default();
        let looks = (0..=150).map(|minute| start + minute * HOUR / 60);
        let runs: Vec<Duration> = looks
            .filter(|now| {
                let is_due = schedule.is_due(JobKind::Compress, "ticks", HOUR, *now);
                if is_due {
                    schedule.record(JobKind::Compress, "ticks", *now);
                }
                is_due
            })
            .map(|now| now - start)
            .collect();
        assert_eq!(runs, [Duration::ZERO, HOUR, 2 * HOUR]);
    }

    #[test]
    fn policies_have_schedules_of_their_own_and_a_changed_one_counts_from_the_last_run() {
        let start = Instant::now();
        let mut schedule = Schedule::default();
        schedule.record(JobKind::Compress, "ticks", start);
        for (kind, table) in [(JobKind::Retain, "ticks"), (JobKind::Compress, "signals")] {
            assert!(schedule.is_due(kind, table, HOUR, start));
        }
        let is_due = |every, at| schedule.is_due(JobKind::Compress, "ticks", every, start + at);
        assert!(!is_due(HOUR, HOUR / 2) && is_due(HOUR / 2, HOUR / 2));
    }
}
