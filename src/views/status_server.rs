//! `STATUS_ADDRESS`: serves the other views over HTTP, read-only and without a password. Limits the number of clients, and
//! the time and size of each request. A slow client does not delay other clients.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{Builder, sleep};
use std::time::{Duration, Instant};

use jiff::Timestamp;

use super::metrics::{self, Counts};
use super::status::{Health, Status};
use crate::error::io_message;

pub const NAME: &str = "STATUS_ADDRESS";
/// Maximum number of simultaneous clients; further connections are closed without a reply.
const CLIENTS: usize = 8;
/// Time allowed for a request and its reply.
const LIMIT: Duration = Duration::from_secs(2);
/// Longest request, in bytes.
const REQUEST: usize = 4096;
/// Stack size of each thread, in bytes.
const STACK: usize = 64 * 1024;
/// Interval between attempts to listen.
const LISTEN_RETRY: Duration = Duration::from_secs(30);

#[derive(Clone, Default)]
pub struct PageData {
    pub status: Status,
    pub counts: Counts,
    /// The port that the torrent client should listen on.
    pub port: Option<u16>,
}

pub type HealthCheck = fn(&Status) -> Health;

/// The data that the server publishes, shared with its threads.
pub struct StatusServer(Arc<Mutex<PageData>>);

impl StatusServer {
    /// Starts a thread that listens on `address`, and retries every 30 s while `address` is unavailable.
    pub fn new(address: SocketAddr, check_health: HealthCheck) -> Self {
        let data = Arc::new(Mutex::new(PageData::default()));
        let server = Arc::clone(&data);
        if let Err(error) = Builder::new().stack_size(STACK).spawn(move || listen(address, &server, check_health)) {
            log::warn!("{NAME}: cannot start a thread: {error}");
        }
        Self(data)
    }

    pub fn update(&self, data: PageData) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = data;
    }
}

fn listen(address: SocketAddr, data: &Arc<Mutex<PageData>>, check_health: HealthCheck) {
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
    // Each client's thread holds a clone, so that the strong count minus one is the number of clients.
    let slots = Arc::new(());
    for client in listener.incoming() {
        let Ok(client) = client else {
            // Probably out of file descriptors: wait until the current clients have closed theirs.
            sleep(LIMIT);
            continue;
        };
        // Over the limit: close the connection without a reply.
        if Arc::strong_count(&slots) > CLIENTS {
            continue;
        }
        let (data, slot) = (Arc::clone(data), Arc::clone(&slots));
        // If no thread can be started, the connection is closed and the slot is free again.
        let _ = Builder::new().stack_size(STACK).spawn(move || {
            let _ = serve(client, &data, check_health);
            drop(slot);
        });
    }
}

fn serve(mut client: TcpStream, data: &Mutex<PageData>, check_health: HealthCheck) -> io::Result<()> {
    let end = Instant::now() + LIMIT;
    let request = read_request(&mut client, end)?;
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut parsed = httparse::Request::new(&mut headers);
    let complete = parsed.parse(&request).is_ok_and(|state| state.is_complete());
    let Reply { status, kind, body } = match (parsed.method, parsed.path) {
        (Some("GET" | "HEAD"), Some(path)) if complete => {
            let data = data.lock().unwrap_or_else(PoisonError::into_inner).clone();
            reply_to(path, &data, check_health)
        }
        (Some(_), Some(_)) if complete => Reply::text("405 Method Not Allowed", "use GET or HEAD\n".to_owned()),
        _ => Reply::text("400 Bad Request", "not an HTTP request\n".to_owned()),
    };
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nAllow: GET, HEAD\r\nCache-Control: no-store\r\n\
         Connection: close\r\n\r\n",
        body.len()
    );
    let body = if parsed.method == Some("HEAD") { "" } else { &body };
    write_all(&mut client, format!("{head}{body}").as_bytes(), end)
}

/// Time left until `end`; a `TimedOut` error after `end`.
fn remaining(end: Instant) -> io::Result<Option<Duration>> {
    match end.saturating_duration_since(Instant::now()) {
        Duration::ZERO => Err(io::ErrorKind::TimedOut.into()),
        remaining => Ok(Some(remaining)),
    }
}

fn read_request(client: &mut TcpStream, end: Instant) -> io::Result<Vec<u8>> {
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

fn write_all(client: &mut TcpStream, mut bytes: &[u8], end: Instant) -> io::Result<()> {
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
        "/status" => Reply::json(format!("{}\n", miniserde::json::to_string(&data.status))),
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
        let server = StatusServer::new(address, healthy);
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
    fn a_silent_client_is_dropped_and_delays_no_other() {
        let (_server, address) = server();
        let silent: Vec<_> = (1..CLIENTS).map(|_| connect(address)).collect();
        let began = Instant::now();
        assert!(ask(address, "GET /healthz HTTP/1.1\r\n\r\n").contains("200 OK"));
        assert!(began.elapsed() < LIMIT, "{:?}", began.elapsed());
        let mut more = vec![connect(address), connect(address)];
        let mut last = more.pop().unwrap();
        assert_eq!(last.read(&mut [0; 1]).unwrap_or(0), 0, "a client over the limit is disconnected");
        for mut client in silent.into_iter().chain(more) {
            assert_eq!(client.read(&mut [0; 1]).unwrap_or(0), 0, "a silent client is disconnected");
        }
        assert!(began.elapsed() < LIMIT * 3, "{:?}", began.elapsed());
    }
}
