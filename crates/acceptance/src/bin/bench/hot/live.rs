//! A live feed: one producer at a steady rate, and one subscriber that records every message.
//!
//! The event time of a tick is the time at which it was sent, to the microsecond, and differs for all ticks. A message
//! contains the event time of its newest tick (`ts_us`, `last_us`), so it says when that tick was sent.

use std::fmt;
use std::io::{self, Read};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use acceptance::redis_server::RedisServer;
use anyhow::{Context, ensure};
use tokio::task::spawn_blocking;
use tokio::time::sleep;

use super::client::Client;
use super::load::{Feed, Load, stream, symbols};
use super::observed::{Kind, Message, Observed, Sent};
use super::usage::{redis_usage, worker_cpu};
use crate::bench::Bench;

/// Time at the start that is not measured: at first every candle is new.
pub(crate) const WARM_UP: Duration = Duration::from_secs(2);
/// Interval at which the producer sends ticks.
const INTERVAL: Duration = Duration::from_millis(1);
/// Delay from which a tick counts as late, and the accepted share of late ticks.
const LATE: Duration = Duration::from_millis(50);
const MAX_LATE_SHARE: f64 = 0.01;
/// Number of attempts at a measurement whose producer does not hold its rate.
const ATTEMPTS: u32 = 3;
/// Time without a message after which the subscriber checks whether all ticks have arrived.
const QUIET: Duration = Duration::from_millis(100);
/// Maximum time for which the subscriber waits for the last ticks.
const PATIENCE: Duration = Duration::from_secs(20);
/// Initial capacity for messages, so that the subscriber does not copy them.
const MESSAGES: usize = 1 << 21;
const POLL: Duration = Duration::from_millis(20);
const MINUTE_US: u64 = 60_000_000;

/// Parameters of a live feed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Live {
    pub(crate) load: Load,
    pub(crate) partitions: u16,
    pub(crate) ticks_per_s: u64,
    /// Measured time, after [`WARM_UP`].
    pub(crate) length: Duration,
    /// Measured time before the turn of a minute; `None` if the feed does not cross one.
    pub(crate) turn_after: Option<Duration>,
}

/// Error of a producer that did not hold its rate. What was measured would not be what the figure says.
#[derive(Debug)]
struct RateNotHeld {
    ticks_per_s: u64,
    late_share: f64,
    latest: Duration,
}

impl std::error::Error for RateNotHeld {}

impl fmt::Display for RateNotHeld {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the producer did not hold {} ticks/s: it sent {:.1} % of the ticks more than {LATE:?} late, at most {:?}",
            self.ticks_per_s,
            self.late_share * 100.0,
            self.latest
        )
    }
}

/// Starts a Redis for a live feed. It does not rewrite its files, which a Redis that is seconds old would do in every
/// measurement.
pub(crate) async fn live_redis(bench: &Bench, partitions: u16) -> anyhow::Result<RedisServer> {
    let redis = bench.redis_of(partitions).await?;
    for setting in [["auto-aof-rewrite-percentage", "0"], ["save", ""]] {
        redis.ask::<()>(&["CONFIG", "SET", setting[0], setting[1]]).await?;
    }
    Ok(redis)
}

/// Waits until a client that reads entries waits for the first one.
pub(crate) async fn wait_until_blocked(redis: &RedisServer) -> anyhow::Result<()> {
    let begun = Instant::now();
    while !redis
        .ask::<String>(&["INFO", "clients"])
        .await?
        .contains("blocked_clients:1\r")
    {
        ensure!(begun.elapsed() < PATIENCE, "the client does not read the streams");
        sleep(POLL).await;
    }
    Ok(())
}

/// Measures again, up to [`ATTEMPTS`] times, while the producer does not hold its rate.
pub(crate) async fn steadily<T>(measure: impl AsyncFn() -> anyhow::Result<T>) -> anyhow::Result<T> {
    let mut attempt = 1;
    loop {
        match measure().await {
            Err(error) if error.is::<RateNotHeld>() && attempt < ATTEMPTS => eprintln!("bench: {error}; once more"),
            measured => return measured,
        }
        attempt += 1;
    }
}

/// Waits until the current minute lasts for `time` longer; waits for the next one if necessary.
pub(crate) async fn wait_for_minute_with(time: Duration) -> anyhow::Result<()> {
    let left = Duration::from_micros(MINUTE_US - now_us()? % MINUTE_US);
    if left < time {
        sleep(left).await;
    }
    Ok(())
}

