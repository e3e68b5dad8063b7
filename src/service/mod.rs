//! The loop: looks at tunnel and clock, does what the keeper asks for, tells what came of it, and waits.

pub mod health;
mod log;
mod remotes;

use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::error::{Cause, Error, plain};
use crate::files;
use crate::keeper::step::{Done, Exchange, Step};
use crate::keeper::tunnel::Way;
use crate::keeper::{Keeper, News, Remote, Verdict};
use crate::kernel::Network;
use crate::kernel::events::Events;
use crate::settings::{PortProvider, Settings};
use crate::signals::{Event, Signals, stopping};
use crate::state::{self, State};
use crate::time::{self, Now};
use crate::views::Views;
use crate::views::notify::Notifier;
use crate::views::status::Status;
use log::Names;
pub use log::{details, in_full, inbound, with_advice, within};
pub use remotes::Remotes;

/// Between two looks at the tunnel where the kernel does not tell of changes.
const LOOK_EVERY: Duration = Duration::from_secs(15);
/// From the first of a burst of changes to the look at what came of them: wg-quick's default route comes 40 ms after its device.
const SETTLE: Duration = Duration::from_millis(200);
/// For the second half of a bounce after a stop was asked for: the exchange itself, and no second one after a late answer.
const RETURN_LIMIT: Duration = Duration::from_secs(11);

/// Who listens to what the loop does: the log, or `check`.
pub trait Ear {
    /// A step is about to be carried out.
    fn begin(&mut self, step: &Step);
    /// A step was carried out, with this result; the keeper's verdict follows.
    fn step(&mut self, step: &Step, result: &Exchange<Done>, remotes: &Remotes);
    /// What it or a look has led to.
    fn verdict(&mut self, verdict: &Verdict);
}

impl Ear for Names {
    // What is asked of whom is the remotes' to log.
    fn begin(&mut self, _: &Step) {}
    fn step(&mut self, _: &Step, _: &Exchange<Done>, _: &Remotes) {}

    fn verdict(&mut self, verdict: &Verdict) {
        log::tell(verdict, self);
    }
}

/// Why the loop has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// A signal asked for it.
    Stopped,
    /// No device but loopback was left for as long as `EXIT_WHEN_ISOLATED` allows.
    Isolated,
}

/// That another port was asked for.
#[derive(Default)]
struct Renewal {
    askers: Vec<UnixStream>,
    from: Option<u16>,
    /// What has failed since.
    why: Option<String>,
}

/// The loop and what it needs.
pub struct Service {
    keeper: Keeper,
    remotes: Remotes,
    state: State,
    interval: Duration,
    /// What tells of changes; none while nobody looks for long.
    events: Option<Rc<Events>>,
    /// Where somebody asks for another port; none while nobody stays to hear it.
    requests: Option<UnixListener>,
    /// Another port was asked for, and what has become of that is not known yet.
    renewal: Option<Renewal>,
    /// Devices and addresses as they were last seen, and when.
    network: Network,
    looked: Option<Instant>,
    /// There is something new to be written into the status.
    fresh: bool,
    /// That the status cannot be written was said; it is still tried, because disks fill up and empty again.
    unwritable: bool,
    notifier: Notifier,
    /// None for `check`.
    views: Option<Views>,
    /// The service manager knows that we are ready.
    ready: bool,
}

impl Service {
    /// For a daemon, which `stays`, or `once`: tells what it starts with. Reads the stored lease; nothing is sent yet.
    pub fn new(mut settings: Settings, state: State, stays: bool) -> (Self, Box<dyn Ear>) {
        for warning in &settings.warnings {
            ::log::warn!("{warning}");
        }
        let unwritable = files::probe_folder(state.folder()).err();
        if let Some(error) = &unwritable {
            ::log::warn!(
                "STATE_DIR {}: {}; the lease is kept in memory only, so a restart gets another port, and status and \
                 healthcheck do not know the state",
                state.folder().display(),
                plain(error)
            );
        }
        let interval = settings.interval;
        let views = settings.views.take().map(|views| Views::new(views, interval, health::check_own, stays));
        let mut service = Self { views, ..Self::quiet(settings, state, false) };
        if unwritable.is_some() {
            service.unwritable = true;
            service.keeper.expect_no_store();
        }
        ::log::info!(
            "{} {} started: {}, {}, every {} s",
            env!("CARGO_PKG_NAME"),
            env!("CARGO_PKG_VERSION"),
            service.remotes.whence(),
            service.remotes.client.address(),
            service.interval.as_secs()
        );
        if let (Some(port), Some(end)) = (service.keeper.snapshot().port, service.keeper.snapshot().expires_at) {
            ::log::info!("lease: port {port} until {} (stored)", time::rfc3339(end));
        }
        let names = Names { client: service.remotes.client.name(), source: service.remotes.source_name() };
        (service, Box::new(names))
    }

