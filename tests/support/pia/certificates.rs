//! Certificates like those of PIA's servers: RSA-4096 with SHA-512, issued by the root, valid for 180 days. The
//! authority key identifier lacks the issuer's name and serial number, because no verifier that runs here reads them.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use rcgen::{
    CertificateParams, CustomExtension, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, PKCS_RSA_SHA512, PublicKeyData as _,
};
use rustls::ServerConfig;
use rustls::crypto::ring::sign::any_supported_type;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::{CertifiedKey, SigningKey};

use super::Fault;
use crate::support::ca::{Ca, Leaf, VALID, tls_versions};
use crate::support::{HTTP2, unique};

/// Days that a server's certificate is valid.
const LIFETIME: i64 = 180;
/// Days that four servers kept an expired certificate, at most, in 2021-02 (pia-foss/manual-connections#93).
const OVERDUE: i64 = 87;

const SUBJECT_KEY_IDENTIFIER: &[u64] = &[2, 5, 29, 14];
const BASIC_CONSTRAINTS: &[u64] = &[2, 5, 29, 19];
const NETSCAPE_CERTIFICATE_TYPE: &[u64] = &[2, 16, 840, 1, 113_730, 1, 1];
/// Attribute `name` of a subject.
const NAME: &[u64] = &[2, 5, 4, 41];

/// The root that issues all server certificates: without key usage, with basicConstraints that is not critical.
pub fn root() -> &'static Ca {
    static ROOT: OnceLock<Ca> = OnceLock::new();
    ROOT.get_or_init(|| {
        let key = rsa_key(include_str!("../keys/root.pem"));
        let mut params = CertificateParams::default();
        params.distinguished_name = subject("Simulated Private Internet Access");
        params.not_before = rcgen::date_time_ymd(VALID.0, 1, 1);
        params.not_after = rcgen::date_time_ymd(VALID.1, 1, 1);
        params.use_authority_key_identifier_extension = true;
        let identifier = params.key_identifier(&key);
        let length = u8::try_from(identifier.len()).expect("a short identifier");
        params.custom_extensions = vec![
            CustomExtension::from_oid_content(SUBJECT_KEY_IDENTIFIER, [&[0x04, length], &identifier[..]].concat()),
            // SEQUENCE { cA TRUE }
            CustomExtension::from_oid_content(BASIC_CONSTRAINTS, vec![0x30, 0x03, 0x01, 0x01, 0xff]),
        ];
        Ca::with(params, key)
    })
}

/// TLS of port 19999: the server's own certificate, or one issued by `public` if the SNI is a region's host name.
///
/// ASSUMPTION: every SNI without a dot gets the server's own certificate. (One new-style server used it for a region's
/// name as well: passteque/gluetun#3295, 2026-04.) The public one is ECDSA, for that name alone, without an
/// intermediate.
pub fn forwarding(name: &str, fault: Fault, public: Arc<Ca>, tls12_only: bool) -> ServerConfig {
    let own = certified(name, fault, fault != Fault::CommonNameOnly);
    server(PortCertificates { own, public: Some(public) }, tls12_only)
}

/// TLS of port 443, whose certificate has no subjectAltName on new-style servers (`Server-11555-2a`).
///
/// ASSUMPTION: every SNI gets this certificate, and HTTP/2 is offered as on port 19999.
pub fn meta(name: &str, fault: Fault, tls12_only: bool) -> ServerConfig {
    let is_new_style = name.to_ascii_lowercase().starts_with("server-");
    let own = certified(name, fault, fault != Fault::CommonNameOnly && !is_new_style);
    server(PortCertificates { own, public: None }, tls12_only)
}

fn server(certificates: PortCertificates, tls12_only: bool) -> ServerConfig {
    let builder = tls_versions(tls12_only).with_no_client_auth();
    let mut config = builder.with_cert_resolver(Arc::new(certificates));
    config.alpn_protocols = vec![HTTP2.to_vec(), b"http/1.1".to_vec()];
    config
}

/// The certificates of one port, chosen by SNI.
#[derive(Debug)]
struct PortCertificates {
    own: Arc<CertifiedKey>,
    /// Issues certificates for the names of regions.
    public: Option<Arc<Ca>>,
}

