//! Computes the bases of incomplete candles: the part that hot-writer lacks and requests on `stream:repairs`. A base is
//! computed from the history once the warm-syncers have finished its ticks, and written to `candle:restored:*`.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Context;
use diesel_async::AsyncConnection;
use redis::pipe;
use storage_core::domain::lots::DEFAULT_VOLUME_DECIMALS;
use storage_core::domain::stream_id::{Revision, StreamId};
use storage_core::domain::symbol::Symbol;
use storage_core::postgres::error::Explained;
use storage_core::postgres::queries::{bases, symbols};
use storage_core::redis::codec::repairs::Base;
use storage_core::redis::connection::Connection;
use storage_core::redis::hot;

use crate::metrics::BASES;
use crate::worker::Worker;

/// Number of bases that are computed in one transaction.
const BATCH: usize = 200;

/// Requested bases, each with the entries that requested it.
#[derive(Default)]
pub(crate) struct Bases(BTreeMap<Base, BTreeSet<StreamId>>);

impl Bases {
    /// Adds the request of the entry `id`.
    pub(crate) fn add(&mut self, id: StreamId, base: Base) {
        self.0.entry(base).or_default().insert(id);
    }

    /// Returns `true` without a pending request.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Computes and writes a batch of the bases that are ready: `is_finished` returns `true` for their symbol and
    /// revision. Returns the entries that requested them.
    pub(crate) async fn deliver(
        &mut self,
        worker: &Worker,
        redis: &mut Connection,
        is_finished: impl Fn(&Symbol, Revision) -> bool,
    ) -> anyhow::Result<Vec<StreamId>> {
        let is_ready = |base: &Base, _: &mut _| is_finished(&base.symbol, base.revision);
        let ready = self.0.extract_if(.., is_ready).take(BATCH);
        let (wanted, ids): (Vec<Base>, Vec<BTreeSet<StreamId>>) = ready.unzip();
        if !wanted.is_empty() {
            compute(worker, redis, &wanted).await?;
        }
        Ok(ids.into_iter().flatten().collect())
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
        .explained("computing the bases of candles from the history")?;
    answers
        .exec_async(redis)
        .await
        .context("writing the bases of candles for hot-writer")?;
    BASES.increment(wanted.len().try_into()?);
    tracing::info!(candles = wanted.len(), "computed the bases of candles for hot-writer");
    Ok(())
}
