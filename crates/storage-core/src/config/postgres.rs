//! Section `[postgres]`.

use std::borrow::Cow;
use std::io;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Deserializer, Serialize, de};
use url::form_urlencoded;

use super::secret_url::SecretUrl;
use super::{Misconfigured, password_file};

/// Connection to PostgreSQL with TimescaleDB.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PostgresConfig {
    /// `postgres://[USER[:PASSWORD]@]HOST[:PORT]/DATABASE[?sslmode=…]`, see [`SslMode`].
    #[serde(deserialize_with = "postgres_url")]
    pub url: SecretUrl,
    /// File with the password; overrides the one in the URL. Read for every new connection.
    pub password_file: Option<PathBuf>,
    /// PEM file of the authority that signed the certificate of the server; unset: the authorities of the system.
    pub ca_file: Option<PathBuf>,
    /// Largest number of connections of a replica.
    pub pool_size: u32,
    /// Time limit for opening a connection, and for waiting for a free one of the pool.
    #[serde(with = "humantime_serde")]
    pub connect_timeout: Duration,
    /// Time limit for a statement, after which the server cancels it; `0s` for no limit.
    #[serde(with = "humantime_serde")]
    pub statement_timeout: Duration,
}

impl Default for PostgresConfig {
    fn default() -> Self {
        Self {
            url: SecretUrl::new("postgres://postgres@127.0.0.1:5432/market"),
            password_file: None,
            ca_file: None,
            pool_size: 4,
            connect_timeout: Duration::from_secs(5),
            statement_timeout: Duration::from_secs(60),
        }
    }
}

/// Value of `sslmode` in the URL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SslMode {
    /// `disable`: never TLS.
    Disable,
    /// `prefer` (the default, as in libpq): TLS if the server offers it, its certificate unchecked.
    Prefer,
    /// `require`: TLS or no connection; the certificate is checked if `ca_file` is set, as in libpq.
    Require,
    /// `verify-full`: TLS, and certificate and host name are checked against `ca_file` or the
    /// system's authorities.
    VerifyFull,
}

impl PostgresConfig {
    /// Returns the default configuration for a database at `url`.
    pub fn at(url: &str) -> Result<Self, Misconfigured> {
        let url = parse(url).map_err(Misconfigured::new)?;
        Ok(Self { url, ..Self::default() })
    }

    /// Reads the password from `password_file`. Returns `None` if no file is set; the URL may hold a password then.
    pub fn password(&self) -> io::Result<Option<SecretString>> {
        self.password_file.as_deref().map(password_file::read).transpose()
    }

    /// Returns the `sslmode` of the URL.
    pub fn ssl_mode(&self) -> SslMode {
        // The mode was checked when the configuration was loaded.
        split_ssl_mode(self.url.expose()).map_or(SslMode::VerifyFull, |(_, mode)| mode)
    }

    /// Returns the options of a new connection, with the password, which is read now. For [`SslMode::VerifyFull`] they
    /// only require TLS.
    pub fn connection_options(&self, application: &str) -> io::Result<tokio_postgres::Config> {
        let mut options =
            options(self.url.expose()).map_err(|expected| io::Error::new(io::ErrorKind::InvalidInput, expected))?;
        options
            .application_name(application)
            .connect_timeout(self.connect_timeout);
        if let Some(password) = self.password()? {
            options.password(password.expose_secret());
        }
        Ok(options)
    }
}

const URL_EXPECTED: &str = "not the URL of a PostgreSQL database: write postgres://[USER@]HOST[:PORT]/DATABASE, \
     and special characters of a password percent-encoded";
const SSL_MODE_EXPECTED: &str = "sslmode in the URL is none of disable, prefer, require, verify-full";

