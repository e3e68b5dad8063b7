//! Who listens on a port, on which device, and who came in from outside (`NETLINK_SOCK_DIAG`).

use std::io;
use std::net::IpAddr;

use super::Network;
use super::netlink::{Link, Question, Socket, TCP, UDP};
use crate::keeper::step::{Listener, Witness};
use crate::keeper::tunnel::Way;

/// States of sockets, by number: `TCP_ESTABLISHED` and those of a connection that is being closed, an unconnected UDP socket, a
/// listener.
const CONNECTED: [u8; 5] = [1, 4, 5, 6, 8];
const UNCONNECTED: u8 = 7;
const LISTENING: u8 = 10;

/// Looks at the sockets on `port`; `way` is the one that the port comes in on. With `peers` also at who came in, for which the kernel
/// goes through all its connections: a millisecond or two. The error says that the kernel does not tell.
pub fn inspect(network: &Network, port: u16, way: Option<&Way>, peers: bool) -> io::Result<Witness> {
    let sockets = |protocol, ipv6, states: &[u8]| {
        let states = states.iter().fold(0, |bits, state| bits | 1 << state);
        let mut sockets = Question::sockets(protocol, ipv6, port, states).ask(Socket::parse)?;
        // Whatever a kernel answers that does not filter.
        sockets.retain(|socket| socket.local.port() == port);
        io::Result::Ok(sockets)
    };
    let mut listeners = Vec::new();
    for ipv6 in [false, true] {
        listeners.extend(sockets(TCP, ipv6, &[LISTENING])?);
    }
    let mut peer = false;
    for ipv6 in [false, true].into_iter().filter(|_| peers) {
        if listeners.iter().any(|listener| listener.local.is_ipv6() == ipv6) {
            peer |= sockets(TCP, ipv6, &CONNECTED)?.iter().any(|socket| came_in(network, socket, way));
        }
    }
    // Some kernels tell of TCP alone.
    let udp = [false, true].into_iter().map(|ipv6| sockets(UDP, ipv6, &[UNCONNECTED])).collect::<io::Result<Vec<_>>>();
    let udp = udp.ok().map(|sockets| judge(network, &sockets.concat(), way));
    Ok(Witness { tcp: judge(network, &listeners, way), udp, peer })
}

/// What listens. One that peers can reach over IPv4 is enough; qBittorrent listens on a link-local address as well.
fn judge(network: &Network, listeners: &[Socket], way: Option<&Way>) -> Listener {
    let tunnel = way.and_then(|way| way.device.as_ref()).filter(|device| device.tunnel);
    let mut best = Listener::Unseen;
    for socket in listeners {
        let address = socket.local.ip();
        let any = address.is_unspecified();
        if !any && !address.is_ipv4() {
            continue;
        }
        // Bound to a device that is gone it hears nothing for ever; bound to an address, only while that is nobody's here.
        if (socket.device != 0 && network.link(socket.device).is_none()) || (!any && !network.has(address)) {
            if best == Listener::Unseen {
                best = Listener::Dead;
            }
            continue;
        }
        match (device_of(network, socket), tunnel) {
            (Some(on), Some(tunnel)) if on.index != tunnel.index => {
                best = Listener::Elsewhere { on: on.name.clone(), tunnel: tunnel.name.clone() };
            }
            _ => return Listener::Open,
        }
    }
    best
}

/// The device that a socket is confined to, if it is.
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

/// Whether this is a connection of somebody outside who came in through the tunnel.
fn came_in(network: &Network, socket: &Socket, way: Option<&Way>) -> bool {
    let Some(tunnel) = way.and_then(|way| way.device.as_ref()).filter(|device| device.tunnel) else { return false };
    is_public(socket.remote.ip()) && device_of(network, socket).is_some_and(|on| on.index == tunnel.index)
}

fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            // 100.64.0.0/10 is a provider's own network (RFC 6598).
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

    fn way() -> Way {
        let device = Device { index: 7, name: "tun0".to_owned(), tunnel: true };
        Way { local: "10.7.112.9".parse().unwrap(), hop: None, device: Some(device), by_source: false }
    }

    fn socket(local: &str, device: u32, remote: &str) -> Socket {
        let state = if remote.is_empty() { LISTENING } else { CONNECTED[0] };
        let remote = if remote.is_empty() { "0.0.0.0:0" } else { remote };
        Socket { state, local: local.parse().unwrap(), remote: remote.parse().unwrap(), device }
    }

    #[test]
    fn a_listener_is_judged_by_its_device_and_address() {
        let elsewhere = |on: &str| Listener::Elsewhere { on: on.to_owned(), tunnel: "tun0".to_owned() };
        for (sockets, expected) in [
            (&[][..], Listener::Unseen),
            (&[("0.0.0.0:4711", 0)], Listener::Open),
            (&[("[::]:4711", 0)], Listener::Open),
            (&[("0.0.0.0:4711", 7)], Listener::Open),
            (&[("10.7.112.9:4711", 7)], Listener::Open),
            (&[("10.7.112.9:4711", 0)], Listener::Open),
            (&[("10.7.112.9:4711", 6)], Listener::Dead),
            (&[("0.0.0.0:4711", 6)], Listener::Dead),
            (&[("10.7.112.10:4711", 0)], Listener::Dead),
            (&[("192.168.1.7:4711", 0)], elsewhere("eth0")),
            (&[("0.0.0.0:4711", 2)], elsewhere("eth0")),
            (&[("127.0.0.1:4711", 0)], elsewhere("lo")),
            (&[("10.7.112.9:4711", 6), ("192.168.1.7:4711", 0)], elsewhere("eth0")),
            (&[("192.168.1.7:4711", 0), ("10.7.112.9:4711", 7)], Listener::Open),
            (&[("10.7.112.10:4711", 0), ("[fe80::1]:4711", 7)], Listener::Dead),
            (&[("[fe80::1]:4711", 7)], Listener::Unseen),
        ] {
            let sockets: Vec<_> = sockets.iter().map(|(local, device)| socket(local, *device, "")).collect();
            assert_eq!(judge(&network(), &sockets, Some(&way())), expected, "{sockets:?}");
        }
        let on_lan = [socket("192.168.1.7:4711", 0, "")];
        assert_eq!(judge(&network(), &on_lan, None), Listener::Open, "where the port comes in is not known");
    }

    #[test]
    fn a_peer_from_outside_came_in_through_the_tunnel() {
        for (local, device, peer, expected) in [
            ("10.7.112.9:4711", 7, "84.17.5.6:50000", true),
            ("10.7.112.9:4711", 0, "84.17.5.6:50000", true),
            ("10.7.112.9:4711", 7, "10.7.112.1:50000", false),
            ("10.7.112.9:4711", 7, "100.64.3.4:50000", false),
            ("192.168.1.7:4711", 0, "84.17.5.6:50000", false),
            ("192.168.1.7:4711", 0, "192.168.1.9:50000", false),
        ] {
            let socket = socket(local, device, peer);
            assert_eq!(came_in(&network(), &socket, Some(&way())), expected, "{socket:?}");
        }
    }

    #[test]
    fn sockets_of_this_host_are_seen() {
        let network = Network::snapshot();
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = tcp.local_addr().unwrap().port();
        let seen = |port| inspect(&network, port, None, true).unwrap();
        assert_eq!((seen(port).tcp, seen(port).udp), (Listener::Open, Some(Listener::Unseen)));
        let client = TcpStream::connect(tcp.local_addr().unwrap()).unwrap();
        drop(tcp);
        assert_eq!(*seen(port).listener(), Listener::Unseen, "a connection is no listener");
        drop(client);
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        let seen = seen(udp.local_addr().unwrap().port());
        assert_eq!((&seen.tcp, seen.listener()), (&Listener::Unseen, &Listener::Open));
    }
}
