//! Trust in PIA's servers: PIA's CA or the user's own CA file, and the name that a gateway's certificate must carry.
//!
//! PIA's CA certificate belongs to PIA and is not part of this program. It is fetched once, over any channel, and
//! accepted only if the SHA-256 of its DER encoding matches the pin.

use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::prelude::{BASE64_STANDARD, Engine};
use ring::digest::{SHA256, digest};
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};

use crate::config::Reader;
use crate::error::{Attempt, Call, Cause, Error, Retry, io_message};
use crate::files::{self, Durability};
use crate::http::tls::{NamePolicy, tls_to};
use crate::http::url::Url;
use crate::http::{Connection, Request};
use crate::keeper::step::{Exchange, Progress};

/// SHA-256 of PIA's CA certificate in DER: RSA-4096, valid 2014 to 2034, `ca.rsa.4096.crt` in PIA's repositories.
pub const PIA_CA_SHA256: &str = "1fd25658456eab3041fba77ccd398ab8124edcc1b8b2fc1d55fdf6b1bbfc9d70";
/// Copies of PIA's CA certificate in two of PIA's repositories.
const CA_URLS: [&str; 2] = [
    "https://raw.githubusercontent.com/pia-foss/manual-connections/master/ca.rsa.4096.crt",
    "https://raw.githubusercontent.com/pia-foss/desktop/master/daemon/res/ca/rsa_4096.crt",
];
/// Retry delay after a fetched CA did not match the pin. The usual cause is a proxy that intercepts TLS, which rarely
/// goes away within seconds.
const CA_RETRY: Duration = Duration::from_secs(5 * 60);
/// Base64 characters per line of PEM (RFC 7468).
const PEM_WIDTH: usize = 64;

pub struct Authority {
    roots: Option<RootCertStore>,
    /// `None` if the user provided the roots.
    published: Option<Published>,
}

impl Authority {
    pub fn given(roots: RootCertStore) -> Self {
        Self { roots: Some(roots), published: None }
    }

    /// PIA's CA, read from its file or fetched on first use.
    pub fn published(published: Published) -> Self {
        Self { roots: None, published: Some(published) }
    }

    /// Origin of the CA, for `check`.
    pub fn origin(&self) -> String {
        match &self.published {
            None => "from PIA_CA_CERT".to_owned(),
            Some(published) if published.file.exists() => format!("PIA's, kept in {}", published.file.display()),
            Some(_) => "PIA's, fetched just now".to_owned(),
        }
    }

    /// Keeps a fetched CA in memory only.
    pub fn disable_persistence(&mut self) {
        if let Some(published) = &mut self.published {
            published.persists = false;
        }
    }

    /// Root certificates for verifying the gateway; fetches PIA's CA first if necessary.
    pub fn roots(&mut self) -> Exchange<RootCertStore> {
        if let (None, Some(published)) = (&self.roots, &mut self.published) {
            let Progress::Done(certificate) = published.obtain()? else { return Ok(Progress::More) };
            let mut roots = RootCertStore::empty();
            roots
                .add(certificate)
                .map_err(|error| failed(Cause::field("certificate", format!("cannot be a CA: {error}"))))?;
            self.roots = Some(roots);
        }
        Ok(Progress::Done(self.roots.clone().unwrap_or_else(RootCertStore::empty)))
    }
}

/// PIA's own CA, as opposed to a CA from `PIA_CA_CERT`.
pub struct Published {
    file: PathBuf,
    /// Download URLs, tried in order.
    urls: Vec<Url>,
    /// SHA-256 of the DER, lower-case hexadecimal.
    pin: String,
    /// True if a fetched certificate is written to `file`.
    persists: bool,
    /// URLs that have failed in the current round of downloads.
    tried: Vec<Attempt>,
}

/// Reads the settings for PIA's CA, which is stored in `state_dir`.
pub fn published(reader: &mut Reader, state_dir: &Path) -> Option<Published> {
    let urls = urls(reader, "PIA_CA_URL", &CA_URLS, "use an http or https URL", Url::parse);
    let remedy = "use the SHA-256 of the certificate in DER, 64 hexadecimal digits";
    let pin = reader.parsed("PIA_CA_SHA256", PIA_CA_SHA256, remedy, parse_sha256);
    Some(Published::new(state_dir, urls, pin?))
}

/// Reads the URL in the variable `name`; returns `defaults` if it is not set.
pub fn urls(
    reader: &mut Reader,
    name: &str,
    defaults: &[&str],
    remedy: &str,
    parse: fn(&str) -> Result<Url, String>,
) -> Vec<Url> {
    let given = reader.optional(name, remedy, parse);
    given.map_or_else(|| defaults.iter().filter_map(|url| parse(url).ok()).collect(), |url| vec![url])
}

impl Published {
    pub fn new(state_dir: &Path, urls: Vec<Url>, pin: String) -> Self {
        Self { file: state_dir.join("ca.rsa.4096.crt"), urls, pin, persists: true, tried: Vec::new() }
    }

    /// Stores the CA in `file` instead of the state directory.
    #[must_use]
    pub fn kept_in(self, file: PathBuf) -> Self {
        Self { file, ..self }
    }

    pub fn file(&self) -> &Path {
        &self.file
    }

