//! qBittorrent 4.1 to 5.3, controlled through its Web API v2. Behaviour was observed on real releases.
//!
//! Versions differ in the status of a successful login, the name of the session cookie and the reason phrases. Instead
//! of querying the version, this module accepts any 2xx status, any cookie name and any reason phrase.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use miniserde::Deserialize;
use miniserde::json::{Number, Value};

use super::{TorrentClient, cookie_pair, read_endpoint};
use crate::config::Reader;
use crate::error::{AuthMethod, Call, Cause, Error, Phase, Retry};
use crate::http::dial::Guard;
use crate::http::url::Url;
use crate::http::{Connection, Content, Request, Response};
use crate::json;
use crate::keeper::client::ClientProfile;
use crate::keeper::step::{Connectivity, Exchange, Inbound, ListenPort, Progress};
use crate::secret::Secret;

const LOGIN: Call = Call::Client("qBittorrent login");
const PREFERENCES: Call = Call::Client("qBittorrent preferences");
const SET_PREFERENCES: Call = Call::Client("qBittorrent setPreferences");
const TRANSFER_INFO: Call = Call::Client("qBittorrent transfer/info");
const REANNOUNCE: Call = Call::Client("qBittorrent reannounce");
const TORRENTS: Call = Call::Client("qBittorrent torrents/info");
const TORRENT_PEERS: Call = Call::Client("qBittorrent sync/torrentPeers");
/// Maximum number of torrents whose peer lists are searched for incoming peers; with hundreds of torrents, the lists
/// would add up to megabytes.
const MAX_TORRENTS: usize = 5;
/// Maximum number of cookies to keep; qBittorrent and a proxy or two set fewer.
const MAX_COOKIES: usize = 8;
/// Maximum length of a `name=value` pair in bytes; browsers accept at least this length (RFC 6265, section 6.1).
const MAX_COOKIE: usize = 4096;

pub enum Auth {
    /// No credentials: qBittorrent either bypasses authentication for our address or refuses our calls.
    Bypass,
    Password {
        username: String,
        password: Secret,
    },
    /// Sent as `Authorization: Bearer qbt_…`; requires qBittorrent 5.2.
    ApiKey(Secret),
}

impl Auth {
    fn read(reader: &mut Reader) -> Self {
        let pair = reader.pair("QBITTORRENT_USERNAME", "QBITTORRENT_PASSWORD");
        if let Some(key) = reader.key("QBITTORRENT_API_KEY") {
            if pair.is_some() {
                reader.warnings.push(
                    "QBITTORRENT_API_KEY is set: QBITTORRENT_USERNAME and QBITTORRENT_PASSWORD are ignored".to_owned(),
                );
            }
            return Self::ApiKey(key);
        }
        let Some((username, password)) = pair else { return Self::Bypass };
        if username == "admin" && password.expose() == "adminadmin" {
            let warning = "QBITTORRENT_PASSWORD is qBittorrent's old default: change it in the Web UI";
            reader.warnings.push(warning.to_owned());
        }
        Self::Password { username, password }
    }

