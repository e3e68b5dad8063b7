//! Decisions about the torrent client, based on its last known state and on the changes that we have made. `torrent` makes the API
//! calls.
//!
//! A round reads the client's port, corrects it if needed, and then inspects the socket, because a client with the right port in
//! its settings may still not be listening. We ask the kernel first, then the client. To make the client reopen its socket, we
//! bounce it to a neighbouring port and back, because setting the same port again has no effect.

use std::rc::Rc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use log::Level;

use super::Setup;
use super::gate::Gate;
use super::outcome::{Notice, Outcome, Remote, Visibility};
use super::step::{Connectivity, Inbound, Inspection, ListenPort, ListenState, PortSockets, Step};
use super::tunnel::GatewayRoute;
use crate::error::{Call, Cause, Error};
use crate::time::Now;

/// Longest `Retry-After` accepted from a client. Kept short, because the client may have the wrong port while we wait.
const RETRY_AFTER_CAP: Duration = Duration::from_secs(5 * 60);

/// Properties that differ between torrent clients.
#[derive(Debug, Clone, Copy)]
pub struct ClientProfile {
    /// How long the client may take to open its socket.
    pub listen_timeout: Duration,
    pub poll_interval: Duration,
    /// How long after a port change the client may still report the status of its old port.
    pub status_lag: Duration,
    /// The client's API reports whether the client is listening. If it does not, only the kernel can show that.
    pub reports_listening: bool,
    /// The client always opens a UDP socket as well as a TCP socket.
    pub always_has_udp: bool,
    /// After a port change, ask the client to announce the new port immediately rather than with its next regular announce.
    pub reannounces: bool,
}

/// Interval between queries to the kernel while the client opens its socket, which takes qBittorrent 3 to 31 ms.
const SOCKET_POLL: Duration = Duration::from_millis(20);
/// If there is no sign of an incoming peer for this long, we ask the client. If the client has seen none either, we warn the user.
const INBOUND_WARNING_AFTER: Duration = Duration::from_secs(24 * 3600);
/// Interval at which we ask the client about incoming peers while no torrent is active.
const INBOUND_CHECK_INTERVAL: Duration = Duration::from_secs(3600);

/// How far we trust the client's socket. After a change of tunnel, some clients keep a dead socket but report that they are
/// listening. If the kernel shows the socket, the kernel's report takes precedence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Socket {
    Fresh,
    /// The tunnel has changed, or may have changed before we started. The next successful bind turns `Suspect` into `Stale`.
    Suspect,
    /// The socket must be reopened.
    Stale,
}

/// Reason for setting the client's port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ResetReason {
    /// The client has a different port, or is set to pick a random port.
    WrongPort,
    /// The socket belongs, or may belong, to a previous tunnel.
    StaleSocket,
    NotListening,
    /// The listener may belong to a different program: a socket that outlives a bounce is not the client's.
    UnknownOwner,
}

/// Whether a bounce has moved the client to the neighbouring port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Away {
    No,
    /// The first half of the bounce failed, but the client may have carried it out.
    Maybe,
    /// The client is on the neighbouring port. The value is the port to return to.
    Yes(u16),
}

/// A change to the client's port in this round.
#[derive(Debug, Clone, Copy)]
struct Change {
    /// Port that this round read and had to correct; `None` if only the socket had to be reopened.
    from: Option<i64>,
    reason: ResetReason,
}

