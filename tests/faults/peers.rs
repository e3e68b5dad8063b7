//! What any peer may do wrong on the wire, each of it done by each peer.

use std::time::Duration;

use super::support::daemon::Daemon;
use super::support::pia::{self, BIND_PORT, GET_SIGNATURE, LOGIN};
use super::support::qbt::PREFERENCES;
use super::support::world::World;
use super::support::{Mood, Reply};
use super::{Fault, MEASURED, MEMORY, Row, TOLD, harmless};

const GIGABYTE: usize = 1 << 30;
/// What is said of a body that is none of ours; at the login, that it holds no token.
const NO_JSON: &str = "is not a JSON object";

/// What a few hostile replies may cost a debug build, its start included.
const CPU: Duration = Duration::from_secs(1);
/// KiB that a debug build may ever have used after a reply that is small and large when it is parsed.
const BOMB_MEMORY: u64 = 10 * 1024;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Peer {
    Login,
    Signature,
    Bind,
    Client,
}

#[derive(Clone)]
enum Wrong {
    Says(Reply),
    Is(Mood),
    IsDown,
}

pub fn rows() -> Vec<Row> {
    let mut rows = Vec::new();
    for (who, peer) in [
        ("the website", Peer::Login),
        ("getSignature", Peer::Signature),
        ("bindPort", Peer::Bind),
        ("qBittorrent", Peer::Client),
    ] {
        for (what, wrong, words) in wrongs() {
            // To plain HTTP, an answer without TLS is one.
            if wrong_needs_tls(&wrong) && peer == Peer::Client {
                continue;
            }
            rows.push(Row::new(format!("{who} {what}"), move || misbehaves(peer, &wrong, words)));
        }
        for (what, make) in oddities() {
            rows.push(Row::new(format!("{who} {what}"), move || is_odd(peer, make)));
        }
        for (what, json) in bombs() {
            rows.push(Row::new(format!("{who} is a bomb of {what}"), move || is_a_bomb(peer, &json)));
        }
    }
    rows.push(Row::new("qBittorrent sets huge cookies and answers 260 KB", sets_huge_cookies));
    rows.push(Row::new("the gateway refuses the longest lease", refuses_the_longest_lease));
    rows.extend(downs());
    rows
}

/// Refused connections, from the start or from some time on, and what the user reads of each.
fn downs() -> Vec<Row> {
    const REGION: &[&str] = &["connection refused", "region", "forwards no ports"];
    const AGAIN: &[&str] = &["connection refused", "it worked before"];
    const CLIENT: &[&str] = &["connection refused", "QBITTORRENT_HOST"];
    type Test = fn(Peer, &Wrong, &[&str]);
    let downs: [(_, _, Test, &'static [&'static str]); 5] = [
        ("the website is out of reach", Peer::Login, misbehaves, &["cannot connect", "connection refused"]),
        ("a region without port forwarding refuses connections", Peer::Signature, misbehaves, REGION),
        ("the gateway goes down", Peer::Bind, misbehaves, AGAIN),
        ("qBittorrent restarts", Peer::Client, misbehaves, CLIENT),
        ("qBittorrent comes later", Peer::Client, misbehaves_from_the_start, CLIENT),
    ];
    downs.map(|(name, peer, test, words)| Row::new(name, move || test(peer, &Wrong::IsDown, words))).into()
}

