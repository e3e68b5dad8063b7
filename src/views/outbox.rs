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
const REAP_INTERVAL: Duration = Duration::from_secs(5);

/// How one telling went; the error is a line for the log.
pub type Delivery = Result<(), String>;

/// The thread, and what was put there.
pub struct Outbox<T> {
    jobs: Sender<(u64, T)>,
    sent: u64,
    /// The last that was heard, and the last that was tried.
    delivered: Arc<AtomicU64>,
    tried: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl<T: Send + 'static> Outbox<T> {
    /// `deliver` tells; it is bounded in time. `name` is the variable's, for the log. A failure is a line, and so is its end.
    pub fn new(name: &'static str, deliver: impl FnMut(T) -> Delivery + Send + 'static) -> Self {
        Self::with_reaper(name, deliver, || false)
    }

    /// The same, and between two tellings `reap`, for as long as it says that there is something left to look after.
    pub fn with_reaper(
        name: &'static str,
        deliver: impl FnMut(T) -> Delivery + Send + 'static,
        reap: fn() -> bool,
    ) -> Self {
        let (jobs, waiting) = channel();
        let (delivered, tried) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let numbers = (Arc::clone(&delivered), Arc::clone(&tried));
        let thread = Builder::new().stack_size(STACK).spawn(move || work(name, &waiting, &numbers, deliver, reap));
        let thread = thread.inspect_err(|error| log::warn!("{name}: no thread for it: {error}")).ok();
        Self { jobs, sent: 0, delivered, tried, thread }
    }

    /// Puts something there.
    pub fn put(&mut self, job: T) {
        self.sent += 1;
        let _ = self.jobs.send((self.sent, job));
    }

    /// Whether the last of it was heard.
    pub fn is_delivered(&self) -> bool {
        self.delivered.load(Ordering::Relaxed) == self.sent
    }

    /// Whether the last of it was tried in vain.
    pub fn has_failed(&self) -> bool {
        self.tried.load(Ordering::Relaxed) == self.sent && !self.is_delivered()
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
    (delivered, tried): &(Arc<AtomicU64>, Arc<AtomicU64>),
    mut deliver: impl FnMut(T) -> Delivery,
    reap: fn() -> bool,
) {
    let mut failing: Option<Instant> = None;
    while let Some((mut number, mut job)) = next(waiting, reap) {
        while let Ok(later) = waiting.try_recv() {
            (number, job) = later;
        }
        match (deliver(job), failing) {
            (Ok(()), since) => {
                delivered.store(number, Ordering::Relaxed);
                if let Some(since) = since {
                    log::info!("{name}: heard again after {}", crate::time::human_duration(since.elapsed()));
                }
                failing = None;
            }
            // What was given up for a stop is no failure.
            (Err(_), _) if crate::signals::stopping() => {}
            (Err(reason), None) => {
                log::warn!("{reason}");
                failing = Some(Instant::now());
            }
            (Err(reason), Some(_)) => log::debug!("{reason}"),
        }
        tried.store(number, Ordering::Relaxed);
    }
}

/// What comes next; none when nothing will.
fn next<T>(waiting: &Receiver<T>, reap: fn() -> bool) -> Option<T> {
    loop {
        if !reap() {
            return waiting.recv().ok();
        }
        match waiting.recv_timeout(REAP_INTERVAL) {
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
    fn only_the_newest_job_is_delivered() {
        let (started, release) = (channel(), channel::<()>());
        let delivered_jobs = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&delivered_jobs);
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
        assert!(!outbox.is_delivered());
        release.0.send(()).unwrap();
        outbox.put(4);
        release.0.send(()).unwrap();
        let delivered = Arc::clone(&outbox.delivered);
        outbox.finish();
        assert_eq!((delivered_jobs.lock().unwrap().as_slice(), delivered.load(Ordering::Relaxed)), (&[1, 3, 4][..], 4));
    }
}
