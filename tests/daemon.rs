//! End-to-end tests of the running daemon with the PIA simulator and the qBittorrent stand-in. The commands are tested
//! in `commands.rs`, real qBittorrents in `real_qbittorrent.rs`.
mod support;

use std::collections::VecDeque;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use jiff::SignedDuration;
use support::daemon::{LATER, SOON, files, mode};
use support::load::is_prompt;
use support::pia::{self, BIND_PORT, GET_SIGNATURE};
use support::qbt::{self, Flavour};
use support::world::{Running, World};
use support::{Reply, Request, Server, Signal, encode, for_all, lock, wait_until};

/// Characters that break in a form or a query that is not escaped correctly.
const HARD_PASSWORD: &str = "a&b=c%d+e %41 üß€;\"'\\/#?";

fn once(running: &Running) -> pia::Counts {
    let connections = running.pia().counts().connections;
    pia::Counts { logins: 1, signatures: 1, binds: 1, connections, ..pia::Counts::default() }
}

// ---- a session

#[test]
fn a_session_from_login_to_stop() {
    let mut daemon = World::new().env("CHECK_INTERVAL", "300").env("LOG_LEVEL", "INFO").run();
    daemon.expect_line(
        "qBittorrent listens on port 47047 according to its own report (not visible from here); no incoming peer yet",
    );
    for text in [
        "started",
        "logged in to PIA",
        "lease: port 47047 until ",
        "bound port 47047",
        "qBittorrent: listen port 6881 -> 47047",
    ] {
        assert_eq!(daemon.lines_at("INFO", text).len(), 1, "{text}:\n{}", daemon.log());
    }

    // getSignature and bindPort share one connection.
    assert_eq!(daemon.pia().counts(), pia::Counts { connections: 1, ..once(&daemon) });
    assert_eq!(daemon.pia().bound(), [47047]);
    assert_eq!(daemon.qbt().ports(), [47047]);
    let counts = qbt::Counts { logins: 1, sessions: 1, set_ports: 1, ..qbt::Counts::default() };
    assert_eq!(daemon.qbt().counts(), counts);

    let status = daemon.wait_for_status("verified", |status| status.client_verified_at.is_some());
    assert_eq!((status.port, status.client_port, status.interval_s), (Some(47047), Some(47047), 300));
    assert_eq!(status.connection_status.as_deref(), Some("firewalled"));
    assert!(status.bound_at.is_some() && status.expires_at.is_some() && status.problems.is_empty(), "{status:?}");
    for file in [daemon.world.setup.lease_file(), daemon.world.setup.token_file()] {
        assert_eq!(mode(&file), 0o600, "{}", file.display());
    }
    assert_eq!(mode(&daemon.world.setup.state_dir().join("status.json")), 0o600);

    let (ended, took) = daemon.stop();
    assert!(ended.success() && is_prompt(took, Duration::from_secs(1)), "{ended} after {took:?}");
    daemon.expect_line("stopping");
    for line in daemon.log().lines() {
        let time = line.split(' ').next().unwrap_or_default();
        assert!(time.ends_with('Z') && time.parse::<jiff::Timestamp>().is_ok(), "no UTC time: {line}");
    }
}

#[test]
fn binds_continue_with_one_signature_one_login_and_one_session() {
    let mut daemon = World::new().settle();
    daemon.wait_for_binds(3);
    let counts = daemon.pia().counts();
    assert_eq!((counts.logins, counts.signatures, counts.rejected), (1, 1, 0), "{counts:?}");
    let counts = daemon.qbt().counts();
    assert_eq!((counts.logins, counts.sessions, counts.set_ports), (1, 1, 1), "{counts:?}");
}

#[test]
fn a_new_port_is_announced_once_and_a_bounce_is_not() {
    let mut daemon = World::new().settle();
    daemon.expect_line("qBittorrent is announcing port 47047 to its trackers");
    assert_eq!(daemon.qbt().announced(), [47047]);
    // The socket may belong to an older tunnel now, so the daemon reopens it.
    daemon.restart();
    daemon.expect_line("reopened its socket on port 47047");
    daemon.settled(47047);
    daemon.wait_for_binds(2);
    assert_eq!(daemon.qbt().announced(), [47047], "{}", daemon.log());
    assert_eq!(daemon.qbt().complaints(), [""; 0]);

    let mut daemon = World::new().env("QBITTORRENT_REANNOUNCE", "false").settle();
    daemon.wait_for_binds(2);
    assert!(daemon.qbt().announced().is_empty());
}

#[test]
fn sigint_stops_the_daemon_like_sigterm() {
    let mut daemon = World::new().settle();
    let (ended, took) = daemon.end_by(Signal::INT);
    assert!(ended.success() && is_prompt(took, Duration::from_secs(1)), "{ended} after {took:?}");
}

#[test]
fn sighup_binds_and_checks_at_once() {
    let mut daemon = World::new().env("CHECK_INTERVAL", "300").settle();
    daemon.qbt().change_port_in_web_ui(1234);
    daemon.reload_and_bind();
    daemon.expect_line("qBittorrent: listen port 1234 -> 47047");
    daemon.settled(47047);
    assert_eq!(daemon.pia().bound(), [47047, 47047]);
    assert_eq!(daemon.ended(), None);
}

