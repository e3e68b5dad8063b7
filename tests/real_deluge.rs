//! The real daemon, driven against real Deluges (deluged and deluge-web) of three Debian releases and the simulated PIA.

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
    FIRST, LEASED, OTHER, RealClient, Tracker, change_port, end, follow_a_new_tunnel, output_of, see_binds, see_port,
    see_verified, spawn, stop, wait_for,
};
use support::{TempDir, netns, wait_until};

/// Of the web interface, and of the daemon behind it.
const WEB_PORT: u16 = 8112;
const DAEMON_PORT: u16 = 58_846;
const PASSWORD: &str = "p&ss=%+ wörd\"\\";
/// The daemon's id in the web interface.
const HOST: &str = "00000000000000000000000000000001";
/// The web interface's user at the daemon, who is made up here.
const LOCAL: &str = "a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1";

const CLIENT: Client = Client { name: "Deluge", program: "deluge-web" };
const EVERYWHERE: &[Scenario] = scenarios!(password changed_by_user restarted daemon_restarted unconnected wrong_password port_taken udp_taken recreated_tunnel trackers);

fn main() -> ExitCode {
    drive::main(&CLIENT, &[("bookworm", EVERYWHERE), ("trixie", EVERYWHERE), ("sid", EVERYWHERE)])
}

/// How a Deluge is to be configured.
struct Options {
    /// Where it listens for peers: an address or a device.
    interface: &'static str,
    /// The web interface connects to the daemon when it starts.
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
    /// In the namespace of this process.
    fn start(suite: &str, options: &Options) -> Self {
        let program = drive::program("deluge", suite, "deluged").expect("a suite that is there");
        let version = Command::new(&program).arg("--version").output().expect("deluged");
        let version = String::from_utf8_lossy(&version.stdout).into_owned();
        report_version(version.split_whitespace().nth(1).expect("a version"));
        let profile = TempDir::new();
        configure(&profile, options);
        let daemon = spawn_daemon(suite, &profile);
        wait_for(&daemon, DAEMON_PORT, &profile);
        let web = spawn_web(suite, &profile);
        wait_for(&web, WEB_PORT, &profile);
        Self { suite: suite.to_owned(), profile, daemon, web }
    }

    fn stop_daemon(&mut self) {
        stop(&mut self.daemon);
    }

    fn start_daemon(&mut self) {
        self.daemon = spawn_daemon(&self.suite, &self.profile);
        wait_for(&self.daemon, DAEMON_PORT, &self.profile);
    }

    fn restart_web(&mut self) {
        stop(&mut self.web);
        self.web = spawn_web(&self.suite, &self.profile);
        wait_for(&self.web, WEB_PORT, &self.profile);
    }

