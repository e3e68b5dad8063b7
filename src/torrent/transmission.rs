//! Transmission 3.00 to 4.1, controlled through its RPC. Behaviour was observed on 3.00, 4.1.0-beta.2 and 4.1.4.
//!
//! Transmission reports success for any value, so settings are read back after a change. No call reports whether
//! Transmission is listening; only the kernel can show whether the socket is open. `port-test` is never called, because
//! it contacts a third party.

use std::net::SocketAddr;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use miniserde::Deserialize;
use miniserde::json::{Number, Value};

use super::{TorrentClient, read_endpoint};
use crate::config::Reader;
use crate::error::{AuthMethod, Call, Cause, Error, Phase, Retry};
use crate::http::dial::Guard;
use crate::http::url::Url;
use crate::http::{Connection, Content, Request, Response};
use crate::json;
use crate::keeper::client::ClientProfile;
use crate::keeper::step::{Connectivity, Exchange, Inbound, ListenPort, Progress};
use crate::secret::Secret;

const LOGIN: Call = Call::Client("Transmission login");
const SESSION_GET: Call = Call::Client("Transmission session-get");
const SESSION_SET: Call = Call::Client("Transmission session-set");
const REANNOUNCE: Call = Call::Client("Transmission torrent-reannounce");
/// `rpc-version` of 3.00, the last release whose UDP socket stays on the port that was set at startup.
const LAST_WITHOUT_UDP: u64 = 16;
/// Default RPC path.
const RPC: &str = "/transmission/rpc";

/// Request format, chosen according to a header in the 409 reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Dialect {
    /// Names with hyphens, and fields `arguments` and `result`: accepted by all versions so far, but deprecated.
    Old,
    /// JSON-RPC 2.0, and names with underscores: accepted by 4.1 and later.
    JsonRpc,
}

