//! The main loop: observes the tunnel and the clock, runs the steps that the keeper requests, publishes the outcomes, and waits.
//! `keeper` makes the decisions.

pub mod health;
mod log;
mod remotes;

use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::error::{Cause, Error, io_message};
use crate::files;
use crate::keeper::step::{Completed, Exchange, Step};
use crate::keeper::tunnel::GatewayRoute;
use crate::keeper::{Keeper, Notice, Outcome, Remote};
use crate::kernel::Network;
use crate::kernel::events::Events;
use crate::settings::{PortProvider, Settings};
use crate::signals::{Event, Signals, stopping};
use crate::state::{self, State};
use crate::time::{self, Now};
use crate::views::Views;
use crate::views::notify::Notifier;
use crate::views::status::Status;
use log::LogObserver;
pub use log::{describe_inbound, details, error_lines, truncated, with_advice};
pub use remotes::Remotes;

/// Interval between observations of the tunnel if the kernel does not report changes.
const TUNNEL_POLL: Duration = Duration::from_secs(15);
/// Delay between the first event of a burst and the observation, so that the burst is over by then: wg-quick adds its default route
/// 40 ms after its device.
const SETTLE: Duration = Duration::from_millis(200);
/// How long after a stop request the second half of a bounce may begin new exchanges. An exchange takes 10 s at most.
const BOUNCE_BACK_LIMIT: Duration = Duration::from_secs(11);

/// Receives the steps and outcomes of the loop; implemented by the log and by `check`.
pub trait Observer {
    fn step_started(&mut self, step: &Step);
    /// Called before [`Observer::outcome`] for the same step.
    fn step_finished(&mut self, step: &Step, result: &Exchange<Completed>, remotes: &Remotes);
    fn outcome(&mut self, outcome: &Outcome);
}

impl Observer for LogObserver {
    // Nothing to log, because the remotes log their own calls.
    fn step_started(&mut self, _: &Step) {}
    fn step_finished(&mut self, _: &Step, _: &Exchange<Completed>, _: &Remotes) {}

    fn outcome(&mut self, outcome: &Outcome) {
        log::log_outcome(outcome, self);
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    Stopped,
    /// Only the loopback device was left for as long as `EXIT_WHEN_ISOLATED` allows.
    Isolated,
}

/// A pending request for a different port.
#[derive(Default)]
struct Renewal {
    requesters: Vec<UnixStream>,
    from: Option<u16>,
    /// Last failure since the request.
    reason: Option<String>,
}

pub struct Service {
    keeper: Keeper,
    remotes: Remotes,
    state: State,
    interval: Duration,
    /// The VPN's device, if the user has named it.
    vpn_interface: Option<String>,
    /// Kernel events; `None` outside [`Service::run`].
    events: Option<Rc<Events>>,
    /// Socket that accepts `renew` requests; `None` outside [`Service::run`], and after an error.
    requests: Option<UnixListener>,
    renewal: Option<Renewal>,
    /// Devices and addresses as of `observed_at`.
    network: Network,
    observed_at: Option<Instant>,
    /// The status document must be written again.
    status_dirty: bool,
    /// A warning about a failed write has been logged. We keep trying to write, because space may become free on a full disk.
    unwritable: bool,
    notifier: Notifier,
    /// `None` for `check`.
    views: Option<Views>,
    /// The pass was complete at the last wait, so the service manager has received `READY=1`.
    ready: bool,
}

impl Service {
    /// Creates the service for the daemon (`long_running`), `once` or `renew`. Logs the settings and the stored lease; sends
    /// nothing.
    pub fn new(mut settings: Settings, state: State, long_running: bool) -> (Self, Box<dyn Observer>) {
        for warning in &settings.warnings {
            ::log::warn!("{warning}");
        }
        let unwritable = files::probe_folder(state.folder()).err();
        if let Some(error) = &unwritable {
            ::log::warn!(
                "STATE_DIR {}: {}; make the folder writable, otherwise a restart gets a different port, and status and \
                 healthcheck have no data",
                state.folder().display(),
                io_message(error)
            );
        }
        let interval = settings.interval;
        let views = settings.views.take().map(|views| Views::new(views, interval, health::check_own, long_running));
        let mut service = Self { views, ..Self::quiet(settings, state, false) };
        if unwritable.is_some() {
            service.unwritable = true;
            service.keeper.expect_no_store();
        }
        ::log::info!(
            "{} {} started: {}, {}, every {} s",
            env!("CARGO_PKG_NAME"),
            env!("CARGO_PKG_VERSION"),
            service.remotes.describe_source(),
            service.remotes.client.address(),
            service.interval.as_secs()
        );
        if let (Some(port), Some(end)) = (service.keeper.snapshot().port, service.keeper.snapshot().expires_at) {
            ::log::info!("lease: port {port} until {} (stored)", time::rfc3339(end));
        }
        let observer = LogObserver { client: service.remotes.client.name(), follows: service.remotes.follows() };
        (service, Box::new(observer))
    }

