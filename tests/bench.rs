//! `cargo bench`: the daemon's time, memory, CPU and size, compared with a curl and jq loop that does the same job in
//! the same run. Prints a table and never fails because of a figure.
//!
//! Two network namespaces connected by a slow link: the simulated PIA in one, the daemon and its torrent client in the
//! other. `BENCH_RUNS` (11) is the number of starts for each median, `BENCH_IDLE_S` (60) the time for which the idle
//! daemon is observed.

#[allow(dead_code, reason = "the tests use other parts of it")]
#[path = "support/real_qbt.rs"]
mod real_qbt;
mod support;

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use std::{env, fs, thread};

use real_qbt::RealQbt;
use support::daemon::{Daemon, Setup};
use support::link::{End, Link, Quality};
use support::pia::{self, Pia};
use support::qbt::{Flavour, Qbt};
use support::{Killed, Mood, Reply, Server, TempDir, netns, wait_until};

/// The daemon, built with the release profile.
const DAEMON: &str = env!("CARGO_BIN_EXE_pia-qbittorrent-sync");
/// Variable that is set if this program runs itself in a namespace: as the bench, or as the stand-in for a torrent
/// client.
const ROLE: &str = "BENCH_ROLE";

const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
const CLIENTS: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);
/// One way; a round trip takes 100 ms.
const DELAY: Duration = Duration::from_millis(50);
/// Limit for a start in addition to its round trips.
const ALLOWANCE: Duration = Duration::from_millis(30);
/// Time limit after which a start has failed.
const START_LIMIT: Duration = Duration::from_secs(20);
const FIRST_PORT: u16 = 41_000;

/// Limit for the client to listen, in addition to the time of one login.
const BEYOND_LOGIN: Duration = Duration::from_millis(50);
const MAX_SIZE: u64 = 1_750_000;
const MAX_MEMORY: u64 = 3_600_000;
const MAX_MEMORY_OF_ALL: u64 = 4_000_000;
const MAX_SCRAPE: Duration = Duration::from_millis(50);
const SCRAPES: usize = 11;
const MAX_CPU_MS: f64 = 1.5;
/// The daemon waits for 200 ms until a burst of changes has ended.
const MAX_NOTICE: Duration = Duration::from_millis(250);
/// Changes of the route.
const CHANGES: u8 = 7;
const MAX_WAKE_UPS: f64 = 0.5;
/// Keepalives before the peak memory is read.
const WARM_UP: usize = 20;
/// Keepalives for the mean of the CPU time, which the kernel counts in steps of 10 ms.
const KEEPALIVES: usize = 200;
const LOOP_KEEPALIVES: usize = 20;
const MS_PER_TICK: u64 = 10;

/// The daemon's job as a shell script: ROUNDS keepalives without a pause.
const CURL_LOOP: &str = r#"
set -eu
pia() {
  curl --silent --show-error --fail --http1.1 --get --cacert "$PIA_CA_CERT" \
    --connect-to "$PIA_HOSTNAME:19999:$PIA_GATEWAY" "$@"
}
qbt() { curl --silent --show-error --fail --cookie cookies --cookie-jar cookies "$@"; }
port_of() { jq --raw-output .payload lease | base64 --decode | jq .port; }

gateway=https://$PIA_HOSTNAME:19999 api=$QBITTORRENT_HOST/api/v2
[ -s lease ] || pia --data-urlencode "token@$PIA_TOKEN_FILE" "$gateway/getSignature" >lease
qbt --output /dev/null --data-urlencode "username=$QBITTORRENT_USERNAME" \
  --data-urlencode "password=$QBITTORRENT_PASSWORD" "$api/auth/login"
