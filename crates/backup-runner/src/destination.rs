//! The backup folder: `<kind>/<name>/…` holds the files of a backup and its `manifest.json`.
//!
//! External programs write their files directly into the folder. Listing, reading and manifests go through
//! [`object_store`], so that little is missing for a bucket: uploading the files before the manifest, and downloading
//! those that a program reads.

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use futures::TryStreamExt;
use nix::sys::stat::{Mode, umask};
use object_store::local::LocalFileSystem;
use object_store::path::Path as Location;
use object_store::{ObjectStore, ObjectStoreExt};
use sha2::{Digest, Sha256};

use crate::manifest::{FILE_NAME, File, Kind, Manifest, Name, hex};
use crate::tool::shell_quoted;

/// Prefix of the folders into which `verify` unpacks a base backup.
pub(crate) const SCRATCH_PREFIX: &str = ".verify-";

/// Backup folder.
#[derive(Clone, Debug)]
pub(crate) struct Destination {
    folder: PathBuf,
    store: Arc<LocalFileSystem>,
}

/// Backup or the remains of one.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) kind: Kind,
    pub(crate) name: Name,
    pub(crate) state: State,
}

/// State of a backup's manifest.
#[derive(Debug)]
pub(crate) enum State {
    /// The manifest is intact; `verify` checks the files.
    Complete(Box<Manifest>),
    /// The manifest is missing: the backup is being written, or was interrupted.
    Incomplete,
    /// The manifest is damaged, as described.
    Damaged(String),
}

impl Found {
    /// Returns the manifest of a complete backup.
    pub(crate) fn manifest(&self) -> Option<&Manifest> {
        match &self.state {
            State::Complete(manifest) => Some(manifest),
            State::Incomplete | State::Damaged(_) => None,
        }
    }
}

impl Destination {
    /// Opens the folder, which is created if it is missing.
    pub(crate) fn open(folder: &Path) -> anyhow::Result<Self> {
        let failed = || format!("opening the backup folder {}", folder.display());
        create_folder(folder).with_context(failed)?;
        let folder = folder.canonicalize().with_context(failed)?;
        let store = LocalFileSystem::new_with_prefix(&folder)
            .with_context(failed)?
            .with_fsync(true);
        Ok(Self {
            folder,
            store: Arc::new(store),
        })
    }

    /// Returns the path of the folder.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Returns the folder of a backup's files.
    pub(crate) fn folder_of(&self, kind: Kind, name: Name) -> PathBuf {
        self.folder.join(kind.as_str()).join(name.to_string())
    }

    /// Returns the folder of a server's archived WAL.
    pub(crate) fn wal_folder(&self, system_identifier: &str) -> PathBuf {
        self.folder.join("wal").join(system_identifier)
    }

    /// Lists backups, incomplete and damaged ones included, oldest first.
    pub(crate) async fn found(&self, kind: Kind) -> anyhow::Result<Vec<Found>> {
        let listed = self
            .store
            .list_with_delimiter(Some(&Location::from(kind.as_str())))
            .await
            .context("listing the backups")?;
        let names: BTreeSet<Name> = listed
            .common_prefixes
            .iter()
            .filter_map(|prefix| prefix.filename()?.parse().ok())
            .collect();
        let mut found = Vec::with_capacity(names.len());
        for name in names {
            found.push(Found {
                kind,
                name,
                state: self.state(kind, name).await?,
            });
        }
        Ok(found)
    }

    async fn state(&self, kind: Kind, name: Name) -> anyhow::Result<State> {
        let json = match self.store.get(&location(kind, name, FILE_NAME)).await {
            Ok(stored) => stored.bytes().await.context("reading a manifest")?,
            Err(object_store::Error::NotFound { .. }) => return Ok(State::Incomplete),
            Err(error) => return Err(error).context("reading a manifest"),
        };
        Ok(match Manifest::from_json(&json) {
            Ok(manifest) if manifest.kind() == kind && manifest.name == name => State::Complete(Box::new(manifest)),
            Ok(manifest) => State::Damaged(format!("belongs to {}/{}", manifest.kind(), manifest.name)),
            Err(error) => State::Damaged(format!("{error:#}")),
        })
    }

    /// Lists complete backups, oldest first.
    pub(crate) async fn backups(&self, kind: Kind) -> anyhow::Result<Vec<Manifest>> {
        let found = self.found(kind).await?;
        Ok(found.iter().filter_map(Found::manifest).cloned().collect())
    }

    /// Finds a backup by its name, or the newest one by `latest`.
    pub(crate) async fn find(&self, kind: Kind, name: &str) -> anyhow::Result<Manifest> {
        if name == "latest" {
            return self.backups(kind).await?.pop().ok_or_else(|| {
                anyhow!(
                    "no backup of kind {kind} in {}; run `backup-runner backup {kind}`",
                    self.folder.display()
                )
            });
        }
        let name: Name = name.strip_prefix(&format!("{kind}/")).unwrap_or(name).parse()?;
        match self.state(kind, name).await? {
            State::Complete(manifest) => Ok(*manifest),
            State::Damaged(reason) => {
                bail!(
                    "the manifest of {kind}/{name} {reason}; use another backup, see {}",
                    self.list_command()
                )
            }
            State::Incomplete if self.folder_of(kind, name).exists() => {
                bail!(
                    "{kind}/{name} is incomplete: it is still being written, or was interrupted; use another backup, \
                     see {}",
                    self.list_command()
                )
            }
            State::Incomplete => bail!("there is no backup {kind}/{name}; see {}", self.list_command()),
        }
    }

