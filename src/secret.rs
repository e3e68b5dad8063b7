//! Keeps secrets out of logs, with a type that has no `Display` and an opaque `Debug`, and a filter for replies that may echo a
//! secret.

use std::collections::HashSet;
use std::fmt;

use base64::prelude::{BASE64_STANDARD_NO_PAD, Engine};

/// A run of this many bytes counts as a token. PIA's tokens have 128 bytes, qBittorrent's session IDs 32, and words fewer than 24.
const TOKEN_LENGTH: usize = 24;
/// Number of consecutive letters and digits of a secret that count as an echo; a shorter secret must match in full.
const ECHO_LENGTH: usize = 6;
/// Fewest letters and digits in a secret that can be searched for. A shorter one could match by chance, so every reply is hidden.
const MIN_COMPARABLE: usize = 4;

/// A password, token, payload, signature, cookie or API key.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps `value`; from then on, only [`Secret::expose`] can read it.
    pub fn new(value: impl Into<String>) -> Self {
        Self(value.into())
    }

    /// Returns the value, for use in a request or a 0600 file only.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Letters and digits to search for: those of the secret itself, and of its base64 at each of the three possible offsets, since
    /// text may precede the secret (`user:password`). Leaves out base64 characters that also encode neighbouring text.
    fn forms(&self) -> [Vec<u8>; 4] {
        let encoded = |before: usize| {
            let bytes = [&[0; 2][..before], self.0.trim().as_bytes()].concat();
            let text = BASE64_STANDARD_NO_PAD.encode(&bytes);
            let end = text.len() - usize::from(!bytes.len().is_multiple_of(3));
            alphanumeric(text.get((before * 8).div_ceil(6)..end).unwrap_or_default())
        };
        [alphanumeric(&self.0), encoded(0), encoded(1), encoded(2)]
    }
}

/// Returns the first `limit` characters of `text`, or `None` if they might reveal one of `secrets`. Anything that looks like a
/// secret is hidden too, because a server may send a new one.
///
/// Redacting or decoding parts of the text would require knowing every way to encode a character. Instead, the whole text is hidden
/// if it contains any piece of a secret (plain or in base64), or any character that begins an escape. The search covers twice the
/// limit, so that it also finds a secret that the limit would cut in two.
pub fn safe_excerpt<'a>(text: &'a str, secrets: &[Secret], limit: usize) -> Option<&'a str> {
    let first = |count| text.char_indices().nth(count).map_or(text, |(end, _)| &text[..end]);
    let seen = first(2 * limit);
    let hidden = holds_token(seen) || (!secrets.is_empty() && (holds_escape(seen) || echoes(seen, secrets)));
    (!hidden).then(|| first(limit))
}

/// Checks for a run of base64, hexadecimal or escape characters that is too long to be a word (24 bytes or more).
fn holds_token(text: &str) -> bool {
    let between = |c: char| !c.is_ascii_alphanumeric() && !"+/-_=%\\".contains(c);
    text.split(between).any(|run| run.len() >= TOKEN_LENGTH)
}

/// Checks for escapes: `%` (URLs and forms), `\` (JSON and other string literals) or `&` (HTML).
fn holds_escape(text: &str) -> bool {
    text.contains(['%', '\\', '&'])
}

fn echoes(text: &str, secrets: &[Secret]) -> bool {
    let text = alphanumeric(text);
    secrets.iter().flat_map(Secret::forms).any(|form| {
        let length = form.len().min(ECHO_LENGTH);
        if length < MIN_COMPARABLE {
            return true;
        }
        // A set rather than one search per piece, because a hostile server can send very long secrets.
        let pieces: HashSet<&[u8]> = text.windows(length).collect();
        form.windows(length).any(|piece| pieces.contains(piece))
    })
}

/// The ASCII letters and digits of a text in lower case: the same, whatever its case, line breaks or character set.
fn alphanumeric(text: &str) -> Vec<u8> {
    text.bytes().filter(u8::is_ascii_alphanumeric).map(|byte| byte.to_ascii_lowercase()).collect()
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_visible(text: &str, secret: &str) -> bool {
        safe_excerpt(text, &[Secret::new(secret)], 200).is_some()
    }

    #[test]
    fn debug_shows_nothing() {
        assert_eq!(format!("{:?}", Secret::new("hunter2")), "Secret(…)");
    }

    #[test]
    fn an_echo_hides_everything() {
        for echo in [
            "hunter'2",
            "HUNTER'2",
            "hun\r\nter'2",
            "hunter&#039;2",
            "hunter&#x27;2",
            "hunter&apos;2",
            "hunter%272",
            "hunter%25272",
            r"hunter\x272",
            r"hunter\u00272",
            r"hunter\'2",
            // Base64: alone, after one other character, and after two.
            "aHVudGVyJzI=",
            "Omh1bnRlcicy",
            "YTpodW50ZXInMg",
            // A piece of the secret.
            "hunter",
        ] {
            assert!(!is_visible(&format!("your login with {echo} failed"), "hunter'2"), "{echo}");
        }
        assert!(!is_visible("p\u{fffd}ssw\u{fffd}rd", "pässwörd"), "in another character set");
        assert!(!is_visible(&format!("{}hunter2", "x ".repeat(98)), "hunter2"), "across the limit");
    }

    #[test]
    fn a_secret_that_could_be_anything_hides_everything() {
        for short in ["", "abc", "пароль", "!!!!!!"] {
            assert!(!is_visible("it broke", short), "{short}");
        }
        assert!(is_visible("it broke", "abcd"));
        assert!(!is_visible("it broke", "roke"));
    }

    #[test]
    fn plain_words_are_shown() {
        for words in [
            "it broke",
            "<h1>try later</h1>",
            "HTTP Token: Access denied.",
            "something odd",
            "Port 47047 is busy. Please use another server",
            "Your IP address has been banned after too many failed authentication attempts.",
            "a request without authentication, at /usr/share/errors",
        ] {
            for secret in ["adminadmin", "admin", "p1234567", "hunter2", &"0123456789abcdef".repeat(8)] {
                assert!(is_visible(words, secret), "{words} with {secret}");
            }
        }
        assert_eq!(safe_excerpt("üüü % &amp;", &[], 2), Some("üü"));
    }

    #[test]
    fn an_unknown_token_is_not_shown() {
        let token = "0aZ+/9-_".repeat(3);
        assert_eq!(safe_excerpt(&format!(r#"{{"payload":"{token}=="}}"#), &[], 99), None);
        assert_eq!(safe_excerpt(&token[1..], &[], 99), Some(&token[1..]));
    }
}
