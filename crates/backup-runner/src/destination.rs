//! Where backups are: a folder, `<kind>/<name>/…`, in which `manifest.json` makes a backup of what is beside it.
//!
//! The tools write their files where they stay. What counts goes through [`object_store`], so that a bucket is a small
//! step: upload the files before the manifest, and download one for the tools that want a file.

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use chrono::{DateTime, Utc};
use futures::TryStreamExt;
use object_store::local::LocalFileSystem;
use object_store::path::Path as Location;
use object_store::{ObjectStore, ObjectStoreExt};
use sha2::{Digest, Sha256};

use crate::manifest::{Content, FILE_NAME, File, Kind, Manifest, Name, hex};

/// What the names of folders that a check unpacks into begin with.
pub(crate) const SCRATCH_PREFIX: &str = ".verify-";

/// The folder of backups.
#[derive(Clone, Debug)]
pub(crate) struct Destination {
    folder: PathBuf,
    store: Arc<LocalFileSystem>,
}

/// What is in the place of a backup.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) kind: Kind,
    pub(crate) name: Name,
    pub(crate) state: State,
}

/// Whether it is one.
#[derive(Debug)]
pub(crate) enum State {
    /// A backup. Whether its files are whole is for `verify` to say.
    Complete(Box<Manifest>),
    /// There is no manifest: in the making, or interrupted.
    Incomplete,
    /// There is a manifest, but not as it was written.
    Damaged(String),
}

