//! The daemon with real qBittorrents of four Debian releases and the simulated PIA.

#[allow(dead_code, reason = "the sandbox uses other parts of it")]
#[path = "support/real_qbt.rs"]
mod real_qbt;
mod support;

use std::collections::BTreeSet;
use std::net::{TcpListener, TcpStream};
use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use real_qbt::{Https, Interface, Options, PASSWORD, RealQbt, USERNAME};
use support::daemon::{Daemon, LATER, SOON, Setup};
use support::drive::{self, Client, Scenario, assert_uses_own_libraries, report_version, scenarios};
use support::link::{End, Quality};
use support::pia::{self, Pia};
use support::{Reply, Server, TempDir, lock, netns, wait_until};

/// Port of the first lease that the simulator hands out.
const LEASED: u16 = 47_047;
/// A different port, neither leased nor qBittorrent's first.
const OTHER: u16 = 50_505;

const CLIENT: Client = Client { name: "qBittorrent", program: "qbittorrent-nox" };
const EVERYWHERE: &[Scenario] = scenarios!(password bypass changed_in_web_ui restarted wrong_password banned random_port port_taken port_taken_before ipv6_only https recreated_tunnel trackers);

fn main() -> ExitCode {
    let also = |more: &[Scenario]| [EVERYWHERE, more].concat();
    drive::main(
        &CLIENT,
        &[
            ("bullseye", EVERYWHERE),
            ("bookworm", &also(scenarios!(link_down))),
            ("trixie", EVERYWHERE),
            ("sid", &also(scenarios!(api_key))),
        ],
    )
}

/// Starts the qBittorrent under test and reports its version.
fn start(suite: &str, options: Options) -> RealQbt {
    let qbt = RealQbt::start(suite, options).expect("an unpacked suite");
    report_version(&qbt.version());
    qbt
}

/// Setup of a daemon with qBittorrent's address and no credentials.
fn anonymous(pia: &Pia, qbt: &RealQbt) -> Setup {
    Setup::new().pia(pia).env("QBITTORRENT_HOST", qbt.url())
}

fn setup(pia: &Pia, qbt: &RealQbt) -> Setup {
    anonymous(pia, qbt).env("QBITTORRENT_USERNAME", USERNAME).env("QBITTORRENT_PASSWORD", PASSWORD)
}

/// Waits until qBittorrent listens on this port alone and has it in its preferences.
#[track_caller]
fn wait_for_port(daemon: &mut Daemon, qbt: &RealQbt, port: u16) {
    wait_for_port_within(daemon, qbt, port, SOON);
}

#[track_caller]
fn wait_for_port_within(daemon: &mut Daemon, qbt: &RealQbt, port: u16, limit: Duration) {
    let wanted = BTreeSet::from([port]);
    // The preferences change before the socket, and a bounce uses other ports, so both must be right at the same time.
    let there = wait_until(limit, || qbt.listen_ports() == wanted && qbt.preferred_port() == port);
    assert!(
        there,
        "after {limit:?} qBittorrent listens on {:?} instead of {port}, its preferences have {}\n--- log\n{}--- qBittorrent\n{}",
        qbt.listen_ports(),
        qbt.preferred_port(),
        daemon.log(),
        qbt.log_lines("").join("\n")
    );
    assert!(daemon.ended().is_none(), "the daemon has ended\n{}", daemon.log());
}

/// Waits until the status shows a verified client and no problem.
#[track_caller]
fn wait_until_verified(daemon: &mut Daemon, port: u16) {
    daemon.wait_for_status("verified", |status| {
        status.client_port == Some(port) && status.client_verified_at.is_some() && status.problems.is_empty()
    });
}

/// Waits for this many more bindings.
#[track_caller]
fn wait_for_binds(daemon: &mut Daemon, pia: &Pia, more: usize) {
    let before = pia.counts().binds;
    daemon.wait_until("more bindings", || pia.counts().binds >= before + more);
}

#[track_caller]
fn end(mut daemon: Daemon, pia: &Pia) {
    let (status, _) = daemon.stop();
    println!("--- log\n{}---", daemon.log());
    assert!(status.success(), "{status}");
    assert_eq!(pia.complaints(), Vec::<String>::new());
}

