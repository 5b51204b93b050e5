//! Checks that a backup is what its manifest says, and that the tools that will read it can.

use std::path::Path;

use anyhow::Context;

use crate::config::Config;
use crate::destination::{Destination, SCRATCH_PREFIX};
use crate::manifest::{BaseContent, Content, File, Manifest};
use crate::postgres::{archive, logical, recovery};
use crate::redis;
use crate::tool::Tool;

/// What is wrong with a backup; nothing, if it is whole.
///
/// # Errors
/// When it can't be checked.
pub(crate) async fn problems(
    config: &Config,
    destination: &Destination,
    manifest: &Manifest,
) -> anyhow::Result<Vec<String>> {
    let mut problems = damaged_files(destination, manifest).await?;
    if problems.is_empty()
        && let Err(error) = read_through(config, destination, manifest).await
    {
        problems.push(format!("{error:#}"));
    }
    if let Content::Base(content) = &manifest.content {
        problems.extend(damaged_wal(destination, content).await?);
    }
    Ok(problems)
}

/// What ends a recovery from a base backup before the end of the archived WAL.
async fn damaged_wal(destination: &Destination, content: &BaseContent) -> anyhow::Result<Option<String>> {
    let wal = destination.wal_folder(&content.system_identifier);
    if !wal.exists() {
        return Ok(None);
    }
    let reach = archive::reach(&wal, content).await?;
    Ok(reach.damage.map(|damage| match damage.needless {
        Some(_) => damage.to_string(),
        None => format!(
            "{damage}; the WAL leads to {} only, so run `backup-runner backup base`",
            reach.last
        ),
    }))
}

/// The files that are not as they were written. Enough to know before a restore.
pub(crate) async fn damaged_files(destination: &Destination, manifest: &Manifest) -> anyhow::Result<Vec<String>> {
    let (kind, name) = (manifest.kind(), manifest.name);
    let mut there = destination.files(kind, name).await?;
    let mut problems = Vec::new();
    for wanted in &manifest.files {
        if !there.remove(&wanted.path) {
            problems.push(format!("{} is missing", wanted.path));
            continue;
        }
        match destination.measure(kind, name, &wanted.path).await {
            Ok(found) => problems.extend(difference(wanted, &found)),
            Err(error) => problems.push(format!("{} can't be read: {error:#}", wanted.path)),
        }
    }
    problems.extend(there.iter().map(|path| format!("{path} is not in the manifest")));
    Ok(problems)
}

fn difference(wanted: &File, found: &File) -> Option<String> {
    if wanted.size_bytes != found.size_bytes {
        return Some(format!(
            "{} has {} bytes instead of {}",
            wanted.path, found.size_bytes, wanted.size_bytes
        ));
    }
    (wanted.sha256 != found.sha256).then(|| {
        format!(
            "{} was changed: its SHA-256 is {} instead of {}",
            wanted.path, found.sha256, wanted.sha256
        )
    })
}

/// Has the tools read every byte.
async fn read_through(config: &Config, destination: &Destination, manifest: &Manifest) -> anyhow::Result<()> {
    let folder = destination.folder_of(manifest.kind(), manifest.name);
    let programs = config.backup.pg_bin.as_deref();
    match &manifest.content {
        Content::Redis(content) => {
            for rdb in content.rdbs() {
                redis::check(config.backup.redis_bin.as_deref(), &folder.join(rdb)).await?;
            }
        }
        Content::Postgres(_) => {
            let dump = folder.join(logical::FILE);
            Tool::new(programs, "pg_restore")
                .arg("--file=/dev/null")
                .arg(dump)
                .run()
                .await?;
        }
        Content::Base(_) => unpack(programs, destination, manifest, &folder).await?,
    }
    Ok(())
}

/// pg_verifybackup of this version reads no archives, so they are unpacked beside the backups, where there is most room.
async fn unpack(
    programs: Option<&Path>,
    destination: &Destination,
    manifest: &Manifest,
    folder: &Path,
) -> anyhow::Result<()> {
    let temporary = tempfile::Builder::new()
        .prefix(SCRATCH_PREFIX)
        .tempdir_in(destination.folder())
        .context("making a folder to unpack into")?;
    recovery::unpack(programs, folder, manifest, &temporary.path().join("data")).await
}
