//! PIA's gateway: `getSignature` on port 19999 grants a lease, `bindPort` on the same port keeps the leased port bound,
//! and port 443 issues tokens.
//!
//! Every call is an HTTPS request to the gateway's address inside the tunnel, with the server's name as SNI and Host.
//! All calls share one connection until the server closes it. With `PIA_GATEWAY=auto`, the gateway is the first
//! candidate with a valid certificate, until that candidate fails. The keeper decides when to make each call.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use miniserde::json::{Object, Value};

use super::discover::{self, Candidate};
use super::lease;
use super::trust::Authority;
use crate::config::{InvalidValue, Reader};
use crate::error::{Attempt, Call, Cause, Error, Phase, Retry};
use crate::http::dial::Endpoint;
use crate::http::tls::{NamePolicy, Tls};
use crate::http::url::{self, parse_address};
use crate::http::{Connection, Content, Deadline, Request, Response, dial};
use crate::json;
use crate::keeper::lease::Lease;
use crate::keeper::step::{Completed, Exchange, Progress};
use crate::keeper::tunnel::GatewayRoute;
use crate::kernel::Network;
use crate::secret::Secret;

/// Port of PIA's port-forwarding API on every gateway.
const GATEWAY_PORT: u16 = 19999;
/// Time limit for a candidate to accept a connection; a round trip to anywhere on Earth takes less than a third of a
/// second.
const ANSWER_DEADLINE: Duration = Duration::from_secs(1);
/// Time limit for a connected candidate to complete the TLS handshake.
const PROOF_DEADLINE: Duration = Duration::from_secs(3);
/// Port of the token API inside the tunnel (source: PIA's desktop client).
const LOGIN_PORT: u16 = 443;

#[derive(Debug, PartialEq, Eq)]
pub enum GatewayAddress {
    At {
        /// Name or IP address.
        host: String,
        port: u16,
    },
    /// Search for the gateway (`PIA_GATEWAY=auto`).
    Find { port: u16 },
}

impl GatewayAddress {
    pub fn read(reader: &mut Reader) -> Option<Self> {
        let remedy = "use auto, ADDRESS or ADDRESS:PORT";
        let parse = |text: &str| {
            let bare = url::bare(text);
            parse_address(text).map_err(|problem| match parse_address(bare) {
                Ok(_) if bare != text => InvalidValue::meant("is a URL", bare),
                _ => problem.into(),
            })
        };
        let (host, port) = reader.parsed("PIA_GATEWAY", "auto", remedy, parse)?;
        let port = port.unwrap_or(GATEWAY_PORT);
        let find = host.eq_ignore_ascii_case("auto");
        Some(if find { Self::Find { port } } else { Self::At { host, port } })
    }
}

pub struct Gateway {
    address: GatewayAddress,
    hostname: Option<String>,
    policy: NamePolicy,
    authority: Authority,
    /// `None` before the first call or search, and after a gateway found by a search has failed.
    connection: Option<Connection>,
    /// Address of a gateway that was found by a search and then failed, and how it was found. The next search tries
    /// this address first.
    failed: Option<(Ipv4Addr, String)>,
    /// How a search found the gateway, for the log, e.g. `the next hop of a route through tun0`; `None` without a
    /// search.
    how: Option<String>,
    search: Option<Search>,
    /// Indexes of the other tunnels that existed when a search found the gateway: they are not PIA's.
    others: Vec<u32>,
    /// True once the gateway has accepted a call through the current tunnel.
    served: bool,
    /// True if `PIA_HOSTNAME` is not set and the warning about that has not been logged yet.
    unnamed: bool,
    /// `Date` header of the last reply.
    date: Option<SystemTime>,
}

/// A search in progress: if one candidate fails the TLS handshake, the next exchange tries the others.
struct Search {
    untried: Vec<Candidate>,
    tried: Vec<Attempt>,
}

