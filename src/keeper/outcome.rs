//! What a step or a look has led to, for whoever tells people.

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

/// The three remotes whose troubles are kept apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Remote {
    /// PIA's account API.
    Account,
    /// PIA's gateway, or whoever else leases the port.
    Gateway,
    /// The torrent client.
    Client,
}

/// What a step or a look has led to, for whoever tells people.
#[derive(Debug)]
pub struct Outcome {
    /// Whose it is.
    pub remote: Remote,
    /// What happened and at which level it is logged; none in the middle of something.
    pub notice: Option<(Level, Notice)>,
    /// The remote does as asked again.
    pub recovered: Option<Recovery>,
}

/// What happened.
#[derive(Debug)]
pub enum Notice {
    /// A login gave a token.
    LoggedIn,
    /// The cache file gave a token.
    TokenCached,
    /// The gateway refused the token, and another one is got at once.
    TokenRefused(Rc<Error>),
    /// There is a new lease, and it survives a restart.
    Leased {
        /// The lease.
        lease: Rc<Lease>,
        /// It seems to be over by our clock.
        over: bool,
    },
    /// There is a new lease, and it could not be stored.
    StoreFailed {
        /// The lease.
        lease: Rc<Lease>,
        /// Why not.
        error: Rc<Error>,
    },
    /// Another lease in the place of a good one cannot be had.
    RenewalFailed(Rc<Error>),
    /// A lease that was asked for in the place of a good one cannot be bound, and the good one is kept.
    PortKept {
        /// The port that is kept.
        port: u16,
        /// The one that is not.
        refused: u16,
        /// Why not.
        error: Rc<Error>,
    },
    /// This port was bound.
    Bound(u16),
    /// Somebody else has leased this port.
    Source(u16),
    /// Somebody else has no port now; the last one is kept.
    SourceHasNoPort,
    /// The client has another port in its settings now.
    Moved {
        /// Before.
        from: i64,
        /// Now.
        to: u16,
    },
    /// The client reopened its socket on this port.
    Reopened(u16),
    /// Nothing listens on this port, so it is set again.
    NotListening(u16),
    /// The client listens.
    Listening {
        /// On which port.
        port: u16,
        /// What it says of its reachability.
        connectivity: Connectivity,
        /// How that is known.
        visibility: Visibility,
    },
    /// How the last day was.
    Day(Day),
    /// Torrents are active, and nobody has come in on this port for a day.
    NoInbound(u16),
    /// The client tells its trackers this port.
    Reannounced(u16),
    /// The client cannot be made to tell its trackers.
    ReannounceFailed(Rc<Error>),
    /// A step failed.
    Failed {
        /// Why.
        error: Rc<Error>,
        /// Failed attempts in a row.
        attempts: u32,
        /// Until it is tried again; zero if that is not known or when there is another way.
        next: Duration,
    },
    /// The tunnel is another one.
    Tunnel {
        /// The route before; none if there was none yet.
        from: Option<GatewayRoute>,
        /// The route now.
        to: GatewayRoute,
    },
    /// The wall clock went this far beyond the time that passed, or back.
    ClockJumped(SignedDuration),
    /// The gateway's clock and ours.
    Clock(ClockChange),
}

/// How it is known that a client listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Visibility {
    /// The kernel shows its socket, or it says so and is on another machine.
    Confirmed,
    /// The kernel shows its TCP socket and none for UDP.
    TcpOnly,
    /// It says so, and the kernel, which should show its socket, does not.
    Hidden,
    /// It has the port in its settings, and nobody tells more.
    Unknown,
}

/// A day of keeping a port.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Day {
    /// The port at its end.
    pub port: u16,
    /// Binds that were granted.
    pub binds: u32,
    /// Times at which whoever knows the port, or the route there, began to fail.
    pub outages: u32,
    /// When a peer from outside was last seen.
    pub peer_seen_at: Option<Timestamp>,
}

impl Outcome {
    /// Nothing to tell.
    pub(super) fn quiet(remote: Remote) -> Self {
        Self::of(remote, None)
    }

    pub(super) fn of(remote: Remote, notice: Option<(Level, Notice)>) -> Self {
        Self { remote, notice, recovered: None }
    }
}
