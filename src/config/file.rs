//! Parses the configuration file: `NAME=value` lines, as in a shell's or systemd's environment file. The names are defined in
//! `settings`.
//!
//! Accepts `export `, quotes, comments and CRLF, because the Python daemon's conf.d file could contain them. Expands nothing: a `$`
//! stays a `$`. If a shell also reads the file, rejects characters that the shell would interpret.

use std::io;
use std::path::Path;

use super::{SettingProblem, Variables, paths};
use crate::files;

/// The file could not be read, or some of its lines are invalid.
pub enum Unreadable {
    File(io::Error),
    Lines(Vec<SettingProblem>),
}

/// Reads the file at `path`. Warns if the file is world-readable and sets a variable for which `is_secret` is true.
pub fn read(path: &Path, is_secret: fn(&str) -> bool) -> Result<Variables, Unreadable> {
    let (text, metadata) = files::read_with_metadata(path).map_err(Unreadable::File)?;
    let mut all = Variables::default();
    if let Some((problem, remedy)) = paths::changeable(path, &metadata) {
        all.changeable.push(SettingProblem::of_file(path, problem, remedy));
    }
    let mut problems = Vec::new();
    let shell = paths::is_read_by_shell(path);
    for (index, line) in text.lines().enumerate() {
        match parse_line(line, shell) {
            Ok(None) => {}
            Ok(Some((name, value))) => {
                all.in_file.push(name.to_owned());
                all.values.insert(name.to_owned(), value);
            }
            Err(problem) => problems.push(SettingProblem::line(path, index + 1, problem)),
        }
    }
    if !problems.is_empty() {
        return Err(Unreadable::Lines(problems));
    }
    if let Some(name) = all.values.keys().find(|name| is_secret(name)).filter(|_| files::is_world_readable(path)) {
        all.warnings.push(format!("{0} holds {name} and is world-readable; run: chmod o-r {0}", path.display()));
    }
    Ok(all)
}

/// Characters that a shell interprets outside quotes.
const SHELL_METACHARACTERS: [char; 9] = ['$', '`', ';', '&', '|', '<', '>', '(', ')'];
/// Characters that a shell interprets even inside double quotes.
const SHELL_METACHARACTERS_QUOTED: [char; 2] = ['$', '`'];
const SHELL_SYNTAX: &str = "has a character that is special to the shell, which also reads this file";

/// Parses a line into name and value; `None` for an empty line or a comment. The error never quotes the line: it may be secret.
fn parse_line(line: &str, shell: bool) -> Result<Option<(&str, String)>, &'static str> {
    let line = line.trim();
    if line.is_empty() || line.starts_with('#') || (line.starts_with(';') && !shell) {
        return Ok(None);
    }
    let line = line.strip_prefix("export").filter(|rest| rest.starts_with([' ', '\t'])).map_or(line, str::trim_start);
    let (name, value) = line.split_once('=').ok_or("is not NAME=value")?;
    if shell && value.starts_with(char::is_whitespace) && !value.trim().is_empty() {
        return Err("has a space after the '='");
    }
    let starts_well = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    if !starts_well || !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
        return Err("has a name with characters other than letters, digits and underscores");
    }
    Ok(Some((name, parse_value(value.trim_start(), shell)?)))
}

/// Parses a single shell word, optionally followed by a comment.
fn parse_value(text: &str, shell: bool) -> Result<String, &'static str> {
    let (value, rest) = split_word(text, shell)?;
    let rest = rest.trim_start();
    if rest.is_empty() || rest.starts_with('#') { Ok(value) } else { Err("has more than one word") }
}

/// Splits a command line into words, which may be quoted like a value in the configuration file.
pub fn split_words(text: &str) -> Result<Vec<String>, &'static str> {
    let mut words = Vec::new();
    let mut rest = text.trim();
    while !rest.is_empty() {
        let (word, after) = split_word(rest, false)?;
        words.push(word);
        rest = after.trim_start();
    }
    Ok(words)
}

