//! TCP: name lookup, connecting, and reads and writes that obey a deadline.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, ToSocketAddrs};
use std::rc::Rc;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::io::Errno;
use rustix::net::sockopt::socket_error;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, connect, socket_with};

use super::Deadline;
use crate::error::{Cause, Phase, io_message, lower_first};

/// Delay before dialling the next address of a name, so that a dead IPv6 address does not block the IPv4 one
/// (RFC 8305).
const STAGGER: Duration = Duration::from_millis(250);
/// Interval between parallel attempts to connect to one address: a tunnel that has just come up loses the first SYN,
/// and the kernel resends it only after 1, 3 and 7 s.
const RESEND: Duration = Duration::from_millis(500);

/// Event that ends an exchange before its deadline.
pub trait Interrupt {
    /// Descriptor that becomes readable when the exchange may have to end.
    fn source(&self) -> BorrowedFd<'_>;
    fn is_due(&self) -> bool;
}

/// Decides about each request, once its connection is open and the server has proved its identity, whether it may be sent:
/// called with the local and the remote address of the socket.
pub type Guard = Rc<dyn Fn(SocketAddr, SocketAddr) -> Result<(), Cause>>;

/// I/O error of an exchange that an [`Interrupt`] has ended. No call to a TCP socket returns ECANCELED.
const INTERRUPTED: Errno = Errno::CANCELED;

/// TCP connection whose reads and writes time out at `deadline`.
pub struct Tcp {
    stream: TcpStream,
    pub deadline: Deadline,
    /// Event that can end a read before the deadline.
    pub interrupt: Option<Rc<dyn Interrupt>>,
}

impl Tcp {
    pub fn remote_address(&self) -> Option<SocketAddr> {
        self.stream.peer_addr().ok()
    }

    /// Asks `guard` whether a request may be sent now.
    pub fn pass(&self, guard: &Guard) -> Result<(), Cause> {
        let ends = self.stream.local_addr().and_then(|local| Ok((local, self.stream.peer_addr()?)));
        let (local, remote) = ends.map_err(|error| classify(error, Phase::Send, self.deadline))?;
        guard(local, remote)
    }

    fn remaining(&self) -> io::Result<Duration> {
        self.deadline.remaining(Phase::Head).map_err(|_| io::ErrorKind::TimedOut.into())
    }
}

/// Blocking sockets report an expired timeout as `WouldBlock`, which rustls would mistake for a non-blocking socket.
fn as_timeout(error: io::Error) -> io::Error {
    if error.kind() == io::ErrorKind::WouldBlock { io::ErrorKind::TimedOut.into() } else { error }
}

impl Read for Tcp {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if let Some(interrupt) = &self.interrupt {
            let watched = [(self.stream.as_fd(), PollFlags::IN)];
            while !wait_for_any(&watched, Some(interrupt.as_ref()), self.remaining()?)?[0] {}
        }
        self.stream.set_read_timeout(Some(self.remaining()?))?;
        self.stream.read(buf).map_err(as_timeout)
    }
}

