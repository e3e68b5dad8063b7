//! Reads small files up to a limit, and writes files safely: as a rule atomically and with mode 0600. Other modules define the
//! contents.
//!
//! Nothing here blocks, even if a path is a FIFO or a device: binding must go on.

use std::fs::{self, DirBuilder, File, Metadata};
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use rustix::fs::{AtFlags, CWD, Mode, OFlags, fstat, openat, renameat, statat, unlinkat};
use rustix::io::Errno;

/// Largest file that is read, in bytes. Ours are far smaller, so a larger one must be the wrong file.
const MAX_BYTES: u64 = 64 * 1024;

/// Folders that this process opened before it gave up root's rights: it may not be able to reach them by their paths any more.
static HELD: OnceLock<Vec<(PathBuf, OwnedFd)>> = OnceLock::new();

/// Keeps folders open, so that the files in them stay accessible by their paths. Works once, and skips folders that do not exist.
pub fn hold(folders: &[&Path]) {
    let open = |folder: &&Path| {
        let opened = openat(CWD, *folder, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
        Some((folder.to_path_buf(), opened.ok()?))
    };
    let _ = HELD.set(folders.iter().filter_map(open).collect());
}

/// The open folder `folder`, if it is held.
pub fn held(folder: &Path) -> Option<BorrowedFd<'static>> {
    HELD.get()?.iter().find(|(held, _)| held == folder).map(|(_, fd)| fd.as_fd())
}

/// Where to look a path up: the held folder and the file's name, or the path itself.
fn place(path: &Path) -> (BorrowedFd<'static>, &Path) {
    match (held(folder_of(path)), path.file_name()) {
        (Some(folder), Some(name)) => (folder, Path::new(name)),
        _ => (CWD, path),
    }
}

/// Opens `path` without waiting for the other end of a pipe.
fn open_with(path: &Path, flags: OFlags) -> io::Result<File> {
    let (folder, name) = place(path);
    let mode = Mode::RUSR | Mode::WUSR;
    Ok(openat(folder, name, flags | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC, mode)?.into())
}

/// Opens `path` for writing. Follows a link only if neither the link nor its folder is another user's: root would write to any file
/// that the other user chooses. For the same reason, refuses a file with more than one name.
fn open_to_write(path: &Path, flags: OFlags) -> io::Result<File> {
    let file = match open_with(path, flags | OFlags::NOFOLLOW) {
        Err(error) if Errno::from_io_error(&error) == Some(Errno::LOOP) => {
            if !is_our_link(path) {
                return Err(io::Error::new(io::ErrorKind::InvalidInput, "is a link that another user can change"));
            }
            open_with(path, flags)?
        }
        opened => opened?,
    };
    let (metadata, (folder, name)) = (file.metadata()?, place(path));
    // One call shows which file the path leads to, and how many names it has; a second call could see a name removed.
    let only_name = statat(folder, name, AtFlags::empty())
        .is_ok_and(|at| (at.st_dev, at.st_ino, at.st_nlink) == (metadata.dev(), metadata.ino(), 1));
    if metadata.is_file() && !only_name {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "has more than one hard link"));
    }
    Ok(file)
}

fn is_our_link(path: &Path) -> bool {
    let us = rustix::process::geteuid().as_raw();
    let (folder, name) = place(path);
    let link = statat(folder, name, AtFlags::SYMLINK_NOFOLLOW);
    let folder = held(folder_of(path)).map_or_else(|| statat(CWD, folder_of(path), AtFlags::empty()), fstat);
    link.is_ok_and(|link| link.st_uid == 0 || link.st_uid == us)
        && folder.is_ok_and(|folder| !is_open_folder(folder.st_uid, folder.st_mode, us))
}

/// True if a user other than root and `us` can replace what is in a folder of this owner and mode. If the sticky bit is set, only
/// the owner of a file can replace it.
pub fn is_open_folder(owner: u32, mode: u32, us: u32) -> bool {
    (owner != 0 && owner != us) || (mode & 0o022 != 0 && mode & 0o1000 == 0)
}

/// How a file is protected against a power cut while it is written.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// Flush the new file to disk before it replaces the old one.
    Durable,
    /// Replace the file atomically, but leave flushing to the kernel, which is easier on a router's flash memory.
    Volatile,
}

/// Reads a text file of at most 64 KiB.
pub fn read(path: &Path) -> io::Result<String> {
    Ok(read_with_metadata(path)?.0)
}

/// Reads a text file of at most 64 KiB, with the metadata of the file that was read, whatever the path leads to by now.
pub fn read_with_metadata(path: &Path) -> io::Result<(String, Metadata)> {
    let mut text = String::new();
    let file = open(path)?;
    let metadata = file.metadata()?;
    let read = file.take(MAX_BYTES + 1).read_to_string(&mut text)?;
    if read as u64 > MAX_BYTES {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "larger than 64 KiB"));
    }
    Ok((text, metadata))
}

