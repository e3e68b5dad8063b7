//! Ports that somebody else has leased and bound: gluetun's control server, or a file. PIA is not spoken to.

use std::io::ErrorKind;
use std::path::PathBuf;
use std::time::Duration;

use miniserde::json::{Number, Value};

use crate::config::Url;
use crate::error::{Cause, Error, Op};
use crate::files;
use crate::http::{Peer, Request};
use crate::json;
use crate::secret::Secret;

/// Between two questions to gluetun.
const GLUETUN_EVERY: Duration = Duration::from_secs(15);
/// Between two looks at a file; a change is to be followed within 2 s. A look is one open and one read.
const FILE_EVERY: Duration = Duration::from_millis(1500);

/// Where the port is found.
pub struct Followed {
    kind: Kind,
}

enum Kind {
    Gluetun { peer: Box<Peer>, api_key: Option<Secret>, base: String },
    File(PathBuf),
}

impl Followed {
    /// gluetun's control server at `url`, asked with `X-API-Key` if there is a key.
    pub fn gluetun(url: &Url, api_key: Option<Secret>) -> Self {
        let peer = Peer::new(url.host.clone(), url.port, url.host_header(), None);
        Self { kind: Kind::Gluetun { peer: Box::new(peer), api_key, base: url.path.trim_end_matches('/').to_owned() } }
    }

    /// A text file whose first number is the port, as gluetun and others write it.
    pub fn file(path: PathBuf) -> Self {
        Self { kind: Kind::File(path) }
    }

    /// For people.
    pub fn name(&self) -> String {
        match &self.kind {
            Kind::Gluetun { peer, .. } => format!("gluetun at {}", peer.address()),
            Kind::File(path) => path.display().to_string(),
        }
    }

    /// How often to ask.
    pub fn every(&self) -> Duration {
        match &self.kind {
            Kind::Gluetun { .. } => GLUETUN_EVERY,
            Kind::File(_) => FILE_EVERY,
        }
    }

    /// The port; none while there is none.
    pub fn port(&mut self) -> Result<Option<u16>, Error> {
        match &mut self.kind {
            Kind::Gluetun { peer, api_key, base } => ask(peer, base, api_key.as_ref()),
            Kind::File(path) => match files::read(path) {
                Ok(text) => first_port(&text),
                Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
                Err(error) => Err(Cause::File { path: path.display().to_string(), error }),
            },
        }
        .map_err(|cause| Error::new(Op::PortSource, cause))
    }

    /// Closes the connection.
    pub fn hang_up(&mut self) {
        if let Kind::Gluetun { peer, .. } = &mut self.kind {
            peer.hang_up();
        }
    }
}

/// Asks the route of today, and the one of older gluetuns where that is unknown. The old one answers 301 where it is gone.
fn ask(peer: &mut Peer, base: &str, api_key: Option<&Secret>) -> Result<Option<u16>, Cause> {
    let headers: Vec<_> = api_key.iter().map(|key| ("X-API-Key", key.expose())).collect();
    let secrets: Vec<_> = api_key.into_iter().collect();
    let mut get = |route: &str| {
        let path = format!("{base}{route}");
        peer.send(&Request { headers: &headers, secrets: &secrets, ..Request::get(&path) })
    };
    let mut response = get("/v1/portforward")?;
    if response.status == 404 {
        response = get("/v1/openvpn/portforwarded")?;
    }
    match response.status {
        200 => {}
        401 | 403 => return Err(Cause::CredentialsRejected { status: response.status }),
        _ => return Err(response.unexpected()),
    }
    forwarded(&response.text())
}

/// `{"port":N}` and `{"ports":[N]}`, alone or together.
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
        Some(Value::Number(Number::U64(port))) => in_range(*port).map(Some),
        Some(_) => Err(Cause::field("port", "is not a whole number")),
        None => Err(Cause::field("port", "is missing")),
    }
}

fn in_range(port: u64) -> Result<u16, Cause> {
    u16::try_from(port).map_err(|_| Cause::field("port", format!("is {port}, not within 1 to 65535")))
}

/// The first entry of a list that is separated by commas, white space or line breaks.
fn first_port(text: &str) -> Result<Option<u16>, Cause> {
    match text.split([',', '\n', '\r', ' ', '\t']).find(|entry| !entry.is_empty()) {
        None | Some("null") => Ok(None),
        Some(entry) => match entry.parse() {
            Ok(0) => Ok(None),
            Ok(port) => in_range(port).map(Some),
            Err(_) => Err(Cause::field("port", "in the file is not a number")),
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
    fn both_shapes_of_gluetun() {
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
        for body in ["", "[]", "{}", r#"{"port":70000}"#, r#"{"port":-1}"#, r#"{"port":"4711"}"#, r#"{"ports":["x"]}"#]
        {
            assert!(reply(body).is_err(), "{body}");
        }
    }

    #[test]
    fn files_as_they_are_written() {
        let port = |text| first_port(text).map_err(|error| error.to_string());
        for text in ["4711", "4711\n", "\n 4711\r\n4712\n", "4711,4712", "4711, 4712"] {
            assert_eq!(port(text), Ok(Some(4711)), "{text:?}");
        }
        for text in ["", "\n", "0\n", "00", "null"] {
            assert_eq!(port(text), Ok(None), "{text:?}");
        }
        for text in ["70000", "-1", "port 4711", "4711.5"] {
            assert!(port(text).is_err(), "{text:?}");
        }
    }
}
