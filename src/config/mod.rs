//! Environment variables, configuration file and secret files → values, all problems reported together. Which variables there
//! are and what they mean is not known here.
//!
//! Nothing is sent from here, and nothing but the configuration file and the files that variables name is read.

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

/// Where container engines put secrets: whose mode they have is theirs to say.
const CONTAINER_SECRETS: [&str; 2] = ["/run/secrets", "/var/run/secrets"];

/// One thing that is wrong with the configuration.
#[derive(Debug, PartialEq, Eq)]
pub struct SettingProblem {
    variable: String,
    /// Never a secret's.
    value: Option<String>,
    problem: String,
    remedy: String,
}

impl SettingProblem {
    /// A problem with a line of the configuration file.
    fn line(path: &Path, number: usize, problem: &str) -> Self {
        let remedy = "NAME=value is right, with 'single quotes' around special characters";
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

/// What is wrong with a file that cannot be read, and what to do.
fn unusable(path: &Path, error: &io::Error) -> (String, String) {
    let problem = format!("cannot be read: {}", io_message(error));
    let remedy = match error.kind() {
        ErrorKind::NotFound | ErrorKind::NotADirectory => "make that file, or correct its path".to_owned(),
        ErrorKind::IsADirectory => {
            "name a file; Docker makes such a folder where the file that is mounted is missing: remove it, make the file"
                .to_owned()
        }
        ErrorKind::PermissionDenied => {
            let us = our_uid().map_or("USER".to_owned(), |uid| uid.to_string());
            if CONTAINER_SECRETS.iter().any(|folder| path.starts_with(folder)) {
                format!("type on the host: sudo chown {us} FILE, of the file that it comes from")
            } else {
                format!("run as root, or type: sudo chown {us} {}", files::display_path(path))
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

/// Everything that is wrong, never empty, and what is odd besides: it may be the reason.
#[derive(Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// What is wrong.
    pub problems: Vec<SettingProblem>,
    /// The names that mean nothing, in words.
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
    /// The values.
    pub values: BTreeMap<String, String>,
    /// The file that was read, as its owner knows it.
    pub file: Option<PathBuf>,
    /// The names that it has.
    pub in_file: Vec<String>,
    /// The names that this process's environment has.
    pub in_environment: Vec<String>,
    /// Whoever the service with that file runs as, where somebody else asks.
    pub service_user: Option<ServiceUser>,
    /// For the log.
    pub warnings: Vec<String>,
    /// Shown with other problems: it may explain them.
    pub hint: Option<SettingProblem>,
}

/// All variables: those of this process, and below them those of the configuration file, which is `path` or, when it
/// exists, the service's. Values that are not UTF-8 become such, with replacement characters. `is_secret` tells which ones
/// nobody else should be able to read.
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
        // Whoever has the service's credentials is the service.
        all.service_user = ServiceUser::of(file).filter(|_| credentials.is_none() && our_uid() == Some(0));
    }
    Ok(all)
}

fn our_uid() -> Option<u32> {
    Some(std::fs::metadata("/proc/self").ok()?.uid())
}

/// `usual` says that nobody named it.
fn in_file(path: &Path, is_secret: fn(&str) -> bool, usual: bool) -> Result<Variables, ConfigError> {
    match file::read(path, is_secret) {
        Ok(all) => Ok(all),
        Err(file::Unreadable::Lines(problems)) => Err(ConfigError { problems, unknown: Vec::new() }),
        // By hand, root is needed to see what the service sees; whoever has it all in the environment does without.
        Err(file::Unreadable::File(error)) if usual && error.kind() == ErrorKind::PermissionDenied => {
            let mut hint = SettingProblem::unreadable(path, &error);
            if std::env::var_os("INVOCATION_ID").is_some() {
                "this systemd is older than 247 and hands over no credentials: run install.sh again, which mends that"
                    .clone_into(&mut hint.remedy);
            }
            Ok(Variables { hint: Some(hint), ..Variables::default() })
        }
        Err(file::Unreadable::File(error)) => Err(SettingProblem::unreadable(path, &error).into()),
    }
}

/// What is wrong with a value.
pub struct InvalidValue {
    what: String,
    /// What was probably meant.
    suggestion: Option<String>,
}

impl InvalidValue {
    /// `what` is wrong, and `suggestion` was probably meant.
    pub fn meant(what: impl Into<String>, suggestion: impl Into<String>) -> Self {
        Self { what: what.into(), suggestion: Some(suggestion.into()) }
    }
}

impl<T: Into<String>> From<T> for InvalidValue {
    fn from(what: T) -> Self {
        Self { what: what.into(), suggestion: None }
    }
}

/// Reads values one by one and collects what is wrong with them. An empty value counts as unset, because compose files pass
/// such.
pub struct Reader<'a> {
    all: &'a Variables,
    problems: Vec<SettingProblem>,
    /// Things that are odd but not wrong, for the log.
    pub warnings: Vec<String>,
    /// The names that mean nothing, in words: one may be the reason of a problem.
    pub unknown: Vec<String>,
}

impl<'a> Reader<'a> {
    /// A reader of `all`.
    pub fn new(all: &'a Variables) -> Self {
        Self { all, problems: Vec::new(), warnings: all.warnings.clone(), unknown: Vec::new() }
    }

    /// `value`, unless there were problems; all of them then, and `hint` behind them.
    pub fn finish<T>(self, value: Option<T>, hint: Option<SettingProblem>) -> Result<(T, Vec<String>), ConfigError> {
        match value {
            Some(value) if self.problems.is_empty() => Ok((value, [self.unknown, self.warnings].concat())),
            _ => Err(ConfigError { problems: self.problems.into_iter().chain(hint).collect(), unknown: self.unknown }),
        }
    }

    /// The names of all variables.
    pub fn names(&self) -> impl Iterator<Item = &'a String> + use<'a> {
        self.all.values.keys()
    }

    /// Whether the variable stands in the configuration file.
    pub fn is_in_file(&self, name: &str) -> bool {
        self.all.in_file.iter().any(|known| known == name)
    }

    /// The value of a variable that is set.
    pub fn get(&self, name: &str) -> Option<&'a str> {
        self.all.values.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// Takes a problem down. A value is shown unless it may hold a password, as a URL with a user in it does.
    pub fn problem(&mut self, name: &str, value: Option<&str>, problem: impl Into<String>, remedy: impl Into<String>) {
        let value = value.filter(|value| !value.contains('@')).map(|value| value.chars().take(80).collect());
        self.problems.push(SettingProblem {
            variable: name.to_owned(),
            value,
            problem: problem.into(),
            remedy: remedy.into(),
        });
    }

    /// The value or the default as `parse` reads it; the error of `parse` says what is wrong, `remedy` what would be right where
    /// it does not.
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
        // As of a value that may hold a password nothing is shown.
        let suggestion = problem.suggestion.filter(|_| !value.contains('@'));
        let remedy = suggestion.map_or_else(|| remedy.to_owned(), |suggestion| format!("type {name}={suggestion}"));
        self.problem(name, Some(value), problem.what, remedy);
        None
    }

    /// The same for a variable without a default: none when it is not set, or wrong.
    pub fn optional<T, W: Into<InvalidValue>>(
        &mut self,
        name: &str,
        remedy: &str,
        parse: impl FnOnce(&str) -> Result<T, W>,
    ) -> Option<T> {
        self.get(name)?;
        self.parsed(name, "", remedy, parse)
    }

    /// The value of a secret or user name: from the variable, from the file that `NAME_FILE` names, or from systemd's
    /// credential of that name (by hand, from the file that systemd makes it of). Services that come with empty credentials
    /// to be filled leave them unset.
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
                // By hand, only root sees the files that systemd makes credentials of.
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
                self.problem(name, None, format!("and {file_name} are both set"), "set one of them");
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

    /// The text of the file that a variable names; none when it is not set, or when the file cannot be read by us or by the
    /// service.
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
            self.warnings.push(format!("everybody on this machine may read {path}: chmod o-r it"));
        }
    }

    fn reject_placeholder(&mut self, name: &str, value: &str) -> Option<String> {
        if is_placeholder(value) {
            self.problem(name, None, "still holds a placeholder", "set it to the real value");
            return None;
        }
        Some(value.to_owned())
    }

    /// A secret that goes into a header: a line break or an umlaut cannot.
    pub fn key(&mut self, name: &str) -> Option<Secret> {
        let key = self.secret(name)?;
        if !key.expose().bytes().all(|byte| byte.is_ascii_graphic()) {
            self.problem(name, None, "has characters that no key has", "copy the key without white space");
        }
        Some(key)
    }

    /// User name and password, which only make sense together.
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

    /// How many problems there are so far.
    pub fn problems(&self) -> usize {
        self.problems.len()
    }

    /// A path.
    pub fn path(&self, name: &str, default: impl Into<PathBuf>) -> PathBuf {
        self.get(name).map_or_else(|| default.into(), PathBuf::from)
    }
}

