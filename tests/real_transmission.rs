//! The daemon with real Transmissions of three Debian releases and the simulated PIA.

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, ExitCode};
use std::time::Duration;

use support::daemon::{Daemon, LATER, SOON, Setup};
use support::drive::{self, Client, Scenario, assert_uses_own_libraries, report_version, scenarios};
use support::link::{End, Quality};
use support::pia::Pia;
use support::real_client::{
    FIRST, LEASED, OTHER, RealClient, Tracker, beyond, change_port, end, ends, follow_recreated_tunnel, output_of,
    reaches, spawn, stop, wait_for_binds, wait_for_port, wait_for_start, wait_until_verified,
};
use support::{TempDir, netns, wait_until};

/// Port of the RPC interface.
const RPC_PORT: u16 = 9091;
/// Arguments before the profile.
const ARGUMENTS: [&str; 2] = ["--foreground", "--config-dir"];
const USERNAME: &str = "tester";
const PASSWORD: &str = "p:ss=%+ wörd\"\\";

const CLIENT: Client = Client { name: "Transmission", program: "transmission-daemon" };
const EVERYWHERE: &[Scenario] = scenarios!(password no_password changed_by_user restarted wrong_password not_listed port_taken taken_from_a_random_port taken_from_a_forwarding_client taken_before_the_start ipv6_only address_late recreated_tunnel);

fn main() -> ExitCode {
    let also = |more: &[Scenario]| [EVERYWHERE, more].concat();
    drive::main(
        &CLIENT,
        &[
            ("bookworm", &also(scenarios!(locked trackers))),
            ("trixie", EVERYWHERE),
            ("sid", &also(scenarios!(trackers))),
        ],
    )
}

/// Configuration of a Transmission.
struct Options {
    listen_port: u16,
    /// Addresses on which it listens for peers.
    address: &'static str,
    address6: &'static str,
    password: bool,
    /// It asks the router for a port of its own.
    forwarding: bool,
    /// Additional lines of settings, each with a comma at its end.
    more: &'static str,
}

impl Default for Options {
    fn default() -> Self {
        Self { listen_port: FIRST, address: "127.0.0.1", address6: "::1", password: true, forwarding: false, more: "" }
    }
}

/// A running Transmission with a profile of its own; killed and waited for when dropped.
struct Transmission {
    program: PathBuf,
    profile: TempDir,
    child: Child,
    password: bool,
}

