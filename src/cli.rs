//! Commands, help text and exit codes.

use std::fmt::Write as _;
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use jiff::Timestamp;

use crate::config::{self, Config, ConfigError, VARIABLES};
use crate::error::{Error, Op, plain};
use crate::report::Status;
use crate::service::Service;
use crate::signals::Signals;
use crate::{check, logging};

/// `EX_USAGE` of sysexits.
const EXIT_USAGE: u8 = 64;
/// `EX_CONFIG` of sysexits: the services do not restart us after it.
const EXIT_CONFIG: u8 = 78;

/// Why a command did not do what it was asked for.
#[derive(Debug)]
pub enum Failure {
    /// The arguments make no command.
    Usage(String),
    /// The configuration is not valid.
    Config(ConfigError),
    /// The command ran and the answer is no; its reasons are told, a line each.
    Negative(Vec<String>),
    /// Signal handlers could not be installed.
    Signals(io::Error),
}

impl Failure {
    /// The exit code.
    pub fn code(&self) -> ExitCode {
        match self {
            Self::Usage(_) => ExitCode::from(EXIT_USAGE),
            Self::Config(_) => ExitCode::from(EXIT_CONFIG),
            Self::Negative(_) | Self::Signals(_) => ExitCode::FAILURE,
        }
    }

    /// What is said on standard error, a line each.
    pub fn lines(&self) -> Vec<String> {
        match self {
            Self::Usage(problem) => vec![format!("{problem}; see --help")],
            Self::Config(error) => error.0.iter().map(ToString::to_string).collect(),
            Self::Negative(reasons) => reasons.clone(),
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
        ["status"] => status(file).map(|status| say(&status.describe(Timestamp::now()))),
        ["status", "--json"] => status(file).map(|status| say(&format!("{}\n", miniserde::json::to_string(&status)))),
        ["healthcheck"] => healthcheck(file),
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

fn configuration(file: Option<&Path>) -> Result<Config, Failure> {
    config::variables(file).and_then(Config::new).map_err(Failure::Config)
}

fn daemon(file: Option<&Path>) -> Result<(), Failure> {
    let config = configuration(file)?;
    let signals = Signals::install().map_err(Failure::Signals)?;
    logging::init(config.log_level, config.log_file.as_deref());
    Service::new(config, Some(signals)).run();
    Ok(())
}

fn once(file: Option<&Path>) -> Result<(), Failure> {
    let config = configuration(file)?;
    logging::init(config.log_level, config.log_file.as_deref());
    let mut service = Service::new(config, None);
    if service.run_once() { Ok(()) } else { Err(Failure::Negative(service.problems())) }
}

fn check(file: Option<&Path>) -> Result<(), Failure> {
    let config = configuration(file)?;
    // The lines of the check say all that is wrong; the log is for those who ask for more.
    if config.log_level >= log::LevelFilter::Debug {
        logging::init(config.log_level, None);
    }
    if check::run(config, &mut io::stdout()) { Ok(()) } else { Err(Failure::Negative(Vec::new())) }
}

fn status(file: Option<&Path>) -> Result<Status, Failure> {
    let vars = config::variables(file).map_err(Failure::Config)?;
    Status::read(&config::state_dir(&vars.values)).map_err(|problem| Failure::Negative(vec![problem]))
}

fn healthcheck(file: Option<&Path>) -> Result<(), Failure> {
    let status = status(file)?;
    let verdict = status.check_route().and_then(|()| status.health(Timestamp::now()));
    let verdict = verdict.map_err(|ill| Failure::Negative(vec![ill]))?;
    say(&format!("{verdict}\n"));
    Ok(())
}

fn fetch_ca(file: Option<&Path>, path: Option<&str>) -> Result<(), Failure> {
    let published = config::variables(file).and_then(|all| config::published_ca(&all)).map_err(Failure::Config)?;
    let published = match path {
        Some(path) => published.kept_in(path.into()),
        None => published,
    };
    let path = published.file().display();
    if matches!(published.stored(), Ok(Some(_))) {
        say(&format!("PIA's CA is already in {path}\n"));
        return Ok(());
    }
    let certificate = published.fetch().map_err(|cause| {
        let error = Error::new(Op::FetchCa, cause);
        Failure::Negative(vec![format!("{error}; {}", error.remedy())])
    })?;
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
        "Exit codes: 0 done, 1 failed, 64 wrong usage, 78 wrong configuration\n\n",
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