    /// Reads the stored certificate, or fetches and stores it.
    fn obtain(&mut self) -> Exchange<CertificateDer<'static>> {
        if self.tried.is_empty() {
            match self.stored() {
                Ok(Some(certificate)) => return Ok(Progress::Done(certificate)),
                Ok(None) => {}
                Err(problem) => log::warn!("{}: {problem}; fetching PIA's CA again", self.file.display()),
            }
        }
        let Progress::Done(certificate) = self.fetch()? else { return Ok(Progress::More) };
        if !self.persists {
            return Ok(Progress::Done(certificate));
        }
        match self.store(&certificate) {
            Ok(()) => log::info!("PIA's CA fetched and stored in {}", self.file.display()),
            Err(error) => log::warn!(
                "cannot write {}: {}; PIA's CA is kept in memory only, so every start fetches it again",
                self.file.display(),
                io_message(&error)
            ),
        }
        Ok(Progress::Done(certificate))
    }

    /// Reads the stored certificate; `None` if there is no file. An error explains why the file is unusable.
    pub fn stored(&self) -> Result<Option<CertificateDer<'static>>, String> {
        match files::read(&self.file) {
            Ok(pem) => self.pinned(pem.as_bytes()).map(Some).map_err(|_| "is not PIA's CA".to_owned()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(io_message(&error)),
        }
    }

    /// Fetches the certificate from the next URL. The channel need not be trusted, because only the pinned certificate
    /// is accepted.
    pub fn fetch(&mut self) -> Exchange<CertificateDer<'static>> {
        let url = &self.urls[self.tried.len() % self.urls.len()];
        let error = match self.fetch_from(url) {
            Ok(certificate) => {
                self.tried.clear();
                return Ok(Progress::Done(certificate));
            }
            Err(error) => error,
        };
        self.tried.push(Attempt { at: url.to_string(), error });
        if self.tried.len() < self.urls.len() {
            return Ok(Progress::More);
        }
        Err(Error::all_failed(Call::FetchCa, std::mem::take(&mut self.tried)))
    }

    fn fetch_from(&self, url: &Url) -> Result<CertificateDer<'static>, Error> {
        let tls = if url.https { Some(tls_to(&url.host, None).map_err(failed)?) } else { None };
        let mut connection = Connection::new(url.host.clone(), url.port, url.host_header(), tls);
        let response = connection.send(&Request::get(&url.path)).map_err(failed)?;
        if response.status != 200 {
            return Err(failed(response.unexpected()));
        }
        self.pinned(&response.body).map_err(|wrong| {
            let advice =
                "the reply was discarded: get PIA's ca.rsa.4096.crt over another network and set PIA_CA_CERT to its path";
            failed(wrong).with_retry(Retry::After(CA_RETRY)).advise(Some(advice))
        })
    }

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

    /// Finds the certificate with the pinned SHA-256 in `pem`; an error describes what `pem` contains instead.
    fn pinned(&self, pem: &[u8]) -> Result<CertificateDer<'static>, Cause> {
        let mut wrong = Cause::Other("received something other than a certificate".to_owned());
        for certificate in CertificateDer::pem_slice_iter(pem).flatten() {
            let fingerprint = sha256(&certificate);
            if fingerprint == self.pin {
                return Ok(certificate);
            }
            wrong = Cause::WrongCertificate { found: fingerprint, wanted: self.pin.clone() };
        }
        Err(wrong)
    }
}

fn failed(cause: Cause) -> Error {
    let advice =
        "retrying; if this keeps happening, get ca.rsa.4096.crt over another network and set PIA_CA_CERT to its path";
    Error::new(Call::FetchCa, cause).advise(Some(advice))
}

fn sha256(bytes: &[u8]) -> String {
    digest(&SHA256, bytes).as_ref().iter().fold(String::new(), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

/// Converts a SHA-256 to lower-case digits without colons; accepts openssl's format.
pub fn parse_sha256(text: &str) -> Result<String, String> {
    let digits: String = text.chars().filter(|&c| c != ':').map(|c| c.to_ascii_lowercase()).collect();
    if digits.len() == 64 && digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        Ok(digits)
    } else {
        Err("is not a SHA-256".to_owned())
    }
}

/// Name policy for a gateway. PIA's names are single labels like `mexico409` or `Server-11555-2a`, not domain names.
pub fn gateway_name(hostname: &str) -> Result<NamePolicy, String> {
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

    fn ca() -> String {
        Ca::new("An authority").pem().to_owned()
    }

    fn published(dir: &TempDir, certificate: &CertificateDer) -> Published {
        Published::new(dir.path(), Vec::new(), sha256(certificate))
    }

    fn certificate(pem: &str) -> CertificateDer<'static> {
        CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()
    }

    #[test]
    fn only_the_pinned_certificate_is_accepted() {
        let (dir, pia, other) = (TempDir::new(), ca(), ca());
        let published = published(&dir, &certificate(&pia));
        assert_eq!(published.pinned(pia.as_bytes()).unwrap(), certificate(&pia));
        assert_eq!(published.pinned((other.clone() + &pia).as_bytes()).unwrap(), certificate(&pia), "in any position");
        let refused = published.pinned(other.as_bytes()).unwrap_err();
        let fingerprint = sha256(&certificate(&other));
        assert!(matches!(&refused, Cause::WrongCertificate { found, .. } if *found == fingerprint), "{refused}");
        assert!(published.pinned(b"<html>").unwrap_err().to_string().contains("other than a certificate"));
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
        // The file is still complete without its last line break.
        for length in 0..whole.len() - 1 {
            std::fs::write(published.file(), &whole[..length]).unwrap();
            assert!(published.stored().is_err(), "truncated at {length}");
        }
        std::fs::write(published.file(), ca()).unwrap();
        assert!(published.stored().unwrap_err().contains("not PIA's CA"));
    }

    #[test]
    fn every_usual_spelling_of_a_fingerprint_is_accepted() {
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
            assert!(matches!(gateway_name(name), Ok(NamePolicy::Exactly(_))), "{name}");
        }
        assert!(gateway_name("10.0.0.1").is_err());
        assert!(gateway_name("mexico 409").is_err());
    }
}
