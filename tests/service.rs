//! Features that packaging relies on: ports leased by a different program, the configuration file, and the service
//! manager.
mod support;

use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

use support::daemon::{Daemon, SOON, Setup};
use support::gluetun::{CURRENT, Gluetun, OLD};
use support::load::is_prompt;
use support::pia::Pia;
use support::qbt::{Flavour, Qbt};
use support::world::{Running, World};
use support::{Reply, qbt, wait_until};

/// A gluetun stand-in, and the setup of a daemon that follows its port.
fn follow_gluetun(qbt: &Qbt, port: u16) -> (Gluetun, Setup) {
    let gluetun = Gluetun::start(([127, 0, 0, 1], 0).into(), None, port);
    let setup = Setup::following(qbt, "gluetun").env("GLUETUN_URL", gluetun.url()).env("GLUETUN_API_KEY", &gluetun.key);
    (gluetun, setup)
}

#[test]
fn gluetuns_port_is_followed_and_the_last_one_is_kept() {
    let qbt = Qbt::start(Flavour::V5_3);
    let (gluetun, setup) = follow_gluetun(&qbt, 4711);
    let mut daemon = setup.run();
    daemon.expect_line("has port 4711");
    daemon.expect_line("qBittorrent listens on port 4711");
    gluetun.set(|state| state.port = 0);
    daemon.reload();
    daemon.expect_line("has no port now; keeping port 4711");
    gluetun.scripts.always(CURRENT, Reply::json(200, r#"{"ports":[4712,4713]}"#));
    daemon.reload();
    daemon.expect_line("qBittorrent: listen port 4711 -> 4712");
    assert_eq!(qbt.ports(), [4711, 4712], "0 was never set");
    assert_eq!(daemon.lines_at("ERROR", ""), [""; 0], "{}", daemon.log());
}

#[test]
fn an_older_gluetun_is_queried_by_its_old_route() {
    let qbt = Qbt::start(Flavour::V4_5);
    let (gluetun, setup) = follow_gluetun(&qbt, 0);
    gluetun.scripts.always(CURRENT, Reply::text(404, "404 page not found\n"));
    gluetun.scripts.always(OLD, Reply::json(200, r#"{"port":4711}"#));
    setup.run().expect_line("qBittorrent listens on port 4711");
}

#[test]
fn a_gluetun_that_refuses_or_sends_a_bad_reply_is_reported_and_recovers() {
    let qbt = Qbt::start(Flavour::V5_3);
    let (gluetun, setup) = follow_gluetun(&qbt, 4711);
    let output = setup.clone().env("GLUETUN_API_KEY", "wrong-key").run_once(&["once"]);
    assert_eq!(output.code, Some(1));
    assert!(output.stderr.contains("give gluetun a role for 'GET /v1/portforward'"), "{}", output.stderr);
    assert!(!(output.stdout + &output.stderr).contains("wrong-key"));
    assert_eq!(gluetun.set(|state| (state.rejected, state.asked)), (1, 1));

    gluetun.scripts.always(CURRENT, Reply::json(200, r#"{"port":70000}"#));
    let mut daemon = setup.run();
    daemon.expect_line("port source: bad reply: port is 70000, not between 1024 and 65535");
    gluetun.scripts.always(CURRENT, Reply::text(301, "moved").header("Location", "/elsewhere"));
    daemon.reload();
    daemon.expect_line("port source: HTTP 301");
    gluetun.scripts.clear();
    daemon.reload();
    let line = daemon.expect_line(": recovered after ");
    assert!(line.contains("gluetun at ") && !line.contains("gateway"), "{line}");
    daemon.expect_line("qBittorrent listens on port 4711");
}

/// While gluetun has no port, a monitor must not stay green, and other programs must not use the old one.
#[test]
fn a_port_that_gluetun_has_lost_for_a_minute_is_neither_healthy_nor_published() {
    let qbt = Qbt::start(Flavour::V5_3);
    let (gluetun, setup) = follow_gluetun(&qbt, 4711);
    let (file, runs) = (setup.dir().path().join("forwarded_port"), setup.dir().path().join("runs"));
    let setup = setup
        .env("PORT_FILE", file.display().to_string())
        .env("PORT_CHANGE_COMMAND", format!("sh -c 'echo $PORT >>{}'", runs.display()));
    let mut daemon = setup.run();
    daemon.expect_line("PORT_CHANGE_COMMAND: done for port 4711");
    let health = || setup.run_once(&["healthcheck"]);
    let published = || std::fs::read_to_string(&file).unwrap_or_default();
    assert!(wait_until(SOON, || health().code == Some(0)), "{}", daemon.log());
    gluetun.set(|state| state.port = 0);
    daemon.reload();
    let lost = Instant::now();
    daemon.expect_line("has no port now; keeping port 4711");
    assert_eq!((health().code, published().as_str()), (Some(0), "4711\n"), "it may be back in a moment");
    let line = daemon.wait_for_line("has had no port for 1 min", Duration::from_secs(90));
    assert!(line.contains("ERROR") && line.contains("gluetun does not retry by itself"), "{line}");
    assert!(lost.elapsed() >= Duration::from_secs(59), "{:?}", lost.elapsed());
    assert!(wait_until(SOON, || published().is_empty()), "{}", published());
    assert!(wait_until(SOON, || health().code == Some(1)), "{:?}", health());
    assert!(health().stderr.contains("port source: gluetun at "), "{:?}", health());
    assert_eq!(qbt.ports(), [4711], "the client keeps its port");
    gluetun.set(|state| state.port = 4711);
    daemon.wait_for_line("has port 4711", Duration::from_secs(30));
    assert!(wait_until(SOON, || published() == "4711\n" && health().code == Some(0)), "{:?}", health());
    assert_eq!(std::fs::read_to_string(&runs).expect("a file"), "4711\n", "it ran once");
}

/// A source that gets its port a moment after our start is noticed soon, and one that never has one costs little.
#[test]
fn gluetun_is_asked_often_in_the_first_minute() {
    let qbt = Qbt::start(Flavour::V5_3);
    let (gluetun, setup) = follow_gluetun(&qbt, 0);
    let mut daemon = setup.run();
    daemon.expect_line("has no port now");
    daemon.wait_until("polls", || gluetun.set(|state| state.asked) >= 4);
    gluetun.set(|state| state.port = 4711);
    let since = Instant::now();
    daemon.expect_line("qBittorrent: listen port 6881 -> 4711");
    assert!(is_prompt(since.elapsed(), Duration::from_secs(3)), "{:?}", since.elapsed());
}

#[test]
fn a_port_file_is_followed_within_two_seconds() {
    let qbt = Qbt::start(Flavour::V5_3);
    let setup = Setup::following(&qbt, "file:/nonexistent");
    let file = setup.dir().path().join("forwarded_port");
    let setup = setup.env("PORT_SOURCE", format!("file:{}", file.display()));
    let mut daemon = setup.run();
    daemon.expect_line("has no port now");
    for (text, port) in [("4711\n", 4711), ("", 4711), ("0\n", 4711), ("4712,4713\n", 4712)] {
        std::fs::write(&file, text).expect("the port file");
        assert!(wait_until(Duration::from_secs(2), || qbt.listening() == Some(port)), "{text:?}: {}", daemon.log());
    }
    std::fs::remove_file(&file).expect("the port file");
    daemon.expect_line("has no port now");
    assert_eq!(qbt.listening(), Some(4712));
    daemon.wait_for_status("a port", |status| status.port == Some(4712));
}

/// No VPN forwards a port below 1024, but a script may open it in a firewall.
#[test]
fn a_port_below_1024_reaches_neither_client_nor_file_nor_command() {
    let qbt = Qbt::start(Flavour::V5_3);
    let (gluetun, from_gluetun) = follow_gluetun(&qbt, 22);
    let from_file = Setup::following(&qbt, "file:/nonexistent");
    let port_file = from_file.dir().write("source", "22\n");
    let from_file = from_file.env("PORT_SOURCE", format!("file:{}", port_file.display()));
    let world = World::new();
    world.pia.set(|state| state.next_port = 22);
    for (setup, field) in [(from_gluetun, "port"), (from_file, "port"), (world.setup.clone(), "payload.port")] {
        let (file, runs) = (setup.dir().path().join("forwarded_port"), setup.dir().path().join("runs"));
        let setup = setup
            .env("PORT_FILE", file.display().to_string())
            .env("PORT_CHANGE_COMMAND", format!("sh -c 'echo $PORT >>{}'", runs.display()));
        let once = setup.run_once(&["once"]);
        let published = [file, runs].map(|path| std::fs::read_to_string(path).unwrap_or_default());
        assert_eq!((once.code, published), (Some(1), [String::new(), String::new()]), "{once:?}");
        assert!(once.stderr.contains(&format!("{field} is 22, not between 1024 and 65535")), "{once:?}");
    }
    assert_eq!((qbt.ports(), world.qbt.ports()), (Vec::new(), Vec::new()), "no client was set to it");
    gluetun.set(|state| state.port = 1024);
    let mut daemon =
        Setup::following(&qbt, "gluetun").env("GLUETUN_URL", gluetun.url()).env("GLUETUN_API_KEY", &gluetun.key).run();
    daemon.expect_line("qBittorrent listens on port 1024");
}

#[test]
fn a_socket_that_died_while_the_daemon_was_not_running_is_reopened() {
    let qbt = Qbt::start(Flavour::V4_5);
    let (_gluetun, setup) = follow_gluetun(&qbt, 4711);
    setup.run().expect_line("qBittorrent listens on port 4711");
    qbt.make_socket_stale();
    let mut daemon = setup.run();
    daemon.wait_until("a working socket", || qbt.listening() == Some(4711));
    assert_eq!(qbt.ports(), [4711, 4712, 4711], "one bounce\n{}", daemon.log());
}

#[test]
fn once_reports_a_missing_port() {
    let qbt = Qbt::start(Flavour::V5_3);
    let output = Setup::following(&qbt, "file:/nonexistent/port").run_once(&["once"]);
    assert_eq!(output.code, Some(1));
    assert!(output.stderr.contains("/nonexistent/port has no port now"), "{}", output.stderr);
    assert_eq!(qbt.ports(), [0; 0]);
}

#[test]
fn check_names_the_source() {
    let qbt = Qbt::start(Flavour::V5_3);
    let (_gluetun, setup) = follow_gluetun(&qbt, 6881);
    let output = setup.run_once(&["check"]);
    assert_eq!(output.code, Some(0), "{}", output.stdout);
    assert!(output.stdout.contains("has port 6881"), "{}", output.stdout);
}

/// A world with the configuration in a file, and the file's path.
fn from_file(extra: &str) -> (World, String) {
    let mut world = World::new().env("CHECK_INTERVAL", "300");
    let mut lines = vec![format!("# as in conf.d\r\n{extra}")];
    for name in ["PIA_GATEWAY", "PIA_HOSTNAME", "PIA_CA_CERT", "PIA_LOGIN_URL", "PIA_LOGIN_CA_CERT", "PIA_USERNAME"] {
        lines.push(format!("export {name}=\"{}\"  # comment\r\n", world.setup.value(name)));
        world = world.without(&[name]);
    }
    lines.push(format!("PIA_PASSWORD='{}'\n", world.setup.value("PIA_PASSWORD")));
    let world = world.without(&["PIA_PASSWORD"]);
    let path = world.setup.dir().write("config.env", lines.concat()).display().to_string();
    (world, path)
}

#[test]
fn a_configuration_file_is_enough_and_the_environment_wins() {
    let (world, path) = from_file("CHECK_INTERVAL=nonsense\nLOG_LEVEL=ERROR\n");
    let output = world.setup.run_once(&["--config", &path, "check", "--config-only"]);
    assert_eq!(output.code, Some(0), "{}", output.stderr);
    let mut daemon = world.setup.run_with(&["--config", &path]);
    daemon.expect_line("; run: chmod o-r ");
    daemon.expect_line("qBittorrent listens on port");
}

#[test]
fn a_bad_line_is_reported_and_nothing_is_sent() {
    let (world, path) = from_file("PIA_PASSWORD='never closed\n");
    let output = world.setup.run_once(&["--config", &path, "check", "--config-only"]);
    assert_eq!(output.code, Some(78));
    assert!(output.stderr.contains("config.env line 2: has an unclosed quote"), "{}", output.stderr);
    assert!(!output.stderr.contains("never closed"), "{}", output.stderr);
    assert_eq!(world.pia.counts().connections, 0);
    assert_eq!(world.setup.run_once(&["--config", "/nonexistent", "once"]).code, Some(78));
}

/// The receiving end of `sd_notify`.
struct Manager(UnixDatagram);

impl Manager {
    fn new(setup: &Setup) -> (Self, String) {
        let path = setup.dir().path().join("notify");
        let socket = UnixDatagram::bind(&path).expect("a socket");
        // Longer than any exchange.
        socket.set_read_timeout(Some(Duration::from_secs(16))).expect("a timeout");
        (Self(socket), path.display().to_string())
    }

    /// Receives messages until one contains `text`.
    #[track_caller]
    fn receive(&self, text: &str, daemon: &Daemon) -> String {
        let mut buffer = [0; 4096];
        loop {
            let length = self.0.recv(&mut buffer).unwrap_or_else(|e| panic!("{text}: {e}: {}", daemon.log()));
            let message = String::from_utf8_lossy(&buffer[..length]).into_owned();
            if message.contains(text) {
                return message;
            }
        }
    }
}

#[test]
fn the_service_manager_is_notified_of_every_change() {
    let world = World::new().env("CHECK_INTERVAL", "300");
    let (manager, path) = Manager::new(&world.setup);
    let mut daemon = world.env("NOTIFY_SOCKET", path).env("WATCHDOG_USEC", "400000").run();
    assert!(manager.receive("READY=1", &daemon).contains("STATUS=port "));
    assert!(
        daemon.status().is_some_and(|status| status.client_verified_at.is_some()),
        "ready before the client was verified"
    );
    manager.receive("WATCHDOG=1", &daemon);
    manager.receive("WATCHDOG=1", &daemon);
    daemon.pia().pause();
    daemon.reload();
    manager.receive("RELOADING=1", &daemon);
    assert!(manager.receive("READY=1", &daemon).contains("STATUS=bindPort: cannot connect"));
    assert!(daemon.stop().0.success());
    manager.receive("STOPPING=1", &daemon);
}

#[test]
fn the_daemon_is_ready_after_the_first_failure_that_it_retries() {
    let setup = Setup::new().pia(&Pia::start());
    let (manager, path) = Manager::new(&setup);
    let daemon = setup.env("NOTIFY_SOCKET", path).run();
    manager.receive("READY=1", &daemon);
}

#[test]
fn a_client_that_takes_9_9_s_for_every_reply_delays_nothing_else() {
    let world = World::new().env("CHECK_INTERVAL", "300");
    let endpoints = [qbt::LOGIN, qbt::PREFERENCES, qbt::SET_PREFERENCES, qbt::TRANSFER_INFO];
    world.qbt.set(|state| state.delays = endpoints.map(|endpoint| (endpoint, Duration::from_millis(9900))).into());
    let (manager, path) = Manager::new(&world.setup);
    let mut daemon = world.env("NOTIFY_SOCKET", path).env("WATCHDOG_USEC", "20000000").run();
    daemon.expect_line("bound port 47047");
    let bound = daemon.started().elapsed();
    assert!(is_prompt(bound, Duration::from_secs(1)), "{bound:?}");

    // A login, a read and a write.
    let (mut longest, mut last) = (Duration::ZERO, Instant::now());
    while daemon.qbt().ports().is_empty() {
        manager.receive("WATCHDOG=1", &daemon);
        longest = longest.max(last.elapsed());
        last = Instant::now();
    }
    assert!(is_prompt(longest, Duration::from_secs(15)), "{longest:?}\n{}", daemon.log());

    let Running { daemon: child, world } = &mut daemon;
    child.wait_until("the request that reads the port back", || world.qbt.requests() >= 4);
    let (ended, took) = daemon.stop();
    assert!(ended.success() && is_prompt(took, Duration::from_secs(12)), "{ended} after {took:?}");
    println!(
        "slow client: first bind {:.2} s after the start, longest gap between heartbeats {:.1} s, a stop {:.1} s",
        bound.as_secs_f64(),
        longest.as_secs_f64(),
        took.as_secs_f64()
    );
}
