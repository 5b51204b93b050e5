//! `plan` and `apply`: the differences between TimescaleDB's policies and the configuration.

use anyhow::Context;
use diesel_async::{AsyncConnection, AsyncPgConnection};
use storage_core::postgres::drift;
use storage_core::postgres::edition::Edition;
use storage_core::postgres::error::Explained;
use storage_core::postgres::queries::completeness;
use storage_core::postgres::queries::policies::{self, Job, JobKind};
use storage_core::redis::refresh_windows;
use storage_core::terminal::{say, table};

use crate::config::Config;
use crate::plan::{Change, RETAINABLE, changes, check, check_windows, days, retention};
use crate::stores::{Stores, history};

/// Shows the changes, and makes them with `apply`.
pub(crate) async fn run(config: &Config, apply: bool) -> anyhow::Result<()> {
    check(&config.admin)?;
    let mut stores = Stores::new(config);
    let announced = refresh_windows::announced(&mut stores.redis)
        .await
        .context("reading the refresh windows of warm-syncers from Redis")?;
    check_windows(&config.admin, &announced)?;
    let (mut connection, server) = history(&stores.pool).await?;
    let drift = drift::find(&mut connection).await.explained("comparing the schema")?;
    drift
        .iter()
        .try_for_each(|drift| say(format_args!("the schema was changed by hand: {drift}")))?;
    drift::missing_privileges(&mut connection)
        .await
        .explained("reading the privileges")?
        .iter()
        .try_for_each(|lacking| say(format_args!("warning: {lacking}")))?;
    if server.edition == Edition::Apache {
        return explain_apache(config);
    }
    let jobs = policies::jobs(&mut connection, server.edition)
        .await
        .explained("reading the policies")?;
    let changes = changes(&config.admin, &jobs);
    if changes.is_empty() {
        return say("nothing to do: the policies agree with the configuration");
    }
    show(&changes)?;
    if !apply {
        return say("run `aggregator-admin apply` to make these changes");
    }
    connection
        .transaction(async |connection| {
            // Records the chunks that the policy has dropped, before the policy is changed or removed.
            completeness::update_borders(connection, server.edition)
                .await
                .explained("recording dropped chunks")?;
            for change in &changes {
                make(connection, change, &jobs)
                    .await
                    .explained(&format!("changing a policy of {}", change.table))?;
            }
            anyhow::Ok(())
        })
        .await
        .context("no policy was changed")?;
    say(format_args!("changed {} policies", changes.len()))
}

/// Shows the settings that `run` follows instead of policies.
fn explain_apache(config: &Config) -> anyhow::Result<()> {
    say("nothing to do: TimescaleDB's Apache edition has no policies; `aggregator-admin run` does their work:")?;
    say(format_args!(
        "refresh the larger timeframes over the last {}",
        days(config.admin.refresh_window)
    ))?;
    for name in RETAINABLE {
        if let Some(kept) = retention(&config.admin, name) {
            say(format_args!("drop chunks of {name} older than {}", days(kept)))?;
        }
    }
    say("compression is unavailable")
}

fn show(changes: &[Change]) -> anyhow::Result<()> {
    let mut shown = table(&["policy", "table", "current", "configured"]);
    for change in changes {
        let policy = match change.kind {
            JobKind::Refresh => "refresh the last",
            JobKind::Compress => "compress after",
            JobKind::Retain => "drop after",
        };
        let age = |age: Option<_>| age.map_or("never".to_owned(), days);
        shown.add_row([
            policy.to_owned(),
            change.table.clone(),
            age(change.from),
            age(change.to),
        ]);
    }
    say(shown)
}

async fn make(connection: &mut AsyncPgConnection, change: &Change, jobs: &[Job]) -> diesel::QueryResult<()> {
    let job = jobs
        .iter()
        .find(|job| job.kind == change.kind && job.table == change.table);
    match (job, change.to) {
        (Some(job), Some(age)) => policies::set_age(connection, job, age).await,
        (Some(_), None) => policies::remove_retention(connection, &change.table).await,
        (None, Some(age)) => policies::add_retention(connection, &change.table, age).await,
        (None, None) => Ok(()),
    }
}
