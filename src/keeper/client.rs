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
use super::outcome::{News, Remote, Sight, Verdict};
use super::step::{Connectivity, Inbound, ListenPort, Listener, Step, Witness};
use super::tunnel::Way;
use crate::error::{Cause, Error};
use crate::time::Now;

/// The longest `Retry-After` that is believed: a port is at stake.
const RETRY_AFTER_CAP: Duration = Duration::from_secs(5 * 60);

/// What is found wrong with a client that answers, as errors name it.
pub const PORT: &str = "client port";
/// The same of its socket.
pub const SOCKET: &str = "client socket";

/// What a client is like.
#[derive(Debug, Clone, Copy)]
pub struct Habits {
    /// Until it must have opened its socket.
    pub listen: Duration,
    /// Between two looks.
    pub poll: Duration,
    /// After a change the reported status may be that of the old port for this long.
    pub lag: Duration,
    /// It says itself whether it listens; of one that does not only the kernel tells.
    pub tells: bool,
    /// It has a UDP socket beside the TCP one, always.
    pub udp: bool,
    /// It is to tell its trackers a new port at once.
    pub announces: bool,
}

/// Between two looks of the kernel at a socket that is about to be opened: qBittorrent takes 3 to 31 ms.
const GLANCE: Duration = Duration::from_millis(20);
/// For nobody to come in before that is worth a question, and then a warning.
const NO_INBOUND_FOR: Duration = Duration::from_secs(24 * 3600);
/// Between two questions while no torrent is active.
const ASK_INBOUND_EVERY: Duration = Duration::from_secs(3600);

/// Whether the client's socket may belong to a tunnel that is gone: some clients keep a dead one, and all looks well. It decides
/// where the kernel does not tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Socket {
    Fresh,
    /// The tunnel has changed or may have, as before our start; whether the one of now works, the next bind will tell.
    Doubtful,
    /// It has to be reopened.
    Stale,
}

/// Why a client's port is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Why {
    /// It has another one, or picks a random one.
    Wrong,
    /// Its socket is dead, or may be.
    Stale,
    /// It does not listen.
    Deaf,
}

/// A change of the client's port in this round.
#[derive(Debug, Clone, Copy)]
struct Change {
    /// What it had before; none in the second half of a bounce that was begun in an earlier round.
    from: Option<i64>,
    why: Why,
}

/// What is known of the client.
#[derive(Debug)]
#[allow(clippy::struct_excessive_bools, reason = "facts, each by itself")]
pub(super) struct Client {
    habits: Habits,
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
    bounce: Option<Why>,
    /// In the middle of a bounce it is on another port, and this is the one that it left.
    left: Option<u16>,
    /// The first half of a bounce failed: whether it was done all the same is not known before it has its port.
    perhaps_left: bool,
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
    pub listened: Option<(Timestamp, u16)>,
    /// What it said of that.
    pub said: Option<Connectivity>,
    /// The kernel sees the socket.
    pub witnessed: bool,
    /// The kernel shows no socket on its port in this round, though it is on this machine.
    unseen: bool,
    /// On this port it has no UDP socket, and a bounce has not helped.
    tcp_only: Option<u16>,
    /// Setting its port has not changed it, as when another program had that port: then only a bounce does.
    stuck: bool,
    /// Since when it has this port.
    pub port_since: Option<(Timestamp, u16)>,
    /// When somebody from outside was last seen on that.
    pub peer_at: Option<Timestamp>,
    /// The kernel is asked for peers that came in then: once an interval.
    look_for_peers_at: Instant,
    /// It is asked for peers that came in then.
    ask_inbound_at: Option<Instant>,
    /// Its trackers do not know its port yet.
    announce: bool,
}

