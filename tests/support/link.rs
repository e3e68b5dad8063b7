//! A slow link between two network namespaces, run by `link.py`, because the kernels of small test machines lack netem.

use std::net::Ipv4Addr;
use std::process::{Command, Stdio};
use std::time::Duration;

use super::{Killed, Signal, TempDir, send, wait_until};

const SCRIPT: &str = include_str!("link.py");
const READY_LIMIT: Duration = Duration::from_secs(10);

/// One end of a link: a process in its namespace, and its address.
#[derive(Clone, Copy, Debug)]
pub struct End {
    pub pid: u32,
    pub address: Ipv4Addr,
    /// Length of the prefix of the end's network; `None` for a point-to-point link.
    pub prefix: Option<u8>,
}

impl End {
    pub fn new(pid: u32, address: Ipv4Addr) -> Self {
        Self { pid, address, prefix: None }
    }

    fn text(self) -> String {
        self.prefix.map_or(self.address.to_string(), |prefix| format!("{}/{prefix}", self.address))
    }
}

/// Delay and loss of a link.
#[derive(Clone, Copy, Debug, Default)]
pub struct Quality {
    /// One way; a round trip takes twice as long.
    pub delay: Duration,
    /// Share of packets that are lost, in each direction.
    pub loss_percent: f64,
}

/// A link that lasts until it is dropped.
pub struct Link(Killed);

impl Link {
    /// Connects two namespaces; the error is the reason why this machine cannot.
    pub fn start(a: End, b: End, quality: Quality) -> Result<Self, String> {
        let dir = TempDir::new();
        let (ready, errors) = (dir.path().join("ready"), dir.write("errors", ""));
        let log = std::fs::File::create(&errors).map_err(|e| e.to_string())?;
        let mut child = Command::new("python3")
            .args(["-c", SCRIPT, "--ends"])
            .args([a.pid.to_string(), a.text(), b.pid.to_string(), b.text()])
            .arg(format!("--delay={}", quality.delay.as_secs_f64() * 1000.0))
            .arg(format!("--loss={}", quality.loss_percent))
            .arg("--ready")
            .arg(&ready)
            .stdin(Stdio::piped())
            .stderr(log)
            .spawn()
            .map_err(|e| format!("python3: {e}"))?;
        wait_until(READY_LIMIT, || ready.exists() || !matches!(child.try_wait(), Ok(None)));
        // From here on a drop ends the child, even after a failed start.
        let link = Self(Killed(child));
        if ready.exists() {
            return Ok(link);
        }
        let errors = std::fs::read_to_string(errors).unwrap_or_default();
        Err(errors.lines().last().unwrap_or("link.py did not get ready").to_owned())
    }

    /// Drops all packets without an ICMP error.
    pub fn down(&self) {
        self.signal(Signal::USR1);
    }

    /// Carries packets again.
    pub fn up(&self) {
        self.signal(Signal::USR2);
    }

    fn signal(&self, signal: Signal) {
        send(self.0.0.id(), signal).expect("a running link");
    }
}
