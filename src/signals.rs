//! SIGTERM and SIGINT stop, SIGHUP binds and checks at once.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals as SignalIterator;

/// Global because a signal is.
static STOPPING: AtomicBool = AtomicBool::new(false);

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
    events: Receiver<Event>,
}

impl Signals {
    /// Installs the handlers and starts the one thread that waits for signals. One to stop is seen
    /// by [`stopping`] at once, whatever is being done.
    pub fn install() -> std::io::Result<Self> {
        let mut signals = SignalIterator::new([SIGTERM, SIGINT, SIGHUP])?;
        let (sender, events) = channel();
        thread::Builder::new().name("signals".to_owned()).spawn(move || {
            for signal in signals.forever() {
                let event = if signal == SIGHUP { Event::Reload } else { Event::Stop };
                STOPPING.fetch_or(matches!(event, Event::Stop), Ordering::Relaxed);
                if sender.send(event).is_err() {
                    break;
                }
            }
        })?;
        Ok(Self { events })
    }

    /// The next signal, or none within `limit`.
    pub fn wait(&self, limit: Duration) -> Option<Event> {
        self.events.recv_timeout(limit).ok()
    }
}
