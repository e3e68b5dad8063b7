//! Hundreds of virtual days with seeded random faults: what the decisions add up to.

use std::time::{Duration, Instant};

use jiff::Timestamp;

use super::{Failure, Keeper, Now, Outcome, Source, Step};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86400);
const INTERVAL: Duration = Duration::from_secs(300);
/// A lease's life at PIA.
const LEASE_LIFE: Duration = Duration::from_secs(60 * 86400);

struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }

    fn percent(&mut self, chance: u64) -> bool {
        self.below(100) < chance
    }
}

/// What the world does at a point in time.
#[derive(Clone, Copy, Default)]
#[allow(clippy::struct_excessive_bools, reason = "each is a fault that can be switched on by itself")]
struct Weather {
    gateway_down: bool,
    account_down: bool,
    client_down: bool,
    /// Chance in percent of any call to fail.
    loss: u64,
    wrong_password: bool,
    /// Tokens are refused, new ones too: a wrong gateway.
    tokens_refused: bool,
    /// Chance in percent of a bind to be refused for good.
    refusals: u64,
    /// The tunnel that there is; none when it is gone.
    tunnel: Tunnel,
    /// What the system's clock is ahead, until the gateway tells the time.
    clock_ahead: Duration,
}

/// Which tunnel there is, and whether somebody watches it: most weather has one, and to watch it takes time.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Tunnel {
    #[default]
    Unwatched,
    Up(u64),
    Gone,
}

#[derive(Default)]
struct Tally {
    binds: Vec<Duration>,
    signatures: Vec<Duration>,
    logins: Vec<Duration>,
    login_attempts: Vec<Duration>,
    client_attempts: usize,
    confirmed: Vec<Duration>,
    reopened: Vec<Duration>,
    waits: usize,
}

fn longest_gap(times: &[Duration], from: Duration, to: Duration) -> Duration {
    let mut last = from;
    let mut longest = Duration::ZERO;
    for &time in times.iter().filter(|&&time| time >= from && time <= to) {
        longest = longest.max(time.saturating_sub(last));
        last = time;
    }
    longest.max(to.saturating_sub(last))
}

fn most_within(times: &[Duration], window: Duration) -> usize {
    (0..times.len())
        .map(|i| times[i..].iter().take_while(|&&time| time <= times[i] + window).count())
        .max()
        .unwrap_or(0)
}

/// Runs a keeper for `length` under `weather` and counts.
fn run(seed: u64, length: Duration, weather: impl Fn(Duration) -> Weather) -> Tally {
    let start = Instant::now();
    let epoch: Timestamp = "2026-11-23T00:00:00Z".parse().unwrap();
    let mut random = Random(seed);
    let mut tally = Tally::default();
    let mut elapsed = Duration::ZERO;
    let at = |elapsed: Duration, ahead: Duration| Now { mono: start + elapsed, wall: epoch + elapsed + ahead };
    let mut before = weather(elapsed);
    let mut ahead = before.clock_ahead;
    let mut keeper = Keeper::new(INTERVAL, Source::Lease { expires_at: None }, seed, at(elapsed, ahead));
    keeper.set_routed(before.tunnel != Tunnel::Gone);
    let mut without_wait = 0;
    while elapsed < length {
        let sky = weather(elapsed);
        if sky.clock_ahead != before.clock_ahead {
            ahead = sky.clock_ahead;
            keeper.clock_jumped(at(elapsed, ahead));
        }
        if sky.tunnel != before.tunnel {
            keeper.set_routed(sky.tunnel != Tunnel::Gone);
            if sky.tunnel != Tunnel::Gone {
                keeper.tunnel_changed(at(elapsed, ahead));
            }
        }
        before = sky;
        let step = keeper.next(at(elapsed, ahead));
        if let Step::Wait(wait) = step {
            assert!(wait > Duration::ZERO, "a wait of zero at {elapsed:?}");
            assert!(wait <= INTERVAL + SECOND, "a wait of {wait:?}");
            tally.waits += 1;
            without_wait = 0;
            elapsed += match sky.tunnel {
                Tunnel::Unwatched => wait,
                Tunnel::Up(_) if !keeper.gateway_is_failing() => wait.min(15 * SECOND),
                _ => wait.min(SECOND),
            };
            continue;
        }
        let beyond = matches!(step, Step::GetToken | Step::GetSignature | Step::BindPort);
        assert!(!beyond || sky.tunnel != Tunnel::Gone, "{step:?} without a tunnel at {elapsed:?}");
        without_wait += 1;
        assert!(without_wait <= 12, "{without_wait} steps without a wait at {elapsed:?}, the last one {step:?}");
        let (outcome, took) = carry_out(step, sky, &mut random, at(elapsed, Duration::ZERO), &mut tally, elapsed);
        elapsed += took;
        if matches!(outcome, Outcome::Leased { .. } | Outcome::Bound) {
            ahead = Duration::ZERO;
        }
        keeper.record(at(elapsed, ahead), step, outcome);
    }
    tally
}

