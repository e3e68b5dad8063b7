//! The lease, the state of its binding, and when to renew it. `pia` requests and parses leases.

use std::rc::Rc;
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};

use crate::error::Cause;
use crate::secret::Secret;
use crate::time::Now;

/// Renewal begins this long before the lease expires.
pub(super) const RENEW_BEFORE: Duration = Duration::from_secs(15 * 60);

/// Lowest port that is accepted. No VPN forwards a lower one, and a hook may open the port in a firewall: a lower one could be that
/// of SSH.
pub const MIN_PORT: u16 = 1024;

/// Checks a port that PIA or another program has sent in `field`.
pub fn checked_port(field: &'static str, port: u64) -> Result<u16, Cause> {
    let in_range = u16::try_from(port).ok().filter(|port| *port >= MIN_PORT);
    in_range.ok_or_else(|| Cause::field(field, format!("is {port}, not between {MIN_PORT} and 65535")))
}

/// The right to use a port, valid for about two months on every PIA server that supports port forwarding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// Base64, as received. Must be sent back byte for byte: the gateway refuses a payload that has been decoded and re-encoded.
    pub payload: Secret,
    /// Base64, as received.
    pub signature: Secret,
    /// 1024 to 65535.
    pub port: u16,
    pub expires_at: Timestamp,
}

/// A lease and the state of its binding.
#[derive(Debug)]
pub(super) struct Held {
    pub lease: Rc<Lease>,
    /// True if we trust our clock to show whether the lease has expired. If the lease seems to have expired at startup or right
    /// after a bind, the clock may be wrong, as it may be after a jump. Renewing by a wrong clock would lose the port, or request
    /// new ports endlessly. While we do not trust the clock, the lease counts as valid until the gateway refuses it.
    pub expiry_trusted: bool,
    pub bound: bool,
    pub bind_at: Instant,
    /// `None` once the lease is stored.
    pub store_at: Option<Instant>,
    /// The gateway has refused this lease. Until we get a new lease, we keep trying to bind this one once per interval.
    pub refused: bool,
    /// Consecutive unexplained refusals.
    pub refusals: u32,
}

impl Held {
    /// Wraps a lease that the gateway has just granted.
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

    /// Wraps a lease that an earlier run has stored.
    pub fn stored(lease: Lease, now: Now) -> Self {
        let mut held = Self { store_at: None, ..Self::new(lease, now) };
        held.expiry_trusted = held.remaining(now).is_positive();
        held
    }

    pub fn is_good(&self, now: Now) -> bool {
        !self.refused && (!self.expiry_trusted || self.remaining(now).is_positive())
    }

    /// Time at which renewal is due; `None` if unknown.
    pub fn renew_at(&self, now: Now) -> Option<Instant> {
        if !self.is_good(now) {
            return Some(now.mono);
        }
        let remaining = Duration::try_from(self.remaining(now)).unwrap_or_default();
        // A payload may state any expiry time; a time too far in the future for an `Instant` counts as unknown.
        self.expiry_trusted.then(|| now.mono.checked_add(remaining.saturating_sub(RENEW_BEFORE))).flatten()
    }

    /// Time from `now` until the lease expires; negative after the expiry.
    pub fn remaining(&self, now: Now) -> SignedDuration {
        self.lease.expires_at.duration_since(now.wall)
    }
}
