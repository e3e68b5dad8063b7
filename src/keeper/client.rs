//! The torrent client: what it was seen to do, what was changed, and what follows from that.
//!
//! A round reads the port, puts it right and has a look at the socket: settings are not the socket. The kernel is asked first, and
//! then the client. Where the socket has to be reopened, a bounce leads over another port, because setting the port that is set
//! already does nothing.

use std::rc::Rc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use log::Level;

use super::Setup;
use super::gate::Gate;
use super::outcome::{Notice, Outcome, Remote, Visibility};
use super::step::{Connectivity, Inbound, ListenPort, ListenState, PortSockets, Step};
use super::tunnel::GatewayRoute;
use crate::error::{Call, Cause, Error};
use crate::time::Now;

/// The longest `Retry-After` that is believed: a port is at stake.
const RETRY_AFTER_CAP: Duration = Duration::from_secs(5 * 60);

/// What a client is like.
#[derive(Debug, Clone, Copy)]
pub struct ClientProfile {
    /// Until it must have opened its socket.
    pub listen_timeout: Duration,
    /// Between two looks.
    pub poll_interval: Duration,
    /// After a change the reported status may be that of the old port for this long.
    pub status_lag: Duration,
    /// It says itself whether it listens; of one that does not only the kernel tells.
    pub reports_listening: bool,
    /// It has a UDP socket beside the TCP one, always.
    pub always_has_udp: bool,
    /// It is to tell its trackers a new port at once.
    pub reannounces: bool,
}

/// Between two looks of the kernel at a socket that is about to be opened: qBittorrent takes 3 to 31 ms.
const SOCKET_POLL: Duration = Duration::from_millis(20);
/// For nobody to come in before that is worth a question, and then a warning.
const INBOUND_WARNING_AFTER: Duration = Duration::from_secs(24 * 3600);
/// Between two questions while no torrent is active.
const INBOUND_CHECK_INTERVAL: Duration = Duration::from_secs(3600);

/// Whether the client's socket may belong to a tunnel that is gone: some clients keep a dead one, and all looks well. It decides
/// where the kernel does not tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Socket {
    Fresh,
    /// The tunnel has changed or may have, as before our start; whether the one of now works, the next bind will tell.
    Suspect,
    /// It has to be reopened.
    Stale,
}

/// Why a client's port is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ResetReason {
    /// It has another one, or picks a random one.
    WrongPort,
    /// Its socket is dead, or may be.
    StaleSocket,
    /// It does not listen.
    NotListening,
}

/// Whether the client is on the other port of a bounce.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Away {
    No,
    /// The first half of the bounce failed, and the client may have done it nevertheless.
    Maybe,
    /// It has left this port.
    Yes(u16),
}

/// A change of the client's port in this round.
#[derive(Debug, Clone, Copy)]
struct Change {
    /// What it had before; none in the second half of a bounce that was begun in an earlier round.
    from: Option<i64>,
    reason: ResetReason,
}

/// What is known of the client.
#[derive(Debug)]
#[allow(clippy::struct_excessive_bools, reason = "facts, each by itself")]
pub(super) struct Client {
    profile: ClientProfile,
    interval: Duration,
    /// It is looked at and left as it is.
    hands_off: bool,
    pub gate: Gate,
    /// The next round begins then.
    round_at: Instant,
    /// What it has by its settings, read in this round.
    read: Option<ListenPort>,
    change: Option<Change>,
    /// It has to be bounced, and why.
    bounce: Option<ResetReason>,
    away: Away,
    /// Its port is right: the kernel is asked for its socket then.
    inspect_at: Option<Instant>,
    /// Whether it listens is asked then.
    confirm_at: Option<Instant>,
    /// It did not listen when it was asked first; then is the end of the patience.
    listen_by: Option<Instant>,
    socket: Socket,
    /// When a bounce was last decided on. Each one writes the client's settings to its disk, so one that did not help is not
    /// repeated within an interval.
    bounced: Option<Instant>,
    /// When its port was last set: for a while after that its status may be the one of the old port.
    set_at: Option<Instant>,
    /// The port that it was last seen with.
    pub port: Option<u16>,
    /// When it was last seen listening, and on which port.
    pub last_listening: Option<(Timestamp, u16)>,
    /// What it said of that.
    pub reported: Option<Connectivity>,
    /// The kernel sees the socket.
    pub socket_seen: bool,
    /// The kernel shows no socket on its port in this round, though it is on this machine.
    socket_missing: bool,
    /// On this port it has no UDP socket, and a bounce has not helped.
    tcp_only: Option<u16>,
    /// Setting its port has not changed it, as when another program had that port: then only a bounce does.
    stuck: bool,
    /// Since when it has this port.
    pub port_since: Option<(Timestamp, u16)>,
    /// When somebody from outside was last seen on that.
    pub peer_seen_at: Option<Timestamp>,
    /// The kernel is asked for peers that came in then: once an interval.
    check_peers_at: Instant,
    /// It is asked for peers that came in then.
    check_inbound_at: Option<Instant>,
    /// Its trackers do not know its port yet.
    reannounce: bool,
}

