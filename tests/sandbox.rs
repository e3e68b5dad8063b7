//! `cargo run --example sandbox`: the real binary with the PIA simulator and a real qBittorrent (or the stand-in if
//! there is none), without account, root or network. Changes the port once, takes the gateway down once, prints what
//! happened, and exits with 0 if everything worked. `--forever` keeps it running for experiments.
#[allow(dead_code, reason = "the tests use other parts of it")]
#[path = "support/real_qbt.rs"]
mod real_qbt;
mod support;

use std::env;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use real_qbt::RealQbt;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use support::daemon::{Daemon, LATER, Setup};
use support::pia::{self, Pia};
use support::qbt::{self, Flavour, Qbt};
use support::{Signal, TempDir, send, unique};

/// Seconds; short, because the user waits for the next bind.
const CHECK_INTERVAL: &str = "2";

fn main() -> ExitCode {
    let forever = match env::args().skip(1).collect::<Vec<_>>().as_slice() {
        [] => false,
        [argument] if argument == "--forever" => true,
        _ => {
            eprintln!("usage: cargo run --example sandbox [-- --forever]");
            return ExitCode::from(64);
        }
    };
    let mut signals = Signals::new([SIGINT, SIGTERM]).expect("signal handlers");
    thread::spawn(move || signals.forever().for_each(|_| interrupt()));
    // A failed wait panics with its reason and the whole log; unwinding ends the daemon and its servers.
    std::panic::set_hook(Box::new(|panic| {
        let text = panic.payload().downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.payload().downcast_ref::<&str>().copied());
        eprintln!("\nsandbox: {}", text.unwrap_or("panicked"));
    }));
    let show = thread::spawn(move || run(forever));
    if show.join().is_ok() {
        println!("sandbox: everything worked");
        ExitCode::SUCCESS
    } else {
        println!("sandbox: FAILED, the reason is above");
        ExitCode::FAILURE
    }
}

/// PID of the daemon; 0 until it runs.
static DAEMON: AtomicU32 = AtomicU32::new(0);

/// Ends the daemon, and with it any wait for its next log line.
fn interrupt() {
    match DAEMON.load(Ordering::SeqCst) {
        0 => std::process::exit(130),
        pid => drop(send(pid, Signal::TERM)),
    }
}

fn run(forever: bool) {
    let binary = build();
    let begin = Instant::now();
    let (first, second) = (free_port(), free_port());

    let pia = Pia::start();
    pia.set(|state| state.next_port = first.into());
    heading(&format!("PIA simulator: gateway {}, login {}", pia.gateway(), pia.login_url()));
    let client = Client::start();
    heading(&format!("{}: Web UI {}", client.name, client.url));
    heading(&format!("the daemon: {}", binary.display()));
    let setup = Setup::with_binary(binary)
        .pia(&pia)
        .env("QBITTORRENT_HOST", &client.url)
        .env("CHECK_INTERVAL", CHECK_INTERVAL)
        .env("LOG_LEVEL", "INFO")
        .echo();
    let mut daemon = setup.run();
    DAEMON.store(daemon.pid(), Ordering::SeqCst);
    client.wait_for_port(&mut daemon, first);

    heading("PIA ends the lease and assigns a different port");
    pia.set(|state| state.next_port = second.into());
    pia.scripts.next(pia::BIND_PORT, [pia::port_expired()]);
    client.wait_for_port(&mut daemon, second);

    heading("the gateway goes down");
    let down = Instant::now();
    pia.pause();
    daemon.wait_for_level("ERROR", LATER);
    heading("the gateway is back");
    pia.resume();
    let recovery = daemon.wait_for_line("gateway: recovered after", LATER);
    let outage = down.elapsed();

    if forever {
        print_hints(&setup, &client, daemon.pid());
        while daemon.ended().is_none() {
            thread::sleep(Duration::from_millis(200));
        }
        return;
    }
    heading("SIGTERM to the daemon");
    let (ended, took) = daemon.stop();
    assert!(ended.success(), "the daemon ended with {ended}");

    let counts = pia.counts();
    println!("\nWhat happened, with {}:", client.name);
    println!("  1. port {first} was leased and bound, and qBittorrent listened on it");
    println!("  2. the lease expired: port {second} was leased and bound, and qBittorrent followed");
    println!(
        "  3. the gateway was down; {:.1} s later the port was bound again: {}",
        outage.as_secs_f32(),
        recovery.split_once("INFO").map_or(recovery.as_str(), |(_, text)| text.trim())
    );
    println!("  4. SIGTERM ended the daemon in {} ms", took.as_millis());
    println!(
        "qBittorrent followed ports {first} and {second}; PIA received {} login, {} signatures, {} binds; {:.1} s in all.",
        counts.logins,
        counts.signatures,
        pia.bound().len(),
        begin.elapsed().as_secs_f32()
    );
}

