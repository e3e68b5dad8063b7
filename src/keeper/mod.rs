//! Makes all decisions and holds the only state kept between steps: [`Keeper::next`] derives the next step from the facts and the
//! time, and [`Keeper::record`] turns the step's result into new facts and an outcome to report.
//!
//! This module does no I/O; the time and the random seed are passed in. There are no named states, only facts and deadlines, which
//! are checked in order of urgency, so no state transition can be forgotten. Account, gateway and client each have a gate, and the
//! three gates back off independently.

pub mod client;
mod gate;
pub mod lease;
mod outcome;
#[cfg(test)]
mod simulation;
pub mod step;
#[cfg(test)]
mod tests;
pub mod tunnel;

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime};

use jiff::Timestamp;
use log::Level;

use crate::error::{Call, Cause, Error, Retry, SOURCE_TIMEOUT};
use crate::secret::Secret;
use crate::time::{Clock, ClockChange, Now};
use client::{Client, ClientProfile};
use gate::Gate;
pub use gate::Trouble;
use lease::{Held, Lease};
pub use outcome::{Day, Notice, Outcome, Remote, Visibility};
use step::{Completed, Connectivity, Exchange, Inbound, Progress, Step};
use tunnel::{GatewayRoute, RouteChange, Tunnel};

/// Longest `Retry-After` accepted from the account API.
const ACCOUNT_RETRY_AFTER_CAP: Duration = Duration::from_secs(24 * 3600);
/// Longest `Retry-After` accepted from the gateway. Kept short, because a binding lapses after 15 minutes.
const GATEWAY_RETRY_AFTER_CAP: Duration = Duration::from_secs(5 * 60);
/// Minimum time between logins caused by refused tokens. If the gateway refuses even a fresh token, the gateway is at fault, and a
/// further login cannot help.
const LOGIN_SPACING: Duration = Duration::from_secs(30 * 60);
/// Wait between attempts in a tunnel that has just come up.
const SETTLING_RETRY: Duration = Duration::from_millis(500);
/// Interval between polls of a source that has no port, until [`SOURCE_TIMEOUT`] after a start or a change.
const FAST_POLL: Duration = Duration::from_millis(1500);
const DAY: Duration = Duration::from_secs(24 * 3600);
/// After this many consecutive unexplained refusals to bind a lease, we treat the lease itself as refused.
const REFUSALS_UNTIL_RENEWAL: u32 = 3;

/// A keeper's initial values.
pub struct Setup {
    /// Time between binds, and between checks of the client.
    pub interval: Duration,
    pub origin: Origin,
    pub profile: ClientProfile,
    /// Read the client's state, but never change it.
    pub hands_off: bool,
    /// How long to keep running once only the loopback device is left; `None` means forever.
    pub isolation: Option<Duration>,
    /// Seed for the random jitter of waits.
    pub seed: u64,
}

/// How we get the port.
pub enum Origin {
    /// We lease and bind the port ourselves, starting from the stored lease if there is one.
    Lease(Option<Lease>),
    /// Another program leases and binds the port, and we poll that program.
    Source {
        name: String,
        poll_interval: Duration,
        /// What to do if the program has no port for a minute.
        advice: &'static str,
    },
}

/// A port that another program leases and binds.
#[derive(Debug)]
struct Followed {
    /// Name of the program, with its address.
    name: String,
    poll_interval: Duration,
    advice: &'static str,
    poll_at: Instant,
    /// End of fast polling, which begins with a start, a new tunnel, or the loss of the port.
    fast_until: Instant,
    port: Option<u16>,
    /// Set while the program has no port; `port` is then its last one.
    gone_since: Option<Instant>,
}

impl Followed {
    /// Time for which the program has had no port.
    fn gone_for(&self, now: Now) -> Option<Duration> {
        self.gone_since.map(|since| now.mono.saturating_duration_since(since))
    }

    /// True if a port may appear at any moment.
    fn is_expected(&self, now: Now) -> bool {
        now.mono < self.fast_until && (self.port.is_none() || self.gone_since.is_some())
    }

    fn expect(&mut self, now: Now) {
        self.fast_until = now.mono + SOURCE_TIMEOUT;
    }
}

/// The last successful bind.
#[derive(Debug, Clone)]
pub struct LastBind {
    pub at: Timestamp,
    pub gateway: Option<SocketAddr>,
    pub route: Option<GatewayRoute>,
}

