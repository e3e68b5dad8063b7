//! A small blocking HTTP server with scripted replies, shared by the end-to-end tests, the sandbox and the bench. The
//! servers built on it are in [`pia`], [`qbt`] and [`gluetun`], the daemon's side is in [`daemon`], and [`world`]
//! combines them. This file contains nothing about the protocols of PIA or qBittorrent.
#![allow(dead_code, unused_imports, unused_macros, reason = "every test binary uses its own part of this module")]

use std::collections::HashMap;
use std::fmt::Write as _;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::Child;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

pub use rustix::process::Signal;
use rustix::process::{Pid, kill_process};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

pub mod ca;
pub mod daemon;
pub mod drive;
pub mod gluetun;
pub mod link;
pub mod load;
pub mod netns;
pub mod pia;
pub mod qbt;
pub mod real_client;
pub mod real_deluge;
pub mod rows;
mod temp_dir;
pub mod world;

pub use ca::{Ca, Leaf, VALID};
pub use temp_dir::{TempDir, unique};

/// Longer than any connection of a test is idle; it only limits leaked ones.
const IDLE: Duration = Duration::from_secs(60);
/// Bytes. Larger than anything that the daemon may send, so that tests can see a request that is too long.
const MAX_HEAD: usize = 512 * 1024;
/// HTTP/2 in ALPN.
pub const HTTP2: &[u8] = b"h2";
/// The first bytes of an HTTP/2 connection have the form of a request with this method (RFC 9113, 3.4).
const HTTP2_METHOD: &str = "PRI";

/// Sends a signal to a child that was not waited for yet, so that its PID cannot have been reused.
pub fn send(pid: u32, signal: Signal) -> io::Result<()> {
    let process = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(io::ErrorKind::InvalidInput)?;
    Ok(kill_process(process, signal)?)
}

