//! What must be true of Redis before a worker starts.

use super::connection::{self, Connection, explained};
use super::functions::{self, FunctionsError};
use super::{partitions, preflight};
use crate::config::Misconfigured;
use crate::config::redis::RedisConfig;

/// Checks that Redis loses nothing as it is set up, and holds the configured number of partitions and functions that this build can
/// use.
///
/// # Errors
/// Says what is wrong and what to do.
pub async fn check(config: &RedisConfig, partitions: u16) -> anyhow::Result<()> {
    preflight::check(config).await?;
    let mut conn = Connection::ordinary(config);
    let stored = partitions::stored(&mut conn)
        .await
        .map_err(|error| explained(error, config))?;
    partitions::check(stored, partitions)?;
    functions::check(&mut conn).await.map_err(|error| match error {
        FunctionsError::Redis(error) => explained(error, config),
        unusable => unusable.into(),
    })
}

/// What waiting does not mend: a wrong configuration, a wrong password, missing or old functions.
pub fn is_permanent(error: &anyhow::Error) -> bool {
    Misconfigured::caused(error) || error.is::<FunctionsError>() || connection::is_permanent(error)
}
