//! Netlink's wire format: writes queries and parses replies. Numbers are in native byte order, but ports and addresses
//! are big-endian (source: the Linux headers `netlink.h`, `rtnetlink.h`, `if_link.h`, `if_addr.h` and `inet_diag.h`).
//!
//! Parsers skip unknown data and treat truncated data as absent: no reply is trusted to be complete.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::net::netlink::{SOCK_DIAG, SocketAddrNetlink};
use rustix::net::{AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType};
use rustix::net::{recvfrom, send, socket_with, sockopt};

/// `AF_INET` and `AF_INET6`.
const INET: u8 = 2;
const INET6: u8 = 10;
/// `NLM_F_REQUEST` and `NLM_F_DUMP`.
const REQUEST: u16 = 1;
const DUMP: u16 = 0x300;
/// `NLM_F_DUMP_INTR`: the data changed while the kernel was writing the reply, so the reply may be inconsistent.
const INTERRUPTED: u16 = 0x10;
/// Message types.
const ERROR: u16 = 2;
const DONE: u16 = 3;
const GET_LINK: u16 = 18;
const GET_ADDRESS: u16 = 22;
const GET_ROUTE: u16 = 26;
const SOCK_DIAG_BY_FAMILY: u16 = 20;
/// `RTM_F_LOOKUP_TABLE`: requests the number of the routing table that contains the route.
const LOOKUP_TABLE: u32 = 0x1000;
/// `RTN_UNICAST`.
const UNICAST: u8 = 1;
/// `ARPHRD_NONE` (tun, `WireGuard`, mobile modems) and `ARPHRD_LOOPBACK`. `ARPHRD_PPP` is no sign of a VPN: `PPPoE` has it too.
const NO_LINK_LAYER: u16 = 65534;
const LOOPBACK_TYPE: u16 = 772;
/// `IFF_UP`.
const UP: u32 = 1;
/// Receive buffer in bytes; the kernel sends no larger datagrams.
const BUFFER: usize = 32 * 1024;
/// Maximum number of datagrams read per reply; a list of 5,000 sockets takes 22.
const MAX_DATAGRAMS: usize = 4096;
/// Timeout for each datagram of a reply. Linux answers within microseconds, but an emulated kernel may never answer.
const REPLY_TIMEOUT: Duration = Duration::from_secs(1);
/// Maximum number of attempts at a dump if changes keep interrupting it.
const MAX_DUMPS: usize = 3;

/// `IPPROTO_TCP`.
pub const TCP: u8 = 6;
/// `IPPROTO_UDP`.
pub const UDP: u8 = 17;

/// Bytes with bounds-checked reads.
#[derive(Clone, Copy)]
struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn array<const N: usize>(self, at: usize) -> Option<[u8; N]> {
        self.0.get(at..)?.first_chunk().copied()
    }

    fn u8(self, at: usize) -> Option<u8> {
        self.0.get(at).copied()
    }

    fn u16(self, at: usize) -> Option<u16> {
        self.array(at).map(u16::from_ne_bytes)
    }

    fn u32(self, at: usize) -> Option<u32> {
        self.array(at).map(u32::from_ne_bytes)
    }

    fn address(self, family: u8, at: usize) -> Option<IpAddr> {
        match family {
            INET => self.array::<4>(at).map(IpAddr::from),
            INET6 => self.array::<16>(at).map(IpAddr::from),
            _ => None,
        }
    }

    /// Types and values of the attributes that start at offset `at`.
    fn attributes(self, at: usize) -> impl Iterator<Item = (u16, Bytes<'a>)> {
        let mut rest = self.0.get(at..).unwrap_or_default();
        std::iter::from_fn(move || {
            let head = Bytes(rest);
            let length = usize::from(head.u16(0)?);
            let kind = head.u16(2)? & 0x3fff;
            let value = rest.get(4..length)?;
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
            Some((kind, Bytes(value)))
        })
    }
}

