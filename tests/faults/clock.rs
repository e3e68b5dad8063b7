//! The system's clock: wrong at the start, set while the daemon runs, and a machine that sleeps. libfaketime lies to the
//! daemon about the wall clock and leaves the monotonic one alone.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::support::rows::missing;
use super::support::world::World;
use super::{Fault, Row, TOLD, harmless};

/// Seconds.
const HOUR: i64 = 3600;

pub fn rows() -> Vec<Row> {
    vec![
        row("the clock starts in 1970 and is set", |lie| {
            let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("a clock after 1970");
            lie.by(10 - i64::try_from(since_1970.as_secs()).expect("seconds"));
            Fault::from_start(lie.to(World::new()), |_| ())
                .reads(&["PIA login", "not valid yet", "1970-01-01", "clock"])
                .relieve(|_| lie.by(0))
                .recovers();
        }),
        row("the machine sleeps for 8 hours", |lie| jumps(lie, 8 * HOUR + 30, "went on by 8 h")),
        row("the clock is set back by 3 hours", |lie| jumps(lie, -3 * HOUR - 30, "went back by 3 h")),
        row("the clock is set to beyond the lease's end", |lie| {
            let mut daemon = lie.to(World::new()).settle();
            lie.by(90 * 24 * HOUR + 30);
            daemon.wait_for_line("the clock went on by 90 d", TOLD);
            daemon.wait_for_line("ahead of the gateway's", TOLD);
            daemon.sees_more_binds(3);
            assert_eq!(daemon.pia().leases(), 1, "{}", daemon.log());
            lie.by(0);
            daemon.wait_for_line("the clock went back by", TOLD);
            harmless(daemon);
        }),
        row("the daemon starts with a stored lease and a clock beyond its end", |lie| {
            let mut daemon = lie.to(World::new()).settle();
            lie.by(90 * 24 * HOUR + 30);
            daemon.restart();
            daemon.settled(47047);
            assert_eq!(daemon.lines_at("WARN", "ahead of the gateway's").len(), 1, "{}", daemon.log());
            harmless(daemon);
        }),
    ]
}

/// It is noticed without waiting for the interval, and costs a bind and nothing else.
fn jumps(lie: &Lie, seconds: i64, words: &str) {
    let mut daemon = lie.to(World::new().env("CHECK_INTERVAL", "300")).settle();
    let before = daemon.pia().bound().len();
    lie.by(seconds);
    // libfaketime cannot have the kernel tell that the clock was set, as it does. It tells of this.
    super::support::netns::here("link set lo mtu 1500");
    daemon.wait_for_line(words, TOLD);
    daemon.see("bound port 47047");
    assert_eq!((daemon.pia().bound().len(), daemon.pia().leases()), (before + 1, 1), "{}", daemon.log());
    assert_eq!(daemon.lines_at("ERROR", ""), [""; 0], "{}", daemon.log());
}

/// What the daemon is told of the time.
struct Lie {
    library: PathBuf,
    file: PathBuf,
    _dir: super::support::TempDir,
}

impl Lie {
    fn new(library: PathBuf) -> Self {
        let dir = super::support::TempDir::new();
        Self { library, file: dir.write("offset", "+0"), _dir: dir }
    }

    /// From now on its wall clock differs from ours so much.
    fn by(&self, seconds: i64) {
        let new = self.file.with_extension("new");
        std::fs::write(&new, format!("{seconds:+}\n")).expect("a file");
        std::fs::rename(new, &self.file).expect("a file");
    }

    fn to(&self, world: World) -> World {
        world
            .env("LD_PRELOAD", self.library.display().to_string())
            .env("FAKETIME_TIMESTAMP_FILE", self.file.display().to_string())
            .env("FAKETIME_NO_CACHE", "1")
            .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
            .env("DONT_FAKE_MONOTONIC", "1")
    }
}

fn row(name: &'static str, body: fn(&Lie)) -> Row {
    Row::isolated(name, move || {
        let library = ["x86_64", "aarch64"].map(|arch| format!("/usr/lib/{arch}-linux-gnu/faketime/libfaketime.so.1"));
        let Some(library) = library.iter().map(Path::new).find(|path| path.exists()) else {
            missing("libfaketime");
        };
        body(&Lie::new(library.to_owned()));
    })
}
