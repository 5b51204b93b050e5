//! Reconciles the stores when one is older than the other.
//!
//! A database that was restored to an earlier state lacks entries that Redis counts as finished. The positions are
//! moved back to the last entry that the database holds ([`rewind`]).
//!
//! A Redis that is older than the database was emptied or restored from a backup.
//!
//! Before a tick stream is read, the last entry that was written is looked up in it; after an ordinary crash the stream
//! has it.
//!
//! A stream that was restored to an earlier state gets the missing ticks again, marked as requeued. hot-writer's state
//! in Redis is as old as the stream, so hot-writer resumes from there. The last amendments of trades follow; in the
//! history they change nothing. If a producer sends these ticks again, too, their trade IDs keep them from counting
//! twice.
//!
//! The minutes of a stream that was emptied are repaired. hot-writer requests the first ticks of a candle at the next
//! tick of its symbol; the repair of minutes that get no further tick is requested here.

use std::ops::Range;

use anyhow::{Context, anyhow};
use diesel_async::AsyncPgConnection;
use storage_core::domain::entry::Fields;
use storage_core::domain::lots::DEFAULT_VOLUME_DECIMALS;
use storage_core::domain::partition::partition_of;
use storage_core::domain::stream_id::{Revision, StreamId};
use storage_core::domain::symbol::Symbol;
use storage_core::domain::tick::REQUEUED;
use storage_core::domain::timeframe::Timeframe;
use storage_core::postgres::error::describe;
use storage_core::postgres::pool::Pool;
use storage_core::postgres::queries::ticks::{self, TickRow};
use storage_core::postgres::queries::{newest_ticks, positions, symbols, tick_versions};
use storage_core::redis::codec::repairs;
use storage_core::redis::codec::ticks::{amendment_fields, entry_fields};
use storage_core::redis::connection::Connection;
use storage_core::redis::functions::announce_all;
use storage_core::redis::groups;
use storage_core::redis::stream::{self, Stream, WARM_SYNCER};

use crate::metrics;

/// Maximum time by which a tick is older than the newest tick of its symbol.
const MAX_LATE_US: i64 = Timeframe::H1.micros();

/// Maximum number of entries in a pipeline.
const MAX_PIPELINE: usize = 1_000;

/// Moves the position of the group from `at` back to the last entry that the database holds, if it lacks later ones:
/// then it was restored to an earlier state. Writing an entry again changes nothing. Returns the position.
pub(crate) async fn rewind(
    pool: &Pool,
    redis: &mut Connection,
    stream: Stream,
    at: StreamId,
) -> anyhow::Result<StreamId> {
    let mut connection = pool.get().await?;
    let written = positions::of(&mut connection, stream).await.map_err(described)?;
    let written = written.map_or(StreamId::START, Revision::stream_id);
    // Entries whose IDs are no revisions are rejected and not counted as written.
    let Ok(at_revision) = Revision::try_from(at) else {
        return Ok(at);
    };
    if written >= at_revision.stream_id() {
        return Ok(at);
    }
    groups::rewind(redis, stream, WARM_SYNCER, written)
        .await
        .context("moving the position back")?;
    let first_left = stream::range(redis, stream, written.next(), StreamId::END, 1)
        .await
        .context("reading the first entry to write again")?;
    metrics::REWINDS.increment(1);
    tracing::warn!(
        %stream, position = %at, %written, first_left = ?first_left.first().map(|entry| entry.id.to_string()),
        "the database is older than Redis: it lacks entries that were written; reading them again, as far as the \
         stream still holds them; `aggregator-admin gaps` names what is missing"
    );
    Ok(written)
}

/// Reconciliation of a tick stream before it is read.
pub(crate) struct Reconciliation {
    pub(crate) partition: u16,
    pub(crate) partitions: u16,
    /// The group's position.
    pub(crate) at: StreamId,
    /// The last entry that this process has finished.
    pub(crate) finished: StreamId,
}

impl Reconciliation {
    /// Adds the missing ticks or requests repairs if Redis lacks written entries. Running it again changes nothing.
    pub(crate) async fn run(&self, pool: &Pool, redis: &mut Connection) -> anyhow::Result<()> {
        let ticks = Stream::Ticks(self.partition);
        let mut connection = pool.get().await?;
        let written = positions::of(&mut connection, ticks).await.map_err(described)?;
        let written = written.map_or(StreamId::START, Revision::stream_id);
        let Some(lost) = self.lost(redis, [written, self.finished]).await? else {
            return Ok(());
        };
        positions::record_loss(&mut connection, ticks, lost.start.try_into()?, lost.end.try_into()?)
            .await
            .map_err(described)?;
        if lost.start == StreamId::START {
            let minutes = self.request_repairs(&mut connection, redis).await?;
            tracing::warn!(
                stream = %ticks, written = %lost.end, minutes,
                "Redis was emptied: it lacks entries of the database; requested the repair of the last minutes"
            );
        } else {
            let count = self.restore_ticks(&mut connection, redis, &lost).await?;
            metrics::TICKS_PUT_BACK.increment(count);
            tracing::warn!(
                stream = %ticks, position = %lost.start, written = %lost.end, ticks = count,
                "Redis is older than the database: it lacks ticks of the database; added them to the stream again"
            );
        }
        Ok(())
    }

