//! Signals: SIGTERM and SIGINT stop the program, SIGHUP makes it bind and check at once. Also contains the main loop's only wait:
//! for a signal, another event or a deadline.

use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::{flag, low_level};

/// Global, because signal handlers are global.
static STOPPING: AtomicBool = AtomicBool::new(false);
static RELOADING: AtomicBool = AtomicBool::new(false);

/// True once SIGTERM or SIGINT has arrived. From then on, no new request is sent, so stopping takes no longer than the rest of the
/// current exchange.
pub fn stopping() -> bool {
    STOPPING.load(Ordering::Relaxed)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    Stop,
    /// Bind and check at once.
    Reload,
}

pub struct Signals {
    /// Receives a byte per signal, so that `poll` can wait for signals.
    arrived: UnixStream,
}

impl Signals {
    /// Installs the handlers. A signal to stop makes [`stopping`] true at once, even in the middle of a step.
    pub fn install() -> io::Result<Self> {
        let (arrived, write) = UnixStream::pair()?;
        arrived.set_nonblocking(true)?;
        for (signal, flag) in [(SIGTERM, &STOPPING), (SIGINT, &STOPPING), (SIGHUP, &RELOADING)] {
            // The order matters: the flag must be set before the byte ends the wait.
            flag::register(signal, flag)?;
            low_level::pipe::register(signal, write.try_clone()?)?;
        }
        Ok(Self { arrived })
    }

    /// Waits for a signal for up to `limit`. Returns `None` on timeout, or when one of `others` has data to read.
    pub fn wait(&self, limit: Duration, others: &[BorrowedFd]) -> Option<Event> {
        let arrived = self.arrived.as_fd();
        let mut watched: Vec<_> =
            std::iter::once(&arrived).chain(others).map(|fd| PollFd::new(fd, PollFlags::IN)).collect();
        let limit = Timespec::try_from(limit).ok();
        // If a signal interrupts the wait, the loop merely makes an extra pass.
        let _ = poll(&mut watched, limit.as_ref());
        while (&self.arrived).read(&mut [0; 64]).is_ok_and(|bytes| bytes > 0) {}
        if stopping() {
            Some(Event::Stop)
        } else if RELOADING.swap(false, Ordering::Relaxed) {
            Some(Event::Reload)
        } else {
            None
        }
    }
}
