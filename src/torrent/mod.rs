//! Torrent clients: what we ask of one, and which ones there are.
//!
//! A second client is one more file beside `qbittorrent.rs` that implements [`TorrentClient`], and a line in [`read`]. When a port
//! is read, set and looked at is the keeper's decision.

mod qbittorrent;

use std::net::SocketAddr;

use crate::config::Reader;
use crate::error::Error;
use crate::keeper::client::Patience;
use crate::keeper::step::{Connectivity, Exchange, Inbound, ListenPort};
use crate::secret::Secret;

/// A torrent client that can be moved to another port while it runs. Each call is one exchange: a login that is needed first
/// is one, too, and then there is more to do.
pub trait TorrentClient {
    /// Its name, for people.
    fn name(&self) -> &'static str;
    /// Where it is, for people.
    fn address(&self) -> String;
    /// How long it may take to listen.
    fn patience(&self) -> Patience;
    /// What proves us to it; none where nothing does.
    fn credentials(&self) -> Option<Secret>;
    /// The error where these credentials were rejected a while ago and are not tried again yet.
    fn rejected_before(&self) -> Error;
    /// Reads the listen port.
    fn port(&mut self) -> Exchange<ListenPort>;
    /// Sets the listen port and turns random ports off. What `completes` a bounce is done also when a stop was asked for.
    fn set_port(&mut self, port: u16, completes: bool) -> Exchange<()>;
    /// Asks whether it listens.
    fn connectivity(&mut self) -> Exchange<Connectivity>;
    /// Asks whether any of its peers came in by itself.
    fn inbound(&mut self) -> Exchange<Inbound>;
    /// Whether it is to tell its trackers a new port at once.
    fn announces(&self) -> bool;
    /// Has it do so.
    fn announce(&mut self) -> Exchange<()>;
    /// The address of the last connection to it.
    fn dialled(&self) -> Option<SocketAddr>;
    /// Closes the connection, keeping the session.
    fn hang_up(&mut self);
    /// Ends the session, so that a short-lived process leaves none behind.
    fn log_out(&mut self);
}

/// The settings of the client that is used.
pub fn read(reader: &mut Reader) -> Option<Box<dyn TorrentClient>> {
    qbittorrent::QBittorrent::read(reader).map(|client| Box::new(client) as Box<dyn TorrentClient>)
}
