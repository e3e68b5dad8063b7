//! Tests of the keeper. Each test's name states a guarantee.

use jiff::SignedDuration;

use super::step::{ListenPort, ListenState, PortSockets};
use super::tunnel::Device;
use super::*;
use crate::error::{Call, Cause};

const HOUR: u64 = 3600;
/// Lifetime, in seconds, of a lease that is not about to expire.
const LONG: i64 = 1000 * 3600;
const PORT: u16 = 47047;
/// qBittorrent's profile.
pub(super) const PROFILE: ClientProfile = ClientProfile {
    listen_timeout: Duration::from_secs(3),
    poll_interval: Duration::from_millis(250),
    status_lag: Duration::from_millis(1500),
    reports_listening: true,
    always_has_udp: false,
    reannounces: true,
};

fn kind(step: &Step) -> &'static str {
    match step {
        Step::GetToken { .. } => "token",
        Step::GetSignature { .. } => "sign",
        Step::StoreLease(_) => "store",
        Step::Bind(_) => "bind",
        Step::PollSource => "poll",
        Step::ReadPort => "read",
        Step::SetPort(_) => "set",
        Step::BounceAway { .. } => "bounce away",
        Step::BounceBack(_) => "bounce back",
        Step::Inspect { .. } => "inspect",
        Step::Confirm(_) => "confirm",
        Step::Reannounce => "reannounce",
        Step::CheckInbound => "check inbound",
        Step::Wait(_) => "wait",
        Step::Exit => "exit",
    }
}

fn error(retry: Retry) -> Error {
    Error::new(Call::Token, Cause::Other("it failed".to_owned())).with_retry(retry)
}

struct Bench {
    keeper: Keeper,
    now: Now,
}

impl Bench {
    fn with(origin: Origin, hands_off: bool, reannounces: bool) -> Self {
        Self::of(origin, hands_off, ClientProfile { reannounces, ..PROFILE })
    }

    fn of(origin: Origin, hands_off: bool, profile: ClientProfile) -> Self {
        let now = Now { mono: Instant::now(), wall: "2026-11-23T00:00:00Z".parse().unwrap() };
        let interval = Duration::from_secs(300);
        let isolation = Some(Duration::from_secs(60));
        let setup = Setup { interval, origin, profile, hands_off, isolation, seed: 7 };
        Self { keeper: Keeper::new(setup, now), now }
    }

    fn new() -> Self {
        Self::with(Origin::Lease(None), false, false)
    }

    /// A bench with a stored lease that expires in `seconds`.
    fn stored(seconds: i64) -> Self {
        let mut bench = Self::new();
        let lease = bench.lease(seconds);
        bench = Self::with(Origin::Lease(Some(lease)), false, false);
        bench
    }

    fn following() -> Self {
        Self::with(
            Origin::Source { name: "gluetun".to_owned(), poll_interval: Duration::from_secs(15), advice: "" },
            false,
            false,
        )
    }

    fn lease(&self, seconds: i64) -> Lease {
        let expires_at = self.now.wall + SignedDuration::from_secs(seconds);
        Lease { payload: Secret::new("p"), signature: Secret::new("s"), port: PORT, expires_at }
    }

    fn next(&self) -> &'static str {
        kind(&self.keeper.next(self.now))
    }

    fn pass(&mut self, seconds: u64) {
        self.pass_ms(seconds * 1000);
    }

    fn pass_ms(&mut self, ms: u64) {
        self.now.mono += Duration::from_millis(ms);
        self.now.wall += Duration::from_millis(ms);
    }

    #[track_caller]
    fn record(&mut self, expected: &str, result: Exchange<Completed>) -> Outcome {
        let step = self.keeper.next(self.now);
        assert_eq!(kind(&step), expected, "{step:?}");
        self.keeper.record(self.now, &step, result)
    }

    #[track_caller]
    fn completes(&mut self, expected: &str, completed: Completed) -> Outcome {
        self.record(expected, Ok(Progress::Done(completed)))
    }

    #[track_caller]
    fn fails(&mut self, expected: &str, retry: Retry) -> Outcome {
        self.record(expected, Err(error(retry)))
    }

    #[track_caller]
    fn logs_in(&mut self) {
        self.completes("token", Completed::Token { token: Secret::new("t"), logged_in: true });
    }

    #[track_caller]
    fn signs(&mut self, seconds: i64) {
        let lease = self.lease(seconds);
        self.completes("sign", Completed::Leased(lease));
        self.completes("store", Completed::Stored);
    }

    #[track_caller]
    fn binds(&mut self) -> Outcome {
        self.completes("bind", Completed::Bound { gateway: None, route: None, refreshed: true })
    }

    #[track_caller]
    fn reads(&mut self, port: i64) -> Outcome {
        let outcome = self.completes("read", Completed::Port(ListenPort { port, random: false }));
        self.kernel_reports_nothing();
        outcome
    }

    /// If the next step inspects the socket, completes that step as if the kernel could not show any sockets.
    #[track_caller]
    fn kernel_reports_nothing(&mut self) {
        if self.next() == "inspect" {
            self.completes("inspect", Completed::Inspected(None));
        }
    }

    #[track_caller]
    fn reports(&mut self, connectivity: Connectivity) -> Outcome {
        self.completes("confirm", Completed::Reachability(connectivity))
    }

    /// Completes a round without problems.
    #[track_caller]
    fn listens(&mut self) -> Outcome {
        self.reads(PORT.into());
        self.reports(Connectivity::Firewalled)
    }

    #[track_caller]
    fn bounces(&mut self) {
        self.completes("bounce away", Completed::PortSet);
        self.completes("bounce back", Completed::PortSet);
        self.reads(PORT.into());
        self.pass_ms(1500);
    }

    /// Completes the first round, in which the client still has its old port.
    #[track_caller]
    fn moves(&mut self) {
        self.reads(6881);
        self.completes("set", Completed::PortSet);
        self.reads(PORT.into());
        self.pass_ms(1500);
        self.reports(Connectivity::Firewalled);
    }

    /// A bench in its steady state, 1.5 s after a bind.
    fn steady() -> Self {
        let mut bench = Self::new();
        bench.logs_in();
        bench.signs(LONG);
        bench.binds();
        bench.moves();
        bench
    }

    /// Completes the next bind and the next round without problems.
    #[track_caller]
    fn pass_well(&mut self) {
        self.pass(300);
        self.binds();
        self.listens();
    }

    #[track_caller]
    fn waits(&self) -> u64 {
        let Step::Wait(wait) = self.keeper.next(self.now) else { panic!("{} instead of a wait", self.next()) };
        wait.as_secs()
    }

    #[track_caller]
    fn waits_between(&self, low: u64, high: u64) {
        let wait = self.waits();
        assert!((low..=high).contains(&wait), "waits {wait} s, not {low} to {high}");
    }

    fn is_settled(&self) -> bool {
        self.keeper.is_settled(self.now)
    }
}

fn level(outcome: &Outcome) -> Level {
    outcome.notice.as_ref().expect("a notice").0
}

// ---- the order of a pass

#[test]
fn a_successful_first_pass_ends_settled() {
    let bench = Bench::steady();
    assert!(bench.is_settled());
    bench.waits_between(298, 299);
}

#[test]
fn an_unbound_port_is_not_given_to_the_client() {
    let mut bench = Bench::new();
    bench.logs_in();
    bench.signs(LONG);
    bench.fails("bind", Retry::Backoff);
    assert_eq!(bench.next(), "wait");
    bench.pass(6);
    bench.binds();
    bench.moves();

    // Until a new port is bound, the client keeps the old one.
    bench.pass(300);
    bench.fails("bind", Retry::LeaseRefused);
    bench.signs(LONG);
    bench.fails("bind", Retry::Backoff);
    bench.waits_between(0, 30);
}

#[test]
fn a_stored_lease_needs_neither_token_nor_signature() {
    let mut bench = Bench::stored(LONG);
    bench.binds();
    bench.moves();
    assert!(bench.is_settled());
}

#[test]
fn bind_and_client_share_one_wake_up() {
    let mut bench = Bench::steady();
    bench.pass_well();
    assert_eq!(bench.waits(), 300);
    bench.pass_ms(300_000);
    bench.binds();
    bench.pass_ms(200);
    bench.listens();
    bench.waits_between(299, 300);
}

#[test]
fn settled_means_bound_and_listening_without_failures() {
    let mut bench = Bench::new();
    bench.logs_in();
    bench.signs(LONG);
    assert!(!bench.is_settled(), "not bound");
    bench.binds();
    assert!(!bench.is_settled(), "not set");
    bench.reads(6881);
    bench.completes("set", Completed::PortSet);
    bench.reads(PORT.into());
    assert!(!bench.is_settled(), "not confirmed");
    bench.pass(2);
    bench.reports(Connectivity::Firewalled);
    assert!(bench.is_settled() && !bench.keeper.has_troubles());
    bench.pass(300);
    bench.binds();
    assert!(!bench.is_settled(), "a round is due");
    bench.fails("read", Retry::Backoff);
    assert!(!bench.is_settled() && bench.keeper.has_troubles());
}

