//! The log: one handler, our own messages only (libraries may log what we would not). Lines begin with an RFC 3339 time in
//! UTC, or, when the journal reads them and has its own times, with their priority.

use std::io::Write as _;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use env_logger::{Builder, Target};
use log::{Level, LevelFilter, Record};

use crate::error::plain;
use crate::files;
use crate::text::one_line;

/// Logs `level` and above to `file`, or to standard output if there is none or it cannot be opened.
pub fn init(level: LevelFilter, file: Option<&Path>) {
    let mut builder = Builder::new();
    builder.filter_module(env!("CARGO_CRATE_NAME"), level).target(Target::Stdout);
    let mut warning = None;
    let mut to_file = false;
    if let Some(path) = file {
        match files::append(path) {
            Ok(file) => {
                builder.target(Target::Pipe(Box::new(file)));
                to_file = true;
            }
            Err(error) => {
                warning = Some(format!("LOG_FILE {}: {}; logging to standard output", path.display(), plain(&error)));
            }
        }
    }
    if !to_file && stdout_is_journal() {
        builder.format(|line, record| writeln!(line, "<{}>{}", priority(record.level()), text(record)));
    } else {
        builder.format(|line, record| {
            let now = jiff::Timestamp::now();
            writeln!(line, "{now:.0} {:<5} {}", record.level(), text(record))
        });
    }
    builder.init();
    if let Some(warning) = warning {
        log::warn!("{warning}");
    }
}

/// The last that looks at it: whatever reaches the log in whatever way is one line.
fn text(record: &Record) -> String {
    one_line(&record.args().to_string())
}

/// syslog's priorities, as systemd reads them.
fn priority(level: Level) -> u8 {
    match level {
        Level::Error => 3,
        Level::Warn => 4,
        Level::Info => 6,
        Level::Debug | Level::Trace => 7,
    }
}

/// `$JOURNAL_STREAM` is the device and inode of the journal's socket; it is inherited by children whose output goes
/// elsewhere.
fn stdout_is_journal() -> bool {
    let Ok(stream) = std::env::var("JOURNAL_STREAM") else { return false };
    std::fs::metadata("/proc/self/fd/1").is_ok_and(|out| stream == format!("{}:{}", out.dev(), out.ino()))
}
