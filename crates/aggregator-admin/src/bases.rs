//! The beginnings of candles that hot-writer lacks, asked for on `stream:repairs`: computed from the history once the warm-syncers have
//! finished everything that belongs to them, and handed over at `candle:restored:*`.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Context;
use diesel_async::AsyncConnection;
use storage_core::domain::lots::DEFAULT_VOLUME_DECIMALS;
use storage_core::domain::stream_id::{Revision, StreamId};
use storage_core::domain::symbol::Symbol;
use storage_core::domain::time::rfc3339;
use storage_core::domain::timeframe::Timeframe;
use storage_core::postgres::queries::{bases, symbols};
use storage_core::redis::codec::repairs::Base;
use storage_core::redis::connection::Connection;
use storage_core::redis::hot;

use crate::metrics::BASES;
use crate::run::Worker;
use crate::stores::Explained;

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

    /// Hands over those for which everything was finished, as `finished` says of a symbol and revision. Returns the entries that asked.
    pub(crate) async fn hand_over(
        &mut self,
        worker: &Worker,
        redis: &mut Connection,
        finished: impl Fn(&Symbol, Revision) -> bool,
    ) -> anyhow::Result<Vec<StreamId>> {
        let ready = |(symbol, ..): &(Symbol, _, _), asked: &mut Asked| finished(symbol, asked.revision);
        let ready: Vec<_> = self.0.extract_if(.., ready).collect();
        let mut ids = Vec::new();
        for ((symbol, timeframe, start_us), asked) in ready {
            let base = Base {
                symbol,
                timeframe,
                start_us,
                revision: asked.revision,
            };
            compute(worker, redis, &base).await?;
            ids.extend(asked.ids);
        }
        Ok(ids)
    }
}

async fn compute(worker: &Worker, redis: &mut Connection, base: &Base) -> anyhow::Result<()> {
    let mut connection = worker.pool.get().await?;
    let candle = connection
        .transaction(async |connection| {
            symbols::keep_decimals(connection).await?;
            let known = symbols::decimals(connection, &[&base.symbol]).await?;
            let decimals = known.get(&base.symbol).copied().unwrap_or(DEFAULT_VOLUME_DECIMALS);
            bases::compute(connection, base, decimals).await
        })
        .await
        .explained("computing the beginning of a candle from the history")?;
    hot::put_base(base, candle.as_ref())
        .exec_async(redis)
        .await
        .context("handing the beginning of a candle to hot-writer")?;
    BASES.increment(1);
    let (symbol, timeframe, time) = (&base.symbol, base.timeframe, rfc3339(base.start_us));
    tracing::debug!(%symbol, %timeframe, %time, "computed the beginning of a candle for hot-writer");
    Ok(())
}
