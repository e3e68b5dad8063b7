//! The gateway, port 19999: `getSignature` gives a lease, `bindPort` keeps its port bound.
//!
//! Both are HTTPS GETs to the gateway's address inside the tunnel, with the server's name as SNI and Host, over one
//! connection while the server keeps it open.

use jiff::Timestamp;
use miniserde::json::{self, Object, Value};

use super::lease::Lease;
use crate::error::{Cause, Error, Op, Refusal};
use crate::http::tls::Tls;
use crate::http::{Deadline, Peer, REQUEST_DEADLINE, Request, Response};
use crate::secret::Secret;

/// The gateway of the tunnel.
pub struct Gateway {
    peer: Peer,
    /// Warn about a certificate's name that nobody asked for, once.
    unnamed: bool,
}

impl Gateway {
    /// A gateway at `host:port` that must prove itself by `tls`; `hostname` is what its certificate must carry, if known.
    pub fn new(host: &str, port: u16, hostname: Option<&str>, tls: Tls) -> Self {
        let peer = Peer::new(host, port, hostname.unwrap_or(host), Some(tls));
        Self { peer, unnamed: hostname.is_none() }
    }

    /// `host:port` for people.
    pub fn address(&self) -> String {
        self.peer.address()
    }

    /// Connects and verifies.
    pub fn connect(&mut self) -> Result<(), Cause> {
        self.peer.connect(Deadline::after(REQUEST_DEADLINE))?;
        self.warn_if_unnamed();
        Ok(())
    }

    /// The names that the gateway's certificate carries.
    pub fn certificate_names(&self) -> &[String] {
        self.peer.certificate_names().unwrap_or_default()
    }

    /// The address of the last connection.
    pub fn dialled(&self) -> Option<std::net::SocketAddr> {
        self.peer.dialled()
    }

    fn warn_if_unnamed(&mut self) {
        if self.unnamed && self.peer.certificate_names().is_some() {
            self.unnamed = false;
            log::warn!(
                "PIA_HOSTNAME is not set, so any server with a certificate of the CA is accepted; this one's certificate \
                 is for {}: set PIA_HOSTNAME to that",
                self.certificate_names().join(", ")
            );
        }
    }

    /// `getSignature`: a new lease.
    pub fn get_signature(&mut self, token: &Secret) -> Result<Lease, Error> {
        self.lease(token).map_err(|cause| Error::new(Op::GetSignature, cause))
    }

    fn lease(&mut self, token: &Secret) -> Result<Lease, Cause> {
        let response = self.send("/getSignature", &[("token", token.expose())], &[token])?;
        let fields = accepted(&response, Op::GetSignature)?;
        let text = |name: &'static str| match fields.get(name) {
            Some(Value::String(text)) if !text.is_empty() => Ok(Secret::new(text.as_str())),
            Some(Value::String(_)) | None => Err(Cause::field(name, "is missing")),
            Some(_) => Err(Cause::field(name, "is not a string")),
        };
        Lease::parse(text("payload")?, text("signature")?, Timestamp::now())
    }

    /// `bindPort`: binds the lease's port for the next 15 minutes. Payload and signature go back byte for byte.
    pub fn bind_port(&mut self, lease: &Lease) -> Result<(), Error> {
        let fields = [("payload", lease.payload.expose()), ("signature", lease.signature.expose())];
        self.send("/bindPort", &fields, &[&lease.payload, &lease.signature])
            .and_then(|response| accepted(&response, Op::BindPort).map(|_| ()))
            .map_err(|cause| Error::new(Op::BindPort, cause))
    }

    fn send(&mut self, path: &str, fields: &[(&str, &str)], secrets: &[&Secret]) -> Result<Response, Cause> {
        let response = self.peer.send(&Request { fields, secrets, ..Request::get(path) });
        self.warn_if_unnamed();
        response
    }

    /// Closes the connection.
    pub fn hang_up(&mut self) {
        self.peer.hang_up();
    }
}

/// The fields of a reply that says `"status":"OK"`, or why the gateway refused.
fn accepted(response: &Response, op: Op) -> Result<Object, Cause> {
    let Ok(Value::Object(fields)) = json::from_str(&response.text()) else {
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
    if response.status >= 500 {
        return Err(response.unexpected());
    }
    let (status, message) = (text("status"), text("message"));
    let words = format!("{status} {message}");
    let excerpt = if words.trim().is_empty() { response.excerpt() } else { response.redact(&words) };
    Err(Cause::Refused { refusal: refusal(response.status, &words, op), status: response.status, excerpt })
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
