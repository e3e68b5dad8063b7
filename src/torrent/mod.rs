//! Torrent clients: what we ask of one, and which ones there are.
//!
//! Another client is one more file beside `qbittorrent.rs` that implements [`TorrentClient`], a line in [`CLIENTS`], and its variables
//! in the table of `settings`. When a port is read, set and looked at is the keeper's decision.

mod deluge;
mod qbittorrent;
mod transmission;

use std::net::SocketAddr;

use crate::config::Reader;
use crate::error::Error;
use crate::http::tls::{Tls, read_roots, tls_to};
use crate::http::url::Url;
use crate::keeper::client::ClientProfile;
use crate::keeper::step::{Connectivity, Exchange, Inbound, ListenPort};
use crate::secret::Secret;

/// A torrent client that can be moved to another port while it runs. Each call is one exchange: a login that is needed first
/// is one, too, and then there is more to do.
pub trait TorrentClient {
    /// Its name, for people.
    fn name(&self) -> &'static str;
    /// Where it is, for people.
    fn address(&self) -> String;
    /// What it is like.
    fn profile(&self) -> ClientProfile;
    /// What proves us to it; none where nothing does.
    fn credentials(&self) -> Option<Secret>;
    /// The error where these credentials were rejected a while ago and are not tried again yet.
    fn rejected_before(&self) -> Error;
    /// Reads the listen port.
    fn port(&mut self) -> Exchange<ListenPort>;
    /// Sets the listen port and turns random ports off. With `force` also after a stop was asked for, to complete a bounce.
    fn set_port(&mut self, port: u16, force: bool) -> Exchange<()>;
    /// Asks whether it listens.
    fn connectivity(&mut self) -> Exchange<Connectivity>;
    /// Asks whether any of its peers came in by itself.
    fn inbound(&mut self) -> Exchange<Inbound>;
    /// Has it tell its trackers its port.
    fn reannounce(&mut self) -> Exchange<()>;
    /// The address of the last connection to it.
    fn dialled(&self) -> Option<SocketAddr>;
    /// Closes the connection, keeping the session.
    fn disconnect(&mut self);
    /// Ends the session, so that a short-lived process leaves none behind.
    fn log_out(&mut self);
}

/// Reads the settings of a client.
type Read = fn(&mut Reader) -> Option<Box<dyn TorrentClient>>;

/// The clients, by the names that they have in the settings.
const CLIENTS: [(&str, Read); 3] =
    [("qbittorrent", qbittorrent::read), ("transmission", transmission::read), ("deluge", deluge::read)];

/// The settings of the client that is used.
pub fn read(reader: &mut Reader) -> Option<Box<dyn TorrentClient>> {
    let known = CLIENTS.map(|(name, _)| name).join(", ");
    let remedy = format!("one of these is right: {known}");
    let find = |wanted: &str| CLIENTS.iter().find(|(name, _)| name.eq_ignore_ascii_case(wanted)).ok_or("is no client");
    let (name, read) = reader.parsed("TORRENT_CLIENT", CLIENTS[0].0, &remedy, find)?;
    for (other, _) in CLIENTS.iter().filter(|(other, _)| other != name) {
        let prefix = format!("{}_", other.to_ascii_uppercase());
        if let Some(set) = reader.names().find(|set| set.starts_with(&prefix) && reader.get(set).is_some()) {
            let words =
                format!("{set} is not used: TORRENT_CLIENT is {name}; set TORRENT_CLIENT={other} if that is meant");
            reader.warnings.push(words);
        }
    }
    read(reader)
}

/// Where a client is: the URL that the variable `host` holds, and how it proves itself, by the CA that the variable `ca` names. What
/// goes there in the clear is warned of when it `shows_password`.
fn read_endpoint(
    reader: &mut Reader,
    host: &'static str,
    default: &str,
    ca: &str,
    shows_password: bool,
) -> Option<(Url, Option<Tls>)> {
    let url = reader.parsed(host, default, &format!("a URL is right, e.g. {default}"), Url::parse);
    let roots = read_roots(reader, ca);
    let url = url?;
    if !url.https && !url.is_local() && shows_password {
        reader.warnings.push(format!(
            "the password goes to {} unencrypted: use https in {host} unless you trust the network between",
            url.host
        ));
    }
    // A host that the URL's parser accepts is a server name.
    let tls = if url.https { Some(tls_to(&url.host, roots.as_ref()).ok()?) } else { None };
    Some((url, tls))
}

/// `name=value` of a Set-Cookie header; none when the cookie is being deleted.
fn cookie_pair(header: &str) -> Option<&str> {
    let pair = header.split(';').next()?.trim();
    let (name, value) = pair.split_once('=')?;
    (!name.is_empty() && !value.is_empty() && pair.bytes().all(|b| b.is_ascii_graphic())).then_some(pair)
}