/// Opens a regular file for reading. Refuses pipes and devices: a pipe may have no writer, and a device no end.
pub fn open(path: &Path) -> io::Result<File> {
    let file = open_with(path, OFlags::RDONLY)?;
    let kind = file.metadata()?.file_type();
    if kind.is_dir() {
        return Err(io::ErrorKind::IsADirectory.into());
    }
    if !kind.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "is not a regular file"));
    }
    Ok(file)
}

/// Opens a file (0600) for locking; creates the file and its folder if missing.
pub fn open_to_lock(path: &Path) -> io::Result<File> {
    make_folder(folder_of(path))?;
    let file = open_to_write(path, OFlags::RDWR | OFlags::CREATE)?;
    chown_to_owner_of(folder_of(path), &file)?;
    Ok(file)
}

/// Replaces the contents of an open file.
pub fn rewrite(mut file: &File, bytes: &[u8]) -> io::Result<()> {
    file.set_len(0)?;
    file.write_all(bytes)
}

/// Opens a log for appending: a file (created with mode 0600 if missing), a device, or a pipe, which is what `/dev/stderr` often
/// is. Fails for a pipe without a reader; a full pipe loses lines.
pub fn append(path: &Path) -> io::Result<File> {
    let opened = open_to_write(path, OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE);
    opened.map_err(|error| match Errno::from_io_error(&error) {
        Some(Errno::NXIO) => io::Error::new(error.kind(), "no process is reading from it"),
        _ => error,
    })
}

/// Truncates a log to its last `keep` bytes, and drops a partial first line. Works in place, because the service may not rename
/// files in /var/log and other programs may have the log open.
pub fn keep_tail(path: &Path, keep: u64) -> io::Result<()> {
    let mut file = open_to_write(path, OFlags::RDWR)?;
    file.seek(io::SeekFrom::Start(file.metadata()?.len().saturating_sub(keep)))?;
    let mut end = Vec::new();
    file.read_to_end(&mut end)?;
    let line = end.iter().position(|&byte| byte == b'\n').map_or(0, |newline| newline + 1);
    file.set_len(0)?;
    file.rewind()?;
    file.write_all(&end[line..])
}

/// Overwrites a world-readable file (0644) in place, because users mount single files into containers and watch them for changes.
/// Writes first and truncates afterwards, so that the file is never empty.
pub fn overwrite(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = open_to_write(path, OFlags::WRONLY | OFlags::CREATE)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "is not a regular file"));
    }
    if file.metadata()?.mode() & 0o777 != 0o644 {
        // Fails if another user owns the file; the mode is then up to that user.
        let _ = file.set_permissions(fs::Permissions::from_mode(0o644));
    }
    file.write_all(bytes)?;
    file.set_len(bytes.len() as u64)
}

/// Atomically replaces `path` with a world-readable file (0644). Does not create a missing folder: ours have mode 0700, which would
/// lock other users out.
pub fn publish(path: &Path, bytes: &[u8]) -> io::Result<()> {
    replace(path, bytes, Durability::Volatile, 0o644)
}

pub fn is_world_readable(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|file| file.mode() & 0o004 != 0)
}

pub fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