impl Gateway {
    /// The gateway's certificate must be signed by `authority` and carry a name that `policy` accepts. `hostname` is
    /// sent in the Host header.
    pub fn new(address: GatewayAddress, hostname: Option<String>, policy: NamePolicy, authority: Authority) -> Self {
        let unnamed = hostname.is_none();
        Self {
            address,
            hostname,
            policy,
            authority,
            connection: None,
            failed: None,
            how: None,
            search: None,
            others: Vec::new(),
            served: false,
            unnamed,
            date: None,
        }
    }

    /// Keeps a fetched CA in memory only.
    pub fn disable_persistence(&mut self) {
        self.authority.disable_persistence();
    }

    /// `host:port`, for the log.
    pub fn address(&self) -> String {
        match (&self.connection, &self.address) {
            (Some(connection), _) => connection.address(),
            (None, GatewayAddress::At { host, port }) => dial::join(host, *port),
            (None, GatewayAddress::Find { .. }) => "not found yet".to_owned(),
        }
    }

    pub fn is_auto(&self) -> bool {
        matches!(self.address, GatewayAddress::Find { .. })
    }

    /// True if a search would find a candidate, or if the user set the address.
    pub fn has_candidates(&self, network: &Network) -> bool {
        match self.address {
            GatewayAddress::At { .. } => true,
            GatewayAddress::Find { port } => !discover::candidates(network, port, &self.others).is_empty(),
        }
    }

    /// Origin of the CA that verifies the gateway's certificate, as `check` shows it.
    pub fn authority(&self) -> String {
        self.authority.origin()
    }

    pub fn how_found(&self) -> Option<&str> {
        self.how.as_deref()
    }

    /// Name that the gateway's certificate must carry (`PIA_HOSTNAME`), if set.
    pub fn hostname(&self) -> Option<&str> {
        self.hostname.as_deref()
    }

    /// Names in the gateway's certificate; `None` before the first verified connection.
    pub fn certificate_names(&self) -> Option<&[String]> {
        self.connection.as_ref().and_then(Connection::certificate_names)
    }

    /// Time of the last reply according to the gateway's clock; returned only once per reply.
    pub fn take_date(&mut self) -> Option<SystemTime> {
        self.date.take()
    }

    /// Last known address of the gateway, even after a failure, so that the route to it stays watched: the tunnel may
    /// be recreated while a bind hangs.
    pub fn dialled(&self) -> Option<SocketAddr> {
        match (&self.connection, &self.address) {
            (Some(connection), _) if connection.dialled().is_some() => connection.dialled(),
            (_, GatewayAddress::At { host, port }) => host.parse().ok().map(|ip| SocketAddr::new(ip, *port)),
            (_, GatewayAddress::Find { port }) => self.failed.as_ref().map(|(address, _)| (*address, *port).into()),
        }
    }

    /// Route to the gateway; `None` until its name has been resolved. Sends nothing.
    pub fn route(&self, network: &Network) -> Option<io::Result<GatewayRoute>> {
        match (self.dialled(), &self.address) {
            // A new tunnel's gateway may have a different address, so the route to the old one may be gone, or lead elsewhere.
            (Some(address), GatewayAddress::Find { .. }) => match network.route_to(address) {
                Ok(route) if route.is_tunnel() => Some(Ok(route)),
                _ => Some(discover::route(network, &self.others)),
            },
            (Some(address), GatewayAddress::At { .. }) => Some(network.route_to(address)),
            (None, GatewayAddress::Find { .. }) => Some(discover::route(network, &self.others)),
            (None, GatewayAddress::At { .. }) => None,
        }
    }

    /// True if it is safe to send a password to the gateway, because it is reached through a tunnel or `PIA_HOSTNAME`
    /// names the server. Otherwise the address may belong to a home router, and any server with a certificate from
    /// PIA's CA would be accepted.
    pub fn is_confidential(&self, network: &Network) -> bool {
        let through_tunnel = |address| network.route_to(address).is_ok_and(|route| route.is_tunnel());
        self.hostname.is_some() || self.dialled().is_some_and(through_tunnel)
    }

