//! Environment variables, configuration file and secret files → [`Config`], validated once, all problems reported together.
//!
//! Nothing is sent from here, and nothing but the configuration file and the files that variables name is read.

pub mod file;
pub mod url;

use std::collections::BTreeMap;
use std::fmt;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use log::LevelFilter;
use rustls::RootCertStore;

use crate::error::plain;
use crate::files;
use crate::http::tls::NamePolicy;
use crate::pia::account::{self, Credentials};
use crate::pia::trust::{self, Authority, Published};
use crate::secret::Secret;
use crate::source::Followed;
use crate::text::one_line;
use crate::torrent::qbittorrent::Auth;

pub use url::Url;
use url::parse_address;

/// Where the systemd unit takes its credentials from, so that commands typed by hand see what the service sees.
const CREDENTIALS: &str = "/etc/pia-qbittorrent-sync/credentials";
/// The port of PIA's port-forwarding API on every gateway.
const GATEWAY_PORT: u16 = 19999;
/// Seconds. A binding lapses 15 minutes after the last bind; this leaves one minute for a retry.
const LONGEST_INTERVAL: u64 = 840;
/// Where PIA publishes its CA: the same certificate in two of its repositories.
const CA_URLS: [&str; 2] = [
    "https://raw.githubusercontent.com/pia-foss/manual-connections/master/ca.rsa.4096.crt",
    "https://raw.githubusercontent.com/pia-foss/desktop/master/daemon/res/ca/rsa_4096.crt",
];
/// PIA's public login endpoints, in the order of PIA's own desktop client. Both take a form.
const LOGIN_URLS: [&str; 2] = [
    "https://www.privateinternetaccess.com/api/client/v2/token",
    "https://apiv2.privateinternetaccess.com/api/client/v2/token",
];

/// One variable, for `--help` and for the search for mistyped ones.
pub struct Variable {
    /// Its name.
    pub name: &'static str,
    /// Its default, for people; empty when there is none.
    pub default: &'static str,
    /// What it means.
    pub help: &'static str,
    /// Whether `NAME_FILE` may name a file that holds the value.
    pub from_file: bool,
}

const fn variable(name: &'static str, default: &'static str, help: &'static str) -> Variable {
    Variable { name, default, help, from_file: false }
}

const fn from_file(name: &'static str, help: &'static str) -> Variable {
    Variable { name, default: "", help, from_file: true }
}

/// Every variable that is read.
pub const VARIABLES: [Variable; 23] = [
    variable("PORT_SOURCE", "pia", "where the port comes from: pia, gluetun (its control server) or file:PATH"),
    from_file("PIA_USERNAME", "PIA account; not needed while PIA_TOKEN_FILE holds a token"),
    from_file("PIA_PASSWORD", "its password"),
    variable("PIA_TOKEN_FILE", "/var/run/pia_token", "token cache; a token may be put there by hand"),
    variable(
        "PIA_GATEWAY",
        "10.0.0.1, else auto",
        "ADDRESS[:PORT] of the gateway inside the tunnel, or auto to find it",
    ),
    variable("PIA_HOSTNAME", "", "name that the gateway's certificate must carry, e.g. mexico409"),
    variable("PIA_CA_CERT", "", "CA certificate of the gateway (PEM file) instead of PIA's own, which is fetched once"),
    variable("PIA_CA_URL", "", "http or https URL to fetch PIA's CA from instead of PIA's repositories"),
    variable("PIA_CA_SHA256", "", "SHA-256 of that CA (DER, hexadecimal) instead of the built-in one"),
    variable("PIA_LOGIN_URL", "", "https URL to log in at instead of PIA's two public ones"),
    variable("PIA_LOGIN_CA_CERT", "", "CA certificates for the login (PEM file) instead of Mozilla's"),
    variable("GLUETUN_URL", "http://127.0.0.1:8000", "gluetun's control server"),
    from_file("GLUETUN_API_KEY", "API key of a role in gluetun's control server"),
    variable("QBITTORRENT_HOST", "http://localhost:8080", "base URL of qBittorrent's Web UI"),
    from_file("QBITTORRENT_USERNAME", "Web UI user; none if authentication is bypassed for us"),
    from_file("QBITTORRENT_PASSWORD", "its password"),
    from_file("QBITTORRENT_API_KEY", "API key (qBittorrent 5.2 and later) instead of user and password"),
    variable("QBITTORRENT_CA_CERT", "", "CA certificate (PEM file) of an https Web UI instead of Mozilla's"),
    variable("CHECK_INTERVAL", "300", "seconds between two binds, 1 to 86400, at most 840 in effect"),
    variable("STATE_DIR", "/var/lib/pia-qbittorrent-sync", "folder for lease and status ($STATE_DIRECTORY if set)"),
    variable("LOG_LEVEL", "INFO", "TRACE, DEBUG, INFO, WARN, ERROR or CRITICAL"),
    variable("LOG_FILE", "", "log file instead of standard output"),
    variable("STATE_DIRECTORY", "", "set by systemd; the default of STATE_DIR"),
];

