//! Stand-in for qBittorrent's Web API, 4.1 to 5.3, with one [`Flavour`] for each behaviour that was measured on real
//! versions. It checks requests as strictly as they do and reproduces their oddities.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::{Ca, Leaf, Mood, Reply, Request, Scripts, Server, VALID, lock, loopback, unique};

/// Endpoints, the keys for [`Scripts`].
pub const LOGIN: &str = "auth/login";
pub const LOGOUT: &str = "auth/logout";
pub const VERSION: &str = "app/version";
pub const PREFERENCES: &str = "app/preferences";
pub const SET_PREFERENCES: &str = "app/setPreferences";
pub const TRANSFER_INFO: &str = "transfer/info";
pub const REANNOUNCE: &str = "torrents/reannounce";

/// Failed logins before an address is banned; qBittorrent's default.
const BAN_AFTER: usize = 5;
const MAX_SESSIONS: usize = 15;

/// Versions whose Web API differs. `V4_5` stands for 4.4 to 5.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Flavour {
    V4_1,
    V4_3,
    V4_5,
    V5_2,
    V5_3,
}

impl Flavour {
    pub const ALL: [Self; 5] = [Self::V4_1, Self::V4_3, Self::V4_5, Self::V5_2, Self::V5_3];

    pub fn version(self) -> &'static str {
        match self {
            Self::V4_1 => "v4.1.9.1",
            Self::V4_3 => "v4.3.9",
            Self::V4_5 => "v4.5.2",
            Self::V5_2 => "v5.2.0",
            Self::V5_3 => "v5.3.0",
        }
    }
}

/// Options for the start of a stand-in.
#[derive(Clone, Debug)]
pub struct Options {
    pub address: IpAddr,
    /// 0 takes any free port.
    pub port: u16,
    pub flavour: Flavour,
    /// HTTPS with a certificate from the CA of [`Qbt::ca_pem`], for the stand-in's address and `localhost`.
    pub tls: bool,
    /// Path in front of `/api`, as behind a reverse proxy: `/qbt`.
    pub prefix: String,
}

impl Default for Options {
    fn default() -> Self {
        Self { address: loopback(), port: 0, flavour: Flavour::V5_3, tls: false, prefix: String::new() }
    }
}

/// Counts of requests, for comparison as one value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Accepted logins.
    pub logins: usize,
    /// Logins with wrong credentials while there is no ban.
    pub failed_logins: usize,
    /// Logins refused because of a ban.
    pub banned: usize,
    /// Sessions created by a login or by a bypass.
    pub sessions: usize,
    /// setPreferences requests that named a port.
    pub set_ports: usize,
    pub logouts: usize,
}

/// State and behaviour of the stand-in; see [`Qbt::set`].
#[derive(Debug)]
#[allow(clippy::struct_excessive_bools, reason = "each switches one behaviour")]
pub struct State {
    pub username: String,
    pub password: String,
    /// API key, of 5.2 and later.
    pub api_key: Option<String>,
    /// Bypasses authentication for the daemon.
    pub bypass: bool,
    /// Name of the session cookie, if not the version's own.
    pub cookie_name: Option<String>,
    /// Port that the Host header must have: the one inside a container.
    pub own_port: u16,
    /// Accepted host name; `None` is the default, `*`.
    pub server_domain: Option<String>,
    /// Time for which `connection_status` still shows the state before a change.
    pub status_lag: Duration,
    /// Delays of an endpoint's replies, after the request has taken effect.
    pub delays: HashMap<&'static str, Duration>,
    /// A peer has connected: the status is `connected` instead of `firewalled`.
    pub reachable: bool,
    /// Number of times that listening on a port will fail, as if a different program used it.
    pub taken: HashMap<i64, usize>,
    /// `listen_port` of the preferences; any number, as qBittorrent does not validate it.
    pub port: i64,
    /// Up to 4.3 a separate setting.
    pub random_port: bool,
    /// Port of the real socket.
    pub socket: Option<u16>,
    /// The socket belongs to a device that no longer exists, which no API shows.
    stale: bool,
    sessions: Vec<String>,
    failures: usize,
    status_before: (&'static str, Instant),
    ports: Vec<i64>,
    counts: Counts,
    complaints: Vec<String>,
    requests: usize,
    announced: Vec<i64>,
    last_session: Option<String>,
    flavour: Flavour,
    scheme_port: u16,
}

/// A running stand-in; its threads end when it is dropped.
pub struct Qbt {
    /// Replies that replace the normal ones, by endpoint ([`LOGIN`] and so on).
    pub scripts: Arc<Scripts>,
    state: Arc<Mutex<State>>,
    server: Server,
    options: Options,
    ca: Ca,
}

impl Qbt {
    pub fn start(flavour: Flavour) -> Self {
        Self::with(Options { flavour, ..Options::default() })
    }

