//! A simulator of Private Internet Access: the login, and a gateway with getSignature and bindPort. It checks requests
//! as PIA does; its replies, certificates, leases and bindings follow public traces. ASSUMPTION marks everything that
//! no trace supports. Replies can be scripted, and the state can be changed while it runs.

mod certificates;
mod replies;

use std::collections::HashMap;
use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use jiff::{SignedDuration, Timestamp};

use miniserde::json::{self, Value};

pub use replies::*;

use super::{Ca, Leaf, Mood, Reply, Request, Scripts, Server, VALID, lock, loopback, unique};

/// Endpoints, as [`Scripts`] names them.
pub const LOGIN: &str = "token";
pub const TUNNEL_LOGIN: &str = "apiv2/token";
pub const GET_SIGNATURE: &str = "getSignature";
pub const BIND_PORT: &str = "bindPort";

/// Lifetime of a lease, from getSignature to `expires_at`.
pub const LEASE: SignedDuration = SignedDuration::from_hours(1500);
/// Lifetime of a binding. PIA's staff said about 20 minutes, and advised to repeat the bind within 15
/// (pia-foss/manual-connections#37).
///
/// ASSUMPTION: exactly 15 minutes.
const BINDING: Duration = Duration::from_secs(15 * 60);
/// Characters of a token.
const TOKEN: usize = 124;
/// Bytes of a signature.
const SIGNATURE: usize = 64;

const HTTP2_COMPLAINT: &str = "HTTP/2, which PIA's servers speak if a client offers it, and this simulator does not";

/// Where PIA's login endpoints are.
pub const WEBSITES: [&str; 2] = ["www.privateinternetaccess.com", "apiv2.privateinternetaccess.com"];

/// What is wrong with the gateway's certificate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fault {
    #[default]
    None,
    /// The name stands in the subject only, there is no subjectAltName.
    CommonNameOnly,
    Expired,
    NotYetValid,
    /// Signed by a different authority than the one whose certificate [`Pia::ca_pem`] gives.
    OtherCa,
}

/// How a simulator is to be started.
#[derive(Clone, Debug)]
pub struct Options {
    /// A process in whose network namespace the listeners are; none for our own.
    pub namespace_of: Option<u32>,
    /// Address of both listeners.
    pub address: IpAddr,
    /// 0 takes any free port.
    pub gateway_port: u16,
    /// 0 takes any free port.
    pub login_port: u16,
    /// Name of the server: in the certificate, expected in Host, and in SNI if there is one.
    pub host_name: String,
    pub certificate: Fault,
    pub tls12_only: bool,
    /// The gateway gives tokens, too: on its port 443, which takes root or a namespace.
    pub tunnel_login: bool,
    /// The client does not know the server's name: any SNI and Host will do.
    pub anonymous: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            namespace_of: None,
            address: loopback(),
            gateway_port: 0,
            login_port: 0,
            host_name: "Sandbox-409-1a".into(),
            certificate: Fault::None,
            tls12_only: false,
            tunnel_login: false,
            anonymous: false,
        }
    }
}

/// What the simulator was asked, for comparison as one value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Login requests at the website, whatever the answer.
    pub logins: usize,
    /// Login requests at the gateway, whatever the answer.
    pub tunnel_logins: usize,
    /// getSignature requests, whatever the answer.
    pub signatures: usize,
    /// bindPort requests, whatever the answer.
    pub binds: usize,
    /// How many of all these were not granted.
    pub rejected: usize,
    /// TCP connections to the gateway.
    pub connections: usize,
}

