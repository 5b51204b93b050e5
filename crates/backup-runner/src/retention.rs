//! Selects the backups that are kept. Pure.

use std::collections::BTreeSet;

use chrono::{DateTime, Datelike, NaiveDate, Utc};

/// Number of backups of a kind that are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Keep {
    /// Newest backups.
    pub(crate) last: u32,
    /// Newest days with a backup, of each of which the last backup is kept.
    pub(crate) daily: u32,
    /// Newest weeks (Monday to Sunday) with a backup, of each of which the last backup is kept.
    pub(crate) weekly: u32,
}

/// Returns the backups that are not kept. The newest is always kept.
pub(crate) fn superseded(backups: &BTreeSet<DateTime<Utc>>, keep: Keep) -> BTreeSet<DateTime<Utc>> {
    let kept: BTreeSet<DateTime<Utc>> = newest(backups, keep.last.max(1), |time| time)
        .chain(newest(backups, keep.daily, day))
        .chain(newest(backups, keep.weekly, |time| week(day(time))))
        .collect();
    backups - &kept
}

/// Returns the newest backup of each of the newest `count` periods with a backup.
fn newest<P: PartialEq>(
    backups: &BTreeSet<DateTime<Utc>>,
    count: u32,
    period: impl Fn(DateTime<Utc>) -> P,
) -> impl Iterator<Item = DateTime<Utc>> {
    let mut last = None;
    let newest_of_each = backups.iter().rev().filter(move |time| {
        let this = Some(period(**time));
        let is_first = this != last;
        last = this;
        is_first
    });
    newest_of_each
        .copied()
        .take(usize::try_from(count).unwrap_or(usize::MAX))
}

fn day(time: DateTime<Utc>) -> NaiveDate {
    time.date_naive()
}

fn week(day: NaiveDate) -> (i32, u32) {
    (day.iso_week().year(), day.iso_week().week())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn times(texts: &[&str]) -> BTreeSet<DateTime<Utc>> {
        texts
            .iter()
            .map(|text| format!("{text}:00Z").parse().unwrap())
            .collect()
    }

    #[test]
    fn the_last_backup_of_each_day_and_week_is_kept() {
        // The days run from a Thursday to the Tuesday of the week after next.
        let backups = times(&[
            "2026-11-12T06:00",
            "2026-11-12T18:00",
            "2026-11-15T18:00",
            "2026-11-16T06:00",
            "2026-11-22T18:00",
            "2026-11-23T06:00",
            "2026-11-23T12:00",
            "2026-11-24T06:00",
            "2026-11-24T12:00",
        ]);
        let removed = superseded(
            &backups,
            Keep {
                last: 1,
                daily: 2,
                weekly: 3,
            },
        );
        let stay = times(&[
            "2026-11-15T18:00",
            "2026-11-22T18:00",
            "2026-11-23T12:00",
            "2026-11-24T12:00",
        ]);
        assert_eq!(&backups - &removed, stay);
    }

    fn any_backups() -> impl Strategy<Value = BTreeSet<DateTime<Utc>>> {
        prop::collection::btree_set(
            (0_i64..90 * 24).prop_map(|h| DateTime::from_timestamp(1_790_000_000 + h * 3_600, 0).unwrap()),
            0..60,
        )
    }

    fn any_keep() -> impl Strategy<Value = Keep> {
        (0_u32..10, 0_u32..20, 0_u32..10).prop_map(|(last, daily, weekly)| Keep { last, daily, weekly })
    }

    proptest! {
        #[test]
        fn the_newest_is_kept(backups in any_backups(), keep in any_keep()) {
            let removed = superseded(&backups, keep);
            prop_assert!(removed.is_subset(&backups));
            if let Some(newest) = backups.last() {
                prop_assert!(!removed.contains(newest));
            }
        }

        #[test]
        fn no_more_are_kept_than_configured(backups in any_backups(), keep in any_keep()) {
            let stay = backups.len() - superseded(&backups, keep).len();
            let most = keep.last.max(1) + keep.daily + keep.weekly;
            prop_assert!(stay <= most as usize);
            prop_assert!(stay >= backups.len().min(keep.last as usize));
        }

        #[test]
        fn pruning_again_removes_nothing(backups in any_backups(), keep in any_keep()) {
            let stay = &backups - &superseded(&backups, keep);
            prop_assert_eq!(superseded(&stay, keep), BTreeSet::new());
        }

        #[test]
        fn each_of_the_newest_days_keeps_its_last(backups in any_backups(), keep in any_keep()) {
            let stay = &backups - &superseded(&backups, keep);
            let days: BTreeSet<NaiveDate> = backups.iter().map(|time| day(*time)).collect();
            for of_day in days.iter().rev().take(keep.daily as usize) {
                let last = backups.iter().rev().find(|time| day(**time) == *of_day).unwrap();
                prop_assert!(stay.contains(last));
            }
        }
    }
}