#[test]
fn a_step_continues_at_once_until_it_is_done() {
    let mut bench = Bench::steady();
    bench.pass(300);
    for _ in 0..5 {
        let outcome = bench.record("bind", Ok(Progress::More));
        assert!(outcome.notice.is_none() && outcome.recovered.is_none());
    }
    bench.binds();
}

#[test]
fn a_failed_store_is_retried_after_an_interval_and_reported_once() {
    let mut bench = Bench::new();
    bench.logs_in();
    let lease = bench.lease(LONG);
    bench.completes("sign", Completed::Leased(lease));
    assert_eq!(level(&bench.fails("store", Retry::Backoff)), Level::Warn);
    bench.binds();
    bench.moves();
    bench.pass(300);
    assert_eq!(level(&bench.fails("store", Retry::Backoff)), Level::Debug);
    bench.binds();
    bench.listens();
    bench.pass(300);
    bench.completes("store", Completed::Stored);
    bench.binds();
    bench.listens();
    bench.pass_well();
}

// ---- failures

#[test]
fn a_failing_gateway_is_retried_at_least_every_30_s() {
    let mut bench = Bench::steady();
    bench.pass(300);
    for (low, high) in [(4, 5), (8, 10), (16, 20), (24, 30), (24, 30)] {
        bench.fails("bind", Retry::Backoff);
        if bench.next() == "read" {
            bench.listens();
        }
        bench.waits_between(low - 1, high);
        bench.pass(high);
    }
    let outcome = bench.binds();
    let recovery = outcome.recovered.expect("a recovery");
    assert_eq!(recovery.attempts, 5);
    assert!((60..=100).contains(&recovery.after.as_secs()), "{recovery:?}");
}

#[test]
fn a_failure_is_logged_once_as_an_error_and_at_debug_while_it_repeats() {
    let mut bench = Bench::steady();
    bench.pass(300);
    for (attempt, expected) in [(1, Level::Error), (2, Level::Debug), (3, Level::Debug)] {
        let outcome = bench.fails("bind", Retry::Backoff);
        let Some((level, Notice::Failed { attempts, next, .. })) = outcome.notice else { panic!("{outcome:?}") };
        assert_eq!((level, attempts), (expected, attempt));
        assert!(next > Duration::from_secs(3));
        bench.pass(31);
    }
    let other = Error::new(Call::Token, Cause::NotTls);
    assert_eq!(level(&bench.record("bind", Err(other))), Level::Error, "a different error");
    assert_eq!(bench.keeper.snapshot().troubles.len(), 1);
    assert_eq!(bench.keeper.snapshot().binds_failed, 4);
}

#[test]
fn a_dead_client_does_not_stop_the_binds() {
    let mut bench = Bench::steady();
    for _ in 0..3 {
        bench.pass(300);
        bench.binds();
        bench.fails("read", Retry::Backoff);
        assert_eq!(bench.next(), "wait");
    }
}

#[test]
fn the_seed_spreads_waits() {
    let waits = |seed: u64| {
        let mut random = seed | 1;
        [(); 5].map(|()| jittered(&mut random, Duration::from_secs(100)).as_secs())
    };
    assert_eq!(waits(7), waits(7));
    assert_ne!(waits(7), waits(9));
    assert!(waits(7).iter().all(|wait| (80..=100).contains(wait)));
}

#[test]
fn a_rejected_client_password_is_retried_after_half_an_hour_while_binds_continue() {
    let mut bench = Bench::steady();
    bench.pass(300);
    bench.binds();
    let outcome = bench.fails("read", Retry::CredentialsRejected);
    assert!(matches!(outcome.notice, Some((_, Notice::Failed { next, .. })) if next == Duration::from_secs(1800)));
    for _ in 0..5 {
        bench.waits_between(295, 300);
        bench.keeper.retry_now(bench.now);
        bench.binds();
        assert_eq!(bench.next(), "wait", "a signal does not shorten the wait");
        bench.pass(300);
        bench.binds();
    }
    bench.pass(310);
    bench.binds();
    assert_eq!(bench.next(), "read");
}

#[test]
fn a_refused_token_leads_to_one_login_and_one_retry() {
    let mut bench = Bench::new();
    bench.completes("token", Completed::Token { token: Secret::new("old"), logged_in: false });
    let outcome = bench.fails("sign", Retry::TokenRefused);
    assert!(matches!(outcome.notice, Some((Level::Warn, Notice::TokenRefused(_)))));
    let Step::GetToken { refused } = bench.keeper.next(bench.now) else { panic!("{}", bench.next()) };
    assert_eq!(refused, Some(Secret::new("old")), "ignore the file while it contains the refused token");
    bench.logs_in();
    // If the gateway refuses a fresh token, the gateway is at fault.
    assert_eq!(level(&bench.fails("sign", Retry::TokenRefused)), Level::Error);
    for _ in 0..5 {
        bench.waits_between(3, 30);
        bench.pass(31);
        bench.fails("sign", Retry::TokenRefused);
    }
    bench.pass(1800);
    bench.fails("sign", Retry::TokenRefused);
    bench.pass(31);
    assert_eq!(bench.next(), "token");
}

#[test]
fn rejected_credentials_are_retried_after_half_an_hour_despite_retry_now() {
    let mut bench = Bench::new();
    bench.fails("token", Retry::CredentialsRejected);
    bench.keeper.retry_now(bench.now);
    assert_eq!(bench.waits(), 300);
    bench.pass(1799);
    assert_eq!(bench.next(), "wait");
    bench.pass(1);
    bench.logs_in();
}

#[test]
fn the_wait_after_rejected_credentials_continues_in_the_next_run() {
    for (ago, left) in [(0, 300), (1700, 100), (1800, 0)] {
        let mut bench = Bench::new();
        let rejected = error(Retry::CredentialsRejected);
        bench.keeper.remember_rejection(bench.now, Remote::Account, rejected, Duration::from_secs(ago));
        assert_eq!(bench.keeper.has_troubles(), left > 0);
        if left > 0 {
            assert_eq!(bench.waits(), left);
        } else {
            assert_eq!(bench.next(), "token");
        }
    }
}

#[test]
fn a_lockout_lasts_as_long_as_announced_and_doubles_when_repeated() {
    let lockout = |seconds: Option<u64>| Retry::LockedOut(seconds.map(Duration::from_secs));
    let mut bench = Bench::new();
    for wait in [60, 120, 240, 300, 300] {
        bench.fails("token", lockout(None));
        bench.keeper.retry_now(bench.now);
        assert_eq!(bench.waits(), wait, "at most an interval at a time");
        bench.pass(1801);
    }
    let mut bench = Bench::new();
    bench.fails("token", lockout(Some(200)));
    assert_eq!(bench.waits(), 200);
    bench.pass(201);
    bench.fails("token", lockout(Some(0)));
    assert_eq!(bench.waits(), 10, "doubled, although the server asks for less");
}

#[test]
fn retry_after_from_gateway_or_client_is_capped_at_five_minutes() {
    let mut bench = Bench::steady();
    bench.pass(300);
    bench.binds();
    bench.fails("read", Retry::After(Duration::from_secs(3600)));
    bench.pass(300);
    bench.binds();
    bench.fails("read", Retry::After(Duration::from_secs(3600)));
    bench.keeper.retry_now(bench.now);
    bench.binds();
    assert_eq!(bench.next(), "read", "a reload does not wait");
    for (asked, low, high) in [(Duration::MAX, 300, 300), (Duration::from_secs(60), 60, 60), (Duration::ZERO, 4, 5)] {
        let mut bench = Bench::steady();
        bench.pass(300);
        bench.fails("bind", Retry::After(asked));
        bench.listens();
        bench.waits_between(low, high);
    }
}

// ---- the lease

#[test]
fn a_refused_lease_is_replaced_at_once_but_with_one_signature_per_interval() {
    let mut bench = Bench::steady();
    bench.pass(300);
    bench.fails("bind", Retry::LeaseRefused);
    bench.signs(LONG);
    // Until the next signature is due, the keeper retries the refused lease, because the gateway may have been wrong.
    for _ in 0..9 {
        bench.fails("bind", Retry::LeaseRefused);
        if bench.next() == "read" {
            bench.listens();
        }
        bench.waits_between(3, 30);
        bench.pass(31);
    }
    bench.pass(21);
    bench.signs(LONG);
    bench.binds();
    assert_eq!(bench.next(), "read");

    // A reload does not wait for the rest of the interval.
    bench.pass(300);
    bench.fails("bind", Retry::LeaseRefused);
    bench.signs(LONG);
    bench.fails("bind", Retry::LeaseRefused);
    bench.keeper.retry_now(bench.now);
    bench.signs(LONG);
}

