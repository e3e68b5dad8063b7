//! Reads small files up to a limit, and writes files safely: as a rule atomically and with mode 0600. Other modules define the
//! contents.
//!
//! Nothing here blocks, even if a path is a FIFO or a device: binding must go on.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use rustix::io::Errno;

/// Largest file that is read, in bytes. Ours are far smaller, so a larger one must be the wrong file.
const MAX_BYTES: u64 = 64 * 1024;

/// Value on every Linux architecture that we build for (include/uapi/asm-generic/fcntl.h).
const O_NONBLOCK: i32 = 0o4000;

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
    let mut text = String::new();
    let read = open(path)?.take(MAX_BYTES + 1).read_to_string(&mut text)?;
    if read as u64 > MAX_BYTES {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "larger than 64 KiB"));
    }
    Ok(text)
}

/// Opens a regular file for reading. Refuses pipes and devices: a pipe may have no writer, and a device no end.
pub fn open(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().read(true).custom_flags(O_NONBLOCK).open(path)?;
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
    let folder = folder_of(path);
    make_folder(folder)?;
    let mut options = OpenOptions::new();
    let file = options.read(true).write(true).create(true).truncate(false).mode(0o600).custom_flags(O_NONBLOCK);
    let file = file.open(path)?;
    chown_to_owner_of(folder, &file)?;
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
    let opened = OpenOptions::new().append(true).create(true).mode(0o600).custom_flags(O_NONBLOCK).open(path);
    opened.map_err(|error| match Errno::from_io_error(&error) {
        Some(Errno::NXIO) => io::Error::new(error.kind(), "no process is reading from it"),
        _ => error,
    })
}

/// Truncates a log to its last `keep` bytes, and drops a partial first line. Works in place, because the service may not rename
/// files in /var/log and other programs may have the log open.
pub fn keep_tail(path: &Path, keep: u64) -> io::Result<()> {
    let mut file = OpenOptions::new().read(true).write(true).open(path)?;
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
    let mut options = OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(false).custom_flags(O_NONBLOCK).open(path)?;
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
    fs::remove_file(path).or_else(|error| if is_absent(&error) { Ok(()) } else { Err(error) })
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
    let result =
        write_temporary(&temporary, folder, bytes, durability, mode).and_then(|()| fs::rename(&temporary, path));
    if result.is_err() {
        let _ = fs::remove_file(&temporary);
        return result;
    }
    if durability == Durability::Durable {
        File::open(folder)?.sync_all()?;
    }
    Ok(())
}

fn make_folder(folder: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

/// Checks that `folder` (created if missing) accepts a file of 2 KiB. An empty file could be written even to a full disk.
pub fn probe_folder(folder: &Path) -> io::Result<()> {
    let probe = folder.join("probe");
    write(&probe, &[b'\n'; 2048], Durability::Volatile)?;
    fs::remove_file(probe)
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
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
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
    let owner = fs::metadata(folder)?;
    if file.metadata()?.uid() == 0 && owner.uid() != 0 {
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
