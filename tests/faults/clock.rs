//! The system clock: wrong at the start, set while the daemon runs, or ahead after the machine slept. libfaketime
//! shifts the daemon's wall clock and leaves the monotonic one alone.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::support::rows::missing;
use super::support::world::World;
use super::{Fault, REPORT_LIMIT, Row, assert_harmless};

/// Seconds.
const HOUR: i64 = 3600;

pub fn rows() -> Vec<Row> {
    vec![
        row("the clock starts in 1970 and is set", |clock| {
            let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("a clock after 1970");
            clock.set_offset(10 - i64::try_from(since_1970.as_secs()).expect("seconds"));
            Fault::from_start(clock.apply_to(World::new()), |_| ())
                .logs(&["PIA login", "not valid yet", "1970-01-01", "clock"])
                .relieve(|_| clock.set_offset(0))
                .recovers();
        }),
        row("the machine sleeps for 8 hours", |clock| jumps(clock, 8 * HOUR + 30, "jumped forward by 8 h")),
        row("the clock is set back by 3 hours", |clock| jumps(clock, -3 * HOUR - 30, "jumped back by 3 h")),
        row("the clock is set past the lease's expiry", |clock| {
            let mut daemon = clock.apply_to(World::new()).settle();
            clock.set_offset(90 * 24 * HOUR + 30);
            daemon.wait_for_line("the clock jumped forward by 90 d", REPORT_LIMIT);
            daemon.wait_for_line("ahead of the gateway's", REPORT_LIMIT);
            daemon.wait_for_binds(3);
            assert_eq!(daemon.pia().leases(), 1, "{}", daemon.log());
            clock.set_offset(0);
            daemon.wait_for_line("the clock jumped back by", REPORT_LIMIT);
            assert_harmless(daemon);
        }),
        row("the daemon starts with a stored lease and a clock that is past its expiry", |clock| {
            let mut daemon = clock.apply_to(World::new()).settle();
            clock.set_offset(90 * 24 * HOUR + 30);
            daemon.restart();
            daemon.settled(47047);
            assert_eq!(daemon.lines_at("WARN", "ahead of the gateway's").len(), 1, "{}", daemon.log());
            assert_harmless(daemon);
        }),
    ]
}

/// A jump of the clock is noticed before the interval ends, and causes one bind and nothing else.
fn jumps(clock: &FakeClock, seconds: i64, words: &str) {
    let mut daemon = clock.apply_to(World::new().env("CHECK_INTERVAL", "300")).settle();
    let before = daemon.pia().bound().len();
    clock.set_offset(seconds);
    // The kernel reports a real change of the clock, but not libfaketime's. A change of a device wakes the daemon
    // instead.
    super::support::netns::ip_here("link set lo mtu 1500");
    daemon.wait_for_line(words, REPORT_LIMIT);
    daemon.expect_line("bound port 47047");
    assert_eq!((daemon.pia().bound().len(), daemon.pia().leases()), (before + 1, 1), "{}", daemon.log());
    assert_eq!(daemon.lines_at("ERROR", ""), [""; 0], "{}", daemon.log());
}

/// A wall clock of the daemon's own, shifted by the number in `file`.
struct FakeClock {
    library: PathBuf,
    file: PathBuf,
    _dir: super::support::TempDir,
}

impl FakeClock {
    fn new(library: PathBuf) -> Self {
        let dir = super::support::TempDir::new();
        Self { library, file: dir.write("offset", "+0"), _dir: dir }
    }

    /// Sets the difference between the daemon's wall clock and ours.
    fn set_offset(&self, seconds: i64) {
        let new = self.file.with_extension("new");
        std::fs::write(&new, format!("{seconds:+}\n")).expect("a file");
        std::fs::rename(new, &self.file).expect("a file");
    }

    fn apply_to(&self, world: World) -> World {
        world
            .env("LD_PRELOAD", self.library.display().to_string())
            .env("FAKETIME_TIMESTAMP_FILE", self.file.display().to_string())
            .env("FAKETIME_NO_CACHE", "1")
            .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
            .env("DONT_FAKE_MONOTONIC", "1")
    }
}

fn row(name: &'static str, body: fn(&FakeClock)) -> Row {
    Row::isolated(name, move || {
        let library = ["x86_64", "aarch64"].map(|arch| format!("/usr/lib/{arch}-linux-gnu/faketime/libfaketime.so.1"));
        let Some(library) = library.iter().map(Path::new).find(|path| path.exists()) else {
            missing("libfaketime");
        };
        body(&FakeClock::new(library.to_owned()));
    })
}
