//! The table of all variables, and the settings built from them. Each remote and each view parses its own variables.

use std::path::{Path, PathBuf};
use std::time::Duration;

use log::LevelFilter;
use strsim::osa_distance;

use crate::config::{self, ConfigError, InvalidValue, Reader, Variables};
use crate::pia::Pia;
use crate::pia::trust::{self, Published};
use crate::source::Source;
use crate::text::one_line;
use crate::torrent::{self, TorrentClient};
use crate::views;

/// Longest time between binds, in seconds. A binding lapses 15 minutes (900 s) after the last bind, so 60 s remain for retries.
const MAX_INTERVAL: u64 = 840;

/// A variable, listed by `--help` and suggested by 'did you mean'.
pub struct Variable {
    pub name: &'static str,
    /// Default value, for display only; empty if the variable has none.
    pub default: &'static str,
    pub help: &'static str,
    /// True if `NAME_FILE`, the path of a file with the value, can be set instead.
    pub from_file: bool,
}

const fn variable(name: &'static str, default: &'static str, help: &'static str) -> Variable {
    Variable { name, default, help, from_file: false }
}

const fn from_file(name: &'static str, help: &'static str) -> Variable {
    Variable { name, default: "", help, from_file: true }
}

pub const VARIABLES: [Variable; 42] = [
    variable("PORT_SOURCE", "pia", "where the port comes from: pia, gluetun (its control server) or file:PATH"),
    from_file("PIA_USERNAME", "PIA user name; not needed while PIA_TOKEN_FILE holds a token"),
    from_file("PIA_PASSWORD", "PIA password"),
    variable("PIA_TOKEN_FILE", "/var/run/pia_token", "cache file for the login token; may also hold your own token"),
    variable("PIA_GATEWAY", "auto", "ADDRESS[:PORT] of the gateway inside the tunnel, or auto to search for it"),
    variable("PIA_HOSTNAME", "", "name in the VPN server's certificate, e.g. mexico409; the check command shows it"),
    variable("PIA_CA_CERT", "", "CA certificate (PEM file) for the gateway, instead of PIA's, which is fetched once"),
    variable("PIA_CA_URL", "", "URL (http or https) to download PIA's CA from, instead of PIA's repositories"),
    variable("PIA_CA_SHA256", "", "SHA-256 of PIA's CA (DER, hexadecimal), instead of the built-in one"),
    variable("PIA_LOGIN_URL", "", "login URL (https), instead of PIA's two public ones"),
    variable("PIA_LOGIN_CA_CERT", "", "CA certificates (PEM file) for the login, instead of Mozilla's"),
    variable("GLUETUN_URL", "http://127.0.0.1:8000", "gluetun's control server"),
    from_file("GLUETUN_API_KEY", "API key for gluetun's control server"),
    variable(
        "VPN_INTERFACE",
        "",
        "the VPN's network device, e.g. tun0, instead of the one found in the routing tables",
    ),
    variable("TORRENT_CLIENT", "qbittorrent", "torrent client: qbittorrent, transmission or deluge"),
    variable("QBITTORRENT_HOST", "http://localhost:8080", "base URL of qBittorrent's Web UI"),
    from_file("QBITTORRENT_USERNAME", "Web UI user name, if qBittorrent requires a login"),
    from_file("QBITTORRENT_PASSWORD", "Web UI password"),
    from_file("QBITTORRENT_API_KEY", "API key (qBittorrent 5.2 and later), instead of user name and password"),
    variable("QBITTORRENT_REANNOUNCE", "true", "have qBittorrent announce a new port to its trackers at once"),
    variable("QBITTORRENT_CA_CERT", "", "CA certificate (PEM file) for an https Web UI, instead of Mozilla's"),
    variable("TRANSMISSION_HOST", "http://localhost:9091", "base URL of Transmission's Web UI or RPC"),
    from_file("TRANSMISSION_USERNAME", "RPC user name, if Transmission requires a login"),
    from_file("TRANSMISSION_PASSWORD", "RPC password"),
    variable("TRANSMISSION_CA_CERT", "", "CA certificate (PEM file) for an https proxy, instead of Mozilla's"),
    variable("DELUGE_HOST", "http://localhost:8112", "base URL of Deluge's web interface"),
    from_file("DELUGE_PASSWORD", "password for Deluge's web interface"),
    variable("DELUGE_CA_CERT", "", "CA certificate (PEM file) for an https web interface, instead of Mozilla's"),
    variable("CHECK_INTERVAL", "300", "seconds between binds, capped at 840"),
    variable(
        "EXIT_WHEN_ISOLATED",
        "",
        "exit with code 69 after this many seconds without any network device but lo (image: 60)",
    ),
    variable("STATE_DIR", "/var/lib/pia-qbittorrent-sync", "folder for lease and status ($STATE_DIRECTORY if set)"),
    variable("PORT_FILE", "", "file to write the port to, for other programs; empty while there is no port"),
    variable(
        "PORT_CHANGE_COMMAND",
        "",
        "program, with arguments, to run for each new port; placeholders: {port}, {old_port}, {interface}",
    ),
    from_file("PORT_CHANGE_URL", "URL (http or https) to request for each new port; same placeholders as the command"),
    from_file("HEARTBEAT_URL", "URL of a monitor (Uptime Kuma, healthchecks.io) to send the health to every interval"),
    variable("NOTIFY_CA_CERT", "", "CA (PEM file) for PORT_CHANGE_URL and HEARTBEAT_URL, instead of Mozilla's"),
    variable("METRICS_FILE", "", "file for Prometheus metrics, for node_exporter's textfile collector"),
    variable("STATUS_ADDRESS", "", "ADDRESS:PORT of the status server: /metrics, /healthz, /status, /v1/portforward"),
    variable(
        "STATUS_HOSTS",
        "",
        "names with a dot under which the status server answers, e.g. nas.local; others get 421",
    ),
    variable("LOG_LEVEL", "INFO", "TRACE, DEBUG, INFO, WARN, ERROR or CRITICAL"),
    variable("LOG_FILE", "", "file to log to, instead of standard output"),
    variable("STATE_DIRECTORY", "", "set by systemd; default for STATE_DIR"),
];

