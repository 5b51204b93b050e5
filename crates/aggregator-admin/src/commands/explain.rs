//! `explain`: shows a candle in the history and in Redis, and compares it with its source.

use anyhow::Context;
use storage_core::domain::partition::partition_of;
use storage_core::domain::stream_id::Revision;
use storage_core::domain::symbol::Symbol;
use storage_core::domain::time::{TimeRange, rfc3339};
use storage_core::domain::timeframe::Timeframe;
use storage_core::postgres::error::Explained;
use storage_core::postgres::queries::candles::{HistoryCandle, range};
use storage_core::postgres::queries::verify::{compare, source_table};
use storage_core::postgres::queries::{completeness, rollups, ticks};
use storage_core::redis::connection::Connection;
use storage_core::redis::position::position_of;
use storage_core::redis::stream::{Stream, WARM_SYNCER};
use storage_core::terminal::say;

use crate::candles::{hot, series};
use crate::cli::time;
use crate::config::Config;
use crate::stores::{Stores, history};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The symbol
    #[arg(allow_hyphen_values = true)]
    symbol: Symbol,
    /// 1m, 5m, 15m, 1h, 4h or 1d
    timeframe: Timeframe,
    /// Time within the candle: 2019-10-11T00:00:00Z or 2019-10-11
    #[arg(value_parser = time)]
    time: i64,
}

pub(crate) async fn run(config: &Config, args: &Args) -> anyhow::Result<()> {
    let mut stores = Stores::new(config);
    let start_us = args.timeframe.bucket_start_us(args.time);
    let bucket = TimeRange {
        from_us: start_us,
        to_us: start_us + args.timeframe.micros(),
    };
    let (from, to) = (rfc3339(bucket.from_us), rfc3339(bucket.to_us));
    say(format_args!("{} {}, {from} to {to}", args.symbol, args.timeframe))?;
    let partition = partition_of(&args.symbol, stores.partitions().await?);
    let (mut connection, server) = history(&stores.pool).await?;
    let stored = range(&mut connection, args.timeframe, &args.symbol, bucket, 1)
        .await
        .explained("reading the candle")?;
    say(format_args!(
        "history    {}",
        stored.first().map_or("no candle".to_owned(), describe)
    ))?;
    say(format_args!(
        "Redis      {}",
        describe_hot(&mut stores.redis, args, start_us).await?
    ))?;

    let comparison = compare(&mut connection, args.timeframe, Some(&args.symbol), bucket)
        .await
        .explained("comparing the candle")?;
    let verdict = match comparison.differing.first() {
        Some(difference) => match difference.expected.as_deref() {
            Some(expected) => format!("give another candle: {expected} (open,high,low,close,lots,trades)"),
            None => "give no candle".to_owned(),
        },
        None if comparison.compared == 0 => "give no candle".to_owned(),
        None => "give the same candle as the history".to_owned(),
    };
    say(format_args!("{:<10} {verdict}", source_table(args.timeframe)))?;
    if args.timeframe == Timeframe::M1 {
        let ticks = ticks::of_minute(&mut connection, &args.symbol, start_us)
            .await
            .explained("reading the ticks")?;
        if let Some(last) = ticks.last() {
            say(format_args!(
                "           {} ticks, last accepted {}",
                ticks.len(),
                accepted(last.revision.as_i64())
            ))?;
        }
        let since_us = completeness::since(&mut connection, "ticks")
            .await
            .explained("reading the time from which on ticks are complete")?;
        if let Some(since_us) = since_us.filter(|since_us| start_us < *since_us) {
            say(format_args!(
                "           retention has dropped ticks before {}",
                rfc3339(since_us)
            ))?;
        }
    } else if let Some(watermark_us) = rollups::watermark(&mut connection, server.edition, args.timeframe)
        .await
        .explained("reading the watermark")?
    {
        let source = if bucket.to_us <= watermark_us {
            "materialized by a refresh"
        } else {
            "not materialized yet (the Community edition computes it when it is read)"
        };
        say(format_args!(
            "watermark  {}; this candle is {source}",
            rfc3339(watermark_us)
        ))?;
    }
    let position = position_of(&mut stores.redis, Stream::Ticks(partition), WARM_SYNCER)
        .await
        .context("reading the position of warm-syncer")?;
    match position {
        Some(position) if position.has_finished() => say(format_args!(
            "stream     ticks:{partition}; warm-syncer has written all of its entries"
        )),
        Some(position) => say(format_args!(
            "stream     ticks:{partition}; warm-syncer has written its entries up to {}",
            position.delivered
        )),
        None => say(format_args!(
            "stream     ticks:{partition} has no group warm-syncer; run `aggregator-admin migrate`"
        )),
    }
}

fn describe(candle: &HistoryCandle) -> String {
    format!(
        "open {} high {} low {} close {}\n           volume {} trades {}\n           last tick accepted {}",
        candle.open,
        candle.high,
        candle.low,
        candle.close,
        candle.volume,
        candle.trades,
        accepted(candle.revision)
    )
}

async fn describe_hot(redis: &mut Connection, args: &Args, start_us: i64) -> anyhow::Result<String> {
    let found = hot::candle(redis, args.timeframe, &args.symbol, start_us)
        .await
        .context("reading hot candles from Redis")?;
    Ok(found.map_or_else(
        || "no candle".to_owned(),
        |(key, state)| {
            format!(
                "{}\n           first tick accepted {}\n           {}, in {key}",
                describe(&series::history_candle(&state.candle)),
                accepted(state.candle.since.as_i64()),
                if state.is_final { "closed" } else { "open" }
            )
        },
    ))
}

fn accepted(revision: i64) -> String {
    let id = Revision::try_from(revision).unwrap_or_default().stream_id();
    format!("{} (entry {id})", rfc3339(id.accepted_us()))
}
