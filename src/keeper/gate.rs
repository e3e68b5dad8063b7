//! Each remote has its own gate, which closes for a while after a failure, so that a dead client or a rejected password never
//! delays a bind. The gate also records the remote's current trouble. The keeper decides what a failure means for the lease or the
//! token.

use std::rc::Rc;
use std::time::{Duration, Instant};

use log::Level;

use crate::error::{Error, Retry};
use crate::time::Now;

/// Wait after the first failure; doubles with each further failure.
const BACKOFF_FIRST: Duration = Duration::from_secs(5);
/// Longest wait after an ordinary failure. A binding lapses after 15 minutes, so with a longer cap, bad luck could cost us the
/// port: in a simulation in which 30 % of calls failed, binds were up to 40 minutes apart with a cap of 300 s, but at most 14
/// minutes apart with 30 s.
const BACKOFF_CAP: Duration = Duration::from_secs(30);
/// Wait after rejected credentials: retrying sooner cannot help, and may lock users out of their own accounts.
pub(super) const CREDENTIALS_WAIT: Duration = Duration::from_secs(30 * 60);
/// Wait after the first lockout without `Retry-After` (PIA's desktop client assumes 59 s). Doubles with each consecutive lockout,
/// up to [`CREDENTIALS_WAIT`].
const LOCKOUT_FIRST: Duration = Duration::from_secs(60);

/// A remote's current failure.
#[derive(Debug)]
pub struct Trouble {
    pub error: Rc<Error>,
    pub since: Now,
    /// Failed attempts since `since`.
    pub attempts: u32,
}

/// Summary of a [`Trouble`] that has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Recovery {
    /// Duration of the trouble.
    pub after: Duration,
    /// Failed attempts during the trouble.
    pub attempts: u32,
}

#[derive(Debug)]
pub(super) struct Gate {
    /// Consecutive failures.
    failures: u32,
    /// Consecutive lockouts.
    lockouts: u32,
    closed_until: Option<Instant>,
    /// True while the wait protects an account; not even SIGHUP ends such a wait.
    held: bool,
    /// Longest `Retry-After` accepted from the remote.
    retry_after_cap: Duration,
    trouble: Option<Trouble>,
}

impl Gate {
    pub fn new(retry_after_cap: Duration) -> Self {
        Self { failures: 0, lockouts: 0, closed_until: None, held: false, retry_after_cap, trouble: None }
    }

    /// The later of `at` and the time at which the gate opens.
    pub fn after(&self, at: Instant) -> Instant {
        self.closed_until.map_or(at, |until| until.max(at))
    }

    pub fn failures(&self) -> u32 {
        self.failures
    }

    pub fn trouble(&self) -> Option<&Trouble> {
        self.trouble.as_ref()
    }

    /// Opens the gate after a success and ends the trouble.
    pub fn open(&mut self, now: Now) -> Option<Recovery> {
        let trouble = self.trouble.take();
        *self = Self::new(self.retry_after_cap);
        trouble.map(|trouble| Recovery {
            after: now.mono.saturating_duration_since(trouble.since.mono),
            attempts: trouble.attempts,
        })
    }

    /// Closes the gate for as long as `error` or the backoff requires, and returns that time. `jitter` shortens a backoff slightly.
    pub fn close(&mut self, now: Now, error: &Error, jitter: impl FnOnce(Duration) -> Duration) -> Duration {
        let doubled = |first: Duration, times: u32, cap: Duration| first.saturating_mul(1 << times.min(16)).min(cap);
        if !matches!(error.retry, Retry::LockedOut(_)) {
            self.lockouts = 0;
        }
        let backoff = doubled(BACKOFF_FIRST, self.failures, BACKOFF_CAP);
        let (wait, held) = match error.retry {
            Retry::CredentialsRejected => (CREDENTIALS_WAIT, true),
            Retry::LockedOut(retry_after) => {
                let first = if retry_after.is_some() { BACKOFF_FIRST } else { LOCKOUT_FIRST };
                let asked = retry_after.unwrap_or_default().min(self.retry_after_cap);
                let wait = asked.max(doubled(first, self.lockouts, CREDENTIALS_WAIT));
                self.lockouts += 1;
                (wait, true)
            }
            Retry::After(asked) => (asked.min(self.retry_after_cap).max(jitter(backoff)), false),
            _ => (jitter(backoff), false),
        };
        self.shut(now.mono + wait, held);
        wait
    }

    /// Closes the gate without counting a failure.
    pub fn pause(&mut self, until: Instant) {
        self.closed_until = Some(until);
        self.held = false;
    }

    /// Closes the gate and counts a failure.
    pub fn shut(&mut self, until: Instant, held: bool) {
        self.failures = self.failures.saturating_add(1);
        self.closed_until = Some(until);
        self.held = held;
    }

    /// Records an error. Returns its log level (ERROR if new, DEBUG if repeated) and the number of failed attempts so far.
    pub fn record_trouble(&mut self, now: Now, error: Rc<Error>) -> (Level, u32) {
        let new = self.trouble.as_ref().is_none_or(|trouble| !error.repeats(&trouble.error));
        let (since, before) = self.trouble.as_ref().map_or((now, 0), |trouble| (trouble.since, trouble.attempts));
        self.trouble = Some(Trouble { error, since, attempts: before + 1 });
        (if new { Level::Error } else { Level::Debug }, before + 1)
    }

    /// Forgets all failures of a remote that is not needed at present. Does nothing while a wait protects an account.
    pub fn forget(&mut self) {
        if !self.held {
            *self = Self::new(self.retry_after_cap);
        }
    }

    /// Ends the wait, unless the wait protects an account.
    pub fn retry_now(&mut self) {
        if !self.held {
            self.closed_until = None;
        }
    }
}
