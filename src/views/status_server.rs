//! `STATUS_ADDRESS`: serves the other views over HTTP, read-only and without a password. Limits the number of clients, and
//! the time and size of each request. A slow or silent client does not delay other clients, and a web page gets nothing.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread::{Builder, JoinHandle, sleep};
use std::time::{Duration, Instant};

use jiff::Timestamp;

use super::metrics::{self, Counts};
use super::status::{Health, Status};
use crate::error::io_message;
use crate::text::one_line;

pub const NAME: &str = "STATUS_ADDRESS";
pub const HOSTS: &str = "STATUS_HOSTS";
/// Maximum number of simultaneous clients; the oldest silent one makes room for a new one.
const CLIENTS: usize = 8;
/// Time allowed for a request and its reply.
const LIMIT: Duration = Duration::from_secs(2);
/// Longest request, in bytes.
const REQUEST: usize = 4096;
/// Stack size of each thread, in bytes.
const STACK: usize = 64 * 1024;
/// Interval between attempts to listen.
const LISTEN_RETRY: Duration = Duration::from_secs(30);
/// Longest name in DNS, in bytes.
const MAX_NAME: usize = 253;

#[derive(Clone, Default)]
pub struct PageData {
    pub status: Status,
    pub counts: Counts,
    /// The port that the torrent client should listen on.
    pub port: Option<u16>,
}

pub type HealthCheck = fn(&Status) -> Health;

/// Publishes data on threads of its own.
pub struct StatusServer(Arc<Server>);

/// Shared by all threads.
struct Server {
    data: Mutex<PageData>,
    /// Names with a dot that a Host header may have.
    hosts: Vec<String>,
    /// Set once a refused host has been logged.
    warned: AtomicBool,
    check_health: HealthCheck,
}

impl StatusServer {
    /// Starts a thread that listens on `address`, and retries every 30 s while `address` is unavailable.
    pub fn new(address: SocketAddr, hosts: Vec<String>, check_health: HealthCheck) -> Self {
        let server = Server { data: Mutex::default(), hosts, warned: AtomicBool::new(false), check_health };
        let server = Arc::new(server);
        let shared = Arc::clone(&server);
        if let Err(error) = Builder::new().stack_size(STACK).spawn(move || listen(address, &shared)) {
            log::warn!("{NAME}: cannot start a thread: {error}");
        }
        Self(server)
    }

    pub fn update(&self, data: PageData) {
        *self.0.data.lock().unwrap_or_else(PoisonError::into_inner) = data;
    }
}

/// A connection. Its thread owns it; the listener may end it.
struct Client {
    stream: TcpStream,
    /// Set once the request is complete.
    has_asked: AtomicBool,
}

fn listen(address: SocketAddr, server: &Arc<Server>) {
    let mut warned = false;
    let listener = loop {
        match TcpListener::bind(address) {
            Ok(listener) => break listener,
            Err(error) if !std::mem::replace(&mut warned, true) => {
                log::warn!("{NAME} {address}: {}; retrying every {} s", io_message(&error), LISTEN_RETRY.as_secs());
            }
            Err(_) => {}
        }
        sleep(LISTEN_RETRY);
    };
    log::info!("status: http://{address}/metrics, /healthz, /status, /v1/portforward");
    // In the order of their arrival.
    let mut clients: Vec<(Weak<Client>, JoinHandle<()>)> = Vec::with_capacity(CLIENTS);
    for stream in listener.incoming() {
        let Ok(stream) = stream else {
            // Probably out of file descriptors: wait until the current clients have closed theirs.
            sleep(LIMIT);
            continue;
        };
        clients.retain(|(client, _)| client.strong_count() > 0);
        if clients.len() >= CLIENTS {
            make_room(&mut clients);
        }
        let client = Arc::new(Client { stream, has_asked: AtomicBool::new(false) });
        let (weak, server) = (Arc::downgrade(&client), Arc::clone(server));
        // If no thread can be started, the connection is closed.
        if let Ok(thread) = Builder::new().stack_size(STACK).spawn(move || drop(serve(&client, &server))) {
            clients.push((weak, thread));
        }
    }
}