/// What the simulator knows and hands out; see [`Pia::set`].
#[derive(Debug)]
#[allow(clippy::struct_excessive_bools, reason = "the flags are independent")]
pub struct State {
    pub username: String,
    pub password: String,
    /// Requests reach the gateway from outside its tunnel, for example at its public address.
    pub outside_tunnel: bool,
    /// Tokens that getSignature accepts.
    pub tokens: Vec<String>,
    /// Part of every new token: characters that need escaping, in addition to those that every token has.
    pub token_suffix: String,
    /// Port of the next payload; any number, so that bad ones can be tried. PIA assigns a different port each time, the
    /// simulator always this one.
    pub next_port: i64,
    /// Port of the payload after that, if it is to be a different one.
    pub later_port: Option<i64>,
    /// From now to the expiry of the next payload.
    pub lifetime: SignedDuration,
    /// How far the gateway's clock is ahead of this system's: in `Date` and in payloads.
    pub clock_ahead: SignedDuration,
    /// Text of `expires_at` in place of the one that `lifetime` gives.
    pub expires_at: Option<String>,
    /// The payload carries `created_at` and no `expires_at`.
    pub created_at_only: bool,
    /// Pads payloads with `=` if their length requires it; with a port of five digits it does not.
    pub padded: bool,
    /// Handed out verbatim in place of the next payloads.
    pub payload: Option<String>,
    /// Close the connection after every answer.
    pub close_always: bool,
    /// Lifetime of a binding after its last bind.
    pub binding_life: Duration,
    issued: HashMap<String, Issued>,
    /// Time of the last bind of each port.
    bindings: HashMap<i64, Instant>,
    last_secrets: Option<(String, String)>,
    bound: Vec<i64>,
    bound_at: Vec<Instant>,
    counts: Counts,
    complaints: Vec<String>,
}

#[derive(Debug)]
struct Issued {
    signature: String,
    port: i64,
    expires: Timestamp,
}

/// A running simulator; its threads end when it is dropped.
pub struct Pia {
    /// Replies in place of the normal ones; endpoints are [`LOGIN`], [`GET_SIGNATURE`], [`BIND_PORT`].
    pub scripts: Arc<Scripts>,
    state: Arc<Mutex<State>>,
    gateway: Server,
    login: Server,
    /// Kept for as long as it has to serve.
    _tunnel_login: Option<Server>,
    options: Options,
    ca: &'static Ca,
    /// Authority of the website and of the regions' host names.
    public_ca: Arc<Ca>,
}

impl Pia {
    pub fn start() -> Self {
        Self::with(Options::default())
    }

    pub fn with(options: Options) -> Self {
        let state = Arc::new(Mutex::new(State::new()));
        let scripts = Arc::new(Scripts::default());
        let public_ca = Arc::new(Ca::new("Simulated public authority"));
        let expected_name = (!options.anonymous).then(|| options.host_name.clone());
        let tunnel_login = options.tunnel_login.then(|| {
            let (state, scripts) = (Arc::clone(&state), Arc::clone(&scripts));
            let address = (options.address, 443).into();
            let tls = certificates::meta(&options.host_name, options.certificate, options.tls12_only);
            Server::start_in(options.namespace_of, address, Some(tls), move |request| {
                lock(&state).tunnel_login(&scripts, request)
            })
        });
        let gateway = {
            let (state, scripts) = (Arc::clone(&state), Arc::clone(&scripts));
            let address = (options.address, options.gateway_port).into();
            let public = Arc::clone(&public_ca);
            let tls = certificates::forwarding(&options.host_name, options.certificate, public, options.tls12_only);
            Server::start_in(options.namespace_of, address, Some(tls), move |request| {
                lock(&state).gateway(&scripts, expected_name.as_deref(), request)
            })
        };

        let address = options.address.to_string();
        let names = [&[address.as_str(), "localhost"], &WEBSITES[..]].concat();
        let tls = public_ca.server(&Leaf { names: &names, common_name: "login", years: VALID }, options.tls12_only);
        let login = {
            let (state, scripts) = (Arc::clone(&state), Arc::clone(&scripts));
            let address = (options.address, options.login_port).into();
            Server::start_in(options.namespace_of, address, Some(tls), move |request| {
                lock(&state).login(&scripts, request)
            })
        };
        let ca = certificates::root();
        Self { scripts, state, gateway, login, _tunnel_login: tunnel_login, options, ca, public_ca }
    }

