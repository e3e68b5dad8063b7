//! The tunnel: slow, cut, gone or recreated; the search for its gateway; and a resolver that never answers.

use std::net::{Ipv4Addr, UdpSocket};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use super::support::daemon::Setup;
use super::support::drive;
use super::support::link::{End, Link, Quality};
use super::support::load::is_prompt;
use super::support::netns::{Namespace, ip, ip_here};
use super::support::pia;
use super::support::qbt::{self, Flavour, Qbt};
use super::support::world::{Running, World};
use super::support::{Mood, TempDir, wait_until};
use super::{Fault, MEASURED, RECOVERY, REPORT_LIMIT, Row};

const PORT: u16 = 19999;
/// From a change of the tunnel to a bound port, on a busy machine.
const REBOUND: Duration = Duration::from_secs(8);
/// From the start to a bound port if the gateway has to be found.
const FOUND: Duration = Duration::from_secs(15);

pub fn rows() -> Vec<Row> {
    [links(), discovery(), neighbours(), changes(), vec![Row::isolated("the resolver never answers", silent_resolver)]]
        .concat()
}

/// A tunnel from this namespace, the machine, to a second one, the VPN server, with a TUN device in each.
pub struct Wires {
    link: Option<Link>,
    server: Namespace,
}

impl Wires {
    pub fn new() -> Self {
        Self { link: None, server: Namespace::new().expect("a second namespace") }
    }

    /// Recreates the tunnel with our address and prefix length, and the server's address.
    pub fn tunnel(&mut self, own: &str, gateway: &str, quality: Quality) {
        self.link = None;
        let (address, prefix) = own.split_once('/').expect("a prefix length");
        let own_end = End { prefix: prefix.parse().ok(), ..End::new(std::process::id(), parsed(address)) };
        let server_end = End::new(self.server.pid(), parsed(gateway));
        // In one go: a busy machine would see two tunnels otherwise.
        self.link = Some(drive::link(own_end, server_end, quality));
    }

    fn drop_tunnel(&mut self) {
        self.link = None;
    }

    fn link(&self) -> &Link {
        self.link.as_ref().expect("a tunnel")
    }

    /// PIA at the far end, and here a daemon that has a token and searches for the gateway.
    pub fn world(&self) -> World {
        self.world_with(false)
    }

    fn world_with(&self, tunnel_login: bool) -> World {
        world_of(pia_in(&self.server, tunnel_login))
    }
}

/// A PIA at each address of a namespace.
fn pia_in(namespace: &Namespace, tunnel_login: bool) -> pia::Options {
    pia::Options {
        tunnel_login,
        namespace_of: Some(namespace.pid()),
        address: Ipv4Addr::UNSPECIFIED.into(),
        gateway_port: PORT,
        ..pia::Options::default()
    }
}

/// A PIA that gives tokens at port 443 of each address of a namespace, to clients that do not know its name.
fn anonymous(namespace: &Namespace) -> pia::Options {
    pia::Options { anonymous: true, ..pia_in(namespace, true) }
}

/// A daemon that has a token and searches for the gateway.
fn world_of(pia: pia::Options) -> World {
    let world = World::with(pia, qbt::Options { flavour: Flavour::V4_5, ..qbt::Options::default() });
    std::fs::write(world.setup.token_file(), world.pia.make_token()).expect("a token file");
    world.without(&["PIA_GATEWAY"]).env("LOG_LEVEL", "INFO")
}

fn parsed(address: &str) -> Ipv4Addr {
    address.parse().expect("an address")
}

fn default_route() {
    ip_here("route add default dev pialink");
}

/// Mounts `file` over `target` in this mount namespace.
pub fn mount_over(file: &Path, target: &str) {
    let done = Command::new("mount").arg("--bind").arg(file).arg(target).status();
    assert!(done.is_ok_and(|status| status.success()), "mount --bind {} {target}", file.display());
}

