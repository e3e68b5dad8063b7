//! The gateway, port 19999: `getSignature` gives a lease, `bindPort` keeps its port bound. Port 443 gives tokens.
//!
//! All are HTTPS to the gateway's address inside the tunnel, with the server's name as SNI and Host, over one connection
//! while the server keeps it open. Where nobody said which address that is, the first candidate whose certificate proves
//! it is, until it fails.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use miniserde::json::{Object, Value};

use super::discover::{self, Candidate};
use super::lease::Lease;
use super::trust::Authority;
use crate::clock::Clock;
use crate::config::GatewayAddress;
use crate::error::{Attempt, Cause, Error, Op, Phase, Refusal};
use crate::http::tls::{NamePolicy, Tls};
use crate::http::{Deadline, Peer, REQUEST_DEADLINE, Request, Response, plain};
use crate::json;
use crate::route::Path;
use crate::secret::Secret;

/// For a candidate to prove that it is the gateway, TLS included.
const PROOF_DEADLINE: Duration = Duration::from_secs(3);
/// The port of the API that gives tokens inside the tunnel (PIA's desktop client).
const LOGIN_PORT: u16 = 443;

/// The gateway of the tunnel.
pub struct Gateway {
    address: GatewayAddress,
    hostname: Option<String>,
    policy: NamePolicy,
    authority: Authority,
    /// The one that is asked; none before the first search and after one that was found has failed.
    peer: Option<Peer>,
    /// A found one that has failed, the first to be tried again.
    failed: Option<Candidate>,
    /// How the one that is asked was found.
    how: Option<String>,
    /// Warn about a certificate's name that nobody asked for, once.
    unnamed: bool,
    /// Corrected by what the gateway says.
    pub clock: Clock,
}

impl Gateway {
    /// A gateway at `address` whose certificate `authority` must have signed and `policy` must accept; `hostname` is what it
    /// must carry, if known. Nothing is read or sent yet.
    pub fn new(address: GatewayAddress, hostname: Option<String>, policy: NamePolicy, authority: Authority) -> Self {
        let unnamed = hostname.is_none();
        Self {
            address,
            hostname,
            policy,
            authority,
            peer: None,
            failed: None,
            how: None,
            unnamed,
            clock: Clock::default(),
        }
    }

    /// `host:port` for people.
    pub fn address(&self) -> String {
        match (&self.peer, &self.address) {
            (Some(peer), _) => peer.address(),
            (None, GatewayAddress::At { host, port }) => plain::join(host, *port),
            (None, GatewayAddress::Find { .. }) => "to be found".to_owned(),
        }
    }

    /// How it was found, when it was.
    pub fn how_found(&self) -> Option<&str> {
        self.how.as_deref()
    }

    /// Finds it if need be, connects and verifies.
    pub fn connect(&mut self, op: Op) -> Result<(), Error> {
        let result = self
            .peer(op)
            .and_then(|peer| peer.connect(Deadline::after(REQUEST_DEADLINE)).map_err(|cause| Error::new(op, cause)));
        self.look_at(&result);
        result
    }

    /// The names that the gateway's certificate carries.
    pub fn certificate_names(&self) -> &[String] {
        self.peer.as_ref().and_then(Peer::certificate_names).unwrap_or_default()
    }

    /// Its address, once it is known. A found one that has failed is still the one whose way is watched: were it forgotten,
    /// a tunnel that was made anew while a bind hung in the old one would go unnoticed.
    pub fn dialled(&self) -> Option<SocketAddr> {
        match (&self.peer, &self.address) {
            (Some(peer), _) if peer.dialled().is_some() => peer.dialled(),
            (_, GatewayAddress::At { host, port }) => host.parse().ok().map(|ip| SocketAddr::new(ip, *port)),
            (_, GatewayAddress::Find { port, .. }) => self.failed.as_ref().map(|failed| (failed.address, *port).into()),
        }
    }

    /// The way there; none for a name that was not looked up yet. Nothing is sent.
    pub fn path(&self) -> Option<io::Result<Path>> {
        match (self.dialled(), &self.address) {
            // Where one that was found was, no route may lead again: the next tunnel can have another one elsewhere.
            (Some(address), GatewayAddress::Find { .. }) => Some(Path::towards(address).or_else(|_| discover::path())),
            (Some(address), GatewayAddress::At { .. }) => Some(Path::towards(address)),
            (None, GatewayAddress::Find { .. }) => Some(discover::path()),
            (None, GatewayAddress::At { .. }) => None,
        }
    }