    /// Changes or reads the state.
    pub fn set<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        change(&mut lock(&self.state))
    }

    pub fn gateway(&self) -> SocketAddr {
        self.gateway.address()
    }

    pub fn login_url(&self) -> String {
        format!("https://{}/api/client/v2/token", self.login.address())
    }

    pub fn host_name(&self) -> &str {
        &self.options.host_name
    }

    /// Certificate of the gateway's authority, PEM.
    pub fn ca_pem(&self) -> &str {
        self.ca.pem()
    }

    /// SHA-256 of the gateway's authority.
    pub fn ca_sha256(&self) -> String {
        self.ca.sha256()
    }

    /// From now on the gateway shows a certificate for `name` with this fault.
    pub fn present(&self, name: &str, certificate: Fault, tls12_only: bool) {
        let public = Arc::clone(&self.public_ca);
        self.gateway.set_tls(certificates::forwarding(name, certificate, public, tls12_only));
    }

    /// What the gateway does before it can be asked anything.
    pub fn set_mood(&self, mood: Mood) {
        self.gateway.set_mood(mood);
    }

    /// Behaviour of the login server before it reads a request.
    pub fn set_login_mood(&self, mood: Mood) {
        self.login.set_mood(mood);
    }

    /// The longest time between two granted binds since `begin`, the one that runs included.
    pub fn longest_gap(&self, begin: Instant) -> Duration {
        let state = lock(&self.state);
        let times = state.bound_at.iter().copied().filter(|&time| time > begin).chain([Instant::now()]);
        let mut last = begin;
        times.map(|time| time - std::mem::replace(&mut last, time)).max().unwrap_or_default()
    }

    /// Certificate of the login's authority, PEM.
    pub fn login_ca_pem(&self) -> &str {
        self.public_ca.pem()
    }

    pub fn counts(&self) -> Counts {
        Counts { connections: self.gateway.connections(), ..lock(&self.state).counts }
    }

    /// Ports that were bound, one entry for each granted bindPort.
    pub fn bound(&self) -> Vec<i64> {
        lock(&self.state).bound.clone()
    }

    /// Whether peers outside reach this port: it is bound, and the binding has not expired.
    pub fn is_open(&self, port: u16) -> bool {
        lock(&self.state).has_binding(port.into())
    }

    /// How many leases were handed out.
    pub fn leases(&self) -> usize {
        lock(&self.state).issued.len()
    }

    /// What a client did that PIA would not have understood; empty when all is well.
    pub fn complaints(&self) -> Vec<String> {
        lock(&self.state).complaints.clone()
    }

    /// Payload and signature handed out last.
    pub fn last_secrets(&self) -> Option<(String, String)> {
        lock(&self.state).last_secrets.clone()
    }

    /// Makes a token that getSignature accepts, as if a user had fetched it elsewhere.
    pub fn make_token(&self) -> String {
        lock(&self.state).make_token()
    }

    /// From now on no token made so far is accepted.
    pub fn revoke_tokens(&self) {
        lock(&self.state).tokens.clear();
    }

    /// The gateway goes down: connections to it are refused.
    pub fn pause(&self) {
        self.gateway.pause();
    }

    pub fn resume(&self) {
        self.gateway.resume();
    }

    /// Restarts the gateway, as PIA does about every three months: connections and bindings are lost, leases stay
    /// valid.
    pub fn restart(&self) {
        self.pause();
        self.set(|state| state.bindings.clear());
        self.resume();
    }

    pub fn pause_login(&self) {
        self.login.pause();
    }

    pub fn resume_login(&self) {
        self.login.resume();
    }

    /// Ends the gateway's open connections, as a server does with idle ones.
    pub fn close_connections(&self) {
        self.gateway.close_connections();
    }
}

impl State {
    fn new() -> Self {
        Self {
            username: format!("p{}", unique() % 10_000_000),
            password: format!("Pw-{:016x}", unique()),
            outside_tunnel: false,
            tokens: Vec::new(),
            token_suffix: String::new(),
            next_port: 47047,
            later_port: None,
            lifetime: LEASE,
            clock_ahead: SignedDuration::ZERO,
            expires_at: None,
            created_at_only: false,
            padded: true,
            payload: None,
            close_always: false,
            binding_life: BINDING,
            issued: HashMap::new(),
            bindings: HashMap::new(),
            last_secrets: None,
            bound: Vec::new(),
            bound_at: Vec::new(),
            counts: Counts::default(),
            complaints: Vec::new(),
        }
    }