/// Disconnects the oldest client that has not sent its request, or else the oldest one, and waits until its thread has ended, so
/// that no number of connections starts more threads.
fn make_room(clients: &mut Vec<(Weak<Client>, JoinHandle<()>)>) {
    let is_silent = |client: &Client| !client.has_asked.load(Ordering::Relaxed);
    let oldest = clients.iter().position(|(client, _)| client.upgrade().is_some_and(|client| is_silent(&client)));
    let (client, thread) = clients.remove(oldest.unwrap_or(0));
    if let Some(client) = client.upgrade() {
        let _ = client.stream.shutdown(Shutdown::Both);
    }
    let _ = thread.join();
}

fn serve(client: &Client, server: &Server) -> io::Result<()> {
    let end = Instant::now() + LIMIT;
    let request = read_request(&client.stream, end)?;
    client.has_asked.store(true, Ordering::Relaxed);
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut parsed = httparse::Request::new(&mut headers);
    let complete = parsed.parse(&request).is_ok_and(|state| state.is_complete());
    let mut hosts = parsed.headers.iter().filter(|header| header.name.eq_ignore_ascii_case("Host"));
    let refused = hosts.find(|host| !is_allowed(host.value, &server.hosts));
    let Reply { status, kind, body } = match (parsed.method, parsed.path, refused) {
        (Some(_), Some(_), Some(host)) if complete => refuse(host.value, server),
        (Some("GET" | "HEAD"), Some(path), None) if complete => {
            let data = server.data.lock().unwrap_or_else(PoisonError::into_inner).clone();
            reply_to(path, &data, server.check_health)
        }
        (Some(_), Some(_), None) if complete => Reply::text("405 Method Not Allowed", "use GET or HEAD\n".to_owned()),
        _ => Reply::text("400 Bad Request", "not an HTTP request\n".to_owned()),
    };
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nAllow: GET, HEAD\r\nCache-Control: no-store\r\n\
         Connection: close\r\n\r\n",
        body.len()
    );
    let body = if parsed.method == Some("HEAD") { "" } else { &body };
    write_all(&client.stream, format!("{head}{body}").as_bytes(), end)
}

/// Parses `STATUS_HOSTS`: names separated by commas or white space.
pub fn parse_hosts(text: &str) -> Result<Vec<String>, &'static str> {
    let names = text.split([',', ' ', '\t']).filter(|name| !name.is_empty());
    let parse = |name| {
        if is_name(name) {
            Ok(comparable(name))
        } else {
            Err("contains characters that are not allowed in a host name")
        }
    };
    names.map(parse).collect()
}

fn is_name(text: &str) -> bool {
    text.len() <= MAX_NAME && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
}

/// `name` in lower case, without the dot that may end a full name.
fn comparable(name: &str) -> String {
    name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase()
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    }
}

/// True unless a web page may have sent this Host header. A page can point its own name at our address (DNS rebinding), and its
/// browser then sends us that name, which always has a dot. A program without a browser need not send the header.
fn is_allowed(host: &[u8], hosts: &[String]) -> bool {
    let Ok(host) = std::str::from_utf8(host) else { return false };
    let name = without_port(host);
    let (address, name) = (name.trim_start_matches('[').trim_end_matches(']'), is_name(name).then(|| comparable(name)));
    address.parse::<IpAddr>().is_ok() || name.is_some_and(|name| !name.contains('.') || hosts.contains(&name))
}

/// Refuses a request for `host`, and logs the first one with the line that would allow it.
fn refuse(host: &[u8], server: &Server) -> Reply {
    let host = String::from_utf8_lossy(host);
    let name = without_port(&host);
    if is_name(name) && !server.warned.swap(true, Ordering::Relaxed) {
        let name = comparable(name);
        let all: Vec<_> = server.hosts.iter().chain([&name]).map(String::as_str).collect();
        log::warn!(
            "{NAME}: refused a request for the host {name}, which a web page may have sent; if that name is yours, set \
             {HOSTS}={}",
            all.join(",")
        );
    }
    let body = format!("{HOSTS} does not list the host {}; if that name is yours, add it\n", one_line(name));
    Reply::text("421 Misdirected Request", body)
}

/// Time left until `end`; a `TimedOut` error after `end`.
fn remaining(end: Instant) -> io::Result<Option<Duration>> {
    match end.saturating_duration_since(Instant::now()) {
        Duration::ZERO => Err(io::ErrorKind::TimedOut.into()),
        remaining => Ok(Some(remaining)),
    }
}

