//! The tunnel and the clock as they were last seen, and what counts as a change of them.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use jiff::SignedDuration;

use crate::time::Now;

/// What the clock may gain or lose between two looks: more was not NTP's slewing.
const MAX_SLEW: SignedDuration = SignedDuration::from_secs(30);

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
const TUNNEL_SETTLING: Duration = Duration::from_secs(15);

/// The route to a remote. Two that are equal lead through the same tunnel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GatewayRoute {
    /// Our address.
    pub local: IpAddr,
    /// The next hop.
    pub hop: Option<IpAddr>,
    /// The device; none where the kernel does not tell.
    pub device: Option<Device>,
    /// Only a connection that is bound to `local` takes it.
    pub by_source: bool,
}

impl GatewayRoute {
    /// Whether it leads through a tunnel.
    pub fn is_tunnel(&self) -> bool {
        self.device.as_ref().is_some_and(|device| device.tunnel)
    }
}

impl fmt::Display for GatewayRoute {
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
    /// Where the route leads to; none while the gateway is not known.
    target: Option<SocketAddr>,
    /// The last route that there was.
    pub route: Option<GatewayRoute>,
    pub lost: bool,
    /// When it changed last.
    changed: Option<Instant>,
    /// There was a device besides loopback once.
    had_device: bool,
    /// Since when there is none any more.
    pub isolated: Option<Instant>,
    last_seen: Now,
}

/// What a look found.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum RouteChange {
    Unchanged,
    /// Another gateroute is asked: what happened to the way meanwhile was not seen.
    OtherGateway,
    /// There is a route, and it is another one than before, or one again.
    Changed {
        from: Option<GatewayRoute>,
    },
}

impl Tunnel {
    pub fn new(now: Now) -> Self {
        Self {
            target: None,
            route: None,
            lost: false,
            changed: None,
            had_device: false,
            isolated: None,
            last_seen: now,
        }
    }

    /// How far the wall clock went beyond the time that passed, or back, if that was more than a clock does by itself.
    pub fn clock_jump(&mut self, now: Now) -> Option<SignedDuration> {
        let passed = SignedDuration::try_from(now.mono.saturating_duration_since(self.last_seen.mono)).ok()?;
        let jump = now.wall.duration_since(self.last_seen.wall).saturating_sub(passed);
        self.last_seen = now;
        (jump.abs() > MAX_SLEW).then_some(jump)
    }

    /// Whether it has come up a moment ago.
    pub fn is_settling(&self, now: Now) -> bool {
        self.changed.is_some_and(|at| now.mono.saturating_duration_since(at) < TUNNEL_SETTLING)
    }

    /// Whether there is a device besides loopback.
    pub fn observe_devices(&mut self, now: Now, isolated: bool) {
        self.had_device |= !isolated;
        let since = self.isolated.unwrap_or(now.mono);
        self.isolated = (isolated && self.had_device).then_some(since);
    }

    /// There is no route; true if that is new.
    pub fn mark_lost(&mut self) -> bool {
        !std::mem::replace(&mut self.lost, true)
    }

    /// Whether the route that was seen last leads to another gateway than `target`.
    pub fn has_other_target(&self, target: Option<SocketAddr>) -> bool {
        self.target != target
    }

    /// There is a route to `target`.
    pub fn observe(&mut self, now: Now, target: Option<SocketAddr>, route: &GatewayRoute) -> RouteChange {
        let other_target = std::mem::replace(&mut self.target, target) != target;
        let was_lost = std::mem::take(&mut self.lost);
        let from = self.route.replace(route.clone()).filter(|_| !other_target);
        if was_lost || from.as_ref().is_some_and(|from| from != route) {
            self.changed = Some(now.mono);
            RouteChange::Changed { from }
        } else if other_target {
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

    fn route(local: &str) -> GatewayRoute {
        let device = Device { index: 7, name: "tun0".to_owned(), tunnel: true };
        GatewayRoute { local: local.parse().unwrap(), hop: None, device: Some(device), by_source: false }
    }

    #[test]
    fn a_route_is_lost_and_found_once() {
        let mut tunnel = Tunnel::new(time::now());
        let observe = |tunnel: &mut Tunnel, route: &GatewayRoute| tunnel.observe(time::now(), None, route);
        assert_eq!(
            observe(&mut tunnel, &route("10.1.0.2")),
            RouteChange::Unchanged,
            "the first look has nothing to compare with"
        );
        assert!(tunnel.mark_lost() && !tunnel.mark_lost() && tunnel.lost);
        let back = observe(&mut tunnel, &route("10.1.0.2"));
        assert_eq!(back, RouteChange::Changed { from: Some(route("10.1.0.2")) }, "the same, recreated");
        assert!(!tunnel.lost);
        assert_eq!(observe(&mut tunnel, &route("10.1.0.2")), RouteChange::Unchanged);
        assert!(matches!(observe(&mut tunnel, &route("10.2.0.2")), RouteChange::Changed { .. }));
        let device = Device { index: 8, name: "tun0".to_owned(), tunnel: true };
        let again = GatewayRoute { device: Some(device), ..route("10.2.0.2") };
        assert!(
            matches!(observe(&mut tunnel, &again), RouteChange::Changed { .. }),
            "the same address, another device"
        );
    }

    #[test]
    fn another_gateway_starts_over() {
        let mut tunnel = Tunnel::new(time::now());
        let found = Some("10.1.0.1:19999".parse().unwrap());
        assert_eq!(tunnel.observe(time::now(), None, &route("10.1.0.2")), RouteChange::Unchanged);
        assert_eq!(tunnel.observe(time::now(), found, &route("10.9.0.2")), RouteChange::OtherGateway);
        assert!(matches!(tunnel.observe(time::now(), found, &route("10.1.0.2")), RouteChange::Changed { .. }));
    }
}
