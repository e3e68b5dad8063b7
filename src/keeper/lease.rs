//! The lease, and what is known of it beside what is in it.

use std::rc::Rc;
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};

use crate::secret::Secret;
use crate::time::Now;

/// A new signature is asked for from this long before the lease ends.
pub(super) const RENEW_BEFORE: Duration = Duration::from_secs(15 * 60);

/// A forwarded port for about two months, valid on every server that forwards ports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// Base64 as received. Sent back byte for byte: a payload that was decoded and encoded again is refused.
    pub payload: Secret,
    /// Base64 as received.
    pub signature: Secret,
    /// 1 to 65535.
    pub port: u16,
    /// UTC.
    pub expires_at: Timestamp,
}

/// The lease that is kept bound.
#[derive(Debug)]
pub(super) struct Held {
    pub lease: Rc<Lease>,
    /// Whether our clock can tell when it ends. A lease that seems to be over when it was just bound, when we start or when
    /// the clock jumps says that our clock may be wrong; renewing it by that clock would cost the port, or ask for one new
    /// port after the other. The gateway tells when it has expired.
    pub expiry_trusted: bool,
    pub bound: bool,
    /// The next bind is due then.
    pub bind_at: Instant,
    /// It is to be stored then; none once it is.
    pub store_at: Option<Instant>,
    /// The gateway does not want it any more. It is still tried once per interval until there is another.
    pub refused: bool,
    /// Unexplained refusals in a row.
    pub refusals: u32,
}

impl Held {
    /// One that was just given.
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

    /// One of an earlier run.
    pub fn stored(lease: Lease, now: Now) -> Self {
        let mut held = Self { store_at: None, ..Self::new(lease, now) };
        held.expiry_trusted = held.remaining(now).is_positive();
        held
    }

    pub fn is_good(&self, now: Now) -> bool {
        !self.refused && (!self.expiry_trusted || self.remaining(now).is_positive())
    }

    /// When another one is to be asked for; none while that is not known.
    pub fn renew_at(&self, now: Now) -> Option<Instant> {
        if !self.is_good(now) {
            return Some(now.mono);
        }
        let remaining = Duration::try_from(self.remaining(now)).unwrap_or_default();
        // Two months at the most, whatever a payload says: an instant that does not exist is never.
        self.expiry_trusted.then(|| now.mono.checked_add(remaining.saturating_sub(RENEW_BEFORE))).flatten()
    }

    /// Until its end, by our clock.
    pub fn remaining(&self, now: Now) -> SignedDuration {
        self.lease.expires_at.duration_since(now.wall)
    }
}
