//! Commands that root types must not give root's rights to the service's user, who owns the folders that the commands work in. So
//! each of them becomes the owner of `STATE_DIR` before it opens a file there. There is no way back.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::process::{Gid, Uid, fchdir, getegid, geteuid, getpid};
use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};

use crate::config::paths::{self, ServiceUser};
use crate::files;

/// The kernel's overflow user and group, who own nothing: for root, if there is no other user to become.
const OVERFLOW_ID: u32 = 65534;

/// What a command does in `STATE_DIR`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    /// Reads only: `check`, `status`, `healthcheck`.
    Reads,
    /// Writes, but never as the first one: `once`, `renew`.
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
    /// The system's error.
    Failed(String),
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
    let owner = match (std::fs::metadata(state_dir), purpose) {
        (Ok(folder), _) if folder.uid() != 0 => (folder.uid(), folder.gid()),
        (Ok(_), Use::Writes | Use::Serves) if service.is_some() => return Err(Refusal::OwnedByRoot),
        (Ok(_), _) => return Ok(()),
        (Err(_), Use::Serves) if service.is_none() => return Ok(()),
        (Err(_), Use::Reads) => paths::service_ids().unwrap_or((OVERFLOW_ID, OVERFLOW_ID)),
        (Err(_), Use::Writes | Use::Serves) => return Err(Refusal::NotStarted),
    };
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
