//! `dead_letters`: rejected entries, for an operator to inspect and requeue.

use chrono::{DateTime, Utc};
use diesel::prelude::*;
use diesel::sql_query;
use diesel::sql_types::{BigInt, Text};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use serde_json::Value;

use crate::domain::stream_id::StreamId;
use crate::domain::symbol::Symbol;
use crate::postgres::columns::BoolValue;
use crate::postgres::schema::dead_letters;

/// A dead letter to write.
#[derive(Clone, Debug, PartialEq, Insertable)]
#[diesel(table_name = dead_letters)]
pub struct NewDeadLetter {
    /// Stream that holds the entry.
    pub stream: String,
    /// ID of the entry.
    pub entry_id: String,
    /// Reason for the rejection.
    pub reason: String,
    /// Original fields as a JSON object.
    pub fields: Value,
    /// `true` if a value was truncated.
    pub truncated: bool,
}

/// A dead letter as the table holds it.
#[derive(Clone, Debug, PartialEq, Queryable, Selectable)]
#[diesel(table_name = dead_letters)]
pub struct DeadLetter {
    /// Stream that held the entry.
    pub stream: String,
    /// ID of the entry.
    pub entry_id: String,
    /// Reason for the rejection.
    pub reason: String,
    /// Original fields as a JSON object.
    pub fields: Value,
    /// `true` if a value was truncated; such a dead letter can't be requeued.
    pub truncated: bool,
    /// Time at which the row was written.
    pub first_seen: DateTime<Utc>,
    /// Time of the requeue.
    pub requeued_at: Option<DateTime<Utc>>,
    /// ID of the requeued entry.
    pub requeued_as: Option<String>,
}

/// Filter of dead letters.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Stream of the dead letters.
    pub stream: Option<String>,
    /// Text that the reason contains.
    pub reason: Option<String>,
    /// `true` to include requeued dead letters.
    pub requeued_too: bool,
}

/// Writes the dead letters that the table does not hold yet, and returns their number. Zero characters, which
/// PostgreSQL's text can't contain, become U+FFFD.
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

/// Lists the newest `limit` dead letters that match `filter`, newest first.
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

/// Lists the dead letters of quantities that did not fit the lots of their symbol, oldest first: those written after
/// `after`, or those of `symbol`.
pub async fn of_lots(
    connection: &mut AsyncPgConnection,
    after: Option<DateTime<Utc>>,
    symbol: Option<&str>,
    limit: i64,
) -> QueryResult<Vec<DeadLetter>> {
    // The condition is that of the index.
    let mut query = dead_letters::table
        .select(DeadLetter::as_select())
        .filter(dead_letters::requeued_at.is_null())
        .filter(diesel::dsl::sql::<diesel::sql_types::Bool>(
            "reason LIKE '%lots of 10^-%'",
        ))
        .into_boxed();
    if let Some(after) = after {
        query = query.filter(dead_letters::first_seen.gt(after));
    }
    if let Some(symbol) = symbol {
        let name = diesel::dsl::sql::<diesel::sql_types::Bool>("fields->>'symbol' = ");
        query = query.filter(name.bind::<Text, _>(symbol));
    }
    let oldest_first = query.order((dead_letters::first_seen.asc(), dead_letters::entry_id.asc()));
    oldest_first.limit(limit).load(connection).await
}

/// Reads the dead letters with an ID: of `stream`, or of all streams.
pub async fn find(
    connection: &mut AsyncPgConnection,
    stream: Option<&str>,
    entry_id: &str,
) -> QueryResult<Vec<DeadLetter>> {
    let mut query = dead_letters::table.select(DeadLetter::as_select()).into_boxed();
    if let Some(stream) = stream {
        query = query.filter(dead_letters::stream.eq(stream));
    }
    let with_id = query.filter(dead_letters::entry_id.eq(entry_id));
    with_id.order(dead_letters::stream).load(connection).await
}

/// Reads one dead letter and locks its row until the end of this transaction.
pub async fn lock(connection: &mut AsyncPgConnection, stream: &str, entry_id: &str) -> QueryResult<Option<DeadLetter>> {
    dead_letters::table
        .find((stream, entry_id))
        .select(DeadLetter::as_select())
        .for_update()
        .first(connection)
        .await
        .optional()
}

/// Marks a dead letter as requeued with the entry `new_id`. Returns `false` if it was requeued before.
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

/// Returns `true` if the entry `id` requeued a dead letter of `symbol`.
pub async fn is_requeue(connection: &mut AsyncPgConnection, symbol: &Symbol, id: StreamId) -> QueryResult<bool> {
    let found: BoolValue = sql_query(
        "SELECT EXISTS (SELECT FROM dead_letters WHERE requeued_as = $1 AND fields ->> 'symbol' = $2) AS value",
    )
    .bind::<Text, _>(id.to_string())
    .bind::<Text, _>(symbol.as_str())
    .get_result(connection)
    .await?;
    Ok(found.value)
}

/// Number of a stream's dead letters that were not requeued.
#[derive(Clone, Debug, PartialEq, Eq, QueryableByName)]
pub struct WaitingCount {
    /// Stream of the dead letters.
    #[diesel(sql_type = Text)]
    pub stream: String,
    /// Number of dead letters.
    #[diesel(sql_type = BigInt)]
    pub letters: i64,
}

/// Counts the dead letters that were not requeued by stream.
pub async fn waiting(connection: &mut AsyncPgConnection) -> QueryResult<Vec<WaitingCount>> {
    diesel::sql_query(
        "SELECT stream, count(*) AS letters FROM dead_letters
         WHERE requeued_at IS NULL GROUP BY stream ORDER BY stream",
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
