//! The status document: `STATE_DIR/status.json`, the output of `status`, and the result of `healthcheck`.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use miniserde::json;

use crate::error::{SOURCE_TIMEOUT, io_message};
use crate::files::{self, Durability};
use crate::keeper::step::{Connectivity, ListenState};
use crate::keeper::tunnel::{GatewayRoute, leaves_through};
use crate::keeper::{Remote, Snapshot};
use crate::state::Presence;
use crate::text::{escape_json, one_line};
use crate::time::{human_duration, rfc3339};

/// PIA drops a binding unless the port is bound again within this time.
const BINDING_LIFETIME: Duration = Duration::from_secs(15 * 60);
/// The service counts as unhealthy after this many failed binds in a row, even if the binding has not lapsed yet.
const MAX_BINDS_FAILED: u32 = 3;

/// Output of `status --json`. Times are RFC 3339, UTC.
#[derive(Debug, Clone, Default, miniserde::Serialize, miniserde::Deserialize)]
// `connection_status` is qBittorrent's own name.
#[allow(clippy::struct_field_names)]
pub struct Status {
    /// Version of the program that wrote this status.
    pub version: String,
    /// `CHECK_INTERVAL` in effect, seconds.
    pub interval_s: u64,
    /// True if another program leases the port.
    pub follows: bool,
    /// The leased port, or the followed one.
    pub port: Option<u16>,
    /// End of the lease.
    pub expires_at: Option<String>,
    /// Time of the last successful bind.
    pub bound_at: Option<String>,
    /// Failed binds in a row since `bound_at`.
    pub binds_failed: u32,
    /// `address:port` of the gateway at the last bind.
    pub gateway: Option<String>,
    /// Our address on the route to the gateway at the last bind; for a followed port, our address in the tunnel.
    pub local_address: Option<String>,
    /// The tunnel's device at the last bind.
    pub device: Option<String>,
    /// Index of `device`; a recreated device has a different one.
    pub device_index: Option<u32>,
    /// `VPN_INTERFACE`, if it is set.
    pub vpn_interface: Option<String>,
    pub client: String,
    /// The client's listen port when last read.
    pub client_port: Option<u16>,
    /// When the client was last seen listening on the port, or with the port set if its socket cannot be seen.
    pub client_verified_at: Option<String>,
    /// The client's own report about its reachability: a term from qBittorrent's API, `listening`, or `unknown`.
    pub connection_status: Option<String>,
    /// True if the kernel shows the client's socket, so that a health check can inspect the socket.
    pub listener_seen: bool,
    /// When the client was first seen with this port since the service started.
    pub port_since: Option<String>,
    /// When an incoming peer was last seen on the port.
    pub peer_seen_at: Option<String>,
    pub problems: Vec<Problem>,
    /// When the service stopped; `None` while it runs, or if it was killed.
    pub stopped_at: Option<String>,
    pub updated_at: String,
}

/// A failing remote.
#[derive(Debug, Clone, Default, miniserde::Serialize, miniserde::Deserialize)]
pub struct Problem {
    /// `account`, `gateway` or `client`.
    #[serde(rename = "with")]
    pub remote: String,
    pub since: String,
    /// Failed attempts in a row.
    pub failures: u32,
    pub error: String,
    pub remedy: String,
}

/// A remote's name in the log and in the status document.
pub fn remote_name(remote: Remote) -> &'static str {
    match remote {
        Remote::Account => "account",
        Remote::Gateway => "gateway",
        Remote::Client => "client",
    }
}

/// Health of the service, with a message.
#[derive(Debug, PartialEq, Eq)]
pub enum Health {
    /// The port is bound and the client listens on it.
    Healthy(String),
    Unhealthy(String),
    Stopped(String),
}

impl Health {
    pub fn message(&self) -> &str {
        match self {
            Self::Healthy(message) | Self::Unhealthy(message) | Self::Stopped(message) => message,
        }
    }
}

