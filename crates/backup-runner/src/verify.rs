//! Checks a backup: its files against the manifest, and each file with the program that restores it.

use std::path::Path;

use anyhow::Context;

use crate::config::Config;
use crate::content::{BaseContent, Content};
use crate::destination::{Destination, SCRATCH_PREFIX};
use crate::manifest::{File, Manifest};
use crate::postgres::{archive, logical, recovery};
use crate::redis;
use crate::tool::Tool;

/// Returns the damage that was found in a backup; empty if it is intact.
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

/// Returns the damage that would end a recovery from a base backup before the end of the archived WAL.
async fn damaged_wal(destination: &Destination, content: &BaseContent) -> anyhow::Result<Option<String>> {
    let wal = destination.wal_folder(&content.system_identifier);
    if !wal.exists() {
        return Ok(None);
    }
    let reach = archive::reach(&wal, content).await?;
    Ok(reach.damage.map(|damage| match damage.redundant {
        Some(_) => damage.to_string(),
        None => format!(
            "{damage}; a recovery ends at {}, so make a new base backup: run `backup-runner backup base`",
            reach.last
        ),
    }))
}

/// Returns the files that differ from the manifest. A restore checks no more than this.
pub(crate) async fn damaged_files(destination: &Destination, manifest: &Manifest) -> anyhow::Result<Vec<String>> {
    let (kind, name) = (manifest.kind(), manifest.name);
    let mut unlisted = destination.files(kind, name).await?;
    let mut problems = Vec::new();
    for wanted in &manifest.files {
        if !unlisted.remove(&wanted.path) {
            problems.push(format!("{} is missing", wanted.path));
            continue;
        }
        match destination.measure(kind, name, &wanted.path).await {
            Ok(found) => problems.extend(difference(wanted, &found)),
            Err(error) => problems.push(format!("{} can't be read: {error:#}", wanted.path)),
        }
    }
    problems.extend(unlisted.iter().map(|path| format!("{path} is not in the manifest")));
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

/// Reads every file to its end with the program that restores it.
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

/// Unpacks and checks a base backup: pg_verifybackup can't read archives before PostgreSQL 18. The backup folder is
/// used because it is expected to have the most free space.
async fn unpack(
    programs: Option<&Path>,
    destination: &Destination,
    manifest: &Manifest,
    folder: &Path,
) -> anyhow::Result<()> {
    let temporary = tempfile::Builder::new()
        .prefix(SCRATCH_PREFIX)
        .tempdir_in(destination.folder())
        .context("creating a folder for unpacking the base backup")?;
    recovery::unpack(programs, folder, manifest, &temporary.path().join("data")).await
}