while [ "$ROUNDS" -gt 0 ]; do
  ROUNDS=$((ROUNDS - 1))
  pia --data-urlencode "payload=$(jq --raw-output .payload lease)" \
    --data-urlencode "signature=$(jq --raw-output .signature lease)" "$gateway/bindPort" | jq --exit-status '.status == "OK"' >&2
  if [ "$(qbt "$api/app/preferences" | jq .listen_port)" != "$(port_of)" ]; then
    qbt --data-urlencode "json={\"listen_port\":$(port_of),\"random_port\":false}" "$api/app/setPreferences"
  fi
  qbt "$api/transfer/info" | jq --raw-output .connection_status >&2
done
"#;

fn main() {
    match env::var(ROLE).as_deref() {
        Ok("bench") => bench(),
        Ok("stand-in") => stand_in(),
        _ => enter(),
    }
}

/// Runs this program again in a namespace of its own.
fn enter() {
    let program = env::current_exe().expect("this program");
    let Some(mut again) = netns::isolated(program) else {
        println!("NOT MEASURED: unshare and ip cannot make network namespaces here; only the size follows");
        println!("{}", Table::default().with_size().text());
        return;
    };
    let status = again.env(ROLE, "bench").status().expect("unshare");
    std::process::exit(status.code().unwrap_or(1));
}

fn bench() {
    netns::raise_loopback();
    let runs = number("BENCH_RUNS", 11).max(2);
    let idle = Duration::from_secs(u64::from(number("BENCH_IDLE_S", 60).max(1)));
    let mut table = Table::default();
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    println!("load of the machine at the start: {}", load.split(' ').next().unwrap_or_default());

    let clients = netns::Namespace::new().expect("a second namespace");
    let here = End::new(std::process::id(), GATEWAY);
    let there = End::new(clients.pid(), CLIENTS);
    match Link::start(here, there, Quality { delay: DELAY, loss_percent: 0.0 }) {
        Ok(_link) => {
            let round_trip = round_trip();
            println!("round trip of the link: {}", ms(round_trip));
            println!("included in every start: {} to enter the clients' namespace", ms(entering(clients.pid())));
            println!("medians of {runs} starts\n");
            for kind in Kind::available() {
                let client = Client::start(kind, Some(clients.pid()));
                starts(&mut table, &client, clients.pid(), round_trip, runs);
            }
        }
        Err(error) => println!("NOT MEASURED: times over a slow link, which cannot be made here: {error}\n"),
    }
    let kind = *Kind::available().last().expect("at least the stand-in");
    costs(&mut table, &Client::start(kind, None), idle);
    println!("{}", table.with_size().text());
}

fn number(variable: &str, default: u16) -> u16 {
    env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// Median time of a connection that a closed port at the other end refuses.
fn round_trip() -> Duration {
    median((0..11).map(|_| {
        let begin = Instant::now();
        assert!(TcpStream::connect((CLIENTS, 9)).is_err(), "nothing listens there");
        begin.elapsed()
    }))
}

/// Median time of a program that does nothing in that namespace.
fn entering(pid: u32) -> Duration {
    median((0..11).map(|_| {
        let begin = Instant::now();
        let status = netns::command_in(pid, "true").status();
        assert!(status.is_ok_and(|status| status.success()), "nsenter");
        begin.elapsed()
    }))
}

fn median(values: impl IntoIterator<Item = Duration>) -> Duration {
    let mut values: Vec<Duration> = values.into_iter().collect();
    values.sort_unstable();
    values[values.len() / 2]
}

fn ms(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1000.0)
}

/// Kind of torrent client.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Suite(&'static str),
    StandIn,
}

impl Kind {
    /// Real clients, the newest last, or the stand-in if there are none.
    fn available() -> Vec<Self> {
        let there = ["bookworm", "sid"].into_iter().filter(|suite| real_qbt::launcher(suite).is_some());
        let real: Vec<Self> = there.map(Self::Suite).collect();
        if real.is_empty() { vec![Self::StandIn] } else { real }
    }
}

/// A running torrent client and its credentials.
struct Client {
    label: String,
    url: String,
    username: String,
    password: String,
    _process: Process,
}

