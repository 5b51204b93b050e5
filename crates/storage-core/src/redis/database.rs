//! The database that Redis belongs to: noted once, so that two databases never share what one Redis hands out.

use std::time::Duration;

use redis::aio::ConnectionLike;
use redis::{RedisResult, cmd};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::connection::Connection;
use super::keys;
use crate::config::Misconfigured;
use crate::domain::database_identity::DatabaseIdentity;

/// How often [`watch`] looks.
const INTERVAL: Duration = Duration::from_secs(1);

/// The database that Redis belongs to; `None` before the first `aggregator-admin migrate`.
///
/// # Errors
/// When Redis can't be asked.
pub async fn stored(conn: &mut impl ConnectionLike) -> RedisResult<Option<DatabaseIdentity>> {
    let stored: Option<String> = cmd("GET").arg(keys::database()).query_async(conn).await?;
    Ok(stored.map(DatabaseIdentity::new))
}

/// Notes the database unless there is one, and returns the one that counts.
///
/// # Errors
/// When Redis can't be asked.
pub async fn store_once(conn: &mut impl ConnectionLike, database: &DatabaseIdentity) -> RedisResult<DatabaseIdentity> {
    cmd("SETNX")
        .arg(keys::database())
        .arg(database.to_string())
        .query_async::<()>(conn)
        .await?;
    Ok(stored(conn).await?.unwrap_or_else(|| database.clone()))
}

/// Notes the database in place of any other.
///
/// # Errors
/// When Redis can't be asked.
pub async fn replace(conn: &mut impl ConnectionLike, database: &DatabaseIdentity) -> RedisResult<()> {
    cmd("SET")
        .arg(keys::database())
        .arg(database.to_string())
        .query_async(conn)
        .await
}

/// Notes that Redis belongs to no database.
///
/// # Errors
/// When Redis can't be asked.
pub async fn forget(conn: &mut impl ConnectionLike) -> RedisResult<()> {
    cmd("DEL").arg(keys::database()).query_async(conn).await
}

/// Refuses a database that is not the one that Redis belongs to.
///
/// # Errors
/// When it is another one, or Redis names none.
pub fn check(stored: Option<&DatabaseIdentity>, found: &DatabaseIdentity) -> Result<(), Misconfigured> {
    match stored {
        Some(stored) => refuse_other(stored, found),
        None => Err(Misconfigured::new(
            "Redis does not say which database it belongs to; run `aggregator-admin migrate`",
        )),
    }
}

fn refuse_other(stored: &DatabaseIdentity, found: &DatabaseIdentity) -> Result<(), Misconfigured> {
    if stored == found {
        return Ok(());
    }
    let what = if found.has_history_of(stored) {
        "a copy of it"
    } else {
        "another one"
    };
    Err(Misconfigured::new(format!(
        "Redis belongs to database {stored}, and this is {what}, {found}; set DATABASE_URL and REDIS_URL to two that belong together, or, \
         if this database takes the other's place, stop the workers and run `aggregator-admin migrate --adopt-database`"
    )))
}

/// As [`check`], with what Redis holds now.
///
/// # Errors
/// As [`check`], or when Redis can't be asked.
pub async fn ensure(conn: &mut impl ConnectionLike, found: &DatabaseIdentity) -> anyhow::Result<()> {
    Ok(check(stored(conn).await?.as_ref(), found)?)
}

/// Looks again and again until `token` is cancelled. A Redis that was emptied belongs to no other database yet, and one that is away is
/// reported by those who work with it.
///
/// # Errors
/// When Redis belongs to another database by now.
pub async fn watch(mut conn: Connection, found: DatabaseIdentity, token: CancellationToken) -> anyhow::Result<()> {
    while token.run_until_cancelled(sleep(INTERVAL)).await.is_some() {
        if let Ok(Some(stored)) = stored(&mut conn).await {
            refuse_other(&stored, &found)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_database_is_refused_and_a_copy_is_told_from_it() {
        let [ours, copy, other] = ["a@1/5", "a@1/6", "b@1/5"].map(DatabaseIdentity::new);
        assert!(check(Some(&ours), &ours).is_ok());
        let error = |found| check(Some(&ours), found).unwrap_err().to_string();
        for (found, what) in [(&copy, "a copy of it, a@1/6"), (&other, "another one, b@1/5")] {
            let error = error(found);
            assert!(
                error.contains("belongs to database a@1/5") && error.contains(what),
                "{error}"
            );
            assert!(error.contains("`aggregator-admin migrate --adopt-database`"), "{error}");
        }
        let error = check(None, &ours).unwrap_err().to_string();
        assert!(error.ends_with("run `aggregator-admin migrate`"), "{error}");
    }
}
