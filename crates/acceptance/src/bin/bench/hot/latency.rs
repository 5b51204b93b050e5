//! Time from a tick's XADD to the published message.

use std::collections::VecDeque;
use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use acceptance::producer::PARTITIONS;
use anyhow::Context;
use tokio::task::spawn_blocking;
use tokio::time::sleep;

use super::client::Client;
use super::drain::{BATCH_ENTRIES, start_hot_writer};
use super::load::{Feed, Load, stream, symbols};
use super::throughput::SYMBOLS;
use crate::bench::Bench;
use crate::figure::{Figure, Target};

const TICKS_PER_MS: usize = 20;
/// Time at the start that is not measured.
const WARM_UP: Duration = Duration::from_secs(1);
/// Time without a message after which the subscriber stops.
const QUIET: Duration = Duration::from_secs(2);

const DESCRIPTION: &str = "20 ticks of 500 symbols every millisecond, XADDed by one producer, which records the time \
    of each; a subscriber of `tick:*` on its own connection records the arrival of each message. A tick's latency \
    ends with the first message of its symbol that has its trade ID or a later one: under load, updates are \
    conflated. The baseline is a bare client that XREADs all streams and PUBLISHes every tick, with the same producer \
    and subscriber. The first second is not counted.";

/// A tick that was sent or a message that was received: index of the symbol, trade ID, time.
type Event = (usize, u64, Instant);

/// Compares hot-writer with a bare XREAD and PUBLISH.
pub(crate) async fn latency(bench: &Bench) -> anyhow::Result<Vec<Figure>> {
    let mut p50 = Figure::new(
        "tick to message, 20,000 ticks/s, p50",
        DESCRIPTION,
        "ms",
        "bare XREAD, PUBLISH",
        Target::AtMost(2.0),
    );
    let mut p99 = Figure::new(
        "tick to message, 20,000 ticks/s, p99",
        DESCRIPTION,
        "ms",
        "bare XREAD, PUBLISH",
        Target::AtMost(3.0),
    );
    for _ in 0..bench.rounds {
        let theirs = bare(bench).await?;
        let ours = ours(bench).await?;
        p50.push(quantile(&ours, 0.5), quantile(&theirs, 0.5));
        p99.push(quantile(&ours, 0.99), quantile(&theirs, 0.99));
    }
    Ok(vec![p50, p99])
}

async fn ours(bench: &Bench) -> anyhow::Result<Vec<f64>> {
    let redis = bench.redis().await?;
    let _worker = start_hot_writer(bench, &redis).await?;
    measure(bench, redis.port()?).await
}

async fn bare(bench: &Bench) -> anyhow::Result<Vec<f64>> {
    let redis = bench.redis().await?;
    let port = redis.port()?;
    let end = Arc::new(AtomicBool::new(false));
    let relay = spawn_blocking({
        let end = end.clone();
        move || relay(port, &end)
    });
    sleep(Duration::from_millis(100)).await;
    let times = measure(bench, port).await;
    end.store(true, Ordering::Relaxed);
    relay.await??;
    times
}

/// Reads all streams and publishes every tick, until `end`.
fn relay(port: u16, end: &AtomicBool) -> anyhow::Result<()> {
    let (mut reader, mut publisher) = (Client::connect(port)?, Client::connect(port)?);
    let streams: Vec<String> = (0..PARTITIONS).map(stream).collect();
    let mut positions = vec![b"0-0".to_vec(); streams.len()];
    let count = BATCH_ENTRIES.to_string();
    while !end.load(Ordering::Relaxed) {
        let mut command: Vec<&[u8]> = vec![b"XREAD", b"COUNT", count.as_bytes(), b"BLOCK", b"250", b"STREAMS"];
        command.extend(streams.iter().map(String::as_bytes));
        command.extend(positions.iter().map(Vec::as_slice));
        reader.pack(&command);
        reader.send()?;
        let reply = reader.reply()?;
        let (mut strings, mut at, mut published) = (reply.strings().peekable(), 0, 0);
        while let Some(string) = strings.next() {
            if let Some(found) = streams.iter().position(|stream| stream.as_bytes() == string) {
                at = found;
                continue;
            }
            positions[at] = string.to_vec();
            let values: Vec<&[u8]> = strings.by_ref().take(12).skip(1).step_by(2).collect();
            let [symbol, ts_us, price, qty, trade_id, side] = values[..] else {
                anyhow::bail!("an entry has {} fields, expected 6", values.len())
            };
            let message = [
                br#"{"symbol":""#,
                symbol,
                br#"","price":"#,
                price,
                br#","qty":""#,
                qty,
                br#"","ts_us":"#,
                ts_us,
                br#","trade_id":""#,
                trade_id,
                br#"","side":""#,
                side,
                br#""}"#,
            ];
            publisher.pack(&[b"PUBLISH", &[b"tick:", symbol].concat(), &message.concat()]);
            published += 1;
        }
        publisher.send()?;
        publisher.skip(published)?;
    }
    Ok(())
}

