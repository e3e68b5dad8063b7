//! The loop that carries out what the keeper decides: steps, signals, waiting, status.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use rustls::pki_types::ServerName;

use crate::config::{self, Config, GatewayAddress};
use crate::error::{Cause, Error, Op, Refusal, plain};
use crate::files;
use crate::http::tls::{NamePolicy, Tls};
use crate::http::{STOPPING, plain};
use crate::keeper::{self, Failure, Keeper, News, Now, Outcome, Step};
use crate::notify::Notifier;
use crate::pia::Pia;
use crate::pia::account::Source;
use crate::pia::discover;
use crate::pia::lease::Lease;
use crate::pia::trust::public_roots;
use crate::report::{PeerKind, Report, now_text, span};
use crate::route;
use crate::signals::{Event, Signals};
use crate::source::Followed;
use crate::torrent::qbittorrent::QBittorrent;
use crate::torrent::{self, Bounce, Connectivity, TorrentClient};
use crate::watch::{self, Change, Watch};

/// Until PIA's CA is fetched again when another certificate came in its place.
const CA_RETRY: Duration = Duration::from_secs(5 * 60);

/// Where the port comes from.
pub enum PortSource {
    /// We lease and bind it.
    Pia(Box<Pia>),
    /// Somebody else does.
    Followed {
        /// Whom to ask.
        followed: Followed,
        /// The last port that it gave.
        port: Option<u16>,
        /// That there is none now was told.
        told_none: bool,
    },
}

/// The peers, built from a configuration; nothing is sent by building them.
pub struct Parts {
    /// Where the port comes from.
    pub source: PortSource,
    /// The torrent client.
    pub client: Box<dyn TorrentClient>,
}

impl Parts {
    /// Builds the parts; what of `config` they do not need is left. `warned` says that the user knows already that nothing
    /// can be written in `STATE_DIR`.
    pub fn new(config: Config, warned: bool) -> Self {
        let source = match config.source {
            config::Source::Pia(pia) => PortSource::Pia(Box::new(Pia::new(*pia, &config.state_dir, warned))),
            config::Source::Followed(followed) => PortSource::Followed { followed, port: None, told_none: false },
        };
        let client_tls = config.client_url.https.then(|| {
            let name = ServerName::try_from(config.client_url.host.clone()).expect("checked when the URL was parsed");
            Tls::new(config.client_ca.unwrap_or_else(public_roots), NamePolicy::Exactly(name))
        });
        let client = Box::new(QBittorrent::new(&config.client_url, client_tls, config.client_auth));
        Self { source, client }
    }
}

/// The daemon.
pub struct Service {
    source: PortSource,
    client: Box<dyn TorrentClient>,
    keeper: Keeper,
    /// When the client last got its port anew in vain.
    bounced: Option<Instant>,
    /// What was logged last of the client, so that it is said again only when it changes.
    told: Option<(u16, Connectivity)>,
    report: Report,
    /// None in `once`, which signals end as they end any program.
    signals: Option<Signals>,
    watch: Watch,
    notifier: Notifier,
    /// The service manager knows that we are ready.
    ready: bool,
}

impl Service {
    /// Reads the stored lease; nothing is sent yet.
    pub fn new(config: Config, signals: Option<Signals>) -> Self {
        for warning in &config.warnings {
            log::warn!("{warning}");
        }
        let unwritable = files::probe_folder(&config.state_dir).err();
        if let Some(error) = &unwritable {
            log::warn!(
                "STATE_DIR {}: {}; the lease is kept in memory only, so a restart gets another port, and status and \
                 healthcheck do not know the state",
                config.state_dir.display(),
                plain(error)
            );
        }
        let whence = match &config.source {
            config::Source::Pia(pia) => match &pia.gateway {
                GatewayAddress::At { host, port } => format!("gateway {}", plain::join(host, *port)),
                GatewayAddress::Find { .. } => "gateway to be found".to_owned(),
            },
            config::Source::Followed(followed) => format!("port from {}", followed.name()),
        };
        log::info!(
            "{} {} started: {whence}, {}, every {} s",
            env!("CARGO_PKG_NAME"),
            env!("CARGO_PKG_VERSION"),
            config.client_url,
            config.interval.as_secs()
        );
        let interval = config.interval;
        let state_dir = config.state_dir.clone();
        let Parts { source, client } = Parts::new(config, unwritable.is_some());
        let mut report = Report::new(&state_dir, unwritable.is_some(), interval, client.name());
        let facts = match &source {
            PortSource::Pia(pia) => {
                if let Some(lease) = &pia.lease {
                    log::info!("lease: port {} until {:.0} (stored)", lease.port, lease.expires_at);
                    show_lease(&mut report, lease);
                }
                keeper::Source::Lease { expires_at: pia.lease.as_ref().map(|lease| lease.expires_at) }
            }
            PortSource::Followed { followed, .. } => {
                report.status.follows = true;
                keeper::Source::Followed { every: followed.every() }
            }
        };
        let seed = RandomState::new().build_hasher().finish();
        let keeper = Keeper::new(interval, facts, seed, watch::now());
        let notifier = if signals.is_some() { Notifier::from_environment() } else { Notifier::default() };
        let watch = Watch::new(watch::now());
        Self { source, client, keeper, bounced: None, told: None, report, signals, watch, notifier, ready: false }
    }

