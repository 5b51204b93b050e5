//! TLS to PostgreSQL, as `sslmode` and `ca_file` ask for it.

use std::io;
use std::path::Path;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::config::postgres::{PostgresConfig, SslMode};

/// The connector for `config`, which reads the authorities anew; `None` where TLS is switched off.
pub(super) fn connector(config: &PostgresConfig) -> io::Result<Option<MakeRustlsConnect>> {
    let ca_file = config.ca_file.as_deref();
    let roots = match config.ssl_mode() {
        SslMode::Disable => return Ok(None),
        SslMode::Prefer => None,
        SslMode::Require => ca_file.map(authorities_of).transpose()?,
        SslMode::VerifyFull => Some(ca_file.map_or_else(system_authorities, authorities_of)?),
    };
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?;
    let client = match roots {
        Some(roots) => builder.with_root_certificates(roots).with_no_client_auth(),
        None => builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Unchecked(provider)))
            .with_no_client_auth(),
    };
    Ok(Some(MakeRustlsConnect::new(client)))
}

fn authorities_of(ca_file: &Path) -> io::Result<RootCertStore> {
    let failed = |reason: &dyn std::fmt::Display| io::Error::other(format!("ca_file {}: {reason}", ca_file.display()));
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(ca_file).map_err(|error| failed(&error))? {
        roots
            .add(certificate.map_err(|error| failed(&error))?)
            .map_err(|error| failed(&error))?;
    }
    if roots.is_empty() {
        Err(failed(&"holds no certificate"))
    } else {
        Ok(roots)
    }
}

fn system_authorities() -> io::Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        return Err(io::Error::other(
            "sslmode=verify-full needs `ca_file`: this system has no certificate authorities",
        ));
    }
    Ok(roots)
}

/// Encrypts without knowing to whom, which is what `prefer`, and `require` without an authority, mean in libpq.
#[derive(Debug)]
struct Unchecked(Arc<CryptoProvider>);

impl ServerCertVerifier for Unchecked {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(
            message,
            certificate,
            signature,
            &self.0.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(
            message,
            certificate,
            signature,
            &self.0.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
