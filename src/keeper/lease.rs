//! The lease, the state of its binding, and when to renew it. Signing and parsing belong to `pia`.

use std::rc::Rc;
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};

use crate::secret::Secret;
use crate::time::Now;

/// Time before the end of a lease at which renewal begins.
pub(super) const RENEW_BEFORE: Duration = Duration::from_secs(15 * 60);

/// A forwarded port for about two months, valid on every server that forwards ports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// Base64 as received. Must go back byte for byte: the gateway refuses a payload that was decoded and encoded again.
    pub payload: Secret,
    /// Base64 as received.
    pub signature: Secret,
    /// 1 to 65535.
    pub port: u16,
    pub expires_at: Timestamp,
}

/// The lease that we keep bound.
#[derive(Debug)]
pub(super) struct Held {
    pub lease: Rc<Lease>,
    /// Whether our clock can be trusted for the end of the lease. If a lease seems to be over right after a bind, at our start or
    /// after a clock jump, the clock may be wrong: renewing by that clock would lose the port, or fetch new ports without end.
    /// Until the clock is trusted, only a refusal by the gateway ends the lease.
    pub expiry_trusted: bool,
    pub bound: bool,
    pub bind_at: Instant,
    /// `None` once the lease is stored.
    pub store_at: Option<Instant>,
    /// The gateway refuses this lease. Until there is a new one, we still try it once per interval.
    pub refused: bool,
    /// Unexplained refusals in a row.
    pub refusals: u32,
}

impl Held {
    /// A lease that the gateway has just granted.
    pub fn new(lease: Lease, now: Now) -> Self {
        Self {
            lease: Rc::new(lease),
            expiry_trusted: false,
            bound: false,
            bind_at: now.mono,
            store_at: Some(now.mono),
            refused: false,
            refusals: 0,
        }
    }

    /// A lease from an earlier run.
    pub fn stored(lease: Lease, now: Now) -> Self {
        let mut held = Self { store_at: None, ..Self::new(lease, now) };
        held.expiry_trusted = held.remaining(now).is_positive();
        held
    }

    pub fn is_good(&self, now: Now) -> bool {
        !self.refused && (!self.expiry_trusted || self.remaining(now).is_positive())
    }

    /// Time at which renewal is due; `None` while that is unknown.
    pub fn renew_at(&self, now: Now) -> Option<Instant> {
        if !self.is_good(now) {
            return Some(now.mono);
        }
        let remaining = Duration::try_from(self.remaining(now)).unwrap_or_default();
        // A payload may claim any expiry: an instant that cannot be represented counts as unknown.
        self.expiry_trusted.then(|| now.mono.checked_add(remaining.saturating_sub(RENEW_BEFORE))).flatten()
    }

    /// Time until the end of the lease by our clock; negative after the end.
    pub fn remaining(&self, now: Now) -> SignedDuration {
        self.lease.expires_at.duration_since(now.wall)
    }
}
