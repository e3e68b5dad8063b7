//! Whom we believe: PIA's CA, other CA files, and which name a gateway's certificate must carry.
//!
//! PIA's certificate is PIA's and not shipped. It is fetched once, over any channel: what decides is the SHA-256 of its
//! DER, which is shipped.

use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};

use base64::prelude::{BASE64_STANDARD, Engine};
use ring::digest::{SHA256, digest};
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};

use crate::config::Url;
use crate::error::{Attempt, Cause, plain};
use crate::files::{self, Durability};
use crate::http::tls::{NamePolicy, Tls};
use crate::http::{Peer, Request};

/// SHA-256 of PIA's CA in DER: RSA-4096, 2014 to 2034, `ca.rsa.4096.crt` in PIA's repositories.
pub const PIA_CA_SHA256: &str = "1fd25658456eab3041fba77ccd398ab8124edcc1b8b2fc1d55fdf6b1bbfc9d70";
/// Characters of base64 in a line of PEM (RFC 7468).
const PEM_WIDTH: usize = 64;

/// Who signs the gateway's certificate.
pub struct Authority {
    roots: Option<RootCertStore>,
    /// None when the roots were given.
    published: Option<Published>,
}

impl Authority {
    /// These roots, as they are.
    pub fn given(roots: RootCertStore) -> Self {
        Self { roots: Some(roots), published: None }
    }

    /// PIA's, read or fetched when it is first needed.
    pub fn published(published: Published) -> Self {
        Self { roots: None, published: Some(published) }
    }

    /// The roots to verify the gateway with.
    pub fn roots(&mut self) -> Result<RootCertStore, Cause> {
        if let (None, Some(published)) = (&self.roots, &self.published) {
            let certificate = published.obtain()?;
            let mut roots = RootCertStore::empty();
            roots.add(certificate).map_err(|error| Cause::field("certificate", format!("cannot be a CA: {error}")))?;
            self.roots = Some(roots);
        }
        Ok(self.roots.clone().unwrap_or_else(RootCertStore::empty))
    }
}

/// PIA's CA: where it is kept, where it is published, and how it is recognised.
pub struct Published {
    file: PathBuf,
    /// In the order in which they are tried.
    urls: Vec<Url>,
    /// SHA-256 of the DER, lower-case hexadecimal.
    pin: String,
}

impl Published {
    /// Kept in the folder `state_dir`, published at `urls`, recognised by `pin`.
    pub fn new(state_dir: &Path, urls: Vec<Url>, pin: String) -> Self {
        Self { file: state_dir.join("ca.rsa.4096.crt"), urls, pin }
    }

    /// The same, kept in another file.
    #[must_use]
    pub fn kept_in(self, file: PathBuf) -> Self {
        Self { file, ..self }
    }

    /// The file that keeps it.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// The kept certificate, else a fetched one, which is kept from then on.
    fn obtain(&self) -> Result<CertificateDer<'static>, Cause> {
        match self.stored() {
            Ok(Some(certificate)) => return Ok(certificate),
            Ok(None) => {}
            Err(problem) => log::warn!("{}: {problem}; it is fetched anew", self.file.display()),
        }
        let certificate = self.fetch()?;
        match self.store(&certificate) {
            Ok(()) => log::info!("PIA's CA fetched and stored in {}", self.file.display()),
            Err(error) => log::warn!(
                "{}: {}; PIA's CA is kept in memory, and every start will fetch it",
                self.file.display(),
                plain(&error)
            ),
        }
        Ok(certificate)
    }

    /// The kept certificate, none if there is no file; the error says why a file cannot be used.
    pub fn stored(&self) -> Result<Option<CertificateDer<'static>>, String> {
        match files::read(&self.file) {
            Ok(pem) => self.pinned(pem.as_bytes()).map(Some).map_err(|cause| cause.to_string()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(plain(&error)),
        }
    }

    /// Fetches it. The channel need not be trusted: whatever else comes is refused.
    pub fn fetch(&self) -> Result<CertificateDer<'static>, Cause> {
        let mut failed = Vec::new();
        for url in &self.urls {
            match self.fetch_from(url) {
                Ok(certificate) => return Ok(certificate),
                Err(cause) => failed.push(Attempt { at: url.to_string(), cause }),
            }
        }
        Err(Cause::all_failed(failed))
    }

    fn fetch_from(&self, url: &Url) -> Result<CertificateDer<'static>, Cause> {
        let tls = if url.https { Some(tls_to(&url.host, None)?) } else { None };
        let mut peer = Peer::new(url.host.clone(), url.port, url.host_header(), tls);
        let response = peer.send(&Request::get(&url.path))?;
        if response.status != 200 {
            return Err(response.unexpected());
        }
        self.pinned(&response.body)
    }

    /// Writes it as PEM.
    pub fn store(&self, certificate: &CertificateDer) -> io::Result<()> {
        let mut pem = "-----BEGIN CERTIFICATE-----\n".to_owned();
        let mut base64 = BASE64_STANDARD.encode(certificate);
        while !base64.is_empty() {
            let rest = base64.split_off(base64.len().min(PEM_WIDTH));
            pem += &base64;
            pem.push('\n');
            base64 = rest;
        }
        pem += "-----END CERTIFICATE-----\n";
        files::write(&self.file, pem.as_bytes(), Durability::Durable)
    }

    /// The certificate of a PEM text that has the pinned SHA-256.
    fn pinned(&self, pem: &[u8]) -> Result<CertificateDer<'static>, Cause> {
        let mut found = None;
        for certificate in CertificateDer::pem_slice_iter(pem).flatten() {
            let fingerprint = sha256(&certificate);
            if fingerprint == self.pin {
                return Ok(certificate);
            }
            found = Some(fingerprint);
        }
        Err(Cause::NotPinned { found, pin: self.pin.clone() })
    }
}