fn carry_out(
    step: Step,
    sky: Weather,
    random: &mut Random,
    now: Now,
    tally: &mut Tally,
    elapsed: Duration,
) -> (Outcome, Duration) {
    let down = match step {
        Step::GetToken => sky.account_down,
        Step::GetSignature | Step::BindPort => sky.gateway_down,
        _ => sky.client_down,
    };
    match step {
        Step::GetToken => tally.login_attempts.push(elapsed),
        Step::PlacePort | Step::ConfirmPort => tally.client_attempts += 1,
        Step::ReopenPort => tally.reopened.push(elapsed),
        _ => {}
    }
    if down || random.percent(sky.loss) {
        // Refused at once, or the whole deadline of a request.
        let took = if random.percent(50) { Duration::from_millis(1) } else { 10 * SECOND };
        return (Outcome::Failed(Failure::Transient), took);
    }
    let took = Duration::from_millis(50 + random.below(500));
    let outcome = match step {
        Step::GetToken if sky.wrong_password => Outcome::Failed(Failure::Credentials),
        Step::GetToken => {
            tally.logins.push(elapsed);
            Outcome::Token { logged_in: true }
        }
        Step::GetSignature if sky.tokens_refused => Outcome::Failed(Failure::TokenRejected),
        Step::GetSignature => {
            tally.signatures.push(elapsed);
            Outcome::Leased { expires_at: now.wall + LEASE_LIFE }
        }
        Step::BindPort if random.percent(sky.refusals) => Outcome::Failed(Failure::LeaseRefused),
        Step::BindPort => {
            tally.binds.push(elapsed);
            Outcome::Bound
        }
        Step::PlacePort | Step::ReopenPort => {
            Outcome::Placed { settle: if random.percent(10) { SECOND * 2 } else { Duration::ZERO } }
        }
        Step::ConfirmPort => {
            tally.confirmed.push(elapsed);
            Outcome::Confirmed
        }
        Step::AskPort | Step::Wait(_) => unreachable!("{step:?} is not carried out here"),
    };
    (outcome, took)
}

#[test]
fn an_hour_of_outage_and_then_30_percent_loss_never_leave_more_than_15_minutes() {
    let mut worst = Duration::ZERO;
    for seed in 1..=100 {
        let weather = |at: Duration| Weather {
            gateway_down: at < HOUR,
            account_down: at < HOUR,
            loss: if at < HOUR { 0 } else { 30 },
            ..Weather::default()
        };
        let tally = run(seed, 3 * DAY, weather);
        worst = worst.max(longest_gap(&tally.binds, HOUR, 3 * DAY));
    }
    println!("300 virtual days at 30 % loss: the longest gap between two binds is {} s", worst.as_secs());
    assert!(worst <= 15 * MINUTE, "{worst:?}");
}

#[test]
fn a_quiet_year_costs_one_bind_per_interval_and_one_signature_per_lease() {
    let tally = run(1, 365 * DAY, |_| Weather::default());
    assert_eq!(tally.logins.len(), 1);
    assert_eq!(tally.signatures.len(), 7);
    let intervals = usize::try_from(365 * 86400 / 300).unwrap();
    assert!(tally.binds.len().abs_diff(intervals) < 400, "{} binds", tally.binds.len());
    assert!(tally.waits < intervals * 2, "{} wake-ups", tally.waits);
    assert!(longest_gap(&tally.binds, Duration::ZERO, 365 * DAY) < INTERVAL + 5 * SECOND);
}

#[test]
fn outages_of_any_length_end_within_a_minute() {
    for seed in 1..=30 {
        let (from, to) = (DAY, DAY + seed * 17 * MINUTE);
        let tally =
            run(seed.into(), 3 * DAY, |at| Weather { gateway_down: (from..to).contains(&at), ..Weather::default() });
        let back = tally.binds.iter().find(|&&time| time > to).unwrap();
        let delay = back.saturating_sub(to);
        assert!(delay <= MINUTE, "back after {delay:?}");
        assert_eq!(tally.signatures.len(), 1, "an outage costs no port");
    }
}