#[test]
fn a_gateway_that_grants_15_minute_leases_is_asked_once_per_interval() {
    let mut bench = Bench::new();
    bench.logs_in();
    let mut signatures = 0;
    let mut last = None;
    for _ in 0..2000 {
        let step = bench.keeper.next(bench.now);
        let completed = match &step {
            Step::Wait(wait) => {
                bench.pass_ms(u64::try_from(wait.as_millis()).unwrap());
                continue;
            }
            Step::GetSignature { .. } => {
                signatures += 1;
                let since = last.replace(bench.now.mono).map(|last| bench.now.mono - last);
                assert!(since.is_none_or(|since| since >= Duration::from_secs(300)), "{since:?}");
                Completed::Leased(bench.lease(15 * 60 + 2))
            }
            Step::StoreLease(_) => Completed::Stored,
            Step::Bind(_) => Completed::Bound { gateway: None, route: None, refreshed: true },
            Step::ReadPort => Completed::Port(ListenPort { port: PORT.into(), random: false }),
            Step::Inspect { .. } => Completed::Inspected(None),
            Step::Confirm(_) => Completed::Reachability(Connectivity::Firewalled),
            _ => Completed::PortSet,
        };
        bench.keeper.record(bench.now, &step, Ok(Progress::Done(completed)));
        bench.pass_ms(50);
    }
    assert!(signatures > 100, "{signatures}");
}

#[test]
fn a_refused_lease_is_retried_while_there_is_no_new_one() {
    let mut bench = Bench::steady();
    bench.pass(300);
    bench.fails("bind", Retry::LeaseRefused);
    let (mut binds, end) = (0, bench.now.mono + Duration::from_secs(16 * 60));
    while bench.now.mono < end {
        match bench.next() {
            "bind" => {
                binds += 1;
                bench.fails("bind", Retry::LeaseRefused);
            }
            "sign" => {
                bench.fails("sign", Retry::Backoff);
            }
            "read" => {
                bench.listens();
            }
            _ => bench.pass(15),
        }
    }
    assert!((2..=4).contains(&binds), "{binds} binds in 16 minutes");
}

#[test]
fn a_rejected_password_does_not_end_the_binds_of_a_refused_lease() {
    let mut bench = Bench::stored(LONG);
    bench.fails("bind", Retry::LeaseRefused);
    bench.fails("token", Retry::CredentialsRejected);
    for _ in 0..5 {
        bench.waits_between(265, 300);
        bench.pass(301);
        bench.fails("bind", Retry::Backoff);
    }
    bench.pass(301);
    bench.binds();
}

#[test]
fn three_unexplained_refusals_lead_to_renewal() {
    let mut bench = Bench::steady();
    bench.pass(301);
    for _ in 0..3 {
        bench.fails("bind", Retry::Refused);
        bench.pass(31);
    }
    assert_eq!(bench.next(), "sign");
}

#[test]
fn renewal_begins_15_minutes_before_expiry_and_keeps_the_old_lease_bound() {
    let mut bench = Bench::steady();
    bench.pass(1000 * HOUR - 15 * 60 - 3);
    bench.binds();
    bench.listens();
    bench.completes("check inbound", Completed::Inbound(Inbound::Idle));
    assert_eq!(bench.waits(), 1);
    bench.pass(2);
    bench.fails("sign", Retry::Backoff);
    bench.pass(300);
    bench.binds();
    bench.signs(LONG);
    bench.binds();
    bench.listens();
}

#[test]
fn a_stored_lease_that_seems_expired_is_kept_until_the_gateway_refuses_it() {
    let mut bench = Bench::stored(-LONG);
    bench.binds();
    bench.moves();
    bench.waits_between(298, 300);
    let mut bench = Bench::stored(0);
    bench.fails("bind", Retry::LeaseRefused);
    assert_eq!(bench.next(), "token", "at once, for a new signature");
    bench.fails("token", Retry::Backoff);
    bench.pass(300);
    bench.binds();
    bench.moves();
}

#[test]
fn leases_that_seem_expired_on_arrival_cause_no_storm() {
    for seconds in [60, 15 * 60, -3600] {
        let mut bench = Bench::new();
        bench.logs_in();
        let lease = bench.lease(seconds);
        bench.completes("sign", Completed::Leased(lease));
        let outcome = bench.completes("store", Completed::Stored);
        assert!(matches!(outcome.notice, Some((_, Notice::Leased { over, .. })) if over == (seconds < 0)));
        bench.binds();
        bench.moves();
        bench.waits_between(298, 300);
        bench.pass(300);
        bench.fails("bind", Retry::LeaseRefused);
        assert_eq!(bench.next(), "sign", "only the refusal shows that the lease has expired");
    }
}

#[test]
fn a_clock_jump_does_not_lose_the_port() {
    let mut bench = Bench::steady();
    bench.now.wall += Duration::from_secs(2000 * HOUR);
    let outcome = bench.keeper.observe_clock(bench.now).expect("a jump");
    assert!(matches!(outcome.notice, Some((Level::Info, Notice::ClockJumped(_)))));
    assert!(bench.keeper.observe_clock(bench.now).is_none(), "reported once");
    bench.binds();
    bench.listens();
    bench.waits_between(299, 300);

    // The gateway's time corrects the clock, so the lease's expiry counts again.
    let date = bench.now.wall - SignedDuration::from_hours(2000);
    let outcome = bench.keeper.compare_clock(bench.now, date.into()).expect("a difference");
    assert!(matches!(outcome.notice, Some((Level::Warn, Notice::Clock(ClockChange::Wrong { .. })))));
    bench.pass_well();
    bench.pass(1000 * HOUR);
    assert_eq!(bench.next(), "sign");
}

#[test]
fn a_clock_at_the_end_of_time_does_not_panic() {
    let mut bench = Bench::stored(LONG);
    bench.now.wall = Timestamp::MAX;
    bench.keeper.observe_clock(bench.now);
    bench.binds();
    bench.reads(6881);
    assert_eq!(bench.next(), "set");
}

// ---- the tunnel

fn route(index: u32) -> GatewayRoute {
    let device = Device { index, name: "tun0".to_owned(), tunnel: true };
    GatewayRoute { local: [10, 1, 0, 2].into(), hop: None, device: Some(device), by_source: false }
}

impl Bench {
    fn observes_route(&mut self, index: u32) -> Option<Outcome> {
        self.keeper.observe_route(self.now, None, Ok(route(index)))
    }

    fn loses_route(&mut self) -> Option<Outcome> {
        let error = Error::new(Call::Route, Cause::Other("no route".to_owned()));
        self.keeper.observe_route(self.now, None, Err(error))
    }
}

#[test]
fn a_socket_opened_before_we_started_is_reopened_unless_the_port_was_changed() {
    let mut bench = Bench::stored(LONG);
    bench.binds();
    bench.reads(PORT.into());
    bench.bounces();
    bench.reports(Connectivity::Firewalled);
    bench.pass_well();
    let mut bench = Bench::stored(LONG);
    bench.binds();
    bench.moves();
    bench.pass_well();
}

#[test]
fn a_new_tunnel_is_bound_at_once_and_leads_to_one_bounce() {
    let mut bench = Bench::steady();
    assert!(bench.observes_route(7).is_none(), "no earlier route to compare with");
    bench.pass(10);
    let outcome = bench.observes_route(8).expect("a new device");
    assert!(matches!(outcome.notice, Some((Level::Info, Notice::Tunnel { from: Some(_), .. }))));
    bench.fails("bind", Retry::Backoff);
    bench.listens();
    assert!(bench.keeper.has_troubles());
    bench.pass(6);
    bench.binds();
    assert!(!bench.keeper.has_troubles());
    bench.reads(PORT.into());
    bench.bounces();
    bench.reports(Connectivity::Firewalled);
    bench.pass_well();
}

#[test]
fn a_failed_bounce_is_retried() {
    let mut bench = Bench::steady();
    bench.observes_route(7);
    bench.observes_route(8);
    bench.binds();
    bench.reads(PORT.into());
    bench.fails("bounce away", Retry::Backoff);
    bench.pass(6);
    bench.reads(PORT.into());
    bench.bounces();
    bench.reports(Connectivity::Firewalled);
}

#[test]
fn a_different_gateway_is_not_a_new_tunnel_but_makes_the_socket_suspect() {
    let mut bench = Bench::steady();
    bench.observes_route(7);
    let gateway = Some("10.1.0.1:19999".parse().unwrap());
    assert!(bench.keeper.observe_route(bench.now, gateway, Ok(route(8))).is_none());
    bench.pass(300);
    bench.binds();
    bench.reads(PORT.into());
    assert_eq!(bench.next(), "bounce away");
}