/// Last known state of the client.
#[derive(Debug)]
#[allow(clippy::struct_excessive_bools, reason = "independent facts")]
pub(super) struct Client {
    profile: ClientProfile,
    interval: Duration,
    /// Read the client's state, but never change it.
    hands_off: bool,
    pub gate: Gate,
    /// Start of the next round.
    round_at: Instant,
    /// Port that was read in this round and needs correcting; the kernel first shows who listens on the right one.
    read: Option<ListenPort>,
    change: Option<Change>,
    /// Reason for a bounce that is due.
    bounce: Option<ResetReason>,
    away: Away,
    /// Time at which to ask the kernel about the socket.
    inspect_at: Option<Instant>,
    /// Time at which to ask the client whether it listens.
    confirm_at: Option<Instant>,
    /// Deadline for the client to start listening; set when the client first reports that it is not listening.
    listen_by: Option<Instant>,
    socket: Socket,
    /// Time of the last decision to bounce. Each bounce makes the client write its settings to disk, so we do not repeat an
    /// unsuccessful bounce within an interval.
    bounced: Option<Instant>,
    /// The port has been set since the socket was last reachable or suspected, so setting it again would not help.
    reopened: bool,
    /// Inodes of the TCP listeners on the port, as last shown by the kernel.
    listeners: Vec<u32>,
    /// Listeners that were there before we last set the port: they belong to other programs.
    foreign: Vec<u32>,
    /// Listeners that appeared when we set the port: they belong to the client.
    owned: Vec<u32>,
    /// A different program had the port when the kernel last showed its sockets.
    blocked: bool,
    /// Time at which we last set the port; the profile's `status_lag` and `listen_timeout` run from this time.
    set_at: Option<Instant>,
    /// Port last read from the client's settings.
    pub port: Option<u16>,
    /// Time and port of the latest evidence that the client was listening.
    pub last_listening: Option<(Timestamp, u16)>,
    /// The client's latest report about its reachability.
    pub reported: Option<Connectivity>,
    pub socket_seen: bool,
    /// In this round, the kernel showed no socket on the port, although the client runs on this machine.
    socket_missing: bool,
    /// Port on which the client has a TCP socket but no UDP socket. We bounce the client for this reason only once per port.
    tcp_only: Option<u16>,
    /// Setting the port had no effect, perhaps because another program was using the port. Only a bounce can help now.
    stuck: bool,
    /// When the client was first confirmed to listen on its current port, and that port.
    pub port_since: Option<(Timestamp, u16)>,
    /// Last sign of an incoming peer on the client's current port.
    pub peer_seen_at: Option<Timestamp>,
    /// When to ask the kernel about incoming peers again; once per interval.
    check_peers_at: Instant,
    /// When to ask the client about incoming peers again.
    check_inbound_at: Option<Instant>,
    /// The client still has to announce its new port to the trackers.
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
            // The tunnel may have been recreated since the client opened its socket. The exception is Transmission, the only client
            // that does not report whether it listens: its sockets are not bound to a device, so they never go stale.
            socket: if hands_off || !setup.profile.reports_listening { Socket::Fresh } else { Socket::Suspect },
            bounced: None,
            reopened: false,
            listeners: Vec::new(),
            foreign: Vec::new(),
            owned: Vec::new(),
            blocked: false,
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

    /// The next step to make the client listen on `port`, and when to take it.
    pub fn agenda(&self, port: u16, route: Option<&GatewayRoute>, now: Now) -> (Instant, Step) {
        let (at, step) = if let Away::Yes(_) = self.away {
            (now.mono, Step::BounceBack(port))
        } else if let Some(at) = self.inspect_at {
            let (route, peers, foreign) = (route.cloned(), now.mono >= self.check_peers_at, self.foreign.clone());
            (at, Step::Inspect(Inspection { port, route, peers, foreign }))
        } else if self.bounce.is_some() {
            (now.mono, Step::BounceAway { port, other: neighbour(port) })
        } else if self.reannounce {
            (now.mono, Step::Reannounce)
        } else if let Some(at) = self.confirm_at {
            (at, Step::Confirm(port))
        } else if self.read.is_some() {
            (now.mono, Step::SetPort(port))
        } else {
            // Rounds take precedence: ask about incoming peers only if no round is due before then.
            match self.check_inbound_at.filter(|&at| at < self.round_at) {
                Some(at) => (at, Step::CheckInbound),
                None => (self.round_at, Step::ReadPort),
            }
        };
        (self.gate.after(at), step)
    }

    /// The port to which an unfinished bounce must return the client.
    pub fn away_from(&self) -> Option<u16> {
        match self.away {
            Away::Yes(port) => Some(port),
            Away::No | Away::Maybe => None,
        }
    }

    /// True if the client may be on the neighbouring port, even if the reply to the first half of a bounce was lost or has not
    /// arrived yet.
    pub fn may_be_away(&self) -> bool {
        self.away != Away::No || self.bounce.is_some()
    }

    /// True if a round is in progress or due.
    pub fn is_busy(&self, now: Now) -> bool {
        self.away_from().is_some()
            || self.change.is_some()
            || self.reannounce
            || self.inspect_at.is_some()
            || self.confirm_at.is_some()
            || now.mono >= self.round_at
    }

