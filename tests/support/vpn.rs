//! Real VPNs in network namespaces: `OpenVPN`, and `WireGuard` with wireguard-go and wg-quick.
//!
//! This namespace is a home network with a router. Beyond it is the VPN server, which forwards ports by DNAT as PIA's
//! servers do, and beyond the server is the rest of the Internet, from where a peer tries to connect.

use std::fs;
use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, SocketType, sockopt};

use crate::support::netns::{self, Namespace, ip, ip_here};
use crate::support::rows::missing;
use crate::support::{Ca, Killed, Leaf, Signal, TempDir, VALID, lock, send, wait_until};

/// Public addresses of the server and of the peer (RFC 5737).
const PUBLIC: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);
const PEER: &str = "198.51.100.9";
/// Interval between two connections of the peer, and time limit for each.
const PROBE_EVERY: Duration = Duration::from_millis(50);
const PROBE_LIMIT: Duration = Duration::from_millis(250);
/// Time limit for a VPN to come up.
const UP_LIMIT: Duration = Duration::from_secs(20);
/// Longer than `OpenVPN` takes to notify its server of its exit, which a second SIGTERM would cut short.
const STOP_LIMIT: Duration = Duration::from_secs(3);
/// Number of attempts to end it.
const STOP_ATTEMPTS: usize = 6;
/// A port of the gateway that accepts connections: the one for its tokens.
const ECHO: u16 = 443;

/// Ends the row as ignored if a program is missing.
pub fn require_programs(programs: &[&str]) {
    for program in programs {
        let there = Command::new("sh").args(["-c", &format!("command -v {program}")]).stdout(Stdio::null()).status();
        if !there.is_ok_and(|status| status.success()) {
            missing(*program);
        }
    }
}

fn run(command: &mut Command) {
    let output = command.stdin(Stdio::null()).output();
    let output = output.unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{command:?}: {errors}");
}

/// Drops everything that would leave the home network outside the VPN.
pub fn kill_switch() {
    run(Command::new("nft").arg(format!(
        "add table inet home; add chain inet home out {{ type filter hook output priority 0 ; }}; \
         add rule inet home out oifname eth0 ip daddr != {PUBLIC} drop"
    )));
}

/// Home network, server and the Internet beyond, connected.
pub struct Internet {
    pub server: Namespace,
    outside: Namespace,
}

impl Internet {
    pub fn new() -> Self {
        let namespace = || Namespace::new().expect("a new namespace");
        let net = Self { server: namespace(), outside: namespace() };
        let (server, outside) = (net.server.pid(), net.outside.pid());
        ip_here(&format!("link add eth0 type veth peer name eth0 netns {server}"));
        ip_here("addr add 192.168.1.7/24 dev eth0");
        ip_here("link set eth0 up");
        ip(server, &format!("link add eth1 type veth peer name eth0 netns {outside}"));
        for arguments in [
            "addr add 192.168.1.1/24 dev eth0",
            "link set eth0 up",
            "addr add 198.51.100.1/24 dev eth1",
            "link set eth1 up",
            "addr add 203.0.113.1/32 dev lo",
            // Packets to other private addresses are dropped, so that a wrong guess runs into its timeout.
            "route add blackhole 10.0.0.0/8",
        ] {
            ip(server, arguments);
        }
        ip(outside, &format!("addr add {PEER}/24 dev eth0"));
        ip(outside, "link set eth0 up");
        ip(outside, "route add default via 198.51.100.1");
        ip_here("route add default via 192.168.1.1");
        netns::within(Some(server), || fs::write("/proc/sys/net/ipv4/ip_forward", "1").expect("forwarding"));
        net.nft(
            "add table ip pia; add map ip pia ports { type inet_service : ipv4_addr ; flags timeout ; }; \
             add chain ip pia in { type nat hook prerouting priority -100 ; }; \
             add rule ip pia in ip daddr 203.0.113.1 dnat to tcp dport map @ports",
        );
        net
    }

