//! `dead-letters`: lists, shows and requeues the entries that no worker could use.

use anyhow::{anyhow, bail};
use diesel_async::AsyncPgConnection;
use storage_core::domain::time::rfc3339;
use storage_core::postgres::error::Explained;
use storage_core::postgres::queries::dead_letters::{self, DeadLetter, Filter};
use storage_core::redis::connection::Connection;
use storage_core::terminal::{say, table, visible};

use crate::cli::stream_key;
use crate::config::Config;
use crate::requeue::{self, Changes, Judge, name};
use crate::stores::{Stores, history, refuse_other_database};

/// Maximum length of a reason in the list; `show` prints all of it.
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
        #[command(flatten)]
        changes: Changes,
        /// Shows what would be requeued, and what would be rejected again
        #[arg(long)]
        dry_run: bool,
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
        Command::Requeue {
            id,
            which,
            changes,
            dry_run,
            ..
        } => {
            let letters = match id {
                Some(id) => vec![find(&mut connection, id).await?],
                None => dead_letters::list(&mut connection, &which.filter(false), i64::MAX)
                    .await
                    .explained("reading dead letters")?,
            };
            let judge = Judge {
                config: &config.stream,
                partitions,
            };
            let mut requeuer = Requeuer {
                connection: &mut connection,
                redis: &mut stores.redis,
                judge,
                changes,
                dry_run: *dry_run,
            };
            match id {
                Some(_) => say(requeuer.requeue(&letters[0]).await?),
                None => requeuer.requeue_all(&letters).await,
            }
        }
    }
}

fn list(letters: &[DeadLetter]) -> anyhow::Result<()> {
    if letters.is_empty() {
        return say("no dead letters");
    }
    let mut shown = table(&["id", "first seen", "reason", "requeued"]);
    for letter in letters {
        let requeued = letter.requeued_as.clone().unwrap_or_default();
        shown.add_row([
            name(letter),
            rfc3339(letter.first_seen.timestamp() * 1_000_000),
            shortened(&letter.reason),
            requeued,
        ]);
    }
    say(shown)
}

/// Cuts a long reason after a word.
fn shortened(reason: &str) -> String {
    let Some((end, _)) = reason.char_indices().nth(REASON_WIDTH) else {
        return reason.to_owned();
    };
    let end = reason[..end].rfind(' ').unwrap_or(end);
    format!("{} …", &reason[..end])
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

/// Requeues dead letters, or shows what that would do.
struct Requeuer<'a> {
    connection: &'a mut AsyncPgConnection,
    redis: &'a mut Connection,
    judge: Judge<'a>,
    changes: &'a Changes,
    dry_run: bool,
}

impl Requeuer<'_> {
    async fn requeue_all(&mut self, letters: &[DeadLetter]) -> anyhow::Result<()> {
        let mut failed = 0;
        // The oldest is requeued first, in the order in which they were written.
        for letter in letters.iter().rev() {
            match self.requeue(letter).await {
                Ok(done) => say(done)?,
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

    /// Requeues a dead letter unless it would be rejected again. Returns a line that says what was done.
    async fn requeue(&mut self, letter: &DeadLetter) -> anyhow::Result<String> {
        if let Some(as_id) = &letter.requeued_as {
            bail!("it was requeued already, as {as_id}");
        }
        let mut fields = requeue::fields(letter)?;
        self.changes.apply(&mut fields);
        let stream = requeue::destination(letter, &fields, self.judge.partitions)?;
        let verdict = self.judge.verdict(self.connection, self.redis, stream, &fields).await?;
        if let Err(reason) = verdict {
            bail!("it would be rejected again: {reason}");
        }
        if self.dry_run {
            let shown: Vec<String> = fields.iter().map(|(field, value)| format!("{field}={value}")).collect();
            return Ok(format!(
                "{} would be requeued to {stream}: {}",
                name(letter),
                shown.join(" ")
            ));
        }
        let new_id = requeue::requeue(self.connection, self.redis, letter, stream, &fields).await?;
        Ok(format!("{} was requeued as {new_id}", name(letter)))
    }
}
