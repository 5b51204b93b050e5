//! Calls of procedures that run without a time limit and commit in between.

use diesel::sql_types::Text;
use diesel::{QueryResult, QueryableByName, sql_query};
use diesel_async::{AsyncPgConnection, RunQueryDsl, SimpleAsyncConnection};

#[derive(QueryableByName)]
struct Limit {
    #[diesel(sql_type = Text)]
    statement_timeout: String,
}

/// Runs `call` outside a transaction, as a procedure that commits requires, and without the statement timeout of the
/// session.
pub(super) async fn call(connection: &mut AsyncPgConnection, call: &str) -> QueryResult<()> {
    let limit: Limit = sql_query("SHOW statement_timeout").get_result(connection).await?;
    connection.batch_execute("SET statement_timeout = 0").await?;
    let called = connection.batch_execute(call).await;
    let restored = connection
        .batch_execute(&format!("SET statement_timeout = '{}'", limit.statement_timeout))
        .await;
    called.and(restored)
}
