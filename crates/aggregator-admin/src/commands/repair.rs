//! `repair`: recomputes minutes from their ticks.

use anyhow::{Context, bail};
use storage_core::domain::symbol::Symbol;
use storage_core::domain::time::rfc3339;
use storage_core::postgres::error::Explained;
use storage_core::postgres::queries::verify::minutes_with_ticks;
use storage_core::terminal::{say, thousands};

use crate::cli::{range, time};
use crate::config::Config;
use crate::minute::minute;
use crate::recompute::{Outcome, more_trades, publish, recompute};
use crate::rollups::refresh;
use crate::stores::{Stores, history, refuse_other_database};
use crate::verify::correct_revision;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Symbol
    #[arg(allow_hyphen_values = true)]
    symbol: Symbol,
    /// Start of the time to repair: 2019-10-11T00:00:00Z or 2019-10-11
    #[arg(long, value_name = "TIME", value_parser = time)]
    from: i64,
    /// End of the time to repair; the minute of this time is not repaired
    #[arg(long, value_name = "TIME", value_parser = time)]
    to: i64,
    /// Reduces the number of a candle's trades to that of its ticks, unless ticks of the minute were dropped
    #[arg(long)]
    force: bool,
}

pub(crate) async fn run(config: &Config, args: &Args) -> anyhow::Result<()> {
    let range = range(Some(args.from), Some(args.to))?;
    let mut stores = Stores::new(config);
    let partitions = stores.partitions().await?;
    let (mut connection, server) = history(&stores.pool).await?;
    refuse_other_database(&mut stores.redis, &mut connection).await?;
    let minutes = minutes_with_ticks(&mut connection, &args.symbol, range)
        .await
        .explained("reading the minutes")?;
    let mut repaired = Vec::new();
    let mut wrong = 0;
    for start_us in minutes {
        let computed = recompute(
            &mut connection,
            &mut stores.redis,
            partitions,
            &args.symbol,
            start_us,
            args.force,
        );
        let Some(computed) = computed.await.context("computing a minute from its ticks")? else {
            continue;
        };
        publish(&mut stores.redis, &args.symbol, &computed.candle).await?;
        correct_revision(&mut connection, partitions, &args.symbol, &computed).await?;
        repaired.push(minute(start_us));
        for reason in computed.excluded {
            say(format_args!(
                "{} lacks a trade, which is a dead letter: {reason}",
                rfc3339(start_us)
            ))?;
        }
        if let Outcome::MoreTrades { ticks } = computed.outcome {
            wrong += 1;
            say(more_trades(&args.symbol, &computed.candle, ticks))?;
        }
    }
    refresh::buckets(&mut connection, server.edition, &repaired, |_, _| Ok(())).await?;
    let computed = thousands(i128::try_from(repaired.len())?);
    say(format_args!(
        "computed {computed} minutes of {} from their ticks, and refreshed the larger timeframes",
        args.symbol
    ))?;
    match wrong {
        0 => Ok(()),
        wrong => bail!("{wrong} candles have more trades than ticks; the lines above name the command for each"),
    }
}
