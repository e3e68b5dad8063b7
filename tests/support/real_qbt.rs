//! Real `qbittorrent-nox` processes, as unpacked by `.ci/fetch-client`. They must be started inside a network namespace
//! (see [`crate::support::netns`]), because nothing else keeps them off the network.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use miniserde::json::{self, Value};

use crate::support::{Ca, Leaf, Signal, TempDir, VALID, drive, encode, netns, send, wait_until};

pub const USERNAME: &str = "tester";
/// Contains characters that a form must escape.
pub const PASSWORD: &str = "p&ss=%+ wörd;ü";
/// Salt and PBKDF2-HMAC-SHA512 (100,000 rounds, 64 bytes) of [`PASSWORD`], in qBittorrent's format.
const PASSWORD_PBKDF2: &str = "cGlhLXFiaXR0b3JyZW50IQ==:\
    BPlKohDUtN7ZEEbQgj+hizkQiDmINkTXvKVHjGNxJhXfe3NGhdeo/BHOrziPBjNw3pX6G+l+ZnuSmlon2UqrDw==";

const START_LIMIT: Duration = Duration::from_secs(60);
const STOP_LIMIT: Duration = Duration::from_secs(20);

/// Program that runs the qBittorrent of a suite, if it was unpacked.
pub fn launcher(suite: &str) -> Option<PathBuf> {
    drive::program("qbittorrent", suite, "qbittorrent-nox")
}

/// Configuration of a qBittorrent.
#[derive(Clone, Debug)]
pub struct Options {
    /// Requests from 127.0.0.1 need a login.
    pub local_host_auth: bool,
    pub web_port: u16,
    /// Port for peers at the start.
    pub listen_port: u16,
    /// Where it listens for peers.
    pub interface: Interface,
    /// `None` for a Web UI without TLS.
    pub https: Option<Https>,
}

/// Setting of the network interface.
#[derive(Clone, Copy, Debug)]
pub enum Interface {
    /// 127.0.0.1.
    Loopback,
    /// A device with all its addresses.
    Device(&'static str),
    /// The default: a socket for each address of this host.
    Any,
    /// A socket for each IPv6 address of this host.
    AnyIpv6,
}

/// PEM files of an HTTPS Web UI with a certificate from a private CA.
#[derive(Clone, Debug)]
pub struct Https {
    certificate: PathBuf,
    key: PathBuf,
    pub ca: PathBuf,
}

impl Https {
    pub fn in_dir(dir: &TempDir) -> Self {
        let ca = Ca::new("Private CA");
        let (certificate, key) = ca.issue(&Leaf { names: &["127.0.0.1"], common_name: "qBittorrent", years: VALID });
        Self {
            certificate: dir.write("web-ui.pem", certificate.pem()),
            key: dir.write("web-ui-key.pem", key.serialize_pem()),
            ca: dir.write("web-ui-ca.pem", ca.pem()),
        }
    }
}

impl Default for Options {
    fn default() -> Self {
        Self { local_host_auth: true, web_port: 8080, listen_port: 50_000, interface: Interface::Loopback, https: None }
    }
}

/// A running qBittorrent with a profile of its own; killed and waited for when dropped.
pub struct RealQbt {
    launcher: PathBuf,
    options: Options,
    profile: TempDir,
    /// A process in whose namespace qBittorrent runs; `None` for our own.
    namespace_of: Option<u32>,
    child: Child,
}

impl RealQbt {
    /// Starts a qBittorrent in the namespace of this process; `None` if the suite was not unpacked.
    pub fn start(suite: &str, options: Options) -> Option<Self> {
        Self::start_in_namespace(None, suite, options)
    }

    /// [`RealQbt::start`] in the namespace of process `pid`.
    pub fn start_in_namespace(pid: Option<u32>, suite: &str, options: Options) -> Option<Self> {
        Some(Self::start_in(pid, launcher(suite)?, options))
    }

    /// Starts a qBittorrent that is installed on this machine.
    pub fn start_program(program: &Path, options: Options) -> Self {
        Self::start_in(None, program.to_owned(), options)
    }

    fn start_in(pid: Option<u32>, launcher: PathBuf, options: Options) -> Self {
        let profile = TempDir::new();
        let config = profile.path().join("qBittorrent/config");
        fs::create_dir_all(&config).expect("a directory for the profile");
        fs::write(config.join("qBittorrent.conf"), configuration(&options, profile.path())).expect("a configuration");
        let child = spawn(&launcher, profile.path(), options.web_port, pid);
        let mut qbt = Self { launcher, options, profile, namespace_of: pid, child };
        qbt.wait_for_web_ui();
        qbt
    }

    /// Stops the process cleanly and starts it again: settings are kept, sessions are lost.
    pub fn restart(&mut self) {
        self.stop();
        self.child = spawn(&self.launcher, self.profile.path(), self.options.web_port, self.namespace_of);
        self.wait_for_web_ui();
    }