/// One thing that is wrong with the configuration.
#[derive(Debug, PartialEq, Eq)]
pub struct Problem {
    variable: String,
    /// Never a secret's.
    value: Option<String>,
    wrong: String,
    right: String,
}

impl Problem {
    /// A problem with a line of the configuration file.
    fn line(path: &Path, number: usize, wrong: &str) -> Self {
        let right = "NAME=value is right, with quotes around a value that has spaces or quotes in it";
        Self {
            variable: format!("{} line {number}", path.display()),
            value: None,
            wrong: wrong.to_owned(),
            right: right.to_owned(),
        }
    }

    fn unreadable(path: &Path, error: &std::io::Error) -> Self {
        Self {
            variable: path.display().to_string(),
            value: None,
            wrong: format!("cannot be read: {}", plain(error)),
            right: match error.kind() {
                ErrorKind::InvalidData => "it must be UTF-8 text of at most 64 KiB".to_owned(),
                _ => "run as root, or as a user that may read it".to_owned(),
            },
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = self.value.as_ref().map_or(String::new(), |value| format!("={value}"));
        f.write_str(&one_line(&format!("{}{value}: {}; {}", self.variable, self.wrong, self.right)))
    }
}

/// Everything that is wrong, never empty.
#[derive(Debug, PartialEq, Eq)]
pub struct ConfigError(pub Vec<Problem>);

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { "\n" };
            write!(f, "{separator}{problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigError {}

/// The validated configuration.
pub struct Config {
    /// Where the port comes from.
    pub source: Source,
    /// qBittorrent's Web UI.
    pub client_url: Url,
    /// How to log in there.
    pub client_auth: Auth,
    /// Roots for an https Web UI instead of the public ones.
    pub client_ca: Option<RootCertStore>,
    /// Between two binds; 1 to 840 s.
    pub interval: Duration,
    /// Folder for lease and status.
    pub state_dir: PathBuf,
    /// What is logged.
    pub log_level: LevelFilter,
    /// Log file instead of standard output.
    pub log_file: Option<PathBuf>,
    /// Things that are odd but not wrong, for the log.
    pub warnings: Vec<String>,
}

/// Where the port comes from.
pub enum Source {
    /// We lease and bind it ourselves.
    Pia(Box<Pia>),
    /// Somebody else does, and we follow.
    Followed(Followed),
}

/// What is needed to speak with PIA.
pub struct Pia {
    /// The account, if one is set.
    pub credentials: Option<Credentials>,
    /// Token cache.
    pub token_file: PathBuf,
    /// Where the gateway is.
    pub gateway: GatewayAddress,
    /// Name that the gateway's certificate must carry.
    pub hostname: Option<String>,
    /// The same as a policy.
    pub gateway_name: NamePolicy,
    /// Who signs the gateway's certificate.
    pub authority: Authority,
    /// Login URLs in order, all https.
    pub login_urls: Vec<Url>,
    /// Whether the gateway may be asked for a token when none of them answers.
    pub login_in_tunnel: bool,
    /// Roots for the login instead of the public ones.
    pub login_ca: Option<RootCertStore>,
}

/// Where the gateway is.
#[derive(Debug, PartialEq, Eq)]
pub enum GatewayAddress {
    /// The user said so.
    At {
        /// A name or an address.
        host: String,
        /// 1 to 65535.
        port: u16,
    },
    /// It is looked for.
    Find {
        /// Beginning with the usual address, as for somebody who has set nothing.
        usual_first: bool,
        /// 1 to 65535.
        port: u16,
    },
}

/// All variables: those of this process, and below them those of the configuration file, which is `path` or, when it
/// exists, the default one. Values that are not UTF-8 become such, with replacement characters.
pub fn variables(path: Option<&Path>) -> Result<Variables, ConfigError> {
    let mut all = variables_in_file(path, Path::new(file::DEFAULT_PATH))?;
    all.values.extend(
        std::env::vars_os()
            .map(|(name, value)| (name.to_string_lossy().into_owned(), value.to_string_lossy().into_owned())),
    );
    Ok(all)
}

fn variables_in_file(path: Option<&Path>, default: &Path) -> Result<Variables, ConfigError> {
    match (file::read(path.unwrap_or(default)), path) {
        (Ok(all), _) => Ok(all),
        (Err(file::Unreadable::Lines(problems)), _) => Err(ConfigError(problems)),
        (Err(file::Unreadable::File(error)), None) if files::is_absent(&error) => Ok(Variables::default()),
        // A service's environment was read from the file by root; by hand, root is needed to see the same.
        (Err(file::Unreadable::File(error)), None) if error.kind() == ErrorKind::PermissionDenied => {
            Ok(Variables { hint: Some(Problem::unreadable(default, &error)), ..Variables::default() })
        }
        (Err(file::Unreadable::File(error)), path) => {
            Err(ConfigError(vec![Problem::unreadable(path.unwrap_or(default), &error)]))
        }
    }
}

/// Variables by name, and what is odd about where they came from.
#[derive(Default)]
pub struct Variables {
    /// The values.
    pub values: BTreeMap<String, String>,
    /// For the log.
    pub warnings: Vec<String>,
    /// Told along with other problems: it may explain them.
    pub hint: Option<Problem>,
}

/// The folder for lease and status; all that `status` and `healthcheck` need to know.
pub fn state_dir(vars: &BTreeMap<String, String>) -> PathBuf {
    let set = |name: &str| vars.get(name).filter(|value| !value.is_empty());
    // systemd lists several folders with colons; ours is the first.
    let systemd = || set("STATE_DIRECTORY").and_then(|list| list.split(':').next());
    PathBuf::from(set("STATE_DIR").map(String::as_str).or_else(systemd).unwrap_or("/var/lib/pia-qbittorrent-sync"))
}

/// Where PIA's CA is kept and fetched from; all that `fetch-ca` needs to know.
pub fn published_ca(all: &Variables) -> Result<Published, ConfigError> {
    let mut reader = Reader { vars: &all.values, problems: Vec::new(), warnings: Vec::new() };
    match reader.published_ca() {
        Some(published) if reader.problems.is_empty() => Ok(published),
        _ => Err(ConfigError(reader.problems)),
    }
}

impl Config {
    /// Validates `all`. An empty value counts as unset, because compose files pass such.
    pub fn new(all: Variables) -> Result<Self, ConfigError> {
        let mut reader = Reader { vars: &all.values, problems: Vec::new(), warnings: all.warnings };
        let config = reader.config();
        match config {
            Some(config) if reader.problems.is_empty() => Ok(Self { warnings: reader.warnings, ..config }),
            _ => Err(ConfigError(reader.problems.into_iter().chain(all.hint).collect())),
        }
    }
}

struct Reader<'a> {
    vars: &'a BTreeMap<String, String>,
    problems: Vec<Problem>,
    warnings: Vec<String>,
}

impl Reader<'_> {
    fn config(&mut self) -> Option<Config> {
        self.warn_about_unknown();
        let source = self.source();
        let right = "a URL is right, e.g. http://localhost:8080";
        let client_url = self.parsed("QBITTORRENT_HOST", "http://localhost:8080", right, Url::parse);
        let client_auth = self.client_auth();
        let client_ca = self.roots("QBITTORRENT_CA_CERT");
        let interval = self.interval();
        let log_level = self.log_level();
        Some(Config {
            source: source?,
            client_url: client_url?,
            client_auth,
            client_ca,
            interval,
            state_dir: state_dir(self.vars),
            log_level,
            log_file: self.get("LOG_FILE").map(PathBuf::from),
            warnings: Vec::new(),
        })
    }

