//! qBittorrent's Web API v2, 4.1 to 5.3, as measured on real ones.
//!
//! What differs between versions is not asked for but tolerated: any 2xx login, any cookie name, any reason phrase.

use miniserde::json::{Number, Object, Value};

use super::{Connectivity, ListenPort, TorrentClient};
use crate::config::Url;
use crate::error::{Cause, Error, Op};
use crate::http::tls::Tls;
use crate::http::{Method, Peer, Request, Response};
use crate::json;
use crate::secret::Secret;

/// How we prove ourselves.
pub enum Auth {
    /// Not at all: qBittorrent bypasses authentication for our address, or refuses us.
    Bypass,
    /// User name and password.
    Password {
        /// The Web UI's user.
        username: String,
        /// The Web UI's password.
        password: Secret,
    },
    /// `Authorization: Bearer qbt_…`, 5.2 and later.
    ApiKey(Secret),
}

/// A qBittorrent and our session with it.
pub struct QBittorrent {
    peer: Peer,
    /// Path in front of `/api/v2`, without a slash at its end.
    prefix: String,
    auth: Auth,
    /// `name=value` pairs exactly as they came: the name is versioned and can be changed by the user, and a reverse proxy
    /// may add cookies of its own.
    cookies: Vec<Secret>,
    /// In the second half of a bounce.
    completing: bool,
}

/// Cookies that are kept; more than a session and a proxy or two set.
const MAX_COOKIES: usize = 8;
/// Bytes of a `name=value` pair that is kept: what every browser keeps (RFC 6265 6.1). Each goes out with every request.
const MAX_COOKIE: usize = 4096;

impl QBittorrent {
    /// A client at `url`; with https the certificate must prove itself by `tls`.
    pub fn new(url: &Url, tls: Option<Tls>, auth: Auth) -> Self {
        // qBittorrent compares a port in the Host header with its own, which a Docker port mapping makes another one; a
        // Host without a port always passes. Origin and Referer would be compared as well, so there are none.
        let peer = Peer::new(url.host.clone(), url.port, url.bare_host(), tls);
        Self { peer, prefix: url.path.trim_end_matches('/').to_owned(), auth, cookies: Vec::new(), completing: false }
    }

    fn send(
        &mut self,
        method: Method,
        call: &str,
        fields: &[(&str, &str)],
        secrets: &[&Secret],
    ) -> Result<Response, Cause> {
        let bearer = match &self.auth {
            Auth::ApiKey(key) => Some(Secret::new(format!("Bearer {}", key.expose()))),
            _ => None,
        };
        let mut hidden = secrets.to_vec();
        let mut headers = Vec::new();
        if let (Some(bearer), Auth::ApiKey(key)) = (&bearer, &self.auth) {
            headers.push(("Authorization", bearer.expose()));
            hidden.push(key);
        }
        let cookies = Secret::new(self.cookies.iter().map(Secret::expose).collect::<Vec<_>>().join("; "));
        if !self.cookies.is_empty() {
            headers.push(("Cookie", cookies.expose()));
        }
        let values: Vec<_> = self.cookies.iter().map(cookie_value).collect();
        hidden.extend(&values);
        let path = format!("{}/api/v2/{call}", self.prefix);
        let completes = self.completing;
        let request = Request { method, path: &path, fields, headers: &headers, secrets: &hidden, completes };
        let response = self.peer.send(&request)?;
        // Also outside a login: with authentication bypassed every request without a cookie makes a new session.
        for pair in response.header("set-cookie").filter_map(cookie_pair) {
            self.keep_cookie(pair);
        }
        Ok(response)
    }

    fn keep_cookie(&mut self, pair: &str) {
        if pair.len() > MAX_COOKIE {
            log::debug!("{}: a cookie of {} bytes is not kept", self.name(), pair.len());
            return;
        }
        let name = |pair: &str| pair.split('=').next().unwrap_or_default().to_owned();
        self.cookies.retain(|kept| name(kept.expose()) != name(pair));
        self.cookies.truncate(MAX_COOKIES - 1);
        self.cookies.push(Secret::new(pair));
    }

    /// Sends a call, with one login and one repeat when the session is missing or over.
    fn call(&mut self, op: Op, method: Method, call: &str, fields: &[(&str, &str)]) -> Result<Response, Error> {
        let fail = |cause| Error::new(op, cause);
        let mut response = self.send(method, call, fields, &[]).map_err(fail)?;
        if response.status == 403 {
            // Whatever session there was is over. Where authentication is bypassed for us, a call without one makes another.
            let had_session = !self.cookies.is_empty();
            self.cookies.clear();
            if !(had_session && matches!(self.auth, Auth::Bypass)) {
                self.log_in()?;
            }
            response = self.send(method, call, fields, &[]).map_err(fail)?;
        }
        match response.status {
            200..300 => Ok(response),
            401 => Err(fail(self.unauthorized()?)),
            _ => Err(fail(response.unexpected())),
        }
    }

    fn log_in(&mut self) -> Result<(), Error> {
        self.try_log_in().map_err(|cause| Error::new(Op::ClientLogin, cause))
    }

    fn try_log_in(&mut self) -> Result<(), Cause> {
        let (username, password) = match &self.auth {
            Auth::Bypass => return Err(Cause::NoCredentials),
            // A key that is not accepted does not become so by a login, and `auth/login` answers 403 to it.
            Auth::ApiKey(_) => return Err(Cause::CredentialsRejected { status: 403 }),
            Auth::Password { username, password } => (username.clone(), password.clone()),
        };
        let fields = [("username", username.as_str()), ("password", password.expose())];
        let response = self.send(Method::Post, "auth/login", &fields, &[&password])?;
        match response.status {
            200..300 if response.text().trim() == "Fails." => {
                Err(Cause::CredentialsRejected { status: response.status })
            }
            // Without Set-Cookie too: then the session lives, or authentication is bypassed for us.
            200..300 => {
                log::debug!("{}: logged in", self.name());
                Ok(())
            }
            401 => Err(self.unauthorized().map_err(|error| error.cause)?),
            403 => Err(Cause::Banned),
            _ => Err(response.unexpected()),
        }
    }