    /// Schedules the next round and discards the state of the current one.
    pub fn begin_round(&mut self, at: Instant) {
        self.round_at = at;
        (self.read, self.change, self.bounce) = (None, None, None);
        (self.inspect_at, self.confirm_at, self.listen_by) = (None, None, None);
    }

    /// Handles a change of tunnel, whether certain or only possible.
    pub fn suspect_socket(&mut self) {
        self.last_listening = None;
        if !self.hands_off {
            (self.socket, self.reopened) = (Socket::Suspect, false);
            // A bounce that did not help in the previous tunnel may help in this one.
            self.bounced = None;
        }
    }

    /// Handles a new gateway, which may mean that the tunnel changed unnoticed. A stale socket stays stale, so that it is reopened:
    /// the bind that found the gateway has also shown that the tunnel works.
    pub fn suspect_fresh_socket(&mut self) {
        if self.socket == Socket::Fresh {
            self.suspect_socket();
        }
    }

    /// Handles evidence that the tunnel works: a suspect socket must now be reopened.
    pub fn tunnel_confirmed(&mut self, now: Now) {
        if self.socket == Socket::Suspect {
            self.socket = Socket::Stale;
            self.begin_round(now.mono);
        }
    }

    /// Ends every wait after SIGHUP or a change of tunnel, so that the client is checked immediately.
    pub fn retry_now(&mut self, now: Now) {
        self.gate.retry_now();
        (self.bounced, self.reopened) = (None, false);
        self.begin_round(now.mono);
    }

    pub fn port_read(&mut self, now: Now, wanted: u16, seen: ListenPort) -> Result<Outcome, Error> {
        self.port = u16::try_from(seen.port).ok();
        let right = seen.port == i64::from(wanted);
        if right && self.away == Away::Maybe {
            self.away = Away::No;
        }
        self.stuck &= !right;
        // Do not keep bouncing a client that insists on a random port.
        if right && (!seen.random || self.change.is_some() || self.bounced_recently(now)) {
            return Ok(self.port_right(now, wanted));
        }
        if self.hands_off {
            let problem = if right {
                format!("the client has port {wanted}, but is set to pick a random port")
            } else {
                format!("the client has port {}, but the leased port is {wanted}", seen.port)
            };
            return Err(finding(Call::ClientPort, problem, "check the log of the service, which should set the port"));
        }
        if self.change.is_some() {
            self.stuck = true;
            let problem = format!("port {wanted} was set, but the client has {}", seen.port);
            return Err(finding(
                Call::ClientPort,
                problem,
                "check whether another program uses this port or changes the client's port",
            ));
        }
        self.read = Some(seen);
        // When random ports are enabled, setting an old version of qBittorrent to the port that it already reports does not reopen
        // its socket.
        if right || (self.stuck && !self.bounced_recently(now)) {
            self.plan_bounce(now, ResetReason::WrongPort);
        }
        // A socket that is on the port before we set it belongs to a different program.
        self.inspect_at = Some(now.mono);
        Ok(Outcome::quiet(Remote::Client))
    }

    fn port_right(&mut self, now: Now, port: u16) -> Outcome {
        self.inspect_at = Some(now.mono);
        let notice = self.change.and_then(|change| match (change.reason, change.from) {
            (ResetReason::NotListening | ResetReason::UnknownOwner, _) => None,
            (ResetReason::WrongPort, Some(from)) => Some(Notice::Moved { from, to: port }),
            (ResetReason::StaleSocket, _) | (ResetReason::WrongPort, None) => Some(Notice::Reopened(port)),
        });
        Outcome::of(Remote::Client, notice.map(|notice| (Level::Info, notice)))
    }

