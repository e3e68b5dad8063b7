//! What the kernel's routing tells without a packet being sent.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

/// The address from which this host would speak to `peer`; the error is the system's, e.g. that there is no route.
///
/// Connecting a UDP socket asks the routing table and sends nothing.
pub fn local_address_towards(peer: SocketAddr) -> std::io::Result<IpAddr> {
    let any: IpAddr = if peer.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect(peer)?;
    Ok(socket.local_addr()?.ip())
}

/// Whether this network namespace has any way out. One whose VPN container was restarted has none: it is left with
/// loopback.
pub fn has_way_out() -> bool {
    // Under `self`, because a service may see processes only. The first line of `route` is a heading; `ipv6_route` lists loopback's own routes with `lo` at the end of the line.
    let table = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    table("/proc/self/net/route").lines().skip(1).any(|line| !line.trim().is_empty())
        || table("/proc/self/net/ipv6_route").lines().any(|line| !line.trim_end().ends_with(" lo"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_speaks_to_loopback_from_loopback() {
        let towards = |text: &str| local_address_towards(text.parse().unwrap()).unwrap().to_string();
        assert_eq!(towards("127.0.0.1:19999"), "127.0.0.1");
    }
}