/// Deletes a file if it exists.
pub fn remove(path: &Path) -> io::Result<()> {
    let (folder, name) = place(path);
    match unlinkat(folder, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT | Errno::NOTDIR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Formats a path for messages. Hides a relative path, because it may be a secret typed in place of a file name.
pub fn display_path(path: &Path) -> String {
    if path.is_absolute() { path.display().to_string() } else { "(a relative path)".to_owned() }
}

/// Atomically replaces `path` with a file (0600) that contains `bytes`; an error leaves the old file untouched. Creates a missing
/// folder (0700), because folders below /run disappear on reboot.
///
/// If root writes to a folder that belongs to the service's user (a manual `check`), that user becomes the file's owner; otherwise
/// the service could not read the file.
pub fn write(path: &Path, bytes: &[u8], durability: Durability) -> io::Result<()> {
    make_folder(folder_of(path))?;
    replace(path, bytes, durability, 0o600)
}

fn replace(path: &Path, bytes: &[u8], durability: Durability, mode: u32) -> io::Result<()> {
    let folder = folder_of(path);
    let temporary = temporary_for(path);
    let ((from, temporary_name), (to, name)) = (place(&temporary), place(path));
    let result = write_temporary(&temporary, folder, bytes, durability, mode)
        .and_then(|()| Ok(renameat(from, temporary_name, to, name)?));
    if result.is_err() {
        let _ = remove(&temporary);
        return result;
    }
    if durability == Durability::Durable {
        open_folder(folder)?.sync_all()?;
    }
    Ok(())
}

fn open_folder(folder: &Path) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let (at, path) = held(folder).map_or((CWD, folder), |held| (held, Path::new(".")));
    Ok(openat(at, path, flags, Mode::empty())?.into())
}

fn make_folder(folder: &Path) -> io::Result<()> {
    if held(folder).is_some() {
        return Ok(());
    }
    DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

/// Checks that `folder` (created if missing) accepts a file of 2 KiB. An empty file could be written even to a full disk.
pub fn probe_folder(folder: &Path) -> io::Result<()> {
    // No other program has a file of this name, which is replaced and deleted.
    let probe = folder.join(concat!(env!("CARGO_PKG_NAME"), ".probe"));
    write(&probe, &[b'\n'; 2048], Durability::Volatile)?;
    remove(&probe)
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// The name is fixed, so that a process killed before the rename leaves at most one temporary file, which the next write replaces.
fn temporary_for(path: &Path) -> PathBuf {
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(".tmp");
    path.with_file_name(name)
}

fn write_temporary(path: &Path, folder: &Path, bytes: &[u8], durability: Durability, mode: u32) -> io::Result<()> {
    // Deleting first and then using `create_new` never follows a symlink that another user has planted.
    remove(path)?;
    let mut file = open_with(path, OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL)?;
    file.write_all(bytes)?;
    // The umask may have cleared bits of the mode.
    file.set_permissions(fs::Permissions::from_mode(mode))?;
    chown_to_owner_of(folder, &file)?;
    if durability == Durability::Durable {
        file.sync_all()?;
    }
    Ok(())
}

/// If root created the file in a folder that belongs to the service's user, makes that user the file's owner.
fn chown_to_owner_of(folder: &Path, file: &File) -> io::Result<()> {
    if file.metadata()?.uid() != 0 {
        return Ok(());
    }
    let owner = fs::metadata(folder)?;
    if owner.uid() != 0 {
        // Change the open file rather than the path: by now, the path may lead to a different file.
        fchown(file, Some(owner.uid()), Some(owner.gid()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempDir;

    #[test]
    fn a_folder_is_open_to_its_owner_and_to_those_who_can_write_to_it() {
        for (owner, mode, us, open) in [
            (0, 0o755, 7, false),
            (7, 0o700, 7, false),
            (7, 0o755, 0, true),
            (8, 0o755, 7, true),
            (0, 0o775, 7, true),
            (0, 0o757, 7, true),
            (0, 0o1777, 7, false),
            (8, 0o1777, 7, true),
        ] {
            assert_eq!(is_open_folder(owner, mode, us), open, "{owner} {mode:o} {us}");
        }
    }

    #[test]
    fn a_replaced_file_has_mode_0600_and_leaves_no_temporary() {
        let dir = TempDir::new();
        let path = dir.path().join("lease.json");
        write(&path, b"one", Durability::Durable).unwrap();
        write(&path, b"two", Durability::Volatile).unwrap();
        assert_eq!(read(&path).unwrap(), "two");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "no temporary file is left");
    }

    #[test]
    fn a_missing_folder_is_created_with_mode_0700() {
        let dir = TempDir::new();
        write(&dir.path().join("pia/token"), b"x", Durability::Durable).unwrap();
        assert_eq!(fs::metadata(dir.path().join("pia")).unwrap().mode() & 0o777, 0o700);
    }

    #[test]
    fn a_leftover_link_is_not_followed() {
        let dir = TempDir::new();
        let victim = dir.path().join("victim");
        fs::write(&victim, "untouched").unwrap();
        let path = dir.path().join("token");
        std::os::unix::fs::symlink(&victim, temporary_for(&path)).unwrap();
        write(&path, b"secret", Durability::Volatile).unwrap();
        assert_eq!(read(&victim).unwrap(), "untouched");
        assert_eq!(read(&path).unwrap(), "secret");
    }

    #[test]
    fn a_failed_write_keeps_the_old_file() {
        let dir = TempDir::new();
        let path = dir.path().join("token");
        fs::create_dir(&path).unwrap();
        fs::write(path.join("inside"), "x").unwrap();
        assert!(write(&path, b"new", Durability::Volatile).is_err());
        assert_eq!(read(&path.join("inside")).unwrap(), "x");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn pipes_and_devices_are_refused_without_waiting() {
        let dir = TempDir::new();
        let pipe = dir.path().join("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        for path in [pipe.as_path(), Path::new("/dev/zero")] {
            let error = read(path).unwrap_err();
            assert_eq!(
                (error.kind(), error.to_string().as_str()),
                (io::ErrorKind::InvalidData, "is not a regular file")
            );
        }
        assert_eq!(read(dir.path()).unwrap_err().to_string(), "is a directory");
        assert_eq!(append(&pipe).unwrap_err().to_string(), "no process is reading from it");
    }

    #[test]
    fn a_truncated_log_begins_with_a_whole_line() {
        let dir = TempDir::new();
        let path = dir.write("log", "one\ntwo\nthree\nfour\n");
        let mut log = append(&path).unwrap();
        keep_tail(&path, 13).unwrap();
        assert_eq!(read(&path).unwrap(), "three\nfour\n");
        log.write_all(b"five\n").unwrap();
        keep_tail(&path, 100).unwrap();
        assert_eq!(read(&path).unwrap(), "four\nfive\n", "a first line that may be incomplete is dropped");
    }

    #[test]
    fn a_large_file_is_not_read() {
        let dir = TempDir::new();
        let path = dir.path().join("large");
        for (bytes, fits) in [(MAX_BYTES, true), (MAX_BYTES + 1, false)] {
            fs::write(&path, "x".repeat(usize::try_from(bytes).unwrap())).unwrap();
            assert_eq!(read(&path).is_ok(), fits, "{bytes}");
        }
    }
}
