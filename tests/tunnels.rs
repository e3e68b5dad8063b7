//! Real tunnels: `OpenVPN` and `WireGuard` with a real qBittorrent bound to the tunnel's device, a server that opens the port when it is
//! bound, and a peer outside that connects twenty times a second. Of every row it is asserted for how long no peer could
//! connect, and that `healthcheck` never says something else than the peer sees for long.
//!
//! `cargo test --test tunnels NAME` runs the rows whose name contains NAME. A row that needs something
//! that the machine lacks counts as ignored, and fails with `REQUIRE_TUNNELS=1`.

#[allow(dead_code, reason = "real_qbittorrent.rs uses other parts of it")]
#[path = "support/real_qbt.rs"]
mod real_qbt;
mod support;
#[path = "support/vpn.rs"]
mod vpn;

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use libtest_mimic::Arguments;
use real_qbt::{Options, PASSWORD, RealQbt, USERNAME};
use support::daemon::{Daemon, LATER, SOON, Setup};
use support::netns::here;
use support::pia::{self, Pia};
use support::rows::{MEASURED, Row, missing};
use support::{Signal, wait_until};
use vpn::{Internet, Kind, OPENVPN, Vpn, WIREGUARD, Watcher};

/// Rows at a time: they measure.
const AT_ONCE: usize = 2;
/// The port that is leased.
const LEASED: u16 = 47_047;
/// The goal for a peer to be let in again is 1.5 s; a busy machine gets more.
const LET_IN: Duration = Duration::from_secs(4);
/// How long `healthcheck` may say something else than the peer sees.
const WRONG: Duration = Duration::from_secs(2);
/// Its own time, between two looks, and that of a busy machine.
const SLACK: Duration = Duration::from_secs(1);
const HEALTH_EVERY: Duration = Duration::from_millis(200);

fn main() {
    let mut arguments = Arguments::from_args();
    arguments.test_threads.get_or_insert(AT_ONCE);
    let kinds = [("openvpn", OPENVPN), ("wireguard", WIREGUARD)];
    let mut rows: Vec<Row> =
        kinds.into_iter().flat_map(|(name, kind)| [changes(name, kind), troubles(name, kind)].concat()).collect();
    rows.extend(openvpn());
    rows.extend(wireguard());
    let trials = rows.into_iter().map(|row| row.required_by("REQUIRE_TUNNELS").into_trial()).collect();
    libtest_mimic::run(&arguments, trials).exit();
}

/// Where a VPN's gateway and our end of it are.
fn ends(kind: Kind) -> (Ipv4Addr, Ipv4Addr) {
    match kind {
        Kind::OpenVpn { topology: "net30", .. } => ([10, 7, 112, 10].into(), [10, 7, 112, 1].into()),
        Kind::OpenVpn { .. } => ([10, 7, 112, 9].into(), [10, 7, 112, 1].into()),
        Kind::WireGuard { .. } => ([10, 10, 229, 5].into(), [10, 10, 128, 1].into()),
    }
}

/// Everything at once: what is dropped first stands first.
struct Home {
    daemon: Option<Daemon>,
    health: Option<Watcher>,
    peer: Watcher,
    _opens: Watcher,
    _qbt: RealQbt,
    setup: Arc<Setup>,
    vpn: Vpn,
    pia: Arc<Pia>,
    net: Arc<Internet>,
}

impl Home {
    /// The VPN is up and qBittorrent runs on it; the daemon does not yet.
    fn new(kind: Kind) -> Self {
        let (own, gateway) = ends(kind);
        Self::with(kind, own, gateway, true, "tun0", |setup| setup)
    }

    fn with(
        kind: Kind,
        own: Ipv4Addr,
        gateway: Ipv4Addr,
        up: bool,
        device: &'static str,
        change: impl FnOnce(Setup) -> Setup,
    ) -> Self {
        let programs: &[&str] = match kind {
            Kind::OpenVpn { .. } => &["openvpn", "nft", "ip"],
            Kind::WireGuard { .. } => &["wireguard-go", "wg", "wg-quick", "nft", "ip"],
        };
        vpn::need(programs);
        if real_qbt::launcher(suite()).is_none() {
            missing(format!("qBittorrent of {0}; run .ci/fetch-client qbittorrent {0}", suite()));
        }
        let net = Arc::new(Internet::new());
        let mut vpn = Vpn::new(&net, kind, own, gateway);
        let pia = Arc::new(Pia::with(pia::Options {
            namespace_of: Some(net.server.pid()),
            address: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            gateway_port: 19999,
            tunnel_login: true,
            ..pia::Options::default()
        }));
        if up {
            vpn.start();
            vpn.wait_until_up();
        }
        let options = Options { device: Some(device), ..Options::default() };
        let qbt = RealQbt::start(suite(), options).expect("a suite that is there");
        let setup = Setup::new().pia(&pia).without("PIA_GATEWAY").env("QBITTORRENT_HOST", qbt.url());
        let setup = setup.env("QBITTORRENT_USERNAME", USERNAME).env("QBITTORRENT_PASSWORD", PASSWORD);
        let setup = Arc::new(change(setup.env("CHECK_INTERVAL", "300")));
        std::fs::write(setup.token_file(), pia.make_token()).expect("a token");
        let counts = Arc::clone(&pia);
        let opens = vpn.opens(LEASED, move || counts.bound().len());
        let peer = net.peer(LEASED);
        Self { daemon: None, health: None, peer, _opens: opens, _qbt: qbt, setup, vpn, pia, net }
    }