    /// Creates a service that logs nothing, for `check`. With `hands_off`, the service never changes the client.
    pub fn quiet(settings: Settings, state: State, hands_off: bool) -> Self {
        let (interval, vpn_interface) = (settings.interval, settings.vpn_interface.clone());
        let seed = RandomState::new().build_hasher().finish();
        let (remotes, keeper) = Remotes::new(settings, &state, hands_off, seed, time::now());
        let notifier = Notifier::default();
        Self {
            keeper,
            remotes,
            state,
            interval,
            vpn_interface,
            events: None,
            requests: None,
            renewal: None,
            network: Network::default(),
            observed_at: None,
            status_dirty: true,
            unwritable: false,
            notifier,
            views: None,
            ready: false,
        }
    }

    fn snapshot(&self) -> Network {
        Network::snapshot(self.vpn_interface.as_deref())
    }

    pub fn keeper(&self) -> &Keeper {
        &self.keeper
    }

    /// Current route to the gateway, or into the tunnel while the gateway is unknown; `None` until a gateway given by name has been
    /// looked up.
    pub fn route(&self) -> Option<Result<GatewayRoute, Error>> {
        self.remotes.route(&self.snapshot()).map(|(_, route)| route)
    }

    pub fn searches_for_gateway(&self) -> bool {
        matches!(&self.remotes.port, PortProvider::Pia(pia) if pia.gateway.is_auto())
    }

    /// True if the gateway must be searched for, but there is no tunnel in which to search.
    pub fn has_no_tunnel(&self) -> bool {
        match &self.remotes.port {
            PortProvider::Pia(pia) => !pia.gateway.has_candidates(&self.snapshot()),
            PortProvider::Source(_) => false,
        }
    }

    /// Runs until a stop signal arrives, or until the limit of `EXIT_WHEN_ISOLATED` is reached.
    pub fn run(&mut self, signals: &Signals, observer: &mut dyn Observer) -> Exit {
        self.notifier = Notifier::from_environment();
        // Overwrite the previous run's status document.
        self.write_status(None);
        // Subscribe before the first observation, so that no change in between is missed.
        let events = self.events.insert(Rc::new(Events::subscribe()));
        if let Some(error) = events.refused() {
            let error = io_message(error);
            let every = TUNNEL_POLL.as_secs();
            ::log::warn!("cannot subscribe to network changes ({error}); polling the tunnel every {every} s");
        }
        self.requests = self.state.listen_for_requests().inspect_err(|error| ::log::debug!("requests: {error}")).ok();
        let mut exit = Exit::Stopped;
        while !stopping() {
            self.observe_if_changed(observer);
            match self.keeper.next(time::now()) {
                Step::Wait(wait) => self.wait(wait, signals, observer),
                Step::Exit => {
                    exit = Exit::Isolated;
                    break;
                }
                step => self.execute(&step, observer),
            }
        }
        ::log::info!("stopping");
        self.notifier.send("STOPPING=1");
        self.finish_bounce(observer);
        if let Some(views) = &mut self.views {
            views.stop();
        }
        self.write_status(Some(time::now()));
        exit
    }

    /// Runs a full pass. Returns true once everything is done, false if something fails.
    pub fn run_once(&mut self, observer: &mut dyn Observer) -> bool {
        self.remotes.restore_rejections(&mut self.keeper, &self.state, time::now());
        let complete = loop {
            self.observe(observer);
            let now = time::now();
            match self.keeper.next(now) {
                Step::Wait(_) if self.keeper.is_settled(now) => break true,
                Step::Wait(_) if self.keeper.has_troubles() || self.keeper.snapshot().port.is_none() => break false,
                Step::Wait(wait) => std::thread::sleep(wait),
                Step::Exit => break false,
                step => self.execute(&step, observer),
            }
        };
        self.remotes.client.log_out();
        complete
    }

    /// Writes the result of `once`, and waits until every notification is delivered or has failed.
    pub fn finish(mut self) {
        self.send_heartbeat(&self.status(time::now()));
        self.write_status(Some(time::now()));
        if let Some(views) = self.views {
            views.finish();
        }
    }

    /// Current failures with their details, as lines of text.
    pub fn problems(&self) -> Vec<String> {
        self.keeper.snapshot().troubles.iter().flat_map(|(_, trouble)| error_lines(&trouble.error)).collect()
    }

