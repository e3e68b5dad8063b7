//! Something to be told to somebody who may not listen: by a thread of its own, so that it costs no bind. Only the last of what waits
//! is told.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

/// Bytes of a thread's stack. TLS takes most of it.
const STACK: usize = 256 * 1024;
/// Between two looks after what has to be looked after while nothing is told.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// How one telling went; the error is a line for the log.
pub type Told = Result<(), String>;

/// The thread, and what was put there.
pub struct Outbox<T> {
    jobs: Sender<(u64, T)>,
    sent: u64,
    /// The last that was heard, and the last that was tried.
    heard: Arc<AtomicU64>,
    tried: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl<T: Send + 'static> Outbox<T> {
    /// `tell` tells; it is bounded in time. `name` is the variable's, for the log. A failure is a line, and so is its end.
    pub fn new(name: &'static str, tell: impl FnMut(T) -> Told + Send + 'static) -> Self {
        Self::looking_after(name, tell, || false)
    }

    /// The same, and between two tellings `look`, for as long as it says that there is something left to look after.
    pub fn looking_after(name: &'static str, tell: impl FnMut(T) -> Told + Send + 'static, look: fn() -> bool) -> Self {
        let (jobs, waiting) = channel();
        let (heard, tried) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let numbers = (Arc::clone(&heard), Arc::clone(&tried));
        let thread = Builder::new().stack_size(STACK).spawn(move || work(name, &waiting, &numbers, tell, look));
        let thread = thread.inspect_err(|error| log::warn!("{name}: no thread for it: {error}")).ok();
        Self { jobs, sent: 0, heard, tried, thread }
    }

    /// Puts something there.
    pub fn put(&mut self, job: T) {
        self.sent += 1;
        let _ = self.jobs.send((self.sent, job));
    }

    /// Whether the last of it was heard.
    pub fn is_heard(&self) -> bool {
        self.heard.load(Ordering::Relaxed) == self.sent
    }

    /// Whether the last of it was tried in vain.
    pub fn has_failed(&self) -> bool {
        self.tried.load(Ordering::Relaxed) == self.sent && !self.is_heard()
    }

    /// Waits until all is told, or has failed.
    pub fn finish(self) {
        let Self { jobs, thread, .. } = self;
        drop(jobs);
        if let Some(thread) = thread {
            let _ = thread.join();
        }
    }
}

fn work<T>(
    name: &'static str,
    waiting: &Receiver<(u64, T)>,
    (heard, tried): &(Arc<AtomicU64>, Arc<AtomicU64>),
    mut tell: impl FnMut(T) -> Told,
    look: fn() -> bool,
) {
    let mut failing: Option<Instant> = None;
    while let Some((mut number, mut job)) = next(waiting, look) {
        while let Ok(later) = waiting.try_recv() {
            (number, job) = later;
        }
        match (tell(job), failing) {
            (Ok(()), since) => {
                heard.store(number, Ordering::Relaxed);
                if let Some(since) = since {
                    log::info!("{name}: heard again after {}", crate::time::span(since.elapsed()));
                }
                failing = None;
            }
            // What was given up for a stop is no failure.
            (Err(_), _) if crate::signals::stopping() => {}
            (Err(why), None) => {
                log::warn!("{why}");
                failing = Some(Instant::now());
            }
            (Err(why), Some(_)) => log::debug!("{why}"),
        }
        tried.store(number, Ordering::Relaxed);
    }
}

/// What comes next; none when nothing will.
fn next<T>(waiting: &Receiver<T>, look: fn() -> bool) -> Option<T> {
    loop {
        if !look() {
            return waiting.recv().ok();
        }
        match waiting.recv_timeout(LOOK_EVERY) {
            Ok(job) => return Some(job),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[test]
    fn only_the_last_of_what_waits_is_told_and_known_to_be_heard() {
        let (started, release) = (channel(), channel::<()>());
        let told = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&told);
        let (start, gate) = (started.0, release.1);
        let mut outbox = Outbox::new("TEST", move |number: u32| {
            let _ = start.send(number);
            let _ = gate.recv();
            log.lock().unwrap().push(number);
            if number == 3 { Err("TEST: not heard".to_owned()) } else { Ok(()) }
        });
        outbox.put(1);
        assert_eq!(started.1.recv(), Ok(1));
        outbox.put(2);
        outbox.put(3);
        release.0.send(()).unwrap();
        assert_eq!(started.1.recv(), Ok(3));
        assert!(!outbox.is_heard());
        release.0.send(()).unwrap();
        outbox.put(4);
        release.0.send(()).unwrap();
        let heard = Arc::clone(&outbox.heard);
        outbox.finish();
        assert_eq!((told.lock().unwrap().as_slice(), heard.load(Ordering::Relaxed)), (&[1, 3, 4][..], 4));
    }
}