#[derive(Debug)]
#[allow(clippy::struct_excessive_bools, reason = "independent facts")]
pub struct Keeper {
    interval: Duration,
    isolation: Option<Duration>,
    /// `None` if we lease and bind the port ourselves.
    followed: Option<Followed>,
    token: Option<Secret>,
    /// The most recently refused token. We ignore the cache file as long as it contains this token.
    token_refused: Option<Secret>,
    /// Number of tokens refused since the gateway last accepted a token.
    tokens_refused: u32,
    logged_in: Option<Instant>,
    lease: Option<Held>,
    /// The user asked for a different port, so the current lease must be replaced.
    wants_new_port: bool,
    /// Previous lease, kept until its replacement is bound.
    fallback: Option<Held>,
    /// Time at which the gateway last granted a lease.
    signed: Option<Instant>,
    /// A login or a request for a signature has failed since the current lease was granted.
    renewal_failed: bool,
    /// The user has already been warned that leases cannot be stored, so further failures are logged at DEBUG.
    store_failed: bool,
    last_bind: Option<LastBind>,
    /// Consecutive failed binds.
    binds_failed: u32,
    /// The gateway has refreshed a binding in this tunnel, so it would refresh one that it still has.
    refreshes: bool,
    /// Log the next bind at INFO, because it is the first bind since the start or since a change.
    log_next_bind: bool,
    /// Counts since the last daily summary.
    day: Day,
    day_ends: Instant,
    tunnel: Tunnel,
    clock: Clock,
    account: Gate,
    gateway: Gate,
    client: Client,
    random: u64,
}

/// The keeper's state at one moment, for the views.
pub struct Snapshot<'a> {
    /// Another program leases the port, and we follow that program.
    pub follows: bool,
    /// The leased or followed port.
    pub port: Option<u16>,
    pub expires_at: Option<Timestamp>,
    /// Last bind of the current lease.
    pub last_bind: Option<&'a LastBind>,
    /// Latest route to the gateway, or into the tunnel while the gateway is unknown, even if it is lost now.
    pub route: Option<&'a GatewayRoute>,
    /// Consecutive failed binds.
    pub binds_failed: u32,
    /// Port last read from the client's settings.
    pub client_port: Option<u16>,
    /// Time and port of the latest evidence that the client was listening.
    pub last_listening: Option<(Timestamp, u16)>,
    /// The client's latest report about its reachability.
    pub connectivity: Option<Connectivity>,
    /// The kernel shows the client's socket.
    pub socket_seen: bool,
    /// When the client was first confirmed to listen on its current port.
    pub port_since: Option<Timestamp>,
    /// Last sign of an incoming peer on the client's current port.
    pub peer_seen_at: Option<Timestamp>,
    pub troubles: Vec<(Remote, &'a Trouble)>,
}

impl Keeper {
    pub fn new(setup: Setup, now: Now) -> Self {
        let client = Client::new(&setup, now);
        let (lease, followed) = match setup.origin {
            Origin::Lease(stored) => (stored.map(|lease| Held::stored(lease, now)), None),
            Origin::Source { name, poll_interval, advice } => {
                let (poll_at, fast_until) = (now.mono, now.mono + SOURCE_TIMEOUT);
                (
                    None,
                    Some(Followed { name, poll_interval, advice, poll_at, fast_until, port: None, gone_since: None }),
                )
            }
        };
        Self {
            interval: setup.interval,
            isolation: setup.isolation,
            followed,
            token: None,
            token_refused: None,
            tokens_refused: 0,
            logged_in: None,
            lease,
            wants_new_port: false,
            fallback: None,
            signed: None,
            renewal_failed: false,
            store_failed: false,
            last_bind: None,
            binds_failed: 0,
            refreshes: false,
            log_next_bind: true,
            day: Day::default(),
            day_ends: now.mono + DAY,
            tunnel: Tunnel::new(now),
            clock: Clock::default(),
            account: Gate::new(ACCOUNT_RETRY_AFTER_CAP),
            gateway: Gate::new(GATEWAY_RETRY_AFTER_CAP),
            client,
            random: setup.seed | 1,
        }
    }

    /// Returns the next step. A wait is never zero and never longer than an interval, so that a jump of the wall clock delays a
    /// step by one interval at most.
    pub fn next(&self, now: Now) -> Step {
        let mut soonest = now.mono + self.interval;
        for (at, step) in self.agenda(self.clock.correct(now)).into_iter().flatten() {
            if at <= now.mono {
                return step;
            }
            soonest = soonest.min(at);
        }
        // Wait a millisecond longer, so that the deadline has certainly passed when the wait ends.
        Step::Wait(soonest - now.mono + Duration::from_millis(1))
    }