    /// Disconnects, and drops a gateway found by a search, because a new tunnel has its own gateway.
    pub fn forget(&mut self) {
        self.disconnect();
        (self.search, self.served) = (None, false);
        if let GatewayAddress::Find { .. } = self.address {
            (self.connection, self.failed) = (None, None);
        }
    }

    /// Returns the connection to the gateway, searching for the gateway first if necessary.
    fn connection(&mut self, call: Call, network: &Network) -> Exchange<&mut Connection> {
        if self.connection.is_none() {
            let Progress::Done(roots) = self.authority.roots()? else { return Ok(Progress::More) };
            let tls = Tls::new(roots, self.policy.clone());
            match &self.address {
                GatewayAddress::At { host, port } => self.connection = Some(self.at(host, *port, tls)),
                &GatewayAddress::Find { port } => {
                    self.find(call, port, tls, network)?;
                    return Ok(Progress::More);
                }
            }
        }
        let route = self.dialled().and_then(|address| Some((address, network.route_to(address).ok()?)));
        let Some(connection) = &mut self.connection else { return Ok(Progress::More) };
        connection.bind_to(route.as_ref().and_then(|(_, route)| source_of(route)));
        connection.interrupt_by(route.and_then(|(address, route)| network.watch(address, route)));
        Ok(Progress::Done(connection))
    }

    fn at(&self, host: &str, port: u16, tls: Tls) -> Connection {
        Connection::new(host, port, self.hostname.as_deref().unwrap_or(host), Some(tls))
    }

    /// Dials all candidates; the first one that answers and proves its identity is the gateway.
    fn find(&mut self, call: Call, port: u16, tls: Tls, network: &Network) -> Result<(), Error> {
        let mut search = self.search.take().unwrap_or_else(|| {
            let mut candidates = discover::candidates(network, port, &self.others);
            if let Some((address, how)) = self.failed.clone()
                && let Ok(route) = network.route_to((address, port).into())
            {
                candidates.retain(|candidate| candidate.address != address);
                candidates.insert(0, Candidate { address, how, route });
            }
            Search { untried: candidates, tried: Vec::new() }
        });
        if search.untried.is_empty() && search.tried.is_empty() {
            let advice = "start the VPN; if it is up, set PIA_GATEWAY to the gateway's address inside the tunnel";
            return Err(Error::new(call, Cause::NoTunnel).advise(Some(advice)));
        }
        let endpoints: Vec<_> = search
            .untried
            .iter()
            .map(|candidate| Endpoint {
                address: (candidate.address, port).into(),
                source: source_of(&candidate.route),
            })
            .collect();
        let deadline = Deadline::after(ANSWER_DEADLINE);
        let (candidate, cause) = match dial::race(&endpoints, Duration::ZERO, None, deadline) {
            Ok((place, mut tcp)) => {
                let candidate = search.untried.remove(place);
                let mut connection = self.at(&candidate.address.to_string(), port, tls);
                tcp.deadline = Deadline::after(PROOF_DEADLINE);
                match connection.take(tcp) {
                    Ok(()) => {
                        log::info!("gateway {} found: {}", connection.address(), candidate.how);
                        let device = candidate.route.device.map(|device| device.index);
                        self.others = network.tunnels().filter(|&other| Some(other) != device).collect();
                        self.how = Some(candidate.how);
                        self.connection = Some(connection);
                        self.warn_if_unnamed();
                        return Ok(());
                    }
                    Err(cause) => (candidate, cause),
                }
            }
            Err(errors) => {
                for (candidate, error) in search.untried.into_iter().zip(errors) {
                    let to = dial::join(&candidate.address.to_string(), port);
                    let cause = match error.kind() {
                        io::ErrorKind::TimedOut => Cause::Timeout { phase: Phase::Connect, after: ANSWER_DEADLINE },
                        _ => Cause::Connect { to, error },
                    };
                    search.tried.push(attempt(call, port, &candidate, cause));
                }
                return Err(Error::all_failed(call, search.tried));
            }
        };
        search.tried.push(attempt(call, port, &candidate, cause));
        if search.untried.is_empty() {
            return Err(Error::all_failed(call, search.tried));
        }
        self.search = Some(search);
        Ok(())
    }