    pub fn with(options: Options) -> Self {
        let state = Arc::new(Mutex::new(State::new(options.flavour)));
        let scripts = Arc::new(Scripts::default());
        let ca = Ca::new("Simulated private authority");
        let tls = options.tls.then(|| {
            let address = options.address.to_string();
            let names = [address.as_str(), "localhost"];
            ca.server(&Leaf { names: &names, common_name: "qBittorrent", years: VALID }, false)
        });
        let server = {
            let (state, scripts, prefix) = (Arc::clone(&state), Arc::clone(&scripts), options.prefix.clone());
            // qBittorrent writes header names in lower case.
            Server::with_header_case((options.address, options.port).into(), tls, true, move |request| {
                lock(&state).answer(&scripts, &prefix, request)
            })
        };
        {
            let mut state = lock(&state);
            state.own_port = server.address().port();
            state.scheme_port = if options.tls { 443 } else { 80 };
        }
        Self { scripts, state, server, options, ca }
    }

    /// Changes or reads the state.
    pub fn set<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        change(&mut lock(&self.state))
    }

    /// Value for `QBITTORRENT_HOST`.
    pub fn url(&self) -> String {
        let scheme = if self.options.tls { "https" } else { "http" };
        format!("{scheme}://{}{}", self.server.address(), self.options.prefix)
    }

    pub fn address(&self) -> std::net::SocketAddr {
        self.server.address()
    }

    pub fn ca_pem(&self) -> &str {
        self.ca.pem()
    }

    pub fn flavour(&self) -> Flavour {
        self.options.flavour
    }

    pub fn counts(&self) -> Counts {
        lock(&self.state).counts
    }

    /// Port on which qBittorrent really listens and can be reached.
    pub fn listening(&self) -> Option<u16> {
        let state = lock(&self.state);
        state.socket.filter(|_| !state.stale)
    }

    /// Ports set through the API, in order, including those that changed nothing.
    pub fn ports(&self) -> Vec<i64> {
        lock(&self.state).ports.clone()
    }

    /// Number of requests received.
    pub fn requests(&self) -> usize {
        lock(&self.state).requests
    }

    /// Ports announced to the trackers.
    pub fn announced(&self) -> Vec<i64> {
        lock(&self.state).announced.clone()
    }

    /// Requests that a real qBittorrent would punish, or that would break in some setups.
    pub fn complaints(&self) -> Vec<String> {
        lock(&self.state).complaints.clone()
    }

    /// Changes the port as the user does in the Web UI.
    pub fn change_port_in_web_ui(&self, port: i64) {
        lock(&self.state).set_port(port);
    }

    /// Closes the socket, as when the tunnel is recreated; it opens again when a different port is set.
    pub fn drop_socket(&self) {
        let mut state = lock(&self.state);
        state.remember_status();
        state.socket = None;
    }

    /// Makes the socket unreachable while everything looks fine, as when the tunnel is recreated with the same address.
    /// Setting a different port opens a new one (4.5 and 4.6).
    pub fn make_socket_stale(&self) {
        lock(&self.state).stale = true;
    }

    /// Changes the behaviour of the Web UI before it reads a request.
    pub fn set_mood(&self, mood: Mood) {
        self.server.set_mood(mood);
    }

    pub fn expire_sessions(&self) {
        lock(&self.state).sessions.clear();
    }

    /// Value of the newest session cookie.
    pub fn last_session(&self) -> Option<String> {
        lock(&self.state).last_session.clone()
    }

    /// Ends the ban of the daemon's address, as a restart of qBittorrent does.
    pub fn lift_ban(&self) {
        lock(&self.state).failures = 0;
    }

    /// Takes the Web UI down: connections are refused.
    pub fn pause(&self) {
        self.server.pause();
    }

    pub fn is_paused(&self) -> bool {
        self.server.is_paused()
    }

    /// Brings the Web UI back without its sessions, as after a restart.
    pub fn resume(&self) {
        self.expire_sessions();
        self.server.resume();
    }
}

impl State {
    fn new(flavour: Flavour) -> Self {
        Self {
            username: "admin".into(),
            password: format!("Qb-{:016x}", unique()),
            api_key: None,
            bypass: false,
            cookie_name: None,
            own_port: 0,
            server_domain: None,
            status_lag: Duration::ZERO,
            delays: HashMap::new(),
            reachable: false,
            taken: HashMap::new(),
            port: 6881,
            random_port: false,
            socket: Some(6881),
            stale: false,
            sessions: Vec::new(),
            failures: 0,
            status_before: ("firewalled", Instant::now()),
            ports: Vec::new(),
            counts: Counts::default(),
            complaints: Vec::new(),
            requests: 0,
            announced: Vec::new(),
            last_session: None,
            flavour,
            scheme_port: 80,
        }
    }

