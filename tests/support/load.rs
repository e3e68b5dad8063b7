//! How busy this machine is. Limits of time are meant for an idle machine; on a busy one they are stretched by the number of tasks that
//! share a processor, so that load alone fails no test and a hang still does.

use std::fs;
use std::thread;
use std::time::Duration;

/// Tasks that want to run, now or in the last minute, for each processor; at least 1.
pub fn slowdown() -> f64 {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let mut fields = text.split([' ', '/']);
    let last_minute = fields.next().and_then(|field| field.parse::<f64>().ok());
    let now = fields.nth(2).and_then(|field| field.parse::<f64>().ok());
    let processors = thread::available_parallelism().ok().and_then(|count| u32::try_from(count.get()).ok());
    (last_minute.unwrap_or(1.0).max(now.unwrap_or(1.0)) / f64::from(processors.unwrap_or(1))).max(1.0)
}

/// Whether something that took so long kept to its limit.
pub fn is_prompt(took: Duration, limit: Duration) -> bool {
    took < limit || took < limit.mul_f64(slowdown())
}
