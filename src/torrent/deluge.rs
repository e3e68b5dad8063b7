//! Deluge 2.0 to 2.2, controlled through its web interface (JSON-RPC). Behaviour was observed on 2.0.3, 2.2.0 and a
//! snapshot of 2.2.1.
//!
//! Deluge reports the TCP port of its open socket, but no incoming peers. The web interface relays calls to the daemon.
//! Without a connection to the daemon, these calls hang, and the web interface does not reconnect automatically.
//! `core.test_listen_port` is never called, because it contacts a third party.

use std::net::SocketAddr;
use std::time::Duration;

use miniserde::Deserialize;
use miniserde::json::{Number, Value};

use super::{TorrentClient, cookie_pair, read_endpoint};
use crate::config::Reader;
use crate::error::{AuthMethod, Call, Cause, Error, Phase};
use crate::http::dial::Guard;
use crate::http::url::Url;
use crate::http::{Connection, Content, Request, Response};
use crate::json;
use crate::keeper::client::ClientProfile;
use crate::keeper::step::{Connectivity, Exchange, Inbound, ListenPort, Progress};
use crate::secret::Secret;

const LOGIN: Call = Call::Client("Deluge login");
const CONNECT: Call = Call::Client("Deluge web.connect");
const GET_PORT: Call = Call::Client("Deluge core.get_listen_port");
const SET_CONFIG: Call = Call::Client("Deluge core.set_config");
const REANNOUNCE: Call = Call::Client("Deluge core.force_reannounce");
/// The web interface's error code for a missing or expired session.
const NOT_AUTHENTICATED: i64 = 1;
/// The web interface's error code for a missing connection to the daemon, and for an unknown method.
const NO_DAEMON: i64 = 2;

/// State of the web interface's connection to the daemon.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Daemon {
    /// Unknown; must be checked before the next call, which would hang without a connection.
    Unchecked,
    Connected,
    /// Not connected; `core` next requests the list of known daemons.
    Missing,
    /// Not connected; `core` next connects to the daemon with this id.
    Found(String),
}

pub struct Deluge {
    url: Url,
    connection: Connection,
    path: String,
    password: Secret,
    /// Session cookie, `name=value`.
    session: Option<Secret>,
    /// True until the first call after a login; `NOT_AUTHENTICATED` in reply to that call is a failure.
    new_session: bool,
    daemon: Daemon,
    /// JSON list of the torrents to reannounce, kept between the two calls that a reannounce takes.
    torrents: Option<String>,
}

pub fn read(reader: &mut Reader) -> Option<Box<dyn TorrentClient>> {
    let endpoint = read_endpoint(reader, "DELUGE_HOST", "http://localhost:8112", "DELUGE_CA_CERT", true);
    let before = reader.problems();
    let password = reader.secret("DELUGE_PASSWORD");
    if password.is_none() && reader.problems() == before {
        reader.problem("DELUGE_PASSWORD", None, "is not set", "set it to the password of Deluge's web interface");
    }
    let ((url, tls), password) = (endpoint?, password?);
    if password.expose() == "deluge" {
        let warning = "DELUGE_PASSWORD is Deluge's well-known default: change it in Deluge's web interface";
        reader.warnings.push(warning.to_owned());
    }
    let connection = Connection::new(url.host.clone(), url.port, url.host_header(), tls);
    let path = format!("{}/json", url.path.trim_end_matches('/'));
    let (session, torrents) = (None, None);
    Some(Box::new(Deluge {
        url,
        connection,
        path,
        password,
        session,
        new_session: false,
        daemon: Daemon::Unchecked,
        torrents,
    }))
}

/// A reply. The HTTP status is 200 even for errors.
#[derive(Deserialize)]
struct Reply {
    result: Option<Value>,
    error: Option<Failure>,
}

#[derive(Deserialize)]
struct Failure {
    code: Option<i64>,
}

