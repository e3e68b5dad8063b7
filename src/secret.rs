//! The type that keeps secrets out of logs: no `Display`, a `Debug` that says nothing, and the scissors for replies that
//! echo them.

use std::fmt;

/// A password, token, payload, signature, cookie or API key.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps `value`; from here on it leaves only through [`Secret::expose`].
    pub fn new(value: impl Into<String>) -> Self {
        Self(value.into())
    }

    /// The value itself, for a request or a 0600 file and nothing else.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// `text` with `***` wherever it holds the secret, however a peer that echoes it may have escaped its characters: for
    /// a URL, a form, JSON or HTML.
    pub fn cut_out_of(&self, text: &str) -> String {
        let spellings: Vec<_> = self.0.chars().map(spellings).collect();
        let mut shown = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(first) = rest.chars().next() {
            match spelled_length(rest, &spellings) {
                Some(length) if length > 0 => {
                    shown.push_str("***");
                    rest = &rest[length..];
                }
                _ => {
                    shown.push(first);
                    rest = &rest[first.len_utf8()..];
                }
            }
        }
        shown
    }
}

/// The ways to write `c`, the plain one first; the others in any case.
fn spellings(c: char) -> Vec<String> {
    let code = u32::from(c);
    let percent = |byte| format!("%{byte:02x}");
    let unit = |unit: &u16| format!("\\u{unit:04x}");
    let mut all = vec![
        c.to_string(),
        c.encode_utf8(&mut [0; 4]).bytes().map(percent).collect::<Vec<_>>().concat(),
        c.encode_utf16(&mut [0; 2]).iter().map(unit).collect::<Vec<_>>().concat(),
        format!("\\{c}"),
        format!("&#{code};"),
        format!("&#x{code:x};"),
    ];
    let special = match c {
        ' ' => "+",
        '&' => "&amp;",
        '<' => "&lt;",
        '>' => "&gt;",
        '"' => "&quot;",
        _ => return all,
    };
    all.push(special.to_owned());
    all
}

/// How many bytes at the start of `text` spell the secret; none if they do not.
fn spelled_length(text: &str, secret: &[Vec<String>]) -> Option<usize> {
    let mut at = 0;
    for spellings in secret {
        let rest = &text.as_bytes()[at..];
        let fits = |(index, spelling): &(usize, &String)| {
            rest.get(..spelling.len()).is_some_and(|written| match index {
                0 => written == spelling.as_bytes(),
                _ => written.eq_ignore_ascii_case(spelling.as_bytes()),
            })
        };
        // The longest one: the plain spelling of a backslash is also the start of its escape.
        at += spellings.iter().enumerate().filter(fits).map(|(_, spelling)| spelling.len()).max()?;
    }
    Some(at)
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_nothing() {
        assert_eq!(format!("{:?}", Secret::new("hunter2")), "Secret(…)");
    }

    #[test]
    fn an_echo_is_cut_out_in_every_spelling() {
        let secret = Secret::new("p+w d/=&\"\\ü");
        for echo in [
            secret.expose(),
            "p%2Bw%20d%2F%3D%26%22%5C%C3%BC",
            "p%2bw+d%2f%3d%26%22%5c%c3%bc",
            r#"p+w d\/=&\"\\ü"#,
            r#"p+w d\/=\u0026\"\\\u00FC"#,
            r"p+w d/=&amp;&quot;\&#252;",
        ] {
            assert_eq!(secret.cut_out_of(&format!("ä {echo} b {echo}")), "ä *** b ***", "{echo}");
        }
        assert_eq!(secret.cut_out_of("p+w d"), "p+w d");
        assert_eq!(Secret::new("").cut_out_of("as it is"), "as it is");
    }
}
