//! `status`: the state of both stores and of the workers, as text or as JSON. The report lacks the part of a store that
//! fails.

mod gather;
mod report;
mod text;

use anyhow::bail;
use storage_core::config::redis::RedisConfig;
use storage_core::domain::database_identity::DatabaseIdentity;
use storage_core::redis::{database, preflight};
use storage_core::startup::differing_clocks;
use storage_core::terminal::say;

use self::report::Report;
use crate::config::Config;
use crate::stores::Stores;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Prints JSON
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(config: &Config, args: &Args) -> anyhow::Result<()> {
    let report = gather(config).await;
    say(match args.json {
        true => serde_json::to_string_pretty(&report)?,
        false => text::of(&report),
    })?;
    match report.problems.is_empty() {
        true => Ok(()),
        false => bail!("{}", report.problems.join("; ")),
    }
}

async fn gather(config: &Config) -> Report {
    let mut stores = Stores::new(config);
    let mut report = Report {
        // A store that does not answer is reported with its history.
        drift: gather::drift(&stores.pool).await.unwrap_or_default(),
        ..Report::default()
    };
    let drift = report.drift.iter();
    let drift = drift.map(|drift| format!("the schema was changed by hand: {drift}"));
    report.problems.extend(drift.collect::<Vec<_>>());
    match gather::history(&stores.pool).await {
        Ok(history) => report.history = Some(history),
        Err(error) => report.problems.push(format!("{error:#}")),
    }
    match gather::hot(&config.redis, &mut stores.redis).await {
        Ok(hot) => {
            report.hot = Some(hot);
            report.problems.extend(other_database(&report));
            check_settings(&config.redis, &mut report).await;
            compare_clocks(&mut stores, &mut report).await;
        }
        Err(error) => report
            .problems
            .push(format!("Redis at {}: {error:#}", config.redis.url)),
    }
    report
}

/// Returns the problem of a Redis that belongs to another database.
fn other_database(report: &Report) -> Option<String> {
    let stored = report.hot.as_ref()?.database.clone().map(DatabaseIdentity::new);
    let found = DatabaseIdentity::new(report.history.as_ref()?.database.clone());
    let checked = database::check(stored.as_ref(), &found);
    checked.err().map(|error| error.to_string())
}

/// Adds a warning if the clocks of both stores differ. A store that does not answer is reported elsewhere.
async fn compare_clocks(stores: &mut Stores, report: &mut Report) {
    if let Ok(mut connection) = stores.pool.get().await
        && let Ok(differing) = differing_clocks(&mut connection, &mut stores.redis).await
    {
        report.warnings.extend(differing);
    }
}

async fn check_settings(config: &RedisConfig, report: &mut Report) {
    match preflight::inspect(config).await {
        Ok(found) => {
            report.warnings.extend(found.warnings);
            report.problems.extend(found.faults);
        }
        Err(error) => report.problems.push(format!("checking the settings of Redis: {error}")),
    }
}
