//! Commands, help text and exit codes.

use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;

use crate::config::ConfigError;
use crate::config::paths::ServiceUser;
use crate::error::io_message;
use crate::keeper::step::Progress;
use crate::privileges::{self, Refusal, Use};
use crate::service::{Exit, Service, error_lines, health};
use crate::settings::{self, PortProvider, Settings, VARIABLES};
use crate::signals::Signals;
use crate::state::{self, Presence, State};
use crate::text::one_line;
use crate::views::status::{Health, Status};
use crate::{check, logging};

/// The service is unhealthy, or a command failed.
const EXIT_FAILED: u8 = 1;
/// The service is not running.
const EXIT_STOPPED: u8 = 3;
/// `EX_USAGE` from sysexits.h.
const EXIT_USAGE: u8 = 64;
/// `EX_UNAVAILABLE` from sysexits.h: only the loopback device is left.
const EXIT_ISOLATED: u8 = 69;
/// `EX_TEMPFAIL` from sysexits.h: another instance is using `STATE_DIR`.
const EXIT_LOCKED: u8 = 75;
/// `EX_CONFIG` from sysexits.h. The service files do not restart the program after this code.
const EXIT_CONFIG: u8 = 78;

#[derive(Debug)]
pub struct Failure {
    pub code: u8,
    /// Printed to standard error.
    pub lines: Vec<String>,
}

impl Failure {
    fn new(code: u8, line: String) -> Self {
        Self { code, lines: vec![line] }
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self { code: EXIT_CONFIG, lines: error.problems.iter().map(ToString::to_string).chain(error.unknown).collect() }
    }
}

/// A command, listed by `--help` and suggested by 'did you mean'.
struct Command {
    name: &'static str,
    /// An option or an argument, which may be omitted.
    takes: Option<&'static str>,
    help: &'static str,
    /// Additional text for `COMMAND --help`.
    more: &'static str,
}

impl Command {
    fn usage(&self) -> String {
        match self.takes {
            Some(option) if option.starts_with('-') => format!("{} [{option}]", self.name),
            Some(argument) => format!("{} {argument}", self.name),
            None => self.name.to_owned(),
        }
    }
}

/// All commands. Without a command, the program runs as the service.
const COMMANDS: [Command; 6] = [
    Command {
        name: "check",
        takes: Some("--config-only"),
        help: "run every step once and report what works and what to fix",
        more: "Runs the service's steps, starting with the tunnel. Never changes the torrent client; writes nothing while \
               the service runs.\n\
               --config-only checks just the settings and sends nothing.\n\
               Exit codes: 0 all is well, 1 something needs fixing, 78 invalid settings.\n",
    },
    Command {
        name: "once",
        takes: None,
        help: "bind the port and set it in the torrent client once, then exit",
        more: "Exit codes: 0 done, 1 something failed, 75 STATE_DIR is in use by the service, 78 invalid settings.\n",
    },
    Command {
        name: "status",
        takes: Some("--json"),
        help: "show the state of the running service",
        more: "--json prints the state as JSON, for programs.\nExit codes: 0 healthy, 1 not healthy, 3 not running.\n",
    },
    Command {
        name: "healthcheck",
        takes: None,
        help: "succeed only if the port is bound and the torrent client listens on it",
        more: "Prints the result on one line, for containers and monitors.\nExit codes: 0 healthy, 1 not healthy, 3 not running.\n",
    },
    Command {
        name: "renew",
        takes: None,
        help: "get a different port from PIA, e.g. because the current one is blocked or gets unwanted traffic",
        more: "Works with or without a running service, and keeps the current port until the new one is bound.\n\
               Exit codes: 0 the port has changed, 1 the port is unchanged, 78 invalid settings.\n",
    },
    Command {
        name: "fetch-ca",
        takes: Some("[PATH]"),
        help: "download and verify PIA's CA certificate, then store it for the service, or in PATH",
        more: "Needs no account. Exit codes: 0 stored, 1 could not download or store the certificate, 78 invalid settings.\n",
    },
];

struct Arguments<'a> {
    file: Option<&'a Path>,
    /// `None` runs the service.
    command: Option<&'a str>,
    option: Option<&'a str>,
    path: Option<&'a str>,
    help: bool,
}

