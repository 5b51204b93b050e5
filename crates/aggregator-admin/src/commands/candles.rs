//! `candles`: a symbol's candles, history and the one in the making as one series.

use anyhow::Context;
use serde::Serialize;
use storage_core::domain::candle::CandleState;
use storage_core::domain::symbol::Symbol;
use storage_core::domain::time::{TimeRange, rfc3339};
use storage_core::domain::timeframe::Timeframe;
use storage_core::postgres::error::Explained;
use storage_core::postgres::queries::candles;
use storage_core::postgres::queries::rollups::ALWAYS;
use storage_core::redis::connection::Connection;
use storage_core::redis::{hot, keys};
use storage_core::terminal::{has_colour, say, table, thousands, write};

use crate::candles::chart;
use crate::candles::series::{Point, merge};
use crate::cli::time;
use crate::config::Config;
use crate::stores::{Stores, history};

/// So many buckets before the newest may still be amended; see `hot.amend_window`.
const AMENDABLE_BUCKETS: i64 = 60;
/// Rows of the chart.
const CHART_HEIGHT: usize = 14;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The symbol
    symbol: Symbol,
    /// 1m, 5m, 15m, 1h, 4h or 1d
    timeframe: Timeframe,
    /// Only candles that start then or later: 2019-10-11T00:00:00Z or 2019-10-11
    #[arg(long, value_name = "TIME", value_parser = time)]
    from: Option<i64>,
    /// Only candles that start before
    #[arg(long, value_name = "TIME", value_parser = time)]
    to: Option<i64>,
    /// The most candles to show; of more, the newest
    #[arg(long, value_name = "N", default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
    /// How to show them
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    /// Draws them, a column each
    #[arg(long, conflicts_with = "format")]
    chart: bool,
}

#[derive(Clone, Copy, Debug, Default, clap::ValueEnum)]
enum Format {
    /// For a person
    #[default]
    Table,
    /// With a header: time,open,high,low,close,volume,trades,state
    Csv,
    /// An array of objects with the same fields
    Json,
}

pub(crate) async fn run(config: &Config, args: &Args) -> anyhow::Result<()> {
    let mut stores = Stores::new(config);
    let range = TimeRange {
        from_us: args.from.unwrap_or(ALWAYS.from_us),
        to_us: args.to.unwrap_or(ALWAYS.to_us),
    };
    let rows = {
        let (mut connection, _) = history(&stores.pool).await?;
        let limit = i64::from(args.limit);
        candles::range(&mut connection, args.timeframe, &args.symbol, range, limit)
            .await
            .explained("reading candles")?
    };
    let mut hot = hot_candles(&mut stores.redis, args.timeframe, &args.symbol)
        .await
        .context("reading the hot candles from Redis")?;
    hot.retain(|state| (range.from_us..range.to_us).contains(&state.candle.start_us));
    let series = merge(rows, hot, usize::try_from(args.limit)?);
    if args.chart {
        return show_chart(args, &series);
    }
    match args.format {
        Format::Table if series.is_empty() => say(format_args!("no {} candles of {}", args.timeframe, args.symbol)),
        Format::Table => show_table(&series),
        Format::Csv => show_csv(&series),
        Format::Json => say(serde_json::to_string_pretty(
            &series.iter().map(Shown::from).collect::<Vec<_>>(),
        )?),
    }
}

/// The candle in the making, or the last one made, and the closed ones that a late tick may still amend.
async fn hot_candles(
    redis: &mut Connection,
    timeframe: Timeframe,
    symbol: &Symbol,
) -> redis::RedisResult<Vec<CandleState>> {
    let current = hot::candles(redis, &[keys::candle_current(timeframe, symbol)]).await?;
    let Some(current) = current.into_iter().flatten().next() else {
        return Ok(Vec::new());
    };
    let before = |back| keys::candle_recent(timeframe, symbol, current.candle.start_us - back * timeframe.micros());
    let keys: Vec<_> = (1..=AMENDABLE_BUCKETS).map(before).collect();
    let mut found: Vec<_> = hot::candles(redis, &keys).await?.into_iter().flatten().collect();
    found.push(current);
    Ok(found)
}

#[derive(Serialize)]
struct Shown {
    time: String,
    open: f64,
    high: f64,
    low: f64,
    close: f64,
    volume: String,
    trades: i64,
    state: &'static str,
}

impl From<&Point> for Shown {
    fn from(point: &Point) -> Self {
        Self {
            time: rfc3339(point.start_us),
            open: point.open,
            high: point.high,
            low: point.low,
            close: point.close,
            volume: point.volume.to_string(),
            trades: point.trades,
            state: point.state.as_str(),
        }
    }
}

fn show_table(series: &[Point]) -> anyhow::Result<()> {
    let mut shown = table(&["time", ">open", ">high", ">low", ">close", ">volume", ">trades", ""]);
    for point in series.iter().map(Shown::from) {
        let [open, high, low, close] = [point.open, point.high, point.low, point.close].map(|price| price.to_string());
        let state = match point.state {
            "stored" => "",
            "making" => "◀ in the making",
            _ => "◀ not yet in the history",
        };
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
        csv.serialize(Shown::from(point))?;
    }
    write(String::from_utf8(csv.into_inner()?)?)
}

fn show_chart(args: &Args, series: &[Point]) -> anyhow::Result<()> {
    let [Some(first), Some(last)] = [series.first(), series.last()] else {
        return say(format_args!("no {} candles of {}", args.timeframe, args.symbol));
    };
    let change = (last.close / first.open - 1.0) * 100.0;
    say(format_args!(
        "{} {}  {} candles, close {} ({change:+.2} %)",
        args.symbol,
        args.timeframe,
        series.len(),
        last.close
    ))?;
    write(chart::draw(series, CHART_HEIGHT, has_colour()))
}
