//! Commands that root types, in folders that the service's user owns: they must not become that user's way to root.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, lchown, symlink};
use std::path::{Path, PathBuf};

use super::Row;
use super::support::daemon::{Output, SOON, Setup};
use super::support::rows::missing;
use super::support::world::World;
use super::support::{TempDir, wait_until};

/// User and group of the service: of no account of this machine.
const SERVICE: u32 = 61_234;
const SECRET: &str = "a file of root's\n";

pub fn rows() -> Vec<Row> {
    [links(), rights(), folders()].concat()
}

fn row(name: &str, body: fn(&mut Home)) -> Row {
    Row::new(format!("root: {name}"), move || {
        if !rustix::process::geteuid().is_root() {
            missing("root");
        }
        body(&mut Home::new());
    })
}

/// Links of the service's user to files of root's.
fn links() -> Vec<Row> {
    vec![
        row("once works as the owner of STATE_DIR", |home| {
            home.succeeds(&["once"]);
            let owners: Vec<_> = files_in(&home.state).iter().map(|path| (owner(path), path.clone())).collect();
            assert!(owners.len() >= 4 && owners.iter().all(|(owner, _)| *owner == SERVICE), "{owners:?}");
        }),
        row("a lock that links to a file of root's gives nothing away", |home| {
            for (target, exists) in [(home.victim.clone(), true), (home.dir.path().join("new"), false)] {
                home.link(&target, "lock");
                for command in [&["once"][..], &["renew"], &["status"], &["healthcheck"], &["check"]] {
                    home.run(command);
                    assert_eq!(target.exists(), exists, "{command:?}");
                    home.assert_untouched();
                }
                fs::remove_file(home.state.join("lock")).expect("a link");
            }
        }),
        row("no state file that is a link gives anything away", |home| {
            for name in ["status.json", "lease.json", "rejected.json", "token", ".status.json.tmp", "requests"] {
                home.link(&home.victim.clone(), name);
                let output = home.run(&["once"]);
                assert!(!format!("{output:?}").contains(SECRET.trim()), "{name}: {output:?}");
                for command in [&["status"][..], &["check"]] {
                    let output = home.run(command);
                    assert!(!format!("{output:?}").contains(SECRET.trim()), "{name}: {output:?}");
                }
                home.assert_untouched();
                let _ = fs::remove_file(home.state.join(name));
            }
        }),
        row("a log that is a link is not written", |home| {
            let log = home.link(&home.victim.clone(), "log");
            home.setup = home.setup.clone().env("LOG_FILE", text(&log));
            home.succeeds(&["once"]);
            home.assert_untouched();
            let new = home.dir.path().join("new");
            fs::remove_file(&log).expect("a link");
            home.link(&new, "log");
            home.succeeds(&["once"]);
            assert!(!new.exists(), "a file of root's was created");
        }),
    ]
}

