//! Soak test: after a warm-up, one daemon with an interval of a second meets one random fault after the other for
//! `SOAK_SECONDS` (20 by default, 600 in CI). It must recover from every fault, and use no more memory and descriptors
//! at the end than at the start.
mod support;

use std::thread;
use std::time::{Duration, Instant};

use support::pia::{self, BIND_PORT, Fault, GET_SIGNATURE};
use support::qbt::{PREFERENCES, SET_PREFERENCES, TRANSFER_INFO};
use support::world::{RECOVERY, Running, World};
use support::{Mood, Reply, unique, wait_until};

/// Name of a fault, and what causes it.
type Strike = (&'static str, fn(&World));

const STRIKES: [Strike; 19] = [
    ("gateway down", |world| world.pia.pause()),
    ("gateway silent", |world| world.pia.set_mood(Mood::Silent)),
    ("gateway resets", |world| world.pia.set_mood(Mood::ResetsHandshake)),
    ("gateway with a wrong certificate", |world| world.pia.present("berlin401", Fault::OtherCa, false)),
    ("bindPort refused", |world| world.pia.scripts.next(BIND_PORT, [pia::bad_signature()])),
    ("bindPort and getSignature fail", |world| {
        world.pia.scripts.next(BIND_PORT, [pia::port_expired()]);
        world.pia.scripts.next(GET_SIGNATURE, [Reply::text(502, "<html>")]);
    }),
    ("bindPort answers garbage", |world| world.pia.scripts.next(BIND_PORT, [Reply::raw("\u{1}\u{2}\u{3}")])),
    ("bindPort floods", |world| world.pia.scripts.next(BIND_PORT, [Reply::flood("HTTP/1.1 200 OK\r\n\r\n", 1 << 24)])),
    ("bindPort truncates", |world| {
        world.pia.scripts.next(BIND_PORT, [Reply::raw("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{")]);
    }),
    ("different port leased", |world| {
        world.pia.set(|state| state.next_port = 20_000 + state.next_port % 20_000 + 7);
        world.pia.scripts.next(BIND_PORT, [pia::busy(47047)]);
    }),
    ("idle connections closed", |world| world.pia.close_connections()),
    ("qBittorrent down", |world| world.qbt.pause()),
    ("qBittorrent silent", |world| world.qbt.set_mood(Mood::Silent)),
    ("session expired", |world| world.qbt.expire_sessions()),
    ("port changed by the user", |world| world.qbt.change_port_in_web_ui(1234)),
    ("socket lost", |world| world.qbt.drop_socket()),
    ("preferences are an HTML page", |world| world.qbt.scripts.next(PREFERENCES, [Reply::text(200, "<html>")])),
    ("setPreferences fails", |world| {
        world.qbt.scripts.next(SET_PREFERENCES, [Reply::text(500, "it broke")]);
        world.qbt.change_port_in_web_ui(4321);
    }),
    ("transfer/info resets", |world| world.qbt.scripts.next(TRANSFER_INFO, [Reply::reset("HTTP/1.1")])),
];

fn relieve(world: &World) {
    world.pia.scripts.clear();
    world.qbt.scripts.clear();
    world.pia.set_mood(Mood::Normal);
    world.qbt.set_mood(Mood::Normal);
    world.pia.present(world.pia.host_name(), Fault::None, false);
    world.pia.resume();
    if world.qbt.is_paused() {
        world.qbt.resume();
    }
}

/// Causes a fault, waits up to `longest` for a problem in the status, ends the fault and waits for the recovery.
fn strike(running: &mut Running, (name, inflict): Strike, longest: Duration) {
    let Running { daemon, world } = running;
    inflict(world);
    let struck = || world.setup.status().is_some_and(|status| !status.problems.is_empty());
    wait_until(longest, struck);
    relieve(world);
    let before = world.pia.bound().len();
    let healthy = wait_until(RECOVERY, || world.pia.bound().len() > before + 1 && world.is_healthy());
    assert!(healthy, "{name}: no recovery within {RECOVERY:?}\n{}", daemon.log());
}

/// Minimum of resident memory in KiB and of open descriptors over 2 s, because a pass opens connections.
fn at_rest(running: &Running) -> (u64, usize) {
    let samples = (0..40).map(|_| {
        thread::sleep(Duration::from_millis(50));
        (running.memory(false), running.descriptors())
    });
    samples.reduce(|a, b| (a.0.min(b.0), a.1.min(b.1))).unwrap_or_default()
}

#[test]
fn nothing_grows_and_every_fault_is_recovered_from() {
    let seconds = std::env::var("SOAK_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(20);
    let world = World::new().env("LOG_LEVEL", "WARN");
    let mut running = world.run();
    let Running { daemon, world } = &mut running;
    daemon.wait_until("a listening port", || world.qbt.listening() == Some(47047));

    // Warm-up: the allocator keeps memory after the first fault of a kind or, after other kinds, after the second.
    let (kinds, rounds) = if seconds < 300 { (6, 1) } else { (STRIKES.len(), 2) };
    // The faults below are of the kinds of the warm-up only.
    let kinds = &STRIKES[..kinds];
    for &kind in kinds.iter().cycle().take(kinds.len() * rounds) {
        strike(&mut running, kind, Duration::from_secs(2));
    }
    let start = at_rest(&running);
    let end = Instant::now() + Duration::from_secs(seconds);
    let (mut faults, mut dice) = (0, unique());
    while Instant::now() < end {
        dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let kind = kinds[usize::try_from(dice >> 33).unwrap_or(0) % kinds.len()];
        strike(&mut running, kind, Duration::from_millis(500 + (dice >> 20) % 3500));
        faults += 1;
    }
    let stop = at_rest(&running);
    println!(
        "soak: {faults} faults in {seconds} s, recovered from all; resident {} -> {} KiB, descriptors {} -> {}",
        start.0, stop.0, start.1, stop.1
    );
    assert!(
        stop.0.abs_diff(start.0) * 20 <= start.0,
        "memory: {} KiB at the start, {} KiB at the end",
        start.0,
        stop.0
    );
    assert_eq!(start.1, stop.1, "descriptors");
    assert_eq!(running.ended(), None);
}