    fn source(&mut self) -> Option<Source> {
        match self.get("PORT_SOURCE").unwrap_or("pia").to_owned().as_str() {
            "pia" => self.pia().map(|pia| Source::Pia(Box::new(pia))),
            "gluetun" => {
                let right = "a URL is right, e.g. http://127.0.0.1:8000";
                let url = self.parsed("GLUETUN_URL", "http://127.0.0.1:8000", right, |text| match Url::parse(text)? {
                    Url { https: true, .. } => {
                        Err("is https, which gluetun's control server does not speak".to_owned())
                    }
                    url => Ok(url),
                });
                let api_key = self.secret("GLUETUN_API_KEY").map(Secret::new);
                self.check_header_value("GLUETUN_API_KEY", api_key.as_ref());
                Some(Source::Followed(Followed::gluetun(&url?, api_key)))
            }
            value => {
                if let Some(path) = value.strip_prefix("file:").filter(|path| path.starts_with('/')) {
                    return Some(Source::Followed(Followed::file(path.into())));
                }
                let right =
                    "pia, gluetun or file: and an absolute path is right, e.g. file:/run/gluetun/forwarded_port";
                self.problem("PORT_SOURCE", Some(value), "is no source of a port", right);
                None
            }
        }
    }

    fn pia(&mut self) -> Option<Pia> {
        let token_file = PathBuf::from(self.get("PIA_TOKEN_FILE").unwrap_or("/var/run/pia_token"));
        let credentials = self.credentials(&token_file);
        let right = "auto, ADDRESS or ADDRESS:PORT is right, e.g. 10.0.0.1";
        let usual_first = self.get("PIA_GATEWAY").is_none();
        let gateway = self.parsed("PIA_GATEWAY", "auto", right, parse_address);
        let hostname = self.get("PIA_HOSTNAME").map(str::to_owned);
        let gateway_name = self.gateway_name(hostname.as_deref());
        let given = self.roots("PIA_CA_CERT");
        let published = self.published_ca();
        let authority = match self.get("PIA_CA_CERT") {
            Some(_) => given.map(Authority::given),
            None => published.map(Authority::published),
        };
        let login_in_tunnel = self.get("PIA_LOGIN_URL").is_none();
        let login_urls = self.login_urls();
        let login_ca = self.roots("PIA_LOGIN_CA_CERT");
        let (host, port) = gateway?;
        let port = port.unwrap_or(GATEWAY_PORT);
        let find = host.eq_ignore_ascii_case("auto");
        Some(Pia {
            credentials,
            token_file,
            gateway: if find { GatewayAddress::Find { usual_first, port } } else { GatewayAddress::At { host, port } },
            hostname,
            gateway_name: gateway_name?,
            authority: authority?,
            login_urls,
            login_in_tunnel,
            login_ca,
        })
    }