/// Sends ticks at a steady rate and returns their latencies in ms, in ascending order.
async fn measure(bench: &Bench, port: u16) -> anyhow::Result<Vec<f64>> {
    let load = bench.load(0, SYMBOLS);
    let length = Duration::from_secs(bench.sized(15, 4));
    let end = Arc::new(AtomicBool::new(false));
    let subscriber = spawn_blocking({
        let end = end.clone();
        move || subscribe(port, &end)
    });
    sleep(Duration::from_millis(100)).await;
    let sent = spawn_blocking(move || produce(port, &load, length)).await??;
    end.store(true, Ordering::Relaxed);
    latencies(&sent, &subscriber.await??)
}

fn produce(port: u16, load: &Load, length: Duration) -> anyhow::Result<Vec<Event>> {
    let mut client = Client::connect(port)?;
    let mut replies = client.replies()?;
    let reader = thread::spawn(move || {
        let mut rest = [0; 64 * 1024];
        while replies.read(&mut rest).is_ok_and(|count| count > 0) {}
    });
    let (names, mut feed) = (symbols(load.symbols), Feed::new(load));
    let streams: Vec<String> = (0..PARTITIONS).map(stream).collect();
    let (begun, mut sent) = (Instant::now(), Vec::new());
    for ms in 0..u64::try_from(length.as_millis())? {
        let due = begun + Duration::from_millis(ms);
        thread::sleep(due.saturating_duration_since(Instant::now()));
        let ts_us = u64::try_from(SystemTime::UNIX_EPOCH.elapsed()?.as_micros())?;
        let first = sent.len();
        for _ in 0..TICKS_PER_MS {
            let tick = feed.tick(ts_us);
            let (name, partition) = &names[tick.symbol];
            tick.pack_xadd(&mut client, &streams[usize::from(*partition)], "*", name);
            sent.push((tick.symbol, tick.trade_id, begun));
        }
        let now = Instant::now();
        sent[first..].iter_mut().for_each(|(_, _, at)| *at = now);
        client.send()?;
    }
    let after_warm_up = begun + WARM_UP;
    sent.retain(|(_, _, at)| *at > after_warm_up);
    client.close()?;
    reader
        .join()
        .map_err(|_| anyhow::anyhow!("the thread that reads the replies panicked"))?;
    Ok(sent)
}

/// Records every message on `tick:*` until no message arrives after `end`.
fn subscribe(port: u16, end: &AtomicBool) -> anyhow::Result<Vec<Event>> {
    let mut client = Client::connect(port)?;
    client.pack(&[b"PSUBSCRIBE", b"tick:*"]);
    client.send()?;
    client.skip(1)?;
    client.set_read_timeout(QUIET)?;
    let mut received = Vec::new();
    loop {
        let Ok(reply) = client.reply() else {
            if end.load(Ordering::Relaxed) {
                return Ok(received);
            }
            continue;
        };
        let now = Instant::now();
        let mut strings = reply.strings().skip(2);
        let (channel, message) = strings.next().zip(strings.next()).context("a message")?;
        let symbol = digits_after(channel, b"tick:S")?.try_into()?;
        received.push((symbol, digits_after(message, br#""trade_id":""#)?, now));
    }
}

/// Returns the number that follows `prefix` in `text`.
fn digits_after(text: &[u8], prefix: &[u8]) -> anyhow::Result<u64> {
    let found = text
        .windows(prefix.len())
        .position(|part| part == prefix)
        .context("no number")?;
    let digits = text[found + prefix.len()..]
        .iter()
        .take_while(|byte| byte.is_ascii_digit());
    Ok(digits.fold(0, |number, digit| number * 10 + u64::from(digit - b'0')))
}

/// Returns the time from each tick's XADD to the first message that covers it, in ms, in ascending order.
fn latencies(sent: &[Event], received: &[Event]) -> anyhow::Result<Vec<f64>> {
    let mut open: Vec<VecDeque<(u64, Instant)>> = vec![VecDeque::new(); SYMBOLS];
    for (symbol, trade_id, at) in sent {
        open[*symbol].push_back((*trade_id, *at));
    }
    let mut times = Vec::with_capacity(sent.len());
    for (symbol, trade_id, at) in received {
        while let Some((_, sent)) = open[*symbol].pop_front_if(|(id, _)| *id <= *trade_id) {
            times.push(at.saturating_duration_since(sent).as_secs_f64() * 1_000.0);
        }
    }
    let missing: usize = open.iter().map(VecDeque::len).sum();
    anyhow::ensure!(missing == 0, "no message covers {missing} of {} ticks", sent.len());
    times.sort_by(f64::total_cmp);
    Ok(times)
}

fn quantile(sorted: &[f64], share: f64) -> f64 {
    sorted[(sorted.len() as f64 * share) as usize]
}
