//! `candles`: a symbol's candles, history and hot view as one series.

use anyhow::Context;
use serde::Serialize;
use storage_core::domain::symbol::Symbol;
use storage_core::domain::time::{TimeRange, duration_us, rfc3339};
use storage_core::domain::timeframe::Timeframe;
use storage_core::postgres::error::Explained;
use storage_core::postgres::queries::{as_of, candles};
use storage_core::terminal::{has_colour, say, table, thousands, write};

use crate::candles::series::{Point, State, merge};
use crate::candles::{chart, hot};
use crate::cli::{range, revision_at, time};
use crate::config::Config;
use crate::stores::{Stores, history};

/// Rows of the chart.
const CHART_HEIGHT: usize = 14;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The symbol
    #[arg(allow_hyphen_values = true)]
    symbol: Symbol,
    /// 1m, 5m, 15m, 1h, 4h or 1d
    timeframe: Timeframe,
    /// First start of a candle: 2019-10-11T00:00:00Z or 2019-10-11
    #[arg(long, value_name = "TIME", value_parser = time)]
    from: Option<i64>,
    /// End of the time: candles start before it
    #[arg(long, value_name = "TIME", value_parser = time)]
    to: Option<i64>,
    /// Shows the candles as they were known at this time: without later trades, corrections and busts
    #[arg(long, value_name = "TIME", value_parser = time)]
    as_of: Option<i64>,
    /// Maximum number of candles; the newest are shown
    #[arg(long, value_name = "N", default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
    /// Output format
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    /// Draws the candles as a chart, a column each
    #[arg(long, conflicts_with = "format")]
    chart: bool,
}

#[derive(Clone, Copy, Debug, Default, clap::ValueEnum)]
enum Format {
    /// Table with aligned columns
    #[default]
    Table,
    /// CSV with a header: time,open,high,low,close,volume,trades,state
    Csv,
    /// JSON array of objects with the same fields
    Json,
}

pub(crate) async fn run(config: &Config, args: &Args) -> anyhow::Result<()> {
    let range = range(args.from, args.to)?;
    let series = match args.as_of {
        Some(as_of_us) => known_at(config, args, range, as_of_us).await?,
        None => present(config, args, range).await?,
    };
    if args.chart {
        return show_chart(args, &series);
    }
    match args.format {
        Format::Table if series.is_empty() => say(format_args!("no {} candles of {}", args.timeframe, args.symbol)),
        Format::Table => show_table(&series),
        Format::Csv => show_csv(&series),
        Format::Json => say(serde_json::to_string_pretty(
            &series.iter().map(CandleOutput::from).collect::<Vec<_>>(),
        )?),
    }
}

/// Returns the candles of the history and the hot view.
async fn present(config: &Config, args: &Args, range: TimeRange) -> anyhow::Result<Vec<Point>> {
    let mut stores = Stores::new(config);
    let rows = {
        let (mut connection, _) = history(&stores.pool).await?;
        let limit = i64::from(args.limit);
        candles::range(&mut connection, args.timeframe, &args.symbol, range, limit)
            .await
            .explained("reading candles")?
    };
    let mut hot = hot::series(&mut stores.redis, args.timeframe, &args.symbol)
        .await
        .context("reading the hot candles from Redis")?;
    hot.retain(|state| (range.from_us..range.to_us).contains(&state.candle.start_us));
    Ok(merge(rows, hot, usize::try_from(args.limit)?))
}

/// Returns the candles that were known at `as_of_us`.
async fn known_at(config: &Config, args: &Args, range: TimeRange, as_of_us: i64) -> anyhow::Result<Vec<Point>> {
    let stores = Stores::new(config);
    let (mut connection, _) = history(&stores.pool).await?;
    let complete_us = as_of::complete_from(&mut connection, args.timeframe)
        .await
        .explained("reading from when on ticks are complete")?;
    if let (Some(from_us), Some(complete_us)) = (args.from, complete_us) {
        anyhow::ensure!(
            from_us >= complete_us,
            "retention has dropped ticks before {complete}, so earlier candles cannot be computed as they were known; \
             use `--from {complete}`",
            complete = rfc3339(complete_us)
        );
    }
    // No accepted trade is further in the future than the setting allows.
    let last_us = as_of_us.saturating_add(duration_us(config.stream.max_future));
    let range = TimeRange {
        from_us: range.from_us.max(complete_us.unwrap_or(range.from_us)),
        to_us: range.to_us.min(last_us.saturating_add(1)),
    };
    let (until, limit) = (revision_at(as_of_us)?, i64::from(args.limit));
    let rows = as_of::candles(&mut connection, args.timeframe, &args.symbol, range, until, limit)
        .await
        .explained("computing candles from ticks")?;
    Ok(merge(rows, Vec::new(), usize::try_from(args.limit)?))
}

#[derive(Serialize)]
struct CandleOutput {
    time: String,
    open: f64,
    high: f64,
    low: f64,
    close: f64,
    volume: String,
    trades: i64,
    state: State,
}

impl From<&Point> for CandleOutput {
    fn from(Point { candle, state }: &Point) -> Self {
        Self {
            time: rfc3339(candle.start_us),
            open: candle.open,
            high: candle.high,
            low: candle.low,
            close: candle.close,
            volume: candle.volume.to_string(),
            trades: candle.trades,
            state: *state,
        }
    }
}

fn show_table(series: &[Point]) -> anyhow::Result<()> {
    let mut shown = table(&["time", ">open", ">high", ">low", ">close", ">volume", ">trades", ""]);
    for point in series {
        let state = match point.state {
            State::Stored => "",
            State::Open => "◀ open",
            State::Closing => "◀ not yet in the history",
        };
        let point = CandleOutput::from(point);
        let [open, high, low, close] = [point.open, point.high, point.low, point.close].map(|price| price.to_string());
        shown.add_row([
            point.time,
            open,
            high,
            low,
            close,
            point.volume,
            thousands(point.trades),
            state.to_owned(),
        ]);
    }
    say(shown)
}

fn show_csv(series: &[Point]) -> anyhow::Result<()> {
    let mut csv = csv::WriterBuilder::new().has_headers(false).from_writer(Vec::new());
    csv.write_record(["time", "open", "high", "low", "close", "volume", "trades", "state"])?;
    for point in series {
        csv.serialize(CandleOutput::from(point))?;
    }
    write(String::from_utf8(csv.into_inner()?)?)
}

fn show_chart(args: &Args, series: &[Point]) -> anyhow::Result<()> {
    let candles: Vec<_> = series.iter().map(|point| point.candle.clone()).collect();
    let [Some(first), Some(last)] = [candles.first(), candles.last()] else {
        return say(format_args!("no {} candles of {}", args.timeframe, args.symbol));
    };
    let change = match first.open > 0.0 {
        true => format!("{:+.2} %", (last.close / first.open - 1.0) * 100.0),
        false => format!("{:+}", last.close - first.open),
    };
    say(format_args!(
        "{} {}  {} candles, close {} ({change})",
        args.symbol,
        args.timeframe,
        candles.len(),
        last.close
    ))?;
    write(chart::draw(&candles, CHART_HEIGHT, has_colour()))
}
