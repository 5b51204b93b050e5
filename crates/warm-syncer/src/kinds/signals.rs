//! Signals: each is written once.

use diesel::QueryResult;
use diesel_async::AsyncPgConnection;
use storage_core::domain::entry::Entry;
use storage_core::domain::rejection::Rejection;
use storage_core::domain::signal::Signal;
use storage_core::postgres::queries::signals;

use super::Kind;
use super::ticks::{check_price, with_any_price};
use crate::labels;
use crate::outcome::{Item, Rejected, Written};

/// All signals.
pub(crate) struct Signals {
    /// `true` if times before 1973 are accepted.
    pub(crate) before_1973: bool,
}

impl Kind for Signals {
    const LABEL: &'static str = labels::SIGNALS;
    type Row = Signal;

    fn decode(&self, entry: &Entry) -> Result<Signal, Rejection> {
        Signal::from_entry(entry, self.before_1973)
    }

    async fn write(&self, connection: &mut AsyncPgConnection, items: &[Item<Signal>]) -> QueryResult<Written> {
        let any_price = with_any_price(connection, items.iter().map(|item| (&item.row.symbol, item.row.price)));
        let any_price = any_price.await?;
        let (mut rows, mut rejected) = (Vec::with_capacity(items.len()), Vec::new());
        for Item { entry, row: signal } in items {
            match check_price(&signal.symbol, signal.price, &any_price) {
                Ok(()) => rows.push(signal.clone()),
                Err(reason) => rejected.push(Rejected { entry: *entry, reason }),
            }
        }
        let new = signals::insert(connection, &rows).await?;
        Ok(Written {
            rows: new,
            unchanged: rows.len() - new,
            rejected,
            ..Written::default()
        })
    }
}
