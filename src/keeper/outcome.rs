//! The outcome of a step or an observation, for the log and other observers. How an outcome is worded belongs to `service`.

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

/// The three remotes, each with troubles of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Remote {
    /// PIA's account API.
    Account,
    /// PIA's gateway, or the program that leases the port instead of us.
    Gateway,
    /// The torrent client.
    Client,
}

#[derive(Debug)]
pub struct Outcome {
    pub remote: Remote,
    /// The event and its log level; `None` if there is nothing to report, as in the middle of a sequence.
    pub notice: Option<(Level, Notice)>,
    /// Set if the remote works again after a trouble.
    pub recovered: Option<Recovery>,
}

/// An event worth reporting.
#[derive(Debug)]
pub enum Notice {
    LoggedIn,
    /// A token was read from the cache file.
    TokenCached,
    /// The gateway refused the token; we get a new one at once.
    TokenRefused(Rc<Error>),
    /// A new lease was stored and survives a restart.
    Leased {
        lease: Rc<Lease>,
        /// The lease has already expired by our clock.
        over: bool,
    },
    StoreFailed {
        lease: Rc<Lease>,
        error: Rc<Error>,
    },
    /// A different port was requested, but there is no new lease; the good one is kept.
    RenewalFailed(Rc<Error>),
    /// A different port was requested, but the new lease cannot be bound; the good one is kept.
    PortKept {
        port: u16,
        refused: u16,
        error: Rc<Error>,
    },
    Bound(u16),
    /// The port that another program has leased.
    Source(u16),
    /// The program that leases the port has none now; the last one is kept.
    SourceHasNoPort,
    /// The client's listen port was changed.
    Moved {
        from: i64,
        to: u16,
    },
    /// The client reopened its socket on this port.
    Reopened(u16),
    /// Nothing listens on this port, so it is set again.
    NotListening(u16),
    /// The client listens.
    Listening {
        port: u16,
        connectivity: Connectivity,
        visibility: Visibility,
    },
    Day(Day),
    /// Torrents are active, but no peer has connected to this port from outside for a day.
    NoInbound(u16),
    /// The client announces this port to its trackers.
    Reannounced(u16),
    ReannounceFailed(Rc<Error>),
    /// A step failed.
    Failed {
        error: Rc<Error>,
        /// Failed attempts in a row.
        attempts: u32,
        /// Wait until the next attempt; zero if unknown, or if an alternative is tried at once.
        next: Duration,
    },
    /// The tunnel has changed.
    Tunnel {
        /// `None` if there was no route before.
        from: Option<GatewayRoute>,
        to: GatewayRoute,
    },
    /// Jump of the wall clock relative to the time that passed.
    ClockJumped(SignedDuration),
    /// Our clock compared with the gateway's.
    Clock(ClockChange),
}

/// Evidence that a client listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Visibility {
    /// The kernel shows the socket, or the client reports listening and runs on another machine.
    Confirmed,
    /// The kernel shows a TCP socket, but none for UDP.
    TcpOnly,
    /// The client reports listening, but the kernel, which should show the socket, does not.
    Hidden,
    /// The port is in the client's settings; neither client nor kernel reports more.
    Unknown,
}

/// Summary of a day.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Day {
    /// The port at the end of the day.
    pub port: u16,
    /// Successful binds.
    pub binds: u32,
    /// Times at which the gateway, the source of the port or the route began to fail.
    pub outages: u32,
    /// Last sign of a peer from outside.
    pub peer_seen_at: Option<Timestamp>,
}

impl Outcome {
    /// An outcome without anything to report.
    pub(super) fn quiet(remote: Remote) -> Self {
        Self::of(remote, None)
    }

    pub(super) fn of(remote: Remote, notice: Option<(Level, Notice)>) -> Self {
        Self { remote, notice, recovered: None }
    }
}
