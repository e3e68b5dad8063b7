//! The daemon with real Deluges (deluged and deluge-web) of three Debian releases and the simulated PIA.

mod support;

use std::collections::BTreeSet;
use std::net::TcpListener;
use std::process::{Child, Command, ExitCode};
use std::time::Duration;

use ring::digest;
use support::daemon::{Daemon, LATER, SOON, Setup};
use support::drive::{self, Client, Scenario, assert_uses_own_libraries, report_version, scenarios};
use support::pia::Pia;
use support::real_client::{
    FIRST, LEASED, OTHER, RealClient, Tracker, change_port, end, follow_recreated_tunnel, output_of, spawn, stop,
    wait_for_binds, wait_for_port, wait_for_start, wait_until_verified,
};
use support::{TempDir, netns, wait_until};

/// Ports of the web interface and of the daemon behind it.
const WEB_PORT: u16 = 8112;
const DAEMON_PORT: u16 = 58_846;
const PASSWORD: &str = "p&ss=%+ wörd\"\\";
/// In the reply to a call that succeeded.
const NO_ERROR: &str = r#""error": null"#;
/// ID of the daemon in the web interface.
const HOST: &str = "00000000000000000000000000000001";
/// Password with which the web interface logs in at the daemon.
const LOCAL: &str = "a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1";

const CLIENT: Client = Client { name: "Deluge", program: "deluge-web" };
const EVERYWHERE: &[Scenario] = scenarios!(password changed_by_user restarted daemon_restarted unconnected wrong_password port_taken udp_taken recreated_tunnel trackers);

fn main() -> ExitCode {
    drive::main(&CLIENT, &[("bookworm", EVERYWHERE), ("trixie", EVERYWHERE), ("sid", EVERYWHERE)])
}

/// Configuration of a Deluge.
struct Options {
    /// Address or device on which it listens for peers.
    interface: &'static str,
    /// The web interface connects to the daemon at its start.
    connects: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { interface: "127.0.0.1", connects: true }
    }
}

/// A running Deluge with a profile of its own; killed and waited for when dropped.
struct Deluge {
    suite: String,
    profile: TempDir,
    daemon: Child,
    web: Child,
}

impl Deluge {
    /// Starts a Deluge in the namespace of this process.
    fn start(suite: &str, options: &Options) -> Self {
        let program = drive::program("deluge", suite, "deluged").expect("an unpacked suite");
        let version = Command::new(&program).arg("--version").output().expect("deluged");
        let version = String::from_utf8_lossy(&version.stdout).into_owned();
        report_version(version.split_whitespace().nth(1).expect("a version"));
        let profile = TempDir::new();
        configure(&profile, options);
        let daemon = spawn_daemon(suite, &profile);
        wait_for_start(&daemon, DAEMON_PORT, &profile);
        let web = spawn_web(suite, &profile);
        wait_for_start(&web, WEB_PORT, &profile);
        let client = Self { suite: suite.to_owned(), profile, daemon, web };
        if options.connects {
            client.wait_for_connection();
        }
        client
    }

    /// Until the web interface has connected to the daemon, and asked it for its methods, a core call is an 'Unknown method'.
    #[track_caller]
    fn wait_for_connection(&self) {
        let answers = || self.reply("core.get_listen_port", "[]").contains(NO_ERROR);
        assert!(wait_until(SOON, answers), "{}", self.output());
    }

    fn stop_daemon(&mut self) {
        stop(&mut self.daemon);
    }

    fn start_daemon(&mut self) {
        self.daemon = spawn_daemon(&self.suite, &self.profile);
        wait_for_start(&self.daemon, DAEMON_PORT, &self.profile);
    }

    fn restart_web(&mut self) {
        stop(&mut self.web);
        self.web = spawn_web(&self.suite, &self.profile);
        wait_for_start(&self.web, WEB_PORT, &self.profile);
    }

    /// Makes a call as the web interface's own pages do, in a session of the test's own.
    #[track_caller]
    fn call(&self, method: &str, params: &str) -> String {
        let reply = self.reply(method, params);
        assert!(reply.contains(NO_ERROR), "{reply}");
        reply
    }

