//! Removes superseded backups, the remains of interrupted ones, and WAL that no base backup needs.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};

use crate::config::BackupConfig;
use crate::destination::{Destination, Found, State};
use crate::manifest::{Kind, Name};
use crate::postgres::wal;
use crate::retention;

/// Backups and files that were removed, or would be in a dry run.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Pruned {
    pub(crate) backups: Vec<(Kind, Name)>,
    pub(crate) leftovers: Vec<(Kind, Name)>,
    pub(crate) wal_files: usize,
}

/// Removes what `config` does not keep; with `dry_run` only determines it.
pub(crate) async fn prune(
    config: &BackupConfig,
    destination: &Destination,
    now: DateTime<Utc>,
    dry_run: bool,
) -> anyhow::Result<Pruned> {
    let mut pruned = Pruned::default();
    for kind in Kind::ALL {
        let found = destination.found(kind).await?;
        let good = with_all_files(destination, &found).await?;
        let superseded = retention::superseded(&good.iter().map(|name| name.time()).collect(), config.keep());
        pruned.backups.extend(
            good.iter()
                .filter(|name| superseded.contains(&name.time()))
                .map(|name| (kind, *name)),
        );
        let old = |name: &Name| {
            (now - name.time())
                .to_std()
                .is_ok_and(|age| age > config.leftovers_after)
        };
        for Found { name, state, .. } in found.iter().filter(|found| !good.contains(&found.name)) {
            // Parts of a damaged backup may still be usable, so it stays until a newer intact one exists.
            let is_useless = matches!(state, State::Incomplete) || good.last().is_some_and(|newest| newest > name);
            if old(name) && is_useless {
                pruned.leftovers.push((kind, *name));
            }
        }
    }
    if !dry_run {
        for (kind, name) in pruned.backups.iter().chain(&pruned.leftovers) {
            destination.remove(*kind, *name).await?;
        }
        destination.remove_scratch(config.leftovers_after)?;
    }
    pruned.wal_files = wal::prune(destination, dry_run).await?;
    Ok(pruned)
}

/// Returns the backups whose files all exist.
async fn with_all_files(destination: &Destination, found: &[Found]) -> anyhow::Result<BTreeSet<Name>> {
    let mut good = BTreeSet::new();
    for Found { kind, name, state } in found {
        if let State::Complete(manifest) = state {
            let existing = destination.files(*kind, *name).await?;
            if manifest.files.iter().all(|file| existing.contains(&file.path)) {
                good.insert(*name);
            }
        }
    }
    Ok(good)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::content::{BaseContent, Content};
    use crate::manifest::{Manifest, tests::example};
    use crate::postgres::archive::names;

    fn at(hour: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_795_000_000 + hour * 3_600, 0).unwrap()
    }

    /// Writes a backup of which only the manifest is real; an interrupted one has none.
    fn put(destination: &Destination, hour: i64, content: Content, finished: bool) -> Name {
        let manifest = Manifest {
            name: Name::of(at(hour)),
            started: at(hour),
            finished: at(hour),
            files: vec![],
            content,
            ..example()
        };
        let folder = destination.folder_of(manifest.kind(), manifest.name);
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("database.dump#1"), "half").unwrap();
        if finished {
            fs::write(folder.join("manifest.json"), manifest.to_json().unwrap()).unwrap();
        }
        manifest.name
    }

    #[tokio::test]
    async fn wal_that_any_kept_base_backup_needs_stays() {
        let folder = tempfile::tempdir().unwrap();
        let destination = Destination::open(folder.path()).unwrap();
        // The newer backup is of a server that was recovered to a time before the older backup.
        for (hour, timeline, segment) in [(0, 1, 5), (1, 2, 3)] {
            let content = BaseContent {
                server_version: "17.6".into(),
                system_identifier: "7".into(),
                timeline,
                start_lsn: format!("0/{segment}000028"),
                end_lsn: format!("0/{segment}000100"),
                start_segment: format!("{timeline:08X}00000000{segment:08X}"),
            };
            put(&destination, hour, Content::Base(content), true);
        }
        let wal = destination.wal_folder("7");
        fs::create_dir_all(&wal).unwrap();
        for number in 1..=6 {
            fs::write(wal.join(format!("{:08X}00000000{number:08X}", 1)), "").unwrap();
        }
        let pruned = prune(&BackupConfig::default(), &destination, Utc::now(), false)
            .await
            .unwrap();
        assert_eq!(pruned.wal_files, 2);
        let left: BTreeSet<String> = names(&wal).unwrap();
        assert_eq!(left.first().map(String::as_str), Some("000000010000000000000003"));
    }

    #[tokio::test]
    async fn superseded_backups_and_old_leftovers_are_removed_and_the_newest_good_backup_stays() {
        let folder = tempfile::tempdir().unwrap();
        let destination = Destination::open(folder.path()).unwrap();
        let config = BackupConfig {
            keep_last: 1,
            keep_daily: 0,
            keep_weekly: 0,
            ..BackupConfig::default()
        };
        let dump = |hour, finished| put(&destination, hour, example().content, finished);
        let [superseded, newest] = [0, 1].map(|hour| dump(hour, true));
        let [old_leftover, unfinished] = [2, 40].map(|hour| dump(hour, false));
        let now = unfinished.time() + chrono::Duration::minutes(5);

        let would = prune(&config, &destination, now, true).await.unwrap();
        assert_eq!(destination.found(Kind::Postgres).await.unwrap().len(), 4);
        let pruned = prune(&config, &destination, now, false).await.unwrap();
        assert_eq!(pruned, would);
        assert_eq!(pruned.backups, [(Kind::Postgres, superseded)]);
        assert_eq!(pruned.leftovers, [(Kind::Postgres, old_leftover)]);
        let left: Vec<Name> = destination
            .found(Kind::Postgres)
            .await
            .unwrap()
            .iter()
            .map(|found| found.name)
            .collect();
        assert_eq!(left, [newest, unfinished]);
    }
}
