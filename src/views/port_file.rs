//! `PORT_FILE`: the port number and nothing else, in gluetun's format, for other programs.

use std::path::PathBuf;

use crate::error::io_message;
use crate::files;

pub struct PortFile {
    path: PathBuf,
    /// Contents last written by this run.
    written: Option<String>,
    /// The last write failed, and a warning was logged.
    failed: bool,
}

impl PortFile {
    pub fn new(path: PathBuf) -> Self {
        Self { path, written: None, failed: false }
    }

    /// Overwrites the file in place, so that programs that watch the file notice; `None` empties the file. After a failure, each
    /// call tries again, but only the first of several failures in a row is logged.
    pub fn write(&mut self, port: Option<u16>) {
        let text = port.map_or(String::new(), |port| format!("{port}\n"));
        if self.written.as_ref() == Some(&text) {
            return;
        }
        match files::overwrite(&self.path, text.as_bytes()) {
            Ok(()) => (self.written, self.failed) = (Some(text), false),
            Err(error) if !std::mem::replace(&mut self.failed, true) => {
                let path = files::display_path(&self.path);
                log::warn!("PORT_FILE {path}: {}; use a file that the service can write to", io_message(&error));
            }
            Err(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;
    use crate::testing::TempDir;

    #[test]
    fn the_file_keeps_its_inode_and_is_world_readable() {
        let dir = TempDir::new();
        let path = dir.path().join("forwarded_port");
        let mut file = PortFile::new(path.clone());
        let text = || std::fs::read_to_string(&path).unwrap();
        file.write(Some(51820));
        let first = std::fs::metadata(&path).unwrap();
        assert_eq!((text().as_str(), first.mode() & 0o777), ("51820\n", 0o644));
        file.write(Some(471));
        assert_eq!(text(), "471\n", "a shorter number leaves nothing of the longer one");
        file.write(None);
        assert_eq!(text(), "", "the file is empty without a port");
        file.write(Some(4711));
        assert_eq!((text().as_str(), std::fs::metadata(&path).unwrap().ino()), ("4711\n", first.ino()));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "no other file next to it");
    }

    #[test]
    fn an_unwritable_file_is_tried_again() {
        let dir = TempDir::new();
        let path = dir.path().join("folder/port");
        let mut file = PortFile::new(path.clone());
        file.write(Some(4711));
        assert!(file.failed);
        std::fs::create_dir(dir.path().join("folder")).unwrap();
        file.write(Some(4711));
        assert_eq!(std::fs::read_to_string(path).unwrap(), "4711\n");
        assert!(!file.failed);
    }
}