impl Client {
    pub fn new(setup: &Setup, now: Now) -> Self {
        let hands_off = setup.hands_off;
        Self {
            habits: setup.habits,
            interval: setup.interval,
            hands_off,
            gate: Gate::new(RETRY_AFTER_CAP),
            round_at: now.mono,
            read: None,
            change: None,
            bounce: None,
            left: None,
            perhaps_left: false,
            inspect_at: None,
            confirm_at: None,
            listen_by: None,
            // Since whenever this client opened its socket, the tunnel may have been recreated. The one that does not tell whether
            // it listens (Transmission) is bound to no device, and keeps no dead socket.
            socket: if hands_off || !setup.habits.tells { Socket::Fresh } else { Socket::Doubtful },
            bounced: None,
            set_at: None,
            port: None,
            listened: None,
            said: None,
            witnessed: false,
            unseen: false,
            tcp_only: None,
            stuck: false,
            port_since: None,
            peer_at: None,
            announce: false,
            look_for_peers_at: now.mono,
            ask_inbound_at: None,
        }
    }

    /// What is to be done next so that it listens on `port`, and when.
    pub fn agenda(&self, port: u16, way: Option<&Way>, now: Now) -> (Instant, Step) {
        let (at, step) = if self.left.is_some() {
            (now.mono, Step::Return(port))
        } else if self.bounce.is_some() {
            (now.mono, Step::Leave { port, other: neighbour(port) })
        } else if self.announce {
            (now.mono, Step::Announce)
        } else if let Some(at) = self.inspect_at {
            (at, Step::Inspect { port, way: way.cloned(), peers: now.mono >= self.look_for_peers_at })
        } else if let Some(at) = self.confirm_at {
            (at, Step::Confirm(port))
        } else if self.read.is_some() {
            (now.mono, Step::Place(port))
        } else {
            // Between two rounds, and never in place of one.
            match self.ask_inbound_at.filter(|&at| at < self.round_at) {
                Some(at) => (at, Step::AskInbound),
                None => (self.round_at, Step::ReadPort),
            }
        };
        (self.gate.after(at), step)
    }

    /// The port that it has left for a while.
    pub fn left(&self) -> Option<u16> {
        self.left
    }

    /// Whether it is on the other port of a bounce, or may be: the reply to the first half was lost or not waited for.
    pub fn may_be_away(&self) -> bool {
        self.left.is_some() || self.bounce.is_some() || self.perhaps_left
    }