impl Status {
    pub fn of(snapshot: &Snapshot, client: &str, interval: Duration, now: Timestamp) -> Self {
        let bind = snapshot.last_bind;
        let followed = snapshot.route.filter(|_| snapshot.follows);
        let route = bind.and_then(|bind| bind.route.as_ref()).or(followed);
        let device = route.and_then(|route| route.device.as_ref());
        let problem = |(remote, trouble): &(Remote, &crate::keeper::Trouble)| Problem {
            remote: remote_name(*remote).to_owned(),
            since: rfc3339(trouble.since.wall),
            failures: trouble.attempts,
            error: trouble.error.to_string(),
            remedy: trouble.error.advice.to_owned(),
        };
        Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            interval_s: interval.as_secs(),
            follows: snapshot.follows,
            port: snapshot.port,
            expires_at: snapshot.expires_at.map(rfc3339),
            bound_at: bind.map(|bind| rfc3339(bind.at)),
            binds_failed: snapshot.binds_failed,
            gateway: bind.and_then(|bind| bind.gateway).map(|gateway| gateway.to_string()),
            local_address: route.map(|route| route.local.to_string()),
            device: device.map(|device| device.name.clone()),
            device_index: device.map(|device| device.index),
            vpn_interface: None,
            client: client.to_owned(),
            client_port: snapshot.client_port,
            client_verified_at: snapshot.last_listening.map(|(at, _)| rfc3339(at)),
            connection_status: snapshot.connectivity.map(|reported| reported.to_string()),
            listener_seen: snapshot.socket_seen,
            port_since: snapshot.port_since.map(rfc3339),
            peer_seen_at: snapshot.peer_seen_at.map(rfc3339),
            problems: snapshot.troubles.iter().map(problem).collect(),
            stopped_at: None,
            updated_at: rfc3339(now),
        }
    }

    pub fn to_json(&self) -> String {
        escape_json(&json::to_string(self))
    }

    fn path(state_dir: &Path) -> PathBuf {
        state_dir.join("status.json")
    }

    pub fn write(&self, state_dir: &Path) -> Result<(), String> {
        let path = Self::path(state_dir);
        files::write(&path, self.to_json().as_bytes(), Durability::Volatile)
            .map_err(|error| format!("{}: {}", path.display(), io_message(&error)))
    }

    /// Reads the document in `state_dir`; `None` if the file does not exist. The error is a message for the user.
    pub fn read(state_dir: &Path) -> Result<Option<Self>, String> {
        let path = Self::path(state_dir);
        let shown = path.display();
        match files::read(&path) {
            Ok(text) => {
                json::from_str(&text).map(Some).map_err(|_| format!("{shown} is damaged; the next bind replaces it"))
            }
            Err(error) if files::is_absent(&error) => Ok(None),
            Err(error) => {
                let denied = error.kind() == std::io::ErrorKind::PermissionDenied;
                let advice = if denied { "run this as root or as the service's user" } else { "check STATE_DIR" };
                Err(format!("{shown}: {}; {advice}", io_message(&error)))
            }
        }
    }

    /// One-line state for the service manager.
    pub fn one_line(&self) -> String {
        match (self.problems.first(), self.port) {
            (Some(problem), _) => problem.error.clone(),
            (None, Some(port)) => {
                let until = self.expires_at.as_ref().map_or(String::new(), |time| format!(" until {time}"));
                format!("port {port}{until}")
            }
            (None, None) => "no port yet".to_owned(),
        }
    }

    /// Checks that the port is bound and the client listens on it. `route` is the current route to the gateway of the last bind;
    /// `listen_state` is the current state of the port's sockets.
    pub fn health(
        &self,
        presence: &Presence,
        route: Option<Result<GatewayRoute, String>>,
        listen_state: Option<&ListenState>,
        now: Timestamp,
    ) -> Health {
        match presence {
            Presence::Running(_) => match self.check(route, listen_state, now) {
                Ok(message) => Health::Healthy(one_line(&message)),
                Err(message) => Health::Unhealthy(one_line(&message)),
            },
            Presence::Unknown(reason) => Health::Unhealthy(one_line(&format!("unknown: {reason}"))),
            Presence::Stopped => Health::Stopped(match &self.stopped_at {
                Some(at) => format!("not running: stopped at {}", one_line(at)),
                None => format!("not running: killed or crashed after {}", one_line(&self.updated_at)),
            }),
        }
    }

    fn check(
        &self,
        route: Option<Result<GatewayRoute, String>>,
        listen_state: Option<&ListenState>,
        now: Timestamp,
    ) -> Result<String, String> {
        self.check_route(route)?;
        let message = self.check_port(now).map_err(|text| match self.problems.first() {
            Some(problem) => format!("{}; {} ({text})", problem.error, problem.remedy),
            None => text,
        })?;
        self.check_listen_state(listen_state)?;
        Ok(message)
    }

    /// Checks that the port was bound, and the client was seen listening on it, recently enough.
    fn check_port(&self, now: Timestamp) -> Result<String, String> {
        let port = self.port.ok_or("there is no port")?;
        let (client, bound) = (&self.client, age(self.bound_at.as_deref(), now));
        if self.follows {
            let lost = self.problems.iter().find(|problem| problem.remote == remote_name(Remote::Gateway));
            let silent = lost.and_then(|problem| age(Some(&problem.since), now)).unwrap_or_default();
            if silent >= SOURCE_TIMEOUT {
                let silent = human_duration(silent);
                return Err(format!("port {port} was last confirmed by its source {silent} ago"));
            }
        } else {
            let bound = bound.ok_or("the port has not been bound since the service started")?;
            if bound >= BINDING_LIFETIME {
                let bound = human_duration(bound);
                return Err(format!("the last bind was {bound} ago, but a binding lapses after 15 min"));
            }
            if self.binds_failed >= MAX_BINDS_FAILED {
                return Err(format!("{} binds failed in a row", self.binds_failed));
            }
        }
        let verified = age(self.client_verified_at.as_deref(), now)
            .filter(|_| self.client_port == Some(port))
            .ok_or_else(|| format!("{client} has not been seen listening on port {port} in this tunnel"))?;
        if verified > Duration::from_secs(self.interval_s.saturating_mul(2).saturating_add(60)) {
            let verified = human_duration(verified);
            return Err(format!("{client} was last seen listening on port {port} {verified} ago"));
        }
        let bound = bound.map_or(String::new(), |age| format!(" bound {} ago", human_duration(age)));
        let listens = if self.is_unverifiable() { "has it set (listening not confirmed)" } else { "listening" };
        Ok(format!("port {port}{bound}, {client} {listens}"))
    }

    /// True if the client does not report whether it listens, and the kernel does not show the client's socket.
    fn is_unverifiable(&self) -> bool {
        self.reports_no_listening() && !self.listener_seen
    }

    /// True if the client does not report whether it listens.
    pub fn reports_no_listening(&self) -> bool {
        self.connection_status == Some(Connectivity::Unknown.to_string())
    }

    /// Checks that the route of the last bind still exists. When a VPN container restarts, a container that shares its network is
    /// left in a namespace without routes, and everything else looks fine.
    fn check_route(&self, route: Option<Result<GatewayRoute, String>>) -> Result<(), String> {
        let Some(route) = route else { return Ok(()) };
        let now = route.map_err(|error| {
            let to = self.gateway.as_ref().map_or("the tunnel".to_owned(), |gateway| format!("the gateway {gateway}"));
            format!("no route to {to}: {error}; check that the VPN is up")
        })?;
        if let (Some(index), Some(before), Some(device)) = (self.device_index, &self.device, &now.device)
            && device.index != index
            && !device.tunnel
        {
            return Err(format!("{}; check that the VPN is up", leaves_through(&device.name, before)));
        }
        if let Some(local) = &self.local_address
            && *local != now.local.to_string()
        {
            let now = now.local;
            return Err(format!("tunnel changed: our address is now {now}, was {local} at the last bind"));
        }
        if let (Some(index), Some(device)) = (self.device_index, &self.device)
            && now.device.as_ref().is_none_or(|now| now.index != index)
        {
            return Err(format!("tunnel changed: {device} is a different device than at the last bind"));
        }
        Ok(())
    }

    /// Checks that, as far as the kernel shows, peers can reach the client's socket now.
    fn check_listen_state(&self, listen_state: Option<&ListenState>) -> Result<(), String> {
        let (client, tunnel) = (&self.client, self.device.as_deref().unwrap_or("the tunnel"));
        let Some(port) = self.port else { return Ok(()) };
        Err(match listen_state {
            None | Some(ListenState::Reachable) => return Ok(()),
            Some(ListenState::Missing) => format!("nothing listens on port {port}; check that {client} is running"),
            Some(state) if state.can_be_reopened() => {
                format!("{client} {}; the service reopens it", state.describe(tunnel))
            }
            Some(state) => format!("{client} {}; {}", state.describe(tunnel), state.advice()),
        })
    }

    /// Output of `status`.
    pub fn describe(&self, presence: &Presence, health: &Health, now: Timestamp) -> String {
        let ago = |time: Option<&str>| age(time, now).map_or("never".to_owned(), |age| human_duration(age) + " ago");
        let mut text = String::new();
        let mut line = |name: &str, value: String| {
            let _ = writeln!(text, "{name:<12}{}", one_line(&value));
        };
        match presence {
            Presence::Running(who) => line("running", who.clone()),
            Presence::Stopped => match &self.stopped_at {
                Some(at) => line("stopped", format!("at {at}")),
                None => line("stopped", format!("killed or crashed after {}", self.updated_at)),
            },
            Presence::Unknown(reason) => line("unknown", reason.clone()),
        }
        match health {
            Health::Healthy(message) => line("health", format!("ok: {message}")),
            Health::Unhealthy(message) => line("health", format!("not ok: {message}")),
            Health::Stopped(_) => {}
        }
        for Problem { since, failures, error, remedy, .. } in &self.problems {
            line("problem", format!("{error} (since {since}, failed attempts: {failures}); {remedy}"));
        }
        match (self.port, &self.expires_at) {
            (Some(port), Some(expires_at)) => line("lease", format!("port {port} until {expires_at}")),
            (Some(port), None) => line("port", format!("{port}, leased by another program")),
            _ => line("port", "none".to_owned()),
        }
        if !self.follows {
            line("bound", ago(self.bound_at.as_deref()));
        }
        let seen = self.client_port.map_or("no port seen".to_owned(), |port| format!("port {port}"));
        let listening = if self.is_unverifiable() { "seen with that port" } else { "seen listening" };
        line("client", format!("{}: {seen}, {listening} {}", self.client, ago(self.client_verified_at.as_deref())));
        if let Some(since) = &self.port_since {
            let inbound = match (self.peer_seen_at.as_deref(), self.connection_status.as_deref()) {
                (Some(seen), _) => format!("incoming peer seen {}", ago(Some(seen))),
                (None, Some("connected")) => "peers can connect to the client".to_owned(),
                _ => format!("no incoming peer yet (normal at first); the port was set {}", ago(Some(since))),
            };
            line("inbound", inbound);
        }
        line("updated", ago(Some(&self.updated_at)));
        text
    }
}

