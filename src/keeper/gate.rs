//! A remote's gate: closed for a while after each failure, so that a dead client or a rejected password never keeps the gateway
//! from being asked to bind. While it fails it remembers the trouble.

use std::rc::Rc;
use std::time::{Duration, Instant};

use log::Level;

use crate::error::{Error, Retry};
use crate::time::Now;

/// The first wait after a failure; doubled with each further one.
const BACKOFF_FIRST: Duration = Duration::from_secs(5);
/// The longest wait after an ordinary failure. A binding lapses after 15 minutes, and with longer waits a run of bad luck
/// costs it: at 300 s and 30 % of calls failing a simulation had gaps of 40 minutes, at 30 s of 14.
const BACKOFF_CAP: Duration = Duration::from_secs(30);
/// After rejected credentials: trying again cannot help and gets the user locked out of their own accounts.
pub(super) const CREDENTIALS_WAIT: Duration = Duration::from_secs(30 * 60);
/// The first wait of a lockout that does not say how long it is (PIA's desktop client assumes 59 s). Every lockout's wait is
/// doubled while it lasts, up to [`CREDENTIALS_WAIT`], whatever it says.
const LOCKOUT_FIRST: Duration = Duration::from_secs(60);

/// What is failing with a remote.
#[derive(Debug)]
pub struct Trouble {
    /// The last error.
    pub error: Rc<Error>,
    /// When it began.
    pub since: Now,
    /// Failed attempts since then.
    pub attempts: u32,
}

/// The end of a trouble.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Recovery {
    /// How long it lasted.
    pub after: Duration,
    /// The failed attempts.
    pub attempts: u32,
}

/// A remote's gate.
#[derive(Debug)]
pub(super) struct Gate {
    /// Failures in a row.
    failures: u32,
    /// Lockouts in a row.
    lockouts: u32,
    closed_until: Option<Instant>,
    /// The wait protects an account: nothing but time ends it.
    held: bool,
    /// The longest `Retry-After` that is believed.
    retry_after_cap: Duration,
    trouble: Option<Trouble>,
}

impl Gate {
    pub fn new(retry_after_cap: Duration) -> Self {
        Self { failures: 0, lockouts: 0, closed_until: None, held: false, retry_after_cap, trouble: None }
    }

    /// The earliest time from `at` on at which it is open.
    pub fn after(&self, at: Instant) -> Instant {
        self.closed_until.map_or(at, |until| until.max(at))
    }

    pub fn failures(&self) -> u32 {
        self.failures
    }

    pub fn trouble(&self) -> Option<&Trouble> {
        self.trouble.as_ref()
    }

    /// The remote did as asked.
    pub fn open(&mut self, now: Now) -> Option<Recovery> {
        let trouble = self.trouble.take();
        *self = Self::new(self.retry_after_cap);
        trouble.map(|trouble| Recovery {
            after: now.mono.saturating_duration_since(trouble.since.mono),
            attempts: trouble.attempts,
        })
    }

    /// Closes it after `error`, for as long as that says or the backoff asks for; how long. `jitter` makes a wait a bit
    /// shorter.
    pub fn close(&mut self, now: Now, error: &Error, jitter: impl FnOnce(Duration) -> Duration) -> Duration {
        let doubled = |first: Duration, times: u32, cap: Duration| first.saturating_mul(1 << times.min(16)).min(cap);
        if !matches!(error.retry, Retry::LockedOut { .. }) {
            self.lockouts = 0;
        }
        let backoff = doubled(BACKOFF_FIRST, self.failures, BACKOFF_CAP);
        let (wait, held) = match error.retry {
            Retry::CredentialsRejected => (CREDENTIALS_WAIT, true),
            Retry::LockedOut { retry_after } => {
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

    /// Closes it until then, for no failure that counts.
    pub fn pause(&mut self, until: Instant) {
        self.closed_until = Some(until);
        self.held = false;
    }

    /// Closes it until then.
    pub fn shut(&mut self, until: Instant, held: bool) {
        self.failures = self.failures.saturating_add(1);
        self.closed_until = Some(until);
        self.held = held;
    }

    /// Takes an error down. ERROR the first time and when it becomes another, DEBUG while it repeats.
    pub fn record_trouble(&mut self, now: Now, error: Rc<Error>) -> (Level, u32) {
        let new = self.trouble.as_ref().is_none_or(|trouble| trouble.error.fingerprint() != error.fingerprint());
        let (since, before) = self.trouble.as_ref().map_or((now, 0), |trouble| (trouble.since, trouble.attempts));
        self.trouble = Some(Trouble { error, since, attempts: before + 1 });
        (if new { Level::Error } else { Level::Debug }, before + 1)
    }

    /// Nobody needs the remote for now: a passing trouble is none any more. One that protects an account stays.
    pub fn forget(&mut self) {
        if !self.held {
            *self = Self::new(self.retry_after_cap);
        }
    }

    /// Ends the wait, unless it protects an account.
    pub fn retry_now(&mut self) {
        if !self.held {
            self.closed_until = None;
        }
    }
}
