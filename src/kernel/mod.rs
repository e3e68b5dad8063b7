//! Queries to the kernel over netlink: devices and addresses, the route to a remote, the sockets on a port, and
//! notifications of network changes. No query needs privileges or sends a packet. The keeper decides how to react to
//! the answers.

pub mod events;
pub mod netlink;
mod sockets;

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::rc::Rc;

use rustix::io::Errno;

use crate::error::Cause;
use crate::http::dial::{Guard, Interrupt};
use crate::keeper::tunnel::{Device, GatewayRoute};
use events::{Events, RouteWatch};
use netlink::{Address, Link, Query, Route};
use sockets::is_public;
pub use sockets::{inspect, listener_owner};

/// A public address, whose route is the default route unless the user has routed it differently; nothing is sent there.
const ANYWHERE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(1, 1, 1, 1)), 443);

/// Snapshot of devices and addresses.
#[derive(Default)]
pub struct Network {
    links: Vec<Link>,
    addresses: Vec<Address>,
    /// The only device that counts as a tunnel (`VPN_INTERFACE`); `None` if the user has named none.
    vpn: Option<String>,
    /// Error if the kernel refuses netlink, as in some sandboxes; `links` and `addresses` are then empty.
    pub refused: Option<io::Error>,
    /// Events that interrupt exchanges; `None` if exchanges cannot be interrupted.
    events: Option<Rc<Events>>,
}

/// A network reached through a tunnel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TunnelNetwork {
    pub device: String,
    /// Network address, e.g. 10.10.112.0; 0.0.0.0 for a default route.
    pub first: Ipv4Addr,
    /// Prefix length in bits.
    pub prefix: u8,
    pub hop: Option<Ipv4Addr>,
}

impl Network {
    /// Takes a snapshot. `vpn` names the only device that counts as a tunnel (`VPN_INTERFACE`); `None` judges each device by its
    /// kind and its addresses.
    pub fn snapshot(vpn: Option<&str>) -> Self {
        let links = Query::links().ask(Link::parse);
        let mut network = match links.and_then(|links| Ok((links, Query::addresses().ask(Address::parse)?))) {
            Ok((links, addresses)) => Self { links, addresses, ..Self::default() },
            Err(error) => Self { refused: Some(error), ..Self::default() },
        };
        network.vpn = vpn.map(str::to_owned);
        network.find_tunnels();
        network
    }

    /// Takes a snapshot for exchanges that `events` can interrupt.
    pub fn watched(vpn: Option<&str>, events: Option<&Rc<Events>>) -> Self {
        Self { events: events.cloned(), ..Self::snapshot(vpn) }
    }

    /// A VPN gives us private addresses; a device with a public one is a WAN.
    fn find_tunnels(&mut self) {
        for link in &mut self.links {
            let mut own = self.addresses.iter().filter(|address| address.device == link.index);
            link.tunnel = match &self.vpn {
                Some(vpn) => link.name == *vpn,
                None => link.tunnel && !own.any(|address| address.own.is_ipv4() && is_public(address.own)),
            };
        }
    }

    /// Returns an interrupt that ends an exchange with `to` once the route to `to` differs from `route`.
    pub fn watch(&self, to: SocketAddr, route: GatewayRoute) -> Option<Rc<dyn Interrupt>> {
        Some(Rc::new(RouteWatch::new(self.events.as_ref()?, self.vpn.clone(), to, route)?))
    }

    /// Returns a guard that lets a request pass only if its connection still takes `route`, and if that leads through a tunnel.
    pub fn guard(&self, route: GatewayRoute) -> Guard {
        let vpn = self.vpn.clone();
        Rc::new(move |local, remote| {
            let now = Self::snapshot(vpn.as_deref()).route_from(remote, Some(local.ip()));
            let same = now.is_ok_and(|now| now.is_tunnel() && now.local == route.local && now.device == route.device);
            if same { Ok(()) } else { Err(Cause::RouteChanged) }
        })
    }

