//! Which address may be the gateway, by the kernel's tables. Which one is, TLS decides: nothing is sent to a wrong one.
//!
//! `OpenVPN`: the tunnel's route gateway, or with the topology net30 the only address that a route of its own leads to.
//! `WireGuard`: an address at the start of the tunnel's network, which the server's addKey reply names and no table does.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};

use crate::keeper::tunnel::GatewayRoute;
use crate::kernel::{Network, TunnelNetwork};

/// The gateway of most tunnels, and the default of the Python daemon.
pub const DEFAULT_GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
/// Candidates in one search, which are all dialled at once.
const MAX_CANDIDATES: usize = 16;

/// An address that may be the gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// The address.
    pub address: Ipv4Addr,
    /// How it was found, for people.
    pub how: String,
    /// The route there.
    pub route: GatewayRoute,
}

/// The candidates, the likeliest first. None where no tunnel is to be seen and 10.0.0.1 is somebody else.
pub fn candidates(network: &Network, port: u16) -> Vec<Candidate> {
    let mut candidates = Vec::new();
    for (address, how) in from_tables(&network.tunnel_networks(), &network.tunnel_ends()) {
        let Ok(route) = network.route_to((address, port).into()) else { continue };
        // Routers of LANs are at such addresses, too. Beyond another router is no LAN of ours.
        let beyond = address == DEFAULT_GATEWAY && (route.hop.is_some() || route.device.is_none());
        if route.is_tunnel() || beyond {
            candidates.push(Candidate { address, how, route });
        }
    }
    candidates.truncate(MAX_CANDIDATES);
    candidates
}

/// The route to whoever is the gateway, while nobody knows who that is: to the likeliest candidate.
pub fn route(network: &Network) -> io::Result<GatewayRoute> {
    let usual = SocketAddr::from((DEFAULT_GATEWAY, 0));
    candidates(network, 0).into_iter().next().map_or_else(|| network.route_to(usual), |candidate| Ok(candidate.route))
}

/// What the networks beyond the tunnels and the ends of the tunnels suggest, each address once and none of ours.
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
        add(*first, format!("a route of its own leads there through {device}"));
    }
    // A network of one or two addresses has no start, and a network beyond a next hop is not the tunnel's own.
    for TunnelNetwork { device, first, .. } in beyond.iter().filter(|beyond| beyond.prefix < 31 && beyond.hop.is_none())
    {
        add(Ipv4Addr::from_bits(first.to_bits().saturating_add(1)), format!("the first address of {device}'s network"));
    }
    for (own, other) in ends {
        if let Some(other) = other {
            add(*other, format!("the other end of {own}"));
        }
        let [a, b, c, _] = own.octets();
        for first in [[a, b, c & 0xe0, 1], [a, b, 128, 1], [a, b, 0, 1], [a, b, c, 1]] {
            add(first.into(), format!("by our address {own}"));
        }
    }
    add(DEFAULT_GATEWAY, "the usual address".to_owned());
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
    fn openvpn_names_it_in_its_routes() {
        let routes = [beyond("0.0.0.0/1", "10.7.112.1"), beyond("10.7.112.0/24", "")];
        let expected = ["10.7.112.1", "10.7.96.1", "10.7.128.1", "10.7.0.1", "10.0.0.1"];
        assert_eq!(found(&routes, "10.7.112.9", ""), expected);
        let further = [beyond("10.20.0.0/16", "10.7.112.1")];
        assert_eq!(found(&further, "", ""), ["10.7.112.1", "10.0.0.1"], "a network beyond the tunnel is not its own");
    }

    #[test]
    fn with_net30_it_is_where_a_route_of_its_own_leads() {
        let routes =
            [beyond("10.7.112.1/32", "10.7.112.5"), beyond("0.0.0.0/1", "10.7.112.5"), beyond("10.7.112.5/32", "")];
        let expected = ["10.7.112.5", "10.7.112.1"];
        assert_eq!(found(&routes, "10.7.112.6", "10.7.112.5")[..2], expected);
    }

    #[test]
    fn wireguard_has_it_at_the_start_of_its_network() {
        let routes = [beyond("0.0.0.0/0", ""), beyond("10.10.224.0/19", "")];
        let expected = ["10.10.224.1", "10.10.128.1", "10.10.0.1", "10.10.229.1", "10.0.0.1"];
        assert_eq!(found(&routes, "10.10.229.5", ""), expected);
        assert_eq!(found(&[], "10.10.229.5", ""), expected, "or by our address alone");
    }

    #[test]
    fn a_network_of_one_or_two_addresses_has_no_start() {
        for (network, first) in [("10.10.224.0/19", "10.10.224.1"), ("10.10.224.4/30", "10.10.224.5")] {
            assert_eq!(found(&[beyond(network, "")], "", ""), [first, "10.0.0.1"]);
        }
        for network in ["10.10.224.4/31", "84.17.0.0/16", "84.17.5.6/32"] {
            assert_eq!(found(&[beyond(network, "")], "", ""), ["10.0.0.1"], "{network}");
        }
    }

    #[test]
    fn we_are_not_our_own_gateway() {
        assert_eq!(found(&[beyond("10.10.0.0/16", "")], "10.10.0.1", ""), ["10.10.128.1", "10.0.0.1"]);
        let expected = ["10.9.0.1", "10.9.128.1", "10.9.8.1", "10.0.0.1"];
        assert_eq!(found(&[beyond("10.9.8.7/32", "")], "10.9.8.7", ""), expected);
    }
}
