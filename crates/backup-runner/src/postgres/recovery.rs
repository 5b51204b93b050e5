//! Makes a data directory of a base backup, set to recover from the WAL archive; and what of that archive is still needed.

use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Context, bail, ensure};
use chrono::{DateTime, SecondsFormat, Utc};

use super::base::{FILES, OWN_MANIFEST, WAL};
use super::lsn::Lsn;
use crate::destination::make_folder;
use crate::manifest::Manifest;
use crate::tool::Tool;

/// How many characters of a segment's name are its timeline.
pub(crate) const TIMELINE: usize = 8;
/// How long a segment's name is.
pub(crate) const SEGMENT: usize = 24;
/// What the name of a segment that is being filled ends with.
pub(crate) const PARTIAL: &str = ".partial";

/// How far a recovery goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// To the end of the archive.
    End,
    /// Up to a moment.
    Time(DateTime<Utc>),
    /// Through the record at a position.
    Lsn(Lsn),
    /// To the end of the base backup.
    Backup,
}

/// Unpacks a base backup into `data`, which must be empty or absent, and checks every file.
pub(crate) async fn unpack(
    programs: Option<&Path>,
    backup: &Path,
    manifest: &Manifest,
    data: &Path,
) -> anyhow::Result<()> {
    let known = [FILES, WAL, OWN_MANIFEST];
    if let Some(file) = manifest.files.iter().find(|file| !known.contains(&file.path.as_str())) {
        bail!(
            "{} is a tablespace; unpack this backup by hand, as PostgreSQL's documentation says",
            file.path
        );
    }
    make_folder(data)?;
    ensure!(
        fs::read_dir(data)?.next().is_none(),
        "{} is not empty; name a new data directory",
        data.display()
    );
    fs::set_permissions(data, fs::Permissions::from_mode(0o700))?;
    for (archive, folder) in [(FILES, data.to_path_buf()), (WAL, data.join("pg_wal"))] {
        // The files become those of whoever restores, also where that is root, who would take on the owner in the archive.
        Tool::new(None, "tar")
            .args(["--no-same-owner", "-xzf"])
            .arg(backup.join(archive))
            .arg("-C")
            .arg(folder)
            .run()
            .await?;
    }
    fs::copy(backup.join(OWN_MANIFEST), data.join(OWN_MANIFEST)).context("copying pg_basebackup's manifest")?;
    Tool::new(programs, "pg_verifybackup")
        .arg("--quiet")
        .arg(data)
        .run()
        .await
        .context("checking the unpacked files")?;
    Ok(())
}

/// Has the server that starts on `data` recover from the archive `wal`, up to `target`, and take writes then.
pub(crate) fn prepare(data: &Path, wal: &Path, target: Target) -> anyhow::Result<()> {
    let mut settings = OpenOptions::new()
        .append(true)
        .create(true)
        .open(data.join("postgresql.auto.conf"))?;
    settings.write_all(recovery_settings(wal, target)?.as_bytes())?;
    fs::write(data.join("recovery.signal"), "").context("writing recovery.signal")
}

fn recovery_settings(wal: &Path, target: Target) -> anyhow::Result<String> {
    let command = restore_command(wal)?.replace('\'', "''");
    let mut settings =
        format!("\n# backup-runner restore base\nrestore_command = '{command}'\nrecovery_target_timeline = 'latest'\n");
    let (name, value) = match target {
        Target::End => return Ok(settings),
        Target::Time(time) => ("_time", time.to_rfc3339_opts(SecondsFormat::Micros, false)),
        Target::Lsn(lsn) => ("_lsn", lsn.to_string()),
        Target::Backup => ("", "immediate".to_owned()),
    };
    settings += &format!("recovery_target{name} = '{value}'\nrecovery_target_action = 'promote'\n");
    Ok(settings)
}

/// The segment that is being filled has another name in the archive.
fn restore_command(wal: &Path) -> anyhow::Result<String> {
    ensure!(wal.to_str().is_some(), "{} is not text", wal.display());
    let quoted = quoted(wal).replace('%', "%%");
    Ok(format!(
        r#"cp {quoted}/%f "%p" 2>/dev/null || cp {quoted}/%f{PARTIAL} "%p""#
    ))
}

