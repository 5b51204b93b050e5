//! Section `[redis]`.

use std::io;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use redis::ConnectionInfo;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Deserializer, Serialize, de};

use super::secret_url::SecretUrl;
use super::{password_file, positive};

/// How Redis is reached.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RedisConfig {
    /// `redis://[USER[:PASSWORD]@]HOST[:PORT][/DB]`, `rediss://…` for TLS, `unix:///PATH`.
    #[serde(deserialize_with = "redis_url")]
    pub url: SecretUrl,
    /// ACL user; goes before the one in the URL.
    pub username: Option<String>,
    /// File with the password; goes before the one in the URL. Read again at every new connection.
    pub password_file: Option<PathBuf>,
    /// PEM file of the authority that signed the server's certificate; the system's where unset.
    pub ca_file: Option<PathBuf>,
    /// PEM file of the certificate that this worker shows to the server; needs `key_file`.
    pub cert_file: Option<PathBuf>,
    /// PEM file of the private key of `cert_file`.
    pub key_file: Option<PathBuf>,
    /// How long opening a connection may take.
    #[serde(
        serialize_with = "humantime_serde::serialize",
        deserialize_with = "positive::duration"
    )]
    pub connect_timeout: Duration,
    /// How long a command may take, the time that a blocking read waits not included.
    #[serde(
        serialize_with = "humantime_serde::serialize",
        deserialize_with = "positive::duration"
    )]
    pub response_timeout: Duration,
}

impl Default for RedisConfig {
    fn default() -> Self {
        Self {
            url: SecretUrl::new("redis://127.0.0.1:6379"),
            username: None,
            password_file: None,
            ca_file: None,
            cert_file: None,
            key_file: None,
            connect_timeout: Duration::from_secs(5),
            response_timeout: Duration::from_secs(5),
        }
    }
}

impl RedisConfig {
    /// The configuration for a Redis at `url`, everything else by default.
    ///
    /// # Errors
    /// If `url` is not the URL of a Redis.
    pub fn at(url: &str) -> Result<Self, super::Misconfigured> {
        let url = parse(url).map_err(super::Misconfigured::new)?;
        Ok(Self { url, ..Self::default() })
    }

    /// The password from `password_file`, read now. `None` where no file is set; the URL may hold
    /// one then.
    ///
    /// # Errors
    /// If the file can't be read or is empty.
    pub fn password(&self) -> io::Result<Option<SecretString>> {
        self.password_file.as_deref().map(password_file::read).transpose()
    }

    /// Address, user, password (read now) and database for a new connection.
    ///
    /// # Errors
    /// If the password file can't be read or is empty.
    pub fn connection_info(&self) -> io::Result<ConnectionInfo> {
        let info = ConnectionInfo::from_str(self.url.expose()).map_err(|_| {
            // Checked when the configuration was read; the cause could show the password.
            io::Error::new(io::ErrorKind::InvalidInput, URL_EXPECTED)
        })?;
        let mut settings = info.redis_settings().clone();
        if let Some(username) = &self.username {
            settings = settings.set_username(username);
        }
        if let Some(password) = self.password()? {
            settings = settings.set_password(password.expose_secret());
        }
        Ok(info.set_redis_settings(settings))
    }
}

const URL_EXPECTED: &str = "not the URL of a Redis: write redis://[USER@]HOST[:PORT][/DB], rediss:// for TLS, \
     and special characters of a password percent-encoded";

fn parse(url: &str) -> Result<SecretUrl, &'static str> {
    match ConnectionInfo::from_str(url) {
        Ok(_) => Ok(SecretUrl::new(url)),
        Err(_) => Err(URL_EXPECTED),
    }
}

fn redis_url<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SecretUrl, D::Error> {
    let url = String::deserialize(deserializer)?;
    parse(&url).map_err(de::Error::custom)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_and_password_file_go_before_the_url() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("password");
        std::fs::write(&path, "first\n").unwrap();
        let config = RedisConfig {
            username: Some("hot".into()),
            password_file: Some(path.clone()),
            ..RedisConfig::at("redis://user:url@localhost/2").unwrap()
        };
        let settings = config.connection_info().unwrap();
        assert_eq!(settings.redis_settings().username(), Some("hot"));
        assert_eq!(settings.redis_settings().password(), Some("first"));
        assert_eq!(settings.redis_settings().db(), 2);

        std::fs::write(&path, "second").unwrap();
        let settings = config.connection_info().unwrap();
        assert_eq!(settings.redis_settings().password(), Some("second"));
    }

    #[test]
    fn what_is_not_a_redis_url_is_refused_without_showing_it() {
        for url in ["http://u:hunter2@h", "redis://u:hun/ter2@h", "hunter2", ""] {
            let error = RedisConfig::at(url).unwrap_err().to_string();
            assert!(error.starts_with("not the URL of a Redis"), "{error}");
            assert!(!error.contains("ter2"), "{error}");
        }
    }
}