impl Deluge {
    fn send(&mut self, method: &str, params: &str, force: bool) -> Result<Response, Cause> {
        // Use the field order and spelling of Deluge's own web pages. Deluge 2.0 accepts only `application/json`.
        let json = format!(r#"{{"method":"{method}","params":{params},"id":1}}"#);
        let headers: Vec<_> = self.session.iter().map(|session| ("Cookie", session.expose())).collect();
        let secrets: Vec<_> = [&self.password].into_iter().chain(&self.session).collect();
        let content = Content::Json(&json);
        let request = Request { headers: &headers, secrets: &secrets, force, ..Request::new(&self.path, content) };
        let response = self.connection.send(&request)?;
        if response.status == 200 { Ok(response) } else { Err(response.unexpected()) }
    }

    /// Calls the web interface, or logs in if there is no session.
    fn call(&mut self, call: Call, method: &str, params: &str, force: bool) -> Exchange<Value> {
        if self.session.is_none() {
            return self.log_in(force);
        }
        let new_session = std::mem::replace(&mut self.new_session, false);
        let response = self.send(method, params, force).map_err(|cause| failed(call, cause))?;
        let reply = json::parse::<Reply>(&response.text());
        let reply = reply.ok_or_else(|| failed(call, Cause::field("body", "is not a JSON object")))?;
        match reply.error.map(|error| error.code.unwrap_or_default()) {
            None => Ok(Progress::Done(reply.result.unwrap_or(Value::Null))),
            Some(NOT_AUTHENTICATED) if !new_session => {
                self.session = None;
                Ok(Progress::More)
            }
            Some(NO_DAEMON) if self.daemon == Daemon::Connected => {
                self.daemon = Daemon::Unchecked;
                Err(failed(call, Cause::NotConnected))
            }
            Some(_) => Err(failed(call, Cause::field("error", format!("is set: {}", response.excerpt())))),
        }
    }

    fn log_in(&mut self, force: bool) -> Exchange<Value> {
        let params = miniserde::json::to_string(&[self.password.expose()][..]);
        let sent = self.send("auth.login", &params, force);
        let response = sent.map_err(|cause| failed(LOGIN, cause))?;
        let reply = json::parse::<Reply>(&response.text()).and_then(|reply| reply.result);
        match reply {
            Some(Value::Bool(true)) => {}
            Some(Value::Bool(false)) => return Err(failed(LOGIN, rejected(false))),
            _ => return Err(failed(LOGIN, Cause::field("result", "is neither true nor false"))),
        }
        // If there are several cookies, the last one is the new session.
        let session = response.header("set-cookie").filter_map(cookie_pair).last().map(Secret::new);
        self.session = Some(session.ok_or_else(|| failed(LOGIN, Cause::field("Set-Cookie", "is missing")))?);
        self.new_session = true;
        log::debug!("{}: logged in", self.name());
        Ok(Progress::More)
    }

    /// Calls the daemon, or takes the next step to connect the web interface to the daemon.
    fn core(&mut self, call: Call, method: &str, params: &str, force: bool) -> Exchange<Value> {
        let daemon = std::mem::replace(&mut self.daemon, Daemon::Unchecked);
        match &daemon {
            Daemon::Connected => {
                self.daemon = daemon;
                return self.call(call, method, params, force);
            }
            Daemon::Unchecked => {
                if let Progress::Done(connected) = self.call(call, "web.connected", "[]", force)? {
                    let connected = matches!(connected, Value::Bool(true));
                    self.daemon = if connected { Daemon::Connected } else { Daemon::Missing };
                }
            }
            Daemon::Missing => {
                if let Progress::Done(hosts) = self.call(CONNECT, "web.get_hosts", "[]", force)? {
                    let none = || failed(CONNECT, Cause::NoDaemon);
                    self.daemon = Daemon::Found(host_of(&hosts).ok_or_else(none)?);
                }
            }
            Daemon::Found(id) => {
                let params = miniserde::json::to_string(&[id.as_str()][..]);
                match self.call(CONNECT, "web.connect", &params, force)? {
                    Progress::Done(Value::Null) => {
                        return Err(failed(CONNECT, Cause::NotConnected));
                    }
                    Progress::Done(_) => {
                        log::info!("{}: the web interface is now connected to the daemon", self.name());
                        self.daemon = Daemon::Connected;
                    }
                    Progress::More => self.daemon = daemon,
                }
            }
        }
        Ok(Progress::More)
    }
}

/// Id of the daemon to connect to: the first one on this machine or, failing that, the first one in the list.
fn host_of(hosts: &Value) -> Option<String> {
    let Value::Array(hosts) = hosts else { return None };
    let entries = hosts.iter().filter_map(|host| match host {
        Value::Array(fields) => match (fields.first(), fields.get(1)) {
            (Some(Value::String(id)), Some(Value::String(host))) => Some((id, host)),
            _ => None,
        },
        _ => None,
    });
    let entries: Vec<_> = entries.collect();
    let local = entries.iter().find(|(_, host)| ["127.0.0.1", "localhost", "::1"].contains(&host.as_str()));
    local.or(entries.first()).map(|(id, _)| (*id).clone())
}

fn rejected(before: bool) -> Cause {
    Cause::CredentialsRejected { what: AuthMethod::Password, before }
}

fn failed(call: Call, cause: Cause) -> Error {
    let advice = match &cause {
        Cause::Connect { .. } => "check deluge-web and DELUGE_HOST; a container must share the VPN's network",
        Cause::Lookup { .. } => "correct DELUGE_HOST; in the VPN container's network it is http://localhost:8112",
        Cause::CredentialsRejected { .. } => "set DELUGE_PASSWORD to the web interface's password, then restart",
        Cause::NotConnected => "check that deluged is running, then check the Connection Manager in the web interface",
        Cause::NoDaemon => "add the daemon in the Connection Manager of Deluge's web interface",
        Cause::NotTls => "Deluge probably speaks plain HTTP: use http:// in DELUGE_HOST",
        Cause::NotHttp | Cause::Closed(Phase::Head) => {
            "use the web interface's port in DELUGE_HOST, not the daemon's (58846); if it uses HTTPS, use https://"
        }
        Cause::UnknownIssuer => "set DELUGE_CA_CERT to the CA of Deluge's certificate, or to the certificate itself",
        Cause::NameMismatch { .. } => "use one of those names in DELUGE_HOST",
        Cause::Http { status: 404 | 405 | 300..=399, .. } => {
            "check that DELUGE_HOST is the URL of Deluge's web interface, including its path prefix"
        }
        _ => return Error::new(call, cause),
    };
    Error::new(call, cause).advise(Some(advice))
}

impl TorrentClient for Deluge {
    fn name(&self) -> &'static str {
        "Deluge"
    }