    fn published_ca(&mut self) -> Option<Published> {
        let urls = self.get("PIA_CA_URL").map_or(CA_URLS.to_vec(), |url| vec![url]);
        let urls: Vec<String> = urls.into_iter().map(str::to_owned).collect();
        let mut parsed = Vec::new();
        for url in urls {
            match Url::parse(&url) {
                Ok(url) => parsed.push(url),
                Err(wrong) => self.problem("PIA_CA_URL", Some(&url), wrong, "an http or https URL is right"),
            }
        }
        let right = "the SHA-256 of the certificate (DER) is right, 64 hexadecimal digits";
        let pin = self.parsed("PIA_CA_SHA256", trust::PIA_CA_SHA256, right, trust::parse_sha256);
        Some(Published::new(&state_dir(self.vars), parsed, pin?))
    }

    /// A line break or an umlaut cannot go into a header.
    fn check_header_value(&mut self, name: &str, key: Option<&Secret>) {
        if key.is_some_and(|key| !key.expose().bytes().all(|byte| byte.is_ascii_graphic())) {
            self.problem(name, None, "has characters that no key has", "copy the key without white space");
        }
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.vars.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    fn problem(&mut self, variable: &str, value: Option<&str>, wrong: impl Into<String>, right: impl Into<String>) {
        // A URL with a user in it holds a password.
        let value = value.filter(|value| !value.contains('@'));
        let value = value.map(|value| value.chars().take(80).collect());
        self.problems.push(Problem { variable: variable.to_owned(), value, wrong: wrong.into(), right: right.into() });
    }

    fn parsed<T>(&mut self, name: &str, default: &str, right: &str, parse: fn(&str) -> Result<T, String>) -> Option<T> {
        let value = self.get(name).unwrap_or(default).to_owned();
        parse(&value).map_err(|wrong| self.problem(name, Some(&value), wrong, right)).ok()
    }

    /// The value of a secret or user name: from the variable, from the file that `NAME_FILE` names, or from systemd's
    /// credential of that name (by hand, from the file that systemd makes it of). Services that come with empty credentials
    /// to be filled leave them unset.
    fn secret(&mut self, name: &str) -> Option<String> {
        let file_name = format!("{name}_FILE");
        let value = self.get(name).map(str::to_owned);
        let file = self.get(&file_name).map(str::to_owned);
        if value.is_none() && file.is_none() {
            let credential = Path::new(self.get("CREDENTIALS_DIRECTORY").unwrap_or(CREDENTIALS)).join(name);
            let text = match files::read(&credential) {
                Ok(text) => text,
                // By hand, only root sees the files that systemd makes credentials of.
                Err(error) if files::is_absent(&error) || error.kind() == ErrorKind::PermissionDenied => return None,
                Err(error) => {
                    self.problems.push(Problem::unreadable(&credential, &error));
                    return None;
                }
            };
            return self.real(name, text.trim_end_matches(['\r', '\n'])).filter(|value| !value.is_empty());
        }
        let value = match (value, file) {
            (Some(_), Some(_)) => {
                self.problem(name, None, format!("and {file_name} are both set"), "set one of them");
                return None;
            }
            (None, Some(path)) => match files::read(Path::new(&path)) {
                Ok(text) => text.trim_end_matches(['\r', '\n']).to_owned(),
                Err(error) => {
                    let wrong = format!("cannot be read: {}", plain(&error));
                    let path = files::shown(Path::new(&path));
                    self.problem(&file_name, Some(&path), wrong, "name a file that this user may read");
                    return None;
                }
            },
            (value, None) => value?,
        };
        if value.is_empty() {
            self.problem(&file_name, None, "names an empty file", "put the value into it");
            return None;
        }
        self.real(name, &value)
    }

    fn real(&mut self, name: &str, value: &str) -> Option<String> {
        if is_placeholder(value) {
            self.problem(name, None, "still holds a placeholder", "set it to the real value");
            return None;
        }
        Some(value.to_owned())
    }

    fn credentials(&mut self, token_file: &Path) -> Option<Credentials> {
        let before = self.problems.len();
        let credentials = self.pair("PIA_USERNAME", "PIA_PASSWORD");
        if credentials.is_none()
            && self.problems.len() == before
            && let Err(problem) = account::read_token(token_file)
        {
            let problem = problem.unwrap_or_else(|| "holds no token".to_owned());
            self.problem(
                "PIA_USERNAME",
                None,
                format!("is not set, and PIA_TOKEN_FILE {} {problem}", files::shown(token_file)),
                "set PIA_USERNAME and PIA_PASSWORD (or PIA_USERNAME_FILE and PIA_PASSWORD_FILE)",
            );
        }
        credentials.map(|(username, password)| Credentials { username, password: Secret::new(password) })
    }

    /// Two variables that only make sense together.
    fn pair(&mut self, user: &str, password: &str) -> Option<(String, String)> {
        let before = self.problems.len();
        match (self.secret(user), self.secret(password)) {
            (Some(username), Some(password)) => Some((username, password)),
            (None, None) => None,
            (one, _) => {
                if self.problems.len() == before {
                    let (set, missing) = if one.is_some() { (user, password) } else { (password, user) };
                    self.problem(missing, None, format!("is not set, but {set} is"), "set both or none");
                }
                None
            }
        }
    }

    fn gateway_name(&mut self, hostname: Option<&str>) -> Option<NamePolicy> {
        let right =
            "the name in the gateway's certificate is right, e.g. mexico409; leave it unset to see the name in the log";
        let result = match hostname {
            Some(name) if is_placeholder(name) => Err("is a placeholder".to_owned()),
            _ => trust::gateway_name(hostname),
        };
        result.map_err(|wrong| self.problem("PIA_HOSTNAME", hostname, wrong, right)).ok()
    }

    fn roots(&mut self, name: &str) -> Option<RootCertStore> {
        let path = self.get(name)?.to_owned();
        trust::load_roots(Path::new(&path))
            .map_err(|wrong| self.problem(name, Some(&path), wrong, "a PEM file with a CA certificate is right"))
            .ok()
    }

    fn login_urls(&mut self) -> Vec<Url> {
        let urls = self.get("PIA_LOGIN_URL").map_or(LOGIN_URLS.to_vec(), |url| vec![url]);
        let mut parsed = Vec::new();
        for url in urls.into_iter().map(str::to_owned).collect::<Vec<_>>() {
            let result = match Url::parse(&url) {
                Ok(url) if url.https => Ok(url),
                Ok(_) => Err("is not https, and the password would be readable on its way".to_owned()),
                Err(wrong) => Err(wrong),
            };
            match result {
                Ok(url) => parsed.push(url),
                Err(wrong) => self.problem("PIA_LOGIN_URL", Some(&url), wrong, "an https URL is right"),
            }
        }
        parsed
    }

    fn client_auth(&mut self) -> Auth {
        let pair = self.pair("QBITTORRENT_USERNAME", "QBITTORRENT_PASSWORD");
        if let Some(key) = self.secret("QBITTORRENT_API_KEY") {
            let key = Secret::new(key);
            self.check_header_value("QBITTORRENT_API_KEY", Some(&key));
            if pair.is_some() {
                self.warnings.push(
                    "QBITTORRENT_API_KEY is used, QBITTORRENT_USERNAME and QBITTORRENT_PASSWORD are not".to_owned(),
                );
            }
            return Auth::ApiKey(key);
        }
        match pair {
            Some((username, password)) => {
                if username == "admin" && password == "adminadmin" {
                    self.warnings
                        .push("QBITTORRENT_PASSWORD is qBittorrent's old default: change it in the Web UI".to_owned());
                }
                Auth::Password { username, password: Secret::new(password) }
            }
            None => Auth::Bypass,
        }
    }

    fn interval(&mut self) -> Duration {
        let value = self.get("CHECK_INTERVAL").unwrap_or("300").to_owned();
        let seconds = match value.trim().parse::<u64>() {
            Ok(seconds) if (1..=86400).contains(&seconds) => seconds,
            _ => {
                self.problem(
                    "CHECK_INTERVAL",
                    Some(&value),
                    "is not a number of seconds within 1 to 86400",
                    "300 is right",
                );
                300
            }
        };
        if seconds > LONGEST_INTERVAL {
            self.warnings.push(format!(
                "CHECK_INTERVAL={seconds} is used as {LONGEST_INTERVAL}, because a binding lapses after 15 minutes (900 s)"
            ));
        }
        Duration::from_secs(seconds.min(LONGEST_INTERVAL))
    }

    fn log_level(&mut self) -> LevelFilter {
        let value = self.get("LOG_LEVEL").unwrap_or("INFO").to_owned();
        match value.to_ascii_uppercase().as_str() {
            "TRACE" => LevelFilter::Trace,
            "DEBUG" => LevelFilter::Debug,
            "INFO" => LevelFilter::Info,
            "WARN" | "WARNING" => LevelFilter::Warn,
            "ERROR" | "CRITICAL" => LevelFilter::Error,
            _ => {
                let right = "TRACE, DEBUG, INFO, WARN, WARNING, ERROR or CRITICAL is right";
                self.problem("LOG_LEVEL", Some(&value), "is not a level", right);
                LevelFilter::Info
            }
        }
    }

    fn warn_about_unknown(&mut self) {
        let known: Vec<String> = VARIABLES
            .iter()
            .flat_map(|v| [Some(v.name.to_owned()), v.from_file.then(|| format!("{}_FILE", v.name))])
            .flatten()
            .collect();
        for name in self
            .vars
            .keys()
            .filter(|name| ["PIA_", "QBITTORRENT_", "GLUETUN_"].iter().any(|ours| name.starts_with(ours)))
        {
            if known.contains(name) {
                continue;
            }
            if let Some(closest) = known.iter().min_by_key(|candidate| strsim::levenshtein(name, candidate)) {
                let name = one_line(name);
                self.warnings.push(format!("{name} is not a variable of ours and is ignored; did you mean {closest}?"));
            }
        }
    }
}

/// Values of sample files that nobody has replaced yet: `CHANGE_ME`, `your_password`, `<api-key>`. Whole ones only, because
/// any other word may be somebody's password.
fn is_placeholder(value: &str) -> bool {
    const COMMANDS: [&str; 3] = ["change_me", "changeme", "replace_me"];
    const THINGS: [&str; 9] =
        ["username", "user", "password", "pass", "api_key", "token", "server", "server_name", "hostname"];
    let value = value.to_ascii_lowercase().replace('-', "_");
    let inner = value.strip_prefix('<').and_then(|rest| rest.strip_suffix('>')).unwrap_or(&value);
    let thing = inner.strip_prefix("your_").unwrap_or(inner);
    let bare = ["pia_", "qbittorrent_", "gluetun_"].iter().find_map(|owner| thing.strip_prefix(owner)).unwrap_or(thing);
    COMMANDS.contains(&inner) || (thing != value && THINGS.contains(&bare))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Ca, TempDir};

