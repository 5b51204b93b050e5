//! `dead-letters`: lists, shows and requeues the entries that no worker could use.

use anyhow::{Context, anyhow, bail};
use diesel_async::{AsyncConnection, AsyncPgConnection};
use serde_json::Value;
use storage_core::domain::partition::partition_of;
use storage_core::domain::symbol::Symbol;
use storage_core::domain::tick::REQUEUED;
use storage_core::domain::time::rfc3339;
use storage_core::postgres::error::Explained;
use storage_core::postgres::queries::dead_letters::{self, DeadLetter, Filter};
use storage_core::redis::connection::Connection;
use storage_core::redis::stream::{self, Stream};
use storage_core::terminal::{say, table, visible};

use crate::cli::stream_key;
use crate::config::Config;
use crate::stores::{Stores, history, refuse_other_database};

/// Length at which the list cuts a reason; `show` prints all of it.
const REASON_WIDTH: usize = 80;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Lists dead letters, newest first
    List {
        #[command(flatten)]
        which: Selection,
        /// Maximum number to list
        #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..))]
        limit: u32,
        /// Includes those that were requeued
        #[arg(long)]
        requeued_too: bool,
    },
    /// Shows a dead letter with all its fields
    Show {
        /// STREAM/ID as in the list, or the ID if it is unique
        id: String,
    },
    /// Writes entries to their streams again, after the cause was fixed
    #[command(group = clap::ArgGroup::new("target").required(true).args(["id", "all"]))]
    Requeue {
        /// STREAM/ID as in the list, or the ID if it is unique
        #[arg(conflicts_with_all = ["stream", "reason"])]
        id: Option<String>,
        /// Requeues all that were not requeued yet
        #[arg(long)]
        all: bool,
        #[command(flatten)]
        which: Selection,
    },
}

#[derive(Debug, clap::Args)]
struct Selection {
    /// Stream of the entries, such as ticks:0
    #[arg(long, value_name = "STREAM")]
    stream: Option<String>,
    /// Text that the reason contains
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
}

impl Selection {
    fn filter(&self, requeued_too: bool) -> Filter {
        Filter {
            stream: self.stream.as_deref().map(stream_key),
            reason: self.reason.clone(),
            requeued_too,
        }
    }
}

pub(crate) async fn run(config: &Config, args: &Args) -> anyhow::Result<()> {
    let mut stores = Stores::new(config);
    let partitions = match args.command {
        Command::Requeue { .. } => stores.partitions().await?,
        _ => 0,
    };
    let (mut connection, _) = history(&stores.pool).await?;
    if let Command::Requeue { .. } = args.command {
        refuse_other_database(&mut stores.redis, &mut connection).await?;
    }
    match &args.command {
        Command::List {
            which,
            limit,
            requeued_too,
        } => {
            let filter = which.filter(*requeued_too);
            let letters = dead_letters::list(&mut connection, &filter, i64::from(*limit)).await;
            list(&letters.explained("reading dead letters")?)
        }
        Command::Show { id } => show(&find(&mut connection, id).await?),
        Command::Requeue { id: Some(id), .. } => {
            let letter = find(&mut connection, id).await?;
            let new_id = requeue(&mut connection, &mut stores.redis, partitions, &letter).await?;
            say(format_args!("{} was requeued as {new_id}", name(&letter)))
        }
        Command::Requeue { which, .. } => {
            let letters = dead_letters::list(&mut connection, &which.filter(false), i64::MAX).await;
            requeue_all(
                &mut connection,
                &mut stores.redis,
                partitions,
                &letters.explained("reading dead letters")?,
            )
            .await
        }
    }
}

fn list(letters: &[DeadLetter]) -> anyhow::Result<()> {
    if letters.is_empty() {
        return say("no dead letters");
    }
    let mut shown = table(&["id", "first seen", "reason", "requeued"]);
    for letter in letters {
        let mut reason: String = letter.reason.chars().take(REASON_WIDTH).collect();
        if reason.len() < letter.reason.len() {
            reason.push('…');
        }
        let requeued = letter.requeued_as.clone().unwrap_or_default();
        shown.add_row([
            name(letter),
            rfc3339(letter.first_seen.timestamp() * 1_000_000),
            reason,
            requeued,
        ]);
    }
    say(shown)
}

fn show(letter: &DeadLetter) -> anyhow::Result<()> {
    say(format_args!("id          {}", name(letter)))?;
    say(format_args!("reason      {}", visible(&letter.reason)))?;
    say(format_args!(
        "first seen  {}",
        rfc3339(letter.first_seen.timestamp_micros())
    ))?;
    if let (Some(at), Some(id)) = (letter.requeued_at, &letter.requeued_as) {
        say(format_args!("requeued    {} as {id}", rfc3339(at.timestamp_micros())))?;
    }
    if letter.truncated {
        say("truncated   a value was too long and was cut, so the entry can't be requeued")?;
    }
    say("fields")?;
    say(serde_json::to_string_pretty(&letter.fields)?)
}

