//! `plan` and `apply`: the differences of TimescaleDB's policies and chunk intervals from the configuration.

use std::time::Duration;

use anyhow::Context;
use diesel_async::{AsyncConnection, AsyncPgConnection};
use storage_core::domain::timeframe::Timeframe;
use storage_core::postgres::drift;
use storage_core::postgres::edition::Edition;
use storage_core::postgres::error::Explained;
use storage_core::postgres::queries::policies::{self, Job, JobKind};
use storage_core::postgres::queries::{completeness, hypertables};
use storage_core::redis::refresh_windows;
use storage_core::terminal::{say, table};

use crate::config::Config;
use crate::plan::{Change, Policy, RETAINABLE, changes, check, days, interval, retention};
use crate::stores::{Stores, history};

/// Shows the changes, and makes them with `apply`.
pub(crate) async fn run(config: &Config, apply: bool) -> anyhow::Result<()> {
    check::settings(&config.admin)?;
    let mut stores = Stores::new(config);
    let announced = refresh_windows::announced(&mut stores.redis)
        .await
        .context("reading the refresh windows of warm-syncers from Redis")?;
    let (mut connection, server) = history(&stores.pool).await?;
    check::windows(&config.admin, server.edition, &announced)?;
    let drift = drift::find(&mut connection).await.explained("comparing the schema")?;
    drift
        .iter()
        .try_for_each(|drift| say(format_args!("the schema was changed by hand: {drift}")))?;
    drift::missing_privileges(&mut connection)
        .await
        .explained("reading the privileges")?
        .iter()
        .try_for_each(|lacking| say(format_args!("warning: {lacking}")))?;
    let jobs = policies::jobs(&mut connection, server.edition)
        .await
        .explained("reading the policies")?;
    let chunks = hypertables::chunk_intervals(&mut connection)
        .await
        .explained("reading the chunk intervals")?;
    let changes = changes(&config.admin, server.edition, &jobs, &chunks);
    match changes.is_empty() {
        true => say("nothing to do: existing policies and chunk intervals agree with the configuration")?,
        false => show(&changes)?,
    }
    if server.edition == Edition::Apache {
        explain_apache(config)?;
    }
    if changes.is_empty() {
        return Ok(());
    }
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
                    .explained(&format!("changing {}", change.table()))?;
            }
            anyhow::Ok(())
        })
        .await
        .context("nothing was changed")?;
    say("made these changes")
}

/// Shows the settings that `run` follows instead of policies.
fn explain_apache(config: &Config) -> anyhow::Result<()> {
    let every = |kind, table| days(interval(&config.admin, Edition::Apache, kind, table));
    say("TimescaleDB's Apache edition has no policies; `aggregator-admin run` does their work:")?;
    say(format_args!(
        "every {}: refresh the larger timeframes over the last {}",
        every(JobKind::Refresh, Timeframe::D1.table()),
        days(config.admin.refresh_window)
    ))?;
    for name in RETAINABLE {
        if let Some(kept) = retention(&config.admin, name) {
            let every = every(JobKind::Retain, name);
            say(format_args!(
                "every {every}: drop chunks of {name} older than {}",
                days(kept)
            ))?;
        }
    }
    say("compression is unavailable")
}

fn show(changes: &[Change]) -> anyhow::Result<()> {
    let mut shown = table(&["setting", "table", "current", "configured"]);
    for change in changes {
        for (setting, from, to) in settings(change) {
            let show = |value: Option<Duration>| value.map_or("never".to_owned(), days);
            shown.add_row([setting.to_owned(), change.table().to_owned(), show(from), show(to)]);
        }
    }
    say(shown)?;
    match changes.iter().any(|change| matches!(change, Change::Chunks { .. })) {
        true => say("a chunk interval affects new chunks only: existing chunks keep their length"),
        false => Ok(()),
    }
}

/// Setting, its current value and its configured one.
type Difference = (&'static str, Option<Duration>, Option<Duration>);

/// Returns the settings that a change consists of.
fn settings(change: &Change) -> Vec<Difference> {
    match change {
        Change::Chunks { from, to, .. } => vec![("length of new chunks", Some(*from), Some(*to))],
        Change::Policy { kind, from, to, .. } => {
            let (age, every) = match kind {
                JobKind::Refresh => ("refresh the last", "refresh every"),
                JobKind::Compress => ("compress after", "compress every"),
                JobKind::Retain => ("drop after", "drop every"),
            };
            let age_of = |policy: &Option<Policy>| policy.and_then(|policy| policy.age);
            let every_of = |policy: &Option<Policy>| policy.map(|policy| policy.every);
            let settings = [(age, age_of(from), age_of(to)), (every, every_of(from), every_of(to))];
            settings.into_iter().filter(|(_, from, to)| from != to).collect()
        }
    }
}

async fn make(connection: &mut AsyncPgConnection, change: &Change, jobs: &[Job]) -> diesel::QueryResult<()> {
    let (kind, table, to) = match change {
        Change::Chunks { table, to, .. } => return hypertables::set_chunk_interval(connection, table, *to).await,
        Change::Policy { kind, table, to, .. } => (*kind, table, *to),
    };
    let job = jobs.iter().find(|job| job.kind == kind && job.table == *table);
    match (job, to.and_then(|to| Some((to.age?, to.every)))) {
        (Some(job), Some((age, every))) => policies::alter(connection, job, age, every).await,
        (None, Some((age, every))) => policies::add_retention(connection, table, age, every).await,
        (Some(_), None) => policies::remove_retention(connection, table).await,
        (None, None) => Ok(()),
    }
}