    /// Now, by the clock that leases are judged by.
    fn now(&self) -> Now {
        let now = watch::now();
        match &self.source {
            PortSource::Pia(pia) => Now { wall: pia.gateway.clock.now(), ..now },
            PortSource::Followed { .. } => now,
        }
    }

    /// Runs until a signal says stop.
    pub fn run(&mut self) {
        // What the last run has left says nothing of this one.
        self.report.write(true);
        while !STOPPING.load(Ordering::Relaxed) {
            self.look_around();
            match self.keeper.next(self.now()) {
                Step::Wait(wait) => self.wait(wait),
                step => self.carry_out(step),
            }
        }
        log::info!("stopping");
        self.notifier.tell("STOPPING=1");
        self.report.write(true);
    }

    /// One full pass: until everything is done (true) or something fails (false).
    pub fn run_once(&mut self) -> bool {
        let done = loop {
            match self.keeper.next(self.now()) {
                Step::Wait(_) if self.keeper.is_content(self.now()) => break true,
                Step::Wait(_) if self.keeper.has_failures() || self.port().is_none() => break false,
                Step::Wait(wait) => thread::sleep(wait),
                step => self.carry_out(step),
            }
        };
        self.client.log_out();
        self.report.write(true);
        done
    }

    /// What fails, a line each.
    pub fn problems(&self) -> Vec<String> {
        let mut lines: Vec<_> =
            self.report.problems().map(|problem| format!("{}; {}", problem.error, problem.remedy)).collect();
        if let (PortSource::Followed { followed, port: None, .. }, true) = (&self.source, lines.is_empty()) {
            lines.push(format!("{} has no port now", followed.name()));
        }
        lines
    }

