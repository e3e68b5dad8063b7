//! `HEARTBEAT_URL`: a monitor that calls somebody when it hears nothing for a while, or that something is wrong.

use std::time::{Duration, Instant};

use super::outbox::Outbox;
use super::webhook::Webhook;
use crate::http::percent_encoded;
use crate::secret::Secret;

/// The variable, as the log names it.
pub const NAME: &str = "HEARTBEAT_URL";

/// What a monitor hears.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Beat {
    /// Whether all is well.
    pub well: bool,
    /// Why not, or what is.
    pub words: String,
    /// The port; zero while there is none.
    pub port: u16,
}

/// Tells the monitor once an interval, and at once that it is otherwise than before.
pub struct Heartbeat {
    outbox: Outbox<Beat>,
    every: Duration,
    last: Option<(bool, Instant)>,
}

impl Heartbeat {
    /// Nothing is told yet.
    pub fn new(webhook: Webhook, every: Duration) -> Self {
        let tell = move |beat: Beat| webhook.get(&path(webhook.template(), &beat));
        Self { outbox: Outbox::new(NAME, tell), every, last: None }
    }

    /// How it is now.
    pub fn tell(&mut self, now: Instant, beat: Beat) {
        // A round of the loop ends a moment earlier or later.
        let due = |at: Instant| now.saturating_duration_since(at) >= self.every / 10 * 9;
        if self.last.is_none_or(|(well, at)| well != beat.well || due(at)) {
            self.last = Some((beat.well, now));
            self.outbox.put(beat);
        }
    }

    /// Waits until it is told.
    pub fn finish(self) {
        self.outbox.finish();
    }
}

/// As whoever is asked understands it: with placeholders as they stand; Uptime Kuma by its own parameters; all others by a path with
/// `/fail` behind it (healthchecks.io and those made like it).
fn path(template: &str, beat: &Beat) -> Secret {
    let status = if beat.well { "up" } else { "down" };
    let words = percent_encoded(&beat.words);
    if template.contains("{status}") {
        let filled = template.replace("{status}", status).replace("{port}", &beat.port.to_string());
        return Secret::new(filled.replace("{message}", &words));
    }
    let (path, query) = template.split_once('?').map_or((template, None), |(path, query)| (path, Some(query)));
    Secret::new(match query {
        _ if path.contains("/api/push/") => format!("{path}?status={status}&msg={words}"),
        _ if beat.well => template.to_owned(),
        Some(query) => format!("{}/fail?{query}", path.trim_end_matches('/')),
        None => format!("{}/fail", path.trim_end_matches('/')),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_monitor_is_told_in_its_own_words() {
        let said = |template: &str, well: bool| {
            let words = if well { "ok" } else { "no way" };
            path(template, &Beat { well, words: words.to_owned(), port: 4711 }).expose().to_owned()
        };
        let kuma = "/api/push/x?status=up&msg=OK&ping=";
        assert_eq!(said(kuma, true), "/api/push/x?status=up&msg=ok");
        assert_eq!(said(kuma, false), "/api/push/x?status=down&msg=no%20way");
        assert_eq!((said("/1-2", true).as_str(), said("/1-2", false).as_str()), ("/1-2", "/1-2/fail"));
        assert_eq!(said("/1-2?rid=7", false), "/1-2/fail?rid=7");
        assert_eq!(said("/x?s={status}&p={port}&m={message}", false), "/x?s=down&p=4711&m=no%20way");
    }
}
