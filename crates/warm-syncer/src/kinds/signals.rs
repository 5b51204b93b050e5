//! Signals: each is written once.

use diesel::QueryResult;
use diesel_async::AsyncPgConnection;
use storage_core::domain::entry::Entry;
use storage_core::domain::rejection::Rejection;
use storage_core::domain::signal::Signal;
use storage_core::postgres::queries::signals;

use super::Kind;
use crate::labels;
use crate::outcome::{Item, Written};

pub(crate) struct Signals;

impl Kind for Signals {
    const LABEL: &'static str = labels::SIGNALS;
    type Row = Signal;

    fn decode(&self, entry: &Entry) -> Result<Signal, Rejection> {
        Signal::from_entry(entry)
    }

    async fn write(&self, connection: &mut AsyncPgConnection, items: &[Item<Signal>]) -> QueryResult<Written> {
        let rows: Vec<Signal> = items.iter().map(|item| item.row.clone()).collect();
        let new = signals::insert(connection, &rows).await?;
        Ok(Written {
            rows: new,
            unchanged: rows.len() - new,
            ..Written::default()
        })
    }
}