    /// For `check`, which has words of its own; with `hands_off` the client is left as it is.
    pub fn quiet(settings: Settings, state: State, hands_off: bool) -> Self {
        let interval = settings.interval;
        let seed = RandomState::new().build_hasher().finish();
        let (remotes, keeper) = Remotes::new(settings, &state, hands_off, seed, time::now());
        let notifier = Notifier::default();
        Self {
            keeper,
            remotes,
            state,
            interval,
            events: None,
            requests: None,
            renewal: None,
            network: Network::default(),
            looked: None,
            fresh: true,
            unwritable: false,
            notifier,
            views: None,
            ready: false,
        }
    }

    /// What is known.
    pub fn keeper(&self) -> &Keeper {
        &self.keeper
    }

    /// The way to the gateway, or into the tunnel, as it is now; none where the gateway is a name that was not looked up yet.
    pub fn way(&self) -> Option<Result<Way, Error>> {
        self.remotes.way(&Network::snapshot()).map(|(_, way)| way)
    }

    /// The gateway is to be found.
    pub fn looks_for_gateway(&self) -> bool {
        matches!(&self.remotes.port, PortProvider::Pia(pia) if pia.gateway.is_looked_for())
    }

    /// The gateway is to be found, and there is no tunnel to find it in.
    pub fn has_no_tunnel(&self) -> bool {
        match &self.remotes.port {
            PortProvider::Pia(pia) => !pia.gateway.has_candidates(&Network::snapshot()),
            PortProvider::Source(_) => false,
        }
    }

    /// Runs until a signal says stop, or until there is nothing left to run in.
    pub fn run(&mut self, signals: &Signals, ear: &mut dyn Ear) -> Exit {
        self.notifier = Notifier::from_environment();
        // What the last run has left says nothing of this one.
        self.write_status(None);
        // Subscribed before the first look, so that nothing happens in between.
        let events = self.events.insert(Rc::new(Events::subscribe()));
        if let Some(error) = events.refused() {
            let error = plain(error);
            let every = LOOK_EVERY.as_secs();
            ::log::warn!(
                "the kernel does not tell of network changes ({error}): the tunnel is looked at every {every} s"
            );
        }
        self.requests = self.state.hear_requests().inspect_err(|error| ::log::debug!("requests: {error}")).ok();
        let mut exit = Exit::Stopped;
        while !stopping() {
            self.look_if_changed(ear);
            match self.keeper.next(time::now()) {
                Step::Wait(wait) => self.wait(wait, signals, ear),
                Step::Exit => {
                    exit = Exit::Isolated;
                    break;
                }
                step => self.carry_out(&step, ear),
            }
        }
        ::log::info!("stopping");
        self.notifier.tell("STOPPING=1");
        self.finish_bounce(ear);
        if let Some(views) = &mut self.views {
            views.stop();
        }
        self.write_status(Some(time::now()));
        exit
    }

    /// One full pass, as by hand: until everything is done (true) or something fails (false).
    pub fn run_once(&mut self, ear: &mut dyn Ear) -> bool {
        self.remotes.respect_rejections(&mut self.keeper, &self.state, time::now());
        let done = loop {
            self.look_around(ear);
            let now = time::now();
            match self.keeper.next(now) {
                Step::Wait(_) if self.keeper.is_content(now) => break true,
                Step::Wait(_) if self.keeper.has_troubles() || self.keeper.snapshot().port.is_none() => break false,
                Step::Wait(wait) => std::thread::sleep(wait),
                Step::Exit => break false,
                step => self.carry_out(&step, ear),
            }
        };
        self.remotes.client.log_out();
        done
    }

    /// Writes what `once` has found, and waits until everybody has heard of it.
    pub fn leave(mut self) {
        self.beat(&self.status(time::now()));
        self.write_status(Some(time::now()));
        if let Some(views) = self.views {
            views.finish();
        }
    }

    /// What fails, a line each.
    pub fn problems(&self) -> Vec<String> {
        let snapshot = self.keeper.snapshot();
        let mut lines: Vec<_> = snapshot.troubles.iter().flat_map(|(_, trouble)| in_full(&trouble.error)).collect();
        if lines.is_empty() && snapshot.follows && snapshot.port.is_none() {
            lines.push(format!("{} has no port now", self.remotes.source_name()));
        }
        lines
    }

