//! Tests that drive real torrent clients of Debian's releases: each runs itself once more in a network namespace of its own that has
//! only a loopback interface. `.ci/fetch-client` brings the clients; what is missing is skipped loudly, and fails with
//! `REQUIRE_CLIENTS=1`.

use std::collections::BTreeMap;
use std::env;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

use super::link::{End, Link, Quality};
use super::{lock, netns};

/// Precedes a version in the output of such a test.
const DRIVEN: &str = "driven: ";

/// The program of a client and a suite, if it was unpacked.
pub fn program(client: &str, suite: &str, program: &str) -> Option<PathBuf> {
    let roots = env::var_os("CLIENT_ROOTS").unwrap_or_else(|| "/var/tmp/pia-qbittorrent-sync/clients".into());
    let program = Path::new(&roots).join(client).join(suite).join("bin").join(program);
    program.is_file().then_some(program)
}

fn is_required() -> bool {
    env::var("REQUIRE_CLIENTS").as_deref() == Ok("1")
}

/// To be called by a test when its client runs.
pub fn tell_version(version: &str) {
    println!("{DRIVEN}{version}");
}

/// A link, where this machine can make one.
pub fn link_or_skip(scenario: &str, own: End, other: End, quality: Quality) -> Option<Link> {
    Link::start(own, other, quality)
        .inspect_err(|why| {
            assert!(!is_required(), "SKIPPED: {scenario}: {why}");
            println!("SKIPPED: {scenario}: {why}");
        })
        .ok()
}

/// The tests of one client.
pub struct Driven {
    client: &'static str,
    program: &'static str,
    suites: &'static [&'static str],
    tests: usize,
    report: Mutex<Report>,
}

/// What became of the tests so far.
struct Report {
    finished: usize,
    versions: BTreeMap<&'static str, String>,
    skipped: BTreeMap<&'static str, String>,
}

impl Driven {
    pub const fn new(
        client: &'static str,
        program: &'static str,
        suites: &'static [&'static str],
        tests: usize,
    ) -> Self {
        let report = Report { finished: 0, versions: BTreeMap::new(), skipped: BTreeMap::new() };
        Self { client, program, suites, tests, report: Mutex::new(report) }
    }

    /// Runs one test: in this process if it is in a namespace already, else in a new process in a new namespace.
    pub fn drive(&'static self, suite: &'static str, name: &str, scenario: fn(&str)) {
        if env::var_os(netns::INSIDE).is_some() {
            netns::raise_loopback();
            scenario(suite);
            return;
        }
        let _finish = Finish(self);
        let again = match self.repetition(suite) {
            Ok(again) => again,
            Err(why) => {
                assert!(!is_required(), "SKIPPED: {suite}: {why}");
                lock(&self.report).skipped.insert(suite, why);
                return;
            }
        };
        self.run_again(again, suite, name);
    }

    /// This test program, to be run in a new namespace, or what is missing.
    fn repetition(&self, suite: &str) -> Result<Command, String> {
        let client = self.client.to_lowercase();
        if program(&client, suite, self.program).is_none() {
            return Err(format!("it is not there; run .ci/fetch-client {client} {suite}"));
        }
        if Command::new("curl").arg("--version").output().is_err() {
            return Err("curl is missing".into());
        }
        let program = env::current_exe().map_err(|e| e.to_string())?;
        netns::isolated(program).ok_or_else(|| "unshare and ip cannot make a network namespace here".into())
    }

    fn run_again(&self, mut again: Command, suite: &'static str, name: &str) {
        let path = format!("{suite}::{name}");
        let output = again.args(["--exact", &path, "--nocapture"]).env(netns::INSIDE, "1").output().expect("unshare");
        let text = String::from_utf8_lossy(&output.stdout);
        if let Some(version) = text.lines().find_map(|line| line.split_once(DRIVEN)) {
            lock(&self.report).versions.insert(suite, version.1.to_owned());
        }
        for line in text.lines().filter(|line| line.starts_with("SKIPPED: ")) {
            let _ = writeln!(std::io::stdout(), "{line}");
        }
        let ran = output.status.success() && text.contains("1 passed");
        assert!(ran, "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    }
}

/// Counts a test as finished, also one that failed; the last one prints what was driven.
struct Finish(&'static Driven);

impl Drop for Finish {
    fn drop(&mut self) {
        let Driven { client, suites, tests, report, .. } = self.0;
        let mut report = lock(report);
        report.finished += 1;
        if report.finished < *tests {
            return;
        }
        let known = |suite: &&str| Some(format!("{suite} {}", report.versions.get(suite)?));
        let driven: Vec<String> = suites.iter().filter_map(known).collect();
        // Not println!: cargo test shows that of failed tests only.
        if !driven.is_empty() {
            let _ = writeln!(std::io::stdout(), "{client} driven: {}", driven.join(", "));
        }
        for (suite, why) in &report.skipped {
            let _ = writeln!(std::io::stdout(), "SKIPPED: all tests with {client} of {suite}: {why}");
        }
    }
}

/// `drive!("Client" "program"; suite: scenario scenario; suite: scenario;)`: a test `suite::scenario` of each.
macro_rules! drive {
    ($client:literal $program:literal; $($suite:ident: $($scenario:ident)+;)+) => {
        static DRIVEN: $crate::support::drive::Driven = $crate::support::drive::Driven::new(
            $client,
            $program,
            &[$(stringify!($suite)),+],
            [$($(stringify!($scenario)),+),+].len(),
        );
        $(mod $suite {
            $(#[test]
            fn $scenario() {
                super::DRIVEN.drive(stringify!($suite), stringify!($scenario), super::$scenario);
            })+
        })+
    };
}
pub(crate) use drive;
