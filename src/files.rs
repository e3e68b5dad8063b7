//! Small files: read with a limit, written whole, atomically and 0600. What is in them is not known here. Nothing here waits
//! for anybody: the daemon must bind whatever a path leads to.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

/// Bytes; every file we read is far smaller, so a larger one is not what it should be.
const MAX_BYTES: u64 = 64 * 1024;

/// `O_NONBLOCK` of Linux on every architecture that we are built for (include/uapi/asm-generic/fcntl.h).
const O_NONBLOCK: i32 = 0o4000;
/// Error of an open for writing when nobody has the pipe open for reading, or when it is a socket (asm-generic/errno-base.h).
const ENXIO: i32 = 6;

/// Whether a written file must survive a power cut.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// Flushed to the disk before it replaces the old one.
    Durable,
    /// Replaced atomically, flushed whenever the system likes: spares the flash cards of routers.
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

/// Opens a file to read it. A pipe or a device is refused: it may not have a writer, or no end.
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

/// Opens a file that is locked for as long as it is open, 0600, made with its folder if it is missing.
pub fn open_to_lock(path: &Path) -> io::Result<File> {
    let folder = folder_of(path);
    make_folder(folder)?;
    let mut options = OpenOptions::new();
    let file = options.read(true).write(true).create(true).truncate(false).mode(0o600).custom_flags(O_NONBLOCK);
    let file = file.open(path)?;
    chown_to_owner_of(folder, &file)?;
    Ok(file)
}

/// Replaces what is in an open file.
pub fn rewrite(mut file: &File, bytes: &[u8]) -> io::Result<()> {
    file.set_len(0)?;
    file.write_all(bytes)
}

/// Opens a log to append to it: a file, which is made 0600 if it is missing, a device, or a pipe, as `/dev/stderr` often is.
/// A pipe without a reader is an error, and lines that a full one does not take are lost.
pub fn append(path: &Path) -> io::Result<File> {
    let opened = OpenOptions::new().append(true).create(true).mode(0o600).custom_flags(O_NONBLOCK).open(path);
    opened.map_err(|error| match error.raw_os_error() {
        Some(ENXIO) => io::Error::new(error.kind(), "nobody reads from it"),
        _ => error,
    })
}

/// Cuts a log down to its last `keep` bytes, from the beginning of a line. In place: the service may not rename in /var/log, and
/// others may have it open.
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

/// Makes `bytes` all that is in a file that everybody may read (0644). In place, because people mount single files and wait for them
/// to change: one write, and what is left of a longer text is cut off. So it is never empty in between.
pub fn overwrite(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut options = OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(false).custom_flags(O_NONBLOCK).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "is not a regular file"));
    }
    if file.metadata()?.mode() & 0o777 != 0o644 {
        // Of somebody else's file the mode is theirs.
        let _ = file.set_permissions(fs::Permissions::from_mode(0o644));
    }
    file.write_all(bytes)?;
    file.set_len(bytes.len() as u64)
}

/// Replaces `path`, as [`write()`] does, by a file that everybody may read (0644), in a folder that is there: one of ours would be
/// closed to them.
pub fn publish(path: &Path, bytes: &[u8]) -> io::Result<()> {
    replace(path, bytes, Durability::Volatile, 0o644)
}

/// Whether everybody on this machine may read the file.
pub fn is_world_readable(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|file| file.mode() & 0o004 != 0)
}

/// Whether the error says that there is no such file.
pub fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

/// A path for people. A relative one is not shown: it may be a secret that was put in the place of its file's name.
pub fn display_path(path: &Path) -> String {
    if path.is_absolute() { path.display().to_string() } else { "(a relative path)".to_owned() }
}

/// Replaces `path` by a file of mode 0600 that holds `bytes`; on an error the old file is untouched. A missing folder is made
/// (0700): those below /run are gone after a reboot.
///
/// When root writes into a folder of the service's user (`check` typed by hand), the file is given to that user, or the
/// service could not read it afterwards.
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

/// Tells whether a file of the usual size can be written in `folder`, which is made if it is missing. On a full disk an
/// empty one could.
pub fn probe_folder(folder: &Path) -> io::Result<()> {
    let probe = folder.join("probe");
    write(&probe, &[b'\n'; 2048], Durability::Volatile)?;
    fs::remove_file(probe)
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// One name per file, so that a kill between create and rename leaves at most one leftover, which the next write takes.
fn temporary_for(path: &Path) -> PathBuf {
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(".tmp");
    path.with_file_name(name)
}

fn write_temporary(path: &Path, folder: &Path, bytes: &[u8], durability: Durability, mode: u32) -> io::Result<()> {
    // create_new after remove: never follows a link that somebody put there.
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(bytes)?;
    // Whatever the umask has left of it.
    file.set_permissions(fs::Permissions::from_mode(mode))?;
    chown_to_owner_of(folder, &file)?;
    if durability == Durability::Durable {
        file.sync_all()?;
    }
    Ok(())
}

/// Files that root makes in a folder of the service's user are that user's.
fn chown_to_owner_of(folder: &Path, file: &File) -> io::Result<()> {
    let owner = fs::metadata(folder)?;
    if file.metadata()?.uid() == 0 && owner.uid() != 0 {
        // By the open file: its name could be another file's by now, which that user would then own.
        fchown(file, Some(owner.uid()), Some(owner.gid()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempDir;

    #[test]
    fn a_file_is_replaced_whole_and_private() {
        let dir = TempDir::new();
        let path = dir.path().join("lease.json");
        write(&path, b"one", Durability::Durable).unwrap();
        write(&path, b"two", Durability::Volatile).unwrap();
        assert_eq!(read(&path).unwrap(), "two");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "no temporary is left");
    }

    #[test]
    fn a_missing_folder_is_made_private() {
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
    fn pipes_and_devices_are_neither_waited_for_nor_read() {
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
        assert_eq!(append(&pipe).unwrap_err().to_string(), "nobody reads from it");
    }

    #[test]
    fn the_end_of_a_log_begins_with_a_line() {
        let dir = TempDir::new();
        let path = dir.write("log", "one\ntwo\nthree\nfour\n");
        let mut log = append(&path).unwrap();
        keep_tail(&path, 13).unwrap();
        assert_eq!(read(&path).unwrap(), "three\nfour\n");
        log.write_all(b"five\n").unwrap();
        keep_tail(&path, 100).unwrap();
        assert_eq!(read(&path).unwrap(), "four\nfive\n", "a first line that may be cut off goes");
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
