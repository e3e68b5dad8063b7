//! What PIA's gateway may refuse, whose certificates it may show, and where PIA's CA and tokens come from.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::support::daemon::mode;
use super::support::pia::{self, BIND_PORT, Fault as Bad, GET_SIGNATURE, WEBSITES};
use super::support::rows::missing;
use super::support::world::{Running, World};
use super::support::{Mood, Reply, Request, Server, wait_until};
use super::{Fault, Row, TOLD, harmless};

pub fn rows() -> Vec<Row> {
    [refusals(), certificates(), ca(), logins()].concat()
}

type MakeReply = fn() -> Reply;

/// Every error row of PIA's protocol.
fn refusals() -> Vec<Row> {
    fn json(body: &str) -> Reply {
        Reply::json(200, body)
    }
    const LATER: &str = r#"{"status":"ERROR","message":"too many"}"#;
    // What it says, whether that costs another signature, and what the user reads.
    let once: [(&str, MakeReply, bool, &[&str]); 9] = [
        ("bad signature", pia::bad_signature, true, &["bad signature", "new signature"]),
        ("port is busy", || pia::busy(47047), true, &["busy", "another server"]),
        ("port expired", pia::port_expired, true, &["port expired", "new signature"]),
        ("200 and port expired", || json(r#"{"status":"ERROR","message":"port expired"}"#), true, &["port expired"]),
        ("401 as a page", || Reply::text(401, "<html>no</html>"), true, &["401"]),
        ("no auth data", pia::no_auth_data, false, &["no auth data", "bug of ours"]),
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
                let fault = fault.reads(&[&["bindPort: "], words].concat()).relieve(|_| ());
                let daemon = if renews { fault.costs_a_signature() } else { fault }.recovers();
                // The new one's port is followed.
                assert_eq!(daemon.pia().bound().last(), Some(if renews { &50002 } else { &47047 }));
                let counts = daemon.pia().counts();
                assert_eq!((counts.signatures, counts.logins), (1 + usize::from(renews), 1), "{}", daemon.log());
            })
        })
        .collect();
    let once: [(&str, MakeReply, &[&str]); 3] = [
        ("200 and not OK", || json(r#"{"status":"ERROR","message":"something else"}"#), &["something else"]),
        ("200 and no payload", || json(r#"{"status":"OK"}"#), &["payload", "missing"]),
        ("no auth data", pia::no_auth_data, &["no auth data", "bug of ours"]),
    ];
    rows.extend(once.map(|(name, reply, words)| {
        Row::new(format!("getSignature: {name}"), move || {
            Fault::from_start(World::new(), |world| world.pia.scripts.next(GET_SIGNATURE, [reply()]))
                .reads(&[&["getSignature: "], words].concat())
                .relieve(|_| ())
                .recovers();
        })
    }));
    rows.push(Row::new("getSignature: a token that is not accepted costs one login", || {
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
    rows.push(Row::new("getSignature: no token is accepted", || {
        let refuse = |world: &World| world.pia.scripts.always(GET_SIGNATURE, pia::login_failed());
        costs_one_login(refuse, &["getSignature", "Login failed!"], |world| world.pia.scripts.clear());
    }));
    rows.push(Row::new("getSignature: the request does not come through the tunnel", || {
        let outside = |world: &World, outside| world.pia.set(|state| state.outside_tunnel = outside);
        let words = ["getSignature", "Unauthorized client", "wrong gateway?"];
        costs_one_login(|world| outside(world, true), &words, |world| outside(world, false));
    }));
    rows
}

/// A refusal that lasts, with repeated attempts.
fn costs_one_login(refuse: impl Fn(&World), words: &[&str], relief: impl Fn(&World)) {
    let mut fault = Fault::from_start(World::new(), refuse).reads(words);
    for _ in 0..3 {
        let before = fault.daemon.pia().counts().signatures;
        fault.daemon.hang_up();
        let Running { daemon, world } = &mut fault.daemon;
        daemon.wait_until("another attempt", || world.pia.counts().signatures > before);
    }
    assert_eq!(fault.daemon.lines_at("ERROR", "").len(), 1, "repeats are told once\n{}", fault.daemon.log());
    let daemon = fault.relieve(relief).recovers();
    assert_eq!(daemon.pia().counts().logins, 1, "no storm of logins");
}

/// Of the gateway.
const NAME: &str = "Sandbox-409-1a";

fn certificates() -> Vec<Row> {
    let bad: [(&str, &str, Bad, &[&str]); 6] = [
        ("a certificate that has expired", NAME, Bad::Expired, &["certificate has expired", "clock"]),
        ("a certificate that is not valid yet", NAME, Bad::NotYetValid, &["not valid yet", "clock"]),
        ("a certificate of another CA", NAME, Bad::OtherCa, &["not signed by", "PIA_CA_CERT"]),
        ("a certificate with a common name only", NAME, Bad::CommonNameOnly, &["no name at all", "PIA_HOSTNAME"]),
        ("a certificate for another name", "berlin401", Bad::None, &["berlin401", "Sandbox-409-1a", "PIA_HOSTNAME"]),
        ("another gateway of another CA", "berlin401", Bad::OtherCa, &["not signed by", "PIA_CA_CERT"]),
    ];
    let named = bad.into_iter().map(|(what, name, fault, words)| {
        Row::new(format!("the gateway shows {what}"), move || is_refused(World::new(), name, fault, words))
    });
    // Without a name to compare, the chain and the dates still count.
    let anonymous = bad.into_iter().filter(|(.., fault, _)| *fault != Bad::None && *fault != Bad::CommonNameOnly);
    let anonymous = anonymous.map(|(what, name, fault, words)| {
        Row::new(format!("the gateway shows {what}, where no name is set"), move || {
            is_refused(without_a_name(), name, fault, words);
        })
    });
    let mut rows: Vec<Row> = named.chain(anonymous).collect();
    rows.push(Row::new("another gateway of PIA's, where no name is set", || {
        let daemon = without_a_name().settle();
        let warnings = daemon.lines_at("WARN", "PIA_HOSTNAME");
        assert!(matches!(&warnings[..], [warning] if warning.contains(NAME)), "{}", daemon.log());
        daemon.pia().present("berlin401", Bad::None, false);
        harmless(daemon);
    }));
    rows.push(Row::isolated("the gateway has an IPv6 address", || {
        let address = std::net::Ipv6Addr::LOCALHOST.into();
        if let Err(error) = std::net::UdpSocket::bind((address, 0)) {
            missing(format!("IPv6: {error}"));
        }
        harmless(World::pia(pia::Options { address, ..pia::Options::default() }).settle());
    }));
    rows.push(Row::new("PIA speaks TLS 1.2 only", || {
        harmless(World::pia(pia::Options { tls12_only: true, ..pia::Options::default() }).settle());
    }));
    rows
}

fn without_a_name() -> World {
    World::pia(pia::Options { anonymous: true, ..pia::Options::default() }).without(&["PIA_HOSTNAME"])
}

/// From now on the gateway shows this certificate: TLS comes first, and nothing is asked of it.
fn is_refused(world: World, name: &str, certificate: Bad, words: &[&str]) {
    let fault = Fault::strike(world, |world| world.pia.present(name, certificate, false));
    let asked = |fault: &Fault| fault.daemon.pia().counts().binds;
    let before = asked(&fault);
    let fault = fault.reads(words).shows("gateway");
    assert_eq!(asked(&fault), before, "{}", fault.daemon.log());
    fault.relieve(|world| world.pia.present(NAME, Bad::None, false)).recovers();
}

/// A web server that publishes the authority of a simulator, or a wrong one.
struct Web {
    server: Server,
    wrong: Arc<AtomicBool>,
}

impl Web {
    fn publish(world: &World) -> Self {
        let wrong = Arc::new(AtomicBool::new(false));
        let (right, other) = (world.pia.ca_pem().to_owned(), world.pia.login_ca_pem().to_owned());
        let lie = Arc::clone(&wrong);
        let server = Server::start((super::support::loopback(), 0).into(), None, move |_| {
            Reply::text(200, if lie.load(Ordering::SeqCst) { other.clone() } else { right.clone() })
        });
        Self { server, wrong }
    }

    /// A world that fetches its authority here and recognises it.
    fn world(&self, world: World) -> World {
        let pin = world.pia.ca_sha256();
        let url = format!("http://{}/ca.rsa.4096.crt", self.server.address());
        world.without(&["PIA_CA_CERT"]).env("PIA_CA_URL", url).env("PIA_CA_SHA256", pin)
    }
}

fn ca() -> Vec<Row> {
    vec![
        Row::new("PIA's CA is fetched once and kept", || {
            let world = World::new();
            let web = Web::publish(&world);
            let mut daemon = web.world(world).settle();
            let file = daemon.world.setup.state_dir().join("ca.rsa.4096.crt");
            assert_eq!(mode(&file), 0o600);
            daemon.sees_more_binds(2);
            daemon.restart();
            daemon.settled(47047);
            assert_eq!(web.server.connections(), 1, "{}", daemon.log());
        }),
        Row::new("another CA in its place is refused and not stored", || {
            // The pin that is built in is PIA's, and this is not PIA's certificate.
            let world = World::new();
            let web = Web::publish(&world);
            let world = web.world(world).without(&["PIA_CA_SHA256"]);
            let mut daemon = world.run();
            daemon.fails(&["PIA's CA", "neither used nor stored", "PIA_CA_CERT"]);
            daemon.see("it should be 1fd25658456eab3041fba77ccd398ab8124edcc1b8b2fc1d55fdf6b1bbfc9d70");
            let setup = &daemon.world.setup;
            let output = setup.run_once(&["fetch-ca"]);
            assert_eq!((output.code, output.stdout.as_str()), (Some(1), ""), "{output:?}");
            assert!(output.stderr.contains("1fd25658456eab"), "{output:?}");
            assert!(!setup.state_dir().join("ca.rsa.4096.crt").exists());
            let counts = daemon.pia().counts();
            assert_eq!((counts.signatures, counts.connections), (0, 0), "nothing was sent to the gateway");
            assert_eq!(daemon.ended(), None, "it goes on");
        }),
        Row::new("PIA's CA is replaced on the way for a while", || {
            let world = World::new();
            let web = Web::publish(&world);
            web.wrong.store(true, Ordering::SeqCst);
            let mut daemon = web.world(world).run();
            daemon.fails(&["PIA's CA", "another certificate"]);
            daemon.see("its SHA-256 is ");
            web.wrong.store(false, Ordering::SeqCst);
            // In 5 minutes by itself, at once by a reload.
            daemon.hang_up();
            daemon.settled(47047);
        }),
        Row::new("PIA's CA cannot be fetched for a while", || {
            let world = World::new();
            let web = Web::publish(&world);
            web.server.pause();
            Fault::from_start(web.world(world), |_| ())
                .reads(&["PIA's CA", "connection refused", "PIA_CA_CERT"])
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
                daemon.see("fetched again");
                daemon.settled(47047);
                assert_eq!(std::fs::read_to_string(&file).expect("a CA"), whole);
            }
            assert_eq!(daemon.pia().counts().signatures, 1);
        }),
        Row::new("fetch-ca by hand", || {
            let world = World::new();
            let web = Web::publish(&world);
            let setup = web.world(world).setup;
            let path = setup.dir().path().join("made/ca.pem");
            for said in ["is now in", "is already in"] {
                let output = setup.run_once(&["fetch-ca", path.to_str().expect("UTF-8")]);
                assert_eq!((output.code, output.stderr.as_str()), (Some(0), ""), "{output:?}");
                assert!(output.stdout.contains(said), "{output:?}");
            }
            assert_eq!((mode(&path), web.server.connections()), (0o600, 1));
            let output = setup.env("PIA_CA_SHA256", "1").env("PIA_CA_URL", "ftp://x").run_once(&["fetch-ca"]);
            assert_eq!((output.code, output.stderr.lines().count()), (Some(78), 2), "{output:?}");
        }),
    ]
}

/// The daemon has PIA's own login URLs and no way to them but the one that the row makes.
fn default_logins(tunnel_login: bool) -> World {
    let address = [127, 0, 0, 77].into();
    let options = pia::Options { address, login_port: 8443, tunnel_login, ..pia::Options::default() };
    World::pia(options).without(&["PIA_LOGIN_URL"])
}

/// What the names of PIA's website lead to.
fn websites_are_at(address: &str) {
    let hosts = WEBSITES.map(|name| format!("{address} {name}\n")).concat();
    let file = std::env::temp_dir().join(format!("hosts-{:016x}", super::support::unique()));
    std::fs::write(&file, hosts).expect("a hosts file");
    super::tunnel::mount_over(&file, "/etc/hosts");
}

/// A lockout that says how long it lasts: no signal ends the wait.
fn is_waited_for(world: World, endpoint: &str) {
    let wait = Duration::from_secs(6);
    let mut daemon = Fault::from_start(world, |world| {
        world.pia.scripts.next(endpoint, [pia::too_many_attempts(429, Some(wait))]);
    });
    daemon = daemon.reads(&["PIA login", "locked out", "6 s"]);
    daemon.daemon.hang_up();
    let daemon = daemon.relieve(|_| ()).recovers();
    assert!(daemon.started().elapsed() > wait, "{}", daemon.log());
    let counts = daemon.pia().counts();
    assert_eq!(counts.logins + counts.tunnel_logins, 2, "{counts:?}");
    assert_eq!(daemon.lines_at("INFO", "account: recovered after").len(), 1, "{}", daemon.log());
}

fn logins() -> Vec<Row> {
    vec![
        Row::isolated("the websites are out of reach: the gateway gives the token", || {
            websites_are_at("127.0.0.66");
            let daemon = default_logins(true).settle();
            let counts = daemon.pia().counts();
            assert_eq!((counts.logins, counts.tunnel_logins, counts.signatures), (0, 1, 1), "{counts:?}");
            harmless(daemon);
        }),
        Row::isolated("without a tunnel and a name the gateway is told no password", || {
            websites_are_at("127.0.0.66");
            let world = default_logins(true).without(&["PIA_HOSTNAME"]);
            let mut daemon = Fault::from_start(world, |_| ()).reads(&["PIA login", WEBSITES[0], WEBSITES[1]]).daemon;
            daemon.hang_up();
            daemon.see("(attempt 2)");
            let counts = daemon.pia().counts();
            assert_eq!((counts.tunnel_logins, counts.connections), (0, 0), "{counts:?}\n{}", daemon.log());
        }),
        Row::isolated("websites and gateway are out of reach", || {
            websites_are_at("127.0.0.66");
            Fault::from_start(default_logins(false), |_| ())
                .reads(&["PIA login", WEBSITES[0], WEBSITES[1], "the gateway: ", "connection refused"])
                .relieve(|world| {
                    let token = world.pia.make_token();
                    std::fs::write(world.setup.token_file(), token).expect("a token file");
                })
                .recovers();
        }),
        Row::isolated("a rejected password at the gateway ends the chain", || {
            websites_are_at("127.0.0.66");
            let mut daemon = default_logins(true).env("PIA_PASSWORD", "wrong").run();
            daemon.fails(&["PIA login", "wrong user name or password", "30 min"]);
            daemon.hang_up();
            assert!(!wait_until(Duration::from_secs(1), || daemon.pia().counts().tunnel_logins > 1));
        }),
        Row::isolated("a rejected password at the website is not tried at the gateway", || {
            websites_are_at("127.0.0.77");
            let world = {
                let address = [127, 0, 0, 77].into();
                // The website's port is the gateway's for tokens: they cannot both be here.
                let options = pia::Options { address, login_port: 443, ..pia::Options::default() };
                World::pia(options).without(&["PIA_LOGIN_URL"])
            };
            let fault = Fault::from_start(world.env("PIA_PASSWORD", "wrong"), |_| ());
            let words = ["PIA login", "wrong user name or password", "PIA_PASSWORD", "30 min"];
            let daemon = fault.reads(&words).shows("account").daemon;
            daemon.hang_up();
            assert!(!wait_until(Duration::from_secs(1), || daemon.pia().counts().logins > 1), "nor at the second host");
        }),
        Row::isolated("a gateway that repeats the login in its error shows no password", || {
            websites_are_at("127.0.0.66");
            let mut world = default_logins(true);
            let password = r#"a&b="c\d/e ü'"#;
            world.pia.set(|state| state.password = password.into());
            world.setup = world.setup.env("PIA_PASSWORD", password);
            let page = |request: &Request| String::from_utf8_lossy(&request.body).into_owned();
            world.pia.scripts.next(pia::TUNNEL_LOGIN, [Reply::echo(500, page)]);
            let mut daemon = world.env("LOG_LEVEL", "TRACE").run();
            daemon.fails(&["PIA login", "HTTP 500", "bytes, not shown"]);
            daemon.wait_for_line("account: recovered after", TOLD);
            assert!(!daemon.log().contains("c\\d") && !daemon.log().contains("c\\\\d"), "{}", daemon.log());
        }),
        Row::new("a locked out account is waited for", || is_waited_for(World::new(), pia::LOGIN)),
        Row::isolated("a locked out account is waited for at the gateway", || {
            websites_are_at("127.0.0.66");
            is_waited_for(default_logins(true), pia::TUNNEL_LOGIN);
        }),
        Row::isolated("the website has somebody else's certificate", || {
            // As behind a captive portal: nothing is sent to it, and the gateway is asked.
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
                .reads(&["PIA login", "reset"])
                .relieve(|world| world.pia.set_login_mood(Mood::Normal))
                .recovers();
        }),
    ]
}
