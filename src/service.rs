//! The loop that carries out what the keeper decides: steps, signals, waiting, status.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use rustls::pki_types::ServerName;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals as SignalIterator;

use crate::config::Config;
use crate::error::{Cause, Error, Op, Refusal, plain};
use crate::files;
use crate::http::tls::{NamePolicy, Tls};
use crate::keeper::{Failure, Keeper, Now, Outcome, Step};
use crate::pia::account::{Account, Source};
use crate::pia::gateway::Gateway;
use crate::pia::lease::{Lease, LeaseStore};
use crate::pia::trust::public_roots;
use crate::report::{PeerKind, Report, now_text};
use crate::torrent::qbittorrent::QBittorrent;
use crate::torrent::{self, Connectivity, TorrentClient};

/// The peers and the store, built from a configuration; nothing is sent by building them.
pub struct Parts {
    /// PIA's account.
    pub account: Account,
    /// PIA's gateway.
    pub gateway: Gateway,
    /// The torrent client.
    pub client: Box<dyn TorrentClient>,
    /// The stored lease.
    pub store: LeaseStore,
}

impl Parts {
    /// Builds the parts; what of `config` they do not need is left.
    pub fn new(config: Config) -> Self {
        let account = Account::new(config.credentials, config.login_urls, config.login_ca, config.token_file);
        let gateway = Gateway::new(
            &config.gateway_host,
            config.gateway_port,
            config.hostname.as_deref(),
            Tls::new(config.ca, config.gateway_name),
        );
        let client_tls = config.client_url.https.then(|| {
            let name = ServerName::try_from(config.client_url.host.clone()).expect("checked when the URL was parsed");
            Tls::new(config.client_ca.unwrap_or_else(public_roots), NamePolicy::Exactly(name))
        });
        let client = Box::new(QBittorrent::new(&config.client_url, client_tls, config.client_auth));
        Self { account, gateway, client, store: LeaseStore::new(&config.state_dir) }
    }

    /// The stored lease, with one warning when the file cannot be used.
    pub fn stored_lease(&self) -> Option<Lease> {
        self.store.load().unwrap_or_else(|problem| {
            log::warn!("{} {problem}; a new lease will replace it", self.store.path().display());
            None
        })
    }
}

enum Event {
    Stop,
    Reload,
}

/// SIGTERM and SIGINT stop, SIGHUP binds and checks at once.
pub struct Signals {
    events: Receiver<Event>,
    stopping: Arc<AtomicBool>,
}

impl Signals {
    /// Installs the handlers and starts the one thread that waits for signals.
    pub fn install() -> std::io::Result<Self> {
        let mut signals = SignalIterator::new([SIGTERM, SIGINT, SIGHUP])?;
        let stopping = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&stopping);
        let (sender, events) = channel();
        thread::Builder::new().name("signals".to_owned()).spawn(move || {
            for signal in signals.forever() {
                let event = if signal == SIGHUP { Event::Reload } else { Event::Stop };
                flag.fetch_or(matches!(event, Event::Stop), Ordering::Relaxed);
                if sender.send(event).is_err() {
                    break;
                }
            }
        })?;
        Ok(Self { events, stopping })
    }

    fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }
}

/// The daemon.
pub struct Service {
    parts: Parts,
    keeper: Keeper,
    lease: Option<Lease>,
    /// The lease is not on the disk yet.
    unsaved: bool,
    /// What was logged last of the client, so that it is said again only when it changes.
    told: Option<(u16, Connectivity)>,
    report: Report,
    /// None in `once`, which signals end as they end any program.
    signals: Option<Signals>,
}

