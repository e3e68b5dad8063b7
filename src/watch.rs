//! Notices, without sending anything, that the way into the tunnel is another one or gone, and that the clock was set or the
//! machine has slept. What follows from it is decided in `keeper.rs`.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use crate::keeper::Now;
use crate::route::Path;

/// Between two looks while all is well: four a minute.
pub const EVERY: Duration = Duration::from_secs(15);
/// The same while something is wrong with the tunnel or the gateway, so that nobody waits for its end.
pub const EVERY_IN_TROUBLE: Duration = Duration::from_secs(1);
/// What the clock may gain or lose between two looks: more was not NTP's slewing.
const JUMP: SignedDuration = SignedDuration::from_secs(30);

/// What has happened since the last look.
#[derive(Debug)]
pub enum Change {
    /// There is no way any more.
    Lost(io::Error),
    /// There is a way, and it is another one than before.
    Tunnel {
        /// The way before; none if there was none yet.
        from: Option<Path>,
        /// The way now.
        to: Path,
    },
    /// The wall clock went this far beyond the time that passed, or back.
    Clock(SignedDuration),
}

/// What was seen last.
#[derive(Debug)]
pub struct Watch {
    /// Where the way leads to; none while the gateway is not known.
    target: Option<SocketAddr>,
    /// The last way that there was.
    path: Option<Path>,
    lost: bool,
    seen: Now,
}

impl Watch {
    /// Begins at `now`; no way was seen yet.
    pub fn new(now: Now) -> Self {
        Self { target: None, path: None, lost: false, seen: now }
    }

    /// Whether there is no way.
    pub fn is_lost(&self) -> bool {
        self.lost
    }

    /// Looks at the clock.
    pub fn clock(&mut self, now: Now) -> Option<Change> {
        let passed = SignedDuration::try_from(now.mono.saturating_duration_since(self.seen.mono)).ok()?;
        let jump = now.wall.duration_since(self.seen.wall).saturating_sub(passed);
        self.seen = now;
        (jump.abs() > JUMP).then_some(Change::Clock(jump))
    }

    /// Looks at the way to `target`. A target that is another one than before is a new beginning and no change.
    pub fn path(&mut self, target: Option<SocketAddr>, path: io::Result<Path>) -> Option<Change> {
        if std::mem::replace(&mut self.target, target) != target {
            self.path = None;
        }
        match path {
            Err(error) => (!std::mem::replace(&mut self.lost, true)).then_some(Change::Lost(error)),
            Ok(to) => {
                let was_lost = std::mem::replace(&mut self.lost, false);
                let from = self.path.replace(to.clone());
                let changed = was_lost || from.as_ref().is_some_and(|from| *from != to);
                changed.then_some(Change::Tunnel { from, to })
            }
        }
    }
}

/// The time now, by both clocks of the system.
pub fn now() -> Now {
    Now { mono: std::time::Instant::now(), wall: Timestamp::now() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn later(now: Now, mono: u64, wall: i64) -> Now {
        Now { mono: now.mono + Duration::from_secs(mono), wall: now.wall + SignedDuration::from_secs(wall) }
    }

    #[test]
    fn a_clock_that_goes_with_the_time_is_nothing_new() {
        let begin = now();
        let mut watch = Watch::new(begin);
        assert!(watch.clock(later(begin, 300, 330)).is_none());
        assert!(watch.clock(later(begin, 600, 600)).is_none());
        let Some(Change::Clock(jump)) = watch.clock(later(begin, 615, 646)) else { panic!("not noticed") };
        assert_eq!(jump, SignedDuration::from_secs(31));
        let Some(Change::Clock(jump)) = watch.clock(later(begin, 630, -7000)) else { panic!("not noticed") };
        assert_eq!(jump, SignedDuration::from_secs(-7661));
        assert!(watch.clock(later(begin, 645, -6985)).is_none(), "once");
    }

    fn path(local: &str) -> Path {
        Path { local: local.parse().unwrap(), hop: None, tunnels: vec![(7, "tun0".to_owned())] }
    }

    #[test]
    fn a_way_is_lost_and_found_once() {
        let mut watch = Watch::new(now());
        let lost = || Err(io::ErrorKind::NetworkUnreachable.into());
        assert!(watch.path(None, Ok(path("10.1.0.2"))).is_none(), "the first look has nothing to compare with");
        assert!(watch.path(None, Ok(path("10.1.0.2"))).is_none() && !watch.is_lost());
        assert!(matches!(watch.path(None, lost()), Some(Change::Lost(_))));
        assert!(watch.path(None, lost()).is_none() && watch.is_lost());
        let back = watch.path(None, Ok(path("10.1.0.2")));
        assert!(!watch.is_lost());
        let mut look = |path| watch.path(None, path);
        assert!(matches!(back, Some(Change::Tunnel { from: Some(from), to }) if from == to), "the same, made anew");
        assert!(look(Ok(path("10.1.0.2"))).is_none());
        assert!(matches!(look(Ok(path("10.2.0.2"))), Some(Change::Tunnel { .. })));
        let again = Path { tunnels: vec![(8, "tun0".to_owned())], ..path("10.2.0.2") };
        assert!(matches!(look(Ok(again)), Some(Change::Tunnel { .. })), "the same address, another device");
    }

    #[test]
    fn another_target_is_a_new_beginning() {
        let mut watch = Watch::new(now());
        let found = Some("10.1.0.1:19999".parse().unwrap());
        assert!(watch.path(None, Ok(path("10.1.0.2"))).is_none());
        assert!(watch.path(found, Ok(path("10.9.0.2"))).is_none());
        assert!(watch.path(found, Ok(path("10.1.0.2"))).is_some());
    }
}