impl Write for Tcp {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.stream.set_write_timeout(Some(self.remaining()?))?;
        self.stream.write(buf).map_err(as_timeout)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

/// Waits until one of `watched` is ready, for at most `limit`; returns which of them are ready.
fn wait_for_any(
    watched: &[(BorrowedFd, PollFlags)],
    interrupt: Option<&dyn Interrupt>,
    limit: Duration,
) -> io::Result<Vec<bool>> {
    let source = interrupt.map(Interrupt::source);
    let mut fds: Vec<_> = watched.iter().map(|(fd, flags)| PollFd::from_borrowed_fd(*fd, *flags)).collect();
    fds.extend(source.map(|source| PollFd::from_borrowed_fd(source, PollFlags::IN)));
    match poll(&mut fds, Timespec::try_from(limit).ok().as_ref()) {
        Ok(_) | Err(Errno::INTR) => {}
        Err(error) => return Err(error.into()),
    }
    let ready: Vec<_> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
    if ready.get(watched.len()) == Some(&true) && interrupt.is_some_and(Interrupt::is_due) {
        return Err(INTERRUPTED.into());
    }
    Ok(ready)
}

/// Cause of an I/O error during `phase`.
pub fn classify(error: io::Error, phase: Phase, deadline: Deadline) -> Cause {
    match error.kind() {
        _ if Errno::from_io_error(&error) == Some(INTERRUPTED) => Cause::RouteChanged,
        io::ErrorKind::TimedOut => deadline.expired(phase),
        io::ErrorKind::UnexpectedEof => Cause::Closed(phase),
        _ => Cause::Broken { phase, error },
    }
}

/// `host:port`, with brackets around IPv6.
pub fn join(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Endpoint {
    pub address: SocketAddr,
    /// Local address to bind to; `None` lets the kernel choose.
    pub source: Option<IpAddr>,
}

/// Connects to the first address of `host` that answers, from the local address `source` if given.
pub fn dial(
    host: &str,
    port: u16,
    source: Option<IpAddr>,
    interrupt: Option<Rc<dyn Interrupt>>,
    deadline: Deadline,
) -> Result<Tcp, Cause> {
    let addresses = lookup(host, port, deadline)?;
    let endpoints: Vec<_> = addresses.into_iter().map(|address| Endpoint { address, source }).collect();
    race(&endpoints, STAGGER, interrupt, deadline).map(|(_, tcp)| tcp).map_err(|mut errors| {
        let last = errors.pop().map(|error| classify(error, Phase::Connect, deadline));
        match last {
            Some(Cause::Broken { error, .. }) => Cause::Connect { to: join(host, port), error },
            Some(cause) => cause,
            None => Cause::Lookup { name: host.to_owned(), error: "no address".to_owned() },
        }
    })
}

/// Dials all `endpoints`; returns the index and the connection of the first one to answer, or else the error of each. Dials the
/// next endpoint after `stagger`, or as soon as an attempt fails, and repeats each attempt every 500 ms.
pub fn race(
    endpoints: &[Endpoint],
    stagger: Duration,
    interrupt: Option<Rc<dyn Interrupt>>,
    deadline: Deadline,
) -> Result<(usize, Tcp), Vec<io::Error>> {
    let mut race = Race::new(endpoints, stagger);
    while let (Some(next), Ok(remaining)) = (race.start_due(), deadline.remaining(Phase::Connect)) {
        let limit = next.saturating_duration_since(Instant::now()).min(remaining);
        match race.winner(limit, interrupt.as_deref()) {
            Ok(None) => {}
            Ok(Some((place, stream))) => {
                // Requests are single small writes, so waiting to fill a segment would only cost a round trip.
                let _ = stream.set_nonblocking(false).and_then(|()| stream.set_nodelay(true));
                return Ok((place, Tcp { stream, deadline, interrupt }));
            }
            Err(_) => return Err(endpoints.iter().map(|_| INTERRUPTED.into()).collect()),
        }
    }
    Err(race.errors)
}

struct Race<'a> {
    endpoints: &'a [Endpoint],
    /// Time of the next attempt at each endpoint; `None` once an endpoint has failed.
    starts: Vec<Option<Instant>>,
    errors: Vec<io::Error>,
    /// Sockets that are connecting, each with the index of its endpoint. Older attempts stay open, because the answer to one of
    /// them may still be on its way.
    sockets: Vec<(usize, OwnedFd)>,
}

impl<'a> Race<'a> {
    fn new(endpoints: &'a [Endpoint], stagger: Duration) -> Self {
        let begin = Instant::now();
        let starts = (0..).zip(endpoints).map(|(place, _)| Some(begin + stagger * place)).collect();
        let errors = endpoints.iter().map(|_| io::ErrorKind::TimedOut.into()).collect();
        Self { endpoints, starts, errors, sockets: Vec::new() }
    }

