//! `PORT_CHANGE_COMMAND`: runs the user's program for each new port, without a shell unless the command names one. The program
//! receives none of our settings, because they include passwords.

use std::io::{PipeReader, Read, pipe};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal, WaitOptions, kill_process_group, wait};

use super::PortChange;
use super::outbox::Delivery;
use crate::config::{self, Reader};
use crate::error::io_message;
use crate::signals::stopping;
use crate::text::one_line;

pub const NAME: &str = "PORT_CHANGE_COMMAND";
/// A command that runs for longer than this is killed.
const LIMIT: Duration = Duration::from_secs(30);
/// Interval between checks for the command's exit.
const CHILD_POLL: Duration = Duration::from_millis(50);
/// Lines of output that are logged.
const LINES: usize = 5;
/// Characters of each line that are logged.
const LINE: usize = 160;
/// Bytes of output that are kept. Any further output is read and discarded, so that a full pipe never blocks the command.
const OUTPUT: usize = 4096;
const INHERITED_VARIABLES: [&str; 9] = ["PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LC_ALL", "TZ", "TMPDIR"];

/// Reads the command and splits it into words. A problem names only the program, because an argument may be a password.
pub fn read(reader: &mut Reader) -> Option<Vec<String>> {
    let words = config::split_words(reader.get(NAME)?);
    let problem = match words.as_ref().map(|words| words.first()) {
        Ok(Some(program)) if Path::new(program).is_absolute() && !Path::new(program).is_file() => {
            format!("names a program that does not exist: {program}")
        }
        Ok(Some(_)) => return words.ok(),
        Ok(None) => "names no program".to_owned(),
        Err(problem) => (*problem).to_owned(),
    };
    let remedy = "use a program's full path and its arguments, e.g. /usr/local/bin/on-port {port}";
    reader.problem(NAME, None, problem, remedy);
    None
}

/// Runs the command until it exits, and logs the first lines of output.
pub fn run(words: &[String], change: &PortChange) -> Delivery {
    let words: Vec<_> = words.iter().map(|word| change.fill(word, str::to_owned)).collect();
    let (output, child) = start(&words, change).map_err(|error| {
        format!("{NAME}: cannot start {}: {}; fix it and restart the service", one_line(&words[0]), io_message(&error))
    })?;
    let (text, ended) = follow(child, output);
    for line in text.lines().filter(|line| !line.trim().is_empty()).take(LINES) {
        log::info!("{NAME}: {}", one_line(line).chars().take(LINE).collect::<String>());
    }
    let again = "retrying at the next bind";
    match ended {
        Ok(status) if status.success() => {
            log::info!("{NAME}: done for port {}", change.port);
            Ok(())
        }
        // The status reads `exit status: 1` or `signal: 9 (SIGKILL)`.
        Ok(status) => Err(format!("{NAME}: failed ({status}); {again}")),
        Err(reason) => Err(format!("{NAME}: {reason}; {again}")),
    }
}

fn start(words: &[String], change: &PortChange) -> std::io::Result<(PipeReader, Child)> {
    let (output, input) = pipe()?;
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]).env_clear().current_dir("/");
    command.envs(INHERITED_VARIABLES.into_iter().filter_map(|name| Some((name, std::env::var_os(name)?))));
    command.env("PORT", change.port.to_string()).env("OLD_PORT", change.old_port.to_string());
    command.env("INTERFACE", &change.interface);
    // A separate process group, so that a kill includes the command's children.
    command.process_group(0).stdin(Stdio::null()).stdout(input.try_clone()?).stderr(input);
    Ok((output, command.spawn()?))
}

/// Waits for the command, and returns its output and exit status. Does not wait for processes that the command leaves behind.
fn follow(mut child: Child, mut output: PipeReader) -> (String, Result<ExitStatus, String>) {
    let end = Instant::now() + LIMIT;
    let mut text = Vec::new();
    let mut open = true;
    let ended = loop {
        if open {
            open = read_output(&mut output, &mut text, CHILD_POLL) != Some(0);
        } else {
            std::thread::sleep(CHILD_POLL);
        }
        match child.try_wait() {
            Ok(None) if Instant::now() < end && !stopping() => {}
            Ok(None) => {
                let _ = kill_process_group(Pid::from_child(&child), Signal::KILL);
                let _ = child.wait();
                break Err(format!("took longer than {} s and was killed", LIMIT.as_secs()));
            }
            Ok(Some(status)) => break Ok(status),
            Err(error) => break Err(format!("cannot wait for its exit: {}", io_message(&error))),
        }
    };
    while text.len() < OUTPUT && read_output(&mut output, &mut text, Duration::ZERO).is_some_and(|bytes| bytes > 0) {}
    (String::from_utf8_lossy(&text).into_owned(), ended)
}

/// Waits up to `limit` for output, and appends it to `text`. Returns the number of bytes read: zero if the pipe is closed, `None`
/// if there was no output in time.
fn read_output(output: &mut PipeReader, text: &mut Vec<u8>, limit: Duration) -> Option<usize> {
    let limit = Timespec::try_from(limit).ok();
    let ready = poll(&mut [PollFd::new(output, PollFlags::IN)], limit.as_ref());
    ready.ok().filter(|ready| *ready > 0)?;
    let mut buffer = [0; 1024];
    let bytes = output.read(&mut buffer).unwrap_or(0);
    let room = OUTPUT.saturating_sub(text.len());
    text.extend_from_slice(&buffer[..bytes.min(room)]);
    Some(bytes)
}

/// Reaps orphaned processes that have exited, and returns true if others are still running. We inherit orphans only as a
/// container's PID 1. Must not be called while a command runs, because the command's exit status would be lost.
pub fn reap() -> bool {
    if std::process::id() != 1 {
        return false;
    }
    loop {
        match wait(WaitOptions::NOHANG) {
            Ok(Some(_)) => {}
            Ok(None) => return true,
            Err(_) => return false,
        }
    }
}
