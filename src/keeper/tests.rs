//! What the keeper promises, a sentence each.

use jiff::SignedDuration;

use super::step::{ListenPort, Listener, Witness};
use super::tunnel::Device;
use super::*;
use crate::error::Cause;

const HOUR: u64 = 3600;
/// Seconds of a lease that is not about to end.
const LONG: i64 = 1000 * 3600;
const PORT: u16 = 47047;
/// Of qBittorrent.
pub(super) const HABITS: Habits = Habits {
    listen: Duration::from_secs(3),
    poll: Duration::from_millis(250),
    lag: Duration::from_millis(1500),
    tells: true,
    udp: false,
    announces: true,
};

fn kind(step: &Step) -> &'static str {
    match step {
        Step::GetToken { .. } => "token",
        Step::GetSignature { .. } => "sign",
        Step::StoreLease(_) => "store",
        Step::Bind(_) => "bind",
        Step::AskSource => "ask",
        Step::ReadPort => "read",
        Step::Place(_) => "place",
        Step::Leave { .. } => "leave",
        Step::Return(_) => "return",
        Step::Inspect { .. } => "inspect",
        Step::Confirm(_) => "confirm",
        Step::Announce => "announce",
        Step::AskInbound => "inbound",
        Step::Wait(_) => "wait",
        Step::Exit => "end",
    }
}

fn error(meaning: Meaning) -> Error {
    Error::new("step", Cause::Other("it failed".to_owned())).means(meaning)
}

struct Bench {
    keeper: Keeper,
    now: Now,
}

impl Bench {
    fn with(origin: Origin, hands_off: bool, announces: bool) -> Self {
        Self::of(origin, hands_off, Habits { announces, ..HABITS })
    }

    fn of(origin: Origin, hands_off: bool, habits: Habits) -> Self {
        let now = Now { mono: Instant::now(), wall: "2026-11-23T00:00:00Z".parse().unwrap() };
        let interval = Duration::from_secs(300);
        let isolation = Some(Duration::from_secs(60));
        let setup = Setup { interval, origin, habits, hands_off, isolation, seed: 7 };
        Self { keeper: Keeper::new(setup, now), now }
    }

    fn new() -> Self {
        Self::with(Origin::Lease(None), false, false)
    }

    /// With a stored lease that ends in so many seconds.
    fn stored(seconds: i64) -> Self {
        let mut bench = Self::new();
        let lease = bench.lease(seconds);
        bench = Self::with(Origin::Lease(Some(lease)), false, false);
        bench
    }