    fn address(&self) -> String {
        self.url.to_string()
    }

    /// Measured: the socket opens 7 to 9 ms after a port change, and the reported port is correct immediately.
    fn profile(&self) -> ClientProfile {
        ClientProfile {
            listen_timeout: Duration::from_secs(1),
            poll_interval: Duration::from_millis(250),
            status_lag: Duration::ZERO,
            reports_listening: true,
            always_has_udp: true,
            reannounces: true,
        }
    }

    fn credentials(&self) -> Option<Secret> {
        Some(self.password.clone())
    }

    fn rejected_before(&self) -> Error {
        failed(LOGIN, rejected(true))
    }

    fn port(&mut self) -> Exchange<ListenPort> {
        let port = match self.core(GET_PORT, "core.get_listen_port", "[]", false)? {
            Progress::More => return Ok(Progress::More),
            Progress::Done(Value::Number(Number::U64(port))) => i64::try_from(port).unwrap_or(i64::MAX),
            Progress::Done(_) => return Err(failed(GET_PORT, Cause::field("result", "is not a whole number"))),
        };
        Ok(Progress::Done(ListenPort { port, random: false }))
    }

    /// Deluge uses `listen_ports` only while `random_port` is off. Both ends of the range are `port`, because 2.0 opens
    /// no port at all for a wider range.
    fn set_port(&mut self, port: u16, force: bool) -> Exchange<()> {
        let params = format!(r#"[{{"listen_ports":[{port},{port}],"random_port":false}}]"#);
        Ok(self.core(SET_CONFIG, "core.set_config", &params, force)?.map(|_| ()))
    }

    /// Always `Listening`, because the port that Deluge reports is the port of its open socket.
    fn connectivity(&mut self) -> Exchange<Connectivity> {
        Ok(Progress::Done(Connectivity::Listening))
    }

    fn inbound(&mut self) -> Exchange<Inbound> {
        Ok(Progress::Done(Inbound::Idle))
    }

    fn reannounce(&mut self) -> Exchange<()> {
        let Some(torrents) = self.torrents.take() else {
            if let Progress::Done(ids) = self.core(REANNOUNCE, "core.get_session_state", "[]", false)? {
                self.torrents = Some(format!("[{}]", miniserde::json::to_string(&ids)));
            }
            return Ok(Progress::More);
        };
        let sent = self.core(REANNOUNCE, "core.force_reannounce", &torrents, false)?;
        self.torrents = matches!(sent, Progress::More).then_some(torrents);
        Ok(sent.map(|_| ()))
    }

    fn dialled(&self) -> Option<SocketAddr> {
        self.connection.dialled()
    }

    fn guard_by(&mut self, guard: Guard) {
        self.connection.guard_by(guard);
    }

    /// Also marks the web interface's connection as unchecked, because the daemon may have stopped by the next call.
    fn disconnect(&mut self) {
        self.daemon = Daemon::Unchecked;
        self.connection.disconnect();
    }

    fn log_out(&mut self) {
        if self.session.is_some()
            && let Err(cause) = self.send("auth.delete_session", "[]", false)
        {
            log::debug!("{}: logout failed: {cause}", self.name());
        }
        self.session = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_daemon_on_this_machine_is_preferred() {
        let host = |text: &str| host_of(&miniserde::json::from_str(text).unwrap());
        let far = r#"["f", "nas.lan", 58846, "u"]"#;
        assert_eq!(host(&format!(r#"[{far}, ["l", "127.0.0.1", 58846, "u"]]"#)), Some("l".to_owned()));
        assert_eq!(host(&format!("[{far}]")), Some("f".to_owned()));
        for none in ["[]", "null", "[[]]", r#"[["f"]]"#, "[7]"] {
            assert_eq!(host(none), None, "{none}");
        }
    }

    #[test]
    fn failures_come_with_advice() {
        let connect = Cause::Connect { to: "h:1".to_owned(), error: std::io::ErrorKind::ConnectionRefused.into() };
        let http = |status| Cause::Http { status, excerpt: String::new(), retry_after: None };
        for (cause, advice) in [
            (connect, "check deluge-web and DELUGE_HOST"),
            (rejected(false), "the web interface's password"),
            (Cause::NotConnected, "check that deluged is running"),
            (Cause::NoDaemon, "Connection Manager"),
            (Cause::NotTls, "use http://"),
            (Cause::NotHttp, "use https://"),
            (http(404), "path prefix"),
            (http(500), "if this keeps happening"),
        ] {
            let error = failed(GET_PORT, cause);
            assert!(error.advice.contains(advice), "{error}: {}", error.advice);
        }
    }
}