fn now() -> Now {
    Now { mono: Instant::now(), wall: Timestamp::now() }
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
        log::info!(
            "{} {} started: gateway {}, {}, every {} s",
            env!("CARGO_PKG_NAME"),
            env!("CARGO_PKG_VERSION"),
            crate::http::plain::join(&config.gateway_host, config.gateway_port),
            config.client_url,
            config.interval.as_secs()
        );
        let interval = config.interval;
        let state_dir = config.state_dir.clone();
        let parts = Parts::new(config);
        let mut report = Report::new(&state_dir, unwritable.is_some(), interval, parts.client.name());
        let lease = parts.stored_lease();
        if let Some(lease) = &lease {
            log::info!("lease: port {} until {:.0} (stored)", lease.port, lease.expires_at);
            show_lease(&mut report, lease);
        }
        let seed = RandomState::new().build_hasher().finish();
        let keeper = Keeper::new(interval, lease.as_ref().map(|lease| lease.expires_at), seed, now());
        Self { parts, keeper, lease, unsaved: false, told: None, report, signals }
    }

    /// Runs until a signal says stop.
    pub fn run(&mut self) {
        while !self.is_stopping() {
            match self.keeper.next(now()) {
                Step::Wait(wait) => self.wait(wait),
                step => self.carry_out(step),
            }
        }
        log::info!("stopping");
        self.report.write();
    }

    /// One full pass: until everything is done (true) or something fails (false).
    pub fn run_once(&mut self) -> bool {
        loop {
            match self.keeper.next(now()) {
                Step::Wait(_) if self.keeper.is_content(now()) || self.keeper.has_failures() => break,
                Step::Wait(wait) => thread::sleep(wait),
                step => self.carry_out(step),
            }
        }
        self.parts.client.log_out();
        self.report.write();
        !self.keeper.has_failures()
    }

    /// What fails, a line each.
    pub fn problems(&self) -> Vec<String> {
        self.report.problems().map(|problem| format!("{}; {}", problem.error, problem.remedy)).collect()
    }

    fn is_stopping(&self) -> bool {
        self.signals.as_ref().is_some_and(Signals::is_stopping)
    }

    fn wait(&mut self, wait: Duration) {
        self.parts.gateway.hang_up();
        self.parts.client.hang_up();
        self.report.write();
        log::trace!("waiting {} s", wait.as_secs());
        let Some(signals) = &self.signals else { return };
        match signals.events.recv_timeout(wait) {
            Ok(Event::Reload) => {
                log::info!("reload: binding and checking now");
                self.keeper.hurry(now());
            }
            Ok(Event::Stop) | Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {}
        }
    }

    fn carry_out(&mut self, step: Step) {
        log::trace!("step {step:?}");
        let (peer, result) = match step {
            Step::GetToken => (PeerKind::Account, self.get_token()),
            Step::GetSignature => (PeerKind::Gateway, self.get_signature()),
            Step::BindPort => (PeerKind::Gateway, self.bind_port()),
            Step::PlacePort => (PeerKind::Client, self.place_port()),
            Step::ConfirmPort => (PeerKind::Client, self.confirm_port()),
            Step::Wait(_) => return,
        };
        match result {
            Ok(outcome) => {
                self.keeper.record(now(), step, outcome);
                // A gate is open again only when the last of its peer's steps was done.
                if matches!(outcome, Outcome::Token { .. } | Outcome::Bound | Outcome::Confirmed) {
                    self.report.recovered(peer);
                }
            }
            Err(error) => {
                let failure = failure_of(&error);
                self.keeper.record(now(), step, Outcome::Failed(failure));
                if self.keeper.wants_token() {
                    self.parts.account.reject();
                }
                if failure == Failure::TokenRejected && self.keeper.next(now()) == Step::GetToken {
                    log::warn!("{error}; getting another token");
                } else {
                    self.report.failed(peer, &error);
                }
            }
        }
    }

    fn get_token(&mut self) -> Result<Outcome, Error> {
        let signals = self.signals.as_ref();
        let source = self.parts.account.obtain(&|| signals.is_some_and(Signals::is_stopping))?;
        match source {
            Source::Login => log::info!("logged in to PIA"),
            Source::File => log::debug!("token taken from the cache file"),
        }
        Ok(Outcome::Token { logged_in: source == Source::Login })
    }

    fn get_signature(&mut self) -> Result<Outcome, Error> {
        let token = self.parts.account.token().ok_or(Error::new(Op::TokenFile, Cause::NoCredentials))?;
        let lease = self.parts.gateway.get_signature(token)?;
        let (port, expires_at) = (lease.port, lease.expires_at);
        show_lease(&mut self.report, &lease);
        self.lease = Some(lease);
        self.unsaved = true;
        // Before anything is said or done with it: a kill from here on costs no port.
        self.save_lease();
        log::info!("lease: port {port} until {expires_at:.0}");
        if expires_at <= Timestamp::now() {
            log::warn!("a fresh lease has expired by this system's clock ({}): set the clock", now_text());
        }
        Ok(Outcome::Leased { expires_at })
    }

    /// Tried again with every bind until it is on the disk.
    fn save_lease(&mut self) {
        let Some(lease) = self.lease.as_ref().filter(|_| self.unsaved) else { return };
        match self.parts.store.save(lease) {
            Ok(()) => self.unsaved = false,
            Err(error) => log::debug!("{}: {}", self.parts.store.path().display(), plain(&error)),
        }
    }

    fn bind_port(&mut self) -> Result<Outcome, Error> {
        if let Some(lease) = &self.lease {
            self.parts.gateway.bind_port(lease)?;
            log::info!("bound port {}", lease.port);
        }
        self.report.status.bound_at = Some(now_text());
        self.save_lease();
        Ok(Outcome::Bound)
    }

    fn port(&self) -> u16 {
        self.lease.as_ref().map_or(0, |lease| lease.port)
    }

    fn place_port(&mut self) -> Result<Outcome, Error> {
        let port = self.port();
        let client = self.parts.client.as_mut();
        let before = torrent::place(client, port)?;
        if let Some(before) = before {
            log::info!("{}: listen port {before} -> {port}", client.name());
            self.told = None;
        }
        self.report.status.client_port = Some(port);
        let settle = if before.is_some() { torrent::PATIENCE.lag } else { Duration::ZERO };
        Ok(Outcome::Placed { settle })
    }

    fn confirm_port(&mut self) -> Result<Outcome, Error> {
        let port = self.port();
        let client = self.parts.client.as_mut();
        let connectivity = torrent::confirm(client, port, torrent::PATIENCE)?;
        let level = if self.told == Some((port, connectivity)) { log::Level::Debug } else { log::Level::Info };
        log::log!(level, "{} listens on port {port} ({connectivity})", client.name());
        self.told = Some((port, connectivity));
        self.report.status.client_verified_at = Some(now_text());
        self.report.status.connection_status = Some(connectivity.to_string());
        Ok(Outcome::Confirmed)
    }
}

fn show_lease(report: &mut Report, lease: &Lease) {
    report.status.port = Some(lease.port);
    report.status.expires_at = Some(format!("{:.0}", lease.expires_at));
}

/// What an error means for the next decision.
fn failure_of(error: &Error) -> Failure {
    match &error.cause {
        Cause::CredentialsRejected { .. } | Cause::Banned => Failure::Credentials,
        Cause::LockedOut { retry_after: None } => Failure::LockedOut,
        Cause::LockedOut { retry_after: Some(wait) }
        | Cause::Http { status: 429 | 503, retry_after: Some(wait), .. } => Failure::RetryAfter(*wait),
        Cause::Http { status: 400..429 | 430..500, .. } if error.op == Op::BindPort => Failure::Refused,
        Cause::Refused { refusal, .. } => match refusal {
            Refusal::TokenRejected => Failure::TokenRejected,
            Refusal::BadSignature | Refusal::Expired | Refusal::Busy if error.op == Op::BindPort => {
                Failure::LeaseRefused
            }
            _ => Failure::Refused,
        },
        _ => Failure::Transient,
    }
}