    fn following() -> Self {
        Self::with(Origin::Source { every: Duration::from_secs(15) }, false, false)
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
    fn record(&mut self, expected: &str, result: Exchange<Done>) -> Verdict {
        let step = self.keeper.next(self.now);
        assert_eq!(kind(&step), expected, "{step:?}");
        self.keeper.record(self.now, &step, result)
    }

    #[track_caller]
    fn does(&mut self, expected: &str, done: Done) -> Verdict {
        self.record(expected, Ok(Progress::Done(done)))
    }

    #[track_caller]
    fn fails(&mut self, expected: &str, meaning: Meaning) -> Verdict {
        self.record(expected, Err(error(meaning)))
    }

    #[track_caller]
    fn logs_in(&mut self) {
        self.does("token", Done::Token { token: Secret::new("t"), logged_in: true });
    }

    #[track_caller]
    fn signs(&mut self, seconds: i64) {
        let lease = self.lease(seconds);
        self.does("sign", Done::Leased(lease));
        self.does("store", Done::Stored);
    }

    #[track_caller]
    fn binds(&mut self) -> Verdict {
        self.does("bind", Done::Bound { gateway: None, way: None })
    }

    #[track_caller]
    fn reads(&mut self, port: i64) -> Verdict {
        let verdict = self.does("read", Done::Port(ListenPort { port, random: false }));
        self.sees_nothing();
        verdict
    }

    /// The kernel abstains where it is asked.
    #[track_caller]
    fn sees_nothing(&mut self) {
        if self.next() == "inspect" {
            self.does("inspect", Done::Inspected(None));
        }
    }

    #[track_caller]
    fn says(&mut self, connectivity: Connectivity) -> Verdict {
        self.does("confirm", Done::Reachability(connectivity))
    }

    /// A round in which all is well.
    #[track_caller]
    fn listens(&mut self) -> Verdict {
        self.reads(PORT.into());
        self.says(Connectivity::Firewalled)
    }

    #[track_caller]
    fn bounces(&mut self) {
        self.does("leave", Done::Set);
        self.does("return", Done::Set);
        self.reads(PORT.into());
        self.pass_ms(1500);
    }

    /// The first round, in which the client has another port.
    #[track_caller]
    fn moves(&mut self) {
        self.reads(6881);
        self.does("place", Done::Set);
        self.reads(PORT.into());
        self.pass_ms(1500);
        self.says(Connectivity::Firewalled);
    }

    /// In its steady state, a second and a half after its bind.
    fn steady() -> Self {
        let mut bench = Self::new();
        bench.logs_in();
        bench.signs(LONG);
        bench.binds();
        bench.moves();
        bench
    }

    /// The next bind and round.
    #[track_caller]
    fn pass_well(&mut self) {
        self.pass(300);
        self.binds();
        self.listens();
    }

    #[track_caller]
    fn waits(&self) -> u64 {
        let Step::Wait(wait) = self.keeper.next(self.now) else { panic!("{} and not a wait", self.next()) };
        wait.as_secs()
    }

    #[track_caller]
    fn waits_between(&self, low: u64, high: u64) {
        let wait = self.waits();
        assert!((low..=high).contains(&wait), "waits {wait} s, not {low} to {high}");
    }

    fn is_content(&self) -> bool {
        self.keeper.is_content(self.now)
    }
}

fn level(verdict: &Verdict) -> Level {
    verdict.news.as_ref().expect("news").0
}

// ---- the order of a pass

#[test]
fn from_nothing_to_content() {
    let bench = Bench::steady();
    assert!(bench.is_content());
    bench.waits_between(298, 299);
}

#[test]
fn a_port_that_was_not_bound_is_not_told() {
    let mut bench = Bench::new();
    bench.logs_in();
    bench.signs(LONG);
    bench.fails("bind", Meaning::Passing);
    assert_eq!(bench.next(), "wait");
    bench.pass(6);
    bench.binds();
    bench.moves();

    // Nor is a new one: the client keeps the old port until then.
    bench.pass(300);
    bench.fails("bind", Meaning::LeaseRefused);
    bench.signs(LONG);
    bench.fails("bind", Meaning::Passing);
    bench.waits_between(0, 30);
}

#[test]
fn a_stored_lease_needs_neither_token_nor_signature() {
    let mut bench = Bench::stored(LONG);
    bench.binds();
    bench.moves();
    assert!(bench.is_content());
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
fn content_is_who_is_bound_and_listened_on_while_nothing_fails() {
    let mut bench = Bench::new();
    bench.logs_in();
    bench.signs(LONG);
    assert!(!bench.is_content(), "not bound");
    bench.binds();
    assert!(!bench.is_content(), "not placed");
    bench.reads(6881);
    bench.does("place", Done::Set);
    bench.reads(PORT.into());
    assert!(!bench.is_content(), "not confirmed");
    bench.pass(2);
    bench.says(Connectivity::Firewalled);
    assert!(bench.is_content() && !bench.keeper.has_troubles());
    bench.pass(300);
    bench.binds();
    assert!(!bench.is_content(), "a round is due");
    bench.fails("read", Meaning::Passing);
    assert!(!bench.is_content() && bench.keeper.has_troubles());
}

#[test]
fn more_exchanges_of_a_step_are_asked_for_at_once() {
    let mut bench = Bench::steady();
    bench.pass(300);
    for _ in 0..5 {
        let verdict = bench.record("bind", Ok(Progress::More));
        assert!(verdict.news.is_none() && verdict.recovered.is_none());
    }
    bench.binds();
}

#[test]
fn a_lease_that_cannot_be_stored_is_tried_again_an_interval_later_and_told_once() {
    let mut bench = Bench::new();
    bench.logs_in();
    let lease = bench.lease(LONG);
    bench.does("sign", Done::Leased(lease));
    assert_eq!(level(&bench.fails("store", Meaning::Passing)), Level::Warn);
    bench.binds();
    bench.moves();
    bench.pass(300);
    assert_eq!(level(&bench.fails("store", Meaning::Passing)), Level::Debug);
    bench.binds();
    bench.listens();
    bench.pass(300);
    bench.does("store", Done::Stored);
    bench.binds();
    bench.listens();
    bench.pass_well();
}

// ---- failures

#[test]
fn a_failing_gateway_is_asked_every_30_s_at_the_latest() {
    let mut bench = Bench::steady();
    bench.pass(300);
    for (low, high) in [(4, 5), (8, 10), (16, 20), (24, 30), (24, 30)] {
        bench.fails("bind", Meaning::Passing);
        if bench.next() == "read" {
            bench.listens();
        }
        bench.waits_between(low - 1, high);
        bench.pass(high);
    }
    let verdict = bench.binds();
    let recovery = verdict.recovered.expect("a recovery");
    assert_eq!(recovery.attempts, 5);
    assert!((60..=100).contains(&recovery.after.as_secs()), "{recovery:?}");
}

#[test]
fn a_trouble_is_an_error_once_and_debug_while_it_repeats() {
    let mut bench = Bench::steady();
    bench.pass(300);
    for (attempt, expected) in [(1, Level::Error), (2, Level::Debug), (3, Level::Debug)] {
        let verdict = bench.fails("bind", Meaning::Passing);
        let Some((level, News::Failed { attempts, next, .. })) = verdict.news else { panic!("{verdict:?}") };
        assert_eq!((level, attempts), (expected, attempt));
        assert!(next > Duration::from_secs(3));
        bench.pass(31);
    }
    let other = Error::new("step", Cause::NotTls);
    assert_eq!(level(&bench.record("bind", Err(other))), Level::Error, "another one");
    assert_eq!(bench.keeper.snapshot().troubles.len(), 1);
    assert_eq!(bench.keeper.snapshot().binds_failed, 4);
}

#[test]
fn a_dead_client_does_not_stop_the_binds() {
    let mut bench = Bench::steady();
    for _ in 0..3 {
        bench.pass(300);
        bench.binds();
        bench.fails("read", Meaning::Passing);
        assert_eq!(bench.next(), "wait");
    }
}

#[test]
fn waits_are_spread_as_the_seed_says() {
    let waits = |seed: u64| {
        let mut random = seed | 1;
        [(); 5].map(|()| jittered(&mut random, Duration::from_secs(100)).as_secs())
    };
    assert_eq!(waits(7), waits(7));
    assert_ne!(waits(7), waits(9));
    assert!(waits(7).iter().all(|wait| (80..=100).contains(wait)));
}

#[test]
fn a_rejected_client_password_waits_half_an_hour_and_binds_go_on() {
    let mut bench = Bench::steady();
    bench.pass(300);
    bench.binds();
    let verdict = bench.fails("read", Meaning::CredentialsRejected);
    assert!(matches!(verdict.news, Some((_, News::Failed { next, .. })) if next == Duration::from_secs(1800)));
    for _ in 0..5 {
        bench.waits_between(295, 300);
        bench.keeper.hurry(bench.now);
        bench.binds();
        assert_eq!(bench.next(), "wait", "no signal shortens it");
        bench.pass(300);
        bench.binds();
    }
    bench.pass(310);
    bench.binds();
    assert_eq!(bench.next(), "read");
}

#[test]
fn a_refused_token_means_one_login_and_one_repeat() {
    let mut bench = Bench::new();
    bench.does("token", Done::Token { token: Secret::new("old"), logged_in: false });
    let verdict = bench.fails("sign", Meaning::TokenRefused);
    assert!(matches!(verdict.news, Some((Level::Warn, News::TokenRefused(_)))));
    let Step::GetToken { refused } = bench.keeper.next(bench.now) else { panic!("{}", bench.next()) };
    assert_eq!(refused, Some(Secret::new("old")), "the file is not believed while it holds it");
    bench.logs_in();
    // A fresh token that is refused means a wrong gateway.
    assert_eq!(level(&bench.fails("sign", Meaning::TokenRefused)), Level::Error);
    for _ in 0..5 {
        bench.waits_between(3, 30);
        bench.pass(31);
        bench.fails("sign", Meaning::TokenRefused);
    }
    bench.pass(1800);
    bench.fails("sign", Meaning::TokenRefused);
    bench.pass(31);
    assert_eq!(bench.next(), "token");
}

#[test]
fn rejected_credentials_wait_half_an_hour_even_when_hurried() {
    let mut bench = Bench::new();
    bench.fails("token", Meaning::CredentialsRejected);
    bench.keeper.hurry(bench.now);
    assert_eq!(bench.waits(), 300);
    bench.pass(1799);
    assert_eq!(bench.next(), "wait");
    bench.pass(1);
    bench.logs_in();
}

#[test]
fn credentials_that_an_earlier_run_had_rejected_wait_for_the_rest_of_it() {
    for (ago, left) in [(0, 300), (1700, 100), (1800, 0)] {
        let mut bench = Bench::new();
        let rejected = error(Meaning::CredentialsRejected);
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
fn lockouts_last_as_long_as_they_say_or_longer_and_longer() {
    let lockout = |seconds: Option<u64>| Meaning::LockedOut { retry_after: seconds.map(Duration::from_secs) };
    let mut bench = Bench::new();
    for wait in [60, 120, 240, 300, 300] {
        bench.fails("token", lockout(None));
        bench.keeper.hurry(bench.now);
        assert_eq!(bench.waits(), wait, "at most an interval at a time");
        bench.pass(1801);
    }
    let mut bench = Bench::new();
    bench.fails("token", lockout(Some(200)));
    assert_eq!(bench.waits(), 200);
    bench.pass(201);
    bench.fails("token", lockout(Some(0)));
    assert_eq!(bench.waits(), 10, "doubled, whatever it says");
}

#[test]
fn gateway_and_client_may_ask_for_five_minutes_and_no_more() {
    let mut bench = Bench::steady();
    bench.pass(300);
    bench.binds();
    bench.fails("read", Meaning::RetryAfter(Duration::from_secs(3600)));
    bench.pass(300);
    bench.binds();
    bench.fails("read", Meaning::RetryAfter(Duration::from_secs(3600)));
    bench.keeper.hurry(bench.now);
    bench.binds();
    assert_eq!(bench.next(), "read", "a reload does not wait");
    for (asked, low, high) in [(Duration::MAX, 300, 300), (Duration::from_secs(60), 60, 60), (Duration::ZERO, 4, 5)] {
        let mut bench = Bench::steady();
        bench.pass(300);
        bench.fails("bind", Meaning::RetryAfter(asked));
        bench.listens();
        bench.waits_between(low, high);
    }
}

// ---- the lease

#[test]
fn a_refused_lease_leads_to_a_new_one_at_once_but_one_signature_an_interval() {
    let mut bench = Bench::steady();
    bench.pass(300);
    bench.fails("bind", Meaning::LeaseRefused);
    bench.signs(LONG);
    // Meanwhile the refused one is tried: the gateway may have been wrong.
    for _ in 0..9 {
        bench.fails("bind", Meaning::LeaseRefused);
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

    // Whoever asks for it is not kept waiting.
    bench.pass(300);
    bench.fails("bind", Meaning::LeaseRefused);
    bench.signs(LONG);
    bench.fails("bind", Meaning::LeaseRefused);
    bench.keeper.hurry(bench.now);
    bench.signs(LONG);
}

#[test]
fn a_gateway_whose_leases_last_15_minutes_gives_one_an_interval() {
    let mut bench = Bench::new();
    bench.logs_in();
    let mut signatures = 0;
    let mut last = None;
    for _ in 0..2000 {
        let step = bench.keeper.next(bench.now);
        let done = match &step {
            Step::Wait(wait) => {
                bench.pass_ms(u64::try_from(wait.as_millis()).unwrap());
                continue;
            }
            Step::GetSignature { .. } => {
                signatures += 1;
                let since = last.replace(bench.now.mono).map(|last| bench.now.mono - last);
                assert!(since.is_none_or(|since| since >= Duration::from_secs(300)), "{since:?}");
                Done::Leased(bench.lease(15 * 60 + 2))
            }
            Step::StoreLease(_) => Done::Stored,
            Step::Bind(_) => Done::Bound { gateway: None, way: None },
            Step::ReadPort => Done::Port(ListenPort { port: PORT.into(), random: false }),
            Step::Inspect { .. } => Done::Inspected(None),
            Step::Confirm(_) => Done::Reachability(Connectivity::Firewalled),
            _ => Done::Set,
        };
        bench.keeper.record(bench.now, &step, Ok(Progress::Done(done)));
        bench.pass_ms(50);
    }
    assert!(signatures > 100, "{signatures}");
}

#[test]
fn a_refused_lease_is_tried_again_while_there_is_no_other() {
    let mut bench = Bench::steady();
    bench.pass(300);
    bench.fails("bind", Meaning::LeaseRefused);
    let (mut binds, end) = (0, bench.now.mono + Duration::from_secs(16 * 60));
    while bench.now.mono < end {
        match bench.next() {
            "bind" => {
                binds += 1;
                bench.fails("bind", Meaning::LeaseRefused);
            }
            "sign" => {
                bench.fails("sign", Meaning::Passing);
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
    bench.fails("bind", Meaning::LeaseRefused);
    bench.fails("token", Meaning::CredentialsRejected);
    for _ in 0..5 {
        bench.waits_between(265, 300);
        bench.pass(301);
        bench.fails("bind", Meaning::Passing);
    }
    bench.pass(301);
    bench.binds();
}

#[test]
fn unexplained_refusals_renew_after_three() {
    let mut bench = Bench::steady();
    bench.pass(301);
    for _ in 0..3 {
        bench.fails("bind", Meaning::Refused);
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
    bench.does("inbound", Done::Inbound(Inbound::Idle));
    assert_eq!(bench.waits(), 1);
    bench.pass(2);
    bench.fails("sign", Meaning::Passing);
    bench.pass(300);
    bench.binds();
    bench.signs(LONG);
    bench.binds();
    bench.listens();
}

#[test]
fn a_stored_lease_that_seems_to_be_over_is_not_given_up_before_the_gateway_says_so() {
    let mut bench = Bench::stored(-LONG);
    bench.binds();
    bench.moves();
    bench.waits_between(298, 300);
    let mut bench = Bench::stored(0);
    bench.fails("bind", Meaning::LeaseRefused);
    assert_eq!(bench.next(), "token", "at once, for a new signature");
    bench.fails("token", Meaning::Passing);
    bench.pass(300);
    bench.binds();
    bench.moves();
}

#[test]
fn leases_that_seem_to_be_over_when_they_arrive_make_no_storm() {
    for seconds in [60, 15 * 60, -3600] {
        let mut bench = Bench::new();
        bench.logs_in();
        let lease = bench.lease(seconds);
        bench.does("sign", Done::Leased(lease));
        let verdict = bench.does("store", Done::Stored);
        assert!(matches!(verdict.news, Some((_, News::Leased { over, .. })) if over == (seconds < 0)));
        bench.binds();
        bench.moves();
        bench.waits_between(298, 300);
        bench.pass(300);
        bench.fails("bind", Meaning::LeaseRefused);
        assert_eq!(bench.next(), "sign", "the gateway tells when it has expired");
    }
}

#[test]
fn a_clock_that_jumps_costs_no_port() {
    let mut bench = Bench::steady();
    bench.now.wall += Duration::from_secs(2000 * HOUR);
    let verdict = bench.keeper.see_clock(bench.now).expect("a jump");
    assert!(matches!(verdict.news, Some((Level::Info, News::ClockJumped(_)))));
    assert!(bench.keeper.see_clock(bench.now).is_none(), "once");
    bench.binds();
    bench.listens();
    bench.waits_between(299, 300);

    // The gateway tells the time: from here on the lease's end is known again.
    let date = bench.now.wall - SignedDuration::from_hours(2000);
    let verdict = bench.keeper.hear_time(bench.now, date.into()).expect("it differs");
    assert!(matches!(verdict.news, Some((Level::Warn, News::Clock(ClockNews::Wrong { .. })))));
    bench.pass_well();
    bench.pass(1000 * HOUR);
    assert_eq!(bench.next(), "sign");
}

#[test]
fn a_clock_at_the_end_of_time_is_survived() {
    let mut bench = Bench::stored(LONG);
    bench.now.wall = Timestamp::MAX;
    bench.keeper.see_clock(bench.now);
    bench.binds();
    bench.reads(6881);
    assert_eq!(bench.next(), "place");
}

// ---- the tunnel

fn way(index: u32) -> Way {
    let device = Device { index, name: "tun0".to_owned(), tunnel: true };
    Way { local: [10, 1, 0, 2].into(), hop: None, device: Some(device), by_source: false }
}

impl Bench {
    fn sees(&mut self, index: u32) -> Option<Verdict> {
        self.keeper.see_way(self.now, None, Ok(way(index)))
    }

    fn loses_way(&mut self) -> Option<Verdict> {
        let error = Error::new("tunnel", Cause::Other("no way".to_owned()));
        self.keeper.see_way(self.now, None, Err(error))
    }
}

#[test]
fn a_socket_from_before_our_start_is_opened_again_unless_the_port_was_moved() {
    let mut bench = Bench::stored(LONG);
    bench.binds();
    bench.reads(PORT.into());
    bench.bounces();
    bench.says(Connectivity::Firewalled);
    bench.pass_well();
    let mut bench = Bench::stored(LONG);
    bench.binds();
    bench.moves();
    bench.pass_well();
}

#[test]
fn another_tunnel_means_a_bind_at_once_and_one_bounce_when_it_works() {
    let mut bench = Bench::steady();
    assert!(bench.sees(7).is_none(), "the first look has nothing to compare with");
    bench.pass(10);
    let verdict = bench.sees(8).expect("another device");
    assert!(matches!(verdict.news, Some((Level::Info, News::Tunnel { from: Some(_), .. }))));
    bench.fails("bind", Meaning::Passing);
    bench.listens();
    assert!(bench.keeper.has_troubles());
    bench.pass(6);
    bench.binds();
    assert!(!bench.keeper.has_troubles());
    bench.reads(PORT.into());
    bench.bounces();
    bench.says(Connectivity::Firewalled);
    bench.pass_well();
}

#[test]
fn a_bounce_that_fails_is_tried_again() {
    let mut bench = Bench::steady();
    bench.sees(7);
    bench.sees(8);
    bench.binds();
    bench.reads(PORT.into());
    bench.fails("leave", Meaning::Passing);
    bench.pass(6);
    bench.reads(PORT.into());
    bench.bounces();
    bench.says(Connectivity::Firewalled);
}

#[test]
fn another_gateway_is_no_change_of_the_tunnel_and_leaves_the_socket_in_doubt() {
    let mut bench = Bench::steady();
    bench.sees(7);
    let gateway = Some("10.1.0.1:19999".parse().unwrap());
    assert!(bench.keeper.see_way(bench.now, gateway, Ok(way(8))).is_none());
    bench.pass(300);
    bench.binds();
    bench.reads(PORT.into());
    assert_eq!(bench.next(), "leave");
}

#[test]
fn a_gateway_that_is_found_with_the_bind_leaves_no_doubt_of_what_is_opened_after_it() {
    let mut bench = Bench::stored(LONG);
    let gateway = Some("10.1.0.1:19999".parse().unwrap());
    bench.does("bind", Done::Bound { gateway, way: Some(way(7)) });
    bench.reads(6881.into());
    bench.does("place", Done::Set);
    assert!(bench.keeper.see_way(bench.now, gateway, Ok(way(7))).is_none());
    bench.reads(PORT.into());
    bench.pass(2);
    bench.says(Connectivity::Firewalled);
    bench.pass(300);
    bench.does("bind", Done::Bound { gateway, way: Some(way(7)) });
    bench.reads(PORT.into());
    assert_eq!(bench.next(), "confirm");
}

// ---- the kernel as a witness

#[test]
fn somebody_elses_socket_on_a_new_port_is_not_the_clients() {
    let mut bench = Bench::stored(LONG);
    bench.binds();
    bench.reads(6881);
    bench.does("place", Done::Set);
    bench.shows(Listener::Open);
    assert_eq!(bench.keeper.snapshot().listened, None);
    bench.pass_ms(1500);
    bench.says(Connectivity::Disconnected);
    assert_eq!(bench.keeper.snapshot().listened, None);
}

impl Bench {
    /// The client has its port, and the kernel says this of the socket.
    #[track_caller]
    fn shows(&mut self, listener: Listener) -> Verdict {
        self.does("read", Done::Port(ListenPort { port: PORT.into(), random: false }));
        self.inspects(listener)
    }

    #[track_caller]
    fn inspects(&mut self, listener: Listener) -> Verdict {
        self.does("inspect", Done::Inspected(Some(Witness { tcp: listener, udp: None, peer: false })))
    }

    /// Bound, and its socket is seen from the start.
    fn witnessed() -> Self {
        let mut bench = Self::stored(LONG);
        bench.sees(7);
        bench.binds();
        bench.shows(Listener::Open);
        bench.says(Connectivity::Firewalled);
        bench
    }
}

#[test]
fn a_socket_that_the_kernel_shows_is_not_opened_again() {
    let mut bench = Bench::witnessed();
    bench.pass(100);
    bench.sees(8);
    bench.binds();
    bench.shows(Listener::Open);
    bench.says(Connectivity::Firewalled);
    assert!(bench.is_content());
}

#[test]
fn a_dead_socket_is_opened_again_when_the_tunnel_works() {
    let mut bench = Bench::witnessed();
    bench.pass(100);
    bench.sees(8);
    assert_eq!(bench.keeper.snapshot().listened, None, "the socket of the old tunnel says nothing");
    bench.fails("bind", Meaning::Passing);
    bench.shows(Listener::Dead);
    assert_eq!(bench.next(), "wait", "there may be no device to open it on");
    bench.pass(1);
    bench.binds();
    bench.shows(Listener::Dead);
    bench.does("leave", Done::Set);
    bench.does("return", Done::Set);
    bench.shows(Listener::Dead);
    assert_eq!(bench.next(), "wait", "it takes a moment");
    bench.pass_ms(21);
    bench.inspects(Listener::Open);
    assert!(bench.keeper.snapshot().listened.is_some(), "what the kernel shows need not be said");
    bench.pass_ms(1500);
    bench.says(Connectivity::Firewalled);
    assert!(bench.is_content());
    // And again at once when the next tunnel comes.
    bench.sees(9);
    bench.binds();
    bench.shows(Listener::Dead);
    assert_eq!(bench.next(), "leave");
}

#[test]
fn a_dead_socket_that_stays_dead_is_a_failure() {
    let mut bench = Bench::witnessed();
    bench.pass(300);
    bench.binds();
    bench.shows(Listener::Dead);
    bench.does("leave", Done::Set);
    bench.does("return", Done::Set);
    bench.shows(Listener::Dead);
    bench.pass(4);
    let verdict = bench.inspects(Listener::Dead);
    assert_eq!(level(&verdict), Level::Error);
    bench.pass(6);
    let verdict = bench.shows(Listener::Dead);
    assert!(matches!(verdict.news, Some((Level::Debug, News::Failed { .. }))), "and no second bounce: {verdict:?}");
}

/// Of Transmission only the kernel tells.
pub(super) const SILENT: Habits = Habits { tells: false, udp: true, lag: Duration::ZERO, announces: false, ..HABITS };

impl Bench {
    /// Bound, beside a client of which only the kernel tells.
    fn beside_a_silent_one() -> Self {
        let lease = Self::new().lease(LONG);
        let mut bench = Self::of(Origin::Lease(Some(lease)), false, SILENT);
        bench.sees(7);
        bench.binds();
        bench
    }

    #[track_caller]
    fn reads_only(&mut self, port: i64) {
        self.does("read", Done::Port(ListenPort { port, random: false }));
    }

    #[track_caller]
    fn kernel(&mut self, tcp: Listener, udp: Listener) -> Verdict {
        self.does("inspect", Done::Inspected(Some(Witness { tcp, udp: Some(udp), peer: false })))
    }

    #[track_caller]
    fn is_silent(&mut self) -> Sight {
        match self.says(Connectivity::Unknown).news {
            Some((Level::Info, News::Listens { sight, .. })) => sight,
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn what_listens_before_a_silent_client_has_the_port_is_another_program() {
    use Listener::{Open, Unseen};
    let mut bench = Bench::beside_a_silent_one();
    bench.reads_only(6881);
    let verdict = bench.kernel(Open, Unseen);
    assert_eq!(level(&verdict), Level::Error);
    bench.pass(6);
    bench.reads_only(6881);
    bench.kernel(Unseen, Open);
    bench.does("place", Done::Set);
    bench.reads_only(PORT.into());
    bench.kernel(Unseen, Unseen);
    bench.says(Connectivity::Unknown);
    assert_eq!(bench.keeper.snapshot().listened, None, "not yet");
    bench.pass_ms(251);
    bench.kernel(Open, Open);
    assert_eq!(bench.is_silent(), Sight::Clear);
    assert!(bench.is_content() && bench.keeper.snapshot().listened.is_some());
}

#[test]
fn a_silent_client_whose_socket_does_not_come_is_bounced_and_then_a_failure() {
    use Listener::Unseen;
    let mut bench = Bench::beside_a_silent_one();
    let waits = |bench: &mut Bench| {
        for _ in 0..20 {
            bench.kernel(Unseen, Unseen);
            let verdict = bench.says(Connectivity::Unknown);
            if bench.next() != "wait" || verdict.news.is_some() {
                return verdict;
            }
            bench.pass_ms(251);
        }
        panic!("waits for ever");
    };
    bench.reads_only(PORT.into());
    let verdict = waits(&mut bench);
    assert!(matches!(verdict.news, Some((Level::Warn, News::Deaf(PORT)))), "{verdict:?}");
    bench.does("leave", Done::Set);
    bench.does("return", Done::Set);
    bench.reads_only(PORT.into());
    let verdict = waits(&mut bench);
    assert_eq!(level(&verdict), Level::Error, "{verdict:?}");
    assert_eq!(bench.keeper.snapshot().listened, None);
    assert!(!bench.is_content());
}

#[test]
fn where_nobody_tells_whether_it_listens_that_is_said() {
    let mut bench = Bench::beside_a_silent_one();
    bench.reads(6881);
    bench.does("place", Done::Set);
    bench.reads(PORT.into());
    assert_eq!(bench.is_silent(), Sight::Unknown);
    assert!(bench.is_content() && !bench.keeper.snapshot().witnessed);
    bench.pass(301);
    bench.binds();
    bench.reads(PORT.into());
    assert!(matches!(bench.says(Connectivity::Unknown).news, Some((Level::Debug, _))), "said once, and no bounce");
    // But after a change of the tunnel.
    bench.sees(8);
    bench.binds();
    bench.reads(PORT.into());
    assert_eq!(bench.next(), "leave");
}

#[test]
fn a_udp_socket_that_was_left_behind_is_fetched_once() {
    use Listener::{Open, Unseen};
    let mut bench = Bench::beside_a_silent_one();
    bench.reads_only(PORT.into());
    bench.kernel(Open, Unseen);
    bench.does("leave", Done::Set);
    bench.does("return", Done::Set);
    bench.reads_only(PORT.into());
    bench.kernel(Open, Unseen);
    bench.pass(4);
    bench.kernel(Open, Unseen);
    assert_eq!(bench.is_silent(), Sight::TcpOnly);
    bench.pass(301);
    bench.binds();
    bench.reads_only(PORT.into());
    bench.kernel(Open, Unseen);
    assert_eq!(bench.next(), "confirm", "a bounce did not help");
}

#[test]
fn a_port_that_setting_does_not_change_is_bounced() {
    let mut bench = Bench::stored(LONG);
    bench.binds();
    bench.reads(6881);
    bench.does("place", Done::Set);
    let verdict = bench.does("read", Done::Port(ListenPort { port: 47048, random: false }));
    assert_eq!(level(&verdict), Level::Error);
    bench.pass(6);
    bench.does("read", Done::Port(ListenPort { port: 47048, random: false }));
    bench.does("leave", Done::Set);
    bench.does("return", Done::Set);
    let verdict = bench.does("read", Done::Port(ListenPort { port: 47048, random: false }));
    assert!(matches!(verdict.news, Some((Level::Debug, News::Failed { .. }))), "{verdict:?}");
    bench.pass(12);
    bench.does("read", Done::Port(ListenPort { port: 47048, random: false }));
    bench.does("place", Done::Set);
}

#[test]
fn a_client_on_another_device_is_a_failure_that_names_both() {
    let mut bench = Bench::witnessed();
    bench.pass(300);
    bench.binds();
    let verdict = bench.shows(Listener::Elsewhere { on: "eth0".to_owned(), tunnel: "tun0".to_owned() });
    let Some((Level::Error, News::Failed { error, .. })) = verdict.news else { panic!("{verdict:?}") };
    assert_eq!(error.to_string(), "client socket: it listens on eth0, the port comes in on tun0");
    assert!(error.advice.contains("network interface"));
}

#[test]
fn a_peer_from_outside_is_remembered_until_the_port_changes() {
    let mut bench = Bench::witnessed();
    let peer_at = |bench: &Bench| bench.keeper.snapshot().peer_at;
    assert_eq!(peer_at(&bench), None);
    bench.pass(300);
    bench.binds();
    bench.does("read", Done::Port(ListenPort { port: PORT.into(), random: false }));
    bench.does("inspect", Done::Inspected(Some(Witness { tcp: Listener::Open, udp: None, peer: true })));
    let seen = bench.now.wall;
    bench.says(Connectivity::Connected);
    bench.pass_well();
    assert_eq!(peer_at(&bench), Some(seen));
    assert!(bench.keeper.snapshot().port_since.is_some_and(|since| since < seen));
}

#[test]
fn a_day_without_anybody_from_outside_is_worth_one_warning_a_day() {
    let mut bench = Bench::following();
    let a_day = |bench: &mut Bench| {
        for _ in 0..24 * 12 {
            assert_ne!(bench.next(), "inbound");
            bench.pass(300);
            bench.does("ask", Done::Source(Some(PORT)));
            if bench.next() == "inbound" {
                return;
            }
            bench.shows(Listener::Open);
            bench.says(Connectivity::Connected);
        }
    };
    bench.does("ask", Done::Source(Some(PORT)));
    bench.shows(Listener::Open);
    bench.says(Connectivity::Firewalled);
    a_day(&mut bench);
    assert!(bench.does("inbound", Done::Inbound(Inbound::Idle)).news.is_none(), "nobody would come");
    bench.pass(3600);
    bench.does("ask", Done::Source(Some(PORT)));
    bench.shows(Listener::Open);
    bench.says(Connectivity::Connected);
    let verdict = bench.does("inbound", Done::Inbound(Inbound::Nobody));
    assert!(matches!(verdict.news, Some((Level::Warn, News::NoInbound(PORT)))));
    a_day(&mut bench);
    assert!(bench.fails("inbound", Meaning::Passing).news.is_none());
    bench.pass(3600);
    bench.does("ask", Done::Source(Some(PORT)));
    bench.shows(Listener::Open);
    bench.says(Connectivity::Connected);
    bench.does("inbound", Done::Inbound(Inbound::Seen));
    assert_eq!(bench.keeper.snapshot().peer_at, Some(bench.now.wall));
}

#[test]
fn trackers_are_told_of_another_port_and_of_no_bounce() {
    let mut bench = Bench::with(Origin::Source { every: Duration::from_secs(15) }, false, true);
    bench.does("ask", Done::Source(Some(PORT)));
    bench.reads(6881);
    bench.does("place", Done::Set);
    bench.shows(Listener::Open);
    bench.pass_ms(1500);
    bench.says(Connectivity::Firewalled);
    let verdict = bench.does("announce", Done::Announced);
    assert!(matches!(verdict.news, Some((Level::Info, News::Announced(PORT)))));
    assert!(bench.is_content());
    bench.pass(300);
    bench.does("ask", Done::Source(Some(PORT)));
    bench.shows(Listener::Dead);
    bench.does("leave", Done::Set);
    bench.does("return", Done::Set);
    bench.shows(Listener::Open);
    bench.pass_ms(1500);
    bench.says(Connectivity::Firewalled);
    assert_eq!(bench.next(), "wait");
}

#[test]
fn a_password_that_is_rejected_by_an_announce_is_not_tried_again_either() {
    let mut bench = Bench::with(Origin::Source { every: Duration::from_secs(15) }, false, true);
    bench.does("ask", Done::Source(Some(PORT)));
    bench.reads(6881);
    bench.does("place", Done::Set);
    bench.shows(Listener::Open);
    bench.pass_ms(1500);
    bench.says(Connectivity::Firewalled);
    let verdict = bench.fails("announce", Meaning::CredentialsRejected);
    assert!(
        matches!(verdict.news, Some((Level::Error, News::Failed { next, .. })) if next == Duration::from_secs(1800))
    );
    bench.pass(300);
    bench.does("ask", Done::Source(Some(PORT)));
    bench.keeper.hurry(bench.now);
    bench.does("ask", Done::Source(Some(PORT)));
    assert_eq!(bench.next(), "wait", "no signal shortens it");
}

#[test]
fn a_tunnel_that_has_just_come_up_is_tried_every_half_second() {
    let mut bench = Bench::witnessed();
    bench.sees(8);
    bench.fails("bind", Meaning::Passing);
    bench.shows(Listener::Dead);
    for _ in 0..29 {
        bench.pass_ms(501);
        bench.fails("bind", Meaning::Passing);
    }
    bench.pass(1);
    bench.fails("bind", Meaning::Passing);
    bench.waits_between(3, 5);
}

#[test]
fn a_namespace_that_has_died_is_left_after_a_minute() {
    let mut bench = Bench::witnessed();
    let sees = |bench: &mut Bench, isolated| bench.keeper.see_devices(bench.now, isolated);
    assert!(!sees(&mut bench, true), "there was none yet: a VPN container may be starting");
    bench.pass(61);
    assert_eq!(bench.next(), "wait");
    sees(&mut bench, false);
    assert!(sees(&mut bench, true));
    bench.pass(59);
    assert!(!sees(&mut bench, true), "once");
    assert_eq!(bench.waits(), 1);
    sees(&mut bench, false);
    bench.pass(2);
    assert_eq!(bench.next(), "wait", "the device is back");
    sees(&mut bench, true);
    bench.pass(60);
    assert_eq!(bench.next(), "end");
}

#[test]
fn another_tunnel_ends_the_backoff_but_no_lockout() {
    let mut bench = Bench::stored(LONG);
    bench.sees(7);
    bench.fails("bind", Meaning::Passing);
    bench.sees(8);
    bench.binds();
    let mut bench = Bench::new();
    bench.sees(7);
    bench.fails("token", Meaning::LockedOut { retry_after: None });
    bench.sees(8);
    assert_eq!(bench.waits(), 60);
}

#[test]
fn without_a_way_nobody_beyond_it_is_asked_and_the_client_is() {
    let mut bench = Bench::steady();
    bench.sees(7);
    let verdict = bench.loses_way().expect("a loss");
    assert_eq!(level(&verdict), Level::Error);
    assert!(bench.loses_way().is_none(), "once");
    for _ in 0..3 {
        bench.pass(300);
        bench.listens();
        bench.waits_between(299, 300);
    }
    assert!(bench.sees(7).is_some());
    let verdict = bench.binds();
    assert_eq!(verdict.recovered.map(|recovery| recovery.attempts), Some(1));
}

// ---- somebody else's port

#[test]
fn a_followed_port_is_asked_for_often_and_the_last_one_kept() {
    let mut bench = Bench::following();
    assert!(matches!(bench.does("ask", Done::Source(None)).news, Some((Level::Warn, News::NoPort))));
    assert_eq!(bench.waits(), 15, "nothing for the client to follow, and PIA is not spoken to");
    assert!(!bench.is_content());
    bench.pass(16);
    bench.does("ask", Done::Source(Some(PORT)));
    bench.moves();
    assert!(bench.is_content());
    for (port, news) in [(Some(PORT), false), (None, true), (None, false)] {
        bench.pass(16);
        assert_eq!(bench.does("ask", Done::Source(port)).news.is_some(), news);
        bench.waits_between(14, 15);
    }
    bench.pass(300);
    bench.does("ask", Done::Source(Some(PORT)));
    bench.listens();
}

#[test]
fn a_dead_source_backs_off_and_the_client_is_still_looked_at() {
    let mut bench = Bench::following();
    bench.does("ask", Done::Source(Some(PORT)));
    bench.moves();
    bench.pass(300);
    bench.fails("ask", Meaning::Passing);
    bench.listens();
    bench.waits_between(3, 5);
}

#[test]
fn whoever_follows_has_the_socket_opened_again_at_start_and_after_a_change() {
    let mut bench = Bench::following();
    bench.sees(7);
    bench.does("ask", Done::Source(Some(PORT)));
    bench.reads(PORT.into());
    bench.bounces();
    bench.says(Connectivity::Firewalled);
    bench.sees(8);
    bench.does("ask", Done::Source(Some(PORT)));
    bench.reads(PORT.into());
    bench.bounces();
    bench.says(Connectivity::Firewalled);
    assert!(bench.loses_way().is_some());
    bench.pass(16);
    assert_eq!(bench.next(), "ask", "who knows the port can be asked all the same");
}

// ---- the client

#[test]
fn a_random_port_is_bounced_away() {
    let mut bench = Bench::stored(LONG);
    bench.binds();
    bench.does("read", Done::Port(ListenPort { port: PORT.into(), random: true }));
    let Step::Leave { port, other } = bench.keeper.next(bench.now) else { panic!("{}", bench.next()) };
    assert_eq!((port, other), (PORT, PORT + 1));
    bench.bounces();
    bench.says(Connectivity::Firewalled);
}

#[test]
fn a_port_that_is_not_taken_is_an_error() {
    let mut bench = Bench::stored(LONG);
    bench.binds();
    bench.reads(6881);
    bench.does("place", Done::Set);
    let verdict = bench.reads(6881);
    let Some((Level::Error, News::Failed { error, .. })) = verdict.news else { panic!("{verdict:?}") };
    assert_eq!(error.to_string(), "client port: port 47047 was set, 6881 is what it has");
    bench.waits_between(3, 5);
}

/// Asks until something else than another look is due.
fn looks(bench: &mut Bench) -> (usize, Verdict) {
    for looks in 1..100 {
        let verdict = bench.says(Connectivity::Disconnected);
        if verdict.news.is_some() {
            return (looks, verdict);
        }
        assert_eq!(bench.next(), "wait");
        bench.pass_ms(251);
    }
    panic!("it is looked at for ever")
}

#[test]
fn a_deaf_client_is_bounced_once_an_interval_and_told_once() {
    let mut bench = Bench::steady();
    bench.pass(300);
    bench.binds();
    bench.reads(PORT.into());
    let (count, verdict) = looks(&mut bench);
    assert!((12..=14).contains(&count), "3 s of a look every 250 ms: {count}");
    assert!(matches!(verdict.news, Some((Level::Warn, News::Deaf(PORT)))));
    bench.bounces();
    let (count, verdict) = looks(&mut bench);
    assert!((6..=8).contains(&count), "the rest of the patience: {count}");
    let Some((Level::Error, News::Failed { error, .. })) = verdict.news else { panic!("{verdict:?}") };
    assert_eq!(error.to_string(), "client socket: port 47047 is set and nothing listens on it");

    // Within the interval it is only looked at.
    bench.pass(6);
    bench.reads(PORT.into());
    assert_eq!(level(&looks(&mut bench).1), Level::Debug);
    assert_ne!(bench.next(), "leave");
    bench.pass(300);
    bench.binds();
    bench.reads(PORT.into());
    let (_, verdict) = looks(&mut bench);
    assert!(matches!(verdict.news, Some((Level::Debug, News::Deaf(PORT)))), "{verdict:?}");
    bench.bounces();
    let verdict = bench.says(Connectivity::Firewalled);
    assert_eq!(verdict.recovered.map(|recovery| recovery.attempts), Some(2));
}

#[test]
fn a_client_that_begins_to_listen_late_is_waited_for() {
    let mut bench = Bench::steady();
    bench.pass(300);
    bench.binds();
    bench.reads(PORT.into());
    for _ in 0..8 {
        assert!(bench.says(Connectivity::Disconnected).news.is_none());
        bench.pass_ms(251);
    }
    bench.says(Connectivity::Connected);
    assert!(bench.is_content());
}

#[test]
fn half_a_bounce_is_brought_to_its_end_first() {
    let mut bench = Bench::stored(LONG);
    assert_eq!(bench.keeper.unfinished_bounce(), None);
    bench.binds();
    bench.reads(PORT.into());
    bench.does("leave", Done::Set);
    assert_eq!(bench.keeper.unfinished_bounce(), Some(Step::Return(PORT)));
    bench.fails("return", Meaning::Passing);
    assert_eq!(bench.keeper.unfinished_bounce(), Some(Step::Return(PORT)));
    bench.pass(6);
    bench.does("return", Done::Set);
    assert_eq!(bench.keeper.unfinished_bounce(), None);
    let verdict = bench.reads(PORT.into());
    assert!(matches!(verdict.news, Some((Level::Info, News::Reopened(PORT)))), "{verdict:?}");
    bench.pass(2);
    bench.says(Connectivity::Firewalled);
    assert!(bench.is_content());
}

#[test]
fn a_bind_goes_before_the_second_half_of_a_bounce() {
    let mut bench = Bench::stored(LONG);
    bench.binds();
    bench.reads(PORT.into());
    bench.does("leave", Done::Set);
    bench.pass(300);
    bench.binds();
    assert_eq!(bench.next(), "return");
}

#[test]
fn whoever_only_looks_leaves_the_client_as_it_is() {
    let mut bench = Bench::with(Origin::Source { every: Duration::from_secs(15) }, true, false);
    bench.does("ask", Done::Source(Some(PORT)));
    let verdict = bench.reads(6881);
    let Some((Level::Error, News::Failed { error, .. })) = verdict.news else { panic!("{verdict:?}") };
    assert!(error.to_string().contains("6881") && error.advice.contains("the service sets it"));
    bench.pass(6);
    bench.reads(PORT.into());
    let (_, verdict) = looks(&mut bench);
    assert!(matches!(verdict.news, Some((Level::Error, News::Failed { .. }))));
    bench.pass(16);
    bench.does("ask", Done::Source(Some(PORT)));
    bench.listens();
    assert!(bench.is_content());
}

#[test]
fn a_hurry_binds_and_looks_at_once() {
    let mut bench = Bench::steady();
    bench.pass(10);
    bench.keeper.hurry(bench.now);
    bench.binds();
    bench.listens();
    assert_eq!(bench.waits(), 300);
}

// ---- bounces

#[test]
fn a_gateway_that_is_found_with_the_bind_puts_no_bounce_off() {
    let mut bench = Bench::stored(LONG);
    bench.sees(7);
    bench.binds();
    let found = Some("10.1.0.1:19999".parse().unwrap());
    assert!(bench.keeper.see_way(bench.now, found, Ok(way(7))).is_none());
    bench.reads(PORT.into());
    bench.bounces();
    bench.says(Connectivity::Firewalled);
    bench.pass_well();
}

#[test]
fn a_client_in_the_middle_of_a_bounce_is_not_left_there_for_a_lease_that_cannot_be_bound() {
    let mut bench = Bench::stored(LONG);
    bench.binds();
    bench.reads(PORT.into());
    bench.does("leave", Done::Set);
    bench.pass(300);
    bench.fails("bind", Meaning::LeaseRefused);
    bench.logs_in();
    bench.signs(LONG);
    bench.fails("bind", Meaning::Passing);
    assert_eq!(bench.keeper.unfinished_bounce(), Some(Step::Return(PORT)));
    bench.does("return", Done::Set);
    assert_eq!(bench.keeper.unfinished_bounce(), None);
    assert_eq!(bench.next(), "wait", "the new lease is not bound");
}

#[test]
fn a_stop_while_a_bounce_begins_brings_the_client_back() {
    let mut bench = Bench::stored(LONG);
    bench.binds();
    bench.reads(PORT.into());
    // Its first half was sent, and of its answer nobody heard.
    assert_eq!(bench.next(), "leave");
    assert_eq!(bench.keeper.unfinished_bounce(), Some(Step::Return(PORT)));
}

#[test]
fn a_socket_that_was_reopened_is_not_reopened_because_a_reply_was_lost() {
    let mut bench = Bench::stored(LONG);
    bench.binds();
    bench.reads(PORT.into());
    bench.does("leave", Done::Set);
    bench.does("return", Done::Set);
    bench.fails("read", Meaning::Passing);
    bench.pass(6);
    bench.listens();
    bench.pass_well();
}

#[test]
fn a_deaf_client_is_bounced_once_an_interval_whatever_replies_are_lost() {
    let mut bench = Bench::steady();
    bench.pass(300);
    bench.binds();
    bench.reads(PORT.into());
    looks(&mut bench);
    // The first half arrives and its reply does not: the client is found on the other port.
    bench.fails("leave", Meaning::Passing);
    bench.pass(6);
    bench.reads(i64::from(PORT) + 1);
    bench.does("place", Done::Set);
    bench.reads(PORT.into());
    bench.pass_ms(1500);
    let (_, verdict) = looks(&mut bench);
    assert!(matches!(verdict.news, Some((_, News::Failed { .. }))), "{verdict:?}");
}

#[test]
fn a_deaf_client_is_bounced_once_for_another_tunnel() {
    let mut bench = Bench::steady();
    bench.sees(7);
    bench.sees(8);
    bench.binds();
    bench.reads(PORT.into());
    bench.bounces();
    let (_, verdict) = looks(&mut bench);
    assert!(matches!(verdict.news, Some((Level::Error, News::Failed { .. }))), "{verdict:?}");
}

#[test]
fn a_client_that_insists_on_random_ports_is_bounced_once_an_interval() {
    let mut bench = Bench::stored(LONG);
    let random = || Done::Port(ListenPort { port: PORT.into(), random: true });
    bench.binds();
    for _ in 0..3 {
        bench.does("read", random());
        bench.does("leave", Done::Set);
        bench.does("return", Done::Set);
        bench.does("read", random());
        bench.sees_nothing();
        bench.pass_ms(1500);
        bench.says(Connectivity::Firewalled);
        bench.pass(300);
        bench.binds();
    }
}

#[test]
fn the_status_of_the_old_port_is_not_believed_after_a_reload_either() {
    let mut bench = Bench::stored(LONG);
    bench.binds();
    bench.reads(6881);
    bench.does("place", Done::Set);
    bench.keeper.hurry(bench.now);
    bench.binds();
    bench.reads(PORT.into());
    assert_eq!(bench.next(), "wait", "a second and a half");
    bench.pass_ms(1501);
    bench.says(Connectivity::Firewalled);
}

#[test]
fn whoever_only_looks_says_that_the_port_is_random() {
    let mut bench = Bench::with(Origin::Source { every: Duration::from_secs(15) }, true, false);
    bench.does("ask", Done::Source(Some(PORT)));
    let verdict = bench.does("read", Done::Port(ListenPort { port: PORT.into(), random: true }));
    let Some((Level::Error, News::Failed { error, .. })) = verdict.news else { panic!("{verdict:?}") };
    assert!(error.to_string().contains("random"), "{error}");
}

// ---- what is shown

#[test]
fn a_lease_that_was_not_bound_does_not_show_the_bind_of_the_last_one() {
    let mut bench = Bench::steady();
    bench.pass(300);
    bench.fails("bind", Meaning::LeaseRefused);
    bench.signs(LONG);
    assert!(bench.keeper.snapshot().last_bind.is_none());
    bench.binds();
    assert!(bench.keeper.snapshot().last_bind.is_some());
}

#[test]
fn an_account_that_is_not_needed_any_more_is_no_trouble() {
    let mut bench = Bench::stored(LONG);
    bench.fails("bind", Meaning::LeaseRefused);
    bench.fails("token", Meaning::Passing);
    bench.pass(300);
    bench.binds();
    bench.moves();
    assert!(bench.is_content(), "{:?}", bench.keeper.snapshot().troubles);
}

#[test]
fn a_source_that_has_its_port_again_is_told_too() {
    let mut bench = Bench::following();
    bench.does("ask", Done::Source(Some(PORT)));
    bench.moves();
    bench.pass(16);
    bench.does("ask", Done::Source(None));
    bench.pass(16);
    let verdict = bench.does("ask", Done::Source(Some(PORT)));
    assert!(matches!(verdict.news, Some((Level::Info, News::Source(PORT)))), "{verdict:?}");
    assert_eq!(bench.next(), "wait", "the client has it already");
}

#[test]
fn a_stop_after_a_lost_reply_to_the_first_half_brings_the_client_back() {
    let mut bench = Bench::stored(LONG);
    bench.binds();
    bench.reads(PORT.into());
    bench.fails("leave", Meaning::Passing);
    assert_eq!(bench.keeper.unfinished_bounce(), Some(Step::Return(PORT)));
    bench.pass(6);
    bench.reads(PORT.into());
    bench.fails("leave", Meaning::CredentialsRejected);
    assert_eq!(bench.keeper.unfinished_bounce(), None, "a password that was rejected is not tried again");

    let mut bench = Bench::stored(LONG);
    bench.binds();
    bench.reads(PORT.into());
    bench.fails("leave", Meaning::Passing);
    bench.pass(6);
    bench.reads(i64::from(PORT) + 1);
    assert_eq!(bench.keeper.unfinished_bounce(), Some(Step::Return(PORT)), "found away and not back yet");
    bench.does("place", Done::Set);
    assert_eq!(bench.keeper.unfinished_bounce(), None);
}

#[test]
fn a_port_that_is_not_wanted_any_more_is_given_up_when_another_one_is_bound() {
    let mut bench = Bench::stored(LONG);
    bench.binds();
    bench.moves();
    bench.keeper.renew_on_purpose(bench.now);
    bench.logs_in();
    let lease = Lease { port: 50002, ..bench.lease(LONG) };
    bench.does("sign", Done::Leased(lease));
    assert!(matches!(bench.binds().news, Some((Level::Info, News::Bound(50002)))));
    bench.does("store", Done::Stored);
    bench.does("read", Done::Port(ListenPort { port: PORT.into(), random: false }));
    assert_eq!(bench.next(), "place");
    assert_eq!(bench.keeper.port_to_listen_on(), Some(50002));
}

#[test]
fn a_port_is_kept_where_another_one_cannot_be_had() {
    // Not given.
    let mut bench = Bench::stored(LONG);
    bench.binds();
    bench.moves();
    bench.keeper.renew_on_purpose(bench.now);
    bench.logs_in();
    let verdict = bench.fails("sign", Meaning::RetryAfter(Duration::from_secs(600)));
    assert!(matches!(verdict.news, Some((Level::Warn, News::NotRenewed(_)))), "{verdict:?}");
    assert_eq!((bench.next(), bench.keeper.port_to_listen_on()), ("wait", Some(PORT)));
    assert!(!bench.keeper.has_troubles());
    bench.pass(301);
    bench.binds();
    bench.listens();
    // Not bound.
    bench.keeper.renew_on_purpose(bench.now);
    let lease = Lease { port: 50002, ..bench.lease(LONG) };
    bench.does("sign", Done::Leased(lease));
    let verdict = bench.fails("bind", Meaning::Refused);
    assert!(matches!(verdict.news, Some((Level::Warn, News::KeptOld { port: PORT, refused: 50002, .. }))));
    assert!(matches!(bench.binds().news, Some((_, News::Bound(PORT)))));
    assert_eq!(bench.keeper.port_to_listen_on(), Some(PORT));
    assert!(!bench.keeper.has_troubles());
    // Somebody else's.
    let mut bench = Bench::following();
    bench.keeper.renew_on_purpose(bench.now);
    assert_eq!(bench.next(), "ask");
}