fn links() -> Vec<Row> {
    let quality = Quality { delay: Duration::from_millis(50), loss_percent: 5.0 };
    let mut rows = vec![Row::isolated("a round trip of 100 ms and 5 % loss", move || {
        let mut wires = Wires::new();
        wires.tunnel("10.10.229.5/19", "10.10.224.1", quality);
        default_route();
        let mut daemon = wires.world().env("PIA_GATEWAY", "10.10.224.1").run();
        daemon.wait_for_line("listens on port 47047", RECOVERY);
        let begin = Instant::now();
        let Running { daemon, world } = &mut daemon;
        assert!(wait_until(2 * RECOVERY, || world.pia.bound().len() >= 20), "{}", daemon.log());
        let gap = world.pia.longest_gap(begin);
        assert!(is_prompt(gap, Duration::from_secs(30)), "{gap:?}\n{}", daemon.log());
        assert_eq!(world.pia.leases(), 1);
    })];
    // With an interval of 5 s instead of 300 s, a second stands for a minute.
    for minutes in [1, 20, 60] {
        rows.push(Row::isolated(format!("the link is down for {minutes} simulated minutes"), move || {
            let mut wires = Wires::new();
            wires.tunnel("10.10.229.5/19", "10.10.224.1", quality);
            default_route();
            let world = wires.world().env("PIA_GATEWAY", "10.10.224.1").env("CHECK_INTERVAL", "5");
            let mut daemon = world.run();
            daemon.wait_for_line("listens on port 47047", RECOVERY);
            let began = Instant::now();
            wires.link().down();
            std::thread::sleep(Duration::from_secs(minutes));
            wires.link().up();
            let Running { daemon, world } = &mut daemon;
            let before = world.pia.bound().len();
            assert!(wait_until(RECOVERY, || world.pia.bound().len() > before + 1), "{}", daemon.log());
            let gap = world.pia.longest_gap(began);
            let allowed = Duration::from_secs(minutes + 45);
            assert!(is_prompt(gap, allowed), "{gap:?}, but at most {allowed:?} is allowed\n{}", daemon.log());
            assert!(daemon.lines_at("ERROR", "").len() <= 2, "{}", daemon.log());
            assert_eq!((world.pia.leases(), world.qbt.listening()), (1, Some(47047)));
        }));
    }
    rows
}

/// A `WireGuard` server's device, with a route to each of its peers.
fn second_tunnel() {
    ip_here("tuntap add dev wg0 mode tun");
    ip_here("addr add 10.66.0.1/24 dev wg0");
    ip_here("link set wg0 up");
    for peer in 2..18 {
        ip_here(&format!("route add 10.66.1.{peer}/32 dev wg0"));
    }
}

/// A LAN with a default route that stays when the tunnel goes, as in gluetun's container.
fn lan() -> Namespace {
    let router = Namespace::new().expect("a namespace");
    ip_here(&format!("link add eth0 type veth peer name eth0 netns {}", router.pid()));
    ip(router.pid(), "link set eth0 up");
    ip_here("addr add 192.168.1.7/24 dev eth0");
    ip_here("link set eth0 up");
    ip_here("route add default via 192.168.1.1 metric 100");
    router
}

