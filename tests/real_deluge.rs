//! The daemon with real Deluges (deluged and deluge-web) of three Debian releases and the simulated PIA.

mod support;

use std::collections::BTreeSet;
use std::net::TcpListener;
use std::process::ExitCode;
use std::time::Duration;

use support::daemon::{Daemon, LATER, SOON, Setup};
use support::drive::{self, Client, Scenario, assert_uses_own_libraries, scenarios};
use support::pia::Pia;
use support::real_client::{
    FIRST, LEASED, OTHER, RealClient, Tracker, change_port, end, follow_recreated_tunnel, wait_for_binds,
    wait_for_port, wait_until_verified,
};
use support::real_deluge::{Deluge, Options, PASSWORD, variables};

const CLIENT: Client = Client { name: "Deluge", program: "deluge-web" };
const EVERYWHERE: &[Scenario] = scenarios!(password changed_by_user restarted daemon_restarted unconnected wrong_password port_taken port_taken_before udp_taken ipv6_only recreated_tunnel trackers);

fn main() -> ExitCode {
    drive::main(&CLIENT, &[("bookworm", EVERYWHERE), ("trixie", EVERYWHERE), ("sid", EVERYWHERE)])
}

fn setup(pia: &Pia) -> Setup {
    variables(Setup::new().pia(pia))
}

