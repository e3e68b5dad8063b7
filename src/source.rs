//! Ports leased and bound by another program, read from gluetun's control server or a file. Nothing here contacts PIA.

use std::io::ErrorKind;
use std::path::PathBuf;
use std::time::Duration;

use miniserde::json::{Number, Value};

use crate::config::Reader;
use crate::error::{AuthMethod, Call, Cause, Error, Retry};
use crate::files;
use crate::http::url::Url;
use crate::http::{Connection, Request};
use crate::json;
use crate::keeper::lease::checked_port;
use crate::keeper::step::{Exchange, Progress};
use crate::secret::Secret;

const GLUETUN_POLL: Duration = Duration::from_secs(15);
/// A change to the file must take effect within 2 s; each poll costs one open and one read.
const FILE_POLL: Duration = Duration::from_millis(1500);

/// The control server's current and old routes. Older versions answer 404 to the current route; newer versions
/// answer 301 to the old route.
const ROUTES: [&str; 2] = ["/v1/portforward", "/v1/openvpn/portforwarded"];

pub enum Source {
    Gluetun {
        connection: Box<Connection>,
        /// Sent as `X-API-Key`.
        api_key: Option<Secret>,
        /// Path prefix of the routes, from `GLUETUN_URL`.
        base: String,
        /// Index into `ROUTES`.
        route: usize,
    },
    /// A text file written by gluetun or another program; its first entry is the port.
    File(PathBuf),
}

impl Source {
    /// Reads the settings of the source selected by `value`, the value of `PORT_SOURCE`.
    pub fn read(reader: &mut Reader, value: &str) -> Option<Self> {
        if value == "gluetun" {
            let remedy = "use a URL, e.g. http://127.0.0.1:8000";
            let url = reader.parsed("GLUETUN_URL", "http://127.0.0.1:8000", remedy, |text| match Url::parse(text)? {
                url if url.https => Err("is https, which gluetun's control server does not support".to_owned()),
                url => Ok(url),
            });
            let api_key = reader.key("GLUETUN_API_KEY");
            let url = url?;
            if api_key.is_some() {
                // There is no https to use instead.
                let remedy = "share gluetun's network and unset GLUETUN_URL";
                reader.warnings.extend(url.exposure("GLUETUN_API_KEY", remedy));
            }
            let base = url.path.trim_end_matches('/').to_owned();
            let connection = Box::new(Connection::new(url.host.clone(), url.port, url.host_header(), None));
            return Some(Self::Gluetun { connection, api_key, base, route: 0 });
        }
        if let Some(path) = value.strip_prefix("file:").filter(|path| path.starts_with('/')) {
            return Some(Self::File(path.into()));
        }
        let remedy = "use pia, gluetun or file: with an absolute path, e.g. file:/run/gluetun/forwarded_port";
        reader.problem("PORT_SOURCE", Some(value), "is not a port source", remedy);
        None
    }

    pub fn name(&self) -> String {
        match self {
            Self::Gluetun { connection, .. } => format!("gluetun at {}", connection.address()),
            Self::File(path) => path.display().to_string(),
        }
    }

    /// Advice if the source has had no port for a minute.
    pub fn no_port_advice(&self) -> &'static str {
        match self {
            Self::Gluetun { .. } => {
                "gluetun does not retry by itself; its log has the reason; run: docker compose up -d --force-recreate"
            }
            Self::File(_) => "check the log of the program that writes the file",
        }
    }

    pub fn poll_interval(&self) -> Duration {
        match self {
            Self::Gluetun { .. } => GLUETUN_POLL,
            Self::File(_) => FILE_POLL,
        }
    }

    /// Reads the current port; `None` if the source has none at the moment.
    pub fn port(&mut self) -> Exchange<Option<u16>> {
        let port = match self {
            Self::Gluetun { connection, api_key, base, route } => {
                let headers: Vec<_> = api_key.iter().map(|key| ("X-API-Key", key.expose())).collect();
                let secrets: Vec<_> = api_key.iter().collect();
                let path = format!("{base}{}", ROUTES[*route]);
                let request = Request { headers: &headers, secrets: &secrets, ..Request::get(&path) };
                let response = connection.send(&request).map_err(failed)?;
                match response.status {
                    200 => forwarded(&response.text()),
                    404 if *route == 0 => {
                        *route = 1;
                        return Ok(Progress::More);
                    }
                    status => {
                        // The next poll tries the current route first, because gluetun may have been updated.
                        *route = 0;
                        Err(match status {
                            401 | 403 => Cause::CredentialsRejected { what: AuthMethod::ApiKey, before: false },
                            _ => response.unexpected(),
                        })
                    }
                }
            }
            Self::File(path) => match files::read(path) {
                Ok(text) => first_port(&text),
                Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
                Err(error) => Err(Cause::File { path: path.display().to_string(), error }),
            },
        };
        port.map(Progress::Done).map_err(failed)
    }

    pub fn disconnect(&mut self) {
        if let Self::Gluetun { connection, .. } = self {
            connection.disconnect();
        }
    }
}

