//! Publishes the keeper's state: the status document, notifications to the service manager, and data for other programs. Views
//! only display: each is a function of a snapshot, may fail, and delays nothing.

mod command;
mod heartbeat;
pub mod metrics;
pub mod notify;
mod outbox;
mod port_file;
pub mod status;
pub mod status_server;
mod webhook;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::config::Reader;
use crate::http::percent_encoded;
use crate::http::tls::read_roots;
use crate::keeper::Outcome;
use crate::privileges;
use crate::secret::Secret;
use crate::time;
use heartbeat::{Heartbeat, Ping};
use metrics::{Counts, MetricsFile};
use outbox::Outbox;
use port_file::PortFile;
use status::{Health, Status};
use status_server::{HealthCheck, PageData, StatusServer};
use webhook::Webhook;

/// Variable with the URL that is requested for each new port.
const PORT_CHANGE_URL: &str = "PORT_CHANGE_URL";

/// The views that the user has configured.
pub struct Settings {
    port_file: Option<PathBuf>,
    command: Option<Vec<String>>,
    url: Option<Webhook>,
    heartbeat: Option<Webhook>,
    metrics_file: Option<PathBuf>,
    address: Option<SocketAddr>,
    /// Names with a dot under which the status server answers.
    hosts: Vec<String>,
}

impl Settings {
    /// Records problems in `reader`.
    pub fn read(reader: &mut Reader) -> Self {
        let roots = read_roots(reader, "NOTIFY_CA_CERT");
        let remedy = "use an address and a port, e.g. 127.0.0.1:9849";
        let hosts_remedy = "use names without a port, separated by commas, e.g. nas.local";
        Self {
            port_file: reader.get("PORT_FILE").map(PathBuf::from),
            command: command::read(reader),
            url: Webhook::read(reader, PORT_CHANGE_URL, roots.as_ref()),
            heartbeat: Webhook::read(reader, heartbeat::NAME, roots.as_ref()),
            metrics_file: reader.get("METRICS_FILE").map(PathBuf::from),
            address: reader.optional(status_server::NAME, remedy, |text| {
                text.parse::<SocketAddr>().map_err(|_| "is not an address with a port".to_owned())
            }),
            hosts: reader.optional(status_server::HOSTS, hosts_remedy, status_server::parse_hosts).unwrap_or_default(),
        }
    }
}

/// A port change, as sent to a subscriber.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortChange {
    port: u16,
    /// Last port delivered to the subscriber; zero if there was none.
    old_port: u16,
    /// The tunnel's device; empty if unknown.
    interface: String,
}

impl PortChange {
    /// Fills in the placeholders in `template`, both ours and gluetun's.
    fn fill(&self, template: &str, encode: fn(&str) -> String) -> String {
        let (port, interface) = (self.port.to_string(), encode(&self.interface));
        template
            .replace("{{PORT}}", &port)
            .replace("{{PORTS}}", &port)
            .replace("{{VPN_INTERFACE}}", &interface)
            .replace("{port}", &port)
            .replace("{old_port}", &self.old_port.to_string())
            .replace("{interface}", &interface)
    }
}

/// A program or a URL that receives each new port once.
struct Subscriber {
    outbox: Outbox<PortChange>,
    last: Option<(u16, Instant)>,
    /// Last port delivered; zero if there was none.
    delivered: u16,
}

impl Subscriber {
    fn new(outbox: Outbox<PortChange>) -> Self {
        Self { outbox, last: None, delivered: 0 }
    }

    /// Sends `port` if it is new, or again at the next bind if its delivery failed.
    fn notify(&mut self, port: u16, interface: &str, now: Instant, interval: Duration) {
        if let Some((last, at)) = self.last {
            if self.outbox.is_delivered() {
                self.delivered = last;
            }
            // 90 % of the interval, because two binds may be slightly less than an interval apart.
            let due = now.saturating_duration_since(at) >= interval / 10 * 9;
            if last == port && !(due && self.outbox.has_failed()) {
                return;
            }
        }
        self.last = Some((port, now));
        self.outbox.put(PortChange { port, old_port: self.delivered, interface: interface.to_owned() });
    }
}

