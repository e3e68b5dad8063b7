//! What the outside sees: the status file, the words of `status`, the verdict of `healthcheck`, and the log of troubles.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use miniserde::json;

use crate::error::{Error, plain};
use crate::files::{self, Durability};
use crate::route;

/// A followed source that has not given the port for this long has lost it.
const FOLLOWED_LIFE: Duration = Duration::from_secs(60);
/// Between two writes of a status in which only times have changed, to spare flash cards.
const WRITE_EVERY: Duration = Duration::from_secs(15);
/// A binding lapses when it is not repeated for this long (PIA).
const BINDING_LIFE: Duration = Duration::from_secs(15 * 60);

/// `STATE_DIR/status.json`, and what `status --json` prints. Times are RFC 3339, UTC.
#[derive(Debug, Clone, Default, miniserde::Serialize, miniserde::Deserialize)]
// `connection_status` is qBittorrent's own word for it.
#[allow(clippy::struct_field_names)]
pub struct Status {
    /// Of the program that wrote it.
    pub version: String,
    /// `CHECK_INTERVAL` in effect, seconds.
    pub interval_s: u64,
    /// Whether the port is somebody else's, whom we follow.
    pub follows: bool,
    /// The leased port, or the followed one.
    pub port: Option<u16>,
    /// When the lease ends.
    pub expires_at: Option<String>,
    /// The last successful bind, or when a followed source last gave the port.
    pub bound_at: Option<String>,
    /// `address:port` of the gateway at that bind.
    pub gateway: Option<String>,
    /// Our address towards it at that bind.
    pub local_address: Option<String>,
    /// The torrent client's name.
    pub client: String,
    /// The port that the client was last seen with.
    pub client_port: Option<u16>,
    /// When the client was last seen listening on it.
    pub client_verified_at: Option<String>,
    /// What the client said of its reachability.
    pub connection_status: Option<String>,
    /// What is failing now.
    pub problems: Vec<Problem>,
    /// When this was written.
    pub updated_at: String,
}

/// One peer that is failing.
#[derive(Debug, Clone, Default, miniserde::Serialize, miniserde::Deserialize)]
pub struct Problem {
    /// `account`, `gateway` or `client`.
    #[serde(rename = "with")]
    pub peer: String,
    /// Since when.
    pub since: String,
    /// Failed attempts since then.
    pub failures: u32,
    /// The last error.
    pub error: String,
    /// What to do.
    pub remedy: String,
}

/// Now, to the second, as text.
pub fn now_text() -> String {
    format!("{:.0}", Timestamp::now())
}

impl Status {
    /// Reads the file in `state_dir`; the error is for people.
    pub fn read(state_dir: &Path) -> Result<Self, String> {
        let path = state_dir.join("status.json");
        let text = files::read(&path).map_err(|error| {
            let hint = match error.kind() {
                std::io::ErrorKind::NotFound => "the service has not run yet, or with another STATE_DIR",
                std::io::ErrorKind::PermissionDenied => "ask as root or as the service's user",
                _ => "check STATE_DIR",
            };
            format!("{}: {}; {hint}", path.display(), plain(&error))
        })?;
        json::from_str(&text).map_err(|_| format!("{} is damaged; it is replaced at the next bind", path.display()))
    }

    /// Whether the port is bound and the client listens on it; the error says what is missing.
    pub fn health(&self, now: Timestamp) -> Result<String, String> {
        let port = self.port.ok_or("no port is leased")?;
        let bound =
            age(self.bound_at.as_deref(), now).ok_or("the port has not been bound since the service started")?;
        if self.follows && bound >= FOLLOWED_LIFE {
            return Err(format!("port {port} was last seen at its source {} ago", span(bound)));
        }
        if bound >= BINDING_LIFE {
            return Err(format!("the last bind is {} old, a binding lapses after 15 min", span(bound)));
        }
        let verified = age(self.client_verified_at.as_deref(), now)
            .filter(|_| self.client_port == Some(port))
            .ok_or_else(|| format!("{} was never seen listening on port {port}", self.client))?;
        if verified > Duration::from_secs(self.interval_s.saturating_mul(2).saturating_add(60)) {
            return Err(format!("{} was last seen listening on port {port} {} ago", self.client, span(verified)));
        }
        Ok(format!("port {port} bound {} ago, {} listening", span(bound), self.client))
    }

    /// Whether the way that the last bind took is still there, asked of the kernel; the error says what has changed. A
    /// container whose VPN container was restarted is left in a namespace without any way out, and all else looks well.
    pub fn check_route(&self) -> Result<(), String> {
        if self.follows {
            return if route::has_way_out() { Ok(()) } else { Err("this network namespace has no route".to_owned()) };
        }
        let (Some(gateway), Some(local)) = (&self.gateway, &self.local_address) else { return Ok(()) };
        let Ok(address) = gateway.parse() else { return Ok(()) };
        match route::local_address_towards(address) {
            Ok(now) if now.to_string() == *local => Ok(()),
            Ok(now) => Err(format!("the tunnel has changed: our address was {local} at the last bind and is {now}")),
            Err(error) => Err(format!("no way to the gateway {gateway}: {}", plain(&error))),
        }
    }

