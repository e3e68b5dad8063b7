//! The decisions: given what is known and what time it is, what is the next thing to do.
//!
//! Pure: no I/O, no clock, no randomness of its own. There are no named states, only facts and deadlines; `next` reads
//! them from the most urgent to the least, so no transition can be forgotten. Three gates (account, gateway, client) back
//! off separately: a rejected password or a dead torrent client never keeps the gateway from being asked to bind.

use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};

#[cfg(test)]
mod simulation;

/// A new signature is asked for from this long before the lease ends.
const RENEW_BEFORE: SignedDuration = SignedDuration::from_mins(15);
/// The first wait after a failure; doubled with each further one.
const BACKOFF_FIRST: Duration = Duration::from_secs(5);
/// The longest wait after an ordinary failure. A binding lapses after 15 minutes, and with longer waits a run of bad luck
/// costs it: at 300 s and 30 % of calls failing a simulation had gaps of 40 minutes, at 30 s of 14.
const BACKOFF_CAP: Duration = Duration::from_secs(30);
/// After rejected credentials: trying again cannot help and gets the user locked out of their own accounts.
const CREDENTIALS_WAIT: Duration = Duration::from_secs(30 * 60);
/// The first wait of a lockout that does not say how long it is (PIA's desktop client assumes 59 s). Every lockout's wait is
/// doubled while it lasts, up to [`CREDENTIALS_WAIT`], whatever it says.
const LOCKOUT_FIRST: Duration = Duration::from_secs(60);
/// The longest `Retry-After` of an account that is believed.
const ACCOUNT_RETRY_AFTER_CAP: Duration = Duration::from_secs(24 * 3600);
/// The same for gateway and client, where a port is at stake.
const RETRY_AFTER_CAP: Duration = Duration::from_secs(5 * 60);
/// Between two logins for tokens that the gateway refuses: a fresh token that is refused means a wrong gateway, not a
/// wrong token.
const LOGIN_SPACING: Duration = Duration::from_secs(30 * 60);
/// Unexplained refusals of a bind after which the lease is taken to be the reason.
const REFUSALS_UNTIL_RENEWAL: u32 = 3;

/// The one seam through which time enters: intervals go by `mono`, expiry by `wall`.
#[derive(Debug, Clone, Copy)]
pub struct Now {
    /// Never jumps.
    pub mono: Instant,
    /// UTC, may jump.
    pub wall: Timestamp,
}

/// The next thing to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Get a token: from the cache file, else by a login.
    GetToken,
    /// `getSignature`: get a lease.
    GetSignature,
    /// `bindPort`.
    BindPort,
    /// Ask somebody else for the port.
    AskPort,
    /// Make the leased port the client's listen port.
    PlacePort,
    /// The same, and have the client open its socket anew although the port is the same.
    ReopenPort,
    /// Make sure that the client listens on it.
    ConfirmPort,
    /// Nothing to do for this long.
    Wait(Duration),
}

/// How a step went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// There is a token.
    Token {
        /// From a login and not from the cache file.
        logged_in: bool,
    },
    /// There is a lease.
    Leased {
        /// Its expiry.
        expires_at: Timestamp,
    },
    /// The port is bound.
    Bound,
    /// Somebody else was asked for the port.
    Asked(News),
    /// The client has the port.
    Placed {
        /// How long the client's status may still be the old one; zero if nothing was changed.
        settle: Duration,
    },
    /// The client listens.
    Confirmed,
    /// The step failed.
    Failed(Failure),
}

/// What somebody else says of the port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum News {
    /// There is none now: the last one is kept.
    Absent,
    /// It is the one that is known.
    Same,
    /// It is another one.
    Another,
}

/// What a failure means for the next decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// Try again after the backoff.
    Transient,
    /// The peer said when to come back.
    RetryAfter(Duration),
    /// Locked out after too many logins.
    LockedOut {
        /// For how long, if the peer said so.
        retry_after: Option<Duration>,
    },
    /// User name, password or key are wrong, or we are banned.
    Credentials,
    /// The gateway does not accept the token.
    TokenRejected,
    /// The gateway does not accept the lease.
    LeaseRefused,
    /// The gateway refused for a reason of its own.
    Refused,
}

/// A peer and its backoff.
#[derive(Debug, Default)]
struct Gate {
    failures: u32,
    closed_until: Option<Instant>,
    /// The wait protects an account: a reload does not shorten it.
    held: bool,
}

impl Gate {
    fn is_open(&self, now: Instant) -> bool {
        self.closed_until.is_none_or(|until| now >= until)
    }

    fn open(&mut self) {
        *self = Self::default();
    }

    fn close(&mut self, until: Instant, held: bool) {
        self.failures = self.failures.saturating_add(1);
        self.closed_until = Some(until);
        self.held = held;
    }
}

/// What is known of the lease; its payload and signature are not needed to decide.
#[derive(Debug)]
struct LeaseFacts {
    expires_at: Timestamp,
    /// Whether our clock can tell when it ends. A lease that seems to be over when it was just bound, when we start or when
    /// the clock jumps says that our clock may be wrong; renewing it by that clock would cost the port, or ask for one new
    /// port after the other. The gateway tells when it has expired.
    by_clock: bool,
    bound: bool,
    /// The next bind is due then.
    bind_at: Instant,
    /// The gateway does not want it any more. It is still tried once per interval until there is another.
    refused: bool,
    /// Unexplained refusals in a row.
    refusals: u32,
}

/// Somebody else leases and binds, we follow.
#[derive(Debug)]
struct Followed {
    every: Duration,
    ask_at: Instant,
    /// A port was seen.
    known: bool,
}

/// Whether the client's socket may belong to a tunnel that is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Socket {
    Fresh,
    /// The tunnel has changed or may have, as before our start; whether the one of now works, the next bind will tell.
    Doubtful,
    /// It has to be opened anew: some clients keep a dead one, and all looks well.
    Stale,
}