/// Networks next to the tunnel, and ports that another program leases.
fn neighbours() -> Vec<Row> {
    vec![
        Row::isolated("the gateway is found next to a WireGuard server with 16 peers", || {
            let mut wires = Wires::new();
            second_tunnel();
            wires.tunnel("10.10.229.5/19", "10.10.224.1", Quality::default());
            default_route();
            let mut daemon = wires.world().env("CHECK_INTERVAL", "300").run();
            daemon.wait_for_line("gateway 10.10.224.1:19999 found: ", FOUND);
            daemon.wait_for_line("bound port 47047", FOUND);
        }),
        Row::isolated("the tunnel of a followed port is recreated", || a_followed_tunnel_is_recreated(false)),
        Row::isolated("the tunnel of a followed port is recreated next to a LAN", || {
            a_followed_tunnel_is_recreated(true);
        }),
        Row::isolated("VPN_INTERFACE names one of two tunnels with default routes", vpn_interface),
        Row::isolated("a modem's public address is no tunnel for the password", || {
            super::gateway::websites_are_at("127.0.0.66");
            let mut wires = Wires::new();
            wires.tunnel("84.17.5.6/32", "10.0.0.1", Quality::default());
            default_route();
            let world = wires.world_with(true).without(&["PIA_LOGIN_URL", "PIA_HOSTNAME"]);
            std::fs::write(world.setup.token_file(), "refused").expect("a token file");
            let mut daemon = world.run();
            daemon.fails(&["no VPN tunnel is up"]);
            let counts = daemon.pia().counts();
            assert_eq!((counts.tunnel_logins, counts.connections), (0, 0), "{}", daemon.log());
            let check = daemon.world.setup.run_once(&["check"]);
            assert!(check.stdout.contains("FAIL tunnel"), "{check:?}");
        }),
        Row::isolated("the tunnel drops during the login in it: the LAN gets no password", || {
            the_tunnel_drops_during_a_login(
                false,
                "cannot connect to 10.10.224.1:443: cannot assign requested address",
            );
        }),
        Row::isolated("the tunnel drops during the login in it, its address stays: the LAN gets no password", || {
            the_tunnel_drops_during_a_login(true, "cancelled because the tunnel changed");
        }),
        Row::isolated("the gateway's name leads to the LAN after the first call: the LAN gets no password", || {
            let hosts = TempDir::new();
            let entry = |address: &str| {
                let names = pia::WEBSITES.map(|name| format!("127.0.0.66 {name}\n")).concat();
                hosts.write("hosts", format!("{names}{address} gateway.test\n"))
            };
            mount_over(&entry("10.10.224.1"), "/etc/hosts");
            let router = lan();
            ip(router.pid(), "addr add 192.168.1.1/24 dev eth0");
            let mut wires = Wires::new();
            wires.tunnel("10.10.229.5/19", "10.10.224.1", Quality::default());
            // A router with a certificate of PIA's CA.
            let in_lan = pia::Pia::with(anonymous(&router));
            let world = world_of(anonymous(&wires.server)).env("PIA_GATEWAY", "gateway.test");
            let world = world.without(&["PIA_LOGIN_URL", "PIA_HOSTNAME"]);
            std::fs::write(world.setup.token_file(), "refused").expect("a token file");
            world.pia.scripts.next(pia::GET_SIGNATURE, [pia::login_failed().after(Duration::from_secs(2))]);
            let mut daemon = world.run();
            let Running { daemon: child, world } = &mut daemon;
            child.wait_until("the first call", || world.pia.counts().signatures == 1);
            entry("192.168.1.1");
            child.wait_until("a login", || world.pia.counts().tunnel_logins + in_lan.counts().tunnel_logins == 1);
            assert_eq!(in_lan.counts().tunnel_logins, 0, "{}", daemon.log());
        }),
    ]
}

/// Replaces a tunnel that carries no packets by a LAN, while a login in the tunnel waits for its connection. The LAN's router has the
/// gateway's address and a certificate of PIA's CA.
fn the_tunnel_drops_during_a_login(address_stays: bool, cause: &str) {
    super::gateway::websites_are_at("127.0.0.66");
    let router = lan();
    for arguments in
        ["addr add 192.168.1.1/24 dev eth0", "addr add 10.10.224.1/32 dev lo", "route add 10.10.229.5 via 192.168.1.7"]
    {
        ip(router.pid(), arguments);
    }
    let mut wires = Wires::new();
    wires.tunnel("10.10.229.5/19", "10.10.224.1", Quality::default());
    wires.link().down();
    if address_stays {
        ip_here("addr add 10.10.229.5/32 dev lo");
    }
    let world = world_of(anonymous(&router)).without(&["PIA_LOGIN_URL", "PIA_HOSTNAME"]);
    let world = world.env("PIA_GATEWAY", "10.10.224.1").env("LOG_LEVEL", "DEBUG");
    std::fs::remove_file(world.setup.token_file()).expect("a token file");
    // Unlike the daemon, this command is not notified of changes of the tunnel.
    let mut daemon = Running { daemon: world.setup.run_with(&["once"]), world };
    daemon.wait_for_line("apiv2.privateinternetaccess.com failed: ", REPORT_LIMIT);
    // Longer than the moment between this line and the first packet.
    std::thread::sleep(Duration::from_millis(300));
    wires.drop_tunnel();
    let ended = daemon.daemon.wait_for_end(REPORT_LIMIT);
    assert_eq!((ended.code(), daemon.pia().counts().tunnel_logins), (Some(1), 0), "{}", daemon.log());
    assert_eq!(daemon.lines_at("DEBUG", &format!("login at the gateway failed: {cause}")).len(), 1, "{}", daemon.log());
}

