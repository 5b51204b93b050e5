//! The beginnings of candles that hot-writer lacks, asked for on `stream:repairs`: computed from the history once the warm-syncers have
//! finished everything that belongs to them, and handed over at `candle:restored:*`.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Context;
use diesel_async::AsyncConnection;
use redis::pipe;
use storage_core::domain::lots::DEFAULT_VOLUME_DECIMALS;
use storage_core::domain::stream_id::{Revision, StreamId};
use storage_core::domain::symbol::Symbol;
use storage_core::domain::timeframe::Timeframe;
use storage_core::postgres::error::Explained;
use storage_core::postgres::queries::{bases, symbols};
use storage_core::redis::codec::repairs::Base;
use storage_core::redis::connection::Connection;
use storage_core::redis::hot;

use crate::metrics::BASES;
use crate::worker::Worker;

/// Number of candles that are computed in one transaction.
const AT_ONCE: usize = 200;

/// Candles of which hot-writer waits for the beginning, each once: what was asked for last counts.
#[derive(Default)]
pub(crate) struct Bases(BTreeMap<(Symbol, Timeframe, i64), Asked>);

#[derive(Default)]
struct Asked {
    revision: Revision,
    ids: BTreeSet<StreamId>,
}

impl Bases {
    /// Notes that the entry `id` asks for `base`.
    pub(crate) fn add(&mut self, id: StreamId, base: Base) {
        let asked = self.0.entry((base.symbol, base.timeframe, base.start_us)).or_default();
        asked.revision = asked.revision.max(base.revision);
        asked.ids.insert(id);
    }

    /// Returns `true` if none is waited for.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Hands over some of those for which everything was finished, as `finished` says of a symbol and revision. Returns the entries that
    /// asked for them.
    pub(crate) async fn hand_over(
        &mut self,
        worker: &Worker,
        redis: &mut Connection,
        finished: impl Fn(&Symbol, Revision) -> bool,
    ) -> anyhow::Result<Vec<StreamId>> {
        let ready = |(symbol, ..): &(Symbol, _, _), asked: &mut Asked| finished(symbol, asked.revision);
        let ready: Vec<_> = self.0.extract_if(.., ready).take(AT_ONCE).collect();
        if ready.is_empty() {
            return Ok(Vec::new());
        }
        let mut ids = Vec::new();
        let mut wanted = Vec::new();
        for ((symbol, timeframe, start_us), asked) in ready {
            ids.extend(asked.ids);
            wanted.push(Base {
                symbol,
                timeframe,
                start_us,
                revision: asked.revision,
            });
        }
        compute(worker, redis, &wanted).await?;
        Ok(ids)
    }
}

async fn compute(worker: &Worker, redis: &mut Connection, wanted: &[Base]) -> anyhow::Result<()> {
    let mut connection = worker.pool.get().await?;
    let answers = connection
        .transaction(async |connection| {
            symbols::lock_decimals(connection).await?;
            let names: Vec<&Symbol> = wanted.iter().map(|base| &base.symbol).collect();
            let known = symbols::decimals(connection, &names).await?;
            let mut answers = pipe();
            for base in wanted {
                let decimals = known.get(&base.symbol).copied().unwrap_or(DEFAULT_VOLUME_DECIMALS);
                let candle = bases::compute(connection, base, decimals).await?;
                answers.add_command(hot::put_base(base, candle.as_ref())).ignore();
            }
            Ok(answers)
        })
        .await
        .explained("computing the beginnings of candles from the history")?;
    answers
        .exec_async(redis)
        .await
        .context("handing the beginnings of candles to hot-writer")?;
    BASES.increment(wanted.len().try_into()?);
    tracing::info!(
        candles = wanted.len(),
        "computed the beginnings of candles for hot-writer"
    );
    Ok(())
}