/// Parses `url`. The errors of the driver are not shown, because they may quote a password.
fn options(url: &str) -> Result<tokio_postgres::Config, &'static str> {
    if !url.starts_with("postgres://") && !url.starts_with("postgresql://") {
        return Err(URL_EXPECTED);
    }
    let (url, mode) = split_ssl_mode(url)?;
    let mut options = tokio_postgres::Config::from_str(&url).map_err(|_| URL_EXPECTED)?;
    options.ssl_mode(match mode {
        SslMode::Disable => tokio_postgres::config::SslMode::Disable,
        SslMode::Prefer => tokio_postgres::config::SslMode::Prefer,
        SslMode::Require | SslMode::VerifyFull => tokio_postgres::config::SslMode::Require,
    });
    Ok(options)
}

/// Splits `sslmode` off the URL, because the driver does not know all values.
fn split_ssl_mode(url: &str) -> Result<(Cow<'_, str>, SslMode), &'static str> {
    let Some((base, query)) = url.split_once('?') else {
        return Ok((url.into(), SslMode::Prefer));
    };
    let mut mode = SslMode::Prefer;
    let mut others = Vec::new();
    for parameter in query.split('&') {
        match form_urlencoded::parse(parameter.as_bytes()).next() {
            Some((name, value)) if name == "sslmode" => {
                mode = match value.as_ref() {
                    "disable" => SslMode::Disable,
                    "prefer" => SslMode::Prefer,
                    "require" => SslMode::Require,
                    "verify-full" => SslMode::VerifyFull,
                    _ => return Err(SSL_MODE_EXPECTED),
                }
            }
            _ => others.push(parameter),
        }
    }
    if others.is_empty() {
        return Ok((base.into(), mode));
    }
    Ok((format!("{base}?{}", others.join("&")).into(), mode))
}

fn parse(url: &str) -> Result<SecretUrl, &'static str> {
    options(url).map(|_| SecretUrl::new(url))
}

fn postgres_url<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SecretUrl, D::Error> {
    let url = String::deserialize(deserializer)?;
    parse(&url).map_err(de::Error::custom)
}

#[cfg(test)]
mod tests {
    use tokio_postgres::config::Host;

    use super::*;

    #[test]
    fn ssl_mode_comes_from_the_url() {
        for (query, mode) in [
            ("", SslMode::Prefer),
            ("?sslmode=disable", SslMode::Disable),
            ("?application_name=x&sslmode=require", SslMode::Require),
            ("?sslmode=verify-full&application_name=x", SslMode::VerifyFull),
        ] {
            let config = PostgresConfig::at(&format!("postgres://u@h/d{query}")).unwrap();
            assert_eq!(config.ssl_mode(), mode);
            config.connection_options("test").unwrap();
        }
        let error = PostgresConfig::at("postgres://u@h/d?sslmode=allow")
            .unwrap_err()
            .to_string();
        assert_eq!(error, SSL_MODE_EXPECTED);
    }

    #[test]
    fn several_hosts_and_a_socket_are_understood() {
        let config = PostgresConfig::at("postgresql://u:p@a:1,b:2/d").unwrap();
        let options = config.connection_options("test").unwrap();
        assert_eq!(options.get_hosts(), [Host::Tcp("a".into()), Host::Tcp("b".into())]);
        let config = PostgresConfig::at("postgres:///d?host=/run/postgresql").unwrap();
        let options = config.connection_options("test").unwrap();
        assert_eq!(options.get_hosts(), [Host::Unix("/run/postgresql".into())]);
    }

    #[test]
    fn the_password_file_goes_before_the_url() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("password");
        std::fs::write(&path, "from file\n").unwrap();
        let config = PostgresConfig {
            password_file: Some(path),
            ..PostgresConfig::at("postgres://u:url@h/d").unwrap()
        };
        let options = config.connection_options("test").unwrap();
        assert_eq!(options.get_password(), Some(&b"from file"[..]));
    }

    #[test]
    fn what_is_not_a_postgres_url_is_refused_without_showing_it() {
        for url in ["redis://u:hunter2@h", "postgres://u:p@h/d?hunter2=1", "hunter2", ""] {
            let error = PostgresConfig::at(url).unwrap_err().to_string();
            assert!(!error.contains("hunter2"), "{error}");
        }
    }
}
