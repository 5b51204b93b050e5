//! Ticks: each is written once, and minutes can be computed again from them.

use std::collections::{HashMap, HashSet};

use diesel::QueryResult;
use diesel_async::AsyncPgConnection;
use storage_core::domain::entry::Entry;
use storage_core::domain::lots::DEFAULT_VOLUME_DECIMALS;
use storage_core::domain::prices::{self, Prices};
use storage_core::domain::rejection::Rejection;
use storage_core::domain::stream_id::StreamId;
use storage_core::domain::symbol::Symbol;
use storage_core::domain::tick::AcceptedTick;
use storage_core::domain::tick_rules::TickRules;
use storage_core::postgres::pool::Pool;
use storage_core::postgres::queries::symbols;
use storage_core::postgres::queries::ticks::{self, TickRow};
use storage_core::redis::connection::Connection;

use super::Kind;
use crate::labels;
use crate::outcome::{Item, Rejected, Written};
use crate::reconcile::Reconciliation;

/// The ticks of a partition.
pub(crate) struct Ticks(pub(crate) TickRules);

impl Kind for Ticks {
    const LABEL: &'static str = labels::TICKS;
    type Row = AcceptedTick;

    fn decode(&self, entry: &Entry) -> Result<AcceptedTick, Rejection> {
        self.0.decode(entry)
    }

    async fn reconcile(
        &self,
        pool: &Pool,
        redis: &mut Connection,
        at: StreamId,
        finished: StreamId,
    ) -> anyhow::Result<()> {
        let reconciliation = Reconciliation {
            partition: self.0.partition,
            partitions: self.0.partitions,
            at,
            finished,
        };
        reconciliation.run(pool, redis).await
    }

    async fn write(&self, connection: &mut AsyncPgConnection, items: &[Item<AcceptedTick>]) -> QueryResult<Written> {
        let decimals = volume_decimals(connection, items.iter().map(|item| &item.row.tick.symbol)).await?;
        let any_price = with_any_price(
            connection,
            items.iter().map(|item| (&item.row.tick.symbol, item.row.tick.price)),
        );
        let any_price = any_price.await?;
        let (mut rows, mut rejected) = (Vec::with_capacity(items.len()), Vec::new());
        for Item { entry, row: accepted } in items {
            let decimals = decimals
                .get(&accepted.tick.symbol)
                .copied()
                .unwrap_or(DEFAULT_VOLUME_DECIMALS);
            let tick = &accepted.tick;
            let row = check_price(&tick.symbol, tick.price, &any_price)
                .and_then(|()| tick.lots(decimals))
                .and_then(|lots| TickRow::new(accepted, lots.count));
            match row {
                Ok(row) => rows.push(row),
                Err(reason) => rejected.push(Rejected { entry: *entry, reason }),
            }
        }
        let new = ticks::insert(connection, &rows).await?;
        Ok(Written {
            rows: new,
            unchanged: rows.len() - new,
            rejected,
            ..Written::default()
        })
    }
}

/// Selects the symbols that can have any price among those with a price that is not positive.
pub(super) async fn with_any_price<'a>(
    connection: &mut AsyncPgConnection,
    prices: impl Iterator<Item = (&'a Symbol, f64)>,
) -> QueryResult<HashSet<Symbol>> {
    let wanted: HashSet<&Symbol> = prices
        .filter(|(_, price)| *price <= 0.0)
        .map(|(symbol, _)| symbol)
        .collect();
    if wanted.is_empty() {
        return Ok(HashSet::new());
    }
    symbols::with_any_price(connection, &wanted.into_iter().collect::<Vec<_>>()).await
}

/// Fails if `price` is not positive and `symbol` is not in `any_price`.
pub(super) fn check_price(symbol: &Symbol, price: f64, any_price: &HashSet<Symbol>) -> Result<(), Rejection> {
    let allows_any = price <= 0.0 && any_price.contains(symbol);
    prices::check_price(symbol, price, if allows_any { Prices::Any } else { Prices::Positive })
}

/// Returns the volume decimals of known symbols, locks them until the end of the transaction, and registers new
/// symbols.
pub(super) async fn volume_decimals<'a>(
    connection: &mut AsyncPgConnection,
    wanted: impl Iterator<Item = &'a Symbol>,
) -> QueryResult<HashMap<Symbol, u8>> {
    let mut wanted: Vec<&Symbol> = wanted.collect::<HashSet<_>>().into_iter().collect();
    symbols::lock_decimals(connection).await?;
    let known = symbols::decimals(connection, &wanted).await?;
    wanted.retain(|symbol| !known.contains_key(*symbol));
    if !wanted.is_empty() {
        symbols::register(connection, &wanted).await?;
    }
    Ok(known)
}
