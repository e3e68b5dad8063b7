//! What any peer may do wrong on the wire, each of it done by each peer.

use super::support::pia::{BIND_PORT, GET_SIGNATURE, LOGIN};
use super::support::qbt::PREFERENCES;
use super::support::world::World;
use super::support::{Mood, Reply};
use super::{Fault, Row, harmless};

const GIGABYTE: usize = 1 << 30;

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
    }
    rows
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
        ("answers with a page", says(Reply::text(200, "<html>a portal</html>")), &["bad reply"]),
        ("answers 502", says(Reply::text(502, "<html>bad gateway</html>")), &["502", "bad gateway"]),
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
    }
}

fn relieve(world: &World) {
    world.pia.scripts.clear();
    world.qbt.scripts.clear();
    world.pia.set_mood(Mood::Normal);
    world.pia.set_login_mood(Mood::Normal);
    world.qbt.set_mood(Mood::Normal);
}

fn misbehaves(peer: Peer, wrong: &Wrong, words: &[&str]) {
    let fault = match peer {
        Peer::Login | Peer::Signature => Fault::from_start(World::new(), |world| inflict(world, peer, wrong)),
        Peer::Bind | Peer::Client => Fault::strike(World::new(), |world| inflict(world, peer, wrong)),
    };
    let fault = fault.reads(words);
    let fault = if peer == Peer::Client { fault.binds_on() } else { fault };
    fault.relieve(relieve).recovers();
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
        Peer::Login => (LOGIN, format!(r#"{{"token":"{}"}}"#, world.pia.make_token())),
        Peer::Signature => {
            let token = world.pia.make_token();
            (GET_SIGNATURE, world.pia.set(|state| state.grant(&token)))
        }
        Peer::Bind => (BIND_PORT, r#"{"status":"OK","message":"port scheduled for add"}"#.to_owned()),
        Peer::Client => (PREFERENCES, r#"{"listen_port":6881,"random_port":false}"#.to_owned()),
    };
    scripts.next(endpoint, [Reply::raw(make(&body))]);
    harmless(world.settle());
}