/// True for passwords, keys and secret URLs; false for user names.
fn is_secret(name: &str) -> bool {
    VARIABLES.iter().any(|variable| variable.from_file && variable.name == name && !name.ends_with("_USERNAME"))
}

/// Variables from the environment and from the configuration file: `path`, or else the default file if it exists.
pub fn variables(path: Option<&Path>) -> Result<Variables, ConfigError> {
    config::variables(path, is_secret)
}

pub struct Settings {
    pub port: PortProvider,
    pub client: Box<dyn TorrentClient>,
    /// Time between binds, 1 to 840 s.
    pub interval: Duration,
    /// The VPN's device; `None` to find it by its routes.
    pub vpn_interface: Option<String>,
    /// How long to keep running when loopback is the only network device left; `None` means forever.
    pub isolation: Option<Duration>,
    pub state_dir: PathBuf,
    /// Moved out by `Service::new`; ignored by `check`.
    pub views: Option<views::Settings>,
    pub log_level: LevelFilter,
    pub log_file: Option<PathBuf>,
    /// Source of the settings, for display: a file or the environment.
    pub origin: String,
    /// Warnings about values that are odd but valid.
    pub warnings: Vec<String>,
}

/// The remote that provides the port.
pub enum PortProvider {
    /// This program leases and binds the port.
    Pia(Box<Pia>),
    /// Another program leases the port, and this program follows it.
    Source(Source),
}

impl PortProvider {
    /// Cache file for the token; `None` if a different program leases the port.
    pub fn token_file(&self) -> Option<&Path> {
        match self {
            Self::Pia(pia) => Some(pia.account.token_file()),
            Self::Source(_) => None,
        }
    }
}

/// Folder for lease and status, the only setting that `status` and `healthcheck` need.
pub fn state_dir(all: &Variables) -> PathBuf {
    state_dir_of(&Reader::new(all))
}

fn state_dir_of(reader: &Reader) -> PathBuf {
    // systemd separates several folders with colons; the first one is ours.
    let systemd = reader.get("STATE_DIRECTORY").and_then(|list| list.split(':').next());
    reader.path("STATE_DIR", systemd.unwrap_or("/var/lib/pia-qbittorrent-sync"))
}

/// File and download URLs of PIA's CA, the only settings that `fetch-ca` needs.
pub fn published_ca(all: &Variables) -> Result<Published, ConfigError> {
    let mut reader = Reader::new(all);
    let published = trust::published(&mut reader, &state_dir(all));
    reader.finish(published, None).map(|(published, _)| published)
}

