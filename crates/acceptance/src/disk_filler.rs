//! A disk that is full.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, ensure};
use tokio::task::JoinHandle;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::database;

/// Time between two attempts to fill space that was released.
const FILL_INTERVAL: Duration = Duration::from_millis(100);

/// Files that keep a disk full.
#[derive(Debug)]
pub struct DiskFiller {
    url: String,
    disk: String,
    removed: CancellationToken,
    /// Task that keeps the disk full, and returns the number of files.
    filling: Option<JoinHandle<u32>>,
}

impl DiskFiller {
    /// Fills `disk`, which is a folder of the database server at `url`, and keeps it full.
    pub async fn start(url: &str, disk: &Path) -> anyhow::Result<Self> {
        let filler = Self {
            url: url.to_owned(),
            disk: disk.display().to_string(),
            removed: CancellationToken::new(),
            filling: None,
        };
        filler.fill(0).await?;
        Ok(filler.keep_filling())
    }

    /// Writes a file that takes all free space. The server writes it, because the disk exists only in the server's
    /// mount namespace.
    async fn fill(&self, number: u32) -> anyhow::Result<()> {
        let rows = "SELECT repeat('x', 8000) FROM generate_series(1, 1000000)";
        let refused = self.write(number, rows).await.err();
        let refused = refused.context("the disk is larger than the file that fills it")?;
        ensure!(refused.contains("No space left on device"), refused);
        Ok(())
    }

    async fn write(&self, number: u32, rows: &str) -> Result<(), String> {
        let copy = format!("COPY ({rows}) TO '{}/filler.{number}'", self.disk);
        database::rows(&self.url, &copy).await.map(drop)
    }

    /// Fills the space that failed transactions release with new files.
    fn keep_filling(mut self) -> Self {
        let filler = Self {
            filling: None,
            url: self.url.clone(),
            disk: self.disk.clone(),
            removed: self.removed.clone(),
        };
        self.filling = Some(tokio::spawn(async move {
            let mut files = 1;
            while !filler.removed.is_cancelled() {
                sleep(FILL_INTERVAL).await;
                // A full disk makes the server refuse connections and statements.
                let _ = filler.fill(files).await;
                files += 1;
            }
            files
        }));
        self
    }

    /// Truncates all files.
    pub async fn remove(mut self) -> anyhow::Result<()> {
        self.removed.cancel();
        let filling = self.filling.take().context("a disk that is kept full")?;
        for number in 0..filling.await? {
            let nothing = self.write(number, "SELECT 1 WHERE false").await;
            nothing.map_err(anyhow::Error::msg)?;
        }
        Ok(())
    }
}

impl Drop for DiskFiller {
    fn drop(&mut self) {
        self.removed.cancel();
    }
}