fn sha256(bytes: &[u8]) -> String {
    digest(&SHA256, bytes).as_ref().iter().fold(String::new(), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

/// A SHA-256 as people write it, as [`Published`] compares it: colons, as openssl puts them, and case do not matter.
pub fn parse_sha256(text: &str) -> Result<String, String> {
    let digits: String = text.chars().filter(|&c| c != ':').map(|c| c.to_ascii_lowercase()).collect();
    if digits.len() == 64 && digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        Ok(digits)
    } else {
        Err("is not a SHA-256".to_owned())
    }
}

/// TLS to a server of the web, whose name is `host`: it must prove itself by `roots`, or else by Mozilla's.
pub fn tls_to(host: &str, roots: Option<&RootCertStore>) -> Result<Tls, Cause> {
    let name = ServerName::try_from(host.to_owned())
        .map_err(|_| Cause::Lookup { name: host.to_owned(), error: "is not a host name".to_owned() })?;
    Ok(Tls::new(roots.cloned().unwrap_or_else(public_roots), NamePolicy::Exactly(name)))
}

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
    use crate::testing::{Ca, TempDir};

    fn load(text: &str) -> Result<usize, String> {
        let dir = TempDir::new();
        load_roots(&dir.write("ca.pem", text)).map(|roots| roots.len())
    }

    fn ca() -> String {
        Ca::new("An authority").pem().to_owned()
    }

    #[test]
    fn one_or_more_certificates_are_needed() {
        assert_eq!(load(&ca()), Ok(1));
        assert_eq!(load(&(ca() + &ca())), Ok(2));
        assert_eq!(load("hello"), Err("holds no certificate".to_owned()));
        let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        assert!(load(broken).unwrap_err().contains("cannot be a CA"));
        assert_eq!(load_roots(Path::new("/nonexistent")).unwrap_err(), "no such file or directory");
    }

    fn published(dir: &TempDir, certificate: &CertificateDer) -> Published {
        Published::new(dir.path(), Vec::new(), sha256(certificate))
    }

    fn certificate(pem: &str) -> CertificateDer<'static> {
        CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()
    }

    #[test]
    fn only_the_pinned_certificate_is_believed() {
        let (dir, pia, other) = (TempDir::new(), ca(), ca());
        let published = published(&dir, &certificate(&pia));
        assert_eq!(published.pinned(pia.as_bytes()).unwrap(), certificate(&pia));
        assert_eq!(
            published.pinned((other.clone() + &pia).as_bytes()).unwrap(),
            certificate(&pia),
            "wherever it stands"
        );
        let refused = published.pinned(other.as_bytes()).unwrap_err().to_string();
        assert!(refused.contains(&sha256(&certificate(&other))), "{refused}");
        assert!(published.pinned(b"<html>").unwrap_err().to_string().contains("no certificate"));
    }

    #[test]
    fn a_stored_certificate_is_checked_again() {
        let (dir, pia) = (TempDir::new(), ca());
        let published = published(&dir, &certificate(&pia));
        assert_eq!(published.stored(), Ok(None));
        published.store(&certificate(&pia)).unwrap();
        assert_eq!(published.stored(), Ok(Some(certificate(&pia))));
        let whole = std::fs::read_to_string(published.file()).unwrap();
        assert!(whole.lines().all(|line| line.len() <= PEM_WIDTH), "{whole}");
        // Without its last line break it is still whole.
        for length in 0..whole.len() - 1 {
            std::fs::write(published.file(), &whole[..length]).unwrap();
            assert!(published.stored().is_err(), "cut at {length}");
        }
        std::fs::write(published.file(), ca()).unwrap();
        assert!(published.stored().unwrap_err().contains("SHA-256"));
    }

    #[test]
    fn fingerprints_as_people_write_them() {
        assert_eq!(parse_sha256(PIA_CA_SHA256), Ok(PIA_CA_SHA256.to_owned()));
        let openssl: Vec<_> =
            PIA_CA_SHA256.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).unwrap()).collect();
        assert_eq!(parse_sha256(&openssl.join(":").to_uppercase()), Ok(PIA_CA_SHA256.to_owned()));
        for bad in ["", "1fd2", &PIA_CA_SHA256.replace('1', "x")] {
            assert!(parse_sha256(bad).is_err(), "{bad}");
        }
        assert_eq!(sha256(b""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
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
