//! Refusals and certificates of PIA's gateway, and the sources of PIA's CA and tokens.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::support::daemon::mode;
use super::support::pia::{self, BIND_PORT, Fault as Bad, GET_SIGNATURE, WEBSITES};
use super::support::rows::missing;
use super::support::world::{Running, World};
use super::support::{Mood, Reply, Request, Server, wait_until};
use super::{Fault, RECOVERY, REPORT_LIMIT, Row, assert_harmless};

pub fn rows() -> Vec<Row> {
    [refusals(), certificates(), ca(), logins()].concat()
}

type MakeReply = fn() -> Reply;

/// Every error of PIA's protocol.
fn refusals() -> Vec<Row> {
    fn json(body: &str) -> Reply {
        Reply::json(200, body)
    }
    const LATER: &str = r#"{"status":"ERROR","message":"too many"}"#;
    // Name, reply, whether the reply costs another signature, and the words in the log.
    let once: [(&str, MakeReply, bool, &[&str]); 9] = [
        ("bad signature", pia::bad_signature, true, &["bad signature", "new signature"]),
        ("port is busy", || pia::busy(47047), true, &["busy", "different server"]),
        ("port expired", pia::port_expired, true, &["port expired", "new signature"]),
        ("200 and port expired", || json(r#"{"status":"ERROR","message":"port expired"}"#), true, &["port expired"]),
        ("401 as a page", || Reply::text(401, "<html>no</html>"), true, &["401"]),
        ("no auth data", pia::no_auth_data, false, &["no auth data", "report it"]),
        ("200 and not OK", || json(r#"{"status":"ERROR","message":"odd"}"#), false, &["odd"]),
        ("200 and no status", || json(r#"{"status":"","message":"odd status"}"#), false, &["odd status"]),
        ("429", || Reply::json(429, LATER), false, &["HTTP 429", "too many"]),
    ];
    let mut rows: Vec<Row> = once
        .into_iter()
        .map(|(name, reply, renews, words)| {
            Row::new(format!("bindPort: {name}"), move || {
                let fault = Fault::strike(World::new(), |world| {
                    world.pia.set(|state| state.next_port = 50002);
                    world.pia.scripts.next(BIND_PORT, [reply()]);
                });
                let fault = fault.logs(&[&["bindPort: "], words].concat()).relieve(|_| ());
                let daemon = if renews { fault.costs_a_signature() } else { fault }.recovers();
                // The port of the new lease is followed.
                assert_eq!(daemon.pia().bound().last(), Some(if renews { &50002 } else { &47047 }));
                let counts = daemon.pia().counts();
                assert_eq!((counts.signatures, counts.logins), (1 + usize::from(renews), 1), "{}", daemon.log());
            })
        })
        .collect();
    let once: [(&str, MakeReply, &[&str]); 3] = [
        ("200 and not OK", || json(r#"{"status":"ERROR","message":"something else"}"#), &["something else"]),
        ("200 and no payload", || json(r#"{"status":"OK"}"#), &["payload", "missing"]),
        ("no auth data", pia::no_auth_data, &["no auth data", "report it"]),
    ];
    rows.extend(once.map(|(name, reply, words)| {
        Row::new(format!("getSignature: {name}"), move || {
            Fault::from_start(World::new(), |world| world.pia.scripts.next(GET_SIGNATURE, [reply()]))
                .logs(&[&["getSignature: "], words].concat())
                .relieve(|_| ())
                .recovers();
        })
    }));
    rows.push(Row::new("getSignature: a rejected token costs one login", || {
        let world = World::new().env("CHECK_INTERVAL", "300");
        std::fs::write(world.setup.token_file(), "0123456789abcdef").expect("a token file");
        let daemon = world.settle();
        let counts = daemon.pia().counts();
        let expected = pia::Counts { logins: 1, signatures: 2, rejected: 1, binds: 1, ..pia::Counts::default() };
        assert_eq!(counts, pia::Counts { connections: counts.connections, ..expected }, "{}", daemon.log());
        let token = std::fs::read_to_string(daemon.world.setup.token_file()).unwrap_or_default();
        assert!(daemon.pia().set(|state| state.tokens.contains(&token)), "the new token is in the file");
        assert_eq!(daemon.lines_at("ERROR", ""), [""; 0], "{}", daemon.log());
    }));
    rows.push(Row::new("bindPort: the server has restarted and lost the binding", || {
        let mut daemon = World::new().settle();
        // Only a server that has refreshed a binding is expected to refresh it again.
        daemon.wait_for_binds(2);
        assert_eq!(daemon.count_lines("lost the binding"), 0, "{}", daemon.log());
        daemon.skip_log();
        daemon.pia().restart();
        let line = daemon.wait_for_line("the server had lost the binding", RECOVERY);
        assert!(line.contains("INFO") && line.contains("bound port 47047 again"), "{line}");
        daemon.wait_for_line("is announcing port 47047", RECOVERY);
        daemon.wait_for_binds(2);
        assert_eq!(daemon.count_lines("lost the binding"), 1, "{}", daemon.log());
    }));
    rows.push(Row::new("getSignature: every token is rejected", || {
        let refuse = |world: &World| world.pia.scripts.always(GET_SIGNATURE, pia::login_failed());
        costs_logins(1, refuse, &["getSignature", "Login failed!"], |world| world.pia.scripts.clear());
    }));
    rows.push(Row::new("getSignature: the request does not come through the tunnel", || {
        let outside = |world: &World, outside| world.pia.set(|state| state.outside_tunnel = outside);
        let words = ["getSignature", "Unauthorized client", "set PIA_GATEWAY=auto"];
        costs_logins(0, |world| outside(world, true), &words, |world| outside(world, false));
    }));
    rows
}

/// Asserts that a lasting refusal is reported with `words` and costs this many logins, however often
/// getSignature is retried.
fn costs_logins(more: usize, refuse: impl Fn(&World), words: &[&str], relief: impl Fn(&World)) {
    let world = World::new();
    // Only a token from the file may be too old.
    std::fs::write(world.setup.token_file(), world.pia.make_token()).expect("a token file");
    let mut fault = Fault::from_start(world, refuse).logs(words);
    for _ in 0..3 {
        let before = fault.daemon.pia().counts().signatures;
        fault.daemon.reload();
        let Running { daemon, world } = &mut fault.daemon;
        daemon.wait_until("the next attempt", || world.pia.counts().signatures > before);
    }
    assert_eq!(fault.daemon.lines_at("ERROR", "").len(), 1, "repetitions are not errors\n{}", fault.daemon.log());
    let daemon = fault.relieve(relief).recovers();
    assert_eq!(daemon.pia().counts().logins, more, "no login storm");
}

/// The gateway's host name.
const NAME: &str = "Sandbox-409-1a";

fn certificates() -> Vec<Row> {
    let bad: [(&str, &str, Bad, &[&str]); 6] = [
        ("a certificate that has expired", NAME, Bad::Expired, &["certificate has expired", "clock"]),
        ("a certificate that is not valid yet", NAME, Bad::NotYetValid, &["not valid yet", "clock"]),
        ("a certificate of a different CA", NAME, Bad::OtherCa, &["not signed by", "PIA_CA_CERT"]),
        ("a certificate with a common name only", NAME, Bad::CommonNameOnly, &["contains no name", "PIA_HOSTNAME"]),
        (
            "a certificate for a different name",
            "berlin401",
            Bad::None,
            &["berlin401", "Sandbox-409-1a", "PIA_HOSTNAME"],
        ),
        (
            "a certificate for a different name of a different CA",
            "berlin401",
            Bad::OtherCa,
            &["not signed by", "PIA_CA_CERT"],
        ),
    ];
    let named = bad.into_iter().map(|(what, name, fault, words)| {
        Row::new(format!("the gateway shows {what}"), move || is_refused(World::new(), name, fault, words))
    });
    // Without a name to compare, the chain and the dates are still verified.
    let anonymous = bad.into_iter().filter(|(.., fault, _)| *fault != Bad::None && *fault != Bad::CommonNameOnly);
    let anonymous = anonymous.map(|(what, name, fault, words)| {
        Row::new(format!("without PIA_HOSTNAME the gateway shows {what}"), move || {
            is_refused(without_a_name(), name, fault, words);
        })
    });
    let mut rows: Vec<Row> = named.chain(anonymous).collect();
    rows.push(Row::new("PIA_HOSTNAME is a region's host name", || {
        let mut daemon = without_a_name().env("PIA_HOSTNAME", "de-frankfurt.privacy.network").run();
        daemon.expect_line("PIA_HOSTNAME=de-frankfurt.privacy.network is ignored");
        daemon.settled(47047);
        assert_eq!(daemon.count_lines("PIA_CA_CERT") + daemon.count_lines("PIA_GATEWAY"), 0, "{}", daemon.log());
    }));
    rows.push(Row::new("without PIA_HOSTNAME a different gateway of PIA is accepted", || {
        let daemon = without_a_name().settle();
        let warnings = daemon.lines_at("WARN", "PIA_HOSTNAME");
        assert!(matches!(&warnings[..], [warning] if warning.contains(NAME)), "{}", daemon.log());
        daemon.pia().present("berlin401", Bad::None, false);
        assert_harmless(daemon);
    }));
    rows.push(Row::isolated("the gateway has an IPv6 address", || {
        let address = std::net::Ipv6Addr::LOCALHOST.into();
        if let Err(error) = std::net::UdpSocket::bind((address, 0)) {
            missing(format!("IPv6: {error}"));
        }
        assert_harmless(World::pia(pia::Options { address, ..pia::Options::default() }).settle());
    }));
    rows.push(Row::new("PIA speaks TLS 1.2 only", || {
        assert_harmless(World::pia(pia::Options { tls12_only: true, ..pia::Options::default() }).settle());
    }));
    rows
}

fn without_a_name() -> World {
    World::pia(pia::Options { anonymous: true, ..pia::Options::default() }).without(&["PIA_HOSTNAME"])
}

/// The gateway shows this certificate from now on. TLS comes first, so no request is sent.
fn is_refused(world: World, name: &str, certificate: Bad, words: &[&str]) {
    let fault = Fault::strike(world, |world| world.pia.present(name, certificate, false));
    let binds = |fault: &Fault| fault.daemon.pia().counts().binds;
    let before = binds(&fault);
    let fault = fault.logs(words).shows("gateway");
    assert_eq!(binds(&fault), before, "{}", fault.daemon.log());
    fault.relieve(|world| world.pia.present(NAME, Bad::None, false)).recovers();
}

/// A web server that publishes the simulator's CA, or a wrong one.
struct Web {
    server: Server,
    wrong: Arc<AtomicBool>,
}

impl Web {
    fn publish(world: &World) -> Self {
        let wrong = Arc::new(AtomicBool::new(false));
        let (right, other) = (world.pia.ca_pem().to_owned(), world.pia.login_ca_pem().to_owned());
        let serve_wrong = Arc::clone(&wrong);
        let server = Server::start((super::support::loopback(), 0).into(), None, move |_| {
            Reply::text(200, if serve_wrong.load(Ordering::SeqCst) { other.clone() } else { right.clone() })
        });
        Self { server, wrong }
    }

    /// A world that fetches the CA from here and has its fingerprint.
    fn world(&self, world: World) -> World {
        let pin = world.pia.ca_sha256();
        let url = format!("http://{}/ca.rsa.4096.crt", self.server.address());
        world.without(&["PIA_CA_CERT"]).env("PIA_CA_URL", url).env("PIA_CA_SHA256", pin)
    }
}

fn ca() -> Vec<Row> {
    vec![
        Row::new("PIA's CA is fetched once and stored", || {
            let world = World::new();
            let web = Web::publish(&world);
            let mut daemon = web.world(world).settle();
            let file = daemon.world.setup.state_dir().join("ca.rsa.4096.crt");
            assert_eq!(mode(&file), 0o600);
            daemon.wait_for_binds(2);
            daemon.restart();
            daemon.settled(47047);
            assert_eq!(web.server.connections(), 1, "{}", daemon.log());
        }),
        Row::new("a different CA than PIA's is refused and not stored", || {
            // The built-in fingerprint is that of PIA's own CA, and this is the simulator's.
            let world = World::new();
            let web = Web::publish(&world);
            let world = web.world(world).without(&["PIA_CA_SHA256"]);
            let mut daemon = world.run();
            daemon.fails(&["PIA's CA", "discarded", "PIA_CA_CERT"]);
            daemon.expect_line("expected SHA-256: 1fd25658456eab3041fba77ccd398ab8124edcc1b8b2fc1d55fdf6b1bbfc9d70");
            let setup = &daemon.world.setup;
            let output = setup.run_once(&["fetch-ca"]);
            assert_eq!((output.code, output.stdout.as_str()), (Some(1), ""), "{output:?}");
            assert!(output.stderr.contains("1fd25658456eab"), "{output:?}");
            assert!(!setup.state_dir().join("ca.rsa.4096.crt").exists());
            let counts = daemon.pia().counts();
            assert_eq!((counts.signatures, counts.connections), (0, 0), "nothing was sent to the gateway");
            assert_eq!(daemon.ended(), None, "the daemon keeps running");
        }),
        Row::new("PIA's CA is replaced in transit for a while", || {
            let world = World::new();
            let web = Web::publish(&world);
            web.wrong.store(true, Ordering::SeqCst);
            let mut daemon = web.world(world).run();
            daemon.fails(&["PIA's CA", "different certificate"]);
            daemon.expect_line("received SHA-256: ");
            web.wrong.store(false, Ordering::SeqCst);
            // The next automatic attempt is 5 minutes away; a reload makes one at once.
            daemon.reload();
            daemon.settled(47047);
        }),
        Row::new("PIA's CA cannot be fetched for a while", || {
            let world = World::new();
            let web = Web::publish(&world);
            web.server.pause();
            Fault::from_start(web.world(world), |_| ())
                .logs(&["PIA's CA", "connection refused", "PIA_CA_CERT"])
                .relieve(|_| web.server.resume())
                .recovers();
        }),
        Row::new("the stored CA is damaged or replaced", || {
            let world = World::new();
            let web = Web::publish(&world);
            let mut daemon = web.world(world).settle();
            let file = daemon.world.setup.state_dir().join("ca.rsa.4096.crt");
            let whole = std::fs::read_to_string(&file).expect("a CA");
            let other = daemon.pia().login_ca_pem().to_owned();
            for damaged in ["", "garbage", &whole[..whole.len() / 2], &other] {
                daemon.daemon.kill9();
                std::fs::write(&file, damaged).expect("a file");
                daemon.restart();
                daemon.expect_line("fetching PIA's CA again");
                daemon.settled(47047);
                assert_eq!(std::fs::read_to_string(&file).expect("a CA"), whole);
            }
            assert_eq!(daemon.pia().counts().signatures, 1);
        }),
        Row::new("fetch-ca run by the user", || {
            let world = World::new();
            let web = Web::publish(&world);
            let setup = web.world(world).setup;
            let path = setup.dir().path().join("made/ca.pem");
            for message in ["is now in", "is already stored in"] {
                let output = setup.run_once(&["fetch-ca", path.to_str().expect("UTF-8")]);
                assert_eq!((output.code, output.stderr.as_str()), (Some(0), ""), "{output:?}");
                assert!(output.stdout.contains(message), "{output:?}");
            }
            assert_eq!((mode(&path), web.server.connections()), (0o600, 1));
            let output = setup.env("PIA_CA_SHA256", "1").env("PIA_CA_URL", "ftp://x").run_once(&["fetch-ca"]);
            assert_eq!((output.code, output.stderr.lines().count()), (Some(78), 2), "{output:?}");
        }),
    ]
}

/// A daemon with PIA's own login URLs, which are reachable only as far as the row makes them.
fn default_logins(tunnel_login: bool) -> World {
    let address = [127, 0, 0, 77].into();
    let options = pia::Options { address, login_port: 8443, tunnel_login, ..pia::Options::default() };
    World::pia(options).without(&["PIA_LOGIN_URL"])
}

/// Makes the names of PIA's website resolve to `address`.
pub fn websites_are_at(address: &str) {
    let hosts = WEBSITES.map(|name| format!("{address} {name}\n")).concat();
    let file = std::env::temp_dir().join(format!("hosts-{:016x}", super::support::unique()));
    std::fs::write(&file, hosts).expect("a hosts file");
    super::tunnel::mount_over(&file, "/etc/hosts");
}

/// A lockout with `Retry-After`: no signal ends the wait.
fn waits_out_lockout(world: World, endpoint: &str) {
    let wait = Duration::from_secs(6);
    let mut daemon = Fault::from_start(world, |world| {
        world.pia.scripts.next(endpoint, [pia::too_many_attempts(429, Some(wait))]);
    });
    daemon = daemon.logs(&["PIA login", "locked out", "6 s"]);
    daemon.daemon.reload();
    let daemon = daemon.relieve(|_| ()).recovers();
    assert!(daemon.started().elapsed() > wait, "{}", daemon.log());
    let counts = daemon.pia().counts();
    assert_eq!(counts.logins + counts.tunnel_logins, 2, "{counts:?}");
    assert_eq!(daemon.lines_at("INFO", "account: recovered after").len(), 1, "{}", daemon.log());
}

fn logins() -> Vec<Row> {
    vec![
        Row::isolated("the websites are unreachable: the gateway issues the token", || {
            websites_are_at("127.0.0.66");
            let daemon = default_logins(true).settle();
            let counts = daemon.pia().counts();
            assert_eq!((counts.logins, counts.tunnel_logins, counts.signatures), (0, 1, 1), "{counts:?}");
            assert_harmless(daemon);
        }),
        Row::isolated("without a tunnel and PIA_HOSTNAME the gateway gets no password", || {
            websites_are_at("127.0.0.66");
            let world = default_logins(true).without(&["PIA_HOSTNAME"]);
            let mut daemon = Fault::from_start(world, |_| ()).logs(&["PIA login", WEBSITES[0], WEBSITES[1]]).daemon;
            daemon.reload();
            daemon.expect_line("(attempt 2)");
            let counts = daemon.pia().counts();
            assert_eq!((counts.tunnel_logins, counts.connections), (0, 0), "{counts:?}\n{}", daemon.log());
        }),
        Row::isolated("the websites and the gateway are unreachable", || {
            websites_are_at("127.0.0.66");
            Fault::from_start(default_logins(false), |_| ())
                .logs(&["PIA login", WEBSITES[0], WEBSITES[1], "the gateway: ", "connection refused"])
                .relieve(|world| {
                    let token = world.pia.make_token();
                    std::fs::write(world.setup.token_file(), token).expect("a token file");
                })
                .recovers();
        }),
        Row::isolated("a password that the gateway rejects is not tried again", || {
            websites_are_at("127.0.0.66");
            let mut daemon = default_logins(true).env("PIA_PASSWORD", "wrong").run();
            daemon.fails(&["PIA login", "user name or password rejected", "30 min"]);
            daemon.reload();
            assert!(!wait_until(Duration::from_secs(1), || daemon.pia().counts().tunnel_logins > 1));
        }),
        Row::isolated("a password that the website rejects is not tried at the gateway", || {
            websites_are_at("127.0.0.77");
            let world = {
                let address = [127, 0, 0, 77].into();
                // Website and gateway use the same port for logins, so only one of them can listen here.
                let options = pia::Options { address, login_port: 443, ..pia::Options::default() };
                World::pia(options).without(&["PIA_LOGIN_URL"])
            };
            let fault = Fault::from_start(world.env("PIA_PASSWORD", "wrong"), |_| ());
            let words = ["PIA login", "user name or password rejected", "PIA_PASSWORD", "30 min"];
            let daemon = fault.logs(&words).shows("account").daemon;
            daemon.reload();
            assert!(
                !wait_until(Duration::from_secs(1), || daemon.pia().counts().logins > 1),
                "not tried at the second host either"
            );
        }),
        Row::isolated("a gateway repeats the login in its error: no password is logged", || {
            websites_are_at("127.0.0.66");
            let mut world = default_logins(true);
            let password = r#"a&b="c\d/e ü'"#;
            world.pia.set(|state| state.password = password.into());
            world.setup = world.setup.env("PIA_PASSWORD", password);
            let page = |request: &Request| String::from_utf8_lossy(&request.body).into_owned();
            world.pia.scripts.next(pia::TUNNEL_LOGIN, [Reply::echo(500, page)]);
            let mut daemon = world.env("LOG_LEVEL", "TRACE").run();
            daemon.fails(&["PIA login", "HTTP 500", "bytes, not shown"]);
            daemon.wait_for_line("account: recovered after", REPORT_LIMIT);
            assert!(!daemon.log().contains("c\\d") && !daemon.log().contains("c\\\\d"), "{}", daemon.log());
        }),
        Row::new("the website locks the account out for a while", || waits_out_lockout(World::new(), pia::LOGIN)),
        Row::isolated("the gateway locks the account out for a while", || {
            websites_are_at("127.0.0.66");
            waits_out_lockout(default_logins(true), pia::TUNNEL_LOGIN);
        }),
        Row::isolated("the website shows a certificate for a different name", || {
            // As behind a captive portal: nothing is sent to the website, and the gateway issues the token.
            websites_are_at("127.0.0.66");
            let other = super::support::Ca::new("A portal's authority");
            let leaf = super::support::Leaf { names: &WEBSITES, common_name: "portal", years: super::support::VALID };
            let portal = Server::start(([127, 0, 0, 66], 443).into(), Some(other.server(&leaf, false)), |_| {
                panic!("a password was sent to a portal")
            });
            let daemon = default_logins(true).settle();
            assert_eq!((daemon.pia().counts().tunnel_logins, portal.connections()), (1, 2));
        }),
        Row::new("the website resets while the password is sent", || {
            Fault::from_start(World::new(), |world| world.pia.set_login_mood(Mood::Resets))
                .logs(&["PIA login", "reset"])
                .relieve(|world| world.pia.set_login_mood(Mood::Normal))
                .recovers();
        }),
    ]
}