    fn answer(&mut self, scripts: &Scripts, prefix: &str, request: &Request) -> Reply {
        self.requests += 1;
        for header in ["origin", "referer"] {
            if request.header(header).is_some() {
                self.complaints.push(format!("{header} was sent"));
            }
        }
        let api = format!("{prefix}/api/v2/");
        let Some(endpoint) = request.path().strip_prefix(&api) else {
            self.complaints.push(format!("no such page: {}", request.path()));
            return self.error(404);
        };
        if let Some(reply) = scripts.take(endpoint) {
            return reply;
        }
        let mut reply = self.dispatch(endpoint, request);
        if self.flavour == Flavour::V5_3 {
            reply = reply.reason("");
        }
        match self.delays.get(endpoint) {
            Some(&delay) => reply.after(delay),
            None => reply,
        }
    }

    fn dispatch(&mut self, endpoint: &str, request: &Request) -> Reply {
        let post = request.method == "POST";
        if post && self.flavour <= Flavour::V4_3 && request.header("content-length").is_none() {
            self.complaints.push(format!("POST {endpoint} without Content-Length"));
            return self.error(400);
        }
        if post && !request.body.is_empty() && !request.is_form() {
            self.complaints.push(format!("{endpoint} with {:?}", request.header("content-type")));
            return self.error(400);
        }
        if !self.host_is_valid(request) {
            return self.error(401);
        }
        let changes = matches!(endpoint, LOGIN | LOGOUT | SET_PREFERENCES);
        if changes && !post && self.flavour >= Flavour::V4_5 {
            self.complaints.push(format!("{} {endpoint}", request.method));
            return self.error(405);
        }

        let bearer = request.header("authorization").and_then(|value| value.strip_prefix("Bearer "));
        let bearer = bearer.filter(|_| self.flavour >= Flavour::V5_2);
        if bearer.is_some() && endpoint.starts_with("auth/") {
            self.complaints.push(format!("{endpoint} with an API key"));
            return self.error(403);
        }
        if endpoint == LOGIN {
            return self.login(request);
        }
        let mut cookie = None;
        if bearer.is_none_or(|key| self.api_key.as_deref() != Some(key)) && !self.has_session(request) {
            if !self.bypass {
                return self.error(403);
            }
            cookie = Some(self.make_session());
        }
        let reply = self.authorised(endpoint, request);
        match cookie {
            Some(cookie) => reply.header("Set-Cookie", cookie),
            None => reply,
        }
    }

    fn authorised(&mut self, endpoint: &str, request: &Request) -> Reply {
        match endpoint {
            VERSION => Reply::text(200, self.flavour.version()),
            PREFERENCES => Reply::json(200, self.preferences()),
            TRANSFER_INFO => Reply::json(
                200,
                format!(
                    r#"{{"connection_status":"{}","dht_nodes":0,"dl_info_speed":0,"up_info_speed":0}}"#,
                    self.status()
                ),
            ),
            SET_PREFERENCES => {
                self.set_preferences(&request.form("json").unwrap_or_default());
                Reply::text(200, "")
            }
            REANNOUNCE => {
                if request.form("hashes").as_deref() != Some("all") {
                    self.complaints.push("reannounce of other torrents than all".to_owned());
                }
                self.announced.push(self.port);
                Reply::text(200, "")
            }
            LOGOUT => {
                let held = self.cookie(request);
                self.sessions.retain(|session| Some(session) != held.as_ref());
                self.counts.logouts += 1;
                if self.flavour >= Flavour::V5_2 { Reply::text(204, "") } else { Reply::text(200, "") }
            }
            _ => self.error(404),
        }
    }

    fn login(&mut self, request: &Request) -> Reply {
        let modern = self.flavour >= Flavour::V5_2;
        let accepted = || if modern { Reply::text(204, "") } else { Reply::text(200, "Ok.") };
        if self.has_session(request) {
            self.counts.logins += 1;
            return accepted();
        }
        if self.failures >= BAN_AFTER && !self.bypass {
            self.counts.banned += 1;
            return Reply::text(403, "Your IP address has been banned after too many failed authentication attempts.");
        }
        let given = (request.form("username"), request.form("password"));
        if self.bypass || given == (Some(self.username.clone()), Some(self.password.clone())) {
            self.counts.logins += 1;
            self.failures = 0;
            let cookie = self.make_session();
            return accepted().header("Set-Cookie", cookie);
        }
        self.counts.failed_logins += 1;
        self.failures += 1;
        if modern { self.error(401) } else { Reply::text(200, "Fails.") }
    }