/// Age of `time`. A time in the future (the clock was set back) is treated as equally far in the past.
fn age(time: Option<&str>, now: Timestamp) -> Option<Duration> {
    let time: Timestamp = time?.parse().ok()?;
    Some(now.duration_since(time).unsigned_abs())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keeper::tunnel::Device;

    const NOW: &str = "2026-11-23T12:00:00Z";

    fn healthy() -> Status {
        Status {
            interval_s: 300,
            port: Some(4711),
            bound_at: Some("2026-11-23T11:58:00Z".to_owned()),
            client: "qBittorrent".to_owned(),
            client_port: Some(4711),
            client_verified_at: Some("2026-11-23T11:50:00Z".to_owned()),
            updated_at: "2026-11-23T11:59:00Z".to_owned(),
            ..Status::default()
        }
    }

    fn running() -> Presence {
        Presence::Running("the service, process 7".to_owned())
    }

    fn health(change: impl Fn(&mut Status)) -> Health {
        let mut status = healthy();
        change(&mut status);
        status.health(&running(), None, None, NOW.parse().unwrap())
    }

    #[track_caller]
    fn unhealthy(message: &str, change: impl Fn(&mut Status)) {
        let health = health(change);
        assert!(matches!(health, Health::Unhealthy(_)) && health.message().contains(message), "{health:?}");
    }

    fn problem(remote: &str, since: &str) -> Problem {
        let text = |text: &str| text.to_owned();
        Problem { remote: text(remote), since: text(since), failures: 2, error: text("x: y"), remedy: text("do z") }
    }

    #[test]
    fn healthy_means_bound_and_listening() {
        assert_eq!(health(|_| ()), Health::Healthy("port 4711 bound 2 min ago, qBittorrent listening".to_owned()));
        let at = |time: &str| Some(time.to_owned());
        assert!(matches!(health(|s| s.bound_at = at("2026-11-23T11:45:01Z")), Health::Healthy(_)));
        unhealthy("15 min", |s| s.bound_at = at("2026-11-23T11:45:00Z"));
        unhealthy("15 min", |s| s.bound_at = at("2026-11-24T12:00:00Z"));
        assert!(matches!(health(|s| s.client_verified_at = at("2026-11-23T11:49:00Z")), Health::Healthy(_)));
        unhealthy("last seen listening", |s| s.client_verified_at = at("2026-11-23T11:48:59Z"));
        unhealthy("not been seen listening on port 4711", |s| s.client_port = Some(1));
        unhealthy("no port", |s| s.port = None);
        unhealthy("not been bound", |s| s.bound_at = None);
        assert!(matches!(health(|s| s.interval_s = u64::MAX), Health::Healthy(_)));
    }

    #[test]
    fn three_failed_binds_in_a_row_are_unhealthy_with_the_reason_first() {
        assert!(matches!(health(|s| s.binds_failed = 2), Health::Healthy(_)));
        unhealthy("3 binds failed in a row", |s| s.binds_failed = 3);
        let health = health(|s| (s.binds_failed, s.problems) = (3, vec![problem("gateway", NOW)]));
        assert!(health.message().starts_with("x: y; do z ("), "{health:?}");
    }

    #[test]
    fn a_followed_port_whose_source_is_silent_for_a_minute_is_lost() {
        let follows = |since: &'static str| {
            move |s: &mut Status| {
                (s.follows, s.bound_at, s.problems) = (true, None, vec![problem("gateway", since)]);
            }
        };
        assert!(matches!(health(follows("2026-11-23T11:59:01Z")), Health::Healthy(_)));
        unhealthy("last confirmed by its source 1 min ago", follows("2026-11-23T11:59:00Z"));
    }

    fn route(local: &str, index: u32) -> GatewayRoute {
        let device = Device { index, name: "tun0".to_owned(), tunnel: true };
        GatewayRoute { local: local.parse().unwrap(), hop: None, device: Some(device), by_source: false }
    }

    #[test]
    fn a_changed_route_is_unhealthy() {
        let health = |route: Option<Result<GatewayRoute, String>>| {
            let (gateway, local_address) = (Some("10.0.0.1:19999".to_owned()), Some("10.9.9.9".to_owned()));
            let (device, device_index) = (Some("tun0".to_owned()), Some(7));
            let status = Status { gateway, local_address, device, device_index, ..healthy() };
            status.health(&running(), route, None, NOW.parse().unwrap())
        };
        assert!(matches!(health(None), Health::Healthy(_)), "without a bind there is no route to compare with");
        assert!(matches!(health(Some(Ok(route("10.9.9.9", 7)))), Health::Healthy(_)));
        for (route, message) in [
            (Ok(route("10.8.8.8", 7)), "our address is now 10.8.8.8, was 10.9.9.9 at the last bind"),
            (Ok(route("10.9.9.9", 8)), "tun0 is a different device than at the last bind"),
            (Err("network is unreachable".to_owned()), "no route to the gateway 10.0.0.1:19999"),
        ] {
            let health = health(Some(route));
            assert!(matches!(health, Health::Unhealthy(_)) && health.message().contains(message), "{health:?}");
        }
    }

    #[test]
    fn control_characters_are_replaced() {
        let health = health(|s| s.client = "a\n\u{1b}[2J".to_owned());
        assert_eq!(health, Health::Healthy("port 4711 bound 2 min ago, a??[2J listening".to_owned()));
    }

    #[test]
    fn a_stopped_service_is_not_healthy() {
        let stopped = |stopped_at: Option<&str>| {
            let status = Status { stopped_at: stopped_at.map(str::to_owned), ..healthy() };
            status.health(&Presence::Stopped, None, None, NOW.parse().unwrap())
        };
        assert_eq!(stopped(Some(NOW)), Health::Stopped(format!("not running: stopped at {NOW}")));
        assert!(stopped(None).message().contains("killed or crashed after 2026-11-23T11:59:00Z"));
        assert!(matches!(stopped(None), Health::Stopped(_)));
        let unknown = healthy().health(&Presence::Unknown("no lock".to_owned()), None, None, NOW.parse().unwrap());
        assert_eq!(unknown, Health::Unhealthy("unknown: no lock".to_owned()));
    }

    #[test]
    fn status_line_description_and_health_name_the_same_problem_first() {
        let gateway = Problem { error: "the gateway".to_owned(), ..problem("gateway", NOW) };
        let status = Status { problems: vec![gateway, problem("client", NOW)], bound_at: None, ..healthy() };
        let now = NOW.parse().unwrap();
        let health = status.health(&running(), None, None, now);
        assert_eq!(status.one_line(), "the gateway");
        assert!(health.message().starts_with("the gateway; "), "{health:?}");
        let text = status.describe(&running(), &health, now);
        let problem = text.lines().find(|line| line.starts_with("problem"));
        assert!(problem.is_some_and(|line| line.contains("the gateway")), "{text}");
    }

    #[test]
    fn the_description_shows_the_process_then_health_then_problems() {
        let mut status = healthy();
        status.problems.push(problem("client", NOW));
        let now = NOW.parse().unwrap();
        let text = status.describe(&running(), &status.health(&running(), None, None, now), now);
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[0], "running     the service, process 7");
        assert_eq!(lines[1], "health      ok: port 4711 bound 2 min ago, qBittorrent listening");
        assert!(lines[2].starts_with("problem     x: y (since"), "{text}");
        let stopped = Presence::Stopped;
        let text = status.describe(&stopped, &status.health(&stopped, None, None, now), now);
        assert!(text.starts_with("stopped     killed or crashed after"), "{text}");
    }
}