    /// Starts the daemon, and whoever looks at its health.
    fn run(&mut self) -> Instant {
        let begin = Instant::now();
        self.daemon = Some(self.setup.run());
        let setup = Arc::clone(&self.setup);
        let healthy = move || setup.run_once(&["healthcheck"]).code == Some(0);
        self.health = Some(Watcher::start(HEALTH_EVERY, healthy));
        begin
    }

    fn log(&self) -> String {
        self.daemon.as_ref().map_or(String::new(), Daemon::log)
    }

    fn daemon(&mut self) -> &mut Daemon {
        self.daemon.as_mut().expect("a daemon")
    }

    /// How long it took from `since` until the peer is let in.
    #[track_caller]
    fn is_let_in(&self, since: Instant, what: &str, limit: Duration) {
        let mut first = None;
        wait_until(limit + LET_IN, || {
            first = self.peer.first(since);
            first.is_some()
        });
        let Some(first) = first else { panic!("no peer is let in\n{}", self.log()) };
        let took = first - since;
        println!("{MEASURED}{took:.2?} {what}");
        assert!(took <= limit, "{took:?} {what}\n{}", self.log());
    }

    /// A peer is let in, the health says so, and everything is as it was.
    #[track_caller]
    fn settle(&mut self) -> Instant {
        let begin = self.run();
        self.is_let_in(begin, "from the start of the daemon to the first peer", LET_IN);
        self.daemon().wait_for_status("verified", |status| status.client_verified_at.is_some());
        let healthy = || self.health.as_ref().is_some_and(|health| health.first(begin).is_some());
        assert!(wait_until(LATER, healthy), "not healthy\n{}", self.log());
        Instant::now()
    }

    /// Since `from` the health has said what the peer saw, and one lease was enough, or none where a port is followed.
    #[track_caller]
    fn was_honest(&self, from: Instant) {
        // What was seen last has to be seen by the other, too.
        std::thread::sleep(2 * HEALTH_EVERY);
        let wrong = self.health.as_ref().expect("a health").longest_difference(&self.peer, from);
        println!("{MEASURED}healthcheck said something else than the peer saw for {wrong:.2?} at most");
        assert!(wrong <= WRONG + SLACK, "{wrong:?}\n{}", self.log());
        assert!(self.pia.leases() <= 1, "{}", self.log());
        assert_eq!(self.pia.complaints(), [""; 0]);
    }

    fn bounces(&self) -> usize {
        self.daemon.as_ref().map_or(0, |daemon| daemon.lines_at("INFO", "reopened its socket").len())
    }
}

/// The qBittorrent to be driven: 4.5.2 keeps dead sockets, 5.3 does not.
fn suite() -> &'static str {
    if std::env::var("TUNNELS_SUITE").as_deref() == Ok("sid") { "sid" } else { "bookworm" }
}