    struct Vars {
        dir: TempDir,
        vars: BTreeMap<String, String>,
    }

    impl Vars {
        /// A configuration without problems and warnings.
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

        fn config(&self) -> Result<Config, Vec<String>> {
            let all = Variables { values: self.vars.clone(), ..Variables::default() };
            Config::new(all).map_err(|e| e.0.iter().map(ToString::to_string).collect())
        }

        fn pia(&self) -> Pia {
            match self.config().unwrap_or_else(|e| panic!("{e:?}")).source {
                Source::Pia(pia) => *pia,
                Source::Followed(followed) => panic!("follows {}", followed.name()),
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
        let config = Vars::good().config().unwrap_or_else(|e| panic!("{e:?}"));
        let pia = Vars::good().pia();
        assert_eq!(pia.gateway, GatewayAddress::Find { usual_first: true, port: 19999 });
        assert!(pia.login_in_tunnel);
        assert_eq!(config.client_url.to_string(), "http://localhost:8080");
        assert_eq!(config.interval, Duration::from_secs(300));
        assert_eq!(pia.login_urls.len(), 2);
        assert_eq!(config.state_dir, Path::new("/var/lib/pia-qbittorrent-sync"));
        assert!(matches!(config.client_auth, Auth::Bypass));
        assert!(config.warnings.is_empty(), "{:?}", config.warnings);
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
                "PIA_GATEWAY=nonsense:99999: has a port that is not within 1 to 65535; auto, ADDRESS",
                "PIA_CA_URL=ftp://x: has a scheme",
                "PIA_CA_SHA256=abc: is not a SHA-256; the",
                "QBITTORRENT_HOST=ftp://x: has a scheme",
                "CHECK_INTERVAL=0: is not a number of seconds within 1 to 86400",
                "LOG_LEVEL=loud: is not a level; TRACE, DEBUG",
            ]);
    }

