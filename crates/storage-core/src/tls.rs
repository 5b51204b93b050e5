//! TLS to both stores: trusted authorities and client certificates.

use std::io;
use std::path::Path;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};

/// Creates a client that trusts `roots`, or any server without them, and presents the certificate in the PEM files
/// `identity` (certificate, private key).
pub(crate) fn client(roots: Option<RootCertStore>, identity: Option<(&Path, &Path)>) -> io::Result<ClientConfig> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?;
    let builder = match roots {
        Some(roots) => builder.with_root_certificates(roots),
        None => builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Unchecked(provider))),
    };
    let Some((cert_file, key_file)) = identity else {
        return Ok(builder.with_no_client_auth());
    };
    let failed =
        |file: &Path, reason: &dyn std::fmt::Display| io::Error::other(format!("{}: {reason}", file.display()));
    let chain: Result<Vec<_>, _> = CertificateDer::pem_file_iter(cert_file).and_then(Iterator::collect);
    let chain = chain.map_err(|error| failed(cert_file, &error))?;
    let key = PrivateKeyDer::from_pem_file(key_file).map_err(|error| failed(key_file, &error))?;
    builder.with_client_auth_cert(chain, key).map_err(io::Error::other)
}

/// Reads the authorities from `ca_file`.
pub(crate) fn authorities_of(ca_file: &Path) -> io::Result<RootCertStore> {
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

/// Returns the authorities that the system trusts.
pub(crate) fn system_authorities() -> io::Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        return Err(io::Error::other(
            "`ca_file` is needed: this system has no certificate authorities",
        ));
    }
    Ok(roots)
}

/// Verifier that accepts every certificate, as libpq does for `prefer`, and for `require` without an authority.
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