#[test]
fn a_stop_between_two_requests_ends_the_step() {
    let slow = || Reply::json(200, r#"{"listen_port":1,"random_port":false}"#).after(Duration::from_secs(5));
    let world = World::new();
    world.qbt.scripts.always(qbt::PREFERENCES, slow());
    world.qbt.scripts.always(qbt::SET_PREFERENCES, slow());
    let mut daemon = world.run();
    let Running { daemon: child, world } = &mut daemon;
    child.wait_until("a request in progress", || world.qbt.scripts.used() > 0);
    let (ended, took) = daemon.stop();
    // Two requests would take ten seconds.
    assert!(ended.success() && is_prompt(took, Duration::from_secs(9)), "{ended} after {took:?}");
    assert_eq!(daemon.qbt().scripts.used(), 1, "nothing more was sent");
    assert_eq!(daemon.lines_at("ERROR", ""), [""; 0], "a stop is not an error\n{}", daemon.log());
}

#[test]
fn a_stop_during_a_bounce_leaves_the_right_port() {
    let world = World::new();
    world.qbt.set(|state| state.taken.insert(47047, 1));
    let mut daemon = world.run();
    daemon.expect_line("qBittorrent: listen port 6881 -> 47047");
    // The delay is long enough for the stop to arrive during the first half of the bounce.
    daemon.qbt().set(|state| state.delays.insert(qbt::SET_PREFERENCES, Duration::from_secs(1)));
    let Running { daemon: child, world } = &mut daemon;
    child.wait_until("half a bounce", || world.qbt.ports().last() == Some(&47048));
    let (ended, _) = daemon.stop();
    assert!(ended.success());
    assert_eq!(daemon.qbt().ports(), [47047, 47048, 47047]);
}

#[test]
fn a_stop_during_a_request_takes_no_longer_than_its_deadline() {
    for_all([pia::LOGIN, GET_SIGNATURE, BIND_PORT, qbt::LOGIN, qbt::SET_PREFERENCES], |endpoint| {
        let world = World::new();
        world.pia.scripts.always(endpoint, Reply::hang());
        world.qbt.scripts.always(endpoint, Reply::hang());
        let mut daemon = world.run();
        let Running { daemon: child, world } = &mut daemon;
        child.wait_until("a request that hangs", || world.pia.scripts.used() + world.qbt.scripts.used() > 0);
        let leased = world.setup.lease_file().exists();
        let (ended, took) = daemon.stop();
        assert!(
            ended.success() && is_prompt(took, Duration::from_millis(10_500)),
            "{endpoint}: {ended} after {took:?}"
        );

        // The stored state is intact.
        daemon.pia().scripts.clear();
        daemon.qbt().scripts.clear();
        let before = daemon.pia().counts().signatures;
        daemon.restart();
        daemon.settled(47047);
        assert_eq!(daemon.pia().counts().signatures, before + usize::from(!leased), "{endpoint}");
    });
}

// ---- PIA: TLS and names

#[test]
fn the_host_name_is_case_insensitive() {
    World::new().env("PIA_HOSTNAME", "SANDBOX-409-1A").bind();
}

#[test]
fn the_login_certificate_is_verified_too() {
    let world = World::new();
    let other_ca = world.setup.value("PIA_CA_CERT").to_owned();
    let mut daemon = world.env("PIA_LOGIN_CA_CERT", other_ca).run();
    daemon.fails(&["login", "certificate", "PIA_LOGIN_CA_CERT"]);
    assert_eq!(daemon.pia().counts().logins, 0);
}

// ---- PIA: the account

#[test]
fn a_token_written_by_the_user_may_have_white_space_around_it() {
    let world = World::new().without(&["PIA_USERNAME", "PIA_PASSWORD"]);
    let text = format!("\n  {}\r\n\n", world.pia.make_token());
    fs::write(world.setup.token_file(), &text).expect("a token file");
    let daemon = world.bind();
    assert_eq!(daemon.pia().counts().logins, 0);
    assert_eq!(fs::read_to_string(daemon.world.setup.token_file()).ok(), Some(text));
}

#[test]
fn the_token_is_stored_for_the_next_start() {
    let mut daemon = World::new().bind();
    daemon.kill9();
    fs::remove_file(daemon.world.setup.lease_file()).expect("a lease file");
    daemon.restart();
    daemon.expect_line("bound port 47047");
    let counts = daemon.pia().counts();
    assert_eq!((counts.logins, counts.signatures), (1, 2), "{counts:?}");
}

#[test]
fn a_rejected_token_without_an_account_is_an_error_with_advice() {
    let world = World::new().without(&["PIA_USERNAME", "PIA_PASSWORD"]);
    fs::write(world.setup.token_file(), "0123456789abcdef\n").expect("a token file");
    let mut daemon = world.run();
    daemon.fails(&["PIA_TOKEN_FILE", "PIA_USERNAME"]);
    assert_eq!(daemon.pia().counts().logins, 0);

    let token = daemon.pia().make_token();
    fs::write(daemon.world.setup.token_file(), token).expect("a token file");
    daemon.reload();
    daemon.expect_line("bound port 47047");
}

#[test]
fn a_lockout_without_retry_after_causes_no_login_storm() {
    for_all([429, 400, 200], |status| {
        let world = World::new();
        world.pia.scripts.always(pia::LOGIN, pia::too_many_attempts(status, None));
        let mut daemon = world.run();
        daemon.fails(&["locked out"]);
        std::thread::sleep(Duration::from_secs(1));
        daemon.reload();
        std::thread::sleep(Duration::from_millis(300));
        assert!(daemon.pia().counts().logins <= 2, "{status}: {:?}", daemon.pia().counts());
    });
}

#[test]
fn passwords_with_special_characters_are_sent_correctly() {
    let world = World::new();
    world.pia.set(|state| state.password = HARD_PASSWORD.into());
    world.qbt.set(|state| {
        state.username = "jürgen & co".into();
        state.password = HARD_PASSWORD.into();
    });
    world.update_setup().settle();
}

// ---- PIA: the gateway

#[test]
fn a_busy_port_is_replaced_at_each_attempt_with_backoff() {
    let world = World::new();
    world.pia.scripts.always(BIND_PORT, pia::busy(47047));
    let mut daemon = world.run();
    daemon.fails(&["different server"]);
    for _ in 0..3 {
        let before = daemon.pia().counts();
        daemon.reload();
        let Running { daemon, world } = &mut daemon;
        daemon.wait_until("the next bind", || world.pia.counts().binds > before.binds);
    }
    std::thread::sleep(Duration::from_millis(500));
    let counts = daemon.pia().counts();
    assert!((4..=5).contains(&counts.binds) && (4..=5).contains(&counts.signatures), "{counts:?}");
}

#[test]
fn secrets_in_a_bad_reply_are_not_shown() {
    let token = "0123456789abcdef".repeat(8);
    let lease = r#"{"payload":"P4yload","signature":"Sig/nature=","message":7}"#;
    for_all(
        [
            (GET_SIGNATURE, Reply::json(200, lease), &["getSignature", "status is missing"][..]),
            (GET_SIGNATURE, Reply::json(404, lease), &["getSignature", "HTTP 404"]),
            (GET_SIGNATURE, Reply::json(500, lease), &["getSignature", "HTTP 500"]),
            (
                pia::LOGIN,
                Reply::json(500, format!(r#"{{"token":"{token}"}}"#)),
                &["login", "HTTP 500", "(140 bytes, not shown)"],
            ),
        ],
        |(endpoint, reply, words)| {
            let world = World::new();
            world.pia.scripts.next(endpoint, [reply]);
            let mut daemon = world.env("LOG_LEVEL", "TRACE").run();
            daemon.fails(words);
            for secret in ["P4yload", "Sig/nature", &token] {
                assert!(!daemon.log().contains(secret), "{secret}\n{}", daemon.log());
            }
        },
    );
}

#[test]
fn a_connection_that_closed_while_idle_is_no_failure() {
    let mut daemon = World::new().bind();
    for _ in 0..3 {
        daemon.pia().close_connections();
        daemon.wait_for_binds(1);
    }
    assert_eq!(daemon.lines_at("ERROR", ""), [""; 0], "{}", daemon.log());
}

#[test]
fn a_gateway_may_close_after_every_reply() {
    let world = World::new();
    world.pia.set(|state| state.close_always = true);
    let mut daemon = world.bind();
    daemon.bind_again(2);
    assert_eq!(daemon.lines_at("ERROR", ""), [""; 0], "{}", daemon.log());
}

/// A change of the leases that the simulator grants.
type Change = Box<dyn Fn(&mut pia::State) + Send>;

#[test]
fn a_bad_payload_is_reported_and_not_applied() {
    let base64 = |text: &str| {
        use base64::Engine as _;
        base64::engine::general_purpose::STANDARD.encode(text)
    };
    let port = |port: i64| -> Change { Box::new(move |state| state.next_port = port) };
    let payload = |text: String| -> Change { Box::new(move |state| state.payload = Some(text.clone())) };
    let expiry = |text: &'static str| -> Change { Box::new(move |state| state.expires_at = Some(text.into())) };
    for_all(
        [
            (port(0), ["port", "between 1024 and 65535"]),
            (port(70_000), ["port", "70000"]),
            (port(-1), ["port", "-1"]),
            (payload("***".into()), ["payload", "base64"]),
            (payload(base64("hello")), ["payload", "JSON"]),
            (payload(base64("[1]")), ["payload", "JSON"]),
            (payload(base64(r#"{"expires_at":"2030-01-01T00:00:00Z"}"#)), ["port", "missing"]),
            (expiry("tomorrow"), ["expires_at", "tomorrow"]),
            (expiry("2026-13-40T00:00:00Z"), ["expires_at", "2026-13-40"]),
        ],
        |(change, words)| {
            let world = World::new();
            world.pia.set(change);
            let mut daemon = world.run();
            daemon.fails(&words);
            assert_eq!((daemon.pia().counts().binds, daemon.qbt().counts().set_ports), (0, 0), "{words:?}");
            assert!(!daemon.world.setup.lease_file().exists(), "{words:?}");
            daemon.pia().set(|state| {
                (state.next_port, state.payload, state.expires_at) = (47047, None, None);
            });
            daemon.reload();
            daemon.expect_line("bound port 47047");
        },
    );
}

#[test]
fn an_unusual_payload_is_accepted_and_returned_byte_for_byte() {
    // A port of fewer than five digits makes the payload's length ask for padding.
    for_all([true, false], |padded| {
        let world = World::new();
        world.pia.set(|state| (state.next_port, state.padded) = (8047, padded));
        let mut daemon = world.run();
        daemon.expect_line("bound port 8047");
        let (payload, _) = daemon.pia().last_secrets().expect("a lease was handed out");
        assert_eq!(payload.ends_with('='), padded, "{payload}");
    });
    let world = World::new();
    world.pia.set(|state| state.created_at_only = true);
    let mut daemon = world.bind();
    let status = daemon.wait_for_status("a lease", |status| status.expires_at.is_some());
    let expires = status.expires_at.unwrap_or_default();
    let left = expires.parse::<jiff::Timestamp>().expect("a time").duration_since(jiff::Timestamp::now());
    assert!((50..=65).contains(&(left.as_hours() / 24)), "about two months: {expires}");
}

// ---- the lease

#[test]
fn the_port_survives_a_kill_after_any_log_line() {
    for_all(["started", "logged in to PIA", "lease: port", "bound port", "listen port", "listens on port"], |moment| {
        let mut daemon = World::new().env("LOG_LEVEL", "INFO").run();
        daemon.expect_line(moment);
        daemon.kill9();
        let leased = daemon.world.setup.lease_file().exists();
        let before = daemon.pia().counts();
        // A second signature would lease a different port.
        daemon.pia().set(|state| state.next_port = 50002);
        daemon.restart();
        daemon.settled(if leased { 47047 } else { 50002 });
        let counts = daemon.pia().counts();
        assert!(!leased || counts.signatures == before.signatures, "{moment}: {before:?}, then {counts:?}");
        assert!(leased || ["started", "logged in to PIA"].contains(&moment), "{moment}: no lease was stored");
        assert!(counts.logins <= 2, "{moment}: {counts:?}");
    });
}

#[test]
fn the_port_survives_a_kill_at_any_time() {
    let mut daemon = World::new().run();
    let killed_after = |daemon: &mut Running, delay| {
        std::thread::sleep(Duration::from_millis(delay));
        daemon.restart();
    };
    // Runs get longer until one is long enough for a lease, however slow the machine is.
    let mut delays = (0..).step_by(8);
    let leased = wait_until(LATER, || {
        killed_after(&mut daemon, delays.next().unwrap_or_default());
        daemon.world.setup.lease_file().exists()
    });
    assert!(leased, "no lease was stored\n{}", daemon.log());
    // By then every request that a kill interrupted is counted.
    daemon.settled(47047);
    let lease = |daemon: &Running| fs::read(daemon.world.setup.lease_file()).expect("a lease file");
    let stored = (lease(&daemon), daemon.pia().counts().signatures);
    // A second signature would lease a different port.
    daemon.pia().set(|state| state.next_port = 50002);
    for delay in (0..120).step_by(8) {
        killed_after(&mut daemon, delay);
    }
    daemon.settled(47047);
    assert_eq!((lease(&daemon), daemon.pia().counts().signatures), stored);
}

#[test]
fn an_expiring_lease_is_bound_until_it_can_be_renewed() {
    let world = World::new();
    world.pia.set(|state| state.lifetime = SignedDuration::from_mins(10));
    let mut daemon = world.bind();
    daemon.kill9();

    // Without a new signature the old lease, which has 10 minutes left, is bound.
    daemon.pia().scripts.always(GET_SIGNATURE, Reply::text(503, "no"));
    daemon.restart();
    daemon.fails(&["getSignature", "503"]);
    daemon.bind_again(1);

    // In this order, because the daemon keeps retrying meanwhile.
    daemon.pia().set(|state| (state.lifetime, state.next_port) = (pia::LEASE, 50002));
    daemon.pia().scripts.clear();
    daemon.reload();
    daemon.expect_line("lease: port 50002");
    daemon.expect_line("qBittorrent: listen port 47047 -> 50002");
    daemon.expect_line("bound port 50002");
    let counts = daemon.pia().counts();
    daemon.wait_for_binds(2);
    assert_eq!(daemon.pia().counts().signatures, counts.signatures);
}

#[test]
fn an_expired_lease_is_replaced_at_the_start() {
    let world = World::new();
    world.pia.set(|state| state.lifetime = SignedDuration::from_secs(2));
    let mut daemon = world.bind();
    daemon.kill9();
    daemon.pia().set(|state| (state.lifetime, state.next_port) = (pia::LEASE, 50002));
    let stored = fs::read_to_string(daemon.world.setup.lease_file()).expect("a lease file");
    let expires = stored.split(r#""expires_at":""#).nth(1).and_then(|rest| rest.split('"').next()).expect("an expiry");
    let expires: jiff::Timestamp = expires.parse().expect("a time");
    daemon.daemon.wait_until("the end of the lease", || jiff::Timestamp::now() > expires);
    daemon.restart();
    daemon.fails(&["bindPort", "port expired", "new signature"]);
    daemon.expect_line("bound port 50002");
}

#[test]
fn a_stored_lease_survives_a_wrong_clock() {
    // Our clock is ahead of the gateway's, so every lease seems to have expired on arrival.
    let world = World::new();
    world.pia.set(|state| state.clock_ahead = SignedDuration::from_hours(-100 * 24));
    let mut daemon = world.settle();
    daemon.restart();
    daemon.settled(47047);
    daemon.wait_for_binds(2);
    assert_eq!(daemon.pia().counts().signatures, 1, "{}", daemon.log());
    assert_eq!(daemon.lines_at("WARN", "clock is").len(), 1, "{}", daemon.log());
    assert_eq!(daemon.lines_at("ERROR", ""), [""; 0], "{}", daemon.log());
}

#[test]
fn leases_that_seem_to_expire_at_once_cause_no_storm() {
    // The second is how a good lease looks to a clock that is years ahead.
    for_all([None, Some("2020-01-01T00:00:00Z")], |expires_at| {
        let world = World::new();
        world.pia.set(|state| match expires_at {
            None => state.lifetime = SignedDuration::from_mins(5),
            Some(time) => state.expires_at = Some(time.into()),
        });
        let mut daemon = world.settle();
        daemon.wait_for_binds(3);
        let counts = daemon.pia().counts();
        assert!(counts.signatures <= counts.binds + 1 && counts.binds < 10, "{expires_at:?}: {counts:?}");
    });
}

// ---- qBittorrent: every version

#[test]
fn each_start_with_a_wrong_password_fails_only_one_login() {
    let world = World::flavour(Flavour::V5_3).env("QBITTORRENT_PASSWORD", "wrong");
    let mut daemon = world.run();
    for failures in 1..=3 {
        daemon.fails(&["qBittorrent login"]);
        assert_eq!(daemon.qbt().counts().failed_logins, failures);
        daemon.restart();
    }
}

#[test]
fn an_api_key_needs_no_session() {
    for_all([Flavour::V5_2, Flavour::V5_3], |flavour| {
        let world = World::flavour(flavour);
        world.qbt.set(|state| state.api_key = Some("qbt_0123456789abcdefghijklmnopqr".into()));
        let mut daemon = world.without(&["QBITTORRENT_USERNAME", "QBITTORRENT_PASSWORD"]).update_setup().settle();
        daemon.bind_again(2);
        assert_eq!(daemon.qbt().counts(), qbt::Counts { set_ports: 1, ..qbt::Counts::default() });
    });
}

#[test]
fn a_rejected_api_key_is_reported() {
    for_all([Flavour::V4_5, Flavour::V5_3], |flavour| {
        let world = World::flavour(flavour)
            .without(&["QBITTORRENT_USERNAME", "QBITTORRENT_PASSWORD"])
            .env("QBITTORRENT_API_KEY", "qbt_000000000000000000000000wrong");
        let mut daemon = world.run();
        daemon.fails(&["qBittorrent", "QBITTORRENT_API_KEY"]);
        daemon.bind_again(2);
        assert_eq!(daemon.qbt().counts(), qbt::Counts::default());
    });
}

#[test]
fn bypassed_authentication_needs_one_session() {
    for_all(Flavour::ALL, |flavour| {
        let world = World::flavour(flavour).without(&["QBITTORRENT_USERNAME", "QBITTORRENT_PASSWORD"]);
        world.qbt.set(|state| state.bypass = true);
        let mut daemon = world.settle();
        daemon.bind_again(3);
        let counts = qbt::Counts { sessions: 1, set_ports: 1, ..qbt::Counts::default() };
        assert_eq!(daemon.qbt().counts(), counts, "{flavour:?}");
    });
}

#[test]
fn credentials_do_no_harm_if_authentication_is_bypassed() {
    for_all(Flavour::ALL, |flavour| {
        let world = World::flavour(flavour);
        world.qbt.set(|state| state.bypass = true);
        let mut daemon = world.env("QBITTORRENT_PASSWORD", "whatever").settle();
        daemon.bind_again(2);
        assert!(daemon.qbt().counts().sessions <= 2, "{flavour:?}: {:?}", daemon.qbt().counts());
    });
}

#[test]
fn missing_credentials_are_reported() {
    for_all(Flavour::ALL, |flavour| {
        let mut daemon = World::flavour(flavour).without(&["QBITTORRENT_USERNAME", "QBITTORRENT_PASSWORD"]).run();
        daemon.fails(&["qBittorrent", "QBITTORRENT_USERNAME", "bypass"]);
        daemon.bind_again(1);
        assert_eq!(daemon.qbt().counts(), qbt::Counts::default());
    });
}

#[test]
fn a_rejected_host_header_is_not_mistaken_for_a_wrong_password() {
    for_all(Flavour::ALL, |flavour| {
        let world = World::flavour(flavour);
        world.qbt.set(|state| state.server_domain = Some("nas.example".into()));
        let mut daemon = world.run();
        let line = daemon.fails(&["Host", "Server domains"]);
        assert!(!line.contains("QBITTORRENT_PASSWORD"), "{line}");
        assert_eq!(daemon.qbt().counts().failed_logins, 0);
        // This causes no ban, so the daemon recovers as soon as the setting is corrected.
        daemon.qbt().set(|state| state.server_domain = None);
        daemon.reload();
        daemon.settled(47047);
    });
}

#[test]
fn a_container_port_may_be_mapped() {
    for_all(Flavour::ALL, |flavour| {
        let world = World::flavour(flavour);
        world.qbt.set(|state| state.own_port = 8080);
        world.settle();
    });
}

#[test]
fn the_session_cookie_may_have_any_name() {
    let world = World::flavour(Flavour::V4_5);
    world.qbt.set(|state| state.cookie_name = Some("my.cookie-1".into()));
    let mut daemon = world.settle();
    daemon.bind_again(2);
    assert_eq!(daemon.qbt().counts().sessions, 1);
}

#[test]
fn sessions_that_end_at_once_cause_no_login_storm() {
    let world = World::new();
    world.qbt.scripts.always(qbt::PREFERENCES, Reply::text(403, "Forbidden"));
    let mut daemon = world.run();
    daemon.fails(&["qBittorrent", "403"]);
    daemon.wait_for_binds(2);
    assert!(daemon.qbt().counts().logins <= 2, "{:?}", daemon.qbt().counts());
}

// ---- qBittorrent: ports and sockets

#[test]
fn a_random_port_is_switched_off() {
    for_all(Flavour::ALL, |flavour| {
        let world = World::flavour(flavour);
        world.qbt.set(|state| {
            state.socket = Some(40_123);
            // Up to 4.3 the leased port may already be set, and then setting it again has no effect.
            (state.port, state.random_port) = if flavour <= Flavour::V4_3 { (47047, true) } else { (0, false) };
        });
        let daemon = world.settle();
        assert!(!daemon.qbt().set(|state| state.random_port), "{flavour:?}");
    });
}

#[test]
fn a_port_in_use_is_set_again_once_an_interval_and_reported_once() {
    for_all([("300", false), ("1", true)], |(interval, again)| {
        let world = World::new().env("CHECK_INTERVAL", interval);
        world.qbt.set(|state| state.taken.insert(47047, usize::MAX));
        let mut daemon = world.run();
        daemon.fails_within(LATER, &["47047", "another program"]);
        daemon.wait_for_line("nothing listens on it (attempt 2)", LATER);
        assert_eq!(daemon.qbt().counts().set_ports, if again { 5 } else { 3 }, "{}", daemon.log());
        assert_eq!(daemon.lines_at("WARN", "setting the port again").len(), 1, "{}", daemon.log());
        // SIGHUP checks at once.
        daemon.qbt().set(|state| state.taken.clear());
        daemon.reload();
        daemon.settled(47047);
    });
}

#[test]
fn a_lagging_status_causes_no_bounce() {
    let world = World::new();
    world.qbt.set(|state| {
        state.socket = None;
        state.status_lag = Duration::from_millis(1300);
    });
    let daemon = world.settle();
    assert_eq!(daemon.qbt().ports(), [47047], "no bounce");
}

#[test]
fn the_port_file_is_rewritten_in_place() {
    let world = World::new();
    let path = world.setup.dir().path().join("forwarded_port");
    let world = world.env("PORT_FILE", path.display().to_string());
    let mut daemon = world.settle();
    let text = || std::fs::read_to_string(&path).expect("a port file");
    assert_eq!(text(), "47047\n");
    let file = std::fs::metadata(&path).expect("a port file");
    assert_eq!(file.mode() & 0o777, 0o644);
    daemon.pia().set(|state| state.next_port = 50002);
    daemon.pia().scripts.next(pia::BIND_PORT, [pia::port_expired()]);
    daemon.settled(50002);
    assert_eq!(text(), "50002\n");
    assert_eq!(std::fs::metadata(&path).expect("a port file").ino(), file.ino(), "the same file");
    assert_eq!(daemon.world.setup.run_once(&["check"]).code, Some(0));
    assert_eq!(text(), "50002\n");
}

#[test]
fn incoming_peers_are_reported() {
    let world = World::new();
    world.qbt.set(|state| state.reachable = true);
    let mut daemon = world.run();
    daemon.expect_line("47047 according to its own report (not visible from here); peers can connect to it");
    daemon.wait_for_status("connected", |status| status.connection_status.as_deref() == Some("connected"));
}

// ---- qBittorrent: reaching it

#[test]
fn a_wrong_ca_for_the_web_ui_is_reported() {
    let world = World::qbt(qbt::Options { tls: true, ..qbt::Options::default() });
    let other = world.setup.value("PIA_CA_CERT").to_owned();
    let mut daemon = world.env("QBITTORRENT_CA_CERT", other).run();
    daemon.fails(&["certificate", "QBITTORRENT_CA_CERT"]);
    assert_eq!(daemon.qbt().counts(), qbt::Counts::default());
}

#[test]
fn a_path_prefix_of_a_reverse_proxy_is_kept() {
    for_all(["", "/"], |slash| {
        let world = World::qbt(qbt::Options { prefix: "/apps/qbt".into(), ..qbt::Options::default() });
        let url = format!("{}{slash}", world.qbt.url());
        world.env("QBITTORRENT_HOST", url).settle();
    });
}

#[test]
fn a_scheme_that_does_not_match_the_web_ui_is_reported() {
    let world = World::qbt(qbt::Options { tls: true, ..qbt::Options::default() });
    let url = world.qbt.url().replace("https:", "http:");
    world.env("QBITTORRENT_HOST", url).run().fails(&["qBittorrent", "https://"]);

    let world = World::new();
    let url = world.qbt.url().replace("http:", "https:");
    world.env("QBITTORRENT_HOST", url).run().fails(&["qBittorrent", "http://"]);
}

/// Line breaks of every kind, and characters that change the direction or visibility of text in a terminal.
const MISCHIEF: &str = "\r\n\u{85}\u{2028}\u{2029}\u{1b}\u{7f}\u{61c}\u{200b}\u{200f}\u{202e}\u{2066}\u{feff}";

#[test]
fn every_log_entry_is_one_line_even_with_control_characters() {
    let world = World::new();
    world.qbt.scripts.next(qbt::PREFERENCES, [Reply::text(500, format!("it{MISCHIEF}broke"))]);
    let expires = Reply::json(200, lease(&format!(r#"{{"port":4711,"expires_at":"so{}on"}}"#, "\u{202e}")));
    world.pia.scripts.next(GET_SIGNATURE, [expires]);
    let mut daemon = world.run();
    daemon.fails(&["payload.expires_at", "so?on"]);
    daemon.reload();
    daemon.fails(&["HTTP 500", "it", "broke"]);
    // The user's own settings may contain such characters, too.
    let mut followed =
        World::new().env("PORT_SOURCE", "file:/dev/\u{2028}\u{202e}/port").env("STATE_DIR", "/dev/null/\u{202e}").run();
    followed.expect_line("has no port now");
    for text in [daemon.log(), followed.log()] {
        let mischief = text.lines().find(|line| MISCHIEF.chars().any(|c| line.contains(c)));
        assert_eq!(mischief, None);
    }
}

fn lease(inside: &str) -> String {
    format!(r#"{{"status":"OK","payload":"{}","signature":"x"}}"#, base64(inside))
}

#[test]
fn a_port_that_qbittorrent_does_not_keep_is_an_error() {
    let world = World::new();
    world.qbt.scripts.always(qbt::SET_PREFERENCES, Reply::text(200, ""));
    let mut daemon = world.run();
    daemon.fails(&["47047", "6881"]);
    let status = daemon.wait_for_problem("client");
    assert_eq!(status.client_verified_at, None);
}

// ---- secrets

/// Writes the hex digits of percent escapes in lower case.
fn lower_escapes(text: &str) -> String {
    let mut parts = text.split('%');
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |text, part| {
        let (hex, rest) = part.split_at_checked(2).unwrap_or((part, ""));
        format!("{text}%{}{rest}", hex.to_lowercase())
    })
}

fn sent(request: &Request) -> String {
    format!("{} {}", request.target, String::from_utf8_lossy(&request.body))
}

/// The values that were sent, each encoded by `write`.
fn values(request: &Request, write: fn(&str) -> String) -> String {
    let values = support::pairs(&sent(request).replace(['?', ' '], "&")).into_iter().rev();
    values.map(|(name, value)| format!("{} was {name}", write(&value))).collect::<Vec<_>>().join("\n")
}

/// Applies `escape` to every character that is neither a letter nor a digit.
fn escaped(text: &str, escape: impl Fn(char) -> String) -> String {
    text.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_string() } else { escape(c) }).collect()
}

fn base64(text: &str) -> String {
    use base64::Engine as _;
    base64::prelude::BASE64_STANDARD.encode(text)
}

/// Encodings in which careless servers repeat values: HTML, double percent encoding, string literals, base64.
const SPELLINGS: [fn(&str) -> String; 8] = [
    |text| escaped(text, |c| format!("&#{:03};", u32::from(c))),
    |text| escaped(text, |c| format!("&#x{:X};", u32::from(c))),
    |text| text.replace('&', "&amp;").replace('"', "&quot;").replace('\'', "&apos;"),
    |text| encode(&encode(text)),
    |text| escaped(text, |c| format!("\\x{:02x}", u32::from(c))),
    |text| escaped(text, |c| format!("\\u{:04x}", u32::from(c))),
    base64,
    |text| base64(&format!("u:{text}")),
];

/// Pages that repeat the request: as received, decoded, or encoded differently.
const ECHOES: [fn(&Request) -> String; 13] = [
    |request| values(request, SPELLINGS[0]),
    |request| values(request, SPELLINGS[1]),
    |request| values(request, SPELLINGS[2]),
    |request| values(request, SPELLINGS[3]),
    |request| values(request, SPELLINGS[4]),
    |request| values(request, SPELLINGS[5]),
    |request| values(request, SPELLINGS[6]),
    |request| values(request, SPELLINGS[7]),
    sent,
    |request| support::decode(&sent(request)),
    |request| lower_escapes(&sent(request)),
    |request| {
        let headers = request.headers.iter().filter(|(name, _)| !name.eq_ignore_ascii_case("host"));
        headers.map(|(name, value)| format!("{name}: {value}")).collect::<Vec<_>>().join("\n")
    },
    // The last values first, so that they are in the part that the log shows.
    |request| values(request, str::to_owned),
];

/// Forms in which a secret may appear in a text: raw and in every usual encoding.
fn disguises(secret: &str) -> Vec<String> {
    let escaped = encode(secret);
    let plain = [
        secret.to_owned(),
        escaped.replace("%20", "+"),
        lower_escapes(&escaped).replace("%20", "+"),
        lower_escapes(&escaped),
        escaped,
        secret.replace('\\', "\\\\").replace('"', "\\\""),
    ];
    plain.into_iter().chain(SPELLINGS.map(|spell| spell(secret))).collect()
}

#[track_caller]
fn assert_hidden(texts: &[(String, String)], secrets: &[(&str, String)]) {
    for (place, text) in texts {
        for (name, secret) in secrets {
            for disguise in disguises(secret) {
                let line = text.lines().find(|line| line.contains(&disguise));
                assert_eq!(line, None, "{name} in {place} as {disguise}");
            }
        }
    }
}

#[test]
fn no_secret_is_written_anywhere() {
    let world = World::new();
    world.pia.set(|state| {
        state.password = format!("PIA{HARD_PASSWORD}");
        state.token_suffix = "+/=&%ü".replace('ü', "");
    });
    world.qbt.set(|state| state.password = format!("QBT{HARD_PASSWORD}"));
    let world = world.env("LOG_LEVEL", "TRACE").env("CHECK_INTERVAL", "300").update_setup();
    for page in ECHOES {
        world.pia.scripts.next(pia::LOGIN, [Reply::echo(500, page)]);
        world.pia.scripts.next(GET_SIGNATURE, [Reply::echo(500, page), Reply::echo(409, page)]);
        world.pia.scripts.next(BIND_PORT, [Reply::echo(500, page)]);
        for endpoint in [qbt::LOGIN, qbt::PREFERENCES, qbt::SET_PREFERENCES, qbt::TRANSFER_INFO] {
            world.qbt.scripts.next(endpoint, [Reply::echo(500, page)]);
        }
    }
    let mut daemon = world.run();
    daemon.expect_line("started");
    let mut commands = String::new();
    // Every attempt consumes one echo; there are 52 for PIA and 52 for qBittorrent.
    let settled = wait_until(Duration::from_secs(30), || {
        commands.push_str(&fs::read_to_string(format!("/proc/{}/cmdline", daemon.pid())).unwrap_or_default());
        daemon.reload();
        std::thread::sleep(Duration::from_millis(20));
        daemon.count_lines("qBittorrent listens on port 47047") > 0
    });
    assert!(settled, "{}", daemon.log());
    let old_session = daemon.qbt().last_session();
    daemon.qbt().expire_sessions();
    daemon.reload_and_bind();
    // A rejected token, and a lease that is refused with an echo.
    daemon.pia().revoke_tokens();
    daemon.skip_log();
    daemon.pia().scripts.next(BIND_PORT, [Reply::echo(401, ECHOES[0])]);
    daemon.reload();
    // Two signals at the same time would count as one.
    daemon.expect_line("bindPort: HTTP 401");
    daemon.reload_and_bind();
    for arguments in [&["check"][..], &["status"], &["status", "--json"], &["healthcheck"], &["once"]] {
        let output = daemon.world.setup.run_once(arguments);
        commands.push_str(&output.stdout);
        commands.push_str(&output.stderr);
    }

    let (payload, signature) = daemon.pia().last_secrets().expect("a lease was handed out");
    let mut secrets: Vec<(&str, String)> = vec![
        ("PIA password", daemon.world.setup.value("PIA_PASSWORD").into()),
        ("qBittorrent password", daemon.world.setup.value("QBITTORRENT_PASSWORD").into()),
        ("payload", payload),
        ("signature", signature),
        ("session", daemon.qbt().last_session().expect("a session")),
        ("old session", old_session.expect("a session")),
    ];
    secrets.extend(daemon.pia().set(|state| state.tokens.clone()).into_iter().map(|token| ("token", token)));
    let stored = fs::read_to_string(daemon.world.setup.token_file()).expect("a token file");
    secrets.push(("stored token", stored));

    daemon.stop();
    let secret_files = [daemon.world.setup.lease_file(), daemon.world.setup.token_file()];
    let mut texts = vec![("log".to_owned(), daemon.log()), ("commands".into(), commands)];
    for file in files(daemon.world.setup.dir().path()) {
        if secret_files.contains(&file) {
            assert_eq!(mode(&file), 0o600, "{}", file.display());
        } else {
            texts.push((file.display().to_string(), String::from_utf8_lossy(&fs::read(&file).expect("a file")).into()));
        }
    }
    assert!(daemon.count_lines("TRACE") + daemon.count_lines("DEBUG") > 0, "{}", daemon.log());
    assert_hidden(&texts, &secrets);
}

#[test]
fn an_api_key_is_not_shown_either() {
    let key = "qbt_0123456789abcdefghijklmnopqr";
    let world = World::new().without(&["QBITTORRENT_USERNAME", "QBITTORRENT_PASSWORD"]);
    world.qbt.set(|state| state.api_key = Some(key.into()));
    world.qbt.scripts.next(qbt::PREFERENCES, ECHOES.map(|page| Reply::echo(500, page)));
    let mut daemon = world.env("LOG_LEVEL", "TRACE").update_setup().run();
    for _ in ECHOES {
        daemon.expect_line("qBittorrent preferences: HTTP 500");
        daemon.reload();
    }
    daemon.expect_line("qBittorrent: listen port");
    assert!(daemon.log().contains("bytes, not shown"), "the echo of the headers is not shown:\n{}", daemon.log());
    assert_hidden(&[("log".into(), daemon.log())], &[("key", key.into())]);
}

#[test]
fn a_short_password_is_not_shown_either() {
    let world = World::new();
    world.qbt.set(|state| state.password = "hunter'2".into());
    world.qbt.scripts.next(qbt::LOGIN, ECHOES.map(|page| Reply::echo(500, page)));
    let mut daemon = world.env("LOG_LEVEL", "TRACE").update_setup().run();
    for _ in ECHOES {
        daemon.expect_line("qBittorrent login: HTTP 500");
        daemon.reload();
    }
    daemon.settled(47047);
    assert_hidden(&[("log".into(), daemon.log())], &[("password", "hunter'2".into())]);
}

#[test]
fn plain_words_are_shown_even_with_a_weak_password() {
    let world = World::new();
    world.qbt.set(|state| state.password = "adminadmin".into());
    let words = ["it broke", "<h1>try later</h1>", "Your IP address has been banned after too many failures."];
    world.qbt.scripts.next(qbt::LOGIN, words.map(|words| Reply::text(500, words)));
    let mut daemon = world.update_setup().run();
    for words in words {
        daemon.expect_line(&format!("HTTP 500: {words}"));
        daemon.reload();
    }
    daemon.settled(47047);
}

#[test]
fn files_are_private_with_any_umask() {
    let world = World::new();
    let log = world.setup.dir().path().join("log");
    let mut daemon = world.env("LOG_FILE", log.display().to_string()).run();
    daemon.wait_for_status("verified", |status| status.client_verified_at.is_some());
    let state = daemon.world.setup.state_dir();
    let private = [&log, &daemon.world.setup.token_file(), &state.join("lease.json"), &state.join("status.json")];
    for file in private {
        assert_eq!(mode(Path::new(file)), 0o600, "{}", file.display());
    }
    assert_eq!(daemon.log(), "", "the log goes to the file alone");
}

// ---- Transmission: behaviour that a real one does not show on demand

#[test]
fn a_session_that_ends_during_a_login_is_replaced() {
    let id = |id: &str| Reply::text(409, "").header("X-Transmission-Session-Id", id);
    let replies = Mutex::new(VecDeque::from([id("one"), Reply::close_before_reply(), id("two")]));
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&seen);
    let transmission = Server::start(([127, 0, 0, 1], 0).into(), None, move |request| {
        lock(&log).push(request.header("X-Transmission-Session-Id").unwrap_or("none").to_owned());
        let port = r#"{"arguments":{"peer-port":47047},"result":"success"}"#;
        lock(&replies).pop_front().unwrap_or_else(|| Reply::json(200, port))
    });
    let url = format!("http://{}", transmission.address());
    let mut daemon = World::new().env("TORRENT_CLIENT", "transmission").env("TRANSMISSION_HOST", url).run();
    daemon.wait_for_line("POST /transmission/rpc on", SOON);
    let there = || lock(&seen).iter().any(|id| id == "two");
    assert!(wait_until(LATER, there), "{:?}\n{}", lock(&seen), daemon.log());
    assert!(daemon.world.qbt.ports().is_empty(), "qBittorrent is not touched");
}

/// A supervisor may send SIGHUP at any moment, for example while the previous process still has the lock.
#[test]
fn a_reload_during_the_start_does_not_end_the_daemon() {
    let first = World::new().settle();
    let mut second = first.world.setup.run();
    let lock = first.world.setup.state_dir().join("lock");
    let waits_for_lock = |pid: u32| {
        let files = std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        files.filter_map(|file| std::fs::read_link(file.path()).ok()).any(|file| file == lock)
    };
    let pid = second.pid();
    second.wait_until("the wait for the lock", || waits_for_lock(pid));
    second.reload();
    assert_eq!(second.wait_for_end(SOON).code(), Some(75), "{}", second.log());
}