    /// After a connection or TLS error, drops a gateway found by a search; the next search tries its address first.
    fn note_result(&mut self, result: Result<&Response, &Cause>) {
        self.warn_if_unnamed();
        let unreachable = matches!(
            result,
            Err(Cause::Connect { .. }
                | Cause::Timeout { .. }
                | Cause::Closed(Phase::Handshake)
                | Cause::Broken { .. }
                | Cause::NameMismatch { .. }
                | Cause::UnknownIssuer
                | Cause::NotTls
                | Cause::Tls(_))
        );
        if unreachable
            && let GatewayAddress::Find { .. } = self.address
            && let (Some(connection), Some(how)) = (self.connection.take(), &self.how)
            && let Some(SocketAddr::V4(address)) = connection.dialled()
        {
            self.failed = Some((*address.ip(), how.clone()));
        }
    }

    fn warn_if_unnamed(&mut self) {
        if self.unnamed
            && let Some(names) = self.certificate_names().map(|names| names.join(", "))
            && !names.is_empty()
        {
            self.unnamed = false;
            log::warn!(
                "no server name is set, so any PIA server is accepted; to accept only this one, set PIA_HOSTNAME={names}"
            );
        }
    }

    /// Connection to the gateway's token API on port 443, with the same certificate checks as the port-forwarding API. Without
    /// `PIA_HOSTNAME`, it sends nothing unless it leads through the tunnel from its first packet to the moment of sending.
    pub fn login_connection(&mut self, call: Call, network: &Network) -> Exchange<Connection> {
        let Progress::Done(connection) = self.connection(call, network)? else { return Ok(Progress::More) };
        let mut connection = connection.at_port(LOGIN_PORT);
        if self.hostname.is_none() {
            let route = self.dialled().and_then(|address| network.route_to(address).ok());
            let Some(route) = route.filter(GatewayRoute::is_tunnel) else {
                return Err(failed(call, Cause::RouteChanged));
            };
            // While the tunnel is down, no connection from its address can be opened.
            connection.bind_to(Some(route.local));
            connection.guard_by(network.guard(route));
        }
        Ok(Progress::Done(connection))
    }

    /// `getSignature`: requests a new lease.
    pub fn get_signature(&mut self, token: &Secret, network: &Network) -> Exchange<Lease> {
        let fields = [("token", token.expose())];
        let fields = self.ask(Call::GetSignature, "/getSignature", &fields, &[token], network)?;
        let Progress::Done(fields) = fields else { return Ok(Progress::More) };
        let text = |name: &'static str| match fields.get(name) {
            Some(Value::String(text)) if !text.is_empty() => Ok(Secret::new(text.as_str())),
            Some(Value::String(_)) | None => Err(Cause::field(name, "is missing")),
            Some(_) => Err(Cause::field(name, "is not a string")),
        };
        let lease = text("payload").and_then(|payload| lease::parse(payload, text("signature")?, Timestamp::now()));
        lease.map(Progress::Done).map_err(|cause| failed(Call::GetSignature, cause))
    }

    /// `bindPort`: binds the leased port for the next 15 minutes. Sends payload and signature back unchanged. The server replies
    /// `timer refreshed` if it had the binding, and `port scheduled for add` if not.
    pub fn bind(&mut self, lease: &Lease, network: &Network) -> Exchange<Completed> {
        let fields = [("payload", lease.payload.expose()), ("signature", lease.signature.expose())];
        let bound = self.ask(Call::BindPort, "/bindPort", &fields, &[&lease.payload, &lease.signature], network)?;
        let gateway = self.dialled();
        Ok(bound.map(|fields| Completed::Bound {
            gateway,
            route: gateway.and_then(|address| network.route_to(address).ok()),
            refreshed: matches!(fields.get("message"), Some(Value::String(words)) if words == "timer refreshed"),
        }))
    }

    fn ask(
        &mut self,
        call: Call,
        path: &str,
        fields: &[(&str, &str)],
        secrets: &[&Secret],
        network: &Network,
    ) -> Exchange<Object> {
        let connection = match self.connection(call, network)? {
            Progress::Done(connection) => connection,
            Progress::More => return Ok(Progress::More),
        };
        let response = connection.send(&Request { content: Content::Query(fields), secrets, ..Request::get(path) });
        self.note_result(response.as_ref());
        let named = matches!(self.address, GatewayAddress::At { .. });
        let advise = |error: Error| {
            let refused = matches!(&error.cause, Cause::Connect { error, .. } if error.kind() == io::ErrorKind::ConnectionRefused);
            if refused && self.served {
                error.advise(Some("this worked before; if it does not recover, reconnect the VPN"))
            } else if named {
                let advice = advice_for_address(&error);
                error.advise(advice)
            } else {
                error
            }
        };
        let response = response.map_err(|cause| advise(failed(call, cause)))?;
        let fields = accepted(&response, call).map_err(advise);
        self.date = response.date();
        self.served |= fields.is_ok();
        fields.map(Progress::Done)
    }

    pub fn disconnect(&mut self) {
        if let Some(connection) = &mut self.connection {
            connection.disconnect();
        }
    }
}