/// Deluge gets each leased port, by TCP and UDP, and its random port is switched off. `check` changes nothing.
fn password(suite: &str) {
    let pia = Pia::start();
    let client = Deluge::start(suite, &Options::default());
    client.call("core.set_config", r#"[{"random_port":true}]"#);
    let setup = setup(&pia);
    let before = client.ports();
    let check = setup.run_once(&["check"]);
    assert!(client.ports() == before && check.code == Some(0), "check has changed something: {check:?}");
    let mut daemon = setup.run();
    wait_for_port(&mut daemon, &client, LEASED, SOON);
    wait_until_verified(&mut daemon, LEASED);
    wait_for_binds(&mut daemon, &pia, 3);
    daemon.expect_line("Deluge listens on port 47047; it does not report whether peers can reach it");
    change_port(&pia);
    wait_for_port(&mut daemon, &client, OTHER, LATER);
    wait_until_verified(&mut daemon, OTHER);
    assert_eq!(daemon.count_lines("Deluge: logged in"), 1, "{}", daemon.log());
    let random = client.call("core.get_config_value", r#"["random_port"]"#);
    assert!(random.contains(r#""result": false"#), "{random}");
    for process in [&client.daemon, &client.web] {
        assert_uses_own_libraries(process.id(), &drive::tree("deluge", suite));
    }
    end(daemon, &pia, PASSWORD);
    let check = setup.run_once(&["check"]);
    assert!(check.code == Some(0) && check.stdout.contains("ok   listener       yes"), "{check:?}");
}

/// A change by the user is corrected within one interval.
fn changed_by_user(suite: &str) {
    const INTERVAL: Duration = Duration::from_secs(4);
    let (pia, client) = (Pia::start(), Deluge::start(suite, &Options::default()));
    let mut daemon = setup(&pia).env("CHECK_INTERVAL", INTERVAL.as_secs().to_string()).run();
    wait_for_port(&mut daemon, &client, LEASED, SOON);
    wait_until_verified(&mut daemon, LEASED);
    for config in [format!(r#"[{{"listen_ports":[{OTHER},{OTHER}]}}]"#), r#"[{"random_port":true}]"#.to_owned()] {
        client.call("core.set_config", &config);
        wait_for_port(&mut daemon, &client, LEASED, 2 * INTERVAL);
    }
    end(daemon, &pia, PASSWORD);
}

/// After a restart of the web interface, with or without the stored session, the port is checked and corrected.
fn restarted(suite: &str) {
    let (pia, mut client) = (Pia::start(), Deluge::start(suite, &Options::default()));
    let mut daemon = setup(&pia).env("CHECK_INTERVAL", "2").run();
    wait_for_port(&mut daemon, &client, LEASED, SOON);
    wait_until_verified(&mut daemon, LEASED);
    client.restart_web();
    client.wait_for_connection();
    client.call("core.set_config", &format!(r#"[{{"listen_ports":[{OTHER},{OTHER}]}}]"#));
    wait_for_port(&mut daemon, &client, LEASED, LATER);
    wait_until_verified(&mut daemon, LEASED);
    end(daemon, &pia, PASSWORD);
}

/// After a restart of deluged the web interface does not reconnect automatically, and its calls would hang.
fn daemon_restarted(suite: &str) {
    let (pia, mut client) = (Pia::start(), Deluge::start(suite, &Options::default()));
    let mut daemon = setup(&pia).env("CHECK_INTERVAL", "2").run();
    wait_for_port(&mut daemon, &client, LEASED, SOON);
    wait_until_verified(&mut daemon, LEASED);
    client.stop_daemon();
    daemon.wait_for_line("check that deluged is running", LATER);
    wait_for_binds(&mut daemon, &pia, 2);
    client.start_daemon();
    wait_for_port(&mut daemon, &client, LEASED, Duration::from_secs(45));
    daemon.wait_for_line("the web interface is now connected to the daemon", LATER);
    wait_until_verified(&mut daemon, LEASED);
    end(daemon, &pia, PASSWORD);
}

/// Without a default daemon the web interface starts without a connection.
fn unconnected(suite: &str) {
    let (pia, client) = (Pia::start(), Deluge::start(suite, &Options { connects: false, ..Options::default() }));
    let mut daemon = setup(&pia).run();
    wait_for_port(&mut daemon, &client, LEASED, SOON);
    wait_until_verified(&mut daemon, LEASED);
    assert_eq!(daemon.count_lines("ERROR"), 0, "{}", daemon.log());
    end(daemon, &pia, PASSWORD);
}

/// A wrong password is tried once, and the port stays bound.
fn wrong_password(suite: &str) {
    let (pia, client) = (Pia::start(), Deluge::start(suite, &Options::default()));
    let mut daemon = setup(&pia).env("DELUGE_PASSWORD", "not the password").run();
    let line = daemon.expect_line("ERROR");
    assert!(line.contains("DELUGE_PASSWORD"), "{line}");
    wait_for_binds(&mut daemon, &pia, 3);
    daemon.reload();
    wait_for_binds(&mut daemon, &pia, 2);
    assert_eq!(daemon.count_lines("POST /json"), 1, "{}", daemon.log());
    assert_eq!(client.ports()[0], BTreeSet::from([FIRST]));
    end(daemon, &pia, PASSWORD);
    let mut daemon = setup(&pia).run();
    wait_for_port(&mut daemon, &client, LEASED, SOON);
    end(daemon, &pia, PASSWORD);
}

/// While a different program uses the leased port, libtorrent would silently listen on the next one.
fn port_taken(suite: &str) {
    let (pia, client) = (Pia::start(), Deluge::start(suite, &Options::default()));
    let other_program = TcpListener::bind(("127.0.0.1", LEASED)).expect("the port is free");
    let mut daemon = setup(&pia).run();
    daemon.wait_for_line("another program listens on port 47047", SOON);
    let status = daemon.wait_for_problem("client");
    assert_eq!(status.client_verified_at, None, "{}", daemon.log());
    wait_for_binds(&mut daemon, &pia, 2);
    drop(other_program);
    wait_for_port(&mut daemon, &client, LEASED, Duration::from_secs(45));
    wait_until_verified(&mut daemon, LEASED);
    end(daemon, &pia, PASSWORD);
}

/// The leased port is configured already, but a different program uses it: libtorrent listens on the next one.
fn port_taken_before(suite: &str) {
    let pia = Pia::start();
    let other_program = TcpListener::bind(("127.0.0.1", LEASED)).expect("the port is free");
    let client = Deluge::start(suite, &Options { listen_port: LEASED, ..Options::default() });
    let mut daemon = setup(&pia).run();
    daemon.wait_for_line("another program listens on port 47047", SOON);
    assert_eq!(daemon.wait_for_problem("client").client_verified_at, None, "{}", daemon.log());
    drop(other_program);
    wait_for_port(&mut daemon, &client, LEASED, Duration::from_secs(45));
    wait_until_verified(&mut daemon, LEASED);
    end(daemon, &pia, PASSWORD);
}

/// PIA forwards IPv4 only.
fn ipv6_only(suite: &str) {
    let pia = Pia::start();
    let _client = Deluge::start(suite, &Options { interface: "::", listen_port: LEASED, ..Options::default() });
    let mut daemon = setup(&pia).run();
    // libtorrent counts IPv4 sockets only.
    let line = daemon.wait_for_line("port 47047 was set, but the client has 0", LATER);
    assert!(line.contains("ERROR"), "{line}");
    assert_eq!(daemon.wait_for_problem("client").client_verified_at, None, "{}", daemon.log());
    end(daemon, &pia, PASSWORD);
}

/// A different program uses the leased port by UDP alone. The kernel does not report the owner of that socket. The
/// client is reachable by TCP, so it must not be bounced again and again.
fn udp_taken(suite: &str) {
    let (pia, client) = (Pia::start(), Deluge::start(suite, &Options::default()));
    let _other_program = std::net::UdpSocket::bind(("127.0.0.1", LEASED)).expect("the port is free");
    let mut daemon = setup(&pia).run();
    daemon.wait_for_line("listens on port 47047", LATER);
    assert!(client.ports()[0].contains(&LEASED), "{:?}", client.ports());
    let calls = daemon.count_lines("POST /json");
    wait_for_binds(&mut daemon, &pia, 4);
    // Two calls for each check; a bounce makes four more.
    assert!(daemon.count_lines("POST /json") - calls <= 12, "{}", daemon.log());
    end(daemon, &pia, PASSWORD);
}

/// After the tunnel is recreated with the same address, its far end reaches Deluge again. libtorrent 2.0.8 keeps a dead
/// socket and still shows its port; other versions reopen theirs.
fn recreated_tunnel(suite: &str) {
    let start = || Deluge::start(suite, &Options { interface: "pialink", ..Options::default() });
    let check = |daemon: &mut Daemon| {
        if suite == "bookworm" {
            daemon.wait_for_line("reopened its socket on port 47047", SOON);
        }
    };
    follow_recreated_tunnel(start, setup, check, PASSWORD);
}

/// The leased port is announced to a tracker within seconds of the change.
fn trackers(suite: &str) {
    let (pia, client) = (Pia::start(), Deluge::start(suite, &Options::default()));
    let tracker = Tracker::start();
    let file = tracker.torrent(&client.profile);
    client.call("web.add_torrents", &format!(r#"[[{{"path":"{}","options":{{}}}}]]"#, file.display()));
    tracker.wait_for_announce(FIRST, LATER);
    let mut daemon = setup(&pia).run();
    daemon.wait_for_line("Deluge is announcing port 47047 to its trackers", LATER);
    tracker.wait_for_announce(LEASED, LATER);
    end(daemon, &pia, PASSWORD);
}