fn discovery() -> Vec<Row> {
    let row = |name: &str, gateway: &'static str, how: &'static str, prepare: fn(&mut Wires)| {
        Row::isolated(format!("the gateway is found {name}"), move || {
            let mut wires = Wires::new();
            prepare(&mut wires);
            let mut daemon = wires.world().env("CHECK_INTERVAL", "300").run();
            let found = daemon.wait_for_line(&format!("gateway {gateway}:{PORT} found: "), FOUND);
            assert!(found.contains(how), "{found}");
            daemon.wait_for_line("bound port 47047", FOUND);
            let took = daemon.started().elapsed();
            assert!(is_prompt(took, FOUND), "{took:?}\n{}", daemon.log());
            println!("{MEASURED}bound {took:.1?} after the start; {found}");
            let output = daemon.world.setup.run_once(&["check"]);
            assert!(output.stdout.contains(&format!("{gateway}:{PORT} answers, found: ")), "{output:?}");
        })
    };
    vec![
        row("at the start of the tunnel's network", "10.10.224.1", "network", |wires| {
            wires.tunnel("10.10.229.5/19", "10.10.224.1", Quality::default());
            default_route();
        }),
        row("from our address alone", "10.10.224.1", "our address 10.10.229.5", |wires| {
            wires.tunnel("10.10.229.5/32", "10.10.224.1", Quality::default());
            default_route();
        }),
        row("behind wg-quick's policy routing", "10.10.128.1", "our address 10.10.229.5", |wires| {
            wires.tunnel("10.10.229.5/32", "10.10.128.1", Quality::default());
            ip_here("route add default dev pialink table 51820");
            ip_here("rule add not fwmark 51820 table 51820");
        }),
        row("as the next hop of OpenVPN's routes", "10.7.112.1", "next hop", |wires| {
            wires.tunnel("10.7.112.9/24", "10.7.112.1", Quality::default());
            ip_here("route add 0.0.0.0/1 via 10.7.112.1");
            ip_here("route add 128.0.0.0/1 via 10.7.112.1");
        }),
        row("at the default address", "10.0.0.1", "default", |wires| {
            wires.tunnel("10.9.8.7/32", "10.0.0.1", Quality::default());
            default_route();
        }),
        row("with OpenVPN's net30", "10.7.112.1", "host route", |wires| {
            wires.tunnel("10.7.112.6/32", "10.7.112.1", Quality::default());
            ip_here("route add 10.7.112.5 dev pialink");
            ip_here("route add 10.7.112.1 via 10.7.112.5");
            ip_here("route add 0.0.0.0/1 via 10.7.112.5");
        }),
        row("if only a source rule leads into the tunnel", "10.10.224.1", "our address 10.10.229.5", |wires| {
            wires.tunnel("10.10.229.5/32", "10.10.224.1", Quality::default());
            ip_here("route add default dev pialink table 123");
            ip_here("rule add from 10.10.229.5 table 123");
        }),
        row("despite a LAN router at the default address", "10.10.224.1", "our address 10.10.229.5", |wires| {
            wires.tunnel("10.10.229.5/32", "10.10.224.1", Quality::default());
            ip_here("addr add 10.0.0.7/24 dev lo");
            ip_here("route add default dev pialink");
        }),
        row("in a split tunnel", "10.10.224.1", "network", |wires| {
            wires.tunnel("10.10.229.5/19", "10.10.224.1", Quality::default());
        }),
        Row::isolated("no address answers as the gateway", || {
            let mut wires = Wires::new();
            wires.tunnel("10.10.229.5/19", "10.10.224.1", Quality::default());
            default_route();
            // The server is up but does not forward ports.
            let fault = Fault::from_start(wires.world(), |world| world.pia.pause());
            fault
                .logs(&["getSignature", "10.10.224.1", "10.0.0.1", "no port forwarding"])
                .relieve(|world| world.pia.resume())
                .recovers();
        }),
        Row::isolated("the gateway moves within the tunnel", || {
            let mut wires = Wires::new();
            wires.tunnel("10.10.229.5/19", "10.10.224.1", Quality::default());
            default_route();
            let server = wires.server.pid();
            ip(server, "addr add 10.10.128.1/32 dev lo");
            let world = wires.world().env("PIA_GATEWAY", "auto");
            let fault = Fault::strike(world, |_| {
                ip(server, "addr del 10.10.224.1 peer 10.10.229.5 dev pialink");
                ip(server, "route add 10.10.229.5 dev pialink");
            });
            let mut daemon = fault.relieve(|_| ()).recovers();
            daemon.expect_line("gateway 10.10.128.1:19999 found");
        }),
        Row::isolated("a server without TLS at the gateway's address gets no request", || {
            let mut wires = Wires::new();
            wires.tunnel("10.10.229.5/19", "10.10.224.1", Quality::default());
            default_route();
            let fault = Fault::from_start(wires.world(), |world| world.pia.set_mood(Mood::Plain)).logs(&[
                "getSignature",
                "does not speak TLS",
                "not PIA's gateway",
            ]);
            let counts = fault.daemon.pia().counts();
            assert_eq!((counts.signatures, counts.binds), (0, 0), "{counts:?}");
            let mut daemon = fault.relieve(|world| world.pia.set_mood(Mood::Normal)).recovers();
            daemon.expect_line("found");
        }),
    ]
}

