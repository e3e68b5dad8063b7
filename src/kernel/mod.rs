//! What the kernel knows of the ways out, read without a packet being sent: IPv4 routes, tunnel devices, and which way a
//! peer would be spoken to.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use crate::keeper::tunnel::Way;

/// `RTF_REJECT` of Linux: an unreachable or blackhole route.
const REJECT: u16 = 0x200;
/// What VPN clients call their devices, for namespaces that /sys does not show.
const TUNNEL_NAMES: [&str; 5] = ["tun", "tap", "wg", "ppp", "pia"];
/// `ARPHRD_NONE` (tun, `WireGuard`) and `ARPHRD_PPP` of Linux.
const TUNNEL_TYPES: [&str; 2] = ["65534", "512"];

/// An IPv4 route of the main table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// The device that it leaves by.
    pub device: String,
    /// First address of the network that it leads to.
    pub destination: Ipv4Addr,
    /// Netmask of that network.
    pub mask: Ipv4Addr,
    /// The next hop; none when the network is the device's own.
    pub hop: Option<Ipv4Addr>,
}

impl Route {
    /// Whether it leads to `address`.
    pub fn leads_to(&self, address: Ipv4Addr) -> bool {
        address.to_bits() & self.mask.to_bits() == self.destination.to_bits()
    }

    /// Whether it leads anywhere.
    pub fn is_default(&self) -> bool {
        self.mask.is_unspecified()
    }
}

/// The IPv4 routes of the main table. Routes of other tables, as wg-quick makes, are not among them.
pub fn routes() -> Vec<Route> {
    // Under `self`, because a service may see processes only.
    parse(&fs::read_to_string("/proc/self/net/route").unwrap_or_default())
}

/// Lines of device, destination, gateway, flags, three figures, mask; after a heading.
fn parse(table: &str) -> Vec<Route> {
    let route = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        // The kernel writes the four bytes as a number in its own byte order.
        let address = |at: usize| {
            let number = u32::from_str_radix(fields.get(at)?, 16).ok()?;
            Some(Ipv4Addr::from(number.to_ne_bytes()))
        };
        let flags = u16::from_str_radix(fields.get(3)?, 16).ok()?;
        let hop = address(2).filter(|hop| !hop.is_unspecified());
        let route = Route { device: (*fields.first()?).to_owned(), destination: address(1)?, mask: address(7)?, hop };
        (flags & REJECT == 0).then_some(route)
    };
    table.lines().skip(1).filter_map(route).collect()
}

/// Whether `device` is a tunnel's.
pub fn is_tunnel(device: &str) -> bool {
    let kind = fs::read_to_string(format!("/sys/class/net/{device}/type")).unwrap_or_default();
    TUNNEL_TYPES.contains(&kind.trim()) || TUNNEL_NAMES.iter().any(|name| device.starts_with(name))
}

/// Devices that are up, with their indices: a recreated device has another one.
fn devices() -> Vec<(u32, String)> {
    parse_devices(&fs::read_to_string("/proc/self/net/igmp").unwrap_or_default())
}

/// Lines of index and name among indented ones: every device with IPv4 has joined 224.0.0.1.
fn parse_devices(table: &str) -> Vec<(u32, String)> {
    let device = |line: &str| {
        let (index, rest) = line.split_once('\t')?;
        Some((index.parse().ok()?, rest.split(':').next()?.trim().to_owned()))
    };
    table.lines().filter_map(device).collect()
}

/// The address from which this host would speak to `peer`; the error is the system's, e.g. that there is no route.
///
/// Connecting a UDP socket asks the routing tables, all of them, and sends nothing.
pub fn local_address_towards(peer: SocketAddr) -> io::Result<IpAddr> {
    let any: IpAddr = if peer.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect(peer)?;
    Ok(socket.local_addr()?.ip())
}