fn wrongs() -> Vec<(&'static str, Wrong, &'static [&'static str])> {
    let head = |headers: &str| format!("HTTP/1.1 200 OK\r\n{headers}\r\n");
    let says = Wrong::Says;
    vec![
        ("accepts and says nothing", Wrong::Is(Mood::Silent), &["no answer within 10 s"]),
        (
            "hears the request and says nothing",
            says(Reply::hang()),
            &["no answer within 10 s", "waiting for the reply"],
        ),
        (
            "drips a byte a second",
            says(Reply::drip(head("Content-Length: 100\r\n"))),
            &["no answer within 10 s", "waiting for the reply"],
        ),
        (
            "announces and sends 1 GB",
            says(Reply::flood(head(&format!("Content-Length: {GIGABYTE}\r\n")), GIGABYTE)),
            &["body", "larger than 262144 bytes"],
        ),
        ("sends 1 GB unannounced", says(Reply::flood(head(""), GIGABYTE)), &["body", "larger than 262144 bytes"]),
        ("sends 1 GB of head", says(Reply::flood("HTTP/1.1 200 OK\r\nX: ", GIGABYTE)), &["head", "larger than 32768"]),
        (
            "sends 1 GB of chunks",
            says(Reply::flood(head("Transfer-Encoding: chunked\r\n") + "3fffffff\r\n", GIGABYTE)),
            &["body", "larger than 262144 bytes"],
        ),
        ("truncates the head", says(Reply::raw("HTTP/1.1 200 OK\r\nContent-Le")), &["closed", "waiting for the reply"]),
        (
            "truncates the body",
            says(Reply::raw(head("Content-Length: 100\r\n") + "{")),
            &["closed", "reading the reply"],
        ),
        ("resets when it accepts", Wrong::Is(Mood::Resets), &["reset"]),
        ("resets at the first byte", Wrong::Is(Mood::ResetsHandshake), &["reset"]),
        ("resets instead of a reply", says(Reply::reset("")), &["reset", "waiting for the reply"]),
        ("resets within the head", says(Reply::reset("HTTP/1.1 200")), &["reset", "waiting for the reply"]),
        (
            "resets within the body",
            says(Reply::reset(head("Content-Length: 100\r\n") + "{")),
            &["reset", "reading the reply"],
        ),
        ("closes instead of a reply", says(Reply::close_before_reply()), &["closed", "waiting for the reply"]),
        ("answers with a page", says(Reply::text(200, "<html>a portal</html>")), &["bad reply", NO_JSON]),
        ("answers with a list", says(Reply::json(200, "[]")), &["bad reply", NO_JSON]),
        ("answers 502", says(Reply::text(502, "<h1>bad gateway</h1>")), &["502", "<h1>bad gateway</h1>"]),
        ("sends elsewhere", says(Reply::text(302, "").header("Location", "http://127.0.0.1:1/")), &["302"]),
        ("gives a bad length", says(Reply::raw(head("Content-Length: -1\r\n"))), &["Content-Length", "not a number"]),
        (
            "gives two lengths",
            says(Reply::raw(head("Content-Length: 1\r\nContent-Length: 2\r\n") + "xx")),
            &["Content-Length", "twice"],
        ),
        (
            "gives bad chunks",
            says(Reply::raw(head("Transfer-Encoding: chunked\r\n") + "zz\r\n")),
            &["chunk", "malformed"],
        ),
        ("sends 200 headers", says(Reply::raw(head(&"X: y\r\n".repeat(200)))), &["head", "larger than"]),
        ("speaks another protocol", says(Reply::raw("SSH-2.0-OpenSSH_9.2\r\n\r\n")), &["does not speak HTTP"]),
        ("answers without TLS", Wrong::Is(Mood::Plain), &["does not speak TLS"]),
    ]
}

fn wrong_needs_tls(wrong: &Wrong) -> bool {
    matches!(wrong, Wrong::Is(Mood::Plain))
}

fn inflict(world: &World, peer: Peer, wrong: &Wrong) {
    match (wrong, peer) {
        (Wrong::Says(reply), Peer::Login) => world.pia.scripts.always(LOGIN, reply.clone()),
        (Wrong::Says(reply), Peer::Signature) => world.pia.scripts.always(GET_SIGNATURE, reply.clone()),
        (Wrong::Says(reply), Peer::Bind) => world.pia.scripts.always(BIND_PORT, reply.clone()),
        (Wrong::Says(reply), Peer::Client) => world.qbt.scripts.always(PREFERENCES, reply.clone()),
        (Wrong::Is(mood), Peer::Login) => world.pia.set_login_mood(*mood),
        (Wrong::Is(mood), Peer::Signature | Peer::Bind) => world.pia.set_mood(*mood),
        (Wrong::Is(mood), Peer::Client) => world.qbt.set_mood(*mood),
        (Wrong::IsDown, Peer::Login) => world.pia.pause_login(),
        (Wrong::IsDown, Peer::Signature | Peer::Bind) => world.pia.pause(),
        (Wrong::IsDown, Peer::Client) => world.qbt.pause(),
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

fn misbehaves(peer: Peer, wrong: &Wrong, words: &[&str]) {
    let fault = match peer {
        Peer::Login | Peer::Signature => return misbehaves_from_the_start(peer, wrong, words),
        Peer::Bind | Peer::Client => Fault::strike(World::new(), |world| inflict(world, peer, wrong)),
    };
    is_told_and_recovered_from(fault, peer, words);
}

fn misbehaves_from_the_start(peer: Peer, wrong: &Wrong, words: &[&str]) {
    is_told_and_recovered_from(Fault::from_start(World::new(), |world| inflict(world, peer, wrong)), peer, words);
}

fn is_told_and_recovered_from(fault: Fault, peer: Peer, words: &[&str]) {
    let (step, gate, name) = match peer {
        Peer::Login => ("PIA login: ", "account", "account"),
        Peer::Signature => ("getSignature: ", "gateway", "gateway"),
        Peer::Bind => ("bindPort: ", "gateway", "gateway"),
        Peer::Client => ("qBittorrent ", "client", "qBittorrent"),
    };
    let words = words.iter().map(|&word| match peer {
        Peer::Login if word == NO_JSON => "token is missing",
        _ => word,
    });
    let words: Vec<&str> = std::iter::once(step).chain(words).collect();
    let fault = fault.reads(&words).shows(gate);
    let fault = if peer == Peer::Client { fault.binds_on() } else { fault };
    let daemon = fault.relieve(relieve).recovers();
    assert_eq!(daemon.lines_at("INFO", &format!("{name}: recovered after")).len(), 1, "{}", daemon.log());
}

/// Makes a reply of the usual one's body.
type Oddity = fn(&str) -> Vec<u8>;

/// What is unusual and right.
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
        ("ends the body with the connection", |body| format!("HTTP/1.1 200 OK\r\n\r\n{body}").into_bytes()),
        ("says 100 Continue first", |body| {
            let interim = "HTTP/1.1 100 Continue\r\n\r\n";
            format!("{interim}HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
        }),
    ]
}

fn is_odd(peer: Peer, make: Oddity) {
    let world = World::new();
    let scripts = if peer == Peer::Client { &world.qbt.scripts } else { &world.pia.scripts };
    let (endpoint, body) = match peer {
        Peer::Login => (LOGIN, pia::token_body(&world.pia.make_token())),
        Peer::Signature => {
            let token = world.pia.make_token();
            (GET_SIGNATURE, world.pia.set(|state| state.grant(&token)))
        }
        Peer::Bind => (BIND_PORT, pia::bind_body(pia::SCHEDULED)),
        Peer::Client => (PREFERENCES, r#"{"listen_port":6881,"random_port":false}"#.to_owned()),
    };
    scripts.next(endpoint, [Reply::raw(make(&body))]);
    harmless(world.settle());
}

/// Every reply's secrets are looked for in what is shown of it, so they must stay few and short.
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
        daemon.binds_again(1);
        daemon.see("app/preferences on");
    }
    daemon.hang_up();
    let told = daemon.wait_for_level("ERROR", 2 * TOLD);
    is_cheap(&daemon);
    assert!(told.contains("HTTP 500: (260000 bytes, not shown)"), "{told}");
}

fn refuses_the_longest_lease() {
    let world = World::new();
    let token = world.pia.make_token();
    let lease = world.pia.set(|state| state.grant(&token));
    let (start, _) = lease.split_once(r#""signature":"#).expect("a lease");
    let longest = format!(r#"{start}"signature":"{}"}}"#, "a".repeat(16 * 1024));
    world.pia.scripts.next(GET_SIGNATURE, [Reply::json(200, longest)]);
    world.pia.scripts.next(BIND_PORT, [Reply::text(500, "a".repeat(260_000))]);
    // Without what looks like a token the whole lease is compared with it.
    let words = (0..9999).map(|number| format!("word {number}, ")).collect::<Vec<_>>().concat();
    world.pia.scripts.always(BIND_PORT, Reply::text(500, words));
    let mut daemon = world.run();
    daemon.see("bindPort: HTTP 500");
    for _ in 0..3 {
        daemon.hang_up();
        daemon.see("/bindPort on");
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

/// As large as a reply may be, and many times that when it is parsed.
fn bombs() -> [(&'static str, String); 3] {
    let length = 250_000;
    let zeros = format!(r#"{{"x":[{}0]}}"#, "0,".repeat(length / 2 - 10));
    [
        ("zeros", zeros),
        ("depth", "[".repeat(length)),
        ("breadth", format!(r#"{{"x":[{}{{"":0}}]}}"#, r#"{"":0},"#.repeat(length / 7 - 10))),
    ]
}

fn is_a_bomb(peer: Peer, json: &str) {
    let world = World::new();
    let endpoint = match peer {
        Peer::Login => LOGIN,
        Peer::Signature => GET_SIGNATURE,
        Peer::Bind => BIND_PORT,
        Peer::Client => PREFERENCES,
    };
    let scripts = if peer == Peer::Client { &world.qbt.scripts } else { &world.pia.scripts };
    scripts.next(endpoint, [Reply::json(200, json)]);
    let mut daemon = world.run();
    daemon.see("bad reply");
    let memory = daemon.memory(true);
    println!("{MEASURED}{memory} KiB");
    assert!(memory < BOMB_MEMORY, "{memory} KiB");
}
