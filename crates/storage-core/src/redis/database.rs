//! The identity of the database that Redis belongs to, stored in Redis so that no other database is filled from its
//! streams.

use std::time::Duration;

use redis::aio::ConnectionLike;
use redis::{RedisResult, cmd};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::connection::Connection;
use super::keys;
use crate::config::Misconfigured;
use crate::domain::database_identity::DatabaseIdentity;

/// Time between two checks of [`watch`].
const INTERVAL: Duration = Duration::from_secs(1);

/// Reads the database that Redis belongs to; `None` before the first `aggregator-admin migrate`.
pub async fn stored(conn: &mut impl ConnectionLike) -> RedisResult<Option<DatabaseIdentity>> {
    let stored: Option<String> = cmd("GET").arg(keys::database()).query_async(conn).await?;
    Ok(stored.map(DatabaseIdentity::new))
}

/// Stores the database unless Redis belongs to one, and returns the one that Redis belongs to.
pub async fn store_once(conn: &mut impl ConnectionLike, database: &DatabaseIdentity) -> RedisResult<DatabaseIdentity> {
    cmd("SETNX")
        .arg(keys::database())
        .arg(database.to_string())
        .query_async::<()>(conn)
        .await?;
    Ok(stored(conn).await?.unwrap_or_else(|| database.clone()))
}

/// Stores the database in place of any other.
pub async fn replace(conn: &mut impl ConnectionLike, database: &DatabaseIdentity) -> RedisResult<()> {
    cmd("SET")
        .arg(keys::database())
        .arg(database.to_string())
        .query_async(conn)
        .await
}

/// Removes the database, so that Redis belongs to none.
pub async fn forget(conn: &mut impl ConnectionLike) -> RedisResult<()> {
    cmd("DEL").arg(keys::database()).query_async(conn).await
}

/// Fails unless `found` is the database that Redis belongs to.
pub fn check(stored: Option<&DatabaseIdentity>, found: &DatabaseIdentity) -> Result<(), Misconfigured> {
    match stored {
        Some(stored) => refuse_other(stored, found),
        None => Err(Misconfigured::new(
            "Redis belongs to no database yet; run `aggregator-admin migrate`",
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
        "Redis belongs to database {stored}, and this is {what}, {found}; set DATABASE_URL and REDIS_URL to two that \
         belong together, or, if this database takes the other's place, stop the workers and run \
         `aggregator-admin migrate --adopt-database`"
    )))
}

/// Reads the database that Redis belongs to, and fails with [`Misconfigured`] unless it is `found`.
pub async fn ensure(conn: &mut impl ConnectionLike, found: &DatabaseIdentity) -> anyhow::Result<()> {
    Ok(check(stored(conn).await?.as_ref(), found)?)
}

/// Checks the database periodically until `token` is cancelled, and fails if Redis belongs to another one. An emptied
/// Redis, which belongs to none, is accepted, and connection errors are ignored because the other tasks report them.
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
    fn the_error_distinguishes_a_copy_of_the_database_from_another_one() {
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
