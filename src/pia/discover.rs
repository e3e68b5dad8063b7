//! Which address may be the gateway, by the kernel's tables. Which one is, TLS decides: nothing is sent to a wrong one.
//!
//! `OpenVPN`: the tunnel's route gateway. `WireGuard`: an address at the start of the tunnel's network, which the server's
//! addKey reply names and no table does.

use std::io;
use std::net::{IpAddr, Ipv4Addr};

use crate::keeper::tunnel::Way;
use crate::kernel::{self, Route};

/// The gateway of most tunnels, and the default of the Python daemon.
pub const USUAL: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
/// An address that is in nobody's network (RFC 5737).
const ELSEWHERE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
/// Candidates in one search; each may take its whole deadline.
const MOST: usize = 8;

/// An address that may be the gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// The address.
    pub address: Ipv4Addr,
    /// How it was found, for people.
    pub how: String,
}

/// The candidates, the likeliest first; `usual_first` puts 10.0.0.1 before those that the tables name. None where no tunnel
/// is to be seen and 10.0.0.1 is somebody else.
pub fn candidates(usual_first: bool) -> Vec<Candidate> {
    let own = |towards: Ipv4Addr| match kernel::local_address_towards((towards, 0).into()) {
        Ok(IpAddr::V4(own)) => Some(own),
        _ => None,
    };
    from_tables(&kernel::routes(), kernel::is_tunnel, own, usual_first)
}

/// The way to whoever is the gateway: the one that most addresses beyond the tunnel share, or else the one to the likeliest
/// candidate.
pub fn way() -> io::Result<Way> {
    kernel::way((USUAL, 0).into()).or_else(|error| match candidates(false).first() {
        Some(candidate) => kernel::way((candidate.address, 0).into()),
        None => Err(error),
    })
}

/// `own` tells our address towards another one.
fn from_tables(
    routes: &[Route],
    is_tunnel: impl Fn(&str) -> bool,
    own: impl Fn(Ipv4Addr) -> Option<Ipv4Addr>,
    usual_first: bool,
) -> Vec<Candidate> {
    let mut found = Found { candidates: Vec::new(), own: Vec::new() };
    let (ours, others): (Vec<&Route>, Vec<&Route>) = routes.iter().partition(|route| is_tunnel(&route.device));
    let in_lan = |address| others.iter().any(|route| !route.is_default() && route.leads_to(address));
    // Many routers of homes are at the usual address, too.
    let usual = |found: &mut Found| {
        if !in_lan(USUAL) {
            found.add(USUAL, "the usual address".to_owned());
        }
    };
    if usual_first {
        usual(&mut found);
    }
    for route in &ours {
        if let Some(hop) = route.hop {
            found.add(hop, format!("the next hop of a route through {}", route.device));
        }
    }
    for route in ours.iter().filter(|route| route.hop.is_none() && !route.is_default()) {
        let first = after(route.destination);
        found.own.extend(own(first));
        // A route to a single host has no first address, and 0.0.0.0/1 no server of PIA's.
        if route.mask.to_bits().count_ones() < 31 && first.is_private() {
            found.add(first, format!("the first address of {}'s network", route.device));
        }
    }
    // With the routes of wg-quick no table that can be read shows the tunnel, but our address does.
    if let Some(address) = own(if in_lan(USUAL) { ELSEWHERE } else { USUAL })
        && address.is_private()
        && !in_lan(address)
    {
        found.own.push(address);
    }
    for address in found.own.clone() {
        let [a, b, c, _] = address.octets();
        for first in [[a, b, c & 0xe0, 1], [a, b, 128, 1], [a, b, 0, 1]] {
            found.add(first.into(), format!("by our address {address}"));
        }
    }
    usual(&mut found);
    found.candidates.truncate(MOST);
    found.candidates
}

fn after(address: Ipv4Addr) -> Ipv4Addr {
    Ipv4Addr::from_bits(address.to_bits().saturating_add(1))
}

struct Found {
    candidates: Vec<Candidate>,
    /// Our own addresses in tunnels.
    own: Vec<Ipv4Addr>,
}

