//! What an outcome is logged as.

use log::Level;

use crate::error::Error;
use crate::keeper::step::Connectivity;
use crate::keeper::{Notice, Outcome, Remote, Visibility};
use crate::time::{self, ClockChange, human_duration, rfc3339};
use crate::views::status::remote_name;

/// Shorter waits than this are no news: the next try comes before anybody has read of this one.
const MIN_WAIT_SHOWN: std::time::Duration = std::time::Duration::from_secs(60);

/// Writes outcomes to the log; its fields are the names that lines begin with.
pub struct LogObserver {
    /// The torrent client.
    pub client: &'static str,
    /// Whoever else leases the port.
    pub source: String,
}

/// Logs what `outcome` says.
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
                "a fresh lease has expired by this system's clock ({}): set the clock",
                rfc3339(time::now().wall)
            );
        }
    }
    if let Some(recovery) = outcome.recovered {
        let name = if outcome.remote == Remote::Client { observer.client } else { remote_name(outcome.remote) };
        let attempts = if recovery.attempts == 1 { "attempt" } else { "attempts" };
        log::info!(
            "{name}: recovered after {} ({} failed {attempts})",
            human_duration(recovery.after),
            recovery.attempts
        );
    }
}

/// The longest text of a line: with what stands before it, 200 characters.
pub const LINE: usize = 180;

/// An error and what to do about it. Of a long error the beginning is shown, of what to do all.
pub fn with_advice(error: &Error) -> String {
    truncated(&error.to_string(), &format!("; {}", error.advice))
}

/// `text` and `end`, as much of `text` as a line has room for.
pub fn truncated(text: &str, end: &str) -> String {
    let room = LINE.saturating_sub(end.chars().count());
    if text.chars().count() <= room {
        return format!("{text}{end}");
    }
    let begin: String = text.chars().take(room.saturating_sub(1)).collect();
    format!("{begin}…{end}")
}

/// An error and what to do about it, and below that what else helps to understand it.
pub fn error_lines(error: &Error) -> Vec<String> {
    [with_advice(error)].into_iter().chain(details(error)).collect()
}

/// What else helps to understand an error, a line each.
pub fn details(error: &Error) -> impl Iterator<Item = String> {
    error.details().into_iter().map(|line| truncated(&line, ""))
}

/// What a client's word for its reachability means.
pub fn describe_inbound(connectivity: Connectivity) -> &'static str {
    match connectivity {
        Connectivity::Connected => "peers from outside reach it",
        Connectivity::Firewalled => "no peer from outside yet, normal at first",
        Connectivity::Disconnected => "it says that it is not connected",
        Connectivity::Listening | Connectivity::Unknown => "whether peers reach it, it does not say",
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
    let LogObserver { client, source } = observer;
    match notice {
        Notice::LoggedIn => "logged in to PIA".to_owned(),
        Notice::TokenCached => "token taken from the cache file".to_owned(),
        Notice::TokenRefused(error) => format!("{error}; getting another token"),
        Notice::Leased { lease, .. } => format!("lease: port {} until {}", lease.port, rfc3339(lease.expires_at)),
        Notice::StoreFailed { lease, error } => format!(
            "lease: port {} until {}; it cannot be stored, so a restart gets another port: {}",
            lease.port,
            rfc3339(lease.expires_at),
            error.cause
        ),
        Notice::RenewalFailed(error) => format!("there is no other port: {error}; this one is kept, try again later"),
        Notice::PortKept { port, refused, error } => {
            format!("port {refused} cannot be bound, port {port} is kept: {}; try again later", error.cause)
        }
        Notice::Bound(port) => format!("bound port {port}"),
        Notice::Source(port) => format!("{source} has port {port}"),
        Notice::SourceHasNoPort => format!("{source} has no port now; the last one is kept"),
        Notice::Moved { from, to } => format!("{client}: listen port {from} -> {to}"),
        Notice::Reopened(port) => {
            format!("{client}: reopened its socket on port {port}, in the tunnel that there is now")
        }
        Notice::NotListening(port) => format!("{client}: nothing listens on port {port}; setting it again"),
        Notice::Listening { port, connectivity, visibility } => {
            let visibility = match visibility {
                Visibility::Confirmed => "",
                Visibility::TcpOnly => " by TCP alone, nobody does by UDP",
                Visibility::Hidden => ", by its own word alone",
                Visibility::Unknown => {
                    return format!("{client} has port {port}; whether it listens is not known, it does not say");
                }
            };
            format!("{client} listens on port {port}{visibility}; {}", describe_inbound(*connectivity))
        }
        Notice::Day(day) => {
            let (binds, outages) = (count(day.binds, "bind"), count(day.outages, "outage"));
            let peer = day.peer_seen_at.map_or("none was seen".to_owned(), |at| format!("at {}", rfc3339(at)));
            format!("the last day: port {}, {binds}, {outages}; last peer from outside: {peer}", day.port)
        }
        Notice::NoInbound(port) => format!(
            "no peer from outside came in on port {port} for a day, although torrents are active: check the VPN's firewall \
             (README, 'Firewall') and {client}'s network interface"
        ),
        Notice::Reannounced(port) => format!("{client} tells its trackers port {port}"),
        Notice::ReannounceFailed(error) => {
            format!("{error}; nothing to do: the trackers hear of the port at the next announce")
        }
        Notice::Failed { error, attempts, .. } if level == Level::Debug => format!("{error} (attempt {attempts})"),
        Notice::Failed { error, next, .. } if *next >= MIN_WAIT_SHOWN => {
            truncated(&error.to_string(), &format!("; {}; the next try is in {}", error.advice, human_duration(*next)))
        }
        Notice::Failed { error, .. } => with_advice(error),
        Notice::Tunnel { from, to } => {
            let from = from.as_ref().map_or(String::new(), |from| format!(", it was {from}"));
            format!("the tunnel has changed: we are {to}{from}")
        }
        Notice::ClockJumped(jump) => {
            let direction = if jump.is_positive() { "on" } else { "back" };
            format!(
                "the clock went {direction} by {}, or the machine slept: binding now",
                human_duration(jump.unsigned_abs())
            )
        }
        Notice::Clock(ClockChange::Correct) => "this system's clock agrees with the gateway's again".to_owned(),
        Notice::Clock(ClockChange::Wrong { behind }) => {
            let direction = if behind.is_positive() { "behind" } else { "ahead of" };
            let by = human_duration(behind.unsigned_abs());
            format!("this system's clock is {by} {direction} the gateway's: set the clock")
        }
    }
}
