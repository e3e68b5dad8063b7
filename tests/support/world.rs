//! A daemon with the simulated PIA and qBittorrent, the setup of most tests.

use std::ops::{Deref, DerefMut};
use std::time::Duration;

use super::daemon::{Daemon, SOON, Setup};
use super::pia::{self, Pia};
use super::qbt::{self, Flavour, Qbt};

/// From the end of a fault to a healthy state: a request in progress, the longest backoff, and one more request.
pub const RECOVERY: Duration = Duration::from_secs(60);

/// PIA simulator, qBittorrent stand-in, and the setup of a daemon that uses both.
pub struct World {
    pub pia: Pia,
    pub qbt: Qbt,
    pub setup: Setup,
}

impl World {
    pub fn new() -> Self {
        Self::with(pia::Options::default(), qbt::Options::default())
    }

    pub fn flavour(flavour: Flavour) -> Self {
        Self::with(pia::Options::default(), qbt::Options { flavour, ..qbt::Options::default() })
    }

    pub fn pia(options: pia::Options) -> Self {
        Self::with(options, qbt::Options::default())
    }

    pub fn qbt(options: qbt::Options) -> Self {
        Self::with(pia::Options::default(), options)
    }

    pub fn with(pia: pia::Options, qbt: qbt::Options) -> Self {
        let (pia, qbt) = (Pia::with(pia), Qbt::with(qbt));
        let setup = Setup::new().pia(&pia).qbt(&qbt);
        Self { pia, qbt, setup }
    }

    /// Changes the daemon's environment.
    pub fn env(mut self, name: &str, value: impl Into<String>) -> Self {
        self.setup = self.setup.env(name, value);
        self
    }

    pub fn without(mut self, names: &[&str]) -> Self {
        for name in names {
            self.setup = self.setup.without(name);
        }
        self
    }

    /// Updates the environment after a change of the simulator's or stand-in's credentials.
    pub fn update_setup(mut self) -> Self {
        self.setup = self.setup.pia(&self.pia).qbt(&self.qbt);
        self
    }

    /// qBittorrent listens on the port that was bound last, and the status shows no problem.
    pub fn is_healthy(&self) -> bool {
        self.qbt.listening().map(i64::from) == self.pia.bound().last().copied()
            && self.setup.status().is_some_and(|status| status.problems.is_empty())
    }

    pub fn run(self) -> Running {
        let daemon = self.setup.run();
        Running { daemon, world: self }
    }

    /// Runs until the port is bound; qBittorrent may follow later.
    pub fn bind(self) -> Running {
        let mut running = self.run();
        running.expect_line("bound port 47047");
        running
    }

    /// Runs until qBittorrent listens on the leased port.
    pub fn settle(self) -> Running {
        let mut running = self.run();
        running.settled(47047);
        running
    }
}

/// A daemon in its world. Dereferences to the daemon.
pub struct Running {
    // Dropped before the servers that it uses.
    pub daemon: Daemon,
    pub world: World,
}

impl Deref for Running {
    type Target = Daemon;

    fn deref(&self) -> &Daemon {
        &self.daemon
    }
}

impl DerefMut for Running {
    fn deref_mut(&mut self) -> &mut Daemon {
        &mut self.daemon
    }
}

impl Running {
    #[track_caller]
    pub fn settled(&mut self, port: u16) {
        self.expect_line(&format!("qBittorrent listens on port {port}"));
        assert_eq!(self.qbt().listening(), Some(port));
    }

    pub fn pia(&self) -> &Pia {
        &self.world.pia
    }

    pub fn qbt(&self) -> &Qbt {
        &self.world.qbt
    }

    /// Waits until the gateway has granted this many more binds.
    #[track_caller]
    pub fn wait_for_binds(&mut self, more: usize) {
        let Self { daemon, world } = self;
        let enough = world.pia.bound().len() + more;
        daemon.wait_until("more binds", || world.pia.bound().len() >= enough);
    }

    /// Sends SIGHUP and waits for the bind that follows.
    #[track_caller]
    pub fn reload_and_bind(&mut self) {
        let before = self.pia().bound().len();
        self.reload();
        let Self { daemon, world } = self;
        daemon.wait_until("a bind after SIGHUP", || world.pia.bound().len() > before);
    }

    /// Binds and checks the client this many times, without waiting for the interval.
    #[track_caller]
    pub fn bind_again(&mut self, times: usize) {
        for _ in 0..times {
            self.reload_and_bind();
        }
    }

    /// Waits for the next ERROR line and asserts that it contains all of `words`.
    #[track_caller]
    pub fn fails(&mut self, words: &[&str]) -> String {
        self.fails_within(SOON, words)
    }

    /// [`Running::fails`] with a time limit.
    #[track_caller]
    pub fn fails_within(&mut self, limit: Duration, words: &[&str]) -> String {
        let line = self.wait_for_level("ERROR", limit);
        // The failed attempts follow in lines of their own.
        let mut rest = String::new();
        for word in words {
            while !line.contains(word) && !rest.contains(word) {
                assert!(line.contains("attempts failed"), "{word:?} is not in: {line}\n--- log\n{}", self.log());
                rest += &self.wait_for_line("failed attempts: ", limit);
            }
        }
        line
    }

    /// Kills the daemon and starts it again in the same world.
    pub fn restart(&mut self) {
        self.daemon.kill9();
        self.daemon = self.world.setup.run();
    }

    /// Asserts that neither server received anything that a real one would refuse.
    pub fn assert_no_complaints(&self) {
        assert_eq!(self.pia().complaints(), [""; 0]);
        assert_eq!(self.qbt().complaints(), [""; 0]);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.assert_no_complaints();
        }
    }
}