/// Where the port comes from, as far as decisions go.
#[derive(Debug, Clone, Copy)]
pub enum Source {
    /// We lease and bind.
    Lease {
        /// The expiry of a stored lease.
        expires_at: Option<Timestamp>,
    },
    /// Somebody else does; ask this often.
    Followed {
        /// Between two questions.
        every: Duration,
    },
}

/// The keeper.
#[derive(Debug)]
pub struct Keeper {
    interval: Duration,
    /// None when we lease and bind ourselves.
    followed: Option<Followed>,
    token: bool,
    /// When the last login was.
    logged_in: Option<Instant>,
    /// Lockouts in a row.
    lockouts: u32,
    /// Tokens that were refused since the last one that was accepted.
    tokens_rejected: u32,
    lease: Option<LeaseFacts>,
    /// A signature was asked for since there is this lease, and not given.
    renewal_failed: bool,
    /// When the client has to be looked at next.
    place_at: Option<Instant>,
    /// Placed, to be confirmed then.
    confirm_at: Option<Instant>,
    socket: Socket,
    /// The kernel knows a way to the gateway.
    routed: bool,
    account: Gate,
    gateway: Gate,
    client: Gate,
    random: u64,
}

impl Keeper {
    /// A keeper that binds and checks every `interval`; `seed` makes its jitter.
    pub fn new(interval: Duration, source: Source, seed: u64, now: Now) -> Self {
        let (lease, followed) = match source {
            Source::Lease { expires_at } => (expires_at.map(|expires_at| LeaseFacts::stored(expires_at, now)), None),
            Source::Followed { every } => (None, Some(Followed { every, ask_at: now.mono, known: false })),
        };
        Self {
            interval,
            followed,
            token: false,
            logged_in: None,
            lockouts: 0,
            tokens_rejected: 0,
            lease,
            renewal_failed: false,
            place_at: Some(now.mono),
            confirm_at: None,
            // Since whenever this client opened its socket, the tunnel may have been made anew.
            socket: Socket::Doubtful,
            routed: true,
            account: Gate::default(),
            gateway: Gate::default(),
            client: Gate::default(),
            random: seed | 1,
        }
    }

    /// The next thing to do.
    pub fn next(&self, now: Now) -> Step {
        if self.gateway.is_open(now.mono) && self.routed {
            if self.followed.as_ref().is_some_and(|followed| now.mono >= followed.ask_at) {
                return Step::AskPort;
            }
            if self.place_goes_first(now) {
                return Step::PlacePort;
            }
            if self.bind_is_due(now) {
                return Step::BindPort;
            }
            if self.renewal_is_due(now) {
                if self.token {
                    return Step::GetSignature;
                }
                if self.account.is_open(now.mono) {
                    return Step::GetToken;
                }
            }
        }
        if self.client_has_a_port_to_follow() && self.client.is_open(now.mono) {
            if is_due(self.confirm_at, now) {
                return Step::ConfirmPort;
            }
            if self.confirm_at.is_none() && is_due(self.place_at, now) {
                return if self.socket == Socket::Stale { Step::ReopenPort } else { Step::PlacePort };
            }
        }
        Step::Wait(self.wait(now))
    }

    /// Whether nothing is failing and everything was done: the end of one full pass.
    pub fn is_content(&self, now: Now) -> bool {
        // The next look at the client is due with the next bind.
        self.client_has_a_port_to_follow()
            && self.confirm_at.is_none()
            && !is_due(self.place_at, now)
            && !self.has_failures()
    }

    /// Whether the token was refused and is to be replaced.
    pub fn wants_token(&self) -> bool {
        !self.token
    }

    /// Whether any peer is failing.
    pub fn has_failures(&self) -> bool {
        [&self.account, &self.gateway, &self.client].iter().any(|gate| gate.failures > 0)
    }

    /// Whether the gateway does not do as asked.
    pub fn gateway_is_failing(&self) -> bool {
        self.gateway.failures > 0
    }

    /// A port that the client has not heard of is worth telling before the bind: the client opens its socket while the
    /// gateway is asked. But only while all goes well, so that a hanging client never delays a bind twice, and never for a
    /// lease that may be worthless.
    fn place_goes_first(&self, now: Now) -> bool {
        let untested = |lease: &LeaseFacts| !lease.bound && lease.is_good(now) && lease.left(now).is_positive();
        self.lease.as_ref().is_some_and(untested)
            && self.gateway.failures == 0
            && self.client.failures == 0
            && self.confirm_at.is_none()
            && is_due(self.place_at, now)
    }

    fn client_has_a_port_to_follow(&self) -> bool {
        self.lease.as_ref().is_some_and(|lease| lease.bound) || self.knows_followed_port()
    }

    fn knows_followed_port(&self) -> bool {
        self.followed.as_ref().is_some_and(|followed| followed.known)
    }

    /// A good lease is bound when its time has come. A refused or expired one is tried again, too, while no other can be
    /// had: the gateway or our clock may have been wrong.
    fn bind_is_due(&self, now: Now) -> bool {
        self.lease
            .as_ref()
            .is_some_and(|lease| is_due(Some(lease.bind_at), now) && (lease.is_good(now) || self.renewal_failed))
    }

    fn renewal_is_due(&self, now: Now) -> bool {
        self.lease.as_ref().map_or(self.followed.is_none(), |lease| {
            !lease.is_good(now) || (lease.by_clock && lease.left(now) <= RENEW_BEFORE)
        })
    }