    fn nft(&self, rules: &str) {
        run(netns::command_in(self.server.pid(), "nft").arg(rules));
    }

    /// Forwards the port to `client` for 15 minutes, as a bind does.
    pub fn open(&self, port: u16, client: Ipv4Addr) {
        let _ = netns::command_in(self.server.pid(), "nft")
            .arg(format!("delete element ip pia ports {{ {port} }}"))
            .stderr(Stdio::null())
            .status();
        self.nft(&format!("add element ip pia ports {{ {port} timeout 900s : {client} }}"));
    }

    /// Removes every binding, as a restart of the server does.
    pub fn close_all(&self) {
        self.nft("flush map ip pia ports");
    }

    /// Starts a peer on the Internet that connects to `port` repeatedly.
    pub fn peer(&self, port: u16) -> Watcher {
        let pid = self.outside.pid();
        let address = SocketAddr::from((PUBLIC, port));
        Watcher::start(PROBE_EVERY, move || {
            netns::within(Some(pid), || TcpStream::connect_timeout(&address, PROBE_LIMIT).is_ok())
        })
    }

    /// Disconnects the home network, or connects it again. Packets are dropped without an ICMP error.
    pub fn cut(&self, cut: bool) {
        let rule = if cut { "add" } else { "del" };
        ip(self.server.pid(), &format!("rule {rule} dev eth0 blackhole"));
    }
}

