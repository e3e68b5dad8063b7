//! Turns outcomes into log messages. Outcomes are defined in `keeper::outcome`, the log's format in `logging`.

use log::Level;

use crate::error::Error;
use crate::keeper::step::Connectivity;
use crate::keeper::{Notice, Outcome, Remote, Visibility};
use crate::time::{self, ClockChange, human_duration, rfc3339};
use crate::views::status::remote_name;

/// Shorter waits are omitted from the log, because the next attempt begins before a user has read the line.
const MIN_WAIT_SHOWN: std::time::Duration = std::time::Duration::from_secs(60);

pub struct LogObserver {
    /// Name of the torrent client.
    pub client: &'static str,
    /// Name of the program whose port we follow; `None` if we lease the port.
    pub follows: Option<String>,
}

pub fn log_outcome(outcome: &Outcome, observer: &LogObserver) {
    if let Some((level, notice)) = &outcome.notice {
        let text = message(*level, notice, observer);
        log::log!(*level, "{text}");
        if let Notice::Failed { error, .. } = notice {
            for line in details(error) {
                log::log!(*level, "{line}");
            }
        }
        if let Notice::Leased { over: true, .. } = notice {
            log::warn!(
                "according to this system's clock ({}), the new lease has already expired; set the clock",
                rfc3339(time::now().wall)
            );
        }
    }
    if let Some(recovery) = outcome.recovered {
        let name = match outcome.remote {
            Remote::Client => observer.client,
            // The gateway, unless we follow a port.
            Remote::Gateway => observer.follows.as_deref().unwrap_or(remote_name(Remote::Gateway)),
            Remote::Account => remote_name(Remote::Account),
        };
        let attempts = if recovery.attempts == 1 { "attempt" } else { "attempts" };
        log::info!(
            "{name}: recovered after {} ({} failed {attempts})",
            human_duration(recovery.after),
            recovery.attempts
        );
    }
}

/// Maximum length of a message, in characters; together with time and level, a line has at most 200.
pub const LINE: usize = 180;

/// An error and its advice on one line. Truncates the error if necessary, but never the advice.
pub fn with_advice(error: &Error) -> String {
    truncated(&error.to_string(), &format!("; {}", error.advice))
}

/// Joins `text` and `end`, and truncates `text` if the result would exceed 180 characters.
pub fn truncated(text: &str, end: &str) -> String {
    let room = LINE.saturating_sub(end.chars().count());
    if text.chars().count() <= room {
        return format!("{text}{end}");
    }
    let begin: String = text.chars().take(room.saturating_sub(1)).collect();
    format!("{begin}…{end}")
}

/// An error as lines of text: first the error and its advice, then its details.
pub fn error_lines(error: &Error) -> Vec<String> {
    [with_advice(error)].into_iter().chain(details(error)).collect()
}

/// Further facts about an error, one per line.
pub fn details(error: &Error) -> impl Iterator<Item = String> {
    error.details().into_iter().map(|line| truncated(&line, ""))
}

/// Explains the client's own report about its reachability.
pub fn describe_inbound(connectivity: Connectivity) -> &'static str {
    match connectivity {
        Connectivity::Connected => "peers can connect to it",
        Connectivity::Firewalled => "no incoming peer yet (normal at first)",
        Connectivity::Disconnected => "it reports that it is not connected",
        Connectivity::Listening | Connectivity::Unknown => "it does not report whether peers can reach it",
    }
}

fn count(number: u32, what: &str) -> String {
    match number {
        0 => format!("no {what}"),
        1 => format!("1 {what}"),
        _ => format!("{number} {what}s"),
    }
}

