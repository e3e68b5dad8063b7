//! TLS over an open TCP connection: verifies the server's name and trusts only the given roots.

use std::io;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{
    CryptoProvider, KeyProvider, WebPkiSupportedAlgorithms, ring, verify_tls12_signature, verify_tls13_signature,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::sign::SigningKey;
use rustls::{CertificateError, ClientConfig, ClientConnection, DigitallySignedStruct, RootCertStore, SignatureScheme};

use super::Deadline;
use super::dial::{self, Tcp};
use crate::config::Reader;
use crate::error::{Cause, Phase};
use crate::text::one_line;
use crate::time;

/// Name that a certificate must carry.
#[derive(Debug, Clone)]
pub enum NamePolicy {
    /// This name, ignoring case; also sent as SNI.
    Exactly(ServerName<'static>),
    /// Any name, but chain, validity and key usage are still checked. No SNI is sent.
    Any,
}

/// Encrypts connections and verifies the server's identity.
#[derive(Clone)]
pub struct Tls {
    config: Arc<ClientConfig>,
    policy: NamePolicy,
}

impl Tls {
    /// Trusts `roots` and nothing else.
    pub fn new(roots: RootCertStore, policy: NamePolicy) -> Self {
        let provider = Arc::new(CryptoProvider { key_provider: &NoKeys, ..ring::default_provider() });
        let verifier = Arc::new(Verifier {
            roots,
            check_name: matches!(policy, NamePolicy::Exactly(_)),
            algorithms: provider.signature_verification_algorithms,
        });
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("ring supports TLS 1.2 and 1.3")
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_no_client_auth();
        // A resumed session skips verification, so it would be accepted even after the certificate has expired.
        config.resumption = Resumption::disabled();
        Self { config: Arc::new(config), policy }
    }

    /// Completes the handshake over `tcp`, so that no request is sent before the server has proved its identity.
    pub fn handshake(&self, tcp: &mut Tcp) -> Result<ClientConnection, Cause> {
        let name = match &self.policy {
            NamePolicy::Exactly(name) => name.clone(),
            // rustls never sends an IP address as SNI, and the verifier never compares names for `Any`.
            NamePolicy::Any => ServerName::IpAddress(std::net::Ipv4Addr::UNSPECIFIED.into()),
        };
        let mut connection = ClientConnection::new(self.config.clone(), name).map_err(|e| tls_cause(&e))?;
        while connection.is_handshaking() {
            connection.complete_io(tcp).map_err(|error| io_cause(error, tcp.deadline))?;
        }
        Ok(connection)
    }
}

/// Mozilla's root certificates.
pub fn public_roots() -> RootCertStore {
    webpki_roots::TLS_SERVER_ROOTS.iter().cloned().collect()
}

/// TLS to the server `host`, verified with `roots` or, if `None`, with Mozilla's roots.
pub fn tls_to(host: &str, roots: Option<&RootCertStore>) -> Result<Tls, Cause> {
    let name = ServerName::try_from(host.to_owned())
        .map_err(|_| Cause::Lookup { name: host.to_owned(), error: "not a host name".to_owned() })?;
    Ok(Tls::new(roots.cloned().unwrap_or_else(public_roots), NamePolicy::Exactly(name)))
}

/// Parses the CA certificates in `pem`; the error is a message for the user.
pub fn roots_in(pem: &str) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        let certificate = certificate.map_err(|error| format!("is not PEM: {error}"))?;
        roots.add(certificate).map_err(|error| format!("contains a certificate that cannot be a CA: {error}"))?;
    }
    if roots.is_empty() {
        return Err("contains no certificate".to_owned());
    }
    Ok(roots)
}

/// Reads the roots from the PEM file named in the variable `name`; `None` if the variable is not set or the file is
/// invalid.
pub fn read_roots(reader: &mut Reader, name: &str) -> Option<RootCertStore> {
    let pem = reader.file(name)?;
    reader.optional(name, "use a PEM file with a CA certificate", |_| roots_in(&pem))
}

/// Rejects every private key. Client certificates are never used, and without them ring's signing code (some 40 KB) is not linked.
#[derive(Debug)]
struct NoKeys;

impl KeyProvider for NoKeys {
    fn load_private_key(&self, _: PrivateKeyDer<'static>) -> Result<Arc<dyn SigningKey>, rustls::Error> {
        Err(rustls::Error::General("client certificates are not supported".to_owned()))
    }
}

fn io_cause(error: io::Error, deadline: Deadline) -> Cause {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(error) => tls_cause(error),
        None => dial::classify(error, Phase::Handshake, deadline),
    }
}

fn tls_cause(error: &rustls::Error) -> Cause {
    match error {
        rustls::Error::InvalidCertificate(error) => match error {
            CertificateError::NotValidForNameContext { expected, presented } => Cause::NameMismatch {
                expected: expected.to_str().into_owned(),
                carried: presented.iter().map(|name| bare_name(name)).collect(),
            },
            CertificateError::UnknownIssuer => Cause::UnknownIssuer,
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                Cause::CertificateExpired(time::now().wall)
            }
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                Cause::CertificateNotYetValid(time::now().wall)
            }
            other => Cause::Tls(other.to_string()),
        },
        rustls::Error::InvalidMessage(_) => Cause::NotTls,
        other => Cause::Tls(other.to_string()),
    }
}

/// Extracts the name from rustls' notation, `DnsName("mexico409")`.
fn bare_name(name: &str) -> String {
    let inner = name.split_once('(').map_or(name, |(_, rest)| rest.trim_end_matches(')')).trim_matches('"');
    one_line(inner).chars().take(253).collect()
}

pub fn names(connection: &ClientConnection) -> Vec<String> {
    let Some([leaf, ..]) = connection.peer_certificates() else { return Vec::new() };
    // rustls lists a certificate's names only in the error for a name that is not among them.
    let lacking = ServerName::try_from("lacking.invalid").expect("a valid DNS name");
    let verified = ParsedCertificate::try_from(leaf).and_then(|leaf| verify_server_name(&leaf, &lacking));
    match verified.map_err(|error| tls_cause(&error)) {
        Err(Cause::NameMismatch { carried, .. }) => carried,
        _ => Vec::new(),
    }
}

/// Applies rustls' own checks, except for the name check if any name is accepted.
#[derive(Debug)]
struct Verifier {
    roots: RootCertStore,
    check_name: bool,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let leaf = ParsedCertificate::try_from(end_entity)?;
        verify_server_cert_signed_by_trust_anchor(&leaf, &self.roots, intermediates, now, self.algorithms.all)?;
        if self.check_name {
            verify_server_name(&leaf, server_name)?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Ca;

    fn load(text: &str) -> Result<usize, String> {
        roots_in(text).map(|roots| roots.len())
    }

    fn ca() -> String {
        Ca::new("An authority").pem().to_owned()
    }

    #[test]
    fn one_or_more_certificates_are_needed() {
        assert_eq!(load(&ca()), Ok(1));
        assert_eq!(load(&(ca() + &ca())), Ok(2));
        assert_eq!(load("hello"), Err("contains no certificate".to_owned()));
        let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        assert!(load(broken).unwrap_err().contains("cannot be a CA"));
    }

    #[test]
    fn names_are_shown_bare() {
        assert_eq!(bare_name("DnsName(\"mexico409\")"), "mexico409");
        assert_eq!(bare_name("IpAddress(127.0.0.1)"), "127.0.0.1");
        assert_eq!(bare_name("DirectoryName"), "DirectoryName");
    }
}