impl Client {
    pub fn new(setup: &Setup, now: Now) -> Self {
        let hands_off = setup.hands_off;
        Self {
            profile: setup.profile,
            interval: setup.interval,
            hands_off,
            gate: Gate::new(RETRY_AFTER_CAP),
            round_at: now.mono,
            read: None,
            change: None,
            bounce: None,
            away: Away::No,
            inspect_at: None,
            confirm_at: None,
            listen_by: None,
            // Since whenever this client opened its socket, the tunnel may have been recreated. The one that does not tell whether
            // it listens (Transmission) is bound to no device, and keeps no dead socket.
            socket: if hands_off || !setup.profile.reports_listening { Socket::Fresh } else { Socket::Suspect },
            bounced: None,
            set_at: None,
            port: None,
            last_listening: None,
            reported: None,
            socket_seen: false,
            socket_missing: false,
            tcp_only: None,
            stuck: false,
            port_since: None,
            peer_seen_at: None,
            reannounce: false,
            check_peers_at: now.mono,
            check_inbound_at: None,
        }
    }

    /// What is to be done next so that it listens on `port`, and when.
    pub fn agenda(&self, port: u16, route: Option<&GatewayRoute>, now: Now) -> (Instant, Step) {
        let (at, step) = if let Away::Yes(_) = self.away {
            (now.mono, Step::BounceBack(port))
        } else if self.bounce.is_some() {
            (now.mono, Step::BounceAway { port, other: neighbour(port) })
        } else if self.reannounce {
            (now.mono, Step::Reannounce)
        } else if let Some(at) = self.inspect_at {
            (at, Step::Inspect { port, route: route.cloned(), peers: now.mono >= self.check_peers_at })
        } else if let Some(at) = self.confirm_at {
            (at, Step::Confirm(port))
        } else if self.read.is_some() {
            (now.mono, Step::SetPort(port))
        } else {
            // Between two rounds, and never in place of one.
            match self.check_inbound_at.filter(|&at| at < self.round_at) {
                Some(at) => (at, Step::CheckInbound),
                None => (self.round_at, Step::ReadPort),
            }
        };
        (self.gate.after(at), step)
    }

    /// The port that it has left for a while.
    pub fn away_from(&self) -> Option<u16> {
        match self.away {
            Away::Yes(port) => Some(port),
            Away::No | Away::Maybe => None,
        }
    }

    /// Whether it is on the other port of a bounce, or may be: the reply to the first half was lost or not waited for.
    pub fn may_be_away(&self) -> bool {
        self.away != Away::No || self.bounce.is_some()
    }

    /// Whether a round is under way or due.
    pub fn is_busy(&self, now: Now) -> bool {
        self.away_from().is_some()
            || self.change.is_some()
            || self.reannounce
            || self.inspect_at.is_some()
            || self.confirm_at.is_some()
            || now.mono >= self.round_at
    }

    /// Another round begins at `at`.
    pub fn begin_round(&mut self, at: Instant) {
        self.round_at = at;
        (self.read, self.change, self.bounce) = (None, None, None);
        (self.inspect_at, self.confirm_at, self.listen_by) = (None, None, None);
    }

    /// The tunnel is another one, or may be.
    pub fn suspect_socket(&mut self) {
        self.last_listening = None;
        if !self.hands_off {
            self.socket = Socket::Suspect;
            // What did not help in the last tunnel may help in this one.
            self.bounced = None;
        }
    }

    /// Another gateway is asked, and what happened to the tunnel meanwhile was not seen. A socket that is about to be reopened
    /// still is: a gateway is found with the very bind that shows that the tunnel works.
    pub fn suspect_fresh_socket(&mut self) {
        if self.socket == Socket::Fresh {
            self.suspect_socket();
        }
    }