fn read_request(mut client: &TcpStream, end: Instant) -> io::Result<Vec<u8>> {
    let mut request = Vec::new();
    let mut buffer = [0; 1024];
    while !request.windows(4).any(|bytes| bytes == b"\r\n\r\n") && request.len() < REQUEST {
        client.set_read_timeout(remaining(end)?)?;
        match client.read(&mut buffer)? {
            0 => break,
            bytes => request.extend_from_slice(&buffer[..bytes]),
        }
    }
    Ok(request)
}

fn write_all(mut client: &TcpStream, mut bytes: &[u8], end: Instant) -> io::Result<()> {
    while !bytes.is_empty() {
        client.set_write_timeout(remaining(end)?)?;
        match client.write(bytes)? {
            0 => return Err(io::ErrorKind::WriteZero.into()),
            written => bytes = &bytes[written..],
        }
    }
    Ok(())
}

struct Reply {
    status: &'static str,
    kind: &'static str,
    body: String,
}

impl Reply {
    fn text(status: &'static str, body: String) -> Self {
        Self { status, kind: "text/plain; charset=utf-8", body }
    }

    fn json(body: String) -> Self {
        Self { status: "200 OK", kind: "application/json", body }
    }
}

fn reply_to(path: &str, data: &PageData, check_health: HealthCheck) -> Reply {
    let path = path.split('?').next().unwrap_or(path);
    match path {
        "/metrics" => {
            let healthy = matches!(check_health(&data.status), Health::Healthy(_));
            let body = metrics::text(&data.status, healthy, &data.counts, Timestamp::now());
            Reply { status: "200 OK", kind: "text/plain; version=0.0.4; charset=utf-8", body }
        }
        "/healthz" => {
            let health = check_health(&data.status);
            let status = if matches!(health, Health::Healthy(_)) { "200 OK" } else { "503 Service Unavailable" };
            Reply::text(status, format!("{}\n", health.message()))
        }
        "/status" => Reply::json(format!("{}\n", data.status.to_json())),
        // The current path and the former path on gluetun's control server.
        "/v1/portforward" | "/v1/openvpn/portforwarded" => Reply::json(match data.port {
            Some(port) => format!("{{\"port\":{port},\"ports\":[{port}]}}\n"),
            None => "{\"port\":0,\"ports\":[]}\n".to_owned(),
        }),
        _ => Reply::text("404 Not Found", "/metrics, /healthz, /status, /v1/portforward\n".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn healthy(_: &Status) -> Health {
        Health::Healthy("ok: all".to_owned())
    }

    /// A server on a port that the kernel chose.
    fn server() -> (StatusServer, SocketAddr) {
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let server = StatusServer::new(address, Vec::new(), healthy);
        server.update(PageData { port: Some(4711), ..PageData::default() });
        (server, address)
    }

    fn connect(address: SocketAddr) -> TcpStream {
        for _ in 0..500 {
            if let Ok(client) = TcpStream::connect(address) {
                return client;
            }
            sleep(Duration::from_millis(10));
        }
        panic!("the server does not listen");
    }

    fn ask(address: SocketAddr, request: &str) -> String {
        let mut client = connect(address);
        client.write_all(request.as_bytes()).unwrap();
        let mut reply = String::new();
        let _ = client.read_to_string(&mut reply);
        reply
    }

    #[test]
    fn every_route_answers() {
        let (_server, address) = server();
        let get = |path: &str| ask(address, &format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n"));
        assert!(get("/metrics").contains("\npia_sync_healthy 1\n"));
        assert!(get("/healthz?x").starts_with("HTTP/1.1 200 OK") && get("/healthz").ends_with("\r\n\r\nok: all\n"));
        assert!(get("/status").contains("\"listener_seen\":false"));
        for path in ["/v1/portforward", "/v1/openvpn/portforwarded"] {
            assert!(get(path).ends_with("\r\n\r\n{\"port\":4711,\"ports\":[4711]}\n"));
        }
        assert!(get("/").starts_with("HTTP/1.1 404 "));
        assert!(ask(address, "HEAD /healthz HTTP/1.1\r\n\r\n").ends_with("close\r\n\r\n"));
        for method in ["POST", "PUT", "DELETE"] {
            assert!(ask(address, &format!("{method} /healthz HTTP/1.1\r\n\r\n")).starts_with("HTTP/1.1 405 "));
        }
        for nonsense in ["\r\n\r\n".to_owned(), "x".repeat(REQUEST)] {
            assert!(ask(address, &nonsense).starts_with("HTTP/1.1 400 "), "{nonsense}");
        }
    }

    #[test]
    fn only_hosts_that_no_web_page_can_have_are_allowed() {
        let hosts = parse_hosts("nas.local, Sync.Example.\tx.y,").unwrap();
        assert_eq!(hosts, ["nas.local", "sync.example", "x.y"]);
        for host in ["", "localhost", "localhost:9849", "gluetun:9849", "my_nas", "127.0.0.1", "192.168.1.2:9849"] {
            assert!(is_allowed(host.as_bytes(), &hosts), "{host}");
        }
        for host in ["[::1]", "[::1]:9849", "[::ffff:10.0.0.1]:80", "NAS.local:9849", "nas.local.", "x.y:", "x.y"] {
            assert!(is_allowed(host.as_bytes(), &hosts), "{host}");
        }
        for host in ["evil.example", "evil.example:9849", "nas.local.evil.example", "nas.local:80:80", "127.0.0.1.evil"]
        {
            assert!(!is_allowed(host.as_bytes(), &hosts), "{host}");
        }
        for host in ["[evil.example]", "evil\u{3002}example", "evil example", "http://localhost", "user@localhost"] {
            assert!(!is_allowed(host.as_bytes(), &hosts), "{host}");
        }
        assert!(!is_allowed(b"\xff", &hosts) && !is_allowed(&[b'x'; MAX_NAME + 1], &hosts));
        for bad in ["http://nas.local", "nas.local:9849", "*.local", "n\u{e4}s.local"] {
            assert!(parse_hosts(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn every_host_header_counts() {
        let (_server, address) = server();
        let get = |hosts: &str| ask(address, &format!("GET /healthz HTTP/1.1\r\n{hosts}\r\n"));
        assert!(get("").contains("200 OK"));
        assert!(get("Host: localhost\r\nhost: evil.example\r\n").starts_with("HTTP/1.1 421 "));
        assert!(ask(address, "POST / HTTP/1.1\r\nHost: evil.example\r\n\r\n").starts_with("HTTP/1.1 421 "));
        let refused = get("Host: e\u{9b}vil.example\r\n");
        assert!(
            refused.ends_with(
                "\r\n\r\nSTATUS_HOSTS does not list the host e?vil.example; if that name is yours, add it\n"
            ),
            "{refused}"
        );
    }

    #[test]
    fn silent_clients_are_dropped_and_delay_no_other() {
        let (_server, address) = server();
        let mut silent: Vec<_> = (0..CLIENTS).map(|_| connect(address)).collect();
        let mut fastest = LIMIT;
        for question in 0..40 {
            let began = Instant::now();
            let reply = ask(address, "GET /healthz HTTP/1.1\r\n\r\n");
            assert!(reply.contains("200 OK"), "question {question} of 40: {reply:?}");
            fastest = fastest.min(began.elapsed());
            silent.push(connect(address));
        }
        assert!(fastest < LIMIT, "every reply waited for the silent clients");
        let began = Instant::now();
        for mut client in silent {
            assert_eq!(client.read(&mut [0; 1]).unwrap_or(0), 0, "a silent client is disconnected");
        }
        assert!(began.elapsed() < LIMIT * 3, "{:?}", began.elapsed());
    }

    #[test]
    fn the_oldest_silent_client_makes_room() {
        let (_server, address) = server();
        let mut clients: Vec<_> = (0..=CLIENTS).map(|_| connect(address)).collect();
        assert_eq!(clients[0].read(&mut [0; 1]).unwrap_or(0), 0, "the oldest one is disconnected");
        for client in &mut clients[1..] {
            client.write_all(b"GET /healthz HTTP/1.1\r\n\r\n").unwrap();
            let mut reply = String::new();
            client.read_to_string(&mut reply).unwrap();
            assert!(reply.contains("200 OK"), "{reply:?}");
        }
    }
}
