//! HTTP/1.1 client for all servers: one request at a time, with a deadline, a size limit and no redirects, over a
//! connection that is kept open.
//!
//! `wire.rs` speaks the protocol over any stream, `dial.rs` connects over TCP, `tls.rs` adds TLS, `url.rs` parses
//! addresses. Each remote's own module decides what to request.

pub mod dial;
pub mod tls;
pub mod url;
pub mod wire;

use std::borrow::Cow;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime};

use rustls::ClientConnection;

use crate::error::{Cause, Phase};
use crate::secret::{self, Secret};
use crate::signals;
use crate::text;

/// Time limit for one exchange, from the name lookup to the last byte of the reply. A stop takes effect after the current exchange.
pub const REQUEST_DEADLINE: Duration = Duration::from_secs(10);
/// Maximum number of characters shown of a failed reply's body.
const EXCERPT_CHARS: usize = 200;

#[derive(Debug, Clone, Copy)]
pub struct Deadline {
    at: Instant,
    total: Duration,
}

impl Deadline {
    pub fn after(total: Duration) -> Self {
        Self { at: Instant::now() + total, total }
    }

    /// Time left, or a timeout during `phase` as the error.
    pub fn remaining(&self, phase: Phase) -> Result<Duration, Cause> {
        match self.at.saturating_duration_since(Instant::now()) {
            Duration::ZERO => Err(self.expired(phase)),
            remaining => Ok(remaining),
        }
    }

    fn expired(&self, phase: Phase) -> Cause {
        Cause::Timeout { phase, after: self.total }
    }
}

/// Content of a request; it determines the method.
#[derive(Debug, Clone, Copy)]
pub enum Content<'a> {
    /// GET with these pairs as its query, not yet encoded.
    Query(&'a [(&'a str, &'a str)]),
    /// POST with these pairs as a form, not yet encoded.
    Form(&'a [(&'a str, &'a str)]),
    /// POST with this JSON.
    Json(&'a str),
}

impl Content<'_> {
    fn method(&self) -> &'static str {
        match self {
            Self::Query(_) => "GET",
            Self::Form(_) | Self::Json(_) => "POST",
        }
    }
}

/// One request. Logs may show `path`, unless `secret_path` is set; all other fields may contain secrets.
#[derive(Debug)]
pub struct Request<'a> {
    /// Starts with `/`; without the query.
    pub path: &'a str,
    pub content: Content<'a>,
    /// Additional headers; values must not contain line breaks.
    pub headers: &'a [(&'a str, &'a str)],
    /// Values to hide in errors, in case a server echoes them.
    pub secrets: &'a [&'a Secret],
    /// Send even after the program was asked to stop, so that nothing is left half done.
    pub force: bool,
    pub secret_path: bool,
}

impl<'a> Request<'a> {
    pub fn get(path: &'a str) -> Self {
        Self::new(path, Content::Query(&[]))
    }

    pub fn new(path: &'a str, content: Content<'a>) -> Self {
        Self { path, content, headers: &[], secrets: &[], force: false, secret_path: false }
    }
}

/// Encodes as `application/x-www-form-urlencoded`, so that `+`, `&` and umlauts in passwords arrive unchanged.
pub fn encode_fields(fields: &[(&str, &str)]) -> String {
    let encode = |(name, value): &(&str, &str)| format!("{}={}", percent_encoded(name), percent_encoded(value));
    fields.iter().map(encode).collect::<Vec<_>>().join("&")
}

pub fn encode_json(fields: &[(&str, &str)]) -> String {
    let text = |text: &str| miniserde::json::to_string(text);
    let pairs: Vec<_> = fields.iter().map(|(name, value)| format!("{}:{}", text(name), text(value))).collect();
    format!("{{{}}}", pairs.join(","))
}

/// Encodes `text` for any part of a URL: percent-encodes its UTF-8, except for RFC 3986's unreserved characters.
pub fn percent_encoded(text: &str) -> String {
    let encode = |byte: u8| match byte {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    };
    text.bytes().map(encode).collect()
}

#[derive(Debug)]
pub struct Response {
    pub status: u16,
    headers: Vec<(String, String)>,
    /// Complete body, without chunked encoding.
    pub body: Vec<u8>,
    /// Secrets that [`Response::excerpt`] must not show.
    hidden: Vec<Secret>,
}

impl Response {
    #[cfg(test)]
    pub fn of(status: u16, body: &str) -> Self {
        Self { status, headers: Vec::new(), body: body.as_bytes().to_vec(), hidden: Vec::new() }
    }