    #[test]
    fn gateways() {
        for (text, host, port) in [
            ("10.1.2.3", "10.1.2.3", 19999),
            ("10.1.2.3:443", "10.1.2.3", 443),
            ("fd00::1", "fd00::1", 19999),
            ("[fd00::1]", "fd00::1", 19999),
            ("[fd00::1]:1", "fd00::1", 1),
            ("gateway.lan:65535", "gateway.lan", 65535),
        ] {
            let pia = Vars::good().with("PIA_GATEWAY", text).pia();
            assert_eq!(pia.gateway, GatewayAddress::At { host: host.to_owned(), port }, "{text}");
        }
        for (text, port) in [("auto", 19999), ("Auto:1234", 1234)] {
            let pia = Vars::good().with("PIA_GATEWAY", text).pia();
            assert_eq!(pia.gateway, GatewayAddress::Find { usual_first: false, port }, "{text}");
        }
        for text in
            [":19999", "10.0.0.1:", "10.0.0.1:0", "10.0.0.1:x", "[fd00::1", "[x]:1", "[fd00::1]80", "a b", "http://x"]
        {
            Vars::good().with("PIA_GATEWAY", text).fails(&["PIA_GATEWAY="]);
        }
    }

    #[test]
    fn secrets_come_from_files_too() {
        let mut vars = Vars::good().file("PIA_PASSWORD_FILE", "from file \r\n");
        vars.vars.remove("PIA_PASSWORD");
        assert_eq!(vars.pia().credentials.unwrap().password.expose(), "from file ");
        Vars::good().file("PIA_PASSWORD_FILE", "x").fails(&["PIA_PASSWORD: and PIA_PASSWORD_FILE are both set"]);
        vars.file("PIA_PASSWORD_FILE", "\n").fails(&["PIA_PASSWORD_FILE: names an empty file"]);
        Vars::good()
            .with("PIA_PASSWORD", "")
            .with("PIA_PASSWORD_FILE", "/nonexistent")
            .fails(&["PIA_PASSWORD_FILE=/nonexistent: cannot be read: no such file"]);
    }

