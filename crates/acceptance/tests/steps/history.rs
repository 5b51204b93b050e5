//! The history: replays, candles, ticks and queries.

use std::path::PathBuf;

use acceptance::oracle;
use acceptance::requirements::market_data;
use cucumber::gherkin::Step;
use cucumber::{then, when};
use storage_core::testing::polling::{PATIENCE, until, until_within};
use storage_core::testing::process::project;
use storage_core::testing::program::Outcome;

use super::check::{check, equal};
use super::table::rows;
use super::trades::minute_us;
use super::world::World;

const SEED: &str = "seed/xrpeth-aggTrades-2019-10-11.csv";
/// Arguments of a replay, before speed and file.
const REPLAY: [&str; 4] = ["replay", "--format=binance-agg-trades", "--symbol=XRPETH", "--speed"];
const LARGER: [(&str, &str); 5] = [
    ("5m", "5 minutes"),
    ("15m", "15 minutes"),
    ("1h", "1 hour"),
    ("4h", "4 hours"),
    ("1d", "1 day"),
];

fn trade_file(which: &str) -> PathBuf {
    match which {
        "seed" => project().join(SEED),
        _ => market_data().expect("MARKET_DATA_DIR").join("xrpeth_agg_trades.csv"),
    }
}

async fn replay(world: &World, which: &str, speed: &str) {
    let file = trade_file(which);
    let arguments = [&REPLAY[..], &[speed, file.to_str().unwrap()]].concat();
    world.pipeline.succeed("tick-replayer", &arguments).await;
}

fn expect_trades(world: &mut World, which: &str) {
    let trades = oracle::binance_trades(&trade_file(which), "XRPETH");
    world.trades.extend(trades);
}

#[when(expr = "the {word} trades are replayed at speed {word}")]
async fn replayed(world: &mut World, which: String, speed: String) {
    replay(world, &which, &speed).await;
    expect_trades(world, &which);
}

#[when(expr = "the {word} trades are replayed {int} time(s) at speed {word}")]
async fn replayed_often(world: &mut World, which: String, times: usize, speed: String) {
    for _ in 0..times {
        replay(world, &which, &speed).await;
    }
    expect_trades(world, &which);
}

#[when(expr = "the replay of the {word} trades begins at speed {word}")]
async fn replay_begins(world: &mut World, which: String, speed: String) {
    let mut replayer = tokio::process::Command::from(world.pipeline.program("tick-replayer").command(&REPLAY));
    replayer.kill_on_drop(true).arg(speed).arg(trade_file(&which));
    let running = tokio::spawn(async move { replayer.output().await.map(Outcome::from) });
    world.notes.replay = Some(running);
    expect_trades(world, &which);
}

#[when(expr = "{int} trades have been folded")]
async fn folded(world: &mut World, count: u64) {
    until("trades of candle:current:1d:XRPETH", async || {
        let hash = world.pipeline.hash("candle:current:1d:XRPETH").await?;
        let trades: u64 = hash
            .get("trades")
            .and_then(|text| text.parse().ok())
            .unwrap_or_default();
        check(trades >= count, count.., trades)
    })
    .await;
}

#[then("the replay succeeds")]
async fn replay_ends(world: &mut World) {
    let running = world.notes.replay.take().expect("a replay");
    let outcome = tokio::time::timeout(2 * PATIENCE, running)
        .await
        .expect("the replay's end")
        .unwrap()
        .unwrap();
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
}

#[then("candles_1m holds every trade exactly once")]
async fn exactly_once(world: &mut World) {
    let expected = oracle::group(&world.trades, oracle::width_us("1m"));
    until_within(2 * PATIENCE, "candles_1m", async || {
        oracle::compare(&expected, &world.pipeline.history("1m").await?)
    })
    .await;
}

#[then("every larger timeframe holds every trade exactly once")]
async fn exactly_once_in_larger(world: &mut World) {
    for (timeframe, _) in LARGER {
        let expected = oracle::group(&world.trades, oracle::width_us(timeframe));
        until_within(2 * PATIENCE, timeframe, async || {
            oracle::compare(&expected, &world.pipeline.history(timeframe).await?)
        })
        .await;
    }
}

#[when(expr = "the chunks of candles_1m older than {int} days are dropped")]
async fn minutes_dropped(world: &mut World, days: i64) {
    let drop = format!("SELECT count(*) FROM drop_chunks('candles_1m', INTERVAL '{days} days')");
    assert_ne!(world.pipeline.value(&drop).await.unwrap(), "0");
}