    fn reply(&self, method: &str, params: &str) -> String {
        let jar = self.profile.path().join("cookies");
        let ask = |method: &str, params: &str| {
            let body = format!(r#"{{"method":"{method}","params":{params},"id":1}}"#);
            let output = Command::new("curl")
                .args(["--silent", "--show-error", "--max-time", "60", "--noproxy", "*"])
                .args(["--header", "Content-Type: application/json", "--data", &body, "--cookie-jar"])
                .arg(&jar)
                .arg("--cookie")
                .arg(&jar)
                .arg(format!("http://127.0.0.1:{WEB_PORT}/json"))
                .output()
                .expect("curl");
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            String::from_utf8_lossy(&output.stdout).into_owned()
        };
        if !jar.exists() {
            let login = ask("auth.login", &miniserde::json::to_string(&[PASSWORD][..]));
            assert!(login.contains("true"), "{login}");
        }
        ask(method, params)
    }
}

impl RealClient for Deluge {
    fn name(&self) -> &'static str {
        "Deluge"
    }

    fn ports(&self) -> [BTreeSet<u16>; 2] {
        let pid = self.daemon.id();
        let mut tcp = netns::ports_of(pid);
        tcp.remove(&DAEMON_PORT);
        let mut udp = netns::udp_ports_of(pid);
        // libtorrent's requests to routers use ephemeral ports.
        udp.retain(|port| [FIRST, LEASED, OTHER].contains(port));
        [tcp, udp]
    }

    fn output(&self) -> String {
        output_of(&self.profile)
    }
}

impl Drop for Deluge {
    fn drop(&mut self) {
        for child in [&mut self.web, &mut self.daemon] {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn configure(profile: &TempDir, options: &Options) {
    let hash = digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, format!("salt{PASSWORD}").as_bytes());
    let hash = hash.as_ref().iter().fold(String::new(), |hex, byte| format!("{hex}{byte:02x}"));
    let two = |file: u8, format: u8| format!(r#"{{"file": {file}, "format": {format}}}"#);
    let downloads = miniserde::json::to_string(&profile.path().display().to_string());
    let core = format!(
        r#"{{"daemon_port": {DAEMON_PORT}, "listen_ports": [{FIRST}, {FIRST}], "random_port": false,
            "listen_interface": "{}", "upnp": false, "natpmp": false, "dht": false, "lsd": false, "utpex": false,
            "new_release_check": false, "send_info": false, "download_location": {downloads}}}"#,
        options.interface
    );
    let web = format!(
        r#"{{"port": {WEB_PORT}, "interface": "127.0.0.1", "https": false, "pwd_salt": "salt", "pwd_sha1": "{hash}",
            "default_daemon": "{}", "first_login": false, "sessions": {{}}}}"#,
        if options.connects { HOST } else { "" }
    );
    let hosts = format!(r#"{{"hosts": [["{HOST}", "127.0.0.1", {DAEMON_PORT}, "localclient", "{LOCAL}"]]}}"#);
    profile.write("core.conf", format!("{}{core}", two(1, 1)));
    profile.write("web.conf", format!("{}{web}", two(2, 1)));
    profile.write("hostlist.conf", format!("{}{hosts}", two(3, 1)));
    profile.write("auth", format!("localclient:{LOCAL}:10\n"));
}

fn spawn_daemon(suite: &str, profile: &TempDir) -> Child {
    let port = DAEMON_PORT.to_string();
    start_program(suite, profile, "deluged", &["--ui-interface", "127.0.0.1", "--port", &port])
}

fn spawn_web(suite: &str, profile: &TempDir) -> Child {
    start_program(suite, profile, "deluge-web", &[])
}

fn start_program(suite: &str, profile: &TempDir, program: &str, more: &[&str]) -> Child {
    let program = drive::program("deluge", suite, program).expect("an unpacked suite");
    spawn(&program, &[more, &["--do-not-daemonize", "--loglevel", "info", "--config"]].concat(), profile)
}

fn setup(pia: &Pia) -> Setup {
    let url = format!("http://127.0.0.1:{WEB_PORT}");
    Setup::new().pia(pia).env("TORRENT_CLIENT", "deluge").env("DELUGE_HOST", url).env("DELUGE_PASSWORD", PASSWORD)
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

/// While a different program uses the leased port, libtorrent silently listens on the next one, and stays there.
fn port_taken(suite: &str) {
    let (pia, client) = (Pia::start(), Deluge::start(suite, &Options::default()));
    let other_program = TcpListener::bind(("127.0.0.1", LEASED)).expect("the port is free");
    let mut daemon = setup(&pia).run();
    daemon.wait_for_line("port 47047 was set, but the client has 47048", SOON);
    let status = daemon.wait_for_problem("client");
    assert_eq!(status.client_verified_at, None, "{}", daemon.log());
    wait_for_binds(&mut daemon, &pia, 2);
    drop(other_program);
    wait_for_port(&mut daemon, &client, LEASED, Duration::from_secs(45));
    wait_until_verified(&mut daemon, LEASED);
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