/// The way to `peer`; the error is the system's when there is none.
pub fn way(peer: SocketAddr) -> io::Result<Way> {
    let local = local_address_towards(peer)?;
    let routes = routes();
    let main = main_route(&routes, peer.ip());
    let device = main.map(|route| route.device.as_str()).filter(|device| is_tunnel(device));
    let mut tunnels = devices();
    tunnels.retain(|(_, name)| name != "lo" && device.map_or_else(|| is_tunnel(name), |device| name == device));
    Ok(Way { local, hop: main.and_then(|route| route.hop), tunnels })
}

/// Whether what is sent to `peer` leaves through a tunnel. Policy routing hides the device: then there has to be a tunnel, and
/// our address must not be one of a network of another device.
pub fn leads_through_tunnel(peer: IpAddr) -> bool {
    let Ok(IpAddr::V4(local)) = local_address_towards((peer, 0).into()) else { return false };
    let routes = routes();
    let elsewhere = |route: &Route| !route.is_default() && route.leads_to(local) && !is_tunnel(&route.device);
    main_route(&routes, peer).is_some_and(|route| is_tunnel(&route.device))
        || (devices().iter().any(|(_, name)| is_tunnel(name)) && !routes.iter().any(elsewhere))
}

fn main_route(routes: &[Route], peer: IpAddr) -> Option<&Route> {
    let IpAddr::V4(peer) = peer else { return None };
    routes.iter().filter(|route| route.leads_to(peer)).max_by_key(|route| route.mask)
}

/// Whether this network namespace has any way out. One whose VPN container was restarted has none: it is left with
/// loopback.
pub fn has_way_out() -> bool {
    // `ipv6_route` lists loopback's own routes, with `lo` at the end of the line.
    let ipv6 = fs::read_to_string("/proc/self/net/ipv6_route").unwrap_or_default();
    !routes().is_empty() || ipv6.lines().any(|line| !line.trim_end().ends_with(" lo"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As a little-endian kernel writes it.
    const TABLE: &str = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n\
        eth0\t00000000\t0101A8C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n\
        tun0\t00000000\t01E00A0A\t0003\t0\t0\t0\t00000080\t0\t0\t0\n\
        tun0\t00E00A0A\t00000000\t0001\t0\t0\t0\t00E0FFFF\t0\t0\t0\n\
        *\t0000A8C0\t00000000\t0201\t0\t0\t0\t0000FFFF\t0\t0\t0\n\
        cut off\t00\n";

    #[test]
    #[cfg(target_endian = "little")]
    fn routes_are_read_as_the_kernel_writes_them() {
        let route = |device: &str, destination: &str, mask: &str, hop: Option<&str>| Route {
            device: device.to_owned(),
            destination: destination.parse().unwrap(),
            mask: mask.parse().unwrap(),
            hop: hop.map(|hop| hop.parse().unwrap()),
        };
        let expected = [
            route("eth0", "0.0.0.0", "0.0.0.0", Some("192.168.1.1")),
            route("tun0", "0.0.0.0", "128.0.0.0", Some("10.10.224.1")),
            route("tun0", "10.10.224.0", "255.255.224.0", None),
        ];
        assert_eq!(parse(TABLE), expected);
        assert!(expected[2].leads_to("10.10.255.9".parse().unwrap()));
        assert!(!expected[2].leads_to("10.10.223.9".parse().unwrap()));
        assert!(parse("").is_empty());
    }

    #[test]
    fn devices_are_read_with_their_indices() {
        let table = "Idx\tDevice    : Count Querier\tGroup    Users Timer\tReporter\n\
            1\tlo        :     1      V3\n\t\t\t\t010000E0     1 0:00000000\t\t0\n\
            12\ta-long-name-0:     1      V3\n";
        assert_eq!(parse_devices(table), [(1, "lo".to_owned()), (12, "a-long-name-0".to_owned())]);
    }

    #[test]
    fn loopback_speaks_to_loopback_from_loopback() {
        let towards = |text: &str| local_address_towards(text.parse().unwrap()).unwrap().to_string();
        assert_eq!(towards("127.0.0.1:19999"), "127.0.0.1");
        assert_eq!(way("127.0.0.1:19999".parse().unwrap()).unwrap().local.to_string(), "127.0.0.1");
    }
}
