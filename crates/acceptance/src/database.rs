//! SQL queries with a client of their own, independent of the workers' code.

use tokio_postgres::{Config, NoTls, SimpleQueryMessage};

/// Returns the rows of the last statement, each value as text; NULL is empty.
pub async fn rows(url: &str, sql: &str) -> Result<Vec<Vec<String>>, String> {
    let parsed: Config = url.parse().map_err(|error: tokio_postgres::Error| error.to_string())?;
    let (client, connection) = parsed.connect(NoTls).await.map_err(describe)?;
    let connection = tokio::spawn(connection);
    let messages = client.simple_query(sql).await.map_err(describe)?;
    drop(client);
    // The embedded server has one session: the next client waits for this one's end.
    let _ = connection.await;
    let rows = messages.iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(
            (0..row.len())
                .map(|column| row.get(column).unwrap_or_default().to_owned())
                .collect(),
        ),
        _ => None,
    });
    Ok(rows.collect())
}

fn describe(error: tokio_postgres::Error) -> String {
    match error.as_db_error() {
        Some(db) => db.to_string(),
        None => error.to_string(),
    }
}