impl Settings {
    pub fn new(mut all: Variables) -> Result<Self, ConfigError> {
        let hint = all.hint.take();
        let mut reader = Reader::new(&all);
        warn_about_unknown(&mut reader);
        warn_about_strays(&mut reader, &all);
        let settings = Self::read(&mut reader);
        let (settings, warnings) = reader.finish(settings, hint)?;
        let origin = all.file.map_or("from the environment".to_owned(), |file| format!("from {}", file.display()));
        Ok(Self { origin, warnings, ..settings })
    }

    fn read(reader: &mut Reader) -> Option<Self> {
        let state_dir = state_dir_of(reader);
        let port = match reader.get("PORT_SOURCE").unwrap_or("pia") {
            "pia" => Pia::read(reader, &state_dir).map(|pia| PortProvider::Pia(Box::new(pia))),
            other => Source::read(reader, other).map(PortProvider::Source),
        };
        let client = torrent::read(reader);
        let interval = interval(reader);
        let remedy = "use e.g. 60, or unset it to keep running";
        let isolation = reader.parsed("EXIT_WHEN_ISOLATED", "0", remedy, |text| seconds(text, 0..=u32::MAX.into()));
        let log_level = log_level(reader);
        let views = views::Settings::read(reader);
        Some(Self {
            port: port?,
            client: client?,
            interval: interval?,
            vpn_interface: reader.get("VPN_INTERFACE").map(str::to_owned),
            isolation: Some(isolation?).filter(|limit| *limit > 0).map(Duration::from_secs),
            state_dir,
            views: Some(views),
            log_level: log_level?,
            log_file: reader.get("LOG_FILE").map(PathBuf::from),
            origin: String::new(),
            warnings: Vec::new(),
        })
    }
}

/// Parses a number of seconds within `range`. For a value with a unit, such as `5m`, the error suggests the number of seconds.
fn seconds(text: &str, range: std::ops::RangeInclusive<u64>) -> Result<u64, InvalidValue> {
    let text = text.trim();
    let not = || InvalidValue::from(format!("is not a number of seconds from {} to {}", range.start(), range.end()));
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let number: u64 = number.parse().map_err(|_| not())?;
    let factor = match unit.trim().to_ascii_lowercase().as_str() {
        "" if range.contains(&number) => return Ok(number),
        "s" | "sec" | "second" | "seconds" => 1,
        "m" | "min" | "minute" | "minutes" => 60,
        "h" | "hour" | "hours" => 3600,
        _ => return Err(not()),
    };
    match number.saturating_mul(factor) {
        meant if range.contains(&meant) => {
            Err(InvalidValue::meant("has a unit, but must be a plain number of seconds", meant.to_string()))
        }
        _ => Err(not()),
    }
}

fn interval(reader: &mut Reader) -> Option<Duration> {
    let seconds = reader.parsed("CHECK_INTERVAL", "300", "use e.g. 300", |text| seconds(text, 1..=86400))?;
    if seconds > MAX_INTERVAL {
        reader.warnings.push(format!(
            "CHECK_INTERVAL={seconds} is too long; using {MAX_INTERVAL}, because a binding lapses after 15 minutes (900 s)"
        ));
    }
    Some(Duration::from_secs(seconds.min(MAX_INTERVAL)))
}

fn log_level(reader: &mut Reader) -> Option<LevelFilter> {
    let remedy = "use TRACE, DEBUG, INFO, WARN, WARNING, ERROR or CRITICAL";
    reader.parsed("LOG_LEVEL", "INFO", remedy, |text| match text.to_ascii_uppercase().as_str() {
        "TRACE" => Ok(LevelFilter::Trace),
        "DEBUG" => Ok(LevelFilter::Debug),
        "INFO" => Ok(LevelFilter::Info),
        "WARN" | "WARNING" => Ok(LevelFilter::Warn),
        "ERROR" | "CRITICAL" => Ok(LevelFilter::Error),
        _ => Err("is not a log level".to_owned()),
    })
}