/// As whom a command works.
fn rights() -> Vec<Row> {
    vec![
        row("the command for a new port is the service's, and does not run at root's terminal", |home| {
            let ran = home.state.join("ran-as");
            let setup = home.setup.clone().env("PORT_CHANGE_COMMAND", format!("sh -c 'id -u >{}'", ran.display()));
            home.open_folders();
            let output = setup.run_once(&["once"]);
            assert_eq!(output.code, Some(0), "{output:?}");
            assert!(
                output.stdout.contains("PORT_CHANGE_COMMAND is not run by a command that root has typed"),
                "{output:?}"
            );
            assert!(!ran.exists());
        }),
        row("a folder above STATE_DIR of a different user ends a typed command", |home| {
            let alice = home.dir.path().join("alice");
            fs::create_dir(&alice).expect("a folder");
            chown(&alice, Some(SERVICE + 1), Some(SERVICE + 1)).expect("an owner");
            let state = alice.join("state");
            let setup = home.setup.clone().env("STATE_DIR", text(&state));
            let refused = || {
                for command in [&["once"][..], &["check"], &["renew"]] {
                    let output = setup.run_once(command);
                    assert_eq!(output.code, Some(78), "{command:?}: {output:?}");
                    assert!(output.stderr.contains("can be replaced by another user"), "{output:?}");
                }
            };
            symlink(&home.state, &state).expect("a link");
            lchown(&state, Some(SERVICE + 1), Some(SERVICE + 1)).expect("an owner");
            refused();
            setup.run_once(&["status"]);
            assert_eq!(files_in(&home.state), Vec::<PathBuf>::new());
            fs::remove_file(&state).expect("a link");
            fs::create_dir(&state).expect("a folder");
            chown(&state, Some(SERVICE), Some(SERVICE)).expect("an owner");
            refused();
            assert_eq!(files_in(&state), Vec::<PathBuf>::new());
        }),
        row("the group of STATE_DIR does not give away root's group", |home| {
            chown(&home.state, Some(SERVICE), Some(0)).expect("an owner");
            home.succeeds(&["once"]);
            let lease = fs::metadata(home.state.join("lease.json")).expect("a file");
            assert!(lease.uid() == SERVICE && lease.gid() != 0, "{} {}", lease.uid(), lease.gid());
        }),
        row("a secret that another user can change is not used by a typed command", |home| {
            let file = home.state.join("password");
            fs::write(&file, home.setup.value("QBITTORRENT_PASSWORD")).expect("a file");
            chown(&file, Some(SERVICE), Some(SERVICE)).expect("an owner");
            let setup =
                home.setup.clone().without("QBITTORRENT_PASSWORD").env("QBITTORRENT_PASSWORD_FILE", text(&file));
            let before = home.world.qbt.counts();
            // The scripts that start a service ask this, and the service only warns.
            let output = setup.run_once(&["check", "--config-only"]);
            assert!(output.code == Some(0) && output.stdout.contains("warning: "), "{output:?}");
            for command in [&["once"][..], &["check"], &["renew"]] {
                let output = setup.run_once(command);
                assert_eq!(output.code, Some(78), "{output:?}");
                assert!(output.stderr.contains("can be changed by a user other than root"), "{output:?}");
                assert!(output.stderr.contains("chown root"), "{output:?}");
            }
            // A link to a file of root's, in a folder of the service's user.
            fs::remove_file(&file).expect("a file");
            symlink(&home.victim, &file).expect("a link");
            let output = setup.run_once(&["check"]);
            assert_eq!(output.code, Some(78), "{output:?}");
            assert!(output.stderr.contains("can be replaced by a user other than root"), "{output:?}");
            assert_eq!(home.world.qbt.counts(), before, "no request was sent");
        }),
    ]
}