    /// Stops the process cleanly, or kills it after [`STOP_LIMIT`].
    pub fn stop(&mut self) {
        send(self.child.id(), Signal::TERM).expect("a running qBittorrent");
        if !wait_until(STOP_LIMIT, || matches!(self.child.try_wait(), Ok(Some(_)))) {
            self.kill();
        }
        // The session ends with the process, so the test must log in again.
        let _ = fs::remove_file(self.cookies());
    }

    fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Base URL of the Web UI.
    pub fn url(&self) -> String {
        let scheme = if self.options.https.is_some() { "https" } else { "http" };
        format!("{scheme}://127.0.0.1:{}", self.options.web_port)
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Version from the Web API, without its `v`.
    pub fn version(&self) -> String {
        self.get("app/version").trim_start_matches('v').to_owned()
    }

    /// `listen_port` of the preferences, which may differ from the port of the socket.
    pub fn preferred_port(&self) -> u16 {
        match self.json("app/preferences").get("listen_port") {
            Some(Value::Number(json::Number::U64(port))) => u16::try_from(*port).expect("a port"),
            other => panic!("listen_port is {other:?}"),
        }
    }

    /// The ports on which qBittorrent really listens for peers.
    pub fn listen_ports(&self) -> BTreeSet<u16> {
        let mut ports = netns::ports_of(self.pid());
        ports.remove(&self.options.web_port);
        ports
    }

    /// `connection_status` of `transfer/info`.
    pub fn connection_status(&self) -> String {
        match self.json("transfer/info").get("connection_status") {
            Some(Value::String(status)) => status.clone(),
            other => panic!("connection_status is {other:?}"),
        }
    }

    /// Changes preferences, as a user does in the Web UI.
    pub fn set_preferences(&self, preferences: &str) {
        self.post("app/setPreferences", &format!("json={}", encode(preferences)));
    }

    /// Creates an API key, as a user does in the Web UI (5.2 and later).
    pub fn make_api_key(&self) -> String {
        let reply = self.post("app/rotateAPIKey", "");
        match json::from_str(&reply) {
            Ok(Value::Object(fields)) => match fields.get("apiKey") {
                Some(Value::String(key)) => key.clone(),
                other => panic!("apiKey is {other:?}"),
            },
            _ => panic!("no JSON object: {reply}"),
        }
    }

    /// Fails a login, as any program at this address can.
    pub fn fail_login(&self) {
        let form = format!("username={}&password=wrong", encode(USERNAME));
        let reply = self.curl("auth/login", &["--data", &form]);
        assert!(!matches!(reply.as_deref(), Ok("Ok." | "")), "{reply:?}");
    }

    /// Adds a torrent whose content no peer has, with a tracker.
    pub fn add_torrent(&self, tracker: &str) {
        let (length, name, hash) = (tracker.len(), "nothing", "x".repeat(20));
        let torrent = format!(
            "d8:announce{length}:{tracker}4:infod6:lengthi16384e4:name{}:{name}12:piece lengthi16384e6:pieces20:{hash}ee",
            name.len()
        );
        let file = self.profile.path().join("nothing.torrent");
        fs::write(&file, torrent).expect("a file");
        let form = format!("torrents=@{}", file.display());
        let reply = self.in_session("torrents/add", &["--form", &form]);
        assert!(!reply.contains("Fails"), "{reply}");
    }

    /// Lines of qBittorrent's own log that contain `text`.
    pub fn log_lines(&self, text: &str) -> Vec<String> {
        let log = fs::read_to_string(self.profile.path().join("qBittorrent/data/logs/qbittorrent.log"));
        log.expect("qBittorrent's log").lines().filter(|line| line.contains(text)).map(str::to_owned).collect()
    }

    fn json(&self, path: &str) -> json::Object {
        let reply = self.get(path);
        match json::from_str(&reply) {
            Ok(Value::Object(fields)) => fields,
            _ => panic!("{path}: no JSON object: {reply}"),
        }
    }

    fn get(&self, path: &str) -> String {
        self.in_session(path, &[])
    }

    fn post(&self, path: &str, form: &str) -> String {
        self.in_session(path, &["--data", form])
    }

    /// Sends a request in a session of the test's own, separate from the daemon's.
    fn in_session(&self, path: &str, options: &[&str]) -> String {
        let file = self.cookies();
        let cookies = file.to_string_lossy();
        if !file.exists() {
            let form = format!("username={}&password={}", encode(USERNAME), encode(PASSWORD));
            let reply = self.curl("auth/login", &["--data", &form, "--cookie-jar", &cookies]);
            assert!(matches!(reply.as_deref(), Ok("Ok." | "")), "the test's login failed: {reply:?}");
        }
        let options = [&["--cookie", &cookies], options].concat();
        self.curl(path, &options).unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    fn cookies(&self) -> PathBuf {
        self.profile.path().join("cookies")
    }

    fn curl(&self, path: &str, options: &[&str]) -> Result<String, String> {
        let mut command = match self.namespace_of {
            None => Command::new("curl"),
            Some(pid) => netns::command_in(pid, "curl"),
        };
        if let Some(https) = &self.options.https {
            command.arg("--cacert").arg(&https.ca);
        }
        command.args(["--silent", "--show-error", "--fail", "--max-time", "60", "--noproxy", "*"]);
        let output = command.args(options).arg(format!("{}/api/v2/{path}", self.url())).output().expect("curl");
        let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
        if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
    }

    fn wait_for_web_ui(&mut self) {
        let (pid, port) = (self.pid(), self.options.web_port);
        let mut ended = None;
        let answers = wait_until(START_LIMIT, || {
            ended = self.child.try_wait().expect("a child");
            ended.is_some() || netns::ports_of(pid).contains(&port)
        });
        let output = fs::read_to_string(self.profile.path().join("output")).unwrap_or_default();
        assert!(answers && ended.is_none(), "qBittorrent did not start ({ended:?}): {output}");
    }
}

impl Drop for RealQbt {
    fn drop(&mut self) {
        self.kill();
    }
}

fn spawn(launcher: &Path, profile: &Path, web_port: u16, namespace_of: Option<u32>) -> Child {
    let mut command = match namespace_of {
        None => Command::new(launcher),
        Some(pid) => netns::command_in(pid, launcher),
    };
    let output = File::options().create(true).append(true).open(profile.join("output")).expect("a file");
    command
        .arg(format!("--profile={}", profile.display()))
        .arg(format!("--webui-port={web_port}"))
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .env("LC_ALL", "C.UTF-8")
        .env("HOME", profile)
        .env("TMPDIR", profile)
        .stdin(Stdio::null())
        .stdout(output.try_clone().expect("a file"))
        .stderr(output)
        .spawn()
        .expect("qbittorrent-nox")
}

/// Configuration of a profile after its first start, bound to loopback and without any means to find peers.
fn configuration(options: &Options, profile: &Path) -> String {
    let Options { listen_port: port, web_port, .. } = options;
    let https = options.https.as_ref().map_or_else(String::new, |https| {
        format!(
            "WebUI\\HTTPS\\Enabled=true\nWebUI\\HTTPS\\CertificatePath={}\nWebUI\\HTTPS\\KeyPath={}\n",
            https.certificate.display(),
            https.key.display()
        )
    });
    let (session, connection) = match options.interface {
        Interface::Loopback => {
            ("Session\\InterfaceAddress=127.0.0.1\n".to_owned(), "Connection\\InterfaceAddress=127.0.0.1\n".to_owned())
        }
        Interface::Any => (String::new(), String::new()),
        Interface::AnyIpv6 => {
            ("Session\\InterfaceAddress=::\n".to_owned(), "Connection\\InterfaceAddress=::\n".to_owned())
        }
        Interface::Device(device) => (
            format!("Session\\Interface={device}\nSession\\InterfaceName={device}\n"),
            format!("Connection\\Interface={device}\nConnection\\InterfaceName={device}\n"),
        ),
    };
    format!(
        "[LegalNotice]\n\
         Accepted=true\n\
         [Network]\n\
         PortForwardingEnabled=false\n\
         [Application]\n\
         FileLogger\\Enabled=true\n\
         FileLogger\\Path={profile}/qBittorrent/data/logs\n\
         [BitTorrent]\n\
         Session\\Port={port}\n\
         {session}\
         Session\\DefaultSavePath={profile}/downloads\n\
         Session\\DHTEnabled=false\n\
         Session\\LSDEnabled=false\n\
         Session\\PeXEnabled=false\n\
         [Preferences]\n\
         Connection\\PortRangeMin={port}\n\
         {connection}\
         Connection\\UPnP=false\n\
         Connection\\ResolvePeerCountries=false\n\
         Downloads\\SavePath={profile}/downloads\n\
         Bittorrent\\DHT=false\n\
         Bittorrent\\LSD=false\n\
         Bittorrent\\PeX=false\n\
         Advanced\\updateCheck=false\n\
         General\\Locale=en\n\
         WebUI\\Enabled=true\n\
         WebUI\\Address=127.0.0.1\n\
         WebUI\\Port={web_port}\n\
         WebUI\\UseUPnP=false\n\
         WebUI\\LocalHostAuth={auth}\n\
         WebUI\\Username={USERNAME}\n\
         WebUI\\Password_PBKDF2=\"@ByteArray({PASSWORD_PBKDF2})\"\n\
         {https}",
        profile = profile.display(),
        auth = options.local_host_auth,
    )
}