async fn find(connection: &mut AsyncPgConnection, id: &str) -> anyhow::Result<DeadLetter> {
    let (stream, entry_id) = match id.rsplit_once('/') {
        Some((stream, entry_id)) => (Some(stream_key(stream)), entry_id),
        None => (None, id),
    };
    let found = dead_letters::find(connection, stream.as_deref(), entry_id).await;
    let mut found = found.explained("reading a dead letter")?;
    match (found.pop(), found.len()) {
        (Some(letter), 0) => Ok(letter),
        (Some(_), _) => Err(anyhow!(
            "several streams have a dead letter {id}; write STREAM/ID, see `aggregator-admin dead-letters list`"
        )),
        (None, _) => Err(anyhow!(
            "there is no dead letter {id}; see `aggregator-admin dead-letters list --requeued-too`"
        )),
    }
}

async fn requeue_all(
    connection: &mut AsyncPgConnection,
    redis: &mut Connection,
    partitions: u16,
    letters: &[DeadLetter],
) -> anyhow::Result<()> {
    let mut failed = 0;
    // The oldest is requeued first, in the order in which they were written.
    for letter in letters.iter().rev() {
        match requeue(connection, redis, partitions, letter).await {
            Ok(new_id) => say(format_args!("{} was requeued as {new_id}", name(letter)))?,
            Err(error) => {
                failed += 1;
                say(format_args!("{} stays: {error:#}", name(letter)))?;
            }
        }
    }
    match (letters.len(), failed) {
        (0, _) => say("nothing to do"),
        (_, 0) => Ok(()),
        (all, failed) => Err(anyhow!("{failed} of {all} dead letters were not requeued")),
    }
}

/// Writes the entry to its stream and marks it as requeued, under a lock that prevents a second requeue.
async fn requeue(
    connection: &mut AsyncPgConnection,
    redis: &mut Connection,
    partitions: u16,
    letter: &DeadLetter,
) -> anyhow::Result<String> {
    let (stream, fields) = entry(letter, partitions)?;
    connection
        .transaction(async |connection| {
            let current = dead_letters::lock(connection, &letter.stream, &letter.entry_id).await?;
            let current = current.context("it was removed meanwhile")?;
            if let Some(as_id) = current.requeued_as {
                bail!("it was requeued already, as {as_id}");
            }
            let new_id: String = stream::add(stream, &fields)
                .query_async(redis)
                .await
                .context("writing the entry")?;
            dead_letters::mark_requeued(connection, &letter.stream, &letter.entry_id, &new_id).await?;
            Ok(new_id)
        })
        .await
}

/// Returns the stream and fields of the requeued entry. A tick goes to the partition of its symbol, not to its former
/// stream.
fn entry(letter: &DeadLetter, partitions: u16) -> anyhow::Result<(Stream, Vec<(String, String)>)> {
    if letter.truncated {
        bail!("a value was too long and was cut, so it can't be requeued");
    }
    let Value::Object(object) = &letter.fields else {
        bail!("its fields are not an object")
    };
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let mut fields: Vec<_> = object.iter().map(|(name, value)| (name.clone(), text(value))).collect();
    if !object.contains_key(REQUEUED) {
        fields.push((REQUEUED.to_owned(), letter.entry_id.clone()));
    }
    let symbol = object
        .get("symbol")
        .and_then(Value::as_str)
        .and_then(|symbol| symbol.parse::<Symbol>().ok());
    let stream = match (letter.stream.parse()?, symbol) {
        (Stream::Ticks(_), Some(symbol)) => Stream::Ticks(partition_of(&symbol, partitions)),
        (stream, _) => stream,
    };
    Ok((stream, fields))
}

fn name(letter: &DeadLetter) -> String {
    format!("{}/{}", letter.stream.trim_start_matches("stream:"), letter.entry_id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn letter(stream: &str, fields: Value) -> DeadLetter {
        DeadLetter {
            stream: stream.into(),
            entry_id: "5-1".into(),
            reason: String::new(),
            fields,
            truncated: false,
            first_seen: chrono::DateTime::UNIX_EPOCH,
            requeued_at: None,
            requeued_as: None,
        }
    }

    #[test]
    fn a_tick_is_requeued_to_the_partition_of_its_symbol_with_its_first_id() {
        let symbol: Symbol = "XRPETH".parse().unwrap();
        let (stream, fields) = entry(&letter("stream:ticks:9", json!({"symbol": "XRPETH", "qty": "1"})), 4).unwrap();
        assert_eq!(stream, Stream::Ticks(partition_of(&symbol, 4)));
        assert!(fields.contains(&(REQUEUED.into(), "5-1".into())));
        let (_, fields) = entry(&letter("stream:signals", json!({REQUEUED: "1-1"})), 4).unwrap();
        assert_eq!(fields, [(REQUEUED.into(), "1-1".into())]);
    }

    #[test]
    fn a_truncated_entry_or_one_without_a_stream_is_not_requeued() {
        let cut = DeadLetter {
            truncated: true,
            ..letter("stream:signals", json!({}))
        };
        assert!(entry(&cut, 4).is_err());
        assert!(entry(&letter("stream:elsewhere", json!({})), 4).is_err());
    }
}
