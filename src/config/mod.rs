//! Reads values from environment variables, the configuration file and secret files, and reports all problems together. Uses
//! no network. The variables themselves are defined in `settings` and in each remote's module.

pub mod file;
pub mod paths;

use std::collections::BTreeMap;
use std::fmt;
use std::fs::Metadata;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use rustix::process::geteuid;

use crate::error::io_message;
use crate::files;
use crate::secret::Secret;
use crate::text::one_line;
pub use file::split_words;
use paths::ServiceUser;

/// Folders in which containers find secrets. The container engine sets the files' modes, so a world-readable one causes no warning.
const CONTAINER_SECRETS: [&str; 2] = ["/run/secrets", "/var/run/secrets"];

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SettingProblem {
    variable: String,
    /// `None` for a secret, which is never shown.
    value: Option<String>,
    problem: String,
    remedy: String,
}

impl SettingProblem {
    fn line(path: &Path, number: usize, problem: &str) -> Self {
        Self {
            variable: format!("{} line {number}", paths::known_as(path).display()),
            value: None,
            problem: problem.to_owned(),
            remedy: "use NAME=value, with 'single quotes' around special characters".to_owned(),
        }
    }

    fn unreadable(path: &Path, error: &io::Error) -> Self {
        let (problem, remedy) = unusable(path, error);
        Self::of_file(path, problem, remedy)
    }

    fn of_file(path: &Path, problem: String, remedy: String) -> Self {
        Self { variable: paths::known_as(path).display().to_string(), value: None, problem, remedy }
    }
}

/// Problem and remedy for a file that cannot be read.
fn unusable(path: &Path, error: &io::Error) -> (String, String) {
    let problem = format!("cannot be read: {}", io_message(error));
    let remedy = match error.kind() {
        ErrorKind::NotFound | ErrorKind::NotADirectory => "create that file, or correct its path".to_owned(),
        ErrorKind::IsADirectory => {
            "replace this folder with a file; Docker creates a folder if the file to mount does not exist".to_owned()
        }
        ErrorKind::PermissionDenied => {
            let us = geteuid().as_raw();
            if CONTAINER_SECRETS.iter().any(|folder| path.starts_with(folder)) {
                format!("on the host, run this for the mounted file: sudo chown {us} FILE")
            } else {
                format!("run this command as root, or run: sudo chown {us} {}", files::display_path(path))
            }
        }
        _ => "the file must be UTF-8 text of at most 64 KiB".to_owned(),
    };
    (problem, remedy)
}

impl fmt::Display for SettingProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = self.value.as_ref().map_or(String::new(), |value| format!("={value}"));
        f.write_str(&one_line(&format!("{}{value}: {}; {}", self.variable, self.problem, self.remedy)))
    }
}

/// At least one problem, and any unknown names, which may explain it.
#[derive(Debug, PartialEq, Eq)]
pub struct ConfigError {
    pub problems: Vec<SettingProblem>,
    /// One message per unknown name.
    pub unknown: Vec<String>,
}

impl From<SettingProblem> for ConfigError {
    fn from(problem: SettingProblem) -> Self {
        Self { problems: vec![problem], unknown: Vec::new() }
    }
}

/// Variables by name, and where they came from.
#[derive(Default)]
pub struct Variables {
    pub values: BTreeMap<String, String>,
    /// Path of the configuration file as the user knows it: if the service reads a copy, the path of the original.
    pub file: Option<PathBuf>,
    /// Names set in the configuration file.
    pub in_file: Vec<String>,
    /// Names set in this process's environment.
    pub in_environment: Vec<String>,
    /// User of the service that reads the same file; `None` unless this is a manual command run by root.
    pub service_user: Option<ServiceUser>,
    pub warnings: Vec<String>,
    /// Files that root has read, but that another user can change.
    pub changeable: Vec<SettingProblem>,
    /// A command that root has typed: it does not go on with such files. The service does, with a warning.
    pub typed: bool,
    /// A problem that may explain the other problems, shown after them.
    pub hint: Option<SettingProblem>,
}