fn message(level: Level, notice: &Notice, observer: &LogObserver) -> String {
    let LogObserver { client, follows } = observer;
    let source = follows.as_deref().unwrap_or("PIA");
    match notice {
        Notice::LoggedIn => "logged in to PIA".to_owned(),
        Notice::TokenCached => "read the token from the cache file".to_owned(),
        Notice::TokenRefused(error) => format!("{error}; getting a new token"),
        Notice::Leased { lease, .. } => format!("lease: port {} until {}", lease.port, rfc3339(lease.expires_at)),
        Notice::StoreFailed { lease, error } => format!(
            "lease: port {} until {}; cannot store the lease, so a restart gets a different port: {}",
            lease.port,
            rfc3339(lease.expires_at),
            error.cause
        ),
        Notice::RenewalFailed(error) => format!("could not get a different port: {error}; keeping the current one"),
        Notice::PortKept { port, refused, error } => {
            format!("could not bind port {refused}: {}; keeping port {port}", error.cause)
        }
        Notice::Bound(port) => format!("bound port {port}"),
        Notice::Rebound { port, closed_for } => {
            let closed_for = human_duration(*closed_for);
            format!(
                "bound port {port} again: the server had lost the binding; peers were shut out for up to {closed_for}"
            )
        }
        Notice::Source(port) => format!("{source} has port {port}"),
        Notice::SourceHasNoPort { keeps: Some(port) } => format!("{source} has no port now; keeping port {port}"),
        Notice::SourceHasNoPort { keeps: None } => format!("{source} has no port now"),
        Notice::Moved { from, to } => format!("{client}: listen port {from} -> {to}"),
        Notice::Reopened(port) => {
            format!("{client}: reopened its socket on port {port} in the current tunnel")
        }
        Notice::NotListening(port) => format!("{client}: nothing listens on port {port}; setting the port again"),
        Notice::Listening { port, connectivity, visibility } => {
            let limit = match visibility {
                Visibility::Confirmed => "",
                Visibility::TcpOnly => " over TCP, but not over UDP",
                Visibility::Hidden => " according to its own report (not visible from here)",
                Visibility::Unknown => {
                    return format!("{client} has port {port}; it does not report whether it listens");
                }
            };
            format!("{client} listens on port {port}{limit}; {}", describe_inbound(*connectivity))
        }
        Notice::Day(day) => {
            let (binds, outages) = (count(day.binds, "bind"), count(day.outages, "outage"));
            let peer = day.peer_seen_at.map_or("none".to_owned(), rfc3339);
            format!("last 24 h: port {}, {binds}, {outages}; last incoming peer: {peer}", day.port)
        }
        Notice::NoInbound(port) => format!(
            "no incoming peer on port {port} for 24 h, although torrents are active; check the VPN's firewall (README, \
             'Firewall') and {client}'s network interface"
        ),
        Notice::Reannounced(port) => format!("{client} is announcing port {port} to its trackers"),
        Notice::ReannounceFailed(error) => {
            format!("{error}; the trackers get the port with the next regular announce")
        }
        Notice::Failed { error, attempts, .. } if level == Level::Debug => format!("{error} (attempt {attempts})"),
        Notice::Failed { error, next, .. } if *next >= MIN_WAIT_SHOWN => {
            truncated(&error.to_string(), &format!("; {}; retrying in {}", error.advice, human_duration(*next)))
        }
        Notice::Failed { error, .. } => with_advice(error),
        Notice::Tunnel { from, to } => {
            let from = from.as_ref().filter(|from| from.is_tunnel() || !to.is_tunnel());
            let from = from.map_or(String::new(), |from| format!(", was {from}"));
            format!("tunnel changed: now {to}{from}")
        }
        Notice::ClockJumped(jump) => {
            let direction = if jump.is_positive() { "forward" } else { "back" };
            let by = human_duration(jump.unsigned_abs());
            format!("the clock jumped {direction} by {by}, or the machine was suspended; checking everything now")
        }
        Notice::Clock(ClockChange::Correct) => "this system's clock agrees with the gateway's again".to_owned(),
        Notice::Clock(ClockChange::Wrong { behind }) => {
            let direction = if behind.is_positive() { "behind" } else { "ahead of" };
            let by = human_duration(behind.unsigned_abs());
            format!("this system's clock is {by} {direction} the gateway's; set the clock")
        }
    }
}
