//! Brings a backup back, after checking that its files are whole.

use std::path::Path;

use anyhow::{bail, ensure};

use crate::config::Config;
use crate::destination::Destination;
use crate::manifest::{BaseContent, Content, Kind, Manifest, PostgresContent};
use crate::postgres::archive::{self, Reach};
use crate::postgres::lsn::Lsn;
use crate::postgres::recovery::{Target, quoted};
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
    target: Target,
) -> anyhow::Result<(Manifest, bool)> {
    let manifest = find(destination, Kind::Base, name).await?;
    let Content::Base(content) = &manifest.content else {
        bail!("{name} is no base backup")
    };
    let wal = destination.wal_folder(&content.system_identifier);
    let target = possible(target, &manifest, content, &wal)?;
    let recovers = wal.exists();
    if recovers {
        let reach = archive::reach(&wal, content).await?;
        refuse_beyond_damage(&reach, target, &manifest, destination, data)?;
    }
    let folder = destination.folder_of(Kind::Base, manifest.name);
    recovery::unpack(config.backup.pg_bin.as_deref(), &folder, &manifest, data).await?;
    if recovers {
        recovery::prepare(data, &wal, target)?;
    }
    Ok((manifest, recovers))
}

/// Refuses a target that no WAL leads to from here.
fn possible(target: Target, manifest: &Manifest, content: &BaseContent, wal: &Path) -> anyhow::Result<Target> {
    let wanted = match target {
        Target::End | Target::Backup => return Ok(target),
        Target::Time(time) => time.to_string(),
        Target::Lsn(lsn) => lsn.to_string(),
    };
    ensure!(
        wal.exists(),
        "there is no WAL archive of server {} in the folder of backups, so nothing leads to {wanted}; set `backup.wal`",
        content.system_identifier
    );
    let end: Lsn = content.end_lsn.parse()?;
    let is_before = match target {
        Target::Time(time) => time < manifest.finished,
        Target::Lsn(lsn) => lsn < end,
        Target::End | Target::Backup => false,
    };
    ensure!(
        !is_before,
        "the backup was finished at {} ({end}), and WAL only leads forward; take an older backup for {wanted}",
        manifest.finished
    );
    Ok(if target == Target::Lsn(end) {
        Target::Backup
    } else {
        target
    })
}

/// Refuses a recovery that would end early without a word, and says how far one can go.
fn refuse_beyond_damage(
    reach: &Reach,
    target: Target,
    manifest: &Manifest,
    destination: &Destination,
    data: &Path,
) -> anyhow::Result<()> {
    let Some(damage) = &reach.damage else { return Ok(()) };
    let is_before = match target {
        Target::Time(time) => reach.newest.is_some_and(|newest| newest > time),
        Target::Lsn(lsn) => lsn <= reach.last,
        Target::Backup => true,
        Target::End => false,
    };
    ensure!(damage.needless.is_none(), "{damage}, and restore again");
    ensure!(
        is_before,
        "{damage}; the WAL leads from base/{} to {}{}; run `backup-runner --folder {} restore base {} --data-dir {} --target-lsn {}` to \
         restore that",
        manifest.name,
        reach.last,
        reach.newest.map(|newest| format!(" ({newest})")).unwrap_or_default(),
        quoted(destination.folder()),
        manifest.name,
        quoted(data),
        reach.last,
    );
    Ok(())
}
