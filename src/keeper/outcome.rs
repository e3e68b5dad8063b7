//! The outcome of a step or an observation, for the log and other observers. `service` turns outcomes into log messages.

use std::rc::Rc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use log::Level;

use super::gate::Recovery;
use super::lease::Lease;
use super::step::Connectivity;
use super::tunnel::GatewayRoute;
use crate::error::Error;
use crate::time::ClockChange;

/// A server or program that we call. Each remote has its own gate and troubles.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Remote {
    /// PIA's account API.
    Account,
    /// PIA's gateway, or the program that leases the port for us.
    Gateway,
    /// The torrent client.
    Client,
}

#[derive(Debug)]
pub struct Outcome {
    pub remote: Remote,
    /// The event and its log level; `None` if there is nothing to report, for example in the middle of a bounce.
    pub notice: Option<(Level, Notice)>,
    /// Set if the remote works again after a failure.
    pub recovered: Option<Recovery>,
}

/// An event worth reporting.
#[derive(Debug)]
pub enum Notice {
    LoggedIn,
    /// A token was read from the cache file.
    TokenCached,
    /// The gateway refused the token; we request a new one at once.
    TokenRefused(Rc<Error>),
    /// A new lease has been stored, so it will survive a restart.
    Leased {
        lease: Rc<Lease>,
        /// According to our clock, the lease has already expired.
        over: bool,
    },
    StoreFailed {
        lease: Rc<Lease>,
        error: Rc<Error>,
    },
    /// The user asked for a different port, but we could not get a new lease; we keep the current one.
    RenewalFailed(Rc<Error>),
    /// The user asked for a different port, but the new lease cannot be bound; we keep the previous one.
    PortKept {
        port: u16,
        refused: u16,
        error: Rc<Error>,
    },
    Bound(u16),
    /// Bound again, but the server had lost the binding at some time within `closed_for`, the time since the previous bind.
    Rebound {
        port: u16,
        closed_for: Duration,
    },
    /// Another program has leased this port.
    Source(u16),
    /// The program that leases the port currently has no port; `keeps` is its previous port, which the client keeps.
    SourceHasNoPort {
        keeps: Option<u16>,
    },
    /// We changed the client's listen port.
    Moved {
        from: i64,
        to: u16,
    },
    /// The client reopened its socket on this port.
    Reopened(u16),
    /// Nothing listens on this port, so we make the client reopen its socket.
    NotListening(u16),
    Listening {
        port: u16,
        connectivity: Connectivity,
        visibility: Visibility,
    },
    Day(Day),
    /// Torrents are active, but there has been no incoming peer on this port for a day.
    NoInbound(u16),
    /// The client is announcing this port to its trackers.
    Reannounced(u16),
    ReannounceFailed(Rc<Error>),
    Failed {
        error: Rc<Error>,
        /// Consecutive failed attempts.
        attempts: u32,
        /// Time until the next attempt; zero if unknown, or if we immediately try something else.
        next: Duration,
    },
    Tunnel {
        /// `None` if there is no previous route to compare with.
        from: Option<GatewayRoute>,
        to: GatewayRoute,
    },
    /// The wall clock jumped by this much, relative to the monotonic clock.
    ClockJumped(SignedDuration),
    /// Our clock has begun to differ from the gateway's, or agrees with it again.
    Clock(ClockChange),
}

/// How far the kernel confirms that the client listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Visibility {
    /// The kernel shows the socket, or the client runs on another machine and reports that it listens.
    Confirmed,
    /// The kernel shows a TCP socket, but no UDP socket.
    TcpOnly,
    /// The client reports that it listens, but the kernel, which should show the socket, does not.
    Hidden,
    /// The client's settings contain the port, but neither the client nor the kernel reports whether a socket is open.
    Unknown,
}

/// Daily summary.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Day {
    /// Port at the end of the day.
    pub port: u16,
    /// Successful binds.
    pub binds: u32,
    /// Number of times that the gateway, the port's source or the route began to fail.
    pub outages: u32,
    /// Last sign of an incoming peer on `port`.
    pub peer_seen_at: Option<Timestamp>,
}

impl Outcome {
    /// An outcome with nothing to report.
    pub(super) fn quiet(remote: Remote) -> Self {
        Self::of(remote, None)
    }

    pub(super) fn of(remote: Remote, notice: Option<(Level, Notice)>) -> Self {
        Self { remote, notice, recovered: None }
    }
}
