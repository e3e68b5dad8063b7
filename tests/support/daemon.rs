//! The real binary as a child process with a clean environment, a directory of its own for all files, and its output
//! collected line by line. The child is killed and waited for when dropped.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::{Signal, TempDir, lock, pia, qbt, send, wait_until};

/// Limit for anything that does not wait for a backoff, on a busy machine.
pub const SOON: Duration = Duration::from_secs(10);
/// Limit for reading what a daemon that has ended has left in its pipes.
const DRAIN_LIMIT: Duration = Duration::from_secs(2);
/// Longer than a request's deadline plus the longest backoff that tests provoke.
pub const LATER: Duration = Duration::from_secs(25);

/// The binary that Cargo built for this test, or the one that `PIA_SYNC_BINARY` names.
pub fn binary() -> PathBuf {
    // Cargo does not set its variable for examples, which must name the binary themselves.
    let built = option_env!("CARGO_BIN_EXE_pia-qbittorrent-sync").map(PathBuf::from);
    std::env::var_os("PIA_SYNC_BINARY").map(PathBuf::from).or(built).expect("a test, a bench, or PIA_SYNC_BINARY")
}

/// Environment and files of a daemon, for several runs one after the other.
#[derive(Clone)]
pub struct Setup {
    binary: PathBuf,
    env: BTreeMap<String, String>,
    dir: Arc<TempDir>,
    echo: bool,
}

impl Setup {
    pub fn new() -> Self {
        Self::with_binary(binary())
    }

    pub fn with_binary(binary: impl Into<PathBuf>) -> Self {
        let setup = Self { binary: binary.into(), env: BTreeMap::new(), dir: Arc::new(TempDir::new()), echo: false };
        let path = |name: &str| setup.dir.path().join(name).display().to_string();
        let (state, token) = (path("state"), path("token"));
        std::fs::create_dir(&state).expect("a state directory");
        // Port 1 refuses connections, so no packet leaves the loopback interface even if a test forgets a variable.
        setup
            .env("PIA_GATEWAY", "127.0.0.1:1")
            .env("PIA_LOGIN_URL", "https://127.0.0.1:1/api/client/v2/token")
            .env("QBITTORRENT_HOST", "http://127.0.0.1:1")
            .env("PIA_TOKEN_FILE", token)
            .env("STATE_DIR", state)
            .env("CHECK_INTERVAL", "1")
            .env("LOG_LEVEL", "DEBUG")
    }

    /// Setup of a daemon that follows a port leased by a different program, without anything of PIA.
    pub fn following(qbt: &qbt::Qbt, source: &str) -> Self {
        let setup = Self::new().qbt(qbt).env("PORT_SOURCE", source).env("CHECK_INTERVAL", "300");
        ["PIA_GATEWAY", "PIA_LOGIN_URL", "PIA_TOKEN_FILE"].iter().fold(setup, |setup, name| setup.without(name))
    }

    #[must_use]
    pub fn env(mut self, name: &str, value: impl Into<String>) -> Self {
        self.env.insert(name.into(), value.into());
        self
    }

    #[must_use]
    pub fn without(mut self, name: &str) -> Self {
        self.env.remove(name);
        self
    }

    /// Also prints every line of the daemon as it arrives.
    #[must_use]
    pub fn echo(mut self) -> Self {
        self.echo = true;
        self
    }

    /// Sets the account, gateway and CAs of the simulator.
    #[must_use]
    pub fn pia(self, pia: &pia::Pia) -> Self {
        let ca = self.dir.write("ca.pem", pia.ca_pem()).display().to_string();
        let login_ca = self.dir.write("login-ca.pem", pia.login_ca_pem()).display().to_string();
        let (username, password) = pia.set(|state| (state.username.clone(), state.password.clone()));
        self.env("PIA_GATEWAY", pia.gateway().to_string())
            .env("PIA_HOSTNAME", pia.host_name())
            .env("PIA_CA_CERT", ca)
            .env("PIA_LOGIN_URL", pia.login_url())
            .env("PIA_LOGIN_CA_CERT", login_ca)
            .env("PIA_USERNAME", username)
            .env("PIA_PASSWORD", password)
    }

