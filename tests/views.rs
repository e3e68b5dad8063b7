//! Interfaces to other programs: hook command, URLs, metrics and status server. However these programs behave, no bind
//! is late.

mod support;

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use support::daemon::{LATER, SOON, mode};
use support::load::is_prompt;
use support::pia;
use support::world::{Running, World};
use support::{Ca, Leaf, Mood, Reply, Scripts, Server, VALID, lock, wait_until};

/// Limit for delays: longer than the delays of a busy machine, shorter than those of a hook or a monitor that hangs.
const MAX_DELAY: Duration = Duration::from_secs(4);

/// Writes a user's script and returns the command that runs it. Run by a shell, because executing the file itself fails
/// while a child of a parallel test still has it open for writing.
fn script(world: &World, text: &str) -> String {
    format!("/bin/sh {}", world.setup.dir().write("hook", text).display())
}

/// Makes the daemon lease a different port.
fn change_port(daemon: &Running, port: u16) {
    daemon.pia().set(|state| state.next_port = port.into());
    daemon.pia().scripts.next(pia::BIND_PORT, [pia::port_expired()]);
}

/// A user's web server, and the paths and queries of its requests.
fn listener(scripts: &Arc<Scripts>) -> (Server, Arc<Mutex<Vec<String>>>) {
    let requests = Arc::new(Mutex::new(Vec::new()));
    let (record, scripts) = (Arc::clone(&requests), Arc::clone(scripts));
    let server = Server::start(([127, 0, 0, 1], 0).into(), None, move |request| {
        lock(&record).push(request.target.clone());
        scripts.take("").unwrap_or_else(|| Reply::text(200, "OK"))
    });
    (server, requests)
}

/// States of the daemon's child processes, from /proc.
fn children(daemon: &Running) -> Vec<String> {
    let pid = daemon.pid();
    let threads = fs::read_dir(format!("/proc/{pid}/task")).expect("a daemon that runs");
    let pids = threads.flatten().filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok());
    let pids: Vec<String> =
        pids.flat_map(|pids| pids.split_whitespace().map(str::to_owned).collect::<Vec<_>>()).collect();
    let state = |pid: &String| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        Some(stat.rsplit_once(')')?.1.trim().chars().next()?.to_string())
    };
    pids.iter().filter_map(state).collect()
}

#[test]
fn the_command_runs_once_for_each_port_without_secrets() {
    let world = World::new();
    let log = world.setup.dir().path().join("seen");
    let hook = script(&world, &format!("echo said \"$@\"\nenv | sort >>{0}\necho \"$@\" >>{0}.args", log.display()));
    let command = format!("{hook} {{port}} 'old {{old_port}}' {{{{PORT}}}} [{{interface}}]");
    let mut daemon = world.env("PORT_CHANGE_COMMAND", command).settle();
    daemon.rewind();
    daemon.expect_line("PORT_CHANGE_COMMAND: said 47047 old 0 47047 [lo]");
    daemon.expect_line("PORT_CHANGE_COMMAND: done for port 47047");
    daemon.wait_for_binds(3);
    change_port(&daemon, 50002);
    daemon.expect_line("PORT_CHANGE_COMMAND: done for port 50002");
    daemon.wait_for_binds(3);
    let args = fs::read_to_string(log.with_extension("args")).expect("the hook's output");
    assert_eq!(args, "47047 old 0 47047 [lo]\n50002 old 47047 50002 [lo]\n", "once each");
    let seen = fs::read_to_string(&log).expect("the hook's output");
    assert!(
        seen.contains("\nPORT=47047\n") && seen.contains("OLD_PORT=47047\n") && seen.contains("INTERFACE=lo\n"),
        "{seen}"
    );
    for ours in ["PIA_", "QBITTORRENT_", "STATE_DIR", "PORT_CHANGE", "LOG_LEVEL"] {
        assert!(!seen.contains(ours), "{ours}: {seen}");
    }
}

#[test]
fn a_failed_command_is_logged_once_and_run_again_at_the_next_bind() {
    let world = World::new();
    let count = world.setup.dir().path().join("count").display().to_string();
    let text = format!("echo x >>{count}\n[ $(wc -l <{count}) -ge 4 ] || exit 3");
    let hook = script(&world, &text);
    let mut daemon = world.env("PORT_CHANGE_COMMAND", hook).settle();
    daemon.rewind();
    daemon.expect_line("WARN  PORT_CHANGE_COMMAND: failed (exit status: 3); retrying at the next bind");
    daemon.expect_line("PORT_CHANGE_COMMAND: works again after");
    daemon.wait_for_binds(3);
    assert_eq!(fs::read_to_string(count).expect("a count").lines().count(), 4, "{}", daemon.log());
    assert_eq!(daemon.lines_at("WARN", "PORT_CHANGE_COMMAND: failed").len(), 1, "{}", daemon.log());
}

