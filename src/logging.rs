//! Sets up the log, for our own messages only, because libraries may log secrets. Lines begin with an RFC 3339 timestamp in UTC, or
//! with a syslog priority for the journal, which adds its own timestamps.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use env_logger::{Builder, Target};
use log::{Level, LevelFilter, Record};

use crate::error::io_message;
use crate::files;
use crate::text::one_line;

/// A log file larger than this many bytes is truncated.
const LOG_LIMIT: u64 = 5_000_000;
/// Bytes kept when a log file is truncated.
const LOG_KEPT: u64 = 1_000_000;

/// A log file of limited size.
struct Bounded {
    file: File,
    path: PathBuf,
    /// Bytes in the file; `None` for a device or a pipe.
    length: Option<u64>,
}

impl Bounded {
    fn open(path: &Path) -> io::Result<Self> {
        let file = files::append(path)?;
        let length = file.metadata().ok().filter(std::fs::Metadata::is_file).map(|file| file.len());
        Ok(Self { file, path: path.to_owned(), length })
    }
}

impl Write for Bounded {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let written = self.file.write(line)?;
        if let Some(length) = &mut self.length {
            *length += written as u64;
            if *length > LOG_LIMIT {
                // If truncating fails, the next attempt is after another 5 MB.
                *length = files::keep_tail(&self.path, LOG_KEPT).map_or(0, |()| LOG_KEPT);
            }
        }
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// Logs `level` and above to `file`, or to standard output if `file` is `None` or cannot be opened.
pub fn init(level: LevelFilter, file: Option<&Path>) {
    let (target, problem) = match file.map(|path| (path, Bounded::open(path))) {
        None => (Target::Stdout, None),
        Some((_, Ok(file))) => (Target::Pipe(Box::new(file)), None),
        Some((path, Err(error))) => {
            let problem = format!("LOG_FILE {}: {}", path.display(), io_message(&error));
            (Target::Stdout, Some(problem))
        }
    };
    let mut builder = Builder::new();
    if matches!(target, Target::Stdout) && stdout_is_journal() {
        builder.format(|line, record| writeln!(line, "<{}>{}", priority(record.level()), text(record)));
    } else {
        builder.format(|line, record| {
            let now = jiff::Timestamp::now();
            writeln!(line, "{now:.0} {:<5} {}", record.level(), text(record))
        });
    }
    builder.filter_module(env!("CARGO_CRATE_NAME"), level).target(target);
    if builder.try_init().is_ok()
        && let Some(problem) = problem
    {
        log::warn!("{problem}; logging to standard output");
    }
}

/// Makes every record a single line of printable text, whatever its source.
fn text(record: &Record) -> String {
    one_line(&record.args().to_string())
}

/// Syslog priority, which systemd reads from the `<N>` at the start of a line.
fn priority(level: Level) -> u8 {
    match level {
        Level::Error => 3,
        Level::Warn => 4,
        Level::Info => 6,
        Level::Debug | Level::Trace => 7,
    }
}

/// Compares standard output with `$JOURNAL_STREAM` (device and inode of the journal's socket), because children inherit the
/// variable even if their output goes elsewhere.
fn stdout_is_journal() -> bool {
    let Ok(stream) = std::env::var("JOURNAL_STREAM") else { return false };
    std::fs::metadata("/proc/self/fd/1").is_ok_and(|out| stream == format!("{}:{}", out.dev(), out.ino()))
}