/// Starts and changes.
fn changes(name: &'static str, kind: Kind) -> Vec<Row> {
    let row = |what: &str, body: fn(Kind)| Row::isolated(format!("{name}: {what}"), move || body(kind));
    vec![
        row("cold start, nothing set", |kind| {
            let mut home = Home::new(kind);
            let settled = home.settle();
            home.was_honest(settled);
            assert_eq!(home.bounces(), 0, "{}", home.log());
        }),
        row("cold start with everything set", |kind| {
            let (own, gateway) = ends(kind);
            let set = |setup: Setup| setup.env("PIA_GATEWAY", gateway.to_string());
            let mut home = Home::with(kind, own, gateway, true, "tun0", set);
            let settled = home.settle();
            home.was_honest(settled);
        }),
        row("a start on a client that is well", |kind| {
            let mut home = Home::new(kind);
            home.settle();
            home.daemon().kill9();
            let begin = home.run();
            home.is_let_in(begin, "from the start of the daemon", LET_IN);
            home.daemon().wait_for_line("qBittorrent listens on port 47047", SOON);
            assert_eq!(home.bounces(), 0, "{}", home.log());
            let deaf = home.peer.longest_silence(begin);
            assert!(deaf < SLACK, "deaf for {deaf:?}\n{}", home.log());
            home.was_honest(Instant::now());
        }),
        row("made anew with the same address", |kind| {
            let mut home = Home::new(kind);
            let settled = home.settle();
            anew(&mut home);
            home.was_honest(settled);
        }),
        row("made anew with another address", |kind| {
            let mut home = Home::new(kind);
            let settled = home.settle();
            let [a, b, c, d] = home.vpn.own().octets();
            home.vpn.stop();
            home.vpn.moves_to([a, b, c, d + 5].into());
            home.vpn.start();
            let up = home.vpn.wait_until_up();
            home.is_let_in(up, "after the tunnel carries packets", LET_IN);
            home.was_honest(settled);
        }),
        row("made anew three times in a row", |kind| {
            let mut home = Home::new(kind);
            let settled = home.settle();
            for _ in 0..3 {
                home.vpn.stop();
                home.vpn.start();
            }
            let up = home.vpn.wait_until_up();
            home.is_let_in(up, "after the tunnel carries packets", LET_IN);
            home.was_honest(settled);
        }),
        row("daemon and tunnel are restarted, qBittorrent runs on", |kind| {
            let mut home = Home::new(kind);
            home.settle();
            home.daemon().kill9();
            home.vpn.stop();
            home.vpn.start();
            let up = home.vpn.wait_until_up();
            let begin = home.run();
            home.is_let_in(up, "after the tunnel carries packets", LET_IN);
            home.was_honest(begin);
        }),
        row("made anew during the first search", |kind| {
            let mut home = Home::new(kind);
            let begin = home.run();
            home.vpn.stop();
            home.vpn.start();
            let up = home.vpn.wait_until_up();
            home.is_let_in(up, "after the tunnel carries packets", LET_IN);
            home.was_honest(begin);
        }),
        row("daemon and qBittorrent first, the tunnel 20 s later", |kind| {
            let (own, gateway) = ends(kind);
            let mut home = Home::with(kind, own, gateway, false, "tun0", |setup| setup);
            let begin = home.run();
            std::thread::sleep(Duration::from_secs(20));
            home.vpn.start();
            let up = home.vpn.wait_until_up();
            home.is_let_in(up, "after the tunnel carries packets", LET_IN);
            home.was_honest(begin);
        }),
    ]
}

/// What lasts for a while, and odd homes.
fn troubles(name: &'static str, kind: Kind) -> Vec<Row> {
    let row = |what: &str, body: fn(Kind)| Row::isolated(format!("{name}: {what}"), move || body(kind));
    vec![
        row("gone for 10 s", |kind| gone(kind, false)),
        row("gone for 10 s behind a kill switch", |kind| gone(kind, true)),
        row("cut in silence for 5 s", |kind| {
            let mut home = Home::new(kind);
            home.settle();
            home.net.cut(true);
            std::thread::sleep(Duration::from_secs(5));
            home.net.cut(false);
            home.is_let_in(Instant::now(), "after packets flow again", Duration::from_secs(15));
            assert_eq!((home.bounces(), home.pia.leases()), (0, 1), "{}", home.log());
        }),
        row("the server is restarted", |kind| {
            let (own, gateway) = ends(kind);
            let mut home = Home::with(kind, own, gateway, true, "tun0", |setup| setup.env("CHECK_INTERVAL", "5"));
            home.settle();
            home.vpn.stop_server();
            home.net.close_all();
            home.vpn.start_server();
            let up = home.vpn.wait_until_up();
            home.is_let_in(
                up,
                "after the tunnel carries packets, with an interval of 5 s",
                LET_IN + Duration::from_secs(10),
            );
            assert_eq!(home.pia.leases(), 1, "{}", home.log());
        }),
        row("the server is another one", |kind| {
            let mut home = Home::new(kind);
            let settled = home.settle();
            home.vpn.stop();
            home.net.close_all();
            home.vpn.moves_server([10, 20, 3, 9].into(), [10, 20, 3, 1].into());
            home.vpn.start();
            let up = home.vpn.wait_until_up();
            home.is_let_in(up, "after the tunnel carries packets", LET_IN);
            home.was_honest(settled);
        }),
        row("IPv6 at home, and a tunnel without", |kind| {
            let mut home = Home::new(kind);
            here("-6 addr add fd00:5::7/64 dev eth0");
            here("-6 route add default via fd00:5::1");
            let settled = home.settle();
            home.was_honest(settled);
        }),
        row("a followed port", |kind| {
            let (own, gateway) = ends(kind);
            let port = support::TempDir::new();
            let file = port.write("port", format!("{LEASED}\n"));
            let follow = |setup: Setup| setup.env("PORT_SOURCE", format!("file:{}", file.display()));
            let mut home = Home::with(kind, own, gateway, true, "tun0", follow);
            home.net.open(LEASED, own);
            let begin = home.run();
            home.is_let_in(begin, "from the start of the daemon to the first peer", LET_IN);
            home.daemon().wait_for_line("qBittorrent listens on port 47047", SOON);
            let settled = Instant::now();
            anew(&mut home);
            home.was_honest(settled);
        }),
        row("qBittorrent keeps to another device", |kind| {
            let (own, gateway) = ends(kind);
            let mut home = Home::with(kind, own, gateway, true, "eth0", |setup| setup);
            home.run();
            let line = home.daemon().wait_for_line("it listens on eth0, the port comes in on tun0", SOON);
            println!("{MEASURED}{line}");
            let health = home.setup.run_once(&["healthcheck"]);
            assert_eq!(health.code, Some(1), "{health:?}");
        }),
    ]
}

