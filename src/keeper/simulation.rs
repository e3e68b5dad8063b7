//! Tests of the keeper's long-term behaviour, over hundreds of virtual days with seeded random faults. Tests of single decisions
//! are in `tests`.

use super::step::{ListenPort, ListenState, PortSockets};
use super::tests::{PROFILE, SILENT_PROFILE};
use super::tunnel::Device;
use super::*;
use crate::error::{Call, Cause};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86400);
const INTERVAL: Duration = Duration::from_secs(300);
/// Minimum time between bounces. Shorter than an interval, which counts from the decision to bounce: a slow bind or a wait for the
/// client may delay the bounce itself.
const NEARLY_AN_INTERVAL: Duration = Duration::from_secs(240);
/// Lifetime of PIA's leases: 60 days.
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

/// The faults in force at a given time.
#[derive(Clone, Copy, Default)]
#[allow(clippy::struct_excessive_bools, reason = "each fault can be switched on separately")]
struct Weather {
    gateway_down: bool,
    account_down: bool,
    client_down: bool,
    /// The client never listens: another program has the port.
    client_not_listening: bool,
    /// The kernel shows the client's socket.
    socket_shown: bool,
    /// Duration of each exchange with the client; zero means a random 50 to 550 ms.
    client_takes: Duration,
    /// Percentage of calls that fail.
    loss: u64,
    wrong_password: bool,
    /// The gateway is the wrong one, so it refuses even fresh tokens.
    tokens_refused: bool,
    /// Percentage of binds in which the gateway refuses the lease.
    refusals: u64,
    tunnel: Tunnel,
    /// How far the system's clock is ahead of the gateway's.
    clock_ahead: Duration,
}

/// Unwatched by default, because a watched tunnel requires a simulated pass every second.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Tunnel {
    #[default]
    Unwatched,
    Up(u32),
    Gone,
}

/// A simulated torrent client.
#[derive(Default)]
struct Torrent {
    port: i64,
    /// The socket belongs to a previous tunnel.
    stale: bool,
    /// In the middle of a bounce.
    away: bool,
}

#[derive(Default)]
struct Tally {
    binds: Vec<Duration>,
    /// Longest time by which a bind was overdue.
    latest_bind: Duration,
    signatures: Vec<Duration>,
    logins: Vec<Duration>,
    login_attempts: Vec<Duration>,
    confirmed: Vec<Duration>,
    bounces: Vec<Duration>,
    waits: usize,
    /// Times of log lines at INFO or above.
    lines: Vec<Duration>,
    torrent: Torrent,
}

