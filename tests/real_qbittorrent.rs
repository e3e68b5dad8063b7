//! The real daemon, driven against real qBittorrents of four Debian releases and the simulated PIA.

#[allow(dead_code, reason = "the sandbox uses other parts of it")]
#[path = "support/real_qbt.rs"]
mod real_qbt;
mod support;

use std::collections::BTreeSet;
use std::net::{TcpListener, TcpStream};
use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use real_qbt::{Https, Options, PASSWORD, RealQbt, USERNAME};
use support::daemon::{Daemon, LATER, SOON, Setup};
use support::drive::{self, Client, Scenario, assert_uses_own_libraries, report_version, scenarios};
use support::link::{End, Quality};
use support::pia::{self, Pia};
use support::{Reply, Server, TempDir, lock, netns, wait_until};

/// Port of the first lease that the simulator hands out.
const LEASED: u16 = 47_047;
/// Another port, neither leased nor qBittorrent's first.
const OTHER: u16 = 50_505;

const CLIENT: Client = Client { name: "qBittorrent", program: "qbittorrent-nox" };
const EVERYWHERE: &[Scenario] = scenarios!(password bypass changed_in_web_ui restarted wrong_password banned random_port port_taken https recreated_tunnel trackers);

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

/// Starts the qBittorrent under test and says which one it is.
fn start(suite: &str, options: Options) -> RealQbt {
    let qbt = RealQbt::start(suite, options).expect("a suite that is there");
    report_version(&qbt.version());
    qbt
}

/// A daemon's environment that has qBittorrent's address and no credentials.
fn anonymous(pia: &Pia, qbt: &RealQbt) -> Setup {
    Setup::new().pia(pia).env("QBITTORRENT_HOST", qbt.url())
}

fn setup(pia: &Pia, qbt: &RealQbt) -> Setup {
    anonymous(pia, qbt).env("QBITTORRENT_USERNAME", USERNAME).env("QBITTORRENT_PASSWORD", PASSWORD)
}

/// Waits until qBittorrent listens on this port and on no other, and says so in its preferences.
#[track_caller]
fn see_port(daemon: &mut Daemon, qbt: &RealQbt, port: u16) {
    see_port_within(daemon, qbt, port, SOON);
}

#[track_caller]
fn see_port_within(daemon: &mut Daemon, qbt: &RealQbt, port: u16, limit: Duration) {
    let wanted = BTreeSet::from([port]);
    // The preferences change first, and a bounce passes over other ports: so both, at one time.
    let there = wait_until(limit, || qbt.listen_ports() == wanted && qbt.preferred_port() == port);
    assert!(
        there,
        "after {limit:?} qBittorrent listens on {:?} instead of {port}, its preferences say {}\n--- log\n{}--- qBittorrent\n{}",
        qbt.listen_ports(),
        qbt.preferred_port(),
        daemon.log(),
        qbt.log_lines("").join("\n")
    );
    assert!(daemon.ended().is_none(), "the daemon has ended\n{}", daemon.log());
}

/// Waits until the daemon knows that all is well with qBittorrent.
#[track_caller]
fn see_verified(daemon: &mut Daemon, port: u16) {
    daemon.wait_for_status("verified", |status| {
        status.client_port == Some(port) && status.client_verified_at.is_some() && status.problems.is_empty()
    });
}