    fn make_token(&mut self) -> String {
        let end = format!("+/_{}=", self.token_suffix);
        let mut token = String::new();
        while token.len() < TOKEN {
            let _ = write!(token, "{:016x}", unique());
        }
        token.truncate(TOKEN - end.len());
        token += &end;
        self.tokens.push(token.clone());
        token
    }

    fn gateway(&mut self, scripts: &Scripts, name: Option<&str>, request: &Request) -> Reply {
        if request.is_http2() {
            return self.complain(505, HTTP2_COMPLAINT.into());
        }
        let endpoint = request.path().trim_start_matches('/').to_owned();
        match endpoint.as_str() {
            GET_SIGNATURE => self.counts.signatures += 1,
            BIND_PORT => self.counts.binds += 1,
            "ping" => {}
            _ => return self.complain(404, format!("no such page: {}", request.path())),
        }
        if request.method != "GET" {
            return self.complain(405, format!("{} {endpoint}", request.method));
        }
        if let Some(name) = name {
            let host = request.header("host").unwrap_or_default();
            let host = host.split(':').next().unwrap_or_default();
            // Stricter than PIA, which also accepts an address: our client sends the name, with or without the port.
            if !host.eq_ignore_ascii_case(name) {
                return self.complain(421, format!("Host {host:?} instead of {name:?}"));
            }
            if request.sni.as_deref().is_some_and(|sni| !sni.eq_ignore_ascii_case(name)) {
                return self.complain(421, format!("SNI {:?} instead of {name:?}", request.sni));
            }
        }
        let reply = if let Some(reply) = scripts.take(&endpoint) {
            self.counts.rejected += 1;
            reply
        } else {
            let granted = match endpoint.as_str() {
                GET_SIGNATURE => self.get_signature(request),
                BIND_PORT => self.bind_port(request),
                _ => Ok(Reply::text(200, "pong\n")),
            };
            granted.unwrap_or_else(|refusal| {
                self.counts.rejected += 1;
                refusal
            })
        };
        let now = SystemTime::from(self.now());
        let reply = reply.header("Date", httpdate::fmt_http_date(now));
        if self.close_always { reply.closing() } else { reply }
    }

    /// By the gateway's clock.
    fn now(&self) -> Timestamp {
        Timestamp::now() + self.clock_ahead
    }

    fn get_signature(&mut self, request: &Request) -> Result<Reply, Reply> {
        self.expect_tunnel()?;
        let token = request.query("token").unwrap_or_default();
        if !self.tokens.contains(&token) {
            return Err(login_failed());
        }
        Ok(Reply::json(200, self.grant(&token)))
    }

    /// Refuses a request from outside the tunnel.
    ///
    /// ASSUMPTION: both calls refuse it before any other check. The traces show this for getSignature only.
    fn expect_tunnel(&self) -> Result<(), Reply> {
        if self.outside_tunnel { Err(unauthorized()) } else { Ok(()) }
    }

    /// Hands out a lease: the body of the reply.
    pub fn grant(&mut self, token: &str) -> String {
        let (payload, issued) = self.issue(token);
        self.next_port = self.later_port.take().unwrap_or(self.next_port);
        let body = lease_body(&payload, &issued.signature);
        self.last_secrets = Some((payload.clone(), issued.signature.clone()));
        self.issued.insert(payload, issued);
        body
    }