/// Whether it is one of the values of sample files that nobody has replaced yet: `CHANGE_ME`, `your_password`, `<api-key>`. Whole ones only, because
/// any other word may be somebody's password.
pub fn is_placeholder(value: &str) -> bool {
    const COMMANDS: [&str; 3] = ["change_me", "changeme", "replace_me"];
    const THINGS: [&str; 9] =
        ["username", "user", "password", "pass", "api_key", "token", "server", "server_name", "hostname"];
    let value = value.to_ascii_lowercase().replace('-', "_");
    let inner = value.strip_prefix('<').and_then(|rest| rest.strip_suffix('>')).unwrap_or(&value);
    let thing = inner.strip_prefix("your_").unwrap_or(inner);
    // Whose it is may stand before it.
    let bare = thing.split_once('_').map_or(thing, |(_, rest)| rest);
    COMMANDS.contains(&inner) || (thing != value && (THINGS.contains(&thing) || THINGS.contains(&bare)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempDir;

    #[test]
    fn an_unusable_file_is_a_problem_named_or_not() {
        let dir = TempDir::new();
        let path = dir.write("config.env", b"# \xe9t\xe9\nPIA_USERNAME=p1\n");
        for usual in [false, true] {
            let Err(error) = in_file(&path, |_| false, usual) else { panic!("ignored") };
            let text = error.problems[0].to_string();
            assert!(text.contains("config.env") && text.contains("must be UTF-8 text"), "{text}");
        }
    }
}