    /// Until the next deadline that could change the decision; never zero, never longer than an interval, so that a jump
    /// of the wall clock costs one interval at most.
    fn wait(&self, now: Now) -> Duration {
        let gateway = self.gateway.closed_until.unwrap_or(now.mono);
        let mut wakes = Vec::new();
        if self.routed {
            wakes.extend(self.lease.as_ref().map(|lease| lease.bind_at.max(gateway)));
            wakes.extend(self.followed.as_ref().map(|followed| followed.ask_at.max(gateway)));
        }
        if self.routed && self.renewal_is_due(now) {
            let account = self.account.closed_until.filter(|_| !self.token).unwrap_or(now.mono);
            wakes.push(gateway.max(account));
        }
        if self.client_has_a_port_to_follow() {
            let client = self.client.closed_until.unwrap_or(now.mono);
            wakes.extend(self.confirm_at.or(self.place_at).map(|at| at.max(client)));
        }
        let first = wakes.into_iter().filter(|&wake| wake > now.mono).fold(now.mono + self.interval, Instant::min);
        // One timer tick later than the deadline, so that it has surely passed.
        first - now.mono + Duration::from_millis(1)
    }

    /// Takes down how `step` went.
    pub fn record(&mut self, now: Now, step: Step, outcome: Outcome) {
        match outcome {
            Outcome::Token { logged_in } => {
                self.token = true;
                if logged_in {
                    self.logged_in = Some(now.mono);
                }
                self.lockouts = 0;
                self.account.open();
            }
            Outcome::Leased { expires_at } => {
                self.tokens_rejected = 0;
                self.renewal_failed = false;
                self.lease = Some(LeaseFacts::new(expires_at, now.mono));
                self.place_at = Some(now.mono);
                self.confirm_at = None;
            }
            Outcome::Bound => {
                if let Some(lease) = &mut self.lease {
                    lease.bound = true;
                    lease.refused = false;
                    lease.refusals = 0;
                    lease.bind_at = now.mono + self.interval;
                    lease.by_clock |= lease.left(now) > RENEW_BEFORE;
                }
                if self.socket == Socket::Doubtful {
                    self.reopen(now);
                }
                // A signature alone does not open the gate: a gateway that gives signatures and refuses to bind them
                // would be asked for one after the other.
                self.gateway.open();
            }
            Outcome::Asked(news) => {
                self.gateway.open();
                if let Some(followed) = &mut self.followed {
                    followed.ask_at = now.mono + followed.every;
                    followed.known |= news == News::Another;
                }
                if news == News::Another {
                    self.place_at = Some(now.mono);
                    self.confirm_at = None;
                }
                if self.socket == Socket::Doubtful && self.knows_followed_port() {
                    self.reopen(now);
                }
            }
            Outcome::Placed { settle } => {
                if step == Step::ReopenPort || settle > Duration::ZERO {
                    self.socket = Socket::Fresh;
                }
                self.confirm_at = Some(now.mono + settle);
            }
            Outcome::Confirmed => {
                self.confirm_at = None;
                // With the next bind, so that an interval is one wake-up.
                let next_bind = self.lease.as_ref().map(|lease| lease.bind_at).filter(|&at| at > now.mono);
                self.place_at = Some(next_bind.unwrap_or(now.mono + self.interval));
                self.client.open();
            }
            Outcome::Failed(failure) => self.record_failure(now, step, failure),
        }
    }

    fn record_failure(&mut self, now: Now, step: Step, failure: Failure) {
        match step {
            Step::GetToken => {
                self.renewal_failed = true;
                if !matches!(failure, Failure::LockedOut { .. }) {
                    self.lockouts = 0;
                }
                let (wait, held) = self.wait_after(failure, self.account.failures, ACCOUNT_RETRY_AFTER_CAP);
                self.account.close(now.mono + wait, held);
            }
            Step::GetSignature => {
                self.renewal_failed = true;
                if failure == Failure::TokenRejected && self.token_is_replaceable(now) {
                    self.token = false;
                    self.tokens_rejected += 1;
                    if self.tokens_rejected == 1 {
                        return;
                    }
                }
                self.close_gateway(now, failure);
            }
            Step::BindPort => {
                let good = self.lease.as_ref().is_some_and(|lease| lease.is_good(now));
                if let Some(lease) = &mut self.lease {
                    lease.refusals = if failure == Failure::Refused { lease.refusals + 1 } else { 0 };
                    let renew = failure == Failure::LeaseRefused || lease.refusals >= REFUSALS_UNTIL_RENEWAL;
                    if renew || !good {
                        // The first such refusal leads to a new signature at once, further ones after the backoff.
                        let first = good && self.gateway.failures == 0;
                        lease.refused |= renew;
                        lease.bind_at = now.mono + self.interval;
                        if first {
                            self.gateway.close(now.mono, false);
                            return;
                        }
                    }
                }
                self.close_gateway(now, failure);
            }
            Step::AskPort => self.close_gateway(now, failure),
            Step::PlacePort | Step::ReopenPort | Step::ConfirmPort => {
                self.confirm_at = None;
                self.place_at = Some(now.mono);
                let (wait, held) = self.wait_after(failure, self.client.failures, RETRY_AFTER_CAP);
                self.client.close(now.mono + wait, held);
            }
            Step::Wait(_) => {}
        }
    }

    /// A token from the file may always be replaced by a login, one from a login only after a while.
    fn token_is_replaceable(&self, now: Now) -> bool {
        self.logged_in.is_none_or(|at| now.mono.saturating_duration_since(at) >= LOGIN_SPACING)
    }

    fn close_gateway(&mut self, now: Now, failure: Failure) {
        let (wait, _) = self.wait_after(failure, self.gateway.failures, RETRY_AFTER_CAP);
        self.gateway.close(now.mono + wait, false);
    }

    /// How long to wait after a failure that followed `before` others, and whether the wait protects an account.
    fn wait_after(&mut self, failure: Failure, before: u32, retry_after_cap: Duration) -> (Duration, bool) {
        let doubled = |first: Duration, times: u32, cap: Duration| first.saturating_mul(1 << times.min(16)).min(cap);
        match failure {
            Failure::Credentials => (CREDENTIALS_WAIT, true),
            Failure::LockedOut { retry_after } => {
                let first = if retry_after.is_some() { BACKOFF_FIRST } else { LOCKOUT_FIRST };
                let asked = retry_after.unwrap_or_default().min(retry_after_cap);
                let wait = asked.max(doubled(first, self.lockouts, CREDENTIALS_WAIT));
                self.lockouts += 1;
                (wait, true)
            }
            Failure::RetryAfter(asked) => {
                (asked.min(retry_after_cap).max(self.jittered(doubled(BACKOFF_FIRST, before, BACKOFF_CAP))), false)
            }
            _ => (self.jittered(doubled(BACKOFF_FIRST, before, BACKOFF_CAP)), false),
        }
    }

