//! Section `[redis]`.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use redis::RedisConnectionInfo;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Deserializer, Serialize, de};

use super::password_file;
use super::redis_servers::RedisServers;
use super::secret_url::SecretUrl;

/// Connection to Redis.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RedisConfig {
    /// `redis://[USER[:PASSWORD]@]HOST[:PORT][/DB]`, `redis+cluster://[USER[:PASSWORD]@]HOST:PORT[,HOST:PORT…]`,
    /// `redis+sentinel://[USER[:PASSWORD]@]HOST[:PORT][,HOST[:PORT]…]/MASTER[/DB]`; `rediss` for TLS; `unix:///PATH`.
    #[serde(deserialize_with = "redis_url")]
    pub url: SecretUrl,
    /// ACL user; overrides the one in the URL.
    pub username: Option<String>,
    /// File with the password; overrides the one in the URL. Read for every new connection.
    pub password_file: Option<PathBuf>,
    /// PEM file of the authority that signed the certificate of the server; unset: the authorities of the system.
    pub ca_file: Option<PathBuf>,
    /// PEM file of the client certificate; needs `key_file`.
    pub cert_file: Option<PathBuf>,
    /// PEM file of the private key of `cert_file`.
    pub key_file: Option<PathBuf>,
    /// Time limit for opening a connection.
    #[serde(with = "humantime_serde")]
    pub connect_timeout: Duration,
    /// Time limit for a command, without the time that a blocking read waits.
    #[serde(with = "humantime_serde")]
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
    /// Returns the default configuration for a Redis at `url`.
    pub fn at(url: &str) -> Result<Self, super::Misconfigured> {
        let url = parse(url).map_err(super::Misconfigured::new)?;
        Ok(Self { url, ..Self::default() })
    }

    /// Reads the password from `password_file`. Returns `None` if no file is set; the URL may hold a password then.
    pub fn password(&self) -> io::Result<Option<SecretString>> {
        self.password_file.as_deref().map(password_file::read).transpose()
    }

    /// Returns the configuration for one node of the cluster or of the Sentinels.
    pub(crate) fn for_node(&self, host: &str, port: u16) -> Self {
        let url = self.url.expose();
        let (scheme, rest) = url.split_once("://").unwrap_or(("redis", url));
        let scheme = scheme.split('+').next().unwrap_or(scheme);
        let (login, place) = rest.split_at(rest.rfind('@').map_or(0, |at| at + 1));
        // The database follows the name of the master.
        let database = place.splitn(3, '/').nth(2);
        let database = database.map_or_else(String::new, |database| format!("/{database}"));
        let host = if host.contains(':') {
            format!("[{host}]")
        } else {
            host.to_owned()
        };
        Self {
            url: SecretUrl::new(format!("{scheme}://{login}{host}:{port}{database}")),
            ..self.clone()
        }
    }

    /// Returns the servers that the URL names, with the user and the password, which is read now.
    pub fn servers(&self) -> io::Result<RedisServers> {
        // The URL was checked when the configuration was loaded.
        let servers: RedisServers = self
            .url
            .expose()
            .parse()
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        let password = self.password()?;
        Ok(servers.with_login(|mut settings: RedisConnectionInfo| {
            if let Some(username) = &self.username {
                settings = settings.set_username(username);
            }
            if let Some(password) = &password {
                settings = settings.set_password(password.expose_secret());
            }
            settings
        }))
    }
}

fn parse(url: &str) -> Result<SecretUrl, &'static str> {
    url.parse::<RedisServers>().map(|_| SecretUrl::new(url))
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
        let settings = || match config.servers().unwrap() {
            RedisServers::One(info) => info.redis_settings().clone(),
            other => panic!("{other:?}"),
        };
        assert_eq!(settings().username(), Some("hot"));
        assert_eq!(settings().password(), Some("first"));
        assert_eq!(settings().db(), 2);

        std::fs::write(&path, "second").unwrap();
        assert_eq!(settings().password(), Some("second"));
    }

    #[test]
    fn a_node_is_reached_with_the_login_of_all() {
        let config = RedisConfig::at("rediss+cluster://u:p@a:1,b:2").unwrap();
        assert_eq!(
            config.for_node("10.0.0.7", 7000).url.expose(),
            "rediss://u:p@10.0.0.7:7000"
        );
        assert_eq!(config.for_node("::1", 7000).url.expose(), "rediss://u:p@[::1]:7000");
        let config = RedisConfig::at("redis+sentinel://u:p@a,b/market/3").unwrap();
        assert_eq!(config.for_node("c", 7000).url.expose(), "redis://u:p@c:7000/3");
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
