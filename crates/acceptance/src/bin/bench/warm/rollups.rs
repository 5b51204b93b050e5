//! Larger timeframes: what it costs to bring them up to date, and what reading them spares.
//!
//! The history ends two days ago at midnight, so that every bucket is over and made.

use std::time::{Duration, Instant};

use anyhow::ensure;
use storage_core::domain::timeframe::Timeframe;
use storage_core::postgres::edition::Edition;

use super::figure;
use super::stores::{Session, Stores};
use crate::bench::Bench;
use crate::figure::{Figure, Reach};

const LARGER: [Timeframe; 5] = [
    Timeframe::M5,
    Timeframe::M15,
    Timeframe::H1,
    Timeframe::H4,
    Timeframe::D1,
];
/// Symbols of the history that is refreshed.
const SYMBOLS: usize = 500;
/// Minutes of a year.
const YEAR: usize = 365 * 1_440;
/// How often a query is run; the fastest counts.
const RUNS: usize = 5;

/// On a history of 500 symbols that has only minutes yet, in seconds:
///
/// 1. `aggregator-admin refresh --all`, from start to exit, against one `INSERT … SELECT … GROUP BY` from `candles_1m` for each
///    timeframe, into plain tables with the same columns and primary key;
/// 2. the hourly candles of all symbols, read from `candles_1h` and computed from `candles_1m`, all rows to the client.
pub(crate) async fn apache(bench: &Bench) -> anyhow::Result<Vec<Figure>> {
    let minutes = bench.sized(2_000, 200);
    of_edition(
        bench,
        Edition::Apache,
        minutes,
        ["rollups refreshed", "hourly candles of all symbols"],
    )
    .await
}

/// The same on the Community edition, which keeps the larger timeframes itself. Its server is the embedded one, so there are fewer
/// minutes.
pub(crate) async fn community(bench: &Bench) -> anyhow::Result<Vec<Figure>> {
    let minutes = bench.sized(400, 60);
    let names = [
        "rollups refreshed, Community",
        "hourly candles of all symbols, Community",
    ];
    of_edition(bench, Edition::Community, minutes, names).await
}

