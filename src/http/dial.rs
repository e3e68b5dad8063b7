//! TCP: the address behind a name, the connection, and reads and writes that obey a deadline.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, ToSocketAddrs};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use super::Deadline;
use crate::error::{Cause, Phase, plain};

/// Seconds for a connect to one of several addresses, so that a dead IPv6 address leaves time for the IPv4 one.
const CONNECT_SHARE: Duration = Duration::from_secs(4);

/// A TCP connection whose reads and writes end at `deadline`.
pub struct Tcp {
    stream: TcpStream,
    /// When every read and write gives up.
    pub deadline: Deadline,
}

impl Tcp {
    /// The address at the other end.
    pub fn peer(&self) -> Option<SocketAddr> {
        self.stream.peer_addr().ok()
    }

    fn left(&self) -> io::Result<Duration> {
        self.deadline.left(Phase::Head).map_err(|_| io::ErrorKind::TimedOut.into())
    }
}

/// A blocking socket whose timeout fired says `WouldBlock`.
fn as_timeout(error: io::Error) -> io::Error {
    if error.kind() == io::ErrorKind::WouldBlock { io::ErrorKind::TimedOut.into() } else { error }
}

impl Read for Tcp {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.stream.set_read_timeout(Some(self.left()?))?;
        self.stream.read(buf).map_err(as_timeout)
    }
}

impl Write for Tcp {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.stream.set_write_timeout(Some(self.left()?))?;
        self.stream.write(buf).map_err(as_timeout)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

/// What an I/O error during `phase` means.
pub fn cause(error: io::Error, phase: Phase, deadline: Deadline) -> Cause {
    match error.kind() {
        io::ErrorKind::TimedOut => Cause::Timeout { phase, after: deadline.total() },
        io::ErrorKind::UnexpectedEof => Cause::Closed { phase },
        _ => Cause::Broken { phase, error },
    }
}

/// `host:port`, with brackets around IPv6.
pub fn join(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// Connects to the first address of `host` that answers.
pub fn dial(host: &str, port: u16, deadline: Deadline) -> Result<Tcp, Cause> {
    let addresses = lookup(host, port, deadline)?;
    let mut last = None;
    for (index, address) in addresses.iter().enumerate() {
        let left = deadline.left(Phase::Connect)?;
        let share = if index + 1 < addresses.len() { left.min(CONNECT_SHARE) } else { left };
        match TcpStream::connect_timeout(address, share) {
            Ok(stream) => {
                // Our requests are single small writes: waiting to fill a segment only costs a round trip.
                let _ = stream.set_nodelay(true);
                return Ok(Tcp { stream, deadline });
            }
            Err(error) => last = Some(error),
        }
    }
    match last {
        Some(error) if error.kind() == io::ErrorKind::TimedOut => {
            Err(Cause::Timeout { phase: Phase::Connect, after: deadline.total() })
        }
        Some(error) => Err(Cause::Connect { to: join(host, port), error }),
        None => Err(Cause::Lookup { name: host.to_owned(), error: "no address".to_owned() }),
    }
}

fn lookup(host: &str, port: u16, deadline: Deadline) -> Result<Vec<SocketAddr>, Cause> {
    if let Ok(address) = host.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(address, port)]);
    }
    // RFC 6761 6.3: always loopback. Saves the resolver, which a scratch image may not even have a file for.
    if host.eq_ignore_ascii_case("localhost") {
        return Ok(vec![(Ipv4Addr::LOCALHOST, port).into(), (Ipv6Addr::LOCALHOST, port).into()]);
    }
    // The resolver knows no deadline, so it gets a thread that may be left behind; it ends by itself.
    let (sender, receiver) = mpsc::channel();
    let name = host.to_owned();
    let look_up = move || {
        let _ = sender.send((name.as_str(), port).to_socket_addrs().map(Iterator::collect));
    };
    // Threads can be limited, and those left behind count.
    thread::Builder::new()
        .spawn(look_up)
        .map_err(|error| Cause::Lookup { name: host.to_owned(), error: plain(&error) })?;
    match receiver.recv_timeout(deadline.left(Phase::Lookup)?) {
        Ok(result) => result.map_err(|error| Cause::Lookup { name: host.to_owned(), error: plain(&error) }),
        Err(_) => Err(Cause::Timeout { phase: Phase::Lookup, after: deadline.total() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    fn soon() -> Deadline {
        Deadline::after(Duration::from_millis(200))
    }

    #[test]
    fn localhost_falls_back_to_the_other_family() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        assert!(dial("LocalHost", listener.local_addr().unwrap().port(), soon()).is_ok());
    }

    #[test]
    fn a_silent_peer_ends_at_the_deadline() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut tcp =
            dial("127.0.0.1", listener.local_addr().unwrap().port(), soon()).unwrap_or_else(|e| panic!("{e}"));
        let error = tcp.read(&mut [0]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(matches!(cause(error, Phase::Body, soon()), Cause::Timeout { phase: Phase::Body, .. }));
    }

    #[test]
    fn a_refused_connection_names_the_address() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        let Err(error) = dial("127.0.0.1", port, soon()) else { panic!("connected") };
        assert_eq!(error.to_string(), format!("cannot connect to 127.0.0.1:{port}: connection refused"));
    }
}