    /// Sets the stand-in's address and its credentials: an API key, a user name and password, or none if it bypasses
    /// authentication.
    #[must_use]
    pub fn qbt(self, qbt: &qbt::Qbt) -> Self {
        let mut setup = self.env("QBITTORRENT_HOST", qbt.url());
        if qbt.url().starts_with("https:") {
            let ca = setup.dir.write("qbt-ca.pem", qbt.ca_pem()).display().to_string();
            setup = setup.env("QBITTORRENT_CA_CERT", ca);
        }
        qbt.set(|state| match &state.api_key {
            Some(key) => setup.env("QBITTORRENT_API_KEY", key),
            None if state.bypass => setup,
            None => setup.env("QBITTORRENT_USERNAME", &state.username).env("QBITTORRENT_PASSWORD", &state.password),
        })
    }

    pub fn binary(&self) -> &Path {
        &self.binary
    }

    pub fn dir(&self) -> &TempDir {
        &self.dir
    }

    /// Value of a variable; empty if it is not set.
    pub fn value(&self, name: &str) -> &str {
        self.env.get(name).map_or("", String::as_str)
    }

    pub fn state_dir(&self) -> PathBuf {
        PathBuf::from(self.value("STATE_DIR"))
    }

    pub fn lease_file(&self) -> PathBuf {
        self.state_dir().join("lease.json")
    }

    pub fn token_file(&self) -> PathBuf {
        PathBuf::from(self.value("PIA_TOKEN_FILE"))
    }

    /// The parsed status.json; `None` until it exists.
    pub fn status(&self) -> Option<Status> {
        let text = std::fs::read_to_string(self.state_dir().join("status.json")).ok()?;
        Some(miniserde::json::from_str(&text).unwrap_or_else(|_| panic!("no valid status.json: {text}")))
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.binary);
        // Destination of coverage data.
        let profile = std::env::var_os("LLVM_PROFILE_FILE").map(|file| ("LLVM_PROFILE_FILE", file));
        command.env_clear().envs(profile).envs(&self.env).current_dir(self.dir.path());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Starts the daemon.
    pub fn run(&self) -> Daemon {
        self.run_with(&[])
    }

    /// Starts the binary with arguments and leaves it running.
    pub fn run_with(&self, arguments: &[&str]) -> Daemon {
        let mut command = self.command();
        let started = Instant::now();
        let mut child = command.args(arguments).spawn().expect("the binary can be started");
        let lines = Arc::new(Mutex::new(Vec::new()));
        let readers = vec![
            collect(child.stdout.take().expect("a pipe"), &lines, self.echo),
            collect(child.stderr.take().expect("a pipe"), &lines, self.echo),
        ];
        Daemon { setup: self.clone(), child, lines, readers, started, cursor: 0 }
    }

    /// Runs the command again and again until it succeeds: on a busy machine a real client may take longer to reply than the
    /// daemon waits.
    #[track_caller]
    pub fn run_until_success(&self, arguments: &[&str]) -> Output {
        let mut last = None;
        let succeeded = wait_until(LATER, || last.insert(self.run_once(arguments)).code == Some(0));
        assert!(succeeded, "{last:?}");
        last.expect("it has run")
    }

    /// Runs the binary until it ends, and kills it after 30 s.
    pub fn run_once(&self, arguments: &[&str]) -> Output {
        let mut child = self.command().args(arguments).spawn().expect("the binary can be started");
        let (stdout, stderr) = (Arc::default(), Arc::default());
        let readers = [
            collect(child.stdout.take().expect("a pipe"), &stdout, self.echo),
            collect(child.stderr.take().expect("a pipe"), &stderr, self.echo),
        ];
        let mut status = None;
        wait_until(Duration::from_secs(30), || {
            status = child.try_wait().expect("the child's status");
            status.is_some()
        });
        let _ = child.kill();
        let _ = child.wait();
        for reader in readers {
            let _ = reader.join();
        }
        let text = |lines: &Lines| lock(lines).concat();
        Output { code: status.and_then(|s| s.code()), stdout: text(&stdout), stderr: text(&stderr) }
    }
}

/// Lines, each with its line break.
type Lines = Arc<Mutex<Vec<String>>>;

fn collect(pipe: impl Read + Send + 'static, lines: &Lines, echo: bool) -> JoinHandle<()> {
    let lines = Arc::clone(lines);
    thread::spawn(move || {
        let mut pipe = BufReader::new(pipe);
        let mut line = Vec::new();
        while pipe.read_until(b'\n', &mut line).is_ok_and(|got| got > 0) {
            let text = String::from_utf8_lossy(&line).into_owned();
            if echo {
                print!("    {text}");
            }
            lock(&lines).push(text);
            line.clear();
        }
    })
}

