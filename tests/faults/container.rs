//! The daemon as the first process of a container: nothing else handles its signals or reaps its orphans.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;
use std::time::{Duration, Instant};

use super::support::daemon::{self, Daemon, LATER, SOON, Setup};
use super::support::load::is_prompt;
use super::support::rows::{Row, missing};
use super::support::world::World;
use super::support::{Signal, send, wait_until};

/// Arguments with which `unshare` starts a program as the first process of a PID namespace.
const UNSHARE: [&str; 4] = ["--fork", "--kill-child", "--pid", "--mount-proc"];

pub fn rows() -> Vec<Row> {
    vec![
        Row::new("process 1: SIGHUP causes a bind, SIGTERM ends the daemon", obeys_signals),
        Row::new("process 1: orphans are reaped", reaps_orphans),
    ]
}

/// Starts the daemon of `world` as process 1; the [`Daemon`] is `unshare`, its parent.
fn run_as_process_1(world: &World, environment: &[(&str, &str)]) -> Daemon {
    if !Command::new("unshare").args(UNSHARE).arg("true").status().is_ok_and(|status| status.success()) {
        missing("PID namespaces ('unshare --pid' fails here)");
    }
    let mut setup = Setup::with_binary("unshare").pia(&world.pia).qbt(&world.qbt);
    for (name, value) in environment {
        setup = setup.env(name, *value);
    }
    let binary = daemon::binary().display().to_string();
    setup.run_with(&[&UNSHARE[..], &[&binary]].concat())
}

/// PID of the daemon outside its namespace.
fn process_1(unshare: &Daemon) -> u32 {
    let children = format!("/proc/{0}/task/{0}/children", unshare.pid());
    fs::read_to_string(children).expect("the list of children").trim().parse().expect("one child")
}

fn obeys_signals() {
    let world = World::new();
    let mut outer = run_as_process_1(&world, &[]);
    outer.expect_line("qBittorrent listens on port 47047");
    let inner = process_1(&outer);
    let bound = world.pia.bound().len();
    send(inner, Signal::HUP).expect("a running daemon");
    outer.wait_until("a bind after SIGHUP", || world.pia.bound().len() > bound);
    let begin = Instant::now();
    send(inner, Signal::TERM).expect("a running daemon");
    let ended = outer.wait_for_end(SOON);
    assert!(
        ended.success() && is_prompt(begin.elapsed(), Duration::from_secs(1)),
        "{ended} after {:?}",
        begin.elapsed()
    );
}

fn reaps_orphans() {
    let world = World::new();
    let hook = world.setup.dir().write("hook", "#!/bin/sh\n(sleep 0.2 &) & exit 0\n");
    fs::set_permissions(&hook, fs::Permissions::from_mode(0o755)).expect("its mode");
    let mut outer = run_as_process_1(&world, &[("PORT_CHANGE_COMMAND", &hook.display().to_string())]);
    outer.wait_for_line("PORT_CHANGE_COMMAND: done for port 47047", LATER);
    let inner = process_1(&outer);
    let left = || {
        let threads = fs::read_dir(format!("/proc/{inner}/task")).expect("the daemon");
        let left = threads.flatten().filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok());
        left.collect::<String>()
    };
    assert!(wait_until(LATER, || left().is_empty()), "left: {}", left());
}