/// Local address to which a connection must be bound in order to take `route`; `None` if the kernel picks the right
/// address anyway.
fn source_of(route: &GatewayRoute) -> Option<IpAddr> {
    route.by_source.then_some(route.local)
}

fn attempt(call: Call, port: u16, candidate: &Candidate, cause: Cause) -> Attempt {
    let at = dial::join(&candidate.address.to_string(), port);
    Attempt { at, error: failed(call, cause) }
}

/// Advice if the user has set the gateway's address, which may be wrong; `None` if the error says nothing about it.
fn advice_for_address(error: &Error) -> Option<&'static str> {
    Some(match &error.cause {
        Cause::Connect { error, .. } if error.kind() == io::ErrorKind::ConnectionRefused => {
            "set PIA_GATEWAY=auto; if that does not help, connect to a region with port forwarding"
        }
        Cause::Connect { .. } | Cause::NoRoute { .. } | Cause::Timeout { phase: Phase::Connect, .. } => {
            "check that the VPN is up; if it is, set PIA_GATEWAY=auto"
        }
        Cause::UnknownIssuer => "unset PIA_CA_CERT; if it is not set, this is not PIA's gateway: set PIA_GATEWAY=auto",
        Cause::NotTls | Cause::Tls(_) => "this is probably not PIA's gateway: set PIA_GATEWAY=auto",
        Cause::Http { status: 401 | 403, .. } if error.call == Call::GetSignature && error.retry == Retry::Backoff => {
            "set PIA_GATEWAY=auto: the gateway's address is inside the tunnel, not the public one"
        }
        _ => return None,
    })
}

fn failed(call: Call, cause: Cause) -> Error {
    let advice = match &cause {
        Cause::Connect { error, .. } if error.kind() == io::ErrorKind::ConnectionRefused => {
            "this region probably has no port forwarding (no US region has it): connect the VPN to a different region"
        }
        Cause::Connect { .. } | Cause::NoRoute { .. } | Cause::Timeout { phase: Phase::Connect, .. } => {
            "check that the VPN is up"
        }
        Cause::NameMismatch { .. } => "set PIA_HOSTNAME to the name in the certificate",
        Cause::UnknownIssuer => "unset PIA_CA_CERT; if it is not set, this server is not PIA's gateway",
        Cause::NotTls | Cause::Tls(_) => "this server is probably not PIA's gateway",
        _ => return Error::new(call, cause),
    };
    Error::new(call, cause).advise(Some(advice))
}