/// The client's process, ended when dropped.
enum Process {
    Real(#[expect(dead_code, reason = "only to be dropped")] RealQbt),
    StandIn(#[expect(dead_code, reason = "only to be dropped")] Killed),
}

impl Client {
    /// Starts a client in the namespace of a process, or in this one.
    fn start(kind: Kind, namespace_of: Option<u32>) -> Self {
        match kind {
            Kind::Suite(suite) => {
                let qbt = RealQbt::start_in_namespace(namespace_of, suite, real_qbt::Options::default())
                    .expect("an unpacked suite");
                Self {
                    label: format!("qBittorrent {}", qbt.version()),
                    url: qbt.url(),
                    username: real_qbt::USERNAME.into(),
                    password: real_qbt::PASSWORD.into(),
                    _process: Process::Real(qbt),
                }
            }
            Kind::StandIn => Self::start_stand_in(namespace_of),
        }
    }

    /// Setup of a daemon that uses this client, run by `program`.
    fn setup(&self, program: &str, pia: &Pia) -> Setup {
        let setup = Setup::with_binary(program)
            .pia(pia)
            .env("QBITTORRENT_HOST", &self.url)
            .env("QBITTORRENT_USERNAME", &self.username)
            .env("QBITTORRENT_PASSWORD", &self.password)
            .env("CHECK_INTERVAL", "300")
            .env("LOG_LEVEL", "INFO");
        fs::write(setup.token_file(), pia.make_token()).expect("a token");
        setup
    }

    /// Starts the stand-in in a process of its own, which ends with its standard input.
    fn start_stand_in(namespace_of: Option<u32>) -> Self {
        let program = env::current_exe().expect("this program");
        let mut command = match namespace_of {
            None => Command::new(program),
            Some(pid) => netns::command_in(pid, program),
        };
        let mut process =
            command.env(ROLE, "stand-in").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("the stand-in");
        let lines = BufReader::new(process.stdout.take().expect("a pipe")).lines();
        let mut words = lines.map_while(Result::ok).take(3);
        let mut next = || words.next().expect("the stand-in's introduction");
        Self {
            label: "stand-in".into(),
            url: next(),
            username: next(),
            password: next(),
            _process: Process::StandIn(Killed(process)),
        }
    }
}

/// Runs the stand-in: prints its URL and credentials in three lines, and opens the socket that it otherwise only
/// claims.
fn stand_in() {
    let qbt = Qbt::start(Flavour::V5_3);
    let (username, password) = qbt.set(|state| (state.username.clone(), state.password.clone()));
    println!("{}\n{username}\n{password}", qbt.url());
    thread::scope(|scope| {
        let input = scope.spawn(|| std::io::stdin().read_to_end(&mut Vec::new()));
        let mut socket: Option<TcpListener> = None;
        while !input.is_finished() {
            let there = socket.as_ref().and_then(|socket| socket.local_addr().ok()).map(|address| address.port());
            if there != qbt.listening() {
                socket = qbt.listening().and_then(|port| TcpListener::bind(("127.0.0.1", port)).ok());
            }
            thread::sleep(Duration::from_millis(1));
        }
    });
}

/// Times from the start of a job until the port was bound and until the torrent client listened on it.
struct Sample {
    bound: Duration,
    listening: Duration,
}

/// Starts a job and observes both ends of the link.
fn sample<T>(pia: &Pia, pid: u32, port: u16, start: impl FnOnce() -> T) -> (Sample, T) {
    let binds = pia.bound().len();
    assert!(!netns::listens(pid, port), "port {port} is in use");
    let begin = Instant::now();
    let started = start();
    let (mut bound, mut listening) = (None, None);
    while begin.elapsed() < START_LIMIT && (bound.is_none() || listening.is_none()) {
        if bound.is_none() && pia.bound().len() > binds {
            bound = Some(begin.elapsed());
        }
        if listening.is_none() && netns::listens(pid, port) {
            listening = Some(begin.elapsed());
        }
        thread::sleep(Duration::from_millis(1));
    }
    let complaint = format!("port {port} after {START_LIMIT:?}: bound {bound:?}, listening {listening:?}");
    (Sample { bound: bound.expect(&complaint), listening: listening.expect(&complaint) }, started)
}

/// Measures the daemon and the loop over the slow link: `runs` starts with a cached token and as many with a stored
/// lease.
fn starts(table: &mut Table, client: &Client, pid: u32, round_trip: Duration, runs: u16) {
    let pia = Pia::with(pia::Options { address: GATEWAY.into(), ..pia::Options::default() });
    let enter = netns::command_in(pid, DAEMON);
    let setup = client.setup(&enter.get_program().to_string_lossy(), &pia);
    let arguments: Vec<_> = enter.get_args().map(|argument| argument.to_string_lossy()).collect();
    let arguments: Vec<&str> = arguments.iter().map(AsRef::as_ref).collect();
    let leases = TempDir::new();

    let daemon = |lease: &Path, port: u16| {
        let _ = fs::remove_file(setup.lease_file());
        if lease.exists() {
            fs::copy(lease, setup.lease_file()).expect("a stored lease");
        }
        let (sample, mut daemon) = sample(&pia, pid, port, || setup.run_with(&arguments));
        daemon.stop();
        fs::copy(setup.lease_file(), lease).expect("the lease that the daemon stored");
        sample
    };
    let curl_loop = |lease: &Path, port: u16| {
        let dir = TempDir::new();
        let own = dir.path().join("lease");
        if lease.exists() {
            fs::copy(lease, &own).expect("a stored lease");
        }
        let run = || curl_loop(&setup, netns::command_in(pid, "sh"), dir.path(), 1).spawn().expect("the loop");
        let (sample, mut child) = sample(&pia, pid, port, run);
        assert!(child.wait().is_ok_and(|status| status.success()), "the loop failed");
        fs::copy(own, lease).expect("the lease that the loop stored");
        sample
    };

    let mut first_port = FIRST_PORT;
    let mut both = |job: &dyn Fn(&Path, u16) -> Sample, name: &str| {
        let ports = first_port..first_port + runs;
        first_port += runs;
        // The second round uses the leases of the first. Each start moves the client to a different port.
        [(); 2].map(|()| {
            let samples = ports.clone().map(|port| {
                pia.set(|state| state.next_port = port.into());
                job(&leases.path().join(format!("{name}-{port}")), port)
            });
            let (bound, listening) =
                samples.map(|sample| (sample.bound, sample.listening)).unzip::<_, _, Vec<_>, Vec<_>>();
            Sample { bound: median(bound), listening: median(listening) }
        })
    };
    let (ours, plain) = (both(&daemon, "daemon"), both(&curl_loop, "loop"));
    let login = login_by_curl(client, pid);
    assert_eq!(pia.complaints(), Vec::<String>::new());

    for (ours, plain, from, trips) in
        [(&ours[0], &plain[0], "a cached token", 4), (&ours[1], &plain[1], "a stored lease", 3)]
    {
        let row = |what: &str, ours: Duration, plain: Duration| Row {
            what: format!("{}: {what}, {from}", client.label),
            target: String::new(),
            measured: format!("{} = {}", ms(ours), trips_and_rest(ours, round_trip, trips)),
            verdict: "",
            plain: format!("{} (x{:.2})", ms(plain), ours.as_secs_f64() / plain.as_secs_f64()),
        };
        let limit = round_trip * trips + ALLOWANCE;
        table.0.push(Row {
            target: format!("<= {trips} RTT + 30 ms"),
            verdict: verdict(ours.bound <= limit),
            ..row("exec to bound", ours.bound, plain.bound)
        });
        table.0.push(row("exec to listening", ours.listening, plain.listening));
        // The reply of the gateway takes half a round trip to get here.
        let followed = ours.listening.saturating_sub(ours.bound + round_trip / 2);
        table.0.push(Row {
            what: format!("{}: bound to listening, {from}", client.label),
            target: "<= a login + 50 ms".into(),
            measured: format!("{} (a login by curl: {})", ms(followed), ms(login)),
            verdict: verdict(followed <= login + BEYOND_LOGIN),
            plain: String::new(),
        });
    }
}

/// Median time of a login at the client, measured by curl in its namespace.
fn login_by_curl(client: &Client, pid: u32) -> Duration {
    median((0..11).map(|_| {
        let mut curl = netns::command_in(pid, "curl");
        curl.args(["--silent", "--output", "/dev/null", "--write-out", "%{time_total}", "--noproxy", "*"]);
        for (name, value) in [("username", &client.username), ("password", &client.password)] {
            curl.args(["--data-urlencode", &format!("{name}={value}")]);
        }
        let output = curl.arg(format!("{}/api/v2/auth/login", client.url)).output().expect("curl");
        let seconds = String::from_utf8_lossy(&output.stdout).parse().expect("seconds");
        Duration::from_secs_f64(seconds)
    }))
}

fn trips_and_rest(time: Duration, round_trip: Duration, trips: u32) -> String {
    let rest = (time.as_secs_f64() - round_trip.as_secs_f64() * f64::from(trips)) * 1000.0;
    format!("{trips} RTT {} {:.1} ms", if rest < 0.0 { '-' } else { '+' }, rest.abs())
}

/// Command that runs the curl loop with the servers of a setup and its files in `dir`.
fn curl_loop(setup: &Setup, mut shell: Command, dir: &Path, rounds: usize) -> Command {
    shell.args(["-c", CURL_LOOP]).current_dir(dir).env("ROUNDS", rounds.to_string()).env("no_proxy", "*");
    for name in [
        "PIA_CA_CERT",
        "PIA_HOSTNAME",
        "PIA_GATEWAY",
        "PIA_TOKEN_FILE",
        "QBITTORRENT_HOST",
        "QBITTORRENT_USERNAME",
        "QBITTORRENT_PASSWORD",
    ] {
        shell.env(name, setup.value(name));
    }
    shell.stdin(Stdio::null()).stderr(Stdio::null()).stdout(Stdio::null());
    shell
}

/// Measures the memory of a daemon with every notification enabled, and its response time while the gateway hangs.
fn with_notifications(table: &mut Table, client: &Client) {
    let pia = Pia::start();
    let listener = Server::start(([127, 0, 0, 1], 0).into(), None, |_| Reply::text(200, "OK"));
    let url = format!("http://{}/", listener.address());
    let address = TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a free port");
    let dir = TempDir::new();
    let file = |name: &str| dir.path().join(name).display().to_string();
    let setup = client.setup(DAEMON, &pia).env("PORT_FILE", file("port")).env("METRICS_FILE", file("metrics.prom"));
    let setup = setup.env("PORT_CHANGE_COMMAND", "/bin/true").env("PORT_CHANGE_URL", url.clone());
    let mut daemon = setup.env("HEARTBEAT_URL", url).env("STATUS_ADDRESS", address.to_string()).run();
    daemon.wait_for_status("verified", |status| status.client_verified_at.is_some() && status.bound_at.is_some());
    let scrape = || {
        let began = Instant::now();
        let mut reply = String::new();
        let mut page = TcpStream::connect(address).expect("the page");
        page.write_all(b"GET /metrics HTTP/1.1\r\n\r\n").expect("a request");
        page.read_to_string(&mut reply).expect("a reply");
        assert!(reply.contains("\npia_sync_port "), "{reply}");
        began.elapsed()
    };
    for _ in 0..WARM_UP {
        keepalive(&mut daemon, &pia);
        scrape();
    }
    let memory = daemon.memory(true) * 1024;
    pia.set_mood(Mood::Silent);
    daemon.reload();
    daemon.expect_line("reload");
    let answered = median((0..SCRAPES).map(|_| scrape()));
    table.0.push(Row {
        what: "peak memory with every notification enabled".into(),
        target: "<= 4 MB".into(),
        measured: megabytes(memory),
        verdict: verdict(memory <= MAX_MEMORY_OF_ALL),
        plain: String::new(),
    });
    table.0.push(Row {
        what: format!("a scrape while the gateway hangs, median of {SCRAPES}"),
        target: format!("<= {} ms", MAX_SCRAPE.as_millis()),
        measured: ms(answered),
        verdict: verdict(answered <= MAX_SCRAPE),
        plain: String::new(),
    });
}

/// Measures memory, CPU time and wake-ups of a daemon whose servers are all local.
fn costs(table: &mut Table, client: &Client, idle: Duration) {
    let pia = Pia::start();
    let setup = client.setup(DAEMON, &pia);
    let mut daemon = setup.run();
    daemon.wait_for_status("verified", |status| status.client_verified_at.is_some() && status.bound_at.is_some());
    for _ in 0..WARM_UP {
        keepalive(&mut daemon, &pia);
    }
    let memory = daemon.memory(true) * 1024;
    let before = cpu_ms(&daemon.pid().to_string(), OWN);
    for _ in 0..KEEPALIVES {
        keepalive(&mut daemon, &pia);
    }
    let ours = mean(cpu_ms(&daemon.pid().to_string(), OWN) - before, KEEPALIVES);

    let (dir, before) = (TempDir::new(), cpu_ms("self", OF_CHILDREN));
    let status = curl_loop(&setup, Command::new("sh"), dir.path(), LOOP_KEEPALIVES).status();
    assert!(status.is_ok_and(|status| status.success()), "the loop failed");
    let plain = mean(cpu_ms("self", OF_CHILDREN) - before, LOOP_KEEPALIVES);

    let changes: Vec<_> = (2..2 + CHANGES).map(|source| reconnect_time(&mut daemon, &pia, source)).collect();
    let reconnect = median(changes);

    let before = switches(daemon.pid());
    thread::sleep(idle);
    let wake_ups = mean(switches(daemon.pid()) - before, 1) * 60.0 / idle.as_secs_f64();
    assert!(daemon.ended().is_none(), "the daemon has ended\n{}", daemon.log());

    table.0.push(Row {
        what: format!("peak resident memory after {WARM_UP} keepalives"),
        target: "<= 3.6 MB".into(),
        measured: megabytes(memory),
        verdict: verdict(memory <= MAX_MEMORY),
        plain: String::new(),
    });
    with_notifications(table, client);
    table.0.push(Row {
        what: format!("CPU of a keepalive, mean of {KEEPALIVES}"),
        target: format!("<= {MAX_CPU_MS} ms"),
        measured: format!("{ours:.2} ms"),
        verdict: verdict(ours <= MAX_CPU_MS),
        plain: format!("{plain:.2} ms (x{:.3})", ours / plain),
    });
    table.0.push(Row {
        what: format!("changed route to first byte at the gateway, median of {CHANGES}"),
        target: format!("<= {} ms", MAX_NOTICE.as_millis()),
        measured: ms(reconnect),
        verdict: verdict(reconnect <= MAX_NOTICE),
        plain: String::new(),
    });
    table.0.push(Row {
        what: format!("wake-ups a minute, idle for {} s", idle.as_secs()),
        target: format!("<= {MAX_WAKE_UPS}"),
        measured: format!("{wake_ups:.1}"),
        verdict: verdict(wake_ups <= MAX_WAKE_UPS),
        plain: String::new(),
    });
}

/// Changes the route to the gateway to source address 127.0.0.SOURCE, as a new tunnel does. Returns the time until the
/// daemon connects to the gateway.
fn reconnect_time(daemon: &mut Daemon, pia: &Pia, source: u8) -> Duration {
    let connections = pia.counts().connections;
    let gateway = pia.gateway().ip();
    netns::ip_here(&format!("route replace local {gateway}/32 dev lo src 127.0.0.{source} table local"));
    let begin = Instant::now();
    let limit = begin + Duration::from_secs(10);
    while pia.counts().connections == connections && Instant::now() < limit {
        thread::sleep(Duration::from_micros(200));
    }
    let took = begin.elapsed();
    settle(daemon.pid());
    took
}

/// Causes a bind and a check of the client, and waits for both.
fn keepalive(daemon: &mut Daemon, pia: &Pia) {
    let binds = pia.bound().len();
    daemon.reload();
    daemon.wait_until("a keepalive", || pia.bound().len() > binds);
    settle(daemon.pid());
}

/// Waits until no thread of the process has run for a while.
fn settle(pid: u32) {
    let mut last = u64::MAX;
    let settled = wait_until(Duration::from_secs(10), || {
        let now = switches(pid);
        let same = now == last;
        last = now;
        if !same {
            // Longer than any server on this machine takes to reply.
            thread::sleep(Duration::from_millis(20));
        }
        same
    });
    assert!(settled, "the daemon does not become idle");
}

/// Number of context switches of all threads of the process.
fn switches(pid: u32) -> u64 {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("a running process").flatten();
    tasks
        .map(|task| {
            let file = task.path().join("status").display().to_string();
            of_status(&file, "voluntary_ctxt_switches") + of_status(&file, "nonvoluntary_ctxt_switches")
        })
        .sum()
}

/// A number from a status file in /proc.
fn of_status(file: &str, name: &str) -> u64 {
    let text = fs::read_to_string(file).expect("a running process");
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.and_then(|value| value.split_whitespace().next()?.parse().ok()).expect("a number")
}

/// Positions of user and system time in /proc/PID/stat, counted from the process's state.
const OWN: [usize; 2] = [11, 12];
const OF_CHILDREN: [usize; 2] = [13, 14];

fn cpu_ms(pid: &str, fields: [usize; 2]) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).expect("a running process");
    // The program's name before them may contain spaces and parentheses.
    let (_, numbers) = text.rsplit_once(") ").expect("a name");
    let numbers: Vec<&str> = numbers.split_whitespace().collect();
    fields.iter().map(|&at| numbers[at].parse::<u64>().expect("a number") * MS_PER_TICK).sum()
}

