//! Last known state of the tunnel and the clock, and detection of changes. `kernel` makes the queries.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use jiff::SignedDuration;

use crate::error::{Call, Cause, Error};
use crate::time::Now;

/// Largest deviation of the wall clock from the monotonic clock that NTP slewing can explain; anything larger is a jump.
const MAX_SLEW: SignedDuration = SignedDuration::from_secs(30);

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// A recreated device gets a new index.
    pub index: u32,
    pub name: String,
    pub tunnel: bool,
}

/// Time that a new tunnel may need before it carries packets.
const TUNNEL_SETTLING: Duration = Duration::from_secs(15);

/// Route to the gateway. Equal routes lead through the same tunnel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GatewayRoute {
    /// Our source address.
    pub local: IpAddr,
    /// Next hop; `None` if the gateway is directly connected, or if the hop is unknown.
    pub hop: Option<IpAddr>,
    /// `None` if the kernel does not report the device.
    pub device: Option<Device>,
    /// Only connections bound to `local` take this route.
    pub by_source: bool,
}

impl GatewayRoute {
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

/// Last known state of the tunnel.
#[derive(Debug)]
pub(super) struct Tunnel {
    /// Destination of the route; `None` while the gateway is unknown.
    target: Option<SocketAddr>,
    /// Latest route, kept even after it is lost.
    pub route: Option<GatewayRoute>,
    pub lost: bool,
    /// Time of the last route change.
    changed: Option<Instant>,
    /// True once there has been a device other than loopback.
    had_device: bool,
    /// Time at which the last device other than loopback disappeared.
    pub isolated: Option<Instant>,
    last_seen: Now,
}

/// Result of comparing a route with the previous one.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum RouteChange {
    Unchanged,
    /// The gateway has changed, so the routes cannot be compared.
    OtherGateway,
    /// The route differs from the previous one, or is back after a loss.
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

    /// How far the wall clock has jumped since the previous call, relative to the monotonic clock: negative if backwards, `None` if
    /// by 30 s or less.
    pub fn clock_jump(&mut self, now: Now) -> Option<SignedDuration> {
        let passed = SignedDuration::try_from(now.mono.saturating_duration_since(self.last_seen.mono)).ok()?;
        let jump = now.wall.duration_since(self.last_seen.wall).saturating_sub(passed);
        self.last_seen = now;
        (jump.abs() > MAX_SLEW).then_some(jump)
    }

    /// True for the first 15 s after a change, while the tunnel may not carry packets yet.
    pub fn is_settling(&self, now: Now) -> bool {
        self.changed.is_some_and(|at| now.mono.saturating_duration_since(at) < TUNNEL_SETTLING)
    }

    /// Records whether only the loopback device is left.
    pub fn observe_devices(&mut self, now: Now, isolated: bool) {
        self.had_device |= !isolated;
        let since = self.isolated.unwrap_or(now.mono);
        self.isolated = (isolated && self.had_device).then_some(since);
    }

    /// Records the loss of the route. Returns true if the route was not already lost.
    pub fn mark_lost(&mut self) -> bool {
        !std::mem::replace(&mut self.lost, true)
    }

    /// Returns `to`, unless it leaves a tunnel for a device that is none: the tunnel is then gone, even if its traffic has a route.
    pub fn accept(&self, to: GatewayRoute) -> Result<GatewayRoute, Error> {
        match self.route.as_ref().and_then(|from| from.device.as_ref()).filter(|from| from.tunnel) {
            Some(from) if !to.is_tunnel() => Err(outside(&from.name, &to)),
            _ => Ok(to),
        }
    }

    /// Name of the tunnel's device, for messages.
    pub fn device(&self) -> &str {
        self.route.as_ref().and_then(|route| route.device.as_ref()).map_or("the tunnel", |device| &device.name)
    }

    /// True if the latest route led to a gateway other than `target`.
    pub fn has_other_target(&self, target: Option<SocketAddr>) -> bool {
        self.target != target
    }

    /// Records the route to `target` and compares it with the previous one.
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

fn outside(tunnel: &str, to: &GatewayRoute) -> Error {
    let device = to.device.as_ref().map_or("a different device", |device| &device.name);
    let advice = "check that the VPN is up; the service continues as soon as the tunnel is back";
    Error::new(Call::Route, Cause::Other(leaves_through(device, tunnel))).advise(Some(advice))
}

/// The problem if traffic leaves through `device`, which is no tunnel, since `tunnel` is gone.
pub fn leaves_through(device: &str, tunnel: &str) -> String {
    format!("traffic now leaves through {device} instead of {tunnel}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time;

    fn later(now: Now, mono: u64, wall: i64) -> Now {
        Now { mono: now.mono + Duration::from_secs(mono), wall: now.wall + SignedDuration::from_secs(wall) }
    }

    #[test]
    fn only_a_jump_of_the_clock_is_reported() {
        let begin = time::now();
        let mut tunnel = Tunnel::new(begin);
        let mut jump = |mono, wall| tunnel.clock_jump(later(begin, mono, wall)).map(|jump| jump.as_secs());
        assert_eq!(jump(300, 330), None);
        assert_eq!(jump(600, 600), None);
        assert_eq!(jump(615, 646), Some(31));
        assert_eq!(jump(630, -7000), Some(-7661));
        assert_eq!(jump(645, -6985), None, "reported once");
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
            "no earlier route to compare with"
        );
        assert!(tunnel.mark_lost() && !tunnel.mark_lost() && tunnel.lost);
        let back = observe(&mut tunnel, &route("10.1.0.2"));
        assert_eq!(back, RouteChange::Changed { from: Some(route("10.1.0.2")) }, "an identical tunnel, recreated");
        assert!(!tunnel.lost);
        assert_eq!(observe(&mut tunnel, &route("10.1.0.2")), RouteChange::Unchanged);
        assert!(matches!(observe(&mut tunnel, &route("10.2.0.2")), RouteChange::Changed { .. }));
        let device = Device { index: 8, name: "tun0".to_owned(), tunnel: true };
        let again = GatewayRoute { device: Some(device), ..route("10.2.0.2") };
        assert!(matches!(observe(&mut tunnel, &again), RouteChange::Changed { .. }), "same address, new device");
    }

    #[test]
    fn a_different_gateway_starts_over() {
        let mut tunnel = Tunnel::new(time::now());
        let found = Some("10.1.0.1:19999".parse().unwrap());
        assert_eq!(tunnel.observe(time::now(), None, &route("10.1.0.2")), RouteChange::Unchanged);
        assert_eq!(tunnel.observe(time::now(), found, &route("10.9.0.2")), RouteChange::OtherGateway);
        assert!(matches!(tunnel.observe(time::now(), found, &route("10.1.0.2")), RouteChange::Changed { .. }));
    }
}