    pub fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// Values of the header `name`, ignoring case.
    pub fn header<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.headers.iter().filter(move |(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
    }

    /// Time of the reply according to the server's clock; `None` if the header is missing or malformed.
    pub fn date(&self) -> Option<SystemTime> {
        httpdate::parse_http_date(self.header("date").next()?).ok()
    }

    /// Body as text; invalid UTF-8 becomes U+FFFD.
    pub fn text(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(&self.body)
    }

    /// Wait requested by `Retry-After`, in seconds or as a date on the server's clock (RFC 9110 10.2.3); zero for a past date.
    pub fn retry_after(&self) -> Option<Duration> {
        let value = self.header("retry-after").next()?;
        if let Ok(seconds) = value.parse() {
            return Some(Duration::from_secs(seconds));
        }
        let date = httpdate::parse_http_date(value).ok()?;
        Some(date.duration_since(self.date().unwrap_or_else(SystemTime::now)).unwrap_or_default())
    }

    /// Start of the body as one line for a log; only the length if the body may contain a secret.
    pub fn excerpt(&self) -> String {
        self.excerpt_of(&self.text())
    }

    /// Start of `part`, taken from the body, as one line for a log; only the body's length if `part` may contain a
    /// secret.
    pub fn excerpt_of(&self, part: &str) -> String {
        match secret::safe_excerpt(part.trim(), &self.hidden, EXCERPT_CHARS) {
            Some(start) => text::one_line(&start.replace(char::is_whitespace, " ")),
            None => format!("({} bytes, not shown)", self.body.len()),
        }
    }

    /// Default cause for a reply with an unexpected status.
    pub fn unexpected(&self) -> Cause {
        Cause::Http { status: self.status, excerpt: self.excerpt(), retry_after: self.retry_after() }
    }
}

/// A server's address and settings, and the open stream to it, if any.
pub struct Connection {
    host: String,
    port: u16,
    host_header: String,
    tls: Option<tls::Tls>,
    stream: Option<Stream>,
    names: Option<Vec<String>>,
    address: Option<SocketAddr>,
    source: Option<IpAddr>,
    interrupt: Option<Rc<dyn dial::Interrupt>>,
    guard: Option<dial::Guard>,
}

/// An open TCP connection, encrypted if `tls` is set.
struct Stream {
    tcp: dial::Tcp,
    tls: Option<Box<ClientConnection>>,
    /// The stream has already carried an exchange.
    used: bool,
}

impl Read for Stream {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        match &mut self.tls {
            None => self.tcp.read(buf),
            Some(tls) => rustls::Stream::new(tls.as_mut(), &mut self.tcp).read(buf),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, buf: &[u8]) -> std::io::Result<usize> {
        match &mut self.tls {
            None => self.tcp.write(buf),
            Some(tls) => rustls::Stream::new(tls.as_mut(), &mut self.tcp).write(buf),
        }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        match &mut self.tls {
            None => self.tcp.flush(),
            Some(tls) => rustls::Stream::new(tls.as_mut(), &mut self.tcp).flush(),
        }
    }
}

impl Connection {
    /// Does not connect yet. `host_header` is the value of the Host header; `tls` encrypts the connection and verifies the server.
    pub fn new(host: impl Into<String>, port: u16, host_header: impl Into<String>, tls: Option<tls::Tls>) -> Self {
        Self {
            host: host.into(),
            port,
            host_header: host_header.into(),
            tls,
            stream: None,
            names: None,
            address: None,
            source: None,
            interrupt: None,
            guard: None,
        }
    }

    /// A new connection, not yet opened, to a different port of the server that was dialled last; all other settings are the same.
    #[must_use]
    pub fn at_port(&self, port: u16) -> Self {
        // Not by name: a second lookup may lead to a different server.
        let host = self.address.map_or_else(|| self.host.clone(), |address| address.ip().to_string());
        let connection = Self::new(host, port, self.host_header.clone(), self.tls.clone());
        Self { source: self.source, interrupt: self.interrupt.clone(), ..connection }
    }

    /// Sets the local address of connections opened from now on; `None` lets the kernel choose.
    pub fn bind_to(&mut self, source: Option<IpAddr>) {
        self.source = source;
    }

    /// `host:port`, for the log.
    pub fn address(&self) -> String {
        dial::join(&self.host, self.port)
    }

    /// Names in the certificate of the last verified connection.
    pub fn certificate_names(&self) -> Option<&[String]> {
        self.names.as_deref()
    }

    pub fn dialled(&self) -> Option<SocketAddr> {
        self.address
    }

    /// Sets the event that can end an exchange before its deadline; applies to connections opened from now on.
    pub fn interrupt_by(&mut self, interrupt: Option<Rc<dyn dial::Interrupt>>) {
        self.interrupt = interrupt;
    }

    /// Sets the guard that each request has to pass.
    pub fn guard_by(&mut self, guard: dial::Guard) {
        self.guard = Some(guard);
    }

    /// Takes over an open TCP connection; with TLS, completes the handshake first.
    pub fn take(&mut self, tcp: dial::Tcp) -> Result<(), Cause> {
        self.stream = Some(self.secured(tcp)?);
        Ok(())
    }

