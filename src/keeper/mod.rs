//! The decisions, and the only place that remembers: what is known, and given what time it is, what is the next thing to do.
//!
//! Pure: no I/O, no clock, no randomness of its own. There are no named states, only facts and deadlines; [`Keeper::next`] reads
//! them from the most urgent to the least, so no transition can be forgotten. Three gates (account, gateway, client) back
//! off separately. [`Keeper::record`] takes how a step went and says what that means.

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

/// The longest `Retry-After` of an account that is believed.
const ACCOUNT_RETRY_AFTER_CAP: Duration = Duration::from_secs(24 * 3600);
/// The same for the gateway, where a port is at stake.
const GATEWAY_RETRY_AFTER_CAP: Duration = Duration::from_secs(5 * 60);
/// Between two logins for tokens that the gateway refuses: a fresh token that is refused means a wrong gateway, not a
/// wrong token.
const LOGIN_SPACING: Duration = Duration::from_secs(30 * 60);
/// Between two tries in a tunnel that has just come up.
const SETTLING_RETRY: Duration = Duration::from_millis(500);
/// Between two lines that tell how it went.
const DAY: Duration = Duration::from_secs(24 * 3600);
/// Unexplained refusals of a bind after which the lease is taken to be the reason.
const REFUSALS_UNTIL_RENEWAL: u32 = 3;

/// What a keeper starts with.
pub struct Setup {
    /// Between two binds, and between two looks at the client.
    pub interval: Duration,
    /// Where the port comes from.
    pub origin: Origin,
    /// Of the client.
    pub profile: ClientProfile,
    /// The client is looked at and left as it is.
    pub hands_off: bool,
    /// How long to stay where no device but loopback is left; for ever if there is none.
    pub isolation: Option<Duration>,
    /// Makes the jitter.
    pub seed: u64,
}

/// Where the port comes from.
pub enum Origin {
    /// We lease and bind.
    Lease(Option<Lease>),
    /// Somebody else does; ask this often.
    Source {
        /// Between two questions.
        poll_interval: Duration,
    },
}

/// Somebody else leases and binds, we follow.
#[derive(Debug)]
struct Followed {
    poll_interval: Duration,
    poll_at: Instant,
    port: Option<u16>,
    /// It has none now.
    gone: bool,
}

/// The last bind that was granted.
#[derive(Debug, Clone)]
pub struct LastBind {
    /// When.
    pub at: Timestamp,
    /// The gateway's address.
    pub gateway: Option<SocketAddr>,
    /// The route there.
    pub route: Option<GatewayRoute>,
}

/// The keeper.
#[derive(Debug)]
#[allow(clippy::struct_excessive_bools, reason = "facts, each by itself")]
pub struct Keeper {
    interval: Duration,
    isolation: Option<Duration>,
    /// None when we lease and bind ourselves.
    followed: Option<Followed>,
    token: Option<Secret>,
    /// The token that was refused last: the cache file is not believed while it holds this one.
    token_refused: Option<Secret>,
    /// Tokens that were refused since the last one that was accepted.
    tokens_refused: u32,
    logged_in: Option<Instant>,
    lease: Option<Held>,
    /// Somebody wants another port than this lease's.
    wants_new_port: bool,
    /// The lease that is given up when the one that was asked for in its place is bound.
    fallback: Option<Held>,
    /// When the last signature was given.
    signed: Option<Instant>,
    /// A signature was asked for since there is this lease, and not given.
    renewal_failed: bool,
    /// That leases cannot be stored was told.
    store_failed: bool,
    last_bind: Option<LastBind>,
    /// Binds in a row that failed.
    binds_failed: u32,
    /// Somebody waits to hear of the next bind: it is the first one, or one after a change.
    log_next_bind: bool,
    /// What has happened since the last line that told so, and when the next one is due.
    day: Day,
    day_ends: Instant,
    tunnel: Tunnel,
    clock: Clock,
    account: Gate,
    gateway: Gate,
    client: Client,
    random: u64,
}

/// All that is remembered and shown, at one moment.
pub struct Snapshot<'a> {
    /// The port is somebody else's, whom we follow.
    pub follows: bool,
    /// The leased port, or the followed one.
    pub port: Option<u16>,
    /// When the lease ends.
    pub expires_at: Option<Timestamp>,
    /// The last bind of this lease; none while it was not bound.
    pub last_bind: Option<&'a LastBind>,
    /// The route to the gateway, or into the tunnel, as it is now; none while there is none.
    pub route: Option<&'a GatewayRoute>,
    /// Binds in a row that failed.
    pub binds_failed: u32,
    /// The port that the client was last seen with.
    pub client_port: Option<u16>,
    /// When the client was last seen listening, and on which port.
    pub last_listening: Option<(Timestamp, u16)>,
    /// What it said of that.
    pub connectivity: Option<Connectivity>,
    /// The kernel sees its socket.
    pub socket_seen: bool,
    /// Since when it has this port.
    pub port_since: Option<Timestamp>,
    /// When a peer from outside was last seen on it.
    pub peer_seen_at: Option<Timestamp>,
    /// What is failing.
    pub troubles: Vec<(Remote, &'a Trouble)>,
}