    /// Pending steps and their times, most urgent first.
    fn agenda(&self, now: Now) -> [Option<(Instant, Step)>; 6] {
        let end = self.tunnel.isolated.zip(self.isolation).map(|(since, limit)| (since + limit, Step::Exit));
        // Without a bound port, the second half of a bounce restores the client's old port.
        let client = self
            .port_to_listen_on()
            .or(self.client.away_from())
            .map(|port| self.client.agenda(port, self.tunnel.route.as_ref(), now));
        let store =
            self.lease.as_ref().and_then(|held| Some((held.store_at?, Step::StoreLease(Rc::clone(&held.lease)))));
        if self.tunnel.lost && self.followed.is_none() {
            return [end, store, client, None, None, None];
        }
        let ask = self.followed.as_ref().map(|followed| (self.gateway.after(followed.poll_at), Step::PollSource));
        [end, store, ask, self.bind(now), self.renew(now), client]
    }

    /// Schedules the bind of a good lease. As long as we cannot get a new lease, we also bind a refused or expired lease, because
    /// the gateway or our clock may have been wrong.
    fn bind(&self, now: Now) -> Option<(Instant, Step)> {
        let no_other = self.renewal_failed || self.next_signature(now.mono) > now.mono;
        let held = self.lease.as_ref().filter(|held| held.is_good(now) || no_other)?;
        Some((self.gateway.after(held.bind_at), Step::Bind(Rc::clone(&held.lease))))
    }

    fn renew(&self, now: Now) -> Option<(Instant, Step)> {
        let wanted = match &self.lease {
            Some(_) if self.wants_new_port => now.mono,
            Some(held) => held.renew_at(now)?,
            None if self.followed.is_some() => return None,
            None => now.mono,
        };
        let at = self.gateway.after(self.next_signature(wanted));
        Some(match &self.token {
            Some(token) => (at, Step::GetSignature { token: token.clone() }),
            None => (self.account.after(at), Step::GetToken { refused: self.token_refused.clone() }),
        })
    }

    /// Earliest time, at or after `at`, for the next signature request. Spacing the requests prevents a storm if a gateway grants
    /// leases that expire at once, or refuses to bind leases that it has just granted.
    fn next_signature(&self, at: Instant) -> Instant {
        self.signed.map_or(at, |signed| at.max(signed + self.interval))
    }

    /// The port that the client should listen on: our leased port once it is bound, or the followed port.
    pub fn port_to_listen_on(&self) -> Option<u16> {
        match &self.followed {
            Some(followed) => followed.port,
            None => self.lease.as_ref().filter(|held| held.bound).map(|held| held.lease.port),
        }
    }

    /// The port to publish: none once the program that we follow has had none for a minute.
    pub fn port_to_publish(&self, now: Now) -> Option<u16> {
        let gone = self.followed.as_ref().and_then(|followed| followed.gone_for(now));
        self.port_to_listen_on().filter(|_| gone.is_none_or(|gone| gone < SOURCE_TIMEOUT))
    }

    /// True if a full pass is complete: nothing is failing, and nothing is left to do until the next interval.
    pub fn is_settled(&self, now: Now) -> bool {
        // `is_busy` also covers a due bind, because the client's next round falls due together with the next bind.
        self.port_to_listen_on().is_some() && !self.client.is_busy(now) && !self.has_troubles()
    }

    pub fn has_troubles(&self) -> bool {
        self.troubles().next().is_some()
    }

    /// The second half of an unfinished bounce, which must still be sent before we stop.
    pub fn unfinished_bounce(&self) -> Option<Step> {
        let port = self.port_to_listen_on().or(self.client.away_from());
        port.filter(|_| self.client.may_be_away()).map(Step::BounceBack)
    }