/// Warns about every unknown name in the configuration file, and about unknown names in the environment that look like ours.
fn warn_about_unknown(reader: &mut Reader) {
    let mut known: Vec<_> = VARIABLES.iter().map(|variable| variable.name.to_owned()).collect();
    let files = VARIABLES.iter().filter(|variable| variable.from_file);
    known.extend(files.map(|variable| format!("{}_FILE", variable.name)));
    let looks_like_ours = |name: &str| {
        ["PIA_", "QBITTORRENT_", "DELUGE_", "GLUETUN_"].iter().any(|prefix| name.starts_with(prefix))
            || known.iter().any(|known| is_mistyped(name, known))
    };
    for name in reader.names().filter(|name| !known.contains(name)) {
        let meant = meant(name, &known);
        // The conf.d file may also contain OpenRC's own settings, such as `rc_after`.
        let is_of_openrc = name.starts_with(|c: char| c.is_ascii_lowercase());
        let in_file = reader.is_in_file(name) && (!is_of_openrc || meant.is_some());
        if in_file || looks_like_ours(name) {
            let hint = meant.map_or("--help lists the known ones".to_owned(), |meant| format!("did you mean {meant}?"));
            reader.unknown.push(format!("ignoring unknown variable {}; {hint}", one_line(name)));
        }
    }
}

/// Guesses which known name was meant: the closest one within two typos, or else the shortest one that starts with `name` or that
/// `name` starts with.
fn meant<'a>(name: &str, known: &'a [String]) -> Option<&'a str> {
    let upper = name.to_ascii_uppercase();
    let begun = |known: &&String| upper.len() > 7 && (known.starts_with(&upper) || upper.starts_with(known.as_str()));
    let closest =
        known.iter().filter(|known| is_mistyped(&upper, known)).min_by_key(|known| osa_distance(&upper, known));
    closest.or_else(|| known.iter().filter(begun).min_by_key(|known| known.len())).map(String::as_str)
}

/// Allows one typo, or two if the known name has at least 16 characters.
fn is_mistyped(name: &str, known: &str) -> bool {
    known.len().abs_diff(name.len()) <= 2 && osa_distance(name, known) <= (known.len() / 8).clamp(1, 2)
}

