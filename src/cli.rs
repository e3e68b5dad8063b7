//! Commands, help text and exit codes.

use std::fmt::Write as _;
use std::io::{self, Write};
use std::path::Path;

use jiff::Timestamp;

use crate::config::ConfigError;
use crate::error::plain;
use crate::keeper::step::{Listener, Progress};
use crate::keeper::tunnel::Way;
use crate::kernel::{self, Network};
use crate::pia::discover;
use crate::service::{End, Service, with_advice};
use crate::settings::{self, Settings, VARIABLES};
use crate::signals::Signals;
use crate::state::{self, Presence, State};
use crate::views::status::{Health, Status};
use crate::{check, logging};

/// The service is not healthy, or a command failed.
const EXIT_FAILED: u8 = 1;
/// Nothing runs.
const EXIT_STOPPED: u8 = 3;
/// `EX_USAGE` of sysexits.
const EXIT_USAGE: u8 = 64;
/// `EX_UNAVAILABLE` of sysexits: the network namespace is dead.
const EXIT_ISOLATED: u8 = 69;
/// `EX_TEMPFAIL` of sysexits: another one runs.
const EXIT_OCCUPIED: u8 = 75;
/// `EX_CONFIG` of sysexits: the services do not restart us after it.
const EXIT_CONFIG: u8 = 78;

/// Why a command did not do what it was asked for.
#[derive(Debug)]
pub struct Failure {
    /// The exit code.
    pub code: u8,
    /// What is said on standard error, a line each.
    pub lines: Vec<String>,
}

impl Failure {
    fn new(code: u8, line: String) -> Self {
        Self { code, lines: vec![line] }
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self { code: EXIT_CONFIG, lines: error.0.iter().map(ToString::to_string).collect() }
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
        [other, ..] => {
            Err(Failure::new(EXIT_USAGE, format!("unknown command or too many arguments: {other}; see --help")))
        }
    }
}

/// To standard output; a reader that went away is not our failure.
fn say(text: &str) {
    let mut out = io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

fn configuration(file: Option<&Path>) -> Result<Settings, Failure> {
    Ok(settings::variables(file).and_then(Settings::new)?)
}

/// The settings and the folder, which nobody else uses.
fn occupy(file: Option<&Path>, who: &str) -> Result<(Settings, State), Failure> {
    let settings = configuration(file)?;
    logging::init(settings.log_level, settings.log_file.as_deref());
    let state = State::own(&settings.state_dir, who).map_err(|who| {
        let line = format!("{who}, runs already with this STATE_DIR; stop it, or set another STATE_DIR");
        Failure::new(EXIT_OCCUPIED, line)
    })?;
    Ok((settings, state))
}

fn daemon(file: Option<&Path>) -> Result<(), Failure> {
    let (settings, state) = occupy(file, "the service")?;
    let signals = Signals::install()
        .map_err(|error| Failure::new(EXIT_FAILED, format!("cannot install signal handlers: {error}")))?;
    let (mut service, mut ear) = Service::new(settings, state);
    match service.run(&signals, ear.as_mut()) {
        End::Stopped => Ok(()),
        End::Isolated => {
            let line =
                "no network device but lo is left: ending, so that a restart joins the VPN container's new namespace";
            log::error!("{line}");
            Err(Failure { code: EXIT_ISOLATED, lines: Vec::new() })
        }
    }
}

fn once(file: Option<&Path>) -> Result<(), Failure> {
    let (settings, state) = occupy(file, "once")?;
    let (mut service, mut ear) = Service::new(settings, state);
    let done = service.run_once(ear.as_mut());
    service.leave_status();
    if done { Ok(()) } else { Err(Failure { code: EXIT_FAILED, lines: service.problems() }) }
}

fn check(file: Option<&Path>) -> Result<(), Failure> {
    let settings = configuration(file)?;
    // The lines of the check say all that is wrong; the log is for those who ask for more.
    if settings.log_level >= log::LevelFilter::Debug {
        logging::init(settings.log_level, None);
    }
    if check::run(settings, &mut io::stdout()) { Ok(()) } else { Err(Failure { code: EXIT_FAILED, lines: Vec::new() }) }
}

/// What is shown of the state.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Show {
    Words,
    Json,
    Health,
}

fn status(file: Option<&Path>, show: Show) -> Result<(), Failure> {
    let state_dir = settings::state_dir(&settings::variables(file)?);
    let presence = state::presence(&state_dir);
    let status = Status::read(&state_dir).map_err(|problem| Failure::new(EXIT_FAILED, problem))?;
    let Some(status) = status else {
        let folder = state_dir.display();
        return Err(match presence {
            Presence::Running(who) => Failure::new(EXIT_FAILED, format!("{who} runs and has not done anything yet")),
            Presence::Unknown(why) => Failure::new(EXIT_FAILED, format!("unknown: {why}")),
            Presence::Stopped => {
                let line = "not running: it has not run yet with STATE_DIR";
                Failure::new(EXIT_STOPPED, format!("{line} {folder}; start it, or set its STATE_DIR"))
            }
        });
    };
    let now = Timestamp::now();
    let network = Network::look();
    let way = way(&status, &network);
    let listener = listener(&status, &network, way.as_ref().and_then(|way| way.as_ref().ok()));
    let health = status.health(&presence, way, listener.as_ref(), now);
    match show {
        Show::Words => say(&status.describe(&presence, &health, now)),
        Show::Json => say(&format!("{}\n", miniserde::json::to_string(&status))),
        Show::Health if matches!(health, Health::Well(_)) => say(&format!("{}\n", health.words())),
        Show::Health => {}
    }
    let lines = if show == Show::Health { vec![health.words().to_owned()] } else { Vec::new() };
    match health {
        Health::Well(_) => Ok(()),
        Health::Ill(_) => Err(Failure { code: EXIT_FAILED, lines }),
        Health::Stopped(_) => Err(Failure { code: EXIT_STOPPED, lines }),
    }
}

/// The way that the last bind took, as it is now; none where it was not known then.
fn way(status: &Status, network: &Network) -> Option<Result<Way, String>> {
    if status.follows && network.is_isolated() {
        return Some(Err("there is no network device but lo".to_owned()));
    }
    status.local_address.as_ref()?;
    let way = match &status.gateway {
        Some(gateway) => network.way(gateway.parse().ok()?),
        None => discover::way(network),
    };
    Some(way.map_err(|error| plain(&error)))
}

/// Who listens on the port now; none where the kernel did not show the client's socket to the service.
fn listener(status: &Status, network: &Network, way: Option<&Way>) -> Option<Listener> {
    let port = status.port.filter(|_| status.listener_seen)?;
    kernel::inspect(network, port, way, false).ok().map(|witness| witness.listener)
}

fn fetch_ca(file: Option<&Path>, path: Option<&str>) -> Result<(), Failure> {
    let published = settings::variables(file).and_then(|all| settings::published_ca(&all))?;
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
            Err(error) => return Err(Failure::new(EXIT_FAILED, with_advice(&error))),
        }
    };
    let stored = published.store(&certificate);
    stored.map_err(|error| Failure::new(EXIT_FAILED, format!("{path}: {}", plain(&error))))?;
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
        "Exit codes: 0 done, 1 failed or not healthy, 3 not running, 64 wrong usage, 69 no network device but lo is left,\n",
        "75 another one runs with this STATE_DIR, 78 wrong configuration\n\n",
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
