//! Environment variables, configuration file and secret files → values, all problems reported together. Which variables there
//! are and what they mean is not known here.
//!
//! Nothing is sent from here, and nothing but the configuration file and the files that variables name is read.

pub mod file;

use std::collections::BTreeMap;
use std::fmt;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use crate::error::plain;
use crate::files;
use crate::secret::Secret;
use crate::text::one_line;

/// Where the systemd unit takes its credentials from, so that commands typed by hand see what the service sees.
const CREDENTIALS: &str = "/etc/pia-qbittorrent-sync/credentials";

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

/// Variables by name, and what is odd about where they came from.
#[derive(Default)]
pub struct Variables {
    /// The values.
    pub values: BTreeMap<String, String>,
    /// For the log.
    pub warnings: Vec<String>,
    /// Shown with other problems: it may explain them.
    pub hint: Option<Problem>,
}

/// All variables: those of this process, and below them those of the configuration file, which is `path` or, when it
/// exists, the default one. Values that are not UTF-8 become such, with replacement characters. `is_secret` tells which ones
/// nobody else should be able to read.
pub fn variables(path: Option<&Path>, is_secret: fn(&str) -> bool) -> Result<Variables, ConfigError> {
    let mut all = variables_in_file(path, Path::new(file::DEFAULT_PATH), is_secret)?;
    all.values.extend(
        std::env::vars_os()
            .map(|(name, value)| (name.to_string_lossy().into_owned(), value.to_string_lossy().into_owned())),
    );
    Ok(all)
}

fn variables_in_file(
    path: Option<&Path>,
    default: &Path,
    is_secret: fn(&str) -> bool,
) -> Result<Variables, ConfigError> {
    match (file::read(path.unwrap_or(default), is_secret), path) {
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

/// Reads values one by one and collects what is wrong with them. An empty value counts as unset, because compose files pass
/// such.
pub struct Reader<'a> {
    vars: &'a BTreeMap<String, String>,
    problems: Vec<Problem>,
    /// Things that are odd but not wrong, for the log.
    pub warnings: Vec<String>,
}

impl<'a> Reader<'a> {
    /// A reader of `all`.
    pub fn new(all: &'a Variables) -> Self {
        Self { vars: &all.values, problems: Vec::new(), warnings: all.warnings.clone() }
    }

    /// `value`, unless there were problems; all of them then, and `hint` behind them.
    pub fn finish<T>(self, value: Option<T>, hint: Option<Problem>) -> Result<(T, Vec<String>), ConfigError> {
        match value {
            Some(value) if self.problems.is_empty() => Ok((value, self.warnings)),
            _ => Err(ConfigError(self.problems.into_iter().chain(hint).collect())),
        }
    }

    /// The names of all variables.
    pub fn names(&self) -> impl Iterator<Item = &'a String> + use<'a> {
        self.vars.keys()
    }

    /// The value of a variable that is set.
    pub fn get(&self, name: &str) -> Option<&'a str> {
        self.vars.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// Takes a problem down. A value is shown unless it may hold a password, as a URL with a user in it does.
    pub fn problem(&mut self, name: &str, value: Option<&str>, wrong: impl Into<String>, right: impl Into<String>) {
        let value = value.filter(|value| !value.contains('@')).map(|value| value.chars().take(80).collect());
        self.problems.push(Problem { variable: name.to_owned(), value, wrong: wrong.into(), right: right.into() });
    }

    /// The value or the default as `parse` reads it; the error of `parse` says what is wrong, `right` what would be right.
    pub fn parsed<T>(
        &mut self,
        name: &str,
        default: &str,
        right: &str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        let value = self.get(name).unwrap_or(default);
        parse(value).map_err(|wrong| self.problem(name, Some(value), wrong, right)).ok()
    }

    /// The same for a variable without a default: none when it is not set, or wrong.
    pub fn optional<T>(&mut self, name: &str, right: &str, parse: impl FnOnce(&str) -> Result<T, String>) -> Option<T> {
        self.get(name)?;
        self.parsed(name, "", right, parse)
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
    pub fn path(&self, name: &str, default: &str) -> PathBuf {
        PathBuf::from(self.get(name).unwrap_or(default))
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
    fn a_default_file_that_is_there_and_cannot_be_used_is_a_problem() {
        let dir = TempDir::new();
        let path = dir.path().join("config.env");
        assert!(
            variables_in_file(None, &path, |_| false).is_ok_and(|all| all.values.is_empty() && all.hint.is_none()),
            "absent"
        );
        std::fs::write(&path, b"# \xe9t\xe9\nPIA_USERNAME=p1\n").unwrap();
        let Err(ConfigError(problems)) = variables_in_file(None, &path, |_| false) else { panic!("ignored") };
        let text = problems[0].to_string();
        assert!(text.contains("config.env") && text.contains("must be UTF-8 text"), "{text}");
    }
}
