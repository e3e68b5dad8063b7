//! The fault matrix: one row for each way in which PIA, the tunnel, qBittorrent, the resolver, the disk or the clock
//! can fail. Every row runs the real binary and asserts the message that the user gets, a bounded gap between binds,
//! that the port is kept, and flat memory. `cargo test --test faults NAME` runs the rows whose name contains NAME.
//!
//! A row that needs a network of its own runs this program again inside a namespace. A row whose requirements this
//! machine lacks counts as ignored, and fails with `REQUIRE_FAULTS=1`.

#[path = "faults/check.rs"]
mod check;
#[path = "faults/clock.rs"]
mod clock;
#[path = "faults/container.rs"]
mod container;
#[path = "faults/gateway.rs"]
mod gateway;
#[path = "faults/remotes.rs"]
mod remotes;
#[path = "faults/root.rs"]
mod root;
#[path = "faults/state.rs"]
mod state;
mod support;
#[path = "faults/tunnel.rs"]
mod tunnel;

use std::time::{Duration, Instant};

use libtest_mimic::Arguments;
use support::daemon::SOON;
use support::load::is_prompt;
use support::rows::{MEASURED, Row};
use support::wait_until;
use support::world::{RECOVERY, Running, World};

/// Rows at a time. They spend nearly all their time waiting.
const AT_ONCE: usize = 16;
/// Until a fault is reported: longer than a request's deadline.
const REPORT_LIMIT: Duration = Duration::from_secs(30);
/// Limit for the peak memory of a debug build, in KiB.
const MEMORY: u64 = 24 * 1024;

fn main() {
    let mut arguments = Arguments::from_args();
    arguments.test_threads.get_or_insert(AT_ONCE);
    let rows = [
        remotes::rows(),
        gateway::rows(),
        tunnel::rows(),
        state::rows(),
        clock::rows(),
        check::rows(),
        container::rows(),
        root::rows(),
    ]
    .concat();
    libtest_mimic::run(&arguments, rows.into_iter().map(Row::into_trial).collect()).exit();
}

/// A fault that affects a running daemon.
struct Fault {
    daemon: Running,
    began: Instant,
    ended: Option<Instant>,
    signatures: usize,
    /// The start of the fault was logged, so its end must be logged as well.
    reported: bool,
}

impl Fault {
    /// A fault that begins when the daemon is healthy.
    fn strike(world: World, inflict: impl FnOnce(&World)) -> Self {
        let mut daemon = world.settle();
        daemon.skip_log();
        let signatures = daemon.pia().leases();
        inflict(&daemon.world);
        Self { daemon, began: Instant::now(), ended: None, signatures, reported: false }
    }

    /// A fault that is there before the daemon starts.
    fn from_start(world: World, inflict: impl FnOnce(&World)) -> Self {
        inflict(&world);
        Self { daemon: world.run(), began: Instant::now(), ended: None, signatures: 1, reported: false }
    }

    /// The log reports the fault with these words.
    #[track_caller]
    fn logs(mut self, words: &[&str]) -> Self {
        self.daemon.fails_within(REPORT_LIMIT, words);
        self.reported = true;
        self
    }

    /// The status shows the fault as well.
    #[track_caller]
    fn shows(mut self, with: &str) -> Self {
        let status = self.daemon.wait_for_problem(with);
        let problem = &status.problems[0];
        assert!(problem.failures >= 1 && !problem.remedy.is_empty(), "{status:?}");
        self
    }

    /// Binds continue during the fault.
    #[track_caller]
    fn keeps_binding(mut self) -> Self {
        let Running { daemon, world } = &mut self.daemon;
        let enough = world.pia.bound().len() + 3;
        // A client that hangs delays every pass by the whole deadline of a request.
        assert!(wait_until(RECOVERY, || world.pia.bound().len() >= enough), "no binds\n{}", daemon.log());
        self
    }

    /// Ends the fault.
    fn relieve(mut self, relief: impl FnOnce(&World)) -> Self {
        relief(&self.daemon.world);
        self.ended = Some(Instant::now());
        self
    }

    /// Allows one more signature, and with it possibly a different port.
    fn costs_a_signature(mut self) -> Self {
        self.signatures += 1;
        self
    }

    /// The daemon recovers without help, within limits of time, signatures, memory and log lines.
    #[track_caller]
    fn recovers(mut self) -> Running {
        let ended = self.ended.unwrap_or_else(Instant::now);
        let Running { daemon, world } = &mut self.daemon;
        let before = world.pia.bound().len();
        let healthy = wait_until(RECOVERY, || world.pia.bound().len() > before && world.is_healthy());
        assert!(healthy, "not healthy within {RECOVERY:?}; {:?}\n{}", world.setup.status(), daemon.log());
        let allowed = ended.saturating_duration_since(self.began) + RECOVERY;
        let gap = world.pia.longest_gap(self.began);
        assert!(is_prompt(gap, allowed), "a gap of {gap:?}, but at most {allowed:?} is allowed\n{}", daemon.log());
        assert!(world.pia.leases() <= self.signatures, "{:?}\n{}", world.pia.counts(), daemon.log());
        let memory = daemon.memory(true);
        assert!(memory < MEMORY, "{memory} KiB");
        // An error is logged again only if its text changes; repetitions are DEBUG.
        let errors = daemon.lines_at("ERROR", "").len();
        assert!(errors <= 3, "{errors} errors\n{}", daemon.log());
        // The log arrives through a pipe, possibly later than the files that were read above.
        let logged = wait_until(SOON, || !self.reported || daemon.count_lines(": recovered after ") > 0);
        assert!(logged, "the recovery was not logged\n{}", daemon.log());
        self.daemon
    }
}

/// Asserts that the daemon keeps binding without an error and without another signature.
#[track_caller]
fn assert_harmless(mut daemon: Running) {
    daemon.wait_for_binds(2);
    assert_eq!(daemon.lines_at("ERROR", ""), [""; 0], "{}", daemon.log());
    assert_eq!(daemon.pia().counts().signatures, 1);
}