fn heading(text: &str) {
    println!("\n== {text}");
}

fn print_hints(setup: &Setup, client: &Client, pid: u32) {
    let binary = setup.binary().display();
    let state = setup.state_dir();
    let state = state.display();
    heading("running until Ctrl-C; in another terminal you can");
    println!("see the state       STATE_DIR={state} {binary} status");
    println!("the same as JSON    STATE_DIR={state} {binary} status --json");
    println!("check its health    STATE_DIR={state} {binary} healthcheck && echo healthy");
    println!("bind and check now  kill -HUP {pid}");
    println!("change the port     curl -d 'json={{\"listen_port\":12345}}' {}/api/v2/app/setPreferences", client.url);
    println!("read the port       curl -s {}/api/v2/app/preferences | jq .listen_port", client.url);
    println!();
}

/// Builds the daemon with the cargo and the profile that built this program.
fn build() -> PathBuf {
    let program = env::current_exe().expect("a path of this program");
    let profile = program.parent().and_then(Path::parent).expect("target/PROFILE/examples");
    let name = match profile.file_name().and_then(|name| name.to_str()) {
        Some("debug") | None => "dev",
        Some(name) => name,
    };
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
    // Together with the example, so that the dependencies have the features that were built just now.
    let mut command = Command::new(cargo);
    // `cargo run` sets these variables for this package, but build scripts of dependencies would read them as theirs.
    for (name, _) in env::vars_os() {
        if ["CARGO_PKG_", "CARGO_MANIFEST_"].iter().any(|prefix| name.to_string_lossy().starts_with(prefix)) {
            command.env_remove(name);
        }
    }
    let built = command
        .args(["build", "--bin", env!("CARGO_PKG_NAME"), "--example", "sandbox"])
        .args(["--profile", name, "--manifest-path", manifest])
        .status();
    let binary = profile.join(env!("CARGO_PKG_NAME"));
    match built {
        Ok(status) if status.success() => {}
        Ok(status) => panic!("cargo build: {status}"),
        // Without cargo: this program was copied together with the binary.
        Err(error) => assert!(binary.exists(), "cargo build: {error}"),
    }
    assert!(binary.exists(), "{} was not built", binary.display());
    binary
}

/// A free port, below the range of outgoing connections.
fn free_port() -> u16 {
    let mut candidates = (0..1000).map(|_| 20_000 + (unique() % 10_000) as u16);
    candidates.find(|&port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()).expect("a free port")
}

/// The torrent client. A real one listens on 127.0.0.1 only, without torrents or outgoing connections. Authentication
/// is bypassed, as many users do for localhost.
struct Client {
    name: String,
    url: String,
    kind: Kind,
}

enum Kind {
    Real(#[expect(dead_code, reason = "ended when dropped")] RealQbt),
    StandIn(Box<Qbt>),
}

impl Client {
    fn start() -> Self {
        let path = env::var_os("PATH").unwrap_or_default();
        let found = env::split_paths(&path).map(|dir| dir.join("qbittorrent-nox")).find(|file| file.is_file());
        if let Some(program) = found {
            let (web_port, listen_port) = (free_port(), free_port());
            let options =
                real_qbt::Options { local_host_auth: false, web_port, listen_port, ..real_qbt::Options::default() };
            let real = RealQbt::start_program(&program, options);
            let (home, mut version) = (TempDir::new(), Command::new(&program));
            let version = version.arg("--version").env("HOME", home.path()).stdin(Stdio::null()).output();
            let version = version.map(|output| output.stdout).unwrap_or_default();
            let (name, url) = (format!("real {}", String::from_utf8_lossy(&version).trim()), real.url());
            return Self { name, url, kind: Kind::Real(real) };
        }
        let qbt = Qbt::with(qbt::Options { flavour: Flavour::V5_3, ..qbt::Options::default() });
        qbt.set(|state| state.bypass = true);
        let name = "built-in stand-in (no qbittorrent-nox on PATH)".into();
        Self { name, url: qbt.url(), kind: Kind::StandIn(Box::new(qbt)) }
    }

    /// Waits until the daemon reports that the client listens on the port, and verifies the report.
    fn wait_for_port(&self, daemon: &mut Daemon, port: u16) {
        daemon.wait_for_line(&format!("qBittorrent listens on port {port}"), LATER);
        let listens = match &self.kind {
            Kind::Real(_) => TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok(),
            Kind::StandIn(qbt) => qbt.listening() == Some(port),
        };
        assert!(listens, "the daemon reports that qBittorrent listens on port {port}, but it does not");
        println!("    (verified: qBittorrent listens on port {port})");
    }
}