/// Returns the fields of a reply with `"status":"OK"`; any other reply is an error.
fn accepted(response: &Response, call: Call) -> Result<Object, Error> {
    let Some(fields) = json::object(&response.text()) else {
        // The body of a 401 is a bare JSON string or HTML, depending on the server.
        if response.is_success() {
            return Err(failed(call, Cause::field("body", "is not a JSON object")));
        }
        return Err(refusal(response.status, &response.text(), call, response.unexpected()));
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
    // No other field is shown, because the object may contain a lease.
    let excerpt = match words.trim() {
        "" if response.is_success() => return Err(failed(call, Cause::field("status", "is missing"))),
        "" => "JSON without status or message".to_owned(),
        words => response.excerpt_of(words),
    };
    let cause = Cause::Http { status: response.status, excerpt, retry_after: response.retry_after() };
    Err(refusal(response.status, &words, call, cause))
}

const BAD_TOKEN_ADVICE: &str = "if this keeps happening with a new token, connect the VPN to a different server";

/// Classifies a refusal by its HTTP status and wording (source: PIA's own clients and their issue threads).
fn refusal(status: u16, words: &str, call: Call, cause: Cause) -> Error {
    let words = words.to_ascii_lowercase();
    let of_the_lease = |advice| Some((Retry::LeaseRefused, advice));
    let again = "no action needed: requesting a new signature";
    let known = match status {
        // Traces show these words without their status.
        _ if words.contains("login failed") && call == Call::GetSignature => {
            Some((Retry::TokenRefused, BAD_TOKEN_ADVICE))
        }
        429 | 500.. => None,
        _ if words.contains("no auth data") => Some((Retry::Refused, "this is a bug in this program: report it")),
        // The request did not come through the tunnel: no token and no lease can help.
        401 | 403 if words.contains("unauthorized client") => {
            Some((Retry::Backoff, "check that the VPN's routes lead to the gateway; if they do, reconnect the VPN"))
        }
        401 | 403 if call == Call::GetSignature => Some((Retry::TokenRefused, BAD_TOKEN_ADVICE)),
        _ if words.contains("expired") || words.contains("bad signature") => of_the_lease(again),
        409 => of_the_lease("requesting a new port; if this keeps happening, connect the VPN to a different server"),
        _ if words.contains("is busy") => {
            of_the_lease("requesting a new port; if this keeps happening, connect the VPN to a different server")
        }
        401 | 403 => of_the_lease(again),
        200..500 => Some((Retry::Refused, "retrying; if this keeps happening, connect the VPN to a different server")),
        _ => None,
    };
    let error = failed(call, cause);
    match known {
        // A failed getSignature does not mean that the current lease was refused.
        Some((Retry::LeaseRefused, advice)) if call != Call::BindPort => {
            error.with_retry(Retry::Refused).advise(Some(advice))
        }
        Some((retry, advice)) => error.with_retry(retry).advise(Some(advice)),
        None => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Variables;

    fn address(text: &str) -> Option<GatewayAddress> {
        let values = [("PIA_GATEWAY".to_owned(), text.to_owned())].into();
        GatewayAddress::read(&mut Reader::new(&Variables { values, ..Variables::default() }))
    }

    #[test]
    fn every_usual_spelling_of_an_address_is_accepted() {
        for (text, host, port) in [
            ("10.1.2.3", "10.1.2.3", 19999),
            ("10.1.2.3:443", "10.1.2.3", 443),
            ("fd00::1", "fd00::1", 19999),
            ("[fd00::1]", "fd00::1", 19999),
            ("[fd00::1]:1", "fd00::1", 1),
            ("gateway.lan:65535", "gateway.lan", 65535),
        ] {
            assert_eq!(address(text), Some(GatewayAddress::At { host: host.to_owned(), port }), "{text}");
        }
        for (text, port) in [("", 19999), ("auto", 19999), ("Auto:1234", 1234)] {
            assert_eq!(address(text), Some(GatewayAddress::Find { port }), "{text}");
        }
        for text in
            [":19999", "10.0.0.1:", "10.0.0.1:0", "10.0.0.1:x", "[fd00::1", "[x]:1", "[fd00::1]80", "a b", "http://x"]
        {
            assert_eq!(address(text), None, "{text}");
        }
    }

    #[test]
    fn every_documented_refusal_is_recognised() {
        for (status, words, call, retry, advice) in [
            (401, "Unauthorized client", Call::GetSignature, Retry::Backoff, "routes"),
            (403, "", Call::GetSignature, Retry::TokenRefused, "new token"),
            (401, "token expired", Call::GetSignature, Retry::TokenRefused, "new token"),
            (401, "Login failed!", Call::GetSignature, Retry::TokenRefused, "new token"),
            (200, "Login failed!", Call::GetSignature, Retry::TokenRefused, "new token"),
            (500, "Login failed!", Call::GetSignature, Retry::TokenRefused, "new token"),
            (401, " bad signature", Call::BindPort, Retry::LeaseRefused, "requesting a new signature"),
            (401, "Unauthorized client", Call::BindPort, Retry::Backoff, "routes"),
            (409, "ERROR Port 4711 is busy", Call::BindPort, Retry::LeaseRefused, "to a different server"),
            (200, "ERROR Port 4711 is busy", Call::BindPort, Retry::LeaseRefused, "to a different server"),
            (200, "ERROR no auth data", Call::GetSignature, Retry::Refused, "a bug in this program"),
            (401, "ERROR port expired", Call::BindPort, Retry::LeaseRefused, "requesting a new signature"),
            (409, "ERROR busy", Call::GetSignature, Retry::Refused, "to a different server"),
            (200, "ERROR whatever", Call::BindPort, Retry::Refused, "if this keeps happening"),
            (404, "", Call::BindPort, Retry::Refused, "if this keeps happening"),
            (502, "", Call::BindPort, Retry::Backoff, "if this keeps happening"),
            (429, "bad signature", Call::BindPort, Retry::Backoff, "if this keeps happening"),
        ] {
            let cause = Cause::Http { status, excerpt: String::new(), retry_after: None };
            let error = refusal(status, words, call, cause);
            assert_eq!(error.retry, retry, "{status} {words}");
            assert!(error.advice.contains(advice), "{status} {words}: {}", error.advice);
        }
    }

    #[test]
    fn gateway_failures_come_with_advice() {
        let connect = |kind: io::ErrorKind| Cause::Connect { to: "10.0.0.1:19999".to_owned(), error: kind.into() };
        let timeout = |phase| Cause::Timeout { phase, after: Duration::from_secs(10) };
        let mismatch = || Cause::NameMismatch { expected: "mexico".to_owned(), carried: vec!["mexico409".to_owned()] };
        for cause in [connect(io::ErrorKind::ConnectionRefused), timeout(Phase::Connect), Cause::NotTls] {
            let advice = advice_for_address(&failed(Call::BindPort, cause));
            assert!(advice.is_some_and(|advice| advice.contains("set PIA_GATEWAY=auto")), "{advice:?}");
        }
        for (cause, advice) in [
            (connect(io::ErrorKind::ConnectionRefused), "no port forwarding"),
            (connect(io::ErrorKind::HostUnreachable), "check that the VPN is up"),
            (timeout(Phase::Connect), "check that the VPN is up"),
            (timeout(Phase::Head), "check the network"),
            (mismatch(), "set PIA_HOSTNAME"),
            (Cause::UnknownIssuer, "unset PIA_CA_CERT"),
            (Cause::NotTls, "not PIA's gateway"),
            (Cause::CertificateExpired(Timestamp::UNIX_EPOCH), "this system's clock"),
            (Cause::NotHttp, "check the address"),
        ] {
            let error = failed(Call::BindPort, cause);
            assert!(error.advice.contains(advice), "{error}: {}", error.advice);
            assert!(!error.advice.contains("auto"), "it may be set already: {}", error.advice);
        }
    }
}