    pub fn snapshot(&self) -> Snapshot<'_> {
        let lease = self.lease.as_ref().map(|held| &held.lease);
        Snapshot {
            follows: self.followed.is_some(),
            port: lease.map(|lease| lease.port).or(self.followed.as_ref().and_then(|followed| followed.port)),
            expires_at: lease.map(|lease| lease.expires_at),
            last_bind: self.last_bind.as_ref().filter(|_| self.port_to_listen_on().is_some()),
            route: self.tunnel.route.as_ref(),
            binds_failed: self.binds_failed,
            client_port: self.client.port,
            last_listening: self.client.last_listening,
            connectivity: self.client.reported,
            socket_seen: self.client.socket_seen,
            port_since: self.client.port_since.map(|(since, _)| since),
            peer_seen_at: self.client.peer_seen_at,
            troubles: self.troubles().collect(),
        }
    }

    fn troubles(&self) -> impl Iterator<Item = (Remote, &Trouble)> {
        let gates =
            [(Remote::Account, &self.account), (Remote::Gateway, &self.gateway), (Remote::Client, &self.client.gate)];
        gates.into_iter().filter_map(|(remote, gate)| Some((remote, gate.trouble()?)))
    }

    /// Records the result of `step` and returns what to report.
    pub fn record(&mut self, now: Now, step: &Step, result: Exchange<Completed>) -> Outcome {
        let remote = step.remote();
        let outcome = match result {
            Ok(Progress::More) => Outcome::quiet(remote),
            Ok(Progress::Done(completed)) => {
                self.completed(now, step, completed).unwrap_or_else(|error| self.failed(now, step, error))
            }
            Err(error) => self.failed(now, step, error),
        };
        self.count(&outcome);
        self.summarise_day(now, outcome)
    }

    fn count(&mut self, outcome: &Outcome) {
        match (&outcome.notice, outcome.remote) {
            (Some((_, Notice::Bound(_))), _) => self.day.binds += 1,
            (Some((_, Notice::Rebound { .. })), _) => {
                self.day.binds += 1;
                self.day.outages += 1;
            }
            (Some((_, Notice::Failed { attempts: 1, .. })), Remote::Gateway) => self.day.outages += 1,
            _ => {}
        }
    }

    /// Once a day, replaces the DEBUG line of a successful round with the daily summary.
    fn summarise_day(&mut self, now: Now, outcome: Outcome) -> Outcome {
        let due = now.mono >= self.day_ends && outcome.recovered.is_none();
        match (&outcome.notice, self.port_to_listen_on()) {
            (Some((Level::Debug, Notice::Listening { .. })), Some(port)) if due => {
                self.day_ends = now.mono + DAY;
                let day = Day { port, peer_seen_at: self.client.peer_seen_at, ..std::mem::take(&mut self.day) };
                Outcome::of(outcome.remote, Some((Level::Info, Notice::Day(day))))
            }
            _ => outcome,
        }
    }

    /// Handles a completed step; `Err` if its result turns out to be a problem.
    fn completed(&mut self, now: Now, step: &Step, completed: Completed) -> Result<Outcome, Error> {
        let remote = step.remote();
        match completed {
            Completed::Token { token, logged_in } => {
                self.token = Some(token);
                self.token_refused = None;
                if logged_in {
                    self.logged_in = Some(now.mono);
                }
                let recovered = self.account.open(now);
                let notice =
                    if logged_in { (Level::Info, Notice::LoggedIn) } else { (Level::Debug, Notice::TokenCached) };
                Ok(Outcome { remote, notice: Some(notice), recovered })
            }
            Completed::Leased(lease) => {
                self.tokens_refused = 0;
                self.renewal_failed = false;
                self.signed = Some(now.mono);
                let mut held = Held::new(lease, now);
                let before = self.lease.take();
                if std::mem::take(&mut self.wants_new_port) {
                    self.fallback = before.filter(|held| !held.refused);
                }
                // Keep the old lease on disk until the new one is bound: if we are killed in between, a lease that worked is worth
                // more than an untested one.
                held.store_at = held.store_at.filter(|_| self.fallback.is_none());
                self.lease = Some(held);
                Ok(Outcome::quiet(remote))
            }
            // Report the lease only once it is stored and therefore survives a kill.
            Completed::Stored => {
                self.store_failed = false;
                let corrected = self.clock.correct(now);
                let notice = self.lease.as_mut().map(|held| {
                    held.store_at = None;
                    let over = !held.remaining(corrected).is_positive();
                    (Level::Info, Notice::Leased { lease: Rc::clone(&held.lease), over })
                });
                Ok(Outcome::of(remote, notice))
            }
            Completed::Bound { gateway, route, refreshed } => Ok(self.bound(now, gateway, route, refreshed)),
            Completed::Source(port) => Ok(self.followed_port(now, port)),
            Completed::Port(seen) => match self.port_to_listen_on() {
                Some(port) => self.client.port_read(now, port, seen),
                None => Ok(Outcome::quiet(remote)),
            },
            Completed::PortSet => {
                match step {
                    Step::BounceAway { port, .. } => self.client.bounced_away(*port),
                    _ => self.client.port_set(now),
                }
                Ok(Outcome::quiet(remote))
            }
            Completed::Inspected(sockets) => match self.port_to_listen_on() {
                Some(port) => self.client.inspected(now, port, sockets, self.tunnel.device()),
                None => Ok(Outcome::quiet(remote)),
            },
            Completed::Inbound(inbound) => {
                let port = self.port_to_listen_on().filter(|_| self.client.inbound(now, inbound));
                Ok(Outcome::of(remote, port.map(|port| (Level::Warn, Notice::NoInbound(port)))))
            }
            Completed::Reannounced => {
                self.client.reannounced();
                Ok(Outcome::of(remote, self.port_to_listen_on().map(|port| (Level::Info, Notice::Reannounced(port)))))
            }
            Completed::Reachability(connectivity) => match self.port_to_listen_on() {
                Some(port) => {
                    // Check the client together with the next bind, so that each interval needs a single wake-up.
                    let next_bind = self.lease.as_ref().map(|held| held.bind_at).filter(|&at| at > now.mono);
                    let next_round = next_bind.unwrap_or(now.mono + self.interval);
                    self.client.confirmed(now, port, connectivity, next_round)
                }
                None => Ok(Outcome::quiet(remote)),
            },
        }
    }

    fn bound(
        &mut self,
        now: Now,
        gateway: Option<SocketAddr>,
        route: Option<GatewayRoute>,
        refreshed: bool,
    ) -> Outcome {
        let before = self.port_to_listen_on();
        let same_gateway = self.last_bind.as_ref().is_some_and(|bind| bind.gateway == gateway);
        let corrected = self.clock.correct(now);
        // Record the route now. If the next observation did so, a socket that the client opens in the meantime would become suspect
        // without reason.
        if let Some(route) = &route
            && self.tunnel.has_other_target(gateway)
        {
            self.tunnel.observe(now, gateway, route);
            self.client.suspect_fresh_socket();
        }
        let Some(held) = &mut self.lease else { return Outcome::quiet(Remote::Gateway) };
        if self.fallback.take().is_some() {
            held.store_at = Some(now.mono);
        }
        held.bound = true;
        held.refused = false;
        held.refusals = 0;
        held.bind_at = now.mono + self.interval;
        held.expiry_trusted |=
            held.remaining(corrected).unsigned_abs() > lease::RENEW_BEFORE && held.remaining(corrected).is_positive();
        let port = held.lease.port;
        // With a good lease, we do not use the account until renewal, so nothing else would clear the account's trouble before
        // then.
        if held.renew_at(corrected).is_none_or(|at| at > now.mono) {
            self.account.forget();
        }
        // The server has restarted, or the binding has lapsed: since the last bind, peers may have been shut out.
        let expected = self.refreshes && same_gateway;
        self.refreshes = expected || refreshed;
        let rebound = (expected && !refreshed && before == Some(port))
            .then(|| self.last_bind.as_ref().map(|bind| now.wall.duration_since(bind.at).unsigned_abs()))
            .flatten();
        if rebound.is_some() {
            self.client.announce_again();
        }
        self.last_bind = Some(LastBind { at: now.wall, gateway, route });
        self.binds_failed = 0;
        if before != Some(port) {
            self.client.begin_round(now.mono);
        }
        self.client.tunnel_confirmed(now);
        // Only a bind opens the gate, not a signature: a gateway that signs leases but refuses to bind them is failing.
        let recovered = self.gateway.open(now);
        let worth = std::mem::take(&mut self.log_next_bind) || before != Some(port) || recovered.is_some();
        let notice = match rebound {
            Some(closed_for) => (Level::Info, Notice::Rebound { port, closed_for }),
            None => (if worth { Level::Info } else { Level::Debug }, Notice::Bound(port)),
        };
        Outcome { remote: Remote::Gateway, notice: Some(notice), recovered }
    }

    fn followed_port(&mut self, now: Now, port: Option<u16>) -> Outcome {
        let Some(followed) = &mut self.followed else { return Outcome::quiet(Remote::Gateway) };
        let Some(port) = port else { return self.source_without_port(now) };
        followed.poll_at = now.mono + followed.poll_interval;
        let back = followed.gone_since.take().is_some();
        let new = followed.port.replace(port) != Some(port);
        if new {
            self.client.begin_round(now.mono);
        }
        // Without a tunnel, a port is no evidence that peers get through.
        let mut recovered = None;
        if !self.tunnel.lost {
            recovered = self.gateway.open(now);
            self.client.tunnel_confirmed(now);
        }
        let notice = (new || back).then_some((Level::Info, Notice::Source(port)));
        Outcome { remote: Remote::Gateway, notice, recovered }
    }

    fn source_without_port(&mut self, now: Now) -> Outcome {
        let Some(followed) = &mut self.followed else { return Outcome::quiet(Remote::Gateway) };
        let begins = followed.gone_since.is_none();
        followed.gone_since.get_or_insert(now.mono);
        if begins && followed.port.is_some() {
            followed.expect(now);
        }
        let gone_for = followed.gone_for(now).unwrap_or_default();
        let wait =
            if followed.is_expected(now) { FAST_POLL.min(followed.poll_interval) } else { followed.poll_interval };
        followed.poll_at = now.mono + wait;
        let notice = begins.then_some((Level::Warn, Notice::SourceHasNoPort { keeps: followed.port }));
        let cause = Cause::NoPort { source: followed.name.clone(), since: gone_for };
        let error = Error::new(Call::PollSource, cause).advise(Some(followed.advice));
        self.gateway.pause(followed.poll_at);
        // Without a tunnel there can be no port, so the tunnel's trouble says more.
        if self.tunnel.lost {
            return Outcome::of(Remote::Gateway, notice);
        }
        let outcome = record_trouble(&mut self.gateway, Remote::Gateway, now, error, Duration::ZERO);
        if begins { Outcome::of(Remote::Gateway, notice) } else { outcome }
    }

    fn failed(&mut self, now: Now, step: &Step, error: Error) -> Outcome {
        if matches!(step, Step::GetToken { .. } | Step::GetSignature { .. }) && self.is_not_renewed(now, &error) {
            self.wants_new_port = false;
            return Outcome::of(Remote::Gateway, Some((Level::Warn, Notice::RenewalFailed(Rc::new(error)))));
        }
        let random = &mut self.random;
        match step {
            Step::StoreLease(lease) => {
                if let Some(held) = &mut self.lease {
                    held.store_at = Some(now.mono + self.interval);
                }
                let level = if std::mem::replace(&mut self.store_failed, true) { Level::Debug } else { Level::Warn };
                return Outcome::of(
                    Remote::Gateway,
                    Some((level, Notice::StoreFailed { lease: Rc::clone(lease), error: Rc::new(error) })),
                );
            }
            // A failure of these optional steps closes the gate only if the client rejected the credentials or locked us out.
            Step::Reannounce | Step::CheckInbound
                if matches!(error.retry, Retry::CredentialsRejected | Retry::LockedOut(_)) =>
            {
                self.client.reannounced();
                return self.client.failed(now, error, |wait| jittered(random, wait));
            }
            // This failure does little harm: the trackers receive the new port with the client's next regular announce.
            Step::Reannounce => {
                self.client.reannounced();
                return Outcome::of(Remote::Client, Some((Level::Warn, Notice::ReannounceFailed(Rc::new(error)))));
            }
            // Retry in an hour; the next round will reveal any trouble with the client.
            Step::CheckInbound => {
                self.client.inbound(now, Inbound::Idle);
                return Outcome::quiet(Remote::Client);
            }
            Step::ReadPort
            | Step::SetPort(_)
            | Step::BounceAway { .. }
            | Step::BounceBack(_)
            | Step::Inspect { .. }
            | Step::Confirm(_) => {
                if matches!(step, Step::BounceAway { .. }) && error.retry == Retry::Backoff {
                    self.client.bounce_away_failed();
                }
                return self.client.failed(now, error, |wait| jittered(random, wait));
            }
            Step::GetToken { .. } => {
                self.renewal_failed = true;
                self.wants_new_port = false;
                let next = self.account.close(now, &error, |wait| jittered(random, wait));
                return record_trouble(&mut self.account, Remote::Account, now, error, next);
            }
            Step::GetSignature { token } => {
                self.renewal_failed = true;
                if error.retry == Retry::TokenRefused && self.token_is_replaceable(now) {
                    self.token = None;
                    self.token_refused = Some(token.clone());
                    self.tokens_refused += 1;
                    if self.tokens_refused == 1 {
                        return Outcome::of(Remote::Gateway, Some((Level::Warn, Notice::TokenRefused(Rc::new(error)))));
                    }
                }
            }
            Step::Bind(lease) if self.fallback.is_some() => {
                let kept = self.fallback.take().map(|held| Held { bind_at: now.mono, ..held });
                let port = kept.as_ref().map_or(0, |held| held.lease.port);
                self.lease = kept;
                let notice = Notice::PortKept { port, refused: lease.port, error: Rc::new(error) };
                return Outcome::of(Remote::Gateway, Some((Level::Warn, notice)));
            }
            Step::Bind(_) => {
                self.binds_failed = self.binds_failed.saturating_add(1);
                if self.lease_failed(now, &error) {
                    return record_trouble(&mut self.gateway, Remote::Gateway, now, error, Duration::ZERO);
                }
            }
            Step::PollSource | Step::Wait(_) | Step::Exit => {}
        }
        let random = &mut self.random;
        let expects_port = self.followed.as_ref().is_some_and(|followed| followed.is_expected(now));
        let soon = match error.retry {
            Retry::Backoff if expects_port => Some(FAST_POLL),
            // A tunnel that has just come up may start to carry packets at any moment.
            Retry::Backoff if self.tunnel.is_settling(now) => Some(SETTLING_RETRY),
            _ => None,
        };
        let next = match soon {
            Some(soon) => {
                self.gateway.pause(now.mono + soon);
                soon
            }
            None => self.gateway.close(now, &error, |wait| jittered(random, wait)),
        };
        if self.tunnel.lost && self.followed.is_some() {
            let notice = Notice::Failed { error: Rc::new(error), attempts: 1, next };
            return Outcome::of(Remote::Gateway, Some((Level::Debug, notice)));
        }
        record_trouble(&mut self.gateway, Remote::Gateway, now, error, next)
    }

    /// Handles a failed bind. Returns true if the gateway refuses the lease itself for the first time: we then request a new
    /// signature immediately.
    fn lease_failed(&mut self, now: Now, error: &Error) -> bool {
        let corrected = self.clock.correct(now);
        let no_other = self.next_signature(now.mono) > now.mono;
        let Some(held) = &mut self.lease else { return false };
        let good = held.is_good(corrected);
        held.refusals = if error.retry == Retry::Refused { held.refusals + 1 } else { 0 };
        let renew = error.retry == Retry::LeaseRefused || held.refusals >= REFUSALS_UNTIL_RENEWAL;
        if !renew && good {
            return false;
        }
        held.refused |= renew;
        if no_other {
            return false;
        }
        held.bind_at = now.mono + self.interval;
        let first = good && self.gateway.failures() == 0;
        if first {
            self.gateway.shut(now.mono, false);
        }
        first
    }

    /// True if the user's request for a different port has failed, but the current lease is still good. Excludes failures that
    /// require a wait to protect an account: the caller records those as troubles.
    fn is_not_renewed(&self, now: Now, error: &Error) -> bool {
        let good = self.lease.as_ref().is_some_and(|held| held.is_good(self.clock.correct(now)));
        let passes = match error.retry {
            Retry::CredentialsRejected | Retry::LockedOut(_) => false,
            Retry::TokenRefused => !self.token_is_replaceable(now),
            _ => true,
        };
        self.wants_new_port && good && passes
    }

    /// True if we may log in for a new token, that is, if we have not logged in during the last [`LOGIN_SPACING`].
    fn token_is_replaceable(&self, now: Now) -> bool {
        self.logged_in.is_none_or(|at| now.mono.saturating_duration_since(at) >= LOGIN_SPACING)
    }

    /// Suppresses the warning that leases cannot be stored, because the user has already been warned.
    pub fn expect_no_store(&mut self) {
        self.store_failed = true;
    }

    /// Resumes a wait that began in an earlier run. `ago` is the time since `remote` rejected the credentials.
    pub fn remember_rejection(&mut self, now: Now, remote: Remote, error: Error, ago: Duration) {
        let gate = match remote {
            Remote::Account => &mut self.account,
            Remote::Gateway => &mut self.gateway,
            Remote::Client => &mut self.client.gate,
        };
        let remaining = gate::CREDENTIALS_WAIT.saturating_sub(ago);
        if !remaining.is_zero() {
            gate.shut(now.mono + remaining, true);
            gate.record_trouble(now, Rc::new(error));
        }
    }

    /// Records the current route to the gateway, or into the tunnel while the gateway is unknown.
    pub fn observe_route(
        &mut self,
        now: Now,
        gateway: Option<SocketAddr>,
        route: Result<GatewayRoute, Error>,
    ) -> Option<Outcome> {
        let to = match route.and_then(|to| self.tunnel.accept(to)) {
            Ok(to) => to,
            Err(error) if self.tunnel.mark_lost() => {
                self.client.suspect_socket();
                let outcome = record_trouble(&mut self.gateway, Remote::Gateway, now, error, Duration::ZERO);
                self.count(&outcome);
                return Some(outcome);
            }
            Err(_) => return None,
        };
        match self.tunnel.observe(now, gateway, &to) {
            RouteChange::Unchanged => None,
            RouteChange::OtherGateway => {
                self.client.suspect_fresh_socket();
                None
            }
            RouteChange::Changed { from } => {
                self.client.suspect_socket();
                self.refreshes = false;
                if let Some(followed) = &mut self.followed {
                    followed.expect(now);
                }
                self.retry_now(now);
                Some(Outcome::of(Remote::Gateway, Some((Level::Info, Notice::Tunnel { from, to }))))
            }
        }
    }

    /// Records whether only the loopback device is left. Returns true if the last other device has just disappeared.
    pub fn observe_devices(&mut self, now: Now, isolated: bool) -> bool {
        let before = self.tunnel.isolated;
        self.tunnel.observe_devices(now, isolated);
        before.is_none() && self.tunnel.isolated.is_some()
    }

    /// Handles a jump of the wall clock: the clock was set, or the machine was suspended. The binding may have lapsed, so we bind
    /// immediately. Until that bind succeeds, we do not trust the clock to show whether the lease has expired.
    pub fn observe_clock(&mut self, now: Now) -> Option<Outcome> {
        let jump = self.tunnel.clock_jump(now)?;
        self.clock.forget();
        if let Some(held) = &mut self.lease {
            held.expiry_trusted = false;
        }
        self.retry_now(now);
        Some(Outcome::of(Remote::Gateway, Some((Level::Info, Notice::ClockJumped(jump)))))
    }

    /// Compares our clock with `date`, the time that the authenticated gateway reported.
    pub fn compare_clock(&mut self, now: Now, date: SystemTime) -> Option<Outcome> {
        let notice = self.clock.compare(date, now)?;
        let level = if notice == ClockChange::Correct { Level::Info } else { Level::Warn };
        Some(Outcome::of(Remote::Gateway, Some((level, Notice::Clock(notice)))))
    }

    /// Requests a different port immediately; the current lease is given up once the new one is bound. If the tunnel is lost, or a
    /// login is needed but not allowed yet, the request is dropped rather than deferred.
    pub fn force_renewal(&mut self, now: Now) {
        self.account.retry_now();
        self.gateway.retry_now();
        self.signed = None;
        let at_once = !self.tunnel.lost && (self.token.is_some() || self.account.after(now.mono) <= now.mono);
        self.wants_new_port = at_once && self.followed.is_none() && self.lease.is_some();
    }

    /// Ends every wait except those that protect an account, so that we bind and check the client immediately.
    pub fn retry_now(&mut self, now: Now) {
        self.account.retry_now();
        self.gateway.retry_now();
        self.client.retry_now(now);
        self.signed = None;
        self.log_next_bind = true;
        if let Some(held) = &mut self.lease {
            held.bind_at = now.mono;
        }
        if let Some(followed) = &mut self.followed {
            followed.poll_at = now.mono;
        }
    }
}