    /// The tunnel is another one: whoever was found in the old one is not looked for in the new one.
    pub fn forget(&mut self) {
        self.hang_up();
        if let GatewayAddress::Find { .. } = self.address {
            (self.peer, self.failed) = (None, None);
        }
    }

    /// Whom to ask, found if need be.
    fn peer(&mut self, op: Op) -> Result<&mut Peer, Error> {
        let peer = if let Some(peer) = self.peer.take() {
            peer
        } else {
            let roots = self.authority.roots().map_err(|cause| Error::new(Op::FetchCa, cause))?;
            let tls = Tls::new(roots, self.policy.clone());
            match &self.address {
                GatewayAddress::At { host, port } => self.at(host, *port, tls),
                &GatewayAddress::Find { port, usual_first } => {
                    self.find(port, usual_first, &tls).map_err(|cause| Error::new(op, cause))?
                }
            }
        };
        Ok(self.peer.insert(peer))
    }

    fn at(&self, host: &str, port: u16, tls: Tls) -> Peer {
        Peer::new(host, port, self.hostname.as_deref().unwrap_or(host), Some(tls))
    }

    /// The first candidate that proves itself.
    fn find(&mut self, port: u16, usual_first: bool, tls: &Tls) -> Result<Peer, Cause> {
        let mut candidates = discover::candidates(usual_first && self.how.is_none());
        if let Some(failed) = &self.failed {
            candidates.retain(|candidate| candidate.address != failed.address);
            candidates.insert(0, failed.clone());
        }
        if candidates.is_empty() {
            return Err(Cause::NoTunnel);
        }
        let mut attempts = Vec::new();
        for candidate in candidates {
            let mut peer = self.at(&candidate.address.to_string(), port, tls.clone());
            match peer.connect(Deadline::after(PROOF_DEADLINE)) {
                Ok(()) => {
                    log::info!("gateway {} found: {}", peer.address(), candidate.how);
                    self.how = Some(candidate.how);
                    return Ok(peer);
                }
                Err(cause) => attempts.push(Attempt { at: format!("{} ({})", peer.address(), candidate.how), cause }),
            }
        }
        Err(Cause::all_failed(attempts))
    }

    /// Draws conclusions from how an exchange went: a found gateway that cannot be spoken to is looked for anew, beginning
    /// with itself.
    fn look_at<T>(&mut self, result: &Result<T, Error>) {
        self.warn_if_unnamed();
        let unreachable = matches!(
            result.as_ref().map_err(|error| &error.cause),
            Err(Cause::Connect { .. }
                | Cause::Timeout { .. }
                | Cause::Closed { phase: Phase::Handshake }
                | Cause::Broken { .. }
                | Cause::NameMismatch { .. }
                | Cause::UnknownIssuer
                | Cause::NotTls
                | Cause::Tls(_))
        );
        if unreachable
            && let GatewayAddress::Find { .. } = self.address
            && let (Some(peer), Some(how)) = (self.peer.take(), &self.how)
            && let Some(SocketAddr::V4(address)) = peer.dialled()
        {
            self.failed = Some(Candidate { address: *address.ip(), how: how.clone() });
        }
    }

    fn warn_if_unnamed(&mut self) {
        if self.unnamed && self.peer.as_ref().is_some_and(|peer| peer.certificate_names().is_some()) {
            self.unnamed = false;
            log::warn!(
                "PIA_HOSTNAME is not set, so any server with a certificate of the CA is accepted; this one's certificate \
                 is for {}: set PIA_HOSTNAME to that",
                self.certificate_names().join(", ")
            );
        }
    }

    /// The API that gives tokens, at the same address; it must prove itself in the same way.
    pub fn login_peer(&mut self) -> Result<Peer, Cause> {
        self.peer(Op::Login).map(|peer| peer.at_port(LOGIN_PORT)).map_err(|error| error.cause)
    }