/// Warns a user who runs a command manually about variables in the shell, because the service reads only its configuration file.
fn warn_about_strays(reader: &mut Reader, all: &Variables) {
    let (Some(file), true) = (&all.file, all.service_user.is_some()) else { return };
    let is_stray = |name: &&str| reader.get(name).is_some() && all.in_environment.iter().any(|known| known == name);
    let strays: Vec<_> = VARIABLES.iter().map(|variable| variable.name).filter(is_stray).collect();
    if !strays.is_empty() {
        let file = file.display();
        let strays = strays.join(", ");
        reader.warnings.push(format!("this shell's environment sets {strays}; the service reads only {file}"));
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::config::paths::ServiceUser;
    use crate::testing::{Ca, TempDir};

    struct Vars {
        dir: TempDir,
        vars: BTreeMap<String, String>,
    }

    impl Vars {
        /// A configuration without problems or warnings.
        fn good() -> Self {
            let dir = TempDir::new();
            let ca = dir.write("ca.pem", Ca::new("An authority").pem()).to_str().unwrap().to_owned();
            let token = dir.path().join("token").to_str().unwrap().to_owned();
            let vars = Self { dir, vars: BTreeMap::new() };
            vars.with("PIA_USERNAME", "p1234567")
                .with("PIA_PASSWORD", "hunter2")
                .with("PIA_CA_CERT", &ca)
                .with("PIA_HOSTNAME", "mexico409")
                .with("PIA_TOKEN_FILE", &token)
        }

        fn with(mut self, name: &str, value: &str) -> Self {
            self.vars.insert(name.to_owned(), value.to_owned());
            self
        }

        fn file(self, name: &str, text: &str) -> Self {
            let path = self.dir.path().join(name);
            std::fs::write(&path, text).unwrap();
            self.with(name, path.to_str().unwrap())
        }

        fn config(&self) -> Result<Settings, Vec<String>> {
            let all = Variables { values: self.vars.clone(), ..Variables::default() };
            Settings::new(all)
                .map_err(|error| error.problems.iter().map(ToString::to_string).chain(error.unknown).collect())
        }

        /// The account's user name and password, separated by a NUL byte.
        fn account(&self) -> String {
            match self.config().unwrap_or_else(|e| panic!("{e:?}")).port {
                PortProvider::Pia(pia) => {
                    pia.account.credentials().map_or(String::new(), |secret| secret.expose().to_owned())
                }
                PortProvider::Source(source) => panic!("follows {}", source.name()),
            }
        }

        #[track_caller]
        fn fails(&self, expected: &[&str]) {
            let Err(problems) = self.config() else { panic!("no problem, expected {expected:?}") };
            assert_eq!(problems.len(), expected.len(), "{problems:?}");
            for (problem, expected) in problems.iter().zip(expected) {
                assert!(problem.contains(expected), "{problem:?} lacks {expected:?}");
            }
        }

        #[track_caller]
        fn warns(&self, expected: &str) {
            let warnings = self.config().unwrap_or_else(|e| panic!("{e:?}")).warnings;
            assert!(warnings.len() == 1 && warnings[0].contains(expected), "{warnings:?}");
        }
    }

    #[test]
    fn defaults() {
        let settings = Vars::good().config().unwrap_or_else(|e| panic!("{e:?}"));
        assert_eq!(
            (settings.client.name(), settings.client.address().as_str()),
            ("qBittorrent", "http://localhost:8080")
        );
        assert_eq!(settings.interval, Duration::from_secs(300));
        assert_eq!(settings.state_dir, Path::new("/var/lib/pia-qbittorrent-sync"));
        assert_eq!(settings.client.credentials(), None);
        assert!(settings.warnings.is_empty(), "{:?}", settings.warnings);
    }

    #[test]
    fn all_problems_are_reported_at_once() {
        Vars::good()
            .with("PIA_GATEWAY", "nonsense:99999")
            .with("CHECK_INTERVAL", "0")
            .with("LOG_LEVEL", "loud")
            .with("PIA_CA_CERT", "")
            .with("PIA_CA_URL", "ftp://x")
            .with("PIA_CA_SHA256", "abc")
            .with("QBITTORRENT_HOST", "ftp://x")
            .fails(&[
                "PIA_GATEWAY=nonsense:99999: ",
                "PIA_CA_URL=ftp://x: has a scheme",
                "PIA_CA_SHA256=abc: is not a SHA-256",
                "QBITTORRENT_HOST=ftp://x: has a scheme",
                "CHECK_INTERVAL=0: is not a number of seconds from 1 to 86400",
                "LOG_LEVEL=loud: is not a log level; use TRACE, DEBUG",
            ]);
    }

    #[test]
    fn secrets_can_come_from_files() {
        let mut vars = Vars::good().file("PIA_PASSWORD_FILE", "from file \r\n");
        vars.vars.remove("PIA_PASSWORD");
        assert_eq!(vars.account(), "p1234567\0from file ");
        Vars::good().file("PIA_PASSWORD_FILE", "x").fails(&["PIA_PASSWORD: is set together with PIA_PASSWORD_FILE"]);
        vars.file("PIA_PASSWORD_FILE", "\n").fails(&["PIA_PASSWORD_FILE: names an empty file"]);
        Vars::good()
            .with("PIA_PASSWORD", "")
            .with("PIA_PASSWORD_FILE", "/nonexistent")
            .fails(&["PIA_PASSWORD_FILE=/nonexistent: cannot be read: no such file"]);
    }

    #[test]
    fn variables_and_files_take_precedence_over_systemd_credentials() {
        let mut vars = Vars::good();
        let credentials = vars.dir.path().to_str().unwrap().to_owned();
        for (name, value) in
            [("PIA_USERNAME", "p7654321\n"), ("PIA_PASSWORD", "credential\n"), ("QBITTORRENT_API_KEY", "")]
        {
            std::fs::write(vars.dir.path().join(name), value).unwrap();
        }
        vars = vars.with("CREDENTIALS_DIRECTORY", &credentials);
        assert_eq!(vars.account(), "p1234567\0hunter2");
        vars.vars.remove("PIA_PASSWORD");
        assert_eq!(vars.account(), "p1234567\0credential");
        let settings = vars.config().unwrap_or_else(|e| panic!("{e:?}"));
        assert_eq!(settings.client.credentials(), None, "an empty credential counts as unset");
    }

    #[test]
    fn following_a_source_needs_no_pia_settings() {
        let follows = |pairs: &[(&str, &str)]| {
            let vars = pairs.iter().map(|&(n, v)| (n.to_owned(), v.to_owned())).collect();
            Vars { dir: TempDir::new(), vars }
        };
        let name = |vars: &Vars| match vars.config().unwrap_or_else(|e| panic!("{e:?}")).port {
            PortProvider::Source(source) => source.name(),
            PortProvider::Pia(_) => "PIA".to_owned(),
        };
        assert_eq!(name(&follows(&[("PORT_SOURCE", "gluetun")])), "gluetun at 127.0.0.1:8000");
        assert_eq!(name(&follows(&[("PORT_SOURCE", "file:/tmp/port")])), "/tmp/port");
        assert_eq!(name(&Vars::good().with("PORT_SOURCE", "pia")), "PIA");
        for bad in ["file:", "file:relative", "Gluetun", "http://x"] {
            follows(&[("PORT_SOURCE", bad)]).fails(&["is not a port source; use pia, gluetun or file:"]);
        }
        follows(&[("PORT_SOURCE", "gluetun"), ("GLUETUN_URL", "https://x"), ("GLUETUN_API_KEY", "a b")])
            .fails(&["GLUETUN_URL=https://x: is https", "GLUETUN_API_KEY: has characters"]);
    }

    #[test]
    fn an_account_or_a_token_is_required() {
        let mut vars = Vars::good();
        vars.vars.remove("PIA_USERNAME");
        vars.fails(&["PIA_USERNAME: is not set, but PIA_PASSWORD is"]);
        vars.vars.remove("PIA_PASSWORD");
        vars.fails(&["PIA_USERNAME: is not set, and"]);
        assert!(vars.file("PIA_TOKEN_FILE", " token\n").config().is_ok());
    }

    #[test]
    fn a_secret_in_place_of_its_file_name_is_not_shown() {
        let vars = Vars::good().with("PIA_PASSWORD", "");
        vars.with("PIA_PASSWORD_FILE", "hun/ter2").fails(&["PIA_PASSWORD_FILE=(a relative path): cannot be read"]);
        let vars = Vars::good().with("PIA_USERNAME", "").with("PIA_PASSWORD", "");
        vars.with("PIA_TOKEN_FILE", "0123abc").fails(&["PIA_TOKEN_FILE (a relative path) "]);
    }

    #[test]
    fn a_credential_that_cannot_be_read_is_a_problem() {
        let dir = TempDir::new();
        std::fs::write(dir.path().join("PIA_PASSWORD"), [0xff]).unwrap();
        let vars = Vars::good().with("PIA_PASSWORD", "").with("CREDENTIALS_DIRECTORY", dir.path().to_str().unwrap());
        vars.fails(&["PIA_PASSWORD: cannot be read"]);
    }

    #[test]
    fn placeholders_are_errors_and_never_shown() {
        for value in ["CHANGE_ME", "changeme", "your_pia_username", "<password>"] {
            let vars = Vars::good().with("PIA_PASSWORD", value);
            vars.fails(&["PIA_PASSWORD: still holds a placeholder"]);
        }
        for real in ["your horse battery staple", "your_dog", "<3 you>", "password", "token"] {
            Vars::good().with("PIA_PASSWORD", real).config().unwrap();
        }
        Vars::good().with("PIA_HOSTNAME", "your_server").fails(&["PIA_HOSTNAME=your_server: is a placeholder"]);
    }

    #[test]
    fn problems_and_warnings_are_one_line_without_a_secret() {
        Vars::good().with("PIA_HOSTNAME", "hunter2:x@mexico409").fails(&["PIA_HOSTNAME: contains more than the name"]);
        let problems = Vars::good().with("PIA_GATEWAY", "user:hunter2@10.0.0.1").config().err();
        assert!(problems.is_some_and(|problems| !problems.concat().contains("hunter2")));
        let mut vars = Vars::good().with("PIA_TOKEN_FILE", "/nonexistent/a\nb\u{1b}[31m");
        vars.vars.retain(|name, _| name != "PIA_USERNAME" && name != "PIA_PASSWORD");
        vars.fails(&["PIA_TOKEN_FILE /nonexistent/a?b?[31m "]);
        Vars::good().with("PIA_X\n", "x").warns("unknown variable PIA_X?;");
    }

    #[test]
    fn warnings() {
        Vars::good().with("CHECK_INTERVAL", "1800").warns("CHECK_INTERVAL=1800 is too long; using 840");
        Vars::good()
            .with("PIA_PASWORD", "x")
            .warns("ignoring unknown variable PIA_PASWORD; did you mean PIA_PASSWORD?");
        Vars::good()
            .with("QBITTORRENT_USERNAME", "admin")
            .with("QBITTORRENT_PASSWORD", "adminadmin")
            .warns("old default");
        Vars::good()
            .with("QBITTORRENT_USERNAME", "a")
            .with("QBITTORRENT_PASSWORD", "b")
            .with("QBITTORRENT_API_KEY", "qbt_x")
            .warns("QBITTORRENT_API_KEY is set");
    }

    #[test]
    fn a_secret_that_crosses_a_network_unencrypted_is_a_warning() {
        let gluetun = |url: &str| {
            Vars::good().with("PORT_SOURCE", "gluetun").with("GLUETUN_URL", url).with("GLUETUN_API_KEY", "key")
        };
        for (name, secret) in
            [("QBITTORRENT_HOST", "QBITTORRENT_API_KEY"), ("PORT_CHANGE_URL", ""), ("HEARTBEAT_URL", "")]
        {
            let with = |url: &str| match secret {
                "" => Vars::good().with(name, url),
                secret => Vars::good().with(secret, "qbt_x").with(name, url),
            };
            with("http://nas.lan:8080/x").warns(&format!("nas.lan unencrypted; use https in {name} unless you trust"));
            for quiet in ["https://nas.lan:8080/x", "http://localhost:8080/x", "http://127.1.2.3/x", "http://[::1]/x"] {
                assert!(with(quiet).config().unwrap().warnings.is_empty(), "{name}={quiet}");
            }
        }
        let warnings = |vars: Vars| vars.config().unwrap_or_else(|e| panic!("{e:?}")).warnings.join("\n");
        let crosses = "GLUETUN_API_KEY is sent to nas.lan unencrypted";
        assert!(warnings(gluetun("http://nas.lan:8000")).contains(crosses));
        assert!(!warnings(gluetun("http://127.0.0.1:8000")).contains("unencrypted"));
        let mut without_a_key = gluetun("http://nas.lan:8000");
        without_a_key.vars.remove("GLUETUN_API_KEY");
        assert!(!warnings(without_a_key).contains("unencrypted"));
    }

    #[test]
    fn only_close_names_are_suggested() {
        for (name, words) in [
            ("PIA_USERNAM", "did you mean PIA_USERNAME?"),
            ("PIA_USER", "did you mean PIA_USERNAME?"),
            ("QBITTORRENT_PASS", "did you mean QBITTORRENT_PASSWORD?"),
            ("QBITTORRENT_HOSTNAME", "did you mean QBITTORRENT_HOST?"),
            ("QBITORRENT_HOST", "did you mean QBITTORRENT_HOST?"),
            ("CHECK_INTERVALL", "did you mean CHECK_INTERVAL?"),
            ("PIA_REGION", "; --help lists the known ones"),
            ("PIA_X", "; --help lists the known ones"),
        ] {
            Vars::good().with(name, "x").warns(words);
        }
        for name in ["PORT", "HOSTNAME", "PATH", "LOG", "XDG_STATE_HOME"] {
            assert!(Vars::good().with(name, "x").config().unwrap().warnings.is_empty(), "{name}");
        }
        let mut broken = Vars::good().with("PIA_USERNAM", "p1234567");
        broken.vars.remove("PIA_USERNAME");
        broken.fails(&["PIA_USERNAME: is not set, but PIA_PASSWORD is", "did you mean PIA_USERNAME?"]);
    }

    #[test]
    fn variables_of_only_this_shell_are_reported_if_the_service_has_a_file() {
        let warnings = |service_user| {
            let all = Variables {
                values: ["LOG_LEVEL", "CHECK_INTERVAL", "HOME"].map(|name| (name.to_owned(), "x".to_owned())).into(),
                file: Some("/etc/config.env".into()),
                in_environment: vec!["LOG_LEVEL".to_owned(), "HOME".to_owned()],
                service_user,
                ..Variables::default()
            };
            let mut reader = Reader::new(&all);
            warn_about_strays(&mut reader, &all);
            reader.warnings
        };
        let line = "this shell's environment sets LOG_LEVEL; the service reads only /etc/config.env";
        assert_eq!(warnings(Some(ServiceUser::dynamic())), [line]);
        assert!(warnings(None).is_empty(), "the service itself gets no warning");
    }

    #[test]
    fn unknown_names_in_the_file_are_reported() {
        let named = |name: &str| {
            let vars = Vars::good().with(name, "x");
            let all = Variables { values: vars.vars.clone(), in_file: vec![name.to_owned()], ..Variables::default() };
            Settings::new(all).unwrap_or_else(|error| panic!("{error:?}")).warnings
        };
        assert!(named("TIMEZONE")[0].contains("unknown variable TIMEZONE;"));
        assert!(named("pia_username")[0].contains("did you mean PIA_USERNAME?"));
        assert!(named("rc_after").is_empty() && named("STATE_DIR").is_empty());
    }

    #[test]
    fn a_value_in_the_wrong_form_suggests_the_right_one() {
        for (value, remedy) in [("5m", "300"), ("300s", "300"), ("5 min", "300"), ("1h", "3600"), ("90 Sec", "90")] {
            let remedy = format!("; set CHECK_INTERVAL={remedy}");
            Vars::good().with("CHECK_INTERVAL", value).fails(&[&remedy]);
        }
        Vars::good().with("EXIT_WHEN_ISOLATED", "1m").fails(&["EXIT_WHEN_ISOLATED=1m: has a unit"]);
        Vars::good().with("PIA_GATEWAY", "https://10.7.1.1:19999/x").fails(&["; set PIA_GATEWAY=10.7.1.1:19999"]);
        Vars::good().with("PIA_HOSTNAME", "https://mexico409/").fails(&["; set PIA_HOSTNAME=mexico409"]);
        Vars::good().with("PIA_HOSTNAME", "mexico409:443").fails(&["; set PIA_HOSTNAME=mexico409"]);
        Vars::good().with("GLUETUN_URL", "https://x").config().unwrap();
    }

    #[test]
    fn a_world_readable_secret_is_a_warning() {
        use std::os::unix::fs::PermissionsExt;
        let mut vars = Vars::good().file("PIA_PASSWORD_FILE", "hunter2");
        vars.vars.remove("PIA_PASSWORD");
        let path = vars.vars["PIA_PASSWORD_FILE"].clone();
        for (mode, warns) in [(0o604, true), (0o640, false)] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            let warnings = vars.config().unwrap().warnings;
            assert_eq!(warnings.concat().contains("is readable by every user on this machine"), warns, "{warnings:?}");
        }
    }

    #[test]
    fn all_other_invalid_values_are_reported() {
        Vars::good()
            .with("PIA_CA_CERT", "/nonexistent")
            .fails(&["PIA_CA_CERT=/nonexistent: cannot be read: no such file or directory; create that file"]);
        Vars::good().with("PIA_LOGIN_URL", "http://x/").fails(&["PIA_LOGIN_URL=http://x/: is not https"]);
        Vars::good().with("PIA_HOSTNAME", "10.0.0.1").fails(&["PIA_HOSTNAME=10.0.0.1: is an address"]);
        Vars::good().with("QBITTORRENT_API_KEY", "a b").fails(&["QBITTORRENT_API_KEY: has characters"]);
        Vars::good()
            .with("QBITTORRENT_PASSWORD", "x")
            .fails(&["QBITTORRENT_USERNAME: is not set, but QBITTORRENT_PASSWORD is"]);
        for interval in ["86401", "-1", "5m", "1e3"] {
            Vars::good().with("CHECK_INTERVAL", interval).fails(&["CHECK_INTERVAL="]);
        }
        for level in ["trace", "Warning", "CRITICAL"] {
            assert!(Vars::good().with("LOG_LEVEL", level).config().is_ok(), "{level}");
        }
    }

    #[test]
    fn the_state_folder() {
        let dir = |pairs: &[(&str, &str)]| {
            let values = pairs.iter().map(|&(n, v)| (n.to_owned(), v.to_owned())).collect();
            state_dir(&Variables { values, ..Variables::default() }).display().to_string()
        };
        assert_eq!(dir(&[("STATE_DIRECTORY", "/a:/b")]), "/a");
        assert_eq!(dir(&[("STATE_DIRECTORY", "/a"), ("STATE_DIR", "/c")]), "/c");
        assert_eq!(dir(&[("STATE_DIR", "")]), "/var/lib/pia-qbittorrent-sync");
    }
}
