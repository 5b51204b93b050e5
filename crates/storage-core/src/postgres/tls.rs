//! TLS to PostgreSQL, as `sslmode` and `ca_file` ask for it.

use std::io;

use tokio_postgres_rustls::MakeRustlsConnect;

use crate::config::postgres::{PostgresConfig, SslMode};
use crate::tls;

/// The connector for `config`, which reads the authorities anew; `None` where TLS is switched off.
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