    /// Route that a connection to `to` would take now, or the kernel's error if there is none.
    ///
    /// If only a routing rule for source addresses leads into a tunnel, returns the route from our address on that
    /// tunnel; the connection must then be bound to that address.
    pub fn route_to(&self, to: SocketAddr) -> io::Result<GatewayRoute> {
        if self.refused.is_some() {
            let local = local_address_towards(to)?;
            return Ok(GatewayRoute { local, hop: None, device: None, by_source: false });
        }
        let direct = self.route_from(to, None);
        // A remote without a next hop is on a directly connected network, not behind a tunnel.
        if direct.as_ref().is_ok_and(|route| route.is_tunnel() || route.hop.is_none()) {
            return direct;
        }
        let tunnelled = self.tunnel_addresses().filter(|own| own.is_ipv4() == to.is_ipv4());
        let by_source = tunnelled.filter_map(|own| self.route_from(to, Some(own)).ok()).find(GatewayRoute::is_tunnel);
        by_source.map_or(direct, Ok)
    }

    /// Route into the VPN, by the evidence of the default route: into a tunnel or, if it depends on the source address, into the
    /// only tunnel from whose address it leads there. Without such evidence, the route that traffic takes outside of a tunnel.
    pub fn default_route(&self) -> io::Result<GatewayRoute> {
        if self.refused.is_some() {
            return self.route_to(ANYWHERE);
        }
        let direct = self.route_from(ANYWHERE, None);
        if direct.as_ref().is_ok_and(GatewayRoute::is_tunnel) {
            return direct;
        }
        let own: Vec<_> = self.tunnel_addresses().filter(IpAddr::is_ipv4).collect();
        let mut routes: Vec<_> = own.iter().filter_map(|own| self.route_from(ANYWHERE, Some(*own)).ok()).collect();
        routes.retain(GatewayRoute::is_tunnel);
        routes.dedup_by_key(|route| route.device.as_ref().map(|device| device.index));
        match (routes.pop(), &self.vpn) {
            (Some(route), _) if routes.is_empty() => Ok(route),
            // The user has named the device, so it needs no further evidence.
            (None, Some(_)) if !own.is_empty() => {
                let device = self.links.iter().find(|link| link.tunnel).map(device);
                Ok(GatewayRoute { local: own[0], hop: None, device, by_source: true })
            }
            _ => direct,
        }
    }

    fn route_from(&self, to: SocketAddr, source: Option<IpAddr>) -> io::Result<GatewayRoute> {
        let found = Query::route(to, source).ask(Route::parse)?.pop();
        let route = found.ok_or_else(|| io::Error::from(io::ErrorKind::NetworkUnreachable))?;
        let device = self.link(route.device).map(device);
        let local = match source.or(route.source) {
            Some(local) => local,
            None => local_address_towards(to)?,
        };
        Ok(GatewayRoute { local, hop: route.hop, device, by_source: source.is_some() })
    }

    /// IPv4 networks reached through tunnels, from all routing tables.
    pub fn tunnel_networks(&self) -> Vec<TunnelNetwork> {
        let routes = Query::routes().ask(Route::parse).unwrap_or_default();
        let v4 = |ip: Option<IpAddr>| match ip {
            Some(IpAddr::V4(ip)) => Some(ip),
            _ => None,
        };
        let beyond = |route: Route| {
            let link = self.link(route.device).filter(|link| link.tunnel)?;
            let first = v4(route.to).unwrap_or(Ipv4Addr::UNSPECIFIED);
            let foreign = !self.has_address(first.into());
            let hop = v4(route.hop);
            foreign.then(|| TunnelNetwork { device: link.name.clone(), first, prefix: route.prefix, hop })
        };
        routes.into_iter().filter_map(beyond).collect()
    }

    /// Our IPv4 addresses on tunnels, each with the address at the other end of the tunnel, if known.
    pub fn tunnel_ends(&self) -> Vec<(Ipv4Addr, Option<Ipv4Addr>)> {
        let ends = self.addresses.iter().filter(|address| self.is_tunnel(address.device));
        let ends = ends.filter_map(|address| match (address.own, address.other) {
            (IpAddr::V4(own), Some(IpAddr::V4(other))) => Some((own, Some(other))),
            (IpAddr::V4(own), _) => Some((own, None)),
            _ => None,
        });
        ends.collect()
    }

    pub fn has_address(&self, address: IpAddr) -> bool {
        address.is_loopback() || self.addresses.iter().any(|known| known.own == address)
    }

    /// True if only the loopback device is left, as in the network namespace of a removed VPN container. Devices that are down do
    /// not count: some kernel modules add one to each namespace (`tunl0`, `sit0`).
    pub fn is_isolated(&self) -> bool {
        !self.links.is_empty() && self.links.iter().all(|link| link.loopback || !link.up)
    }

