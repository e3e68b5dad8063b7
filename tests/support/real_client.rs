//! Helpers for the tests of real torrent clients: processes, ports as the kernel reports them, a tunnel, a tracker.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::net::{Ipv4Addr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::daemon::{Daemon, SOON, Setup};
use super::drive;
use super::link::{End, Quality};
use super::pia::{self, Pia};
use super::{Reply, Server, Signal, TempDir, lock, netns, send, wait_until};

/// Port of the first lease that the simulator hands out.
pub const LEASED: u16 = 47_047;
/// A different port, neither leased nor a client's first.
pub const OTHER: u16 = 50_505;
/// The port that a client starts with.
pub const FIRST: u16 = 50_000;

pub trait RealClient {
    fn name(&self) -> &'static str;
    /// The ports on which the client really listens for peers, by TCP and by UDP.
    fn ports(&self) -> [BTreeSet<u16>; 2];
    fn output(&self) -> String;
}

/// Starts a client's program with a profile of its own, which also receives its output.
pub fn spawn(program: &Path, arguments: &[&str], profile: &TempDir) -> Child {
    let output = File::options().create(true).append(true).open(profile.path().join("output")).expect("a file");
    Command::new(program)
        .args(arguments)
        .arg(profile.path())
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .env("LC_ALL", "C.UTF-8")
        .env("HOME", profile.path())
        .env("TMPDIR", profile.path())
        .env("XDG_CONFIG_HOME", profile.path())
        .stdin(Stdio::null())
        .stdout(output.try_clone().expect("a file"))
        .stderr(output)
        .spawn()
        .expect("a client that starts")
}

/// Output of the programs of a profile.
pub fn output_of(profile: &TempDir) -> String {
    fs::read_to_string(profile.path().join("output")).unwrap_or_default()
}

/// Waits until the program listens on `port`.
#[track_caller]
pub fn wait_for_start(child: &Child, port: u16, profile: &TempDir) {
    let answers = wait_until(Duration::from_secs(60), || netns::ports_of(child.id()).contains(&port));
    assert!(answers, "the client did not start: {}", output_of(profile));
}

/// Stops a client cleanly, or kills it after 20 s.
pub fn stop(child: &mut Child) {
    send(child.id(), Signal::TERM).expect("a client that runs");
    if !wait_until(Duration::from_secs(20), || matches!(child.try_wait(), Ok(Some(_)))) {
        let _ = child.kill();
        let _ = child.wait();
    }
}

/// Waits until the client listens on this port alone, by TCP and by UDP.
#[track_caller]
pub fn wait_for_port(daemon: &mut Daemon, client: &impl RealClient, port: u16, limit: Duration) {
    let wanted = [BTreeSet::from([port]), BTreeSet::from([port])];
    let there = wait_until(limit, || client.ports() == wanted);
    assert!(
        there,
        "after {limit:?} {name} listens on {:?} instead of {port}\n--- log\n{}--- {name}\n{}",
        client.ports(),
        daemon.log(),
        client.output(),
        name = client.name()
    );
    assert!(daemon.ended().is_none(), "the daemon has ended\n{}", daemon.log());
}

/// Waits until the status shows a client that was verified by the kernel's socket tables, and no problem.
#[track_caller]
pub fn wait_until_verified(daemon: &mut Daemon, port: u16) {
    daemon.wait_for_status("verified", |status| {
        status.client_port == Some(port)
            && status.client_verified_at.is_some()
            && status.listener_seen
            && status.problems.is_empty()
    });
}

/// Waits for this many more bindings.
#[track_caller]
pub fn wait_for_binds(daemon: &mut Daemon, pia: &Pia, more: usize) {
    let before = pia.counts().binds;
    daemon.wait_until("more bindings", || pia.counts().binds >= before + more);
}

/// Stops the daemon; asserts that the password is not in its log.
#[track_caller]
pub fn end(mut daemon: Daemon, pia: &Pia, password: &str) {
    let (status, _) = daemon.stop();
    println!("--- log\n{}---", daemon.log());
    assert!(status.success(), "{status}");
    assert!(!daemon.log().contains(password), "the password is in the log");
    assert_eq!(pia.complaints(), Vec::<String>::new());
}