/// Exit code and output of a command.
#[derive(Debug)]
pub struct Output {
    /// `None` if it had to be killed.
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

/// status.json.
#[derive(Debug, PartialEq, miniserde::Deserialize)]
#[allow(clippy::struct_field_names, reason = "the file's own names")]
pub struct Status {
    pub version: String,
    pub interval_s: u64,
    pub port: Option<u16>,
    pub expires_at: Option<String>,
    pub bound_at: Option<String>,
    pub binds_failed: u32,
    pub client: String,
    pub client_port: Option<u16>,
    pub client_verified_at: Option<String>,
    pub connection_status: Option<String>,
    pub listener_seen: bool,
    pub problems: Vec<Problem>,
    pub updated_at: String,
}

/// One entry of `problems` in status.json.
#[derive(Debug, PartialEq, miniserde::Deserialize)]
pub struct Problem {
    pub with: String,
    pub since: String,
    pub failures: u64,
    pub error: String,
    pub remedy: String,
}

/// A running daemon.
pub struct Daemon {
    setup: Setup,
    child: Child,
    lines: Lines,
    readers: Vec<JoinHandle<()>>,
    started: Instant,
    cursor: usize,
}

impl Daemon {
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Resident memory in KiB: the current value, or the peak.
    pub fn memory(&self, peak: bool) -> u64 {
        let text = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap_or_default();
        let name = if peak { "VmHWM:" } else { "VmRSS:" };
        let value = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
        value.trim().trim_end_matches(" kB").parse().unwrap_or(0)
    }

    /// User and system time so far, in steps of 10 ms.
    pub fn cpu(&self) -> Duration {
        let text = std::fs::read_to_string(format!("/proc/{}/stat", self.pid())).expect("a running process");
        // The program's name, in parentheses before the state, may contain spaces.
        let (_, fields) = text.rsplit_once(") ").expect("proc_pid_stat(5)");
        let ticks = fields.split(' ').skip(11).take(2).map(|field| field.parse::<u64>().expect("a number"));
        Duration::from_millis(10 * ticks.sum::<u64>())
    }