    /// 80 to 100 % of `wait`: many daemons that lost one server do not come back in step.
    fn jittered(&mut self, wait: Duration) -> Duration {
        // xorshift64: good enough to spread waits, and it can be replayed from the seed.
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        wait * (80 + u32::try_from(self.random % 21).unwrap_or(0)) / 100
    }

    /// There is a way to the gateway, or there is none: then nobody there is asked anything.
    pub fn set_routed(&mut self, routed: bool) {
        self.routed = routed;
    }

    /// The tunnel is another one: the binding may be gone with the old one, and the client's socket, too.
    pub fn tunnel_changed(&mut self, now: Now) {
        self.socket = Socket::Doubtful;
        self.hurry(now);
    }

    fn reopen(&mut self, now: Now) {
        self.socket = Socket::Stale;
        self.place_at = Some(now.mono);
        self.confirm_at = None;
    }

    /// The clock was set, or the machine has slept: the binding may have lapsed, and of the lease's end the clock is not
    /// believed before the next bind.
    pub fn clock_jumped(&mut self, now: Now) {
        if let Some(lease) = &mut self.lease {
            lease.by_clock = false;
        }
        self.hurry(now);
    }

    /// Somebody asks to bind and check now: every wait ends, except those that protect an account.
    pub fn hurry(&mut self, now: Now) {
        for gate in [&mut self.account, &mut self.gateway, &mut self.client] {
            if !gate.held {
                gate.closed_until = None;
            }
        }
        if let Some(lease) = &mut self.lease {
            lease.bind_at = now.mono;
        }
        if let Some(followed) = &mut self.followed {
            followed.ask_at = now.mono;
        }
        self.place_at = Some(now.mono);
        self.confirm_at = None;
    }
}

fn is_due(at: Option<Instant>, now: Now) -> bool {
    at.is_some_and(|at| now.mono >= at)
}

impl LeaseFacts {
    fn new(expires_at: Timestamp, now: Instant) -> Self {
        Self { expires_at, by_clock: false, bound: false, bind_at: now, refused: false, refusals: 0 }
    }

    /// One of an earlier run.
    fn stored(expires_at: Timestamp, now: Now) -> Self {
        let mut lease = Self::new(expires_at, now.mono);
        lease.by_clock = lease.left(now).is_positive();
        lease
    }

    fn is_good(&self, now: Now) -> bool {
        !self.refused && (!self.by_clock || self.left(now).is_positive())
    }