/// Waits for this many more bindings.
#[track_caller]
fn see_binds(daemon: &mut Daemon, pia: &Pia, more: usize) {
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

/// Name and password; the port is followed, also to the next one; one session is enough for all requests.
fn password(suite: &str) {
    let (pia, qbt) = (Pia::start(), start(suite, Options::default()));
    let setup = setup(&pia, &qbt);
    let mut daemon = setup.run();
    see_port(&mut daemon, &qbt, LEASED);
    see_verified(&mut daemon, LEASED);
    see_binds(&mut daemon, &pia, 3);
    daemon.wait_for_status("qBittorrent's own view of the connection", |status| {
        status.connection_status == Some(qbt.connection_status())
    });
    assert_eq!(pia.counts().signatures, 1);
    // One login is the test's own.
    assert_eq!(qbt.log_lines("login success").len(), 2, "{}", daemon.log());

    pia.set(|state| state.next_port = OTHER.into());
    pia.scripts.next(pia::BIND_PORT, [pia::busy(LEASED)]);
    see_port_within(&mut daemon, &qbt, OTHER, LATER);
    see_verified(&mut daemon, OTHER);
    assert_eq!(qbt.log_lines("login success").len(), 2, "{}", daemon.log());
    end(daemon, &pia);
}

/// No credentials, none needed; `check` and `once` as well.
fn bypass(suite: &str) {
    let pia = Pia::start();
    let qbt = start(suite, Options { local_host_auth: false, ..Options::default() });
    let setup = anonymous(&pia, &qbt);

    let check = setup.run_once(&["check"]);
    assert_eq!(qbt.listen_ports(), BTreeSet::from([50_000]), "check must not change anything: {check:?}");
    let once = setup.run_once(&["once"]);
    assert_eq!(once.code, Some(0), "{once:?}");
    assert_eq!(qbt.listen_ports(), BTreeSet::from([LEASED]));
    let check = setup.run_once(&["check"]);
    assert_eq!(check.code, Some(0), "{check:?}");

    qbt.set_preferences(&format!(r#"{{"listen_port":{OTHER}}}"#));
    let mut daemon = setup.run();
    see_port(&mut daemon, &qbt, LEASED);
    see_verified(&mut daemon, LEASED);
    end(daemon, &pia);
}

/// A change in the Web UI is put right within one interval.
fn changed_in_web_ui(suite: &str) {
    const INTERVAL: Duration = Duration::from_secs(6);
    let (pia, qbt) = (Pia::start(), start(suite, Options::default()));
    let mut daemon = setup(&pia, &qbt).env("CHECK_INTERVAL", INTERVAL.as_secs().to_string()).run();
    see_port(&mut daemon, &qbt, LEASED);
    see_verified(&mut daemon, LEASED);
    for preferences in [format!(r#"{{"listen_port":{OTHER}}}"#), r#"{"random_port":true}"#.into()] {
        qbt.set_preferences(&preferences);
        // And some for the requests, for a bounce, and for a busy machine; less than a second interval.
        see_port_within(&mut daemon, &qbt, LEASED, INTERVAL + Duration::from_secs(4));
    }
    end(daemon, &pia);
}

/// A restart ends every session; the next one begins without being told.
fn restarted(suite: &str) {
    let pia = Pia::start();
    let mut qbt = start(suite, Options::default());
    let mut daemon = setup(&pia, &qbt).env("CHECK_INTERVAL", "3").run();
    see_port(&mut daemon, &qbt, LEASED);
    see_verified(&mut daemon, LEASED);
    qbt.restart();
    qbt.set_preferences(&format!(r#"{{"listen_port":{OTHER}}}"#));
    let begin = Instant::now();
    see_port_within(&mut daemon, &qbt, LEASED, LATER);
    see_verified(&mut daemon, LEASED);
    println!("put right {:?} after the restart", begin.elapsed());
    // Two of the daemon and two of the test.
    assert_eq!(qbt.log_lines("login success").len(), 4, "{}", daemon.log());
    assert_eq!(qbt.log_lines("login failure").len(), 0, "{}", daemon.log());
    end(daemon, &pia);
}

/// One failed login is enough: the port stays bound, and nobody is banned.
fn wrong_password(suite: &str) {
    let (pia, qbt) = (Pia::start(), start(suite, Options::default()));
    let mut daemon = setup(&pia, &qbt).env("QBITTORRENT_PASSWORD", "not the password").run();
    daemon.wait_for_problem("client");
    see_binds(&mut daemon, &pia, 3);
    daemon.hang_up();
    see_binds(&mut daemon, &pia, 2);
    assert_eq!(qbt.log_lines("login failure").len(), 1, "{}", daemon.log());
    assert_eq!(qbt.listen_ports(), BTreeSet::from([50_000]));
    assert_eq!(daemon.count_lines("ERROR"), 1, "{}", daemon.log());
    end(daemon, &pia);

    // Not banned: the right password is let in at once.
    let mut daemon = setup(&pia, &qbt).run();
    see_port(&mut daemon, &qbt, LEASED);
    end(daemon, &pia);
}

/// Somebody else at our address was banned. A session that lives is spared; without one there is nothing but waiting,
/// and no attempt makes it worse.
fn banned(suite: &str) {
    let pia = Pia::start();
    let mut qbt = start(suite, Options::default());
    let setup = setup(&pia, &qbt).env("CHECK_INTERVAL", "2");
    let mut daemon = setup.run();
    see_port(&mut daemon, &qbt, LEASED);
    see_verified(&mut daemon, LEASED);
    for _ in 0..5 {
        qbt.fail_login();
    }
    qbt.set_preferences(&format!(r#"{{"listen_port":{OTHER}}}"#));
    see_port(&mut daemon, &qbt, LEASED);
    end(daemon, &pia);

    let mut daemon = setup.run();
    let line = daemon.see("ERROR");
    assert!(line.contains("banned"), "{line}");
    see_binds(&mut daemon, &pia, 2);
    assert_eq!(daemon.count_lines("/api/v2/auth/login"), 1, "{}", daemon.log());
    end(daemon, &pia);

    qbt.restart();
    let mut daemon = setup.run();
    see_port(&mut daemon, &qbt, LEASED);
    end(daemon, &pia);
}

/// A random port was chosen at qBittorrent's start, and the leased one stands in its preferences (trap 4).
fn random_port(suite: &str) {
    let pia = Pia::start();
    let mut qbt = start(suite, Options { listen_port: LEASED, ..Options::default() });
    qbt.set_preferences(r#"{"random_port":true}"#);
    qbt.restart();
    assert!(wait_until(SOON, || qbt.listen_ports().len() == 1), "{:?}", qbt.log_lines(""));
    assert_ne!(qbt.listen_ports(), BTreeSet::from([LEASED]), "{:?}", qbt.log_lines(""));
    let mut daemon = setup(&pia, &qbt).run();
    see_port(&mut daemon, &qbt, LEASED);
    see_verified(&mut daemon, LEASED);
    qbt.restart();
    see_port_within(&mut daemon, &qbt, LEASED, LATER);
    end(daemon, &pia);
}

/// Another program has the leased port at first (trap 6): qBittorrent's preferences look fine, but nothing listens.
fn port_taken(suite: &str) {
    let (pia, qbt) = (Pia::start(), start(suite, Options::default()));
    let other_program = TcpListener::bind(("127.0.0.1", LEASED)).expect("the port is free");
    let mut daemon = setup(&pia, &qbt).run();
    // Both looks with their patience take some 8 s.
    daemon.wait_for_line("nothing listens on it", LATER);
    let status = daemon.wait_for_problem("client");
    assert_eq!(status.client_verified_at, None, "{}", daemon.log());
    see_binds(&mut daemon, &pia, 2);
    drop(other_program);
    see_port_within(&mut daemon, &qbt, LEASED, Duration::from_secs(45));
    see_verified(&mut daemon, LEASED);
    end(daemon, &pia);
}

/// A Web UI with a certificate that only its own authority vouches for.
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
    see_port(&mut daemon, &qbt, LEASED);
    see_verified(&mut daemon, LEASED);
    see_binds(&mut daemon, &pia, 2);
    // Qt opens its TLS libraries with the first connection.
    assert_uses_own_libraries(qbt.pid(), &drive::tree("qbittorrent", suite));
    end(daemon, &pia);
}

/// An API key in place of name and password (5.2 and later).
fn api_key(suite: &str) {
    let (pia, qbt) = (Pia::start(), start(suite, Options::default()));
    let key = qbt.make_api_key();
    let mut daemon = anonymous(&pia, &qbt).env("QBITTORRENT_API_KEY", key.clone()).run();
    see_port(&mut daemon, &qbt, LEASED);
    see_verified(&mut daemon, LEASED);
    assert!(!daemon.log().contains(&key), "the key is in the log");
    end(daemon, &pia);

    let next = qbt.make_api_key();
    assert_ne!(key, next);
    let mut daemon = anonymous(&pia, &qbt).env("QBITTORRENT_API_KEY", key).run();
    daemon.wait_for_problem("client");
    see_binds(&mut daemon, &pia, 2);
    end(daemon, &pia);
}

/// The tunnel is made anew with the same address while qBittorrent keeps to it: whoever is at its far end reaches
/// qBittorrent again, although some versions keep their socket in the old one and say that all is well.
fn recreated_tunnel(suite: &str) {
    let peers = netns::Namespace::new().expect("a second namespace");
    let own = End { pid: std::process::id(), address: [10, 10, 229, 5].into() };
    let gateway = End { pid: peers.pid(), address: [10, 10, 224, 1].into() };
    let raise = || drive::link(own, gateway, Quality::default());
    let first = raise();
    let qbt = start(suite, Options { device: Some("pialink"), ..Options::default() });
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
    see_port(&mut daemon, &qbt, LEASED);
    see_verified(&mut daemon, LEASED);
    let limit = Duration::from_millis(500);
    let reached = || {
        netns::within(Some(gateway.pid), || TcpStream::connect_timeout(&(own.address, LEASED).into(), limit)).is_ok()
    };
    assert!(wait_until(SOON, reached), "qBittorrent is not reached through the first tunnel");

    drop(first);
    let _second = raise();
    let began = Instant::now();
    assert!(wait_until(SOON, reached), "qBittorrent is not reached through the new tunnel\n{}", daemon.log());
    println!("reached after {:.1?}", began.elapsed());
    daemon.wait_for_line("the tunnel has changed", SOON);
    // Only 4.5.2 keeps a socket that is dead, and only that is opened again.
    if suite == "bookworm" {
        daemon.wait_for_line("reopened its socket on port 47047", SOON);
    } else {
        daemon.wait_for_status("verified", |status| status.client_verified_at.is_some());
        assert_eq!(daemon.lines_at("INFO", "reopened its socket"), [""; 0], "{}", daemon.log());
    }
    assert_eq!(pia.counts().signatures, 1);
    end(daemon, &pia);
}

/// A tracker hears the leased port within seconds of the change, and not half an hour later.
fn trackers(suite: &str) {
    let (pia, qbt) = (Pia::start(), start(suite, Options::default()));
    let heard = Arc::new(Mutex::new(Vec::new()));
    let ears = Arc::clone(&heard);
    let tracker = Server::start(([127, 0, 0, 1], 0).into(), None, move |request| {
        lock(&ears).extend(request.query("port"));
        Reply::text(200, "d8:intervali1800e5:peers0:e")
    });
    qbt.add_torrent(&format!("http://{}/announce", tracker.address()));
    let last_is = |port: u16| lock(&heard).last().is_some_and(|last| *last == port.to_string());
    assert!(wait_until(LATER, || last_is(50_000)), "{:?}", lock(&heard));
    let began = Instant::now();
    let mut daemon = setup(&pia, &qbt).run();
    daemon.wait_for_line("qBittorrent tells its trackers port 47047", LATER);
    assert!(wait_until(4 * LATER, || last_is(LEASED)), "{:?}\n{}", lock(&heard), daemon.log());
    println!("the tracker heard {:?}, the last one after {:.1?}", lock(&heard), began.elapsed());
    end(daemon, &pia);
}

/// The tunnel is cut so that packets vanish and nobody is told: the deadline ends the request, and all is well again
/// once packets flow.
fn link_down(suite: &str) {
    let clients = netns::Namespace::new().expect("a second namespace");
    let here = End { pid: std::process::id(), address: [10, 77, 0, 1].into() };
    let there = End { pid: clients.pid(), address: [10, 77, 0, 2].into() };
    let quality = Quality { delay: Duration::from_millis(20), loss_percent: 0.5 };
    let link = drive::link(here, there, quality);
    let pia = Pia::with(pia::Options { address: here.address.into(), ..pia::Options::default() });
    let options = Options { device: Some("pialink"), ..Options::default() };
    let qbt = RealQbt::start_beside(Some(there.pid), suite, options).expect("a suite that is there");
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
    see_port(&mut daemon, &qbt, LEASED);
    see_verified(&mut daemon, LEASED);

    link.down();
    daemon.wait_for_line("ERROR", LATER);
    // PIA out of reach says nothing about qBittorrent.
    qbt.set_preferences(&format!(r#"{{"listen_port":{OTHER}}}"#));
    see_port_within(&mut daemon, &qbt, LEASED, LATER);
    link.up();
    daemon.wait_for_line("gateway: recovered after", Duration::from_secs(60));
    see_binds(&mut daemon, &pia, 2);
    assert_eq!(pia.counts().signatures, 1, "{}", daemon.log());
    end(daemon, &pia);
}
