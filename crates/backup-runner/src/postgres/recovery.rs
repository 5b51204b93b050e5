//! Unpacks a base backup into a data directory and sets it to recover from the WAL archive.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Context, bail, ensure};
use chrono::{DateTime, SecondsFormat, Utc};

use super::base::{FILES, OWN_MANIFEST, WAL};
use super::lsn::Lsn;
use super::segment::PARTIAL;
use crate::destination::create_folder;
use crate::manifest::Manifest;
use crate::tool::{Tool, shell_quoted};

/// End of a recovery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// The end of the archive.
    End,
    /// The last transaction that was committed until this time.
    Time(DateTime<Utc>),
    /// The record at this position, inclusive.
    Lsn(Lsn),
    /// The end of the base backup.
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
            "{} is a tablespace, which this command does not restore; unpack the archives with tar, as the chapter \
             \"Recovering Using a Continuous Archive Backup\" of PostgreSQL's documentation describes",
            file.path
        );
    }
    create_folder(data)?;
    ensure!(
        fs::read_dir(data)?.next().is_none(),
        "data directory {} is not empty; give `--data-dir` an empty or new one",
        data.display()
    );
    fs::set_permissions(data, fs::Permissions::from_mode(0o700))?;
    for (archive, folder) in [(FILES, data.to_path_buf()), (WAL, data.join("pg_wal"))] {
        // tar run by root would otherwise restore the owner that the archive records.
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

/// Configures the server that starts on `data` to recover from the archive `wal` up to `target`, then to accept writes.
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

/// The command falls back to the partial segment, the last one that was received.
fn restore_command(wal: &Path) -> anyhow::Result<String> {
    ensure!(
        wal.to_str().is_some(),
        "the WAL archive {} has a name that is not UTF-8; rename the backup folder",
        wal.display()
    );
    let quoted = shell_quoted(wal).replace('%', "%%");
    Ok(format!(
        r#"cp {quoted}/%f "%p" 2>/dev/null || cp {quoted}/%f{PARTIAL} "%p""#
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_quoted_for_the_shell_and_for_postgresql_conf() {
        let settings = recovery_settings(Path::new("/a b/it's 5%"), Target::End).unwrap();
        assert!(
            settings.contains(r"restore_command = 'cp ''/a b/it''\''''s 5%%''/%f"),
            "{settings}"
        );
        assert!(!settings.contains("recovery_target_time ="));
    }

    #[test]
    fn the_target_is_written_as_postgresql_reads_it() {
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
