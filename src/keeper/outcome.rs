//! What a step or a look has led to, for whoever tells people.

use std::rc::Rc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use log::Level;

use super::gate::Recovery;
use super::lease::Lease;
use super::step::Connectivity;
use super::tunnel::Way;
use crate::error::Error;
use crate::time::ClockNews;

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
pub struct Verdict {
    /// Whose it is.
    pub remote: Remote,
    /// What happened and at which level it is logged; none in the middle of something.
    pub news: Option<(Level, News)>,
    /// The remote does as asked again.
    pub recovered: Option<Recovery>,
}

/// What happened.
#[derive(Debug)]
pub enum News {
    /// A login gave a token.
    LoggedIn,
    /// The cache file gave a token.
    TokenRead,
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
    NotStored {
        /// The lease.
        lease: Rc<Lease>,
        /// Why not.
        error: Rc<Error>,
    },
    /// Another lease in the place of a good one cannot be had.
    NotRenewed(Rc<Error>),
    /// A lease that was asked for in the place of a good one cannot be bound, and the good one is kept.
    KeptOld {
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
    NoPort,
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
    Deaf(u16),
    /// The client listens.
    Listens {
        /// On which port.
        port: u16,
        /// What it says of its reachability.
        connectivity: Connectivity,
        /// How that is known.
        sight: Sight,
    },
    /// How the last day was.
    Day(Day),
    /// Torrents are active, and nobody has come in on this port for a day.
    NoInbound(u16),
    /// The client tells its trackers this port.
    Announced(u16),
    /// The client cannot be made to tell its trackers.
    NotAnnounced(Rc<Error>),
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
        /// The way before; none if there was none yet.
        from: Option<Way>,
        /// The way now.
        to: Way,
    },
    /// The wall clock went this far beyond the time that passed, or back.
    ClockJumped(SignedDuration),
    /// The gateway's clock and ours.
    Clock(ClockNews),
}

/// How it is known that a client listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sight {
    /// The kernel shows its socket, or it says so and is on another machine.
    Clear,
    /// The kernel shows its TCP socket and none for UDP.
    TcpOnly,
    /// It says so, and the kernel, which should show its socket, does not.
    Unseen,
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
    /// Times at which whoever knows the port, or the way there, began to fail.
    pub outages: u32,
    /// When a peer from outside was last seen.
    pub peer_at: Option<Timestamp>,
}

impl Verdict {
    /// Nothing to tell.
    pub(super) fn quiet(remote: Remote) -> Self {
        Self::of(remote, None)
    }

    pub(super) fn of(remote: Remote, news: Option<(Level, News)>) -> Self {
        Self { remote, news, recovered: None }
    }
}
