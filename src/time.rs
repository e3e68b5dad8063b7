//! [`Now`], the only source of time for decisions, and [`Clock`], which corrects a wall clock that is clearly wrong: a router
//! without a battery boots in 1970.

use std::time::{Duration, Instant, SystemTime};

use jiff::{SignedDuration, Timestamp};

/// Largest difference from a server's clock that needs no correction. NTP keeps clocks far closer than this, and a lease lasts two
/// months.
const MAX_CLOCK_SKEW: SignedDuration = SignedDuration::from_mins(5);
/// 2026-01-01, in seconds since 1970. This program is newer, so a server with an earlier date is wrong.
const TOO_EARLY: i64 = 1_767_225_600;
/// 2100-01-01, in seconds since 1970: long after PIA's CA expires.
const TOO_LATE: i64 = 4_102_444_800;

/// A point in time on both clocks: `mono` for intervals, `wall` for expiry.
#[derive(Debug, Clone, Copy)]
pub struct Now {
    /// Never jumps.
    pub mono: Instant,
    /// UTC; may jump.
    pub wall: Timestamp,
}

pub fn now() -> Now {
    Now { mono: Instant::now(), wall: Timestamp::now() }
}

/// RFC 3339 in UTC, to the second, as in the log and the status.
pub fn rfc3339(time: Timestamp) -> String {
    format!("{time:.0}")
}

/// Formats a duration for reading: `1 h 5 min`, `3 min 20 s`, `30 min`, `7 s`.
pub fn human_duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let (count, unit, rest, smaller_unit) = match seconds {
        0..60 => (seconds, "s", 0, ""),
        60..3600 => (seconds / 60, "min", seconds % 60, "s"),
        3600..86400 => (seconds / 3600, "h", seconds % 3600 / 60, "min"),
        _ => (seconds / 86400, "d", seconds % 86400 / 3600, "h"),
    };
    if rest == 0 { format!("{count} {unit}") } else { format!("{count} {unit} {rest} {smaller_unit}") }
}

/// Correction for the system's clock.
#[derive(Debug, Default)]
pub struct Clock {
    /// How far the system's clock is behind a server's; negative if it is ahead, zero if the difference is within five minutes.
    behind: SignedDuration,
}

/// The system's clock has begun to differ from a server's, or agrees with it again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClockChange {
    Wrong {
        /// Negative if the system's clock is ahead.
        behind: SignedDuration,
    },
    Correct,
}

impl Clock {
    /// Returns `now` with the wall clock corrected.
    pub fn correct(&self, now: Now) -> Now {
        Now { wall: now.wall.saturating_add(self.behind).unwrap_or(Timestamp::MAX), ..now }
    }

    /// Compares the system's clock with `date`, which an authenticated server has just sent. The server's clock wins, because the
    /// server decides when a lease expires. Returns a change only when the clocks begin to differ or agree again.
    pub fn compare(&mut self, date: SystemTime, now: Now) -> Option<ClockChange> {
        let date = Timestamp::try_from(date).ok().filter(|date| (TOO_EARLY..TOO_LATE).contains(&date.as_second()))?;
        let behind = date.duration_since(now.wall);
        let behind = if behind.abs() > MAX_CLOCK_SKEW { behind } else { SignedDuration::ZERO };
        match (std::mem::replace(&mut self.behind, behind).is_zero(), behind.is_zero()) {
            (true, false) => Some(ClockChange::Wrong { behind }),
            (false, true) => Some(ClockChange::Correct),
            _ => None,
        }
    }

    /// Drops the correction, because the system's clock has been set.
    pub fn forget(&mut self) {
        self.behind = SignedDuration::ZERO;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(wall: &str) -> Now {
        Now { mono: Instant::now(), wall: wall.parse().unwrap() }
    }

    fn behind(date: &str, now: &str) -> i64 {
        let mut clock = Clock::default();
        let date: Timestamp = date.parse().unwrap();
        let notice = clock.compare(date.into(), at(now));
        assert_eq!(notice.is_some(), !clock.behind.is_zero());
        clock.behind.as_secs()
    }

    #[test]
    fn only_a_large_skew_is_corrected() {
        assert_eq!(behind("2026-11-24T12:05:00Z", "2026-11-24T12:00:00Z"), 0);
        assert_eq!(behind("2026-11-24T12:05:01Z", "2026-11-24T12:00:00Z"), 301);
        assert_eq!(behind("2026-11-24T12:00:00Z", "2027-11-24T12:00:00Z"), -365 * 86400);
        assert_eq!(behind("2026-11-24T12:00:00Z", "1970-01-01T00:00:00Z"), 1_795_521_600);
    }

    #[test]
    fn a_server_date_in_the_past_is_ignored() {
        assert_eq!(behind("1970-01-01T00:00:00Z", "2026-11-24T12:00:00Z"), 0);
        assert_eq!(behind("2025-12-31T23:59:59Z", "2026-11-24T12:00:00Z"), 0);
        assert_ne!(behind("2026-01-01T00:00:00Z", "2026-11-24T12:00:00Z"), 0);
    }

    #[test]
    fn a_server_date_in_the_far_future_is_ignored() {
        assert_eq!(behind("2100-01-01T00:00:00Z", "2026-11-24T12:00:00Z"), 0);
        assert_ne!(behind("2099-12-31T23:59:59Z", "2026-11-24T12:00:00Z"), 0);
    }

    #[test]
    fn a_wrong_clock_is_reported_once_and_so_is_its_end() {
        let mut clock = Clock::default();
        let date: Timestamp = "2026-11-24T12:00:00Z".parse().unwrap();
        let mut compare = |ahead: i64| {
            let wall = date + SignedDuration::from_hours(ahead);
            clock.compare(date.into(), Now { mono: Instant::now(), wall })
        };
        assert_eq!(compare(0), None);
        assert_eq!(compare(1), Some(ClockChange::Wrong { behind: SignedDuration::from_hours(-1) }));
        assert_eq!(compare(2), None);
        assert_eq!(compare(0), Some(ClockChange::Correct));
        assert_eq!(compare(0), None);
    }

    #[test]
    fn a_clock_that_was_set_is_trusted_again() {
        let mut clock = Clock::default();
        let now = at("2026-11-24T12:00:00Z");
        clock.compare((now.wall + SignedDuration::from_hours(2)).into(), now);
        assert_eq!(clock.correct(now).wall, now.wall + SignedDuration::from_hours(2));
        clock.forget();
        assert_eq!(clock.correct(now).wall, now.wall);
    }

    #[test]
    fn durations_are_readable() {
        for (seconds, text) in
            [(7, "7 s"), (60, "1 min"), (200, "3 min 20 s"), (1800, "30 min"), (3900, "1 h 5 min"), (90000, "1 d 1 h")]
        {
            assert_eq!(human_duration(Duration::from_secs(seconds)), text);
        }
    }
}
