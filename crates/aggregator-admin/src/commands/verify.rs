//! `verify`: compares every candle with its source.

use anyhow::{Context, bail};
use diesel_async::AsyncPgConnection;
use storage_core::domain::lots::DEFAULT_VOLUME_DECIMALS;
use storage_core::domain::symbol::Symbol;
use storage_core::domain::time::TimeRange;
use storage_core::domain::timeframe::Timeframe;
use storage_core::postgres::error::Explained;
use storage_core::postgres::queries::candles::{self, CandleRow};
use storage_core::postgres::queries::hypertables::chunk_ranges;
use storage_core::postgres::queries::rollups::ALWAYS;
use storage_core::postgres::queries::verify::{Difference, compare, source_table};
use storage_core::postgres::queries::{completeness, tick_versions, ticks};
use storage_core::redis::connection::Connection;
use storage_core::terminal::{say, table, thousands};

use crate::candles::hot;
use crate::cli::time;
use crate::config::Config;
use crate::minute::ComputedMinute;
use crate::stores::{Stores, history};

/// Maximum number of differences that are shown per timeframe.
const MAX_SHOWN: usize = 10;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Symbol to check; all without it
    #[arg(long)]
    symbol: Option<Symbol>,
    /// First day to check: 2019-10-11
    #[arg(long, value_name = "TIME", value_parser = time)]
    from: Option<i64>,
    /// End of the days to check; this day is not checked
    #[arg(long, value_name = "TIME", value_parser = time)]
    to: Option<i64>,
}

/// Result for one timeframe.
#[derive(Default)]
struct Found {
    compared: i64,
    differences: Vec<Difference>,
    /// Minutes of which Redis has a newer state, so the history is behind, not wrong.
    not_yet_written: usize,
}

pub(crate) async fn run(config: &Config, args: &Args) -> anyhow::Result<()> {
    let mut stores = Stores::new(config);
    let range = TimeRange {
        from_us: args.from.unwrap_or(ALWAYS.from_us),
        to_us: args.to.unwrap_or(ALWAYS.to_us),
    };
    record_dropped_chunks(&stores).await?;
    let mut differences = 0;
    let mut shown = table(&["timeframe", "source", ">candles", ">different", ">not yet written"]);
    let mut details = Vec::new();
    for timeframe in Timeframe::ALL {
        let source = source_table(timeframe);
        let mut found = check(&stores, timeframe, source, args.symbol.as_ref(), range).await?;
        if timeframe == Timeframe::M1 {
            set_aside_unwritten(&mut stores.redis, &mut found).await?;
        }
        differences += found.differences.len();
        let counts = [found.differences.len(), found.not_yet_written].map(|count| count.to_string());
        let [different, not_yet_written] = counts;
        shown.add_row([
            timeframe.label().to_owned(),
            source.to_owned(),
            thousands(found.compared),
            different,
            not_yet_written,
        ]);
        details.extend(
            found
                .differences
                .iter()
                .take(MAX_SHOWN)
                .map(|difference| describe(timeframe, difference)),
        );
    }
    say(shown)?;
    details.iter().try_for_each(say)?;
    let differ = match differences {
        0 => return Ok(()),
        1 => "1 candle differs from its source".to_owned(),
        many => format!("{many} candles differ from their source"),
    };
    bail!(
        "{differ}; for 1m run `aggregator-admin repair SYMBOL --from TIME --to TIME`, for larger timeframes \
         `aggregator-admin refresh --all`"
    )
}

async fn record_dropped_chunks(stores: &Stores) -> anyhow::Result<()> {
    let (mut connection, server) = history(&stores.pool).await?;
    completeness::update_borders(&mut connection, server.edition)
        .await
        .explained("looking for dropped chunks")
}

/// Compares one day at a time, which limits the memory; every bucket lies within a day.
async fn check(
    stores: &Stores,
    timeframe: Timeframe,
    source: &str,
    symbol: Option<&Symbol>,
    range: TimeRange,
) -> anyhow::Result<Found> {
    let (mut connection, _) = history(&stores.pool).await?;
    // Candles that retention has dropped do not count as missing.
    let first_us = completeness::first_bucket(&mut connection, timeframe.table(), Timeframe::D1)
        .await
        .explained("reading the time from which on candles are complete")?;
    let range = TimeRange {
        from_us: range.from_us.max(first_us),
        ..range
    };
    let mut found = Found::default();
    for day in days(
        chunk_ranges(&mut connection, source)
            .await
            .explained("reading the chunks")?,
        range,
    ) {
        let comparison = compare(&mut connection, timeframe, symbol, day).await;
        let comparison = comparison.explained(&format!("comparing {timeframe} candles"))?;
        found.compared += comparison.compared;
        for difference in comparison.differences {
            let is_correct =
                difference.is_beyond_bigint && contains_ticks_that_fit(&mut connection, &difference).await?;
            found.differences.extend(Some(difference).filter(|_| !is_correct));
        }
    }
    Ok(found)
}