    /// The tunnel works: what was suspect has to be reopened.
    pub fn tunnel_confirmed(&mut self, now: Now) {
        if self.socket == Socket::Suspect {
            self.socket = Socket::Stale;
            self.begin_round(now.mono);
        }
    }

    /// Somebody asks for a look now.
    pub fn retry_now(&mut self, now: Now) {
        self.gate.retry_now();
        self.bounced = None;
        self.begin_round(now.mono);
    }

    /// Its settings have this port.
    pub fn port_read(&mut self, now: Now, wanted: u16, seen: ListenPort) -> Result<Outcome, Error> {
        self.port = u16::try_from(seen.port).ok();
        let right = seen.port == i64::from(wanted);
        if right && self.away == Away::Maybe {
            self.away = Away::No;
        }
        self.stuck &= !right;
        // One that goes on saying that it picks a random port is not bounced again and again.
        if right && (!seen.random || self.change.is_some() || self.bounced_recently(now)) {
            return Ok(self.port_right(now, wanted));
        }
        if self.hands_off {
            let problem = if right {
                format!("it has port {wanted} and is set to pick a random one")
            } else {
                format!("it has port {}, the leased one is {wanted}", seen.port)
            };
            return Err(finding(Call::ClientPort, problem, "the service sets it: start it, or see its log"));
        }
        if self.change.is_some() {
            self.stuck = true;
            let problem = format!("port {wanted} was set, {} is what it has", seen.port);
            return Err(finding(
                Call::ClientPort,
                problem,
                "look for another program that has this port, or sets the client's",
            ));
        }
        self.read = Some(seen);
        // With a random port active, old versions do not listen again when they are given the port that they already show.
        if right || (self.stuck && !self.bounced_recently(now)) {
            self.plan_bounce(now, ResetReason::WrongPort);
        } else if !self.profile.reports_listening && !seen.random {
            // Whose socket it is the kernel does not say: one that is there already is somebody else's.
            self.inspect_at = Some(now.mono);
        }
        Ok(Outcome::quiet(Remote::Client))
    }

    fn port_right(&mut self, now: Now, port: u16) -> Outcome {
        self.inspect_at = Some(now.mono);
        let notice = self.change.and_then(|change| match (change.reason, change.from) {
            (ResetReason::NotListening, _) => None,
            (ResetReason::WrongPort, Some(from)) => Some(Notice::Moved { from, to: port }),
            (ResetReason::StaleSocket, _) | (ResetReason::WrongPort, None) => Some(Notice::Reopened(port)),
        });
        Outcome::of(Remote::Client, notice.map(|notice| (Level::Info, notice)))
    }

