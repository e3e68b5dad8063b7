//! Torrent clients: the interface that the keeper uses, and the list of supported clients.
//!
//! To add a client, implement [`TorrentClient`] in a file next to `qbittorrent.rs`, add a line to [`CLIENTS`], and add
//! the client's variables to the table in `settings`. The keeper decides when to read, set or check the port.

mod deluge;
mod qbittorrent;
mod transmission;

use std::net::SocketAddr;

use crate::config::Reader;
use crate::error::Error;
use crate::http::dial::Guard;
use crate::http::tls::{Tls, read_roots, tls_to};
use crate::http::url::Url;
use crate::keeper::client::ClientProfile;
use crate::keeper::step::{Connectivity, Exchange, Inbound, ListenPort};
use crate::secret::Secret;

/// A torrent client whose listen port can be changed while it runs. Each call makes one exchange; if that exchange only
/// prepares the call, as a login does, the result is `Progress::More`, and the keeper repeats the call.
pub trait TorrentClient {
    fn name(&self) -> &'static str;
    fn address(&self) -> String;
    fn profile(&self) -> ClientProfile;
    /// All credentials joined into one secret, to recognise credentials that were rejected; `None` if none are set.
    fn credentials(&self) -> Option<Secret>;
    /// Error for credentials that the client has already rejected; returned instead of logging in again.
    fn rejected_before(&self) -> Error;
    fn port(&mut self) -> Exchange<ListenPort>;
    /// Sets the listen port and turns off random ports. If `force` is set, sends the call even after a stop request, to
    /// complete a bounce.
    fn set_port(&mut self, port: u16, force: bool) -> Exchange<()>;
    /// Asks the client whether it is listening.
    fn connectivity(&mut self) -> Exchange<Connectivity>;
    /// Asks the client whether it has seen incoming peers.
    fn inbound(&mut self) -> Exchange<Inbound>;
    /// Makes the client announce its port to its trackers.
    fn reannounce(&mut self) -> Exchange<()>;
    /// Remote address of the last connection.
    fn dialled(&self) -> Option<SocketAddr>;
    /// Sets the guard that each request has to pass.
    fn guard_by(&mut self, guard: Guard);
    /// Closes the connection but keeps the session.
    fn disconnect(&mut self);
    /// Ends the session, so that short-lived processes do not leave sessions behind.
    fn log_out(&mut self);
}

type Read = fn(&mut Reader) -> Option<Box<dyn TorrentClient>>;

/// Values of `TORRENT_CLIENT`, regardless of case.
const CLIENTS: [(&str, Read); 3] =
    [("qbittorrent", qbittorrent::read), ("transmission", transmission::read), ("deluge", deluge::read)];

/// Reads the settings of the client selected by `TORRENT_CLIENT`.
pub fn read(reader: &mut Reader) -> Option<Box<dyn TorrentClient>> {
    let known = CLIENTS.map(|(name, _)| name).join(", ");
    let remedy = format!("use one of: {known}");
    let find = |wanted: &str| CLIENTS.iter().find(|(name, _)| name.eq_ignore_ascii_case(wanted)).ok_or("is unknown");
    let (name, read) = reader.parsed("TORRENT_CLIENT", CLIENTS[0].0, &remedy, find)?;
    for (other, _) in CLIENTS.iter().filter(|(other, _)| other != name) {
        let prefix = format!("{}_", other.to_ascii_uppercase());
        if let Some(set) = reader.names().find(|set| set.starts_with(&prefix) && reader.get(set).is_some()) {
            let words =
                format!("{set} is ignored because TORRENT_CLIENT is {name}; for {other}, set TORRENT_CLIENT={other}");
            reader.warnings.push(words);
        }
    }
    read(reader)
}

/// Reads a client's URL from the variable `host`, and its CA from the file named in the variable `ca`. If
/// `shows_password` is set, warns about plain HTTP to another machine.
fn read_endpoint(
    reader: &mut Reader,
    host: &'static str,
    default: &str,
    ca: &str,
    shows_password: bool,
) -> Option<(Url, Option<Tls>)> {
    let url = reader.parsed(host, default, &format!("use a URL, e.g. {default}"), Url::parse);
    let roots = read_roots(reader, ca);
    let url = url?;
    if shows_password {
        reader.warnings.extend(url.exposure("the password", &format!("use https in {host}")));
    }
    // This cannot fail because of the host: `Url::parse` accepts only valid server names.
    let tls = if url.https { Some(tls_to(&url.host, roots.as_ref()).ok()?) } else { None };
    Some((url, tls))
}

/// `name=value` from a Set-Cookie header; `None` if the header is malformed or deletes the cookie.
fn cookie_pair(header: &str) -> Option<&str> {
    let pair = header.split(';').next()?.trim();
    let (name, value) = pair.split_once('=')?;
    (!name.is_empty() && !value.is_empty() && pair.bytes().all(|b| b.is_ascii_graphic())).then_some(pair)
}
