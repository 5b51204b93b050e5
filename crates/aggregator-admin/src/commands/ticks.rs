//! `ticks`: lists trades with their versions, and corrects or busts one by an entry like that of a producer.

use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use diesel_async::AsyncPgConnection;
use humantime_serde::re::humantime::parse_duration;
use serde::Serialize;
use storage_core::domain::amendment::{Amendment, Change, Version};
use storage_core::domain::decimal::Decimal;
use storage_core::domain::lots::DEFAULT_VOLUME_DECIMALS;
use storage_core::domain::partition::partition_of;
use storage_core::domain::stream_id::{Revision, StreamId};
use storage_core::domain::symbol::Symbol;
use storage_core::domain::tick::Side;
use storage_core::domain::time::rfc3339;
use storage_core::domain::trade_id;
use storage_core::postgres::error::Explained;
use storage_core::postgres::queries::tick_versions::{self, ListedVersion};
use storage_core::postgres::queries::trades::{self, FoundTrade};
use storage_core::postgres::queries::{dead_letters, symbols};
use storage_core::redis::codec::ticks::amendment_fields;
use storage_core::redis::stream::{self, Stream};
use storage_core::terminal::{say, table, write};
use tokio::time::{Instant, sleep};

use crate::cli::{range, revision_at, time};
use crate::config::Config;
use crate::stores::{PAUSE, Stores, history, refuse_other_database};

#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(crate) struct Args {
    #[command(subcommand)]
    change: Option<ChangeTrade>,
    #[command(flatten)]
    list: List,
}

/// Change of a trade.
#[derive(Debug, clap::Subcommand)]
enum ChangeTrade {
    /// Takes a trade out of every candle
    Bust(Trade),
    /// Replaces the price and the quantity of a trade, also of one that was busted
    Correct {
        #[command(flatten)]
        trade: Trade,
        /// New price of a unit
        #[arg(long, allow_hyphen_values = true)]
        price: f64,
        /// New quantity in units
        #[arg(long)]
        qty: Decimal,
        /// New side of the taker: buy or sell; it stays without this argument
        #[arg(long)]
        side: Option<Side>,
    },
}

#[derive(Debug, clap::Args)]
struct Trade {
    /// Symbol
    #[arg(allow_hyphen_values = true)]
    symbol: Symbol,
    /// Trade ID
    #[arg(long)]
    id: String,
    /// Event time of the trade, as `ticks SYMBOL` shows it: 2019-10-11T00:00:11.620Z
    #[arg(long, value_name = "TIME", value_parser = time)]
    time: i64,
    /// Maximum time to wait until the history contains the change
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = parse_duration)]
    wait: Duration,
}