#[test]
fn a_command_that_hangs_delays_no_bind_and_is_killed() {
    let world = World::new();
    let hook = script(&world, "sleep 1000 & sleep 1000");
    let began = Instant::now();
    let mut daemon = world.env("PORT_CHANGE_COMMAND", hook).settle();
    daemon.wait_for_line("PORT_CHANGE_COMMAND: took longer than 30 s and was killed", Duration::from_secs(45));
    let gap = daemon.pia().longest_gap(began);
    println!("longest gap between two binds: {gap:.1?}");
    assert!(is_prompt(gap, MAX_DELAY), "{gap:?}");
    // The next attempt may already run in a child of its own, but no zombie may be left.
    assert!(children(&daemon).iter().all(|state| state != "Z"), "{:?}", children(&daemon));
}

#[test]
fn a_running_command_ends_with_the_service() {
    let world = World::new();
    let pid = world.setup.dir().path().join("pid");
    let hook = script(&world, &format!("echo $$ >{}; exec sleep 1000", pid.display()));
    let mut daemon = world.env("PORT_CHANGE_COMMAND", hook).settle();
    let pid = || fs::read_to_string(&pid).ok().and_then(|pid| pid.trim().parse::<u32>().ok());
    daemon.wait_until("a command that runs", || pid().is_some());
    let (status, took) = daemon.stop();
    assert!(status.success() && is_prompt(took, MAX_DELAY), "{status} after {took:?}");
    assert!(!fs::exists(format!("/proc/{}", pid().expect("a pid"))).expect("/proc"), "the command still runs");
}

#[test]
fn background_processes_of_a_command_are_not_waited_for() {
    let world = World::new();
    let hook = script(&world, "i=0; while [ $i -lt 9 ]; do echo line $i; i=$((i+1)); done; sleep 60 &");
    let mut daemon = world.env("PORT_CHANGE_COMMAND", hook).settle();
    daemon.rewind();
    daemon.wait_for_line("PORT_CHANGE_COMMAND: done for port 47047", SOON);
    assert_eq!(daemon.count_lines("PORT_CHANGE_COMMAND: line"), 5, "{}", daemon.log());
    assert_eq!(children(&daemon), [""; 0]);
}

#[test]
fn the_url_is_requested_for_each_port_until_it_succeeds() {
    let scripts = Arc::new(Scripts::default());
    scripts.next("", [Reply::text(500, "no: secret-token"), Reply::text(302, "")]);
    let (server, requests) = listener(&scripts);
    let url = format!("http://{}/secret-token/set?port={{port}}&old={{old_port}}&if={{interface}}", server.address());
    let mut daemon = World::new().env("PORT_CHANGE_URL", url).env("LOG_LEVEL", "TRACE").settle();
    daemon.rewind();
    daemon.expect_line("WARN  PORT_CHANGE_URL: HTTP 500; check that the URL is complete");
    daemon.expect_line("PORT_CHANGE_URL: works again after");
    daemon.wait_for_binds(3);
    change_port(&daemon, 50002);
    let first = "/secret-token/set?port=47047&old=0&if=lo";
    let all = [first, first, first, "/secret-token/set?port=50002&old=47047&if=lo"];
    daemon.wait_until("the second port", || lock(&requests).len() >= 4);
    daemon.wait_for_binds(2);
    assert_eq!(*lock(&requests), all);
    assert!(!daemon.log().contains("secret-token"), "{}", daemon.log());
}

#[test]
fn a_private_ca_for_notifications_can_be_set() {
    let ca = Ca::new("Private CA");
    let tls = ca.server(&Leaf { names: &["127.0.0.1"], common_name: "monitor", years: VALID }, false);
    let requests = Arc::new(Mutex::new(0));
    let counter = Arc::clone(&requests);
    let server = Server::start(([127, 0, 0, 1], 0).into(), Some(tls), move |_| {
        *lock(&counter) += 1;
        Reply::text(200, "OK")
    });
    let world = World::new();
    let file = world.setup.dir().write("notify.pem", ca.pem()).display().to_string();
    let world = world.env("HEARTBEAT_URL", format!("https://{}/x", server.address()));
    let once = world.setup.run_once(&["once"]);
    assert!(once.stdout.contains("HEARTBEAT_URL: the certificate is not signed by the expected CA"), "{once:?}");
    assert!(once.stdout.contains("; set NOTIFY_CA_CERT to the CA that signed the server's certificate"), "{once:?}");
    assert_eq!((once.code, *lock(&requests)), (Some(0), 0));
    let once = world.env("NOTIFY_CA_CERT", file).setup.run_once(&["once"]);
    assert_eq!((once.code, *lock(&requests)), (Some(0), 1), "{once:?}");
}

