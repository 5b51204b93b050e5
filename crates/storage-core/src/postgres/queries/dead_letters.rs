//! `dead_letters`: what no worker could use, until somebody looks at it.

use chrono::{DateTime, Utc};
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Text};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use serde_json::Value;

use crate::postgres::schema::dead_letters;

/// An entry that could not be used, as it is written.
#[derive(Clone, Debug, PartialEq, Insertable)]
#[diesel(table_name = dead_letters)]
pub struct NewDeadLetter {
    /// The stream that holds the entry.
    pub stream: String,
    /// The entry's ID there.
    pub entry_id: String,
    /// Why it could not be used.
    pub reason: String,
    /// The original fields, as a JSON object.
    pub fields: Value,
    /// Whether a value was too long and was cut.
    pub truncated: bool,
}

/// An entry that could not be used, as it is read.
#[derive(Clone, Debug, PartialEq, Queryable, Selectable)]
#[diesel(table_name = dead_letters)]
pub struct DeadLetter {
    /// The stream that held the entry.
    pub stream: String,
    /// The entry's ID there.
    pub entry_id: String,
    /// Why it could not be used.
    pub reason: String,
    /// The original fields, as a JSON object.
    pub fields: Value,
    /// Whether a value was too long and was cut: such an entry can't be requeued.
    pub truncated: bool,
    /// When it was written here.
    pub first_seen: DateTime<Utc>,
    /// When it was put into its stream again.
    pub requeued_at: Option<DateTime<Utc>>,
    /// The ID that it got then.
    pub requeued_as: Option<String>,
}

/// Which dead letters to list.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Only this stream's.
    pub stream: Option<String>,
    /// Only those whose reason contains this text.
    pub reason: Option<String>,
    /// Also those that were requeued.
    pub requeued_too: bool,
}

/// Writes the dead letters that the table does not hold yet. Returns how many were new.
///
/// PostgreSQL has no zero characters in text; they become U+FFFD.
///
/// # Errors
/// The database's.
pub async fn insert(connection: &mut AsyncPgConnection, letters: &[NewDeadLetter]) -> QueryResult<usize> {
    let letters: Vec<_> = letters.iter().cloned().map(without_zero_characters).collect();
    diesel::insert_into(dead_letters::table)
        .values(&letters)
        .on_conflict_do_nothing()
        .execute(connection)
        .await
}

fn without_zero_characters(letter: NewDeadLetter) -> NewDeadLetter {
    NewDeadLetter {
        stream: visible(&letter.stream),
        entry_id: visible(&letter.entry_id),
        reason: visible(&letter.reason),
        fields: visible_json(letter.fields),
        truncated: letter.truncated,
    }
}

fn visible(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}

fn visible_json(value: Value) -> Value {
    match value {
        Value::String(text) => Value::String(visible(&text)),
        Value::Array(values) => values.into_iter().map(visible_json).collect(),
        Value::Object(fields) => fields
            .into_iter()
            .map(|(name, value)| (visible(&name), visible_json(value)))
            .collect(),
        other => other,
    }
}

/// The newest `limit` dead letters that `filter` lets through, newest first.
///
/// # Errors
/// The database's.
pub async fn list(connection: &mut AsyncPgConnection, filter: &Filter, limit: i64) -> QueryResult<Vec<DeadLetter>> {
    let mut query = dead_letters::table.select(DeadLetter::as_select()).into_boxed();
    if let Some(stream) = &filter.stream {
        query = query.filter(dead_letters::stream.eq(stream));
    }
    if let Some(reason) = &filter.reason {
        let pattern = format!(
            "%{}%",
            reason.replace('\\', "\\\\").replace('%', "\\%").replace('_', "\\_")
        );
        query = query.filter(dead_letters::reason.like(pattern));
    }
    if !filter.requeued_too {
        query = query.filter(dead_letters::requeued_at.is_null());
    }
    query
        .order((
            dead_letters::first_seen.desc(),
            dead_letters::stream.asc(),
            dead_letters::entry_id.desc(),
        ))
        .limit(limit)
        .load(connection)
        .await
}

/// One dead letter.
///
/// # Errors
/// The database's.
pub async fn find(connection: &mut AsyncPgConnection, stream: &str, entry_id: &str) -> QueryResult<Option<DeadLetter>> {
    dead_letters::table
        .find((stream, entry_id))
        .select(DeadLetter::as_select())
        .first(connection)
        .await
        .optional()
}

/// The dead letters of an ID in any stream.
///
/// # Errors
/// The database's.
pub async fn with_id(connection: &mut AsyncPgConnection, entry_id: &str) -> QueryResult<Vec<DeadLetter>> {
    dead_letters::table
        .filter(dead_letters::entry_id.eq(entry_id))
        .select(DeadLetter::as_select())
        .order(dead_letters::stream)
        .load(connection)
        .await
}

/// One dead letter, kept from others until the end of this transaction.
///
/// # Errors
/// The database's.
pub async fn lock(connection: &mut AsyncPgConnection, stream: &str, entry_id: &str) -> QueryResult<Option<DeadLetter>> {
    dead_letters::table
        .find((stream, entry_id))
        .select(DeadLetter::as_select())
        .for_update()
        .first(connection)
        .await
        .optional()
}

/// Notes that a dead letter was put into its stream again as `new_id`. Returns whether it was still waiting for that.
///
/// # Errors
/// The database's.
pub async fn mark_requeued(
    connection: &mut AsyncPgConnection,
    stream: &str,
    entry_id: &str,
    new_id: &str,
) -> QueryResult<bool> {
    diesel::update(
        dead_letters::table
            .find((stream, entry_id))
            .filter(dead_letters::requeued_at.is_null()),
    )
    .set((
        dead_letters::requeued_at.eq(diesel::dsl::now),
        dead_letters::requeued_as.eq(new_id),
    ))
    .execute(connection)
    .await
    .map(|changed| changed == 1)
}

/// How many dead letters of a stream wait for somebody.
#[derive(Clone, Debug, PartialEq, Eq, QueryableByName)]
pub struct Waiting {
    /// The stream.
    #[diesel(sql_type = Text)]
    pub stream: String,
    /// Their number.
    #[diesel(sql_type = BigInt)]
    pub letters: i64,
}

/// The dead letters that were not requeued, counted by stream.
///
/// # Errors
/// The database's.
pub async fn waiting(connection: &mut AsyncPgConnection) -> QueryResult<Vec<Waiting>> {
    diesel::sql_query(
        "SELECT stream, count(*) AS letters FROM dead_letters WHERE requeued_at IS NULL GROUP BY stream ORDER BY stream",
    )
    .get_results(connection)
    .await
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn zero_characters_are_replaced_at_any_depth() {
        let value = visible_json(json!({"a\0": ["\0", 1, {"b": "x\0y"}]}));
        assert_eq!(value, json!({"a\u{fffd}": ["\u{fffd}", 1, {"b": "x\u{fffd}y"}]}));
    }
}