    /// The kernel says this of its socket; nothing if it abstains.
    pub fn inspected(&mut self, now: Now, port: u16, sockets: Option<PortSockets>) -> Result<Outcome, Error> {
        self.inspect_at = None;
        if self.read.is_some() {
            return match sockets.map(|sockets| sockets.tcp) {
                Some(ListenState::Reachable | ListenState::WrongDevice { .. }) => {
                    let problem = format!("another program listens on port {port}");
                    Err(finding(Call::ClientSocket, problem, "end that program, or give it another port"))
                }
                _ => Ok(Outcome::quiet(Remote::Client)),
            };
        }
        if now.mono >= self.check_peers_at {
            // The next round begins an interval after this one, or a moment earlier.
            self.check_peers_at = now.mono + self.interval / 10 * 9;
        }
        if sockets.as_ref().is_some_and(|sockets| sockets.incoming_peer) {
            self.incoming_peer_seen(now);
        }
        let lacks_udp = self.profile.always_has_udp
            && sockets
                .as_ref()
                .and_then(|sockets| sockets.udp.as_ref())
                .is_some_and(|udp| *udp != ListenState::Reachable);
        // Where only the kernel tells, a UDP socket on a port that was left is no answer.
        let listen_state = sockets
            .map(|sockets| if self.profile.reports_listening { sockets.listen_state().clone() } else { sockets.tcp });
        self.socket_missing = listen_state == Some(ListenState::Missing);
        self.socket_seen = listen_state.is_some() && !self.socket_missing;
        // After a change the socket takes a moment.
        let deadline = self.set_at.filter(|_| self.change.is_some()).map(|at| at + self.profile.listen_timeout);
        let settling = deadline.is_some_and(|deadline| now.mono < deadline);
        // A client that listens where the kernel does not show it says itself what it thinks, after a while.
        let lagged = self.set_at.is_none_or(|at| now.mono >= at + self.profile.status_lag);
        match listen_state {
            Some(ListenState::Reachable) if lacks_udp && settling => {
                self.inspect_at = Some(now.mono + SOCKET_POLL);
                return Ok(Outcome::quiet(Remote::Client));
            }
            Some(ListenState::Reachable)
                if lacks_udp
                    && self.tcp_only != Some(port)
                    && self.change.is_none()
                    && !self.hands_off
                    && !self.bounced_recently(now) =>
            {
                self.tcp_only = Some(port);
                self.plan_bounce(now, ResetReason::NotListening);
                return Ok(Outcome::quiet(Remote::Client));
            }
            Some(ListenState::Reachable) => {
                self.socket = Socket::Fresh;
                self.tcp_only = lacks_udp.then_some(port);
                // Of a new port the client's own word is needed: it may be another program that has it.
                if self.port_since.is_some_and(|(_, known)| known == port) {
                    self.last_listening = Some((now.wall, port));
                }
            }
            Some(_) if settling && (self.socket_seen || !lagged) => {
                self.inspect_at = Some(now.mono + SOCKET_POLL);
                return Ok(Outcome::quiet(Remote::Client));
            }
            Some(ListenState::Missing) | None => {}
            Some(ListenState::WrongDevice { on, tunnel }) => {
                self.last_listening = None;
                let problem = format!("it listens on {on}, the port comes in on {tunnel}");
                let advice = "set its network interface to that of the VPN, or to any (qBittorrent: Options, Advanced)";
                return Err(finding(Call::ClientSocket, problem, advice));
            }
            Some(ListenState::Stale) => return self.stale_socket(now),
        }
        if self.change.is_none() && self.socket == Socket::Stale {
            self.plan_bounce(now, ResetReason::StaleSocket);
            return Ok(Outcome::quiet(Remote::Client));
        }
        let current = self.set_at.map_or(now.mono, |at| at + self.profile.status_lag);
        self.confirm_at = Some(current.max(now.mono));
        Ok(Outcome::quiet(Remote::Client))
    }

    /// Its socket is one of a tunnel that is gone.
    fn stale_socket(&mut self, now: Now) -> Result<Outcome, Error> {
        self.last_listening = None;
        // Before a tunnel carries anything the client has no device to open another one on: the next bind will tell.
        if self.socket == Socket::Suspect {
            self.begin_round(now.mono + self.interval);
            return Ok(Outcome::quiet(Remote::Client));
        }
        if self.hands_off || self.change.is_some() || self.bounced_recently(now) {
            let problem = "it listens on a device or an address that is gone, and hears nobody".to_owned();
            let advice = "check its network interface; if that is right, restart it";
            return Err(finding(Call::ClientSocket, problem, advice));
        }
        self.plan_bounce(now, ResetReason::StaleSocket);
        Ok(Outcome::quiet(Remote::Client))
    }

    /// Its port was set.
    pub fn port_set(&mut self, now: Now) {
        let from = self.read.take().map(|seen| seen.port);
        let reason = self.bounce.take().unwrap_or(ResetReason::WrongPort);
        self.change = Some(Change { from, reason });
        self.away = Away::No;
        self.set_at = Some(now.mono);
        // Of a tunnel in doubt the next bind will tell whether it works, and until then no socket is a good one.
        if self.socket == Socket::Stale {
            self.socket = Socket::Fresh;
        }
        // Whatever was known of the socket is about another one.
        self.last_listening = None;
    }

    fn incoming_peer_seen(&mut self, now: Now) {
        self.peer_seen_at = Some(now.wall);
        self.check_inbound_at = Some(now.mono + INBOUND_WARNING_AFTER);
    }

    /// It says this of peers that came in; true if that is worth a warning.
    pub fn inbound(&mut self, now: Now, inbound: Inbound) -> bool {
        match inbound {
            Inbound::Seen => self.incoming_peer_seen(now),
            Inbound::NoneSeen => self.check_inbound_at = Some(now.mono + INBOUND_WARNING_AFTER),
            Inbound::Idle => self.check_inbound_at = Some(now.mono + INBOUND_CHECK_INTERVAL),
        }
        inbound == Inbound::NoneSeen
    }

    /// Its trackers are being told, or cannot be.
    pub fn reannounced(&mut self) {
        self.reannounce = false;
    }

    /// The first half of a bounce is done.
    pub fn bounced_away(&mut self, port: u16) {
        self.away = Away::Yes(port);
    }