impl Transmission {
    /// Starts a Transmission in the namespace of this process.
    fn start(suite: &str, options: &Options) -> Self {
        let program = drive::program("transmission", suite, "transmission-daemon").expect("an unpacked suite");
        let version = Command::new(&program).arg("--version").output().expect("transmission-daemon");
        let version = [version.stdout, version.stderr].concat();
        let version = String::from_utf8_lossy(&version);
        report_version(version.split_whitespace().nth(1).expect("a version"));
        let profile = TempDir::new();
        let text = |text: &str| miniserde::json::to_string(text);
        let settings = format!(
            r#"{{{more}
                "rpc-enabled": true, "rpc-port": {RPC_PORT}, "rpc-bind-address": "127.0.0.1",
                "rpc-authentication-required": {auth}, "rpc-username": {username}, "rpc-password": {password},
                "peer-port": {port}, "bind-address-ipv4": "{address}", "bind-address-ipv6": "{address6}",
                "dht-enabled": false, "lpd-enabled": false, "pex-enabled": false,
                "port-forwarding-enabled": {forwarding}, "download-dir": {downloads}
            }}"#,
            more = options.more,
            auth = options.password,
            forwarding = options.forwarding,
            username = text(USERNAME),
            password = text(PASSWORD),
            port = options.listen_port,
            address = options.address,
            address6 = options.address6,
            downloads = text(&profile.path().display().to_string()),
        );
        fs::write(profile.path().join("settings.json"), settings).expect("settings");
        let child = spawn(&program, &ARGUMENTS, &profile);
        wait_for_start(&child, RPC_PORT, &profile);
        Self { program, profile, child, password: options.password }
    }

    fn pid(&self) -> u32 {
        self.child.id()
    }

    fn stop(&mut self) {
        stop(&mut self.child);
    }

    fn start_again(&mut self) {
        self.child = spawn(&self.program, &ARGUMENTS, &self.profile);
        wait_for_start(&self.child, RPC_PORT, &self.profile);
    }

    fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Makes a call in the old protocol, as other programs do; returns the reply.
    fn call(&self, method: &str, arguments: &str) -> String {
        let body = format!(r#"{{"method":"{method}","arguments":{arguments}}}"#);
        let head = self.curl(&["--include", "--data", "{}"]);
        let session = head.lines().find(|line| line.to_lowercase().starts_with("x-transmission-session-id"));
        let reply = self.curl(&["--header", session.expect("a session").trim(), "--data", &body]);
        assert!(reply.contains(r#""result":"success""#), "{reply}");
        reply
    }

    fn curl(&self, options: &[&str]) -> String {
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--show-error", "--max-time", "60", "--noproxy", "*"]);
        if self.password {
            curl.arg("--user").arg(format!("{USERNAME}:{PASSWORD}"));
        }
        let url = format!("http://127.0.0.1:{RPC_PORT}/transmission/rpc");
        let output = curl.args(options).arg(url).output().expect("curl");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

impl RealClient for Transmission {
    fn name(&self) -> &'static str {
        "Transmission"
    }

    fn ports(&self) -> [BTreeSet<u16>; 2] {
        let mut tcp = netns::ports_of(self.pid());
        tcp.remove(&RPC_PORT);
        [tcp, netns::udp_ports_of(self.pid())]
    }

    fn output(&self) -> String {
        output_of(&self.profile)
    }
}

impl Drop for Transmission {
    fn drop(&mut self) {
        self.kill();
    }
}

fn anonymous(pia: &Pia) -> Setup {
    let url = format!("http://127.0.0.1:{RPC_PORT}");
    Setup::new().pia(pia).env("TORRENT_CLIENT", "transmission").env("TRANSMISSION_HOST", url)
}

fn setup(pia: &Pia) -> Setup {
    anonymous(pia).env("TRANSMISSION_USERNAME", USERNAME).env("TRANSMISSION_PASSWORD", PASSWORD)
}

/// Transmission gets each leased port, by TCP and UDP; settings that would change it again are switched off.
fn password(suite: &str) {
    let pia = Pia::start();
    let mut client = Transmission::start(suite, &Options::default());
    client.call("session-set", r#"{"peer-port-random-on-start":true,"dht-enabled":true}"#);
    let mut daemon = setup(&pia).run();
    wait_for_port(&mut daemon, &client, LEASED, SOON);
    wait_until_verified(&mut daemon, LEASED);
    wait_for_binds(&mut daemon, &pia, 3);
    let sessions = daemon.log().matches("HTTP 409").count();
    assert_eq!(sessions, 1, "{}", daemon.log());
    daemon.expect_line("Transmission listens on port 47047; it does not report whether peers can reach it");

    change_port(&pia);
    wait_for_port(&mut daemon, &client, OTHER, LATER);
    wait_until_verified(&mut daemon, OTHER);
    let settings = client.call("session-get", "{}");
    assert!(settings.contains(r#""peer-port-random-on-start":false"#), "{settings}");
    // The daemon may switch DHT off and on to move the UDP socket.
    assert!(settings.contains(r#""dht-enabled":true"#), "{settings}");
    assert_uses_own_libraries(client.pid(), &drive::tree("transmission", suite));
    end(daemon, &pia, PASSWORD);
    client.stop();
    client.start_again();
    let wanted = [BTreeSet::from([OTHER]), BTreeSet::from([OTHER])];
    assert!(wait_until(SOON, || client.ports() == wanted), "not kept over a restart: {:?}", client.ports());
}

/// Without credentials, if none are needed; `check` and `once` as well.
fn no_password(suite: &str) {
    let pia = Pia::start();
    let client = Transmission::start(suite, &Options { password: false, ..Options::default() });
    let setup = anonymous(&pia);
    let check = setup.run_once(&["check"]);
    assert!(
        client.ports()[0] == BTreeSet::from([FIRST]) && check.code == Some(0),
        "check has changed something: {check:?}"
    );
    assert!(check.stdout.contains("the service will set it"), "{check:?}");
    setup.run_until_success(&["once"]);
    assert_eq!(client.ports(), [BTreeSet::from([LEASED]), BTreeSet::from([LEASED])]);
    let check = setup.run_once(&["check"]);
    assert!(check.code == Some(0) && check.stdout.contains("ok   listener       yes"), "{check:?}");
}

/// A change by the user is corrected within one interval.
fn changed_by_user(suite: &str) {
    const INTERVAL: Duration = Duration::from_secs(4);
    let (pia, client) = (Pia::start(), Transmission::start(suite, &Options::default()));
    let mut daemon = setup(&pia).env("CHECK_INTERVAL", INTERVAL.as_secs().to_string()).run();
    wait_for_port(&mut daemon, &client, LEASED, SOON);
    wait_until_verified(&mut daemon, LEASED);
    client.call("session-set", &format!(r#"{{"peer-port":{OTHER}}}"#));
    wait_for_port(&mut daemon, &client, LEASED, INTERVAL + Duration::from_secs(4));
    client.call("session-set", r#"{"peer-port-random-on-start":true}"#);
    let off =
        wait_until(2 * INTERVAL, || client.call("session-get", "{}").contains(r#""peer-port-random-on-start":false"#));
    assert!(off, "{}", daemon.log());
    wait_for_port(&mut daemon, &client, LEASED, SOON);
    end(daemon, &pia, PASSWORD);
}

/// A killed Transmission loses its sessions and the port; the daemon starts a new session and sets the port again.
fn restarted(suite: &str) {
    let (pia, mut client) = (Pia::start(), Transmission::start(suite, &Options::default()));
    let mut daemon = setup(&pia).env("CHECK_INTERVAL", "3").run();
    wait_for_port(&mut daemon, &client, LEASED, SOON);
    wait_until_verified(&mut daemon, LEASED);
    client.kill();
    daemon.wait_for_problem("client");
    client.start_again();
    wait_for_port(&mut daemon, &client, LEASED, LATER);
    wait_until_verified(&mut daemon, LEASED);
    end(daemon, &pia, PASSWORD);
}

/// A wrong password is tried once, so Transmission locks nothing, and the port stays bound.
fn wrong_password(suite: &str) {
    let (pia, client) = (Pia::start(), Transmission::start(suite, &Options::default()));
    let mut daemon = setup(&pia).env("TRANSMISSION_PASSWORD", "not the password").run();
    let line = daemon.expect_line("ERROR");
    assert!(line.contains("correct TRANSMISSION_USERNAME and TRANSMISSION_PASSWORD"), "{line}");
    wait_for_binds(&mut daemon, &pia, 3);
    daemon.reload();
    wait_for_binds(&mut daemon, &pia, 2);
    assert_eq!(daemon.count_lines("HTTP 401"), 1, "{}", daemon.log());
    assert_eq!(client.ports()[0], BTreeSet::from([FIRST]));
    end(daemon, &pia, PASSWORD);

    let mut daemon = anonymous(&pia).run();
    let line = daemon.expect_line("ERROR");
    assert!(line.contains("set TRANSMISSION_USERNAME and TRANSMISSION_PASSWORD"), "{line}");
    end(daemon, &pia, PASSWORD);

    let mut daemon = setup(&pia).run();
    wait_for_port(&mut daemon, &client, LEASED, SOON);
    end(daemon, &pia, PASSWORD);
}

/// After a hundred failed logins, from any address, 3.00 rejects every login until it is restarted.
fn locked(suite: &str) {
    let (pia, mut client) = (Pia::start(), Transmission::start(suite, &Options::default()));
    let url = format!("http://127.0.0.1:{RPC_PORT}/transmission/rpc");
    let script = format!("for i in $(seq 101); do curl -s -o /dev/null --noproxy '*' -d '{{}}' {url}; done");
    assert!(Command::new("sh").args(["-c", &script]).status().is_ok_and(|status| status.success()));
    let mut daemon = setup(&pia).run();
    let line = daemon.expect_line("ERROR");
    assert!(line.contains("too many failed logins") && line.contains("restart Transmission"), "{line}");
    wait_for_binds(&mut daemon, &pia, 3);
    assert_eq!(daemon.count_lines("POST /transmission/rpc"), 1, "{}", daemon.log());
    end(daemon, &pia, PASSWORD);
    client.stop();
    client.start_again();
    // The old STATE_DIR records that these credentials were rejected, which delays the next attempt.
    let state = TempDir::new();
    let mut daemon = setup(&pia).env("STATE_DIR", state.path().display().to_string()).run();
    wait_for_port(&mut daemon, &client, LEASED, LATER);
    end(daemon, &pia, PASSWORD);
}

/// Our address is not in `rpc-whitelist`.
fn not_listed(suite: &str) {
    let pia = Pia::start();
    let more = r#""rpc-whitelist": "10.0.0.1", "rpc-whitelist-enabled": true,"#;
    let _client = Transmission::start(suite, &Options { more, ..Options::default() });
    let check = setup(&pia).run_once(&["check"]);
    assert!(check.stdout.contains("add our address to 'rpc-whitelist'"), "{check:?}");
}

/// While a different program uses the leased port, Transmission would accept it without an error.
fn port_taken(suite: &str) {
    let (pia, client) = (Pia::start(), Transmission::start(suite, &Options::default()));
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

/// A different program uses the leased port while Transmission, with these options, accepts it without an error.
#[track_caller]
fn taken(suite: &str, options: &Options) {
    let pia = Pia::start();
    let other_program = TcpListener::bind(("127.0.0.1", LEASED)).expect("the port is free");
    let client = Transmission::start(suite, options);
    let setup = setup(&pia);
    let once = setup.run_once(&["once"]);
    assert_ne!(once.code, Some(0), "{once:?}");
    let mut daemon = setup.run();
    daemon.wait_for_line("another program listens on port 47047", LATER);
    assert_eq!(daemon.wait_for_problem("client").client_verified_at, None, "{}", daemon.log());
    wait_for_binds(&mut daemon, &pia, 2);
    drop(other_program);
    wait_for_port(&mut daemon, &client, LEASED, Duration::from_secs(45));
    wait_until_verified(&mut daemon, LEASED);
    end(daemon, &pia, PASSWORD);
}

fn taken_from_a_random_port(suite: &str) {
    taken(suite, &Options { more: r#""peer-port-random-on-start": true,"#, ..Options::default() });
}

/// It asks the router for the port, and there is no router in this namespace.
fn taken_from_a_forwarding_client(suite: &str) {
    taken(suite, &Options { forwarding: true, ..Options::default() });
}

/// The leased port is in the settings already.
fn taken_before_the_start(suite: &str) {
    taken(suite, &Options { listen_port: LEASED, ..Options::default() });
}

/// The tunnel returns with a different address. Transmission's socket for IPv4 stays on the old one, and its socket for all
/// IPv6 addresses accepts no IPv4.
fn ipv6_only(suite: &str) {
    let (_far_end, own, gateway) = ends();
    let link = drive::link(own, gateway, Quality::default());
    let options = Options { address: "10.10.229.5", address6: "::", ..Options::default() };
    let _running = Transmission::start(suite, &options);
    let (pia, setup) = beyond(gateway, setup);
    let mut daemon = setup.run();
    wait_until_verified(&mut daemon, LEASED);
    let healthy = || setup.run_once(&["healthcheck"]).code == Some(0);
    assert!(wait_until(SOON, healthy), "{}", daemon.log());
    drop(link);
    let elsewhere = End { address: [10, 10, 240, 77].into(), ..own };
    let _back = drive::link(elsewhere, gateway, Quality::default());
    daemon.wait_for_line("tunnel changed", SOON);
    let reported = daemon.wait_for_line("ERROR client socket: ", LATER);
    assert!(reported.contains("has no live socket") || reported.contains("listens on IPv6 only"), "{reported}");
    assert!(!healthy(), "{}", daemon.log());
    assert!(!reaches(gateway, elsewhere));
    end(daemon, &pia, PASSWORD);
}

/// Transmission started before the tunnel with the tunnel's address: its settings are right, but it does not listen.
fn address_late(suite: &str) {
    let (_far_end, own, gateway) = ends();
    let options = Options { listen_port: LEASED, address: "10.10.229.5", ..Options::default() };
    let client = Transmission::start(suite, &options);
    let _link = drive::link(own, gateway, Quality::default());
    assert!(!client.ports()[0].contains(&LEASED) || !reaches(gateway, own), "Transmission listens already");
    let (pia, setup) = beyond(gateway, setup);
    let mut daemon = setup.run();
    assert!(wait_until(SOON, || reaches(gateway, own)), "{:?}\n{}", client.ports(), daemon.log());
    wait_until_verified(&mut daemon, LEASED);
    end(daemon, &pia, PASSWORD);
}

/// After the tunnel is recreated with the same address nothing has to be reopened, because Transmission binds to no
/// device.
fn recreated_tunnel(suite: &str) {
    let start = || Transmission::start(suite, &Options { address: "10.10.229.5", ..Options::default() });
    let check = |daemon: &mut Daemon| assert_eq!(daemon.count_lines("reopened its socket"), 0, "{}", daemon.log());
    follow_recreated_tunnel(start, setup, check, PASSWORD);
}

/// A new port is announced to a tracker within seconds, unless the last announce is more recent than the tracker's
/// minimum interval, here a second: 4.1 drops such announces, and 4.1.0-beta.2 drops all of them.
fn trackers(suite: &str) {
    let (pia, client) = (Pia::start(), Transmission::start(suite, &Options::default()));
    let tracker = Tracker::start();
    let file = tracker.torrent(&client.profile);
    client.call("torrent-add", &format!(r#"{{"filename":"{}"}}"#, file.display()));
    tracker.wait_for_announce(FIRST, LATER);
    let mut daemon = setup(&pia).run();
    daemon.wait_for_line("Transmission is announcing port 47047 to its trackers", LATER);
    wait_for_binds(&mut daemon, &pia, 3);
    change_port(&pia);
    tracker.wait_for_announce(OTHER, LATER);
    end(daemon, &pia, PASSWORD);
}