/// Makes the daemon lease a different port.
pub fn change_port(pia: &Pia) {
    pia.set(|state| state.next_port = OTHER.into());
    pia.scripts.next(pia::BIND_PORT, [pia::busy(LEASED)]);
}

/// Namespace of the far end, near end and far end of a link that serves as the tunnel.
pub fn ends() -> (netns::Namespace, End, End) {
    let far_end = netns::Namespace::new().expect("a second namespace");
    let own = End::new(std::process::id(), [10, 10, 229, 5].into());
    let gateway = End::new(far_end.pid(), [10, 10, 224, 1].into());
    (far_end, own, gateway)
}

/// Simulator at the far end of a link, and the setup of a daemon that uses it.
pub fn beyond(gateway: End, setup: fn(&Pia) -> Setup) -> (Pia, Setup) {
    let address = Ipv4Addr::UNSPECIFIED.into();
    let pia = Pia::with(pia::Options { namespace_of: Some(gateway.pid), address, ..pia::Options::default() });
    let address = format!("{}:{}", gateway.address, pia.gateway().port());
    let setup = setup(&pia).env("PIA_GATEWAY", address).env("CHECK_INTERVAL", "300");
    fs::write(setup.token_file(), pia.make_token()).expect("a token");
    (pia, setup)
}

/// Tries to connect from the far end to the client's port.
pub fn reaches(from: End, to: End) -> bool {
    let limit = Duration::from_millis(500);
    netns::within(Some(from.pid), || TcpStream::connect_timeout(&(to.address, LEASED).into(), limit)).is_ok()
}

/// Recreates the tunnel with the same address and waits until the far end reaches the client again; `check` runs after
/// that.
#[track_caller]
pub fn follow_recreated_tunnel<C: RealClient>(
    start: impl FnOnce() -> C,
    setup: fn(&Pia) -> Setup,
    check: impl FnOnce(&mut Daemon),
    password: &str,
) {
    let (_far_end, own, gateway) = ends();
    let raise = || drive::link(own, gateway, Quality::default());
    let link = raise();
    let client = start();
    let (pia, setup) = beyond(gateway, setup);
    let mut daemon = setup.run();
    assert!(wait_until(SOON, || reaches(gateway, own)), "{:?}\n{}", client.ports(), daemon.log());
    wait_until_verified(&mut daemon, LEASED);
    drop(link);
    let _link = raise();
    let began = Instant::now();
    assert!(
        wait_until(SOON, || reaches(gateway, own)),
        "the client is unreachable through the new tunnel\n{}",
        daemon.log()
    );
    println!("reachable after {:.1?}", began.elapsed());
    daemon.wait_for_line("tunnel changed: now ", SOON);
    wait_until_verified(&mut daemon, LEASED);
    check(&mut daemon);
    end(daemon, &pia, password);
}

/// A tracker that records the announced ports and accepts an announce a second.
pub struct Tracker {
    server: Server,
    announced: Arc<Mutex<Vec<String>>>,
}

impl Tracker {
    pub fn start() -> Self {
        let announced = Arc::new(Mutex::new(Vec::new()));
        let record = Arc::clone(&announced);
        let server = Server::start(([127, 0, 0, 1], 0).into(), None, move |request| {
            lock(&record).extend(request.query("port"));
            Reply::text(200, "d8:intervali1800e12:min intervali1e5:peers0:e")
        });
        Self { server, announced }
    }

    /// Writes a torrent file whose content no peer has.
    pub fn torrent(&self, dir: &TempDir) -> PathBuf {
        let (url, hash) = (format!("http://{}/announce", self.server.address()), "x".repeat(20));
        let torrent = format!(
            "d8:announce{}:{url}4:infod6:lengthi16384e4:name7:nothing12:piece lengthi16384e6:pieces20:{hash}ee",
            url.len()
        );
        dir.write("nothing.torrent", torrent)
    }

    /// Waits until this is the last port that was announced.
    #[track_caller]
    pub fn wait_for_announce(&self, port: u16, limit: Duration) {
        let last = || lock(&self.announced).last().is_some_and(|last| *last == port.to_string());
        assert!(wait_until(limit, last), "announced ports: {:?}", lock(&self.announced));
    }
}