    /// For people.
    pub fn describe(&self, now: Timestamp) -> String {
        let ago =
            |time: &Option<String>| age(time.as_deref(), now).map_or("never".to_owned(), |age| span(age) + " ago");
        let mut text = String::new();
        let mut line = |name: &str, value: String| {
            let _ = writeln!(text, "{name:<12}{value}");
        };
        line(
            "health",
            match self.check_route().and_then(|()| self.health(now)) {
                Ok(well) => format!("ok: {well}"),
                Err(ill) => format!("not ok: {ill}"),
            },
        );
        match (self.port, &self.expires_at) {
            (Some(port), Some(expires_at)) => line("lease", format!("port {port} until {expires_at}")),
            (Some(port), None) => line("port", format!("{port}, followed")),
            _ => line("port", "none".to_owned()),
        }
        line("bound", ago(&self.bound_at));
        let seen = self.client_port.map_or("no port seen".to_owned(), |port| format!("port {port}"));
        let reachability = self.connection_status.as_deref().unwrap_or("unknown");
        line(
            "client",
            format!("{}: {seen}, {reachability}, seen listening {}", self.client, ago(&self.client_verified_at)),
        );
        for problem in &self.problems {
            let times = problem.failures;
            line(
                "problem",
                format!("{}; {} (since {}, {times} attempts)", problem.error, problem.remedy, problem.since),
            );
        }
        line("updated", ago(&Some(self.updated_at.clone())));
        text
    }
}

/// How long ago `time` was. A time in the future (the clock was set back) counts as far away, not as fresh.
fn age(time: Option<&str>, now: Timestamp) -> Option<Duration> {
    let time: Timestamp = time?.parse().ok()?;
    Some(now.duration_since(time).unsigned_abs())
}

/// `1 h 5 min`, `3 min 20 s`, `7 s`.
pub fn span(duration: Duration) -> String {
    match duration.as_secs() {
        seconds @ 0..60 => format!("{seconds} s"),
        seconds @ 60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        seconds @ 3600..86400 => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
        seconds => format!("{} d {} h", seconds / 86400, seconds % 86400 / 3600),
    }
}

/// The three peers whose troubles are told apart, in the words of the log and the status file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PeerKind {
    /// PIA's account API.
    Account,
    /// PIA's gateway.
    Gateway,
    /// The torrent client.
    Client,
}

impl PeerKind {
    fn word(self) -> &'static str {
        match self {
            Self::Account => "account",
            Self::Gateway => "gateway",
            Self::Client => "client",
        }
    }
}

struct Trouble {
    peer: PeerKind,
    began: Instant,
    /// [`Error::gist`] of the last error that was told.
    told: String,
    problem: Problem,
}

/// Keeps the status and writes it, and tells troubles once.
pub struct Report {
    path: PathBuf,
    /// What will be written next.
    pub status: Status,
    troubles: Vec<Trouble>,
    /// What was written last, and when.
    written: Option<(Instant, String)>,
    /// That the file cannot be written was said; it is still tried, because disks fill up and empty again.
    warned: bool,
}

