//! Progress of the warm-syncers: the ticks that the history contains.

use std::collections::HashMap;

use anyhow::Context;
use storage_core::domain::partition::partition_of;
use storage_core::domain::stream_id::{Revision, StreamId};
use storage_core::domain::symbol::Symbol;
use storage_core::redis::connection::Connection;
use storage_core::redis::position::{first_unfinished, position_of};
use storage_core::redis::stream::{Stream, WARM_SYNCER};

/// Positions of the warm-syncers in the streams of ticks.
pub(crate) struct HistoryProgress {
    partitions: u16,
    /// First entry of each partition that may be missing in the history.
    unfinished: HashMap<u16, StreamId>,
}

impl HistoryProgress {
    /// Reads the current positions.
    pub(crate) async fn now(redis: &mut Connection, partitions: u16) -> anyhow::Result<Self> {
        let mut unfinished = HashMap::new();
        for partition in 0..partitions {
            let ticks = Stream::Ticks(partition);
            let doing = "reading the positions of the warm-syncers";
            let Some(position) = position_of(redis, ticks, WARM_SYNCER).await.context(doing)? else {
                continue;
            };
            let id = match position.has_finished() {
                true => StreamId::END,
                false => first_unfinished(redis, ticks, &position).await.context(doing)?,
            };
            unfinished.insert(partition, id);
        }
        Ok(Self { partitions, unfinished })
    }

    /// Returns `true` if `ticks` contains every tick up to `id`, apart from rejected ones.
    pub(crate) fn covers_all(&self, id: StreamId) -> bool {
        self.unfinished.values().all(|first| *first > id)
    }

    /// Returns `true` if `ticks` contains every tick of `symbol` up to `revision`, apart from rejected ones.
    pub(crate) fn covers(&self, symbol: &Symbol, revision: Revision) -> bool {
        let partition = partition_of(symbol, self.partitions);
        self.unfinished
            .get(&partition)
            .is_some_and(|first| *first > revision.stream_id())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_minute_waits_for_the_warm_syncer_of_its_own_partition() {
        let revision = Revision::try_from(StreamId { ms: 5, seq: 1 }).unwrap();
        let symbol: Symbol = "XRPETH".parse().unwrap();
        let mut progress = HistoryProgress {
            partitions: 4,
            unfinished: HashMap::new(),
        };
        assert!(!progress.covers(&symbol, revision));
        progress
            .unfinished
            .insert(partition_of(&symbol, 4), StreamId { ms: 5, seq: 1 });
        assert!(!progress.covers(&symbol, revision));
        progress
            .unfinished
            .insert(partition_of(&symbol, 4), StreamId { ms: 5, seq: 2 });
        assert!(progress.covers(&symbol, revision));
    }
}
