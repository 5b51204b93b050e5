//! Larger timeframes: cost of a refresh, and time that reading them saves.
//!
//! The history ends two days ago at midnight, so that every bucket is closed and materialized.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use serde_json::Value;
use storage_core::domain::timeframe::Timeframe;
use storage_core::postgres::edition::Edition;
use tokio_postgres::SimpleQueryMessage;

use super::stores::{Session, Stores};
use crate::bench::Bench;
use crate::figure::{Figure, Target};

const LARGER: [Timeframe; 5] = [
    Timeframe::M5,
    Timeframe::M15,
    Timeframe::H1,
    Timeframe::H4,
    Timeframe::D1,
];
/// Number of symbols of the history that is refreshed.
const SYMBOLS: usize = 500;
/// Minutes of a year.
const YEAR: usize = 365 * 1_440;
/// Runs of a query; the fastest counts.
const RUNS: usize = 5;

/// Measures refreshing and reading on the Apache edition, where aggregator-admin materializes larger timeframes.
pub(crate) async fn apache(bench: &Bench) -> anyhow::Result<Vec<Figure>> {
    let minutes = bench.sized(2_000, 200);
    on_edition(
        bench,
        Edition::Apache,
        minutes,
        ["refresh, all timeframes", "hourly candles"],
    )
    .await
}

/// Measures the same on the Community edition, where TimescaleDB materializes larger timeframes. Its server is the
/// embedded one, so there are fewer minutes.
pub(crate) async fn community(bench: &Bench) -> anyhow::Result<Vec<Figure>> {
    let minutes = bench.sized(1_000, 60);
    let names = ["refresh, all timeframes, Community", "hourly candles, Community"];
    on_edition(bench, Edition::Community, minutes, names).await
}

async fn on_edition(
    bench: &Bench,
    edition: Edition,
    minutes: usize,
    names: [&'static str; 2],
) -> anyhow::Result<Vec<Figure>> {
    let stores = Stores::start(bench, edition).await?;
    fill(&stores, bench.seed, SYMBOLS, minutes).await?;
    let mut refreshed = Figure::new(
        names[0],
        "seconds of `aggregator-admin refresh --all`, from start to exit, on a history of 500 symbols that has only \
         minutes. The baseline is one INSERT … SELECT … GROUP BY from candles_1m for each timeframe, into plain \
         tables with the same columns and primary key.",
        "s",
        "INSERT … GROUP BY",
        Target::AtMost(1.3),
    );
    let mut read = Figure::new(
        names[1],
        "hourly candles of all symbols, read from candles_1h, compared with computing them from candles_1m. The time \
         is the server's, until all rows are serialized, because sending them takes the same time on both sides. The \
         fastest of several runs.",
        "ms",
        "from candles_1m",
        Target::AtLeast(100.0),
    );
    for _ in 0..bench.rounds {
        let session = stores.session().await?;
        let plain = insert_into_plain_tables(&session).await?;
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
            ensure!(ours == plain, "candles_{timeframe} has {ours} rows, expected {plain}");
        }
        let materialized = fastest(&session, "SELECT * FROM candles_1h").await?;
        let computed = fastest(&session, &computed(Timeframe::H1, "candles_1m")).await?;
        compare(&mut read, materialized, computed);
        session.close().await;
    }
    Ok(vec![refreshed, read])
}

/// Measures reading a year of one symbol.
pub(crate) async fn year(bench: &Bench) -> anyhow::Result<Vec<Figure>> {
    let stores = Stores::start(bench, Edition::Apache).await?;
    fill(&stores, bench.seed, 1, YEAR).await?;
    let session = stores.session().await?;
    // The candles are inserted without a refresh, which is measured elsewhere and does not affect reading.
    let insert = format!("INSERT INTO candles_1d {}", computed(Timeframe::D1, "candles_1m"));
    session.client.batch_execute(&insert).await?;
    session.client.batch_execute("VACUUM ANALYZE candles_1d").await?;
    let mut read = Figure::new(
        "daily candles of a year",
        "daily candles of one symbol over a year, read from candles_1d, compared with computing them from \
         candles_1m; the server's time, as with hourly candles. The database contains only this year of the symbol.",
        "ms",
        "from candles_1m",
        Target::AtLeast(50.0),
    );
    let condition = "WHERE symbol = 'SYM001'";
    for _ in 0..bench.rounds {
        let materialized = fastest(&session, &format!("SELECT * FROM candles_1d {condition}")).await?;
        let from = format!("candles_1m {condition}");
        let computed = fastest(&session, &computed(Timeframe::D1, &from)).await?;
        compare(&mut read, materialized, computed);
    }
    session.close().await;
    Ok(vec![read])
}

