//! `verify`: compares every candle with what it was made from.

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
use storage_core::postgres::queries::verify::{Difference, compare};
use storage_core::postgres::queries::{completeness, ticks};
use storage_core::redis::connection::Connection;
use storage_core::redis::{hot, keys};
use storage_core::terminal::{say, table, thousands};

use crate::cli::time;
use crate::config::Config;
use crate::minute::Computed;
use crate::stores::{Stores, history};

/// Differences that are shown, of each timeframe.
const SHOWN: usize = 10;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only candles of this symbol
    #[arg(long)]
    symbol: Option<Symbol>,
    /// Only candles of the days from here on: 2019-10-11
    #[arg(long, value_name = "TIME", value_parser = time)]
    from: Option<i64>,
    /// Only candles of the days before
    #[arg(long, value_name = "TIME", value_parser = time)]
    to: Option<i64>,
}

/// What was found for one timeframe.
#[derive(Default)]
struct Found {
    compared: i64,
    differences: Vec<Difference>,
    /// Minutes that Redis knows a newer state of, so that the history is not wrong but behind.
    on_their_way: usize,
}

pub(crate) async fn run(config: &Config, args: &Args) -> anyhow::Result<()> {
    let mut stores = Stores::new(config);
    let range = TimeRange {
        from_us: args.from.unwrap_or(ALWAYS.from_us),
        to_us: args.to.unwrap_or(ALWAYS.to_us),
    };
    note_what_was_dropped(&stores).await?;
    let mut differences = 0;
    let mut shown = table(&["timeframe", "made from", ">candles", ">different", ">on their way"]);
    let mut details = Vec::new();
    for timeframe in Timeframe::ALL {
        let source = if timeframe == Timeframe::M1 {
            "ticks"
        } else {
            "candles_1m"
        };
        let mut found = check(&stores, timeframe, source, args.symbol.as_ref(), range).await?;
        if timeframe == Timeframe::M1 {
            set_aside_what_is_on_its_way(&mut stores.redis, &mut found).await?;
        }
        differences += found.differences.len();
        let counts = [found.differences.len(), found.on_their_way].map(|count| count.to_string());
        let [different, on_their_way] = counts;
        shown.add_row([
            timeframe.label().to_owned(),
            source.to_owned(),
            thousands(found.compared),
            different,
            on_their_way,
        ]);
        details.extend(
            found
                .differences
                .iter()
                .take(SHOWN)
                .map(|difference| describe(timeframe, difference)),
        );
    }
    say(shown)?;
    details.iter().try_for_each(say)?;
    let differ = match differences {
        0 => return Ok(()),
        1 => "1 candle differs from what it was made from".to_owned(),
        many => format!("{many} candles differ from what they were made from"),
    };
    bail!(
        "{differ}; `aggregator-admin repair SYMBOL --from TIME --to TIME` computes minutes again, and `aggregator-admin refresh --all` the \
         larger timeframes"
    )
}

async fn note_what_was_dropped(stores: &Stores) -> anyhow::Result<()> {
    let (mut connection, server) = history(&stores.pool).await?;
    completeness::update_borders(&mut connection, server.edition)
        .await
        .explained("looking for dropped chunks")
}

/// Compares day by day: a day has bounds for the memory that it takes, and every bucket lies in one.
async fn check(
    stores: &Stores,
    timeframe: Timeframe,
    source: &str,
    symbol: Option<&Symbol>,
    range: TimeRange,
) -> anyhow::Result<Found> {
    let (mut connection, _) = history(&stores.pool).await?;
    // No candle is missing where candles were dropped.
    let first_us = completeness::first_bucket(&mut connection, timeframe.table(), Timeframe::D1)
        .await
        .explained("asking from when on candles can be compared")?;
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
            let is_as_it_must_be = difference.is_beyond_bigint && holds_what_fits(&mut connection, &difference).await?;
            found.differences.extend(Some(difference).filter(|_| !is_as_it_must_be));
        }
    }
    Ok(found)
}

/// Whether a minute whose ticks have a volume beyond a bigint holds those of them that fit.
async fn holds_what_fits(connection: &mut AsyncPgConnection, difference: &Difference) -> anyhow::Result<bool> {
    let symbol: Symbol = difference.symbol.parse()?;
    let start_us = difference.time.timestamp_micros();
    let doing = "reading a minute";
    let candle = candles::minute(connection, &symbol, start_us).await.explained(doing)?;
    let ticks = ticks::of_minute(connection, &symbol, start_us).await.explained(doing)?;
    let since_us = completeness::since(connection, "ticks").await.explained(doing)?;
    let computed = Computed::of(candle.as_ref(), &ticks, DEFAULT_VOLUME_DECIMALS);
    let lacks_ticks = since_us.is_some_and(|since_us| start_us < since_us);
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

/// The days of `chunks` inside `range`, each once.
fn days(chunks: Vec<TimeRange>, range: TimeRange) -> Vec<TimeRange> {
    let day_us = Timeframe::D1.micros();
    let within = |chunk: TimeRange| TimeRange {
        from_us: chunk.from_us.max(range.from_us),
        to_us: chunk.to_us.min(range.to_us),
    };
    let parts = chunks
        .into_iter()
        .map(within)
        .filter(|part| part.from_us < part.to_us)
        .map(|part| part.widened_to(Timeframe::D1));
    let merged = TimeRange::merge(parts.collect(), 0);
    let days_of =
        |part: TimeRange| (0..(part.to_us - part.from_us) / day_us).map(move |day| part.from_us + day * day_us);
    merged
        .into_iter()
        .flat_map(days_of)
        .map(|from_us| TimeRange {
            from_us,
            to_us: from_us + day_us,
        })
        .collect()
}

async fn set_aside_what_is_on_its_way(redis: &mut Connection, found: &mut Found) -> anyhow::Result<()> {
    let mut wrong = Vec::new();
    for difference in std::mem::take(&mut found.differences) {
        match is_on_its_way(redis, &difference)
            .await
            .context("reading hot candles from Redis")?
        {
            true => found.on_their_way += 1,
            false => wrong.push(difference),
        }
    }
    found.differences = wrong;
    Ok(())
}

/// Whether Redis holds the minute in a state that the history lacks: in the making, or closed and not yet written.
async fn is_on_its_way(redis: &mut Connection, difference: &Difference) -> redis::RedisResult<bool> {
    let Ok(symbol) = difference.symbol.parse::<Symbol>() else {
        return Ok(false);
    };
    let start_us = difference.time.timestamp_micros();
    let places = [
        keys::candle_current(Timeframe::M1, &symbol),
        keys::candle_recent(Timeframe::M1, &symbol, start_us),
    ];
    let hot = hot::candles(redis, &places).await?;
    let state = hot
        .into_iter()
        .flatten()
        .find(|state| state.candle.start_us == start_us);
    Ok(state.is_some_and(|state| !state.is_final || difference.found.is_none()))
}

fn describe(timeframe: Timeframe, difference: &Difference) -> String {
    let shown = |candle: &Option<String>| candle.clone().unwrap_or_else(|| "nothing".to_owned());
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