    /// The first half of a bounce failed, and it may have been done all the same.
    pub fn bounce_away_failed(&mut self) {
        if self.away == Away::No {
            self.away = Away::Maybe;
        }
    }

    fn plan_bounce(&mut self, now: Now, reason: ResetReason) {
        self.bounce = Some(reason);
        self.bounced = Some(now.mono);
    }

    fn bounced_recently(&self, now: Now) -> bool {
        self.bounced.is_some_and(|at| now.mono.saturating_duration_since(at) < self.interval)
    }

    /// It says this of its socket; `next_round` is when all is well.
    pub fn confirmed(
        &mut self,
        now: Now,
        port: u16,
        connectivity: Connectivity,
        next_round: Instant,
    ) -> Result<Outcome, Error> {
        if connectivity == Connectivity::Disconnected || (!self.profile.reports_listening && self.socket_missing) {
            self.last_listening = None;
            return self.not_listening(now, port);
        }
        let known = self.reported.replace(connectivity) == Some(connectivity)
            && self.change.is_none()
            && self.port_since.is_some_and(|(_, since)| since == port);
        self.last_listening = Some((now.wall, port));
        if self.port_since.is_none_or(|(_, since)| since != port) {
            self.port_since = Some((now.wall, port));
            self.peer_seen_at = None;
            self.check_inbound_at = (!self.hands_off).then(|| now.mono + INBOUND_WARNING_AFTER);
        }
        // After a bounce the trackers know the port.
        if let Some(Change { from: Some(from), reason: ResetReason::WrongPort }) = self.change {
            self.reannounce = self.profile.reannounces && from != i64::from(port);
        }
        let recovered = self.gate.open(now);
        self.begin_round(next_round);
        let level = if known { Level::Debug } else { Level::Info };
        let visibility = if std::mem::take(&mut self.socket_missing) {
            Visibility::Hidden
        } else if !self.profile.reports_listening && !self.socket_seen {
            Visibility::Unknown
        } else if self.tcp_only == Some(port) {
            Visibility::TcpOnly
        } else {
            Visibility::Confirmed
        };
        let notice = Notice::Listening { port, connectivity, visibility };
        Ok(Outcome { remote: Remote::Client, notice: Some((level, notice)), recovered })
    }

    fn not_listening(&mut self, now: Now, port: u16) -> Result<Outcome, Error> {
        let bounced = self.change.is_some_and(|change| change.reason == ResetReason::NotListening);
        let timeout = if bounced {
            self.profile.listen_timeout.saturating_sub(self.profile.status_lag)
        } else {
            self.profile.listen_timeout
        };
        let deadline = *self.listen_by.get_or_insert(now.mono + timeout);
        if now.mono < deadline {
            let again = Some(now.mono + self.profile.poll_interval);
            if self.profile.reports_listening {
                self.confirm_at = again;
            } else {
                (self.inspect_at, self.confirm_at) = (again, None);
            }
            return Ok(Outcome::quiet(Remote::Client));
        }
        if bounced || self.bounced_recently(now) || self.hands_off {
            let problem = format!("port {port} is set and nothing listens on it");
            let advice = if self.profile.reports_listening {
                "another program may have the port, or the network interface in its settings is wrong or down"
            } else {
                "its address to listen on may be wrong; in a container it must share the VPN's network (network_mode)"
            };
            return Err(finding(Call::ClientSocket, problem, advice));
        }
        let level = if self.gate.trouble().is_none() { Level::Warn } else { Level::Debug };
        self.begin_round(now.mono);
        self.plan_bounce(now, ResetReason::NotListening);
        Ok(Outcome::of(Remote::Client, Some((level, Notice::NotListening(port)))))
    }

    /// A step failed.
    pub fn failed(&mut self, now: Now, error: Error, jitter: impl FnOnce(Duration) -> Duration) -> Outcome {
        self.begin_round(now.mono);
        let next = self.gate.close(now, &error, jitter);
        let error = Rc::new(error);
        let (level, attempts) = self.gate.record_trouble(now, Rc::clone(&error));
        Outcome::of(Remote::Client, Some((level, Notice::Failed { error, attempts, next })))
    }
}

fn finding(call: Call, problem: String, advice: &'static str) -> Error {
    Error::new(call, Cause::Other(problem)).advise(Some(advice))
}

/// A port beside `port`, never 0 and never a privileged one for an unprivileged one.
fn neighbour(port: u16) -> u16 {
    if port == u16::MAX { port - 1 } else { port + 1 }
}
