//! Dead letters: one per rejected entry.

use diesel::QueryResult;
use diesel_async::AsyncPgConnection;
use serde_json::Value;
use storage_core::domain::entry::Entry;
use storage_core::domain::rejection::Rejection;
use storage_core::postgres::queries::dead_letters::{self, NewDeadLetter};
use storage_core::redis::codec::dead;

use super::Kind;
use crate::labels;
use crate::outcome::{Item, Written};

pub(crate) struct DeadLetters;

impl Kind for DeadLetters {
    const LABEL: &'static str = labels::DEAD_LETTERS;
    type Row = NewDeadLetter;

    fn decode(&self, entry: &Entry) -> Result<NewDeadLetter, Rejection> {
        let letter = dead::decode_entry(entry);
        Ok(NewDeadLetter {
            stream: letter.stream,
            entry_id: letter.id.to_string(),
            reason: letter.reason,
            fields: Value::Object(letter.fields),
            truncated: letter.truncated,
        })
    }

    async fn write(&self, connection: &mut AsyncPgConnection, items: &[Item<NewDeadLetter>]) -> QueryResult<Written> {
        let rows: Vec<NewDeadLetter> = items.iter().map(|item| item.row.clone()).collect();
        let new = dead_letters::insert(connection, &rows).await?;
        Ok(Written {
            rows: new,
            unchanged: rows.len() - new,
            ..Written::default()
        })
    }
}