impl Keeper {
    /// A keeper that knows nothing but `setup`.
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

    /// The next thing to do.
    ///
    /// A wait is never zero and never longer than an interval, so that a jump of the wall clock costs one interval at most.
    pub fn next(&self, now: Now) -> Step {
        let mut soonest = now.mono + self.interval;
        for (at, step) in self.agenda(self.clock.correct(now)).into_iter().flatten() {
            if at <= now.mono {
                return step;
            }
            soonest = soonest.min(at);
        }
        // One timer tick later than the deadline, so that it has surely passed.
        Step::Wait(soonest - now.mono + Duration::from_millis(1))
    }

    /// What is to be done and when, from the most urgent to the least.
    fn agenda(&self, now: Now) -> [Option<(Instant, Step)>; 6] {
        let end = self.tunnel.isolated.zip(self.isolation).map(|(since, limit)| (since + limit, Step::Exit));
        // Whoever is in the middle of a bounce goes back to the old port when the new one is not bound.
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

    /// A good lease is bound when its time has come. A refused or expired one is tried again, too, while no other can be
    /// had: the gateway or our clock may have been wrong.
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

    /// The earliest time from `at` on at which a signature may be asked for: a gateway that gives leases which end at once, or
    /// refuses to bind what it gave, is not asked for one after the other.
    fn next_signature(&self, at: Instant) -> Instant {
        self.signed.map_or(at, |signed| at.max(signed + self.interval))
    }

    /// The port that the client is to have: one that was bound, or the one of somebody else.
    pub fn port_to_listen_on(&self) -> Option<u16> {
        match &self.followed {
            Some(followed) => followed.port,
            None => self.lease.as_ref().filter(|held| held.bound).map(|held| held.lease.port),
        }
    }

    /// Whether nothing is failing and everything was done: the end of one full pass.
    pub fn is_settled(&self, now: Now) -> bool {
        // The next look at the client is due with the next bind.
        self.port_to_listen_on().is_some() && !self.client.is_busy(now) && !self.has_troubles()
    }

    /// Whether anything is failing.
    pub fn has_troubles(&self) -> bool {
        self.troubles().next().is_some()
    }

    /// The port that the client is to be brought back to before a stop: it is in the middle of a bounce.
    pub fn unfinished_bounce(&self) -> Option<Step> {
        let port = self.port_to_listen_on().or(self.client.away_from());
        port.filter(|_| self.client.may_be_away()).map(Step::BounceBack)
    }

    /// Everything that is shown.
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

    /// Takes down how `step` went.
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

    /// Once a day, in place of a line that nobody would miss.
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

    /// What was done is right, or not as it should be after all.
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
                // Until it is bound, the one that it is to replace is worth more after a kill.
                held.store_at = held.store_at.filter(|_| self.fallback.is_none());
                self.lease = Some(held);
                Ok(Outcome::quiet(remote))
            }
            // Only now it survives a kill, and is worth a word.
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
            Completed::Inspected(witness) => match self.port_to_listen_on() {
                Some(port) => self.client.inspected(now, port, witness),
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
        // Seen with the bind and not with the next look, by when the client may have opened a new socket.
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
        // The lease is good after all: nobody asks the account until another one is wanted, so nothing would show its recovery.
        if held.renew_at(corrected).is_none_or(|at| at > now.mono) {
            self.account.forget();
        }
        self.last_bind = Some(LastBind { at: now.wall, gateway, route });
        self.binds_failed = 0;
        if before != Some(port) {
            self.client.begin_round(now.mono);
        }
        self.client.tunnel_confirmed(now);
        // A signature alone does not open the gate: a gateway that gives signatures and refuses to bind them is failing.
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
            // Whatever it was asked for: with the same password it is not asked for anything else at once.
            Step::Reannounce | Step::CheckInbound
                if matches!(error.retry, Retry::CredentialsRejected | Retry::LockedOut { .. }) =>
            {
                self.client.reannounced();
                return self.client.failed(now, error, |wait| jittered(random, wait));
            }
            // The port is right all the same, and the trackers are told at their own intervals.
            Step::Reannounce => {
                self.client.reannounced();
                return Outcome::of(Remote::Client, Some((Level::Warn, Notice::ReannounceFailed(Rc::new(error)))));
            }
            // Asked in an hour again; what is failing with the client shows with the next round.
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
        // What a tunnel that has just come up does not carry yet it may carry at any moment.
        let next = if error.retry == Retry::Backoff && self.tunnel.is_settling(now) {
            self.gateway.pause(now.mono + SETTLING_RETRY);
            SETTLING_RETRY
        } else {
            self.gateway.close(now, &error, |wait| jittered(random, wait))
        };
        record_trouble(&mut self.gateway, Remote::Gateway, now, error, next)
    }