/// With user name and password qBittorrent gets each leased port, and all requests share one session.
fn password(suite: &str) {
    let (pia, qbt) = (Pia::start(), start(suite, Options::default()));
    let setup = setup(&pia, &qbt);
    let mut daemon = setup.run();
    wait_for_port(&mut daemon, &qbt, LEASED);
    wait_until_verified(&mut daemon, LEASED);
    wait_for_binds(&mut daemon, &pia, 3);
    daemon.wait_for_status("qBittorrent's own view of the connection", |status| {
        status.connection_status == Some(qbt.connection_status())
    });
    assert_eq!(pia.counts().signatures, 1);
    // The second login is the test's own.
    assert_eq!(qbt.log_lines("login success").len(), 2, "{}", daemon.log());

    pia.set(|state| state.next_port = OTHER.into());
    pia.scripts.next(pia::BIND_PORT, [pia::busy(LEASED)]);
    wait_for_port_within(&mut daemon, &qbt, OTHER, LATER);
    wait_until_verified(&mut daemon, OTHER);
    assert_eq!(qbt.log_lines("login success").len(), 2, "{}", daemon.log());
    end(daemon, &pia);
}

/// Without credentials, if none are needed; `check` and `once` as well.
fn bypass(suite: &str) {
    let pia = Pia::start();
    let qbt = start(suite, Options { local_host_auth: false, ..Options::default() });
    let setup = anonymous(&pia, &qbt);

    let check = setup.run_once(&["check"]);
    assert_eq!(qbt.listen_ports(), BTreeSet::from([50_000]), "check has changed something: {check:?}");
    setup.run_until_success(&["once"]);
    assert_eq!(qbt.listen_ports(), BTreeSet::from([LEASED]));
    let check = setup.run_once(&["check"]);
    assert_eq!(check.code, Some(0), "{check:?}");

    qbt.set_preferences(&format!(r#"{{"listen_port":{OTHER}}}"#));
    let mut daemon = setup.run();
    wait_for_port(&mut daemon, &qbt, LEASED);
    wait_until_verified(&mut daemon, LEASED);
    end(daemon, &pia);
}

/// A change in the Web UI is corrected within one interval.
fn changed_in_web_ui(suite: &str) {
    const INTERVAL: Duration = Duration::from_secs(6);
    let (pia, qbt) = (Pia::start(), start(suite, Options::default()));
    let mut daemon = setup(&pia, &qbt).env("CHECK_INTERVAL", INTERVAL.as_secs().to_string()).run();
    wait_for_port(&mut daemon, &qbt, LEASED);
    wait_until_verified(&mut daemon, LEASED);
    for preferences in [format!(r#"{{"listen_port":{OTHER}}}"#), r#"{"random_port":true}"#.into()] {
        qbt.set_preferences(&preferences);
        // Plus time for the requests, a bounce and a busy machine, but less than two intervals.
        wait_for_port_within(&mut daemon, &qbt, LEASED, INTERVAL + Duration::from_secs(4));
    }
    end(daemon, &pia);
}

/// A restart ends every session; the daemon logs in again and corrects the port.
fn restarted(suite: &str) {
    let pia = Pia::start();
    let mut qbt = start(suite, Options::default());
    let mut daemon = setup(&pia, &qbt).env("CHECK_INTERVAL", "3").run();
    wait_for_port(&mut daemon, &qbt, LEASED);
    wait_until_verified(&mut daemon, LEASED);
    qbt.restart();
    qbt.set_preferences(&format!(r#"{{"listen_port":{OTHER}}}"#));
    let begin = Instant::now();
    wait_for_port_within(&mut daemon, &qbt, LEASED, LATER);
    wait_until_verified(&mut daemon, LEASED);
    println!("corrected {:?} after the restart", begin.elapsed());
    // Two by the daemon and two by the test.
    assert_eq!(qbt.log_lines("login success").len(), 4, "{}", daemon.log());
    assert_eq!(qbt.log_lines("login failure").len(), 0, "{}", daemon.log());
    end(daemon, &pia);
}

/// A wrong password is tried once, so qBittorrent bans no address, and the port stays bound.
fn wrong_password(suite: &str) {
    let (pia, qbt) = (Pia::start(), start(suite, Options::default()));
    let mut daemon = setup(&pia, &qbt).env("QBITTORRENT_PASSWORD", "not the password").run();
    daemon.wait_for_problem("client");
    wait_for_binds(&mut daemon, &pia, 3);
    daemon.reload();
    wait_for_binds(&mut daemon, &pia, 2);
    assert_eq!(qbt.log_lines("login failure").len(), 1, "{}", daemon.log());
    assert_eq!(qbt.listen_ports(), BTreeSet::from([50_000]));
    assert_eq!(daemon.count_lines("ERROR"), 1, "{}", daemon.log());
    end(daemon, &pia);

    // Not banned: the right password works at once.
    let mut daemon = setup(&pia, &qbt).run();
    wait_for_port(&mut daemon, &qbt, LEASED);
    end(daemon, &pia);
}

/// A different program at our address causes a ban. An existing session keeps working; without one the daemon makes one
/// attempt and waits.
fn banned(suite: &str) {
    let pia = Pia::start();
    let mut qbt = start(suite, Options::default());
    let setup = setup(&pia, &qbt).env("CHECK_INTERVAL", "2");
    let mut daemon = setup.run();
    wait_for_port(&mut daemon, &qbt, LEASED);
    wait_until_verified(&mut daemon, LEASED);
    for _ in 0..5 {
        qbt.fail_login();
    }
    qbt.set_preferences(&format!(r#"{{"listen_port":{OTHER}}}"#));
    wait_for_port(&mut daemon, &qbt, LEASED);
    end(daemon, &pia);

    let mut daemon = setup.run();
    let line = daemon.expect_line("ERROR");
    assert!(line.contains("banned"), "{line}");
    wait_for_binds(&mut daemon, &pia, 2);
    assert_eq!(daemon.count_lines("/api/v2/auth/login"), 1, "{}", daemon.log());
    end(daemon, &pia);

    qbt.restart();
    let mut daemon = setup.run();
    wait_for_port(&mut daemon, &qbt, LEASED);
    end(daemon, &pia);
}

/// qBittorrent chose a random port at its start, while its preferences have the leased one.
fn random_port(suite: &str) {
    let pia = Pia::start();
    let mut qbt = start(suite, Options { listen_port: LEASED, ..Options::default() });
    qbt.set_preferences(r#"{"random_port":true}"#);
    qbt.restart();
    assert!(wait_until(SOON, || qbt.listen_ports().len() == 1), "{:?}", qbt.log_lines(""));
    assert_ne!(qbt.listen_ports(), BTreeSet::from([LEASED]), "{:?}", qbt.log_lines(""));
    let mut daemon = setup(&pia, &qbt).run();
    wait_for_port(&mut daemon, &qbt, LEASED);
    wait_until_verified(&mut daemon, LEASED);
    qbt.restart();
    wait_for_port_within(&mut daemon, &qbt, LEASED, LATER);
    end(daemon, &pia);
}

/// qBittorrent must not be told to use a port while a different program uses it: its preferences would look fine.
fn port_taken(suite: &str) {
    let (pia, qbt) = (Pia::start(), start(suite, Options::default()));
    let other_program = TcpListener::bind(("127.0.0.1", LEASED)).expect("the port is free");
    let mut daemon = setup(&pia, &qbt).run();
    daemon.wait_for_line("another program listens on port 47047", SOON);
    let status = daemon.wait_for_problem("client");
    assert_eq!(status.client_verified_at, None, "{}", daemon.log());
    wait_for_binds(&mut daemon, &pia, 2);
    drop(other_program);
    wait_for_port_within(&mut daemon, &qbt, LEASED, Duration::from_secs(45));
    wait_until_verified(&mut daemon, LEASED);
    end(daemon, &pia);
}

/// The leased port is in the preferences already, but a different program has used it since before qBittorrent started.
/// qBittorrent listens on other addresses, and reports that it listens.
fn port_taken_before(suite: &str) {
    let pia = Pia::start();
    let other_program = TcpListener::bind(("0.0.0.0", LEASED)).expect("the port is free");
    let options = Options { listen_port: LEASED, interface: Interface::Any, ..Options::default() };
    let qbt = start(suite, options);
    let setup = setup(&pia, &qbt);
    let mut daemon = setup.run();
    let line = daemon.wait_for_level("ERROR", LATER);
    assert!(line.contains("another program listens on port 47047"), "{line}");
    let status = daemon.wait_for_problem("client");
    assert_eq!(status.client_verified_at, None, "{}", daemon.log());
    assert_eq!(setup.run_once(&["healthcheck"]).code, Some(1));
    drop(other_program);
    wait_for_port_within(&mut daemon, &qbt, LEASED, Duration::from_secs(45));
    wait_until_verified(&mut daemon, LEASED);
    end(daemon, &pia);
}

/// PIA forwards IPv4 only.
fn ipv6_only(suite: &str) {
    let pia = Pia::start();
    let qbt = start(suite, Options { interface: Interface::AnyIpv6, listen_port: LEASED, ..Options::default() });
    assert!(wait_until(SOON, || qbt.listen_ports().contains(&LEASED)), "{:?}", qbt.log_lines(""));
    let check = setup(&pia, &qbt).run_once(&["check"]);
    assert!(check.code == Some(1) && check.stdout.contains("listens on IPv6 only"), "{check:?}");
    let mut daemon = setup(&pia, &qbt).run();
    let line = daemon.wait_for_line("listens on IPv6 only, but the port is forwarded over IPv4", LATER);
    assert!(line.contains("ERROR"), "{line}");
    end(daemon, &pia);
}

/// A Web UI with a certificate from a private CA.
fn https(suite: &str) {
    let dir = TempDir::new();
    let files = Https::in_dir(&dir);
    let pia = Pia::start();
    let qbt = start(suite, Options { https: Some(files.clone()), ..Options::default() });

    let mut daemon = setup(&pia, &qbt).run();
    daemon.wait_for_problem("client");
    assert_eq!(qbt.listen_ports(), BTreeSet::from([50_000]));
    end(daemon, &pia);

    let mut daemon = setup(&pia, &qbt).env("QBITTORRENT_CA_CERT", files.ca.display().to_string()).run();
    wait_for_port(&mut daemon, &qbt, LEASED);
    wait_until_verified(&mut daemon, LEASED);
    wait_for_binds(&mut daemon, &pia, 2);
    // Qt opens its TLS libraries with the first connection.
    assert_uses_own_libraries(qbt.pid(), &drive::tree("qbittorrent", suite));
    end(daemon, &pia);
}

/// An API key instead of user name and password (5.2 and later).
fn api_key(suite: &str) {
    let (pia, qbt) = (Pia::start(), start(suite, Options::default()));
    let key = qbt.make_api_key();
    let mut daemon = anonymous(&pia, &qbt).env("QBITTORRENT_API_KEY", key.clone()).run();
    wait_for_port(&mut daemon, &qbt, LEASED);
    wait_until_verified(&mut daemon, LEASED);
    assert!(!daemon.log().contains(&key), "the key is in the log");
    end(daemon, &pia);

    let next = qbt.make_api_key();
    assert_ne!(key, next);
    let mut daemon = anonymous(&pia, &qbt).env("QBITTORRENT_API_KEY", key).run();
    daemon.wait_for_problem("client");
    wait_for_binds(&mut daemon, &pia, 2);
    end(daemon, &pia);
}

/// After the tunnel is recreated with the same address, its far end reaches a qBittorrent that is bound to the device
/// again, although some versions keep a socket in the old tunnel and report no problem.
fn recreated_tunnel(suite: &str) {
    let far_end = netns::Namespace::new().expect("a second namespace");
    let own = End::new(std::process::id(), [10, 10, 229, 5].into());
    let gateway = End::new(far_end.pid(), [10, 10, 224, 1].into());
    let raise = || drive::link(own, gateway, Quality::default());
    let first = raise();
    let qbt = start(suite, Options { interface: Interface::Device("pialink"), ..Options::default() });
    let pia = Pia::with(pia::Options {
        namespace_of: Some(gateway.pid),
        address: std::net::Ipv4Addr::UNSPECIFIED.into(),
        ..pia::Options::default()
    });
    let setup = setup(&pia, &qbt)
        .env("PIA_GATEWAY", format!("{}:{}", gateway.address, pia.gateway().port()))
        .env("CHECK_INTERVAL", "300");
    std::fs::write(setup.token_file(), pia.make_token()).expect("a token");
    let mut daemon = setup.run();
    wait_for_port(&mut daemon, &qbt, LEASED);
    wait_until_verified(&mut daemon, LEASED);
    let limit = Duration::from_millis(500);
    let reachable = || {
        netns::within(Some(gateway.pid), || TcpStream::connect_timeout(&(own.address, LEASED).into(), limit)).is_ok()
    };
    assert!(wait_until(SOON, reachable), "qBittorrent is unreachable through the first tunnel");

    drop(first);
    let _second = raise();
    let began = Instant::now();
    assert!(wait_until(SOON, reachable), "qBittorrent is unreachable through the new tunnel\n{}", daemon.log());
    println!("reachable after {:.1?}", began.elapsed());
    daemon.wait_for_line("tunnel changed: now ", SOON);
    // Only 4.5.2 keeps a dead socket, and only that must be reopened.
    if suite == "bookworm" {
        daemon.wait_for_line("reopened its socket on port 47047", SOON);
    } else {
        daemon.wait_for_status("verified", |status| status.client_verified_at.is_some());
        assert_eq!(daemon.lines_at("INFO", "reopened its socket"), [""; 0], "{}", daemon.log());
    }
    assert_eq!(pia.counts().signatures, 1);
    end(daemon, &pia);
}

/// The leased port is announced to a tracker within seconds of the change, not half an hour later.
fn trackers(suite: &str) {
    let (pia, qbt) = (Pia::start(), start(suite, Options::default()));
    let announced = Arc::new(Mutex::new(Vec::new()));
    let record = Arc::clone(&announced);
    let tracker = Server::start(([127, 0, 0, 1], 0).into(), None, move |request| {
        lock(&record).extend(request.query("port"));
        Reply::text(200, "d8:intervali1800e5:peers0:e")
    });
    qbt.add_torrent(&format!("http://{}/announce", tracker.address()));
    let last_is = |port: u16| lock(&announced).last().is_some_and(|last| *last == port.to_string());
    assert!(wait_until(LATER, || last_is(50_000)), "{:?}", lock(&announced));
    let began = Instant::now();
    let mut daemon = setup(&pia, &qbt).run();
    daemon.wait_for_line("qBittorrent is announcing port 47047 to its trackers", LATER);
    assert!(wait_until(4 * LATER, || last_is(LEASED)), "{:?}\n{}", lock(&announced), daemon.log());
    println!("announced ports: {:?}, the last one after {:.1?}", lock(&announced), began.elapsed());
    end(daemon, &pia);
}

/// The tunnel drops all packets without an error: the deadline ends the request, and the daemon recovers once packets
/// flow.
fn link_down(suite: &str) {
    let clients = netns::Namespace::new().expect("a second namespace");
    let here = End::new(std::process::id(), [10, 77, 0, 1].into());
    let there = End::new(clients.pid(), [10, 77, 0, 2].into());
    let quality = Quality { delay: Duration::from_millis(20), loss_percent: 0.5 };
    let link = drive::link(here, there, quality);
    let pia = Pia::with(pia::Options { address: here.address.into(), ..pia::Options::default() });
    let options = Options { interface: Interface::Device("pialink"), ..Options::default() };
    let qbt = RealQbt::start_in_namespace(Some(there.pid), suite, options).expect("an unpacked suite");
    let script = format!(
        "#!/bin/sh\nexec nsenter --net=/proc/{}/ns/net -- {} \"$@\"\n",
        there.pid,
        env!("CARGO_BIN_EXE_pia-qbittorrent-sync")
    );
    let dir = TempDir::new();
    let program = dir.write("daemon-there", script);
    std::fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o700)).expect("its mode");

    let login = pia.make_token();
    let setup = Setup::with_binary(program)
        .pia(&pia)
        .env("QBITTORRENT_HOST", qbt.url())
        .env("QBITTORRENT_USERNAME", USERNAME)
        .env("QBITTORRENT_PASSWORD", PASSWORD);
    std::fs::write(setup.token_file(), login).expect("a token");
    let mut daemon = setup.run();
    wait_for_port(&mut daemon, &qbt, LEASED);
    wait_until_verified(&mut daemon, LEASED);

    link.down();
    daemon.wait_for_line("ERROR", LATER);
    // An unreachable PIA must not stop the checks of qBittorrent.
    qbt.set_preferences(&format!(r#"{{"listen_port":{OTHER}}}"#));
    wait_for_port_within(&mut daemon, &qbt, LEASED, LATER);
    link.up();
    daemon.wait_for_line("gateway: recovered after", Duration::from_secs(60));
    wait_for_binds(&mut daemon, &pia, 2);
    assert_eq!(pia.counts().signatures, 1, "{}", daemon.log());
    end(daemon, &pia);
}
