//! `STATE_DIR`: the lock, the socket for renewal requests, and the record of rejected credentials. Other modules own the files for
//! the lease, the token and the status.
//!
//! The lock shows whether a daemon is running, and stops a second daemon or `check` from writing at the same time. However a
//! process ends, the kernel releases its lock.

use std::fs::{File, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use base64::prelude::{BASE64_STANDARD_NO_PAD, Engine};
use jiff::Timestamp;
use miniserde::{Deserialize, Serialize, json};
use ring::digest::{SHA256, digest};
use ring::rand::{SecureRandom, SystemRandom};
use rustix::fs::{Mode, fchmod};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with};

use crate::error::io_message;
use crate::files::{self, Durability};
use crate::secret::Secret;

/// Longest wait for a held lock: a service manager may start the new daemon before the old one has stopped.
const LOCK_TIMEOUT: Duration = Duration::from_secs(1);

/// State of a folder's lock, which a daemon or `once` holds while running.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Presence {
    /// Contains the text of the lock file, which names the process; empty if unreadable.
    Running(String),
    Stopped,
    /// Contains the reason why the lock cannot be tested.
    Unknown(String),
}

/// The state folder, opened with or without the right to write to it.
pub struct State {
    folder: PathBuf,
    /// `None` for `check`, and for a daemon that runs without the lock because it could not create or take it.
    lock: Option<File>,
    /// Set if a daemon or `once` was running at the start: this process must not write.
    read_only: bool,
}

impl State {
    /// Locks the folder for a daemon or `once`, under the name `who`. The error names the process that holds the lock.
    pub fn acquire(folder: &Path, who: &str) -> Result<Self, String> {
        let mut state = Self { folder: folder.to_owned(), lock: None, read_only: false };
        let path = folder.join(LOCK);
        let Ok(lock) = files::open_to_lock(&path) else { return Ok(state) };
        let end = Instant::now() + LOCK_TIMEOUT;
        loop {
            match lock.try_lock() {
                Ok(()) => break,
                Err(TryLockError::WouldBlock) if Instant::now() < end => std::thread::sleep(LOCK_TIMEOUT / 20),
                Err(TryLockError::WouldBlock) => return Err(owner(&path)),
                // Not every file system supports locks.
                Err(TryLockError::Error(error)) => {
                    log::warn!("cannot lock {}: {error}; status and healthcheck show 'unknown'", path.display());
                    return Ok(state);
                }
            }
        }
        let _ = files::rewrite(&lock, format!("{who}, process {}\n", std::process::id()).as_bytes());
        state.lock = Some(lock);
        Ok(state)
    }

    /// Opens the folder for `check`: without a lock, and read-only if a daemon or `once` is running.
    pub fn open_read_only(folder: &Path) -> Self {
        let read_only = matches!(presence(folder), Presence::Running(_));
        Self { folder: folder.to_owned(), lock: None, read_only }
    }

