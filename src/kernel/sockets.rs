//! Inspects the sockets on a port (`NETLINK_SOCK_DIAG`): listeners, their devices, and connections from incoming peers.

use std::io;
use std::net::IpAddr;

use super::Network;
use super::netlink::{Link, Query, Socket, TCP, UDP};
use crate::keeper::step::{ListenState, PortSockets};
use crate::keeper::tunnel::GatewayRoute;

/// `TCP_ESTABLISHED` and the states of a closing connection.
const CONNECTED: [u8; 5] = [1, 4, 5, 6, 8];
/// `TCP_CLOSE`, which is also the state of an unconnected UDP socket.
const UNCONNECTED: u8 = 7;
/// `TCP_LISTEN`.
const LISTENING: u8 = 10;

/// Inspects the sockets on `port`, which should receive traffic through the device of `route`. If `peers` is set, also
/// looks for incoming peers; the kernel then scans all its connections, which takes 1 to 2 ms. An error means that the
/// kernel refuses to list its sockets.
pub fn inspect(network: &Network, port: u16, route: Option<&GatewayRoute>, peers: bool) -> io::Result<PortSockets> {
    let sockets = |protocol, ipv6, states: &[u8]| {
        let states = states.iter().fold(0, |bits, state| bits | 1 << state);
        let mut sockets = Query::sockets(protocol, ipv6, port, states).ask(Socket::parse)?;
        // Some kernels ignore the port in the query.
        sockets.retain(|socket| socket.local.port() == port);
        io::Result::Ok(sockets)
    };
    let mut listeners = Vec::new();
    for ipv6 in [false, true] {
        listeners.extend(sockets(TCP, ipv6, &[LISTENING])?);
    }
    let mut incoming_peer = false;
    for ipv6 in [false, true].into_iter().filter(|_| peers) {
        if listeners.iter().any(|listener| listener.local.is_ipv6() == ipv6) {
            incoming_peer |= sockets(TCP, ipv6, &CONNECTED)?.iter().any(|socket| is_incoming(network, socket, route));
        }
    }
    // Some kernels report only TCP sockets; the state of UDP is then unknown.
    let udp = [false, true].into_iter().map(|ipv6| sockets(UDP, ipv6, &[UNCONNECTED])).collect::<io::Result<Vec<_>>>();
    let udp = udp.ok().map(|sockets| listen_state(network, &sockets.concat(), route));
    Ok(PortSockets { tcp: listen_state(network, &listeners, route), udp, incoming_peer })
}

/// State of the best listener. Listeners on a specific IPv6 address do not count, because qBittorrent also listens on
/// link-local addresses, which peers cannot reach.
fn listen_state(network: &Network, listeners: &[Socket], route: Option<&GatewayRoute>) -> ListenState {
    let tunnel = route.and_then(|route| route.device.as_ref()).filter(|device| device.tunnel);
    let mut best = ListenState::Missing;
    for socket in listeners {
        let address = socket.local.ip();
        let any = address.is_unspecified();
        if !any && !address.is_ipv4() {
            continue;
        }
        // A socket bound to a removed device never receives anything again; a socket bound to a removed address
        // recovers once the address is back.
        if (socket.device != 0 && network.link(socket.device).is_none()) || (!any && !network.has_address(address)) {
            if best == ListenState::Missing {
                best = ListenState::Stale;
            }
            continue;
        }
        match (device_of(network, socket), tunnel) {
            (Some(on), Some(tunnel)) if on.index != tunnel.index => {
                best = ListenState::WrongDevice { on: on.name.clone(), tunnel: tunnel.name.clone() };
            }
            _ => return ListenState::Reachable,
        }
    }
    best
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

fn is_public(address: IpAddr) -> bool {
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
    use std::net::{TcpListener, TcpStream, UdpSocket};

    use super::super::netlink::Address;
    use super::*;
    use crate::keeper::tunnel::Device;

    fn network() -> Network {
        let link = |index, name: &str, tunnel| Link { index, name: name.to_owned(), tunnel, loopback: name == "lo" };
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
        Socket { state, local: local.parse().unwrap(), remote: remote.parse().unwrap(), device }
    }

    #[test]
    fn the_state_of_a_listener_depends_on_device_and_address() {
        let elsewhere = |on: &str| ListenState::WrongDevice { on: on.to_owned(), tunnel: "tun0".to_owned() };
        for (sockets, expected) in [
            (&[][..], ListenState::Missing),
            (&[("0.0.0.0:4711", 0)], ListenState::Reachable),
            (&[("[::]:4711", 0)], ListenState::Reachable),
            (&[("0.0.0.0:4711", 7)], ListenState::Reachable),
            (&[("10.7.112.9:4711", 7)], ListenState::Reachable),
            (&[("10.7.112.9:4711", 0)], ListenState::Reachable),
            (&[("10.7.112.9:4711", 6)], ListenState::Stale),
            (&[("0.0.0.0:4711", 6)], ListenState::Stale),
            (&[("10.7.112.10:4711", 0)], ListenState::Stale),
            (&[("192.168.1.7:4711", 0)], elsewhere("eth0")),
            (&[("0.0.0.0:4711", 2)], elsewhere("eth0")),
            (&[("127.0.0.1:4711", 0)], elsewhere("lo")),
            (&[("10.7.112.9:4711", 6), ("192.168.1.7:4711", 0)], elsewhere("eth0")),
            (&[("192.168.1.7:4711", 0), ("10.7.112.9:4711", 7)], ListenState::Reachable),
            (&[("10.7.112.10:4711", 0), ("[fe80::1]:4711", 7)], ListenState::Stale),
            (&[("[fe80::1]:4711", 7)], ListenState::Missing),
        ] {
            let sockets: Vec<_> = sockets.iter().map(|(local, device)| socket(local, *device, "")).collect();
            assert_eq!(listen_state(&network(), &sockets, Some(&route())), expected, "{sockets:?}");
        }
        let on_lan = [socket("192.168.1.7:4711", 0, "")];
        assert_eq!(listen_state(&network(), &on_lan, None), ListenState::Reachable, "an unknown route is not judged");
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
        let network = Network::snapshot();
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = tcp.local_addr().unwrap().port();
        let seen = |port| inspect(&network, port, None, true).unwrap();
        assert_eq!((seen(port).tcp, seen(port).udp), (ListenState::Reachable, Some(ListenState::Missing)));
        let client = TcpStream::connect(tcp.local_addr().unwrap()).unwrap();
        drop(tcp);
        assert_eq!(*seen(port).listen_state(), ListenState::Missing, "a connection is not a listener");
        drop(client);
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        let seen = seen(udp.local_addr().unwrap().port());
        assert_eq!((&seen.tcp, seen.listen_state()), (&ListenState::Missing, &ListenState::Reachable));
    }
}