    /// Number of open descriptors.
    pub fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.pid())).map_or(0, Iterator::count)
    }

    pub fn started(&self) -> Instant {
        self.started
    }

    /// Everything printed so far, both streams.
    pub fn log(&self) -> String {
        lock(&self.lines).concat()
    }

    /// Number of lines that contain the text.
    pub fn count_lines(&self, text: &str) -> usize {
        lock(&self.lines).iter().filter(|line| line.contains(text)).count()
    }

    /// Lines of a level (`ERROR`) that contain the text.
    pub fn lines_at(&self, level: &str, text: &str) -> Vec<String> {
        let lines = lock(&self.lines);
        lines.iter().filter(|line| is_at(line, level) && line.contains(text)).cloned().collect()
    }

    /// Waits for the next line with this text after the line of the previous wait; panics with the whole log.
    #[track_caller]
    pub fn wait_for_line(&mut self, text: &str, limit: Duration) -> String {
        self.wait_for(&format!("{text:?}"), limit, |line| line.contains(text))
    }

    /// Waits for the next line of this level after the line of the previous wait; panics with the whole log.
    #[track_caller]
    pub fn wait_for_level(&mut self, level: &str, limit: Duration) -> String {
        self.wait_for(level, limit, |line| is_at(line, level))
    }

    #[track_caller]
    fn wait_for(&mut self, what: &str, limit: Duration, matches: impl Fn(&str) -> bool) -> String {
        let (lines, cursor) = (Arc::clone(&self.lines), self.cursor);
        let mut found = None;
        wait_until(limit, || {
            // Asked first, because the last lines of a daemon that has ended may hold the text.
            let ended = self.ended().is_some();
            found = lock(&lines)
                .iter()
                .enumerate()
                .skip(cursor)
                .find(|(_, line)| matches(line))
                .map(|(index, line)| (index, line.clone()));
            found.is_some() || ended
        });
        let Some((index, line)) = found else {
            self.fail(&format!("no line with {what} after line {cursor} within {limit:?}"))
        };
        self.cursor = index + 1;
        line.trim_end().to_owned()
    }

    /// [`Daemon::wait_for_line`] with [`SOON`].
    #[track_caller]
    pub fn expect_line(&mut self, text: &str) -> String {
        self.wait_for_line(text, SOON)
    }

    /// Makes the next wait start at the first line again.
    pub fn rewind(&mut self) {
        self.cursor = 0;
    }

    /// Makes the next wait ignore the lines printed so far.
    pub fn skip_log(&mut self) {
        self.cursor = lock(&self.lines).len();
    }

    /// Waits until the condition holds; panics with the whole log.
    #[track_caller]
    pub fn wait_until(&mut self, what: &str, condition: impl FnMut() -> bool) {
        if !wait_until(SOON, condition) {
            self.fail(what);
        }
    }

    /// Waits until status.json meets the condition; panics with the last one and the whole log.
    #[track_caller]
    pub fn wait_for_status(&mut self, what: &str, mut condition: impl FnMut(&Status) -> bool) -> Status {
        let setup = self.setup.clone();
        let mut last = None;
        if !wait_until(SOON, || {
            last = setup.status();
            last.as_ref().is_some_and(&mut condition)
        }) {
            self.fail(&format!("the status does not show {what}: {last:#?}"));
        }
        last.expect("the condition held for it")
    }

    /// Waits until the first problem in status.json is one with this remote.
    #[track_caller]
    pub fn wait_for_problem(&mut self, with: &str) -> Status {
        let shown = |status: &Status| status.problems.first().is_some_and(|problem| problem.with == with);
        self.wait_for_status(&format!("a problem with {with}"), shown)
    }

    #[track_caller]
    fn fail(&mut self, what: &str) -> ! {
        let ended = match self.ended() {
            Some(status) => format!("; the daemon has ended: {status}"),
            None => String::new(),
        };
        panic!("{what}{ended}\n--- log\n{}---", self.log())
    }

    /// The parsed status.json; `None` until it exists.
    pub fn status(&self) -> Option<Status> {
        self.setup.status()
    }

    /// The exit status of a daemon that has ended, and whose output has been read to its end.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        let status = self.child.try_wait().expect("the child's status");
        // A command of the daemon's may outlive it and hold the pipes.
        let read = || self.readers.iter().all(JoinHandle::is_finished);
        if status.is_some() {
            wait_until(DRAIN_LIMIT, read);
        }
        status
    }

    #[track_caller]
    fn signal(&self, signal: Signal) {
        send(self.pid(), signal).expect("a running daemon");
    }

    /// Sends SIGHUP, which clears backoffs and causes a bind at once.
    pub fn reload(&self) {
        self.signal(Signal::HUP);
    }

    /// Sends SIGKILL and waits for the end.
    pub fn kill9(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.join();
    }

    /// Sends SIGTERM; returns the exit status and the time until then.
    #[track_caller]
    pub fn stop(&mut self) -> (ExitStatus, Duration) {
        self.end_by(Signal::TERM)
    }

    /// Sends the signal and waits for the end, a little longer than the deadline of a request.
    #[track_caller]
    pub fn end_by(&mut self, signal: Signal) -> (ExitStatus, Duration) {
        let begin = Instant::now();
        self.signal(signal);
        let status = self.wait_for_end(Duration::from_secs(12));
        (status, begin.elapsed())
    }

    /// Waits for the process to end; panics with the whole log.
    #[track_caller]
    pub fn wait_for_end(&mut self, limit: Duration) -> ExitStatus {
        let mut status = None;
        wait_until(limit, || {
            status = self.ended();
            status.is_some()
        });
        let Some(status) = status else { self.fail(&format!("still running after {limit:?}")) };
        self.join();
        status
    }

    fn join(&mut self) {
        for reader in self.readers.drain(..) {
            let _ = reader.join();
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.kill9();
    }
}

/// Compares the level, the second word of a line.
fn is_at(line: &str, level: &str) -> bool {
    line.split_whitespace().nth(1) == Some(level)
}

/// Permission bits of a file.
pub fn mode(path: &Path) -> u32 {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::metadata(path).unwrap_or_else(|e| panic!("{}: {e}", path.display())).permissions().mode() & 0o7777
}

/// All regular files below a directory.
pub fn files(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let below = |path: PathBuf| match path.is_dir() {
        true => files(&path),
        false if path.is_file() => vec![path],
        false => Vec::new(),
    };
    entries.flat_map(|entry| below(entry.path())).collect()
}
