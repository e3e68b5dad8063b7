//! The decisions, and the only place that remembers: from the facts and the time, [`Keeper::next`] derives the next step, and
//! [`Keeper::record`] turns the result of a step into new facts and an outcome to report.
//!
//! Pure: no I/O, no clock, no randomness of its own. There are no named states, only facts and deadlines, read from the most urgent
//! to the least, so no transition can be forgotten. Three gates (account, gateway, client) back off separately.

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

use crate::error::{Error, Retry};
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
/// Longest `Retry-After` accepted from the gateway: a port is at stake.
const GATEWAY_RETRY_AFTER_CAP: Duration = Duration::from_secs(5 * 60);
/// Shortest time between two logins because of refused tokens: if the gateway refuses a fresh token, the gateway is wrong, not the
/// token.
const LOGIN_SPACING: Duration = Duration::from_secs(30 * 60);
/// Wait between attempts in a tunnel that has just come up.
const SETTLING_RETRY: Duration = Duration::from_millis(500);
/// Interval of the daily summary.
const DAY: Duration = Duration::from_secs(24 * 3600);
/// Unexplained refusals of a bind in a row that count as a refusal of the lease.
const REFUSALS_UNTIL_RENEWAL: u32 = 3;

/// Initial values of a keeper.
pub struct Setup {
    /// Time between two binds, and between two checks of the client.
    pub interval: Duration,
    pub origin: Origin,
    pub profile: ClientProfile,
    /// Read the client's state, but never change it.
    pub hands_off: bool,
    /// Time to keep running when only the loopback device is left; `None` means forever.
    pub isolation: Option<Duration>,
    /// For the jitter of waits.
    pub seed: u64,
}

/// Origin of the port.
pub enum Origin {
    /// We lease and bind, beginning with the stored lease if there is one.
    Lease(Option<Lease>),
    /// Another program leases and binds, and we poll it for the port.
    Source { poll_interval: Duration },
}

/// A port that another program leases and binds.
#[derive(Debug)]
struct Followed {
    poll_interval: Duration,
    poll_at: Instant,
    port: Option<u16>,
    /// The program has no port now; `port` is its last one.
    gone: bool,
}

/// The last successful bind.
#[derive(Debug, Clone)]
pub struct LastBind {
    pub at: Timestamp,
    pub gateway: Option<SocketAddr>,
    /// The route to the gateway.
    pub route: Option<GatewayRoute>,
}