    /// Returns the command that lists the backups, for error messages.
    pub(crate) fn list_command(&self) -> String {
        format!("`backup-runner --folder {} list`", shell_quoted(&self.folder))
    }

    /// Lists the paths of a backup's files, without its manifest.
    pub(crate) async fn files(&self, kind: Kind, name: Name) -> anyhow::Result<BTreeSet<String>> {
        let prefix = Location::from(format!("{kind}/{name}"));
        let listed: Vec<_> = self
            .store
            .list(Some(&prefix))
            .try_collect()
            .await
            .context("listing a backup's files")?;
        let paths = listed
            .iter()
            .filter_map(|file| file.location.as_ref().strip_prefix(prefix.as_ref()));
        Ok(paths
            .map(|path| path.trim_start_matches('/').to_owned())
            .filter(|path| path != FILE_NAME)
            .collect())
    }

    /// Writes a backup's manifest.
    pub(crate) async fn put_manifest(&self, manifest: &Manifest) -> anyhow::Result<()> {
        let location = location(manifest.kind(), manifest.name, FILE_NAME);
        let written = self.store.put(&location, manifest.to_json()?.into()).await;
        written.map(drop).context("writing the manifest")
    }

    /// Reads a file and computes its size and checksum.
    pub(crate) async fn measure(&self, kind: Kind, name: Name, path: &str) -> anyhow::Result<File> {
        let mut stream = self.store.get(&location(kind, name, path)).await?.into_stream();
        let (mut hasher, mut size_bytes) = (Sha256::new(), 0);
        while let Some(bytes) = stream.try_next().await? {
            size_bytes += bytes.len() as u64;
            hasher.update(&bytes);
        }
        Ok(File {
            path: path.to_owned(),
            size_bytes,
            sha256: hex(&hasher.finalize()),
        })
    }

    /// Removes a backup or its remains: the manifest first, so that a crash leaves an incomplete backup, not a damaged
    /// one.
    pub(crate) async fn remove(&self, kind: Kind, name: Name) -> anyhow::Result<()> {
        match self.store.delete(&location(kind, name, FILE_NAME)).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => {}
            Err(error) => return Err(error).with_context(|| format!("removing {kind}/{name}")),
        }
        // This also removes temporary files of an interrupted write, which the store does not list.
        fs::remove_dir_all(self.folder_of(kind, name)).with_context(|| format!("removing {kind}/{name}"))
    }

    /// Removes folders of interrupted checks that are older than `age`.
    pub(crate) fn remove_scratch(&self, age: Duration) -> anyhow::Result<()> {
        for entry in fs::read_dir(&self.folder).context("listing the backup folder")? {
            let entry = entry?;
            let is_scratch = entry.file_name().to_string_lossy().starts_with(SCRATCH_PREFIX);
            if is_scratch
                && entry
                    .metadata()?
                    .modified()?
                    .elapsed()
                    .is_ok_and(|elapsed| elapsed > age)
            {
                fs::remove_dir_all(entry.path()).with_context(|| format!("removing {}", entry.path().display()))?;
            }
        }
        Ok(())
    }

    /// Acquires the lock of `task` among all replicas that use this folder; dropping the file releases it. Returns
    /// `None` while another replica holds it.
    pub(crate) fn try_lock(&self, task: &str) -> anyhow::Result<Option<fs::File>> {
        let path = self.folder.join(format!(".{task}.lock"));
        let file = fs::File::create(&path).with_context(|| format!("opening {}", path.display()))?;
        match file.try_lock() {
            Ok(()) => Ok(Some(file)),
            Err(fs::TryLockError::WouldBlock) => Ok(None),
            Err(fs::TryLockError::Error(error)) => Err(error).with_context(|| format!("locking {}", path.display())),
        }
    }
}

fn location(kind: Kind, name: Name, path: &str) -> Location {
    Location::from(format!("{kind}/{name}/{path}"))
}

/// Sets the umask so that only this user can read the files of backups, which mostly external programs create.
pub(crate) fn restrict_file_permissions() {
    umask(Mode::from_bits_truncate(0o077));
}

/// Creates a folder that only this user can open.
pub(crate) fn create_folder(folder: &Path) -> anyhow::Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .with_context(|| format!("creating {}", folder.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_replica_at_a_time_holds_a_lock() {
        let folder = tempfile::tempdir().unwrap();
        let destination = Destination::open(folder.path()).unwrap();
        let lock = destination.try_lock("redis").unwrap();
        assert!(lock.is_some());
        assert!(destination.try_lock("redis").unwrap().is_none());
        drop(lock);
        assert!(destination.try_lock("redis").unwrap().is_some());
    }
}