/// Waits until the port is bound in the current tunnel and the client listens there; prints how long it took.
#[track_caller]
fn is_rebound(daemon: &mut Running, bound_before: usize, since: Instant) {
    let Running { daemon, world } = daemon;
    let healthy = || world.pia.bound().len() > bound_before && world.qbt.listening() == Some(47047);
    assert!(wait_until(REBOUND, healthy), "{:?}, {}\n{}", world.qbt.ports(), world.pia.bound().len(), daemon.log());
    println!("{MEASURED}bound and listening again {:.1?} after the change", since.elapsed());
    assert_eq!(world.qbt.ports()[1..], [47048, 47047], "one bounce\n{}", daemon.log());
    assert_eq!(world.pia.leases(), 1);
}

fn changes() -> Vec<Row> {
    let recreated = |name: &str, fixed: bool, own: &'static str, gateway: &'static str| {
        Row::isolated(format!("the tunnel is recreated {name}"), move || {
            let mut wires = Wires::new();
            wires.tunnel("10.10.229.5/19", "10.10.224.1", Quality::default());
            default_route();
            let world = wires.world().env("CHECK_INTERVAL", "300");
            let mut daemon = if fixed { world.env("PIA_GATEWAY", "10.10.224.1") } else { world }.settle();
            let before = daemon.pia().bound().len();
            // The socket dies with the device, before the daemon can open a new one.
            wires.drop_tunnel();
            daemon.qbt().make_socket_stale();
            wires.tunnel(own, gateway, Quality::default());
            default_route();
            is_rebound(&mut daemon, before, Instant::now());
            daemon.expect_line("tunnel changed: now ");
            daemon.expect_line("reopened its socket on port 47047");
            daemon.expect_line("qBittorrent listens on port 47047");
        })
    };
    vec![
        recreated("with a different address", false, "10.10.240.77/19", "10.10.224.1"),
        recreated("with a different address and gateway", false, "10.20.131.9/17", "10.20.128.1"),
        recreated("with the same address", true, "10.10.229.5/19", "10.10.224.1"),
        Row::isolated(
            "a split tunnel is gone for a while and returns with a different network",
            a_split_tunnel_returns_elsewhere,
        ),
        Row::isolated("the tunnel is recreated while a bind hangs in the old one", || {
            let mut wires = Wires::new();
            wires.tunnel("10.10.229.5/19", "10.10.224.1", Quality::default());
            default_route();
            let mut daemon = wires.world().settle();
            let (before, connections) = (daemon.pia().bound().len(), daemon.pia().counts().connections);
            daemon.pia().set_mood(Mood::Silent);
            let Running { daemon: child, world } = &mut daemon;
            child.wait_until("a bind that hangs", || world.pia.counts().connections > connections);
            wires.tunnel("10.20.131.9/17", "10.20.128.1", Quality::default());
            default_route();
            daemon.pia().set_mood(Mood::Normal);
            daemon.qbt().make_socket_stale();
            is_rebound(&mut daemon, before, Instant::now());
        }),
        Row::new("the tunnel is recreated while the daemon is not running", || {
            let mut daemon = World::new().env("CHECK_INTERVAL", "300").settle();
            daemon.daemon.kill9();
            daemon.qbt().make_socket_stale();
            daemon.restart();
            let Running { daemon, world } = &mut daemon;
            daemon.wait_until("a working socket", || world.qbt.listening() == Some(47047));
            assert_eq!(world.qbt.ports(), [47047, 47048, 47047], "one bounce\n{}", daemon.log());
        }),
        Row::isolated("the tunnel is gone for a while", || {
            let mut wires = Wires::new();
            wires.tunnel("10.10.229.5/19", "10.10.224.1", Quality::default());
            default_route();
            let mut daemon = wires.world().env("PIA_GATEWAY", "10.10.224.1").settle();
            let healthy = |daemon: &Running| daemon.world.setup.run_once(&["healthcheck"]).code == Some(0);
            assert!(wait_until(REPORT_LIMIT, || healthy(&daemon)), "{}", daemon.log());
            // Between two binds.
            daemon.skip_log();
            daemon.wait_for_binds(1);
            wires.drop_tunnel();
            daemon.qbt().make_socket_stale();
            assert!(!healthy(&daemon), "at once");
            daemon.fails(&["tunnel: no route to 10.10.224.1:19999", "unreachable", "VPN"]);
            daemon.wait_for_problem("gateway");
            let (before, lines) = (daemon.pia().bound().len(), daemon.log().lines().count());
            std::thread::sleep(Duration::from_secs(5));
            // Five intervals later nothing was logged or tried.
            assert_eq!(daemon.log().lines().count(), lines, "{}", daemon.log());
            assert_eq!(daemon.status().map(|status| status.problems[0].failures), Some(1));
            wires.tunnel("10.10.229.5/19", "10.10.224.1", Quality::default());
            default_route();
            let back = Instant::now();
            is_rebound(&mut daemon, before, back);
            assert!(is_prompt(back.elapsed(), Duration::from_secs(5)), "{:?}", back.elapsed());
            daemon.expect_line("gateway: recovered after");
            assert!(wait_until(REPORT_LIMIT, || healthy(&daemon)), "{}", daemon.log());
        }),
        Row::isolated("the tunnel starts after the daemon", || {
            let mut wires = Wires::new();
            let mut daemon = wires.world().run();
            daemon.fails(&["tunnel: no route to the gateway"]);
            wires.tunnel("10.10.229.5/19", "10.10.224.1", Quality::default());
            default_route();
            daemon.wait_for_line("bound port 47047", REBOUND);
            daemon.settled(47047);
        }),
        Row::isolated("the VPN container's namespace loses its devices", || {
            let mut wires = Wires::new();
            // Kernel modules may add a device to each namespace, which stays down.
            ip_here("tuntap add dev tunl0 mode tun");
            wires.tunnel("10.10.229.5/19", "10.10.224.1", Quality::default());
            let mut daemon = wires.world().env("EXIT_WHEN_ISOLATED", "2").settle();
            wires.drop_tunnel();
            daemon.expect_line("only the loopback device is left; if");
            let Running { daemon, .. } = &mut daemon;
            assert!(wait_until(REBOUND, || daemon.ended().is_some()), "{}", daemon.log());
            assert_eq!(daemon.ended().and_then(|status| status.code()), Some(69), "{}", daemon.log());
            daemon.expect_line("a restart joins the VPN container's new namespace");
        }),
    ]
}

