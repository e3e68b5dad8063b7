//! `HEARTBEAT_URL`: pings a monitor, which alerts its user when pings stop or report a problem.

use std::time::{Duration, Instant};

use super::outbox::Outbox;
use super::webhook::Webhook;
use crate::http::percent_encoded;
use crate::secret::Secret;

pub const NAME: &str = "HEARTBEAT_URL";

/// The health, as sent to the monitor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ping {
    pub healthy: bool,
    pub message: String,
    /// Zero if there is no port.
    pub port: u16,
}

/// Pings the monitor once per interval, and immediately when the health changes.
pub struct Heartbeat {
    outbox: Outbox<Ping>,
    every: Duration,
    last: Option<(bool, Instant)>,
}

impl Heartbeat {
    pub fn new(webhook: Webhook, every: Duration) -> Self {
        let send = move |ping: Ping| webhook.get(&path(webhook.template(), &ping));
        Self { outbox: Outbox::new(NAME, send), every, last: None }
    }

    pub fn update(&mut self, now: Instant, ping: Ping) {
        // 90 % of the interval, because two passes may be slightly less than an interval apart.
        let due = |at: Instant| now.saturating_duration_since(at) >= self.every / 10 * 9;
        if self.last.is_none_or(|(healthy, at)| healthy != ping.healthy || due(at)) {
            self.last = Some((ping.healthy, now));
            self.outbox.put(ping);
        }
    }

    /// Waits until the last ping is delivered or has failed.
    pub fn finish(self) {
        self.outbox.finish();
    }
}

/// Builds the path that the monitor expects. Without placeholders to fill in, Uptime Kuma receives its own parameters; other
/// monitors receive `/fail` at the end of the path for a problem, as healthchecks.io expects.
fn path(template: &str, ping: &Ping) -> Secret {
    let status = if ping.healthy { "up" } else { "down" };
    let message = percent_encoded(&ping.message);
    if template.contains("{status}") {
        let filled = template.replace("{status}", status).replace("{port}", &ping.port.to_string());
        return Secret::new(filled.replace("{message}", &message));
    }
    let (path, query) = template.split_once('?').map_or((template, None), |(path, query)| (path, Some(query)));
    Secret::new(match query {
        _ if path.contains("/api/push/") => format!("{path}?status={status}&msg={message}"),
        _ if ping.healthy => template.to_owned(),
        Some(query) => format!("{}/fail?{query}", path.trim_end_matches('/')),
        None => format!("{}/fail", path.trim_end_matches('/')),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_monitor_gets_its_own_format() {
        let filled = |template: &str, healthy: bool| {
            let message = if healthy { "ok" } else { "no way" };
            path(template, &Ping { healthy, message: message.to_owned(), port: 4711 }).expose().to_owned()
        };
        let kuma = "/api/push/x?status=up&msg=OK&ping=";
        assert_eq!(filled(kuma, true), "/api/push/x?status=up&msg=ok");
        assert_eq!(filled(kuma, false), "/api/push/x?status=down&msg=no%20way");
        assert_eq!((filled("/1-2", true).as_str(), filled("/1-2", false).as_str()), ("/1-2", "/1-2/fail"));
        assert_eq!(filled("/1-2?rid=7", false), "/1-2/fail?rid=7");
        assert_eq!(filled("/x?s={status}&p={port}&m={message}", false), "/x?s=down&p=4711&m=no%20way");
    }
}