#[test]
fn a_url_that_never_answers_delays_no_bind() {
    let scripts = Arc::new(Scripts::default());
    let (server, _) = listener(&scripts);
    server.set_mood(Mood::Silent);
    let url = format!("http://{}/x", server.address());
    let began = Instant::now();
    let world = World::new().env("PORT_CHANGE_URL", url.clone()).env("HEARTBEAT_URL", url);
    let mut daemon = world.settle();
    daemon.rewind();
    for name in ["PORT_CHANGE_URL", "HEARTBEAT_URL"] {
        daemon.rewind();
        daemon.wait_for_line(&format!("WARN  {name}: no answer within 10 s"), LATER);
    }
    daemon.wait_for_binds(4);
    let gap = daemon.pia().longest_gap(began);
    println!("longest gap between two binds: {gap:.1?}");
    assert!(is_prompt(gap, MAX_DELAY), "{gap:?}");
    assert_eq!(daemon.lines_at("WARN", "HEARTBEAT_URL").len(), 1, "{}", daemon.log());
}

#[test]
fn a_monitor_gets_one_heartbeat_an_interval_and_a_failure_at_once() {
    let scripts = Arc::new(Scripts::default());
    let (server, requests) = listener(&scripts);
    let url = format!("http://{}/api/push/secret?status=up&msg=OK&ping=", server.address());
    let mut daemon = World::new().env("HEARTBEAT_URL", url).env("LOG_LEVEL", "TRACE").settle();
    daemon.wait_until("heartbeats", || lock(&requests).len() >= 3);
    daemon.wait_for_binds(5);
    let (binds, beats) = (daemon.pia().bound().len(), lock(&requests).len());
    assert!(beats <= binds + 1, "{beats} for {binds} binds");
    assert!(
        lock(&requests).iter().all(|path| path.starts_with("/api/push/secret?status=up&msg=port%2047047")),
        "{requests:?}"
    );
    daemon.pia().pause();
    let down =
        || lock(&requests).last().is_some_and(|path| path.contains("?status=down&msg=bindPort%3A%20cannot%20connect"));
    assert!(wait_until(Duration::from_secs(60), down), "{requests:?}");
    daemon.pia().resume();
    let up = || lock(&requests).last().is_some_and(|path| path.contains("?status=up&"));
    assert!(wait_until(Duration::from_secs(60), up), "{requests:?}");
    assert!(!daemon.log().contains("secret"), "{}", daemon.log());
}

#[test]
fn the_metrics_file_is_complete_and_readable_by_all_users() {
    let world = World::new();
    let path = world.setup.dir().path().join("pia_sync.prom");
    let mut daemon = world.env("METRICS_FILE", path.display().to_string()).settle();
    let text = || fs::read_to_string(&path).unwrap_or_default();
    daemon.wait_until("metrics", || text().contains("\npia_sync_healthy 1\n"));
    for line in [
        "pia_sync_port 47047",
        "pia_sync_client_port 47047",
        "pia_sync_leases_total 1",
        "pia_sync_client_moves_total 1",
    ] {
        assert!(text().contains(&format!("\n{line}\n")), "{line}: {}", text());
    }
    assert_eq!(mode(&path), 0o644);
    daemon.pia().pause();
    daemon.wait_until("a failing gateway", || text().contains("pia_sync_failing{peer=\"gateway\"} 1\n"));
    daemon.pia().resume();
    daemon.reload();
    daemon.wait_until("a gateway that works", || text().contains("\npia_sync_healthy 1\n"));
    daemon.stop();
    assert!(text().contains("\npia_sync_healthy 0\n"), "a stopped service is not healthy: {}", text());
}

#[test]
fn the_status_server_answers_while_the_gateway_hangs() {
    let address = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port");
    let mut daemon = World::new().env("STATUS_ADDRESS", address.to_string()).settle();
    let portforward = ask(address, "/v1/portforward");
    assert!(portforward.ends_with("{\"port\":47047,\"ports\":[47047]}\n"), "{portforward}");
    assert!(
        wait_until(SOON, || ask(address, "/healthz").starts_with("HTTP/1.1 200 OK")),
        "{}",
        ask(address, "/healthz")
    );
    daemon.pia().set_mood(Mood::Silent);
    daemon.reload();
    daemon.expect_line("reload");
    let began = Instant::now();
    let metrics = ask(address, "/metrics");
    println!("answered after {:.1?}", began.elapsed());
    assert!(metrics.contains("\npia_sync_port 47047\n") && is_prompt(began.elapsed(), MAX_DELAY), "{metrics}");
    let status = daemon.world.setup.status().expect("a status");
    assert!(ask(address, "/status").contains(&format!("\"version\":\"{}\"", status.version)));
}