fn a_split_tunnel_returns_elsewhere() {
    let mut wires = Wires::new();
    wires.tunnel("10.10.229.5/19", "10.10.224.1", Quality::default());
    let mut daemon = wires.world().settle();
    let before = daemon.pia().bound().len();
    wires.drop_tunnel();
    daemon.wait_for_line("tunnel: no route to", REBOUND);
    // No route leads to the old gateway any more.
    wires.tunnel("10.20.131.9/17", "10.20.128.1", Quality::default());
    daemon.qbt().make_socket_stale();
    is_rebound(&mut daemon, before, Instant::now());
}

fn a_followed_tunnel_is_recreated(has_lan: bool) {
    let _router = has_lan.then(lan);
    let mut wires = Wires::new();
    wires.tunnel("10.10.229.5/19", "10.10.224.1", Quality::default());
    default_route();
    let qbt = Qbt::start(Flavour::V4_5);
    let dir = TempDir::new();
    let port = dir.write("port", "47047\n");
    let file = dir.path().join("forwarded_port");
    let setup = Setup::following(&qbt, &format!("file:{}", port.display()));
    let setup = setup.env("PORT_FILE", file.display().to_string());
    let mut daemon = setup.run();
    daemon.expect_line("qBittorrent listens on port 47047");
    let health = || setup.run_once(&["healthcheck"]);
    assert!(wait_until(REPORT_LIMIT, || health().code == Some(0)), "{:?}", health());
    wires.drop_tunnel();
    assert_eq!(health().code, Some(1), "at once");
    let words = if has_lan { "through eth0 instead of pialink" } else { "tunnel: no route to the Internet" };
    daemon.wait_for_line(words, REBOUND);
    // The source still has the port, but that says nothing about the tunnel.
    std::thread::sleep(Duration::from_secs(4));
    assert_eq!(health().code, Some(1), "{}", daemon.log());
    assert_eq!(daemon.count_lines(": recovered"), 0, "{}", daemon.log());
    assert_eq!(std::fs::read_to_string(&file).expect("a port"), "47047\n");
    qbt.make_socket_stale();
    wires.tunnel("10.10.229.5/19", "10.10.224.1", Quality::default());
    default_route();
    assert!(wait_until(REBOUND, || qbt.listening() == Some(47047)), "{}", daemon.log());
    assert_eq!(qbt.ports()[1..], [47048, 47047]);
}