    fn wait(&mut self, wait: Duration, signals: &Signals, observer: &mut dyn Observer) {
        self.remotes.disconnect();
        if std::mem::take(&mut self.status_dirty) {
            self.write_status(None);
        }
        let now = time::now();
        let status = self.status(now);
        self.notify_manager(now, &status);
        // Health and the result of a renewal are final only at the end of a pass.
        if self.ready {
            self.send_heartbeat(&status);
            self.end_renewal();
        }
        ::log::trace!("waiting {} s", wait.as_secs());
        let end = Instant::now() + wait;
        loop {
            let remaining = end.saturating_duration_since(Instant::now());
            let slices = [self.notifier.watchdog_interval(), self.must_poll().then_some(TUNNEL_POLL)];
            let slice = slices.into_iter().flatten().fold(remaining, Duration::min);
            if slice.is_zero() {
                return;
            }
            let mut sources = self.events.as_ref().map_or(Vec::new(), |events| events.sources());
            sources.extend(self.requests.as_ref().map(AsFd::as_fd));
            let event = signals.wait(slice, &sources);
            self.notifier.feed_watchdog();
            match event {
                Some(Event::Reload) => {
                    ::log::info!("reload: binding and checking now");
                    self.notifier.send("RELOADING=1");
                    self.remotes.forget_client_owner();
                    self.keeper.retry_now(time::now());
                    self.ready = false;
                    return;
                }
                Some(Event::Stop) => return,
                None if self.accept_request() => return,
                None if self.observe_if_changed(observer) => return,
                None => {}
            }
        }
    }

    /// Accepts a request for a different port. Returns false if no request is pending.
    fn accept_request(&mut self) -> bool {
        match self.requests.as_ref().map(UnixListener::accept) {
            Some(Ok((requester, _))) => {
                self.renew();
                self.renewal.get_or_insert_default().requesters.push(requester);
                return true;
            }
            // Close the socket: a pending connection that cannot be accepted would end every wait immediately.
            Some(Err(error)) if error.kind() != io::ErrorKind::WouldBlock => {
                ::log::warn!("can no longer accept renew requests: {}; restart the service", io_message(&error));
                self.requests = None;
            }
            _ => {}
        }
        false
    }

    /// Requests a new lease; the current port stays in use until a different one is bound.
    pub fn renew(&mut self) {
        ::log::info!("a different port was requested; keeping the current port until the new one is bound");
        let from = self.keeper.snapshot().port;
        self.renewal.get_or_insert_default().from = from;
        self.keeper.force_renewal(time::now());
    }

    /// Answers pending requests for a different port and returns the result: an error if the port is unchanged.
    pub fn end_renewal(&mut self) -> Option<Result<String, String>> {
        let Renewal { requesters, from, reason } = self.renewal.take()?;
        let result = match (from, self.keeper.port_to_listen_on()) {
            (Some(from), Some(port)) if from != port => Ok(format!("port {from} -> {port}")),
            (None, Some(port)) => Ok(format!("port {port}")),
            (_, port) => Err(reason.or_else(|| self.problems().into_iter().next()).unwrap_or_else(|| {
                port.map_or("there is no port".to_owned(), |port| format!("PIA assigned port {port} again"))
            })),
        };
        for requester in requesters {
            if let Err(error) = state::reply(&requester, &result) {
                ::log::debug!("requests: {error}");
            }
        }
        Some(result)
    }

    /// True if the kernel does not report changes, so that the tunnel must be polled.
    fn must_poll(&self) -> bool {
        self.events.as_ref().is_none_or(|events| events.refused().is_some())
    }

    /// Observes the clock, and also the tunnel if it may have changed. Returns true if the keeper has something to decide.
    fn observe_if_changed(&mut self, observer: &mut dyn Observer) -> bool {
        let take = |events: &Option<Rc<Events>>| events.as_ref().is_some_and(|events| events.take());
        let mut changed = take(&self.events);
        if changed && self.observed_at.is_some() {
            std::thread::sleep(SETTLE);
            changed |= take(&self.events);
        }
        let due = self.observed_at.is_none_or(|at| self.must_poll() && at.elapsed() >= TUNNEL_POLL);
        if changed || due {
            return self.observe(observer);
        }
        let outcome = self.keeper.observe_clock(time::now());
        if let Some(outcome) = &outcome {
            self.handle_outcome(outcome, observer);
        }
        outcome.is_some()
    }

    /// Observes the clock and the tunnel. Returns true if the keeper has something to decide.
    fn observe(&mut self, observer: &mut dyn Observer) -> bool {
        let now = time::now();
        self.observed_at = Some(now.mono);
        self.network = Network::watched(self.vpn_interface.as_deref(), self.events.as_ref());
        let isolated = self.keeper.observe_devices(now, self.network.is_isolated());
        if isolated {
            ::log::warn!("only the loopback device is left; if the VPN container was restarted, restart this one too");
        }
        let mut outcomes: Vec<_> = self.keeper.observe_clock(now).into_iter().collect();
        if let Some((gateway, route)) = self.remotes.route(&self.network) {
            outcomes.extend(self.keeper.observe_route(now, gateway, route));
        }
        for outcome in &outcomes {
            if let Some((_, Notice::Tunnel { .. })) = outcome.notice {
                self.remotes.forget_gateway();
            }
            self.handle_outcome(outcome, observer);
        }
        // Publish the problem before starting to fix it.
        if !outcomes.is_empty() && self.events.is_some() {
            self.write_status(None);
        }
        isolated || !outcomes.is_empty()
    }