impl Live {
    /// Sends the feed, records all messages, and measures the CPU time of Redis and of `workers` meanwhile. Ends when
    /// every tick is in a message on each kind of channel that had any messages.
    pub(crate) async fn observe(&self, redis: &RedisServer, workers: &[u32]) -> anyhow::Result<Observed> {
        let live = *self;
        let port = redis.port()?;
        let mut subscriber = spawn_blocking(move || subscriber(port)).await??;
        match self.turn_after {
            None => wait_for_minute_with(WARM_UP + self.length).await?,
            Some(lead) => {
                let before = MINUTE_US - now_us()? % MINUTE_US;
                let start = u64::try_from((WARM_UP + lead).as_micros())?;
                let wait_us = (before + MINUTE_US - start) % MINUTE_US;
                sleep(Duration::from_micros(wait_us)).await;
            }
        }
        let last_sent: Arc<OnceLock<Vec<u64>>> = Arc::default();
        let messages = spawn_blocking({
            let last_sent = last_sent.clone();
            move || record(&mut subscriber, live.load.symbols, &last_sent)
        });
        let from_us = now_us()? + u64::try_from(WARM_UP.as_micros())?;
        let producer = spawn_blocking(move || produce(port, &live));
        sleep(WARM_UP).await;
        let before = (redis_usage(redis).await?.cpu_s, worker_cpu(workers)?);
        let sent = producer.await??;
        let after = (redis_usage(redis).await?.cpu_s, worker_cpu(workers)?);
        let to_us = now_us()?;

        let mut newest = vec![0; self.load.symbols];
        for tick in &sent {
            newest[tick.symbol] = tick.at_us;
        }
        last_sent.get_or_init(|| newest);
        let messages = messages.await??;
        let ticks = self.ticks_per_s as f64 * self.length.as_secs_f64();
        Ok(Observed {
            sent,
            messages,
            from_us,
            to_us,
            redis_us: (after.0 - before.0) * 1e6 / ticks,
            worker_us: (after.1 - before.1) * 1e6 / ticks,
        })
    }
}

pub(crate) fn now_us() -> anyhow::Result<u64> {
    Ok(SystemTime::UNIX_EPOCH.elapsed()?.as_micros().try_into()?)
}

/// Sends the ticks of the feed and returns them. Fails if they were not sent when they were due.
fn produce(port: u16, live: &Live) -> anyhow::Result<Vec<Sent>> {
    let mut client = Client::operator(port)?;
    let mut replies = client.replies()?;
    let reader = thread::spawn(move || {
        let mut rest = [0; 64 * 1024];
        while replies.read(&mut rest).is_ok_and(|count| count > 0) {}
    });
    let (names, mut feed) = (symbols(live.load.symbols, live.partitions), Feed::new(&live.load));
    let streams: Vec<String> = (0..live.partitions).map(stream).collect();
    let at_once = live.ticks_per_s * u64::try_from(INTERVAL.as_micros())? / 1_000_000;
    let intervals = (WARM_UP + live.length).as_micros() / INTERVAL.as_micros();
    let (begun, mut due, mut sent) = (Instant::now(), Duration::ZERO, Vec::new());
    let (mut late, mut latest, mut at_us) = (0, Duration::ZERO, 0);
    for _ in 0..intervals {
        let mut ticks: Vec<_> = (0..at_once).map(|_| feed.tick(0)).collect();
        due += INTERVAL;
        thread::sleep(due.saturating_sub(begun.elapsed()));
        let lateness = begun.elapsed().saturating_sub(due);
        latest = latest.max(lateness);
        late += if lateness > LATE { at_once } else { 0 };
        for tick in &mut ticks {
            at_us = now_us()?.max(at_us + 1);
            tick.ts_us = at_us;
            let (name, partition) = &names[tick.symbol];
            tick.pack_xadd(&mut client, &streams[usize::from(*partition)], "*", name);
            sent.push(Sent {
                symbol: tick.symbol,
                at_us,
            });
        }
        client.send()?;
    }
    client.close()?;
    reader
        .join()
        .map_err(|_| anyhow::anyhow!("the thread that reads the replies panicked"))?;
    let late_share = late as f64 / sent.len() as f64;
    if late_share > MAX_LATE_SHARE {
        let ticks_per_s = live.ticks_per_s;
        return Err(RateNotHeld {
            ticks_per_s,
            late_share,
            latest,
        }
        .into());
    }
    Ok(sent)
}

/// Subscribes to all ticks and candles.
fn subscriber(port: u16) -> anyhow::Result<Client> {
    let mut client = Client::operator(port)?;
    client.pack(&[b"PSUBSCRIBE", b"tick:*", b"candle:*"]);
    client.send()?;
    client.skip(2)?;
    client.set_read_timeout(QUIET)?;
    Ok(client)
}

/// Records the messages until the newest tick of every symbol has arrived. `last_sent` gets its event time when the
/// producer has ended.
fn record(client: &mut Client, symbols: usize, last_sent: &OnceLock<Vec<u64>>) -> anyhow::Result<Vec<Message>> {
    let mut messages = Vec::with_capacity(MESSAGES);
    // By kind and symbol, the newest tick in a message.
    let mut newest = [(); Kind::COUNT].map(|()| vec![0; symbols]);
    let mut ended = None;
    loop {
        match client.reply() {
            Ok(reply) => {
                let received_us = now_us()?;
                let mut strings = reply.strings().skip(2);
                let (channel, text) = strings.next().zip(strings.next()).context("a message")?;
                let message = Message::parse(channel, text, received_us)?;
                if let Some(newest) = newest[message.kind.of_ticks() as usize].get_mut(message.symbol) {
                    *newest = message.newest_us.max(*newest);
                    messages.push(message);
                }
            }
            Err(error) if is_timeout(&error) => {
                let Some(last_sent) = last_sent.get() else { continue };
                let ended = *ended.get_or_insert_with(Instant::now);
                let are_complete = [Kind::Tick, Kind::Minute].into_iter().all(|kind| {
                    let newest = &newest[kind as usize];
                    newest.iter().all(|at| *at == 0) || newest == last_sent
                });
                if are_complete || ended.elapsed() > PATIENCE {
                    return Ok(messages);
                }
            }
            Err(error) => return Err(error.context("reading messages")),
        }
    }
}

fn is_timeout(error: &anyhow::Error) -> bool {
    let kind = error.downcast_ref::<io::Error>().map(io::Error::kind);
    matches!(kind, Some(io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut))
}
