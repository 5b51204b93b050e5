//! Restores a backup after a check of its files.

use std::path::Path;

use anyhow::{bail, ensure};

use crate::config::Config;
use crate::content::{BaseContent, Content, PostgresContent};
use crate::destination::Destination;
use crate::manifest::{Kind, Manifest};
use crate::postgres::archive::{self, RecoveryEnd};
use crate::postgres::lsn::Lsn;
use crate::postgres::recovery::Target;
use crate::postgres::{logical, recovery};
use crate::redis::restore::Restored;
use crate::tool::shell_quoted;
use crate::verify::damaged_files;
use crate::{postgres, redis};

/// Finds the backup `name`, or the newest by `latest`, and checks its files.
async fn find(destination: &Destination, kind: Kind, name: &str) -> anyhow::Result<Manifest> {
    let manifest = destination.find(kind, name).await?;
    let problems = damaged_files(destination, &manifest).await?;
    ensure!(
        problems.is_empty(),
        "{kind}/{} is damaged and was not restored: {}; restore another backup, see {}",
        manifest.name,
        problems.join("; "),
        destination.list_command()
    );
    Ok(manifest)
}

pub(crate) async fn redis(
    config: &Config,
    destination: &Destination,
    name: &str,
) -> anyhow::Result<(Manifest, Restored)> {
    let manifest = find(destination, Kind::Redis, name).await?;
    let Content::Redis(content) = &manifest.content else {
        bail!("the manifest of redis/{name} describes another kind of backup")
    };
    let folder = destination.folder_of(Kind::Redis, manifest.name);
    let rdbs: Vec<_> = content.rdbs().into_iter().map(|rdb| folder.join(rdb)).collect();
    let restored = redis::restore::restore(&config.redis, config.backup.redis_bin.as_deref(), &rdbs).await?;
    Ok((manifest, restored))
}

pub(crate) async fn postgres(
    config: &Config,
    destination: &Destination,
    name: &str,
) -> anyhow::Result<(Manifest, PostgresContent)> {
    let manifest = find(destination, Kind::Postgres, name).await?;
    let Content::Postgres(content) = manifest.content.clone() else {
        bail!("the manifest of postgres/{name} describes another kind of backup")
    };
    let dump = destination.folder_of(Kind::Postgres, manifest.name).join(logical::FILE);
    postgres::restore::restore(&config.postgres, config.backup.pg_bin.as_deref(), &dump, &content).await?;
    Ok((manifest, content))
}

/// Creates a data directory. Returns `true` if the server that starts there recovers from the WAL archive.
pub(crate) async fn base(
    config: &Config,
    destination: &Destination,
    name: &str,
    data: &Path,
    target: Target,
) -> anyhow::Result<(Manifest, bool)> {
    let manifest = find(destination, Kind::Base, name).await?;
    let Content::Base(content) = &manifest.content else {
        bail!("the manifest of base/{name} describes another kind of backup")
    };
    let wal = destination.wal_folder(&content.system_identifier);
    let target = reachable(target, &manifest, content, destination)?;
    let recovers = wal.exists();
    if recovers {
        let reach = archive::reach(&wal, content).await?;
        refuse_target_behind_damage(&reach, target, &manifest, destination, data)?;
    }
    let folder = destination.folder_of(Kind::Base, manifest.name);
    recovery::unpack(config.backup.pg_bin.as_deref(), &folder, &manifest, data).await?;
    if recovers {
        recovery::prepare(data, &wal, target)?;
    }
    Ok((manifest, recovers))
}

/// Refuses a target that a recovery from this backup can't reach.
fn reachable(
    target: Target,
    manifest: &Manifest,
    content: &BaseContent,
    destination: &Destination,
) -> anyhow::Result<Target> {
    let wanted = match target {
        Target::End | Target::Backup => return Ok(target),
        Target::Time(time) => time.to_string(),
        Target::Lsn(lsn) => lsn.to_string(),
    };
    ensure!(
        destination.wal_folder(&content.system_identifier).exists(),
        "{wanted} can't be reached: the backup folder has no WAL archive of the server with system identifier {}; \
         restore without a target, and set `backup.wal = true` for later backups",
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
        "{wanted} can't be reached: the backup was finished later, at {} ({end}); restore an older backup, see {}",
        manifest.finished,
        destination.list_command()
    );
    Ok(if target == Target::Lsn(end) {
        Target::Backup
    } else {
        target
    })
}

/// Refuses a target behind damaged WAL, where PostgreSQL would end the recovery early without an error. The error names
/// the position that can be reached.
fn refuse_target_behind_damage(
    reach: &RecoveryEnd,
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
    ensure!(damage.redundant.is_none(), "{damage}, then repeat the restore");
    ensure!(
        is_before,
        "{damage}; a recovery from base/{name} ends at {last}{time}; to restore that, run `backup-runner --folder \
         {folder} restore base {name} --data-dir {data} --target-lsn {last}`",
        name = manifest.name,
        last = reach.last,
        time = reach.newest.map(|newest| format!(" ({newest})")).unwrap_or_default(),
        folder = shell_quoted(destination.folder()),
        data = shell_quoted(data),
    );
    Ok(())
}