/// Variables from the environment, which takes precedence, and from the configuration file: `path`, or else the service's file if
/// it exists. Invalid UTF-8 in a value becomes U+FFFD. `is_secret` selects the variables that cause a warning if they are in a
/// world-readable file.
pub fn variables(path: Option<&Path>, is_secret: fn(&str) -> bool) -> Result<Variables, ConfigError> {
    let credentials = std::env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from);
    let usual = if path.is_none() { paths::settings_file(credentials.as_deref()) } else { None };
    let file = path.or(usual.as_deref());
    let read = file.map(|file| in_file(file, is_secret, path.is_none())).transpose()?;
    let mut all = read.unwrap_or_default();
    for (name, value) in std::env::vars_os() {
        let name = name.to_string_lossy().into_owned();
        all.in_environment.push(name.clone());
        all.values.insert(name, value.to_string_lossy().into_owned());
    }
    if let Some(file) = file {
        all.file = Some(paths::known_as(file).to_owned());
        // A process that has the service's credentials is the service itself.
        all.service_user = ServiceUser::of(file).filter(|_| credentials.is_none() && geteuid().is_root());
    }
    Ok(all)
}

/// Reads `path`; `usual` is true if `path` is the default and not the user's choice.
fn in_file(path: &Path, is_secret: fn(&str) -> bool, usual: bool) -> Result<Variables, ConfigError> {
    match file::read(path, is_secret) {
        Ok(all) => Ok(all),
        Err(file::Unreadable::Lines(problems)) => Err(ConfigError { problems, unknown: Vec::new() }),
        // Only root can read the service's file, but a command run by the user may get all its settings from the environment.
        Err(file::Unreadable::File(error)) if usual && error.kind() == ErrorKind::PermissionDenied => {
            let mut hint = SettingProblem::unreadable(path, &error);
            if std::env::var_os("INVOCATION_ID").is_some() {
                "this systemd is older than 247 and passes no credentials; run install.sh again to fix that"
                    .clone_into(&mut hint.remedy);
            }
            Ok(Variables { hint: Some(hint), ..Variables::default() })
        }
        Err(file::Unreadable::File(error)) => Err(SettingProblem::unreadable(path, &error).into()),
    }
}

pub struct InvalidValue {
    what: String,
    /// The value that the user probably meant.
    suggestion: Option<String>,
}

impl InvalidValue {
    pub fn meant(what: impl Into<String>, suggestion: impl Into<String>) -> Self {
        Self { what: what.into(), suggestion: Some(suggestion.into()) }
    }
}

impl<T: Into<String>> From<T> for InvalidValue {
    fn from(what: T) -> Self {
        Self { what: what.into(), suggestion: None }
    }
}

/// Reads values and collects every problem. An empty value counts as unset, because compose files pass empty variables.
pub struct Reader<'a> {
    all: &'a Variables,
    problems: Vec<SettingProblem>,
    /// Files that root has read, but that another user can change.
    changeable: Vec<SettingProblem>,
    /// Warnings about values that are odd but valid.
    pub warnings: Vec<String>,
    /// One message per unknown name, because a misspelt name may be the reason for a problem.
    pub unknown: Vec<String>,
}

impl<'a> Reader<'a> {
    pub fn new(all: &'a Variables) -> Self {
        let (problems, changeable) = (Vec::new(), all.changeable.clone());
        Self { all, problems, changeable, warnings: all.warnings.clone(), unknown: Vec::new() }
    }

    /// Returns `value` and the warnings, or else all problems, ending with `hint`.
    pub fn finish<T>(
        mut self,
        value: Option<T>,
        hint: Option<SettingProblem>,
    ) -> Result<(T, Vec<String>), ConfigError> {
        if self.all.typed {
            self.problems.append(&mut self.changeable);
        } else {
            self.warnings.extend(self.changeable.iter().map(ToString::to_string));
        }
        match value {
            Some(value) if self.problems.is_empty() => Ok((value, [self.unknown, self.warnings].concat())),
            _ => Err(ConfigError { problems: self.problems.into_iter().chain(hint).collect(), unknown: self.unknown }),
        }
    }

    pub fn names(&self) -> impl Iterator<Item = &'a String> + use<'a> {
        self.all.values.keys()
    }

    pub fn is_in_file(&self, name: &str) -> bool {
        self.all.in_file.iter().any(|known| known == name)
    }

