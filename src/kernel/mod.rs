//! The kernel as a witness, asked over netlink without a packet being sent and without privileges: devices and addresses, the route
//! to a remote, who listens on a port, and that any of this has changed.

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

/// Devices and addresses at one moment.
#[derive(Default)]
pub struct Network {
    links: Vec<Link>,
    addresses: Vec<Address>,
    /// Why nothing is known: netlink is refused, as in some sandboxes.
    pub refused: Option<io::Error>,
    /// What tells when it is another one; none while nobody listens.
    events: Option<Rc<Events>>,
}

/// A network that is reached through a tunnel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TunnelNetwork {
    /// The tunnel's device.
    pub device: String,
    /// First address of the network.
    pub first: Ipv4Addr,
    /// Bits of the network.
    pub prefix: u8,
    /// The next hop.
    pub hop: Option<Ipv4Addr>,
}

impl Network {
    /// As it is now.
    pub fn snapshot() -> Self {
        let links = Query::links().ask(Link::parse);
        match links.and_then(|links| Ok((links, Query::addresses().ask(Address::parse)?))) {
            Ok((links, addresses)) => Self { links, addresses, ..Self::default() },
            Err(error) => Self { refused: Some(error), ..Self::default() },
        }
    }

    /// As it is now, with what tells when it is another one.
    pub fn watched(events: Option<&Rc<Events>>) -> Self {
        Self { events: events.cloned(), ..Self::snapshot() }
    }

    /// What ends an exchange with `to`, to whom there is this `route` now, when that becomes another one.
    pub fn watch(&self, to: SocketAddr, route: GatewayRoute) -> Option<Rc<dyn Interrupt>> {
        Some(Rc::new(RouteWatch::new(self.events.as_ref()?, to, route)?))
    }

    /// The route to `to`, as a connection would take it now; the error is the system's when there is none.
    ///
    /// Where a rule by source is all that leads into a tunnel, the route is the one from an address on that tunnel, and a connection
    /// has to be bound to that.
    pub fn route_to(&self, to: SocketAddr) -> io::Result<GatewayRoute> {
        if self.refused.is_some() {
            let local = local_address_towards(to)?;
            return Ok(GatewayRoute { local, hop: None, device: None, by_source: false });
        }
        let direct = self.route_from(to, None);
        // Whoever is on a network of ours is not beyond a tunnel.
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

    /// Networks that are reached through tunnels, by any table.
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

    /// Our own addresses on tunnels, and what else is known at the other end of each.
    pub fn tunnel_ends(&self) -> Vec<(Ipv4Addr, Option<Ipv4Addr>)> {
        let ends = self.addresses.iter().filter(|address| self.is_tunnel(address.device));
        let ends = ends.filter_map(|address| match (address.own, address.other) {
            (IpAddr::V4(own), Some(IpAddr::V4(other))) => Some((own, Some(other))),
            (IpAddr::V4(own), _) => Some((own, None)),
            _ => None,
        });
        ends.collect()
    }

    /// Whether `address` is one of ours.
    pub fn has_address(&self, address: IpAddr) -> bool {
        address.is_loopback() || self.addresses.iter().any(|known| known.own == address)
    }

    /// Whether there is no device but loopback: what is left of a VPN container's namespace when the container is gone.
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

/// The address from which this host would speak to `remote`; the error is the system's, e.g. that there is no route.
///
/// Connecting a UDP socket asks the routing tables, all of them, and sends nothing.
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