/// A message from a reply or an event.
pub struct Message<'a> {
    /// `RTM_NEWLINK` etc.
    pub kind: u16,
    flags: u16,
    sequence: u32,
    body: Bytes<'a>,
}

pub fn messages(datagram: &[u8]) -> impl Iterator<Item = Message<'_>> {
    let mut rest = datagram;
    std::iter::from_fn(move || {
        let head = Bytes(rest);
        let length = usize::try_from(head.u32(0)?).ok()?;
        let body = rest.get(16..length)?;
        let message = Message { kind: head.u16(4)?, flags: head.u16(6)?, sequence: head.u32(8)?, body: Bytes(body) };
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(message)
    })
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Changes when the device is recreated.
    pub index: u32,
    pub name: String,
    /// The device may belong to a VPN: it has no link-layer addresses (unlike a virtual machine's tap device), and its kind is not
    /// that of a mobile modem.
    pub tunnel: bool,
    pub loopback: bool,
    pub up: bool,
}

impl Link {
    /// Parses `RTM_NEWLINK`.
    pub fn parse(message: &Message) -> Option<Self> {
        let body = message.body;
        let (kind, up) = (body.u16(2)?, body.u32(8)? & UP != 0);
        let mut link =
            Self { index: body.u32(4)?, name: String::new(), tunnel: false, loopback: kind == LOOPBACK_TYPE, up };
        for (attribute, value) in body.attributes(16) {
            match attribute {
                // IFLA_IFNAME, NUL-terminated.
                3 => {
                    let name = value.0.split(|byte| *byte == 0).next();
                    link.name = String::from_utf8_lossy(name.unwrap_or_default()).into_owned();
                }
                // IFLA_LINKINFO with IFLA_INFO_KIND inside: `tun`, `wireguard`, `ovpn` etc. Older drivers of modems set none.
                18 if kind == NO_LINK_LAYER => {
                    link.tunnel = value.attributes(0).any(|(kind, name)| kind == 1 && name.0 != b"wwan\0");
                }
                _ => {}
            }
        }
        Some(link)
    }
}

/// One of this host's addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// Index of the device.
    pub device: u32,
    pub own: IpAddr,
    /// Address of the other end of a point-to-point device, if known.
    pub other: Option<IpAddr>,
    /// Prefix length in bits.
    pub prefix: u8,
}