/// Whom `STATE_DIR` may belong to, and where it may be.
fn folders() -> Vec<Row> {
    vec![
        row("without STATE_DIR, check creates nothing and once refers to the service", |home| {
            fs::remove_dir(&home.state).expect("an empty folder");
            home.setup =
                home.setup.clone().without("PIA_TOKEN_FILE").env("PIA_TOKEN_FILE", text(&home.dir.path().join("t")));
            assert_eq!(home.run(&["check"]).code, Some(0));
            for command in [&["once"][..], &["renew"]] {
                let output = home.run(command);
                assert_eq!(output.code, Some(78), "{output:?}");
                assert!(output.stderr.contains("start the service first"), "{output:?}");
            }
            assert!(!home.state.exists());
        }),
        row("a folder that only root can reach, as with DynamicUser", |home| {
            let private = home.dir.path().join("private");
            fs::create_dir(&private).expect("a folder");
            fs::set_permissions(&private, fs::Permissions::from_mode(0o700)).expect("its mode");
            let real = private.join("state");
            fs::rename(&home.state, &real).expect("a folder");
            symlink(&real, &home.state).expect("a link of root's");
            home.succeeds(&["once"]);
            assert_eq!((owner(&real.join("lease.json")), owner(&real.join("status.json"))), (SERVICE, SERVICE));
            let check = home.run(&["check"]);
            assert_eq!(check.code, Some(0), "{check:?}");
            let status = home.run(&["status"]);
            assert!(status.stdout.starts_with("stopped"), "{status:?}");
            assert_eq!(home.run(&["healthcheck"]).code, Some(3));
        }),
        row("renew reaches a service of the other user", |home| {
            home.open_folders();
            let mut service = home.setup.run();
            service.expect_line("qBittorrent listens on port 47047");
            assert_eq!(owner(&home.state.join("requests")), SERVICE, "a service that root starts is its user, too");
            assert_eq!(fs::metadata(home.state.join("requests")).expect("a socket").mode() & 0o777, 0o600);
            home.world.pia.set(|state| state.next_port = 50_002);
            let renew = home.run(&["renew"]);
            assert_eq!((renew.code, renew.stdout.as_str()), (Some(0), "port 47047 -> 50002\n"), "{renew:?}");
            assert!(wait_until(SOON, || home.run(&["healthcheck"]).code == Some(0)), "{}", service.log());
        }),
        row("a service whose STATE_DIR is root's stays root's", |home| {
            chown(&home.state, Some(0), Some(0)).expect("an owner");
            home.succeeds(&["once"]);
            assert!(files_in(&home.state).iter().all(|path| owner(path) == 0));
        }),
        row("PORT_FILE in another user's folder is not followed to a file of root's", |home| {
            chown(&home.state, Some(0), Some(0)).expect("an owner");
            let share = home.dir.path().join("share");
            fs::create_dir(&share).expect("a folder");
            chown(&share, Some(SERVICE), Some(SERVICE)).expect("an owner");
            let file = share.join("forwarded_port");
            let setup = home.setup.clone().env("PORT_FILE", text(&file));
            symlink(&home.victim, &file).expect("a link");
            // A link of root's is no better there: the folder's owner can replace it.
            for owner in [SERVICE, 0] {
                lchown(&file, Some(owner), Some(owner)).expect("an owner");
                let output = setup.run_once(&["once"]);
                assert!(output.stdout.contains("is a link that another user can change"), "{output:?}");
                home.assert_untouched();
            }
            fs::remove_file(&file).expect("a link");
            fs::hard_link(&home.victim, &file).expect("a second name");
            let output = setup.run_once(&["once"]);
            assert!(output.stdout.contains("has more than one hard link"), "{output:?}");
            home.assert_untouched();
            fs::remove_file(&file).expect("a name");
            setup.run_once(&["once"]);
            assert_eq!(fs::read_to_string(&file).expect("a file"), "47047\n");
        }),
    ]
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

fn owner(path: &Path) -> u32 {
    fs::symlink_metadata(path).map_or(u32::MAX, |file| file.uid())
}

fn files_in(folder: &Path) -> Vec<PathBuf> {
    fs::read_dir(folder).expect("a folder").flatten().map(|entry| entry.path()).collect()
}

/// A daemon's world whose `STATE_DIR` belongs to the service's user, and a file of root's.
struct Home {
    world: World,
    setup: Setup,
    state: PathBuf,
    victim: PathBuf,
    dir: TempDir,
}

impl Home {
    fn new() -> Self {
        let (world, dir) = (World::new(), TempDir::new());
        let (state, victim) = (dir.path().join("state"), dir.write("victim", SECRET));
        fs::set_permissions(&victim, fs::Permissions::from_mode(0o600)).expect("a mode");
        fs::create_dir(&state).expect("a folder");
        chown(&state, Some(SERVICE), Some(SERVICE)).expect("an owner");
        let setup =
            world.setup.clone().env("STATE_DIR", text(&state)).env("PIA_TOKEN_FILE", text(&state.join("token")));
        Self { world, setup, state, victim, dir }
    }

    /// Lets other users enter the folders above `STATE_DIR`.
    fn open_folders(&self) {
        fs::set_permissions(self.dir.path(), fs::Permissions::from_mode(0o755)).expect("a mode");
    }

    /// Makes `name` in `STATE_DIR` a link of the service's user.
    fn link(&self, target: &Path, name: &str) -> PathBuf {
        let link = self.state.join(name);
        let _ = fs::remove_file(&link);
        symlink(target, &link).expect("a link");
        lchown(&link, Some(SERVICE), Some(SERVICE)).expect("an owner");
        link
    }

    fn run(&self, command: &[&str]) -> Output {
        self.setup.run_once(command)
    }

    #[track_caller]
    fn succeeds(&self, command: &[&str]) {
        let output = self.run(command);
        assert_eq!(output.code, Some(0), "{output:?}");
    }

    #[track_caller]
    fn assert_untouched(&self) {
        let file = fs::metadata(&self.victim).expect("the file of root's");
        assert_eq!((file.uid(), file.mode() & 0o777), (0, 0o600));
        assert_eq!(fs::read_to_string(&self.victim).expect("its text"), SECRET);
    }
}
