//! How busy this machine is. Limits of time hold for an idle machine; on a busy one they are stretched by as much as it slows us down
//! at that moment, so that load alone fails no test and a hang still does.

use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

/// Processor time of one measurement: several of the scheduler's time slices.
const SAMPLE: Duration = Duration::from_millis(20);

fn processor_time() -> Duration {
    Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).expect("time does not run backwards")
}

/// Wall time of a piece of work by its processor time: 1 on an idle machine.
pub fn slowdown() -> f64 {
    let (wall, start) = (Instant::now(), processor_time());
    let mut used = Duration::ZERO;
    while used < SAMPLE {
        used = processor_time().saturating_sub(start);
    }
    (wall.elapsed().as_secs_f64() / used.as_secs_f64()).max(1.0)
}

/// Whether something that took so long kept to its limit.
pub fn is_prompt(took: Duration, limit: Duration) -> bool {
    took < limit || took < limit.mul_f64(slowdown())
}
