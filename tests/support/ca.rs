//! Certificates made on the spot. Mounted by the unit tests as well.
#![allow(dead_code, reason = "the unit tests need an authority only, and not every test its servers")]

use std::fmt::Write as _;
use std::sync::Arc;

use rcgen::{BasicConstraints, Certificate, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{ConfigBuilder, ServerConfig, WantsVerifier};

/// A certificate authority made on the spot.
#[derive(Debug)]
pub struct Ca {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

/// A server certificate to be made.
pub struct Leaf<'a> {
    /// DNS names and IP addresses of the subjectAltName; none at all leaves the extension out.
    pub names: &'a [&'a str],
    pub common_name: &'a str,
    /// First and last year of validity, both from 1 January on.
    pub years: (i32, i32),
}

/// Years that hold for every clock that runs these tests.
pub const VALID: (i32, i32) = (2020, 2040);

impl Ca {
    pub fn new(common_name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, common_name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.not_before = rcgen::date_time_ymd(VALID.0, 1, 1);
        params.not_after = rcgen::date_time_ymd(VALID.1, 1, 1);
        Self::with(params, KeyPair::generate().expect("a key"))
    }

    /// An authority with a self-signed certificate of these parameters.
    pub fn with(params: CertificateParams, key: KeyPair) -> Self {
        let pem = params.self_signed(&key).expect("a CA certificate").pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// SHA-256 of the certificate's DER, hexadecimal.
    pub fn sha256(&self) -> String {
        let der = CertificateDer::from_pem_slice(self.pem.as_bytes()).expect("our own PEM");
        let digest = ring::digest::digest(&ring::digest::SHA256, &der);
        digest.as_ref().iter().fold(String::new(), |mut hex, byte| {
            let _ = write!(hex, "{byte:02x}");
            hex
        })
    }

    /// A certificate of this authority for a server, or for a client of a VPN, and its key.
    pub fn issue(&self, leaf: &Leaf) -> (Certificate, KeyPair) {
        let names: Vec<String> = leaf.names.iter().map(|&name| name.to_owned()).collect();
        let mut params = CertificateParams::new(names).expect("names for a certificate");
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, leaf.common_name);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth, rcgen::ExtendedKeyUsagePurpose::ClientAuth];
        params.not_before = rcgen::date_time_ymd(leaf.years.0, 1, 1);
        params.not_after = rcgen::date_time_ymd(leaf.years.1, 1, 1);
        let key = KeyPair::generate().expect("a key");
        (self.sign(&params, &key), key)
    }

    /// Issues a certificate with these parameters for the holder of `key`.
    pub fn sign(&self, params: &CertificateParams, key: &KeyPair) -> Certificate {
        params.signed_by(key, &self.issuer).expect("a certificate")
    }

    /// A server's TLS configuration with a certificate of this authority.
    pub fn server(&self, leaf: &Leaf, tls12_only: bool) -> ServerConfig {
        let (certificate, key) = self.issue(leaf);
        let chain = vec![certificate.der().clone()];
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        tls_versions(tls12_only).with_no_client_auth().with_single_cert(chain, key).expect("a server configuration")
    }
}

/// Starts a server's TLS configuration: all TLS versions, or 1.2 alone.
pub fn tls_versions(tls12_only: bool) -> ConfigBuilder<ServerConfig, WantsVerifier> {
    let versions: &[&rustls::SupportedProtocolVersion] =
        if tls12_only { &[&rustls::version::TLS12] } else { rustls::ALL_VERSIONS };
    ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_protocol_versions(versions)
        .expect("ring supports TLS 1.2 and 1.3")
}