impl Destination {
    /// Opens the folder, and makes it if it is missing. Only this user can look into what is made from now on.
    pub(crate) fn open(folder: &Path) -> anyhow::Result<Self> {
        nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o077));
        let failed = || format!("using the folder of backups, {}", folder.display());
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)
            .with_context(failed)?;
        let folder = folder.canonicalize().with_context(failed)?;
        let store = LocalFileSystem::new_with_prefix(&folder)
            .with_context(failed)?
            .with_fsync(true);
        Ok(Self {
            folder,
            store: Arc::new(store),
        })
    }

    /// Where it is.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// The folder of a backup's files.
    pub(crate) fn folder_of(&self, kind: Kind, name: Name) -> PathBuf {
        self.folder.join(kind.as_str()).join(name.to_string())
    }

    /// The folder of the WAL of a server.
    pub(crate) fn wal_folder(&self, system_identifier: &str) -> PathBuf {
        self.folder.join("wal").join(system_identifier)
    }

    /// Begins a backup: takes a name that nobody else has, and makes its folder.
    pub(crate) fn begin(&self, kind: Kind) -> anyhow::Result<Draft> {
        loop {
            let started = Utc::now();
            let name = Name::of(started);
            let folder = self.folder_of(kind, name);
            make_folder(&self.folder.join(kind.as_str()))?;
            match DirBuilder::new().mode(0o700).create(&folder) {
                Ok(()) => {
                    return Ok(Draft {
                        destination: self.clone(),
                        kind,
                        name,
                        started,
                        folder,
                        sealed: false,
                    });
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => std::thread::yield_now(),
                Err(error) => return Err(error).with_context(|| format!("making {}", folder.display())),
            }
        }
    }

    /// Everything that is there of a kind, oldest first.
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
            Ok(manifest) => State::Damaged(format!("is the manifest of {}/{}", manifest.kind(), manifest.name)),
            Err(error) => State::Damaged(format!("{error:#}")),
        })
    }

    /// The backups of a kind, oldest first.
    pub(crate) async fn backups(&self, kind: Kind) -> anyhow::Result<Vec<Manifest>> {
        let found = self.found(kind).await?;
        Ok(found
            .into_iter()
            .filter_map(|found| match found.state {
                State::Complete(manifest) => Some(*manifest),
                State::Incomplete | State::Damaged(_) => None,
            })
            .collect())
    }

    /// The backup of this name, or the newest one for `latest`.
    pub(crate) async fn find(&self, kind: Kind, name: &str) -> anyhow::Result<Manifest> {
        if name == "latest" {
            return self
                .backups(kind)
                .await?
                .pop()
                .ok_or_else(|| anyhow!("there is no backup of kind {kind} in {}", self.folder.display()));
        }
        let name: Name = name.strip_prefix(&format!("{kind}/")).unwrap_or(name).parse()?;
        match self.state(kind, name).await? {
            State::Complete(manifest) => Ok(*manifest),
            State::Damaged(reason) => bail!("{kind}/{name}/{FILE_NAME} {reason}"),
            State::Incomplete if self.folder_of(kind, name).exists() => {
                bail!("{kind}/{name} is incomplete: it has no manifest, so its backup is not done or was interrupted")
            }
            State::Incomplete => bail!(
                "there is no backup {kind}/{name} in {}; see `backup-runner list`",
                self.folder.display()
            ),
        }
    }

    /// The paths of all files of a backup but its manifest.
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

    /// Size and checksum of a file as it is now.
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

    /// Removes a backup, or what is left of one: the manifest first, so that at no moment half of it counts.
    pub(crate) async fn remove(&self, kind: Kind, name: Name) -> anyhow::Result<()> {
        match self.store.delete(&location(kind, name, FILE_NAME)).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => {}
            Err(error) => return Err(error).with_context(|| format!("removing {kind}/{name}")),
        }
        // Also what an interrupted write left, which the store does not list.
        fs::remove_dir_all(self.folder_of(kind, name)).with_context(|| format!("removing {kind}/{name}"))
    }

    /// Removes the folders that an interrupted check left, once they are older than `age`.
    pub(crate) fn remove_scratch(&self, age: Duration) -> anyhow::Result<()> {
        for entry in fs::read_dir(&self.folder).context("listing the folder of backups")? {
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

    /// Takes the turn for `task` among all copies of backup-runner that use this folder, until the answer is dropped; `None`
    /// while another one has it.
    pub(crate) fn take_turn(&self, task: &str) -> anyhow::Result<Option<fs::File>> {
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

/// Makes a folder that only this user can look into.
pub(crate) fn make_folder(folder: &Path) -> anyhow::Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .with_context(|| format!("making {}", folder.display()))
}

/// A backup in the making. Its folder goes when it is dropped before [`Draft::seal`].
#[derive(Debug)]
pub(crate) struct Draft {
    destination: Destination,
    kind: Kind,
    name: Name,
    started: DateTime<Utc>,
    folder: PathBuf,
    sealed: bool,
}

impl Draft {
    /// Where a file of the backup is to be written.
    pub(crate) fn path(&self, file: &str) -> PathBuf {
        self.folder.join(file)
    }

    /// The folder for its files.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Makes a backup of it: all files reach the disk, then the manifest does.
    pub(crate) async fn seal(mut self, content: Content, made_by: Vec<String>) -> anyhow::Result<Manifest> {
        let mut files = Vec::new();
        for path in self.destination.files(self.kind, self.name).await? {
            let failed = || format!("finishing {path}");
            fs::File::open(self.folder.join(&path))
                .and_then(|file| file.sync_all())
                .with_context(failed)?;
            files.push(
                self.destination
                    .measure(self.kind, self.name, &path)
                    .await
                    .with_context(failed)?,
            );
        }
        let manifest = Manifest {
            name: self.name,
            started: self.started,
            finished: Utc::now(),
            made_by,
            files,
            content,
        };
        let location = location(self.kind, self.name, FILE_NAME);
        self.destination
            .store
            .put(&location, manifest.to_json()?.into())
            .await
            .context("writing the manifest")?;
        self.sealed = true;
        for folder in [
            self.folder.as_path(),
            &self.destination.folder.join(self.kind.as_str()),
            &self.destination.folder,
        ] {
            fs::File::open(folder)
                .and_then(|folder| folder.sync_all())
                .context("finishing the backup")?;
        }
        Ok(manifest)
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if !self.sealed
            && let Err(error) = fs::remove_dir_all(&self.folder)
        {
            tracing::warn!(
                "could not remove what an interrupted backup left, {}: {error}",
                self.folder.display()
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::manifest::tests::example;

    fn destination() -> (tempfile::TempDir, Destination) {
        let folder = tempfile::tempdir().unwrap();
        let destination = Destination::open(&folder.path().join("backups")).unwrap();
        (folder, destination)
    }

    #[tokio::test]
    async fn nothing_is_a_backup_before_its_manifest_is_there() {
        let (_folder, destination) = destination();
        let draft = destination.begin(Kind::Postgres).unwrap();
        fs::write(draft.path("database.dump"), "dump").unwrap();
        let found = destination.found(Kind::Postgres).await.unwrap();
        assert!(
            matches!(
                found[..],
                [Found {
                    state: State::Incomplete,
                    ..
                }]
            ),
            "{found:?}"
        );
        assert!(destination.find(Kind::Postgres, "latest").await.is_err());
        let error = destination
            .find(Kind::Postgres, &draft.name.to_string())
            .await
            .unwrap_err()
            .to_string();
        assert!(error.contains("incomplete"), "{error}");

        let manifest = draft.seal(example().content, vec![]).await.unwrap();
        assert_eq!(destination.find(Kind::Postgres, "latest").await.unwrap(), manifest);
        assert_eq!(manifest.files[0].size_bytes, 4);
    }

    #[tokio::test]
    async fn a_draft_that_is_given_up_leaves_nothing() {
        let (_folder, destination) = destination();
        let draft = destination.begin(Kind::Redis).unwrap();
        fs::write(draft.path("dump.rdb"), "half").unwrap();
        drop(draft);
        assert!(destination.found(Kind::Redis).await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn drafts_begun_at_once_have_names_of_their_own() {
        let (_folder, destination) = destination();
        let drafts: Vec<Draft> = (0..5).map(|_| destination.begin(Kind::Redis).unwrap()).collect();
        let names: BTreeSet<Name> = drafts.iter().map(|draft| draft.name).collect();
        assert_eq!(names.len(), 5);
    }

    #[tokio::test]
    async fn only_this_user_can_read_backups() {
        let (_folder, destination) = destination();
        let draft = destination.begin(Kind::Postgres).unwrap();
        fs::write(draft.path("database.dump"), "dump").unwrap();
        let manifest = draft.seal(example().content, vec![]).await.unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        let folder = destination.folder_of(Kind::Postgres, manifest.name);
        assert_eq!(mode(destination.folder()), 0o700);
        assert_eq!(mode(&folder), 0o700);
        assert_eq!(mode(&folder.join("database.dump")), 0o600);
        assert_eq!(mode(&folder.join(FILE_NAME)), 0o600);
    }

    #[tokio::test]
    async fn one_copy_at_a_time_has_the_turn() {
        let (_folder, destination) = destination();
        let turn = destination.take_turn("redis").unwrap();
        assert!(turn.is_some());
        assert!(destination.take_turn("redis").unwrap().is_none());
        drop(turn);
        assert!(destination.take_turn("redis").unwrap().is_some());
    }
}
