//! Misbehaviour on the wire: every kind that the daemon must survive, shown by each of its remotes.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use super::support::daemon::Daemon;
use super::support::pia::{self, BIND_PORT, GET_SIGNATURE, LOGIN};
use super::support::qbt::PREFERENCES;
use super::support::rows::missing;
use super::support::world::World;
use super::support::{Killed, Mood, Reply, lock, wait_until};
use super::{Fault, MEASURED, MEMORY, REPORT_LIMIT, Row, assert_harmless};

const GIGABYTE: usize = 1 << 30;
/// Error for a body that is not ours. A login reports a missing token instead.
const NO_JSON: &str = "is not a JSON object";

/// Limit for the CPU time of a debug build after a few hostile replies, its start included.
const CPU: Duration = Duration::from_secs(1);
/// Limit in KiB for the peak memory of a debug build after a small reply that is large when parsed.
const BOMB_MEMORY: u64 = 10 * 1024;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Remote {
    Login,
    Signature,
    Bind,
    Client,
}

#[derive(Clone)]
enum Misbehaviour {
    Reply(Reply),
    Mood(Mood),
    Down,
}

pub fn rows() -> Vec<Row> {
    let mut rows = Vec::new();
    for (name, remote) in [
        ("the website", Remote::Login),
        ("getSignature", Remote::Signature),
        ("bindPort", Remote::Bind),
        ("qBittorrent", Remote::Client),
    ] {
        for (action, misbehaviour, words) in misbehaviours() {
            // An answer without TLS is correct for plain HTTP.
            if needs_tls(&misbehaviour) && remote == Remote::Client {
                continue;
            }
            rows.push(Row::new(format!("{name} {action}"), move || misbehaves(remote, &misbehaviour, words)));
        }
        for (action, make) in oddities() {
            rows.push(Row::new(format!("{name} {action}"), move || is_odd(remote, make)));
        }
        for (kind, json) in bombs() {
            rows.push(Row::new(format!("{name} sends a JSON bomb of {kind}"), move || is_a_bomb(remote, &json)));
        }
    }
    rows.push(Row::new("qBittorrent sets huge cookies and sends a reply of 260 KB", sets_huge_cookies));
    rows.push(Row::new("the gateway refuses a lease of the maximum length", refuses_the_longest_lease));
    rows.push(Row::new("a different user takes qBittorrent's port while it is down", a_different_user_takes_the_port));
    rows.extend(outages());
    rows
}

/// Accepts connections as a different user, prints what they send, and asks for a login.
const IMPOSTOR: &str = "
import os, socket, sys
try:
    os.setuid(65533)
except PermissionError:
    sys.exit('only root can become a different user')
server = socket.create_server((sys.argv[1], int(sys.argv[2])))
print('listens', flush=True)
while True:
    connection = server.accept()[0]
    connection.settimeout(5)
    try:
        request = connection.recv(4096)
        if request:
            print(request, flush=True)
        connection.sendall(b'HTTP/1.1 403 Forbidden\\r\\nContent-Length: 0\\r\\nConnection: close\\r\\n\\r\\n')
    except OSError:
        pass
    connection.close()
";

/// Starts a program of a different user at `address`; also returns its output so far.
fn impostor(address: SocketAddr) -> (Killed, Arc<Mutex<String>>) {
    let mut child = Command::new("python3")
        .args(["-c", IMPOSTOR, &address.ip().to_string(), &address.port().to_string()])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap_or_else(|error| missing(format!("python3: {error}")));
    let lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
    let (child, output) = (Killed(child), Arc::new(Mutex::new(String::new())));
    let collected = Arc::clone(&output);
    thread::spawn(move || {
        for line in lines.map_while(Result::ok) {
            lock(&collected).push_str(&line);
        }
    });
    if !wait_until(REPORT_LIMIT, || lock(&output).contains("listens")) {
        missing("root, to start a program as a different user");
    }
    (child, output)
}

fn a_different_user_takes_the_port() {
    let mut daemon = World::new().settle();
    daemon.skip_log();
    daemon.qbt().pause();
    let (child, received) = impostor(daemon.qbt().address());
    // Several intervals.
    daemon.wait_for_binds(4);
    assert_eq!(*lock(&received), "listens", "{}", daemon.log());
    // A check between the two programs finds no listener at all.
    let line = daemon.wait_for_line("user 65533 listens on 127.", REPORT_LIMIT);
    assert!(line.contains("instead of user 0") && line.contains("ss -tlnp"), "{line}");
    drop(child);
    daemon.qbt().resume();
    daemon.expect_line("qBittorrent: recovered after");
    daemon.qbt().pause();
    let (_child, received) = impostor(daemon.qbt().address());
    daemon.wait_for_line("user 65533 listens", REPORT_LIMIT);
    // The user has given the client a different user.
    daemon.reload();
    daemon.wait_until("a request after the reload", || lock(&received).contains("POST /api/v2/auth/login"));
}