impl Found {
    fn add(&mut self, address: Ipv4Addr, how: String) {
        if !self.candidates.iter().any(|known| known.address == address) && !self.own.contains(&address) {
            self.candidates.push(Candidate { address, how });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(device: &str, network: &str, hop: Option<&str>) -> Route {
        let (destination, length) = network.split_once('/').unwrap();
        let length: u32 = length.parse().unwrap();
        let mask = Ipv4Addr::from_bits(u32::MAX.checked_shl(32 - length).unwrap_or(0));
        Route {
            device: device.to_owned(),
            destination: destination.parse().unwrap(),
            mask,
            hop: hop.map(|hop| hop.parse().unwrap()),
        }
    }

    fn found(routes: &[Route], own: &str, usual_first: bool) -> Vec<String> {
        let own = own.parse().ok();
        let candidates =
            from_tables(routes, |device| device.starts_with("tun") || device == "wg0", |_| own, usual_first);
        candidates.iter().map(|candidate| candidate.address.to_string()).collect()
    }

    #[test]
    fn openvpn_names_it_in_its_routes() {
        let routes = [
            route("eth0", "0.0.0.0/0", Some("192.168.1.1")),
            route("tun0", "0.0.0.0/1", Some("10.7.112.1")),
            route("tun0", "10.7.112.0/24", None),
            route("eth0", "192.168.1.0/24", None),
        ];
        assert_eq!(
            found(&routes, "10.7.112.9", false),
            ["10.7.112.1", "10.7.96.1", "10.7.128.1", "10.7.0.1", "10.0.0.1"]
        );
        assert_eq!(found(&routes, "10.7.112.9", true)[..2], ["10.0.0.1", "10.7.112.1"]);
        let beyond = [route("tun0", "10.20.0.0/16", Some("10.7.112.1"))];
        assert_eq!(found(&beyond, "", false), ["10.7.112.1", "10.0.0.1"], "a network beyond the tunnel is not its own");
    }

    #[test]
    fn wireguard_has_it_at_the_start_of_its_network() {
        let routes = [route("tun0", "0.0.0.0/0", None), route("tun0", "10.10.224.0/19", None)];
        let expected = ["10.10.224.1", "10.10.128.1", "10.10.0.1", "10.0.0.1"];
        assert_eq!(found(&routes, "10.10.229.5", false), expected);
    }

    #[test]
    fn a_network_of_one_or_two_addresses_has_no_start() {
        for (network, first) in [("10.10.224.0/19", "10.10.224.1"), ("10.10.224.4/30", "10.10.224.5")] {
            assert_eq!(found(&[route("tun0", network, None)], "", false), [first, "10.0.0.1"]);
        }
        for network in ["10.10.224.4/31", "10.10.224.4/32", "84.17.0.0/16"] {
            assert_eq!(found(&[route("tun0", network, None)], "", false), ["10.0.0.1"], "{network}");
        }
    }

    #[test]
    fn policy_routing_hides_all_but_our_address() {
        let lan = [route("eth0", "0.0.0.0/0", Some("192.168.1.1")), route("eth0", "192.168.1.0/24", None)];
        let expected = ["10.10.224.1", "10.10.128.1", "10.10.0.1", "10.0.0.1"];
        assert_eq!(found(&lan, "10.10.229.5", false), expected);
        assert_eq!(found(&lan, "192.168.1.7", false), ["10.0.0.1"], "the router of a LAN is nobody's gateway");
        assert_eq!(found(&lan, "", false), ["10.0.0.1"]);
        assert_eq!(found(&lan, "84.17.5.6", false), ["10.0.0.1"]);
    }

    #[test]
    fn the_router_of_a_lan_at_the_usual_address_is_none() {
        let lan = [route("eth0", "0.0.0.0/0", Some("10.0.0.1")), route("eth0", "10.0.0.0/24", None)];
        for usual_first in [true, false] {
            assert_eq!(found(&lan, "10.0.0.7", usual_first), [""; 0]);
        }
        let own = |to: Ipv4Addr| Some(if to == USUAL { [10, 0, 0, 7].into() } else { [10, 10, 229, 5].into() });
        let behind = from_tables(&lan, |_| false, own, true);
        assert_eq!(behind[0].address, Ipv4Addr::new(10, 10, 224, 1), "wg-quick's routes are not in the table");
        let both = [lan.as_slice(), &[route("tun0", "10.7.112.0/24", None)]].concat();
        assert_eq!(found(&both, "", true), ["10.7.112.1"]);
    }

    #[test]
    fn we_are_not_our_own_gateway() {
        let routes = [route("wg0", "10.10.0.0/16", None)];
        assert_eq!(found(&routes, "10.10.0.1", false), ["10.10.128.1", "10.0.0.1"]);
        assert_eq!(
            found(&[route("wg0", "10.9.8.7/32", None)], "10.9.8.7", false),
            ["10.9.0.1", "10.9.128.1", "10.0.0.1"]
        );
    }

    #[test]
    fn many_tunnels_do_not_make_a_search_endless() {
        let routes: Vec<_> =
            (0..50).map(|n| route("tun7", &format!("10.{n}.0.0/16"), Some(&format!("10.{n}.0.9")))).collect();
        assert_eq!(found(&routes, "", false).len(), MOST);
    }
}