/// A child that is killed and waited for when dropped.
pub struct Killed(pub Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Locks a mutex and ignores poisoning, so that the first panic of a test stays the one that is reported.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits until `condition` holds; `false` after `limit`, which load stretches.
pub fn wait_until(limit: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let begin = Instant::now();
    let mut stretched = None;
    loop {
        if condition() {
            return true;
        }
        let took = begin.elapsed();
        if took >= limit && took >= *stretched.get_or_insert_with(|| limit.mul_f64(load::slowdown())) {
            return false;
        }
        thread::sleep(Duration::from_millis(2));
    }
}

/// Runs the body for all cases at the same time, because a daemon mostly waits.
pub fn for_all<T: Send>(cases: impl IntoIterator<Item = T>, body: impl Fn(T) + Sync) {
    thread::scope(|scope| {
        for case in cases {
            scope.spawn(|| body(case));
        }
    });
}

/// A loopback address for one server alone, so that no other server can take its port while it is paused.
pub fn loopback() -> IpAddr {
    let [_, _, _, _, _, a, b, c] = unique().to_be_bytes();
    IpAddr::from([127, a.clamp(1, 254), b, c.clamp(1, 254)])
}

/// Decodes `%XX`, and `+` as a space.
pub fn decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let hex = bytes.get(at + 1..at + 3).and_then(|h| std::str::from_utf8(h).ok());
        match (bytes[at], hex.and_then(|h| u8::from_str_radix(h, 16).ok())) {
            (b'%', Some(byte)) => {
                out.push(byte);
                at += 2;
            }
            (b'+', _) => out.push(b' '),
            (byte, _) => out.push(byte),
        }
        at += 1;
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// Encodes all but unreserved characters as `%XX`.
pub fn encode(text: &str) -> String {
    text.bytes().fold(String::new(), |mut out, byte| {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
        out
    })
}

/// The pairs of a query or form, decoded.
pub fn pairs(text: &str) -> Vec<(String, String)> {
    text.split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .map(|(name, value)| (decode(name), decode(value)))
        .collect()
}

/// One request as it arrived.
#[derive(Clone, Debug)]
pub struct Request {
    pub method: String,
    /// Path and query as sent.
    pub target: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// Server name of the TLS handshake, lower case.
    pub sni: Option<String>,
}

impl Request {
    fn http2(sni: Option<String>) -> Self {
        Self { method: HTTP2_METHOD.into(), target: "*".into(), headers: Vec::new(), body: Vec::new(), sni }
    }

    pub fn path(&self) -> &str {
        self.target.split('?').next().unwrap_or_default()
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// A parameter of the query, decoded.
    pub fn query(&self, name: &str) -> Option<String> {
        let query = self.target.split_once('?').map_or("", |(_, query)| query);
        pairs(query).into_iter().find(|(n, _)| n == name).map(|(_, value)| value)
    }

    /// A field of a form body, decoded.
    pub fn form(&self, name: &str) -> Option<String> {
        let body = String::from_utf8_lossy(&self.body);
        pairs(&body).into_iter().find(|(n, _)| n == name).map(|(_, value)| value)
    }

    /// Whether HTTP/2 was negotiated, which no server here speaks: the request was not read, and no reply is sent.
    pub fn is_http2(&self) -> bool {
        self.method == HTTP2_METHOD
    }

    pub fn is_form(&self) -> bool {
        let kind = self.header("content-type").unwrap_or_default();
        kind.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case("application/x-www-form-urlencoded")
    }
}

#[derive(Clone, Debug)]
enum Act {
    Answer {
        status: u16,
        body: Vec<u8>,
        reason: Option<String>,
    },
    Echo {
        status: u16,
        page: fn(&Request) -> String,
    },
    Raw(Vec<u8>),
    /// A byte a second.
    Drip(Vec<u8>),
    /// The start, and then this many bytes, or until the client closes the connection.
    Flood(Vec<u8>, usize),
    /// The start, and then the connection is reset.
    Reset(Vec<u8>),
    Hang,
    Close,
}

/// Behaviour of a server before it reads a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mood {
    #[default]
    Normal,
    /// Accepts and never sends anything.
    Silent,
    /// Resets a connection as soon as it has accepted it.
    Resets,
    /// Resets a connection after its first bytes: in the handshake, with TLS.
    ResetsHandshake,
    /// Answers a TLS handshake with an HTML page.
    Plain,
}

/// A server's reply to one request.
#[derive(Clone, Debug)]
pub struct Reply {
    act: Act,
    headers: Vec<(String, String)>,
    close: bool,
    delay: Duration,
}

impl Reply {
    fn of(act: Act) -> Self {
        Self { act, headers: Vec::new(), close: false, delay: Duration::ZERO }
    }

    pub fn text(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self::of(Act::Answer { status, body: body.into(), reason: None })
            .header("Content-Type", "text/plain; charset=UTF-8")
    }

    pub fn json(status: u16, body: impl Into<String>) -> Self {
        Self::of(Act::Answer { status, body: body.into().into_bytes(), reason: None })
            .header("Content-Type", "application/json")
    }

    /// A page that repeats parts of the request, as careless servers do.
    pub fn echo(status: u16, page: fn(&Request) -> String) -> Self {
        Self::of(Act::Echo { status, page })
    }

    /// Sends these bytes and closes.
    pub fn raw(bytes: impl Into<Vec<u8>>) -> Self {
        Self::of(Act::Raw(bytes.into()))
    }

    /// Sends one of these bytes a second.
    pub fn drip(bytes: impl Into<Vec<u8>>) -> Self {
        Self::of(Act::Drip(bytes.into()))
    }

    /// Sends these bytes and then `more` of filling.
    pub fn flood(bytes: impl Into<Vec<u8>>, more: usize) -> Self {
        Self::of(Act::Flood(bytes.into(), more))
    }

    /// Sends these bytes and resets the connection.
    pub fn reset(bytes: impl Into<Vec<u8>>) -> Self {
        Self::of(Act::Reset(bytes.into()))
    }

    /// Sends nothing and leaves the connection open.
    pub fn hang() -> Self {
        Self::of(Act::Hang)
    }

    /// Closes the connection without a reply.
    pub fn close_before_reply() -> Self {
        Self::of(Act::Close)
    }

    #[must_use]
    pub fn header(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// Announces and closes the connection after the reply.
    #[must_use]
    pub fn closing(mut self) -> Self {
        self.close = true;
        self
    }

    /// Delays the reply.
    #[must_use]
    pub fn after(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self
    }

    fn is_immediate(&self) -> bool {
        self.delay.is_zero() && matches!(self.act, Act::Answer { .. } | Act::Echo { .. })
    }

    #[must_use]
    pub fn reason(mut self, text: &str) -> Self {
        if let Act::Answer { reason, .. } = &mut self.act {
            *reason = Some(text.into());
        }
        self
    }
}

/// Replies that replace the normal ones, by endpoint.
#[derive(Debug, Default)]
pub struct Scripts {
    scripts: Mutex<HashMap<String, Script>>,
    used: AtomicUsize,
}

#[derive(Debug, Default)]
struct Script {
    next: std::collections::VecDeque<Reply>,
    always: Option<Reply>,
}

impl Scripts {
    /// Queues replies for the next requests to the endpoint, one for each.
    pub fn next(&self, endpoint: &str, replies: impl IntoIterator<Item = Reply>) {
        lock(&self.scripts).entry(endpoint.into()).or_default().next.extend(replies);
    }

    /// Sets the reply to every request to the endpoint (after those of `next`), until [`Scripts::clear`].
    pub fn always(&self, endpoint: &str, reply: Reply) {
        lock(&self.scripts).entry(endpoint.into()).or_default().always = Some(reply);
    }

    pub fn clear(&self) {
        lock(&self.scripts).clear();
    }

    /// Number of scripted replies so far.
    pub fn used(&self) -> usize {
        self.used.load(Ordering::SeqCst)
    }

    pub fn take(&self, endpoint: &str) -> Option<Reply> {
        let mut scripts = lock(&self.scripts);
        let script = scripts.get_mut(endpoint)?;
        let reply = script.next.pop_front().or_else(|| script.always.clone())?;
        self.used.fetch_add(1, Ordering::SeqCst);
        Some(reply)
    }
}

type Handler = dyn Fn(&Request) -> Reply + Send + Sync;

/// A server on one address with a thread for each connection. The threads end when it is paused or dropped.
pub struct Server {
    /// A process whose network namespace it listens in; `None` for our own.
    namespace_of: Option<u32>,
    address: SocketAddr,
    shared: Arc<Shared>,
    acceptor: Mutex<Option<JoinHandle<()>>>,
}

struct Shared {
    handler: Box<Handler>,
    tls: Mutex<Option<Arc<ServerConfig>>>,
    lower_case: bool,
    stopping: AtomicBool,
    accepted: AtomicUsize,
    mood: Mutex<Mood>,
    open: Mutex<Vec<(TcpStream, JoinHandle<()>)>>,
    /// Locked for reading while an ordinary reply is made and sent.
    answering: RwLock<()>,
}

impl Server {
    /// Starts a server; port 0 takes any free one.
    pub fn start(
        address: SocketAddr,
        tls: Option<ServerConfig>,
        handler: impl Fn(&Request) -> Reply + Send + Sync + 'static,
    ) -> Self {
        Self::start_in(None, address, tls, handler)
    }

    /// [`Server::start`] in the network namespace of a process.
    pub fn start_in(
        namespace_of: Option<u32>,
        address: SocketAddr,
        tls: Option<ServerConfig>,
        handler: impl Fn(&Request) -> Reply + Send + Sync + 'static,
    ) -> Self {
        Self::with(namespace_of, address, tls, false, handler)
    }

    /// [`Server::start`] with header names in lower case if `lower_case`, as qBittorrent sends them.
    pub fn with_header_case(
        address: SocketAddr,
        tls: Option<ServerConfig>,
        lower_case: bool,
        handler: impl Fn(&Request) -> Reply + Send + Sync + 'static,
    ) -> Self {
        Self::with(None, address, tls, lower_case, handler)
    }

    fn with(
        namespace_of: Option<u32>,
        address: SocketAddr,
        tls: Option<ServerConfig>,
        lower_case: bool,
        handler: impl Fn(&Request) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let listener = netns::within(namespace_of, || TcpListener::bind(address));
        let listener = listener.unwrap_or_else(|e| panic!("{address}: {e}"));
        let server = Self {
            namespace_of,
            address: listener.local_addr().expect("an address"),
            shared: Arc::new(Shared {
                handler: Box::new(handler),
                tls: Mutex::new(tls.map(Arc::new)),
                lower_case,
                stopping: AtomicBool::new(false),
                accepted: AtomicUsize::new(0),
                mood: Mutex::default(),
                open: Mutex::default(),
                answering: RwLock::default(),
            }),
            acceptor: Mutex::default(),
        };
        server.accept_on(listener);
        server
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// TCP connections accepted so far.
    pub fn connections(&self) -> usize {
        self.shared.accepted.load(Ordering::SeqCst)
    }

    /// Changes the certificate for new connections and closes the open ones.
    pub fn set_tls(&self, tls: ServerConfig) {
        *lock(&self.shared.tls) = Some(Arc::new(tls));
        self.close_connections();
    }

    /// Changes the behaviour towards new connections and closes the open ones.
    pub fn set_mood(&self, mood: Mood) {
        *lock(&self.shared.mood) = mood;
        self.close_connections();
    }

    /// Stops listening and closes every connection, so that new ones are refused.
    pub fn pause(&self) {
        let Some(acceptor) = lock(&self.acceptor).take() else { return };
        self.shared.stopping.store(true, Ordering::SeqCst);
        // The acceptor sleeps in accept(): only a connection wakes it.
        let _ = netns::within(self.namespace_of, || TcpStream::connect(self.address));
        let _ = acceptor.join();
        self.close_connections();
    }

    pub fn is_paused(&self) -> bool {
        lock(&self.acceptor).is_none()
    }

    /// Listens again on the same port.
    pub fn resume(&self) {
        if !self.is_paused() {
            return;
        }
        let mut listener = None;
        // An outgoing connection of a different process may use the port for a moment.
        wait_until(Duration::from_secs(10), || {
            listener = netns::within(self.namespace_of, || TcpListener::bind(self.address)).ok();
            listener.is_some()
        });
        self.shared.stopping.store(false, Ordering::SeqCst);
        self.accept_on(listener.expect("the port that was ours before"));
    }

    /// Closes the open connections; new ones are accepted. A reply in progress is completed first, so that the client
    /// receives the reply to every request that a test has seen counted.
    pub fn close_connections(&self) {
        let open = std::mem::take(&mut *lock(&self.shared.open));
        let no_reply_in_progress = self.shared.answering.write().unwrap_or_else(PoisonError::into_inner);
        for (stream, _) in &open {
            let _ = stream.shutdown(Shutdown::Both);
        }
        drop(no_reply_in_progress);
        for (_, thread) in open {
            let _ = thread.join();
        }
    }

    fn accept_on(&self, listener: TcpListener) {
        let shared = Arc::clone(&self.shared);
        let acceptor = thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                if shared.stopping.load(Ordering::SeqCst) {
                    break;
                }
                shared.accepted.fetch_add(1, Ordering::SeqCst);
                let Ok(handle) = stream.try_clone() else { continue };
                let connection = Arc::clone(&shared);
                let thread = thread::spawn(move || {
                    let _ = connection.serve(stream);
                });
                let mut open = lock(&shared.open);
                open.retain(|(_, thread)| !thread.is_finished());
                open.push((handle, thread));
            }
        });
        *lock(&self.acceptor) = Some(acceptor);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.pause();
    }
}

