//! Inspects the sockets on a port (`NETLINK_SOCK_DIAG`): listeners, their devices, and connections from incoming peers.

use std::io;
use std::net::{IpAddr, SocketAddr};

use super::Network;
use super::netlink::{Link, Query, Socket, TCP, UDP};
use crate::keeper::step::{Inspection, ListenState, PortSockets};
use crate::keeper::tunnel::GatewayRoute;

/// `TCP_ESTABLISHED` and the states of a closing connection.
const CONNECTED: [u8; 5] = [1, 4, 5, 6, 8];
/// `TCP_CLOSE`, which is also the state of an unconnected UDP socket.
const UNCONNECTED: u8 = 7;
/// `TCP_LISTEN`.
const LISTENING: u8 = 10;

/// Inspects the sockets on a port, which should receive traffic through the device of `of.route`. `api` is the local port of the
/// client's API. If `of.peers` is set, also looks for incoming peers; the kernel then scans all its connections, which takes 1 to
/// 2 ms. An error means that the kernel refuses to list its sockets.
pub fn inspect(network: &Network, of: &Inspection, api: Option<u16>) -> io::Result<PortSockets> {
    let route = of.route.as_ref();
    let mut listeners = sockets(TCP, of.port, &[LISTENING])?;
    let inodes = listeners.iter().map(|socket| socket.inode).filter(|&inode| inode != 0).collect();
    let is_foreign = |socket: &Socket| of.foreign.contains(&socket.inode);
    let foreign = listeners.iter().any(is_foreign);
    listeners.retain(|socket| !is_foreign(socket));
    let incoming_peer = of.peers
        && !listeners.is_empty()
        && sockets(TCP, of.port, &CONNECTED)?.iter().any(|socket| is_incoming(network, socket, route));
    // Some kernels report only TCP sockets; the state of UDP is then unknown.
    let udp = sockets(UDP, of.port, &[UNCONNECTED]).ok().map(|sockets| listen_state(network, &sockets, route));
    let owners = api.map_or(Ok(Vec::new()), |api| sockets(TCP, api, &[LISTENING]))?;
    let other_user =
        !owners.is_empty() && listeners.iter().any(|socket| owners.iter().all(|owner| owner.uid != socket.uid));
    Ok(PortSockets { tcp: listen_state(network, &listeners, route), udp, incoming_peer, inodes, foreign, other_user })
}

/// User whose socket accepts connections to `address`, which is ours; `None` if the kernel shows no such socket.
pub fn listener_owner(address: SocketAddr) -> Option<u32> {
    let listeners = sockets(TCP, address.port(), &[LISTENING]).ok()?;
    // The kernel prefers the socket with the more specific address.
    let rank = |socket: &Socket| match socket.local.ip() {
        ip if ip == address.ip() => Some(2),
        ip if !ip.is_unspecified() => None,
        ip if ip.is_ipv4() == address.is_ipv4() => Some(1),
        _ => (address.is_ipv4() && !socket.v6only).then_some(0),
    };
    let best = listeners.iter().filter_map(|socket| Some((rank(socket)?, socket.uid))).max_by_key(|(rank, _)| *rank);
    best.map(|(_, uid)| uid)
}

/// Sockets of both families on `port`, in any of `states`.
fn sockets(protocol: u8, port: u16, states: &[u8]) -> io::Result<Vec<Socket>> {
    let states = states.iter().fold(0, |bits, state| bits | 1 << state);
    let mut found = Vec::new();
    for ipv6 in [false, true] {
        found.extend(Query::sockets(protocol, ipv6, port, states).ask(Socket::parse)?);
    }
    // Some kernels ignore the port in the query.
    found.retain(|socket| socket.local.port() == port);
    Ok(found)
}

/// Whether peers, who come over IPv4, reach one of the listeners; if not, the likeliest reason.
fn listen_state(network: &Network, listeners: &[Socket], route: Option<&GatewayRoute>) -> ListenState {
    let tunnel = route.and_then(|route| route.device.as_ref()).filter(|device| device.tunnel);
    let (mut stale, mut ipv6_only, mut elsewhere) = (false, false, Vec::new());
    for socket in listeners {
        let address = socket.local.ip();
        let any = address.is_unspecified();
        if !any && !address.is_ipv4() {
            ipv6_only = true;
            continue;
        }
        // A socket bound to a removed device never receives anything again; a socket bound to a removed address recovers once the
        // address is back.
        if (socket.device != 0 && network.link(socket.device).is_none()) || (!any && !network.has_address(address)) {
            stale = true;
        } else if socket.v6only {
            ipv6_only = true;
        } else {
            match (device_of(network, socket), tunnel) {
                (Some(on), Some(tunnel)) if on.index != tunnel.index => elsewhere.push(on.name.clone()),
                _ => return ListenState::Reachable,
            }
        }
    }
    elsewhere.sort_unstable();
    elsewhere.dedup();
    // A dead socket explains more than live ones on other devices: libtorrent opens one for each address of the host.
    match (stale, elsewhere.is_empty(), ipv6_only) {
        (true, ..) => ListenState::Stale,
        (_, false, _) => ListenState::WrongDevice(elsewhere),
        (_, _, true) => ListenState::Ipv6Only,
        _ => ListenState::Missing,
    }
}

