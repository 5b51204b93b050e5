//! What warm-syncer drains a second: against what the database takes at most, and against a plain Python worker.
//!
//! The streams are filled before, the clock of a drain starts when the workers are ready, and the tables are empty but where it is
//! said. warm-syncer has its default configuration.

use anyhow::ensure;
use storage_core::postgres::edition::Edition;
use storage_core::redis::stream::Stream;

use super::drain::drain;
use super::load::{self, SYMBOLS};
use super::stores::{Session, Stores, rate};
use super::{limit, python};
use crate::bench::Bench;
use crate::figure::{Figure, Reach};

const PYTHON: &str = "warm-syncer drains the same as `python/warm_worker.py`, which drains a part of it: redis-py with hiredis and \
    psycopg, a consumer group, as many entries in a transaction as ours, one COPY to a staging table, one upsert and one XACK a batch. \
    It measures itself from its first read to its last acknowledgement, and knows no dead letters and no repairs.";

/// 1-minute candles of 500 symbols, from the streams of all partitions into `candles_1m`.
pub(crate) async fn candles(bench: &Bench) -> anyhow::Result<Vec<Figure>> {
    let (minutes, python_entries) = bench.sized((2_000, 200_000), (200, 20_000));
    let stores = Stores::start(bench, Edition::Apache).await?;
    let rows = load::candles(bench.seed, minutes)?;
    load::add_candles(&stores.redis, &rows).await?;
    let session = stores.session().await?;
    let work = Work {
        stores: &stores,
        session: &session,
        table: "candles_1m",
        streams: Stream::Candles,
        count: minutes * SYMBOLS,
    };
    let batch = work.batch_rows("batch_rows").await?;

    let mut one = Figure::new(
        "warm-syncer, candles",
        "warm-syncer drains 1-minute candles from all partitions into an empty candles_1m, from the moment its readers are woken until its \
         group has finished. The limit is the same statement as it writes with, for the same rows in the same order, ready in memory, \
         by one connection, committed after each batch; the best of batches of 1,000, 5,000 and 10,000.",
        "rows/s",
        "INSERT … unnest",
        Reach::AtLeast(0.85),
    );
    let mut two = Figure::new(
        "warm-syncer, candles, two copies",
        "two copies of warm-syncer drain the same into an empty candles_1m, against the same limit, which has one connection.",
        "rows/s",
        "INSERT … unnest",
        Reach::AtLeast(1.3),
    );
    let mut again = Figure::new(
        "warm-syncer, candles again",
        "warm-syncer reads the same streams from their begin while candles_1m holds every row already.",
        "rows/s",
        "the first time",
        Reach::AtLeast(1.0),
    );
    let mut plain = Figure::new(
        "warm-syncer, candles, by a plain worker in Python",
        PYTHON,
        "rows/s",
        "psycopg",
        Reach::AtLeast(2.0),
    );
    for _ in 0..bench.rounds {
        let limit = limit::insert_candles(&session, &rows).await?;
        let ours = work.drain(1).await?;
        one.push(ours, limit);
        again.push(work.replay(1).await?, ours);
        two.push(work.drain(2).await?, limit);
        work.empty().await?;
        plain.push(
            ours,
            python::drain(bench, &stores, "candles", batch, python_entries).await?,
        );
    }
    session.close().await;
    Ok(vec![one, two, again, plain])
}

/// Ticks of 500 symbols, all equally busy, from the streams of all partitions into `ticks`.
pub(crate) async fn ticks(bench: &Bench) -> anyhow::Result<Vec<Figure>> {
    let (count, python_entries) = bench.sized((2_000_000, 200_000), (200_000, 40_000));
    let stores = Stores::start(bench, Edition::Apache).await?;
    let rows = load::ticks(bench.seed, count)?;
    load::add_ticks(&stores.redis, &rows).await?;
    let session = stores.session().await?;
    let work = Work {
        stores: &stores,
        session: &session,
        table: "ticks",
        streams: Stream::Ticks,
        count,
    };
    let batch = work.batch_rows("tick_batch_rows").await?;

    let mut one = Figure::new(
        "warm-syncer, ticks",
        "warm-syncer drains ticks from all partitions into an empty `ticks`, as it drains candles. The limit is one COPY … BINARY of the \
         same rows into the same empty table with its index, ready in memory, by one connection.",
        "rows/s",
        "COPY … BINARY",
        Reach::AtLeast(0.6),
    );
    let mut plain = Figure::new(
        "warm-syncer, ticks, by a plain worker in Python",
        PYTHON,
        "rows/s",
        "psycopg",
        Reach::AtLeast(2.0),
    );
    for _ in 0..bench.rounds {
        let limit = limit::copy_ticks(&session, &rows).await?;
        let ours = work.drain(1).await?;
        one.push(ours, limit);
        work.empty().await?;
        plain.push(
            ours,
            python::drain(bench, &stores, "ticks", batch, python_entries).await?,
        );
    }
    session.close().await;
    Ok(vec![one, plain])
}

/// A kind of stream and the table that it goes to.
struct Work<'a> {
    stores: &'a Stores<'a>,
    session: &'a Session,
    table: &'static str,
    streams: fn(u16) -> Stream,
    /// Rows that it makes.
    count: usize,
}

impl Work<'_> {
    /// Rows a second into the empty table.
    async fn drain(&self, copies: usize) -> anyhow::Result<f64> {
        self.empty().await?;
        self.replay(copies).await
    }

    /// Rows a second into the table as it is.
    async fn replay(&self, copies: usize) -> anyhow::Result<f64> {
        let took = drain(self.stores, self.session, self.streams, copies).await?;
        let found = self
            .session
            .number(&format!("SELECT count(*) FROM {}", self.table))
            .await?;
        ensure!(
            found == i64::try_from(self.count)?,
            "{} has {found} rows, not {}",
            self.table,
            self.count
        );
        Ok(rate(self.count, took))
    }

    async fn empty(&self) -> anyhow::Result<()> {
        self.session.empty(self.table).await
    }

    /// The most entries in a transaction of warm-syncer, as it says itself.
    async fn batch_rows(&self, setting: &str) -> anyhow::Result<usize> {
        let config = self.stores.run("warm-syncer", &["check-config"]).await?;
        let mut lines = config.lines().filter_map(|line| line.split_once(" = "));
        match lines.find(|(name, _)| *name == setting) {
            Some((_, number)) => Ok(number.parse()?),
            None => anyhow::bail!("warm-syncer knows no `{setting}`"),
        }
    }
}
