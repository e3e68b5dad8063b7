//! The tunnel and the clock as they were last seen, and what counts as a change of them.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use jiff::SignedDuration;

use crate::time::Now;

/// What the clock may gain or lose between two looks: more was not NTP's slewing.
const JUMP: SignedDuration = SignedDuration::from_secs(30);

/// A network device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// Its index: a recreated device has another one.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Whether it is a tunnel.
    pub tunnel: bool,
}

/// How long a tunnel may take to carry packets.
const YOUTH: Duration = Duration::from_secs(15);

/// The way to a remote. Two that are equal lead through the same tunnel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Way {
    /// Our address.
    pub local: IpAddr,
    /// The next hop.
    pub hop: Option<IpAddr>,
    /// The device; none where the kernel does not tell.
    pub device: Option<Device>,
    /// Only a connection that is bound to `local` takes it.
    pub by_source: bool,
}

impl Way {
    /// Whether it leads through a tunnel.
    pub fn is_tunnel(&self) -> bool {
        self.device.as_ref().is_some_and(|device| device.tunnel)
    }
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.local.fmt(f)?;
        if let Some(device) = &self.device {
            write!(f, " on {} ({})", device.name, device.index)?;
        }
        Ok(())
    }
}

/// What was seen last.
#[derive(Debug)]
pub(super) struct Tunnel {
    /// Where the way leads to; none while the gateway is not known.
    target: Option<SocketAddr>,
    /// The last way that there was.
    pub way: Option<Way>,
    pub lost: bool,
    /// When it changed last.
    changed: Option<Instant>,
    /// There was a device besides loopback once.
    inhabited: bool,
    /// Since when there is none any more.
    pub isolated: Option<Instant>,
    seen: Now,
}

/// What a look found.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum RouteChange {
    Unchanged,
    /// Another gateway is asked: what happened to the way meanwhile was not seen.
    OtherGateway,
    /// There is a way, and it is another one than before, or one again.
    Changed {
        from: Option<Way>,
    },
}

impl Tunnel {
    pub fn new(now: Now) -> Self {
        Self { target: None, way: None, lost: false, changed: None, inhabited: false, isolated: None, seen: now }
    }

    /// How far the wall clock went beyond the time that passed, or back, if that was more than a clock does by itself.
    pub fn clock_jump(&mut self, now: Now) -> Option<SignedDuration> {
        let passed = SignedDuration::try_from(now.mono.saturating_duration_since(self.seen.mono)).ok()?;
        let jump = now.wall.duration_since(self.seen.wall).saturating_sub(passed);
        self.seen = now;
        (jump.abs() > JUMP).then_some(jump)
    }

    /// Whether it has come up a moment ago.
    pub fn is_young(&self, now: Now) -> bool {
        self.changed.is_some_and(|at| now.mono.saturating_duration_since(at) < YOUTH)
    }

    /// Whether there is a device besides loopback.
    pub fn see_devices(&mut self, now: Now, isolated: bool) {
        self.inhabited |= !isolated;
        let since = self.isolated.unwrap_or(now.mono);
        self.isolated = (isolated && self.inhabited).then_some(since);
    }

    /// There is no way; true if that is new.
    pub fn lose(&mut self) -> bool {
        !std::mem::replace(&mut self.lost, true)
    }

    /// Whether the way that was seen last leads to another gateway than `target`.
    pub fn leads_elsewhere(&self, target: Option<SocketAddr>) -> bool {
        self.target != target
    }

    /// There is a way to `target`.
    pub fn see(&mut self, now: Now, target: Option<SocketAddr>, way: &Way) -> RouteChange {
        let elsewhere = std::mem::replace(&mut self.target, target) != target;
        let was_lost = std::mem::take(&mut self.lost);
        let from = self.way.replace(way.clone()).filter(|_| !elsewhere);
        if was_lost || from.as_ref().is_some_and(|from| from != way) {
            self.changed = Some(now.mono);
            RouteChange::Changed { from }
        } else if elsewhere {
            RouteChange::OtherGateway
        } else {
            RouteChange::Unchanged
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time;

    fn later(now: Now, mono: u64, wall: i64) -> Now {
        Now { mono: now.mono + Duration::from_secs(mono), wall: now.wall + SignedDuration::from_secs(wall) }
    }

    #[test]
    fn a_clock_that_goes_with_the_time_is_nothing_new() {
        let begin = time::now();
        let mut tunnel = Tunnel::new(begin);
        let mut jump = |mono, wall| tunnel.clock_jump(later(begin, mono, wall)).map(|jump| jump.as_secs());
        assert_eq!(jump(300, 330), None);
        assert_eq!(jump(600, 600), None);
        assert_eq!(jump(615, 646), Some(31));
        assert_eq!(jump(630, -7000), Some(-7661));
        assert_eq!(jump(645, -6985), None, "once");
    }

    fn way(local: &str) -> Way {
        let device = Device { index: 7, name: "tun0".to_owned(), tunnel: true };
        Way { local: local.parse().unwrap(), hop: None, device: Some(device), by_source: false }
    }

    #[test]
    fn a_way_is_lost_and_found_once() {
        let mut tunnel = Tunnel::new(time::now());
        let see = |tunnel: &mut Tunnel, way: &Way| tunnel.see(time::now(), None, way);
        assert_eq!(
            see(&mut tunnel, &way("10.1.0.2")),
            RouteChange::Unchanged,
            "the first look has nothing to compare with"
        );
        assert!(tunnel.lose() && !tunnel.lose() && tunnel.lost);
        let back = see(&mut tunnel, &way("10.1.0.2"));
        assert_eq!(back, RouteChange::Changed { from: Some(way("10.1.0.2")) }, "the same, recreated");
        assert!(!tunnel.lost);
        assert_eq!(see(&mut tunnel, &way("10.1.0.2")), RouteChange::Unchanged);
        assert!(matches!(see(&mut tunnel, &way("10.2.0.2")), RouteChange::Changed { .. }));
        let device = Device { index: 8, name: "tun0".to_owned(), tunnel: true };
        let again = Way { device: Some(device), ..way("10.2.0.2") };
        assert!(matches!(see(&mut tunnel, &again), RouteChange::Changed { .. }), "the same address, another device");
    }

    #[test]
    fn another_gateway_is_a_new_beginning() {
        let mut tunnel = Tunnel::new(time::now());
        let found = Some("10.1.0.1:19999".parse().unwrap());
        assert_eq!(tunnel.see(time::now(), None, &way("10.1.0.2")), RouteChange::Unchanged);
        assert_eq!(tunnel.see(time::now(), found, &way("10.9.0.2")), RouteChange::OtherGateway);
        assert!(matches!(tunnel.see(time::now(), found, &way("10.1.0.2")), RouteChange::Changed { .. }));
    }
}