    /// Starts the attempts that are due; returns the time of the next one, or `None` if all endpoints have failed.
    fn start_due(&mut self) -> Option<Instant> {
        let now = Instant::now();
        for place in 0..self.endpoints.len() {
            if self.starts[place].is_some_and(|at| at <= now) {
                self.starts[place] = Some(now + RESEND);
                match start(&self.endpoints[place]) {
                    Ok(socket) => self.sockets.push((place, socket)),
                    Err(error) => self.give_up(place, error),
                }
            }
        }
        self.starts.iter().flatten().min().copied()
    }

    fn give_up(&mut self, place: usize, error: Errno) {
        self.errors[place] = error.into();
        self.starts[place] = None;
        self.sockets.retain(|(of, _)| *of != place);
        // Dial the next endpoint now: nothing is gained by waiting for its turn.
        let begun = |place: usize| self.sockets.iter().any(|(of, _)| *of == place);
        if let Some(next) = (0..self.endpoints.len()).find(|&place| self.starts[place].is_some() && !begun(place)) {
            self.starts[next] = Some(Instant::now());
        }
    }

    fn winner(&mut self, limit: Duration, interrupt: Option<&dyn Interrupt>) -> io::Result<Option<(usize, TcpStream)>> {
        let watched: Vec<_> = self.sockets.iter().map(|(_, socket)| (socket.as_fd(), PollFlags::OUT)).collect();
        let decided = wait_for_any(&watched, interrupt, limit)?;
        let mut failed = Vec::new();
        for at in (0..self.sockets.len()).filter(|&at| decided[at]) {
            let (place, socket) = &self.sockets[at];
            match socket_error(socket) {
                Ok(Ok(())) => {
                    let (place, socket) = self.sockets.swap_remove(at);
                    return Ok(Some((place, TcpStream::from(socket))));
                }
                Ok(Err(error)) | Err(error) => failed.push((*place, error)),
            }
        }
        for (place, error) in failed {
            self.give_up(place, error);
        }
        Ok(None)
    }
}

fn start(endpoint: &Endpoint) -> Result<OwnedFd, Errno> {
    let family = if endpoint.address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)?;
    if let Some(source) = endpoint.source {
        bind(&socket, &SocketAddr::new(source, 0))?;
    }
    match connect(&socket, &endpoint.address) {
        Ok(()) | Err(Errno::INPROGRESS) => Ok(socket),
        Err(error) => Err(error),
    }
}

fn unresolved(host: &str, error: &io::Error) -> Cause {
    let error = io_message(error);
    // Rust puts this prefix before the resolver's own reason.
    let error = error.strip_prefix("failed to lookup address information: ").unwrap_or(&error);
    Cause::Lookup { name: host.to_owned(), error: lower_first(error) }
}

