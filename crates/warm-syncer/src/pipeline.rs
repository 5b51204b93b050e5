//! Takes one stream through the stages, batch by batch, and retries while a store is unavailable.

use std::ops::RangeInclusive;
use std::time::Duration;

use storage_core::domain::entry::Entry;
use storage_core::domain::rejection::Rejection;
use storage_core::domain::stream_id::StreamId;
use storage_core::postgres::pool::Pool;
use storage_core::redis::connection::Connection;
use storage_core::redis::lost::Losses;
use storage_core::redis::stream::Stream;
use storage_core::retry::Retry;
use storage_core::telemetry::readiness::Readiness;
use tokio::sync::Mutex;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::acknowledge::{Announcements, len};
use crate::collect::{Bisection, collect};
use crate::commit::{Refusal, commit};
use crate::kinds::Kind;
use crate::outcome::{Item, Rejected, Written};
use crate::read::Reader;
use crate::{dead_letter, metrics, reconcile};

/// Shutdown of a pipeline in two steps.
#[derive(Clone)]
pub(crate) struct Shutdown {
    /// Token that ends the reading of batches.
    pub(crate) stop: CancellationToken,
    /// Token that abandons the current batch. Its entries are read again by the next owner.
    pub(crate) abort: CancellationToken,
}

impl Shutdown {
    pub(crate) fn new(stop: CancellationToken) -> Self {
        Self {
            stop,
            abort: CancellationToken::new(),
        }
    }

    /// Abandons the current batch when 80 % of `grace` has passed since the stop.
    pub(crate) async fn watch(self, grace: Duration) {
        self.stop.cancelled().await;
        tokio::time::sleep(grace.mul_f64(0.8)).await;
        self.abort.cancel();
    }
}

/// Pipeline of one stream: read, collect, commit, announce, acknowledge.
pub(crate) struct StreamPipeline<K> {
    pub(crate) stream: Stream,
    pub(crate) kind: K,
    pub(crate) reader: Mutex<Reader>,
    pub(crate) redis: Mutex<Connection>,
    pub(crate) pool: Pool,
    pub(crate) readiness: Readiness,
    pub(crate) losses: Losses,
    pub(crate) shutdown: Shutdown,
}

impl<K: Kind> StreamPipeline<K> {
    /// Runs until the shutdown. The current batch is finished if the grace period suffices.
    pub(crate) async fn run(self) {
        // Every error is retried, so one is returned only at the shutdown.
        while !self.shutdown.stop.is_cancelled() && self.next_batch().await.is_ok() {}
        self.readiness.forget(&self.stream.to_string());
        self.losses.release(self.stream);
    }

    async fn next_batch(&self) -> anyhow::Result<()> {
        let entries = self.read().await?;
        let Some(last) = entries.last() else { return Ok(()) };
        self.process(&entries, last.id).await
    }

    async fn process(&self, entries: &[Entry], last: StreamId) -> anyhow::Result<()> {
        let started = Instant::now();
        metrics::ENTRIES_READ.increment(K::LABEL, len(entries));
        metrics::BATCH_ROWS.record(K::LABEL, entries.len() as f64);

        let (rows, rejected) = collect(&self.kind, entries);
        let Some(mut written) = self.commit(entries, &rows, last).await? else {
            tracing::warn!(
                stream = %self.stream, "the database lacks entries that it has confirmed; reading them again"
            );
            self.reader.lock().await.restart();
            return Ok(());
        };
        written.rejected.extend(rejected);
        metrics::ROWS_WRITTEN.increment(K::LABEL, written.rows.try_into()?);
        metrics::ROWS_UNCHANGED.increment(K::LABEL, written.unchanged.try_into()?);

        let letters = dead_letter::letters(self.stream, K::LABEL, entries, &written.rejected);
        self.announce(&Announcements::new(&written, letters)).await?;
        self.acknowledge(entries.len(), last).await?;

        metrics::BATCHES.increment(K::LABEL, 1);
        metrics::BATCH_DURATION.record(K::LABEL, started.elapsed().as_secs_f64());
        Ok(())
    }

    async fn read(&self) -> anyhow::Result<Vec<Entry>> {
        self.retry("reading", &self.shutdown.stop)
            .run(async || {
                let mut reader = self.reader.lock().await;
                self.start(&mut reader).await?;
                let batch = reader.batch().await;
                anyhow::Ok(batch.inspect_err(|_| metrics::RETRIES.increment("redis", 1))?)
            })
            .await
    }

