//! The port file (`PORT_FILE`): the number alone, as gluetun writes it, for whoever else needs the port.

use std::path::PathBuf;

use crate::error::io_message;
use crate::files;

/// The file, and what is known to be in it.
pub struct PortFile {
    path: PathBuf,
    /// What this run has written; none before the first time and after one that failed.
    written: Option<String>,
    /// That it cannot be written was said.
    failed: bool,
}

impl PortFile {
    /// Nothing is written yet.
    pub fn new(path: PathBuf) -> Self {
        Self { path, written: None, failed: false }
    }

    /// Whoever reads it or waits for it to change learns that this is the port; none empties it. A file that cannot be written is
    /// a warning, and tried again with the next look.
    pub fn write(&mut self, port: Option<u16>) {
        let text = port.map_or(String::new(), |port| format!("{port}\n"));
        if self.written.as_ref() == Some(&text) {
            return;
        }
        match files::overwrite(&self.path, text.as_bytes()) {
            Ok(()) => (self.written, self.failed) = (Some(text), false),
            Err(error) if !std::mem::replace(&mut self.failed, true) => {
                let path = files::display_path(&self.path);
                log::warn!("PORT_FILE {path}: {}; name a file that the service may write", io_message(&error));
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
        assert_eq!(text(), "", "none");
        file.write(Some(4711));
        assert_eq!((text().as_str(), std::fs::metadata(&path).unwrap().ino()), ("4711\n", first.ino()));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "nothing is beside it");
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