    fn wait(&mut self, wait: Duration) {
        match &mut self.source {
            PortSource::Pia(pia) => pia.gateway.hang_up(),
            PortSource::Followed { followed, .. } => followed.hang_up(),
        }
        self.client.hang_up();
        self.report.write(false);
        self.tell_manager();
        log::trace!("waiting {} s", wait.as_secs());
        let end = Instant::now() + wait;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let calm = !self.watch.is_lost() && !self.keeper.gateway_is_failing();
            let look = if calm { watch::EVERY } else { watch::EVERY_IN_TROUBLE };
            let slice = self.notifier.heartbeat().map_or(look, |beat| beat.min(look)).min(left);
            let event = match &self.signals {
                Some(signals) if !slice.is_zero() => signals.wait(slice),
                _ => return,
            };
            self.notifier.alive();
            match event {
                Some(Event::Reload) => {
                    log::info!("reload: binding and checking now");
                    self.notifier.tell("RELOADING=1");
                    self.keeper.hurry(self.now());
                    self.bounced = None;
                    self.ready = false;
                    return;
                }
                Some(Event::Stop) => return,
                None if self.look_around() => return,
                None => {}
            }
        }
    }

    /// Looks at clock and tunnel; true if there is something new to decide.
    fn look_around(&mut self) -> bool {
        let (gateway, path) = match &self.source {
            PortSource::Pia(pia) => (pia.gateway.dialled(), pia.gateway.path()),
            // Whoever binds the port does so through the same tunnel.
            PortSource::Followed { .. } => (None, Some(discover::path())),
        };
        let path = path.and_then(|path| self.watch.path(gateway, path));
        let changes = [self.watch.clock(watch::now()), path];
        let mut new = false;
        for change in changes.into_iter().flatten() {
            new = true;
            self.take_note(change, gateway);
        }
        new
    }

    fn take_note(&mut self, change: Change, gateway: Option<SocketAddr>) {
        match change {
            Change::Clock(jump) => {
                let way = if jump.is_positive() { "on" } else { "back" };
                log::info!("the clock went {way} by {}, or the machine slept: binding now", span(jump.unsigned_abs()));
                if let PortSource::Pia(pia) = &mut self.source {
                    pia.gateway.clock.forget();
                }
                self.keeper.clock_jumped(self.now());
            }
            Change::Lost(error) => {
                let to = gateway.map_or("the gateway".to_owned(), |gateway| gateway.to_string());
                let error = Error::new(Op::Tunnel, Cause::NoRoute { to, error });
                match &self.source {
                    PortSource::Pia(_) => {
                        self.report.failed(PeerKind::Gateway, &error);
                        self.keeper.set_routed(false);
                    }
                    // Who knows the port can be asked all the same, and answering does not mean that the tunnel is back.
                    PortSource::Followed { .. } => log::error!("{error}; {}", error.remedy()),
                }
            }
            Change::Tunnel { from, to } => {
                let from = from.map_or(String::new(), |from| format!(", it was {from}"));
                log::info!("the tunnel has changed: we are {to}{from}");
                if let PortSource::Pia(pia) = &mut self.source {
                    pia.gateway.forget();
                }
                self.keeper.set_routed(true);
                self.keeper.tunnel_changed(self.now());
            }
        }
    }

    /// At the end of a pass: that we are ready, whether it went well or is being tried again, and what the state is.
    fn tell_manager(&mut self) {
        let ready = if std::mem::replace(&mut self.ready, true) { "" } else { "READY=1\n" };
        self.notifier.tell(&format!("{ready}STATUS={}", self.report.one_line()));
    }

    fn carry_out(&mut self, step: Step) {
        log::trace!("step {step:?}");
        let report = &mut self.report;
        let (peer, result) = match (step, &mut self.source) {
            (Step::GetToken, PortSource::Pia(pia)) => (PeerKind::Account, get_token(pia)),
            (Step::GetSignature, PortSource::Pia(pia)) => (PeerKind::Gateway, get_signature(pia, report)),
            (Step::BindPort, PortSource::Pia(pia)) => (PeerKind::Gateway, bind_port(pia, report)),
            (Step::AskPort, PortSource::Followed { followed, port, told_none }) => {
                (PeerKind::Gateway, ask_port(followed, port, told_none, report))
            }
            (Step::PlacePort, _) => (PeerKind::Client, self.place_port()),
            (Step::ReopenPort, _) => (PeerKind::Client, self.reopen_port()),
            (Step::ConfirmPort, _) => (PeerKind::Client, self.confirm_port()),
            _ => unreachable!("the keeper knows its source"),
        };
        self.notifier.alive();
        match result {
            Ok(outcome) => {
                self.keeper.record(self.now(), step, outcome);
                // A gate is open again only when the last of its peer's steps was done.
                if matches!(outcome, Outcome::Token { .. } | Outcome::Bound | Outcome::Asked(_) | Outcome::Confirmed) {
                    self.report.recovered(peer);
                }
            }
            // What was given up for a stop is no failure.
            Err(_) if STOPPING.load(Ordering::Relaxed) => {}
            Err(error) => {
                let failure = failure_of(&error);
                self.keeper.record(self.now(), step, Outcome::Failed(failure));
                if self.keeper.wants_token()
                    && let PortSource::Pia(pia) = &mut self.source
                {
                    pia.account.reject();
                }
                if failure == Failure::TokenRejected && self.keeper.next(self.now()) == Step::GetToken {
                    log::warn!("{error}; getting another token");
                } else {
                    self.report.failed(peer, &error);
                }
            }
        }
    }

    fn port(&self) -> Option<u16> {
        match &self.source {
            PortSource::Pia(pia) => pia.lease.as_ref().map(|lease| lease.port),
            PortSource::Followed { port, .. } => *port,
        }
    }

    fn place_port(&mut self) -> Result<Outcome, Error> {
        let port = self.port().unwrap_or_default();
        let client = self.client.as_mut();
        let before = torrent::place(client, port)?;
        if let Some(before) = before {
            log::info!("{}: listen port {before} -> {port}", client.name());
            (self.told, self.bounced) = (None, None);
        }
        self.report.status.client_port = Some(port);
        let settle = if before.is_some() { torrent::PATIENCE.lag } else { Duration::ZERO };
        Ok(Outcome::Placed { settle })
    }

    fn reopen_port(&mut self) -> Result<Outcome, Error> {
        let port = self.port().unwrap_or_default();
        let client = self.client.as_mut();
        match torrent::reopen(client, port)? {
            Some(before) => log::info!("{}: listen port {before} -> {port}", client.name()),
            None => log::info!("{}: socket opened anew on port {port}: the tunnel may be another one", client.name()),
        }
        (self.told, self.bounced) = (None, None);
        self.report.status.client_port = Some(port);
        Ok(Outcome::Placed { settle: torrent::PATIENCE.lag })
    }

    fn confirm_port(&mut self) -> Result<Outcome, Error> {
        let port = self.port().unwrap_or_default();
        let client = self.client.as_mut();
        let bounce = match self.bounced {
            None => Bounce::First,
            Some(at) if at.elapsed() >= Duration::from_secs(self.report.status.interval_s) => Bounce::Again,
            Some(_) => Bounce::Not,
        };
        let connectivity = torrent::confirm(client, port, torrent::PATIENCE, bounce).inspect_err(|error| {
            if bounce != Bounce::Not && matches!(error.cause, Cause::NotListening { .. }) {
                self.bounced = Some(Instant::now());
            }
        })?;
        self.bounced = None;
        let level = if self.told == Some((port, connectivity)) { log::Level::Debug } else { log::Level::Info };
        log::log!(level, "{} listens on port {port} ({connectivity})", client.name());
        self.told = Some((port, connectivity));
        self.report.status.client_verified_at = Some(now_text());
        self.report.status.connection_status = Some(connectivity.to_string());
        Ok(Outcome::Confirmed)
    }
}

