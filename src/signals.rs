//! SIGTERM and SIGINT stop, SIGHUP binds and checks at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals as SignalIterator;

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
    stopping: Arc<AtomicBool>,
}

impl Signals {
    /// Installs the handlers and starts the one thread that waits for signals.
    pub fn install() -> std::io::Result<Self> {
        let mut signals = SignalIterator::new([SIGTERM, SIGINT, SIGHUP])?;
        let stopping = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&stopping);
        let (sender, events) = channel();
        thread::Builder::new().name("signals".to_owned()).spawn(move || {
            for signal in signals.forever() {
                let event = if signal == SIGHUP { Event::Reload } else { Event::Stop };
                flag.fetch_or(matches!(event, Event::Stop), Ordering::Relaxed);
                if sender.send(event).is_err() {
                    break;
                }
            }
        })?;
        Ok(Self { events, stopping })
    }

    /// The next signal, or none within `limit`.
    pub fn wait(&self, limit: Duration) -> Option<Event> {
        self.events.recv_timeout(limit).ok()
    }

    /// Becomes true when a signal to stop has arrived, also while something else is being done.
    pub fn stopping(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.stopping)
    }
}