    /// Whether a round is under way or due.
    pub fn is_busy(&self, now: Now) -> bool {
        self.left.is_some()
            || self.change.is_some()
            || self.announce
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
    pub fn doubt_socket(&mut self) {
        self.listened = None;
        if !self.hands_off {
            self.socket = Socket::Doubtful;
            // What did not help in the last tunnel may help in this one.
            self.bounced = None;
        }
    }

    /// Another gateway is asked, and what happened to the tunnel meanwhile was not seen. A socket that is about to be reopened
    /// still is: a gateway is found with the very bind that shows that the tunnel works.
    pub fn doubt_fresh_socket(&mut self) {
        if self.socket == Socket::Fresh {
            self.doubt_socket();
        }
    }

    /// The tunnel works: what was doubtful has to be reopened.
    pub fn tunnel_works(&mut self, now: Now) {
        if self.socket == Socket::Doubtful {
            self.socket = Socket::Stale;
            self.begin_round(now.mono);
        }
    }

    /// Somebody asks for a look now.
    pub fn hurry(&mut self, now: Now) {
        self.gate.hurry();
        self.bounced = None;
        self.begin_round(now.mono);
    }

    /// Its settings have this port.
    pub fn port_read(&mut self, now: Now, wanted: u16, seen: ListenPort) -> Result<Verdict, Error> {
        self.port = u16::try_from(seen.port).ok();
        let right = seen.port == i64::from(wanted);
        self.perhaps_left &= !right;
        self.stuck &= !right;
        // One that goes on saying that it picks a random port is not bounced again and again.
        if right && (!seen.random || self.change.is_some() || self.bounced_lately(now)) {
            return Ok(self.port_right(now, wanted));
        }
        if self.hands_off {
            let words = if right {
                format!("it has port {wanted} and is set to pick a random one")
            } else {
                format!("it has port {}, the leased one is {wanted}", seen.port)
            };
            return Err(finding(PORT, words, "the service sets it: start it, or see its log"));
        }
        if self.change.is_some() {
            self.stuck = true;
            let words = format!("port {wanted} was set, {} is what it has", seen.port);
            return Err(finding(PORT, words, "look for another program that has this port, or sets the client's"));
        }
        self.read = Some(seen);
        // With a random port active, old versions do not listen again when they are given the port that they already show.
        if right || (self.stuck && !self.bounced_lately(now)) {
            self.decide_to_bounce(now, Why::Wrong);
        } else if !self.habits.tells && !seen.random {
            // Whose socket it is the kernel does not say: one that is there already is somebody else's.
            self.inspect_at = Some(now.mono);
        }
        Ok(Verdict::quiet(Remote::Client))
    }

    fn port_right(&mut self, now: Now, port: u16) -> Verdict {
        self.inspect_at = Some(now.mono);
        let news = self.change.and_then(|change| match (change.why, change.from) {
            (Why::Deaf, _) => None,
            (Why::Wrong, Some(from)) => Some(News::Moved { from, to: port }),
            (Why::Stale, _) | (Why::Wrong, None) => Some(News::Reopened(port)),
        });
        Verdict::of(Remote::Client, news.map(|news| (Level::Info, news)))
    }

    /// The kernel says this of its socket; nothing if it abstains.
    pub fn inspected(&mut self, now: Now, port: u16, witness: Option<Witness>) -> Result<Verdict, Error> {
        self.inspect_at = None;
        if self.read.is_some() {
            return match witness.map(|witness| witness.tcp) {
                Some(Listener::Open | Listener::Elsewhere { .. }) => {
                    let words = format!("another program listens on port {port}");
                    Err(finding(SOCKET, words, "end that program, or give it another port"))
                }
                _ => Ok(Verdict::quiet(Remote::Client)),
            };
        }
        if now.mono >= self.look_for_peers_at {
            // The next round begins an interval after this one, or a moment earlier.
            self.look_for_peers_at = now.mono + self.interval / 10 * 9;
        }
        if witness.as_ref().is_some_and(|witness| witness.peer) {
            self.peer_came(now);
        }
        let lacks_udp = self.habits.udp
            && witness.as_ref().and_then(|witness| witness.udp.as_ref()).is_some_and(|udp| *udp != Listener::Open);
        // Where only the kernel tells, a UDP socket on a port that was left is no answer.
        let listener = witness.map(|witness| if self.habits.tells { witness.listener().clone() } else { witness.tcp });
        self.unseen = listener == Some(Listener::Unseen);
        self.witnessed = listener.is_some() && !self.unseen;
        // After a change the socket takes a moment.
        let end = self.set_at.filter(|_| self.change.is_some()).map(|at| at + self.habits.listen);
        let patient = end.is_some_and(|end| now.mono < end);
        // A client that listens where the kernel does not show it says itself what it thinks, after a while.
        let lagged = self.set_at.is_none_or(|at| now.mono >= at + self.habits.lag);
        match listener {
            Some(Listener::Open) if lacks_udp && patient => {
                self.inspect_at = Some(now.mono + GLANCE);
                return Ok(Verdict::quiet(Remote::Client));
            }
            Some(Listener::Open)
                if lacks_udp
                    && self.tcp_only != Some(port)
                    && self.change.is_none()
                    && !self.hands_off
                    && !self.bounced_lately(now) =>
            {
                self.tcp_only = Some(port);
                self.decide_to_bounce(now, Why::Deaf);
                return Ok(Verdict::quiet(Remote::Client));
            }
            Some(Listener::Open) => {
                self.socket = Socket::Fresh;
                self.tcp_only = lacks_udp.then_some(port);
                // Of a new port the client's own word is needed: it may be another program that has it.
                if self.port_since.is_some_and(|(_, known)| known == port) {
                    self.listened = Some((now.wall, port));
                }
            }
            Some(_) if patient && (self.witnessed || !lagged) => {
                self.inspect_at = Some(now.mono + GLANCE);
                return Ok(Verdict::quiet(Remote::Client));
            }
            Some(Listener::Unseen) | None => {}
            Some(Listener::Elsewhere { on, tunnel }) => {
                self.listened = None;
                let words = format!("it listens on {on}, the port comes in on {tunnel}");
                let advice = "set its network interface to that of the VPN, or to any (qBittorrent: Options, Advanced)";
                return Err(finding(SOCKET, words, advice));
            }
            Some(Listener::Dead) => return self.dead(now),
        }
        if self.change.is_none() && self.socket == Socket::Stale {
            self.decide_to_bounce(now, Why::Stale);
            return Ok(Verdict::quiet(Remote::Client));
        }
        let current = self.set_at.map_or(now.mono, |at| at + self.habits.lag);
        self.confirm_at = Some(current.max(now.mono));
        Ok(Verdict::quiet(Remote::Client))
    }

    /// Its socket is one of a tunnel that is gone.
    fn dead(&mut self, now: Now) -> Result<Verdict, Error> {
        self.listened = None;
        // Before a tunnel carries anything the client has no device to open another one on: the next bind will tell.
        if self.socket == Socket::Doubtful {
            self.begin_round(now.mono + self.interval);
            return Ok(Verdict::quiet(Remote::Client));
        }
        if self.hands_off || self.change.is_some() || self.bounced_lately(now) {
            let words = "it listens on a device or an address that is gone, and hears nobody".to_owned();
            let advice = "check its network interface; if that is right, restart it";
            return Err(finding(SOCKET, words, advice));
        }
        self.decide_to_bounce(now, Why::Stale);
        Ok(Verdict::quiet(Remote::Client))
    }

    /// Its port was set.
    pub fn port_set(&mut self, now: Now) {
        let from = self.read.take().map(|seen| seen.port);
        let why = self.bounce.take().unwrap_or(Why::Wrong);
        self.change = Some(Change { from, why });
        (self.left, self.perhaps_left) = (None, false);
        self.set_at = Some(now.mono);
        // Of a tunnel in doubt the next bind will tell whether it works, and until then no socket is a good one.
        if self.socket == Socket::Stale {
            self.socket = Socket::Fresh;
        }
        // Whatever was known of the socket is about another one.
        self.listened = None;
    }

    fn peer_came(&mut self, now: Now) {
        self.peer_at = Some(now.wall);
        self.ask_inbound_at = Some(now.mono + NO_INBOUND_FOR);
    }

    /// It says this of peers that came in; true if that is worth a warning.
    pub fn inbound(&mut self, now: Now, inbound: Inbound) -> bool {
        match inbound {
            Inbound::Seen => self.peer_came(now),
            Inbound::Nobody => self.ask_inbound_at = Some(now.mono + NO_INBOUND_FOR),
            Inbound::Idle => self.ask_inbound_at = Some(now.mono + ASK_INBOUND_EVERY),
        }
        inbound == Inbound::Nobody
    }

    /// Its trackers are being told, or cannot be.
    pub fn announced(&mut self) {
        self.announce = false;
    }

    /// The first half of a bounce is done.
    pub fn port_left(&mut self, port: u16) {
        self.left = Some(port);
    }

    /// The first half of a bounce failed, and it may have been done all the same.
    pub fn port_perhaps_left(&mut self) {
        self.perhaps_left = true;
    }

    fn decide_to_bounce(&mut self, now: Now, why: Why) {
        self.bounce = Some(why);
        self.bounced = Some(now.mono);
    }

    fn bounced_lately(&self, now: Now) -> bool {
        self.bounced.is_some_and(|at| now.mono.saturating_duration_since(at) < self.interval)
    }

    /// It says this of its socket; `next_round` is when all is well.
    pub fn confirmed(
        &mut self,
        now: Now,
        port: u16,
        connectivity: Connectivity,
        next_round: Instant,
    ) -> Result<Verdict, Error> {
        if connectivity == Connectivity::Disconnected || (!self.habits.tells && self.unseen) {
            self.listened = None;
            return self.not_listening(now, port);
        }
        let known = self.said.replace(connectivity) == Some(connectivity)
            && self.change.is_none()
            && self.port_since.is_some_and(|(_, since)| since == port);
        self.listened = Some((now.wall, port));
        if self.port_since.is_none_or(|(_, since)| since != port) {
            self.port_since = Some((now.wall, port));
            self.peer_at = None;
            self.ask_inbound_at = (!self.hands_off).then(|| now.mono + NO_INBOUND_FOR);
        }
        // After a bounce the trackers know the port.
        if let Some(Change { from: Some(from), why: Why::Wrong }) = self.change {
            self.announce = self.habits.announces && from != i64::from(port);
        }
        let recovered = self.gate.open(now);
        self.begin_round(next_round);
        let level = if known { Level::Debug } else { Level::Info };
        let sight = if std::mem::take(&mut self.unseen) {
            Sight::Unseen
        } else if !self.habits.tells && !self.witnessed {
            Sight::Unknown
        } else if self.tcp_only == Some(port) {
            Sight::TcpOnly
        } else {
            Sight::Clear
        };
        let news = News::Listens { port, connectivity, sight };
        Ok(Verdict { remote: Remote::Client, news: Some((level, news)), recovered })
    }

    fn not_listening(&mut self, now: Now, port: u16) -> Result<Verdict, Error> {
        let bounced = self.change.is_some_and(|change| change.why == Why::Deaf);
        let patience = if bounced { self.habits.listen.saturating_sub(self.habits.lag) } else { self.habits.listen };
        let end = *self.listen_by.get_or_insert(now.mono + patience);
        if now.mono < end {
            let again = Some(now.mono + self.habits.poll);
            if self.habits.tells {
                self.confirm_at = again;
            } else {
                (self.inspect_at, self.confirm_at) = (again, None);
            }
            return Ok(Verdict::quiet(Remote::Client));
        }
        if bounced || self.bounced_lately(now) || self.hands_off {
            let words = format!("port {port} is set and nothing listens on it");
            let advice = if self.habits.tells {
                "another program may have the port, or the network interface in its settings is wrong or down"
            } else {
                "its address to listen on may be wrong; in a container it must share the VPN's network (network_mode)"
            };
            return Err(finding(SOCKET, words, advice));
        }
        let level = if self.gate.trouble().is_none() { Level::Warn } else { Level::Debug };
        self.begin_round(now.mono);
        self.decide_to_bounce(now, Why::Deaf);
        Ok(Verdict::of(Remote::Client, Some((level, News::Deaf(port)))))
    }

    /// A step failed.
    pub fn failed(&mut self, now: Now, error: Error, jitter: impl FnOnce(Duration) -> Duration) -> Verdict {
        self.begin_round(now.mono);
        let next = self.gate.close(now, &error, jitter);
        let error = Rc::new(error);
        let (level, attempts) = self.gate.trouble_with(now, Rc::clone(&error));
        Verdict::of(Remote::Client, Some((level, News::Failed { error, attempts, next })))
    }
}

fn finding(step: &'static str, words: String, advice: &'static str) -> Error {
    Error::new(step, Cause::Other(words)).advise(Some(advice))
}

/// A port beside `port`, never 0 and never a privileged one for an unprivileged one.
fn neighbour(port: u16) -> u16 {
    if port == u16::MAX { port - 1 } else { port + 1 }
}