    #[test]
    fn credentials_of_systemd_stand_behind_variables_and_files() {
        let mut vars = Vars::good();
        let credentials = vars.dir.path().to_str().unwrap().to_owned();
        for (name, value) in
            [("PIA_USERNAME", "p7654321\n"), ("PIA_PASSWORD", "credential\n"), ("QBITTORRENT_API_KEY", "")]
        {
            std::fs::write(vars.dir.path().join(name), value).unwrap();
        }
        vars = vars.with("CREDENTIALS_DIRECTORY", &credentials);
        assert_eq!(vars.pia().credentials.unwrap().password.expose(), "hunter2");
        vars.vars.remove("PIA_PASSWORD");
        let pia = vars.pia().credentials.unwrap();
        assert_eq!((pia.username.as_str(), pia.password.expose()), ("p1234567", "credential"));
        assert!(
            matches!(vars.config().unwrap_or_else(|e| panic!("{e:?}")).client_auth, Auth::Bypass),
            "empty is unset"
        );
    }

    #[test]
    fn followed_sources_need_nothing_of_pia() {
        let follows = |pairs: &[(&str, &str)]| {
            let vars = pairs.iter().map(|&(n, v)| (n.to_owned(), v.to_owned())).collect();
            Vars { dir: TempDir::new(), vars }
        };
        let name = |vars: &Vars| match vars.config().unwrap_or_else(|e| panic!("{e:?}")).source {
            Source::Followed(followed) => followed.name(),
            Source::Pia(_) => "PIA".to_owned(),
        };
        assert_eq!(name(&follows(&[("PORT_SOURCE", "gluetun")])), "gluetun at 127.0.0.1:8000");
        assert_eq!(name(&follows(&[("PORT_SOURCE", "file:/tmp/port")])), "/tmp/port");
        assert_eq!(name(&Vars::good().with("PORT_SOURCE", "pia")), "PIA");
        for bad in ["file:", "file:relative", "Gluetun", "http://x"] {
            follows(&[("PORT_SOURCE", bad)]).fails(&["is no source of a port; pia, gluetun or file:"]);
        }
        follows(&[("PORT_SOURCE", "gluetun"), ("GLUETUN_URL", "https://x"), ("GLUETUN_API_KEY", "a b")])
            .fails(&["GLUETUN_URL=https://x: is https", "GLUETUN_API_KEY: has characters"]);
    }

