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
    /// Ask the kernel for the sockets that listen on `port`.
    Inspect {
        port: u16,
        /// Route to the gateway, if known: incoming peers arrive on its device.
        route: Option<GatewayRoute>,
        /// Also look for incoming peers.
        peers: bool,
    },
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
    /// `None` if the kernel reports only TCP sockets.
    pub udp: Option<ListenState>,
    /// A peer has connected through the tunnel within the last minute.
    pub incoming_peer: bool,
}

impl PortSockets {
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
    /// Peers can reach the socket.
    Reachable,
    /// All sockets are bound to devices or addresses that no longer exist: they look healthy but receive nothing.
    Stale,
    /// The socket is bound to the device `on`, but incoming peers arrive on the device `tunnel`.
    WrongDevice { on: String, tunnel: String },
    /// No socket listens on the port.
    Missing,
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
