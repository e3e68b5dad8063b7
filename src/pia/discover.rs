//! Finds possible addresses of the gateway in the kernel's tables. The TLS handshake identifies the real gateway, so no
//! other candidate ever receives a request.
//!
//! With `OpenVPN`, the gateway is the next hop of the tunnel's routes or, with topology net30, the only address with a
//! host route. With `WireGuard`, it is an address at the start of the tunnel's network; only the server's reply to
//! addKey contains the exact address.

use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};

use crate::keeper::tunnel::GatewayRoute;
use crate::kernel::{Network, TunnelNetwork};

/// Address of the gateway in most tunnels, and the default of the earlier Python daemon.
pub const DEFAULT_GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
/// Maximum number of candidates on each device, and of all candidates, which are dialled at once.
const MAX_PER_DEVICE: usize = 16;
const MAX_CANDIDATES: usize = 64;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    pub address: Ipv4Addr,
    /// How the address was found, for the log.
    pub how: String,
    pub route: GatewayRoute,
}

/// Candidates, most likely first, except on the devices `others`. Empty if no tunnel is visible and 10.0.0.1 is unreachable or on a
/// local network.
pub fn candidates(network: &Network, port: u16, others: &[u32]) -> Vec<Candidate> {
    let mut candidates = Vec::new();
    for (address, how) in from_tables(&network.tunnel_networks(), &network.tunnel_ends()) {
        let Ok(route) = network.route_to((address, port).into()) else { continue };
        // 10.0.0.1 may instead be a router on the local network, but then the route to it has no next hop.
        let beyond = address == DEFAULT_GATEWAY && (route.hop.is_some() || route.device.is_none());
        let other = route.device.as_ref().is_some_and(|device| others.contains(&device.index));
        if (route.is_tunnel() || beyond) && !other {
            candidates.push(Candidate { address, how, route });
        }
    }
    let on = |route: &GatewayRoute| route.device.as_ref().map(|device| device.index);
    // A second tunnel with many routes must not push this one's gateway out.
    let mut per_device: HashMap<Option<u32>, usize> = HashMap::new();
    candidates.retain(|candidate| {
        let count = per_device.entry(on(&candidate.route)).or_default();
        *count += 1;
        *count <= MAX_PER_DEVICE
    });
    let default = network.default_route().ok().filter(GatewayRoute::is_tunnel);
    candidates.sort_by_key(|candidate| default.as_ref().is_some_and(|default| on(default) != on(&candidate.route)));
    candidates.truncate(MAX_CANDIDATES);
    candidates
}

/// Route to the most likely candidate, used while the gateway is unknown.
pub fn route(network: &Network, others: &[u32]) -> io::Result<GatewayRoute> {
    let default = SocketAddr::from((DEFAULT_GATEWAY, 0));
    let first = candidates(network, 0, others).into_iter().next();
    first.map_or_else(|| network.route_to(default), |candidate| Ok(candidate.route))
}