    #[test]
    fn an_account_or_a_token_is_needed() {
        let mut vars = Vars::good();
        vars.vars.remove("PIA_USERNAME");
        vars.fails(&["PIA_USERNAME: is not set, but PIA_PASSWORD is"]);
        vars.vars.remove("PIA_PASSWORD");
        vars.fails(&["PIA_USERNAME: is not set, and"]);
        assert!(vars.file("PIA_TOKEN_FILE", " token\n").config().is_ok());
    }

    #[test]
    fn a_secret_in_the_place_of_its_file_is_not_shown() {
        let vars = Vars::good().with("PIA_PASSWORD", "");
        vars.with("PIA_PASSWORD_FILE", "hun/ter2").fails(&["PIA_PASSWORD_FILE=(a relative path): cannot be read"]);
        let vars = Vars::good().with("PIA_USERNAME", "").with("PIA_PASSWORD", "");
        vars.with("PIA_TOKEN_FILE", "0123abc").fails(&["PIA_TOKEN_FILE (a relative path) holds no token"]);
    }

    #[test]
    fn a_default_file_that_is_there_and_cannot_be_used_is_a_problem() {
        let dir = TempDir::new();
        let path = dir.path().join("config.env");
        assert!(variables_in_file(None, &path).is_ok_and(|all| all.values.is_empty() && all.hint.is_none()), "absent");
        std::fs::write(&path, b"# \xe9t\xe9\nPIA_USERNAME=p1\n").unwrap();
        let Err(ConfigError(problems)) = variables_in_file(None, &path) else { panic!("ignored") };
        let text = problems[0].to_string();
        assert!(text.contains("config.env") && text.contains("must be UTF-8 text"), "{text}");
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
        let problems = Vars::good().with("PIA_GATEWAY", "user:hunter2@10.0.0.1").config().err();
        assert!(problems.is_some_and(|problems| !problems.concat().contains("hunter2")));
        let mut vars = Vars::good().with("PIA_TOKEN_FILE", "/nonexistent/a\nb\u{1b}[31m");
        vars.vars.retain(|name, _| name != "PIA_USERNAME" && name != "PIA_PASSWORD");
        vars.fails(&["/nonexistent/a?b?[31m holds no token"]);
        Vars::good().with("PIA_X\n", "x").warns("PIA_X? is not a variable of ours");
    }

    #[test]
    fn warnings() {
        Vars::good().with("CHECK_INTERVAL", "1800").warns("CHECK_INTERVAL=1800 is used as 840, because");
        Vars::good()
            .with("PIA_PASWORD", "x")
            .warns("PIA_PASWORD is not a variable of ours and is ignored; did you mean PIA_PASSWORD?");
        Vars::good()
            .with("QBITTORRENT_USERNAME", "admin")
            .with("QBITTORRENT_PASSWORD", "adminadmin")
            .warns("old default");
        Vars::good()
            .with("QBITTORRENT_USERNAME", "a")
            .with("QBITTORRENT_PASSWORD", "b")
            .with("QBITTORRENT_API_KEY", "qbt_x")
            .warns("QBITTORRENT_API_KEY is used");
    }

    #[test]
    fn everything_else_that_can_be_wrong() {
        Vars::good()
            .with("PIA_CA_CERT", "/nonexistent")
            .fails(&["PIA_CA_CERT=/nonexistent: no such file or directory; a PEM"]);
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
            state_dir(&pairs.iter().map(|&(n, v)| (n.to_owned(), v.to_owned())).collect()).display().to_string()
        };
        assert_eq!(dir(&[("STATE_DIRECTORY", "/a:/b")]), "/a");
        assert_eq!(dir(&[("STATE_DIRECTORY", "/a"), ("STATE_DIR", "/c")]), "/c");
        assert_eq!(dir(&[("STATE_DIR", "")]), "/var/lib/pia-qbittorrent-sync");
    }
}
