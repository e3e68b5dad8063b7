//! The fault matrix: whatever PIA, the tunnel, qBittorrent, the resolver, the disk and the clock do to the real binary, one
//! row each. Of every row it is asserted what the user reads, that the bind gap stays within bounds, that the port is
//! kept, and that memory stays flat. `cargo test --test faults NAME` runs the rows whose name contains NAME.
//!
//! Rows that need a network of their own run this program once more inside one. A row that needs something that the machine
//! lacks counts as ignored, and fails with `REQUIRE_FAULTS=1`.

#[path = "faults/check.rs"]
mod check;
#[path = "faults/clock.rs"]
mod clock;
#[path = "faults/container.rs"]
mod container;
#[path = "faults/gateway.rs"]
mod gateway;
#[path = "faults/peers.rs"]
mod peers;
#[path = "faults/state.rs"]
mod state;
mod support;
#[path = "faults/tunnel.rs"]
mod tunnel;

use std::time::{Duration, Instant};

use libtest_mimic::Arguments;
use support::daemon::SOON;
use support::rows::{MEASURED, Row};
use support::wait_until;
use support::world::{RECOVERY, Running, World};

/// Rows at a time: nearly all of them wait nearly always.
const AT_ONCE: usize = 16;
/// Longer than a request's deadline.
const TOLD: Duration = Duration::from_secs(30);
/// KiB that the daemon, a debug build, may ever have used.
const MEMORY: u64 = 24 * 1024;

fn main() {
    let mut arguments = Arguments::from_args();
    arguments.test_threads.get_or_insert(AT_ONCE);
    let rows = [
        peers::rows(),
        gateway::rows(),
        tunnel::rows(),
        state::rows(),
        clock::rows(),
        check::rows(),
        container::rows(),
    ]
    .concat();
    libtest_mimic::run(&arguments, rows.into_iter().map(Row::into_trial).collect()).exit();
}

/// A fault that has begun at a daemon.
struct Fault {
    daemon: Running,
    began: Instant,
    ended: Option<Instant>,
    signatures: usize,
    /// Whether the user was told, and so must be told of the end as well.
    told: bool,
}

impl Fault {
    /// Strikes a daemon that was well.
    fn strike(world: World, inflict: impl FnOnce(&World)) -> Self {
        let mut daemon = world.settle();
        daemon.skip_log();
        let signatures = daemon.pia().leases();
        inflict(&daemon.world);
        Self { daemon, began: Instant::now(), ended: None, signatures, told: false }
    }

    /// There already when the daemon starts.
    fn from_start(world: World, inflict: impl FnOnce(&World)) -> Self {
        inflict(&world);
        Self { daemon: world.run(), began: Instant::now(), ended: None, signatures: 1, told: false }
    }

    /// The user reads this, once.
    #[track_caller]
    fn reads(mut self, words: &[&str]) -> Self {
        self.daemon.fails_within(TOLD, words);
        self.told = true;
        self
    }

    /// Whoever asks for the status reads it, too.
    #[track_caller]
    fn shows(mut self, with: &str) -> Self {
        let status = self.daemon.wait_for_problem(with);
        let problem = &status.problems[0];
        assert!(problem.failures >= 1 && !problem.remedy.is_empty(), "{status:?}");
        self
    }

    /// Binds go on while the fault lasts.
    #[track_caller]
    fn binds_on(mut self) -> Self {
        let Running { daemon, world } = &mut self.daemon;
        let enough = world.pia.bound().len() + 3;
        // A client that hangs takes the whole deadline of a request from every pass.
        assert!(wait_until(RECOVERY, || world.pia.bound().len() >= enough), "no binds\n{}", daemon.log());
        self
    }

    /// Undoes the fault.
    fn relieve(mut self, relief: impl FnOnce(&World)) -> Self {
        relief(&self.daemon.world);
        self.ended = Some(Instant::now());
        self
    }

    /// It costs another signature, and so perhaps another port.
    fn costs_a_signature(mut self) -> Self {
        self.signatures += 1;
        self
    }

    /// Without being asked to, the daemon gets everything right again, and nothing was lost.
    #[track_caller]
    fn recovers(mut self) -> Running {
        let ended = self.ended.unwrap_or_else(Instant::now);
        let Running { daemon, world } = &mut self.daemon;
        let before = world.pia.bound().len();
        let well = wait_until(RECOVERY, || world.pia.bound().len() > before && world.is_well());
        assert!(well, "not well within {RECOVERY:?}; {:?}\n{}", world.setup.status(), daemon.log());
        let allowed = ended.saturating_duration_since(self.began) + RECOVERY;
        let gap = world.pia.longest_gap(self.began);
        assert!(gap < allowed, "a gap of {gap:?} where {allowed:?} is allowed\n{}", daemon.log());
        assert!(world.pia.leases() <= self.signatures, "{:?}\n{}", world.pia.counts(), daemon.log());
        let memory = daemon.memory(true);
        assert!(memory < MEMORY, "{memory} KiB");
        // Told once, and once more if the words have changed on the way; repetitions are DEBUG.
        let errors = daemon.lines_at("ERROR", "").len();
        assert!(errors <= 3, "{errors} errors\n{}", daemon.log());
        // What is printed takes another way to us than what is in files.
        let told = wait_until(SOON, || !self.told || daemon.count_lines(": recovered after ") > 0);
        assert!(told, "the end is not told\n{}", daemon.log());
        self.daemon
    }
}

/// Not a fault: nothing is told, and nothing is lost.
#[track_caller]
fn harmless(mut daemon: Running) {
    daemon.sees_more_binds(2);
    assert_eq!(daemon.lines_at("ERROR", ""), [""; 0], "{}", daemon.log());
    assert_eq!(daemon.pia().counts().signatures, 1);
}
