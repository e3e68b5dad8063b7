//! Whom we believe: CA files, and which name a gateway's certificate must carry.

use std::path::Path;

use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};

use crate::error::plain;
use crate::files;
use crate::http::tls::NamePolicy;

/// Reads the CA certificates of a PEM file; the error says what is wrong with it.
pub fn load_roots(path: &Path) -> Result<RootCertStore, String> {
    let pem = files::read(path).map_err(|error| plain(&error))?;
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        let certificate = certificate.map_err(|error| format!("is not PEM: {error}"))?;
        roots.add(certificate).map_err(|error| format!("holds a certificate that cannot be a CA: {error}"))?;
    }
    if roots.is_empty() {
        return Err("holds no certificate".to_owned());
    }
    Ok(roots)
}

/// Mozilla's roots.
pub fn public_roots() -> RootCertStore {
    webpki_roots::TLS_SERVER_ROOTS.iter().cloned().collect()
}

/// The policy for a gateway. Names are single labels like `mexico409` or `Server-11555-2a` and not domain names.
pub fn gateway_name(hostname: Option<&str>) -> Result<NamePolicy, String> {
    let Some(hostname) = hostname else { return Ok(NamePolicy::Any) };
    match ServerName::try_from(hostname.to_owned()) {
        Ok(name @ ServerName::DnsName(_)) => Ok(NamePolicy::Exactly(name)),
        Ok(_) => Err("is an address".to_owned()),
        Err(_) => Err("is not a host name".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempDir;

    fn load(text: &str) -> Result<usize, String> {
        let dir = TempDir::new();
        let path = dir.path().join("ca.pem");
        std::fs::write(&path, text).unwrap();
        load_roots(&path).map(|roots| roots.len())
    }

    #[test]
    fn one_or_more_certificates_are_needed() {
        let ca = || {
            let key = rcgen::KeyPair::generate().unwrap();
            let mut params = rcgen::CertificateParams::default();
            params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
            params.self_signed(&key).unwrap().pem()
        };
        assert_eq!(load(&ca()), Ok(1));
        assert_eq!(load(&(ca() + &ca())), Ok(2));
        assert_eq!(load("hello"), Err("holds no certificate".to_owned()));
        let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        assert!(load(broken).unwrap_err().contains("cannot be a CA"));
        assert_eq!(load_roots(Path::new("/nonexistent")).unwrap_err(), "no such file or directory");
    }

    #[test]
    fn gateway_names_are_labels() {
        for name in ["mexico409", "Server-11555-2a", "a_b"] {
            assert!(matches!(gateway_name(Some(name)), Ok(NamePolicy::Exactly(_))), "{name}");
        }
        assert!(matches!(gateway_name(None), Ok(NamePolicy::Any)));
        assert!(gateway_name(Some("10.0.0.1")).is_err());
        assert!(gateway_name(Some("mexico 409")).is_err());
    }
}
