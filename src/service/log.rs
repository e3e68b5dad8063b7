//! What a verdict is logged as.

use log::Level;

use crate::error::Error;
use crate::keeper::{News, Peer, Verdict};
use crate::time::{self, ClockNews, shown, span};
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
        if let News::Leased { over: true, .. } = news {
            log::warn!("a fresh lease has expired by this system's clock ({}): set the clock", shown(time::now().wall));
        }
    }
    if let Some(recovery) = verdict.recovered {
        let name = if verdict.peer == Peer::Client { names.client } else { word(verdict.peer) };
        let attempts = if recovery.attempts == 1 { "attempt" } else { "attempts" };
        log::info!("{name}: recovered after {} ({} failed {attempts})", span(recovery.after), recovery.attempts);
    }
}

/// An error and what to do about it.
pub fn with_advice(error: &Error) -> String {
    format!("{error}; {}", error.advice)
}

fn words(level: Level, news: &News, names: &Names) -> String {
    let Names { client, source } = names;
    match news {
        News::LoggedIn => "logged in to PIA".to_owned(),
        News::TokenRead => "token taken from the cache file".to_owned(),
        News::TokenRefused(error) => format!("{error}; getting another token"),
        News::Leased { lease, .. } => format!("lease: port {} until {}", lease.port, shown(lease.expires_at)),
        News::NotStored { lease, error } => format!(
            "lease: port {} until {}; {}: the lease is kept in memory only, so a restart gets another port",
            lease.port,
            shown(lease.expires_at),
            error.cause
        ),
        News::Bound(port) => format!("bound port {port}"),
        News::Source(port) => format!("{source} has port {port}"),
        News::NoPort => format!("{source} has no port now; the last one is kept"),
        News::Moved { from, to } => format!("{client}: listen port {from} -> {to}"),
        News::Reopened(port) => {
            format!("{client}: reopened its socket on port {port}, because it was not in the tunnel of now")
        }
        News::Deaf(port) => format!("{client}: nothing listens on port {port}; setting it again"),
        News::Listens { port, connectivity } => format!("{client} listens on port {port} ({connectivity})"),
        News::NoInbound(port) => format!(
            "no peer from outside has come in on port {port} for a day, although torrents are active: check the VPN \
             container's firewall (gluetun: FIREWALL_VPN_INPUT_PORTS) and {client}'s network interface"
        ),
        News::Announced(port) => format!("{client} tells its trackers port {port}"),
        News::NotAnnounced(error) => {
            format!("{error}; nothing to do: the trackers hear of the port at the next announce")
        }
        News::Failed { error, attempts, .. } if level == Level::Debug => format!("{error} (attempt {attempts})"),
        News::Failed { error, next, .. } if *next >= WORTH_TELLING => {
            format!("{}; the next try is in {}", with_advice(error), span(*next))
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
            format!("this system's clock is {by} {way} the gateway's, which leases are judged by; set the clock")
        }
    }
}
