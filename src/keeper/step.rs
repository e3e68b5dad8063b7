//! What the keeper asks for, and what comes back.

use std::fmt;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use super::lease::Lease;
use super::tunnel::GatewayRoute;
use crate::error::Error;
use crate::secret::Secret;

/// The next thing to do: one exchange with one remote, with all that it takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Get a token: from the cache file, unless it holds the one that was refused, else by a login.
    GetToken {
        /// The token that the gateway refused last.
        refused: Option<Secret>,
    },
    /// `getSignature`: get a lease.
    GetSignature {
        /// Whose lease.
        token: Secret,
    },
    /// Store the lease before anything is done with it, so that a kill from then on costs no port.
    StoreLease(Rc<Lease>),
    /// `bindPort`.
    Bind(Rc<Lease>),
    /// Ask whoever else leases the port which one it is.
    PollSource,
    /// Read the client's listen port.
    ReadPort,
    /// Make this the client's listen port.
    SetPort(u16),
    /// The first half of a bounce.
    BounceAway {
        /// The port that is left.
        port: u16,
        /// The one to be set meanwhile.
        other: u16,
    },
    /// The second half of a bounce, done also when a stop was asked for: back to this port.
    BounceBack(u16),
    /// Ask the kernel who listens on this port.
    Inspect {
        /// The port.
        port: u16,
        /// The route on which the port comes in, if it is known.
        route: Option<GatewayRoute>,
        /// Ask for peers that came in, too.
        peers: bool,
    },
    /// Ask the client whether it listens on this port.
    Confirm(u16),
    /// Have the client tell its trackers the port.
    Reannounce,
    /// Ask the client whether any of its peers came in, because the kernel has shown none for a day.
    CheckInbound,
    /// Nothing to do for this long.
    Wait(Duration),
    /// End: this network namespace is dead, and the user wants to be started in the next one.
    Exit,
}

/// How far an exchange has led.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress<T> {
    /// The step takes another exchange: to be called again.
    More,
    /// The step is done.
    Done(T),
}

impl<T> Progress<T> {
    /// The same with its result changed.
    pub fn map<U>(self, change: impl FnOnce(T) -> U) -> Progress<U> {
        match self {
            Self::More => Progress::More,
            Self::Done(result) => Progress::Done(change(result)),
        }
    }
}

/// The outcome of one exchange.
pub type Exchange<T> = Result<Progress<T>, Error>;

/// A step that was done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Completed {
    /// There is a token.
    Token {
        /// The token.
        token: Secret,
        /// From a login and not from the cache file.
        logged_in: bool,
    },
    /// There is a lease.
    Leased(Lease),
    /// The lease survives a restart.
    Stored,
    /// The port is bound.
    Bound {
        /// The gateway's address.
        gateway: Option<SocketAddr>,
        /// The route there.
        route: Option<GatewayRoute>,
    },
    /// The port that somebody else has leased; none while there is none.
    Source(Option<u16>),
    /// The client's listen port.
    Port(ListenPort),
    /// The client took the port that it was told.
    PortSet,
    /// What the kernel says of the client's socket; none where it does not tell, or not of this client.
    Inspected(Option<PortSockets>),
    /// What the client says of its socket.
    Reachability(Connectivity),
    /// The trackers are being told.
    Reannounced,
    /// Who came in, by the client's own word.
    Inbound(Inbound),
}

/// The listen port in a client's settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ListenPort {
    /// As the client shows it; clients may hold nonsense, so it is not a `u16`.
    pub port: i64,
    /// Whether the client is set to pick another port by itself, in which case `port` may not be what it listens on.
    pub random: bool,
}

/// What the kernel says of a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortSockets {
    /// Who listens on it by TCP.
    pub tcp: ListenState,
    /// The same by UDP; none where the kernel tells of TCP alone.
    pub udp: Option<ListenState>,
    /// Somebody from outside has come in through the tunnel, a minute ago or less.
    pub incoming_peer: bool,
}

impl PortSockets {
    /// Who listens, by UDP where nobody does by TCP: some clients can be set to use nothing else.
    pub fn listen_state(&self) -> &ListenState {
        match (&self.tcp, &self.udp) {
            (ListenState::Missing, Some(udp)) => udp,
            (tcp, _) => tcp,
        }
    }
}

/// Who listens on a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListenState {
    /// Somebody whom peers can reach.
    Reachable,
    /// Only sockets of devices or addresses that are gone: they look well and hear nothing.
    Stale,
    /// Somebody on another device than the one that the port comes in on.
    WrongDevice {
        /// That device.
        on: String,
        /// The one that the port comes in on.
        tunnel: String,
    },
    /// Nobody.
    Missing,
}

/// Whether anybody came in, by a client's word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Inbound {
    /// Somebody did.
    Seen,
    /// Nobody did, although torrents are active.
    NoneSeen,
    /// No torrent is active, so nobody would.
    Idle,
}

/// What a client says about its reachability; the first three are qBittorrent's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Connectivity {
    /// Somebody has connected from outside.
    Connected,
    /// It listens; nobody has connected yet. Normal until the first peer comes.
    Firewalled,
    /// No listening socket.
    Disconnected,
    /// It listens, and does not say whether anybody has connected.
    Listening,
    /// It does not say.
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
