//! The type that keeps secrets out of logs: no `Display`, a `Debug` that says nothing, and the scissors for replies that
//! echo them.

use std::fmt;

/// Bytes: PIA's tokens have 128, qBittorrent's sessions 32, and words less.
const TOKEN_LENGTH: usize = 24;
/// Characters that are looked at for the few that are shown: a hostile reply must not keep us busy.
const SEARCHED: usize = 4096;

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
}

/// The first `limit` characters of `text` with `***` wherever it holds one of the secrets, however a peer that echoes it may
/// have escaped its characters: for a URL, a form, JSON or HTML. What looks like a token goes the same way: a peer may say
/// one that we do not know yet. It ends where it would have to be searched for too long.
pub fn cut_out_of(text: &str, secrets: &[Secret], limit: usize) -> String {
    // Texts lose the white space around them, and with it that of a secret at their end.
    let secrets: Vec<Vec<_>> = secrets.iter().map(|secret| secret.0.trim().chars().map(spellings).collect()).collect();
    let (mut shown, mut count) = (String::new(), 0);
    // Offsets: secrets and tokens may overlap, and all of each is hidden.
    let (mut run_end, mut hidden_end) = (0, None);
    for (at, c) in text.char_indices().take(SEARCHED) {
        if count >= limit {
            break;
        }
        let rest = &text[at..];
        let mut end = at + secrets.iter().filter_map(|secret| spelled_length(rest, secret)).max().unwrap_or(0);
        if at >= run_end {
            let length = run_length(rest);
            run_end = at + length;
            if length >= TOKEN_LENGTH {
                end = end.max(run_end);
            }
        }
        let was_hidden = hidden_end.is_some_and(|hidden| hidden >= at);
        end = end.max(hidden_end.unwrap_or(0));
        if end > at {
            if !was_hidden {
                shown.push_str("***");
                count += 3;
            }
            hidden_end = Some(end);
        } else {
            shown.push(c);
            count += 1;
            hidden_end = None;
        }
    }
    shown
}

/// How many bytes at the start of `text` are without a space or a sentence's mark: words are short, base64 and hexadecimal
/// are not, with escapes or without.
fn run_length(text: &str) -> usize {
    let part = |byte: &u8| byte.is_ascii_alphanumeric() || b"+/-_=%\\".contains(byte);
    text.bytes().take_while(part).count()
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
            assert_eq!(cut(&secret, &format!("ä {echo} b {echo}")), "ä *** b ***", "{echo}");
        }
        assert_eq!(cut(&secret, "p+w d"), "p+w d");
        assert_eq!(cut(&Secret::new(""), "as it is"), "as it is");
    }

    #[test]
    fn a_secret_in_what_looks_like_a_token_is_cut_out_whole() {
        let secrets = ["MyLongPassphrase9.tail42", "tail42,more"].map(Secret::new);
        let echo = "username=p1234567&password=MyLongPassphrase9.tail42,more!";
        assert_eq!(cut_out_of(echo, &secrets, 99), "username=p1234567&***!");
    }

    #[test]
    fn white_space_around_a_secret_may_be_lost() {
        let secret = Secret::new(" lead and trail ");
        assert_eq!(cut(&secret, "no: lead and trail"), "no: ***");
    }

    #[test]
    fn the_longest_of_several_secrets_is_cut_out() {
        let secrets = ["ab", "abcd", "x"].map(Secret::new);
        assert_eq!(cut_out_of("1 abcde ab x", &secrets, 99), "1 ***e *** ***");
    }

    #[test]
    fn a_token_that_nobody_knows_is_cut_out_too() {
        let (token, sentence) = ("0aZ+/9-_".repeat(3), "a request without authentication, at /usr/share/errors");
        let spoken = format!(r#"{{"payload":"{token}==","x":"{}\/"}}"#, &token[1..]);
        assert_eq!(cut_out_of(&spoken, &[], 99), r#"{"payload":"***","x":"***"}"#);
        assert_eq!(cut_out_of(&token[1..], &[], 99), token[1..]);
        assert_eq!(cut_out_of(sentence, &[], 99), sentence);
    }

    #[test]
    fn what_is_not_shown_is_not_searched() {
        // Beyond the limit this would take minutes.
        let secret = Secret::new("a ".repeat(8000) + "b");
        assert_eq!(cut(&secret, &"a ".repeat(128 * 1024)), "a ".repeat(100));
    }

    fn cut(secret: &Secret, text: &str) -> String {
        cut_out_of(text, std::slice::from_ref(secret), 200)
    }
}