    /// Indexes of the devices that may be a VPN's.
    pub fn tunnels(&self) -> impl Iterator<Item = u32> {
        self.links.iter().filter(|link| link.tunnel).map(|link| link.index)
    }

    fn tunnel_addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.addresses.iter().filter(|address| self.is_tunnel(address.device)).map(|address| address.own)
    }

    fn is_tunnel(&self, index: u32) -> bool {
        self.link(index).is_some_and(|link| link.tunnel)
    }

    fn link(&self, index: u32) -> Option<&Link> {
        self.links.iter().find(|link| link.index == index)
    }
}

/// True if a query for a route failed because there is none, and not because the query failed.
pub fn is_no_route(error: &io::Error) -> bool {
    // EINVAL and EACCES are the answers of blackhole and prohibit routes.
    let unroutable = [Errno::NETUNREACH, Errno::HOSTUNREACH, Errno::INVAL, Errno::ACCESS];
    error.kind() == io::ErrorKind::NetworkUnreachable
        || Errno::from_io_error(error).is_some_and(|code| unroutable.contains(&code))
}

fn device(link: &Link) -> Device {
    Device { index: link.index, name: link.name.clone(), tunnel: link.tunnel }
}

/// Local address from which this host would contact `remote`; an error if there is no route.
///
/// Connecting a UDP socket makes the kernel choose a route but sends nothing.
fn local_address_towards(remote: SocketAddr) -> io::Result<IpAddr> {
    let any: IpAddr = if remote.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect(remote)?;
    Ok(socket.local_addr()?.ip())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_reached_from_loopback() {
        let network = Network::snapshot(None);
        assert!(network.refused.is_none());
        let route = network.route_to("127.0.0.1:19999".parse().unwrap()).unwrap();
        assert_eq!((route.local.to_string().as_str(), route.hop, route.by_source), ("127.0.0.1", None, false));
        assert_eq!(route.device, Some(Device { index: 1, name: "lo".to_owned(), tunnel: false }));
        assert!(network.has_address("127.0.0.1".parse().unwrap()) && network.has_address("127.9.9.9".parse().unwrap()));
        assert!(!network.has_address("192.0.2.1".parse().unwrap()));
    }

    /// Devices as (name, may be a VPN's, is up, address).
    fn network(devices: &[(&str, bool, bool, &str)]) -> Network {
        let mut network = Network::default();
        for (index, (name, tunnel, up, own)) in (1..).zip(devices) {
            let (name, tunnel, up) = ((*name).to_owned(), *tunnel, *up);
            network.links.push(Link { index, name, tunnel, loopback: index == 1, up });
            network.addresses.extend(own.parse().ok().map(|own| Address {
                device: index,
                own,
                other: None,
                prefix: 24,
            }));
        }
        network
    }

    #[test]
    fn a_tunnel_has_no_public_address() {
        let mut here = network(&[
            ("lo", false, true, "127.0.0.1"),
            ("tun0", true, true, "10.7.112.9"),
            ("wwan0", true, true, "84.17.5.6"),
            ("tailscale0", true, true, "100.101.102.103"),
            ("eth0", false, true, "192.168.1.7"),
        ]);
        let tunnels = |network: &Network| {
            let names = network.links.iter().filter(|link| link.tunnel).map(|link| link.name.clone());
            names.collect::<Vec<_>>().join(" ")
        };
        here.find_tunnels();
        assert_eq!(tunnels(&here), "tun0 tailscale0");
        for (vpn, expected) in [("ppp0", ""), ("eth0", "eth0")] {
            here.vpn = Some(vpn.to_owned());
            here.find_tunnels();
            assert_eq!(tunnels(&here), expected, "only the named device counts");
        }
    }

    #[test]
    fn devices_that_are_down_do_not_count() {
        let lo = ("lo", false, true, "127.0.0.1");
        assert!(network(&[lo, ("tunl0", false, false, "")]).is_isolated());
        assert!(!network(&[lo, ("tun0", true, true, "")]).is_isolated());
    }

    #[test]
    fn without_netlink_our_address_is_still_known() {
        let network = Network { refused: Some(io::ErrorKind::PermissionDenied.into()), ..Network::default() };
        let route = network.route_to("127.0.0.1:19999".parse().unwrap()).unwrap();
        assert_eq!((route.local.to_string().as_str(), route.device), ("127.0.0.1", None));
        assert!(!network.is_isolated());
    }
}
