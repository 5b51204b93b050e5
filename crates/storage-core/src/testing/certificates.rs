//! Certificates for tests of TLS, made by openssl.

use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

/// A folder with `ca.pem`; `server.pem` and `client.pem` with their `.key`, signed by it; and `stranger.pem`, an authority
/// that signed nothing.
#[derive(Debug)]
pub struct Certificates(TempDir);

impl Certificates {
    /// Makes them; the server's is for `localhost` only. Where there is no openssl it prints `skipped: …` and returns `None`.
    ///
    /// # Panics
    /// When there is no folder for temporary files.
    pub fn make() -> Option<Self> {
        let folder = TempDir::new().unwrap_or_else(|error| panic!("a folder for certificates: {error}"));
        let script = "set -e
            openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=authority -keyout ca.key -out ca.pem
            openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=stranger -keyout stranger.key -out stranger.pem
            printf 'subjectAltName=DNS:localhost' >names
            for name in server client; do
                openssl req -newkey rsa:2048 -nodes -subj /CN=$name -keyout $name.key -out $name.csr
                openssl x509 -req -in $name.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile names -out $name.pem
            done
            chmod 600 server.key";
        let made = Command::new("sh")
            .args(["-c", script])
            .current_dir(folder.path())
            .output();
        if made.is_ok_and(|made| made.status.success()) {
            return Some(Self(folder));
        }
        eprintln!("skipped: no openssl to make certificates with");
        None
    }

    /// The path of one of the files.
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder().join(name)
    }

    fn folder(&self) -> &Path {
        self.0.path()
    }
}
