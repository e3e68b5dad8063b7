//! Small files: read with a limit, written whole, atomically and 0600. What is in them is not known here.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, fchown};
use std::path::{Path, PathBuf};

/// Bytes; every file we read is far smaller, so a larger one is not what it should be.
const MAX_BYTES: u64 = 64 * 1024;

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
    let read = File::open(path)?.take(MAX_BYTES + 1).read_to_string(&mut text)?;
    if read as u64 > MAX_BYTES {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "larger than 64 KiB"));
    }
    Ok(text)
}

/// Whether the error says that there is no such file.
pub fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

/// A path for people. A relative one is not shown: it may be a secret that was put in the place of its file's name.
pub fn shown(path: &Path) -> String {
    if path.is_absolute() { path.display().to_string() } else { "(a relative path)".to_owned() }
}

/// Replaces `path` by a file of mode 0600 that holds `bytes`; on an error the old file is untouched. A missing folder is made
/// (0700): those below /run are gone after a reboot.
///
/// When root writes into a folder of the service's user (`check` typed by hand), the file is given to that user, or the
/// service could not read it afterwards.
pub fn write(path: &Path, bytes: &[u8], durability: Durability) -> io::Result<()> {
    let folder = folder_of(path);
    let temporary = temporary_for(path);
    make_folder(folder)?;
    let result = write_temporary(&temporary, folder, bytes, durability).and_then(|()| fs::rename(&temporary, path));
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

fn write_temporary(path: &Path, folder: &Path, bytes: &[u8], durability: Durability) -> io::Result<()> {
    // create_new after remove: never follows a link that somebody put there.
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(bytes)?;
    let owner = fs::metadata(folder)?;
    let own = file.metadata()?;
    if own.uid() == 0 && owner.uid() != 0 {
        // By the open file: its name could be another file's by now, which that user would then own.
        fchown(&file, Some(owner.uid()), Some(owner.gid()))?;
    }
    if durability == Durability::Durable {
        file.sync_all()?;
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
    fn an_endless_file_is_not_read_to_its_end() {
        assert_eq!(read(Path::new("/dev/zero")).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}
