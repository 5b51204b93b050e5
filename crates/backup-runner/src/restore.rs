//! Brings a backup back, after checking that its files are whole.

use std::path::Path;

use anyhow::{bail, ensure};
use chrono::{DateTime, Utc};

use crate::config::Config;
use crate::destination::Destination;
use crate::manifest::{BaseContent, Content, Kind, Manifest, PostgresContent};
use crate::postgres::{logical, recovery};
use crate::redis::restore::Restored;
use crate::verify::damaged_files;
use crate::{postgres, redis};

/// The backup `name` (or the newest, for `latest`), with whole files.
async fn find(destination: &Destination, kind: Kind, name: &str) -> anyhow::Result<Manifest> {
    let manifest = destination.find(kind, name).await?;
    let problems = damaged_files(destination, &manifest).await?;
    ensure!(
        problems.is_empty(),
        "{kind}/{} is damaged and was not restored: {}",
        manifest.name,
        problems.join("; ")
    );
    Ok(manifest)
}

/// Restores Redis.
pub(crate) async fn redis(
    config: &Config,
    destination: &Destination,
    name: &str,
) -> anyhow::Result<(Manifest, Restored)> {
    let manifest = find(destination, Kind::Redis, name).await?;
    let Content::Redis(content) = &manifest.content else {
        bail!("{name} is no backup of Redis")
    };
    let folder = destination.folder_of(Kind::Redis, manifest.name);
    let rdbs: Vec<_> = content.rdbs().into_iter().map(|rdb| folder.join(rdb)).collect();
    let restored = redis::restore::restore(&config.redis, config.backup.redis_bin.as_deref(), &rdbs).await?;
    Ok((manifest, restored))
}

/// Restores the database.
pub(crate) async fn postgres(
    config: &Config,
    destination: &Destination,
    name: &str,
) -> anyhow::Result<(Manifest, PostgresContent)> {
    let manifest = find(destination, Kind::Postgres, name).await?;
    let Content::Postgres(content) = manifest.content.clone() else {
        bail!("{name} is no dump of a database")
    };
    let dump = destination.folder_of(Kind::Postgres, manifest.name).join(logical::FILE);
    postgres::restore::restore(&config.postgres, config.backup.pg_bin.as_deref(), &dump, &content).await?;
    Ok((manifest, content))
}

/// Makes a data directory. Says whether the server that starts there will recover from the WAL archive.
pub(crate) async fn base(
    config: &Config,
    destination: &Destination,
    name: &str,
    data: &Path,
    target: Option<DateTime<Utc>>,
) -> anyhow::Result<(Manifest, bool)> {
    let manifest = find(destination, Kind::Base, name).await?;
    let Content::Base(content) = &manifest.content else {
        bail!("{name} is no base backup")
    };
    let wal = destination.wal_folder(&content.system_identifier);
    refuse_impossible_target(&manifest, content, &wal, target)?;
    let folder = destination.folder_of(Kind::Base, manifest.name);
    recovery::unpack(config.backup.pg_bin.as_deref(), &folder, &manifest, data).await?;
    let recovers = wal.exists();
    if recovers {
        recovery::prepare(data, &wal, target)?;
    }
    Ok((manifest, recovers))
}

fn refuse_impossible_target(
    manifest: &Manifest,
    content: &BaseContent,
    wal: &Path,
    target: Option<DateTime<Utc>>,
) -> anyhow::Result<()> {
    let Some(target) = target else { return Ok(()) };
    ensure!(
        wal.exists(),
        "there is no WAL archive of server {} in the folder of backups, so nothing leads to {target}; set `backup.wal`",
        content.system_identifier
    );
    ensure!(
        target >= manifest.finished,
        "the backup was finished at {}, and WAL only leads forward; take an older backup for {target}",
        manifest.finished
    );
    Ok(())
}