impl Tally {
    fn count_lines(&mut self, elapsed: Duration, outcome: &Outcome) {
        let logged = outcome.notice.as_ref().is_some_and(|(level, _)| *level <= Level::Info);
        self.lines.extend(std::iter::repeat_n(elapsed, usize::from(logged) + usize::from(outcome.recovered.is_some())));
    }
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

fn observe_tunnel(keeper: &mut Keeper, now: Now, tunnel: Tunnel) -> Option<Outcome> {
    let route = match tunnel {
        Tunnel::Unwatched => return None,
        Tunnel::Gone => Err(Error::new(Call::Route, Cause::NotTls)),
        Tunnel::Up(index) => {
            let device = Device { index, name: "tun0".to_owned(), tunnel: true };
            Ok(GatewayRoute { local: [10, 1, 0, 2].into(), hop: None, device: Some(device), by_source: false })
        }
    };
    keeper.observe_route(now, None, route)
}

/// Runs a keeper for `length` under `weather` and counts its actions.
fn run(seed: u64, length: Duration, weather: impl Fn(Duration) -> Weather) -> Tally {
    run_with(PROFILE, seed, length, weather)
}

/// Runs a keeper and a simulated client with `profile` for `length` under `weather`, and counts the keeper's actions.
fn run_with(profile: ClientProfile, seed: u64, length: Duration, weather: impl Fn(Duration) -> Weather) -> Tally {
    let start = Instant::now();
    let epoch: Timestamp = "2026-11-23T00:00:00Z".parse().unwrap();
    let mut random = Random(seed);
    let mut tally = Tally { torrent: Torrent { port: 6881, ..Torrent::default() }, ..Tally::default() };
    let mut elapsed = Duration::ZERO;
    let at = |elapsed: Duration, ahead: Duration| Now { mono: start + elapsed, wall: epoch + elapsed + ahead };
    let mut before = weather(elapsed);
    let setup =
        Setup { interval: INTERVAL, origin: Origin::Lease(None), profile, hands_off: false, isolation: None, seed };
    let mut keeper = Keeper::new(setup, at(elapsed, before.clock_ahead));
    let mut without_wait = 0;
    while elapsed < length {
        let sky = weather(elapsed);
        let now = at(elapsed, sky.clock_ahead);
        for outcome in [keeper.observe_clock(now), observe_tunnel(&mut keeper, now, sky.tunnel)].into_iter().flatten() {
            tally.count_lines(elapsed, &outcome);
        }
        if sky.tunnel != before.tunnel {
            tally.torrent.stale = true;
        }
        before = sky;
        let step = keeper.next(now);
        if let Step::Wait(wait) = step {
            assert!(wait > Duration::ZERO, "a wait of zero at {elapsed:?}");
            assert!(wait <= INTERVAL + SECOND, "a wait of {wait:?}");
            tally.waits += 1;
            without_wait = 0;
            elapsed += match sky.tunnel {
                Tunnel::Unwatched => wait,
                // A real kernel ends the wait when the tunnel changes. Waits of at most a second imitate that.
                _ => wait.min(SECOND),
            };
            continue;
        }
        let beyond = matches!(step, Step::GetToken { .. } | Step::GetSignature { .. } | Step::Bind(_));
        assert!(!beyond || sky.tunnel != Tunnel::Gone, "{step:?} without a tunnel at {elapsed:?}");
        if let (Step::Bind(_), Some((due, _))) = (&step, keeper.bind(now)) {
            tally.latest_bind = tally.latest_bind.max(now.mono.saturating_duration_since(due));
        }
        without_wait += 1;
        assert!(without_wait <= 20, "{without_wait} steps without a wait at {elapsed:?}, the last one {step:?}");
        let (result, took) = execute(&step, profile, sky, &mut random, epoch + elapsed, &mut tally, elapsed);
        elapsed += took;
        let now = at(elapsed, sky.clock_ahead);
        if beyond && result.is_ok() {
            keeper.compare_clock(now, (epoch + elapsed).into());
        }
        let outcome = keeper.record(now, &step, result.map(Progress::Done));
        tally.count_lines(elapsed, &outcome);
    }
    tally
}

fn execute(
    step: &Step,
    profile: ClientProfile,
    sky: Weather,
    random: &mut Random,
    wall: Timestamp,
    tally: &mut Tally,
    elapsed: Duration,
) -> (Result<Completed, Error>, Duration) {
    let failed = |retry| Err(Error::new(Call::Token, Cause::NotTls).with_retry(retry));
    let of_client = step.remote() == Remote::Client;
    let down = match step {
        Step::GetToken { .. } => sky.account_down,
        Step::GetSignature { .. } | Step::Bind(_) => sky.gateway_down,
        _ => of_client && sky.client_down,
    };
    if let Step::GetToken { .. } = step {
        tally.login_attempts.push(elapsed);
    }
    let torrent = &mut tally.torrent;
    assert!(!torrent.away || !of_client || matches!(step, Step::BounceBack(_)), "{step:?} in the middle of a bounce");
    if down || (!matches!(step, Step::StoreLease(_)) && random.percent(sky.loss)) {
        // The call fails at once, or after its full deadline of 10 s.
        let took = if random.percent(50) { Duration::from_millis(1) } else { 10 * SECOND };
        // In half of the failures, the client carries out the call, and only the reply is lost.
        if let (Step::SetPort(port) | Step::BounceBack(port) | Step::BounceAway { other: port, .. }, true) =
            (step, !down && random.percent(50))
        {
            if let Step::BounceAway { .. } = step {
                tally.bounces.push(elapsed);
            }
            *torrent = Torrent { port: (*port).into(), stale: false, away: torrent.away };
        }
        return (failed(Retry::Backoff), took);
    }
    let took = match sky.client_takes {
        takes if of_client && !takes.is_zero() => takes,
        _ => Duration::from_millis(50 + random.below(500)),
    };
    let result = match step {
        Step::GetToken { .. } if sky.wrong_password => failed(Retry::CredentialsRejected),
        Step::GetToken { .. } => {
            tally.logins.push(elapsed);
            Ok(Completed::Token { token: Secret::new("token"), logged_in: true })
        }
        Step::GetSignature { .. } if sky.tokens_refused => failed(Retry::TokenRefused),
        Step::GetSignature { .. } => {
            tally.signatures.push(elapsed);
            let (payload, signature) = (Secret::new("payload"), Secret::new("signature"));
            Ok(Completed::Leased(Lease { payload, signature, port: 47047, expires_at: wall + LEASE_LIFE }))
        }
        Step::StoreLease(_) => Ok(Completed::Stored),
        Step::Bind(_) if random.percent(sky.refusals) => failed(Retry::LeaseRefused),
        Step::Bind(_) => {
            tally.binds.push(elapsed);
            Ok(Completed::Bound { gateway: None, route: None, refreshed: true })
        }
        Step::ReadPort => Ok(Completed::Port(ListenPort { port: torrent.port, random: false })),
        Step::SetPort(port) | Step::BounceBack(port) => {
            *torrent = Torrent { port: (*port).into(), stale: false, away: false };
            Ok(Completed::PortSet)
        }
        Step::BounceAway { other, .. } => {
            tally.bounces.push(elapsed);
            *torrent = Torrent { port: (*other).into(), stale: false, away: true };
            Ok(Completed::PortSet)
        }
        Step::Inspect(_) if !sky.socket_shown => Ok(Completed::Inspected(None)),
        Step::Inspect(of) => {
            let listen_state = match torrent.stale {
                _ if torrent.port != i64::from(of.port) => ListenState::Missing,
                _ if !profile.reports_listening && sky.client_not_listening => ListenState::Missing,
                true => ListenState::Stale,
                false => ListenState::Reachable,
            };
            Ok(Completed::Inspected(Some(PortSockets::of(listen_state))))
        }
        Step::Reannounce => Ok(Completed::Reannounced),
        Step::CheckInbound => Ok(Completed::Inbound(Inbound::Idle)),
        Step::Confirm(_) if !profile.reports_listening => {
            if !torrent.stale && !sky.client_not_listening {
                tally.confirmed.push(elapsed);
            }
            Ok(Completed::Reachability(Connectivity::Unknown))
        }
        Step::Confirm(_) if sky.client_not_listening => Ok(Completed::Reachability(Connectivity::Disconnected)),
        Step::Confirm(_) => {
            if !torrent.stale {
                tally.confirmed.push(elapsed);
            }
            Ok(Completed::Reachability(Connectivity::Firewalled))
        }
        Step::PollSource | Step::Wait(_) | Step::Exit => failed(Retry::Backoff),
    };
    (result, took)
}

#[test]
fn binds_are_at_most_15_minutes_apart_after_an_hour_of_outage_and_at_30_percent_loss() {
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
    assert!(tally.confirmed.len().abs_diff(intervals) < 400, "{} checks of the client", tally.confirmed.len());
    assert!(tally.waits < intervals * 2, "{} wake-ups", tally.waits);
    assert!(longest_gap(&tally.binds, Duration::ZERO, 365 * DAY) < INTERVAL + 5 * SECOND);
    assert_eq!(tally.bounces.len(), 0, "the port was set at the start, and nothing has changed since");
}

#[test]
fn a_day_logs_only_a_few_lines() {
    let lines =
        |tally: &Tally, day: u32| tally.lines.iter().filter(|&&at| at >= DAY * day && at < DAY * (day + 1)).count();
    let quiet = run(1, 5 * DAY, |_| Weather { socket_shown: true, ..Weather::default() });
    let rough = run(1, 5 * DAY, |at| Weather {
        socket_shown: true,
        tunnel: if at > DAY && at < DAY + HOUR { Tunnel::Gone } else { Tunnel::Up(if at > DAY * 3 { 8 } else { 7 }) },
        gateway_down: at > 2 * DAY && at < 2 * DAY + HOUR,
        ..Weather::default()
    });
    println!(
        "INFO lines per day: first day {}, quiet day {}; with an hour without the tunnel {}, or without the gateway {}",
        lines(&quiet, 0),
        lines(&quiet, 2),
        lines(&rough, 1),
        lines(&rough, 2)
    );
    assert_eq!(lines(&quiet, 2), 1, "the daily summary");
    for day in 0..5 {
        assert!(
            lines(&quiet, day) <= 8 && lines(&rough, day) <= 20,
            "day {day}: {} and {}",
            lines(&quiet, day),
            lines(&rough, day)
        );
    }
}

#[test]
fn binds_resume_within_a_minute_after_outages_of_any_length() {
    for seed in 1..=30 {
        let (from, to) = (DAY, DAY + seed * 17 * MINUTE);
        let tally =
            run(seed.into(), 3 * DAY, |at| Weather { gateway_down: (from..to).contains(&at), ..Weather::default() });
        let back = tally.binds.iter().find(|&&time| time > to).unwrap();
        let delay = back.saturating_sub(to);
        assert!(delay <= MINUTE, "back after {delay:?}");
        assert_eq!(tally.signatures.len(), 1, "an outage must not lose the port");
    }
}

#[test]
fn a_dead_client_delays_no_bind() {
    let tally = run(3, 10 * DAY, |at| Weather { client_down: at > DAY && at < 9 * DAY, ..Weather::default() });
    assert!(longest_gap(&tally.binds, MINUTE, 10 * DAY) <= INTERVAL + MINUTE);
    assert!(tally.confirmed.iter().any(|&time| time > 9 * DAY && time < 9 * DAY + MINUTE));
}

#[test]
fn a_slow_client_delays_a_bind_by_one_exchange() {
    let slow = Duration::from_millis(9900);
    let tally = run(8, 10 * DAY, |_| Weather { client_takes: slow, ..Weather::default() });
    assert!(tally.latest_bind <= slow, "{:?}", tally.latest_bind);
    assert!(longest_gap(&tally.binds, MINUTE, 10 * DAY) <= INTERVAL + slow + SECOND);
}

#[test]
fn a_client_that_never_listens_is_bounced_once_per_interval() {
    let tally = run(9, 10 * DAY, |_| Weather { client_not_listening: true, ..Weather::default() });
    assert!(tally.bounces.windows(2).all(|pair| pair[1].saturating_sub(pair[0]) >= INTERVAL));
    assert!(tally.bounces.len() > 1000, "{}", tally.bounces.len());
    assert!(longest_gap(&tally.binds, MINUTE, 10 * DAY) <= INTERVAL + 5 * SECOND);
}

#[test]
fn lost_replies_and_a_new_tunnel_every_hour_cause_no_bounce_storm() {
    for seed in 1..=10 {
        let tunnel = |at: Duration| Tunnel::Up(u32::try_from(at.as_secs() / 3600).unwrap());
        let weather =
            |at: Duration| Weather { client_not_listening: true, loss: 30, tunnel: tunnel(at), ..Weather::default() };
        let tally = run(seed, 5 * DAY, weather);
        let most = most_within(&tally.bounces, NEARLY_AN_INTERVAL);
        assert!(most <= 3, "one per interval, one while the new tunnel is unconfirmed, and one once it works: {most}");
        let calm: Vec<_> = tally.bounces.iter().copied().filter(|at| at.as_secs() % 3600 > 600).collect();
        assert_eq!(most_within(&calm, NEARLY_AN_INTERVAL), 1, "seed {seed}");
        assert!(tally.bounces.len() <= 5 * 24 * 14, "{}", tally.bounces.len());
    }
}

#[test]
fn a_wrong_password_is_tried_twice_an_hour() {
    let tally = run(4, 10 * DAY, |_| Weather { wrong_password: true, ..Weather::default() });
    assert!(most_within(&tally.login_attempts, HOUR) <= 3, "{}", most_within(&tally.login_attempts, HOUR));
    assert!(tally.login_attempts.len() > 400);
}

#[test]
fn a_wrong_gateway_causes_no_login_storm() {
    let tally = run(5, 10 * DAY, |_| Weather { tokens_refused: true, ..Weather::default() });
    assert!(most_within(&tally.logins, HOUR) <= 3);
}

#[test]
fn refused_leases_cause_no_signature_storm() {
    let tally = run(6, DAY, |_| Weather { refusals: 100, ..Weather::default() });
    assert!(tally.signatures.windows(2).all(|pair| pair[1].saturating_sub(pair[0]) >= INTERVAL));
    assert!(tally.signatures.len() > 200, "{}", tally.signatures.len());
    let tally = run(6, 30 * DAY, |_| Weather { refusals: 10, ..Weather::default() });
    assert!(longest_gap(&tally.binds, MINUTE, 30 * DAY) < 15 * MINUTE);
}

#[test]
fn binds_resume_within_seconds_when_the_tunnel_returns() {
    for (seed, socket_shown) in (1..=10).flat_map(|seed| [(seed, false), (seed, true)]) {
        // Each hour has its own tunnel, and some hours begin without a tunnel.
        let gone = move |hour: u64| {
            let mut dice = Random(seed * 7_654_321 + hour);
            dice.below(2);
            Duration::from_secs(if dice.percent(50) { dice.below(3000) } else { 0 })
        };
        let tunnel = move |at: Duration| {
            let hour = u32::try_from(at.as_secs() / 3600).unwrap();
            if at < HOUR * hour + gone(hour.into()) { Tunnel::Gone } else { Tunnel::Up(hour) }
        };
        let weather = move |at: Duration| Weather { tunnel: tunnel(at), socket_shown, ..Weather::default() };
        let tally = run(seed, 5 * DAY, weather);
        assert_eq!(tally.signatures.len(), 1, "no outage may lose the port");
        for hour in 1..119 {
            let up = HOUR * hour + gone(hour.into());
            let after = |times: &[Duration]| times.iter().find(|&&time| time >= up).unwrap().saturating_sub(up);
            assert!(after(&tally.binds) <= 2 * SECOND, "hour {hour}: bound after {:?}", after(&tally.binds));
            assert!(after(&tally.bounces) <= 5 * SECOND, "hour {hour}: {:?}", after(&tally.bounces));
            // Until the bounce, a client with a dead socket still reports that it listens.
            assert!(after(&tally.confirmed) <= 8 * SECOND, "hour {hour}: {:?}", after(&tally.confirmed));
        }
        assert!(tally.bounces.len() <= 120, "{} bounces for 119 changes", tally.bounces.len());
    }
}

#[test]
fn a_clock_that_jumps_by_months_does_not_lose_the_port() {
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
fn the_keeper_survives_a_year_of_combined_faults() {
    for seed in 1..=5 {
        // The faults are drawn again for each hour; every fourth day is calm.
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
                client_not_listening: dice.percent(5),
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
            let gap = longest_gap(&tally.confirmed, calm, (day + 1) * DAY);
            assert!(gap <= INTERVAL + MINUTE, "the client on calm day {day}, seed {seed}: {gap:?}");
        }
        assert!(most_within(&tally.logins, HOUR) <= 4);
        assert_eq!(most_within(&tally.bounces, NEARLY_AN_INTERVAL), 1);
    }
}

#[test]
fn a_client_seen_only_by_the_kernel_is_bounced_once_per_interval_at_most() {
    for socket_shown in [true, false] {
        for seed in 1..=20 {
            let weather = |at: Duration| Weather {
                client_not_listening: at > DAY && at < 2 * DAY,
                loss: if at < 3 * DAY { 20 } else { 0 },
                socket_shown,
                ..Weather::default()
            };
            let tally = run_with(SILENT_PROFILE, seed, 4 * DAY, weather);
            let most = most_within(&tally.bounces, NEARLY_AN_INTERVAL);
            assert!(most <= 1, "{most} bounces within an interval, socket shown: {socket_shown}");
            assert!(
                socket_shown || tally.bounces.is_empty(),
                "without a view of the socket there is no reason to bounce"
            );
            let gap = longest_gap(&tally.confirmed, 3 * DAY, 4 * DAY);
            assert!(gap <= INTERVAL + MINUTE, "not confirmed for {gap:?}, socket shown: {socket_shown}");
            assert_eq!(tally.torrent.port, 47047);
        }
    }
}
