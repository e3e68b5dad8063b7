//! Runner for the tests of real torrent clients from Debian's releases, each in a network namespace that has only a
//! loopback interface. `.ci/fetch-client` unpacks the clients. A test whose client is missing counts as ignored, and
//! fails with `REQUIRE_CLIENTS=1`.

use std::collections::BTreeMap;
use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::Mutex;

use libtest_mimic::Arguments;

use super::link::{End, Link, Quality};
use super::lock;
use super::rows::{Row, missing};

/// Tests at a time: they mostly wait.
const AT_ONCE: usize = 8;
/// Prefix of the client's version in the output of a test.
const DRIVEN: &str = "driven: ";

/// Name and body of a test; the body gets the name of the Debian suite.
pub type Scenario = (&'static str, fn(&str));

/// The torrent client that a test program drives.
pub struct Client {
    pub name: &'static str,
    /// Program that every test needs.
    pub program: &'static str,
}

/// Versions of the client by suite, as reported by the tests.
static VERSIONS: Mutex<BTreeMap<String, String>> = Mutex::new(BTreeMap::new());

/// Slice of [`Scenario`]s from the names of their functions.
macro_rules! scenarios {
    ($($name:ident)+) => { &[$((stringify!($name), $name as fn(&str))),+] };
}
pub(crate) use scenarios;

/// Runs the scenarios of each suite as tests named `suite::scenario`, and prints the versions that were driven.
pub fn main(client: &'static Client, suites: &[(&'static str, &[Scenario])]) -> ExitCode {
    let mut arguments = Arguments::from_args();
    arguments.test_threads.get_or_insert(AT_ONCE);
    let mut trials = Vec::new();
    for &(suite, scenarios) in suites {
        for &(name, body) in scenarios {
            let row = Row::isolated(format!("{suite}::{name}"), move || {
                require(client, suite);
                body(suite);
            });
            trials.push(row.required_by("REQUIRE_CLIENTS").read_by(read_version).into_trial());
        }
    }
    let conclusion = libtest_mimic::run(&arguments, trials);
    let driven: Vec<String> = lock(&VERSIONS).iter().map(|(suite, version)| format!("{suite} {version}")).collect();
    if !driven.is_empty() {
        println!("{} driven: {}", client.name, driven.join(", "));
    }
    conclusion.exit_code()
}

fn require(client: &Client, suite: &str) {
    let name = client.name.to_lowercase();
    if program(&name, suite, client.program).is_none() {
        missing(format!("{} of {suite}; run .ci/fetch-client {name} {suite}", client.name));
    }
    if Command::new("curl").arg("--version").output().is_err() {
        missing("curl");
    }
}

fn read_version(row: &str, line: &str) {
    if let (Some((suite, _)), Some(version)) = (row.split_once("::"), line.strip_prefix(DRIVEN)) {
        lock(&VERSIONS).insert(suite.to_owned(), version.to_owned());
    }
}

/// Path of a client's program in a suite, if it was unpacked.
pub fn program(client: &str, suite: &str, program: &str) -> Option<PathBuf> {
    let program = tree(client, suite).join("bin").join(program);
    program.is_file().then_some(program)
}

/// Folder with the unpacked client of a suite, below `CLIENT_ROOTS` or in the cache of `.ci/lib.sh`.
pub fn tree(client: &str, suite: &str) -> PathBuf {
    let path = |name| env::var_os(name).map(PathBuf::from);
    let cache = || path("XDG_CACHE_HOME").or_else(|| Some(path("HOME")?.join(".cache")));
    let own = || path("PIA_SYNC_CACHE").or_else(|| Some(cache()?.join("pia-qbittorrent-sync")));
    let roots = path("CLIENT_ROOTS").or_else(|| Some(own()?.join("clients")));
    roots.unwrap_or_default().join(client).join(suite)
}

/// Reports the version of the running client; called once by each test.
pub fn report_version(version: &str) {
    println!("{DRIVEN}{version}");
}

/// Starts a link, or ends the row as ignored if this machine cannot make one.
pub fn link(own: End, other: End, quality: Quality) -> Link {
    Link::start(own, other, quality).unwrap_or_else(|error| missing(format!("a link between two namespaces: {error}")))
}

/// Fails if the process has loaded a library from outside its tree, because it would then depend on this machine's
/// packages.
#[track_caller]
pub fn assert_uses_own_libraries(pid: u32, tree: &Path) {
    let tree = tree.canonicalize().expect("an unpacked client");
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).expect("a process that runs");
    let files = maps.lines().filter_map(|line| line.split_once('/')).map(|(_, path)| format!("/{path}"));
    let outside: std::collections::BTreeSet<String> =
        files.filter(|path| path.contains(".so") && !Path::new(path).starts_with(&tree)).collect();
    assert!(outside.is_empty(), "libraries from outside {}: {outside:?}", tree.display());
    assert!(maps.contains("libc"), "no libc in the maps, so they were not read: {maps}");
}