    /// The signature is random and stored, because no client can verify a real one.
    fn issue(&self, token: &str) -> (String, Issued) {
        let now = self.now();
        let expires = now + self.lifetime;
        let time = match &self.expires_at {
            Some(text) => format!(r#""expires_at":"{text}""#),
            None if self.created_at_only => format!(r#""created_at":"{now:.9}""#),
            None => format!(r#""expires_at":"{expires:.9}""#),
        };
        let json = format!(r#"{{"token":"{token}","port":{},{time}}}"#, self.next_port);
        let payload = match &self.payload {
            Some(verbatim) => verbatim.clone(),
            None if self.padded => STANDARD.encode(&json),
            None => STANDARD_NO_PAD.encode(&json),
        };
        // Starts with bytes whose base64 is `+/+/`: they break when they are not escaped.
        let mut bytes = vec![0xfb, 0xff, 0xbf];
        while bytes.len() < SIGNATURE {
            bytes.extend(unique().to_be_bytes());
        }
        bytes.truncate(SIGNATURE);
        (payload, Issued { signature: STANDARD.encode(bytes), port: self.next_port, expires })
    }

    /// ASSUMPTION: a port stays bound until its binding expires, even if the client binds a different one. A lease
    /// outlives its token, and is refused from `expires_at` on (in one trace a bind 49 minutes later succeeded, but the
    /// port was dead).
    fn bind_port(&mut self, request: &Request) -> Result<Reply, Reply> {
        self.expect_tunnel()?;
        let payload = request.query("payload").unwrap_or_default();
        let issued = self.issued.get(&payload).ok_or_else(bad_signature)?;
        if request.query("signature").as_ref() != Some(&issued.signature) {
            return Err(bad_signature());
        }
        if issued.expires <= self.now() {
            return Err(port_expired());
        }
        let port = issued.port;
        let message = if self.has_binding(port) { REFRESHED } else { SCHEDULED };
        let now = Instant::now();
        self.bindings.insert(port, now);
        self.bound.push(port);
        self.bound_at.push(now);
        Ok(Reply::json(200, bind_body(message)))
    }

    fn has_binding(&self, port: i64) -> bool {
        self.bindings.get(&port).is_some_and(|last| last.elapsed() < self.binding_life)
    }

    fn login(&mut self, scripts: &Scripts, request: &Request) -> Reply {
        if request.path() != "/api/client/v2/token" {
            return self.complain(404, format!("no such page: {}", request.path()));
        }
        self.counts.logins += 1;
        if request.method != "POST" || !request.is_form() {
            return self.complain(400, format!("{} with {:?}", request.method, request.header("content-type")));
        }
        if let Some(reply) = scripts.take(LOGIN) {
            self.counts.rejected += 1;
            return reply;
        }
        let given = (request.form("username"), request.form("password"));
        if given != (Some(self.username.clone()), Some(self.password.clone())) {
            self.counts.rejected += 1;
            return access_denied();
        }
        Reply::json(200, token_body(&self.make_token()))
    }

    /// As PIA's desktop client asks: JSON.
    ///
    /// ASSUMPTION: this path, and the replies of the website. No trace shows a login at the tunnel's own gateway.
    fn tunnel_login(&mut self, scripts: &Scripts, request: &Request) -> Reply {
        if request.is_http2() {
            return self.complain(505, HTTP2_COMPLAINT.into());
        }
        if (request.method.as_str(), request.path()) != ("POST", "/apiv2/token") {
            return self.complain(404, format!("no such page: {} {}", request.method, request.path()));
        }
        self.counts.tunnel_logins += 1;
        if let Some(reply) = scripts.take(TUNNEL_LOGIN) {
            self.counts.rejected += 1;
            return reply;
        }
        let given = json::from_str(&String::from_utf8_lossy(&request.body));
        let text = |fields: &json::Object, name| match fields.get(name) {
            Some(Value::String(text)) => text.clone(),
            _ => String::new(),
        };
        match given {
            Ok(Value::Object(fields)) if request.header("content-type") == Some("application/json") => {
                if (text(&fields, "username"), text(&fields, "password"))
                    != (self.username.clone(), self.password.clone())
                {
                    self.counts.rejected += 1;
                    return access_denied();
                }
                Reply::json(200, token_body(&self.make_token()))
            }
            _ => self.complain(400, "a login at the gateway that is not JSON".into()),
        }
    }

    fn complain(&mut self, status: u16, what: String) -> Reply {
        self.counts.rejected += 1;
        let reply = Reply::text(status, format!("simulator: {what}"));
        self.complaints.push(what);
        reply
    }
}
