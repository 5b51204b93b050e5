//! `groups`: who reads the streams, and taking out a group that nobody reads as any more: what it has not finished is never
//! trimmed.

use std::time::Duration;

use anyhow::{Context, bail};
use storage_core::config::Misconfigured;
use storage_core::redis::connection::Connection;
use storage_core::redis::groups::{Group, destroy, groups};
use storage_core::redis::partitions;
use storage_core::redis::stream::Stream;
use storage_core::terminal::{say, span, table, thousands};

use crate::config::Config;

/// A group that was heard of within this time is in use.
const IN_USE: Duration = Duration::from_secs(60);

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Lists the groups of every stream, how far they are, and when they were heard of
    List,
    /// Removes a group that is none of the pipeline's, and so lets go of what it has not finished
    Remove {
        /// The stream: ticks:0
        #[arg(value_parser = stream)]
        stream: Stream,
        /// The group's name
        group: String,
        /// Also when somebody has just read as this group
        #[arg(long)]
        force: bool,
    },
}

fn stream(text: &str) -> Result<Stream, String> {
    let key = match text.starts_with("stream:") {
        true => text.to_owned(),
        false => format!("stream:{text}"),
    };
    key.parse().map_err(|error| format!("{error}"))
}

pub(crate) async fn run(config: &Config, args: &Args) -> anyhow::Result<()> {
    let mut redis = Connection::ordinary(&config.redis);
    match &args.command {
        None | Some(Command::List) => list(&mut redis).await,
        Some(Command::Remove { stream, group, force }) => remove(&mut redis, *stream, group, *force).await,
    }
}

async fn list(redis: &mut Connection) -> anyhow::Result<()> {
    let partitions = partitions::stored(redis)
        .await
        .context("reading the number of partitions")?;
    let mut shown = table(&["stream", "group", "whose", ">lag", ">pending", "heard of"]);
    for stream in Stream::all(partitions.unwrap_or(0)) {
        for group in groups(redis, stream).await.context("reading the groups")? {
            shown.add_row([
                stream.to_string(),
                group.position.group.clone(),
                whose(&group).to_owned(),
                group.position.lag.map_or("?".to_owned(), thousands),
                thousands(group.position.pending),
                heard_of(&group),
            ]);
        }
    }
    say(shown)
}

fn whose(group: &Group) -> &'static str {
    if group.is_own() { "the pipeline's" } else { "another's" }
}

fn heard_of(group: &Group) -> String {
    match group.idle_ms {
        Some(idle_ms) => format!("{} ago", span(i64::try_from(idle_ms / 1_000).unwrap_or(i64::MAX))),
        None => "no consumers".to_owned(),
    }
}

async fn remove(redis: &mut Connection, stream: Stream, name: &str, force: bool) -> anyhow::Result<()> {
    let found = groups(redis, stream).await.context("reading the groups")?;
    let Some(group) = found.into_iter().find(|group| group.position.group == name) else {
        bail!(
            "{} has no group {name}; `aggregator-admin groups` lists them",
            stream.key()
        );
    };
    if group.is_own() {
        return Err(Misconfigured::new(format!(
            "{name} is one of the pipeline's own groups on {}; what it has not read would be lost",
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
            "{name} was heard of {}; add --force to remove it all the same",
            heard_of(&group)
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