/// Refused connections, from the start or later, each with the words in the log.
fn outages() -> Vec<Row> {
    const REGION: &[&str] = &["connection refused", "region with port forwarding"];
    const AGAIN: &[&str] = &["connection refused", "this worked before"];
    const CLIENT: &[&str] = &["connection refused", "QBITTORRENT_HOST"];
    type Test = fn(Remote, &Misbehaviour, &[&str]);
    let outages: [(_, _, Test, &'static [&'static str]); 5] = [
        ("the website is unreachable", Remote::Login, misbehaves, &["cannot connect", "connection refused"]),
        ("a region without port forwarding refuses connections", Remote::Signature, misbehaves, REGION),
        ("the gateway goes down", Remote::Bind, misbehaves, AGAIN),
        ("qBittorrent restarts", Remote::Client, misbehaves, CLIENT),
        ("qBittorrent starts after the daemon", Remote::Client, misbehaves_from_the_start, CLIENT),
    ];
    outages.map(|(name, remote, test, words)| Row::new(name, move || test(remote, &Misbehaviour::Down, words))).into()
}

fn misbehaviours() -> Vec<(&'static str, Misbehaviour, &'static [&'static str])> {
    let head = |headers: &str| format!("HTTP/1.1 200 OK\r\n{headers}\r\n");
    let reply = Misbehaviour::Reply;
    vec![
        ("accepts and stays silent", Misbehaviour::Mood(Mood::Silent), &["no answer within 10 s"]),
        (
            "reads the request and never replies",
            reply(Reply::hang()),
            &["no answer within 10 s", "waiting for the reply"],
        ),
        (
            "drips a byte a second",
            reply(Reply::drip(head("Content-Length: 100\r\n"))),
            &["no answer within 10 s", "waiting for the reply"],
        ),
        (
            "announces and sends 1 GB",
            reply(Reply::flood(head(&format!("Content-Length: {GIGABYTE}\r\n")), GIGABYTE)),
            &["body", "larger than 262144 bytes"],
        ),
        ("sends 1 GB unannounced", reply(Reply::flood(head(""), GIGABYTE)), &["body", "larger than 262144 bytes"]),
        ("sends 1 GB of head", reply(Reply::flood("HTTP/1.1 200 OK\r\nX: ", GIGABYTE)), &["head", "larger than 32768"]),
        (
            "sends 1 GB of chunks",
            reply(Reply::flood(head("Transfer-Encoding: chunked\r\n") + "3fffffff\r\n", GIGABYTE)),
            &["body", "larger than 262144 bytes"],
        ),
        (
            "truncates the head",
            reply(Reply::raw("HTTP/1.1 200 OK\r\nContent-Le")),
            &["closed", "waiting for the reply"],
        ),
        (
            "truncates the body",
            reply(Reply::raw(head("Content-Length: 100\r\n") + "{")),
            &["closed", "reading the reply"],
        ),
        ("resets when it accepts", Misbehaviour::Mood(Mood::Resets), &["reset"]),
        ("resets at the first byte", Misbehaviour::Mood(Mood::ResetsHandshake), &["reset"]),
        ("resets instead of a reply", reply(Reply::reset("")), &["reset", "waiting for the reply"]),
        ("resets within the head", reply(Reply::reset("HTTP/1.1 200")), &["reset", "waiting for the reply"]),
        (
            "resets within the body",
            reply(Reply::reset(head("Content-Length: 100\r\n") + "{")),
            &["reset", "reading the reply"],
        ),
        ("closes instead of a reply", reply(Reply::close_before_reply()), &["closed", "waiting for the reply"]),
        ("answers with a page", reply(Reply::text(200, "<html>a portal</html>")), &["bad reply", NO_JSON]),
        ("answers with a list", reply(Reply::json(200, "[]")), &["bad reply", NO_JSON]),
        ("answers 502", reply(Reply::text(502, "<h1>bad gateway</h1>")), &["502", "<h1>bad gateway</h1>"]),
        ("redirects", reply(Reply::text(302, "").header("Location", "http://127.0.0.1:1/")), &["302"]),
        ("gives a bad length", reply(Reply::raw(head("Content-Length: -1\r\n"))), &["Content-Length", "not a number"]),
        (
            "gives two lengths",
            reply(Reply::raw(head("Content-Length: 1\r\nContent-Length: 2\r\n") + "xx")),
            &["Content-Length", "twice"],
        ),
        (
            "gives bad chunks",
            reply(Reply::raw(head("Transfer-Encoding: chunked\r\n") + "zz\r\n")),
            &["chunk", "malformed"],
        ),
        ("sends 200 headers", reply(Reply::raw(head(&"X: y\r\n".repeat(200)))), &["head", "larger than"]),
        ("speaks a different protocol", reply(Reply::raw("SSH-2.0-OpenSSH_9.2\r\n\r\n")), &["does not speak HTTP"]),
        ("answers without TLS", Misbehaviour::Mood(Mood::Plain), &["does not speak TLS"]),
    ]
}

fn needs_tls(misbehaviour: &Misbehaviour) -> bool {
    matches!(misbehaviour, Misbehaviour::Mood(Mood::Plain))
}

fn inflict(world: &World, remote: Remote, misbehaviour: &Misbehaviour) {
    match (misbehaviour, remote) {
        (Misbehaviour::Reply(reply), Remote::Login) => world.pia.scripts.always(LOGIN, reply.clone()),
        (Misbehaviour::Reply(reply), Remote::Signature) => world.pia.scripts.always(GET_SIGNATURE, reply.clone()),
        (Misbehaviour::Reply(reply), Remote::Bind) => world.pia.scripts.always(BIND_PORT, reply.clone()),
        (Misbehaviour::Reply(reply), Remote::Client) => world.qbt.scripts.always(PREFERENCES, reply.clone()),
        (Misbehaviour::Mood(mood), Remote::Login) => world.pia.set_login_mood(*mood),
        (Misbehaviour::Mood(mood), Remote::Signature | Remote::Bind) => world.pia.set_mood(*mood),
        (Misbehaviour::Mood(mood), Remote::Client) => world.qbt.set_mood(*mood),
        (Misbehaviour::Down, Remote::Login) => world.pia.pause_login(),
        (Misbehaviour::Down, Remote::Signature | Remote::Bind) => world.pia.pause(),
        (Misbehaviour::Down, Remote::Client) => world.qbt.pause(),
    }
}

fn relieve(world: &World) {
    world.pia.scripts.clear();
    world.qbt.scripts.clear();
    world.pia.set_mood(Mood::Normal);
    world.pia.set_login_mood(Mood::Normal);
    world.qbt.set_mood(Mood::Normal);
    world.pia.resume();
    world.pia.resume_login();
    if world.qbt.is_paused() {
        world.qbt.resume();
    }
}

fn misbehaves(remote: Remote, misbehaviour: &Misbehaviour, words: &[&str]) {
    let fault = match remote {
        Remote::Login | Remote::Signature => return misbehaves_from_the_start(remote, misbehaviour, words),
        Remote::Bind | Remote::Client => Fault::strike(World::new(), |world| inflict(world, remote, misbehaviour)),
    };
    is_reported_and_recovers(fault, remote, words);
}

fn misbehaves_from_the_start(remote: Remote, misbehaviour: &Misbehaviour, words: &[&str]) {
    is_reported_and_recovers(
        Fault::from_start(World::new(), |world| inflict(world, remote, misbehaviour)),
        remote,
        words,
    );
}

fn is_reported_and_recovers(fault: Fault, remote: Remote, words: &[&str]) {
    let (step, gate, name) = match remote {
        Remote::Login => ("PIA login: ", "account", "account"),
        Remote::Signature => ("getSignature: ", "gateway", "gateway"),
        Remote::Bind => ("bindPort: ", "gateway", "gateway"),
        Remote::Client => ("qBittorrent ", "client", "qBittorrent"),
    };
    let words = words.iter().map(|&word| match remote {
        Remote::Login if word == NO_JSON => "token is missing",
        _ => word,
    });
    let words: Vec<&str> = std::iter::once(step).chain(words).collect();
    let fault = fault.logs(&words).shows(gate);
    let fault = if remote == Remote::Client { fault.keeps_binding() } else { fault };
    let daemon = fault.relieve(relieve).recovers();
    assert_eq!(daemon.lines_at("INFO", &format!("{name}: recovered after")).len(), 1, "{}", daemon.log());
}

/// Builds an unusual reply from the usual body.
type Oddity = fn(&str) -> Vec<u8>;

/// Unusual but correct replies.
fn oddities() -> [(&'static str, Oddity); 4] {
    [
        ("answers in chunks", |body| {
            let (one, two) = body.split_at(body.len() / 2);
            let chunk = |text: &str| format!("{:x};x=y\r\n{text}\r\n", text.len());
            let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
            format!("{head}{}{}0\r\nTrailer: x\r\n\r\n", chunk(one), chunk(two)).into_bytes()
        }),
        ("sends 100 headers", |body| {
            let headers = "X-Header: y\r\n".repeat(100);
            format!("HTTP/1.1 200 OK\r\n{headers}Content-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
        }),
        ("ends the body by closing the connection", |body| format!("HTTP/1.1 200 OK\r\n\r\n{body}").into_bytes()),
        ("sends 100 Continue first", |body| {
            let interim = "HTTP/1.1 100 Continue\r\n\r\n";
            format!("{interim}HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
        }),
    ]
}

fn is_odd(remote: Remote, make: Oddity) {
    let world = World::new();
    let scripts = if remote == Remote::Client { &world.qbt.scripts } else { &world.pia.scripts };
    let (endpoint, body) = match remote {
        Remote::Login => (LOGIN, pia::token_body(&world.pia.make_token())),
        Remote::Signature => {
            let token = world.pia.make_token();
            (GET_SIGNATURE, world.pia.set(|state| state.grant(&token)))
        }
        Remote::Bind => (BIND_PORT, pia::bind_body(pia::SCHEDULED)),
        Remote::Client => (PREFERENCES, r#"{"listen_port":6881,"random_port":false}"#.to_owned()),
    };
    scripts.next(endpoint, [Reply::raw(make(&body))]);
    assert_harmless(world.settle());
}

/// Every excerpt of a reply is searched for all secrets, cookies included, so huge ones must not make that expensive.
fn sets_huge_cookies() {
    let mut daemon = World::new().settle();
    daemon.skip_log();
    let cookies = (0..8).map(|number| {
        let cookie = format!("n{number}={}", "a".repeat(31 * 1024));
        Reply::json(200, r#"{"listen_port":47047,"random_port":false}"#).header("Set-Cookie", cookie)
    });
    let hostile = Reply::text(500, "a".repeat(260_000));
    daemon.qbt().scripts.next(PREFERENCES, cookies.chain([hostile]));
    for _ in 0..8 {
        daemon.bind_again(1);
        daemon.expect_line("app/preferences on");
    }
    daemon.reload();
    let line = daemon.wait_for_level("ERROR", 2 * REPORT_LIMIT);
    is_cheap(&daemon);
    assert!(line.contains("HTTP 500: (260000 bytes, not shown)"), "{line}");
}

fn refuses_the_longest_lease() {
    let world = World::new();
    let token = world.pia.make_token();
    let lease = world.pia.set(|state| state.grant(&token));
    let (start, _) = lease.split_once(r#""signature":"#).expect("a lease");
    let longest = format!(r#"{start}"signature":"{}"}}"#, "a".repeat(16 * 1024));
    world.pia.scripts.next(GET_SIGNATURE, [Reply::json(200, longest)]);
    world.pia.scripts.next(BIND_PORT, [Reply::text(500, "a".repeat(260_000))]);
    // The text contains nothing like a token, so all of it is searched for parts of the lease.
    let words = (0..9999).map(|number| format!("word {number}, ")).collect::<Vec<_>>().concat();
    world.pia.scripts.always(BIND_PORT, Reply::text(500, words));
    let mut daemon = world.run();
    daemon.expect_line("bindPort: HTTP 500");
    for _ in 0..3 {
        daemon.reload();
        daemon.expect_line("/bindPort on");
    }
    is_cheap(&daemon);
}

#[track_caller]
fn is_cheap(daemon: &Daemon) {
    let (cpu, memory) = (daemon.cpu(), daemon.memory(true));
    println!("{MEASURED}{cpu:?} of CPU, {memory} KiB");
    assert!(cpu < CPU, "{cpu:?} of CPU");
    assert!(memory < MEMORY, "{memory} KiB");
}

/// Bodies near the size limit that take many times their size when parsed.
fn bombs() -> [(&'static str, String); 3] {
    let length = 250_000;
    let zeros = format!(r#"{{"x":[{}0]}}"#, "0,".repeat(length / 2 - 10));
    [
        ("zeros", zeros),
        ("nested arrays", "[".repeat(length)),
        ("many objects", format!(r#"{{"x":[{}{{"":0}}]}}"#, r#"{"":0},"#.repeat(length / 7 - 10))),
    ]
}

fn is_a_bomb(remote: Remote, json: &str) {
    let world = World::new();
    let endpoint = match remote {
        Remote::Login => LOGIN,
        Remote::Signature => GET_SIGNATURE,
        Remote::Bind => BIND_PORT,
        Remote::Client => PREFERENCES,
    };
    let scripts = if remote == Remote::Client { &world.qbt.scripts } else { &world.pia.scripts };
    scripts.next(endpoint, [Reply::json(200, json)]);
    let mut daemon = world.run();
    daemon.expect_line("bad reply");
    let memory = daemon.memory(true);
    println!("{MEASURED}{memory} KiB");
    assert!(memory < BOMB_MEMORY, "{memory} KiB");
}
