//! A Redis that is older than the database: emptied, or restored from a backup. Where reading of a tick stream begins, the last entry that
//! was written is looked for, which is there after any ordinary crash.
//!
//! Where the stream was set back, the ticks that it lacks are put into it again, as requeued ones: hot-writer's state is as old as the
//! stream, and goes on from there. Whoever sends them too has them counted once, by their trade IDs. Where nothing is left, hot-writer
//! asks for what it lacks at a symbol's next tick; minutes that get no tick any more are repaired from here.

use std::ops::Range;

use anyhow::{Context, anyhow};
use diesel_async::AsyncPgConnection;
use storage_core::domain::decimal::Decimal;
use storage_core::domain::lots::DEFAULT_VOLUME_DECIMALS;
use storage_core::domain::partition::partition_of;
use storage_core::domain::stream_id::{Revision, StreamId};
use storage_core::domain::symbol::Symbol;
use storage_core::domain::timeframe::Timeframe;
use storage_core::postgres::error::describe;
use storage_core::postgres::pool::Pool;
use storage_core::postgres::queries::newest_ticks::{self, WrittenTick};
use storage_core::postgres::queries::{positions, symbols};
use storage_core::redis::codec::repairs;
use storage_core::redis::connection::Connection;
use storage_core::redis::functions::announce_all;
use storage_core::redis::stream::{self, Fields, Stream};

use crate::metrics;

/// Ticks may be so much older than the newest one of their symbol.
const LATE_US: i64 = Timeframe::H1.micros();

/// Entries that are sent to Redis at once.
const PORTION: usize = 1_000;

/// A partition of the ticks, where a reader begins.
pub(crate) struct Beginning {
    pub(crate) partition: u16,
    pub(crate) partitions: u16,
    /// The group's position.
    pub(crate) at: StreamId,
    /// The last entry that this process has finished, if any.
    pub(crate) finished: StreamId,
}

impl Beginning {
    /// Gives Redis back what only the database holds, if it was set back. Doing it again changes nothing.
    pub(crate) async fn mend(&self, pool: &Pool, redis: &mut Connection) -> anyhow::Result<()> {
        let ticks = Stream::Ticks(self.partition);
        let mut connection = pool.get().await?;
        let written = positions::of(&mut connection, ticks).await.map_err(explained)?;
        let written = written.map_or(StreamId::START, Revision::stream_id);
        let Some(lost) = self.lost(redis, [written, self.finished]).await? else {
            return Ok(());
        };
        if lost.start == StreamId::START {
            let minutes = self.repair(&mut connection, redis).await?;
            tracing::warn!(
                stream = %ticks, written = %lost.end, minutes,
                "Redis was emptied: the database holds ticks up to an entry that it lacks; asked for the repair of the last minutes"
            );
        } else {
            let count = self.put_back(&mut connection, redis, &lost).await?;
            metrics::TICKS_PUT_BACK.increment(count);
            tracing::warn!(
                stream = %ticks, position = %lost.start, written = %lost.end, ticks = count,
                "Redis was set back: the database holds ticks that it lacks; put them into the stream again"
            );
        }
        Ok(())
    }

    /// The entries that the stream lacks: those after the start, up to the last one of `known` that is missing.
    async fn lost(&self, redis: &mut Connection, known: [StreamId; 2]) -> anyhow::Result<Option<Range<StreamId>>> {
        let mut lost = None;
        for id in known.into_iter().filter(|id| *id > self.at) {
            let found = stream::range(redis, Stream::Ticks(self.partition), id, id, 1)
                .await
                .context("looking for the last entry that was written")?;
            if found.is_empty() {
                lost = lost.max(Some(id));
            }
        }
        Ok(lost.map(|id| self.at..id))
    }

    async fn newest(&self, connection: &mut AsyncPgConnection) -> anyhow::Result<Vec<(Symbol, i64)>> {
        let all = symbols::list(connection).await.map_err(explained)?;
        let names = all.into_iter().filter_map(|known| known.symbol.parse().ok());
        let own = names.filter(|symbol| partition_of(symbol, self.partitions) == self.partition);
        let own: Vec<Symbol> = own.collect();
        newest_ticks::times(connection, &own).await.map_err(explained)
    }

    async fn repair(&self, connection: &mut AsyncPgConnection, redis: &mut Connection) -> anyhow::Result<usize> {
        let mut entries = Vec::new();
        for (symbol, newest_us) in self.newest(connection).await? {
            let from_us = Timeframe::M1.bucket_start_us(newest_us.saturating_sub(LATE_US));
            let behind = newest_ticks::minutes_behind(connection, &symbol, from_us)
                .await
                .map_err(explained)?;
            entries.extend(behind.iter().map(repairs::entry_fields));
        }
        send(redis, Stream::Repairs, &entries).await?;
        metrics::REPAIRS_REQUESTED.increment(entries.len().try_into()?);
        Ok(entries.len())
    }

    async fn put_back(
        &self,
        connection: &mut AsyncPgConnection,
        redis: &mut Connection,
        lost: &Range<StreamId>,
    ) -> anyhow::Result<u64> {
        let gap_us = lost.end.accepted_us().saturating_sub(lost.start.accepted_us());
        let (after, until) = (lost.start.try_into()?, lost.end.try_into()?);
        let mut count = 0;
        for (symbol, newest_us) in self.newest(connection).await? {
            // The minutes before have their candles; what is older than a day has no open candle.
            let day_us = Timeframe::D1.bucket_start_us(newest_us);
            let from_us = newest_us.saturating_sub(gap_us).max(day_us).saturating_sub(LATE_US);
            let ticks = newest_ticks::between(connection, &symbol, from_us, after, until)
                .await
                .map_err(explained)?;
            let known = symbols::decimals(connection, &[&symbol]).await.map_err(explained)?;
            let decimals = known.get(&symbol).copied().unwrap_or(DEFAULT_VOLUME_DECIMALS);
            let entries: Vec<Fields> = ticks.iter().map(|tick| fields(&symbol, tick, decimals)).collect();
            send(redis, Stream::Ticks(self.partition), &entries).await?;
            count += u64::try_from(entries.len())?;
        }
        Ok(count)
    }
}

/// The entry of a tick that was in the stream before.
fn fields(symbol: &Symbol, tick: &WrittenTick, decimals: u8) -> Fields {
    let mut fields = vec![
        ("symbol", symbol.to_string()),
        ("ts_us", tick.ts_us.to_string()),
        ("price", tick.price.to_string()),
        ("qty", Decimal::from_lots(tick.lots.into(), decimals).to_string()),
        ("requeued", tick.origin.stream_id().to_string()),
    ];
    fields.extend(tick.trade_id.clone().map(|id| ("trade_id", id)));
    fields.extend(tick.side.clone().map(|side| ("side", side)));
    fields
}

async fn send(redis: &mut Connection, stream: Stream, entries: &[Fields]) -> anyhow::Result<()> {
    for entries in entries.chunks(PORTION) {
        announce_all(redis, stream, entries)
            .await
            .with_context(|| format!("adding to {}", stream.key()))?;
    }
    Ok(())
}

fn explained(error: diesel::result::Error) -> anyhow::Error {
    anyhow!(describe(&error))
}