    /// Handles the kernel's report about the sockets on the port; `None` if the kernel cannot show them. `tunnel` is the name of
    /// the tunnel's device.
    pub fn inspected(
        &mut self,
        now: Now,
        port: u16,
        sockets: Option<PortSockets>,
        tunnel: &str,
    ) -> Result<Outcome, Error> {
        self.inspect_at = None;
        self.listeners = sockets.as_ref().map_or(Vec::new(), |sockets| sockets.inodes.clone());
        if let Some(seen) = self.read {
            // A client that picks a random port may have picked this one.
            return match sockets.map(|sockets| sockets.tcp) {
                Some(ListenState::Reachable) if seen.port != i64::from(port) => Err(other_program(port)),
                _ => Ok(Outcome::quiet(Remote::Client)),
            };
        }
        let foreign = sockets.as_ref().is_some_and(|sockets| sockets.foreign);
        if std::mem::replace(&mut self.blocked, foreign) && !foreign {
            // The other program has given up the port: reopening the client's socket may help now.
            (self.bounced, self.reopened) = (None, false);
        }
        let unproven = sockets.as_ref().is_some_and(|sockets| self.is_unproven(sockets));
        if now.mono >= self.check_peers_at {
            // 90 % of an interval, because the next round may begin slightly early.
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
        // If the client does not report whether it listens, rely on TCP alone: a UDP socket may be left over from before a port
        // change.
        let listen_state = sockets
            .map(|sockets| if self.profile.reports_listening { sockets.listen_state().clone() } else { sockets.tcp });
        self.socket_missing = listen_state == Some(ListenState::Missing);
        self.socket_seen = listen_state.is_some() && !self.socket_missing;
        // After a change, the client needs some time to open its socket.
        let deadline = self.set_at.filter(|_| self.change.is_some()).map(|at| at + self.profile.listen_timeout);
        let settling = deadline.is_some_and(|deadline| now.mono < deadline);
        // If the kernel shows no socket, rely on the client's own report, but only once that report is no longer about the old
        // port.
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
            Some(ListenState::Reachable)
                if unproven && self.change.is_none() && !self.hands_off && !self.bounced_recently(now) =>
            {
                self.plan_bounce(now, ResetReason::UnknownOwner);
                return Ok(Outcome::quiet(Remote::Client));
            }
            Some(ListenState::Reachable) => {
                (self.socket, self.reopened) = (Socket::Fresh, false);
                self.tcp_only = lacks_udp.then_some(port);
                if self.change.is_some() {
                    self.owned.clone_from(&self.listeners);
                }
                // On a new port, the socket may belong to another program, so wait for the client's own report.
                if self.port_since.is_some_and(|(_, known)| known == port) {
                    self.last_listening = Some((now.wall, port));
                }
            }
            Some(_) if settling && (self.socket_seen || foreign || !lagged) => {
                self.inspect_at = Some(now.mono + SOCKET_POLL);
                return Ok(Outcome::quiet(Remote::Client));
            }
            Some(ListenState::Missing | ListenState::Ipv6Only) if foreign => {
                self.last_listening = None;
                return Err(other_program(port));
            }
            Some(ListenState::Missing) | None => {}
            Some(state) => return self.unreachable(now, &state, tunnel),
        }
        if self.change.is_none() && self.socket == Socket::Stale {
            self.plan_bounce(now, ResetReason::StaleSocket);
            return Ok(Outcome::quiet(Remote::Client));
        }
        let current = self.set_at.map_or(now.mono, |at| at + self.profile.status_lag);
        self.confirm_at = Some(current.max(now.mono));
        Ok(Outcome::quiet(Remote::Client))
    }

    /// True if a listener may belong to a different program: one that we have not seen appear when we set the port, if the client
    /// does not report whether it listens, or if its user or the lack of a UDP socket are suspicious.
    fn is_unproven(&self, sockets: &PortSockets) -> bool {
        let known = |inode| self.owned.contains(inode) || self.foreign.contains(inode);
        let no_udp = sockets.udp.as_ref().is_some_and(|udp| *udp != ListenState::Reachable);
        !sockets.inodes.iter().all(known) && (!self.profile.reports_listening || sockets.other_user || no_udp)
    }

    /// Handles sockets that peers cannot reach. They may be left over from a previous tunnel, or from before there was one, so the
    /// client reopens them: once, or once an interval if they are dead.
    fn unreachable(&mut self, now: Now, state: &ListenState, tunnel: &str) -> Result<Outcome, Error> {
        self.last_listening = None;
        // Until the next bind shows that the tunnel works, the client may have no device on which to open a new socket.
        if self.socket == Socket::Suspect {
            self.begin_round(now.mono + self.interval);
            return Ok(Outcome::quiet(Remote::Client));
        }
        let tried =
            self.change.is_some() || self.bounced_recently(now) || (self.reopened && *state != ListenState::Stale);
        if self.hands_off || tried {
            let advice = if self.hands_off && state.can_be_reopened() {
                "the running service reopens it (SIGHUP)"
            } else {
                state.advice()
            };
            return Err(finding(Call::ClientSocket, format!("the client {}", state.describe(tunnel)), advice));
        }
        self.plan_bounce(now, ResetReason::StaleSocket);
        Ok(Outcome::quiet(Remote::Client))
    }

