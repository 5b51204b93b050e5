//! `groups`: lists the consumer groups of all streams, removes an unused one, and resets the IDs of a stream. Entries
//! that a group has not finished are never trimmed.

use std::time::Duration;

use anyhow::{Context, bail};
use storage_core::config::Misconfigured;
use storage_core::domain::stream_id::{Revision, StreamId};
use storage_core::postgres::connection::connect;
use storage_core::postgres::error::Explained;
use storage_core::postgres::queries::positions;
use storage_core::redis::connection::Connection;
use storage_core::redis::groups::{Group, destroy, groups};
use storage_core::redis::position::last_added;
use storage_core::redis::stream::Stream;
use storage_core::redis::{clock, functions, partitions};
use storage_core::terminal::{say, span, table, thousands};

use crate::cli::stream_key;
use crate::config::Config;
use crate::stores::{self, APPLICATION};

/// A group that was active within this time is in use.
const IN_USE: Duration = Duration::from_secs(60);

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Lists the groups of every stream with their lag and last activity
    List,
    /// Removes an external group, so that its unfinished entries can be trimmed
    Remove {
        /// Stream, such as ticks:0
        #[arg(value_parser = stream)]
        stream: Stream,
        /// Name of the group
        group: String,
        /// Removes the group even if it was active in the last minute
        #[arg(long)]
        force: bool,
    },
    /// Lets Redis generate the IDs of a stream by its clock again, after a client has added an entry with an ID beyond
    /// the year 2039, which makes every later entry a dead letter; needs stopped hot-writers and warm-syncers
    ResetIds {
        /// Stream, such as ticks:0
        #[arg(value_parser = stream)]
        stream: Stream,
    },
}

fn stream(text: &str) -> Result<Stream, String> {
    stream_key(text).parse().map_err(|error| format!("{error}"))
}

pub(crate) async fn run(config: &Config, args: &Args) -> anyhow::Result<()> {
    let mut redis = Connection::ordinary(&config.redis);
    match &args.command {
        None | Some(Command::List) => list(&mut redis).await,
        Some(Command::Remove { stream, group, force }) => remove(&mut redis, *stream, group, *force).await,
        Some(Command::ResetIds { stream }) => reset_ids(config, &mut redis, *stream).await,
    }
}

async fn list(redis: &mut Connection) -> anyhow::Result<()> {
    let partitions = partitions::stored(redis)
        .await
        .context("reading the number of partitions")?;
    let mut shown = table(&["stream", "group", "owner", ">lag", ">pending", "last active"]);
    for stream in Stream::all(partitions.unwrap_or(0)) {
        for group in groups(redis, stream).await.context("reading the groups")? {
            shown.add_row([
                stream.to_string(),
                group.position.group.clone(),
                owner(&group).to_owned(),
                group.position.lag.map_or("?".to_owned(), thousands),
                thousands(group.position.pending),
                last_active(&group),
            ]);
        }
    }
    say(shown)
}

fn owner(group: &Group) -> &'static str {
    if group.is_own() { "pipeline" } else { "external" }
}

fn last_active(group: &Group) -> String {
    match group.idle_ms {
        Some(idle_ms) => format!("{} ago", span(i64::try_from(idle_ms / 1_000).unwrap_or(i64::MAX))),
        None => "no consumer".to_owned(),
    }
}

async fn remove(redis: &mut Connection, stream: Stream, name: &str, force: bool) -> anyhow::Result<()> {
    let found = groups(redis, stream).await.context("reading the groups")?;
    let Some(group) = found.into_iter().find(|group| group.position.group == name) else {
        bail!(
            "{} has no group {name}; see `aggregator-admin groups list`",
            stream.key()
        );
    };
    if group.is_own() {
        return Err(Misconfigured::new(format!(
            "{name} is one of the pipeline's own groups on {} and is not removed: its unread entries would be lost",
            stream.key()
        ))
        .into());
    }
    if !force
        && group
            .idle_ms
            .is_some_and(|idle_ms| u128::from(idle_ms) < IN_USE.as_millis())
    {
        bail!(
            "{name} was active {} and may be in use; stop its readers, or add --force",
            last_active(&group)
        );
    }
    destroy(redis, stream, name).await.context("removing the group")?;
    say(format_args!(
        "removed {name} from {}: {} entries were not read by it, {} not acknowledged",
        stream.key(),
        group.position.lag.map_or("?".to_owned(), thousands),
        thousands(group.position.pending)
    ))
}

async fn reset_ids(config: &Config, redis: &mut Connection, stream: Stream) -> anyhow::Result<()> {
    let last = last_added(redis, stream).await.context("reading the last ID")?;
    if last < Revision::LIMIT {
        return say(format_args!("{}: the last ID is {last}, which is usable", stream.key()));
    }
    let partitions = stores::partitions(redis).await?;
    if let Some(worker) = stores::running(redis, partitions).await?.first() {
        bail!(
            "{worker}s are running and would not read the next entries; wait until `aggregator-admin groups list` \
             shows no lag of {}, stop hot-writers and warm-syncers, then repeat the command",
            stream.key()
        );
    }
    let mut connection = connect(&config.postgres, APPLICATION).await?;
    let written = positions::of(&mut connection, stream)
        .await
        .explained("reading the last written entry")?;
    let now = StreamId::at_ms(clock::now_ms(redis).await.context("reading the clock")?);
    // An earlier ID could be the revision of a tick that is counted already.
    let next = written.map_or(now, |written| now.max(written.stream_id()));
    let removed = functions::reset_ids(redis, stream, Revision::LIMIT, next)
        .await
        .context("setting the last ID")?;
    say(format_args!(
        "{}: removed {} finished entries, the last ID is {next}; start the workers, then \
         `aggregator-admin dead-letters list` shows what to requeue",
        stream.key(),
        thousands(removed)
    ))
}