    /// A call as its own pages make it, in a session of the test's.
    fn call(&self, method: &str, params: &str) -> String {
        let jar = self.profile.path().join("cookies");
        let ask = |method: &str, params: &str| {
            let body = format!(r#"{{"method":"{method}","params":{params},"id":1}}"#);
            let output = Command::new("curl")
                .args(["--silent", "--show-error", "--max-time", "20", "--noproxy", "*"])
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
        let reply = ask(method, params);
        assert!(reply.contains(r#""error": null"#), "{reply}");
        reply
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
        // What libtorrent asks routers from has a port of the kernel's choice.
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
    let program = drive::program("deluge", suite, program).expect("a suite that is there");
    spawn(&program, &[more, &["--do-not-daemonize", "--loglevel", "info", "--config"]].concat(), profile)
}

fn setup(pia: &Pia) -> Setup {
    let url = format!("http://127.0.0.1:{WEB_PORT}");
    Setup::new().pia(pia).env("TORRENT_CLIENT", "deluge").env("DELUGE_HOST", url).env("DELUGE_PASSWORD", PASSWORD)
}

/// The port is followed, also to the next one, by TCP and UDP; a random one is switched off. `check` changes nothing.
fn password(suite: &str) {
    let pia = Pia::start();
    let client = Deluge::start(suite, &Options::default());
    client.call("core.set_config", r#"[{"random_port":true}]"#);
    let setup = setup(&pia);
    let before = client.ports();
    let check = setup.run_once(&["check"]);
    assert!(client.ports() == before && check.code == Some(0), "changes nothing: {check:?}");
    let mut daemon = setup.run();
    see_port(&mut daemon, &client, LEASED, SOON);
    see_verified(&mut daemon, LEASED);
    see_binds(&mut daemon, &pia, 3);
    daemon.see("Deluge listens on port 47047; whether peers reach it, it does not say");
    change_port(&pia);
    see_port(&mut daemon, &client, OTHER, LATER);
    see_verified(&mut daemon, OTHER);
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

/// A change by somebody else is put right within one interval.
fn changed_by_user(suite: &str) {
    const INTERVAL: Duration = Duration::from_secs(4);
    let (pia, client) = (Pia::start(), Deluge::start(suite, &Options::default()));
    let mut daemon = setup(&pia).env("CHECK_INTERVAL", INTERVAL.as_secs().to_string()).run();
    see_port(&mut daemon, &client, LEASED, SOON);
    see_verified(&mut daemon, LEASED);
    for config in [format!(r#"[{{"listen_ports":[{OTHER},{OTHER}]}}]"#), r#"[{"random_port":true}]"#.to_owned()] {
        client.call("core.set_config", &config);
        see_port(&mut daemon, &client, LEASED, 2 * INTERVAL);
    }
    end(daemon, &pia, PASSWORD);
}

/// A restart of the web interface: sessions are kept on disk, and whether this one is or not, the port is looked at.
fn restarted(suite: &str) {
    let (pia, mut client) = (Pia::start(), Deluge::start(suite, &Options::default()));
    let mut daemon = setup(&pia).env("CHECK_INTERVAL", "2").run();
    see_port(&mut daemon, &client, LEASED, SOON);
    see_verified(&mut daemon, LEASED);
    client.restart_web();
    assert!(wait_until(SOON, || client.call("web.connected", "[]").contains("true")), "{}", client.output());
    client.call("core.set_config", &format!(r#"[{{"listen_ports":[{OTHER},{OTHER}]}}]"#));
    see_port(&mut daemon, &client, LEASED, LATER);
    see_verified(&mut daemon, LEASED);
    end(daemon, &pia, PASSWORD);
}

/// The daemon is restarted, and the web interface does not connect to it again by itself: its calls would hang.
fn daemon_restarted(suite: &str) {
    let (pia, mut client) = (Pia::start(), Deluge::start(suite, &Options::default()));
    let mut daemon = setup(&pia).env("CHECK_INTERVAL", "2").run();
    see_port(&mut daemon, &client, LEASED, SOON);
    see_verified(&mut daemon, LEASED);
    client.stop_daemon();
    daemon.wait_for_line("check that deluged runs", LATER);
    see_binds(&mut daemon, &pia, 2);
    client.start_daemon();
    see_port(&mut daemon, &client, LEASED, Duration::from_secs(45));
    daemon.wait_for_line("its web interface has connected to the daemon", LATER);
    see_verified(&mut daemon, LEASED);
    end(daemon, &pia, PASSWORD);
}

/// Without a default daemon the web interface starts unconnected.
fn unconnected(suite: &str) {
    let (pia, client) = (Pia::start(), Deluge::start(suite, &Options { connects: false, ..Options::default() }));
    let mut daemon = setup(&pia).run();
    see_port(&mut daemon, &client, LEASED, SOON);
    see_verified(&mut daemon, LEASED);
    assert_eq!(daemon.count_lines("ERROR"), 0, "{}", daemon.log());
    end(daemon, &pia, PASSWORD);
}

/// One failed login is enough: the port stays bound.
fn wrong_password(suite: &str) {
    let (pia, client) = (Pia::start(), Deluge::start(suite, &Options::default()));
    let mut daemon = setup(&pia).env("DELUGE_PASSWORD", "not the password").run();
    let line = daemon.see("ERROR");
    assert!(line.contains("correct DELUGE_PASSWORD"), "{line}");
    see_binds(&mut daemon, &pia, 3);
    daemon.hang_up();
    see_binds(&mut daemon, &pia, 2);
    assert_eq!(daemon.count_lines("POST /json"), 1, "{}", daemon.log());
    assert_eq!(client.ports()[0], BTreeSet::from([FIRST]));
    end(daemon, &pia, PASSWORD);
    let mut daemon = setup(&pia).run();
    see_port(&mut daemon, &client, LEASED, SOON);
    end(daemon, &pia, PASSWORD);
}

/// Another program has the leased port at first: libtorrent takes the next one and says nothing, and stays there.
fn port_taken(suite: &str) {
    let (pia, client) = (Pia::start(), Deluge::start(suite, &Options::default()));
    let other_program = TcpListener::bind(("127.0.0.1", LEASED)).expect("the port is free");
    let mut daemon = setup(&pia).run();
    daemon.wait_for_line("port 47047 was set, 47048 is what it has; look for another program", SOON);
    let status = daemon.wait_for_problem("client");
    assert_eq!(status.client_verified_at, None, "{}", daemon.log());
    see_binds(&mut daemon, &pia, 2);
    drop(other_program);
    see_port(&mut daemon, &client, LEASED, Duration::from_secs(45));
    see_verified(&mut daemon, LEASED);
    end(daemon, &pia, PASSWORD);
}

/// Another program has the leased port by UDP alone. Whose socket that is the kernel does not say: it is reached by TCP, and nothing is
/// done about it again and again.
fn udp_taken(suite: &str) {
    let (pia, client) = (Pia::start(), Deluge::start(suite, &Options::default()));
    let _other_program = std::net::UdpSocket::bind(("127.0.0.1", LEASED)).expect("the port is free");
    let mut daemon = setup(&pia).run();
    daemon.wait_for_line("listens on port 47047", LATER);
    assert!(client.ports()[0].contains(&LEASED), "{:?}", client.ports());
    let asked = daemon.count_lines("POST /json");
    see_binds(&mut daemon, &pia, 4);
    // Two a look; a bounce takes four more.
    assert!(daemon.count_lines("POST /json") - asked <= 12, "{}", daemon.log());
    end(daemon, &pia, PASSWORD);
}

/// The tunnel is made anew with the same address: whoever is at its far end reaches Deluge again. libtorrent 2.0.8 keeps a dead
/// socket and shows its port all the same; the others open theirs again.
fn recreated_tunnel(suite: &str) {
    let start = || Deluge::start(suite, &Options { interface: "pialink", ..Options::default() });
    let last = |daemon: &mut Daemon| {
        if suite == "bookworm" {
            daemon.wait_for_line("reopened its socket on port 47047", SOON);
        }
    };
    follow_a_new_tunnel(start, setup, last, PASSWORD);
}

/// A tracker hears the leased port within seconds of the change.
fn trackers(suite: &str) {
    let (pia, client) = (Pia::start(), Deluge::start(suite, &Options::default()));
    let tracker = Tracker::start();
    let file = tracker.torrent(&client.profile);
    client.call("web.add_torrents", &format!(r#"[[{{"path":"{}","options":{{}}}}]]"#, file.display()));
    tracker.hears(FIRST, LATER);
    let mut daemon = setup(&pia).run();
    daemon.wait_for_line("Deluge tells its trackers port 47047", LATER);
    tracker.hears(LEASED, LATER);
    end(daemon, &pia, PASSWORD);
}
