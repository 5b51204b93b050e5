//! `gaps`: tells which minutes of a symbol were traded, quiet, missing or not expected.

use std::collections::BTreeMap;

use anyhow::{Context, bail};
use storage_core::domain::symbol::Symbol;
use storage_core::domain::time::{ms_to_us, rfc3339};
use storage_core::redis::clock::now_ms;
use storage_core::terminal::{say, table, thousands};

use crate::cli::{range, time};
use crate::config::Config;
use crate::gaps::classify::{BEHIND, Span, State};
use crate::gaps::{behind_of, spans};
use crate::stores::{Stores, history};

/// Maximum number of ranges that are shown.
const MAX_SHOWN: usize = 100;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The symbol
    symbol: Symbol,
    /// Start of the time: 2019-10-11T00:00:00Z or 2019-10-11
    #[arg(long, value_name = "TIME", value_parser = time)]
    from: i64,
    /// End of the time; at most five minutes ago
    #[arg(long, value_name = "TIME", value_parser = time)]
    to: i64,
    /// Lists the traded, quiet and not expected ranges, too
    #[arg(long)]
    all: bool,
}

pub(crate) async fn run(config: &Config, args: &Args) -> anyhow::Result<()> {
    let range = range(Some(args.from), Some(args.to))?;
    let mut stores = Stores::new(config);
    let (mut connection, _) = history(&stores.pool).await?;
    let now_us = ms_to_us(now_ms(&mut stores.redis).await.context("reading the clock of Redis")?);
    let behind = behind_of(&mut connection, &mut stores.redis, &args.symbol).await?;
    let spans = spans(&mut connection, &args.symbol, range, behind, now_us).await?;
    let mut minutes: BTreeMap<State, i64> = BTreeMap::new();
    for span in &spans {
        *minutes.entry(span.state).or_default() += span.minutes();
    }
    let lacks_trades = |span: &Span| span.state == State::Traded && !span.evidence.is_empty();
    let mut shown = table(&["state", "from", "to", ">minutes", "evidence"]);
    let listed = spans
        .iter()
        .filter(|span| args.all || span.state == State::Missing || lacks_trades(span));
    let listed: Vec<&Span> = listed.collect();
    let limit = if args.all { usize::MAX } else { MAX_SHOWN };
    for span in listed.iter().take(limit) {
        shown.add_row([
            span.state.to_string(),
            rfc3339(span.range.from_us),
            rfc3339(span.range.to_us),
            thousands(span.minutes()),
            span.evidence.clone(),
        ]);
    }
    if !listed.is_empty() {
        say(shown)?;
    }
    if listed.len() > limit {
        say(format_args!(
            "{} more ranges; add --all to list them",
            listed.len() - limit
        ))?;
    }
    let counts = [State::Traded, State::Quiet, State::Missing, State::NotExpected].map(|state| {
        let minutes = minutes.get(&state).copied().unwrap_or(0);
        format!("{} {state}", thousands(minutes))
    });
    say(format_args!("minutes of {}: {}", args.symbol, counts.join(", ")))?;
    let behind = spans.iter().filter(|span| span.evidence == BEHIND);
    let behind: i64 = behind.map(Span::minutes).sum();
    match minutes.get(&State::Missing) {
        None => Ok(()),
        Some(missing) if *missing == behind => bail!(
            "{} minutes are missing; start warm-syncer, or restart it: it writes their entries again as far as the \
             streams hold them",
            thousands(*missing)
        ),
        Some(missing) => bail!("{} minutes are missing; send their trades again", thousands(*missing)),
    }
}