impl<'a> Arguments<'a> {
    fn parse(args: &'a [String]) -> Result<Self, Failure> {
        let mut arguments = Self { file: None, command: None, option: None, path: None, help: false };
        let mut args = args.iter().map(String::as_str);
        while let Some(arg) = args.next() {
            let command = COMMANDS.iter().find(|command| Some(command.name) == arguments.command);
            let takes = command.and_then(|command| command.takes);
            match arg {
                "--config" => match args.next() {
                    Some(path) => arguments.file = Some(Path::new(path)),
                    None => return Err(usage_error("--config needs a file path")),
                },
                "--help" | "-h" => arguments.help = true,
                "--version" | "-V" if arguments.command.is_none() => arguments.command = Some("--version"),
                "help" if arguments.command.is_none() => arguments.help = true,
                _ if takes == Some(arg) => arguments.option = Some(arg),
                _ if arg.starts_with('-') => {
                    let known = takes.into_iter().chain(["--config", "--help", "--version"]);
                    let path = arg.strip_prefix("--config=").ok_or_else(|| unknown("option", arg, known))?;
                    arguments.file = Some(Path::new(path));
                }
                _ if arguments.command.is_none() => {
                    let names = COMMANDS.iter().map(|command| command.name);
                    if !names.clone().any(|name| name == arg) {
                        return Err(unknown("command", arg, names));
                    }
                    arguments.command = Some(arg);
                }
                _ if takes == Some("[PATH]") && arguments.path.is_none() => arguments.path = Some(arg),
                _ => return Err(usage_error(&format!("unexpected argument '{arg}'"))),
            }
        }
        Ok(arguments)
    }
}

fn usage_error(what: &str) -> Failure {
    Failure::new(EXIT_USAGE, format!("{what}; see --help"))
}

/// Error for an unknown command or option. Suggests the closest known name, if one is close enough.
fn unknown<'a>(kind: &str, name: &str, known: impl Iterator<Item = &'a str>) -> Failure {
    let near = known.map(|known| (strsim::osa_distance(name, known), known)).min();
    let meant = near.filter(|(distance, known)| *distance <= known.len() / 3 || known.starts_with(name));
    let meant = meant.map_or(String::new(), |(_, known)| format!("did you mean {known}? "));
    Failure::new(EXIT_USAGE, format!("unknown {kind} {name}; {meant}--help lists them all"))
}

/// Runs the command given by `args`, the arguments after the program's name.
pub fn run(args: &[String]) -> Result<(), Failure> {
    let Arguments { file, command, option, path, help } = Arguments::parse(args)?;
    if help {
        let command = COMMANDS.iter().find(|known| Some(known.name) == command);
        print(&command.map_or_else(full_help, command_help));
        return Ok(());
    }
    match (command, option) {
        (Some("once"), _) => once(file),
        (Some("check"), None) => check(file),
        (Some("check"), Some(_)) => check_configuration(file),
        (Some("status"), None) => status(file, Show::Text),
        (Some("status"), Some(_)) => status(file, Show::Json),
        (Some("healthcheck"), _) => status(file, Show::Health),
        (Some("renew"), _) => renew(file),
        (Some("fetch-ca"), _) => fetch_ca(file, path),
        (Some(_), _) => {
            print(concat!(env!("CARGO_PKG_NAME"), " ", env!("CARGO_PKG_VERSION"), "\n"));
            Ok(())
        }
        (None, _) => daemon(file),
    }
}