#[test]
fn a_dead_client_costs_no_bind() {
    let tally = run(3, 10 * DAY, |at| Weather { client_down: at > DAY && at < 9 * DAY, ..Weather::default() });
    assert!(longest_gap(&tally.binds, MINUTE, 10 * DAY) <= INTERVAL + MINUTE);
    assert!(tally.confirmed.iter().any(|&time| time > 9 * DAY && time < 9 * DAY + MINUTE));
}

#[test]
fn a_wrong_password_is_tried_twice_an_hour() {
    let tally = run(4, 10 * DAY, |_| Weather { wrong_password: true, ..Weather::default() });
    assert!(most_within(&tally.login_attempts, HOUR) <= 3, "{}", most_within(&tally.login_attempts, HOUR));
    assert!(tally.login_attempts.len() > 400);
}

#[test]
fn a_wrong_gateway_makes_no_login_storm() {
    let tally = run(5, 10 * DAY, |_| Weather { tokens_refused: true, ..Weather::default() });
    assert!(most_within(&tally.logins, HOUR) <= 3);
}

#[test]
fn refused_leases_make_no_signature_storm() {
    let tally = run(6, DAY, |_| Weather { refusals: 100, ..Weather::default() });
    assert!(most_within(&tally.signatures, HOUR) <= 160, "{}", most_within(&tally.signatures, HOUR));
    let tally = run(6, 30 * DAY, |_| Weather { refusals: 10, ..Weather::default() });
    assert!(longest_gap(&tally.binds, MINUTE, 30 * DAY) < 15 * MINUTE);
}

#[test]
fn a_tunnel_that_comes_and_goes_costs_seconds() {
    for seed in 1..=10 {
        // Each hour has a tunnel of its own, and some of them begin with none.
        let gone = move |hour: u64| {
            let mut dice = Random(seed * 7_654_321 + hour);
            dice.below(2);
            Duration::from_secs(if dice.percent(50) { dice.below(3000) } else { 0 })
        };
        let tunnel = move |at: Duration| {
            let hour = at.as_secs() / 3600;
            if at < HOUR * u32::try_from(hour).unwrap() + gone(hour) { Tunnel::Gone } else { Tunnel::Up(hour) }
        };
        let weather = move |at: Duration| Weather { tunnel: tunnel(at), ..Weather::default() };
        let tally = run(seed, 5 * DAY, weather);
        assert_eq!(tally.signatures.len(), 1, "no outage costs a port");
        for hour in 1..119 {
            let up = HOUR * u32::try_from(hour).unwrap() + gone(hour);
            let after = |times: &[Duration]| times.iter().find(|&&time| time >= up).unwrap().saturating_sub(up);
            assert!(after(&tally.binds) <= 16 * SECOND, "hour {hour}: bound after {:?}", after(&tally.binds));
            assert!(after(&tally.reopened) <= 17 * SECOND, "hour {hour}: {:?}", after(&tally.reopened));
        }
        assert!(tally.reopened.len() <= 120, "{} for 119 changes", tally.reopened.len());
    }
}

#[test]
fn clocks_that_jump_by_months_cost_no_port() {
    let weather = |at: Duration| Weather {
        clock_ahead: if at.as_secs() / 7200 % 2 == 1 { 90 * DAY } else { Duration::ZERO },
        loss: 10,
        ..Weather::default()
    };
    for seed in 1..=20 {
        let tally = run(seed, 20 * DAY, weather);
        assert_eq!(tally.signatures.len(), 1, "seed {seed}");
        assert!(longest_gap(&tally.binds, MINUTE, 20 * DAY) < 15 * MINUTE, "seed {seed}");
    }
}

#[test]
fn everything_at_once_for_a_year() {
    for seed in 1..=5 {
        // Each day draws its own faults; every fourth one is calm.
        let weather = move |at: Duration| {
            let hour = at.as_secs() / 3600;
            let mut dice = Random(seed * 1_000_003 + hour);
            dice.below(2);
            if (hour / 24).is_multiple_of(4) {
                return Weather::default();
            }
            Weather {
                gateway_down: dice.percent(10),
                account_down: dice.percent(10),
                client_down: dice.percent(10),
                loss: dice.below(30),
                wrong_password: dice.percent(2),
                tokens_refused: dice.percent(2),
                refusals: dice.below(5),
                ..Weather::default()
            }
        };
        let tally = run(seed, 365 * DAY, weather);
        for day in (4..364).step_by(4) {
            let calm = day * DAY + 31 * MINUTE;
            let gap = longest_gap(&tally.binds, calm, (day + 1) * DAY);
            assert!(gap <= INTERVAL + MINUTE, "calm day {day}, seed {seed}: {gap:?}");
        }
        assert!(most_within(&tally.logins, HOUR) <= 4);
    }
}
