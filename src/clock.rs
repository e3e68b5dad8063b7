//! Which time it is: the system's, unless a peer shows that the system's is evidently wrong. Routers boot in 1970.

use std::time::SystemTime;

use jiff::{SignedDuration, Timestamp};

use crate::report::span;

/// Clocks that are kept by NTP differ by far less; what we judge by this, leases, lasts two months.
const EVIDENT: SignedDuration = SignedDuration::from_mins(5);
/// Seconds since 1970: 2026-01-01. This program is younger: an earlier clock is wrong, whosever it is.
const TOO_EARLY: i64 = 1_767_225_600;
/// Seconds since 1970: 2100-01-01, long after PIA's CA has ended.
const TOO_LATE: i64 = 4_102_444_800;

/// The system's clock and what is known of its error.
#[derive(Debug, Default)]
pub struct Clock {
    /// What the system's clock lacks; zero while it is not evidently wrong.
    lacks: SignedDuration,
}

/// What is new about it.
#[derive(Debug, PartialEq, Eq)]
enum News {
    Wrong { lacks: SignedDuration },
    Right,
}

impl Clock {
    /// Now, corrected.
    pub fn now(&self) -> Timestamp {
        Timestamp::now().saturating_add(self.lacks).unwrap_or(Timestamp::MAX)
    }

    /// Compares the system's clock with `date`, what a peer that has proved itself just said. Leases end by that peer's
    /// clock, so where the two differ it is the one to go by; tells when it begins and ends to differ.
    pub fn compare(&mut self, date: SystemTime) {
        match self.compare_at(date, Timestamp::now()) {
            Some(News::Wrong { lacks }) => {
                let way = if lacks.is_positive() { "behind" } else { "ahead of" };
                let by = span(lacks.unsigned_abs());
                log::warn!(
                    "this system's clock is {by} {way} the gateway's, which leases are judged by; set the clock"
                );
            }
            Some(News::Right) => log::info!("this system's clock agrees with the gateway's again"),
            None => {}
        }
    }

    fn compare_at(&mut self, date: SystemTime, now: Timestamp) -> Option<News> {
        let date = Timestamp::try_from(date).ok().filter(|date| (TOO_EARLY..TOO_LATE).contains(&date.as_second()))?;
        let lacks = date.duration_since(now);
        let lacks = if lacks.abs() > EVIDENT { lacks } else { SignedDuration::ZERO };
        match (std::mem::replace(&mut self.lacks, lacks).is_zero(), lacks.is_zero()) {
            (true, false) => Some(News::Wrong { lacks }),
            (false, true) => Some(News::Right),
            _ => None,
        }
    }

    /// The system's clock was set: what was known of its error is not any more.
    pub fn forget(&mut self) {
        self.lacks = SignedDuration::ZERO;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn lacks(date: &str, now: &str) -> i64 {
        let mut clock = Clock::default();
        let date: Timestamp = date.parse().unwrap();
        let news = clock.compare_at(date.into(), now.parse().unwrap());
        assert_eq!(news.is_some(), !clock.lacks.is_zero());
        clock.lacks.as_secs()
    }

    #[test]
    fn only_what_is_evident_is_corrected() {
        assert_eq!(lacks("2026-11-24T12:05:00Z", "2026-11-24T12:00:00Z"), 0);
        assert_eq!(lacks("2026-11-24T12:05:01Z", "2026-11-24T12:00:00Z"), 301);
        assert_eq!(lacks("2026-11-24T12:00:00Z", "2027-11-24T12:00:00Z"), -365 * 86400);
        assert_eq!(lacks("2026-11-24T12:00:00Z", "1970-01-01T00:00:00Z"), 1_795_521_600);
    }

    #[test]
    fn a_peer_that_lives_in_the_past_is_not_believed() {
        assert_eq!(lacks("1970-01-01T00:00:00Z", "2026-11-24T12:00:00Z"), 0);
        assert_eq!(lacks("2025-12-31T23:59:59Z", "2026-11-24T12:00:00Z"), 0);
        assert_ne!(lacks("2026-01-01T00:00:00Z", "2026-11-24T12:00:00Z"), 0);
    }

    #[test]
    fn nor_is_one_of_the_far_future() {
        assert_eq!(lacks("2100-01-01T00:00:00Z", "2026-11-24T12:00:00Z"), 0);
        assert_ne!(lacks("2099-12-31T23:59:59Z", "2026-11-24T12:00:00Z"), 0);
    }

    #[test]
    fn a_wrong_clock_is_told_once_and_so_is_its_end() {
        let mut clock = Clock::default();
        let date: Timestamp = "2026-11-24T12:00:00Z".parse().unwrap();
        let mut compare = |ahead: i64| clock.compare_at(date.into(), date + SignedDuration::from_hours(ahead));
        assert_eq!(compare(0), None);
        assert_eq!(compare(1), Some(News::Wrong { lacks: SignedDuration::from_hours(-1) }));
        assert_eq!(compare(2), None);
        assert_eq!(compare(0), Some(News::Right));
        assert_eq!(compare(0), None);
    }

    #[test]
    fn a_clock_that_was_set_is_believed_again() {
        let mut clock = Clock::default();
        clock.compare(SystemTime::now() + Duration::from_secs(7200));
        assert!(clock.now().duration_since(Timestamp::now()) > SignedDuration::from_secs(7000));
        clock.forget();
        assert!(clock.now().duration_since(Timestamp::now()) < SignedDuration::from_secs(2));
    }
}
