//! TLS to PostgreSQL according to `sslmode` and `ca_file`.

use std::io;

use tokio_postgres_rustls::MakeRustlsConnect;

use crate::config::postgres::{PostgresConfig, SslMode};
use crate::tls;

/// Creates the connector for `config` with the authorities read now; `None` if TLS is disabled.
pub(super) fn connector(config: &PostgresConfig) -> io::Result<Option<MakeRustlsConnect>> {
    let ca_file = config.ca_file.as_deref();
    let roots = match config.ssl_mode() {
        SslMode::Disable => return Ok(None),
        SslMode::Prefer => None,
        SslMode::Require => ca_file.map(tls::authorities_of).transpose()?,
        SslMode::VerifyFull => Some(ca_file.map_or_else(tls::system_authorities, tls::authorities_of)?),
    };
    Ok(Some(MakeRustlsConnect::new(tls::client(roots, None)?)))
}
