//! Metrics in Prometheus' text format, for `node_exporter`'s textfile collector (`METRICS_FILE`) and for the status server
//! (`STATUS_ADDRESS`).

use std::fmt::{Display, Write as _};
use std::path::PathBuf;

use jiff::Timestamp;

use super::status::{Status, remote_name};
use crate::error::{Call, io_message};
use crate::files;
use crate::keeper::{Notice, Outcome, Remote};

/// Counters since the program started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    binds: u64,
    bind_failures: u64,
    outages: u64,
    leases: u64,
    logins: u64,
    tunnel_changes: u64,
    moves: u64,
    reopens: u64,
    /// The last lease counted, so that a lease counts only once even if storing it takes several attempts.
    lease: Option<(u16, Timestamp)>,
}

impl Counts {
    pub fn count(&mut self, outcome: &Outcome) {
        let Some((_, notice)) = &outcome.notice else { return };
        let counter = match notice {
            Notice::Bound(_) => &mut self.binds,
            Notice::Rebound { .. } => {
                self.outages += 1;
                &mut self.binds
            }
            Notice::PortKept { .. } => &mut self.bind_failures,
            Notice::Failed { error, .. } if error.call == Call::BindPort => &mut self.bind_failures,
            Notice::Leased { lease, .. } | Notice::StoreFailed { lease, .. } => {
                let this = Some((lease.port, lease.expires_at));
                if std::mem::replace(&mut self.lease, this) == this {
                    return;
                }
                &mut self.leases
            }
            Notice::LoggedIn => &mut self.logins,
            Notice::Tunnel { .. } => &mut self.tunnel_changes,
            Notice::Moved { .. } => &mut self.moves,
            Notice::Reopened(_) => &mut self.reopens,
            _ => return,
        };
        *counter += 1;
    }
}

/// Renders all metrics as of `now`. A metric without a value still has its `HELP` and `TYPE` lines.
pub fn text(status: &Status, well: bool, counts: &Counts, now: Timestamp) -> String {
    let mut text = Text(String::new());
    let time = |time: Option<&str>| time?.parse().ok().map(Timestamp::as_second);
    text.name("info", "gauge", "Version and torrent client.");
    text.value(&format!("info{{version=\"{}\",client=\"{}\"}}", status.version, status.client), 1);
    text.gauge("healthy", "1 if healthcheck succeeds: port bound and client listening.", Some(u8::from(well)));
    text.gauge("port", "Forwarded port; 0 if there is none.", Some(status.port.unwrap_or(0)));
    text.gauge("client_port", "The client's listen port when last read.", status.client_port);
    text.gauge("interval_seconds", "Time between binds.", Some(status.interval_s));
    for (name, help, at) in [
        ("lease_expiry", "End of the lease, which is replaced before then.", &status.expires_at),
        ("last_bind", "Last successful bind, which lasts 900 s.", &status.bound_at),
        ("client_verified", "Last time the client was seen listening on the port.", &status.client_verified_at),
        ("client_port_set", "First time that the client was seen with this port.", &status.port_since),
        ("peer_seen", "Last time an incoming peer was seen on the port.", &status.peer_seen_at),
    ] {
        text.gauge(&format!("{name}_timestamp_seconds"), help, time(at.as_deref()));
    }
    text.gauge("written_timestamp_seconds", "Time at which these metrics were written.", Some(now.as_second()));
    text.name("failing", "gauge", "1 while calls to the account, gateway or client fail.");
    for remote in [Remote::Account, Remote::Gateway, Remote::Client].map(remote_name) {
        let failing = status.problems.iter().any(|problem| problem.remote == remote);
        text.value(&format!("failing{{peer=\"{remote}\"}}"), u8::from(failing));
    }
    for (name, help, count) in [
        ("binds", "Successful binds since the start.", counts.binds),
        ("bind_failures", "Failed binds since the start.", counts.bind_failures),
        (
            "outages",
            "Times that the gateway, the port's source or the route began to fail, or that the server lost a binding.",
            counts.outages,
        ),
        ("leases", "New leases since the start.", counts.leases),
        ("logins", "PIA logins since the start.", counts.logins),
        ("tunnel_changes", "Tunnel changes since the start.", counts.tunnel_changes),
        ("client_moves", "Changes to the client's port since the start.", counts.moves),
        ("client_reopens", "Times the client's socket was reopened since the start.", counts.reopens),
    ] {
        let name = format!("{name}_total");
        text.name(&name, "counter", help);
        text.value(&name, count);
    }
    text.0
}

struct Text(String);

impl Text {
    fn name(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.0, "# HELP pia_sync_{name} {help}\n# TYPE pia_sync_{name} {kind}");
    }

    fn gauge(&mut self, name: &str, help: &str, value: Option<impl Display>) {
        self.name(name, "gauge", help);
        if let Some(value) = value {
            self.value(name, value);
        }
    }

    /// `name` includes the labels, whose values need no escaping: none contains a quote, a backslash or a line break.
    fn value(&mut self, name: &str, value: impl Display) {
        let _ = writeln!(self.0, "pia_sync_{name} {value}");
    }
}

/// `METRICS_FILE`, for `node_exporter`'s textfile collector.
pub struct MetricsFile {
    path: PathBuf,
    failed: bool,
}

impl MetricsFile {
    pub fn new(path: PathBuf) -> Self {
        Self { path, failed: false }
    }

    /// Replaces the file atomically, as the collector requires. Each call tries again, but only the first of several failures in a
    /// row is logged.
    pub fn write(&mut self, text: &str) {
        match files::publish(&self.path, text.as_bytes()) {
            Ok(()) => self.failed = false,
            Err(error) if !std::mem::replace(&mut self.failed, true) => {
                let (path, error) = (files::display_path(&self.path), io_message(&error));
                log::warn!("METRICS_FILE {path}: {error}; use a file in a folder that the service can write to");
            }
            Err(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_metric_has_help_and_an_unknown_one_has_no_value() {
        let status =
            Status { port: Some(4711), version: "1".to_owned(), client: "Deluge".to_owned(), ..Status::default() };
        let text = text(&status, true, &Counts { binds: 7, ..Counts::default() }, Timestamp::UNIX_EPOCH);
        for line in [
            "pia_sync_info{version=\"1\",client=\"Deluge\"} 1",
            "pia_sync_healthy 1",
            "pia_sync_port 4711",
            "# TYPE pia_sync_last_bind_timestamp_seconds gauge",
            "pia_sync_failing{peer=\"gateway\"} 0",
            "# TYPE pia_sync_binds_total counter\npia_sync_binds_total 7",
        ] {
            assert!(text.contains(&format!("{line}\n")), "{line}: {text}");
        }
        assert!(!text.contains("\npia_sync_last_bind") && !text.contains("\npia_sync_client_port "), "{text}");
    }
}