    /// Value of the variable `name`; `None` if the variable is unset or empty.
    pub fn get(&self, name: &str) -> Option<&'a str> {
        self.all.values.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// Records a problem. Leaves out a value with an `@`, which may be a URL with a password, and cuts others to 80 characters.
    pub fn problem(&mut self, name: &str, value: Option<&str>, problem: impl Into<String>, remedy: impl Into<String>) {
        let value = value.filter(|value| !value.contains('@')).map(|value| value.chars().take(80).collect());
        self.problems.push(SettingProblem {
            variable: name.to_owned(),
            value,
            problem: problem.into(),
            remedy: remedy.into(),
        });
    }

    /// Parses the value, or `default` if the variable is unset. Records an error from `parse` as a problem, whose remedy is the
    /// value that the error suggests, or else `remedy`.
    pub fn parsed<T, W: Into<InvalidValue>>(
        &mut self,
        name: &str,
        default: &str,
        remedy: &str,
        parse: impl FnOnce(&str) -> Result<T, W>,
    ) -> Option<T> {
        let value = self.get(name).unwrap_or(default);
        let problem: InvalidValue = match parse(value) {
            Ok(parsed) => return Some(parsed),
            Err(problem) => problem.into(),
        };
        // A value with an `@` may hold a password, which the suggestion would repeat.
        let suggestion = problem.suggestion.filter(|_| !value.contains('@'));
        let remedy = suggestion.map_or_else(|| remedy.to_owned(), |suggestion| format!("set {name}={suggestion}"));
        self.problem(name, Some(value), problem.what, remedy);
        None
    }

    /// Parses a variable without a default; `None` if it is unset or invalid.
    pub fn optional<T, W: Into<InvalidValue>>(
        &mut self,
        name: &str,
        remedy: &str,
        parse: impl FnOnce(&str) -> Result<T, W>,
    ) -> Option<T> {
        self.get(name)?;
        self.parsed(name, "", remedy, parse)
    }

    /// Reads a secret or user name from the variable, from the file that `NAME_FILE` names, or from the systemd credential `name`
    /// (a manual command reads the credential's source file). An empty credential counts as unset, because the systemd unit
    /// declares empty ones with `SetCredential=`.
    pub fn secret(&mut self, name: &str) -> Option<Secret> {
        self.secret_text(name).map(Secret::new)
    }

    fn secret_text(&mut self, name: &str) -> Option<String> {
        let file_name = format!("{name}_FILE");
        let value = self.get(name).map(str::to_owned);
        let file = self.get(&file_name).map(str::to_owned);
        if value.is_none() && file.is_none() {
            let credential = Path::new(self.get("CREDENTIALS_DIRECTORY").unwrap_or(paths::CREDENTIALS)).join(name);
            let text = match files::read_with_metadata(&credential) {
                Ok((text, metadata)) => {
                    self.warn_if_exposed(&credential);
                    self.judge(&credential, &metadata);
                    text
                }
                // Only root can read the source files of systemd's credentials; to other users, the credentials count as unset.
                Err(error) if files::is_absent(&error) || error.kind() == ErrorKind::PermissionDenied => return None,
                Err(error) => {
                    self.problems.push(SettingProblem::unreadable(&credential, &error));
                    return None;
                }
            };
            return self
                .reject_placeholder(name, text.trim_end_matches(['\r', '\n']))
                .filter(|value| !value.is_empty());
        }
        let value = match (value, file) {
            (Some(_), Some(_)) => {
                self.problem(name, None, format!("is set together with {file_name}"), "set only one of them");
                return None;
            }
            (None, Some(path)) => {
                let text = self.file(&file_name)?;
                self.warn_if_exposed(Path::new(&path));
                text.trim_end_matches(['\r', '\n']).to_owned()
            }
            (value, None) => value?,
        };
        if value.is_empty() {
            self.problem(&file_name, None, "names an empty file", "write the value to that file");
            return None;
        }
        self.reject_placeholder(name, &value)
    }

