//! The commands, and what they print.

mod list;

use std::io::{Write, stdout};

use anyhow::{anyhow, bail};
use chrono::Utc;
use storage_core::config::layers;
use storage_core::service::{Service, Stopped};
use storage_core::telemetry;
use tokio_util::sync::CancellationToken;
use tracing::level_filters::LevelFilter;

use crate::cli::{Cli, Command, Restore, What};
use crate::config::Config;
use crate::destination::{Destination, State};
use crate::execute::make;
use crate::manifest::{Kind, Manifest};
use crate::postgres::recovery::Target;
use crate::prune::prune;
use crate::{metrics, restore, run, verify};

/// Runs the command that was given.
pub(crate) async fn dispatch(cli: Cli) -> anyhow::Result<()> {
    if let Command::CheckConfig = cli.command {
        return layers::check::<Config>(&cli.common);
    }
    let mut config: Config = layers::load(&cli.common)?;
    if let Some(folder) = cli.folder {
        config.backup.folder = folder;
    }
    if let Command::Run = cli.command {
        return run::run(config).await;
    }
    telemetry::tracing::init(config.telemetry.log_format, LevelFilter::WARN)?;
    let service = Service::new(&config.service)?;
    // A signal drops the command: programs at work are ended, drafts are removed.
    let token = service.token();
    match token
        .clone()
        .run_until_cancelled(once(config, cli.command, &token))
        .await
    {
        Some(Err(error)) if error.is::<Stopped>() => Err(anyhow!("interrupted")),
        Some(result) => result,
        None => Err(anyhow!("interrupted")),
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
        // Dispatched before.
        Command::Run | Command::CheckConfig => Ok(()),
    }
}

async fn backup(
    config: &Config,
    destination: &Destination,
    what: What,
    token: &CancellationToken,
) -> anyhow::Result<()> {
    for kind in what.kinds() {
        let manifest = make(config, destination, *kind, token).await?;
        let took = (manifest.finished - manifest.started).as_seconds_f64();
        writeln!(
            stdout(),
            "{kind}/{}: {}, {} in {took:.1} s",
            manifest.name,
            manifest.content.summary(),
            sized(manifest.size_bytes())
        )?;
    }
    Ok(())
}

async fn verify(config: &Config, destination: &Destination, names: &[String], all: bool) -> anyhow::Result<()> {
    let (manifests, mut damaged) = chosen(destination, names, all).await?;
    for manifest in manifests {
        let (kind, name) = (manifest.kind(), manifest.name);
        let problems = verify::problems(config, destination, &manifest).await?;
        if problems.is_empty() {
            writeln!(
                stdout(),
                "{kind}/{name}: whole ({}, {})",
                manifest.content.summary(),
                sized(manifest.size_bytes())
            )?;
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

/// The backups to check, and what is wrong with those that can't be read at all.
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

/// The backup `KIND/NAME`, or the one of any kind that is called `NAME`.
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
            writeln!(
                stdout(),
                "redis/{}: {} keys are back, {} streams with {} entries, and the functions",
                manifest.name,
                restored.keys,
                restored.streams,
                restored.stream_entries
            )?;
        }
        Restore::Postgres { name } => {
            let (manifest, content) = restore::postgres(config, destination, &name).await?;
            writeln!(
                stdout(),
                "postgres/{}: the database is back, rows and volumes of {} tables as in the backup; before the workers start, run \
                 `aggregator-admin migrate --adopt-database`",
                manifest.name,
                content.tables.len()
            )?;
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
            writeln!(
                stdout(),
                "base/{}: {} is ready; start PostgreSQL there, {then}",
                manifest.name,
                data_dir.display()
            )?;
        }
    }
    Ok(())
}

async fn remove(config: &Config, destination: &Destination, dry_run: bool) -> anyhow::Result<()> {
    let pruned = prune(&config.backup, destination, Utc::now(), dry_run).await?;
    let verb = if dry_run { "would remove" } else { "removed" };
    for (kind, name) in &pruned.backups {
        writeln!(stdout(), "{verb} {kind}/{name}")?;
    }
    for (kind, name) in &pruned.leftovers {
        writeln!(stdout(), "{verb} what is left of {kind}/{name}")?;
    }
    writeln!(
        stdout(),
        "{verb} {} backups, {} leftovers, {} WAL files",
        pruned.backups.len(),
        pruned.leftovers.len(),
        pruned.wal_files
    )?;
    Ok(())
}

/// A size for a person.
// A digit after the point is all that is shown.
#[allow(clippy::cast_precision_loss)]
pub(crate) fn sized(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let (mut size, mut unit) = (bytes as f64, 0);
    while size >= 1024.0 && unit + 1 < UNITS.len() {
        size /= 1024.0;
        unit += 1;
    }
    if unit == 0 {
        format!("{bytes} B")
    } else {
        format!("{size:.1} {}", UNITS[unit])
    }
}

#[cfg(test)]
mod tests {
    use super::sized;

    #[test]
    fn sizes_are_short() {
        assert_eq!(sized(0), "0 B");
        assert_eq!(sized(1_023), "1023 B");
        assert_eq!(sized(1_536), "1.5 KiB");
        assert_eq!(sized(5 << 40), "5.0 TiB");
    }
}
