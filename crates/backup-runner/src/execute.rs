//! Makes one backup and announces it.

use tokio_util::sync::CancellationToken;

use storage_core::service::Stopped;

use crate::announce::announce;
use crate::config::Config;
use crate::destination::Destination;
use crate::manifest::{Kind, Manifest};
use crate::{metrics, postgres, redis};

/// Makes a backup. A failure, or the cancellation of `token`, removes its files and ends the programs that write them.
///
/// # Errors
/// [`Stopped`] if `token` was cancelled.
pub(crate) async fn make(
    config: &Config,
    destination: &Destination,
    kind: Kind,
    token: &CancellationToken,
) -> anyhow::Result<Manifest> {
    let backup = async {
        match kind {
            Kind::Redis => redis::backup::backup(config, destination).await,
            Kind::Postgres => postgres::logical::backup(config, destination).await,
            Kind::Base => postgres::base::backup(config, destination).await,
        }
    };
    let Some(made) = token.run_until_cancelled(backup).await else {
        return Err(Stopped.into());
    };
    metrics::BACKUPS.increment(kind.as_str(), if made.is_ok() { "ok" } else { "failed" }, 1);
    let manifest = made.map_err(|error| error.context(format!("backup of {kind}")))?;
    if let Ok(took) = (manifest.finished - manifest.started).to_std() {
        metrics::DURATION.record(kind.as_str(), took.as_secs_f64());
    }
    metrics::show(kind, &destination.backups(kind).await?);
    announce(&config.redis, &manifest).await;
    Ok(manifest)
}