/// The configured views. The status document and notifications to the service manager need no configuration.
pub struct Views {
    interval: Duration,
    check_health: HealthCheck,
    port_file: Option<PortFile>,
    command: Option<Subscriber>,
    url: Option<Subscriber>,
    heartbeat: Option<Heartbeat>,
    metrics_file: Option<MetricsFile>,
    status_server: Option<StatusServer>,
    counts: Counts,
}

impl Views {
    /// `interval` is the time between two binds. The status server runs only if `long_running`.
    pub fn new(settings: Settings, interval: Duration, check_health: HealthCheck, long_running: bool) -> Self {
        // A program of the service's user would share root's terminal.
        if settings.command.is_some() && privileges::are_dropped() {
            log::warn!("{} is not run by a command that root has typed; the service runs it", command::NAME);
        }
        let command = settings.command.filter(|_| !privileges::are_dropped()).map(|words| {
            let run = move |change| command::run(&words, &change);
            Subscriber::new(Outbox::with_reaper(command::NAME, run, command::reap))
        });
        let url = settings.url.map(|webhook| {
            let get =
                move |change: PortChange| webhook.get(&Secret::new(change.fill(webhook.template(), percent_encoded)));
            Subscriber::new(Outbox::new(PORT_CHANGE_URL, get))
        });
        let address = settings.address.filter(|_| long_running);
        Self {
            interval,
            check_health,
            port_file: settings.port_file.map(PortFile::new),
            command,
            url,
            heartbeat: settings.heartbeat.map(|webhook| Heartbeat::new(webhook, interval)),
            metrics_file: settings.metrics_file.map(MetricsFile::new),
            status_server: address.map(|address| StatusServer::new(address, settings.hosts, check_health)),
            counts: Counts::default(),
        }
    }

    pub fn count(&mut self, outcome: &Outcome) {
        self.counts.count(outcome);
    }

    /// Publishes the current port, or `None` if there is no port any more. `interface` is the tunnel's device.
    pub fn publish_port(&mut self, port: Option<u16>, interface: &str, now: Instant) {
        if let Some(file) = &mut self.port_file {
            file.write(port);
        }
        for subscriber in self.command.iter_mut().chain(&mut self.url) {
            if let Some(port) = port {
                subscriber.notify(port, interface, now, self.interval);
            }
        }
    }

    /// Updates the metrics file and the status server. Called after an event, and at the end of a pass.
    pub fn update(&mut self, status: &Status, port: Option<u16>) {
        if let Some(file) = &mut self.metrics_file {
            let well = status.stopped_at.is_none() && matches!((self.check_health)(status), Health::Healthy(_));
            file.write(&metrics::text(status, well, &self.counts, time::now().wall));
        }
        if let Some(status_server) = &self.status_server {
            status_server.update(PageData { status: status.clone(), counts: self.counts, port });
        }
    }

    /// Called at the end of a pass, when the health is final.
    pub fn send_heartbeat(&mut self, status: &Status, port: Option<u16>) {
        if let Some(heartbeat) = &mut self.heartbeat {
            let health = (self.check_health)(status);
            let (healthy, message) = (matches!(health, Health::Healthy(_)), health.message().to_owned());
            heartbeat.update(Instant::now(), Ping { healthy, message, port: port.unwrap_or(0) });
        }
    }

    /// Waits until a running command has ended. The command is killed, because the service is stopping.
    pub fn stop(&mut self) {
        if let Some(command) = self.command.take() {
            command.outbox.finish();
        }
    }

    /// Waits until all notifications are delivered or have failed.
    pub fn finish(self) {
        for subscriber in self.command.into_iter().chain(self.url) {
            subscriber.outbox.finish();
        }
        if let Some(heartbeat) = self.heartbeat {
            heartbeat.finish();
        }
    }
}
