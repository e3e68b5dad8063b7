//! The daemon's modules, mounted for the fuzz targets: the daemon is a binary and nobody's library. What is not public in
//! them is wrapped here.

use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use temp_dir::TempDir;

#[path = "../../../src/config/mod.rs"]
pub mod config;
#[path = "../../../src/error.rs"]
pub mod error;
#[path = "../../../src/files.rs"]
pub mod files;
#[path = "../../../src/http/mod.rs"]
pub mod http;
#[path = "../../../src/json.rs"]
pub mod json;
#[path = "../../../src/keeper/mod.rs"]
pub mod keeper;
#[path = "../../../src/kernel/mod.rs"]
pub mod kernel;
#[path = "../../../src/pia/mod.rs"]
pub mod pia;
#[path = "../../../src/secret.rs"]
pub mod secret;
#[path = "../../../src/settings.rs"]
pub mod settings;
#[path = "../../../src/signals.rs"]
pub mod signals;
#[path = "../../../src/source.rs"]
pub mod source;
#[path = "../../../src/state.rs"]
pub mod state;
#[path = "../../support/temp_dir.rs"]
mod temp_dir;
#[path = "../../../src/text.rs"]
pub mod text;
#[path = "../../../src/time.rs"]
pub mod time;
#[path = "../../../src/torrent/mod.rs"]
pub mod torrent;
#[path = "../../../src/views/mod.rs"]
pub mod views;

/// The port in the body of a reply of gluetun's.
pub fn forwarded(body: &str) -> Result<Option<u16>, error::Cause> {
    source::forwarded(body)
}

/// libFuzzer ends without a drop, so it stays: whoever runs a target for long sets `TMPDIR` to a folder in memory that is
/// removed afterwards.
static FOLDER: LazyLock<TempDir> = LazyLock::new(|| {
    let folder = TempDir::new();
    std::fs::create_dir(folder.path().join("conf.d")).expect("a folder");
    folder
});

/// The folder of this process below `TMPDIR`.
pub fn folder() -> &'static Path {
    FOLDER.path()
}

/// Makes `data` the file `name` in [`folder`], where the daemon's own code reads it.
pub fn put(name: &str, data: &[u8]) -> PathBuf {
    FOLDER.write(name, data)
}

/// What is said to people or to the log is one line and cannot move a terminal's cursor.
pub fn assert_one_line(text: &str) {
    assert_eq!(text, text::one_line(text), "not one line");
}