fn get_token(pia: &mut Pia) -> Result<Outcome, Error> {
    let source = pia.get_token()?;
    match source {
        Source::Login => log::info!("logged in to PIA"),
        Source::File => log::debug!("token taken from the cache file"),
    }
    Ok(Outcome::Token { logged_in: source == Source::Login })
}

fn get_signature(pia: &mut Pia, report: &mut Report) -> Result<Outcome, Error> {
    let lease = pia.get_signature()?;
    show_lease(report, lease);
    log::info!("lease: port {} until {:.0}", lease.port, lease.expires_at);
    let expires_at = lease.expires_at;
    if expires_at <= pia.gateway.clock.now() {
        log::warn!("a fresh lease has expired by this system's clock ({}): set the clock", now_text());
    }
    Ok(Outcome::Leased { expires_at })
}

fn bind_port(pia: &mut Pia, report: &mut Report) -> Result<Outcome, Error> {
    let port = pia.bind_port()?;
    log::info!("bound port {port}");
    let dialled = pia.gateway.dialled();
    let local = dialled.and_then(|address| route::local_address_towards(address).ok());
    report.status.bound_at = Some(now_text());
    report.status.gateway = dialled.map(|address| address.to_string());
    report.status.local_address = local.map(|local| local.to_string());
    Ok(Outcome::Bound)
}

fn ask_port(
    followed: &mut Followed,
    port: &mut Option<u16>,
    told_none: &mut bool,
    report: &mut Report,
) -> Result<Outcome, Error> {
    let Some(found) = followed.port()? else {
        if !std::mem::replace(told_none, true) {
            log::warn!("{} has no port now; the last one is kept", followed.name());
        }
        return Ok(Outcome::Asked(News::Absent));
    };
    *told_none = false;
    report.status.bound_at = Some(now_text());
    if port.replace(found) == Some(found) {
        return Ok(Outcome::Asked(News::Same));
    }
    log::info!("{} has port {found}", followed.name());
    report.status.port = Some(found);
    Ok(Outcome::Asked(News::Another))
}

fn show_lease(report: &mut Report, lease: &Lease) {
    report.status.port = Some(lease.port);
    report.status.expires_at = Some(format!("{:.0}", lease.expires_at));
}

/// What an error means for the next decision.
fn failure_of(error: &Error) -> Failure {
    match error.cause.most_telling() {
        // Whoever follows somebody else's port locks nobody out by asking again.
        _ if error.op == Op::PortSource => Failure::Transient,
        // Whoever replaces PIA's CA on the way goes on doing so.
        Cause::NotPinned { .. } => Failure::RetryAfter(CA_RETRY),
        Cause::CredentialsRejected { .. } | Cause::Banned => Failure::Credentials,
        &Cause::LockedOut { retry_after } => Failure::LockedOut { retry_after },
        Cause::Http { status: 429 | 503, retry_after: Some(wait), .. } => Failure::RetryAfter(*wait),
        Cause::Http { status: 400..429 | 430..500, .. } if error.op == Op::BindPort => Failure::Refused,
        Cause::Refused { refusal, .. } => match refusal {
            Refusal::TokenRejected => Failure::TokenRejected,
            refusal if refusal.is_of_the_lease() && error.op == Op::BindPort => Failure::LeaseRefused,
            _ => Failure::Refused,
        },
        _ => Failure::Transient,
    }
}