/// Inserts the candles of `symbols` symbols for `minutes` minutes until two days ago at midnight, in order of time.
async fn fill(stores: &Stores<'_>, seed: u64, symbols: usize, minutes: usize) -> anyhow::Result<()> {
    let session = stores.session().await?;
    let seed = seed % 1_000;
    session
        .client
        .batch_execute(&format!(
            "SELECT setseed({seed} / 1000.0);
             INSERT INTO candles_1m (time, symbol, open, high, low, close, volume, trades, revision)
             SELECT time, 'SYM' || lpad(number::text, 3, '0'), price, price + 0.05, price - 0.05, price + 0.01,
                    (random() * 1e12)::bigint, (random() * 400)::integer + 1,
                    (extract(epoch FROM time) * 1000)::bigint << 22 | number
             FROM (SELECT time, number, round((100 + number + random())::numeric, 2)::float8 AS price
                   FROM generate_series(date_trunc('day', now(), 'UTC') - INTERVAL '2 days {minutes} minutes',
                                        date_trunc('day', now(), 'UTC') - INTERVAL '2 days 1 minute',
                                        INTERVAL '1 minute') AS time,
                        generate_series(1, {symbols}) AS number) priced
             ORDER BY time, number"
        ))
        .await?;
    session.client.batch_execute("VACUUM ANALYZE candles_1m").await?;
    session.close().await;
    Ok(())
}

/// Returns the query that computes the candles of `timeframe` from smaller ones.
fn computed(timeframe: Timeframe, from: &str) -> String {
    format!(
        "SELECT time_bucket(INTERVAL '{} seconds', time), symbol, first(open, time), max(high), min(low),
                last(close, time),
                sum(volume), sum(trades)::bigint, max(revision)
         FROM {from} GROUP BY 1, 2",
        timeframe.seconds()
    )
}

fn plain_table(timeframe: Timeframe) -> String {
    format!("plain_{timeframe}")
}

/// Returns the time of the baseline of a refresh.
async fn insert_into_plain_tables(session: &Session) -> anyhow::Result<Duration> {
    let mut statements = String::new();
    for timeframe in LARGER {
        let table = plain_table(timeframe);
        session
            .client
            .batch_execute(&format!(
                "DROP TABLE IF EXISTS {table};
                 CREATE TABLE {table} (time timestamptz NOT NULL, symbol text NOT NULL, open float8 NOT NULL,
                     high float8 NOT NULL,
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

/// Time of a query, in ms.
#[derive(Clone, Copy)]
struct QueryTime {
    /// Planning, executing and serializing the rows.
    server: f64,
    /// Planning and executing, without serializing the rows.
    read: f64,
    /// Time from sending the query to receiving the last row.
    client: f64,
}

/// Runs a query several times and returns the fastest times.
async fn fastest(session: &Session, sql: &str) -> anyhow::Result<QueryTime> {
    let (statement, mut fastest) = (session.client.prepare(sql).await?, None);
    for _ in 0..RUNS {
        let server = server_ms(session, sql, "SERIALIZE BINARY").await?;
        let read = server_ms(session, sql, "SERIALIZE NONE").await?;
        let begun = Instant::now();
        session.client.query(&statement, &[]).await?;
        let client = begun.elapsed().as_secs_f64() * 1e3;
        let best = fastest.get_or_insert(QueryTime { server, read, client });
        *best = QueryTime {
            server: best.server.min(server),
            read: best.read.min(read),
            client: best.client.min(client),
        };
    }
    fastest.context("no run")
}

async fn server_ms(session: &Session, sql: &str, serialize: &str) -> anyhow::Result<f64> {
    let explain = format!("EXPLAIN (ANALYZE, TIMING OFF, {serialize}, FORMAT JSON) {sql}");
    let messages = session.client.simple_query(&explain).await?;
    let plan = messages.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(0),
        _ => None,
    });
    let plan: Value = serde_json::from_str(plan.context("EXPLAIN returned no plan")?)?;
    let ms = |name: &str| plan[0][name].as_f64().with_context(|| format!("no `{name}` in {plan}"));
    Ok(ms("Planning Time")? + ms("Execution Time")?)
}

/// Adds a round to a figure of reading candles.
fn compare(figure: &mut Figure, materialized: QueryTime, computed: QueryTime) {
    figure.push_inverse(materialized.server, computed.server);
    figure.note = Some(format!(
        "in the last round, {:.1} ms without serializing the rows, compared with {:.1} ms: {:.0} times; {:.1} ms up to \
         the last row at the client, compared with {:.1} ms: {:.0} times",
        materialized.read,
        computed.read,
        computed.read / materialized.read,
        materialized.client,
        computed.client,
        computed.client / materialized.client
    ));
}
