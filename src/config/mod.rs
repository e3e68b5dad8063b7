//! Reads values from environment variables, the configuration file and secret files, and reports all problems together. The
//! variables and their meaning are not here, but in `settings` and with each remote.
//!
//! Nothing is sent, and only the configuration file and the files that variables name are read.

pub mod file;
pub mod paths;

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::error::io_message;
use crate::files;
use crate::secret::Secret;
use crate::text::one_line;
pub use file::split_words;
use paths::ServiceUser;

/// Folders of container secrets. Their modes are up to the container engine, so they get no warning.
const CONTAINER_SECRETS: [&str; 2] = ["/run/secrets", "/var/run/secrets"];

#[derive(Debug, PartialEq, Eq)]
pub struct SettingProblem {
    variable: String,
    /// Never a secret.
    value: Option<String>,
    problem: String,
    remedy: String,
}

impl SettingProblem {
    fn line(path: &Path, number: usize, problem: &str) -> Self {
        let remedy = "use NAME=value, with 'single quotes' around special characters";
        Self {
            variable: format!("{} line {number}", paths::known_as(path).display()),
            value: None,
            problem: problem.to_owned(),
            remedy: remedy.to_owned(),
        }
    }

    fn unreadable(path: &Path, error: &io::Error) -> Self {
        let (problem, remedy) = unusable(path, error);
        Self { variable: paths::known_as(path).display().to_string(), value: None, problem, remedy }
    }
}

/// Problem and remedy for a file that cannot be read.
fn unusable(path: &Path, error: &io::Error) -> (String, String) {
    let problem = format!("cannot be read: {}", io_message(error));
    let remedy = match error.kind() {
        ErrorKind::NotFound | ErrorKind::NotADirectory => "create that file, or correct its path".to_owned(),
        ErrorKind::IsADirectory => {
            "use a file; Docker creates such a folder if the mounted file is missing: replace the folder with the file"
                .to_owned()
        }
        ErrorKind::PermissionDenied => {
            let us = our_uid().map_or("USER".to_owned(), |uid| uid.to_string());
            if CONTAINER_SECRETS.iter().any(|folder| path.starts_with(folder)) {
                format!("run on the host, for the mounted file: sudo chown {us} FILE")
            } else {
                format!("run this as root, or run: sudo chown {us} {}", files::display_path(path))
            }
        }
        _ => "it must be UTF-8 text of at most 64 KiB".to_owned(),
    };
    (problem, remedy)
}

impl fmt::Display for SettingProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = self.value.as_ref().map_or(String::new(), |value| format!("={value}"));
        f.write_str(&one_line(&format!("{}{value}: {}; {}", self.variable, self.problem, self.remedy)))
    }
}

/// All problems, at least one, and warnings that may explain them.
#[derive(Debug, PartialEq, Eq)]
pub struct ConfigError {
    pub problems: Vec<SettingProblem>,
    /// A message for each unknown name.
    pub unknown: Vec<String>,
}

impl From<SettingProblem> for ConfigError {
    fn from(problem: SettingProblem) -> Self {
        Self { problems: vec![problem], unknown: Vec::new() }
    }
}

/// Variables by name, and their origin.
#[derive(Default)]
pub struct Variables {
    pub values: BTreeMap<String, String>,
    /// The file that was read, by the name that its owner uses.
    pub file: Option<PathBuf>,
    /// The names in that file.
    pub in_file: Vec<String>,
    /// The names in this process's environment.
    pub in_environment: Vec<String>,
    /// The user of the service that reads that file, unless this process is the service.
    pub service_user: Option<ServiceUser>,
    pub warnings: Vec<String>,
    /// Shown after other problems, which it may explain.
    pub hint: Option<SettingProblem>,
}

/// Variables of this process, which take precedence, and of the configuration file, which is `path` or, if it exists, the
/// service's. Invalid UTF-8 in a value becomes replacement characters. `is_secret` selects the variables that no other user should
/// be able to read.
pub fn variables(path: Option<&Path>, is_secret: fn(&str) -> bool) -> Result<Variables, ConfigError> {
    let credentials = std::env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from);
    let usual = if path.is_none() { paths::settings_file(credentials.as_deref()) } else { None };
    let mut all = match (path, &usual) {
        (Some(path), _) => in_file(path, is_secret, false)?,
        (None, Some(usual)) => in_file(usual, is_secret, true)?,
        (None, None) => Variables::default(),
    };
    for (name, value) in std::env::vars_os() {
        let name = name.to_string_lossy().into_owned();
        all.in_environment.push(name.clone());
        all.values.insert(name, value.to_string_lossy().into_owned());
    }
    if let Some(file) = path.or(usual.as_deref()) {
        all.file = Some(paths::known_as(file).to_owned());
        // A process with the service's credentials is the service itself.
        all.service_user = ServiceUser::of(file).filter(|_| credentials.is_none() && our_uid() == Some(0));
    }
    Ok(all)
}

fn our_uid() -> Option<u32> {
    Some(std::fs::metadata("/proc/self").ok()?.uid())
}

/// `usual` is true if `path` is the default and not the user's choice.
fn in_file(path: &Path, is_secret: fn(&str) -> bool, usual: bool) -> Result<Variables, ConfigError> {
    match file::read(path, is_secret) {
        Ok(all) => Ok(all),
        Err(file::Unreadable::Lines(problems)) => Err(ConfigError { problems, unknown: Vec::new() }),
        // A manual command needs root to see what the service sees, unless the environment holds all settings.
        Err(file::Unreadable::File(error)) if usual && error.kind() == ErrorKind::PermissionDenied => {
            let mut hint = SettingProblem::unreadable(path, &error);
            if std::env::var_os("INVOCATION_ID").is_some() {
                "this systemd is older than 247 and passes no credentials: run install.sh again, which fixes that"
                    .clone_into(&mut hint.remedy);
            }
            Ok(Variables { hint: Some(hint), ..Variables::default() })
        }
        Err(file::Unreadable::File(error)) => Err(SettingProblem::unreadable(path, &error).into()),
    }
}