#[then(expr = "candles_1m holds exactly the {int} candles that another program computed from them")]
async fn exactly_those(world: &mut World, count: usize) {
    let expected = oracle::candle_file(&market_data().unwrap().join("xrpeth_candles_1m.csv"), "XRPETH");
    assert_eq!(expected.len(), count);
    until_within(2 * PATIENCE, "candles_1m", async || {
        oracle::compare(&expected, &world.pipeline.history("1m").await?)
    })
    .await;
}

#[then("ticks holds every trade exactly once")]
async fn ticks_once(world: &mut World) {
    let trades = |bars: oracle::Bars| bars.values().map(|bar| bar.trades).sum::<i64>().to_string();
    let expected = trades(oracle::group(&world.trades, oracle::width_us("1d")));
    until("ticks", async || {
        let found = world.pipeline.value("SELECT count(*) FROM ticks").await?;
        equal(&found, &expected)
    })
    .await;
}

#[then("every larger timeframe is the aggregate of candles_1m")]
async fn larger_timeframes(world: &mut World) {
    for (timeframe, width) in LARGER {
        let table = format!("candles_{timeframe}");
        let grouped = format!(
            "SELECT date_bin('{width}', time, '1970-01-01 00:00Z'), symbol, (array_agg(open ORDER BY time))[1],
                    max(high), min(low), (array_agg(close ORDER BY time DESC))[1], sum(volume)::numeric,
                    sum(trades)::bigint
             FROM candles_1m GROUP BY 1, 2"
        );
        let kept = format!("SELECT time, symbol, open, high, low, close, volume::numeric, trades::bigint FROM {table}");
        let differences = format!(
            "SELECT (SELECT count(*) FROM ({grouped}) g) || ' expected, '
                 || (SELECT count(*) FROM ({kept}) k) || ' found, '
                 || (SELECT count(*) FROM (({grouped}) EXCEPT ({kept})) d) || ' differ'"
        );
        until_within(2 * PATIENCE, &table, async || {
            let found = world.pipeline.value(&differences).await?;
            let expected = found.split(' ').next().unwrap();
            match expected != "0" && found == format!("{expected} expected, {expected} found, 0 differ") {
                true => Ok(()),
                false => Err(found),
            }
        })
        .await;
    }
}

#[then(expr = "the query {string} returns {string}")]
async fn query(world: &mut World, sql: String, expected: String) {
    until_within(2 * PATIENCE, &sql, async || {
        let rows = world.pipeline.rows(&sql).await?;
        let found = rows.iter().map(|row| row.join(" ")).collect::<Vec<_>>().join(", ");
        equal(&found, &expected)
    })
    .await;
}

#[then("these queries return:")]
async fn queries(world: &mut World, step: &Step) {
    for row in rows(step) {
        query(world, row["query"].clone(), row["result"].clone()).await;
    }
}

#[then(expr = "the 1-minute candle of {word} from {int} days ago is:")]
async fn minute_is(world: &mut World, symbol: String, days: i64, step: &Step) {
    let start_us = minute_us(world, days);
    let sql = format!(
        "SELECT open, high, low, close, trim_scale(volume), trades FROM candles_in_units
         WHERE timeframe = '1m' AND symbol = '{symbol}' AND time = to_timestamp({start_us} / 1000000)"
    );
    let columns = ["open", "high", "low", "close", "volume", "trades"];
    let expected = [columns.map(|column| rows(step)[0][column].clone()).to_vec()];
    until_within(2 * PATIENCE, "the minute", async || {
        let found = world.pipeline.rows(&sql).await?;
        equal(&found, &expected)
    })
    .await;
}

#[when(expr = "I repair the minute of {word} from {int} days ago")]
async fn repaired(world: &mut World, symbol: String, days: i64) {
    let start_us = minute_us(world, days);
    let [from, to] = [start_us, start_us + 60_000_000].map(storage_core::domain::time::rfc3339);
    world
        .pipeline
        .succeed("aggregator-admin", &["repair", &symbol, "--from", &from, "--to", &to])
        .await;
}

#[then("every stream is drained")]
async fn drained(world: &mut World) {
    until("the streams", async || world.pipeline.drained().await).await;
}

#[then("`aggregator-admin verify` soon exits 0")]
async fn verified(world: &mut World) {
    let admin = world.pipeline.program("aggregator-admin");
    until("verify", async || {
        let outcome = admin.run(&["verify"]).await;
        check(outcome.code == Some(0), "exit code 0", &outcome)
    })
    .await;
}
