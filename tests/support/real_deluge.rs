//! Real Deluges (deluged and deluge-web), as unpacked by `.ci/fetch-client`. They must be started inside a network namespace
//! (see [`crate::support::netns`]), because nothing else keeps them off the network.

use std::collections::BTreeSet;
use std::process::{Child, Command};

use ring::digest;

use crate::support::daemon::{SOON, Setup};
use crate::support::drive::{self, report_version};
use crate::support::real_client::{FIRST, LEASED, OTHER, RealClient, output_of, spawn, stop, wait_for_start};
use crate::support::{TempDir, netns, wait_until};

/// Ports of the web interface and of the daemon behind it.
const WEB_PORT: u16 = 8112;
const DAEMON_PORT: u16 = 58_846;
pub const PASSWORD: &str = "p&ss=%+ wörd\"\\";
/// In the reply to a call that succeeded.
const NO_ERROR: &str = r#""error": null"#;
/// ID of the daemon in the web interface.
const HOST: &str = "00000000000000000000000000000001";
/// Password with which the web interface logs in at the daemon.
const LOCAL: &str = "a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1";

/// Configuration of a Deluge.
pub struct Options {
    /// Address or device on which it listens for peers.
    pub interface: &'static str,
    /// Port for peers at the start.
    pub listen_port: u16,
    /// The web interface connects to the daemon at its start.
    pub connects: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { interface: "127.0.0.1", listen_port: FIRST, connects: true }
    }
}

/// A running Deluge with a profile of its own; killed and waited for when dropped.
pub struct Deluge {
    suite: String,
    pub profile: TempDir,
    pub daemon: Child,
    pub web: Child,
}

impl Deluge {
    /// Starts a Deluge in the namespace of this process.
    pub fn start(suite: &str, options: &Options) -> Self {
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
    pub fn wait_for_connection(&self) {
        let answers = || self.reply("core.get_listen_port", "[]").contains(NO_ERROR);
        assert!(wait_until(SOON, answers), "{}", self.output());
    }

    pub fn stop_daemon(&mut self) {
        stop(&mut self.daemon);
    }

    pub fn start_daemon(&mut self) {
        self.daemon = spawn_daemon(&self.suite, &self.profile);
        wait_for_start(&self.daemon, DAEMON_PORT, &self.profile);
    }

    pub fn restart_web(&mut self) {
        stop(&mut self.web);
        self.web = spawn_web(&self.suite, &self.profile);
        wait_for_start(&self.web, WEB_PORT, &self.profile);
    }

    /// Makes a call as the web interface's own pages do, in a session of the test's own.
    #[track_caller]
    pub fn call(&self, method: &str, params: &str) -> String {
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
        r#"{{"daemon_port": {DAEMON_PORT}, "listen_ports": [{port}, {port}], "random_port": false,
            "listen_interface": "{}", "upnp": false, "natpmp": false, "dht": false, "lsd": false, "utpex": false,
            "new_release_check": false, "send_info": false, "download_location": {downloads}}}"#,
        options.interface,
        port = options.listen_port,
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

/// Variables of a daemon that uses the Deluge at [`WEB_PORT`].
pub fn variables(setup: Setup) -> Setup {
    let url = format!("http://127.0.0.1:{WEB_PORT}");
    setup.env("TORRENT_CLIENT", "deluge").env("DELUGE_HOST", url).env("DELUGE_PASSWORD", PASSWORD)
}