/// After DNS rebinding, the Host header of a web page's requests still has the page's own name.
#[test]
fn the_status_server_refuses_a_web_page_that_reaches_it_under_a_foreign_name() {
    let address = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port");
    let world = World::new().env("STATUS_ADDRESS", address.to_string()).env("STATUS_HOSTS", "nas.local, sync.example");
    let mut daemon = world.settle();
    let reply = |host: &str| ask_as(address, host, "/v1/portforward");
    for host in ["127.0.0.1:9849", "[::1]:9849", "localhost", "gluetun:9849", "nas.local:9849", "Sync.Example."] {
        assert!(reply(host).starts_with("HTTP/1.1 200 OK"), "{host}: {}", reply(host));
    }
    for host in ["evil.example:9849", "127.0.0.1.evil.example", "nas.local.evil.example", "evil.example:nas", "\u{ff}"]
    {
        let refused = reply(host);
        assert!(refused.starts_with("HTTP/1.1 421 ") && refused.contains("STATUS_HOSTS"), "{host}: {refused}");
        assert!(!refused.contains("47047"), "{host}: {refused}");
    }
    let line = "if that name is yours, set STATUS_HOSTS=nas.local,sync.example,evil.example";
    daemon.expect_line(line);
    assert_eq!(daemon.lines_at("WARN", "STATUS_ADDRESS: refused").len(), 1, "{}", daemon.log());
}

fn ask(address: SocketAddr, path: &str) -> String {
    ask_as(address, "x", path)
}

/// Sends `host` as the Host header.
fn ask_as(address: SocketAddr, host: &str, path: &str) -> String {
    let mut reply = String::new();
    if let Ok(mut client) = TcpStream::connect(address) {
        client.write_all(format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes()).expect("a request");
        let _ = client.read_to_string(&mut reply);
    }
    reply
}

#[test]
fn once_sends_every_notification_before_it_ends() {
    let scripts = Arc::new(Scripts::default());
    let (server, requests) = listener(&scripts);
    let world = World::new();
    let seen = world.setup.dir().path().join("seen");
    let hook = script(&world, &format!("sleep 0.3; echo $PORT >{}", seen.display()));
    let world = world
        .env("PORT_CHANGE_COMMAND", hook)
        .env("PORT_CHANGE_URL", format!("http://{}/p/{{port}}", server.address()))
        .env("HEARTBEAT_URL", format!("http://{}/beat", server.address()));
    let once = world.setup.run_once(&["once"]);
    assert_eq!(once.code, Some(0), "{once:?}");
    assert_eq!(fs::read_to_string(seen).ok().as_deref(), Some("47047\n"));
    let mut requests = lock(&requests).clone();
    requests.sort();
    assert_eq!(requests, ["/beat", "/p/47047"]);
    assert_eq!(world.setup.run_once(&["check"]).code, Some(0));
}

#[test]
fn an_invalid_notification_setting_is_reported_before_anything_is_sent() {
    let world = World::new()
        .env("PORT_CHANGE_COMMAND", "/nonexistent/hook {port} secret-token")
        .env("PORT_CHANGE_URL", "ftp://secret-token/")
        .env("HEARTBEAT_URL", "http://user:secret-token@x/")
        .env("STATUS_ADDRESS", "9849")
        .env("STATUS_HOSTS", "http://nas.local:9849/");
    let check = world.setup.run_once(&["check", "--config-only"]);
    assert_eq!(check.code, Some(78), "{check:?}");
    for line in [
        "PORT_CHANGE_COMMAND: names a program that does not exist: /nonexistent/hook; ",
        "PORT_CHANGE_URL: has a scheme that is neither http nor https; ",
        "HEARTBEAT_URL: contains a user name; ",
        "STATUS_ADDRESS=9849: is not an address with a port; ",
        "STATUS_HOSTS=http://nas.local:9849/: contains characters that are not allowed in a host name; ",
    ] {
        assert!(check.stderr.contains(line), "{line}: {check:?}");
    }
    assert!(!check.stderr.contains("secret-token"), "{check:?}");
}
