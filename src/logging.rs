//! The log: one handler, RFC 3339 timestamps in UTC, our own messages only (libraries may log what we would not).

use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use env_logger::{Builder, Target};
use log::LevelFilter;

use crate::error::plain;

/// Logs `level` and above to `file`, or to standard output if there is none or it cannot be opened.
pub fn init(level: LevelFilter, file: Option<&Path>) {
    let mut builder = Builder::new();
    builder.filter_module(env!("CARGO_CRATE_NAME"), level).format(|line, record| {
        let now = jiff::Timestamp::now();
        writeln!(line, "{now:.0} {:<5} {}", record.level(), record.args())
    });
    let opened = file.map(|path| (path, OpenOptions::new().append(true).create(true).mode(0o600).open(path)));
    let warning = match opened {
        Some((_, Ok(file))) => {
            builder.target(Target::Pipe(Box::new(file)));
            None
        }
        Some((path, Err(error))) => {
            builder.target(Target::Stdout);
            Some(format!("LOG_FILE {}: {}; logging to standard output", path.display(), plain(&error)))
        }
        None => {
            builder.target(Target::Stdout);
            None
        }
    };
    builder.init();
    if let Some(warning) = warning {
        log::warn!("{warning}");
    }
}