    /// A bind failed. True when it is the lease's fault for the first time: that leads to a new signature without a wait.
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

    /// Whether nothing has failed but that another port was wanted than a good one. What protects an account is taken down.
    fn is_not_renewed(&self, now: Now, error: &Error) -> bool {
        let good = self.lease.as_ref().is_some_and(|held| held.is_good(self.clock.correct(now)));
        let passes = match error.retry {
            Retry::CredentialsRejected | Retry::LockedOut { .. } => false,
            Retry::TokenRefused => !self.token_is_replaceable(now),
            _ => true,
        };
        self.wants_new_port && good && passes
    }

    /// A token from the file may always be replaced by a login, one from a login only after a while.
    fn token_is_replaceable(&self, now: Now) -> bool {
        self.logged_in.is_none_or(|at| now.mono.saturating_duration_since(at) >= LOGIN_SPACING)
    }

    /// Leases cannot be stored, and the user knows.
    pub fn expect_no_store(&mut self) {
        self.store_failed = true;
    }

    /// These credentials were rejected `ago`, by an earlier run: they are not tried before the wait after that is over.
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

    /// The route to the gateway, or to wherever the tunnel leads while that is not known, as it is now.
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
                    // Who knows the port can be asked all the same, and answering does not mean that the tunnel is back.
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

    /// Whether there is a network device besides loopback; true where that is bad news.
    pub fn observe_devices(&mut self, now: Now, isolated: bool) -> bool {
        let before = self.tunnel.isolated;
        self.tunnel.observe_devices(now, isolated);
        before.is_none() && self.tunnel.isolated.is_some()
    }

    /// Looks at the clock: when it was set or the machine has slept, the binding may have lapsed, and of the lease's end the
    /// clock is not believed before the next bind.
    pub fn observe_clock(&mut self, now: Now) -> Option<Outcome> {
        let jump = self.tunnel.clock_jump(now)?;
        self.clock.forget();
        if let Some(held) = &mut self.lease {
            held.expiry_trusted = false;
        }
        self.retry_now(now);
        Some(Outcome::of(Remote::Gateway, Some((Level::Info, Notice::ClockJumped(jump)))))
    }

    /// What time it is by the gateway, which has proved itself.
    pub fn compare_clock(&mut self, now: Now, date: SystemTime) -> Option<Outcome> {
        let notice = self.clock.compare(date, now)?;
        let level = if notice == ClockChange::Correct { Level::Info } else { Level::Warn };
        Some(Outcome::of(Remote::Gateway, Some((level, Notice::Clock(notice)))))
    }

    /// Somebody wants another port: a new lease is asked for at once, and this one is given up when that is bound. Nothing is wanted
    /// for later: not without a tunnel, nor while the account has to be left alone.
    pub fn force_renewal(&mut self, now: Now) {
        self.account.retry_now();
        self.gateway.retry_now();
        self.signed = None;
        let at_once = !self.tunnel.lost && (self.token.is_some() || self.account.after(now.mono) <= now.mono);
        self.wants_new_port = at_once && self.followed.is_none() && self.lease.is_some();
    }

    /// Somebody asks to bind and check now: every wait ends, except those that protect an account.
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
    /// Whose step it is.
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

/// Takes down what is failing with a remote.
fn record_trouble(gate: &mut Gate, remote: Remote, now: Now, error: Error, next: Duration) -> Outcome {
    let error = Rc::new(error);
    let (level, attempts) = gate.record_trouble(now, Rc::clone(&error));
    Outcome::of(remote, Some((level, Notice::Failed { error, attempts, next })))
}

/// 80 to 100 % of `wait`: many daemons that lost one server do not come back in step.
fn jittered(random: &mut u64, wait: Duration) -> Duration {
    // xorshift64: good enough to spread waits, and it can be replayed from the seed.
    *random ^= *random << 13;
    *random ^= *random >> 7;
    *random ^= *random << 17;
    wait * (80 + u32::try_from(*random % 21).unwrap_or(0)) / 100
}
