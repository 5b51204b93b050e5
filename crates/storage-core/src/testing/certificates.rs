//! Certificates for tests of TLS, created with openssl.

use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use super::skip::skip;

/// A folder with `ca.pem`; `server.pem` and `client.pem` with their `.key`, signed by it; and `stranger.pem`, an
/// authority that signed neither.
#[derive(Debug)]
pub struct Certificates(TempDir);

impl Certificates {
    /// Creates the files; `server.pem` is only for `host`, such as `DNS:localhost`. Skips the test and returns `None`
    /// without openssl.
    pub fn create(host: &str) -> Option<Self> {
        let folder = TempDir::new().expect("a temporary folder");
        let script = r#"set -e
            openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=authority -keyout ca.key -out ca.pem
            openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=stranger -keyout stranger.key -out stranger.pem
            printf 'subjectAltName=%s' "$1" >names
            for name in server client; do
                openssl req -newkey rsa:2048 -nodes -subj /CN=$name -keyout $name.key -out $name.csr
                openssl x509 -req -in $name.csr -out $name.pem -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 \
                    -extfile names
            done
            chmod 600 server.key"#;
        let created = Command::new("sh")
            .args(["-c", script, "sh", host])
            .current_dir(folder.path())
            .output();
        if created.is_ok_and(|output| output.status.success()) {
            return Some(Self(folder));
        }
        skip("no openssl, which creates certificates");
        None
    }

    /// Returns the path of one of the files.
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder().join(name)
    }

    fn folder(&self) -> &Path {
        self.0.path()
    }
}