    /// `getSignature`: a new lease.
    pub fn get_signature(&mut self, token: &Secret) -> Result<Lease, Error> {
        let fields = self.ask(Op::GetSignature, "/getSignature", &[("token", token.expose())], &[token])?;
        let text = |name: &'static str| match fields.get(name) {
            Some(Value::String(text)) if !text.is_empty() => Ok(Secret::new(text.as_str())),
            Some(Value::String(_)) | None => Err(Cause::field(name, "is missing")),
            Some(_) => Err(Cause::field(name, "is not a string")),
        };
        text("payload")
            .and_then(|payload| Lease::parse(payload, text("signature")?, self.clock.now()))
            .map_err(|cause| Error::new(Op::GetSignature, cause))
    }

    /// `bindPort`: binds the lease's port for the next 15 minutes. Payload and signature go back byte for byte.
    pub fn bind_port(&mut self, lease: &Lease) -> Result<(), Error> {
        let fields = [("payload", lease.payload.expose()), ("signature", lease.signature.expose())];
        self.ask(Op::BindPort, "/bindPort", &fields, &[&lease.payload, &lease.signature]).map(|_| ())
    }

    fn ask(&mut self, op: Op, path: &str, fields: &[(&str, &str)], secrets: &[&Secret]) -> Result<Object, Error> {
        let response = self.peer(op).and_then(|peer| {
            peer.send(&Request { fields, secrets, ..Request::get(path) }).map_err(|cause| Error::new(op, cause))
        });
        self.look_at(&response);
        let response = response?;
        if let Some(date) = response.date() {
            self.clock.compare(date);
        }
        accepted(&response, op).map_err(|cause| Error::new(op, cause))
    }

    /// Closes the connection.
    pub fn hang_up(&mut self) {
        if let Some(peer) = &mut self.peer {
            peer.hang_up();
        }
    }
}

/// The fields of a reply that says `"status":"OK"`, or why the gateway refused.
fn accepted(response: &Response, op: Op) -> Result<Object, Cause> {
    let Some(fields) = json::object(&response.text()) else {
        // 401 comes as a bare JSON string or as HTML, depending on the server.
        let refusal = refusal(response.status, &response.text(), op);
        return Err(match refusal {
            Refusal::Other if response.is_success() => Cause::field("body", "is not a JSON object"),
            Refusal::Other => response.unexpected(),
            refusal => Cause::Refused { refusal, status: response.status, excerpt: response.excerpt() },
        });
    };
    let text = |name: &str| match fields.get(name) {
        Some(Value::String(text)) => text.as_str(),
        _ => "",
    };
    if response.is_success() && text("status") == "OK" {
        return Ok(fields);
    }
    let (status, message) = (text("status"), text("message"));
    let words = format!("{status} {message}");
    // Of an object nothing else is shown: it may hold a lease.
    let excerpt = match words.trim() {
        "" if response.is_success() => return Err(Cause::field("status", "is missing")),
        "" => "JSON without status and message".to_owned(),
        words => response.excerpt_of(words),
    };
    Err(match response.status {
        status @ (429 | 500..) => Cause::Http { status, excerpt, retry_after: response.retry_after() },
        status => Cause::Refused { refusal: refusal(status, &words, op), status, excerpt },
    })
}

/// What a refusal means, by status and words (the rows of PIA's own clients and their issue threads).
fn refusal(status: u16, words: &str, op: Op) -> Refusal {
    let words = words.to_ascii_lowercase();
    match (status, op) {
        _ if words.contains("no auth data") => Refusal::NoAuthData,
        (401 | 403, Op::GetSignature) => Refusal::TokenRejected,
        _ if words.contains("expired") => Refusal::Expired,
        _ if words.contains("bad signature") => Refusal::BadSignature,
        (409, _) => Refusal::Busy,
        _ if words.contains("is busy") => Refusal::Busy,
        (401 | 403, _) => Refusal::BadSignature,
        _ => Refusal::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_documented_refusal_is_known() {
        for (status, words, op, expected) in [
            (401, "Unauthorized client", Op::GetSignature, Refusal::TokenRejected),
            (403, "", Op::GetSignature, Refusal::TokenRejected),
            (401, "token expired", Op::GetSignature, Refusal::TokenRejected),
            (401, " bad signature", Op::BindPort, Refusal::BadSignature),
            (401, "Unauthorized client", Op::BindPort, Refusal::BadSignature),
            (409, "ERROR Port 4711 is busy. Please use another server", Op::BindPort, Refusal::Busy),
            (200, "ERROR Port 4711 is busy. Please use another server", Op::BindPort, Refusal::Busy),
            (200, "ERROR no auth data", Op::GetSignature, Refusal::NoAuthData),
            (401, "ERROR port expired", Op::BindPort, Refusal::Expired),
            (200, "ERROR whatever", Op::BindPort, Refusal::Other),
            (404, "", Op::BindPort, Refusal::Other),
        ] {
            assert_eq!(refusal(status, words, op), expected, "{status} {words}");
        }
    }
}