    fn host_is_valid(&mut self, request: &Request) -> bool {
        let Some(host) = request.header("host") else { return false };
        let (name, port) = match host.rsplit_once(':') {
            Some((name, port)) if !port.contains(']') => (name, port.parse().unwrap_or(0)),
            _ => (host, self.own_port),
        };
        if host.contains(':') && port != self.scheme_port {
            // Works only by chance: 401 if a container's port is mapped to a different one.
            self.complaints.push(format!("Host with a port: {host}"));
        }
        port == self.own_port && self.server_domain.as_ref().is_none_or(|domain| domain == name)
    }

    fn cookie_name(&self) -> String {
        match &self.cookie_name {
            Some(name) => name.clone(),
            None if self.flavour >= Flavour::V5_2 => format!("QBT_SID_{}", self.own_port),
            None => "SID".into(),
        }
    }

    fn cookie(&self, request: &Request) -> Option<String> {
        let prefix = format!("{}=", self.cookie_name());
        let cookies = request.header("cookie")?;
        cookies.split("; ").find_map(|pair| pair.strip_prefix(prefix.as_str())).map(str::to_owned)
    }

    fn has_session(&self, request: &Request) -> bool {
        self.cookie(request).is_some_and(|cookie| self.sessions.contains(&cookie))
    }

    fn make_session(&mut self) -> String {
        self.counts.sessions += 1;
        // Real cookies contain the special characters of base64.
        let value = format!("{:016x}+{:08x}/", unique(), unique() % (1 << 32));
        self.sessions.push(value.clone());
        if self.sessions.len() > MAX_SESSIONS {
            self.sessions.remove(0);
        }
        self.last_session = Some(value.clone());
        format!("{}={value}; HttpOnly; SameSite=Strict; path=/", self.cookie_name())
    }

    fn preferences(&self) -> String {
        // From 4.4 on a random port means port 0.
        let random = if self.flavour <= Flavour::V4_3 { self.random_port } else { self.port == 0 };
        format!(
            r#"{{"locale":"en","listen_port":{},"random_port":{random},"upnp":false,"web_ui_port":{},"save_path":"/tmp/\u00fc"}}"#,
            self.port, self.own_port
        )
    }

    fn set_preferences(&mut self, json: &str) {
        let Ok(miniserde::json::Value::Object(wanted)) = miniserde::json::from_str(json) else {
            self.complaints.push(format!("bad JSON: {json}"));
            return;
        };
        let port = wanted.get("listen_port").map(|port| match port {
            miniserde::json::Value::Number(number) => number.to_string().parse().unwrap_or(0),
            _ => 0,
        });
        let random = wanted.get("random_port").map(|value| matches!(value, miniserde::json::Value::Bool(true)));
        if let Some(port) = port {
            self.counts.set_ports += 1;
            self.ports.push(port);
        }
        if self.flavour <= Flavour::V4_3 {
            self.random_port = random.unwrap_or(self.random_port);
        }
        if let Some(port) = port {
            self.set_port(port);
        }
        if self.flavour >= Flavour::V4_5 && random == Some(true) {
            self.set_port(0);
        }
    }

    /// Setting the current port again changes nothing, and does not open a missing socket.
    fn set_port(&mut self, port: i64) {
        if port == self.port {
            return;
        }
        self.remember_status();
        self.port = port;
        self.stale = false;
        let wanted = if port == 0 { Some(40_000 + (unique() % 20_000) as u16) } else { u16::try_from(port).ok() };
        self.socket = match self.taken.get_mut(&port) {
            Some(times) if *times > 0 => {
                *times -= 1;
                None
            }
            _ => wanted,
        };
    }

    fn remember_status(&mut self) {
        self.status_before = (self.status_now(), Instant::now());
    }

    fn status_now(&self) -> &'static str {
        match self.socket {
            None => "disconnected",
            Some(_) if self.reachable => "connected",
            Some(_) => "firewalled",
        }
    }

    fn status(&self) -> &'static str {
        let (before, since) = self.status_before;
        if since.elapsed() < self.status_lag { before } else { self.status_now() }
    }

    fn error(&self, status: u16) -> Reply {
        let text = match status {
            _ if self.flavour <= Flavour::V4_3 => "",
            400 => "Bad Request",
            401 => "Unauthorized",
            403 => "Forbidden",
            405 => "Method Not Allowed",
            _ => "Not Found",
        };
        Reply::text(status, text)
    }
}