    /// What a 401 means. From 5.2 on it is a wrong password or a rejected Host; a call without any credentials tells which,
    /// because it gets 403 when the Host is fine, and does not count toward the ban.
    fn unauthorized(&mut self) -> Result<Cause, Error> {
        let path = format!("{}/api/v2/app/version", self.prefix);
        let response = self.peer.send(&Request::get(&path)).map_err(|cause| Error::new(Op::ClientLogin, cause))?;
        Ok(if response.status == 401 { Cause::HostRejected } else { Cause::CredentialsRejected { status: 401 } })
    }

    fn object(&mut self, op: Op, call: &str) -> Result<Object, Error> {
        let response = self.call(op, Method::Get, call, &[])?;
        json::object(&response.text()).ok_or_else(|| Error::new(op, Cause::field("body", "is not a JSON object")))
    }
}

/// `name=value` of a Set-Cookie header; none when the cookie is being deleted.
fn cookie_pair(header: &str) -> Option<&str> {
    let pair = header.split(';').next()?.trim();
    let (name, value) = pair.split_once('=')?;
    (!name.is_empty() && !value.is_empty() && pair.bytes().all(|b| b.is_ascii_graphic())).then_some(pair)
}

fn cookie_value(pair: &Secret) -> Secret {
    Secret::new(pair.expose().split_once('=').map_or("", |(_, value)| value))
}

impl TorrentClient for QBittorrent {
    fn name(&self) -> &'static str {
        "qBittorrent"
    }

    fn port(&mut self) -> Result<ListenPort, Error> {
        let fields = self.object(Op::ClientPort, "app/preferences")?;
        let port = match fields.get("listen_port") {
            Some(Value::Number(Number::U64(port))) => i64::try_from(*port).unwrap_or(i64::MAX),
            Some(Value::Number(Number::I64(port))) => *port,
            Some(_) => return Err(Error::new(Op::ClientPort, Cause::field("listen_port", "is not a whole number"))),
            None => return Err(Error::new(Op::ClientPort, Cause::field("listen_port", "is missing"))),
        };
        let random = matches!(fields.get("random_port"), Some(Value::Bool(true)));
        Ok(ListenPort { port, random })
    }

    fn set_port(&mut self, port: u16) -> Result<(), Error> {
        let preferences = format!(r#"{{"listen_port":{port},"random_port":false}}"#);
        self.call(Op::ClientSetPort, Method::Post, "app/setPreferences", &[("json", &preferences)]).map(|_| ())
    }

    fn bounce(&mut self, port: u16, other: u16) -> Result<(), Error> {
        self.set_port(other)?;
        self.completing = true;
        let result = self.set_port(port);
        self.completing = false;
        result
    }

    fn connectivity(&mut self) -> Result<Connectivity, Error> {
        let fields = self.object(Op::ClientListening, "transfer/info")?;
        match fields.get("connection_status") {
            Some(Value::String(status)) if status == "connected" => Ok(Connectivity::Connected),
            Some(Value::String(status)) if status == "firewalled" => Ok(Connectivity::Firewalled),
            Some(Value::String(status)) if status == "disconnected" => Ok(Connectivity::Disconnected),
            Some(_) => {
                Err(Error::new(Op::ClientListening, Cause::field("connection_status", "is none of the known words")))
            }
            None => Err(Error::new(Op::ClientListening, Cause::field("connection_status", "is missing"))),
        }
    }

    fn hang_up(&mut self) {
        self.peer.hang_up();
    }

    fn log_out(&mut self) {
        if !self.cookies.is_empty()
            && let Err(cause) = self.send(Method::Post, "auth/logout", &[], &[])
        {
            log::debug!("{}: logout: {cause}", self.name());
        }
        self.cookies.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cookies_are_echoed_as_they_came() {
        assert_eq!(cookie_pair("QBT_SID_8080=a+b/c==; HttpOnly; path=/"), Some("QBT_SID_8080=a+b/c=="));
        assert_eq!(cookie_pair("SID=; expires=Thu, 01 Jan 1970"), None);
        assert_eq!(cookie_pair("SID=a\u{7f}b"), None);
        assert_eq!(cookie_pair("nonsense"), None);
        assert_eq!(cookie_value(&Secret::new("b=2=3")), Secret::new("2=3"));
    }

    #[test]
    fn a_proxy_may_add_cookies_of_its_own() {
        let url = Url { https: false, host: "localhost".into(), port: 8080, path: "/".into() };
        let mut client = QBittorrent::new(&url, None, Auth::Bypass);
        for pair in ["SID=1", "proxy=a", "SID=2", "proxy=b"] {
            client.keep_cookie(pair);
        }
        assert_eq!(client.cookies, [Secret::new("SID=2"), Secret::new("proxy=b")]);
        for n in 0..20 {
            client.keep_cookie(&format!("n{n}=x"));
        }
        assert_eq!(client.cookies.len(), MAX_COOKIES);
        let pair = |length| format!("long={}", "x".repeat(length - "long=".len()));
        client.keep_cookie(&pair(MAX_COOKIE));
        client.keep_cookie(&pair(MAX_COOKIE + 1));
        assert_eq!(client.cookies.last(), Some(&Secret::new(pair(MAX_COOKIE))));
    }
}