impl Dialect {
    /// Formats a request. For JSON-RPC, every hyphen becomes an underscore, so values must not contain hyphens.
    fn request(self, method: &str, arguments: &str) -> String {
        match self {
            Self::Old => format!(r#"{{"method":"{method}","arguments":{arguments},"tag":1}}"#),
            Self::JsonRpc => {
                let (method, arguments) = (method.replace('-', "_"), arguments.replace('-', "_"));
                format!(r#"{{"jsonrpc":"2.0","method":"{method}","params":{arguments},"id":1}}"#)
            }
        }
    }
}

pub struct Transmission {
    url: Url,
    connection: Connection,
    path: String,
    /// User name and password.
    auth: Option<(String, Secret)>,
    dialect: Dialect,
    session: Option<Secret>,
    /// True until the first call in a new session; another 409 in reply to that call is a failure.
    new_session: bool,
    /// DHT setting of 3.00 and earlier, whose UDP socket moves only when DHT is toggled; `None` for later versions.
    dht: Option<bool>,
    /// The user's DHT setting, if it still has to be restored after an incomplete toggle.
    restore: Option<bool>,
}

pub fn read(reader: &mut Reader) -> Option<Box<dyn TorrentClient>> {
    let auth = reader.pair("TRANSMISSION_USERNAME", "TRANSMISSION_PASSWORD");
    let default = "http://localhost:9091";
    let (url, tls) = read_endpoint(reader, "TRANSMISSION_HOST", default, "TRANSMISSION_CA_CERT", auth.is_some())?;
    let connection = Connection::new(url.host.clone(), url.port, url.host_header(), tls);
    let path = rpc_path(&url.path);
    Some(Box::new(Transmission {
        url,
        connection,
        path,
        auth,
        dialect: Dialect::Old,
        session: None,
        new_session: false,
        dht: None,
        restore: None,
    }))
}

/// RPC path for a configured path, which may be empty, the Web UI's path, the RPC path itself, or a prefix.
fn rpc_path(path: &str) -> String {
    let path = path.trim_end_matches('/');
    match path.strip_suffix("/web").unwrap_or(path) {
        "" => RPC.to_owned(),
        own if own.ends_with("/rpc") => own.to_owned(),
        base if base.ends_with("/transmission") => format!("{base}/rpc"),
        prefix => format!("{prefix}{RPC}"),
    }
}

/// A reply; `result` is a string in the old dialect and an object in JSON-RPC.
#[derive(Deserialize)]
struct Reply {
    arguments: Option<Value>,
    result: Option<Value>,
    error: Option<Value>,
}

impl Transmission {
    fn send(&mut self, json: &str, force: bool) -> Result<Response, Cause> {
        let basic = self.auth.as_ref().map(|(username, password)| {
            // 4.0 and later do not accept lower-case `basic`.
            Secret::new(format!("Basic {}", STANDARD.encode(format!("{username}:{}", password.expose()))))
        });
        let mut headers = Vec::new();
        // Sent from the first request on, because each request without credentials counts as a failed login.
        headers.extend(basic.as_ref().map(|basic| ("Authorization", basic.expose())));
        headers.extend(self.session.as_ref().map(|session| ("X-Transmission-Session-Id", session.expose())));
        let password = self.auth.as_ref().map(|(_, password)| password);
        let secrets: Vec<_> = basic.iter().chain(password).chain(&self.session).collect();
        let content = Content::Json(json);
        self.connection.send(&Request {
            headers: &headers,
            secrets: &secrets,
            force,
            ..Request::new(&self.path, content)
        })
    }

    /// Sends a call; `More` if the reply opened a session, so that the call must be repeated.
    fn call(&mut self, call: Call, method: &str, arguments: &str, force: bool) -> Exchange<Value> {
        let json = self.dialect.request(method, arguments);
        let new_session = std::mem::replace(&mut self.new_session, false);
        let response = self.send(&json, force).map_err(|cause| failed(call, cause))?;
        match response.status {
            200 => Ok(Progress::Done(result_of(&response).map_err(|cause| failed(call, cause))?)),
            // Sent in reply to the first request, about once an hour, and after a restart, which may have changed the
            // version.
            409 => {
                self.session = response.header("x-transmission-session-id").next().map(Secret::new);
                let speaks_json_rpc = response.header("x-transmission-rpc-version").next().is_some();
                self.dialect = if speaks_json_rpc { Dialect::JsonRpc } else { Dialect::Old };
                if new_session || self.session.is_none() {
                    return Err(failed(call, response.unexpected()));
                }
                self.new_session = true;
                Ok(Progress::More)
            }
            // Not retried, because each 401 counts as a failed login.
            401 if self.auth.is_none() => {
                Err(failed(LOGIN, Cause::NoCredentials).with_retry(Retry::CredentialsRejected))
            }
            401 => Err(failed(LOGIN, rejected(false))),
            403 if response.text().contains("login attempts") => Err(locked()),
            403 => Err(refused(Cause::Other("HTTP 403: our address might not be whitelisted".to_owned()), ADD_ADDRESS)),
            421 => Err(refused(Cause::HostRejected(421), ADD_HOST)),
            _ => Err(failed(call, response.unexpected())),
        }
    }

    fn set(&mut self, arguments: &str, force: bool) -> Exchange<()> {
        Ok(self.call(SESSION_SET, "session-set", arguments, force)?.map(|_| ()))
    }

    fn set_dht(&mut self, enabled: bool, force: bool) -> Exchange<()> {
        self.set(&format!(r#"{{"dht-enabled":{enabled}}}"#), force)
    }

    /// Toggles DHT twice, which reopens the UDP socket on the current port. Both requests are part of one step, so that
    /// a stop request between the two cannot leave the user's DHT setting changed.
    fn move_udp(&mut self, dht: bool, force: bool) -> Exchange<()> {
        self.restore = Some(dht);
        if self.set_dht(!dht, force)? == Progress::More {
            self.restore = None;
            return Ok(Progress::More);
        }
        // Send this even after a stop request, and retry it once: a failure would leave the user's DHT setting changed.
        self.restore_dht(dht, true).or_else(|_| self.restore_dht(dht, true))
    }

    fn restore_dht(&mut self, dht: bool, force: bool) -> Exchange<()> {
        let done = self.set_dht(dht, force)?;
        if done == Progress::Done(()) {
            self.restore = None;
        }
        Ok(done)
    }
}

/// Extracts the result from a reply with HTTP status 200.
fn result_of(response: &Response) -> Result<Value, Cause> {
    let text = response.text();
    let Some(reply) = json::parse::<Reply>(&text) else {
        return Err(Cause::field("body", "is not a JSON object"));
    };
    match (reply.result, reply.arguments) {
        (Some(Value::String(word)), arguments) if word == "success" => Ok(arguments.unwrap_or(Value::Null)),
        (Some(result @ Value::Object(_)), _) => Ok(result),
        (Some(Value::String(_)), _) => Err(Cause::field("result", format!("is not success: {}", response.excerpt()))),
        _ if reply.error.is_some() => Err(Cause::field("error", format!("is set: {}", response.excerpt()))),
        _ => Err(Cause::field("result", "is missing")),
    }
}

fn rejected(before: bool) -> Cause {
    Cause::CredentialsRejected { what: AuthMethod::Password, before }
}

const ADD_ADDRESS: &str = "stop Transmission, add our address to 'rpc-whitelist' in its settings.json, then start it";
const ADD_HOST: &str =
    "use an IP address or localhost in TRANSMISSION_HOST, or add its name to 'rpc-host-whitelist' in settings.json";

fn refused(cause: Cause, advice: &'static str) -> Error {
    Error::new(LOGIN, cause).advise(Some(advice))
}

/// 3.00 refuses every request after a hundred failed logins.
fn locked() -> Error {
    let cause = Cause::Other("HTTP 403: locked after too many failed logins".to_owned());
    refused(cause, "correct the password in every program that uses Transmission, then restart Transmission")
        .with_retry(Retry::CredentialsRejected)
}

fn failed(call: Call, cause: Cause) -> Error {
    let advice = match &cause {
        Cause::Connect { .. } => "check Transmission and TRANSMISSION_HOST; a container must share the VPN's network",
        Cause::Lookup { .. } => "correct TRANSMISSION_HOST; in the VPN container's network it is http://localhost:9091",
        Cause::CredentialsRejected { .. } => "correct TRANSMISSION_USERNAME and TRANSMISSION_PASSWORD, then restart",
        Cause::NoCredentials => "set TRANSMISSION_USERNAME and TRANSMISSION_PASSWORD",
        Cause::NotTls => "Transmission speaks plain HTTP unless a proxy adds TLS: use http:// in TRANSMISSION_HOST",
        Cause::NotHttp | Cause::Closed(Phase::Head) => {
            "check that TRANSMISSION_HOST has the Web UI's port, not the peer port"
        }
        Cause::UnknownIssuer => "set TRANSMISSION_CA_CERT to the CA that signed the certificate",
        Cause::NameMismatch { .. } => "use one of those names in TRANSMISSION_HOST",
        Cause::Http { status: 404 | 405 | 300..=399, .. } => {
            "check that TRANSMISSION_HOST is Transmission's URL, with the RPC path if that was changed"
        }
        _ => return Error::new(call, cause),
    };
    Error::new(call, cause).advise(Some(advice))
}

impl TorrentClient for Transmission {
    fn name(&self) -> &'static str {
        "Transmission"
    }

    fn address(&self) -> String {
        self.url.to_string()
    }

    /// Measured: the socket opens 7 to 17 ms after a port change.
    fn profile(&self) -> ClientProfile {
        ClientProfile {
            listen_timeout: Duration::from_secs(1),
            poll_interval: Duration::from_millis(20),
            status_lag: Duration::ZERO,
            reports_listening: false,
            always_has_udp: true,
            reannounces: true,
        }
    }

    fn credentials(&self) -> Option<Secret> {
        let (username, password) = self.auth.as_ref()?;
        Some(Secret::new(format!("{username}\0{}", password.expose())))
    }

    fn rejected_before(&self) -> Error {
        failed(LOGIN, rejected(true))
    }

    fn port(&mut self) -> Exchange<ListenPort> {
        if let Some(dht) = self.restore {
            self.restore_dht(dht, false)?;
            return Ok(Progress::More);
        }
        let fields = concat!(
            r#"{"fields":["peer-port","peer-port-random-on-start","port-forwarding-enabled","#,
            r#""dht-enabled","rpc-version"]}"#
        );
        let Progress::Done(result) = self.call(SESSION_GET, "session-get", fields, false)? else {
            return Ok(Progress::More);
        };
        let bad = |problem: &str| Err(failed(SESSION_GET, Cause::field("peer-port", problem)));
        let field = |name: &str| match &result {
            Value::Object(fields) => fields.get(name).or_else(|| fields.get(&name.replace('-', "_"))),
            _ => None,
        };
        let is = |name: &str| matches!(field(name), Some(Value::Bool(true)));
        let old = matches!(field("rpc-version"), Some(Value::Number(Number::U64(0..=LAST_WITHOUT_UDP))));
        self.dht = old.then(|| is("dht-enabled"));
        let port = match field("peer-port") {
            Some(Value::Number(Number::U64(port))) => i64::try_from(*port).unwrap_or(i64::MAX),
            Some(_) => return bad("is not a whole number"),
            None => return bad("is missing"),
        };
        // If Transmission's own port forwarding is on, `peer-port` is the router's port, and the socket may use a
        // different port.
        let random = is("peer-port-random-on-start") || is("port-forwarding-enabled");
        Ok(Progress::Done(ListenPort { port, random }))
    }

    /// Also turns off Transmission's own port forwarding, which would make it report the router's port, and random
    /// ports, which would replace `port` at the next start.
    fn set_port(&mut self, port: u16, force: bool) -> Exchange<()> {
        let arguments =
            format!(r#"{{"peer-port":{port},"peer-port-random-on-start":false,"port-forwarding-enabled":false}}"#);
        let Progress::Done(()) = self.set(&arguments, force)? else { return Ok(Progress::More) };
        self.dht.map_or(Ok(Progress::Done(())), |dht| self.move_udp(dht, force))
    }

    fn connectivity(&mut self) -> Exchange<Connectivity> {
        Ok(Progress::Done(Connectivity::Unknown))
    }

    fn inbound(&mut self) -> Exchange<Inbound> {
        Ok(Progress::Done(Inbound::Idle))
    }

    fn reannounce(&mut self) -> Exchange<()> {
        Ok(self.call(REANNOUNCE, "torrent-reannounce", "{}", false)?.map(|_| ()))
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

    /// Does nothing, because Transmission has a single session ID for all its RPC users.
    fn log_out(&mut self) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_dialect_has_its_own_spelling() {
        let request =
            |dialect: Dialect| dialect.request("session-set", r#"{"peer-port":1,"port-forwarding-enabled":false}"#);
        assert_eq!(
            request(Dialect::Old),
            r#"{"method":"session-set","arguments":{"peer-port":1,"port-forwarding-enabled":false},"tag":1}"#
        );
        assert_eq!(
            request(Dialect::JsonRpc),
            r#"{"jsonrpc":"2.0","method":"session_set","params":{"peer_port":1,"port_forwarding_enabled":false},"id":1}"#
        );
    }

    #[test]
    fn any_copied_path_leads_to_the_rpc() {
        for (copied, path) in [
            ("/", "/transmission/rpc"),
            ("/transmission/web/", "/transmission/rpc"),
            ("/transmission", "/transmission/rpc"),
            ("/transmission/rpc", "/transmission/rpc"),
            ("/own/rpc", "/own/rpc"),
            ("/proxied/", "/proxied/transmission/rpc"),
            ("/proxied/transmission/web", "/proxied/transmission/rpc"),
        ] {
            assert_eq!(rpc_path(copied), path, "{copied}");
        }
    }

    #[test]
    fn success_is_recognised_in_either_dialect() {
        let result = |text: &str| result_of(&Response::of(200, text)).map_err(|cause| cause.to_string());
        let port = |value: Result<Value, String>| match value {
            Ok(Value::Object(fields)) => fields.len(),
            other => panic!("{other:?}"),
        };
        assert_eq!(port(result(r#"{"arguments":{"peer-port":50000},"result":"success","tag":1}"#)), 1);
        assert_eq!(port(result(r#"{"id":1,"jsonrpc":"2.0","result":{"peer_port":50000}}"#)), 1);
        assert!(result(r#"{"result":"success"}"#).is_ok());
        for (text, words) in [
            (r#"{"result":"no method name"}"#, "result is not success: "),
            (r#"{"error":{"code":-32601,"message":"Method not found"},"id":1}"#, "error is set: "),
            (r#"{"arguments":{}}"#, "result is missing"),
            ("[]", "body is not a JSON object"),
        ] {
            assert!(result(text).is_err_and(|error| error.contains(words)), "{text}");
        }
    }

    #[test]
    fn failures_come_with_advice() {
        let connect = Cause::Connect { to: "h:1".to_owned(), error: std::io::ErrorKind::ConnectionRefused.into() };
        let http = |status| Cause::Http { status, excerpt: String::new(), retry_after: None };
        for (cause, advice) in [
            (connect, "check Transmission and TRANSMISSION_HOST"),
            (rejected(false), "correct TRANSMISSION_USERNAME"),
            (Cause::NoCredentials, "set TRANSMISSION_USERNAME"),
            (Cause::NotTls, "use http://"),
            (Cause::Closed(Phase::Head), "not the peer port"),
            (http(301), "with the RPC path"),
            (http(500), "if this keeps happening"),
        ] {
            let error = failed(SESSION_GET, cause);
            assert!(error.advice.contains(advice), "{error}: {}", error.advice);
        }
        assert_eq!(locked().retry, Retry::CredentialsRejected);
        assert_eq!(refused(Cause::HostRejected(421), ADD_HOST).retry, Retry::Backoff);
    }
}