impl Shared {
    fn serve(&self, stream: TcpStream) -> io::Result<()> {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(IDLE))?;
        stream.set_write_timeout(Some(IDLE))?;
        let raw = stream.try_clone()?;
        let mood = *lock(&self.mood);
        if mood != Mood::Normal {
            return misbehave(mood, stream);
        }
        let tls = lock(&self.tls).clone();
        let done = match tls {
            None => self.converse(stream, &raw, None),
            Some(config) => {
                let mut stream = stream;
                let mut connection = ServerConnection::new(config).map_err(io::Error::other)?;
                while connection.is_handshaking() {
                    connection.complete_io(&mut stream)?;
                }
                let sni = connection.server_name().map(str::to_owned);
                if connection.alpn_protocol() == Some(HTTP2) {
                    (self.handler)(&Request::http2(sni));
                    return raw.shutdown(Shutdown::Both);
                }
                let mut tls = StreamOwned::new(connection, stream);
                let done = self.converse(&mut tls, &raw, sni.as_ref());
                if done.is_ok() {
                    tls.conn.send_close_notify();
                    let _ = tls.flush();
                }
                done
            }
        };
        // The list of open connections holds a second handle of the socket, so a drop would not close it.
        let _ = raw.shutdown(Shutdown::Both);
        done
    }

    fn converse(&self, mut stream: impl Read + Write, raw: &TcpStream, sni: Option<&String>) -> io::Result<()> {
        let mut buffer = Vec::new();
        loop {
            let mut request = match read_request(&mut stream, &mut buffer) {
                Ok(Some(request)) => request,
                Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                    // For example a TLS handshake on a plain port.
                    stream.write_all(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")?;
                    return stream.flush();
                }
                other => return other.map(|_| ()),
            };
            request.sni = sni.cloned();
            let mut answering = Some(self.answering.read().unwrap_or_else(PoisonError::into_inner));
            let reply = (self.handler)(&request);
            if !reply.is_immediate() {
                answering = None;
            }
            thread::sleep(reply.delay);
            let (status, reason, body) = match reply.act {
                Act::Answer { status, body, reason } => (status, reason, body),
                Act::Echo { status, page } => (status, None, page(&request).into_bytes()),
                Act::Raw(bytes) => {
                    stream.write_all(&bytes)?;
                    return stream.flush();
                }
                Act::Drip(bytes) => {
                    for byte in bytes {
                        stream.write_all(&[byte])?;
                        stream.flush()?;
                        thread::sleep(Duration::from_secs(1));
                    }
                    return Ok(());
                }
                Act::Flood(start, more) => {
                    stream.write_all(&start)?;
                    let piece = [b'x'; 1 << 14];
                    for _ in 0..more / piece.len() {
                        stream.write_all(&piece)?;
                    }
                    return stream.flush();
                }
                Act::Reset(start) => {
                    stream.write_all(&start)?;
                    stream.flush()?;
                    return reset(raw);
                }
                Act::Hang => {
                    while stream.read(&mut [0; 512])? > 0 {}
                    return Ok(());
                }
                Act::Close => return Err(io::ErrorKind::ConnectionAborted.into()),
            };
            let reason = reason.unwrap_or_else(|| reason_phrase(status).into());
            let mut head = String::new();
            let mut header = |name: &str, value: &str| {
                let name = if self.lower_case { name.to_lowercase() } else { name.to_owned() };
                let _ = write!(head, "{name}: {value}\r\n");
            };
            for (name, value) in &reply.headers {
                header(name, value);
            }
            header("Content-Length", &body.len().to_string());
            header("Connection", if reply.close { "close" } else { "keep-alive" });
            let mut bytes = format!("HTTP/1.1 {status} {reason}\r\n{head}\r\n").into_bytes();
            bytes.extend(body);
            stream.write_all(&bytes)?;
            stream.flush()?;
            drop(answering);
            if reply.close {
                return Ok(());
            }
        }
    }
}

