//! The disk: full, read-only, and files that are damaged; and what qBittorrent goes through.

use std::path::Path;
use std::process::Command;

use super::support::Reply;
use super::support::pia::{self, BIND_PORT};
use super::support::qbt::{self, Flavour};
use super::support::world::World;
use super::{Fault, Row, harmless};

pub fn rows() -> Vec<Row> {
    [disk(), files(), client()].concat()
}

/// A small disk of its own for the state.
fn small_disk(world: World) -> World {
    let state = world.setup.state_dir();
    mount(&["-t", "tmpfs", "-o", "size=64k", "tmpfs"], &state);
    world
}

fn mount(arguments: &[&str], at: &Path) {
    let done = Command::new("mount").args(arguments).arg(at).status();
    assert!(done.is_ok_and(|status| status.success()), "mount {arguments:?} {}", at.display());
}

/// Writes until nothing more fits.
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
            // A file of the daemon's that was about to be replaced has left its place.
            std::thread::sleep(std::time::Duration::from_millis(200));
            fill(&state);
            daemon.pia().set(|state| state.next_port = 50002);
            daemon.pia().scripts.next(BIND_PORT, [pia::port_expired()]);
            daemon.see("bound port 50002");
            daemon.settled(50002);
            daemon.sees_more_binds(3);
            for words in ["the lease is kept in memory only", "status and healthcheck do not know the state"] {
                assert_eq!(daemon.lines_at("WARN", words).len(), 1, "{}", daemon.log());
            }
            empty(&state);
            daemon.sees_more_binds(2);
            daemon.restart();
            daemon.settled(50002);
            assert_eq!(daemon.pia().leases(), 2, "the lease was stored as soon as there was room");
        }),
        Row::isolated("the state is read-only", || {
            let world = small_disk(World::new());
            let state = world.setup.state_dir();
            mount(&["-o", "remount,ro"], &state);
            let mut daemon = world.settle();
            daemon.sees_more_binds(3);
            assert_eq!(daemon.lines_at("WARN", "STATE_DIR").len(), 1, "{}", daemon.log());
            assert_eq!(daemon.lines_at("ERROR", ""), [""; 0], "{}", daemon.log());
            mount(&["-o", "remount,rw"], &state);
            daemon.sees_more_binds(2);
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
            daemon.sees_more_binds(2);
            daemon.restart();
            daemon.settled(47047);
            assert_eq!(daemon.pia().leases(), 1);
        }),
    ]
}

/// The world of commands that need no login at qBittorrent, to be quick.
fn quick_world() -> World {
    let world = World::new();
    world.qbt.set(|state| state.bypass = true);
    world.without(&["QBITTORRENT_USERNAME", "QBITTORRENT_PASSWORD"])
}

fn files() -> Vec<Row> {
    vec![
        // At each byte in the store's own test; a whole pass takes longer.
        Row::new("the stored lease is cut", || {
            let world = quick_world();
            assert_eq!(world.setup.run_once(&["once"]).code, Some(0));
            let file = world.setup.lease_file();
            let whole = std::fs::read(&file).expect("a lease");
            let cuts: Vec<_> = (0..whole.len()).step_by(whole.len() / 8).collect();
            for &length in &cuts {
                std::fs::write(&file, &whole[..length]).expect("a file");
                let output = world.setup.run_once(&["once"]);
                assert_eq!(output.code, Some(0), "cut at {length}: {output:?}");
                assert!(output.stdout.contains("a new lease will replace it"), "cut at {length}: {output:?}");
            }
            assert_eq!(world.pia.leases(), cuts.len() + 1);
        }),
        Row::new("the stored status is cut at each byte", || {
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
            // The last one may be a token: the gateway is asked.
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

fn client() -> Vec<Row> {
    vec![
        Row::new("qBittorrent restarts", || {
            Fault::strike(World::new(), |world| world.qbt.pause())
                .reads(&["qBittorrent", "connection refused", "QBITTORRENT_HOST"])
                .binds_on()
                .relieve(|world| world.qbt.resume())
                .recovers();
        }),
        Row::new("qBittorrent forgets the session", || {
            let daemon = World::new().settle();
            daemon.qbt().expire_sessions();
            harmless(daemon);
        }),
        Row::new("qBittorrent has banned us", || {
            let fault = Fault::strike(World::new(), |world| {
                world.qbt.scripts.always(qbt::LOGIN, Reply::text(403, "Your IP address has been banned"));
                world.qbt.expire_sessions();
            });
            let mut fault = fault.reads(&["qBittorrent login", "banned", "restart qBittorrent"]).binds_on();
            let tried = fault.daemon.qbt().scripts.used();
            fault.daemon.sees_more_binds(3);
            assert_eq!(
                fault.daemon.qbt().scripts.used(),
                tried,
                "no further login: that would extend nothing and help nobody"
            );
        }),
        Row::new("qBittorrent's password has changed", || {
            let fault = Fault::strike(World::new(), |world| {
                world.qbt.set(|state| state.password = "another".into());
                world.qbt.expire_sessions();
            });
            let fault = fault.reads(&["qBittorrent login", "credentials rejected", "30 minutes"]).binds_on();
            assert_eq!(fault.daemon.qbt().counts().failed_logins, 1);
        }),
        Row::new("somebody sets another port in the Web UI", || {
            let mut daemon = World::new().settle();
            daemon.qbt().change_port_by_hand(1234);
            daemon.see("listen port 1234 -> 47047");
            daemon.settled(47047);
            harmless(daemon);
        }),
        Row::new("another program has the port", || {
            Fault::strike(World::new(), |world| {
                world.qbt.set(|state| state.taken.insert(47047, usize::MAX));
                world.qbt.change_port_by_hand(1234);
            })
            .reads(&["port 47047 is set and nothing listens", "another program"])
            .binds_on()
            .relieve(|world| world.qbt.set(|state| state.taken.clear()))
            .recovers();
        }),
        Row::new("the Web UI is https with a private CA", || {
            for flavour in Flavour::ALL {
                harmless(World::qbt(qbt::Options { tls: true, flavour, ..qbt::Options::default() }).settle());
            }
        }),
        Row::new("the socket is lost", || {
            let mut daemon = World::new().settle();
            daemon.qbt().drop_socket();
            daemon.see("setting it anew");
            daemon.settled(47047);
            harmless(daemon);
        }),
    ]
}
