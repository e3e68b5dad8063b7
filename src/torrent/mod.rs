//! Torrent clients: what we ask of one, and how a port is set so that something really listens on it.
//!
//! A second client is one more file beside `qbittorrent.rs` that implements [`TorrentClient`].

pub mod qbittorrent;

use std::fmt;
use std::thread;
use std::time::{Duration, Instant};

use crate::error::{Cause, Error, Op};

/// How long to believe that a client is still about to listen.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// Until the client must have opened its socket. qBittorrent takes 3 to 31 ms.
    pub listen: Duration,
    /// Between two looks.
    pub poll: Duration,
    /// After a change the reported status may be that of the old port for this long.
    pub lag: Duration,
}

/// For qBittorrent: since 4.6 its status is up to 1.3 s late.
pub const PATIENCE: Patience =
    Patience { listen: Duration::from_secs(3), poll: Duration::from_millis(250), lag: Duration::from_millis(1500) };

/// Whether a client on whose port nothing listens is given the port anew. Each time it writes its settings to its disk, so
/// where it was in vain it is not done with every look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bounce {
    /// Not now.
    Not,
    /// For the first time in this trouble; the user is told.
    First,
    /// It did not help some time ago.
    Again,
}

/// The listen port in a client's settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ListenPort {
    /// As the client shows it; clients may hold nonsense, so it is not a `u16`.
    pub port: i64,
    /// Whether the client is set to pick a random port, in which case `port` may not be what it listens on.
    pub random: bool,
}

/// What a client says about its reachability.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Connectivity {
    /// Somebody has connected from outside.
    Connected,
    /// It listens; nobody has connected yet. Normal until the first peer comes.
    Firewalled,
    /// No listening socket.
    Disconnected,
}

impl fmt::Display for Connectivity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Connected => "connected",
            Self::Firewalled => "firewalled",
            Self::Disconnected => "disconnected",
        })
    }
}

/// A torrent client that can be moved to another port while it runs.
pub trait TorrentClient {
    /// Its name, for people.
    fn name(&self) -> &'static str;
    /// Reads the listen port, logging in when that is needed.
    fn port(&mut self) -> Result<ListenPort, Error>;
    /// Sets the listen port and turns random ports off.
    fn set_port(&mut self, port: u16) -> Result<(), Error>;
    /// Has it open its socket on `port` anew, by way of another port: setting the one that it has does nothing. Once the other
    /// one is set this is brought to its end, also when a stop was asked for.
    fn bounce(&mut self, port: u16, other: u16) -> Result<(), Error>;
    /// Asks whether it listens.
    fn connectivity(&mut self) -> Result<Connectivity, Error>;
    /// Closes the connection, keeping the session.
    fn hang_up(&mut self);
    /// Ends the session, so that a short-lived process leaves none behind.
    fn log_out(&mut self);
}

/// Makes `port` the client's listen port and reads it back. Returns the port that it had before, if that was another.
pub fn place(client: &mut dyn TorrentClient, port: u16) -> Result<Option<i64>, Error> {
    let before = client.port()?;
    log::debug!("{}: listen port {}, leased port {port}", client.name(), before.port);
    if before.port == i64::from(port) && !before.random {
        return Ok(None);
    }
    if before.port == i64::from(port) {
        // With a random port active, old versions do not listen anew when they are given the port that they already show.
        client.bounce(port, neighbour(port))?;
    } else {
        client.set_port(port)?;
    }
    let after = client.port()?;
    if after.port != i64::from(port) {
        return Err(Error::new(Op::ClientSetPort, Cause::PortNotTaken { wanted: port, found: after.port }));
    }
    Ok(Some(before.port))
}

/// Has the client open its socket on `port` anew: by making it the listen port, or where it is already, by way of another
/// one. After a tunnel was made anew some clients keep a socket in the old one, and setting the port that they have already
/// does nothing. Returns the port that it had before, if that was another.
pub fn reopen(client: &mut dyn TorrentClient, port: u16) -> Result<Option<i64>, Error> {
    let before = place(client, port)?;
    if before.is_none() {
        client.bounce(port, neighbour(port))?;
        place(client, port)?;
    }
    Ok(before)
}

