//! Queries to the kernel over netlink: devices and addresses, the route to a remote, the sockets on a port, and
//! notifications of network changes. No query needs privileges or sends a packet. The keeper decides how to react to
//! the answers.

pub mod events;
pub mod netlink;
mod sockets;

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::rc::Rc;

use crate::http::dial::Interrupt;
use crate::keeper::tunnel::{Device, GatewayRoute};
use events::{Events, RouteWatch};
use netlink::{Address, Link, Query, Route};
pub use sockets::inspect;

/// Snapshot of devices and addresses.
#[derive(Default)]
pub struct Network {
    links: Vec<Link>,
    addresses: Vec<Address>,
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
    pub fn snapshot() -> Self {
        let links = Query::links().ask(Link::parse);
        match links.and_then(|links| Ok((links, Query::addresses().ask(Address::parse)?))) {
            Ok((links, addresses)) => Self { links, addresses, ..Self::default() },
            Err(error) => Self { refused: Some(error), ..Self::default() },
        }
    }

    /// Takes a snapshot for exchanges that `events` can interrupt.
    pub fn watched(events: Option<&Rc<Events>>) -> Self {
        Self { events: events.cloned(), ..Self::snapshot() }
    }

    /// Returns an interrupt that ends an exchange with `to` once the route to `to` differs from `route`.
    pub fn watch(&self, to: SocketAddr, route: GatewayRoute) -> Option<Rc<dyn Interrupt>> {
        Some(Rc::new(RouteWatch::new(self.events.as_ref()?, to, route)?))
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

    fn route_from(&self, to: SocketAddr, source: Option<IpAddr>) -> io::Result<GatewayRoute> {
        let found = Query::route(to, source).ask(Route::parse)?.pop();
        let route = found.ok_or_else(|| io::Error::from(io::ErrorKind::NetworkUnreachable))?;
        let device = self.link(route.device).map(|link| Device {
            index: link.index,
            name: link.name.clone(),
            tunnel: link.tunnel,
        });
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

    /// True if only the loopback device is left, as in the network namespace of a removed VPN container.
    pub fn is_isolated(&self) -> bool {
        !self.links.is_empty() && self.links.iter().all(|link| link.loopback)
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
        let network = Network::snapshot();
        assert!(network.refused.is_none());
        let route = network.route_to("127.0.0.1:19999".parse().unwrap()).unwrap();
        assert_eq!((route.local.to_string().as_str(), route.hop, route.by_source), ("127.0.0.1", None, false));
        assert_eq!(route.device, Some(Device { index: 1, name: "lo".to_owned(), tunnel: false }));
        assert!(network.has_address("127.0.0.1".parse().unwrap()) && network.has_address("127.9.9.9".parse().unwrap()));
        assert!(!network.has_address("192.0.2.1".parse().unwrap()));
    }

    #[test]
    fn without_netlink_our_address_is_still_known() {
        let network = Network { refused: Some(io::ErrorKind::PermissionDenied.into()), ..Network::default() };
        let route = network.route_to("127.0.0.1:19999".parse().unwrap()).unwrap();
        assert_eq!((route.local.to_string().as_str(), route.device), ("127.0.0.1", None));
        assert!(!network.is_isolated());
    }
}