#[derive(Debug, clap::Args)]
struct List {
    /// Symbol
    #[arg(required = true, allow_hyphen_values = true)]
    symbol: Option<Symbol>,
    /// First event time: 2019-10-11T00:00:00Z or 2019-10-11
    #[arg(long, value_name = "TIME", value_parser = time)]
    from: Option<i64>,
    /// End of the event times, exclusive
    #[arg(long, value_name = "TIME", value_parser = time)]
    to: Option<i64>,
    /// Trade ID
    #[arg(long)]
    id: Option<String>,
    /// Shows the versions that were known at this time
    #[arg(long, value_name = "TIME", value_parser = time)]
    as_of: Option<i64>,
    /// Maximum number of versions; the newest trades are shown
    #[arg(long, value_name = "N", default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
    /// Output format
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

#[derive(Clone, Copy, Debug, Default, clap::ValueEnum)]
enum Format {
    /// Table with aligned columns
    #[default]
    Table,
    /// CSV with a header: `time,trade_id,price,qty,side,kind,state,known_since,revision`
    Csv,
    /// JSON array of objects with the same fields
    Json,
}

pub(crate) async fn run(config: &Config, args: Args) -> anyhow::Result<()> {
    match args.change {
        None => list(config, &args.list).await,
        Some(ChangeTrade::Bust(trade)) => change(config, &trade, Change::Bust).await,
        Some(ChangeTrade::Correct {
            trade,
            price,
            qty,
            side,
        }) => change(config, &trade, Change::Correction { price, qty, side }).await,
    }
}

async fn list(config: &Config, args: &List) -> anyhow::Result<()> {
    let symbol = args.symbol.as_ref().context("the symbol is missing")?;
    let range = range(args.from, args.to)?;
    let until = match args.as_of {
        Some(us) => revision_at(us)?,
        None => i64::MAX.try_into()?,
    };
    let id = args.id.as_deref().map(trade_id::canonical);
    let stores = Stores::new(config);
    let (mut connection, _) = history(&stores.pool).await?;
    let versions = tick_versions::list(&mut connection, symbol, range, id, until, args.limit.into())
        .await
        .explained("reading trades")?;
    let versions: Vec<Output> = versions.iter().map(Output::from).collect();
    match args.format {
        Format::Table if versions.is_empty() => say(format_args!("no trades of {symbol}")),
        Format::Table => show_table(&versions),
        Format::Csv => show_csv(&versions),
        Format::Json => say(serde_json::to_string_pretty(&versions)?),
    }
}

#[derive(Serialize)]
struct Output {
    time: String,
    trade_id: Option<String>,
    price: Option<f64>,
    qty: Option<String>,
    side: Option<&'static str>,
    kind: &'static str,
    state: &'static str,
    /// Time at which Redis accepted the entry that made the version.
    known_since: String,
    revision: String,
}

impl From<&ListedVersion> for Output {
    fn from(version: &ListedVersion) -> Self {
        Self {
            time: rfc3339(version.ts_us),
            trade_id: version.trade_id(),
            price: version.price,
            qty: version.qty.map(|qty| qty.to_string()),
            side: version.side.map(Side::as_str),
            kind: match (version.price, version.earlier) {
                (None, _) => "bust",
                (Some(_), 0) => "trade",
                (Some(_), _) => "correction",
            },
            state: match (version.is_replaced, version.price) {
                (true, _) => "replaced",
                (false, None) => "busted",
                (false, Some(_)) => "counts",
            },
            known_since: rfc3339(version.revision.stream_id().accepted_us()),
            revision: version.revision.to_string(),
        }
    }
}

fn show_table(versions: &[Output]) -> anyhow::Result<()> {
    let mut shown = table(&[
        "time",
        "trade ID",
        ">price",
        ">qty",
        "side",
        "kind",
        "state",
        "known since",
    ]);
    for version in versions {
        shown.add_row([
            version.time.clone(),
            version.trade_id.clone().unwrap_or_default(),
            version.price.map(|price| price.to_string()).unwrap_or_default(),
            version.qty.clone().unwrap_or_default(),
            version.side.unwrap_or_default().to_owned(),
            version.kind.to_owned(),
            version.state.to_owned(),
            version.known_since.clone(),
        ]);
    }
    say(shown)
}

fn show_csv(versions: &[Output]) -> anyhow::Result<()> {
    let mut csv = csv::Writer::from_writer(Vec::new());
    for version in versions {
        csv.serialize(version)?;
    }
    write(String::from_utf8(csv.into_inner()?)?)
}

async fn change(config: &Config, trade: &Trade, change: Change) -> anyhow::Result<()> {
    let mut stores = Stores::new(config);
    let partitions = stores.partitions().await?;
    let (mut connection, _) = history(&stores.pool).await?;
    refuse_other_database(&mut stores.redis, &mut connection).await?;
    let known = symbols::decimals(&mut connection, &[&trade.symbol]).await;
    let known = known.explained("reading the volume decimals")?;
    let decimals = known.get(&trade.symbol).copied().unwrap_or(DEFAULT_VOLUME_DECIMALS);
    let amendment = Amendment {
        symbol: trade.symbol.clone(),
        ts_us: trade.time,
        trade_id: trade_id::canonical(&trade.id).into(),
        change,
        replaces: None,
        revision: Revision::default(),
    };
    let Some(FoundTrade { ts_us, versions }) = find(&mut connection, &amendment, decimals).await? else {
        bail!(
            "{} has no trade {} at {}; `aggregator-admin ticks {} --id {}` shows the trades with this ID",
            trade.symbol,
            trade.id,
            rfc3339(trade.time),
            trade.symbol.shell_word(),
            trade.id
        );
    };
    let replaced = *versions.current();
    let stream = Stream::Ticks(partition_of(&trade.symbol, partitions));
    let fields = amendment_fields(&Amendment {
        ts_us,
        replaces: Some(replaced.revision),
        ..amendment.clone()
    });
    let id: String = stream::add(stream, &fields)
        .query_async(&mut stores.redis)
        .await
        .with_context(|| format!("adding to {}", stream.key()))?;
    let made = await_version(&mut connection, &amendment, decimals, (stream, &id), trade.wait).await?;
    say(format_args!(
        "trade {} of {} at {}: {} instead of {}; its candles follow",
        amendment.trade_id,
        trade.symbol,
        rfc3339(ts_us),
        describe(&made),
        describe(&replaced)
    ))
}

fn describe(version: &Version) -> String {
    match version.values {
        Some(values) => format!("price {} and qty {}", values.price, values.qty),
        None => "busted".to_owned(),
    }
}

/// Waits until the entry `id` of `stream` has made a version of the trade.
async fn await_version(
    connection: &mut AsyncPgConnection,
    amendment: &Amendment,
    decimals: u8,
    (stream, id): (Stream, &str),
    wait: Duration,
) -> anyhow::Result<Version> {
    let revision: Revision = id.parse::<StreamId>()?.try_into()?;
    let deadline = Instant::now() + wait;
    loop {
        let found = find(connection, amendment, decimals).await?;
        let made = found.and_then(|found| found.versions.iter().find(|made| made.revision == revision).copied());
        if let Some(made) = made {
            return Ok(made);
        }
        let letters = dead_letters::find(connection, Some(&stream.key().to_string()), id).await;
        if let Some(letter) = letters.explained("reading the dead letters")?.first() {
            return Err(anyhow!("the entry {id} became a dead letter: {}", letter.reason));
        }
        if Instant::now() > deadline {
            bail!(
                "the history does not contain the entry {id} of {} after {wait:?}; the warm-syncers apply it when they \
                 reach it, see `aggregator-admin status`",
                stream.key()
            );
        }
        sleep(PAUSE).await;
    }
}

async fn find(
    connection: &mut AsyncPgConnection,
    amendment: &Amendment,
    decimals: u8,
) -> anyhow::Result<Option<FoundTrade>> {
    trades::find(connection, amendment, decimals)
        .await
        .explained("reading the trade")
}