/// Makes sure that the client listens on `port`, which [`place`] has set: settings are not the socket. If nothing listens
/// and `bounce` allows it, the port is set anew once by way of another one, because setting the same port again does nothing.
pub fn confirm(
    client: &mut dyn TorrentClient,
    port: u16,
    patience: Patience,
    bounce: Bounce,
) -> Result<Connectivity, Error> {
    let first = wait_until_listening(client, patience.listen, patience.poll)?;
    if first != Connectivity::Disconnected {
        return Ok(first);
    }
    let level = match bounce {
        Bounce::Not => return Err(Error::new(Op::ClientListening, Cause::NotListening { port })),
        Bounce::First => log::Level::Warn,
        Bounce::Again => log::Level::Debug,
    };
    log::log!(level, "{}: nothing listens on port {port}; setting it anew", client.name());
    client.bounce(port, neighbour(port))?;
    thread::sleep(patience.lag);
    match wait_until_listening(client, patience.listen.saturating_sub(patience.lag), patience.poll)? {
        Connectivity::Disconnected => Err(Error::new(Op::ClientListening, Cause::NotListening { port })),
        connectivity => Ok(connectivity),
    }
}

fn wait_until_listening(
    client: &mut dyn TorrentClient,
    limit: Duration,
    poll: Duration,
) -> Result<Connectivity, Error> {
    let end = Instant::now() + limit;
    loop {
        let connectivity = client.connectivity()?;
        if connectivity != Connectivity::Disconnected || Instant::now() >= end {
            return Ok(connectivity);
        }
        thread::sleep(poll);
    }
}

/// A port beside `port`, never 0 and never a privileged one for an unprivileged one.
fn neighbour(port: u16) -> u16 {
    if port == u16::MAX { port - 1 } else { port + 1 }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Patience =
        Patience { listen: Duration::from_millis(4), poll: Duration::from_millis(1), lag: Duration::ZERO };

    #[derive(Default)]
    struct Fake {
        port: i64,
        random: bool,
        stubborn: bool,
        deaf_until_sets: usize,
        sets: Vec<u16>,
    }

    impl TorrentClient for Fake {
        fn name(&self) -> &'static str {
            "fake"
        }
        fn port(&mut self) -> Result<ListenPort, Error> {
            Ok(ListenPort { port: self.port, random: self.random })
        }
        fn set_port(&mut self, port: u16) -> Result<(), Error> {
            self.sets.push(port);
            if !self.stubborn {
                (self.port, self.random) = (port.into(), false);
            }
            Ok(())
        }
        fn bounce(&mut self, port: u16, other: u16) -> Result<(), Error> {
            self.set_port(other)?;
            self.set_port(port)
        }
        fn connectivity(&mut self) -> Result<Connectivity, Error> {
            let deaf = self.sets.len() < self.deaf_until_sets;
            Ok(if deaf { Connectivity::Disconnected } else { Connectivity::Firewalled })
        }
        fn hang_up(&mut self) {}
        fn log_out(&mut self) {}
    }

    #[test]
    fn a_right_port_is_left_alone() {
        let mut fake = Fake { port: 4711, ..Fake::default() };
        assert_eq!(place(&mut fake, 4711).unwrap(), None);
        assert_eq!(confirm(&mut fake, 4711, SHORT, Bounce::First).unwrap(), Connectivity::Firewalled);
        assert!(fake.sets.is_empty());
    }

    #[test]
    fn another_port_is_replaced_and_a_random_one_bounced() {
        let mut fake = Fake { port: 70000, ..Fake::default() };
        assert_eq!(place(&mut fake, 4711).unwrap(), Some(70000));
        assert_eq!(fake.sets, [4711]);
        let mut fake = Fake { port: 65535, random: true, ..Fake::default() };
        assert_eq!(place(&mut fake, 65535).unwrap(), Some(65535));
        assert_eq!(fake.sets, [65534, 65535]);
    }

    #[test]
    fn a_socket_is_opened_anew_by_way_of_another_port() {
        let mut fake = Fake { port: 4711, ..Fake::default() };
        reopen(&mut fake, 4711).unwrap();
        assert_eq!(fake.sets, [4712, 4711]);
    }

    #[test]
    fn a_port_that_is_not_taken_is_an_error() {
        let mut fake = Fake { port: 6881, stubborn: true, ..Fake::default() };
        let error = place(&mut fake, 4711).unwrap_err();
        assert!(matches!(error.cause, Cause::PortNotTaken { wanted: 4711, found: 6881 }));
    }

    #[test]
    fn a_deaf_client_is_bounced_exactly_once() {
        let mut fake = Fake { port: 4711, deaf_until_sets: 2, ..Fake::default() };
        assert_eq!(confirm(&mut fake, 4711, SHORT, Bounce::First).unwrap(), Connectivity::Firewalled);
        assert_eq!(fake.sets, [4712, 4711]);
        let mut fake = Fake { port: 4711, deaf_until_sets: 9, ..Fake::default() };
        for bounce in [Bounce::Again, Bounce::Not] {
            let error = confirm(&mut fake, 4711, SHORT, bounce).unwrap_err();
            assert!(matches!(error.cause, Cause::NotListening { port: 4711 }));
        }
        assert_eq!(fake.sets, [4712, 4711]);
    }
}