/// Evaluates a condition repeatedly and records each result with its time.
pub struct Watcher {
    seen: Arc<Mutex<Vec<(Instant, bool)>>>,
    end: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Watcher {
    pub fn start(every: Duration, observe: impl Fn() -> bool + Send + 'static) -> Self {
        let (seen, end) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let (seen_there, end_there) = (Arc::clone(&seen), Arc::clone(&end));
        let thread = thread::spawn(move || {
            while !end_there.load(Ordering::Relaxed) {
                let at = Instant::now();
                let found = observe();
                lock(&seen_there).push((at, found));
                thread::sleep(every.saturating_sub(at.elapsed()));
            }
        });
        Self { seen, end, thread: Some(thread) }
    }

    /// Time of the first of two consecutive positive results after `from`.
    pub fn first(&self, from: Instant) -> Option<Instant> {
        let seen = lock(&self.seen);
        let after: Vec<_> = seen.iter().filter(|(at, _)| *at >= from).collect();
        after.windows(2).find(|pair| pair[0].1 && pair[1].1).map(|pair| pair[0].0)
    }

    /// Longest time without a positive result between `from` and now.
    pub fn longest_silence(&self, from: Instant) -> Duration {
        let (mut longest, mut since) = (Duration::ZERO, None);
        for (at, found) in lock(&self.seen).iter().filter(|(at, _)| *at >= from) {
            longest = longest.max(since.map_or(Duration::ZERO, |since| *at - since));
            since = if *found { None } else { since.or(Some(*at)) };
        }
        longest
    }

    /// The last result before `at`.
    fn at(&self, at: Instant) -> Option<bool> {
        lock(&self.seen).iter().rev().find(|(seen, _)| *seen <= at).map(|(_, found)| *found)
    }

    /// Longest time for which the results of `other` differed, between `from` and now.
    pub fn longest_difference(&self, other: &Self, from: Instant) -> Duration {
        let (mut longest, mut since) = (Duration::ZERO, None);
        for (at, found) in lock(&self.seen).iter().filter(|(at, _)| *at >= from) {
            if other.at(*at).is_none_or(|there| there == *found) {
                since = None;
            } else {
                longest = longest.max(*at - *since.get_or_insert(*at));
            }
        }
        longest
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// Kind and configuration of a VPN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `subnet`, `net30` or `p2p`; with or without the routes that the server pushes.
    OpenVpn { topology: &'static str, pull: bool },
    /// Additional lines of the `[Interface]` section.
    WireGuard { lines: &'static str },
}

pub const OPENVPN: Kind = Kind::OpenVpn { topology: "subnet", pull: true };
pub const WIREGUARD: Kind = Kind::WireGuard { lines: "" };

/// Tries to connect from `own`.
fn can_connect(own: Ipv4Addr, there: SocketAddr) -> bool {
    let socket = || -> rustix::io::Result<rustix::fd::OwnedFd> {
        let socket = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None)?;
        sockopt::set_socket_timeout(&socket, sockopt::Timeout::Send, Some(PROBE_LIMIT))?;
        rustix::net::bind(&socket, &SocketAddr::from((own, 0)))?;
        rustix::net::connect(&socket, &there)?;
        Ok(socket)
    };
    socket().is_ok()
}

/// Both ends of a VPN: the server and our client.
pub struct Vpn {
    net: Arc<Internet>,
    kind: Kind,
    dir: TempDir,
    /// Our address in the tunnel.
    own: Arc<Mutex<Ipv4Addr>>,
    /// PIA's gateway.
    pub gateway: Ipv4Addr,
    server: Option<Killed>,
    client: Option<Killed>,
}

impl Vpn {
    /// Starts the server, but not yet our client.
    pub fn new(net: &Arc<Internet>, kind: Kind, own: Ipv4Addr, gateway: Ipv4Addr) -> Self {
        let (net, own) = (Arc::clone(net), Arc::new(Mutex::new(own)));
        let mut vpn = Self { net, kind, dir: TempDir::new(), own, gateway, server: None, client: None };
        match kind {
            Kind::OpenVpn { .. } => vpn.write_openvpn(),
            Kind::WireGuard { .. } => vpn.write_wireguard(),
        }
        vpn.start_server();
        vpn
    }

    /// Our address in the tunnel.
    pub fn own(&self) -> Ipv4Addr {
        *lock(&self.own)
    }

    /// Forwards `port` whenever `count`, the number of binds, has grown, until the result is dropped.
    pub fn forward_bound_port(&self, port: u16, count: impl Fn() -> usize + Send + 'static) -> Watcher {
        let (net, own) = (Arc::clone(&self.net), Arc::clone(&self.own));
        let seen = Mutex::new(0);
        Watcher::start(Duration::from_millis(5), move || {
            let (now, mut seen) = (count(), lock(&seen));
            let more = now > *seen;
            if more {
                *seen = now;
                net.open(port, *lock(&own));
            }
            more
        })
    }

    fn file(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string()
    }

    // ---- OpenVPN

    fn write_openvpn(&self) {
        let ca = Ca::new("VPN");
        self.dir.write("ca.pem", ca.pem());
        for name in ["server", "client"] {
            let (certificate, key) = ca.issue(&Leaf { names: &[name], common_name: name, years: VALID });
            self.dir.write(&format!("{name}.pem"), certificate.pem());
            self.dir.write(&format!("{name}.key"), key.serialize_pem());
        }
    }

    fn start_openvpn_server(&mut self, topology: &str) {
        let [a, b, c, _] = self.gateway.octets();
        let folder = self.dir.path().join("clients");
        fs::create_dir_all(&folder).expect("a folder");
        let own = self.own();
        let second = match topology {
            "subnet" => "255.255.255.0".to_owned(),
            // The other address of the client's pair, or the server's own.
            "net30" => Ipv4Addr::from_bits(own.to_bits() - 1).to_string(),
            _ => self.gateway.to_string(),
        };
        fs::write(folder.join("client"), format!("ifconfig-push {own} {second}\n")).expect("a file");
        let (key, certificate, ca) = (self.file("server.key"), self.file("server.pem"), self.file("ca.pem"));
        let clients = folder.display();
        let configuration = format!(
            "dev vpn\ndev-type tun\nport 1194\nproto udp\nlocal {PUBLIC}\ntopology {topology}\n\
             server {a}.{b}.{c}.0 255.255.255.0\nca {ca}\ncert {certificate}\nkey {key}\ndh none\n\
             client-config-dir {clients}\nduplicate-cn\nkeepalive 1 8\npush \"redirect-gateway def1\"\n"
        );
        let configuration = self.dir.write("server.conf", configuration);
        let mut command = netns::command_in(self.net.server.pid(), "openvpn");
        command.arg("--config").arg(configuration).args(["--log", &self.file("server.log")]);
        self.server = Some(Killed(command.stdin(Stdio::null()).spawn().expect("openvpn")));
        let ready = || fs::read_to_string(self.file("server.log")).is_ok_and(|log| log.contains("Sequence Completed"));
        assert!(wait_until(UP_LIMIT, ready), "{:?}", fs::read_to_string(self.file("server.log")));
    }

    fn start_openvpn_client(&mut self, pull: bool) {
        let (key, certificate, ca) = (self.file("client.key"), self.file("client.pem"), self.file("ca.pem"));
        let _ = fs::remove_file(self.file("client.log"));
        let mut command = Command::new("openvpn");
        command.args(["--client", "--dev", "tun0", "--nobind", "--persist-tun", "--proto", "udp"]);
        command.args(["--remote", &PUBLIC.to_string(), "1194", "--connect-retry", "1", "1"]);
        command.args(["--ca", &ca, "--cert", &certificate, "--key", &key, "--explicit-exit-notify", "1"]);
        command.args(["--log", &self.file("client.log")]);
        if !pull {
            command.args(["--route-nopull"]);
        }
        self.client = Some(Killed(command.stdin(Stdio::null()).spawn().expect("openvpn")));
    }

    // ---- WireGuard

    fn write_wireguard(&self) {
        // wg reaches wireguard-go through socket files here; the tmpfs separates them from those of other tests.
        let _ = fs::create_dir_all("/var/run/wireguard");
        run(Command::new("mount").args(["-t", "tmpfs", "tmpfs", "/var/run/wireguard"]));
        for name in ["server", "client"] {
            let private = Command::new("wg").arg("genkey").output().expect("wg").stdout;
            let mut child = Command::new("wg");
            let mut child = child.arg("pubkey").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("wg");
            child.stdin.take().expect("a pipe").write_all(&private).expect("a key");
            let public = child.wait_with_output().expect("wg").stdout;
            self.dir.write(&format!("{name}.key"), private);
            self.dir.write(&format!("{name}.public"), public);
        }
    }

    fn key(&self, name: &str) -> String {
        fs::read_to_string(self.file(name)).expect("a key").trim().to_owned()
    }

    fn start_wireguard_server(&mut self) {
        let pid = self.net.server.pid();
        let mut command = netns::command_in(pid, "wireguard-go");
        command.args(["-f", "vpn"]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        self.server = Some(Killed(command.spawn().expect("wireguard-go")));
        let there = || {
            let mut link = netns::command_in(pid, "ip");
            link.args(["link", "show", "vpn"]).stdout(Stdio::null()).stderr(Stdio::null());
            link.status().is_ok_and(|status| status.success())
                && fs::exists("/var/run/wireguard/vpn.sock").unwrap_or(false)
        };
        assert!(wait_until(UP_LIMIT, there), "wireguard-go made no device");
        let mut set = netns::command_in(pid, "wg");
        set.args(["set", "vpn", "listen-port", "51820", "private-key", &self.file("server.key")]);
        run(set.args(["peer", &self.key("client.public"), "allowed-ips", &format!("{}/32", self.own())]));
        ip(pid, &format!("addr add {}/32 dev vpn", self.gateway));
        ip(pid, "link set vpn up");
        ip(pid, &format!("route add {}/32 dev vpn", self.own()));
    }

    fn start_wireguard_client(&mut self, lines: &str) {
        let (private, public) = (self.key("client.key"), self.key("server.public"));
        let own = self.own();
        self.dir.write(
            "tun0.conf",
            format!(
                "[Interface]\nPrivateKey = {private}\nAddress = {own}/32\n{lines}\n[Peer]\nPublicKey = {public}\n\
                 AllowedIPs = 0.0.0.0/0\nEndpoint = {PUBLIC}:51820\nPersistentKeepalive = 25\n"
            ),
        );
        self.wg_quick("up");
    }

    fn wg_quick(&self, verb: &str) {
        let mut command = Command::new("wg-quick");
        command
            .env("WG_QUICK_USERSPACE_IMPLEMENTATION", "wireguard-go")
            .env("WG_I_PREFER_BUGGY_USERSPACE_TO_POLISHED_KMOD", "1");
        run(command.args([verb, &self.file("tun0.conf")]));
    }

    // ---- both kinds

    pub fn start_server(&mut self) {
        match self.kind {
            Kind::OpenVpn { topology, .. } => self.start_openvpn_server(topology),
            Kind::WireGuard { .. } => self.start_wireguard_server(),
        }
    }

    /// Kills the server and removes its device.
    pub fn stop_server(&mut self) {
        self.server = None;
        let pid = self.net.server.pid();
        let _ = netns::command_in(pid, "ip").args(["link", "del", "vpn"]).stderr(Stdio::null()).status();
    }

    /// Replaces the server with one in a different network.
    pub fn change_server(&mut self, own: Ipv4Addr, gateway: Ipv4Addr) {
        self.stop_server();
        *lock(&self.own) = own;
        self.gateway = gateway;
        self.start_server();
    }

    /// Starts our client without waiting for the tunnel.
    pub fn start(&mut self) {
        match self.kind {
            Kind::OpenVpn { pull, .. } => self.start_openvpn_client(pull),
            Kind::WireGuard { lines } => self.start_wireguard_client(lines),
        }
    }

    /// Stops our client cleanly, which removes its device.
    pub fn stop(&mut self) {
        match self.kind {
            Kind::WireGuard { .. } => self.wg_quick("down"),
            Kind::OpenVpn { .. } => {
                if let Some(mut client) = self.client.take() {
                    // OpenVPN 2.6.14 loses a SIGTERM that arrives within about 10 ms of its start.
                    let ended = (0..STOP_ATTEMPTS).any(|_| {
                        send(client.0.id(), Signal::TERM).expect("a running openvpn");
                        wait_until(STOP_LIMIT, || matches!(client.0.try_wait(), Ok(Some(_))))
                    });
                    assert!(ended, "openvpn does not end: {:?}", fs::read_to_string(self.file("client.log")));
                }
            }
        }
    }

    /// Sends a signal to our client, for the restarts that `OpenVPN` alone has.
    pub fn signal(&self, signal: Signal) {
        send(self.client.as_ref().expect("openvpn").0.id(), signal).expect("a running openvpn");
    }

    /// Waits until the tunnel carries packets; returns the time.
    pub fn wait_until_up(&self) -> Instant {
        let carries = || can_connect(self.own(), (self.gateway, ECHO).into());
        assert!(wait_until(UP_LIMIT, carries), "the VPN is not up: {:?}", fs::read_to_string(self.file("client.log")));
        Instant::now()
    }

    /// Changes our client's address from its next start on.
    pub fn change_address(&mut self, own: Ipv4Addr) {
        let before = std::mem::replace(&mut *lock(&self.own), own);
        match self.kind {
            Kind::OpenVpn { .. } => {
                let push = format!("ifconfig-push {own} 255.255.255.0\n");
                fs::write(self.dir.path().join("clients/client"), push).expect("a file");
            }
            Kind::WireGuard { .. } => {
                let pid = self.net.server.pid();
                let mut set = netns::command_in(pid, "wg");
                let allowed = format!("{own}/32");
                run(set.args(["set", "vpn", "peer", &self.key("client.public"), "allowed-ips", &allowed]));
                ip(pid, &format!("route del {before}/32 dev vpn"));
                ip(pid, &format!("route add {own}/32 dev vpn"));
            }
        }
    }
}

impl Drop for Vpn {
    fn drop(&mut self) {
        if let Kind::WireGuard { .. } = self.kind {
            let mut command = Command::new("ip");
            let _ = command.args(["link", "del", "tun0"]).stderr(Stdio::null()).status();
        }
    }
}
