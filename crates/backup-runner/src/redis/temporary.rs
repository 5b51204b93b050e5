//! A temporary redis-server that serves an RDB on a unix socket of this user and writes nothing.

use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client};
use storage_core::redis::inspect;
use tempfile::TempDir;
use tokio::io::AsyncReadExt;
use tokio::process::Child;
use tokio::time::sleep;

use crate::tool::{Tool, succeeded};

/// Time limit of a command: a large value takes long to copy.
pub(super) const RESPONSE_TIMEOUT: Duration = Duration::from_secs(300);
const POLL: Duration = Duration::from_millis(20);

/// Running server. Dropping it ends the process.
pub(crate) struct Temporary {
    server: Child,
    folder: TempDir,
}

impl Temporary {
    /// Starts a server on a symbolic link to `rdb` and waits until it is loaded. Expired keys are left out.
    pub(crate) async fn serve(programs: Option<&Path>, rdb: &Path) -> anyhow::Result<Self> {
        let folder = TempDir::with_prefix("backup-runner-").context("creating a temporary folder")?;
        symlink(rdb, folder.path().join("dump.rdb")).context("linking the RDB into a temporary folder")?;
        let server = Tool::new(programs, "redis-server")
            .args([
                "--port",
                "0",
                "--unixsocketperm",
                "700",
                "--save",
                "",
                "--appendonly",
                "no",
                "--unixsocket",
            ])
            .arg(socket(&folder))
            .arg("--dir")
            .arg(folder.path())
            .start()?;
        let mut temporary = Self { server, folder };
        temporary
            .loaded()
            .await
            .context("loading the RDB into a temporary redis-server")?;
        Ok(temporary)
    }

    async fn loaded(&mut self) -> anyhow::Result<()> {
        loop {
            if let Some(status) = self.server.try_wait()? {
                let mut output = String::new();
                if let Some(stderr) = &mut self.server.stderr {
                    stderr.read_to_string(&mut output).await?;
                }
                succeeded("redis-server", status, &output)?;
                bail!(
                    "redis-server ended while it loaded the RDB; a newer Redis may have written it: set \
                     `backup.redis_bin` to its programs"
                );
            }
            if let Ok(mut conn) = self.connect().await
                && inspect::info(&mut conn).await.is_ok_and(|info| !info.flag("loading"))
            {
                return Ok(());
            }
            sleep(POLL).await;
        }
    }

    pub(crate) async fn connect(&self) -> anyhow::Result<MultiplexedConnection> {
        let client = Client::open(format!("unix://{}", socket(&self.folder)))?;
        connect(&client).await
    }
}

fn socket(folder: &TempDir) -> String {
    folder.path().join("redis.sock").display().to_string()
}

/// Opens a connection that does not reconnect: that would select database 0.
pub(crate) async fn connect(client: &Client) -> anyhow::Result<MultiplexedConnection> {
    let options = AsyncConnectionConfig::new().set_response_timeout(Some(RESPONSE_TIMEOUT));
    Ok(client.get_multiplexed_async_connection_with_config(&options).await?)
}
