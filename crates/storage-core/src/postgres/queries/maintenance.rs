//! Calls of procedures that run without a time limit and commit in between.

use diesel::{QueryResult, sql_query};
use diesel_async::{AsyncPgConnection, RunQueryDsl, SimpleAsyncConnection};

use crate::postgres::columns::TextValue;

/// Runs `call` outside a transaction, as a procedure that commits requires, and without the statement timeout of the
/// session.
pub(super) async fn call(connection: &mut AsyncPgConnection, call: &str) -> QueryResult<()> {
    let limit: TextValue = sql_query("SELECT current_setting('statement_timeout') AS value")
        .get_result(connection)
        .await?;
    connection.batch_execute("SET statement_timeout = 0").await?;
    let called = connection.batch_execute(call).await;
    let restored = connection
        .batch_execute(&format!("SET statement_timeout = '{}'", limit.value))
        .await;
    called.and(restored)
}