pub struct InvalidValue {
    what: String,
    /// The value that was probably meant.
    suggestion: Option<String>,
}

impl InvalidValue {
    /// `what` is the problem, `suggestion` the value that was probably meant.
    pub fn meant(what: impl Into<String>, suggestion: impl Into<String>) -> Self {
        Self { what: what.into(), suggestion: Some(suggestion.into()) }
    }
}

impl<T: Into<String>> From<T> for InvalidValue {
    fn from(what: T) -> Self {
        Self { what: what.into(), suggestion: None }
    }
}

/// Reads values one by one and collects their problems. An empty value counts as unset, because compose files pass empty ones.
pub struct Reader<'a> {
    all: &'a Variables,
    problems: Vec<SettingProblem>,
    /// Oddities that are not errors, for the log.
    pub warnings: Vec<String>,
    /// A message for each unknown name, which may be the reason for a problem.
    pub unknown: Vec<String>,
}

impl<'a> Reader<'a> {
    pub fn new(all: &'a Variables) -> Self {
        Self { all, problems: Vec::new(), warnings: all.warnings.clone(), unknown: Vec::new() }
    }

    /// Returns `value` and the warnings, or all problems, with `hint` as the last.
    pub fn finish<T>(self, value: Option<T>, hint: Option<SettingProblem>) -> Result<(T, Vec<String>), ConfigError> {
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

    /// The value of a variable, unless it is unset or empty.
    pub fn get(&self, name: &str) -> Option<&'a str> {
        self.all.values.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// Records a problem. The value is shown unless it may hold a password, as in a URL with a user name.
    pub fn problem(&mut self, name: &str, value: Option<&str>, problem: impl Into<String>, remedy: impl Into<String>) {
        let value = value.filter(|value| !value.contains('@')).map(|value| value.chars().take(80).collect());
        self.problems.push(SettingProblem {
            variable: name.to_owned(),
            value,
            problem: problem.into(),
            remedy: remedy.into(),
        });
    }

    /// Parses the value or the default. The error of `parse` is the problem; `remedy` is what to do unless the error suggests a
    /// value.
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
        // A suggestion would repeat the value, which may hold a password.
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

    /// A secret or user name: from the variable, from the file that `NAME_FILE` names, or from systemd's credential of that name
    /// (for a manual command, from the file behind the credential). Empty credentials count as unset, because a service may come
    /// with empty ones to be filled.
    pub fn secret(&mut self, name: &str) -> Option<Secret> {
        self.secret_text(name).map(Secret::new)
    }

    fn secret_text(&mut self, name: &str) -> Option<String> {
        let file_name = format!("{name}_FILE");
        let value = self.get(name).map(str::to_owned);
        let file = self.get(&file_name).map(str::to_owned);
        if value.is_none() && file.is_none() {
            let credential = Path::new(self.get("CREDENTIALS_DIRECTORY").unwrap_or(paths::CREDENTIALS)).join(name);
            let text = match files::read(&credential) {
                Ok(text) => {
                    self.warn_if_exposed(&credential);
                    text
                }
                // In a manual command, only root can read the files behind systemd's credentials.
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
                self.problem(name, None, format!("is set together with {file_name}"), "set one of them");
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
            self.problem(&file_name, None, "names an empty file", "put the value into it");
            return None;
        }
        self.reject_placeholder(name, &value)
    }

    /// Text of the file that a variable names; `None` if it is unset, or if this process or the service cannot read the file.
    pub fn file(&mut self, name: &str) -> Option<String> {
        let path = Path::new(self.get(name)?);
        let read = files::read(path).map_err(|error| unusable(path, &error)).and_then(|text| {
            let reached = self.all.service_user.as_ref().map_or(Ok(()), |user| user.may_read(path));
            reached.map(|()| text).map_err(|unreachable| unreachable.describe(path))
        });
        read.map_err(|(problem, remedy)| self.problem(name, Some(&files::display_path(path)), problem, remedy)).ok()
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

    /// A secret for a header, which cannot hold a line break or an umlaut.
    pub fn key(&mut self, name: &str) -> Option<Secret> {
        let key = self.secret(name)?;
        if !key.expose().bytes().all(|byte| byte.is_ascii_graphic()) {
            self.problem(name, None, "has characters that do not occur in a key", "copy the key without white space");
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
                    self.problem(missing, None, format!("is not set, but {set} is"), "set both or none");
                }
                None
            }
        }
    }

    /// Number of problems so far.
    pub fn problems(&self) -> usize {
        self.problems.len()
    }

    pub fn path(&self, name: &str, default: impl Into<PathBuf>) -> PathBuf {
        self.get(name).map_or_else(|| default.into(), PathBuf::from)
    }
}

/// True for a value that was copied from a sample file: `CHANGE_ME`, `your_password`, `<api-key>`. Only whole values count, because
/// any other word may be a real password.
pub fn is_placeholder(value: &str) -> bool {
    const COMMANDS: [&str; 3] = ["change_me", "changeme", "replace_me"];
    const THINGS: [&str; 9] =
        ["username", "user", "password", "pass", "api_key", "token", "server", "server_name", "hostname"];
    let value = value.to_ascii_lowercase().replace('-', "_");
    let inner = value.strip_prefix('<').and_then(|rest| rest.strip_suffix('>')).unwrap_or(&value);
    let thing = inner.strip_prefix("your_").unwrap_or(inner);
    // The owner may come first: `your_pia_username`.
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