fn vpn_interface() {
    let mut wires = Wires::new();
    second_tunnel();
    ip_here("route add default dev wg0");
    wires.tunnel("10.10.229.5/19", "10.10.224.1", Quality::default());
    ip_here("route add default dev pialink table 123");
    ip_here("rule add from 10.10.229.5 table 123");
    let qbt = Qbt::start(Flavour::V4_5);
    let dir = TempDir::new();
    let port = dir.write("port", "47047\n");
    let setup = Setup::following(&qbt, &format!("file:{}", port.display())).env("VPN_INTERFACE", "pialink");
    let mut daemon = setup.run();
    daemon.expect_line("qBittorrent listens on port 47047");
    let health = || setup.run_once(&["healthcheck"]);
    assert!(wait_until(REPORT_LIMIT, || health().code == Some(0)), "{:?}", health());
    wires.drop_tunnel();
    daemon.wait_for_line("through wg0 instead of pialink", REBOUND);
    assert_eq!(health().code, Some(1));
}

fn silent_resolver() {
    // It receives every query and is the only resolver.
    let resolver = UdpSocket::bind("127.0.0.53:53").expect("a port of a namespace of our own");
    let dir = TempDir::new();
    // glibc's default is two attempts of five seconds, which would end just when our own deadline does.
    let configuration = "nameserver 127.0.0.53\noptions timeout:30\n";
    mount_over(&dir.write("resolv.conf", configuration), "/etc/resolv.conf");
    let hosts = dir.write("hosts", "");
    mount_over(&hosts, "/etc/hosts");
    let world = World::new();
    let gateway = world.pia.gateway();
    let world = world.env("PIA_GATEWAY", format!("gateway.vpn.example:{}", gateway.port()));
    let fault = Fault::from_start(world, |_| ()).logs(&["getSignature", "no answer within 10 s", "looking up"]);
    let threads = std::fs::read_dir(format!("/proc/{}/task", fault.daemon.pid())).map_or(0, Iterator::count);
    assert!(threads <= 6, "{threads} threads");
    fault
        .relieve(|_| {
            std::fs::write(&hosts, format!("{} gateway.vpn.example\n", gateway.ip())).expect("a hosts file");
        })
        .recovers();
    drop(resolver);
}
