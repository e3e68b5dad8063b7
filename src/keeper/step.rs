//! The steps that the keeper asks for, and their results. How a step is carried out belongs to the remotes.

use std::fmt;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use super::lease::Lease;
use super::tunnel::GatewayRoute;
use crate::error::Error;
use crate::secret::Secret;

/// The next thing to do: one call to one remote, with its arguments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Read a token from the cache file, unless the file holds the refused one; else log in.
    GetToken {
        /// The token that the gateway refused last.
        refused: Option<Secret>,
    },
    /// Get a lease by `getSignature`.
    GetSignature {
        token: Secret,
    },
    /// Store the lease before its first use, so that a kill after that costs no port.
    StoreLease(Rc<Lease>),
    Bind(Rc<Lease>),
    /// Ask the program that leases the port instead of us for its port.
    PollSource,
    /// Read the client's listen port.
    ReadPort,
    /// Set the client's listen port.
    SetPort(u16),
    /// First half of a bounce: set the client's listen port to `other`.
    BounceAway {
        /// The port to come back to.
        port: u16,
        other: u16,
    },
    /// Second half of a bounce: set the listen port back. Runs even after a stop request.
    BounceBack(u16),
    /// Ask the kernel for the sockets that listen on `port`.
    Inspect {
        port: u16,
        /// The route on which the port comes in, if known.
        route: Option<GatewayRoute>,
        /// Also look for peers that have connected from outside.
        peers: bool,
    },
    /// Ask the client whether it listens on this port.
    Confirm(u16),
    /// Make the client announce its port to the trackers.
    Reannounce,
    /// Ask the client whether a peer has connected from outside, because the kernel has shown none for a day.
    CheckInbound,
    Wait(Duration),
    /// Exit: this network namespace is dead, and the user wants a restart in the next one.
    Exit,
}

/// Progress of a step after one exchange.
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

/// Result of one exchange.
pub type Exchange<T> = Result<Progress<T>, Error>;

/// Result of a completed step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Completed {
    Token {
        token: Secret,
        /// From a login, not from the cache file.
        logged_in: bool,
    },
    Leased(Lease),
    Stored,
    Bound {
        gateway: Option<SocketAddr>,
        /// The route to the gateway.
        route: Option<GatewayRoute>,
    },
    /// The port that another program has leased; `None` while it has none.
    Source(Option<u16>),
    Port(ListenPort),
    /// The client accepted the port that we set.
    PortSet,
    /// The kernel's view of the client's port; `None` if the kernel has none, as for a client on another machine.
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
    /// Not a `u16`, because a client may show any number.
    pub port: i64,
    /// The client is set to pick a random port, so it may not listen on `port`.
    pub random: bool,
}

/// The kernel's view of a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortSockets {
    pub tcp: ListenState,
    /// `None` if the kernel reports TCP sockets only.
    pub udp: Option<ListenState>,
    /// A peer has connected from outside through the tunnel within the last minute.
    pub incoming_peer: bool,
}

impl PortSockets {
    /// The state of the TCP socket, or of the UDP socket if there is none: some clients can be set to use UDP only.
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
    /// The socket is bound to a device other than the one on which the port comes in.
    WrongDevice { on: String, tunnel: String },
    /// No socket.
    Missing,
}

/// Peers that have connected from outside, as a client reports them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Inbound {
    Seen,
    /// Torrents are active, but no peer has connected from outside.
    NoneSeen,
    /// No torrent is active, so no peer is expected.
    Idle,
}

/// A client's report about its reachability; the first three are qBittorrent's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Connectivity {
    /// A peer has connected from outside.
    Connected,
    /// The client listens, but no peer has connected yet: normal at first.
    Firewalled,
    /// No listening socket.
    Disconnected,
    /// The client listens, and does not report whether peers have connected.
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