impl ResolvesServerCert for PortCertificates {
    fn resolve(&self, hello: ClientHello) -> Option<Arc<CertifiedKey>> {
        match (&self.public, hello.server_name()) {
            (Some(public), Some(region)) if region.contains('.') => {
                let (certificate, key) = public.issue(&Leaf { names: &[region], common_name: region, years: VALID });
                let key = PrivatePkcs8KeyDer::from(key.serialize_der());
                Some(Arc::new(CertifiedKey::new(vec![certificate.der().clone()], signing(key))))
            }
            _ => Some(Arc::clone(&self.own)),
        }
    }
}

/// A server's certificate and key.
fn certified(name: &str, fault: Fault, has_san: bool) -> Arc<CertifiedKey> {
    static KEY: OnceLock<(KeyPair, Arc<dyn SigningKey>)> = OnceLock::new();
    let (key, signing) = KEY.get_or_init(|| {
        let key = rsa_key(include_str!("../keys/leaf.pem"));
        let signing = signing(PrivatePkcs8KeyDer::from(key.serialize_der()));
        (key, signing)
    });
    let params = server_params(name, fault, has_san);
    let certificate = match fault {
        Fault::OtherCa => Ca::new("Some other authority").sign(&params, key),
        _ => root().sign(&params, key),
    };
    Arc::new(CertifiedKey::new(vec![certificate.der().clone()], Arc::clone(signing)))
}

fn server_params(name: &str, fault: Fault, has_san: bool) -> CertificateParams {
    let names: Vec<String> = has_san.then(|| name.to_owned()).into_iter().collect();
    let mut params = CertificateParams::new(names).expect("a name for a certificate");
    params.distinguished_name = subject(name);
    params.serial_number = Some(unique().into());
    params.is_ca = IsCa::ExplicitNoCa;
    params.use_authority_key_identifier_extension = true;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    // BIT STRING: an SSL server.
    let server = vec![0x03, 0x02, 0x06, 0x40];
    params.custom_extensions = vec![CustomExtension::from_oid_content(NETSCAPE_CERTIFICATE_TYPE, server)];
    let begin = match fault {
        Fault::Expired => -LIFETIME - OVERDUE,
        Fault::NotYetValid => 30,
        // The clock of a test may be 90 days ahead.
        _ => -30,
    };
    let midnight = |days: i64| {
        let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("a clock after 1970");
        let day = Duration::from_secs(24 * 60 * 60);
        let today = u32::try_from(since_1970.as_secs() / day.as_secs()).expect("a date");
        let date = u32::try_from(i64::from(today) + days).expect("a date after 1970");
        rcgen::date_time_ymd(1970, 1, 1) + day * date
    };
    params.not_before = midnight(begin);
    params.not_after = midnight(begin + LIFETIME);
    params
}

/// A subject like PIA's: `CN` and `name` are equal.
fn subject(common_name: &str) -> DistinguishedName {
    let mut subject = DistinguishedName::new();
    subject.push(DnType::CountryName, "US");
    subject.push(DnType::StateOrProvinceName, "CA");
    subject.push(DnType::LocalityName, "LosAngeles");
    subject.push(DnType::OrganizationName, "Simulated Private Internet Access");
    subject.push(DnType::OrganizationalUnitName, "Simulated Private Internet Access");
    subject.push(DnType::CommonName, common_name);
    subject.push(DnType::CustomDnType(NAME.to_vec()), common_name);
    subject
}

/// Reads a fixed key, because ring cannot generate RSA keys.
fn rsa_key(pem: &str) -> KeyPair {
    let der = PrivatePkcs8KeyDer::from_pem_slice(pem.as_bytes()).expect("a test key");
    KeyPair::from_pkcs8_der_and_sign_algo(&der, &PKCS_RSA_SHA512).expect("an RSA key")
}

fn signing(key: PrivatePkcs8KeyDer<'static>) -> Arc<dyn SigningKey> {
    any_supported_type(&PrivateKeyDer::from(key)).expect("a key that signs")
}