/// Resets a connection, even while other handles of its socket are open.
fn reset(stream: &TcpStream) -> io::Result<()> {
    rustix::net::connect_unspec(stream)?;
    Ok(())
}

fn misbehave(mood: Mood, mut stream: TcpStream) -> io::Result<()> {
    match mood {
        Mood::Normal => {}
        Mood::Silent => while stream.read(&mut [0; 512])? > 0 {},
        Mood::Resets => reset(&stream)?,
        Mood::ResetsHandshake => {
            let _ = stream.read(&mut [0; 1])?;
            reset(&stream)?;
        }
        Mood::Plain => {
            let _ = stream.read(&mut [0; 512])?;
            stream.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/html\r\n\r\n<html>not TLS</html>")?;
            stream.shutdown(Shutdown::Both)?;
        }
    }
    Ok(())
}

/// Reads one request; `None` at the end of the connection. Bytes after the request stay in `buffer`.
fn read_request(stream: &mut impl Read, buffer: &mut Vec<u8>) -> io::Result<Option<Request>> {
    let (length, mut request) = loop {
        let mut headers = [httparse::EMPTY_HEADER; 64];
        let mut head = httparse::Request::new(&mut headers);
        match head.parse(buffer).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))? {
            httparse::Status::Complete(length) => {
                let headers = head.headers.iter();
                break (
                    length,
                    Request {
                        method: head.method.unwrap_or_default().into(),
                        target: head.path.unwrap_or_default().into(),
                        headers: headers
                            .map(|h| (h.name.into(), String::from_utf8_lossy(h.value).into_owned()))
                            .collect(),
                        body: Vec::new(),
                        sni: None,
                    },
                );
            }
            httparse::Status::Partial if buffer.len() > MAX_HEAD => {
                return Err(io::Error::other("long head"));
            }
            httparse::Status::Partial => {}
        }
        if fill(stream, buffer)? == 0 {
            return Ok(None);
        }
    };
    let body: usize = request.header("content-length").and_then(|l| l.parse().ok()).unwrap_or(0);
    while buffer.len() < length + body {
        if fill(stream, buffer)? == 0 {
            return Ok(None);
        }
    }
    request.body = buffer[length..length + body].to_vec();
    buffer.drain(..length + body);
    Ok(Some(request))
}

fn fill(stream: &mut impl Read, buffer: &mut Vec<u8>) -> io::Result<usize> {
    let mut chunk = [0; 4096];
    let got = stream.read(&mut chunk)?;
    buffer.extend_from_slice(&chunk[..got]);
    Ok(got)
}

fn reason_phrase(status: u16) -> &'static str {
    match status {
        200 => "OK",
        204 => "No Content",
        301 => "Moved Permanently",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        409 => "Conflict",
        429 => "Too Many Requests",
        500 => "Internal Server Error",
        503 => "Service Unavailable",
        _ => "Status",
    }
}