    fn rejected(&self, before: bool) -> Cause {
        let what = if let Self::ApiKey(_) = self { AuthMethod::ApiKey } else { AuthMethod::Password };
        Cause::CredentialsRejected { what, before }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Session {
    /// The next call can be sent directly, because the last one was not refused.
    Usual,
    /// The next call must log in first, e.g. because the last one was refused with 403.
    Missing,
    /// Just logged in, or retrying without cookies because authentication is bypassed: another 403 is a failure.
    New,
    /// A call was refused with 401; the next call finds out whether the Host header or the credentials caused the
    /// refusal.
    Unauthorized,
}

pub struct QBittorrent {
    url: Url,
    connection: Connection,
    /// Path before `/api/v2`, without a trailing slash.
    prefix: String,
    auth: Auth,
    session: Session,
    /// True if a new port is announced to the trackers immediately (`QBITTORRENT_REANNOUNCE`).
    reannounce: bool,
    /// Active torrents whose peer lists have not been searched for incoming peers yet.
    active: Option<Vec<String>>,
    /// `name=value` pairs exactly as received: the session cookie's name depends on version and settings, and a reverse
    /// proxy may add its own cookies.
    cookies: Vec<Secret>,
}

pub fn read(reader: &mut Reader) -> Option<Box<dyn TorrentClient>> {
    QBittorrent::read(reader).map(|client| Box::new(client) as Box<dyn TorrentClient>)
}

impl QBittorrent {
    fn read(reader: &mut Reader) -> Option<Self> {
        let auth = Auth::read(reader);
        let secret = !matches!(auth, Auth::Bypass);
        let endpoint =
            read_endpoint(reader, "QBITTORRENT_HOST", "http://localhost:8080", "QBITTORRENT_CA_CERT", secret);
        let remedy = "use true or false";
        let reannounce = reader.parsed("QBITTORRENT_REANNOUNCE", "true", remedy, |text| match text {
            "true" => Ok(true),
            "false" => Ok(false),
            _ => Err("is neither true nor false".to_owned()),
        });
        let ((url, tls), reannounce) = (endpoint?, reannounce?);
        // qBittorrent refuses a Host header with a port other than its own, and a Docker port mapping makes the ports
        // differ; a Host header without a port is always accepted. Origin and Referer would be checked as well, so
        // neither is sent.
        let connection = Connection::new(url.host.clone(), url.port, url.bare_host(), tls);
        let prefix = url.path.trim_end_matches('/').to_owned();
        // With a password, log in first: a call without a session would only be refused.
        let session = if let Auth::Password { .. } = auth { Session::Missing } else { Session::Usual };
        Some(Self { url, connection, prefix, auth, session, reannounce, active: None, cookies: Vec::new() })
    }

    fn send(&mut self, method: &str, content: Content, secrets: &[&Secret], force: bool) -> Result<Response, Cause> {
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
        let path = format!("{}/api/v2/{method}", self.prefix);
        let request = Request { headers: &headers, secrets: &hidden, force, ..Request::new(&path, content) };
        let response = self.connection.send(&request)?;
        // Keep cookies from every reply: if authentication is bypassed, each request without a cookie opens a new session.
        for pair in response.header("set-cookie").filter_map(cookie_pair) {
            self.keep_cookie(pair);
        }
        Ok(response)
    }

    fn keep_cookie(&mut self, pair: &str) {
        if pair.len() > MAX_COOKIE {
            log::debug!("{}: ignoring a cookie of {} bytes", self.name(), pair.len());
            return;
        }
        let name = |pair: &str| pair.split('=').next().unwrap_or_default().to_owned();
        self.cookies.retain(|kept| name(kept.expose()) != name(pair));
        self.cookies.truncate(MAX_COOKIES - 1);
        self.cookies.push(Secret::new(pair));
    }

    /// Sends a call, or the request that must precede it: a login if there is no session, or a query if the reason for
    /// a refusal is unclear.
    fn call(&mut self, call: Call, method: &str, content: Content, force: bool) -> Exchange<Response> {
        let session = std::mem::replace(&mut self.session, Session::Usual);
        match session {
            Session::Missing => self.log_in(force),
            Session::Unauthorized => Err(failed(LOGIN, self.unauthorized()?)),
            Session::Usual | Session::New => {
                let sent = self.send(method, content, &[], force);
                let response = sent.map_err(|cause| failed(call, cause))?;
                match response.status {
                    200..300 => Ok(Progress::Done(response)),
                    401 => {
                        self.session = Session::Unauthorized;
                        Ok(Progress::More)
                    }
                    403 if session == Session::Usual => {
                        // Any earlier session has ended. If authentication is bypassed for us, a call without a cookie
                        // opens a new session.
                        let bypassed = !self.cookies.is_empty() && matches!(self.auth, Auth::Bypass);
                        self.cookies.clear();
                        self.session = if bypassed { Session::New } else { Session::Missing };
                        Ok(Progress::More)
                    }
                    _ => Err(failed(call, response.unexpected())),
                }
            }
        }
    }

    fn log_in(&mut self, force: bool) -> Exchange<Response> {
        let fail = |cause| Err(failed(LOGIN, cause));
        let (username, password) = match &self.auth {
            Auth::Bypass => return fail(Cause::NoCredentials),
            // Logging in cannot make a rejected key valid, and `auth/login` answers 403 to a request with a key.
            Auth::ApiKey(_) => return fail(self.auth.rejected(false)),
            Auth::Password { username, password } => (username.clone(), password.clone()),
        };
        let fields = [("username", username.as_str()), ("password", password.expose())];
        let sent = self.send("auth/login", Content::Form(&fields), &[&password], force);
        let response = sent.map_err(|cause| failed(LOGIN, cause))?;
        match response.status {
            200..300 if response.text().trim() == "Fails." => fail(self.auth.rejected(false)),
            // Accepted even without Set-Cookie: the old session is still valid, or authentication is bypassed for us.
            200..300 => {
                log::debug!("{}: logged in", self.name());
                self.session = Session::New;
                Ok(Progress::More)
            }
            401 => {
                self.session = Session::Unauthorized;
                Ok(Progress::More)
            }
            403 => Err(banned()),
            _ => fail(response.unexpected()),
        }
    }

    /// Finds the reason for a 401, which since 5.2 means either rejected credentials or a rejected Host header. A call
    /// without credentials distinguishes the two: its reply is 403 if the Host header is accepted. Such a call does not
    /// count towards a ban.
    fn unauthorized(&mut self) -> Result<Cause, Error> {
        let path = format!("{}/api/v2/app/version", self.prefix);
        let response = self.connection.send(&Request::get(&path)).map_err(|cause| failed(LOGIN, cause))?;
        Ok(if response.status == 401 { Cause::HostRejected(401) } else { self.auth.rejected(false) })
    }

    fn ask<T: Deserialize>(&mut self, call: Call, method: &str, fields: &[(&str, &str)]) -> Exchange<T> {
        let Progress::Done(response) = self.call(call, method, Content::Query(fields), false)? else {
            return Ok(Progress::More);
        };
        let fields = json::parse(&response.text());
        fields.map(Progress::Done).ok_or_else(|| failed(call, Cause::field("body", "is not a JSON object")))
    }
}

/// The fields of `app/preferences` that are used here; the other 200 or so are skipped.
#[derive(Deserialize)]
struct Preferences {
    listen_port: Option<Value>,
    random_port: Option<Value>,
}

#[derive(Deserialize)]
struct TransferInfo {
    connection_status: Option<Value>,
}

#[derive(Deserialize)]
struct Torrent {
    hash: String,
}

#[derive(Deserialize)]
struct TorrentPeers {
    peers: Option<BTreeMap<String, TorrentPeer>>,
}

#[derive(Deserialize)]
struct TorrentPeer {
    flags: Option<String>,
}

impl TorrentPeers {
    /// True if any peer connected to us (flag `I`), over TCP or uTP.
    fn has_incoming(&self) -> bool {
        let flags = self.peers.iter().flat_map(BTreeMap::values).filter_map(|peer| peer.flags.as_deref());
        flags.into_iter().any(|flags| flags.contains('I'))
    }
}

fn banned() -> Error {
    let advice = "correct the password, then restart qBittorrent or wait until the ban ends";
    let cause = Cause::Other("HTTP 403: our address is probably banned after failed logins".to_owned());
    Error::new(LOGIN, cause).with_retry(Retry::CredentialsRejected).advise(Some(advice))
}

fn failed(call: Call, cause: Cause) -> Error {
    let advice = match &cause {
        Cause::Connect { .. } => "check qBittorrent and QBITTORRENT_HOST; a container must share the VPN's network",
        Cause::Lookup { .. } => "correct QBITTORRENT_HOST; in the VPN container's network it is http://localhost:8080",
        Cause::CredentialsRejected { what: AuthMethod::Password, .. } => {
            "correct QBITTORRENT_USERNAME and QBITTORRENT_PASSWORD, then restart"
        }
        Cause::CredentialsRejected { what: AuthMethod::ApiKey, .. } => {
            "set QBITTORRENT_API_KEY to the key in qBittorrent's Web UI, then restart"
        }
        Cause::NoCredentials => {
            "set QBITTORRENT_USERNAME and QBITTORRENT_PASSWORD (or QBITTORRENT_API_KEY), or bypass login in the Web UI"
        }
        Cause::HostRejected(_) => {
            "use localhost in QBITTORRENT_HOST, or add its host name to 'Server domains' in the Web UI's settings"
        }
        Cause::NotTls => {
            "the Web UI probably speaks plain HTTP (as it does with a broken certificate): use http:// in QBITTORRENT_HOST"
        }
        Cause::NotHttp | Cause::Closed(Phase::Head) => "if the Web UI uses HTTPS, use https:// in QBITTORRENT_HOST",
        Cause::UnknownIssuer => "set QBITTORRENT_CA_CERT to the CA of the Web UI's certificate",
        Cause::NameMismatch { .. } => "use one of those names in QBITTORRENT_HOST",
        Cause::Http { status: 404 | 405, .. } => {
            "check that QBITTORRENT_HOST is the URL of qBittorrent's Web UI, including its path prefix"
        }
        Cause::Http { status: 300..=399, .. } => "set QBITTORRENT_HOST to the address that the server redirects to",
        _ => return Error::new(call, cause),
    };
    Error::new(call, cause).advise(Some(advice))
}

fn cookie_value(pair: &Secret) -> Secret {
    Secret::new(pair.expose().split_once('=').map_or("", |(_, value)| value))
}

impl TorrentClient for QBittorrent {
    fn name(&self) -> &'static str {
        "qBittorrent"
    }

    fn address(&self) -> String {
        self.url.to_string()
    }

    /// Measured: the socket opens 3 to 31 ms after a port change; since 4.6, the reported status lags by up to 1.3 s.
    fn profile(&self) -> ClientProfile {
        ClientProfile {
            listen_timeout: Duration::from_secs(3),
            poll_interval: Duration::from_millis(250),
            status_lag: Duration::from_millis(1500),
            reports_listening: true,
            // qBittorrent can be configured to use TCP only.
            always_has_udp: false,
            reannounces: self.reannounce,
        }
    }

    fn credentials(&self) -> Option<Secret> {
        match &self.auth {
            Auth::Bypass => None,
            Auth::Password { username, password } => Some(Secret::new(format!("{username}\0{}", password.expose()))),
            Auth::ApiKey(key) => Some(key.clone()),
        }
    }

    fn rejected_before(&self) -> Error {
        failed(LOGIN, self.auth.rejected(true))
    }

    fn port(&mut self) -> Exchange<ListenPort> {
        let preferences = self.ask::<Preferences>(PREFERENCES, "app/preferences", &[])?;
        let Progress::Done(preferences) = preferences else { return Ok(Progress::More) };
        let port = match preferences.listen_port {
            Some(Value::Number(Number::U64(port))) => i64::try_from(port).unwrap_or(i64::MAX),
            Some(Value::Number(Number::I64(port))) => port,
            Some(_) => return Err(failed(PREFERENCES, Cause::field("listen_port", "is not a whole number"))),
            None => return Err(failed(PREFERENCES, Cause::field("listen_port", "is missing"))),
        };
        let random = matches!(preferences.random_port, Some(Value::Bool(true)));
        Ok(Progress::Done(ListenPort { port, random }))
    }

    fn set_port(&mut self, port: u16, force: bool) -> Exchange<()> {
        let preferences = format!(r#"{{"listen_port":{port},"random_port":false}}"#);
        let fields = [("json", preferences.as_str())];
        Ok(self.call(SET_PREFERENCES, "app/setPreferences", Content::Form(&fields), force)?.map(|_| ()))
    }

    fn connectivity(&mut self) -> Exchange<Connectivity> {
        let info = self.ask::<TransferInfo>(TRANSFER_INFO, "transfer/info", &[])?;
        let Progress::Done(info) = info else { return Ok(Progress::More) };
        let problem = match info.connection_status {
            Some(Value::String(status)) => match status.as_str() {
                "connected" => return Ok(Progress::Done(Connectivity::Connected)),
                "firewalled" => return Ok(Progress::Done(Connectivity::Firewalled)),
                "disconnected" => return Ok(Progress::Done(Connectivity::Disconnected)),
                _ => "is not a known status",
            },
            Some(_) => "is not a known status",
            None => "is missing",
        };
        Err(failed(TRANSFER_INFO, Cause::field("connection_status", problem)))
    }

    fn inbound(&mut self) -> Exchange<Inbound> {
        let Some(hashes) = &mut self.active else {
            let limit = MAX_TORRENTS.to_string();
            let fields = [("filter", "active"), ("limit", limit.as_str())];
            let torrents = self.ask::<Vec<Torrent>>(TORRENTS, "torrents/info", &fields)?;
            let Progress::Done(torrents) = torrents else { return Ok(Progress::More) };
            if torrents.is_empty() {
                return Ok(Progress::Done(Inbound::Idle));
            }
            // A server may ignore the limit.
            self.active = Some(torrents.into_iter().take(MAX_TORRENTS).map(|torrent| torrent.hash).collect());
            return Ok(Progress::More);
        };
        let Some(hash) = hashes.pop() else {
            self.active = None;
            return Ok(Progress::Done(Inbound::NoneSeen));
        };
        let peers = self.ask::<TorrentPeers>(TORRENT_PEERS, "sync/torrentPeers", &[("hash", &hash)]);
        match peers.inspect_err(|_| self.active = None)? {
            Progress::Done(peers) if peers.has_incoming() => {
                self.active = None;
                Ok(Progress::Done(Inbound::Seen))
            }
            Progress::Done(_) => Ok(Progress::More),
            Progress::More => {
                self.active.get_or_insert_default().push(hash);
                Ok(Progress::More)
            }
        }
    }

    fn reannounce(&mut self) -> Exchange<()> {
        let fields = [("hashes", "all")];
        Ok(self.call(REANNOUNCE, "torrents/reannounce", Content::Form(&fields), false)?.map(|_| ()))
    }

    fn dialled(&self) -> Option<SocketAddr> {
        self.connection.dialled()
    }

    fn guard_by(&mut self, guard: Guard) {
        self.connection.guard_by(guard);
    }

    fn disconnect(&mut self) {
        self.connection.disconnect();
    }

    fn log_out(&mut self) {
        if !self.cookies.is_empty()
            && let Err(cause) = self.send("auth/logout", Content::Form(&[]), &[], false)
        {
            log::debug!("{}: logout failed: {cause}", self.name());
        }
        self.cookies.clear();
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Write};
    use std::net::TcpListener;
    use std::thread;

    use super::*;
    use crate::config::Variables;

    #[test]
    fn cookies_are_sent_back_unchanged() {
        assert_eq!(cookie_pair("QBT_SID_8080=a+b/c==; HttpOnly; path=/"), Some("QBT_SID_8080=a+b/c=="));
        assert_eq!(cookie_pair("SID=; expires=Thu, 01 Jan 1970"), None);
        assert_eq!(cookie_pair("SID=a\u{7f}b"), None);
        assert_eq!(cookie_pair("nonsense"), None);
        assert_eq!(cookie_value(&Secret::new("b=2=3")), Secret::new("2=3"));
    }

    #[test]
    fn a_proxy_may_add_its_own_cookies() {
        let all = Variables::default();
        let mut client = QBittorrent::read(&mut Reader::new(&all)).unwrap();
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

    #[test]
    fn a_server_that_ignores_the_limit_costs_few_calls() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let host = format!("http://{}", listener.local_addr().unwrap());
        thread::spawn(move || {
            let torrents: Vec<_> = (0..1000).map(|n| format!(r#"{{"hash":"{n:040}"}}"#)).collect();
            let torrents = format!("[{}]", torrents.join(","));
            let mut stream = listener.accept().unwrap().0;
            let mut lines = BufReader::new(stream.try_clone().unwrap()).lines().map_while(Result::ok);
            while let Some(request) = lines.find(|line| line.starts_with("GET ")) {
                let body = if request.contains("torrents/info") { &torrents } else { r#"{"peers":{}}"# };
                let reply = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
                stream.write_all(reply.as_bytes()).unwrap();
            }
        });
        let values = [("QBITTORRENT_HOST".to_owned(), host)].into();
        let all = Variables { values, ..Variables::default() };
        let mut client = QBittorrent::read(&mut Reader::new(&all)).unwrap();
        let calls = (1..=2000).find(|_| matches!(client.inbound().unwrap(), Progress::Done(Inbound::NoneSeen)));
        assert_eq!(calls, Some(1 + MAX_TORRENTS + 1));
    }

    #[test]
    fn a_peer_with_flag_i_is_incoming() {
        let peers = |text: &str| json::parse::<TorrentPeers>(text).is_some_and(|peers| peers.has_incoming());
        let of = |flags: &str| {
            format!(r#"{{"full_update":true,"peers":{{"84.17.5.6:6881":{{"client":"I","flags":"{flags}"}}}},"rid":1}}"#)
        };
        assert!(peers(&of("d X I H E")) && peers(&of("I")));
        assert!(!peers(&of("D X H E P")) && !peers(&of("")));
        assert!(!peers(r#"{"rid":2}"#) && !peers(r#"{"peers":{"84.17.5.6:6881":{}}}"#));
    }

    #[test]
    fn web_ui_failures_come_with_advice() {
        let connect = Cause::Connect { to: "h:1".to_owned(), error: std::io::ErrorKind::ConnectionRefused.into() };
        let http = |status| Cause::Http { status, excerpt: String::new(), retry_after: None };
        let mismatch = Cause::NameMismatch { expected: "a".to_owned(), carried: vec!["nas".to_owned()] };
        for (cause, advice) in [
            (connect, "check qBittorrent and QBITTORRENT_HOST"),
            (
                Cause::CredentialsRejected { what: AuthMethod::Password, before: false },
                "correct QBITTORRENT_USERNAME and QBITTORRENT_PASSWORD",
            ),
            (Cause::CredentialsRejected { what: AuthMethod::ApiKey, before: false }, "set QBITTORRENT_API_KEY"),
            (Cause::NoCredentials, "set QBITTORRENT_USERNAME and QBITTORRENT_PASSWORD"),
            (Cause::HostRejected(401), "'Server domains'"),
            (Cause::NotTls, "use http://"),
            (Cause::NotHttp, "use https://"),
            (Cause::Closed(Phase::Head), "use https://"),
            (Cause::Closed(Phase::Body), "check the network"),
            (Cause::UnknownIssuer, "set QBITTORRENT_CA_CERT"),
            (mismatch, "use one of those names"),
            (http(302), "the address that the server redirects to"),
            (http(404), "path prefix"),
            (http(405), "path prefix"),
            (http(500), "if this keeps happening"),
        ] {
            let error = failed(PREFERENCES, cause);
            assert!(error.advice.contains(advice), "{error}: {}", error.advice);
        }
        assert_eq!(banned().retry, Retry::CredentialsRejected);
    }
}
