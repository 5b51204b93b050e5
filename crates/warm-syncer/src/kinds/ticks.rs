//! Ticks: each trade is written once, corrections and busts change it, and minutes can be computed again from them.

use std::collections::{BTreeMap, HashMap, HashSet};

use diesel::QueryResult;
use diesel_async::AsyncPgConnection;
use storage_core::domain::entry::Entry;
use storage_core::domain::lots::DEFAULT_VOLUME_DECIMALS;
use storage_core::domain::prices::{self, Prices};
use storage_core::domain::rejection::Rejection;
use storage_core::domain::stream_id::StreamId;
use storage_core::domain::symbol::Symbol;
use storage_core::domain::tick_event::TickEvent;
use storage_core::domain::tick_rules::TickRules;
use storage_core::domain::timeframe::Timeframe;
use storage_core::postgres::pool::Pool;
use storage_core::postgres::queries::symbols;
use storage_core::postgres::queries::ticks::TickRow;
use storage_core::postgres::queries::trades::{self, Write};
use storage_core::redis::clock::local_ms;
use storage_core::redis::codec::repairs::Repair;
use storage_core::redis::connection::Connection;

use super::Kind;
use crate::labels;
use crate::outcome::{Item, Rejected, Written};
use crate::reconcile::Reconciliation;

/// The ticks of a partition.
pub(crate) struct Ticks(pub(crate) TickRules);

impl Kind for Ticks {
    const LABEL: &'static str = labels::TICKS;
    type Row = TickEvent;

    fn decode(&self, entry: &Entry) -> Result<TickEvent, Rejection> {
        self.0.decode(entry, local_ms())
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

    async fn write(&self, connection: &mut AsyncPgConnection, items: &[Item<TickEvent>]) -> QueryResult<Written> {
        let known = volume_decimals(connection, items.iter().map(|item| item.row.symbol())).await?;
        let decimals = |symbol: &Symbol| known.get(symbol).copied().unwrap_or(DEFAULT_VOLUME_DECIMALS);
        let prices = items
            .iter()
            .filter_map(|item| Some((item.row.symbol(), item.row.price()?)));
        let any_price = with_any_price(connection, prices).await?;
        let (mut entries, mut events) = (Vec::with_capacity(items.len()), Vec::with_capacity(items.len()));
        let mut written = Written::default();
        for Item { entry, row: event } in items {
            let price = event
                .price()
                .map_or(Ok(()), |price| check_price(event.symbol(), price, &any_price));
            match price.and_then(|()| to_write(event, decimals(event.symbol()))) {
                Ok(write) => {
                    entries.push(write);
                    events.push((*entry, event));
                }
                Err(reason) => written.rejected.push(Rejected { entry: *entry, reason }),
            }
        }
        let results = trades::write(connection, self.0.partition, &entries, decimals).await?;
        let mut repairs = BTreeMap::new();
        for ((entry, event), result) in events.into_iter().zip(results) {
            let mut repair = |ts_us| {
                let minute = (event.symbol(), Timeframe::M1.bucket_start_us(ts_us));
                repairs.insert(minute, event.revision());
            };
            match result {
                trades::Written::New => written.rows += 1,
                trades::Written::Unchanged => written.unchanged += 1,
                trades::Written::Amended(ts_us) => {
                    written.rows += 1;
                    // Also if it was applied before: after a crash between commit and announcement it is read again.
                    repair(ts_us);
                }
                trades::Written::Rejected(reason) => {
                    // hot-writer may have counted another one of the conflicting entries.
                    repair(event.ts_us());
                    written.rejected.push(Rejected { entry, reason });
                }
            }
        }
        let repairs = repairs.into_iter().map(|((symbol, start_us), revision)| Repair {
            symbol: symbol.clone(),
            start_us,
            revision,
        });
        written.repairs.extend(repairs);
        Ok(written)
    }
}

/// Converts the quantity of an entry into lots.
fn to_write(event: &TickEvent, decimals: u8) -> Result<Write, Rejection> {
    match event {
        TickEvent::Trade(accepted) => {
            let lots = accepted.tick.lots(decimals)?;
            Ok(Write::Trade(TickRow::new(accepted, lots.count)?))
        }
        TickEvent::Amendment(amendment) => Ok(Write::Amendment(amendment.clone().rounded(decimals)?)),
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