#[test]
fn a_socket_opened_after_the_bind_that_found_the_gateway_is_not_suspect() {
    let mut bench = Bench::stored(LONG);
    let gateway = Some("10.1.0.1:19999".parse().unwrap());
    bench.completes("bind", Completed::Bound { gateway, route: Some(route(7)), refreshed: true });
    bench.reads(6881.into());
    bench.completes("set", Completed::PortSet);
    assert!(bench.keeper.observe_route(bench.now, gateway, Ok(route(7))).is_none());
    bench.reads(PORT.into());
    bench.pass(2);
    bench.reports(Connectivity::Firewalled);
    bench.pass(300);
    bench.completes("bind", Completed::Bound { gateway, route: Some(route(7)), refreshed: true });
    bench.reads(PORT.into());
    assert_eq!(bench.next(), "confirm");
}

// ---- sockets shown by the kernel

#[test]
fn a_socket_on_a_new_port_does_not_prove_that_the_client_listens() {
    let mut bench = Bench::stored(LONG);
    bench.binds();
    bench.reads(6881);
    bench.completes("set", Completed::PortSet);
    bench.shows(ListenState::Reachable);
    assert_eq!(bench.keeper.snapshot().last_listening, None);
    bench.pass_ms(1500);
    bench.reports(Connectivity::Disconnected);
    assert_eq!(bench.keeper.snapshot().last_listening, None);
}

impl Bench {
    /// Reads the right port from the client; the kernel then shows the socket in the state `listen_state`.
    #[track_caller]
    fn shows(&mut self, listen_state: ListenState) -> Outcome {
        self.completes("read", Completed::Port(ListenPort { port: PORT.into(), random: false }));
        self.inspects(listen_state)
    }

    #[track_caller]
    fn inspects(&mut self, listen_state: ListenState) -> Outcome {
        self.completes("inspect", Completed::Inspected(Some(PortSockets::of(listen_state))))
    }

    /// A bench after its first bind; the kernel shows the client's socket.
    fn socket_seen() -> Self {
        let mut bench = Self::stored(LONG);
        bench.observes_route(7);
        bench.binds();
        bench.shows(ListenState::Reachable);
        bench.reports(Connectivity::Firewalled);
        bench
    }
}

#[test]
fn a_socket_that_the_kernel_shows_as_reachable_is_not_reopened() {
    let mut bench = Bench::socket_seen();
    bench.pass(100);
    bench.observes_route(8);
    bench.binds();
    bench.shows(ListenState::Reachable);
    bench.reports(Connectivity::Firewalled);
    assert!(bench.is_settled());
}

#[test]
fn a_stale_socket_is_reopened_when_the_tunnel_works() {
    let mut bench = Bench::socket_seen();
    bench.pass(100);
    bench.observes_route(8);
    assert_eq!(bench.keeper.snapshot().last_listening, None, "the socket of the old tunnel proves nothing");
    bench.fails("bind", Retry::Backoff);
    bench.shows(ListenState::Stale);
    assert_eq!(bench.next(), "wait", "there may be no device for a new socket yet");
    bench.pass(1);
    bench.binds();
    bench.shows(ListenState::Stale);
    bench.completes("bounce away", Completed::PortSet);
    bench.completes("bounce back", Completed::PortSet);
    bench.shows(ListenState::Stale);
    assert_eq!(bench.next(), "wait", "opening the socket takes a moment");
    bench.pass_ms(21);
    bench.inspects(ListenState::Reachable);
    assert!(bench.keeper.snapshot().last_listening.is_some(), "the kernel's evidence is enough");
    bench.pass_ms(1500);
    bench.reports(Connectivity::Firewalled);
    assert!(bench.is_settled());
    // The next tunnel causes another bounce at once.
    bench.observes_route(9);
    bench.binds();
    bench.shows(ListenState::Stale);
    assert_eq!(bench.next(), "bounce away");
}

#[test]
fn a_socket_that_stays_stale_is_reported_as_a_failure() {
    let mut bench = Bench::socket_seen();
    bench.pass(300);
    bench.binds();
    bench.shows(ListenState::Stale);
    bench.completes("bounce away", Completed::PortSet);
    bench.completes("bounce back", Completed::PortSet);
    bench.shows(ListenState::Stale);
    bench.pass(4);
    let outcome = bench.inspects(ListenState::Stale);
    assert_eq!(level(&outcome), Level::Error);
    bench.pass(6);
    let outcome = bench.shows(ListenState::Stale);
    assert!(matches!(outcome.notice, Some((Level::Debug, Notice::Failed { .. }))), "no second bounce: {outcome:?}");
}

/// Transmission's profile: only the kernel shows whether the client listens.
pub(super) const SILENT_PROFILE: ClientProfile = ClientProfile {
    reports_listening: false,
    always_has_udp: true,
    status_lag: Duration::ZERO,
    reannounces: false,
    ..PROFILE
};

impl Bench {
    /// A bench after its first bind, with a client that does not report whether it listens.
    fn with_silent_client() -> Self {
        let lease = Self::new().lease(LONG);
        let mut bench = Self::of(Origin::Lease(Some(lease)), false, SILENT_PROFILE);
        bench.observes_route(7);
        bench.binds();
        bench
    }

    #[track_caller]
    fn reads_port(&mut self, port: i64) {
        self.completes("read", Completed::Port(ListenPort { port, random: false }));
    }

    #[track_caller]
    fn kernel(&mut self, tcp: ListenState, udp: ListenState) -> Outcome {
        self.completes("inspect", Completed::Inspected(Some(PortSockets { udp: Some(udp), ..PortSockets::of(tcp) })))
    }