#[expect(clippy::cast_precision_loss, reason = "small numbers")]
fn mean(sum: u64, count: usize) -> f64 {
    sum as f64 / count as f64
}

fn megabytes(bytes: u64) -> String {
    format!("{:.2} MB", mean(bytes, 1_000_000))
}

fn verdict(met: bool) -> &'static str {
    if met { "ok" } else { "MISSED" }
}

/// A row of the table.
struct Row {
    what: String,
    target: String,
    measured: String,
    verdict: &'static str,
    /// Figure of the curl loop, and the daemon's share of it.
    plain: String,
}

#[derive(Default)]
struct Table(Vec<Row>);

impl Table {
    fn with_size(mut self) -> Self {
        let bytes = fs::metadata(DAEMON).expect("the daemon's binary").len();
        self.0.push(Row {
            what: "size of the release binary, not a static one".into(),
            target: "<= 1.75 MB".into(),
            measured: megabytes(bytes),
            verdict: verdict(bytes <= MAX_SIZE),
            plain: String::new(),
        });
        self
    }

    fn text(&self) -> String {
        let head = ["", "target", "measured", "", "curl+jq loop (ratio)"].map(str::to_owned);
        let rows = self.0.iter().map(|row| {
            [row.what.clone(), row.target.clone(), row.measured.clone(), row.verdict.into(), row.plain.clone()]
        });
        let lines: Vec<[String; 5]> = std::iter::once(head).chain(rows).collect();
        let width = |column: usize| lines.iter().map(|line| line[column].len()).max().unwrap_or(0);
        let widths: [usize; 5] = std::array::from_fn(width);
        lines.iter().fold(String::new(), |text, line| {
            let cells = line.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}"));
            text + cells.collect::<Vec<_>>().join("  ").trim_end() + "\n"
        })
    }
}