    /// Until its end, by our clock.
    fn left(&self, now: Now) -> SignedDuration {
        self.expires_at.duration_since(now.wall)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: u64 = 3600;

    struct Bench {
        keeper: Keeper,
        now: Now,
    }

    impl Bench {
        fn new(lease_hours: Option<u64>) -> Self {
            let now = Now { mono: Instant::now(), wall: "2026-11-23T00:00:00Z".parse().unwrap() };
            let expires = lease_hours.map(|hours| now.wall + Duration::from_secs(hours * HOUR));
            let source = Source::Lease { expires_at: expires };
            let mut bench = Self { keeper: Keeper::new(Duration::from_secs(300), source, 7, now), now };
            bench.keeper.socket = Socket::Fresh;
            bench
        }

        fn following() -> Self {
            let mut bench = Self::new(None);
            let source = Source::Followed { every: Duration::from_secs(15) };
            bench.keeper = Keeper::new(Duration::from_secs(300), source, 7, bench.now);
            bench.keeper.socket = Socket::Fresh;
            bench
        }

        fn next(&self) -> Step {
            self.keeper.next(self.now)
        }

        fn pass(&mut self, seconds: u64) {
            self.now.mono += Duration::from_secs(seconds);
            self.now.wall += Duration::from_secs(seconds);
        }

        /// Expects `step` and answers it with `outcome`.
        #[track_caller]
        fn step(&mut self, step: Step, outcome: Outcome) {
            assert_eq!(self.next(), step);
            self.keeper.record(self.now, step, outcome);
        }

        #[track_caller]
        fn fail(&mut self, step: Step, failure: Failure) {
            self.step(step, Outcome::Failed(failure));
        }

        fn lease(&self, hours: u64) -> Outcome {
            Outcome::Leased { expires_at: self.now.wall + Duration::from_secs(hours * HOUR) }
        }

        #[track_caller]
        fn waits(&self) -> u64 {
            let Step::Wait(wait) = self.next() else { panic!("{:?} and not a wait", self.next()) };
            wait.as_secs()
        }

        #[track_caller]
        fn waits_between(&self, low: u64, high: u64) {
            let wait = self.waits();
            assert!((low..=high).contains(&wait), "waits {wait} s, not {low} to {high}");
        }

        /// A keeper in its steady state.
        fn steady() -> Self {
            let mut bench = Self::new(None);
            bench.step(Step::GetToken, Outcome::Token { logged_in: true });
            let lease = bench.lease(1000);
            bench.step(Step::GetSignature, lease);
            bench.step(Step::PlacePort, Outcome::Placed { settle: Duration::ZERO });
            bench.step(Step::BindPort, Outcome::Bound);
            bench.step(Step::ConfirmPort, Outcome::Confirmed);
            bench
        }
    }

    #[test]
    fn from_nothing_to_content() {
        let bench = Bench::steady();
        assert!(bench.keeper.is_content(bench.now));
        assert_eq!(bench.waits(), 300);
    }

    #[test]
    fn a_stored_lease_needs_neither_token_nor_signature() {
        let mut bench = Bench::new(Some(1000));
        bench.step(Step::PlacePort, Outcome::Placed { settle: Duration::from_secs(2) });
        bench.step(Step::BindPort, Outcome::Bound);
        assert!(!bench.keeper.is_content(bench.now));
        assert_eq!(bench.waits(), 2);
        bench.pass(2);
        bench.step(Step::ConfirmPort, Outcome::Confirmed);
        assert!(bench.keeper.is_content(bench.now));
    }

    #[test]
    fn bind_and_client_share_one_wake_up() {
        let mut bench = Bench::steady();
        bench.pass(300);
        bench.step(Step::BindPort, Outcome::Bound);
        bench.now.mono += Duration::from_millis(200);
        bench.step(Step::PlacePort, Outcome::Placed { settle: Duration::ZERO });
        bench.step(Step::ConfirmPort, Outcome::Confirmed);
        assert_eq!(bench.waits(), 299);
        bench.now.mono += Duration::from_millis(299_800);
        bench.step(Step::BindPort, Outcome::Bound);
        assert_eq!(bench.next(), Step::PlacePort);
    }

    #[test]
    fn a_failing_gateway_is_asked_every_30_s_at_the_latest() {
        let mut bench = Bench::new(Some(1000));
        bench.step(Step::PlacePort, Outcome::Placed { settle: Duration::ZERO });
        for (low, high) in [(4, 5), (8, 10), (16, 20), (24, 30), (24, 30), (24, 30)] {
            bench.fail(Step::BindPort, Failure::Transient);
            bench.waits_between(low, high);
            bench.pass(31);
        }
        bench.step(Step::BindPort, Outcome::Bound);
        assert_eq!(bench.next(), Step::ConfirmPort);
    }

    #[test]
    fn a_client_that_answers_late_is_not_asked_again_at_once() {
        let mut bench = Bench::steady();
        bench.pass(300);
        bench.step(Step::BindPort, Outcome::Bound);
        bench.step(Step::PlacePort, Outcome::Placed { settle: Duration::ZERO });
        assert_eq!(bench.next(), Step::ConfirmPort);
        bench.pass(300);
        bench.keeper.record(bench.now, Step::ConfirmPort, Outcome::Confirmed);
        bench.step(Step::BindPort, Outcome::Bound);
        bench.waits_between(299, 300);
    }

    #[test]
    fn a_dead_client_does_not_stop_the_binds() {
        let mut bench = Bench::steady();
        for _ in 0..3 {
            bench.pass(300);
            bench.step(Step::BindPort, Outcome::Bound);
            bench.fail(Step::PlacePort, Failure::Transient);
            bench.waits_between(4, 20);
        }
    }

    #[test]
    fn waits_are_spread_as_the_seed_says() {
        let mut bench = Bench::steady();
        let waits: Vec<_> = (0..8).map(|_| bench.keeper.jittered(Duration::from_secs(100)).as_secs()).collect();
        // xorshift64 from 7, worked out elsewhere.
        assert_eq!(waits, [80, 80, 86, 99, 81, 93, 87, 86]);
    }

    #[test]
    fn a_hanging_client_delays_the_first_bind_once() {
        let mut bench = Bench::new(Some(1000));
        bench.fail(Step::PlacePort, Failure::Transient);
        bench.pass(60);
        bench.step(Step::BindPort, Outcome::Bound);
        assert_eq!(bench.next(), Step::PlacePort);
    }

    #[test]
    fn a_rejected_client_password_waits_half_an_hour_and_binds_go_on() {
        let mut bench = Bench::steady();
        bench.pass(300);
        bench.step(Step::BindPort, Outcome::Bound);
        bench.fail(Step::PlacePort, Failure::Credentials);
        for _ in 0..5 {
            assert_eq!(bench.waits(), 300);
            bench.pass(300);
            bench.keeper.hurry(bench.now);
            bench.step(Step::BindPort, Outcome::Bound);
        }
        bench.pass(300);
        bench.step(Step::BindPort, Outcome::Bound);
        assert_eq!(bench.next(), Step::PlacePort);
    }

    #[test]
    fn a_rejected_token_means_one_login_and_one_repeat() {
        let mut bench = Bench::new(None);
        bench.step(Step::GetToken, Outcome::Token { logged_in: false });
        bench.fail(Step::GetSignature, Failure::TokenRejected);
        bench.step(Step::GetToken, Outcome::Token { logged_in: true });
        for _ in 0..20 {
            bench.fail(Step::GetSignature, Failure::TokenRejected);
            bench.waits_between(4, 30);
            bench.pass(31);
        }
        bench.pass(30 * 60);
        bench.fail(Step::GetSignature, Failure::TokenRejected);
        bench.pass(31);
        assert_eq!(bench.next(), Step::GetToken, "half an hour later one more login");
    }

    #[test]
    fn rejected_credentials_wait_half_an_hour_even_when_hurried() {
        let mut bench = Bench::new(None);
        bench.fail(Step::GetToken, Failure::Credentials);
        bench.keeper.hurry(bench.now);
        bench.waits_between(300, 300);
        bench.pass(29 * 60);
        assert!(bench.waits() <= 60);
        bench.pass(60);
        assert_eq!(bench.next(), Step::GetToken);
    }

    #[test]
    fn lockouts_last_as_long_as_they_say_or_longer_and_longer() {
        let mut bench = Bench::new(None);
        let locked = |seconds: Option<u64>| Failure::LockedOut { retry_after: seconds.map(Duration::from_secs) };
        bench.fail(Step::GetToken, locked(Some(120)));
        assert_eq!(bench.waits(), 120);
        bench.pass(121);
        let mut bench = Bench::new(None);
        for _ in 0..9 {
            bench.fail(Step::GetToken, Failure::Transient);
            bench.pass(31);
        }
        bench.fail(Step::GetToken, locked(Some(59)));
        assert_eq!(bench.waits(), 59, "what failed before was no lockout");
        bench.pass(60);
        // A peer whose words do not fit its deeds is not asked again and again.
        for (said, waits) in [(None, [60, 120, 240]), (Some(0), [5, 10, 20])] {
            let mut bench = Bench::new(None);
            for wait in waits {
                bench.fail(Step::GetToken, locked(said));
                bench.keeper.hurry(bench.now);
                assert_eq!(bench.waits(), wait);
                bench.pass(wait + 1);
            }
        }
        bench.fail(Step::GetToken, Failure::LockedOut { retry_after: Some(Duration::MAX) });
        bench.pass(24 * HOUR - 60);
        assert_eq!(bench.waits(), 60, "no longer than a day");
        bench.pass(61);
        assert_eq!(bench.next(), Step::GetToken);
    }

    #[test]
    fn gateway_and_client_may_ask_for_five_minutes_and_no_more() {
        let mut bench = Bench::steady();
        bench.pass(300);
        bench.step(Step::BindPort, Outcome::Bound);
        bench.fail(Step::PlacePort, Failure::RetryAfter(Duration::from_secs(3600)));
        bench.pass(300);
        bench.step(Step::BindPort, Outcome::Bound);
        assert_eq!(bench.next(), Step::PlacePort);
        bench.fail(Step::PlacePort, Failure::RetryAfter(Duration::from_secs(3600)));
        bench.keeper.hurry(bench.now);
        bench.step(Step::BindPort, Outcome::Bound);
        assert_eq!(bench.next(), Step::PlacePort, "a reload does not wait");
        for (asked, low, high) in [(Duration::MAX, 300, 300), (Duration::from_secs(60), 60, 60), (Duration::ZERO, 4, 5)]
        {
            let mut bench = Bench::steady();
            bench.pass(300);
            bench.fail(Step::BindPort, Failure::RetryAfter(asked));
            bench.step(Step::PlacePort, Outcome::Placed { settle: Duration::ZERO });
            bench.step(Step::ConfirmPort, Outcome::Confirmed);
            bench.waits_between(low, high);
        }
    }

    #[test]
    fn content_is_who_is_bound_and_listened_on_while_nothing_fails() {
        let mut bench = Bench::new(None);
        let content = |bench: &Bench| bench.keeper.is_content(bench.now);
        bench.step(Step::GetToken, Outcome::Token { logged_in: true });
        let lease = bench.lease(1000);
        bench.step(Step::GetSignature, lease);
        assert!(!content(&bench), "not placed");
        bench.step(Step::PlacePort, Outcome::Placed { settle: Duration::ZERO });
        assert!(!content(&bench), "not bound");
        bench.step(Step::BindPort, Outcome::Bound);
        assert!(!content(&bench), "not confirmed");
        bench.step(Step::ConfirmPort, Outcome::Confirmed);
        assert!(content(&bench) && !bench.keeper.has_failures());
        bench.pass(300);
        assert!(!content(&bench), "the next bind is due");
        bench.step(Step::BindPort, Outcome::Bound);
        assert!(!content(&bench), "so is a look at the client");
        bench.fail(Step::PlacePort, Failure::Transient);
        assert!(!content(&bench) && bench.keeper.has_failures());
    }

    #[test]
    fn a_token_is_wanted_until_there_is_one_and_when_it_is_refused() {
        let mut bench = Bench::new(None);
        assert!(bench.keeper.wants_token());
        bench.step(Step::GetToken, Outcome::Token { logged_in: false });
        assert!(!bench.keeper.wants_token());
        bench.fail(Step::GetSignature, Failure::TokenRejected);
        assert!(bench.keeper.wants_token());
    }

    #[test]
    fn a_refused_lease_leads_to_a_new_one_at_once_then_with_backoff() {
        let mut bench = Bench::steady();
        bench.pass(300);
        bench.fail(Step::BindPort, Failure::LeaseRefused);
        let lease = bench.lease(1000);
        bench.step(Step::GetSignature, lease);
        bench.fail(Step::BindPort, Failure::LeaseRefused);
        bench.waits_between(8, 10);
        bench.pass(11);
        let lease = bench.lease(1000);
        bench.step(Step::GetSignature, lease);
        bench.step(Step::BindPort, Outcome::Bound);
        assert_eq!(bench.next(), Step::PlacePort);
    }

    #[test]
    fn a_refused_lease_is_tried_again_while_there_is_no_other() {
        let mut bench = Bench::steady();
        bench.pass(300);
        bench.fail(Step::BindPort, Failure::LeaseRefused);
        let mut binds = 0;
        for _ in 0..30 {
            if bench.next() == Step::BindPort {
                binds += 1;
                bench.fail(Step::BindPort, Failure::LeaseRefused);
                bench.pass(31);
            }
            bench.fail(Step::GetSignature, Failure::Transient);
            bench.pass(31);
        }
        assert!((2..=4).contains(&binds), "{binds} binds in some 16 minutes");
        bench.keeper.record(bench.now, Step::GetSignature, bench.lease(1000));
        bench.step(Step::BindPort, Outcome::Bound);
    }

    #[test]
    fn a_rejected_password_does_not_end_the_binds_of_a_refused_lease() {
        let mut bench = Bench::new(Some(1000));
        bench.step(Step::PlacePort, Outcome::Placed { settle: Duration::ZERO });
        bench.fail(Step::BindPort, Failure::LeaseRefused);
        bench.fail(Step::GetToken, Failure::Credentials);
        for _ in 0..5 {
            bench.waits_between(269, 300);
            bench.pass(301);
            bench.fail(Step::BindPort, Failure::Transient);
        }
        bench.pass(301);
        bench.step(Step::BindPort, Outcome::Bound);
    }

    #[test]
    fn a_clock_at_the_end_of_time_is_survived() {
        let mut bench = Bench::new(Some(1000));
        bench.now.wall = Timestamp::MAX;
        bench.keeper.clock_jumped(bench.now);
        bench.step(Step::BindPort, Outcome::Bound);
        assert_eq!(bench.next(), Step::PlacePort);
    }

    #[test]
    fn unexplained_refusals_renew_after_three() {
        let mut bench = Bench::steady();
        bench.pass(300);
        for _ in 0..3 {
            bench.fail(Step::BindPort, Failure::Refused);
            bench.pass(31);
        }
        assert_eq!(bench.next(), Step::GetSignature);
    }

    #[test]
    fn renewal_begins_15_minutes_before_expiry_and_keeps_the_old_lease_bound() {
        let mut bench = Bench::steady();
        bench.pass(1000 * HOUR - 15 * 60 - 1);
        bench.step(Step::BindPort, Outcome::Bound);
        bench.step(Step::PlacePort, Outcome::Placed { settle: Duration::ZERO });
        bench.step(Step::ConfirmPort, Outcome::Confirmed);
        bench.pass(1);
        bench.fail(Step::GetSignature, Failure::Transient);
        bench.pass(300);
        bench.step(Step::BindPort, Outcome::Bound);
        let lease = bench.lease(1000);
        bench.step(Step::GetSignature, lease);
        bench.step(Step::PlacePort, Outcome::Placed { settle: Duration::from_secs(1) });
        bench.step(Step::BindPort, Outcome::Bound);
    }

    #[test]
    fn an_expired_stored_lease_is_not_shown_to_the_client_before_it_is_bound() {
        let mut bench = Bench::new(Some(1));
        bench.pass(2 * HOUR);
        bench.fail(Step::GetToken, Failure::Transient);
        bench.step(Step::BindPort, Outcome::Bound);
        assert_eq!(bench.next(), Step::PlacePort, "the clock was wrong: it is bound, so it is followed");
    }

    #[test]
    fn leases_that_seem_to_be_over_when_they_arrive_make_no_storm() {
        for (hours, life) in [(0, 60), (0, 15 * 60), (1, 60)] {
            let mut bench = Bench::new(None);
            bench.pass(hours * HOUR);
            bench.step(Step::GetToken, Outcome::Token { logged_in: true });
            let expires_at = bench.now.wall - Duration::from_secs(hours * HOUR) + Duration::from_secs(life);
            bench.step(Step::GetSignature, Outcome::Leased { expires_at });
            let place = (Step::PlacePort, Outcome::Placed { settle: Duration::ZERO });
            let bind = (Step::BindPort, Outcome::Bound);
            // One that seems to be over is not shown to the client before it is bound.
            for (step, outcome) in if hours == 0 { [place, bind] } else { [bind, place] } {
                bench.step(step, outcome);
            }
            bench.step(Step::ConfirmPort, Outcome::Confirmed);
            assert!((299..=300).contains(&bench.waits()));
            bench.pass(300);
            bench.fail(Step::BindPort, Failure::LeaseRefused);
            assert_eq!(bench.next(), Step::GetSignature, "the gateway tells when it has expired");
        }
    }

    #[test]
    fn a_stored_lease_that_seems_to_be_over_is_not_given_up_before_the_gateway_says_so() {
        let stored = |ago: u64| {
            let mut bench = Bench::new(None);
            let expires_at = Some(bench.now.wall - Duration::from_secs(ago));
            bench.keeper = Keeper::new(Duration::from_secs(300), Source::Lease { expires_at }, 7, bench.now);
            bench.keeper.socket = Socket::Fresh;
            bench
        };
        let mut bench = stored(1000 * HOUR);
        bench.step(Step::BindPort, Outcome::Bound);
        bench.step(Step::PlacePort, Outcome::Placed { settle: Duration::ZERO });
        bench.step(Step::ConfirmPort, Outcome::Confirmed);
        assert!((299..=300).contains(&bench.waits()), "the clock was wrong, and the port is kept");
        let mut bench = stored(0);
        bench.fail(Step::BindPort, Failure::LeaseRefused);
        assert_eq!(bench.next(), Step::GetToken, "at once, for a new signature");
    }

    #[test]
    fn a_clock_that_jumps_costs_no_port() {
        let mut bench = Bench::steady();
        bench.now.wall += Duration::from_secs(2000 * HOUR);
        bench.keeper.clock_jumped(bench.now);
        bench.step(Step::BindPort, Outcome::Bound);
        bench.step(Step::PlacePort, Outcome::Placed { settle: Duration::ZERO });
        bench.step(Step::ConfirmPort, Outcome::Confirmed);
        assert!((299..=300).contains(&bench.waits()));

        // The gateway has told the time: from here on the lease's end is known again.
        bench.now.wall -= Duration::from_secs(2000 * HOUR);
        bench.pass(300);
        bench.step(Step::BindPort, Outcome::Bound);
        bench.step(Step::PlacePort, Outcome::Placed { settle: Duration::ZERO });
        bench.step(Step::ConfirmPort, Outcome::Confirmed);
        bench.pass(1000 * HOUR);
        assert_eq!(bench.next(), Step::GetSignature);
    }

    #[test]
    fn a_clock_that_jumps_within_the_life_of_a_lease_only_binds() {
        let mut bench = Bench::steady();
        bench.now.wall += Duration::from_secs(8 * HOUR);
        bench.keeper.clock_jumped(bench.now);
        bench.step(Step::BindPort, Outcome::Bound);
        bench.pass(993 * HOUR);
        assert_eq!(bench.next(), Step::GetSignature, "its end is still known");
    }

    #[test]
    fn a_socket_from_before_our_start_is_opened_anew_unless_the_port_is_moved() {
        for (settle, reopened) in [(Duration::ZERO, true), (Duration::from_millis(1), false)] {
            let mut bench = Bench::new(Some(1000));
            bench.keeper.socket = Socket::Doubtful;
            bench.step(Step::PlacePort, Outcome::Placed { settle });
            bench.step(Step::BindPort, Outcome::Bound);
            bench.pass(1);
            if reopened {
                bench.step(Step::ReopenPort, Outcome::Placed { settle: Duration::ZERO });
            }
            bench.step(Step::ConfirmPort, Outcome::Confirmed);
            bench.pass(300);
            bench.step(Step::BindPort, Outcome::Bound);
            assert_eq!(bench.next(), Step::PlacePort);
        }
    }

    #[test]
    fn another_tunnel_means_a_bind_at_once_and_a_socket_opened_anew_once() {
        let mut bench = Bench::steady();
        bench.pass(10);
        bench.keeper.tunnel_changed(bench.now);
        bench.step(Step::BindPort, Outcome::Bound);
        bench.step(Step::ReopenPort, Outcome::Placed { settle: Duration::from_secs(1) });
        bench.pass(1);
        bench.step(Step::ConfirmPort, Outcome::Confirmed);
        bench.pass(300);
        bench.step(Step::BindPort, Outcome::Bound);
        assert_eq!(bench.next(), Step::PlacePort);
    }

    #[test]
    fn the_socket_is_opened_anew_when_the_new_tunnel_works_and_until_that_is_done() {
        let mut bench = Bench::steady();
        bench.keeper.tunnel_changed(bench.now);
        bench.fail(Step::BindPort, Failure::Transient);
        bench.step(Step::PlacePort, Outcome::Placed { settle: Duration::ZERO });
        bench.step(Step::ConfirmPort, Outcome::Confirmed);
        assert!(bench.keeper.gateway_is_failing());
        bench.pass(6);
        bench.step(Step::BindPort, Outcome::Bound);
        assert!(!bench.keeper.gateway_is_failing());
        bench.fail(Step::ReopenPort, Failure::Transient);
        bench.pass(6);
        bench.step(Step::ReopenPort, Outcome::Placed { settle: Duration::ZERO });
        assert_eq!(bench.next(), Step::ConfirmPort);
    }

    #[test]
    fn another_tunnel_ends_the_backoff_but_no_lockout() {
        let mut bench = Bench::new(Some(1000));
        bench.step(Step::PlacePort, Outcome::Placed { settle: Duration::ZERO });
        bench.fail(Step::BindPort, Failure::Transient);
        bench.keeper.tunnel_changed(bench.now);
        bench.step(Step::BindPort, Outcome::Bound);
        let mut bench = Bench::new(None);
        bench.fail(Step::GetToken, Failure::LockedOut { retry_after: None });
        bench.keeper.tunnel_changed(bench.now);
        assert_eq!(bench.waits(), 60);
    }

    #[test]
    fn without_a_route_nobody_beyond_it_is_asked() {
        let mut bench = Bench::steady();
        bench.keeper.set_routed(false);
        for _ in 0..3 {
            bench.pass(300);
            bench.step(Step::PlacePort, Outcome::Placed { settle: Duration::ZERO });
            bench.step(Step::ConfirmPort, Outcome::Confirmed);
            assert!((299..=300).contains(&bench.waits()));
        }
        bench.keeper.set_routed(true);
        assert_eq!(bench.next(), Step::BindPort);
        let mut bench = Bench::new(None);
        bench.fail(Step::GetToken, Failure::LockedOut { retry_after: None });
        bench.keeper.set_routed(false);
        assert_eq!(bench.waits(), 300);
    }

    #[test]
    fn whoever_follows_has_the_socket_opened_anew_at_once() {
        let mut bench = Bench::following();
        bench.keeper.tunnel_changed(bench.now);
        bench.step(Step::AskPort, Outcome::Asked(News::Another));
        bench.step(Step::ReopenPort, Outcome::Placed { settle: Duration::ZERO });
        bench.step(Step::ConfirmPort, Outcome::Confirmed);
        bench.keeper.tunnel_changed(bench.now);
        bench.step(Step::AskPort, Outcome::Asked(News::Same));
        bench.step(Step::ReopenPort, Outcome::Placed { settle: Duration::ZERO });
        assert_eq!(bench.next(), Step::ConfirmPort);
    }

    #[test]
    fn a_followed_port_is_asked_for_often_and_checked_every_interval() {
        let mut bench = Bench::following();
        bench.step(Step::AskPort, Outcome::Asked(News::Absent));
        assert_eq!(bench.waits(), 15, "nothing for the client to follow, and PIA is not spoken to");
        assert!(!bench.keeper.is_content(bench.now));
        bench.pass(16);
        bench.step(Step::AskPort, Outcome::Asked(News::Another));
        bench.step(Step::PlacePort, Outcome::Placed { settle: Duration::ZERO });
        bench.step(Step::ConfirmPort, Outcome::Confirmed);
        assert!(bench.keeper.is_content(bench.now));
        for news in [News::Same, News::Absent] {
            bench.pass(16);
            bench.step(Step::AskPort, Outcome::Asked(news));
            assert_eq!(bench.waits(), 15, "the last port is kept");
        }
        bench.pass(300);
        bench.step(Step::AskPort, Outcome::Asked(News::Same));
        assert_eq!(bench.next(), Step::PlacePort);
    }

    #[test]
    fn a_dead_source_backs_off_and_the_client_is_still_checked() {
        let mut bench = Bench::following();
        bench.step(Step::AskPort, Outcome::Asked(News::Another));
        bench.step(Step::PlacePort, Outcome::Placed { settle: Duration::ZERO });
        bench.step(Step::ConfirmPort, Outcome::Confirmed);
        bench.pass(300);
        bench.fail(Step::AskPort, Failure::Transient);
        bench.step(Step::PlacePort, Outcome::Placed { settle: Duration::ZERO });
        bench.step(Step::ConfirmPort, Outcome::Confirmed);
        bench.waits_between(3, 5);
    }

    #[test]
    fn a_hurry_binds_and_checks_at_once() {
        let mut bench = Bench::steady();
        bench.pass(10);
        bench.keeper.hurry(bench.now);
        bench.step(Step::BindPort, Outcome::Bound);
        bench.step(Step::PlacePort, Outcome::Placed { settle: Duration::ZERO });
        bench.step(Step::ConfirmPort, Outcome::Confirmed);
        assert_eq!(bench.waits(), 300);
    }
}
