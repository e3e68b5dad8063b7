//! Network namespaces with only a loopback interface: running programs in them, and finding their listening sockets.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::fd::AsFd as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::thread;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::Killed;

/// Variable that is set for a test program that runs again inside a namespace.
pub const INSIDE: &str = "INSIDE_NAMESPACE";
/// State of a listening socket in `/proc/net/tcp`, and of an unconnected one in `/proc/net/udp`.
const LISTEN: &str = "0A";
const UNCONNECTED: &str = "07";

/// Flag with which `unshare` works here: as root, or as root of a new user namespace.
fn unshare_flag() -> Option<&'static str> {
    static FLAG: OnceLock<Option<&str>> = OnceLock::new();
    *FLAG.get_or_init(|| {
        ["-n", "-rn"].into_iter().find(|flag| {
            let mut attempt = Command::new("unshare");
            attempt.args([flag, "ip", "link", "set", "lo", "up"]).stderr(Stdio::null());
            attempt.status().is_ok_and(|status| status.success())
        })
    })
}

/// Command that runs `program` in a new network namespace; `None` if this machine cannot make one.
pub fn isolated(program: impl AsRef<OsStr>) -> Option<Command> {
    let mut command = Command::new("unshare");
    command.arg(unshare_flag()?).arg("--").arg(program);
    Some(command)
}

/// Command that runs `program` in new network and mount namespaces; `None` if this machine cannot make them.
pub fn isolated_with_mounts(program: impl AsRef<OsStr>) -> Option<Command> {
    let mut command = Command::new("unshare");
    command.args([unshare_flag()?, "--mount", "--"]).arg(program);
    Some(command)
}

/// Command that runs `program` in the network namespace of process `pid`.
pub fn command_in(pid: u32, program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("nsenter");
    command.arg(format!("--net=/proc/{pid}/ns/net")).arg("--").arg(program);
    command
}

/// Runs `work` in the network namespace of a process; its sockets stay there.
pub fn within<T: Send>(pid: Option<u32>, work: impl FnOnce() -> T + Send) -> T {
    let Some(pid) = pid else { return work() };
    let namespace = fs::File::open(format!("/proc/{pid}/ns/net")).expect("the namespace of a running process");
    // setns(2) moves only the calling thread.
    let in_thread = move || {
        let kind = Some(LinkNameSpaceType::Network);
        move_into_link_name_space(namespace.as_fd(), kind).expect("the right to enter a namespace");
        work()
    };
    thread::scope(|scope| scope.spawn(in_thread).join()).unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Runs `ip` in the network namespace of process `pid`.
pub fn ip(pid: u32, arguments: &str) {
    let done = command_in(pid, "ip").args(arguments.split_whitespace()).status();
    assert!(done.is_ok_and(|status| status.success()), "ip {arguments}");
}

/// Runs `ip` in our own namespace.
pub fn ip_here(arguments: &str) {
    ip(std::process::id(), arguments);
}

/// Brings up the loopback interface of a new namespace.
pub fn raise_loopback() {
    let raised = Command::new("ip").args(["link", "set", "lo", "up"]).status();
    assert!(raised.is_ok_and(|status| status.success()), "the loopback interface cannot be raised");
}

/// Sockets in a state, from `tables` in the namespace of process `pid`, as (port, inode).
fn sockets(pid: u32, tables: [&str; 2], wanted: &str) -> Vec<(u16, String)> {
    let mut found = Vec::new();
    for table in tables {
        let text = fs::read_to_string(format!("/proc/{pid}/net/{table}")).unwrap_or_default();
        for line in text.lines().skip(1) {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let (Some(local), Some(state), Some(inode)) = (fields.get(1), fields.get(3), fields.get(9)) else {
                continue;
            };
            if *state != wanted {
                continue;
            }
            let port = local.rsplit(':').next().and_then(|hex| u16::from_str_radix(hex, 16).ok());
            found.extend(port.map(|port| (port, (*inode).to_owned())));
        }
    }
    found
}

/// Listening TCP sockets in the namespace of process `pid`.
fn listeners(pid: u32) -> Vec<(u16, String)> {
    sockets(pid, ["tcp", "tcp6"], LISTEN)
}

/// Reports whether a socket listens on TCP `port` in the namespace of process `pid`.
pub fn listens(pid: u32, port: u16) -> bool {
    listeners(pid).iter().any(|(listening, _)| *listening == port)
}

/// TCP ports on which process `pid` itself listens.
pub fn ports_of(pid: u32) -> BTreeSet<u16> {
    held_by(pid, listeners(pid))
}

/// UDP ports on which process `pid` itself receives datagrams from any address.
pub fn udp_ports_of(pid: u32) -> BTreeSet<u16> {
    held_by(pid, sockets(pid, ["udp", "udp6"], UNCONNECTED))
}

fn held_by(pid: u32, sockets: Vec<(u16, String)>) -> BTreeSet<u16> {
    let held: BTreeSet<String> = fs::read_dir(Path::new("/proc").join(pid.to_string()).join("fd"))
        .into_iter()
        .flatten()
        .filter_map(|entry| fs::read_link(entry.ok()?.path()).ok()?.into_os_string().into_string().ok())
        .filter_map(|target| Some(target.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned()))
        .collect();
    sockets.into_iter().filter(|(_, inode)| held.contains(inode)).map(|(port, _)| port).collect()
}

/// A namespace for other programs (see [`command_in`]), which ends when dropped.
pub struct Namespace(Killed);

impl Namespace {
    /// Makes a namespace; `None` if this machine cannot.
    pub fn new() -> Option<Self> {
        // The process that holds the namespace ends with its standard input, so it cannot outlive us.
        let mut holder = isolated("sh")?
            .args(["-c", "ip link set lo up && echo ready && exec cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .ok()?;
        let mut ready = String::new();
        let read = BufReader::new(holder.stdout.take()?).read_line(&mut ready);
        let namespace = Self(Killed(holder));
        (read.is_ok() && !ready.is_empty()).then_some(namespace)
    }

    /// A process in the namespace.
    pub fn pid(&self) -> u32 {
        self.0.0.id()
    }
}