    pub fn port_set(&mut self, now: Now) {
        let from = self.read.take().map(|seen| seen.port);
        let reason = self.bounce.take().unwrap_or(ResetReason::WrongPort);
        self.change = Some(Change { from, reason });
        self.away = Away::No;
        self.set_at = Some(now.mono);
        self.foreign.clone_from(&self.listeners);
        self.reopened = true;
        // A suspect socket stays suspect: a new socket may be no better than the old one until the next bind shows that the tunnel
        // works.
        if self.socket == Socket::Stale {
            self.socket = Socket::Fresh;
        }
        // All earlier evidence concerns the previous socket.
        self.last_listening = None;
    }

    /// Makes the client announce the port again, because its peers may have lost it.
    pub fn announce_again(&mut self) {
        self.reannounce = self.profile.reannounces && !self.hands_off;
    }

    fn incoming_peer_seen(&mut self, now: Now) {
        self.peer_seen_at = Some(now.wall);
        self.check_inbound_at = Some(now.mono + INBOUND_WARNING_AFTER);
    }

    /// Handles the client's report about incoming peers. Returns true if the user should be warned.
    pub fn inbound(&mut self, now: Now, inbound: Inbound) -> bool {
        match inbound {
            Inbound::Seen => self.incoming_peer_seen(now),
            Inbound::NoneSeen => self.check_inbound_at = Some(now.mono + INBOUND_WARNING_AFTER),
            Inbound::Idle => self.check_inbound_at = Some(now.mono + INBOUND_CHECK_INTERVAL),
        }
        inbound == Inbound::NoneSeen
    }

    /// Records the end of a reannouncement, successful or not.
    pub fn reannounced(&mut self) {
        self.reannounce = false;
    }

    /// Records that the first half of a bounce is complete; the second half must return the client to `port`.
    pub fn bounced_away(&mut self, port: u16) {
        self.away = Away::Yes(port);
    }

    /// Records that the first half of a bounce failed, although the client may have carried it out.
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

    /// Handles the client's own report about its socket. If the client listens, the next round begins at `next_round`.
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
        // Announce only a new port: after a bounce back to the same port, the trackers already have that port.
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
            let problem = format!("port {port} is set, but nothing listens on it");
            let advice = if self.profile.reports_listening {
                "check whether another program uses the port, then check the client's network interface"
            } else {
                "check the client's listen address; a container must share the VPN's network (network_mode)"
            };
            return Err(finding(Call::ClientSocket, problem, advice));
        }
        let level = if self.gate.trouble().is_none() { Level::Warn } else { Level::Debug };
        self.begin_round(now.mono);
        self.plan_bounce(now, ResetReason::NotListening);
        Ok(Outcome::of(Remote::Client, Some((level, Notice::NotListening(port)))))
    }

    pub fn failed(&mut self, now: Now, error: Error, jitter: impl FnOnce(Duration) -> Duration) -> Outcome {
        self.begin_round(now.mono);
        let next = self.gate.close(now, &error, jitter);
        let error = Rc::new(error);
        let (level, attempts) = self.gate.record_trouble(now, Rc::clone(&error));
        Outcome::of(Remote::Client, Some((level, Notice::Failed { error, attempts, next })))
    }
}

fn other_program(port: u16) -> Error {
    let advice = "stop that program, or give it a different port";
    finding(Call::ClientSocket, format!("another program listens on port {port}"), advice)
}

fn finding(call: Call, problem: String, advice: &'static str) -> Error {
    Error::new(call, Cause::Other(problem)).advise(Some(advice))
}

/// The next higher port, or 65534 for port 65535. Never 0, and privileged only if `port` is.
fn neighbour(port: u16) -> u16 {
    if port == u16::MAX { port - 1 } else { port + 1 }
}
