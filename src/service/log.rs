//! What a verdict is logged as.

use log::Level;

use crate::error::Error;
use crate::keeper::step::Connectivity;
use crate::keeper::{News, Remote, Sight, Verdict};
use crate::time::{self, ClockNews, rfc3339, span};
use crate::views::status::word;

/// Shorter waits than this are no news: the next try comes before anybody has read of this one.
const WORTH_TELLING: std::time::Duration = std::time::Duration::from_secs(60);

/// The names that lines begin with.
pub struct Names {
    /// The torrent client.
    pub client: &'static str,
    /// Whoever else leases the port.
    pub source: String,
}

/// Logs what `verdict` says.
pub fn tell(verdict: &Verdict, names: &Names) {
    if let Some((level, news)) = &verdict.news {
        let text = words(*level, news, names);
        log::log!(*level, "{text}");
        if let News::Failed { error, .. } = news {
            for line in details(error) {
                log::log!(*level, "{line}");
            }
        }
        if let News::Leased { over: true, .. } = news {
            log::warn!(
                "a fresh lease has expired by this system's clock ({}): set the clock",
                rfc3339(time::now().wall)
            );
        }
    }
    if let Some(recovery) = verdict.recovered {
        let name = if verdict.remote == Remote::Client { names.client } else { word(verdict.remote) };
        let attempts = if recovery.attempts == 1 { "attempt" } else { "attempts" };
        log::info!("{name}: recovered after {} ({} failed {attempts})", span(recovery.after), recovery.attempts);
    }
}

/// The longest text of a line: with what stands before it, 200 characters.
pub const LINE: usize = 180;

/// An error and what to do about it. Of a long error the beginning is shown, of what to do all.
pub fn with_advice(error: &Error) -> String {
    within(&error.to_string(), &format!("; {}", error.advice))
}

/// `text` and `end`, as much of `text` as a line has room for.
pub fn within(text: &str, end: &str) -> String {
    let room = LINE.saturating_sub(end.chars().count());
    if text.chars().count() <= room {
        return format!("{text}{end}");
    }
    let begin: String = text.chars().take(room.saturating_sub(1)).collect();
    format!("{begin}…{end}")
}

/// An error and what to do about it, and below that what else helps to understand it.
pub fn in_full(error: &Error) -> Vec<String> {
    [with_advice(error)].into_iter().chain(details(error)).collect()
}

/// What else helps to understand an error, a line each.
pub fn details(error: &Error) -> impl Iterator<Item = String> {
    error.details().into_iter().map(|line| within(&line, ""))
}

/// What a client's word for its reachability means.
pub fn inbound(connectivity: Connectivity) -> &'static str {
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

fn words(level: Level, news: &News, names: &Names) -> String {
    let Names { client, source } = names;
    match news {
        News::LoggedIn => "logged in to PIA".to_owned(),
        News::TokenRead => "token taken from the cache file".to_owned(),
        News::TokenRefused(error) => format!("{error}; getting another token"),
        News::Leased { lease, .. } => format!("lease: port {} until {}", lease.port, rfc3339(lease.expires_at)),
        News::NotStored { lease, error } => format!(
            "lease: port {} until {}; it cannot be stored, so a restart gets another port: {}",
            lease.port,
            rfc3339(lease.expires_at),
            error.cause
        ),
        News::NotRenewed(error) => format!("there is no other port: {error}; this one is kept, try again later"),
        News::KeptOld { port, refused, error } => {
            format!("port {refused} cannot be bound, port {port} is kept: {}; try again later", error.cause)
        }
        News::Bound(port) => format!("bound port {port}"),
        News::Source(port) => format!("{source} has port {port}"),
        News::NoPort => format!("{source} has no port now; the last one is kept"),
        News::Moved { from, to } => format!("{client}: listen port {from} -> {to}"),
        News::Reopened(port) => {
            format!("{client}: reopened its socket on port {port}, in the tunnel that there is now")
        }
        News::Deaf(port) => format!("{client}: nothing listens on port {port}; setting it again"),
        News::Listens { port, connectivity, sight } => {
            let sight = match sight {
                Sight::Clear => "",
                Sight::TcpOnly => " by TCP alone, nobody does by UDP",
                Sight::Unseen => ", by its own word alone",
                Sight::Unknown => {
                    return format!("{client} has port {port}; whether it listens is not known, it does not say");
                }
            };
            format!("{client} listens on port {port}{sight}; {}", inbound(*connectivity))
        }
        News::Day(day) => {
            let (binds, outages) = (count(day.binds, "bind"), count(day.outages, "outage"));
            let peer = day.peer_at.map_or("none was seen".to_owned(), |at| format!("at {}", rfc3339(at)));
            format!("the last day: port {}, {binds}, {outages}; last peer from outside: {peer}", day.port)
        }
        News::NoInbound(port) => format!(
            "no peer from outside came in on port {port} for a day, although torrents are active: check the VPN's firewall \
             (README, 'Firewall') and {client}'s network interface"
        ),
        News::Announced(port) => format!("{client} tells its trackers port {port}"),
        News::NotAnnounced(error) => {
            format!("{error}; nothing to do: the trackers hear of the port at the next announce")
        }
        News::Failed { error, attempts, .. } if level == Level::Debug => format!("{error} (attempt {attempts})"),
        News::Failed { error, next, .. } if *next >= WORTH_TELLING => {
            within(&error.to_string(), &format!("; {}; the next try is in {}", error.advice, span(*next)))
        }
        News::Failed { error, .. } => with_advice(error),
        News::Tunnel { from, to } => {
            let from = from.as_ref().map_or(String::new(), |from| format!(", it was {from}"));
            format!("the tunnel has changed: we are {to}{from}")
        }
        News::ClockJumped(jump) => {
            let way = if jump.is_positive() { "on" } else { "back" };
            format!("the clock went {way} by {}, or the machine slept: binding now", span(jump.unsigned_abs()))
        }
        News::Clock(ClockNews::Right) => "this system's clock agrees with the gateway's again".to_owned(),
        News::Clock(ClockNews::Wrong { lacks }) => {
            let way = if lacks.is_positive() { "behind" } else { "ahead of" };
            let by = span(lacks.unsigned_abs());
            format!("this system's clock is {by} {way} the gateway's: set the clock")
        }
    }
}
