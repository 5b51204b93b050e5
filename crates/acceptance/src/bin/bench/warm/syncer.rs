//! Throughput of warm-syncer, compared with the limit of the database and with a plain Python worker.
//!
//! The streams are full before a drain is timed, the workers are ready, and the tables are empty unless the figure says
//! otherwise. warm-syncer has its default configuration.

use anyhow::ensure;
use storage_core::postgres::edition::Edition;
use storage_core::redis::stream::Stream;

use super::load::{self, SYMBOLS};
use super::stores::{Session, Stores, rate};
use super::{drain, limit, python};
use crate::bench::Bench;
use crate::figure::{Figure, Target};

const PYTHON: &str = "warm-syncer drains all entries, `python/warm_worker.py` a part of them: redis-py with hiredis \
    and psycopg, a consumer group, the same number of entries per transaction, and one COPY to a staging table, one \
    upsert and one XACK per batch. The Python worker is timed from its first read to its last acknowledgement. It has \
    no dead letters and no repairs.";

/// Drains 1-minute candles of 500 symbols from the streams of all partitions into `candles_1m`.
pub(crate) async fn candles(bench: &Bench) -> anyhow::Result<Vec<Figure>> {
    let (minutes, python_entries) = bench.sized((2_000, 200_000), (200, 20_000));
    let stores = Stores::start(bench, Edition::Apache).await?;
    let rows = load::candles(bench.seed, minutes)?;
    load::add_candles(&stores.redis, &rows).await?;
    let session = stores.session().await?;
    let drain = Drain {
        stores: &stores,
        session: &session,
        table: "candles_1m",
        streams: Stream::Candles,
        count: minutes * SYMBOLS,
    };
    let batch = drain.batch_rows("batch_rows").await?;

    let mut one = Figure::new(
        "warm-syncer, candles",
        "warm-syncer drains 1-minute candles from all partitions into an empty candles_1m. The time is that from \
         waking its readers until its group has finished. The baseline executes the same statement on one connection \
         for the same rows in the same order, ready in memory, and commits after each batch; the best of batches of \
         1,000, 5,000 and 10,000.",
        "rows/s",
        "INSERT … unnest",
        Target::AtLeast(0.85),
    );
    let mut two = Figure::new(
        "warm-syncer, candles, two replicas",
        "two replicas of warm-syncer drain the same candles into an empty candles_1m, compared with the same baseline, \
         which has one connection.",
        "rows/s",
        "INSERT … unnest",
        Target::AtLeast(1.3),
    );
    let mut again = Figure::new(
        "warm-syncer, candles again",
        "warm-syncer reads the same streams from the start again while candles_1m contains every row.",
        "rows/s",
        "the first time",
        Target::AtLeast(1.0),
    );
    let mut plain = Figure::new(
        "warm-syncer, candles, Python worker",
        PYTHON,
        "rows/s",
        "psycopg",
        Target::AtLeast(2.0),
    );
    for _ in 0..bench.rounds {
        let limit = limit::insert_candles(&session, &rows).await?;
        let ours = drain.rate_into_empty_table(1).await?;
        one.push(ours, limit);
        again.push(drain.rate_into_table(1).await?, ours);
        two.push(drain.rate_into_empty_table(2).await?, limit);
        drain.empty().await?;
        plain.push(
            ours,
            python::drain(bench, &stores, "candles", batch, python_entries).await?,
        );
    }
    session.close().await;
    Ok(vec![one, two, again, plain])
}

/// Drains ticks of 500 symbols, all traded equally often, from the streams of all partitions into `ticks`.
pub(crate) async fn ticks(bench: &Bench) -> anyhow::Result<Vec<Figure>> {
    let (count, python_entries) = bench.sized((2_000_000, 200_000), (200_000, 40_000));
    let stores = Stores::start(bench, Edition::Apache).await?;
    let rows = load::ticks(bench.seed, count)?;
    load::add_ticks(&stores.redis, &rows).await?;
    let session = stores.session().await?;
    let drain = Drain {
        stores: &stores,
        session: &session,
        table: "ticks",
        streams: Stream::Ticks,
        count,
    };
    let batch = drain.batch_rows("tick_batch_rows").await?;

    let mut one = Figure::new(
        "warm-syncer, ticks",
        "warm-syncer drains ticks from all partitions into an empty `ticks`, as it drains candles. The baseline is \
         one COPY … BINARY of the same rows, ready in memory, into the same empty table with its index, on one \
         connection.",
        "rows/s",
        "COPY … BINARY",
        Target::AtLeast(0.6),
    );
    let mut plain = Figure::new(
        "warm-syncer, ticks, Python worker",
        PYTHON,
        "rows/s",
        "psycopg",
        Target::AtLeast(2.0),
    );
    for _ in 0..bench.rounds {
        let limit = limit::copy_ticks(&session, &rows).await?;
        let ours = drain.rate_into_empty_table(1).await?;
        one.push(ours, limit);
        drain.empty().await?;
        plain.push(
            ours,
            python::drain(bench, &stores, "ticks", batch, python_entries).await?,
        );
    }
    session.close().await;
    Ok(vec![one, plain])
}

/// Parameters of a drain: a kind of stream and the table that its entries are written to.
struct Drain<'a> {
    stores: &'a Stores<'a>,
    session: &'a Session,
    table: &'static str,
    streams: fn(u16) -> Stream,
    /// Rows that the entries add.
    count: usize,
}

impl Drain<'_> {
    /// Returns the rows per second into the empty table.
    async fn rate_into_empty_table(&self, replicas: usize) -> anyhow::Result<f64> {
        self.empty().await?;
        self.rate_into_table(replicas).await
    }

    /// Returns the rows per second into the table as it is.
    async fn rate_into_table(&self, replicas: usize) -> anyhow::Result<f64> {
        let took = drain::drain(self.stores, self.session, self.streams, replicas).await?;
        let found = self
            .session
            .number(&format!("SELECT count(*) FROM {}", self.table))
            .await?;
        ensure!(
            found == i64::try_from(self.count)?,
            "{} has {found} rows, expected {}",
            self.table,
            self.count
        );
        Ok(rate(self.count, took))
    }

    async fn empty(&self) -> anyhow::Result<()> {
        self.session.empty(self.table).await
    }

    /// Returns warm-syncer's limit of entries per transaction, read from `check-config`.
    async fn batch_rows(&self, setting: &str) -> anyhow::Result<usize> {
        let config = self.stores.run("warm-syncer", &["check-config"]).await?;
        let mut lines = config.lines().filter_map(|line| line.split_once(" = "));
        match lines.find(|(name, _)| *name == setting) {
            Some((_, number)) => Ok(number.parse()?),
            None => anyhow::bail!("`warm-syncer check-config` prints no `{setting}`"),
        }
    }
}
