//! Commands, help text and exit codes.

use std::fmt::Write as _;
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use jiff::Timestamp;

use crate::config::ConfigError;
use crate::error::plain;
use crate::keeper::step::Progress;
use crate::service::{Service, with_advice};
use crate::settings::{self, Settings, VARIABLES};
use crate::signals::Signals;
use crate::state::{self, Presence, State};
use crate::views::status::{Health, Status};
use crate::{check, kernel, logging};

/// `EX_USAGE` of sysexits.
const EXIT_USAGE: u8 = 64;
/// `EX_TEMPFAIL` of sysexits: another one runs.
const EXIT_OCCUPIED: u8 = 75;
/// `EX_CONFIG` of sysexits: the services do not restart us after it.
const EXIT_CONFIG: u8 = 78;

/// Why a command did not do what it was asked for.
#[derive(Debug)]
pub enum Failure {
    /// The arguments make no command.
    Usage(String),
    /// The configuration is not valid.
    Config(ConfigError),
    /// The command ran and the answer is no; its reasons, a line each.
    Negative(Vec<String>),
    /// Another one runs with this `STATE_DIR`.
    Occupied(String),
    /// The service is not well, with the exit code that says how.
    Unwell(u8, String),
    /// Signal handlers could not be installed.
    Signals(io::Error),
}

impl Failure {
    /// The exit code.
    pub fn code(&self) -> ExitCode {
        match self {
            Self::Usage(_) => ExitCode::from(EXIT_USAGE),
            Self::Config(_) => ExitCode::from(EXIT_CONFIG),
            Self::Occupied(_) => ExitCode::from(EXIT_OCCUPIED),
            Self::Unwell(code, _) => ExitCode::from(*code),
            Self::Negative(_) | Self::Signals(_) => ExitCode::FAILURE,
        }
    }

    /// What is said on standard error, a line each.
    pub fn lines(&self) -> Vec<String> {
        match self {
            Self::Usage(problem) => vec![format!("{problem}; see --help")],
            Self::Config(error) => error.0.iter().map(ToString::to_string).collect(),
            Self::Negative(reasons) => reasons.clone(),
            Self::Occupied(who) => {
                vec![format!("{who}, runs already with this STATE_DIR; stop it, or set another STATE_DIR")]
            }
            Self::Unwell(_, words) => words.lines().map(str::to_owned).collect(),
            Self::Signals(error) => vec![format!("cannot install signal handlers: {error}")],
        }
    }
}

/// Runs the command that `args` (without the program's name) ask for.
pub fn run(args: &[String]) -> Result<(), Failure> {
    let args: Vec<_> = args.iter().map(String::as_str).collect();
    let (file, command) = match args.as_slice() {
        ["--config", path, command @ ..] => (Some(Path::new(path)), command),
        command => (None, command),
    };
    match command {
        [] => daemon(file),
        ["once"] => once(file),
        ["check"] => check(file),
        ["check", "--config-only"] => configuration(file).map(|_| say("the configuration is valid\n")),
        ["status"] => status(file, Show::Words),
        ["status", "--json"] => status(file, Show::Json),
        ["healthcheck"] => status(file, Show::Health),
        ["fetch-ca"] => fetch_ca(file, None),
        ["fetch-ca", path] if !path.starts_with('-') => fetch_ca(file, Some(path)),
        ["--help" | "-h" | "help"] => {
            say(&help());
            Ok(())
        }
        ["--version" | "-V"] => {
            say(concat!(env!("CARGO_PKG_NAME"), " ", env!("CARGO_PKG_VERSION"), "\n"));
            Ok(())
        }
        [other, ..] => Err(Failure::Usage(format!("unknown command or too many arguments: {other}"))),
    }
}

/// To standard output; a reader that went away is not our failure.
fn say(text: &str) {
    let mut out = io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

fn configuration(file: Option<&Path>) -> Result<Settings, Failure> {
    settings::variables(file).and_then(Settings::new).map_err(Failure::Config)
}

/// The settings and the folder, which nobody else uses.
fn occupy(file: Option<&Path>, who: &str) -> Result<(Settings, State), Failure> {
    let settings = configuration(file)?;
    logging::init(settings.log_level, settings.log_file.as_deref());
    let state = State::own(&settings.state_dir, who).map_err(Failure::Occupied)?;
    Ok((settings, state))
}

fn daemon(file: Option<&Path>) -> Result<(), Failure> {
    let (settings, state) = occupy(file, "the service")?;
    let signals = Signals::install().map_err(Failure::Signals)?;
    let (mut service, mut ear) = Service::new(settings, state);
    service.run(&signals, ear.as_mut());
    Ok(())
}

fn once(file: Option<&Path>) -> Result<(), Failure> {
    let (settings, state) = occupy(file, "once")?;
    let (mut service, mut ear) = Service::new(settings, state);
    let done = service.run_once(ear.as_mut());
    service.leave_status();
    if done { Ok(()) } else { Err(Failure::Negative(service.problems())) }
}

fn check(file: Option<&Path>) -> Result<(), Failure> {
    let settings = configuration(file)?;
    // The lines of the check say all that is wrong; the log is for those who ask for more.
    if settings.log_level >= log::LevelFilter::Debug {
        logging::init(settings.log_level, None);
    }
    if check::run(settings, &mut io::stdout()) { Ok(()) } else { Err(Failure::Negative(Vec::new())) }
}

/// What is shown of the state.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Show {
    Words,
    Json,
    Health,
}

