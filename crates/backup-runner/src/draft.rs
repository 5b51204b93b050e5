//! A backup that is being written.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use anyhow::Context;
use chrono::{DateTime, Utc};

use crate::content::Content;
use crate::destination::{Destination, create_folder};
use crate::manifest::{Kind, Manifest, Name};

/// Backup that is being written. Dropping it before [`Draft::seal`] removes its folder.
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
    /// Begins a backup: creates its folder under a name that no other backup has.
    pub(crate) fn begin(destination: &Destination, kind: Kind) -> anyhow::Result<Self> {
        create_folder(&destination.folder().join(kind.as_str()))?;
        loop {
            let started = Utc::now();
            let name = Name::of(started);
            let folder = destination.folder_of(kind, name);
            match DirBuilder::new().mode(0o700).create(&folder) {
                Ok(()) => {
                    return Ok(Self {
                        destination: destination.clone(),
                        kind,
                        name,
                        started,
                        folder,
                        sealed: false,
                    });
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => std::thread::yield_now(),
                Err(error) => return Err(error).with_context(|| format!("creating {}", folder.display())),
            }
        }
    }

    /// Returns the path at which a file of the backup is written.
    pub(crate) fn path(&self, file: &str) -> PathBuf {
        self.folder.join(file)
    }

    /// Returns the folder of the backup's files.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Completes the backup: flushes all files to disk, then writes the manifest.
    pub(crate) async fn seal(mut self, content: Content, tool: String) -> anyhow::Result<Manifest> {
        let mut files = Vec::new();
        for path in self.destination.files(self.kind, self.name).await? {
            let failed = || format!("flushing {path} to disk");
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
            made_by: vec![concat!("backup-runner ", env!("CARGO_PKG_VERSION")).to_owned(), tool],
            files,
            content,
        };
        self.destination.put_manifest(&manifest).await?;
        self.sealed = true;
        for folder in self.folder.ancestors().take(3) {
            fs::File::open(folder)
                .and_then(|folder| folder.sync_all())
                .with_context(|| format!("flushing {} to disk", folder.display()))?;
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
                "removing the files of an interrupted backup failed: {error}; remove {} by hand",
                self.folder.display()
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::destination::{Found, State, restrict_file_permissions};
    use crate::manifest::FILE_NAME;
    use crate::manifest::tests::example;

    fn destination() -> (tempfile::TempDir, Destination) {
        let folder = tempfile::tempdir().unwrap();
        let destination = Destination::open(&folder.path().join("backups")).unwrap();
        (folder, destination)
    }

    #[tokio::test]
    async fn a_folder_without_a_manifest_is_not_a_backup() {
        let (_folder, destination) = destination();
        let draft = Draft::begin(&destination, Kind::Postgres).unwrap();
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

        let manifest = draft.seal(example().content, String::new()).await.unwrap();
        assert_eq!(destination.find(Kind::Postgres, "latest").await.unwrap(), manifest);
        assert_eq!(manifest.files[0].size_bytes, 4);
    }

    #[tokio::test]
    async fn a_dropped_draft_leaves_no_files() {
        let (_folder, destination) = destination();
        let draft = Draft::begin(&destination, Kind::Redis).unwrap();
        fs::write(draft.path("dump.rdb"), "half").unwrap();
        drop(draft);
        assert!(destination.found(Kind::Redis).await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn drafts_begun_together_have_different_names() {
        let (_folder, destination) = destination();
        let drafts: Vec<Draft> = (0..5)
            .map(|_| Draft::begin(&destination, Kind::Redis).unwrap())
            .collect();
        let names: BTreeSet<Name> = drafts.iter().map(|draft| draft.name).collect();
        assert_eq!(names.len(), 5);
    }

    #[tokio::test]
    async fn only_this_user_can_read_backups() {
        restrict_file_permissions();
        let (_folder, destination) = destination();
        let draft = Draft::begin(&destination, Kind::Postgres).unwrap();
        fs::write(draft.path("database.dump"), "dump").unwrap();
        let manifest = draft.seal(example().content, String::new()).await.unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        let folder = destination.folder_of(Kind::Postgres, manifest.name);
        assert_eq!(mode(destination.folder()), 0o700);
        assert_eq!(mode(&folder), 0o700);
        assert_eq!(mode(&folder.join("database.dump")), 0o600);
        assert_eq!(mode(&folder.join(FILE_NAME)), 0o600);
    }
}