/// Private addresses derived from the networks behind the tunnels and from the tunnels' ends, without duplicates and
/// without our own addresses.
fn from_tables(beyond: &[TunnelNetwork], ends: &[(Ipv4Addr, Option<Ipv4Addr>)]) -> Vec<(Ipv4Addr, String)> {
    let mut found: Vec<(Ipv4Addr, String)> = Vec::new();
    let mut add = |address: Ipv4Addr, how: String| {
        let ours = ends.iter().any(|(own, _)| *own == address);
        if address.is_private() && !ours && !found.iter().any(|(known, _)| *known == address) {
            found.push((address, how));
        }
    };
    for TunnelNetwork { device, hop, .. } in beyond {
        if let Some(hop) = hop {
            add(*hop, format!("the next hop of a route through {device}"));
        }
    }
    for TunnelNetwork { device, first, .. } in beyond.iter().filter(|beyond| beyond.prefix == 32) {
        add(*first, format!("the target of a host route through {device}"));
    }
    // Skip a /31 or /32, which has no separate first host address, and a network behind a next hop, which is not the
    // tunnel's own.
    for TunnelNetwork { device, first, .. } in beyond.iter().filter(|beyond| beyond.prefix < 31 && beyond.hop.is_none())
    {
        add(Ipv4Addr::from_bits(first.to_bits().saturating_add(1)), format!("the first address of {device}'s network"));
    }
    for (own, other) in ends {
        if let Some(other) = other {
            add(*other, format!("the remote end of {own}'s tunnel"));
        }
        let [a, b, c, _] = own.octets();
        for first in [[a, b, c & 0xe0, 1], [a, b, 128, 1], [a, b, 0, 1], [a, b, c, 1]] {
            add(first.into(), format!("guessed from our address {own}"));
        }
    }
    add(DEFAULT_GATEWAY, "the default address".to_owned());
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn beyond(network: &str, hop: &str) -> TunnelNetwork {
        let (first, prefix) = network.split_once('/').unwrap();
        let (first, prefix) = (first.parse().unwrap(), prefix.parse().unwrap());
        TunnelNetwork { device: "tun0".to_owned(), first, prefix, hop: hop.parse().ok() }
    }

    fn found(routes: &[TunnelNetwork], own: &str, other: &str) -> Vec<String> {
        let ends: Vec<_> = own.parse().map(|own| (own, other.parse().ok())).into_iter().collect();
        from_tables(routes, &ends).into_iter().map(|(address, _)| address.to_string()).collect()
    }

    #[test]
    fn openvpn_routes_name_the_gateway() {
        let routes = [beyond("0.0.0.0/1", "10.7.112.1"), beyond("10.7.112.0/24", "")];
        let expected = ["10.7.112.1", "10.7.96.1", "10.7.128.1", "10.7.0.1", "10.0.0.1"];
        assert_eq!(found(&routes, "10.7.112.9", ""), expected);
        let further = [beyond("10.20.0.0/16", "10.7.112.1")];
        assert_eq!(found(&further, "", ""), ["10.7.112.1", "10.0.0.1"], "only the tunnel's own network counts");
    }

    #[test]
    fn with_net30_the_gateway_has_a_host_route() {
        let routes =
            [beyond("10.7.112.1/32", "10.7.112.5"), beyond("0.0.0.0/1", "10.7.112.5"), beyond("10.7.112.5/32", "")];
        let expected = ["10.7.112.5", "10.7.112.1"];
        assert_eq!(found(&routes, "10.7.112.6", "10.7.112.5")[..2], expected);
    }

    #[test]
    fn wireguard_gateways_are_at_the_start_of_the_network() {
        let routes = [beyond("0.0.0.0/0", ""), beyond("10.10.224.0/19", "")];
        let expected = ["10.10.224.1", "10.10.128.1", "10.10.0.1", "10.10.229.1", "10.0.0.1"];
        assert_eq!(found(&routes, "10.10.229.5", ""), expected);
        assert_eq!(found(&[], "10.10.229.5", ""), expected, "from our address alone");
    }

    #[test]
    fn a_network_of_one_or_two_addresses_suggests_nothing() {
        for (network, first) in [("10.10.224.0/19", "10.10.224.1"), ("10.10.224.4/30", "10.10.224.5")] {
            assert_eq!(found(&[beyond(network, "")], "", ""), [first, "10.0.0.1"]);
        }
        for network in ["10.10.224.4/31", "84.17.0.0/16", "84.17.5.6/32"] {
            assert_eq!(found(&[beyond(network, "")], "", ""), ["10.0.0.1"], "{network}");
        }
    }

    #[test]
    fn our_own_address_is_not_a_candidate() {
        assert_eq!(found(&[beyond("10.10.0.0/16", "")], "10.10.0.1", ""), ["10.10.128.1", "10.0.0.1"]);
        let expected = ["10.9.0.1", "10.9.128.1", "10.9.8.1", "10.0.0.1"];
        assert_eq!(found(&[beyond("10.9.8.7/32", "")], "10.9.8.7", ""), expected);
    }
}