    fn wait(&mut self, wait: Duration, signals: &Signals, ear: &mut dyn Ear) {
        self.remotes.hang_up();
        if std::mem::take(&mut self.fresh) {
            self.write_status(None);
        }
        let now = time::now();
        let status = self.status(now);
        self.tell_manager(now, &status);
        // Where a pass waits in its middle, nothing is certain yet.
        if self.ready {
            self.beat(&status);
            self.end_renewal();
        }
        ::log::trace!("waiting {} s", wait.as_secs());
        let end = Instant::now() + wait;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let slices = [self.notifier.heartbeat(), self.is_blind().then_some(LOOK_EVERY)];
            let slice = slices.into_iter().flatten().fold(left, Duration::min);
            if slice.is_zero() {
                return;
            }
            let mut sources = self.events.as_ref().map_or(Vec::new(), |events| events.sources());
            sources.extend(self.requests.as_ref().map(AsFd::as_fd));
            let event = signals.wait(slice, &sources);
            self.notifier.alive();
            match event {
                Some(Event::Reload) => {
                    ::log::info!("reload: binding and checking now");
                    self.notifier.tell("RELOADING=1");
                    self.keeper.hurry(time::now());
                    self.ready = false;
                    return;
                }
                Some(Event::Stop) => return,
                None if self.hears_request() => return,
                None if self.look_if_changed(ear) => return,
                None => {}
            }
        }
    }

    /// Whether somebody asks for another port.
    fn hears_request(&mut self) -> bool {
        match self.requests.as_ref().map(UnixListener::accept) {
            Some(Ok((asker, _))) => {
                self.renew();
                self.renewal.get_or_insert_default().askers.push(asker);
                return true;
            }
            // Who waits there would wake us again and again.
            Some(Err(error)) if error.kind() != io::ErrorKind::WouldBlock => {
                ::log::warn!("requests for another port are not heard any more: {}", plain(&error));
                self.requests = None;
            }
            _ => {}
        }
        false
    }

    /// Another port is wanted than the one that there is.
    pub fn renew(&mut self) {
        ::log::info!("asked for another port: a new lease replaces this one when it is bound");
        let from = self.keeper.snapshot().port;
        self.renewal.get_or_insert_default().from = from;
        self.keeper.renew_on_purpose(time::now());
    }

    /// What has become of it, where it was asked for; an error where there is no other port.
    pub fn end_renewal(&mut self) -> Option<Result<String, String>> {
        let Renewal { askers, from, why } = self.renewal.take()?;
        let result = match (from, self.keeper.port_to_listen_on()) {
            (Some(from), Some(port)) if from != port => Ok(format!("port {from} -> {port}")),
            (None, Some(port)) => Ok(format!("port {port}")),
            (_, port) => Err(why.or_else(|| self.problems().into_iter().next()).unwrap_or_else(|| {
                port.map_or("there is no port".to_owned(), |port| format!("PIA gives port {port} again"))
            })),
        };
        for asker in askers {
            if let Err(error) = state::reply(&asker, &result) {
                ::log::debug!("requests: {error}");
            }
        }
        Some(result)
    }

    /// The kernel tells nothing of changes.
    fn is_blind(&self) -> bool {
        self.events.as_ref().is_none_or(|events| events.refused().is_some())
    }

    /// Looks at the tunnel if it has changed, or may have, and always at the clock, which costs nothing; true if there is
    /// something new to decide.
    fn look_if_changed(&mut self, ear: &mut dyn Ear) -> bool {
        let take = |events: &Option<Rc<Events>>| events.as_ref().is_some_and(|events| events.take());
        let mut told = take(&self.events);
        if told && self.looked.is_some() {
            std::thread::sleep(SETTLE);
            told |= take(&self.events);
        }
        let due = self.looked.is_none_or(|at| self.is_blind() && at.elapsed() >= LOOK_EVERY);
        if told || due {
            return self.look_around(ear);
        }
        let verdict = self.keeper.see_clock(time::now());
        if let Some(verdict) = &verdict {
            self.hear(verdict, ear);
        }
        verdict.is_some()
    }

    /// Looks at clock and tunnel; true if there is something new to decide.
    fn look_around(&mut self, ear: &mut dyn Ear) -> bool {
        let now = time::now();
        self.looked = Some(now.mono);
        self.network = Network::watched(self.events.as_ref());
        let isolated = self.keeper.see_devices(now, self.network.is_isolated());
        if isolated {
            ::log::warn!("no network device but lo is left: if this does not pass, the VPN container was restarted");
        }
        let mut verdicts: Vec<_> = self.keeper.see_clock(now).into_iter().collect();
        if let Some((gateway, way)) = self.remotes.way(&self.network) {
            verdicts.extend(self.keeper.see_way(now, gateway, way));
        }
        for verdict in &verdicts {
            if let Some((_, News::Tunnel { .. })) = verdict.news {
                self.remotes.forget_gateway();
            }
            self.hear(verdict, ear);
        }
        // What is not well any more is shown before it is mended.
        if !verdicts.is_empty() && self.events.is_some() {
            self.write_status(None);
        }
        isolated || !verdicts.is_empty()
    }

    /// What the state is; and at the end of a pass that we are ready, whether it went well or is being tried again.
    fn tell_manager(&mut self, now: Now, status: &Status) {
        // Where a client takes its time to show that it listens, a pass waits in its middle.
        let over = self.keeper.is_content(now) || self.keeper.has_troubles() || self.keeper.snapshot().port.is_none();
        let ready = if over && !std::mem::replace(&mut self.ready, over) { "READY=1\n" } else { "" };
        self.notifier.tell(&format!("{ready}STATUS={}", status.one_line()));
    }

    fn carry_out(&mut self, step: &Step, ear: &mut dyn Ear) {
        ear.begin(step);
        let result = self.remotes.carry_out(step, &self.network);
        self.notifier.alive();
        let now = time::now();
        // What was given up for a stop is no failure, nor what will be done in another tunnel.
        if let Err(error) = &result
            && (stopping() || matches!(error.cause, Cause::GivenUp))
        {
            return;
        }
        self.remotes.keep_rejection(step, &result, &self.state, now);
        ear.step(step, &result, &self.remotes);
        if let PortProvider::Pia(pia) = &mut self.remotes.port
            && let Some(date) = pia.gateway.take_date()
            && let Some(verdict) = self.keeper.hear_time(now, date)
        {
            self.hear(&verdict, ear);
        }
        let verdict = self.keeper.record(now, step, result);
        self.hear(&verdict, ear);
    }

    fn hear(&mut self, verdict: &Verdict, ear: &mut dyn Ear) {
        if let Some(views) = &mut self.views {
            views.count(verdict);
            let snapshot = self.keeper.snapshot();
            let device = snapshot.way.and_then(|way| way.device.as_ref()).map_or("", |device| &device.name);
            match self.keeper.port_to_listen_on() {
                // Between a lease and its first bind the port of before is still the right one, or nobody's.
                None if snapshot.port.is_some() => {}
                port => views.tell_port(port, device, Instant::now()),
            }
        }
        if let (Some(renewal), Some((_, news))) = (&mut self.renewal, &verdict.news) {
            match news {
                News::KeptOld { error, .. } | News::NotRenewed(error) => renewal.why = Some(with_advice(error)),
                News::Failed { error, .. } if verdict.remote != Remote::Client => {
                    renewal.why = Some(with_advice(error))
                }
                _ => {}
            }
        }
        self.fresh |= verdict.news.is_some() || verdict.recovered.is_some();
        ear.verdict(verdict);
    }

    fn beat(&mut self, status: &Status) {
        if let Some(views) = &mut self.views {
            views.beat(status, self.keeper.port_to_listen_on());
        }
    }

    /// A stop in the middle of a bounce would leave the client on a port that nobody knows.
    fn finish_bounce(&mut self, ear: &mut dyn Ear) {
        let end = Instant::now() + RETURN_LIMIT;
        while let Some(step) = self.keeper.unfinished_bounce() {
            let result = self.remotes.carry_out(&step, &self.network);
            let over = result.is_err() || Instant::now() >= end;
            let verdict = self.keeper.record(time::now(), &step, result);
            self.hear(&verdict, ear);
            if over {
                break;
            }
        }
    }

    fn status(&self, now: Now) -> Status {
        Status::of(&self.keeper.snapshot(), self.remotes.client.name(), self.interval, now.wall)
    }

    fn write_status(&mut self, stopped: Option<Now>) {
        let mut status = self.status(time::now());
        status.stopped_at = stopped.map(|now| time::rfc3339(now.wall));
        if let Some(views) = &mut self.views {
            views.show(&status, self.keeper.port_to_listen_on());
        }
        match status.write(self.state.folder()) {
            Ok(()) => self.unwritable = false,
            Err(error) if !std::mem::replace(&mut self.unwritable, true) => {
                ::log::warn!("{error}; status and healthcheck do not know the state");
            }
            Err(_) => {}
        }
    }
}
