//! A URL in the settings that receives notifications as GET requests. Its path and query are secret, because they may contain a
//! credential.

use rustls::RootCertStore;

use super::outbox::Delivery;
use crate::config::Reader;
use crate::error::{Call, Cause, Error};
use crate::http::tls::{Tls, tls_to};
use crate::http::url::Url;
use crate::http::{Connection, Request};
use crate::secret::Secret;

pub struct Webhook {
    name: &'static str,
    url: Url,
    tls: Option<Tls>,
    /// Path and query, with placeholders.
    template: Secret,
}

impl Webhook {
    /// Reads the variable `name`; `None` if it is unset or invalid.
    pub fn read(reader: &mut Reader, name: &'static str, roots: Option<&RootCertStore>) -> Option<Self> {
        let text = reader.secret(name)?;
        let parsed = parse(text.expose()).and_then(|(url, template)| {
            let tls = if url.https { Some(tls_to(&url.host, roots).map_err(|cause| cause.to_string())?) } else { None };
            Ok(Self { name, url, tls, template })
        });
        let webhook = parsed.map_err(|problem| reader.problem(name, None, problem, "use an http or https URL")).ok()?;
        reader.warnings.extend(webhook.url.exposure("the URL with any secret in it", &format!("use https in {name}")));
        Some(webhook)
    }

    pub fn template(&self) -> &str {
        self.template.expose()
    }

    /// Sends a GET request for `path`, which includes the query.
    pub fn get(&self, path: &Secret) -> Delivery {
        let mut connection =
            Connection::new(self.url.host.clone(), self.url.port, self.url.host_header(), self.tls.clone());
        let request = Request { secret_path: true, ..Request::get(path.expose()) };
        let cause = match connection.send(&request) {
            Ok(response) if response.is_success() => return Ok(()),
            // The error omits the reply's body, which may repeat the secret path.
            Ok(response) => Cause::HttpStatus(response.status),
            Err(cause) => cause,
        };
        let advice = match &cause {
            Cause::HttpStatus(300..=399) => Some("use the URL that this one redirects to"),
            Cause::HttpStatus(_) | Cause::NotHttp => {
                Some("check that the URL is complete; retrying at the next interval")
            }
            Cause::UnknownIssuer => Some("set NOTIFY_CA_CERT to the CA that signed the server's certificate"),
            Cause::NotTls => Some("use http:// in the URL"),
            _ => None,
        };
        let error = Error::new(Call::Notify(self.name), cause).advise(advice);
        Err(format!("{error}; {}", error.advice))
    }
}

/// Splits a URL into the server's address and the secret rest: path and query.
fn parse(text: &str) -> Result<(Url, Secret), String> {
    let rest = text.split_once("://").map_or(text, |(_, rest)| rest);
    let path = rest.find(['/', '?']).map_or("", |at| &rest[at..]);
    let mut url = Url::parse(&text[..text.len() - path.len()])?;
    if !path.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#') {
        return Err("has characters that must be percent-encoded".to_owned());
    }
    "/".clone_into(&mut url.path);
    let slash = if path.starts_with('/') { "" } else { "/" };
    Ok((url, Secret::new(format!("{slash}{path}"))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Variables;

    fn webhook(url: &str) -> Option<Webhook> {
        let values = [("HEARTBEAT_URL".to_owned(), url.to_owned())].into();
        let all = Variables { values, ..Variables::default() };
        Webhook::read(&mut Reader::new(&all), "HEARTBEAT_URL", None)
    }

    #[test]
    fn a_url_is_split_where_its_secret_begins() {
        for (url, address, path) in [
            ("http://kuma.lan:3001/api/push/x?msg={m}", "http://kuma.lan:3001", "/api/push/x?msg={m}"),
            ("https://hc-ping.com/1-2", "https://hc-ping.com", "/1-2"),
            ("http://h?p={port}", "http://h", "/?p={port}"),
            ("h:8080", "http://h:8080", "/"),
        ] {
            let webhook = webhook(url).unwrap();
            assert_eq!((webhook.url.to_string().as_str(), webhook.template()), (address, path));
        }
        for bad in ["ftp://x/", "http://user:pass@x/", "http://x/ü", "http://x/a b", "http://x/#a", "http:///x"] {
            assert!(webhook(bad).is_none(), "{bad}");
        }
    }
}