/// A path as one word of a shell.
pub(crate) fn quoted(path: &Path) -> String {
    format!("'{}'", path.display().to_string().replace('\'', r"'\''"))
}

/// The name of the WAL segment that holds `lsn`.
pub(crate) fn segment_of(timeline: u32, lsn: &str, segment_bytes: u64) -> anyhow::Result<String> {
    let Lsn(position) = lsn.parse()?;
    ensure!(
        segment_bytes.is_power_of_two() && segment_bytes < 1 << 32,
        "{segment_bytes} is no size of a WAL segment"
    );
    let number = position / segment_bytes;
    let per_log = (1 << 32) / segment_bytes;
    Ok(format!(
        "{timeline:08X}{:08X}{:08X}",
        number / per_log,
        number % per_log
    ))
}

/// Those of an archive's files that no recovery from `oldest_needed` on reads. Timelines' histories always stay.
pub(crate) fn outdated(files: &BTreeSet<String>, oldest_needed: &str) -> BTreeSet<String> {
    let Some(oldest) = segment_number(oldest_needed) else {
        return BTreeSet::new();
    };
    files
        .iter()
        .filter(|file| segment_number(file).is_some_and(|segment| segment < oldest))
        .cloned()
        .collect()
}

/// A segment's name without its timeline; segments of all timelines count alike, as in pg_archivecleanup.
pub(crate) fn segment_number(file: &str) -> Option<&str> {
    let name = file.strip_suffix(PARTIAL).unwrap_or(file);
    let is_segment = name.len() == SEGMENT && name.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_segment.then(|| &name[TIMELINE..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_are_named_as_postgresql_names_them() {
        for (timeline, lsn, megabytes, segment) in [
            (1, "0/2000028", 16, "000000010000000000000002"),
            (0x1A, "16/B374D848", 16, "0000001A00000016000000B3"),
            (1, "1/80000000", 64, "000000010000000100000020"),
        ] {
            assert_eq!(segment_of(timeline, lsn, megabytes << 20).unwrap(), segment);
        }
        assert!(segment_of(1, "x", 16 << 20).is_err());
        assert!(segment_of(1, "0/1", 0).is_err());
    }

    #[test]
    fn the_archive_keeps_what_the_oldest_base_backup_needs() {
        let files: BTreeSet<String> = [
            "000000010000000000000001",
            "000000010000000000000002",
            "000000010000000000000003.partial",
            "00000002.history",
            "000000020000000000000001.partial",
            "000000020000000000000004",
            "notes.txt",
        ]
        .map(Into::into)
        .into();
        let expected = ["000000010000000000000001", "000000020000000000000001.partial"]
            .map(String::from)
            .into();
        assert_eq!(outdated(&files, "000000010000000000000002"), expected);
        assert!(outdated(&files, "garbage").is_empty());
    }

    #[test]
    fn paths_are_quoted_for_the_shell_and_for_the_settings() {
        let settings = recovery_settings(Path::new("/a b/it's 5%"), Target::End).unwrap();
        assert!(
            settings.contains(r"restore_command = 'cp ''/a b/it''\''''s 5%%''/%f"),
            "{settings}"
        );
        assert!(!settings.contains("recovery_target_time ="));
    }

    #[test]
    fn the_target_is_a_moment_in_utc() {
        let target = "2026-11-23T05:00:00.123456Z".parse().unwrap();
        let settings = recovery_settings(Path::new("/wal"), Target::Time(target)).unwrap();
        assert!(
            settings.contains("recovery_target_time = '2026-11-23T05:00:00.123456+00:00'"),
            "{settings}"
        );
        assert!(settings.contains("recovery_target_action = 'promote'"));
        let settings = recovery_settings(Path::new("/wal"), Target::Lsn(Lsn(0x1_0000_002A))).unwrap();
        assert!(settings.contains("recovery_target_lsn = '1/2A'"), "{settings}");
        let settings = recovery_settings(Path::new("/wal"), Target::Backup).unwrap();
        assert!(settings.contains("recovery_target = 'immediate'"), "{settings}");
    }
}
