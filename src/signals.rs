//! SIGTERM and SIGINT stop, SIGHUP binds and checks at once; and the one wait for these, for what else may happen, and for a
//! deadline.

use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::{flag, low_level};

/// Global because a signal is.
static STOPPING: AtomicBool = AtomicBool::new(false);
static RELOADING: AtomicBool = AtomicBool::new(false);

/// Whether the process was asked to end: from then on nothing new is sent, to whomever, so that a stop does not wait for more
/// than the exchange that is on its way.
pub fn stopping() -> bool {
    STOPPING.load(Ordering::Relaxed)
}

/// What a signal asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// End.
    Stop,
    /// Bind and check at once.
    Reload,
}

/// The signals that arrive.
pub struct Signals {
    /// A byte for each of them, so that it can be waited for.
    arrived: UnixStream,
}

impl Signals {
    /// Installs the handlers. A signal to stop is seen by [`stopping`] at once, whatever is being done.
    pub fn install() -> io::Result<Self> {
        let (arrived, write) = UnixStream::pair()?;
        arrived.set_nonblocking(true)?;
        for (signal, flag) in [(SIGTERM, &STOPPING), (SIGINT, &STOPPING), (SIGHUP, &RELOADING)] {
            // In this order: whoever is woken sees why.
            flag::register(signal, flag)?;
            low_level::pipe::register(signal, write.try_clone()?)?;
        }
        Ok(Self { arrived })
    }

    /// Waits for a signal, at most for `limit`; also ends, without one, when there is something to read from `others`.
    pub fn wait(&self, limit: Duration, others: &[BorrowedFd]) -> Option<Event> {
        let arrived = self.arrived.as_fd();
        let mut watched: Vec<_> =
            std::iter::once(&arrived).chain(others).map(|fd| PollFd::new(fd, PollFlags::IN)).collect();
        let limit = Timespec::try_from(limit).ok();
        // An interrupted wait ends early, which costs another look.
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
