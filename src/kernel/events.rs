//! Notifications that devices, addresses, routes, routing rules or the clock have changed. A notification only triggers
//! new queries; its content is ignored, because the kernel does not report everything: IPv4 routes vanish silently with
//! their device.

use std::cell::Cell;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;

use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::io::{Errno, read};
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, bind, socket_with};
use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec};
use rustix::time::{timerfd_create, timerfd_settime};

use super::Network;
use super::netlink::receive;
use crate::http::dial::Interrupt;
use crate::keeper::tunnel::GatewayRoute;

/// `RTMGRP_LINK`, `_IPV4_IFADDR`, `_IPV4_ROUTE`, `_IPV4_RULE`, `_IPV6_IFADDR`, `_IPV6_ROUTE`, and IPv6 rules.
const GROUPS: u32 = 0x1 | 0x10 | 0x40 | 0x80 | 0x100 | 0x400 | 0x4_0000;
/// Read buffer in bytes. Longer events may be truncated, because their content is ignored.
const BUFFER: usize = 64;
/// Maximum number of datagrams read per call; the kernel queues up to 256.
const MAX_DATAGRAMS: usize = 1024;

/// Expiry of the clock timer in seconds since 1970, too late to ever be reached.
const NEVER: i64 = 1 << 40;

pub struct Events {
    /// Socket that reports changes to devices, addresses, routes and rules, or the error with which the kernel refused
    /// the subscription.
    network: io::Result<OwnedFd>,
    /// Timer that becomes readable when the clock is set or the machine wakes from sleep.
    clock: Option<OwnedFd>,
    /// True if a change was read from the socket but not yet returned by [`Events::take`].
    pending: Cell<bool>,
}

impl Events {
    pub fn subscribe() -> Self {
        Self { network: subscribe_to_network(), clock: subscribe_to_clock().ok(), pending: Cell::new(false) }
    }

    /// Error with which the kernel refused the subscription to network changes, if it did.
    pub fn refused(&self) -> Option<&io::Error> {
        self.network.as_ref().err()
    }

    /// File descriptors to poll.
    pub fn sources(&self) -> Vec<BorrowedFd<'_>> {
        self.network.iter().chain(&self.clock).map(AsFd::as_fd).collect()
    }

    /// True if anything has changed since the last call.
    pub fn take(&self) -> bool {
        let network = self.pending.take() | self.network.as_ref().is_ok_and(drain);
        // Setting the clock cancels the timer, which otherwise never becomes readable.
        let clock = self.clock.as_ref().is_some_and(|clock| read(clock, &mut [0; 8]) == Err(Errno::CANCELED));
        network || clock
    }
}

/// Interrupts an exchange when the route to its remote changes.
pub struct RouteWatch {
    events: Rc<Events>,
    /// `VPN_INTERFACE`.
    vpn: Option<String>,
    to: SocketAddr,
    route: GatewayRoute,
}

impl RouteWatch {
    /// `None` if the kernel refused the subscription to network changes.
    pub fn new(events: &Rc<Events>, vpn: Option<String>, to: SocketAddr, route: GatewayRoute) -> Option<Self> {
        events.network.is_ok().then(|| Self { events: Rc::clone(events), vpn, to, route })
    }
}

impl Interrupt for RouteWatch {
    fn source(&self) -> BorrowedFd<'_> {
        // Not the timer: setting the clock does not affect an exchange.
        self.events.sources()[0]
    }

    fn is_due(&self) -> bool {
        let changed = self.events.network.as_ref().is_ok_and(drain);
        self.events.pending.set(self.events.pending.get() | changed);
        changed && Network::snapshot(self.vpn.as_deref()).route_to(self.to).ok().as_ref() != Some(&self.route)
    }
}

fn subscribe_to_network() -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)?;
    bind(&socket, &SocketAddrNetlink::new(0, GROUPS))?;
    Ok(socket)
}

fn subscribe_to_clock() -> io::Result<OwnedFd> {
    let timer = timerfd_create(TimerfdClockId::Realtime, TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK)?;
    let never = Timespec { tv_sec: NEVER, tv_nsec: 0 };
    let once = Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value: never };
    timerfd_settime(&timer, TimerfdTimerFlags::ABSTIME | TimerfdTimerFlags::CANCEL_ON_SET, &once)?;
    Ok(timer)
}

fn drain(socket: &OwnedFd) -> bool {
    let mut buffer = [0; BUFFER];
    let mut changed = false;
    for _ in 0..MAX_DATAGRAMS {
        match receive(socket, &mut buffer, RecvFlags::empty()) {
            Ok(datagram) => changed |= !datagram.is_empty(),
            // The kernel's queue overflowed, so something has changed.
            Err(Errno::NOBUFS) => changed = true,
            Err(Errno::INTR) => {}
            Err(_) => break,
        }
    }
    changed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_has_changed_yet() {
        let events = Events::subscribe();
        assert!(events.refused().is_none());
        assert_eq!(events.sources().len(), 2, "network and clock");
        let clock = events.clock.as_ref().unwrap();
        assert_eq!(read(clock, &mut [0; 8]), Err(Errno::AGAIN), "no clock reaches that time");
    }
}