#[derive(Debug)]
#[allow(clippy::struct_excessive_bools, reason = "facts, each by itself")]
pub struct Keeper {
    interval: Duration,
    isolation: Option<Duration>,
    /// `None` if we lease and bind ourselves.
    followed: Option<Followed>,
    token: Option<Secret>,
    /// The token that was refused last: the cache file is ignored while it holds this token.
    token_refused: Option<Secret>,
    /// Refused tokens since the last accepted one.
    tokens_refused: u32,
    logged_in: Option<Instant>,
    lease: Option<Held>,
    /// The user asked for a port other than the present lease's.
    wants_new_port: bool,
    /// The previous lease, kept until the one that replaces it is bound.
    fallback: Option<Held>,
    /// Time of the last signature.
    signed: Option<Instant>,
    /// A request for a signature has failed since the present lease was granted.
    renewal_failed: bool,
    /// The user knows that leases cannot be stored.
    store_failed: bool,
    last_bind: Option<LastBind>,
    /// Failed binds in a row.
    binds_failed: u32,
    /// The next bind is news: it is the first one, or the first one after a change.
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

/// All facts that views show, at one moment.
pub struct Snapshot<'a> {
    /// Another program leases the port, and we follow.
    pub follows: bool,
    /// The leased or followed port.
    pub port: Option<u16>,
    pub expires_at: Option<Timestamp>,
    /// The last bind of the present lease.
    pub last_bind: Option<&'a LastBind>,
    /// The present route to the gateway, or into the tunnel while the gateway is unknown.
    pub route: Option<&'a GatewayRoute>,
    /// Failed binds in a row.
    pub binds_failed: u32,
    /// Latest port in the client's settings.
    pub client_port: Option<u16>,
    /// Time and port of the last proof that the client listens.
    pub last_listening: Option<(Timestamp, u16)>,
    /// The client's latest report.
    pub connectivity: Option<Connectivity>,
    /// The kernel shows the client's socket.
    pub socket_seen: bool,
    /// Time since which the client has its port.
    pub port_since: Option<Timestamp>,
    /// Last sign of a peer from outside on this port.
    pub peer_seen_at: Option<Timestamp>,
    pub troubles: Vec<(Remote, &'a Trouble)>,
}

impl Keeper {
    pub fn new(setup: Setup, now: Now) -> Self {
        let client = Client::new(&setup, now);
        let (lease, followed) = match setup.origin {
            Origin::Lease(stored) => (stored.map(|lease| Held::stored(lease, now)), None),
            Origin::Source { poll_interval } => {
                (None, Some(Followed { poll_interval, poll_at: now.mono, port: None, gone: false }))
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

    /// The next step. A wait is never zero, and never longer than an interval, so that a jump of the wall clock costs one interval at
    /// most.
    pub fn next(&self, now: Now) -> Step {
        let mut soonest = now.mono + self.interval;
        for (at, step) in self.agenda(self.clock.correct(now)).into_iter().flatten() {
            if at <= now.mono {
                return step;
            }
            soonest = soonest.min(at);
        }
        // One timer tick after the deadline, so that the deadline has certainly passed.
        Step::Wait(soonest - now.mono + Duration::from_millis(1))
    }

    /// The pending steps and their times, from the most urgent to the least.
    fn agenda(&self, now: Now) -> [Option<(Instant, Step)>; 6] {
        let end = self.tunnel.isolated.zip(self.isolation).map(|(since, limit)| (since + limit, Step::Exit));
        // In the middle of a bounce the client goes back to the old port if a new one is not bound.
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

    /// A good lease is bound when due. So is a refused or expired one while we cannot get a new one: the gateway or our clock may
    /// have been wrong.
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

    /// Earliest time, not before `at`, for the next request of a signature. The spacing prevents a storm if a gateway grants leases
    /// that end at once, or refuses to bind what it granted.
    fn next_signature(&self, at: Instant) -> Instant {
        self.signed.map_or(at, |signed| at.max(signed + self.interval))
    }

    /// The port that the client should have: our own once it is bound, or the followed one.
    pub fn port_to_listen_on(&self) -> Option<u16> {
        match &self.followed {
            Some(followed) => followed.port,
            None => self.lease.as_ref().filter(|held| held.bound).map(|held| held.lease.port),
        }
    }

    /// Whether a full pass is complete: nothing is failing, and nothing is left to do before the next interval.
    pub fn is_settled(&self, now: Now) -> bool {
        // The next check of the client is due with the next bind.
        self.port_to_listen_on().is_some() && !self.client.is_busy(now) && !self.has_troubles()
    }

    pub fn has_troubles(&self) -> bool {
        self.troubles().next().is_some()
    }

    /// The second half of a bounce that must still be sent before a stop.
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
            route: self.tunnel.route.as_ref().filter(|_| !self.tunnel.lost),
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
            (Some((_, Notice::Failed { attempts: 1, .. })), Remote::Gateway) => self.day.outages += 1,
            _ => {}
        }
    }

    /// Replaces an unimportant line by the summary of the day, once a day.
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
                // Until the new lease is bound, the old one is worth more after a kill.
                held.store_at = held.store_at.filter(|_| self.fallback.is_none());
                self.lease = Some(held);
                Ok(Outcome::quiet(remote))
            }
            // Reported only now, when the lease survives a kill.
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
            Completed::Bound { gateway, route } => Ok(self.bound(now, gateway, route)),
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
                Some(port) => self.client.inspected(now, port, sockets),
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
                    // With the next bind, so that an interval is one wake-up.
                    let next_bind = self.lease.as_ref().map(|held| held.bind_at).filter(|&at| at > now.mono);
                    let next_round = next_bind.unwrap_or(now.mono + self.interval);
                    self.client.confirmed(now, port, connectivity, next_round)
                }
                None => Ok(Outcome::quiet(remote)),
            },
        }
    }

    fn bound(&mut self, now: Now, gateway: Option<SocketAddr>, route: Option<GatewayRoute>) -> Outcome {
        let before = self.port_to_listen_on();
        let corrected = self.clock.correct(now);
        // Recorded with the bind, not with the next observation, because the client may have opened a new socket by then.
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
        // The lease is good, so the account is not needed until renewal, and nothing else would end its trouble.
        if held.renew_at(corrected).is_none_or(|at| at > now.mono) {
            self.account.forget();
        }
        self.last_bind = Some(LastBind { at: now.wall, gateway, route });
        self.binds_failed = 0;
        if before != Some(port) {
            self.client.begin_round(now.mono);
        }
        self.client.tunnel_confirmed(now);
        // A signature alone does not open the gate: a gateway that signs leases and refuses to bind them is failing.
        let recovered = self.gateway.open(now);
        let worth = std::mem::take(&mut self.log_next_bind) || before != Some(port) || recovered.is_some();
        let level = if worth { Level::Info } else { Level::Debug };
        Outcome { remote: Remote::Gateway, notice: Some((level, Notice::Bound(port))), recovered }
    }

    fn followed_port(&mut self, now: Now, port: Option<u16>) -> Outcome {
        let recovered = self.gateway.open(now);
        let Some(followed) = &mut self.followed else { return Outcome::quiet(Remote::Gateway) };
        followed.poll_at = now.mono + followed.poll_interval;
        let was_gone = std::mem::replace(&mut followed.gone, port.is_none());
        let notice = match port {
            Some(port) if followed.port != Some(port) => {
                followed.port = Some(port);
                self.client.begin_round(now.mono);
                Some((Level::Info, Notice::Source(port)))
            }
            Some(port) if was_gone => Some((Level::Info, Notice::Source(port))),
            None if !was_gone => Some((Level::Warn, Notice::SourceHasNoPort)),
            _ => None,
        };
        if followed.port.is_some() {
            self.client.tunnel_confirmed(now);
        }
        Outcome { remote: Remote::Gateway, notice, recovered }
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
            // Rejected credentials close the gate for every step, even for one whose other failures do not matter.
            Step::Reannounce | Step::CheckInbound
                if matches!(error.retry, Retry::CredentialsRejected | Retry::LockedOut(_)) =>
            {
                self.client.reannounced();
                return self.client.failed(now, error, |wait| jittered(random, wait));
            }
            // The port is right all the same, and the client announces it to its trackers at their regular interval.
            Step::Reannounce => {
                self.client.reannounced();
                return Outcome::of(Remote::Client, Some((Level::Warn, Notice::ReannounceFailed(Rc::new(error)))));
            }
            // Retried in an hour; the next round shows any trouble with the client.
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
        // A tunnel that has just come up may carry packets at any moment.
        let next = if error.retry == Retry::Backoff && self.tunnel.is_settling(now) {
            self.gateway.pause(now.mono + SETTLING_RETRY);
            SETTLING_RETRY
        } else {
            self.gateway.close(now, &error, |wait| jittered(random, wait))
        };
        record_trouble(&mut self.gateway, Remote::Gateway, now, error, next)
    }

    /// Handles a failed bind. True on the first refusal of the lease itself, which leads to a new signature without a wait.
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

    /// Whether only a request for a different port has failed, while the lease is good. Failures that protect an account do not count:
    /// they are recorded as troubles.
    fn is_not_renewed(&self, now: Now, error: &Error) -> bool {
        let good = self.lease.as_ref().is_some_and(|held| held.is_good(self.clock.correct(now)));
        let passes = match error.retry {
            Retry::CredentialsRejected | Retry::LockedOut(_) => false,
            Retry::TokenRefused => !self.token_is_replaceable(now),
            _ => true,
        };
        self.wants_new_port && good && passes
    }

    /// A token from the file may be replaced by a login at any time, a token from a login only after [`LOGIN_SPACING`].
    fn token_is_replaceable(&self, now: Now) -> bool {
        self.logged_in.is_none_or(|at| now.mono.saturating_duration_since(at) >= LOGIN_SPACING)
    }

    /// Suppresses the warning that leases cannot be stored, because the user knows.
    pub fn expect_no_store(&mut self) {
        self.store_failed = true;
    }

    /// Continues the wait of an earlier run, in which `remote` rejected these credentials `ago`.
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

    /// Records the present route to the gateway, or into the tunnel while the gateway is unknown.
    pub fn observe_route(
        &mut self,
        now: Now,
        gateway: Option<SocketAddr>,
        route: Result<GatewayRoute, Error>,
    ) -> Option<Outcome> {
        let to = match route {
            Ok(to) => to,
            Err(error) if self.tunnel.mark_lost() => {
                self.client.suspect_socket();
                let outcome = if self.followed.is_none() {
                    record_trouble(&mut self.gateway, Remote::Gateway, now, error, Duration::ZERO)
                } else {
                    // The source of the port can still be polled, and its answer does not mean that the tunnel is back.
                    let notice = Notice::Failed { error: Rc::new(error), attempts: 1, next: Duration::ZERO };
                    Outcome::of(Remote::Gateway, Some((Level::Error, notice)))
                };
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
                self.retry_now(now);
                Some(Outcome::of(Remote::Gateway, Some((Level::Info, Notice::Tunnel { from, to }))))
            }
        }
    }

    /// Records whether only loopback is left; true if the last other device has just gone.
    pub fn observe_devices(&mut self, now: Now, isolated: bool) -> bool {
        let before = self.tunnel.isolated;
        self.tunnel.observe_devices(now, isolated);
        before.is_none() && self.tunnel.isolated.is_some()
    }

    /// Handles a jump of the clock, which was set, or the machine has slept: the binding may have lapsed, and the clock is not trusted
    /// for the end of the lease before the next bind.
    pub fn observe_clock(&mut self, now: Now) -> Option<Outcome> {
        let jump = self.tunnel.clock_jump(now)?;
        self.clock.forget();
        if let Some(held) = &mut self.lease {
            held.expiry_trusted = false;
        }
        self.retry_now(now);
        Some(Outcome::of(Remote::Gateway, Some((Level::Info, Notice::ClockJumped(jump)))))
    }

    /// Compares the clock with the time of the authenticated gateway.
    pub fn compare_clock(&mut self, now: Now, date: SystemTime) -> Option<Outcome> {
        let notice = self.clock.compare(date, now)?;
        let level = if notice == ClockChange::Correct { Level::Info } else { Level::Warn };
        Some(Outcome::of(Remote::Gateway, Some((level, Notice::Clock(notice)))))
    }

    /// Requests a different port at once; the present lease is given up when the new one is bound. The request is dropped, not
    /// deferred, without a tunnel or while the account must be left alone.
    pub fn force_renewal(&mut self, now: Now) {
        self.account.retry_now();
        self.gateway.retry_now();
        self.signed = None;
        let at_once = !self.tunnel.lost && (self.token.is_some() || self.account.after(now.mono) <= now.mono);
        self.wants_new_port = at_once && self.followed.is_none() && self.lease.is_some();
    }

    /// Ends every wait, except those that protect an account: bind and check the client now.
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
    /// The remote whose gate and troubles the step belongs to.
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

/// 80 to 100 % of `wait`, so that many daemons that lost the same server do not come back at the same moment.
fn jittered(random: &mut u64, wait: Duration) -> Duration {
    // xorshift64: good enough to spread waits, and reproducible from the seed.
    *random ^= *random << 13;
    *random ^= *random >> 7;
    *random ^= *random << 17;
    wait * (80 + u32::try_from(*random % 21).unwrap_or(0)) / 100
}
