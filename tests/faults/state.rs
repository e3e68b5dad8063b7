//! The disk, full or read-only; damaged files; and qBittorrent's replies, sessions and ports.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use super::support::daemon::mode;
use super::support::load::is_prompt;
use super::support::pia::{self, BIND_PORT};
use super::support::qbt::{self, Flavour};
use super::support::world::World;
use super::support::{Reply, for_all};
use super::{Fault, Row, assert_harmless};

pub fn rows() -> Vec<Row> {
    [disk(), files(), bad_replies(), sessions(), ports()].concat()
}

/// Puts `STATE_DIR` on a small disk of its own.
fn small_disk(world: World) -> World {
    let state = world.setup.state_dir();
    mount(&["-t", "tmpfs", "-o", "size=64k", "tmpfs"], &state);
    world
}

fn mount(arguments: &[&str], at: &Path) {
    let done = Command::new("mount").args(arguments).arg(at).status();
    assert!(done.is_ok_and(|status| status.success()), "mount {arguments:?} {}", at.display());
}

/// Writes files until the disk is full.
fn fill(disk: &Path) {
    let free = |number: &u32| disk.join(format!("filling-{number}"));
    let unused = (0..).filter(|number| !free(number).exists());
    for number in unused {
        if std::fs::write(free(&number), [0; 4096]).is_err() {
            return;
        }
    }
}

fn empty(disk: &Path) {
    for entry in std::fs::read_dir(disk).expect("a disk").flatten() {
        if entry.file_name().to_string_lossy().starts_with("filling-") {
            std::fs::remove_file(entry.path()).expect("a file");
        }
    }
}

fn disk() -> Vec<Row> {
    vec![
        Row::isolated("the disk is full when the lease is renewed", || {
            let mut daemon = small_disk(World::new()).settle();
            let state = daemon.world.setup.state_dir();
            daemon.skip_log();
            fill(&state);
            // The daemon may have replaced a file in between, which has freed space.
            std::thread::sleep(Duration::from_millis(200));
            fill(&state);
            daemon.pia().set(|state| state.next_port = 50002);
            daemon.pia().scripts.next(BIND_PORT, [pia::port_expired()]);
            daemon.expect_line("bound port 50002");
            daemon.settled(50002);
            daemon.wait_for_binds(3);
            for words in ["cannot store the lease, so a restart gets", "status and healthcheck cannot see the state"] {
                assert_eq!(daemon.lines_at("WARN", words).len(), 1, "{}", daemon.log());
            }
            empty(&state);
            daemon.wait_for_binds(2);
            daemon.restart();
            daemon.settled(50002);
            assert_eq!(daemon.pia().leases(), 2, "the lease is stored as soon as there is space");
        }),
        Row::isolated("the state is read-only", || {
            let world = small_disk(World::new());
            let state = world.setup.state_dir();
            mount(&["-o", "remount,ro"], &state);
            let mut daemon = world.settle();
            daemon.wait_for_binds(3);
            assert_eq!(daemon.lines_at("WARN", "STATE_DIR").len(), 1, "{}", daemon.log());
            assert_eq!(daemon.lines_at("ERROR", ""), [""; 0], "{}", daemon.log());
            mount(&["-o", "remount,rw"], &state);
            daemon.wait_for_binds(2);
            daemon.restart();
            daemon.settled(47047);
            assert_eq!(daemon.pia().leases(), 1);
        }),
        Row::isolated("the disk is full from the start", || {
            let world = small_disk(World::new());
            fill(&world.setup.state_dir());
            let mut daemon = world.settle();
            assert_eq!(daemon.lines_at("WARN", "STATE_DIR").len(), 1, "{}", daemon.log());
            empty(&daemon.world.setup.state_dir());
            daemon.wait_for_binds(2);
            daemon.restart();
            daemon.settled(47047);
            assert_eq!(daemon.pia().leases(), 1);
        }),
    ]
}

/// A world without a login at qBittorrent, to make commands faster.
fn quick_world() -> World {
    let world = World::new();
    world.qbt.set(|state| state.bypass = true);
    world.without(&["QBITTORRENT_USERNAME", "QBITTORRENT_PASSWORD"])
}