fn lookup(host: &str, port: u16, deadline: Deadline) -> Result<Vec<SocketAddr>, Cause> {
    if let Ok(address) = host.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(address, port)]);
    }
    // Always loopback (RFC 6761 6.3). No lookup, because a scratch image may lack the files that the resolver reads.
    if host.eq_ignore_ascii_case("localhost") {
        return Ok(vec![(Ipv4Addr::LOCALHOST, port).into(), (Ipv6Addr::LOCALHOST, port).into()]);
    }
    // The resolver accepts no deadline, so it runs in a thread of its own, which is abandoned at the deadline.
    let (sender, receiver) = mpsc::channel();
    let name = host.to_owned();
    let look_up = move || {
        let _ = sender.send((name.as_str(), port).to_socket_addrs().map(Iterator::collect));
    };
    // Fails if the number of threads is limited; abandoned threads count towards the limit.
    thread::Builder::new().spawn(look_up).map_err(|error| unresolved(host, &error))?;
    match receiver.recv_timeout(deadline.remaining(Phase::Lookup)?) {
        Ok(result) => result.map_err(|error| unresolved(host, &error)),
        Err(_) => Err(deadline.expired(Phase::Lookup)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;
    use std::os::unix::net::UnixStream;

    struct Due(UnixStream);

    impl Interrupt for Due {
        fn source(&self) -> BorrowedFd<'_> {
            self.0.as_fd()
        }

        fn is_due(&self) -> bool {
            true
        }
    }

    fn soon() -> Deadline {
        Deadline::after(Duration::from_millis(200))
    }

    #[test]
    fn localhost_falls_back_to_the_other_family() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        assert!(dial("LocalHost", listener.local_addr().unwrap().port(), None, None, soon()).is_ok());
    }

    #[test]
    fn the_resolvers_reason_begins_in_lower_case() {
        let error = io::Error::other("failed to lookup address information: Name or service not known");
        assert_eq!(unresolved("h", &error).to_string(), "cannot resolve h: name or service not known");
    }

    #[test]
    fn a_silent_server_ends_at_the_deadline() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut tcp = dial("127.0.0.1", listener.local_addr().unwrap().port(), None, None, soon())
            .unwrap_or_else(|e| panic!("{e}"));
        let error = tcp.read(&mut [0]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(matches!(classify(error, Phase::Body, soon()), Cause::Timeout { phase: Phase::Body, .. }));
    }

    #[test]
    fn an_interrupt_ends_connecting_and_reading() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let (source, mut remote) = UnixStream::pair().unwrap();
        remote.write_all(b"x").unwrap();
        let due: Option<Rc<dyn Interrupt>> = Some(Rc::new(Due(source)));
        assert!(matches!(dial("127.0.0.1", port, None, due.clone(), soon()), Err(Cause::RouteChanged)));
        let mut tcp = dial("127.0.0.1", port, None, None, soon()).unwrap_or_else(|e| panic!("{e}"));
        tcp.interrupt = due;
        let error = tcp.read(&mut [0]).unwrap_err();
        assert!(matches!(classify(error, Phase::Head, soon()), Cause::RouteChanged));
    }

    #[test]
    fn the_first_endpoint_to_answer_wins() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let answers = listener.local_addr().unwrap();
        // No test binds this address, so this port cannot go to a different test in the meantime.
        let closed = SocketAddr::from(([127, 99, 99, 99], answers.port()));
        let endpoint = |address| Endpoint { address, source: None };
        let endpoints = [endpoint(closed), endpoint(answers)];
        let won =
            |stagger| race(&endpoints, stagger, None, Deadline::after(Duration::from_secs(8))).map(|(place, _)| place);
        assert_eq!(won(Duration::ZERO).ok(), Some(1));
        assert_eq!(won(Duration::from_secs(9)).ok(), Some(1), "the refusal ends the wait");
        let errors = race(&endpoints[..1], STAGGER, None, soon()).err().unwrap();
        assert_eq!(errors[0].kind(), io::ErrorKind::ConnectionRefused);
        assert!(race(&[], STAGGER, None, soon()).err().unwrap().is_empty());
    }

    #[test]
    fn a_connection_can_be_bound_to_one_of_our_addresses() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let source = Some("127.7.7.7".parse().unwrap());
        let tcp = dial("127.0.0.1", listener.local_addr().unwrap().port(), source, None, soon());
        let from = listener.accept().unwrap().1.ip();
        assert!(tcp.is_ok() && Some(from) == source, "{from}");
    }

    #[test]
    fn a_refused_connection_names_the_address() {
        // No test binds this address. A port of 127.0.0.1 that was just freed may already belong to another test.
        let Err(error) = dial("127.99.99.99", 1, None, None, soon()) else { panic!("connected") };
        assert_eq!(error.to_string(), "cannot connect to 127.99.99.99:1: connection refused");
    }
}
