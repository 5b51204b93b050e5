//! The commands and their output.

mod list;

use anyhow::{anyhow, bail};
use chrono::Utc;
use storage_core::service::{Service, Stopped};
use storage_core::telemetry;
use storage_core::terminal::{say, size};
use tokio_util::sync::CancellationToken;
use tracing::level_filters::LevelFilter;

use crate::cli::{BackupTarget, Command, Restore};
use crate::config::Config;
use crate::destination::{Destination, State};
use crate::execute::make;
use crate::manifest::{Kind, Manifest};
use crate::postgres::recovery::Target;
use crate::prune::prune;
use crate::{metrics, restore, run, verify};

/// Runs the command.
pub(crate) async fn dispatch(command: Command, config: Config) -> anyhow::Result<()> {
    if let Command::Run = command {
        return run::run(config).await;
    }
    telemetry::tracing::init(config.telemetry.log_format, LevelFilter::WARN)?;
    let service = Service::new(&config.service)?;
    let token = service.token();
    // A signal cancels the command, which ends its programs and removes its unfinished backup.
    match token.run_until_cancelled(once(config, command, &token)).await {
        Some(result) if !result.as_ref().is_err_and(Stopped::caused) => result,
        _ => Err(anyhow!("interrupted")),
    }
}

async fn once(config: Config, command: Command, token: &CancellationToken) -> anyhow::Result<()> {
    let destination = Destination::open(&config.backup.folder)?;
    match command {
        Command::Backup { what } => backup(&config, &destination, what, token).await,
        Command::List { json } => list::list(&destination, json).await,
        Command::Verify { names, all } => verify(&config, &destination, &names, all).await,
        Command::Restore { what } => restore(&config, &destination, what).await,
        Command::Prune { dry_run } => remove(&config, &destination, dry_run).await,
        Command::Run => Ok(()),
    }
}

async fn backup(
    config: &Config,
    destination: &Destination,
    what: BackupTarget,
    token: &CancellationToken,
) -> anyhow::Result<()> {
    for kind in what.kinds() {
        let manifest = make(config, destination, *kind, token).await?;
        let took = (manifest.finished - manifest.started).as_seconds_f64();
        say(format_args!(
            "{kind}/{}: {}, {} in {took:.1} s",
            manifest.name,
            manifest.content.summary(),
            size(manifest.size_bytes())
        ))?;
    }
    Ok(())
}

async fn verify(config: &Config, destination: &Destination, names: &[String], all: bool) -> anyhow::Result<()> {
    let (manifests, mut damaged) = chosen(destination, names, all).await?;
    for manifest in manifests {
        let (kind, name) = (manifest.kind(), manifest.name);
        let problems = verify::problems(config, destination, &manifest).await?;
        if problems.is_empty() {
            say(format_args!(
                "{kind}/{name}: whole ({}, {})",
                manifest.content.summary(),
                size(manifest.size_bytes())
            ))?;
        } else {
            metrics::VERIFY_FAILURES.increment(kind.as_str(), 1);
            damaged.extend(problems.into_iter().map(|problem| format!("{kind}/{name}: {problem}")));
        }
    }
    if damaged.is_empty() {
        Ok(())
    } else {
        bail!("damaged: {}", damaged.join("; "))
    }
}

/// Returns the backups to verify, and the problems of those with an unreadable manifest.
async fn chosen(
    destination: &Destination,
    names: &[String],
    all: bool,
) -> anyhow::Result<(Vec<Manifest>, Vec<String>)> {
    let (mut manifests, mut unreadable) = (Vec::new(), Vec::new());
    for name in names {
        manifests.push(by_name(destination, name).await?);
    }
    if !names.is_empty() {
        return Ok((manifests, unreadable));
    }
    for kind in Kind::ALL {
        let mut found = destination.found(kind).await?;
        found.retain(|found| !matches!(found.state, State::Incomplete));
        let skipped = if all { 0 } else { found.len().saturating_sub(1) };
        for found in found.into_iter().skip(skipped) {
            match found.state {
                State::Complete(manifest) => manifests.push(*manifest),
                State::Damaged(reason) => unreadable.push(format!("{kind}/{}: the manifest {reason}", found.name)),
                State::Incomplete => {}
            }
        }
    }
    if manifests.is_empty() && unreadable.is_empty() {
        bail!("there is no backup in {}", destination.folder().display());
    }
    Ok((manifests, unreadable))
}

/// Finds the backup `KIND/NAME`, or a backup `NAME` of any kind.
async fn by_name(destination: &Destination, name: &str) -> anyhow::Result<Manifest> {
    for kind in Kind::ALL {
        if let Some(name) = name.strip_prefix(kind.as_str()).and_then(|rest| rest.strip_prefix('/')) {
            return destination.find(kind, name).await;
        }
    }
    let name: crate::manifest::Name = name.parse()?;
    for kind in Kind::ALL {
        if destination.folder_of(kind, name).exists() {
            return destination.find(kind, &name.to_string()).await;
        }
    }
    bail!(
        "there is no backup {name} in {}; see `backup-runner list`",
        destination.folder().display()
    );
}

async fn restore(config: &Config, destination: &Destination, what: Restore) -> anyhow::Result<()> {
    match what {
        Restore::Redis { name } => {
            let (manifest, restored) = restore::redis(config, destination, &name).await?;
            say(format_args!(
                "redis/{}: restored {} keys, {} streams with {} entries, and the functions",
                manifest.name, restored.keys, restored.streams, restored.stream_entries
            ))?;
        }
        Restore::Postgres { name } => {
            let (manifest, content) = restore::postgres(config, destination, &name).await?;
            say(format_args!(
                "postgres/{}: restored the database; rows and volumes of {} tables match the backup; before the \
                 workers start, run \
                 `aggregator-admin migrate --adopt-database`",
                manifest.name,
                content.tables.len()
            ))?;
        }
        Restore::Base {
            name,
            data_dir,
            target_time,
            target_lsn,
        } => {
            let time = target_time.map(Target::Time);
            let target = time.or(target_lsn.map(Target::Lsn)).unwrap_or(Target::End);
            let (manifest, recovers) = restore::base(config, destination, &name, &data_dir, target).await?;
            let then = match (recovers, target) {
                (false, _) | (_, Target::Backup) => "it will be as at the end of the backup".to_owned(),
                (true, Target::End) => "it will recover to the end of the archived WAL".to_owned(),
                (true, Target::Time(time)) => format!("it will recover up to {time}"),
                (true, Target::Lsn(lsn)) => format!("it will recover up to {lsn}"),
            };
            say(format_args!(
                "base/{}: {} is ready; start PostgreSQL there, {then}",
                manifest.name,
                data_dir.display()
            ))?;
        }
    }
    Ok(())
}

async fn remove(config: &Config, destination: &Destination, dry_run: bool) -> anyhow::Result<()> {
    let pruned = prune(&config.backup, destination, Utc::now(), dry_run).await?;
    let verb = if dry_run { "would remove" } else { "removed" };
    for (kind, name) in &pruned.backups {
        say(format_args!("{verb} {kind}/{name}"))?;
    }
    for (kind, name) in &pruned.leftovers {
        say(format_args!("{verb} what is left of {kind}/{name}"))?;
    }
    say(format_args!(
        "{verb} {} backups, {} leftovers, {} WAL files",
        pruned.backups.len(),
        pruned.leftovers.len(),
        pruned.wal_files
    ))?;
    Ok(())
}