    #[track_caller]
    fn reports_unknown(&mut self) -> Visibility {
        match self.reports(Connectivity::Unknown).notice {
            Some((Level::Info, Notice::Listening { visibility, .. })) => visibility,
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_listener_on_the_port_before_it_is_set_belongs_to_another_program() {
    use ListenState::{Missing, Reachable};
    let mut bench = Bench::with_silent_client();
    bench.reads_port(6881);
    let outcome = bench.kernel(Reachable, Missing);
    assert_eq!(level(&outcome), Level::Error);
    bench.pass(6);
    bench.reads_port(6881);
    bench.kernel(Missing, Reachable);
    bench.completes("set", Completed::PortSet);
    bench.reads_port(PORT.into());
    bench.kernel(Missing, Missing);
    bench.reports(Connectivity::Unknown);
    assert_eq!(bench.keeper.snapshot().last_listening, None, "not listening yet");
    bench.pass_ms(251);
    bench.kernel(Reachable, Reachable);
    assert_eq!(bench.reports_unknown(), Visibility::Confirmed);
    assert!(bench.is_settled() && bench.keeper.snapshot().last_listening.is_some());
}

#[test]
fn a_client_whose_socket_stays_missing_is_bounced_and_then_reported() {
    use ListenState::Missing;
    let mut bench = Bench::with_silent_client();
    let waits = |bench: &mut Bench| {
        for _ in 0..20 {
            bench.kernel(Missing, Missing);
            let outcome = bench.reports(Connectivity::Unknown);
            if bench.next() != "wait" || outcome.notice.is_some() {
                return outcome;
            }
            bench.pass_ms(251);
        }
        panic!("waits forever");
    };
    bench.reads_port(PORT.into());
    let outcome = waits(&mut bench);
    assert!(matches!(outcome.notice, Some((Level::Warn, Notice::NotListening(PORT)))), "{outcome:?}");
    bench.completes("bounce away", Completed::PortSet);
    bench.completes("bounce back", Completed::PortSet);
    bench.reads_port(PORT.into());
    let outcome = waits(&mut bench);
    assert_eq!(level(&outcome), Level::Error, "{outcome:?}");
    assert_eq!(bench.keeper.snapshot().last_listening, None);
    assert!(!bench.is_settled());
}

#[test]
fn an_unknown_listen_state_is_reported_as_unknown() {
    let mut bench = Bench::with_silent_client();
    bench.reads(6881);
    bench.completes("set", Completed::PortSet);
    bench.reads(PORT.into());
    assert_eq!(bench.reports_unknown(), Visibility::Unknown);
    assert!(bench.is_settled() && !bench.keeper.snapshot().socket_seen);
    bench.pass(301);
    bench.binds();
    bench.reads(PORT.into());
    assert!(
        matches!(bench.reports(Connectivity::Unknown).notice, Some((Level::Debug, _))),
        "reported once, without a bounce"
    );
    // A new tunnel, however, causes a bounce.
    bench.observes_route(8);
    bench.binds();
    bench.reads(PORT.into());
    assert_eq!(bench.next(), "bounce away");
}

#[test]
fn a_udp_socket_left_on_the_old_port_is_bounced_once() {
    use ListenState::{Missing, Reachable};
    let mut bench = Bench::with_silent_client();
    bench.reads_port(PORT.into());
    bench.kernel(Reachable, Missing);
    bench.completes("bounce away", Completed::PortSet);
    bench.completes("bounce back", Completed::PortSet);
    bench.reads_port(PORT.into());
    bench.kernel(Reachable, Missing);
    bench.pass(4);
    bench.kernel(Reachable, Missing);
    assert_eq!(bench.reports_unknown(), Visibility::TcpOnly);
    bench.pass(301);
    bench.binds();
    bench.reads_port(PORT.into());
    bench.kernel(Reachable, Missing);
    assert_eq!(bench.next(), "confirm", "the bounce did not help");
}

#[test]
fn a_port_that_cannot_be_changed_by_setting_it_is_bounced() {
    let mut bench = Bench::stored(LONG);
    bench.binds();
    bench.reads(6881);
    bench.completes("set", Completed::PortSet);
    let outcome = bench.completes("read", Completed::Port(ListenPort { port: 47048, random: false }));
    assert_eq!(level(&outcome), Level::Error);
    bench.pass(6);
    bench.reads(47048);
    bench.completes("bounce away", Completed::PortSet);
    bench.completes("bounce back", Completed::PortSet);
    let outcome = bench.completes("read", Completed::Port(ListenPort { port: 47048, random: false }));
    assert!(matches!(outcome.notice, Some((Level::Debug, Notice::Failed { .. }))), "{outcome:?}");
    bench.pass(12);
    bench.reads(47048);
    bench.completes("set", Completed::PortSet);
}

/// Sockets of a client that listens on any interface, but had no tunnel when it opened them.
fn without_tunnel() -> ListenState {
    ListenState::WrongDevice(vec!["eth0".to_owned(), "lo".to_owned()])
}

impl Bench {
    #[track_caller]
    fn bounces_once(&mut self) {
        self.completes("bounce away", Completed::PortSet);
        self.completes("bounce back", Completed::PortSet);
    }
}

#[test]
fn a_socket_on_the_wrong_device_is_reopened_once_and_then_reported() {
    let mut bench = Bench::socket_seen();
    bench.pass(300);
    bench.binds();
    let on_lan = || ListenState::WrongDevice(vec!["eth0".to_owned()]);
    bench.shows(on_lan());
    bench.bounces_once();
    bench.shows(on_lan());
    bench.pass(4);
    let outcome = bench.inspects(on_lan());
    let Some((Level::Error, Notice::Failed { error, .. })) = outcome.notice else { panic!("{outcome:?}") };
    assert_eq!(error.to_string(), "client socket: the client listens on eth0, but peers arrive on tun0");
    assert!(error.advice.contains("network interface"));
    for _ in 0..3 {
        bench.pass(300);
        bench.binds();
        let outcome = bench.shows(on_lan());
        assert_eq!(level(&outcome), Level::Debug, "not reopened again");
    }
    // A different tunnel, or SIGHUP, is a reason to try again.
    bench.keeper.retry_now(bench.now);
    bench.binds();
    bench.shows(on_lan());
    bench.bounces_once();
}

#[test]
fn a_client_on_any_interface_gets_a_socket_in_a_new_tunnel() {
    let mut bench = Bench::socket_seen();
    for device in [8, 9] {
        bench.pass(100);
        bench.observes_route(device);
        bench.binds();
        bench.shows(without_tunnel());
        bench.bounces_once();
        bench.shows(ListenState::Reachable);
        bench.pass_ms(1500);
        bench.reports(Connectivity::Firewalled);
        assert!(bench.is_settled());
    }
    bench.pass(300);
    bench.binds();
    bench.shows(ListenState::Reachable);
    assert_eq!(bench.next(), "confirm", "a healthy client is left alone");
}

#[test]
fn check_says_that_the_service_reopens_a_dead_socket() {
    for state in [ListenState::Stale, without_tunnel()] {
        let lease = Bench::new().lease(LONG);
        let mut bench = Bench::with(Origin::Lease(Some(lease)), true, false);
        bench.observes_route(7);
        bench.binds();
        let outcome = bench.shows(state);
        let Some((Level::Error, Notice::Failed { error, .. })) = outcome.notice else { panic!("{outcome:?}") };
        assert!(error.to_string().contains("tun0"), "{error}");
        assert_eq!(error.advice, "the running service reopens it (SIGHUP)");
    }
}

#[test]
fn a_socket_that_outlives_a_bounce_belongs_to_another_program() {
    let sockets = |inode: u32, foreign| PortSockets {
        inodes: vec![inode],
        foreign,
        ..PortSockets::of(if foreign { ListenState::Missing } else { ListenState::Reachable })
    };
    for outlives in [true, false] {
        let mut bench = Bench::with_silent_client();
        bench.reads_port(PORT.into());
        bench.completes("inspect", Completed::Inspected(Some(sockets(4711, false))));
        bench.bounces_once();
        bench.reads_port(PORT.into());
        let Step::Inspect(of) = bench.keeper.next(bench.now) else { panic!("{}", bench.next()) };
        assert_eq!(of.foreign, [4711]);
        if outlives {
            bench.completes("inspect", Completed::Inspected(Some(sockets(4711, true))));
            bench.pass(4);
            let outcome = bench.completes("inspect", Completed::Inspected(Some(sockets(4711, true))));
            let Some((Level::Error, Notice::Failed { error, .. })) = outcome.notice else { panic!("{outcome:?}") };
            assert!(error.to_string().contains("another program listens on port"), "{error}");
            assert_eq!(bench.keeper.snapshot().last_listening, None);
        } else {
            bench.completes("inspect", Completed::Inspected(Some(sockets(4712, false))));
            assert_eq!(bench.reports_unknown(), Visibility::Confirmed);
            bench.pass(300);
            bench.binds();
            bench.reads_port(PORT.into());
            bench.completes("inspect", Completed::Inspected(Some(sockets(4712, false))));
            assert_eq!(bench.next(), "confirm", "known to be the client's");
        }
    }
}

#[test]
fn an_incoming_peer_is_remembered_until_the_port_changes() {
    let mut bench = Bench::socket_seen();
    let peer_seen_at = |bench: &Bench| bench.keeper.snapshot().peer_seen_at;
    assert_eq!(peer_seen_at(&bench), None);
    bench.pass(300);
    bench.binds();
    bench.completes("read", Completed::Port(ListenPort { port: PORT.into(), random: false }));
    bench.completes(
        "inspect",
        Completed::Inspected(Some(PortSockets { incoming_peer: true, ..PortSockets::of(ListenState::Reachable) })),
    );
    let seen = bench.now.wall;
    bench.reports(Connectivity::Connected);
    bench.pass_well();
    assert_eq!(peer_seen_at(&bench), Some(seen));
    assert!(bench.keeper.snapshot().port_since.is_some_and(|since| since < seen));
}

#[test]
fn a_lack_of_incoming_peers_causes_one_warning_a_day() {
    let mut bench = Bench::following();
    let a_day = |bench: &mut Bench| {
        for _ in 0..24 * 12 {
            assert_ne!(bench.next(), "check inbound");
            bench.pass(300);
            bench.completes("poll", Completed::Source(Some(PORT)));
            if bench.next() == "check inbound" {
                return;
            }
            bench.shows(ListenState::Reachable);
            bench.reports(Connectivity::Connected);
        }
    };
    bench.completes("poll", Completed::Source(Some(PORT)));
    bench.shows(ListenState::Reachable);
    bench.reports(Connectivity::Firewalled);
    a_day(&mut bench);
    assert!(
        bench.completes("check inbound", Completed::Inbound(Inbound::Idle)).notice.is_none(),
        "no torrent is active, so no peer is expected"
    );
    bench.pass(3600);
    bench.completes("poll", Completed::Source(Some(PORT)));
    bench.shows(ListenState::Reachable);
    bench.reports(Connectivity::Connected);
    let outcome = bench.completes("check inbound", Completed::Inbound(Inbound::NoneSeen));
    assert!(matches!(outcome.notice, Some((Level::Warn, Notice::NoInbound(PORT)))));
    a_day(&mut bench);
    assert!(bench.fails("check inbound", Retry::Backoff).notice.is_none());
    bench.pass(3600);
    bench.completes("poll", Completed::Source(Some(PORT)));
    bench.shows(ListenState::Reachable);
    bench.reports(Connectivity::Connected);
    bench.completes("check inbound", Completed::Inbound(Inbound::Seen));
    assert_eq!(bench.keeper.snapshot().peer_seen_at, Some(bench.now.wall));
}

#[test]
fn a_new_port_is_reannounced_but_a_bounced_port_is_not() {
    let mut bench = Bench::with(
        Origin::Source { name: "gluetun".to_owned(), poll_interval: Duration::from_secs(15), advice: "" },
        false,
        true,
    );
    bench.completes("poll", Completed::Source(Some(PORT)));
    bench.reads(6881);
    bench.completes("set", Completed::PortSet);
    bench.shows(ListenState::Reachable);
    bench.pass_ms(1500);
    bench.reports(Connectivity::Firewalled);
    let outcome = bench.completes("reannounce", Completed::Reannounced);
    assert!(matches!(outcome.notice, Some((Level::Info, Notice::Reannounced(PORT)))));
    assert!(bench.is_settled());
    bench.pass(300);
    bench.completes("poll", Completed::Source(Some(PORT)));
    bench.shows(ListenState::Stale);
    bench.completes("bounce away", Completed::PortSet);
    bench.completes("bounce back", Completed::PortSet);
    bench.shows(ListenState::Reachable);
    bench.pass_ms(1500);
    bench.reports(Connectivity::Firewalled);
    assert_eq!(bench.next(), "wait");
}

#[test]
fn a_password_rejected_during_a_reannounce_is_not_retried_either() {
    let mut bench = Bench::with(
        Origin::Source { name: "gluetun".to_owned(), poll_interval: Duration::from_secs(15), advice: "" },
        false,
        true,
    );
    bench.completes("poll", Completed::Source(Some(PORT)));
    bench.reads(6881);
    bench.completes("set", Completed::PortSet);
    bench.shows(ListenState::Reachable);
    bench.pass_ms(1500);
    bench.reports(Connectivity::Firewalled);
    let outcome = bench.fails("reannounce", Retry::CredentialsRejected);
    assert!(
        matches!(outcome.notice, Some((Level::Error, Notice::Failed { next, .. })) if next == Duration::from_secs(1800))
    );
    bench.pass(300);
    bench.completes("poll", Completed::Source(Some(PORT)));
    bench.keeper.retry_now(bench.now);
    bench.completes("poll", Completed::Source(Some(PORT)));
    assert_eq!(bench.next(), "wait", "a signal does not shorten the wait");
}

#[test]
fn a_new_tunnel_is_tried_every_half_second() {
    let mut bench = Bench::socket_seen();
    bench.observes_route(8);
    bench.fails("bind", Retry::Backoff);
    bench.shows(ListenState::Stale);
    for _ in 0..29 {
        bench.pass_ms(501);
        bench.fails("bind", Retry::Backoff);
    }
    bench.pass(1);
    bench.fails("bind", Retry::Backoff);
    bench.waits_between(3, 5);
}

#[test]
fn an_isolated_namespace_leads_to_an_exit_after_a_minute() {
    let mut bench = Bench::socket_seen();
    let observe = |bench: &mut Bench, isolated| bench.keeper.observe_devices(bench.now, isolated);
    assert!(!observe(&mut bench, true), "there was no device yet: a VPN container may be starting");
    bench.pass(61);
    assert_eq!(bench.next(), "wait");
    observe(&mut bench, false);
    assert!(observe(&mut bench, true));
    bench.pass(59);
    assert!(!observe(&mut bench, true), "reported once");
    assert_eq!(bench.waits(), 1);
    observe(&mut bench, false);
    bench.pass(2);
    assert_eq!(bench.next(), "wait", "the device is back");
    observe(&mut bench, true);
    bench.pass(60);
    assert_eq!(bench.next(), "exit");
}

#[test]
fn a_new_tunnel_ends_the_backoff_but_not_a_lockout() {
    let mut bench = Bench::stored(LONG);
    bench.observes_route(7);
    bench.fails("bind", Retry::Backoff);
    bench.observes_route(8);
    bench.binds();
    let mut bench = Bench::new();
    bench.observes_route(7);
    bench.fails("token", Retry::LockedOut(None));
    bench.observes_route(8);
    assert_eq!(bench.waits(), 60);
}

#[test]
fn without_a_route_only_the_client_is_contacted() {
    let mut bench = Bench::steady();
    bench.observes_route(7);
    let outcome = bench.loses_route().expect("a loss");
    assert_eq!(level(&outcome), Level::Error);
    assert!(bench.loses_route().is_none(), "reported once");
    for _ in 0..3 {
        bench.pass(300);
        bench.listens();
        bench.waits_between(299, 300);
    }
    assert!(bench.observes_route(7).is_some());
    let outcome = bench.binds();
    assert_eq!(outcome.recovered.map(|recovery| recovery.attempts), Some(1));
}

#[test]
fn a_binding_that_the_server_had_lost_is_an_outage() {
    let bind = |bench: &mut Bench, gateway: u8, refreshed| {
        let gateway = Some(([10, 0, 0, gateway], 19999).into());
        bench.completes("bind", Completed::Bound { gateway, route: None, refreshed })
    };
    let lease = Bench::new().lease(LONG);
    let mut bench = Bench::with(Origin::Lease(Some(lease)), false, true);
    bind(&mut bench, 1, false);
    bench.moves();
    bench.completes("reannounce", Completed::Reannounced);
    for (gateway, refreshed, lost) in
        [(1, false, false), (1, true, false), (1, false, true), (1, true, false), (2, false, false), (2, true, false)]
    {
        bench.pass(300);
        let outcome = bind(&mut bench, gateway, refreshed);
        match outcome.notice {
            Some((Level::Info, Notice::Rebound { port: PORT, closed_for })) if lost => {
                assert!(closed_for >= Duration::from_secs(300), "{closed_for:?}");
                bench.completes("reannounce", Completed::Reannounced);
            }
            Some((_, Notice::Bound(PORT))) if !lost => {}
            other => panic!("{gateway} {refreshed}: {other:?}"),
        }
        bench.listens();
    }
}

// ---- a followed port

#[test]
fn a_source_without_a_port_is_polled_quickly_for_a_minute() {
    let mut bench = Bench::following();
    let outcome = bench.completes("poll", Completed::Source(None));
    assert!(matches!(outcome.notice, Some((Level::Warn, Notice::SourceHasNoPort { keeps: None }))), "{outcome:?}");
    assert!(!bench.is_settled());
    for _ in 0..30 {
        bench.waits_between(1, 2);
        bench.pass(2);
        bench.completes("poll", Completed::Source(None));
    }
    bench.waits_between(14, 15);
    bench.pass(16);
    bench.completes("poll", Completed::Source(Some(PORT)));
    bench.moves();
    assert!(bench.is_settled());
    bench.waits_between(12, 15);
}

#[test]
fn a_port_that_the_source_has_lost_is_kept_by_the_client_but_published_for_a_minute_only() {
    let mut bench = Bench::following();
    bench.observes_route(7);
    bench.completes("poll", Completed::Source(Some(PORT)));
    bench.moves();
    bench.pass(16);
    let outcome = bench.completes("poll", Completed::Source(None));
    assert!(
        matches!(outcome.notice, Some((Level::Warn, Notice::SourceHasNoPort { keeps: Some(PORT) }))),
        "{outcome:?}"
    );
    bench.pass(40);
    let outcome = bench.completes("poll", Completed::Source(None));
    assert_eq!((level(&outcome), bench.keeper.port_to_publish(bench.now)), (Level::Debug, Some(PORT)));
    bench.pass(25);
    let outcome = bench.completes("poll", Completed::Source(None));
    let Some((Level::Error, Notice::Failed { error, .. })) = outcome.notice else { panic!("{outcome:?}") };
    assert!(error.to_string().starts_with("port source: gluetun has had no port for 1 min"), "{error}");
    assert_eq!((bench.keeper.port_to_publish(bench.now), bench.keeper.port_to_listen_on()), (None, Some(PORT)));
    assert!(bench.keeper.has_troubles());
    bench.pass(16);
    let outcome = bench.completes("poll", Completed::Source(Some(PORT)));
    assert!(matches!(outcome.notice, Some((Level::Info, Notice::Source(PORT)))), "{outcome:?}");
    assert!(outcome.recovered.is_some() && !bench.keeper.has_troubles());
    assert_eq!(bench.keeper.port_to_publish(bench.now), Some(PORT));
}

#[test]
fn a_port_does_not_confirm_a_tunnel_that_is_lost() {
    let mut bench = Bench::following();
    bench.observes_route(7);
    bench.completes("poll", Completed::Source(Some(PORT)));
    bench.moves();
    let eth0 = Device { index: 2, name: "eth0".to_owned(), tunnel: false };
    let outside = GatewayRoute { device: Some(eth0), ..route(2) };
    let outcome = bench.keeper.observe_route(bench.now, None, Ok(outside.clone())).expect("the tunnel is lost");
    let Some((Level::Error, Notice::Failed { error, .. })) = outcome.notice else { panic!("{outcome:?}") };
    assert_eq!(error.to_string(), "tunnel: traffic now leaves through eth0 instead of tun0");
    assert!(bench.keeper.observe_route(bench.now, None, Ok(outside)).is_none(), "reported once");
    bench.pass(16);
    let outcome = bench.completes("poll", Completed::Source(Some(PORT)));
    assert!(outcome.recovered.is_none() && bench.keeper.has_troubles(), "{outcome:?}");
    assert_eq!(bench.keeper.port_to_publish(bench.now), Some(PORT));
    assert!(bench.observes_route(8).is_some());
    let outcome = bench.completes("poll", Completed::Source(Some(PORT)));
    assert!(outcome.recovered.is_some(), "{outcome:?}");
    bench.reads(PORT.into());
    assert_eq!(bench.next(), "bounce away");
}

#[test]
fn a_dead_source_backs_off_and_the_client_is_still_checked() {
    let mut bench = Bench::following();
    bench.completes("poll", Completed::Source(Some(PORT)));
    bench.moves();
    bench.pass(300);
    bench.fails("poll", Retry::Backoff);
    bench.listens();
    bench.waits_between(3, 5);
}

#[test]
fn with_a_followed_port_the_socket_is_reopened_at_start_and_after_a_change() {
    let mut bench = Bench::following();
    bench.observes_route(7);
    bench.completes("poll", Completed::Source(Some(PORT)));
    bench.reads(PORT.into());
    bench.bounces();
    bench.reports(Connectivity::Firewalled);
    bench.observes_route(8);
    bench.completes("poll", Completed::Source(Some(PORT)));
    bench.reads(PORT.into());
    bench.bounces();
    bench.reports(Connectivity::Firewalled);
    assert!(bench.loses_route().is_some());
    bench.pass(16);
    assert_eq!(bench.next(), "poll", "the source can still be polled");
}

// ---- the client

#[test]
fn a_client_with_random_ports_is_bounced() {
    let mut bench = Bench::stored(LONG);
    bench.binds();
    bench.completes("read", Completed::Port(ListenPort { port: PORT.into(), random: true }));
    bench.kernel_reports_nothing();
    let Step::BounceAway { port, other } = bench.keeper.next(bench.now) else { panic!("{}", bench.next()) };
    assert_eq!((port, other), (PORT, PORT + 1));
    bench.bounces();
    bench.reports(Connectivity::Firewalled);
}

#[test]
fn a_port_that_the_client_does_not_accept_is_an_error() {
    let mut bench = Bench::stored(LONG);
    bench.binds();
    bench.reads(6881);
    bench.completes("set", Completed::PortSet);
    let outcome = bench.reads(6881);
    let Some((Level::Error, Notice::Failed { error, .. })) = outcome.notice else { panic!("{outcome:?}") };
    assert_eq!(error.to_string(), "client port: port 47047 was set, but the client has 6881");
    bench.waits_between(3, 5);
}

/// Reports `Disconnected` until there is a notice; returns the number of reports and the outcome.
fn poll_until_notice(bench: &mut Bench) -> (usize, Outcome) {
    for count in 1..100 {
        let outcome = bench.reports(Connectivity::Disconnected);
        if outcome.notice.is_some() {
            return (count, outcome);
        }
        assert_eq!(bench.next(), "wait");
        bench.pass_ms(251);
    }
    panic!("polls forever")
}

#[test]
fn a_client_that_does_not_listen_is_bounced_once_per_interval_and_reported_once() {
    let mut bench = Bench::steady();
    bench.pass(300);
    bench.binds();
    bench.reads(PORT.into());
    let (count, outcome) = poll_until_notice(&mut bench);
    assert!((12..=14).contains(&count), "every 250 ms for 3 s: {count}");
    assert!(matches!(outcome.notice, Some((Level::Warn, Notice::NotListening(PORT)))));
    bench.bounces();
    let (count, outcome) = poll_until_notice(&mut bench);
    assert!((6..=8).contains(&count), "without the status lag: {count}");
    let Some((Level::Error, Notice::Failed { error, .. })) = outcome.notice else { panic!("{outcome:?}") };
    assert_eq!(error.to_string(), "client socket: port 47047 is set, but nothing listens on it");

    // Within an interval of the bounce, the client is checked but not bounced again.
    bench.pass(6);
    bench.reads(PORT.into());
    assert_eq!(level(&poll_until_notice(&mut bench).1), Level::Debug);
    assert_ne!(bench.next(), "bounce away");
    bench.pass(300);
    bench.binds();
    bench.reads(PORT.into());
    let (_, outcome) = poll_until_notice(&mut bench);
    assert!(matches!(outcome.notice, Some((Level::Debug, Notice::NotListening(PORT)))), "{outcome:?}");
    bench.bounces();
    let outcome = bench.reports(Connectivity::Firewalled);
    assert_eq!(outcome.recovered.map(|recovery| recovery.attempts), Some(2));
}

#[test]
fn a_client_may_begin_to_listen_late() {
    let mut bench = Bench::steady();
    bench.pass(300);
    bench.binds();
    bench.reads(PORT.into());
    for _ in 0..8 {
        assert!(bench.reports(Connectivity::Disconnected).notice.is_none());
        bench.pass_ms(251);
    }
    bench.reports(Connectivity::Connected);
    assert!(bench.is_settled());
}

#[test]
fn an_unfinished_bounce_is_completed_first() {
    let mut bench = Bench::stored(LONG);
    assert_eq!(bench.keeper.unfinished_bounce(), None);
    bench.binds();
    bench.reads(PORT.into());
    bench.completes("bounce away", Completed::PortSet);
    assert_eq!(bench.keeper.unfinished_bounce(), Some(Step::BounceBack(PORT)));
    bench.fails("bounce back", Retry::Backoff);
    assert_eq!(bench.keeper.unfinished_bounce(), Some(Step::BounceBack(PORT)));
    bench.pass(6);
    bench.completes("bounce back", Completed::PortSet);
    assert_eq!(bench.keeper.unfinished_bounce(), None);
    let outcome = bench.reads(PORT.into());
    assert!(matches!(outcome.notice, Some((Level::Info, Notice::Reopened(PORT)))), "{outcome:?}");
    bench.pass(2);
    bench.reports(Connectivity::Firewalled);
    assert!(bench.is_settled());
}

#[test]
fn a_bind_comes_before_the_second_half_of_a_bounce() {
    let mut bench = Bench::stored(LONG);
    bench.binds();
    bench.reads(PORT.into());
    bench.completes("bounce away", Completed::PortSet);
    bench.pass(300);
    bench.binds();
    assert_eq!(bench.next(), "bounce back");
}

#[test]
fn hands_off_does_not_change_the_client() {
    let mut bench = Bench::with(
        Origin::Source { name: "gluetun".to_owned(), poll_interval: Duration::from_secs(15), advice: "" },
        true,
        false,
    );
    bench.completes("poll", Completed::Source(Some(PORT)));
    let outcome = bench.reads(6881);
    let Some((Level::Error, Notice::Failed { error, .. })) = outcome.notice else { panic!("{outcome:?}") };
    assert!(error.to_string().contains("6881") && error.advice.contains("log of the service"));
    bench.pass(6);
    bench.reads(PORT.into());
    let (_, outcome) = poll_until_notice(&mut bench);
    assert!(matches!(outcome.notice, Some((Level::Error, Notice::Failed { .. }))));
    bench.pass(16);
    bench.completes("poll", Completed::Source(Some(PORT)));
    bench.listens();
    assert!(bench.is_settled());
}

#[test]
fn retry_now_binds_and_checks_at_once() {
    let mut bench = Bench::steady();
    bench.pass(10);
    bench.keeper.retry_now(bench.now);
    bench.binds();
    bench.listens();
    assert_eq!(bench.waits(), 300);
}

// ---- bounces

#[test]
fn a_gateway_found_by_the_bind_does_not_delay_a_bounce() {
    let mut bench = Bench::stored(LONG);
    bench.observes_route(7);
    bench.binds();
    let found = Some("10.1.0.1:19999".parse().unwrap());
    assert!(bench.keeper.observe_route(bench.now, found, Ok(route(7))).is_none());
    bench.reads(PORT.into());
    bench.bounces();
    bench.reports(Connectivity::Firewalled);
    bench.pass_well();
}

#[test]
fn an_unbindable_lease_does_not_leave_the_client_in_the_middle_of_a_bounce() {
    let mut bench = Bench::stored(LONG);
    bench.binds();
    bench.reads(PORT.into());
    bench.completes("bounce away", Completed::PortSet);
    bench.pass(300);
    bench.fails("bind", Retry::LeaseRefused);
    bench.logs_in();
    bench.signs(LONG);
    bench.fails("bind", Retry::Backoff);
    assert_eq!(bench.keeper.unfinished_bounce(), Some(Step::BounceBack(PORT)));
    bench.completes("bounce back", Completed::PortSet);
    assert_eq!(bench.keeper.unfinished_bounce(), None);
    assert_eq!(bench.next(), "wait", "the new lease is not bound");
}

#[test]
fn a_stop_during_the_first_half_of_a_bounce_brings_the_client_back() {
    let mut bench = Bench::stored(LONG);
    bench.binds();
    bench.reads(PORT.into());
    // The first half of the bounce has been sent, but its reply has not arrived.
    assert_eq!(bench.next(), "bounce away");
    assert_eq!(bench.keeper.unfinished_bounce(), Some(Step::BounceBack(PORT)));
}

#[test]
fn a_lost_reply_does_not_reopen_a_socket_again() {
    let mut bench = Bench::stored(LONG);
    bench.binds();
    bench.reads(PORT.into());
    bench.completes("bounce away", Completed::PortSet);
    bench.completes("bounce back", Completed::PortSet);
    bench.fails("read", Retry::Backoff);
    bench.pass(6);
    bench.listens();
    bench.pass_well();
}

#[test]
fn a_client_that_does_not_listen_is_bounced_once_per_interval_despite_lost_replies() {
    let mut bench = Bench::steady();
    bench.pass(300);
    bench.binds();
    bench.reads(PORT.into());
    poll_until_notice(&mut bench);
    // The first half of the bounce arrives, but its reply is lost: the next round finds the client on the neighbouring port.
    bench.fails("bounce away", Retry::Backoff);
    bench.pass(6);
    bench.reads(i64::from(PORT) + 1);
    bench.completes("set", Completed::PortSet);
    bench.reads(PORT.into());
    bench.pass_ms(1500);
    let (_, outcome) = poll_until_notice(&mut bench);
    assert!(matches!(outcome.notice, Some((_, Notice::Failed { .. }))), "{outcome:?}");
}

#[test]
fn a_client_that_does_not_listen_is_bounced_once_for_a_new_tunnel() {
    let mut bench = Bench::steady();
    bench.observes_route(7);
    bench.observes_route(8);
    bench.binds();
    bench.reads(PORT.into());
    bench.bounces();
    let (_, outcome) = poll_until_notice(&mut bench);
    assert!(matches!(outcome.notice, Some((Level::Error, Notice::Failed { .. }))), "{outcome:?}");
}

#[test]
fn a_client_that_insists_on_random_ports_is_bounced_once_per_interval() {
    let mut bench = Bench::stored(LONG);
    let random = || Completed::Port(ListenPort { port: PORT.into(), random: true });
    bench.binds();
    for _ in 0..3 {
        bench.completes("read", random());
        bench.kernel_reports_nothing();
        bench.completes("bounce away", Completed::PortSet);
        bench.completes("bounce back", Completed::PortSet);
        bench.completes("read", random());
        bench.kernel_reports_nothing();
        bench.pass_ms(1500);
        bench.reports(Connectivity::Firewalled);
        bench.pass(300);
        bench.binds();
    }
}

#[test]
fn the_status_of_the_old_port_is_ignored_even_after_a_reload() {
    let mut bench = Bench::stored(LONG);
    bench.binds();
    bench.reads(6881);
    bench.completes("set", Completed::PortSet);
    bench.keeper.retry_now(bench.now);
    bench.binds();
    bench.reads(PORT.into());
    assert_eq!(bench.next(), "wait", "the old status may last 1.5 s");
    bench.pass_ms(1501);
    bench.reports(Connectivity::Firewalled);
}

#[test]
fn hands_off_reports_a_random_port() {
    let mut bench = Bench::with(
        Origin::Source { name: "gluetun".to_owned(), poll_interval: Duration::from_secs(15), advice: "" },
        true,
        false,
    );
    bench.completes("poll", Completed::Source(Some(PORT)));
    let outcome = bench.completes("read", Completed::Port(ListenPort { port: PORT.into(), random: true }));
    let Some((Level::Error, Notice::Failed { error, .. })) = outcome.notice else { panic!("{outcome:?}") };
    assert!(error.to_string().contains("random"), "{error}");
}

// ---- the snapshot

#[test]
fn an_unbound_lease_does_not_show_the_bind_of_the_previous_one() {
    let mut bench = Bench::steady();
    bench.pass(300);
    bench.fails("bind", Retry::LeaseRefused);
    bench.signs(LONG);
    assert!(bench.keeper.snapshot().last_bind.is_none());
    bench.binds();
    assert!(bench.keeper.snapshot().last_bind.is_some());
}

#[test]
fn an_account_that_is_no_longer_needed_has_no_trouble() {
    let mut bench = Bench::stored(LONG);
    bench.fails("bind", Retry::LeaseRefused);
    bench.fails("token", Retry::Backoff);
    bench.pass(300);
    bench.binds();
    bench.moves();
    assert!(bench.is_settled(), "{:?}", bench.keeper.snapshot().troubles);
}

#[test]
fn a_source_that_has_its_port_again_is_reported() {
    let mut bench = Bench::following();
    bench.completes("poll", Completed::Source(Some(PORT)));
    bench.moves();
    bench.pass(16);
    bench.completes("poll", Completed::Source(None));
    bench.pass(16);
    let outcome = bench.completes("poll", Completed::Source(Some(PORT)));
    assert!(matches!(outcome.notice, Some((Level::Info, Notice::Source(PORT)))), "{outcome:?}");
    assert_eq!(bench.next(), "wait", "the client already has the port");
}

#[test]
fn a_stop_after_a_lost_reply_to_the_first_half_brings_the_client_back() {
    let mut bench = Bench::stored(LONG);
    bench.binds();
    bench.reads(PORT.into());
    bench.fails("bounce away", Retry::Backoff);
    assert_eq!(bench.keeper.unfinished_bounce(), Some(Step::BounceBack(PORT)));
    bench.pass(6);
    bench.reads(PORT.into());
    bench.fails("bounce away", Retry::CredentialsRejected);
    assert_eq!(bench.keeper.unfinished_bounce(), None, "rejected credentials are not sent again");

    let mut bench = Bench::stored(LONG);
    bench.binds();
    bench.reads(PORT.into());
    bench.fails("bounce away", Retry::Backoff);
    bench.pass(6);
    bench.reads(i64::from(PORT) + 1);
    assert_eq!(bench.keeper.unfinished_bounce(), Some(Step::BounceBack(PORT)), "not back on its port yet");
    bench.completes("set", Completed::PortSet);
    assert_eq!(bench.keeper.unfinished_bounce(), None);
}

#[test]
fn an_unwanted_port_is_given_up_when_a_new_one_is_bound() {
    let mut bench = Bench::stored(LONG);
    bench.binds();
    bench.moves();
    bench.keeper.force_renewal(bench.now);
    bench.logs_in();
    let lease = Lease { port: 50002, ..bench.lease(LONG) };
    bench.completes("sign", Completed::Leased(lease));
    assert!(matches!(bench.binds().notice, Some((Level::Info, Notice::Bound(50002)))));
    bench.completes("store", Completed::Stored);
    bench.reads(PORT.into());
    assert_eq!(bench.next(), "set");
    assert_eq!(bench.keeper.port_to_listen_on(), Some(50002));
}

#[test]
fn the_current_port_is_kept_if_there_is_no_new_one() {
    // The request for a new signature fails.
    let mut bench = Bench::stored(LONG);
    bench.binds();
    bench.moves();
    bench.keeper.force_renewal(bench.now);
    bench.logs_in();
    let outcome = bench.fails("sign", Retry::After(Duration::from_secs(600)));
    assert!(matches!(outcome.notice, Some((Level::Warn, Notice::RenewalFailed(_)))), "{outcome:?}");
    assert_eq!((bench.next(), bench.keeper.port_to_listen_on()), ("wait", Some(PORT)));
    assert!(!bench.keeper.has_troubles());
    bench.pass(301);
    bench.binds();
    bench.listens();
    // The gateway refuses to bind the new lease.
    bench.keeper.force_renewal(bench.now);
    let lease = Lease { port: 50002, ..bench.lease(LONG) };
    bench.completes("sign", Completed::Leased(lease));
    let outcome = bench.fails("bind", Retry::Refused);
    assert!(matches!(outcome.notice, Some((Level::Warn, Notice::PortKept { port: PORT, refused: 50002, .. }))));
    assert!(matches!(bench.binds().notice, Some((_, Notice::Bound(PORT)))));
    assert_eq!(bench.keeper.port_to_listen_on(), Some(PORT));
    assert!(!bench.keeper.has_troubles());
    // Another program leases the port, so there is nothing to renew.
    let mut bench = Bench::following();
    bench.keeper.force_renewal(bench.now);
    assert_eq!(bench.next(), "poll");
}
