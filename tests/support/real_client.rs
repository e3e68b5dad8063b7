//! What the tests of real torrent clients share, beside how they are driven: what is seen from outside, a tunnel, a tracker.

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
/// Another port, neither leased nor a client's first.
pub const OTHER: u16 = 50_505;
/// The one that a client is started with.
pub const FIRST: u16 = 50_000;

pub trait RealClient {
    fn name(&self) -> &'static str;
    /// The ports on which it really listens for torrents, by TCP and by UDP.
    fn ports(&self) -> [BTreeSet<u16>; 2];
    /// What it has said.
    fn output(&self) -> String;
}

/// Starts a program of a client with a profile of its own, where its output goes as well.
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

/// What the programs of a profile have said.
pub fn output_of(profile: &TempDir) -> String {
    fs::read_to_string(profile.path().join("output")).unwrap_or_default()
}

/// Waits until it listens there.
#[track_caller]
pub fn wait_for(child: &Child, port: u16, profile: &TempDir) {
    let answers = wait_until(Duration::from_secs(60), || netns::ports_of(child.id()).contains(&port));
    assert!(answers, "it did not start: {}", output_of(profile));
}

/// Ends it in an orderly way.
pub fn stop(child: &mut Child) {
    send(child.id(), Signal::TERM).expect("a client that runs");
    if !wait_until(Duration::from_secs(20), || matches!(child.try_wait(), Ok(Some(_)))) {
        let _ = child.kill();
        let _ = child.wait();
    }
}

/// Waits until it listens on this port and on no other, by TCP and by UDP.
#[track_caller]
pub fn see_port(daemon: &mut Daemon, client: &impl RealClient, port: u16, limit: Duration) {
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

/// Waits until the daemon knows that all is well, and knows it from the kernel.
#[track_caller]
pub fn see_verified(daemon: &mut Daemon, port: u16) {
    daemon.wait_for_status("verified", |status| {
        status.client_port == Some(port)
            && status.client_verified_at.is_some()
            && status.listener_seen
            && status.problems.is_empty()
    });
}

/// Waits for this many more bindings.
#[track_caller]
pub fn see_binds(daemon: &mut Daemon, pia: &Pia, more: usize) {
    let before = pia.counts().binds;
    daemon.wait_until("more bindings", || pia.counts().binds >= before + more);
}

/// Stops the daemon, which has not shown this password.
#[track_caller]
pub fn end(mut daemon: Daemon, pia: &Pia, password: &str) {
    let (status, _) = daemon.stop();
    println!("--- log\n{}---", daemon.log());
    assert!(status.success(), "{status}");
    assert!(!daemon.log().contains(password), "the password is in the log");
    assert_eq!(pia.complaints(), Vec::<String>::new());
}

/// Gives the daemon another port.
pub fn change_port(pia: &Pia) {
    pia.set(|state| state.next_port = OTHER.into());
    pia.scripts.next(pia::BIND_PORT, [pia::busy(LEASED)]);
}

/// Near and far end of a link that is taken for the tunnel, and the namespace of the latter.
pub fn ends() -> (netns::Namespace, End, End) {
    let peers = netns::Namespace::new().expect("a second namespace");
    let own = End { pid: std::process::id(), address: [10, 10, 229, 5].into() };
    let gateway = End { pid: peers.pid(), address: [10, 10, 224, 1].into() };
    (peers, own, gateway)
}

/// A daemon whose gateway is at the far end.
pub fn beyond(gateway: End, setup: fn(&Pia) -> Setup) -> (Pia, Setup) {
    let address = Ipv4Addr::UNSPECIFIED.into();
    let pia = Pia::with(pia::Options { namespace_of: Some(gateway.pid), address, ..pia::Options::default() });
    let address = format!("{}:{}", gateway.address, pia.gateway().port());
    let setup = setup(&pia).env("PIA_GATEWAY", address).env("CHECK_INTERVAL", "300");
    fs::write(setup.token_file(), pia.make_token()).expect("a token");
    (pia, setup)
}

/// Whether somebody at the far end reaches the client.
pub fn reaches(from: End, to: End) -> bool {
    let limit = Duration::from_millis(500);
    netns::within(Some(from.pid), || TcpStream::connect_timeout(&(to.address, LEASED).into(), limit)).is_ok()
}

/// The tunnel is made anew with the same address, and whoever is at its far end reaches the client again; `last` has a look then.
#[track_caller]
pub fn follow_a_new_tunnel<C: RealClient>(
    start: impl FnOnce() -> C,
    setup: fn(&Pia) -> Setup,
    last: impl FnOnce(&mut Daemon),
    password: &str,
) {
    let (_peers, own, gateway) = ends();
    let raise = || drive::link(own, gateway, Quality::default());
    let link = raise();
    let client = start();
    let (pia, setup) = beyond(gateway, setup);
    let mut daemon = setup.run();
    assert!(wait_until(SOON, || reaches(gateway, own)), "{:?}\n{}", client.ports(), daemon.log());
    see_verified(&mut daemon, LEASED);
    drop(link);
    let _link = raise();
    let began = Instant::now();
    assert!(wait_until(SOON, || reaches(gateway, own)), "not through the new tunnel\n{}", daemon.log());
    println!("reached after {:.1?}", began.elapsed());
    daemon.wait_for_line("the tunnel has changed", SOON);
    see_verified(&mut daemon, LEASED);
    last(&mut daemon);
    end(daemon, &pia, password);
}

/// A tracker that wants nothing but to know the port, once a second at most.
pub struct Tracker {
    server: Server,
    heard: Arc<Mutex<Vec<String>>>,
}

impl Tracker {
    pub fn start() -> Self {
        let heard = Arc::new(Mutex::new(Vec::new()));
        let ears = Arc::clone(&heard);
        let server = Server::start(([127, 0, 0, 1], 0).into(), None, move |request| {
            lock(&ears).extend(request.query("port"));
            Reply::text(200, "d8:intervali1800e12:min intervali1e5:peers0:e")
        });
        Self { server, heard }
    }

    /// A file with a torrent of nothing that anybody has.
    pub fn torrent(&self, dir: &TempDir) -> PathBuf {
        let (url, hash) = (format!("http://{}/announce", self.server.address()), "x".repeat(20));
        let torrent = format!(
            "d8:announce{}:{url}4:infod6:lengthi16384e4:name7:nothing12:piece lengthi16384e6:pieces20:{hash}ee",
            url.len()
        );
        dir.write("nothing.torrent", torrent)
    }

    /// Waits until this is the last port that it heard.
    #[track_caller]
    pub fn hears(&self, port: u16, limit: Duration) {
        let last = || lock(&self.heard).last().is_some_and(|last| *last == port.to_string());
        assert!(wait_until(limit, last), "the tracker has heard {:?}", lock(&self.heard));
    }
}