    fn secured(&mut self, mut tcp: dial::Tcp) -> Result<Stream, Cause> {
        self.address = tcp.remote_address();
        let tls = self.tls.as_ref().map(|tls| tls.handshake(&mut tcp)).transpose()?;
        if let Some(tls) = &tls {
            self.names = Some(tls::names(tls));
        }
        Ok(Stream { tcp, tls: tls.map(Box::new), used: false })
    }

    /// Sends `request` and reads the response, over the open connection if there is one.
    ///
    /// The server may have closed an idle connection: if a reused connection ends before the reply's headers are
    /// complete, the request is sent once more over a new one.
    pub fn send(&mut self, request: &Request) -> Result<Response, Cause> {
        if signals::stopping() && !request.force {
            return Err(Cause::Stopping);
        }
        let deadline = Deadline::after(REQUEST_DEADLINE);
        let reused = self.stream.as_ref().is_some_and(|stream| stream.used);
        let result = match self.exchange(request, deadline) {
            Err(Cause::Closed(Phase::Head) | Cause::Broken { phase: Phase::Send | Phase::Head, .. }) if reused => {
                self.exchange(request, deadline)
            }
            result => result,
        };
        if let Ok(response) = &result {
            let method = request.content.method();
            let path = if request.secret_path { "(not shown)" } else { request.path };
            log::debug!("{method} {path} on {}: HTTP {}", self.address(), response.status);
        }
        result
    }

    fn exchange(&mut self, request: &Request, deadline: Deadline) -> Result<Response, Cause> {
        let mut stream = if let Some(stream) = self.stream.take() {
            stream
        } else {
            let tcp = dial::dial(&self.host, self.port, self.source, self.interrupt.clone(), deadline)?;
            self.secured(tcp)?
        };
        stream.tcp.deadline = deadline;
        if let Some(guard) = &self.guard {
            stream.tcp.pass(guard)?;
        }
        wire::write_request(&mut stream, &self.host_header, request)
            .map_err(|e| dial::classify(e, Phase::Send, deadline))?;
        let (mut response, reusable) = wire::read_response(&mut stream, deadline)?;
        response.hidden = request.secrets.iter().map(|&secret| secret.clone()).collect();
        if reusable {
            self.stream = Some(Stream { used: true, ..stream });
        }
        Ok(response)
    }

    /// Closes the connection, e.g. before a wait during which the server would close it anyway.
    pub fn disconnect(&mut self) {
        self.stream = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn response(headers: &[(&str, &str)], body: &str, hidden: &[&str]) -> Response {
        Response {
            status: 401,
            headers: headers.iter().map(|&(n, v)| (n.to_owned(), v.to_owned())).collect(),
            body: body.as_bytes().to_vec(),
            hidden: hidden.iter().map(|&s| Secret::new(s)).collect(),
        }
    }

    #[test]
    fn fields_are_encoded_so_that_any_password_arrives() {
        assert_eq!(encode_fields(&[("user name", "a&b=c%d+e ü~")]), "user%20name=a%26b%3Dc%25d%2Be%20%C3%BC~");
        assert_eq!(encode_fields(&[("a", "1"), ("b", "")]), "a=1&b=");
    }

    #[test]
    fn an_excerpt_is_short_and_one_line() {
        let long = format!("a\r\n\u{1b}[31m{}", "ü".repeat(500));
        let excerpt = response(&[], &long, &[]).excerpt();
        assert_eq!(excerpt.chars().count(), 200);
        assert!(excerpt.starts_with("a  ?[31mü"));
    }

    #[test]
    fn an_excerpt_with_a_secret_is_reduced_to_its_length() {
        assert_eq!(response(&[], "no topsecret", &["topsecret"]).excerpt(), "(12 bytes, not shown)");
        assert_eq!(response(&[], "no", &["topsecret"]).excerpt(), "no");
    }

    #[test]
    fn retry_after_is_read_in_both_forms() {
        assert_eq!(response(&[("Retry-After", "120")], "", &[]).retry_after(), Some(Duration::from_secs(120)));
        let soon = httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(60));
        let wait = response(&[("retry-after", &soon)], "", &[]).retry_after().unwrap();
        assert!((57..=60).contains(&wait.as_secs()), "{wait:?}");
        // The date is compared with the server's own clock, so a wrong clock on either side does not matter.
        let dated = [("Date", "Tue, 24 Nov 2026 12:00:00 GMT"), ("Retry-After", "Tue, 24 Nov 2026 12:01:30 GMT")];
        assert_eq!(response(&dated, "", &[]).retry_after(), Some(Duration::from_secs(90)));
        let past = "Sun, 06 Nov 1994 08:49:37 GMT";
        assert_eq!(response(&[("retry-after", past)], "", &[]).retry_after(), Some(Duration::ZERO));
        assert_eq!(response(&[("retry-after", "soon")], "", &[]).retry_after(), None);
    }
}