/// Prints to standard output. Ignores errors, such as a closed pipe.
fn print(text: &str) {
    let mut out = io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// Reads the settings and becomes the owner of `STATE_DIR`, if that is not root. Invalid settings are an error only for a command
/// that needs them.
fn prepare(file: Option<&Path>, purpose: Use) -> Result<(PathBuf, Result<Settings, ConfigError>), Failure> {
    let mut all = settings::variables(file)?;
    all.typed = purpose != Use::Serves;
    let state_dir = settings::state_dir(&all);
    let service = all.service_user.clone();
    let settings = Settings::new(all);
    let mut folders = Vec::new();
    if let Ok(settings) = &settings {
        // A different user cannot open /dev/stderr.
        if purpose != Use::Reads && settings.log_file.as_ref().is_some_and(|path| path.starts_with("/dev")) {
            start_log(settings);
        }
        folders.extend(settings.log_file.as_deref().and_then(Path::parent));
        folders.extend(settings.port.token_file().and_then(Path::parent));
    }
    become_owner(&state_dir, &folders, purpose, service.as_ref())?;
    Ok((state_dir, settings))
}

fn become_owner(
    state_dir: &Path,
    folders: &[&Path],
    purpose: Use,
    service: Option<&ServiceUser>,
) -> Result<(), Failure> {
    privileges::become_owner(state_dir, folders, purpose, service).map_err(|refusal| {
        let folder = state_dir.display();
        match refusal {
            Refusal::NotStarted => {
                Failure::new(EXIT_CONFIG, format!("STATE_DIR {folder} does not exist; start the service first"))
            }
            Refusal::OwnedByRoot => {
                let line = format!("STATE_DIR {folder} belongs to root, but the service has a user of its own");
                Failure::new(EXIT_CONFIG, format!("{line}; restart the service, which then becomes its owner"))
            }
            Refusal::Replaceable(open) => {
                let line =
                    format!("STATE_DIR {folder} can be replaced by another user, who can write to {}", open.display());
                Failure::new(EXIT_CONFIG, format!("{line}; use a folder below folders of root's"))
            }
            Refusal::Failed(error) => Failure::new(EXIT_FAILED, format!("cannot drop root's rights: {error}")),
        }
    })
}

fn check_configuration(file: Option<&Path>) -> Result<(), Failure> {
    // The service's scripts ask this, too, and the service itself only warns about files that others can change.
    let settings = settings::variables(file).and_then(Settings::new)?;
    for warning in &settings.warnings {
        print(&format!("warning: {}\n", one_line(warning)));
    }
    print(&format!("the configuration is valid ({})\n", settings.origin));
    Ok(())
}

/// Works once; further calls change nothing.
fn start_log(settings: &Settings) {
    logging::init(settings.log_level, settings.log_file.as_deref());
}

/// Starts the log, and locks `STATE_DIR` under the name `who`.
fn acquire(settings: Settings, who: &str) -> Result<(Settings, State), Failure> {
    start_log(&settings);
    let state = State::acquire(&settings.state_dir, who).map_err(|who| {
        let line = format!("STATE_DIR is already in use by {who}; stop that process, or set a different STATE_DIR");
        Failure::new(EXIT_LOCKED, line)
    })?;
    Ok((settings, state))
}

fn daemon(file: Option<&Path>) -> Result<(), Failure> {
    // At once: SIGHUP would end a process without a handler.
    let signals = Signals::install()
        .map_err(|error| Failure::new(EXIT_FAILED, format!("cannot install signal handlers: {error}")))?;
    let (_, settings) = prepare(file, Use::Serves)?;
    let (settings, state) = acquire(settings?, "the service")?;
    let (mut service, mut observer) = Service::new(settings, state, true);
    match service.run(&signals, observer.as_mut()) {
        Exit::Stopped => Ok(()),
        Exit::Isolated => {
            let line =
                "only the loopback device is left; exiting, so that a restart joins the VPN container's new namespace";
            log::error!("{line}");
            Err(Failure { code: EXIT_ISOLATED, lines: Vec::new() })
        }
    }
}

fn once(file: Option<&Path>) -> Result<(), Failure> {
    let (_, settings) = prepare(file, Use::Writes)?;
    let (settings, state) = acquire(settings?, "once")?;
    let (mut service, mut observer) = Service::new(settings, state, false);
    let complete = service.run_once(observer.as_mut());
    let problems = service.problems();
    service.finish();
    if complete { Ok(()) } else { Err(Failure { code: EXIT_FAILED, lines: problems }) }
}

fn check(file: Option<&Path>) -> Result<(), Failure> {
    let (_, settings) = prepare(file, Use::Reads)?;
    let settings = settings?;
    // The rows already show every problem, so the log is enabled only for LOG_LEVEL=DEBUG or TRACE.
    if settings.log_level >= log::LevelFilter::Debug {
        logging::init(settings.log_level, None);
    }
    // https://no-color.org
    let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let colours =
        io::stdout().is_terminal() && !no_color && std::env::var_os("TERM").is_some_and(|term| term != "dumb");
    let works = check::run(settings, &mut io::stdout(), colours);
    if works { Ok(()) } else { Err(Failure { code: EXIT_FAILED, lines: Vec::new() }) }
}

/// Longest wait for the service's answer to `renew`: enough for a new lease, a bind and a port change in the client.
const RENEWAL_LIMIT: Duration = Duration::from_secs(60);

const LEASED_ELSEWHERE: &str = "the port is leased by another program; use that program to get a different port";

fn renew(file: Option<&Path>) -> Result<(), Failure> {
    let (state_dir, settings) = prepare(file, Use::Writes)?;
    let result = if matches!(state::presence(&state_dir), Presence::Running(_)) {
        if Status::read(&state_dir).ok().flatten().is_some_and(|status| status.follows) {
            Err(LEASED_ELSEWHERE.to_owned())
        } else {
            state::request_renewal(&state_dir, RENEWAL_LIMIT).unwrap_or_else(|error| {
                let advice = "run 'renew' as root or as the service's user, in the service's container if it has one";
                Err(format!("could not get an answer from the service: {}; {advice}", io_message(&error)))
            })
        }
    } else {
        let (settings, state) = acquire(settings?, "renew")?;
        if let PortProvider::Source(_) = settings.port {
            return Err(Failure::new(EXIT_FAILED, LEASED_ELSEWHERE.to_owned()));
        }
        let (mut service, mut observer) = Service::new(settings, state, false);
        service.renew();
        service.run_once(observer.as_mut());
        let result = service.end_renewal().unwrap_or_else(|| Ok(String::new()));
        service.finish();
        result
    };
    let line = result.map_err(|line| Failure::new(EXIT_FAILED, line))?;
    print(&format!("{}\n", one_line(&line)));
    Ok(())
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Show {
    Text,
    Json,
    Health,
}

fn status(file: Option<&Path>, show: Show) -> Result<(), Failure> {
    let all = settings::variables(file)?;
    let state_dir = settings::state_dir(&all);
    become_owner(&state_dir, &[], Use::Shows, all.service_user.as_ref())?;
    let presence = state::presence(&state_dir);
    let status = Status::read(&state_dir).map_err(|problem| Failure::new(EXIT_FAILED, problem))?;
    let Some(status) = status else {
        let folder = state_dir.display();
        return Err(match presence {
            Presence::Running(who) => Failure::new(EXIT_FAILED, format!("{who} has not recorded any state yet")),
            Presence::Unknown(reason) => Failure::new(EXIT_FAILED, format!("unknown: {reason}")),
            Presence::Stopped => {
                let line = "not running: no state is stored in STATE_DIR";
                Failure::new(EXIT_STOPPED, format!("{line} {folder}; start the service, or use its STATE_DIR"))
            }
        });
    };
    let health = health::check(&status, &presence);
    match show {
        Show::Text => print(&status.describe(&presence, &health, Timestamp::now())),
        Show::Json => print(&format!("{}\n", status.to_json())),
        Show::Health if matches!(health, Health::Healthy(_)) => print(&format!("{}\n", health.message())),
        Show::Health => {}
    }
    let lines = if show == Show::Health { vec![health.message().to_owned()] } else { Vec::new() };
    match health {
        Health::Healthy(_) => Ok(()),
        Health::Unhealthy(_) => Err(Failure { code: EXIT_FAILED, lines }),
        Health::Stopped(_) => Err(Failure { code: EXIT_STOPPED, lines }),
    }
}

fn fetch_ca(file: Option<&Path>, path: Option<&str>) -> Result<(), Failure> {
    let mut all = settings::variables(file)?;
    all.typed = true;
    let mut published = settings::published_ca(&all)?;
    if let Some(path) = path {
        published = published.kept_in(path.into());
    } else if settings::state_dir(&all).exists() {
        become_owner(&settings::state_dir(&all), &[], Use::Reads, None)?;
    }
    let path = published.file().display().to_string();
    if matches!(published.stored(), Ok(Some(_))) {
        print(&format!("PIA's CA is already stored in {path}\n"));
        return Ok(());
    }
    let certificate = loop {
        match published.fetch() {
            Ok(Progress::Done(certificate)) => break certificate,
            Ok(Progress::More) => {}
            Err(error) => return Err(Failure { code: EXIT_FAILED, lines: error_lines(&error) }),
        }
    };
    let stored = published.store(&certificate);
    stored.map_err(|error| Failure::new(EXIT_FAILED, format!("{path}: {}", io_message(&error))))?;
    print(&format!("PIA's CA is now in {path}\n"));
    Ok(())
}

fn command_help(command: &Command) -> String {
    let (usage, help, more) = (command.usage(), capitalized(command.help), command.more);
    format!("Usage: pia-qbittorrent-sync [--config PATH] {usage}\n\n{help}.\n{more}")
}

fn capitalized(text: &str) -> String {
    let (first, rest) = text.split_at(1);
    format!("{}{rest}", first.to_ascii_uppercase())
}

fn full_help() -> String {
    let mut text = String::from(concat!(
        env!("CARGO_PKG_NAME"),
        " ",
        env!("CARGO_PKG_VERSION"),
        ": keeps PIA's forwarded port bound and the torrent client listening on it\n\n",
        "Usage: pia-qbittorrent-sync [--config PATH] [COMMAND]\n\n",
        "Without a command, runs the service until SIGTERM or SIGINT; on SIGHUP, binds and checks at once. Commands:\n",
    ));
    for command in &COMMANDS {
        let _ = writeln!(text, "  {:<24}{}", command.usage(), command.help);
    }
    text.push_str(concat!(
        "  --version\n",
        "For details, run COMMAND --help.\n\n",
        "Settings are NAME=value, in the environment or in a file: the one given with --config, otherwise\n",
        "/etc/pia-qbittorrent-sync/config.env (OpenRC: /etc/conf.d/pia-qbittorrent-sync). The environment takes precedence.\n\n",
        "Exit codes: 0 done, 1 failed or not healthy, 3 not running, 64 usage error, 69 only the loopback device is left,\n",
        "75 STATE_DIR is in use by another instance, 78 invalid settings\n\n",
        "Variables:\n",
    ));
    for variable in &VARIABLES {
        let default = if variable.default.is_empty() { String::new() } else { format!(" [{}]", variable.default) };
        let _ = writeln!(text, "  {:<24}{}{default}", variable.name, variable.help);
    }
    text.push_str("To read a value from a file, set one of these to the file's path:\n");
    for variable in VARIABLES.iter().filter(|variable| variable.from_file) {
        let _ = writeln!(text, "  {}_FILE", variable.name);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const MANUAL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/contrib/man/pia-qbittorrent-sync.1");

    /// Escapes `text` for roff.
    fn roff(text: &str) -> String {
        let text = text.replace('\\', "\\e").replace('-', "\\-").replace('\'', "\\(aq");
        if text.starts_with('.') { format!("\\&{text}") } else { text }
    }

    /// A tagged paragraph (`.TP`), with `name` in bold.
    fn item(name: &str, text: &str) -> String {
        format!(".TP\n.B {}\n{}\n", roff(name), roff(text))
    }

    fn manual() -> String {
        let mut page = String::from(concat!(
            ".\\\" Generated from the tables in src/cli.rs and src/settings.rs: UPDATE_MANUAL=1 cargo test --bins manual\n",
            ".TH PIA\\-QBITTORRENT\\-SYNC 1\n",
            ".SH NAME\n",
            "pia\\-qbittorrent\\-sync \\- keeps PIA\\(aqs forwarded port bound and the torrent client listening on it\n",
            ".SH SYNOPSIS\n",
            ".B pia\\-qbittorrent\\-sync\n[\\fB\\-\\-config\\fR \\fIPATH\\fR] [\\fICOMMAND\\fR]\n",
            ".SH DESCRIPTION\n",
            "Without a command, runs the service until SIGTERM or SIGINT; on SIGHUP, binds and checks at once.\n",
            ".SH COMMANDS\n",
        ));
        for command in &COMMANDS {
            let help = format!("{}. {}", capitalized(command.help), command.more.replace('\n', " "));
            page += &item(&command.usage(), help.trim());
        }
        page += &item("--help, --version", "COMMAND --help describes a single command.");
        page += ".SH VARIABLES\nSettings are NAME=value, in the environment or in a file (see FILES).\n";
        page += "The environment takes precedence. An empty value counts as unset.\n";
        for variable in &VARIABLES {
            let name =
                if variable.from_file { format!("{0}, {0}_FILE", variable.name) } else { variable.name.to_owned() };
            let default = match variable.default {
                "" => String::new(),
                default => format!(" Default: {default}."),
            };
            page += &item(&name, &format!("{}.{default}", capitalized(variable.help)));
        }
        page += ".PP\nA variable ending in _FILE holds the path of a file with the value.\n.SH FILES\n";
        for (file, text) in [
            ("/etc/pia-qbittorrent-sync/config.env", "The settings, unless --config names a different file."),
            ("/etc/conf.d/pia-qbittorrent-sync", "The settings under OpenRC."),
            ("/var/lib/pia-qbittorrent-sync", "Default STATE_DIR: lease, status and PIA's CA certificate."),
        ] {
            page += &item(file, text);
        }
        page += ".SH EXIT STATUS\n";
        for (code, text) in [
            (0, "Done, or healthy."),
            (EXIT_FAILED, "Failed, or not healthy."),
            (EXIT_STOPPED, "Not running."),
            (EXIT_USAGE, "Usage error."),
            (EXIT_ISOLATED, "Only the loopback device is left (EXIT_WHEN_ISOLATED)."),
            (EXIT_LOCKED, "STATE_DIR is in use by another instance."),
            (EXIT_CONFIG, "Invalid settings."),
        ] {
            page += &item(&code.to_string(), text);
        }
        page
    }

    #[test]
    fn the_manual_matches_the_help() {
        if std::env::var_os("UPDATE_MANUAL").is_some() {
            std::fs::write(MANUAL, manual()).unwrap();
        }
        let kept = std::fs::read_to_string(MANUAL).unwrap_or_default();
        assert!(kept == manual(), "run: UPDATE_MANUAL=1 cargo test --bins manual");
    }
}