    async fn start(&self, reader: &mut Reader) -> anyhow::Result<()> {
        if let Some(at) = reader.start_position().await? {
            let mut redis = self.redis.lock().await;
            let at = reconcile::rewind(&self.pool, &mut redis, self.stream, at).await?;
            self.kind
                .reconcile(&self.pool, &mut redis, at, reader.finished())
                .await?;
            reader.start(at);
        }
        Ok(())
    }

    /// Commits the rows, and `last` as the last written entry. If the database refuses some rows, the others are
    /// committed in parts. Returns `None` if the database was restored to an earlier state.
    async fn commit(
        &self,
        entries: &[Entry],
        rows: &[Item<K::Row>],
        last: StreamId,
    ) -> anyhow::Result<Option<Written>> {
        let finished = self.reader.lock().await.finished();
        let mut all = Written::default();
        let mut parts = Bisection::new(rows.len());
        let mut written_until = StreamId::START;
        while let Some(part) = parts.next() {
            let some = &rows[part.clone()];
            let id = |item: Option<&Item<K::Row>>| item.and_then(|item| entries.get(item.entry)).map(|entry| entry.id);
            let until = match part.end == rows.len() {
                true => last,
                false => id(some.last()).unwrap_or(last),
            };
            let first = id(some.first()).unwrap_or(until);
            match self.commit_part(some, first..=until, finished).await? {
                Ok(written) => {
                    all.merge(written);
                    written_until = until;
                }
                Err(Refusal::OlderDatabase) => return Ok(None),
                Err(Refusal::TooLarge(reason)) => {
                    tracing::warn!(stream = %self.stream, rows = part.len(), "halving a batch: {reason}");
                    parts.split(part);
                }
                Err(Refusal::BadRow(reason)) => {
                    let refused = parts.split(part).and_then(|at| rows.get(at));
                    all.rejected.extend(refused.map(|item| Rejected {
                        entry: item.entry,
                        reason: Rejection::Refused(reason),
                    }));
                }
            }
        }
        // The last rows were refused, or there are none: the position moves nevertheless.
        if written_until < last && self.commit_part(&[], last..=last, finished).await?.is_err() {
            return Ok(None);
        }
        Ok(Some(all))
    }

    /// Commits the rows of the entries in `ids`, and the last one as the last written entry.
    async fn commit_part(
        &self,
        rows: &[Item<K::Row>],
        ids: RangeInclusive<StreamId>,
        finished: StreamId,
    ) -> anyhow::Result<Result<Written, Refusal>> {
        let begun = Instant::now();
        let position = (*ids.end()).try_into().ok();
        let outcome = self
            .retry("writing", &self.shutdown.abort)
            .run(async || {
                let committed = commit(&self.pool, &self.kind, rows, self.stream, position, finished).await;
                committed.map_err(|error| {
                    metrics::RETRIES.increment("postgres", 1);
                    metrics::FAILING.set(&self.stream.to_string(), begun.elapsed().as_secs_f64());
                    error.context(format!("entries {} to {}", ids.start(), ids.end()))
                })
            })
            .await;
        metrics::FAILING.set(&self.stream.to_string(), 0.0);
        outcome
    }

    async fn announce(&self, announcements: &Announcements) -> anyhow::Result<()> {
        self.retry("announcing", &self.shutdown.abort)
            .run(async || {
                let mut redis = self.redis.lock().await;
                announcements
                    .send(&mut redis)
                    .await
                    .inspect_err(|_| metrics::RETRIES.increment("redis", 1))
            })
            .await?;
        announcements.count();
        Ok(())
    }

    async fn acknowledge(&self, count: usize, last: StreamId) -> anyhow::Result<()> {
        self.retry("acknowledging", &self.shutdown.abort)
            .run(async || {
                let mut reader = self.reader.lock().await;
                reader
                    .finish(count, last)
                    .await
                    .inspect_err(|_| metrics::RETRIES.increment("redis", 1))
            })
            .await
    }

    /// Retries after every error, because an operator may correct a password or the schema meanwhile.
    fn retry<'a>(&'a self, what: &str, token: &'a CancellationToken) -> Retry<'a> {
        Retry::new(format!("{what} {}", self.stream), token)
            .readiness(&self.readiness, self.stream.to_string())
            .every_error()
    }
}