/// The only device on which the socket receives traffic; `None` if the socket is not limited to one device.
fn device_of<'a>(network: &'a Network, socket: &Socket) -> Option<&'a Link> {
    let address = socket.local.ip();
    if socket.device != 0 {
        return network.link(socket.device);
    }
    if address.is_loopback() {
        return network.links.iter().find(|link| link.loopback);
    }
    let own = network.addresses.iter().find(|known| known.own == address)?;
    network.link(own.device)
}

/// True if the socket is a connection that a peer with a public address opened through the tunnel.
fn is_incoming(network: &Network, socket: &Socket, route: Option<&GatewayRoute>) -> bool {
    let Some(tunnel) = route.and_then(|route| route.device.as_ref()).filter(|device| device.tunnel) else {
        return false;
    };
    is_public(socket.remote.ip()) && device_of(network, socket).is_some_and(|on| on.index == tunnel.index)
}

pub(super) fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            // Internet providers use 100.64.0.0/10 inside their own networks (RFC 6598).
            let shared = v4.octets()[0] == 100 && v4.octets()[1] & 0xc0 == 64;
            !(v4.is_private() || v4.is_loopback() || v4.is_link_local() || v4.is_unspecified() || shared)
        }
        IpAddr::V6(v6) => {
            !(v6.is_unique_local() || v6.is_loopback() || v6.is_unicast_link_local() || v6.is_unspecified())
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};

    use rustix::net::{AddressFamily, SocketType, sockopt};

    use super::super::netlink::Address;
    use super::*;
    use crate::keeper::tunnel::Device;

    fn network() -> Network {
        let link =
            |index, name: &str, tunnel| Link { index, name: name.to_owned(), tunnel, loopback: name == "lo", up: true };
        let address = |device, own: &str| Address { device, own: own.parse().unwrap(), other: None, prefix: 24 };
        Network {
            links: vec![link(1, "lo", false), link(2, "eth0", false), link(7, "tun0", true)],
            addresses: vec![address(2, "192.168.1.7"), address(7, "10.7.112.9")],
            ..Network::default()
        }
    }

    fn route() -> GatewayRoute {
        let device = Device { index: 7, name: "tun0".to_owned(), tunnel: true };
        GatewayRoute { local: "10.7.112.9".parse().unwrap(), hop: None, device: Some(device), by_source: false }
    }

    fn socket(local: &str, device: u32, remote: &str) -> Socket {
        let state = if remote.is_empty() { LISTENING } else { CONNECTED[0] };
        let remote = if remote.is_empty() { "0.0.0.0:0" } else { remote };
        let (local, remote) = (local.parse().unwrap(), remote.parse().unwrap());
        Socket { state, local, remote, device, uid: 0, inode: 0, v6only: false }
    }

    #[test]
    fn the_state_of_a_listener_depends_on_device_and_address() {
        let elsewhere = |on: &[&str]| ListenState::WrongDevice(on.iter().map(|on| (*on).to_owned()).collect());
        let (lan, dead, lo) = (("192.168.1.7:4711", 2), ("10.7.112.9:4711", 6), ("127.0.0.1:4711", 1));
        for (sockets, expected) in [
            (&[][..], ListenState::Missing),
            (&[("0.0.0.0:4711", 0)], ListenState::Reachable),
            (&[("[::]:4711", 0)], ListenState::Reachable),
            (&[("0.0.0.0:4711", 7)], ListenState::Reachable),
            (&[("10.7.112.9:4711", 7)], ListenState::Reachable),
            (&[("10.7.112.9:4711", 0)], ListenState::Reachable),
            (&[dead], ListenState::Stale),
            (&[("0.0.0.0:4711", 6)], ListenState::Stale),
            (&[("10.7.112.10:4711", 0)], ListenState::Stale),
            (&[("192.168.1.7:4711", 0)], elsewhere(&["eth0"])),
            (&[("0.0.0.0:4711", 2)], elsewhere(&["eth0"])),
            (&[("127.0.0.1:4711", 0)], elsewhere(&["lo"])),
            // A libtorrent that listens on any interface, and its socket in the tunnel dead, missing, and alive.
            (&[lo, dead, lan], ListenState::Stale),
            (&[lo, lan], elsewhere(&["eth0", "lo"])),
            (&[lo, lan, ("10.7.112.9:4711", 7)], ListenState::Reachable),
            (&[("10.7.112.10:4711", 0), ("[fe80::1]:4711", 7)], ListenState::Stale),
            (&[("[fe80::1]:4711", 7)], ListenState::Ipv6Only),
        ] {
            let sockets: Vec<_> = sockets.iter().map(|(local, device)| socket(local, *device, "")).collect();
            assert_eq!(listen_state(&network(), &sockets, Some(&route())), expected, "{sockets:?}");
        }
        let on_lan = [socket("192.168.1.7:4711", 0, "")];
        assert_eq!(listen_state(&network(), &on_lan, None), ListenState::Reachable, "an unknown route is not judged");
    }

    #[test]
    fn a_socket_for_ipv6_only_is_not_reachable() {
        let ipv6 = |device| Socket { v6only: true, ..socket("[::]:4711", device, "") };
        let state = |sockets: &[Socket]| listen_state(&network(), sockets, Some(&route()));
        assert_eq!(state(&[ipv6(0)]), ListenState::Ipv6Only);
        assert_eq!(state(&[ipv6(0), socket("10.7.112.9:4711", 0, "")]), ListenState::Reachable);
        // Transmission, after the tunnel has returned with a different address.
        assert_eq!(state(&[ipv6(0), socket("10.7.112.10:4711", 0, "")]), ListenState::Stale);
    }

    #[test]
    fn only_a_public_address_in_the_tunnel_is_an_incoming_peer() {
        for (local, device, peer, expected) in [
            ("10.7.112.9:4711", 7, "84.17.5.6:50000", true),
            ("10.7.112.9:4711", 0, "84.17.5.6:50000", true),
            ("10.7.112.9:4711", 7, "10.7.112.1:50000", false),
            ("10.7.112.9:4711", 7, "100.64.3.4:50000", false),
            ("192.168.1.7:4711", 0, "84.17.5.6:50000", false),
            ("192.168.1.7:4711", 0, "192.168.1.9:50000", false),
        ] {
            let socket = socket(local, device, peer);
            assert_eq!(is_incoming(&network(), &socket, Some(&route())), expected, "{socket:?}");
        }
    }

    #[test]
    fn sockets_of_this_host_are_found() {
        let network = Network::snapshot(None);
        let look =
            |port, foreign| inspect(&network, &Inspection { port, route: None, peers: true, foreign }, None).unwrap();
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = tcp.local_addr().unwrap().port();
        let seen = look(port, Vec::new());
        assert_eq!((&seen.tcp, seen.udp), (&ListenState::Reachable, Some(ListenState::Missing)));
        assert!(seen.inodes.len() == 1 && !seen.foreign && !seen.other_user, "{:?}", seen.inodes);
        let without = look(port, seen.inodes);
        assert_eq!((&without.tcp, without.foreign), (&ListenState::Missing, true), "a different program's socket");
        let client = TcpStream::connect(tcp.local_addr().unwrap()).unwrap();
        drop(tcp);
        assert_eq!(*look(port, Vec::new()).listen_state(), ListenState::Missing, "a connection is not a listener");
        drop(client);
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        let seen = look(udp.local_addr().unwrap().port(), Vec::new());
        assert_eq!((&seen.tcp, seen.listen_state()), (&ListenState::Missing, &ListenState::Reachable));
    }

    #[test]
    fn the_owner_of_a_listener_is_found() {
        let listener = TcpListener::bind("[::]:0").unwrap();
        let at = |ip: &str| SocketAddr::new(ip.parse().unwrap(), listener.local_addr().unwrap().port());
        let own = rustix::process::getuid().as_raw();
        for ip in ["127.0.0.1", "127.7.7.7", "::1"] {
            assert_eq!(listener_owner(at(ip)), Some(own), "{ip}");
        }
        let closed = at("127.99.99.99");
        drop(listener);
        assert_eq!(listener_owner(closed), None);
        let specific = TcpListener::bind("127.8.8.8:0").unwrap().local_addr().unwrap();
        assert_eq!(listener_owner(SocketAddr::from(([127, 9, 9, 9], specific.port()))), None, "of a different address");
    }

    #[test]
    fn the_kernel_reports_which_sockets_refuse_ipv4() {
        let network = Network::snapshot(None);
        let bind = |v6only| {
            let socket = rustix::net::socket(AddressFamily::INET6, SocketType::STREAM, None).unwrap();
            sockopt::set_ipv6_v6only(&socket, v6only).unwrap();
            rustix::net::bind(&socket, &SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0))).unwrap();
            rustix::net::listen(&socket, 1).unwrap();
            TcpListener::from(socket)
        };
        for (v6only, state) in [(true, ListenState::Ipv6Only), (false, ListenState::Reachable)] {
            let listener = bind(v6only);
            let port = listener.local_addr().unwrap().port();
            let of = Inspection { port, route: None, peers: false, foreign: Vec::new() };
            assert_eq!(inspect(&network, &of, None).unwrap().tcp, state);
        }
    }
}
