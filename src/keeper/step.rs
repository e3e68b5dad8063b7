//! The steps that the keeper requests, and their results. `service` runs each step against its remote.

use std::fmt;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use super::lease::Lease;
use super::tunnel::GatewayRoute;
use crate::error::Error;
use crate::secret::Secret;

/// The next action: a call to a remote with its arguments, a wait, or an exit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Read a token from the cache file, or log in if the file contains no token or only the refused one.
    GetToken {
        /// The token that the gateway refused most recently.
        refused: Option<Secret>,
    },
    /// Request a lease with `getSignature`.
    GetSignature {
        token: Secret,
    },
    /// Store the lease before its first use, so that we do not lose the port if we are killed later.
    StoreLease(Rc<Lease>),
    Bind(Rc<Lease>),
    /// Ask the program that leases the port for us about its current port.
    PollSource,
    ReadPort,
    SetPort(u16),
    /// First half of a bounce: set the client's listen port to `other`.
    BounceAway {
        /// Port to return to.
        port: u16,
        other: u16,
    },
    /// Second half of a bounce: restore the listen port. Runs even after a request to stop.
    BounceBack(u16),
    /// Ask the kernel for the sockets on the client's port.
    Inspect(Inspection),
    /// Ask the client whether it listens on this port.
    Confirm(u16),
    /// Make the client announce its port to the trackers.
    Reannounce,
    /// Ask the client about incoming peers, because the kernel has shown none for a day.
    CheckInbound,
    Wait(Duration),
    /// Exit because only the loopback device is left, so that a restart joins the VPN container's new network namespace.
    Exit,
}

/// A question to the kernel about the sockets on a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inspection {
    pub port: u16,
    /// Route to the gateway, if known: incoming peers arrive on its device.
    pub route: Option<GatewayRoute>,
    /// Also look for incoming peers.
    pub peers: bool,
    /// Inodes of sockets that belong to other programs, and do not count.
    pub foreign: Vec<u32>,
}

/// Progress of a step after an exchange.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress<T> {
    /// The step needs another exchange: call again.
    More,
    Done(T),
}

impl<T> Progress<T> {
    pub fn map<U>(self, change: impl FnOnce(T) -> U) -> Progress<U> {
        match self {
            Self::More => Progress::More,
            Self::Done(result) => Progress::Done(change(result)),
        }
    }
}

pub type Exchange<T> = Result<Progress<T>, Error>;

/// Result of a completed step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Completed {
    Token {
        token: Secret,
        /// True if the token comes from a login, false if it comes from the cache file.
        logged_in: bool,
    },
    Leased(Lease),
    Stored,
    Bound {
        gateway: Option<SocketAddr>,
        route: Option<GatewayRoute>,
        /// The server still had the binding. If not, the port was closed until now.
        refreshed: bool,
    },
    /// Port that another program has leased; `None` while that program has no port.
    Source(Option<u16>),
    Port(ListenPort),
    /// The client accepted the port that we set.
    PortSet,
    /// Sockets on the client's port; `None` if the kernel cannot show them, for example because the client runs on another machine.
    Inspected(Option<PortSockets>),
    /// The client's own report about its socket.
    Reachability(Connectivity),
    /// The client is announcing its port to the trackers.
    Reannounced,
    Inbound(Inbound),
}

/// The listen port in a client's settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ListenPort {
    /// Not a `u16`, because a client may report any number.
    pub port: i64,
    /// The client is set to pick a random port, so it may not be listening on `port`.
    pub random: bool,
}

/// Sockets on a port, as reported by the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortSockets {
    pub tcp: ListenState,
    /// `None` if the kernel reports TCP sockets only.
    pub udp: Option<ListenState>,
    /// A peer has connected through the tunnel within the last minute.
    pub incoming_peer: bool,
    /// Inodes of all TCP listeners.
    pub inodes: Vec<u32>,
    /// One of the TCP listeners is in [`Inspection::foreign`].
    pub foreign: bool,
    /// A TCP listener belongs to a different user than the client's API does, so it may not be the client's.
    pub other_user: bool,
}

impl PortSockets {
    /// TCP sockets in this state, with nothing else known.
    #[cfg(test)]
    pub fn of(tcp: ListenState) -> Self {
        Self { tcp, udp: None, incoming_peer: false, inodes: Vec::new(), foreign: false, other_user: false }
    }

    /// State of the TCP socket, or of the UDP socket if there is no TCP socket: some clients can be set to UDP only.
    pub fn listen_state(&self) -> &ListenState {
        match (&self.tcp, &self.udp) {
            (ListenState::Missing, Some(udp)) => udp,
            (tcp, _) => tcp,
        }
    }
}

/// State of the sockets that listen on a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListenState {
    /// Peers can reach a socket.
    Reachable,
    /// A socket is bound to a device or an address that no longer exists: it looks healthy, but receives nothing.
    Stale,
    /// All sockets are bound to these devices, but incoming peers arrive on the tunnel's.
    WrongDevice(Vec<String>),
    /// The port is forwarded over IPv4, but all sockets accept IPv6 only.
    Ipv6Only,
    /// No socket listens on the port.
    Missing,
}

impl ListenState {
    /// Why peers cannot reach the client, for a message that begins with the client's name. `tunnel` is the tunnel's device.
    pub fn describe(&self, tunnel: &str) -> String {
        match self {
            Self::Reachable => "listens".to_owned(),
            Self::Stale => format!("has no live socket on {tunnel}"),
            Self::WrongDevice(on) => format!("listens on {}, but peers arrive on {tunnel}", on.join(" and ")),
            Self::Ipv6Only => "listens on IPv6 only, but the port is forwarded over IPv4".to_owned(),
            Self::Missing => "does not listen".to_owned(),
        }
    }

    /// Advice if setting the port again has not helped.
    pub fn advice(&self) -> &'static str {
        match self {
            Self::WrongDevice(on) if on.len() == 1 => {
                "set the client's network interface to the VPN's (qBittorrent: Options, Advanced)"
            }
            // On several devices, the client listens on any interface already.
            Self::WrongDevice(_) => "restart the client",
            Self::Stale => "check the client's listen address; if it is right, restart the client",
            Self::Ipv6Only => "set the client's listen address to the VPN's IPv4 address, or to all addresses",
            Self::Reachable | Self::Missing => "check that the client is running",
        }
    }

    /// True if setting the port again probably helps: the socket is dead, or the client listens on any interface, but had no tunnel
    /// when it opened its sockets.
    pub fn can_be_reopened(&self) -> bool {
        match self {
            Self::WrongDevice(on) => on.len() > 1,
            state => *state == Self::Stale,
        }
    }
}

/// The client's report about incoming peers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Inbound {
    Seen,
    /// Torrents are active, but no peer has connected.
    NoneSeen,
    /// No torrent is active, so no peer is expected.
    Idle,
}

/// A client's report about its reachability; the first three variants are qBittorrent's terms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Connectivity {
    /// An incoming peer has connected.
    Connected,
    /// The client listens, but no peer has connected yet: normal at first.
    Firewalled,
    /// No listening socket.
    Disconnected,
    /// The client listens, but does not report whether peers have connected.
    Listening,
    /// The client does not report whether it listens.
    Unknown,
}

impl fmt::Display for Connectivity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Connected => "connected",
            Self::Firewalled => "firewalled",
            Self::Disconnected => "disconnected",
            Self::Listening => "listening",
            Self::Unknown => "unknown",
        })
    }
}
