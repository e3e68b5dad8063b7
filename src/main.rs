//! Keeps PIA's forwarded port bound and the torrent client listening on it.
//!
//! `cli` runs a command, `config` reads the settings, `keeper` decides and `service` runs the loop. `pia` and `torrent` talk to
//! the remotes over `http`, `kernel` reports routes and sockets, and `views` publishes the state.

mod check;
mod cli;
mod config;
mod error;
mod files;
mod http;
mod json;
mod keeper;
mod kernel;
mod logging;
mod pia;
mod privileges;
mod secret;
mod service;
mod settings;
mod signals;
mod source;
mod state;
#[cfg(test)]
mod testing;
mod text;
mod time;
mod torrent;
mod views;

use std::io::Write;
use std::process::ExitCode;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args_os().skip(1).map(|arg| arg.to_string_lossy().into_owned()).collect();
    match cli::run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            for line in failure.lines {
                let _ = writeln!(std::io::stderr(), "{}: {}", env!("CARGO_PKG_NAME"), text::one_line(&line));
            }
            ExitCode::from(failure.code)
        }
    }
}