    /// Sends the state to the service manager, with `READY=1` at the end of the first pass after a start or a reload.
    fn notify_manager(&mut self, now: Now, status: &Status) {
        // The pass is not over while we wait for a client that is slow to listen.
        let over = self.keeper.is_settled(now) || self.keeper.has_troubles() || self.keeper.snapshot().port.is_none();
        let ready = if over && !std::mem::replace(&mut self.ready, over) { "READY=1\n" } else { "" };
        self.notifier.send(&format!("{ready}STATUS={}", status.one_line()));
    }

    fn execute(&mut self, step: &Step, observer: &mut dyn Observer) {
        observer.step_started(step);
        let result = self.remotes.execute(step, &self.network);
        self.notifier.feed_watchdog();
        let now = time::now();
        // A step that was abandoned because of a stop or a new tunnel does not count as failed.
        if let Err(error) = &result
            && (stopping() || matches!(error.cause, Cause::RouteChanged))
        {
            return;
        }
        self.remotes.store_rejection(step, &result, &self.state, now);
        observer.step_finished(step, &result, &self.remotes);
        if let PortProvider::Pia(pia) = &mut self.remotes.port
            && let Some(date) = pia.gateway.take_date()
            && let Some(outcome) = self.keeper.compare_clock(now, date)
        {
            self.handle_outcome(&outcome, observer);
        }
        let outcome = self.keeper.record(now, step, result);
        self.handle_outcome(&outcome, observer);
    }

    fn handle_outcome(&mut self, outcome: &Outcome, observer: &mut dyn Observer) {
        if let Some(views) = &mut self.views {
            views.count(outcome);
            let snapshot = self.keeper.snapshot();
            let device = snapshot.route.and_then(|route| route.device.as_ref()).map_or("", |device| &device.name);
            match self.keeper.port_to_publish(time::now()) {
                // Until a new lease is bound for the first time, keep publishing the previous port.
                None if snapshot.port.is_some() && !snapshot.follows => {}
                port => views.publish_port(port, device, Instant::now()),
            }
        }
        if let (Some(renewal), Some((_, notice))) = (&mut self.renewal, &outcome.notice) {
            match notice {
                Notice::PortKept { error, .. } | Notice::RenewalFailed(error) => {
                    renewal.reason = Some(with_advice(error));
                }
                Notice::Failed { error, .. } if outcome.remote != Remote::Client => {
                    renewal.reason = Some(with_advice(error));
                }
                _ => {}
            }
        }
        self.status_dirty |= outcome.notice.is_some() || outcome.recovered.is_some();
        observer.outcome(outcome);
    }

    fn send_heartbeat(&mut self, status: &Status) {
        if let Some(views) = &mut self.views {
            views.send_heartbeat(status, self.keeper.port_to_publish(time::now()));
        }
    }

    /// Completes an unfinished bounce: otherwise, a stop would leave the client on the temporary port.
    fn finish_bounce(&mut self, observer: &mut dyn Observer) {
        let end = Instant::now() + BOUNCE_BACK_LIMIT;
        while let Some(step) = self.keeper.unfinished_bounce() {
            let result = self.remotes.execute(&step, &self.network);
            let over = result.is_err() || Instant::now() >= end;
            let outcome = self.keeper.record(time::now(), &step, result);
            self.handle_outcome(&outcome, observer);
            if over {
                break;
            }
        }
    }

    fn status(&self, now: Now) -> Status {
        let status = Status::of(&self.keeper.snapshot(), self.remotes.client.name(), self.interval, now.wall);
        Status { vpn_interface: self.vpn_interface.clone(), ..status }
    }

    fn write_status(&mut self, stopped: Option<Now>) {
        let mut status = self.status(time::now());
        status.stopped_at = stopped.map(|now| time::rfc3339(now.wall));
        if let Some(views) = &mut self.views {
            views.update(&status, self.keeper.port_to_publish(time::now()));
        }
        match status.write(self.state.folder()) {
            Ok(()) => self.unwritable = false,
            Err(error) if !std::mem::replace(&mut self.unwritable, true) => {
                ::log::warn!("{error}; until STATE_DIR is writable, status and healthcheck cannot see the state");
            }
            Err(_) => {}
        }
    }
}
