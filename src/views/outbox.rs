//! Delivers notifications on a thread of its own, so that a slow receiver never delays a bind. If several notifications are
//! waiting, delivers only the newest.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

/// Stack size of the thread, in bytes; TLS needs most of the stack.
const STACK: usize = 256 * 1024;
/// Interval between calls to `reap` while there is nothing to deliver.
const REAP_INTERVAL: Duration = Duration::from_secs(5);

/// Result of a delivery. The error is a complete log message.
pub type Delivery = Result<(), String>;

/// A delivery thread and its queue.
pub struct Outbox<T> {
    jobs: Sender<(u64, T)>,
    sent: u64,
    /// Number of the last job that was delivered.
    delivered: Arc<AtomicU64>,
    /// Number of the last job that was attempted, successfully or not.
    tried: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl<T: Send + 'static> Outbox<T> {
    /// `deliver` must return within a bounded time. The recovery from a failure is logged under `name`, the name of a variable.
    pub fn new(name: &'static str, deliver: impl FnMut(T) -> Delivery + Send + 'static) -> Self {
        Self::with_reaper(name, deliver, || false)
    }

    /// Like `new`, but also calls `reap` between deliveries, and every 5 s while `reap` reports that children are still running.
    pub fn with_reaper(
        name: &'static str,
        deliver: impl FnMut(T) -> Delivery + Send + 'static,
        reap: fn() -> bool,
    ) -> Self {
        let (jobs, waiting) = channel();
        let (delivered, tried) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let numbers = (Arc::clone(&delivered), Arc::clone(&tried));
        let thread = Builder::new().stack_size(STACK).spawn(move || work(name, &waiting, &numbers, deliver, reap));
        let thread = thread.inspect_err(|error| log::warn!("{name}: cannot start a thread: {error}")).ok();
        Self { jobs, sent: 0, delivered, tried, thread }
    }

    pub fn put(&mut self, job: T) {
        self.sent += 1;
        let _ = self.jobs.send((self.sent, job));
    }

    /// True if the newest job was delivered.
    pub fn is_delivered(&self) -> bool {
        self.delivered.load(Ordering::Relaxed) == self.sent
    }

    /// True if the newest job was attempted and failed.
    pub fn has_failed(&self) -> bool {
        self.tried.load(Ordering::Relaxed) == self.sent && !self.is_delivered()
    }

    /// Waits until all jobs are delivered or have failed.
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
    while let Some(first) = next(waiting, reap) {
        let (number, job) = waiting.try_iter().last().unwrap_or(first);
        match (deliver(job), failing) {
            (Ok(()), since) => {
                delivered.store(number, Ordering::Relaxed);
                if let Some(since) = since {
                    log::info!("{name}: works again after {}", crate::time::human_duration(since.elapsed()));
                }
                failing = None;
            }
            // A delivery that was abandoned because the service is stopping has not failed.
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

/// Waits for the next job; `None` after the last one.
fn next<T>(waiting: &Receiver<T>, reap: fn() -> bool) -> Option<T> {
    while reap() {
        match waiting.recv_timeout(REAP_INTERVAL) {
            Err(RecvTimeoutError::Timeout) => {}
            job => return job.ok(),
        }
    }
    waiting.recv().ok()
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
            if number == 3 { Err("TEST: not delivered".to_owned()) } else { Ok(()) }
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
