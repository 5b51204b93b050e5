//! `refresh`: recomputes larger timeframes, piece by piece.

use std::collections::BTreeMap;
use std::time::Duration;

use storage_core::domain::time::rfc3339;
use storage_core::domain::timeframe::Timeframe;
use storage_core::postgres::queries::rollups::Scope;
use storage_core::terminal::say;

use crate::cli::{range, time};
use crate::config::Config;
use crate::pieces::{self, Pace};
use crate::rollups::refresh;
use crate::stores::{Stores, history};

/// Durations of a piece between which its length stays.
const DURATIONS: [Duration; 2] = [Duration::from_secs(5), Duration::from_secs(30)];

#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("what").required(true).args(["all", "from"]))]
pub(crate) struct Args {
    /// Recomputes the whole history
    #[arg(long, conflicts_with_all = ["from", "to"])]
    all: bool,
    /// Start of the time to refresh: 2019-10-11T00:00:00Z or 2019-10-11; whole buckets are refreshed
    #[arg(long, value_name = "TIME", requires = "to", value_parser = time)]
    from: Option<i64>,
    /// End of the time to refresh
    #[arg(long, value_name = "TIME", requires = "from", value_parser = time)]
    to: Option<i64>,
}

pub(crate) async fn run(config: &Config, args: &Args) -> anyhow::Result<()> {
    let range = range(args.from, args.to)?;
    let stores = Stores::new(config);
    let (mut connection, server) = history(&stores.pool).await?;
    let days = pieces::days(&mut connection, server.edition, range, &Timeframe::ALL).await?;
    let until_us = days.last().map_or(range.to_us, |last| last.to_us);
    let mut durations = BTreeMap::new();
    pieces::for_each(
        &days,
        Pace::new(Timeframe::D1, 1).lasting(DURATIONS),
        async |piece| {
            let done = |timeframe, took| {
                *durations.entry(timeframe).or_insert(Duration::ZERO) += took;
                Ok(())
            };
            refresh::run(&mut connection, server.edition, &[piece], Scope::All, done).await
        },
        |from_us| {
            let [from, to] = [from_us, until_us].map(rfc3339);
            format!("aggregator-admin refresh --from {from} --to {to}")
        },
    )
    .await?;
    durations.iter().try_for_each(|(timeframe, took)| {
        say(format_args!(
            "{timeframe:>4} candles up to date, {:.2} s",
            took.as_secs_f64()
        ))
    })
}