/// Every failed poll is retried after the usual backoff, even if the credentials were rejected, because polling never
/// causes a lockout.
fn failed(cause: Cause) -> Error {
    let advice = match &cause {
        Cause::CredentialsRejected { .. } => {
            "give gluetun a role for 'GET /v1/portforward' with an apikey (README, 'gluetun answers 401'), and set \
             GLUETUN_API_KEY to that key"
        }
        Cause::Connect { .. } => "check that gluetun is running and that GLUETUN_URL is the URL of its control server",
        Cause::Http { status: 300..500, .. } => "check GLUETUN_URL; if it is right, this version of gluetun is too old",
        Cause::Field { .. } | Cause::File { .. } => "check what PORT_SOURCE points to",
        _ => return Error::new(Call::PollSource, cause).with_retry(Retry::Backoff),
    };
    Error::new(Call::PollSource, cause).with_retry(Retry::Backoff).advise(Some(advice))
}

/// Reads the port from gluetun's reply: `{"port":N}`, `{"ports":[N]}` or both.
pub(crate) fn forwarded(body: &str) -> Result<Option<u16>, Cause> {
    let Some(fields) = json::object(body) else {
        return Err(Cause::field("body", "is not a JSON object"));
    };
    let first = match fields.get("ports") {
        Some(Value::Array(ports)) => ports.first(),
        _ => None,
    };
    match first.or_else(|| fields.get("port")) {
        Some(Value::Number(Number::U64(0)) | Value::Null) => Ok(None),
        None if fields.contains_key("ports") => Ok(None),
        Some(Value::Number(Number::U64(port))) => checked_port("port", *port).map(Some),
        Some(_) => Err(Cause::field("port", "is not a whole number")),
        None => Err(Cause::field("port", "is missing")),
    }
}

/// Reads the first entry of a list separated by commas, white space or line breaks.
fn first_port(text: &str) -> Result<Option<u16>, Cause> {
    match text.split([',', '\n', '\r', ' ', '\t']).find(|entry| !entry.is_empty()) {
        None | Some("null") => Ok(None),
        Some(entry) => match entry.parse() {
            Ok(0) => Ok(None),
            Ok(port) => checked_port("port", port).map(Some),
            Err(_) => Err(Cause::field("port", "is not a number")),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(body: &str) -> Result<Option<u16>, String> {
        forwarded(body).map_err(|error| error.to_string())
    }

    #[test]
    fn both_reply_formats_of_gluetun_are_read() {
        for (body, port) in [
            (r#"{"port":4711}"#, Some(4711)),
            (r#"{"ports":[4711,4712]}"#, Some(4711)),
            (r#"{"port":4711,"ports":[4711]}"#, Some(4711)),
            (r#"{"port":0}"#, None),
            (r#"{"port":0,"ports":[]}"#, None),
            (r#"{"port":0,"ports":null}"#, None),
            (r#"{"ports":[]}"#, None),
            (r#"{"ports":null}"#, None),
            (r#"{"port":null}"#, None),
        ] {
            assert_eq!(reply(body), Ok(port), "{body}");
        }
        for body in [
            "",
            "[]",
            "{}",
            r#"{"port":70000}"#,
            r#"{"port":22}"#,
            r#"{"ports":[1023,4711]}"#,
            r#"{"port":-1}"#,
            r#"{"port":"4711"}"#,
            r#"{"ports":["x"]}"#,
        ] {
            assert!(reply(body).is_err(), "{body}");
        }
    }

    #[test]
    fn every_common_format_of_a_port_file_is_read() {
        let port = |text| first_port(text).map_err(|error| error.to_string());
        for text in ["4711", "4711\n", "\n 4711\r\n4712\n", "4711,4712", "4711, 4712"] {
            assert_eq!(port(text), Ok(Some(4711)), "{text:?}");
        }
        for text in ["", "\n", "0\n", "00", "null"] {
            assert_eq!(port(text), Ok(None), "{text:?}");
        }
        for text in ["70000", "22", "1023\n", "1023,4711", "-1", "port 4711", "4711.5"] {
            assert!(port(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn source_failures_come_with_advice_and_never_cause_a_lockout() {
        let connect = Cause::Connect { to: "h:1".to_owned(), error: ErrorKind::ConnectionRefused.into() };
        let http = |status| Cause::Http { status, excerpt: String::new(), retry_after: Some(Duration::from_secs(900)) };
        let file = Cause::File { path: "/port".to_owned(), error: ErrorKind::PermissionDenied.into() };
        for (cause, advice) in [
            (Cause::CredentialsRejected { what: AuthMethod::ApiKey, before: false }, "GLUETUN_API_KEY"),
            (connect, "check that gluetun is running"),
            (http(404), "too old"),
            (http(503), "if this keeps happening"),
            (Cause::field("port", "is missing"), "check what PORT_SOURCE points to"),
            (file, "check what PORT_SOURCE points to"),
        ] {
            let error = failed(cause);
            assert!(error.advice.contains(advice), "{error}: {}", error.advice);
            assert_eq!(error.retry, Retry::Backoff);
        }
    }
}