fn status(file: Option<&Path>, show: Show) -> Result<(), Failure> {
    let state_dir = settings::state_dir(&settings::variables(file).map_err(Failure::Config)?);
    let presence = state::presence(&state_dir);
    let status = Status::read(&state_dir).map_err(|problem| Failure::Negative(vec![problem]))?;
    let Some(status) = status else {
        return Err(match presence {
            Presence::Running(who) => Failure::Unwell(1, format!("{who} runs and has not done anything yet")),
            Presence::Unknown(why) => Failure::Unwell(1, format!("unknown: {why}")),
            Presence::Stopped => Failure::Unwell(
                3,
                format!(
                    "not running: it has not run yet with STATE_DIR {}; start it, or set its STATE_DIR",
                    state_dir.display()
                ),
            ),
        });
    };
    let now = Timestamp::now();
    let health = status.health(&presence, way(&status), now);
    match show {
        Show::Words => say(&status.describe(&presence, &health, now)),
        Show::Json => say(&format!("{}\n", miniserde::json::to_string(&status))),
        Show::Health if health.code() == 0 => say(&format!("{}\n", health.words())),
        Show::Health => {}
    }
    match health {
        Health::Well(_) => Ok(()),
        _ if show == Show::Health => Err(Failure::Unwell(health.code(), health.words().to_owned())),
        _ => Err(Failure::Unwell(health.code(), String::new())),
    }
}

/// The way that the last bind took, as it is now.
fn way(status: &Status) -> Option<Result<crate::keeper::tunnel::Way, String>> {
    if status.follows {
        return (!kernel::has_way_out()).then(|| Err("this network namespace has no route".to_owned()));
    }
    let gateway = status.gateway.as_ref()?.parse().ok()?;
    status.local_address.as_ref()?;
    Some(kernel::way(gateway).map_err(|error| plain(&error)))
}

fn fetch_ca(file: Option<&Path>, path: Option<&str>) -> Result<(), Failure> {
    let published = settings::variables(file).and_then(|all| settings::published_ca(&all)).map_err(Failure::Config)?;
    let mut published = match path {
        Some(path) => published.kept_in(path.into()),
        None => published,
    };
    let path = published.file().display().to_string();
    if matches!(published.stored(), Ok(Some(_))) {
        say(&format!("PIA's CA is already in {path}\n"));
        return Ok(());
    }
    let certificate = loop {
        match published.fetch() {
            Ok(Progress::Done(certificate)) => break certificate,
            Ok(Progress::More) => {}
            Err(error) => return Err(Failure::Negative(vec![with_advice(&error)])),
        }
    };
    published.store(&certificate).map_err(|error| Failure::Negative(vec![format!("{path}: {}", plain(&error))]))?;
    say(&format!("PIA's CA is now in {path}\n"));
    Ok(())
}

fn help() -> String {
    let mut text = String::from(concat!(
        env!("CARGO_PKG_NAME"),
        " ",
        env!("CARGO_PKG_VERSION"),
        ": keeps PIA's forwarded port bound and qBittorrent listening on it\n\n",
        "Usage: pia-qbittorrent-sync [--config PATH] [COMMAND]\n\n",
        "Commands:\n",
        "  (none)           run until SIGTERM or SIGINT; SIGHUP binds and checks at once\n",
        "  once             one full pass, then exit: 0 done, 1 something failed\n",
        "  check            go the whole way step by step and say what works; changes nothing at qBittorrent\n",
        "  status [--json]  the state of the running service\n",
        "  healthcheck      exit 0 only if the port is bound and qBittorrent listens on it\n",
        "  fetch-ca [PATH]  fetch PIA's CA, check it, and store it where the service looks for it, or in PATH\n",
        "  --help, --version\n",
        "check --config-only looks at the configuration alone and sends nothing.\n\n",
        "--config PATH names a file of NAME=value lines; without it /etc/pia-qbittorrent-sync/config.env is read when it\n",
        "exists. The environment wins over the file.\n\n",
        "Exit codes: 0 done, 1 failed or not healthy, 3 not running, 64 wrong usage, 75 another one runs with this\n",
        "STATE_DIR, 78 wrong configuration\n\n",
        "Environment variables:\n",
    ));
    for variable in &VARIABLES {
        let _ = write!(text, "  {:<22}{}", variable.name, variable.help);
        if !variable.default.is_empty() {
            let _ = write!(text, " [{}]", variable.default);
        }
        text.push('\n');
    }
    text.push_str("Each of these may instead come from a file that the variable with _FILE at its end names:\n");
    for variable in VARIABLES.iter().filter(|variable| variable.from_file) {
        let _ = writeln!(text, "  {}_FILE", variable.name);
    }
    text
}