    /// Returns the range of entries that the stream lacks: from the position to the last one of `known` that is
    /// missing.
    async fn lost(&self, redis: &mut Connection, known: [StreamId; 2]) -> anyhow::Result<Option<Range<StreamId>>> {
        let mut lost = None;
        for id in known.into_iter().filter(|id| *id > self.at) {
            let found = stream::range(redis, Stream::Ticks(self.partition), id, id, 1)
                .await
                .context("looking up the last written entry")?;
            if found.is_empty() {
                lost = lost.max(Some(id));
            }
        }
        Ok(lost.map(|id| self.at..id))
    }

    /// Returns the symbols of the partition with the event time of their newest tick.
    async fn newest_times(&self, connection: &mut AsyncPgConnection) -> anyhow::Result<Vec<(Symbol, i64)>> {
        let all = symbols::list(connection).await.map_err(described)?;
        let names = all.into_iter().filter_map(|known| known.symbol.parse().ok());
        let own = names.filter(|symbol| partition_of(symbol, self.partitions) == self.partition);
        let own: Vec<Symbol> = own.collect();
        newest_ticks::times(connection, &own).await.map_err(described)
    }

    async fn request_repairs(
        &self,
        connection: &mut AsyncPgConnection,
        redis: &mut Connection,
    ) -> anyhow::Result<usize> {
        let mut entries = Vec::new();
        for (symbol, newest_us) in self.newest_times(connection).await? {
            let from_us = Timeframe::M1.bucket_start_us(newest_us.saturating_sub(MAX_LATE_US));
            let behind = newest_ticks::minutes_behind(connection, &symbol, from_us)
                .await
                .map_err(described)?;
            entries.extend(behind.iter().map(repairs::entry_fields));
        }
        send(redis, Stream::Repairs, &entries).await?;
        metrics::REPAIRS_REQUESTED.increment(entries.len().try_into()?);
        Ok(entries.len())
    }

    async fn restore_ticks(
        &self,
        connection: &mut AsyncPgConnection,
        redis: &mut Connection,
        lost: &Range<StreamId>,
    ) -> anyhow::Result<u64> {
        let gap_us = lost.end.accepted_us().saturating_sub(lost.start.accepted_us());
        let (after, until) = (lost.start.try_into()?, lost.end.try_into()?);
        let mut count = 0;
        for (symbol, newest_us) in self.newest_times(connection).await? {
            // Earlier minutes have their candles, and no candle that is open starts before the day of the newest tick.
            let day_us = Timeframe::D1.bucket_start_us(newest_us);
            let from_us = newest_us.saturating_sub(gap_us).max(day_us).saturating_sub(MAX_LATE_US);
            let ticks = ticks::between(connection, &symbol, from_us, after, until)
                .await
                .map_err(described)?;
            let known = symbols::decimals(connection, &[&symbol]).await.map_err(described)?;
            let decimals = known.get(&symbol).copied().unwrap_or(DEFAULT_VOLUME_DECIMALS);
            let entries: Vec<Fields> = ticks.iter().map(|tick| requeued(tick, decimals)).collect();
            send(redis, Stream::Ticks(self.partition), &entries).await?;
            count += u64::try_from(entries.len())?;
            let amendments = tick_versions::amendments_between(connection, &symbol, from_us, after, until)
                .await
                .map_err(described)?;
            let entries: Vec<Fields> = amendments.iter().map(amendment_fields).collect();
            send(redis, Stream::Ticks(self.partition), &entries).await?;
        }
        Ok(count)
    }
}

/// Returns the entry that adds a tick to its stream again.
fn requeued(row: &TickRow, decimals: u8) -> Fields {
    let accepted = row.accepted(decimals);
    let mut fields = entry_fields(&accepted.tick);
    fields.push((REQUEUED, accepted.origin.to_string()));
    fields
}

async fn send(redis: &mut Connection, stream: Stream, entries: &[Fields]) -> anyhow::Result<()> {
    for entries in entries.chunks(MAX_PIPELINE) {
        announce_all(redis, stream, entries)
            .await
            .with_context(|| format!("adding to {}", stream.key()))?;
    }
    Ok(())
}

fn described(error: diesel::result::Error) -> anyhow::Error {
    anyhow!(describe(&error))
}