    /// Contents of the file that a variable names; `None` if the variable is unset, or if this process or the service cannot read
    /// the file.
    pub fn file(&mut self, name: &str) -> Option<String> {
        let path = Path::new(self.get(name)?);
        let read = files::read_with_metadata(path).map_err(|error| unusable(path, &error)).and_then(|read| {
            let reached = self.all.service_user.as_ref().map_or(Ok(()), |user| user.may_read(path));
            reached.map(|()| read).map_err(|unreachable| unreachable.describe(path))
        });
        let read = read.map(|(text, metadata)| {
            // Certificates are not secret, and may be any user's.
            if name.ends_with("_FILE") {
                self.judge(path, &metadata);
            }
            text
        });
        read.map_err(|(problem, remedy)| self.problem(name, Some(&files::display_path(path)), problem, remedy)).ok()
    }

    /// Notes a file that root reads, but that another user can change.
    fn judge(&mut self, path: &Path, file: &Metadata) {
        if let Some((problem, remedy)) = paths::changeable(path, file) {
            self.changeable.push(SettingProblem::of_file(path, problem, remedy));
        }
    }

    fn warn_if_exposed(&mut self, path: &Path) {
        if files::is_world_readable(path) && !CONTAINER_SECRETS.iter().any(|folder| path.starts_with(folder)) {
            let path = one_line(&files::display_path(path));
            self.warnings.push(format!("{path} is readable by every user on this machine; run: chmod o-r {path}"));
        }
    }

    fn reject_placeholder(&mut self, name: &str, value: &str) -> Option<String> {
        if is_placeholder(value) {
            self.problem(name, None, "still holds a placeholder", "set it to the real value");
            return None;
        }
        Some(value.to_owned())
    }

    /// Reads a secret that is sent in an HTTP header, so only visible ASCII characters are allowed.
    pub fn key(&mut self, name: &str) -> Option<Secret> {
        let key = self.secret(name)?;
        if !key.expose().bytes().all(|byte| byte.is_ascii_graphic()) {
            self.problem(name, None, "has characters no API key contains", "copy the key again, without white space");
        }
        Some(key)
    }

    /// User name and password, which must be set together.
    pub fn pair(&mut self, user: &str, password: &str) -> Option<(String, Secret)> {
        let before = self.problems.len();
        match (self.secret_text(user), self.secret(password)) {
            (Some(username), Some(password)) => Some((username, password)),
            (None, None) => None,
            (one, _) => {
                if self.problems.len() == before {
                    let (set, missing) = if one.is_some() { (user, password) } else { (password, user) };
                    self.problem(missing, None, format!("is not set, but {set} is"), "set both or neither");
                }
                None
            }
        }
    }

    pub fn problems(&self) -> usize {
        self.problems.len()
    }

    pub fn path(&self, name: &str, default: impl Into<PathBuf>) -> PathBuf {
        self.get(name).map_or_else(|| default.into(), PathBuf::from)
    }
}

/// True for a placeholder copied from a sample file: `CHANGE_ME`, `your_password`, `<api-key>`. Any other value, even `password`,
/// may be real.
pub fn is_placeholder(value: &str) -> bool {
    const COMMANDS: [&str; 3] = ["change_me", "changeme", "replace_me"];
    const THINGS: [&str; 9] =
        ["username", "user", "password", "pass", "api_key", "token", "server", "server_name", "hostname"];
    let value = value.to_ascii_lowercase().replace('-', "_");
    let inner = value.strip_prefix('<').and_then(|rest| rest.strip_suffix('>')).unwrap_or(&value);
    let thing = inner.strip_prefix("your_").unwrap_or(inner);
    // The name of the service may come first: `your_pia_username`.
    let bare = thing.split_once('_').map_or(thing, |(_, rest)| rest);
    COMMANDS.contains(&inner) || (thing != value && (THINGS.contains(&thing) || THINGS.contains(&bare)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempDir;

    #[test]
    fn an_unusable_file_is_a_problem_at_any_path() {
        let dir = TempDir::new();
        let path = dir.write("config.env", b"# \xe9t\xe9\nPIA_USERNAME=p1\n");
        for usual in [false, true] {
            let Err(error) = in_file(&path, |_| false, usual) else { panic!("ignored") };
            let text = error.problems[0].to_string();
            assert!(text.contains("config.env") && text.contains("must be UTF-8 text"), "{text}");
        }
    }
}