fn anew(home: &mut Home) {
    home.vpn.stop();
    home.vpn.start();
    let up = home.vpn.wait_until_up();
    home.is_let_in(up, "after the tunnel carries packets", LET_IN);
    // 4.5.2 keeps a dead socket; 5.3 has opened another one by itself.
    let bounces = usize::from(suite() == "bookworm");
    assert!(wait_until(SOON, || home.bounces() == bounces), "{}", home.log());
}

fn gone(kind: Kind, kill_switch: bool) {
    let mut home = Home::new(kind);
    let settled = home.settle();
    if kill_switch {
        vpn::kill_switch();
    }
    home.vpn.stop();
    std::thread::sleep(Duration::from_secs(10));
    home.vpn.start();
    let up = home.vpn.wait_until_up();
    home.is_let_in(up, "after the tunnel carries packets", LET_IN);
    home.was_honest(settled);
}

fn cold(name: String, kind: Kind, own: Ipv4Addr, gateway: Ipv4Addr, prepare: fn()) -> Row {
    Row::isolated(name, move || {
        let mut home = Home::with(kind, own, gateway, true, "tun0", |setup| setup);
        prepare();
        let settled = home.settle();
        home.was_honest(settled);
        let found = home.daemon().wait_for_line("found: ", SOON);
        println!("{MEASURED}{found}");
    })
}

fn openvpn() -> Vec<Row> {
    let mut rows = Vec::new();
    for (topology, pull) in [("net30", true), ("p2p", true), ("subnet", false)] {
        let kind = Kind::OpenVpn { topology, pull };
        let (own, gateway) = ends(kind);
        let routes = if pull { "" } else { ", no route is pulled" };
        rows.push(cold(format!("openvpn: topology {topology}{routes}"), kind, own, gateway, || ()));
    }
    for (name, signal) in [("SIGUSR1", Signal::USR1), ("SIGHUP", Signal::HUP)] {
        rows.push(Row::isolated(format!("openvpn: {name}"), move || {
            let mut home = Home::new(OPENVPN);
            let settled = home.settle();
            home.vpn.signal(signal);
            std::thread::sleep(Duration::from_millis(500));
            let up = home.vpn.wait_until_up();
            home.is_let_in(up, "after the tunnel carries packets", LET_IN);
            home.was_honest(settled);
        }));
    }
    rows
}

fn wireguard() -> Vec<Row> {
    let gateway = Ipv4Addr::new(10, 10, 128, 1);
    let row = |name: &str, lines, own: [u8; 4]| {
        cold(format!("wireguard: {name}"), Kind::WireGuard { lines }, own.into(), gateway, || ())
    };
    vec![
        row(
            "Table = off and one route",
            "Table = off\nPostUp = ip route add 10.10.128.1/32 dev tun0",
            [10, 10, 229, 5],
        ),
        row(
            "a rule by source",
            "Table = 123\nPostUp = ip rule add from 10.10.229.5 table 123\nPostDown = ip rule del from 10.10.229.5 table 123",
            [10, 10, 229, 5],
        ),
        row("address 10.10.129.5", "", [10, 10, 129, 5]),
        row("address 10.10.201.5", "", [10, 10, 201, 5]),
        row("address 10.10.255.5", "", [10, 10, 255, 5]),
        cold(
            "wireguard: a LAN with its router at 10.0.0.1".to_owned(),
            WIREGUARD,
            [10, 10, 229, 5].into(),
            gateway,
            || {
                here("addr add 10.0.0.7/24 dev eth0");
            },
        ),
    ]
}