    pub fn is_read_only(&self) -> bool {
        self.read_only
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Opens the Unix socket for renewal requests: each connection requests a different port. With mode 0600, only the folder's
    /// owner can connect.
    pub fn listen_for_requests(&self) -> io::Result<UnixListener> {
        files::remove(&self.folder.join(REQUESTS))?;
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        // The file gets the mode of its socket.
        fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
        bind(&socket, &SocketAddrUnix::new(requests(&self.folder))?)?;
        listen(&socket, MAX_REQUESTS)?;
        Ok(socket.into())
    }

    fn rejections_path(&self) -> PathBuf {
        self.folder.join("rejected.json")
    }

    fn rejections(&self) -> Vec<Rejection> {
        let text = files::read(&self.rejections_path()).unwrap_or_default();
        json::from_str(&text).unwrap_or_default()
    }

    /// Time since `remote` rejected these credentials; `None` if no such rejection is on record.
    pub fn rejected_ago(&self, remote: &str, credentials: &Secret, now: Timestamp) -> Option<Duration> {
        let rejection = self.rejections().into_iter().find(|rejection| rejection.by == remote)?;
        let at: Timestamp = rejection.at.parse().ok()?;
        let same = rejection.hash == hash(&rejection.salt, credentials);
        // Ignore a time in the future: it was recorded while the clock was wrong.
        Duration::try_from(now.duration_since(at)).ok().filter(|_| same)
    }

    /// Records that `remote` has just rejected these credentials. `None` deletes the record of an earlier rejection.
    pub fn remember_rejection(&self, remote: &str, rejected: Option<&Secret>, now: Timestamp) {
        let mut all = self.rejections();
        let before = all.len();
        all.retain(|rejection| rejection.by != remote);
        if self.read_only || (rejected.is_none() && all.len() == before) {
            return;
        }
        if let Some(credentials) = rejected {
            let mut salt = [0; 16];
            if SystemRandom::new().fill(&mut salt).is_err() {
                return;
            }
            let salt = BASE64_STANDARD_NO_PAD.encode(salt);
            let hash = hash(&salt, credentials);
            all.push(Rejection { by: remote.to_owned(), at: now.to_string(), salt, hash });
        }
        let path = self.rejections_path();
        if let Err(error) = files::write(&path, json::to_string(&all).as_bytes(), Durability::Volatile) {
            log::debug!("{}: {error}", path.display());
        }
    }
}

/// Path of the socket for renewal requests: relative to the current folder if that is `folder`.
fn requests(folder: &Path) -> PathBuf {
    if files::held(folder).is_some() { PathBuf::from(REQUESTS) } else { folder.join(REQUESTS) }
}

/// Asks the daemon that owns `folder` for a different port, and returns the daemon's [`reply`].
pub fn request_renewal(folder: &Path, timeout: Duration) -> io::Result<Result<String, String>> {
    let end = Instant::now() + timeout;
    let mut stream = connect(&requests(folder))?;
    let (mut reply, mut buffer) = (Vec::new(), [0; 1024]);
    while reply.len() < MAX_REPLY {
        // Limits the whole reply, because the service's user could send one byte at a time.
        let remaining = end.saturating_duration_since(Instant::now());
        if remaining.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        stream.set_read_timeout(Some(remaining))?;
        match stream.read(&mut buffer) {
            Ok(0) => break,
            Ok(bytes) => reply.extend_from_slice(&buffer[..bytes]),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(error) => return Err(error),
        }
    }
    let line = String::from_utf8_lossy(&reply);
    match (line.strip_prefix(SUCCEEDED), line.strip_prefix(FAILED)) {
        (Some(line), _) => Ok(Ok(line.to_owned())),
        (_, Some(line)) => Ok(Err(line.to_owned())),
        _ => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

/// Connects to a socket of the service, without waiting for room in its queue.
fn connect(path: &Path) -> io::Result<UnixStream> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
    let stream = UnixStream::from(socket);
    stream.set_nonblocking(false)?;
    Ok(stream)
}

/// Answers a request for a different port.
pub fn reply(mut requester: &UnixStream, result: &Result<String, String>) -> io::Result<()> {
    let (mark, line) = match result {
        Ok(line) => (SUCCEEDED, line),
        Err(line) => (FAILED, line),
    };
    requester.write_all(format!("{mark}{line}").as_bytes())
}

/// Name of the socket for renewal requests.
const REQUESTS: &str = "requests";
/// Maximum number of requests that wait to be accepted.
const MAX_REQUESTS: i32 = 16;

/// First character of a reply: the renewal succeeded, or failed.
const SUCCEEDED: &str = "+";
const FAILED: &str = "-";
/// Reading ends after this many bytes of a reply.
const MAX_REPLY: usize = 4096;

/// Name of the lock file, which contains a single line: the owner's name and process ID.
const LOCK: &str = "lock";

/// A rejection on record. The salted hash is enough to recognise the credentials, but not to recover them.
#[derive(Serialize, Deserialize)]
struct Rejection {
    by: String,
    at: String,
    salt: String,
    hash: String,
}

fn hash(salt: &str, credentials: &Secret) -> String {
    let salted = format!("{salt}\0{}", credentials.expose());
    BASE64_STANDARD_NO_PAD.encode(digest(&SHA256, salted.as_bytes()))
}

fn owner(lock: &Path) -> String {
    files::read(lock).map_or(String::new(), |text| text.trim().to_owned())
}

/// Checks whether a daemon or `once` holds the lock on `folder`.
pub fn presence(folder: &Path) -> Presence {
    let path = folder.join(LOCK);
    let lock = match files::open(&path) {
        Ok(lock) => lock,
        Err(error) if files::is_absent(&error) => return without_lock(folder),
        Err(error) => return Presence::Unknown(format!("{}: {}", path.display(), io_message(&error))),
    };
    match lock.try_lock_shared() {
        Ok(()) => Presence::Stopped,
        Err(TryLockError::WouldBlock) => Presence::Running(owner(&path)),
        Err(TryLockError::Error(error)) => Presence::Unknown(format!("{}: {error}", path.display())),
    }
}

/// Presence without a lock file: nothing has run yet, unless a daemon could not create the file.
fn without_lock(folder: &Path) -> Presence {
    let exists = if files::held(folder).is_some() { Ok(true) } else { folder.try_exists() };
    match exists.and_then(|exists| if exists { files::probe_folder(folder) } else { Ok(()) }) {
        Ok(()) => Presence::Stopped,
        Err(error) => Presence::Unknown(format!("cannot write to {}: {}", folder.display(), io_message(&error))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempDir;

    #[test]
    fn one_folder_has_one_owner() {
        let dir = TempDir::new();
        assert_eq!(presence(dir.path()), Presence::Stopped);
        let first = State::acquire(dir.path(), "the daemon").unwrap();
        let who = format!("the daemon, process {}", std::process::id());
        assert_eq!(presence(dir.path()), Presence::Running(who.clone()));
        assert_eq!(State::acquire(dir.path(), "once").err(), Some(who));
        assert!(State::open_read_only(dir.path()).is_read_only());
        drop(first);
        assert_eq!(presence(dir.path()), Presence::Stopped);
        assert!(!State::open_read_only(dir.path()).is_read_only());
        State::acquire(dir.path(), "once").unwrap();
    }

    #[test]
    fn a_folder_that_cannot_be_created_does_not_prevent_running() {
        let dir = TempDir::new();
        std::fs::write(dir.path().join("file"), "").unwrap();
        let folder = dir.path().join("file/state");
        let state = State::acquire(&folder, "the daemon").unwrap();
        assert!(!state.is_read_only());
        assert!(matches!(presence(&folder), Presence::Unknown(reason) if reason.contains("cannot write to")));
    }

    #[test]
    fn a_reply_that_drips_is_given_up_after_the_timeout() {
        let dir = TempDir::new();
        let socket = UnixListener::bind(dir.path().join(REQUESTS)).unwrap();
        let drip = std::thread::spawn(move || {
            let (mut client, _) = socket.accept().unwrap();
            // 10 s, unless the reader hangs up.
            for _ in 0..200 {
                if client.write_all(SUCCEEDED.as_bytes()).is_err() {
                    return;
                }
                std::thread::sleep(Duration::from_millis(50));
            }
        });
        let reply = request_renewal(dir.path(), Duration::from_millis(200));
        assert_eq!(reply.map_err(|error| error.kind()), Err(io::ErrorKind::TimedOut));
        drip.join().unwrap();
    }

    #[test]
    fn a_full_queue_of_requests_does_not_block() {
        let dir = TempDir::new();
        let path = dir.path().join(REQUESTS);
        let socket = UnixListener::bind(&path).unwrap();
        rustix::net::listen(&socket, 0).unwrap();
        let _waiting = UnixStream::connect(&path).unwrap();
        let (sender, receiver) = std::sync::mpsc::channel();
        std::thread::spawn(move || sender.send(request_renewal(dir.path(), Duration::from_millis(200)).is_err()));
        assert_eq!(receiver.recv_timeout(Duration::from_secs(10)), Ok(true));
    }

    #[test]
    fn rejected_credentials_are_recognised_by_their_hash() {
        let dir = TempDir::new();
        let state = State::open_read_only(dir.path());
        let (wrong, other) = (Secret::new("admin\0hunter2"), Secret::new("admin\0hunter3"));
        let at: Timestamp = "2026-11-24T12:00:00Z".parse().unwrap();
        let ago = |by: &str, secret| state.rejected_ago(by, secret, at + Duration::from_secs(90));
        assert_eq!(ago("client", &wrong), None);
        state.remember_rejection("client", Some(&wrong), at);
        assert_eq!(ago("client", &wrong), Some(Duration::from_secs(90)));
        assert_eq!((ago("client", &other), ago("account", &wrong)), (None, None));
        assert!(!std::fs::read_to_string(state.rejections_path()).unwrap().contains("hunter2"));
        assert_eq!(state.rejected_ago("client", &wrong, at - Duration::from_secs(9)), None, "clock was wrong");
        state.remember_rejection("client", None, at);
        assert_eq!(ago("client", &wrong), None);
    }
}