impl Step {
    /// The remote whose gate and troubles apply to the step.
    pub fn remote(&self) -> Remote {
        match self {
            Self::GetToken { .. } => Remote::Account,
            Self::GetSignature { .. }
            | Self::StoreLease(_)
            | Self::Bind(_)
            | Self::PollSource
            | Self::Wait(_)
            | Self::Exit => Remote::Gateway,
            Self::ReadPort
            | Self::SetPort(_)
            | Self::BounceAway { .. }
            | Self::BounceBack(_)
            | Self::Inspect { .. }
            | Self::Confirm(_)
            | Self::Reannounce
            | Self::CheckInbound => Remote::Client,
        }
    }
}

/// Records a failure of `remote` and returns what to report.
fn record_trouble(gate: &mut Gate, remote: Remote, now: Now, error: Error, next: Duration) -> Outcome {
    let error = Rc::new(error);
    let (level, attempts) = gate.record_trouble(now, Rc::clone(&error));
    Outcome::of(remote, Some((level, Notice::Failed { error, attempts, next })))
}

/// 80 to 100 % of `wait`, so that daemons that lost the same server do not all reconnect at the same moment.
fn jittered(random: &mut u64, wait: Duration) -> Duration {
    // xorshift64: good enough to spread waits, and reproducible from the seed.
    *random ^= *random << 13;
    *random ^= *random >> 7;
    *random ^= *random << 17;
    wait * (80 + u32::try_from(*random % 21).unwrap_or(0)) / 100
}
