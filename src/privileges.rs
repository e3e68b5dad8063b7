//! Commands that root types must not give root's rights to the service's user, who owns the folders that the commands work in. So
//! each of them becomes the owner of `STATE_DIR` before it opens a file there. There is no way back.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::process::{Gid, Uid, fchdir, getegid, geteuid, getpid};
use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};

use crate::config::paths::{self, ServiceUser};
use crate::error::io_message;
use crate::files;

/// The kernel's overflow user and group, who own nothing: for root, if there is no other user to become.
const OVERFLOW_ID: u32 = 65534;

/// What a command does in `STATE_DIR`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    /// Shows what is there, for a monitor as well: `status`, `healthcheck`.
    Shows,
    /// Sends what is there: `check`.
    Reads,
    /// Writes, once the service has created the folder: `once`, `renew`.
    Writes,
    /// The service itself.
    Serves,
}

/// Why a command must not go on as root.
#[derive(Debug, PartialEq, Eq)]
pub enum Refusal {
    /// `STATE_DIR` does not exist, and root would own it.
    NotStarted,
    /// `STATE_DIR` belongs to root, although the installed service has a user of its own.
    OwnedByRoot,
    /// A different user can replace `STATE_DIR`, because that user can write to this folder above it.
    Replaceable(PathBuf),
    /// The system's error.
    Failed(String),
}

static DROPPED: AtomicBool = AtomicBool::new(false);

/// True if this process was root's and has given up its rights. It must not start programs: they would inherit root's terminal and
/// open files.
pub fn are_dropped() -> bool {
    DROPPED.load(Ordering::Relaxed)
}

/// Becomes the owner of `state_dir` if this process is root's and the folder is another user's. `others` are further folders that
/// the command opens files in. `service` is the user of an installed service, if that is not root.
///
/// Must run before the first thread starts, because each thread has rights of its own.
pub fn become_owner(
    state_dir: &Path,
    others: &[&Path],
    purpose: Use,
    service: Option<&ServiceUser>,
) -> Result<(), Refusal> {
    // The first process of a container has its rights from the container's settings.
    if !geteuid().is_root() || getpid().is_init() {
        return Ok(());
    }
    let folder = match std::fs::metadata(state_dir) {
        Ok(folder) => Some(folder),
        Err(error) if files::is_absent(&error) => None,
        Err(error) => return Err(Refusal::Failed(format!("{}: {}", state_dir.display(), io_message(&error)))),
    };
    let uid = folder.as_ref().map_or(0, Metadata::uid);
    // A user who can change a folder above it could choose whose rights this process gets.
    if !matches!(purpose, Use::Serves | Use::Shows)
        && let Some(open) = paths::open_above(state_dir, uid)
    {
        return Err(Refusal::Replaceable(open));
    }
    let owner = match (folder, purpose) {
        // Files of root's own group may hold secrets.
        (Some(folder), _) if uid != 0 && folder.gid() == 0 => {
            (uid, paths::service_ids().map_or(OVERFLOW_ID, |(_, gid)| gid))
        }
        (Some(folder), _) if uid != 0 => (uid, folder.gid()),
        (Some(_), Use::Writes | Use::Serves) if service.is_some() => return Err(Refusal::OwnedByRoot),
        (Some(_), _) => return Ok(()),
        (None, Use::Serves) if service.is_none() => return Ok(()),
        (None, Use::Shows | Use::Reads) => paths::service_ids().unwrap_or((OVERFLOW_ID, OVERFLOW_ID)),
        (None, Use::Writes | Use::Serves) => return Err(Refusal::NotStarted),
    };
    DROPPED.store(true, Ordering::Relaxed);
    files::hold(&[&[state_dir], others].concat());
    // Names of Unix sockets cannot be relative to an open folder.
    if let Some(folder) = files::held(state_dir) {
        let _ = fchdir(folder);
    }
    leave_root(owner).map_err(|error| Refusal::Failed(error.to_string()))
}

fn leave_root((uid, gid): (u32, u32)) -> rustix::io::Result<()> {
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    set_thread_groups(&[])?;
    set_thread_res_gid(gid, gid, gid)?;
    set_thread_res_uid(uid, uid, uid)?;
    if geteuid() == uid && getegid() == gid { Ok(()) } else { Err(rustix::io::Errno::PERM) }
}