async fn of_edition(
    bench: &Bench,
    edition: Edition,
    minutes: usize,
    names: [&'static str; 2],
) -> anyhow::Result<Vec<Figure>> {
    let stores = Stores::start(bench, edition).await?;
    fill(&stores, bench.seed, SYMBOLS, minutes).await?;
    let mut refreshed = figure(
        names[0],
        "all larger timeframes of a history that has only minutes yet, by aggregator-admin refresh --all",
        "s",
        "one INSERT … SELECT … GROUP BY from candles_1m for each timeframe",
        Reach::AtMost(1.3),
    );
    let mut read = figure(
        names[1],
        "all hourly candles, read from candles_1h",
        "s",
        "the same computed from candles_1m",
        Reach::AtLeast(100.0),
    );
    for _ in 0..bench.rounds {
        let session = stores.session().await?;
        let plain = insert_plainly(&session).await?;
        if edition == Edition::Apache {
            session.client.batch_execute("TRUNCATE rollup_progress").await?;
        }
        for timeframe in LARGER {
            session.empty(timeframe.table()).await?;
        }
        session.close().await;
        let begun = Instant::now();
        stores.admin(&["refresh", "--all"]).await?;
        refreshed.push(begun.elapsed().as_secs_f64(), plain.as_secs_f64());

        let session = stores.session().await?;
        for timeframe in LARGER {
            let rows = async |table: String| session.number(&format!("SELECT count(*) FROM {table}")).await;
            let (ours, plain) = (
                rows(timeframe.table().to_owned()).await?,
                rows(plain_table(timeframe)).await?,
            );
            ensure!(ours == plain, "{ours} candles of {timeframe}, not {plain}");
        }
        let made = fastest(&session, "SELECT * FROM candles_1h").await?;
        let computed = fastest(&session, &computed(Timeframe::H1, "candles_1m")).await?;
        read.push_inverse(made, computed);
        session.close().await;
    }
    Ok(vec![refreshed, read])
}

/// The daily candles of one symbol over a year, read from `candles_1d` and computed from `candles_1m`, in seconds, all rows to the
/// client. The database holds that year of the symbol, and nothing else.
pub(crate) async fn year(bench: &Bench) -> anyhow::Result<Vec<Figure>> {
    let stores = Stores::start(bench, Edition::Apache).await?;
    fill(&stores, bench.seed, 1, YEAR).await?;
    let session = stores.session().await?;
    // Not by a refresh: how the days were made is another figure, and reading them shows no difference.
    let made = format!("INSERT INTO candles_1d {}", computed(Timeframe::D1, "candles_1m"));
    session.client.batch_execute(&made).await?;
    session.client.batch_execute("VACUUM ANALYZE candles_1d").await?;
    let mut read = figure(
        "daily candles of one symbol over a year",
        "365 daily candles, read from candles_1d",
        "s",
        "the same computed from candles_1m",
        Reach::AtLeast(50.0),
    );
    let condition = "WHERE symbol = 'SYM001'";
    for _ in 0..bench.rounds {
        let made = fastest(&session, &format!("SELECT * FROM candles_1d {condition}")).await?;
        let from = format!("candles_1m {condition}");
        let computed = fastest(&session, &computed(Timeframe::D1, &from)).await?;
        read.push_inverse(made, computed);
    }
    session.close().await;
    Ok(vec![read])
}

/// Candles of `symbols` for `minutes` minutes until two days ago at midnight, in the order of time, as they come.
async fn fill(stores: &Stores<'_>, seed: u64, symbols: usize, minutes: usize) -> anyhow::Result<()> {
    let session = stores.session().await?;
    let seed = seed % 1_000;
    session
        .client
        .batch_execute(&format!(
            "SELECT setseed({seed} / 1000.0);
             INSERT INTO candles_1m (time, symbol, open, high, low, close, volume, trades, revision)
             SELECT time, 'SYM' || lpad(number::text, 3, '0'), price, price + 0.05, price - 0.05, price + 0.01,
                    (random() * 1e12)::bigint, (random() * 400)::integer + 1, (extract(epoch FROM time) * 1000)::bigint << 22 | number
             FROM (SELECT time, number, round((100 + number + random())::numeric, 2)::float8 AS price
                   FROM generate_series(date_trunc('day', now(), 'UTC') - INTERVAL '2 days' - INTERVAL '{minutes} minutes',
                                        date_trunc('day', now(), 'UTC') - INTERVAL '2 days 1 minute', INTERVAL '1 minute') AS time,
                        generate_series(1, {symbols}) AS number) priced
             ORDER BY time, number"
        ))
        .await?;
    session.client.batch_execute("VACUUM ANALYZE candles_1m").await?;
    session.close().await;
    Ok(())
}

/// The candles of `timeframe`, computed from smaller ones.
fn computed(timeframe: Timeframe, from: &str) -> String {
    format!(
        "SELECT time_bucket(INTERVAL '{} seconds', time), symbol, first(open, time), max(high), min(low), last(close, time),
                sum(volume), sum(trades)::bigint, max(revision)
         FROM {from} GROUP BY 1, 2",
        timeframe.seconds()
    )
}

fn plain_table(timeframe: Timeframe) -> String {
    format!("plain_{timeframe}")
}

/// What a refresh is compared with.
async fn insert_plainly(session: &Session) -> anyhow::Result<Duration> {
    let mut statements = String::new();
    for timeframe in LARGER {
        let table = plain_table(timeframe);
        session
            .client
            .batch_execute(&format!(
                "DROP TABLE IF EXISTS {table};
                 CREATE TABLE {table} (time timestamptz NOT NULL, symbol text NOT NULL, open float8 NOT NULL, high float8 NOT NULL,
                     low float8 NOT NULL, close float8 NOT NULL, volume numeric NOT NULL, trades bigint NOT NULL,
                     revision bigint NOT NULL, PRIMARY KEY (symbol, time))"
            ))
            .await?;
        statements += &format!("INSERT INTO {table} {};", computed(timeframe, "candles_1m"));
    }
    session.client.batch_execute("CHECKPOINT").await?;
    let begun = Instant::now();
    session.client.batch_execute(&statements).await?;
    Ok(begun.elapsed())
}

/// Seconds from a query to its last row, the fastest of several runs.
async fn fastest(session: &Session, sql: &str) -> anyhow::Result<f64> {
    let statement = session.client.prepare(sql).await?;
    let mut fastest = f64::INFINITY;
    for _ in 0..RUNS {
        let begun = Instant::now();
        session.client.query(&statement, &[]).await?;
        fastest = fastest.min(begun.elapsed().as_secs_f64());
    }
    Ok(fastest)
}