impl Report {
    /// A report in `state_dir`; `warned` says that the user knows already that nothing can be written there.
    pub fn new(state_dir: &Path, warned: bool, interval: Duration, client: &str) -> Self {
        let status = Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            interval_s: interval.as_secs(),
            client: client.to_owned(),
            ..Status::default()
        };
        Self { path: state_dir.join("status.json"), status, troubles: Vec::new(), written: None, warned }
    }

    /// Takes down a failure: ERROR the first time and when it becomes another, DEBUG while it repeats.
    pub fn failed(&mut self, peer: PeerKind, error: &Error) {
        let (text, remedy) = (error.to_string(), error.remedy());
        let index = self.troubles.iter().position(|trouble| trouble.peer == peer).unwrap_or_else(|| {
            let problem = Problem { peer: peer.word().to_owned(), since: now_text(), ..Problem::default() };
            self.troubles.push(Trouble { peer, began: Instant::now(), told: String::new(), problem });
            self.troubles.len() - 1
        });
        let Trouble { told, problem, .. } = &mut self.troubles[index];
        if *told == error.gist() {
            log::debug!("{text} (attempt {})", problem.failures + 1);
        } else {
            log::error!("{text}; {remedy}");
            *told = error.gist();
        }
        problem.failures += 1;
        problem.error = text;
        remedy.clone_into(&mut problem.remedy);
    }

    /// A peer did as asked: tells a recovery, with how long it was down.
    pub fn recovered(&mut self, peer: PeerKind) {
        let Some(index) = self.troubles.iter().position(|trouble| trouble.peer == peer) else { return };
        let trouble = self.troubles.remove(index);
        let name = if peer == PeerKind::Client { self.status.client.as_str() } else { peer.word() };
        let attempts = if trouble.problem.failures == 1 { "attempt" } else { "attempts" };
        log::info!(
            "{name}: recovered after {} ({} failed {attempts})",
            span(trouble.began.elapsed()),
            trouble.problem.failures
        );
    }

    /// The errors of now, for `once`.
    pub fn problems(&self) -> impl Iterator<Item = &Problem> {
        self.troubles.iter().map(|trouble| &trouble.problem)
    }

    /// The state in a few words, for the service manager.
    pub fn one_line(&self) -> String {
        match (self.troubles.last(), self.status.port) {
            (Some(trouble), _) => trouble.problem.error.clone(),
            (None, Some(port)) => {
                let until = self.status.expires_at.as_ref().map_or(String::new(), |time| format!(" until {time}"));
                format!("port {port}{until}")
            }
            (None, None) => "no port yet".to_owned(),
        }
    }

    /// Writes the status file, if `now` or if there is something to tell.
    pub fn write(&mut self, now: bool) {
        self.status.problems = self.problems().cloned().collect();
        let timeless =
            Status { bound_at: None, client_verified_at: None, updated_at: String::new(), ..self.status.clone() };
        let gist = json::to_string(&timeless);
        let known = self.written.as_ref().is_some_and(|(at, text)| at.elapsed() < WRITE_EVERY && *text == gist);
        if known && self.status.follows && !now {
            return;
        }
        self.written = Some((Instant::now(), gist));
        self.status.updated_at = now_text();
        match files::write(&self.path, json::to_string(&self.status).as_bytes(), Durability::Volatile) {
            Ok(()) => self.warned = false,
            Err(error) if !self.warned => {
                log::warn!("{}: {}; status and healthcheck do not know the state", self.path.display(), plain(&error));
                self.warned = true;
            }
            Err(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: &str = "2026-11-23T12:00:00Z";

    fn well() -> Status {
        Status {
            interval_s: 300,
            port: Some(4711),
            bound_at: Some("2026-11-23T11:58:00Z".to_owned()),
            client: "qBittorrent".to_owned(),
            client_port: Some(4711),
            client_verified_at: Some("2026-11-23T11:50:00Z".to_owned()),
            ..Status::default()
        }
    }

    fn health(change: impl Fn(&mut Status)) -> Result<String, String> {
        let mut status = well();
        change(&mut status);
        status.health(NOW.parse().unwrap())
    }

    #[test]
    fn healthy_is_bound_and_listening() {
        assert_eq!(health(|_| ()), Ok("port 4711 bound 2 min 0 s ago, qBittorrent listening".to_owned()));
        let at = |time: &str| Some(time.to_owned());
        assert!(health(|s| s.bound_at = at("2026-11-23T11:45:01Z")).is_ok());
        assert!(health(|s| s.bound_at = at("2026-11-23T11:45:00Z")).unwrap_err().contains("15 min"));
        assert!(health(|s| s.bound_at = at("2026-11-24T12:00:00Z")).is_err(), "a clock that was set back");
        assert!(health(|s| s.client_verified_at = at("2026-11-23T11:49:00Z")).is_ok());
        assert!(health(|s| s.client_verified_at = at("2026-11-23T11:48:59Z")).is_err());
        assert!(health(|s| s.client_port = Some(1)).unwrap_err().contains("never seen listening on port 4711"));
        assert!(health(|s| s.interval_s = u64::MAX).is_ok());
        assert!(health(|s| s.port = None).is_err());
        assert!(health(|s| s.bound_at = None).is_err());
    }

    #[test]
    fn a_way_that_changed_is_noticed() {
        let route = |gateway: &str, local: &str| {
            let (gateway, local_address) = (Some(gateway.to_owned()), Some(local.to_owned()));
            Status { gateway, local_address, ..well() }.check_route()
        };
        assert_eq!(route("127.0.0.1:19999", "127.0.0.1"), Ok(()));
        assert!(route("127.0.0.1:19999", "10.9.9.9").unwrap_err().contains("our address was 10.9.9.9"));
        assert_eq!(well().check_route(), Ok(()), "not bound yet: nothing to compare with");
    }

    #[test]
    fn a_followed_port_must_have_been_seen_lately() {
        assert!(health(|s| s.follows = true).unwrap_err().contains("last seen at its source 2 min"));
        let recent = Some("2026-11-23T11:59:30Z".to_owned());
        assert!(health(|s| (s.follows, s.bound_at) = (true, recent.clone())).is_ok());
    }

    #[test]
    fn a_description_for_people() {
        let mut status = well();
        status.problems.push(Problem { error: "x: y".to_owned(), remedy: "do z".to_owned(), ..Problem::default() });
        let text = status.describe(NOW.parse().unwrap());
        assert!(text.contains("health      ok: port 4711 bound 2 min 0 s ago"), "{text}");
        assert!(text.contains("problem     x: y; do z"), "{text}");
    }

    #[test]
    fn spans() {
        for (seconds, text) in [(7, "7 s"), (200, "3 min 20 s"), (3900, "1 h 5 min"), (90000, "1 d 1 h")] {
            assert_eq!(span(Duration::from_secs(seconds)), text);
        }
    }
}