fn files() -> Vec<Row> {
    vec![
        // A few cuts only, because each takes a whole pass; the store's own test cuts at each byte.
        Row::new("the stored lease is truncated or is not a lease", || {
            let world = quick_world();
            assert_eq!(world.setup.run_once(&["once"]).code, Some(0));
            let file = world.setup.lease_file();
            let whole = std::fs::read(&file).expect("a lease");
            let cuts = (0..whole.len()).step_by(whole.len() / 8).map(|length| &whole[..length]);
            let odd = [&b"null"[..], b"{}", br#"{"payload":1}"#, b"\0\0\0"];
            for damaged in cuts.chain(odd) {
                std::fs::write(&file, damaged).expect("a file");
                let before = world.pia.leases();
                let output = world.setup.run_once(&["once"]);
                let damaged = String::from_utf8_lossy(damaged);
                assert_eq!(output.code, Some(0), "{damaged}: {output:?}");
                assert!(output.stdout.contains("a new lease will replace it"), "{damaged}: {output:?}");
                assert_eq!((world.pia.leases(), mode(&file)), (before + 1, 0o600), "{damaged}");
            }
        }),
        Row::new("neither the state nor the token can be written", || {
            let world = World::new();
            let file = world.setup.dir().write("file", "");
            let world = world.env("STATE_DIR", file.join("state").display().to_string());
            let mut daemon = world.env("PIA_TOKEN_FILE", file.join("token").display().to_string()).settle();
            daemon.bind_again(2);
            for name in ["STATE_DIR", "PIA_TOKEN_FILE"] {
                assert_eq!(daemon.lines_at("WARN", name).len(), 1, "{name}\n{}", daemon.log());
            }
            assert_harmless(daemon);
        }),
        Row::new("the stored status is truncated at each byte", || {
            let mut daemon = World::new().settle();
            daemon.wait_for_status("verified", |status| status.client_verified_at.is_some());
            daemon.daemon.kill9();
            let setup = daemon.world.setup.clone();
            let file = setup.state_dir().join("status.json");
            let whole = std::fs::read(&file).expect("a status");
            for length in 0..whole.len() {
                std::fs::write(&file, &whole[..length]).expect("a file");
                let output = setup.run_once(&["healthcheck"]);
                assert_eq!(output.code, Some(1), "cut at {length}: {output:?}");
                assert!(output.stderr.contains("damaged"), "cut at {length}: {output:?}");
            }
            daemon.restart();
            daemon.settled(47047);
            assert_eq!(daemon.pia().leases(), 1);
        }),
        Row::new("the token file holds garbage", || {
            // The last one could be a token, so it is sent to the gateway.
            let garbage = [&b"two words"[..], b"\xff\xfe\x00", &[b'x'; 100_000], b"\n\n", b"{\"token\":\"x\""];
            for (garbage, signatures) in garbage.into_iter().zip([1, 1, 1, 1, 2]) {
                let world = World::new();
                std::fs::write(world.setup.token_file(), garbage).expect("a file");
                let daemon = world.settle();
                let counts = daemon.pia().counts();
                assert_eq!((counts.logins, counts.signatures), (1, signatures), "{}", daemon.log());
                let token = std::fs::read_to_string(daemon.world.setup.token_file()).expect("a token");
                assert!(daemon.pia().set(|state| state.tokens.contains(&token)));
            }
        }),
    ]
}

/// Bad replies of the Web UI beyond those of any server, each with the words in the log.
fn bad_replies() -> Vec<Row> {
    let answers = [
        ("404", qbt::PREFERENCES, Reply::text(404, ""), &["qBittorrent preferences", "404", "QBITTORRENT_HOST"][..]),
        ("without a port", qbt::PREFERENCES, Reply::json(200, "{}"), &["qBittorrent preferences", "listen_port"]),
        (
            "with a port that is not a number",
            qbt::PREFERENCES,
            Reply::json(200, r#"{"listen_port":"x"}"#),
            &["qBittorrent preferences", "listen_port"],
        ),
        (
            "a login with a redirect",
            qbt::LOGIN,
            Reply::raw("HTTP/1.1 301 Moved\r\nlocation: https://nas/\r\ncontent-length: 0\r\n\r\n"),
            &["qBittorrent login", "301", "redirect"],
        ),
        (
            "a new port with 500",
            qbt::SET_PREFERENCES,
            Reply::text(500, "it broke"),
            &["qBittorrent setPreferences", "500", "it broke"],
        ),
        (
            "without a connection status",
            qbt::TRANSFER_INFO,
            Reply::json(200, "{}"),
            &["qBittorrent transfer/info", "connection_status"],
        ),
    ];
    let row = |(what, endpoint, reply, words): (&str, &'static str, Reply, &'static [&str])| {
        Row::new(format!("qBittorrent answers {what}"), move || {
            Fault::from_start(World::new(), |world| world.qbt.scripts.always(endpoint, reply.clone()))
                .logs(words)
                .shows("client")
                .relieve(|world| world.qbt.scripts.clear())
                .recovers();
        })
    };
    answers.map(row).into()
}

fn sessions() -> Vec<Row> {
    vec![
        Row::new("qBittorrent forgets the session", || {
            let forget: [fn(&World); 2] = [
                |world| world.qbt.expire_sessions(),
                // The session still exists, so a login with the old cookie would not create a new one.
                |world| world.qbt.scripts.next(qbt::PREFERENCES, [Reply::text(403, "Forbidden")]),
            ];
            for_all(forget.into_iter().flat_map(|forget| Flavour::ALL.map(|flavour| (forget, flavour))), |case| {
                let (forget, flavour) = case;
                let mut daemon = World::flavour(flavour).settle();
                forget(&daemon.world);
                daemon.qbt().change_port_in_web_ui(1234);
                daemon.expect_line("qBittorrent: listen port 1234 -> 47047");
                daemon.settled(47047);
                let counts = daemon.qbt().counts();
                assert_eq!(
                    (counts.logins, counts.failed_logins, counts.set_ports),
                    (2, 0, 2),
                    "{flavour:?}: {counts:?}"
                );
                assert!(counts.sessions <= 2, "{flavour:?}: {counts:?}");
                assert_harmless(daemon);
            });
        }),
        Row::new("qBittorrent has banned our address", || {
            for_all(Flavour::ALL, |flavour| {
                let fault = Fault::strike(World::flavour(flavour), |world| {
                    world.qbt.scripts.always(qbt::LOGIN, Reply::text(403, "Your IP address has been banned"));
                    world.qbt.expire_sessions();
                });
                let mut fault = fault.logs(&["qBittorrent login", "banned", "restart qBittorrent"]).keeps_binding();
                let tried = fault.daemon.qbt().scripts.used();
                fault.daemon.wait_for_binds(3);
                assert_eq!(fault.daemon.qbt().scripts.used(), tried, "no further login while banned");
                // Not even after SIGHUP.
                fault.daemon.bind_again(3);
                assert_eq!(fault.daemon.lines_at("ERROR", "").len(), 1, "{flavour:?}: {}", fault.daemon.log());
            });
        }),
        Row::new("qBittorrent's password is wrong from the start", || {
            for_all(Flavour::ALL, |flavour| {
                let world = World::flavour(flavour).env("QBITTORRENT_PASSWORD", "wrong");
                let fault = Fault::from_start(world, |_| ());
                let fault = fault.logs(&["qBittorrent login", "user name or password rejected", "PASSWORD", "30 min"]);
                let mut daemon = fault.shows("client").keeps_binding().daemon;
                daemon.bind_again(3);
                let counts = qbt::Counts { failed_logins: 1, ..qbt::Counts::default() };
                assert_eq!(daemon.qbt().counts(), counts, "{flavour:?}");
                assert_eq!(daemon.status().and_then(|status| status.client_verified_at), None);
            });
        }),
        Row::new("the Web UI is https with a private CA", || {
            for_all(Flavour::ALL, |flavour| {
                assert_harmless(World::qbt(qbt::Options { tls: true, flavour, ..qbt::Options::default() }).settle());
            });
        }),
        Row::new("qBittorrent's password changes", || {
            let fault = Fault::strike(World::new(), |world| {
                world.qbt.set(|state| state.password = "another".into());
                world.qbt.expire_sessions();
            });
            let fault = fault.logs(&["qBittorrent login", "user name or password rejected", "30 min"]).keeps_binding();
            assert_eq!(fault.daemon.qbt().counts().failed_logins, 1);
        }),
    ]
}

fn ports() -> Vec<Row> {
    vec![
        Row::new("the user sets a different port in the Web UI", || {
            for_all([1234, 0, 70_000, -1], |port| {
                let mut daemon = World::new().env("CHECK_INTERVAL", "3").settle();
                let begin = Instant::now();
                daemon.qbt().change_port_in_web_ui(port);
                daemon.expect_line(&format!("qBittorrent: listen port {port} -> 47047"));
                // Sooner than two intervals.
                assert!(is_prompt(begin.elapsed(), Duration::from_secs(5)), "{:?}", begin.elapsed());
                daemon.settled(47047);
                assert_eq!(daemon.qbt().ports(), [47047; 2]);
                assert_harmless(daemon);
            });
        }),
        Row::new("a different program listens on the port", || {
            // A status that lags still shows the old socket and must not be trusted.
            for_all([0, 1300], |lag| {
                let fault = Fault::from_start(World::new(), |world| {
                    world.qbt.set(|state| {
                        state.status_lag = Duration::from_millis(lag);
                        state.taken.insert(47047, usize::MAX);
                    });
                });
                let words = ["port 47047 is set, but nothing listens", "another program"];
                let fault = fault.logs(&words).shows("client");
                let daemon = &fault.daemon;
                assert_eq!(daemon.count_lines("qBittorrent listens on port"), 0, "{}", daemon.log());
                assert_eq!(daemon.status().and_then(|status| status.client_verified_at), None);
                assert_eq!(daemon.qbt().counts().set_ports, 3, "one bounce");
                assert_eq!(daemon.world.setup.run_once(&["healthcheck"]).code, Some(1));
                fault.keeps_binding().relieve(|world| world.qbt.set(|state| state.taken.clear())).recovers();
            });
        }),
        Row::new("qBittorrent loses its socket or could not open it", || {
            for_all([true, false], |at_start| {
                let world = World::new();
                if at_start {
                    world.qbt.set(|state| state.taken.insert(47047, 1));
                }
                let mut daemon = world.run();
                daemon.expect_line("listen port 6881 -> 47047");
                if !at_start {
                    // As after the tunnel was recreated.
                    daemon.settled(47047);
                    daemon.qbt().drop_socket();
                }
                daemon.expect_line("setting the port again");
                daemon.settled(47047);
                let ports = daemon.qbt().ports();
                assert!(matches!(ports[..], [47047, other, 47047] if (1..=65535).contains(&other)), "{ports:?}");
                assert_harmless(daemon);
            });
        }),
    ]
}
