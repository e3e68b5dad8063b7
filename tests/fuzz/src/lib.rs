//! The daemon's modules, included for the fuzz targets because the daemon is a binary and not a library. Private
//! functions are wrapped here.

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
#[path = "../../../src/privileges.rs"]
pub mod privileges;
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

/// Forwarded port from the body of gluetun's reply.
pub fn forwarded(body: &str) -> Result<Option<u16>, error::Cause> {
    source::forwarded(body)
}

/// Not removed at the end, because libFuzzer exits without dropping it. For a long run set `TMPDIR` to a folder in
/// memory and remove that afterwards.
static FOLDER: LazyLock<TempDir> = LazyLock::new(|| {
    let folder = TempDir::new();
    std::fs::create_dir(folder.path().join("conf.d")).expect("a folder");
    folder
});

/// Folder of this process below `TMPDIR`.
pub fn folder() -> &'static Path {
    FOLDER.path()
}

/// Writes `data` to the file `name` in [`folder`], where the daemon's code reads it.
pub fn put(name: &str, data: &[u8]) -> PathBuf {
    FOLDER.write(name, data)
}

/// Asserts that a text for users or the log is one line and cannot move a terminal's cursor.
pub fn assert_one_line(text: &str) {
    assert_eq!(text, text::one_line(text), "not one line");
}