impl Address {
    /// Parses `RTM_NEWADDR`.
    pub fn parse(message: &Message) -> Option<Self> {
        let body = message.body;
        let family = body.u8(0)?;
        let (mut local, mut address) = (None, None);
        for (attribute, value) in body.attributes(8) {
            match attribute {
                // IFA_ADDRESS: the other end's address on an IPv4 point-to-point device, and this host's own address
                // otherwise.
                1 => address = value.address(family, 0),
                // IFA_LOCAL.
                2 => local = value.address(family, 0),
                _ => {}
            }
        }
        let own = local.or(address)?;
        let other = address.filter(|&other| other != own);
        Some(Self { device: body.u32(4)?, own, other, prefix: body.u8(1)? })
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Index of the device.
    pub device: u32,
    /// Network address of the destination; `None` for a default route.
    pub to: Option<IpAddr>,
    /// Prefix length in bits.
    pub prefix: u8,
    /// Next hop; `None` if the destination is reached directly.
    pub hop: Option<IpAddr>,
    /// Local address used on this route.
    pub source: Option<IpAddr>,
}

impl Route {
    /// Parses `RTM_NEWROUTE`; `None` unless its type is unicast or local.
    pub fn parse(message: &Message) -> Option<Self> {
        let body = message.body;
        let family = body.u8(0)?;
        let mut route = Self { device: 0, to: None, prefix: body.u8(1)?, hop: None, source: None };
        // The route to one of our own addresses has type 2, `RTN_LOCAL`.
        if !matches!(body.u8(7)?, UNICAST | 2) {
            return None;
        }
        for (attribute, value) in body.attributes(12) {
            match attribute {
                // RTA_DST, RTA_OIF, RTA_GATEWAY, RTA_PREFSRC.
                1 => route.to = value.address(family, 0),
                4 => route.device = value.u32(0)?,
                5 => route.hop = value.address(family, 0),
                7 => route.source = value.address(family, 0),
                // RTA_VIA: a next hop from a different address family.
                18 => route.hop = value.u16(0).and_then(|family| value.address(u8::try_from(family).ok()?, 2)),
                _ => {}
            }
        }
        (route.device != 0).then_some(route)
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Socket {
    /// `TCP_ESTABLISHED` etc.
    pub state: u8,
    /// Local address; an IPv4-mapped IPv6 address is converted to IPv4.
    pub local: SocketAddr,
    pub remote: SocketAddr,
    /// Index of the device that the socket is bound to; zero if the socket is bound to none.
    pub device: u32,
    /// User ID of the socket's owner, as seen from this user namespace.
    pub uid: u32,
    /// Identifies the socket as long as it is open; zero if the kernel does not report it.
    pub inode: u32,
    /// `IPV6_V6ONLY`: the socket accepts no IPv4.
    pub v6only: bool,
}

impl Socket {
    /// Parses `SOCK_DIAG_BY_FAMILY`.
    pub fn parse(message: &Message) -> Option<Self> {
        let body = message.body;
        let family = body.u8(0)?;
        let port = |at| body.array(at).map(u16::from_be_bytes);
        let end = |ip: IpAddr, port| SocketAddr::new(ip.to_canonical(), port);
        Some(Self {
            state: body.u8(1)?,
            local: end(body.address(family, 8)?, port(4)?),
            remote: end(body.address(family, 24)?, port(6)?),
            device: body.u32(40)?,
            uid: body.u32(64)?,
            inode: body.u32(68)?,
            // INET_DIAG_SKV6ONLY.
            v6only: body.attributes(72).any(|(attribute, value)| attribute == 11 && value.u8(0) == Some(1)),
        })
    }
}

pub struct Query {
    protocol: Option<Protocol>,
    kind: u16,
    flags: u16,
    body: Vec<u8>,
}

impl Query {
    pub fn links() -> Self {
        Self { protocol: None, kind: GET_LINK, flags: DUMP, body: vec![0; 16] }
    }

    pub fn addresses() -> Self {
        Self { protocol: None, kind: GET_ADDRESS, flags: DUMP, body: vec![0; 8] }
    }

    /// All IPv4 routes in all tables.
    pub fn routes() -> Self {
        let mut body = vec![0; 12];
        body[0] = INET;
        Self { protocol: None, kind: GET_ROUTE, flags: DUMP, body }
    }

    /// Route that a TCP connection to `to` would take, from `source` if given. The query never names a device, because
    /// the kernel would then report a route to any destination.
    pub fn route(to: SocketAddr, source: Option<IpAddr>) -> Self {
        let bits = |ip: IpAddr| if ip.is_ipv4() { 32 } else { 128 };
        let mut body = vec![0; 12];
        body[0] = if to.is_ipv4() { INET } else { INET6 };
        body[1] = bits(to.ip());
        body[2] = source.map_or(0, bits);
        body[8..].copy_from_slice(&LOOKUP_TABLE.to_ne_bytes());
        // RTA_DST and RTA_SRC, then RTA_IP_PROTO and RTA_DPORT for routing rules that match the destination port.
        put_address(&mut body, 1, to.ip());
        if let Some(source) = source {
            put_address(&mut body, 2, source);
        }
        put(&mut body, 27, &[TCP]);
        put(&mut body, 29, &to.port().to_be_bytes());
        Self { protocol: None, kind: GET_ROUTE, flags: 0, body }
    }

    /// Sockets of one protocol and address family on the local port `port`, in any of `states` (a bit mask).
    pub fn sockets(protocol: u8, ipv6: bool, port: u16, states: u32) -> Self {
        let mut body = vec![0; 56];
        body[0] = if ipv6 { INET6 } else { INET };
        body[1] = protocol;
        body[4..8].copy_from_slice(&states.to_ne_bytes());
        body[8..10].copy_from_slice(&port.to_be_bytes());
        // INET_DIAG_NOCOOKIE.
        body[48..].fill(0xff);
        Self { protocol: Some(SOCK_DIAG), kind: SOCK_DIAG_BY_FAMILY, flags: DUMP, body }
    }

    /// Sends the query and collects the values that `read` extracts from the reply's messages. An error is either
    /// the kernel's answer or a sign that netlink is unavailable.
    pub fn ask<T>(&self, read: impl Fn(&Message) -> Option<T>) -> io::Result<Vec<T>> {
        let raw = SocketType::RAW;
        let socket = socket_with(AddressFamily::NETLINK, raw, SocketFlags::CLOEXEC, self.protocol)?;
        sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, Some(REPLY_TIMEOUT))?;
        let mut found = Vec::new();
        for attempt in 1..=MAX_DUMPS {
            let sequence = u32::try_from(attempt).unwrap_or(0);
            send(&socket, &self.datagram(sequence), SendFlags::empty())?;
            found.clear();
            if self.receive_reply(&socket, sequence, &read, &mut found)? {
                break;
            }
        }
        Ok(found)
    }

    fn datagram(&self, sequence: u32) -> Vec<u8> {
        let length = u32::try_from(16 + self.body.len()).unwrap_or(0);
        let mut datagram = Vec::with_capacity(16 + self.body.len());
        datagram.extend(length.to_ne_bytes());
        datagram.extend(self.kind.to_ne_bytes());
        datagram.extend((REQUEST | self.flags).to_ne_bytes());
        datagram.extend(sequence.to_ne_bytes());
        datagram.extend([0; 4]);
        datagram.extend(&self.body);
        datagram
    }

    /// Collects one reply; false if the data changed while the kernel was writing the reply.
    fn receive_reply<T>(
        &self,
        socket: &OwnedFd,
        sequence: u32,
        read: &impl Fn(&Message) -> Option<T>,
        found: &mut Vec<T>,
    ) -> io::Result<bool> {
        let mut buffer = vec![0; BUFFER];
        let mut whole = true;
        for _ in 0..MAX_DATAGRAMS {
            let datagram = match receive(socket, &mut buffer, RecvFlags::empty()) {
                Ok(datagram) => datagram,
                Err(Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            };
            for message in messages(datagram).filter(|message| message.sequence == sequence) {
                whole &= message.flags & INTERRUPTED == 0;
                match message.kind {
                    ERROR | DONE => {
                        let code = message.body.u32(0).map_or(0, u32::cast_signed);
                        return if code < 0 { Err(io::Error::from_raw_os_error(-code)) } else { Ok(whole) };
                    }
                    _ => found.extend(read(&message)),
                }
                if self.flags & DUMP == 0 {
                    return Ok(true);
                }
            }
        }
        Ok(true)
    }
}

/// Receives the next datagram; empty if it did not come from the kernel.
pub fn receive<'a>(socket: &OwnedFd, buffer: &'a mut [u8], flags: RecvFlags) -> Result<&'a [u8], Errno> {
    let (length, _, from) = recvfrom(socket, &mut *buffer, flags)?;
    let kernel = from.is_none_or(|from| SocketAddrNetlink::try_from(from).is_ok_and(|from| from.pid() == 0));
    Ok(if kernel { &buffer[..length] } else { &[] })
}

fn put(body: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let length = u16::try_from(4 + value.len()).unwrap_or(4);
    body.extend(length.to_ne_bytes());
    body.extend(kind.to_ne_bytes());
    body.extend(value);
    body.resize(body.len().next_multiple_of(4), 0);
}

fn put_address(body: &mut Vec<u8>, kind: u16, address: IpAddr) {
    match address {
        IpAddr::V4(address) => put(body, kind, &address.octets()),
        IpAddr::V6(address) => put(body, kind, &address.octets()),
    }
}