/// Returns `true` if a minute whose ticks overflow the volume, a bigint, contains exactly the ticks that fit.
async fn contains_ticks_that_fit(connection: &mut AsyncPgConnection, difference: &Difference) -> anyhow::Result<bool> {
    let symbol: Symbol = difference.symbol.parse()?;
    let start_us = difference.time.timestamp_micros();
    let doing = "reading a minute";
    let candle = candles::minute(connection, &symbol, start_us).await.explained(doing)?;
    let ticks = ticks::of_minute(connection, &symbol, start_us).await.explained(doing)?;
    let since_us = completeness::since(connection, "ticks").await.explained(doing)?;
    let lacks_ticks = since_us.is_some_and(|since_us| start_us < since_us);
    let amendments = tick_versions::of_minute(connection, &symbol, start_us)
        .await
        .explained(doing)?;
    let computed = ComputedMinute::of(
        candle.as_ref(),
        &ticks,
        amendments,
        DEFAULT_VOLUME_DECIMALS,
        !lacks_ticks,
    );
    Ok(computed.is_some_and(|computed| {
        let row = computed.row(&symbol);
        (lacks_ticks || !computed.is_joined)
            && candle.is_some_and(|candle| {
                row == CandleRow {
                    revision: row.revision,
                    ..candle
                }
            })
    }))
}

/// Returns the days of `chunks` within `range`, each once.
fn days(chunks: Vec<TimeRange>, range: TimeRange) -> Vec<TimeRange> {
    let parts = range.parts_in(&chunks).into_iter();
    let whole_days = TimeRange::merge(parts.map(|part| part.widened_to(Timeframe::D1)).collect(), 0);
    let day_us = Timeframe::D1.micros();
    whole_days.into_iter().flat_map(|part| part.pieces(day_us)).collect()
}

async fn set_aside_unwritten(redis: &mut Connection, found: &mut Found) -> anyhow::Result<()> {
    let mut wrong = Vec::new();
    for difference in std::mem::take(&mut found.differences) {
        match is_not_yet_written(redis, &difference)
            .await
            .context("reading hot candles from Redis")?
        {
            true => found.not_yet_written += 1,
            false => wrong.push(difference),
        }
    }
    found.differences = wrong;
    Ok(())
}

/// Returns `true` if Redis has a state of the minute that the history lacks: open, or closed and not yet written.
async fn is_not_yet_written(redis: &mut Connection, difference: &Difference) -> redis::RedisResult<bool> {
    let Ok(symbol) = difference.symbol.parse::<Symbol>() else {
        return Ok(false);
    };
    let start_us = difference.time.timestamp_micros();
    let found = hot::candle(redis, Timeframe::M1, &symbol, start_us).await?;
    Ok(found.is_some_and(|(_, state)| !state.is_final || difference.found.is_none()))
}

fn describe(timeframe: Timeframe, difference: &Difference) -> String {
    let shown = |candle: &Option<String>| candle.clone().unwrap_or_else(|| "no candle".to_owned());
    format!(
        "{} {timeframe} {}: found {}, expected {}",
        difference.symbol,
        difference.time.to_rfc3339_opts(chrono::SecondsFormat::Secs, true),
        shown(&difference.found),
        shown(&difference.expected)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_day_is_compared_once() {
        let day = |from: i64, to: i64| TimeRange {
            from_us: from * 86_400_000_000,
            to_us: to * 86_400_000_000,
        };
        let found = days(vec![day(1, 3), day(2, 4), day(9, 10)], ALWAYS);
        assert_eq!(found, [day(1, 2), day(2, 3), day(3, 4), day(9, 10)]);
        assert_eq!(days(vec![day(1, 3)], day(2, 9)), [day(2, 3)]);
    }
}
