//! The checks of Redis before a worker starts.

use super::connection::{Connection, explained};
use super::functions::{self, FunctionsError};
use super::{partitions, preflight};
use crate::config::redis::RedisConfig;

/// Checks that the settings of Redis lose no data, that it holds the configured number of partitions, and that it has
/// the functions of this build.
///
/// # Errors
/// [`Misconfigured`](crate::config::Misconfigured) or [`FunctionsError`] with the remedy, or an error of Redis.
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