/// Splits `text` into its first word, unquoted, and the rest.
fn split_word(text: &str, shell: bool) -> Result<(String, &str), &'static str> {
    let mut value = String::new();
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\'' => {
                let (inner, rest) = chars.as_str().split_once('\'').ok_or("has an unclosed quote")?;
                value.push_str(inner);
                chars = rest.chars();
            }
            '"' => loop {
                match chars.next().ok_or("has an unclosed quote")? {
                    '"' => break,
                    '\\' => match chars.next().ok_or("has an unclosed quote")? {
                        escaped @ ('"' | '\\' | '$' | '`') => value.push(escaped),
                        other => value.extend(['\\', other]),
                    },
                    inner if shell && SHELL_METACHARACTERS_QUOTED.contains(&inner) => return Err(SHELL_SYNTAX),
                    inner => value.push(inner),
                }
            },
            c if shell && SHELL_METACHARACTERS.contains(&c) => return Err(SHELL_SYNTAX),
            '\\' => value.push(chars.next().ok_or("ends with a backslash")?),
            c if c.is_whitespace() => break,
            c => value.push(c),
        }
    }
    Ok((value, chars.as_str()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::testing::TempDir;

    #[test]
    fn every_common_notation_is_parsed() {
        for (line, value) in [
            ("A=b", "b"),
            ("export A=b", "b"),
            ("  export\tA=b  # why", "b"),
            ("A=", ""),
            ("A='b c'", "b c"),
            (r#"A="b \"c\" \\ \$d \e""#, r#"b "c" \ $d \e"#),
            (r"A='p$w\d'", r"p$w\d"),
            (r"A=b\ c", "b c"),
            ("A=b#c", "b#c"),
            ("A=b'c d'\"e\"", "bc de"),
            ("A=http://x/?a=b\r", "http://x/?a=b"),
        ] {
            assert_eq!(parse_line(line, false), Ok(Some(("A", value.to_owned()))), "{line}");
        }
        for line in ["", "  ", "# A=b", "; A=b", "\r"] {
            assert_eq!(parse_line(line, false), Ok(None), "{line}");
        }
        for line in ["A", "A b=c", "=b", "1A=b", "export", "A=b c", "A='b", "A=\"b", "A=\"b\\", "A=b\\"] {
            assert!(parse_line(line, false).is_err(), "{line}");
        }
    }

    #[test]
    fn a_command_line_is_split_into_words() {
        let line = r#" /bin/sh -c 'echo "$PORT"' "a b"c \{d\} '' "#;
        assert_eq!(split_words(line).unwrap(), ["/bin/sh", "-c", r#"echo "$PORT""#, "a bc", "{d}", ""]);
        assert_eq!(split_words("  ").unwrap(), [""; 0]);
        assert!(split_words("'a").is_err() && split_words("a\\").is_err());
    }

    #[test]
    fn shell_syntax_is_refused_in_a_file_that_a_shell_reads() {
        for (line, value) in [
            ("A=b", "b"),
            ("export A='b$c;d`e`(f)'", "b$c;d`e`(f)"),
            (r#"A="b \$c; (d)""#, "b $c; (d)"),
            ("A=b\\$c", "b$c"),
            ("A=~b", "~b"),
        ] {
            assert_eq!(parse_line(line, true), Ok(Some(("A", value.to_owned()))), "{line}");
            // A real shell must read the line the same way.
            let script = format!("{line}\nprintf %s \"$A\"");
            let shell = std::process::Command::new("sh").args(["-c", &script]).output().unwrap();
            assert_eq!(String::from_utf8_lossy(&shell.stdout), value, "{line}");
        }
        for line in ["A=b$c", "A=\"b$(c)\"", "A=\"`b`\"", "A=b;c", "A=b&c", "A=b|c", "A=b(c", "A=b>c", "A= b", "; A=b"]
        {
            assert!(parse_line(line, true).is_err(), "{line}");
            assert!(parse_line(line, false).is_ok(), "{line}");
        }
    }

    fn with(text: &str, mode: u32) -> Result<Variables, Vec<String>> {
        let dir = TempDir::new();
        let path = dir.path().join("config.env");
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        read(&path, |name| name == "PIA_PASSWORD").map_err(|error| match error {
            Unreadable::File(error) => vec![error.to_string()],
            Unreadable::Lines(problems) => problems.iter().map(ToString::to_string).collect(),
        })
    }

    #[test]
    fn bad_lines_are_reported_by_number_and_not_shown() {
        let Err(problems) = with("A=b\nPIA_PASSWORD='hunter2\n\nnonsense\n", 0o600) else { panic!("accepted") };
        assert_eq!(problems.len(), 2);
        assert!(problems[0].contains("config.env line 2: has an unclosed quote; use NAME=value"), "{problems:?}");
        assert!(problems[1].contains("line 4: is not NAME=value"), "{problems:?}");
        assert!(!problems.concat().contains("hunter2"));
    }

    #[test]
    fn a_world_readable_secret_is_a_warning() {
        let warnings = |text, mode| with(text, mode).unwrap_or_else(|e| panic!("{e:?}")).warnings.len();
        assert_eq!(warnings("PIA_PASSWORD=x", 0o644), 1);
        assert_eq!(warnings("PIA_PASSWORD=x", 0o640), 0);
        assert_eq!(warnings("PIA_USERNAME=x\nLOG_LEVEL=INFO", 0o644), 0);
    }
}
