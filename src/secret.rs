//! The type that keeps secrets out of logs: no `Display`, a `Debug` that shows nothing, and the filter for replies that may
//! echo a secret.

use std::collections::HashSet;
use std::fmt;

use base64::prelude::{BASE64_STANDARD_NO_PAD, Engine};

/// Bytes. PIA's tokens have 128, qBittorrent's sessions 32, words fewer than 24.
const TOKEN_LENGTH: usize = 24;
/// Consecutive letters and digits of a secret that count as its echo; a shorter secret counts as a whole.
const ECHO_LENGTH: usize = 6;
/// Letters and digits. A secret with fewer cannot be distinguished from ordinary text.
const MIN_COMPARABLE: usize = 4;

/// A password, token, payload, signature, cookie or API key.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps `value`, which can then be read only through [`Secret::expose`].
    pub fn new(value: impl Into<String>) -> Self {
        Self(value.into())
    }

    /// The value, for a request or a 0600 file and nothing else.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Letters and digits to compare: plain, and in base64 at each of its three bit offsets, which depend on the text before the
    /// secret (`user:password`). Base64 characters that also encode neighbouring text are left out.
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

/// The first `limit` characters of `text`; `None` if they might reveal one of `secrets`, or anything that looks like a secret: a
/// server may send one that we do not know yet.
///
/// Nothing is cut out or decoded, because both would require knowing every way to write a character. Instead, the whole text is
/// hidden by any piece of a secret, in plain text or in base64, and by any character that begins an escape. The search covers
/// twice the limit, so that it finds a secret that the limit cuts in two.
pub fn safe_excerpt<'a>(text: &'a str, secrets: &[Secret], limit: usize) -> Option<&'a str> {
    let first = |count| text.char_indices().nth(count).map_or(text, |(end, _)| &text[..end]);
    let seen = first(2 * limit);
    let hidden = holds_token(seen) || (!secrets.is_empty() && (holds_escape(seen) || echoes(seen, secrets)));
    (!hidden).then(|| first(limit))
}

/// Whether `text` contains a run without spaces or punctuation that is too long for a word: base64 or hexadecimal, with or without
/// escapes.
fn holds_token(text: &str) -> bool {
    let between = |c: char| !c.is_ascii_alphanumeric() && !"+/-_=%\\".contains(c);
    text.split(between).any(|run| run.len() >= TOKEN_LENGTH)
}

/// Escapes of URLs and forms (`%`), of JSON and other string literals (`\`), or of HTML (`&`).
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
        // A set instead of a search per piece: a hostile server can make secrets long.
        let pieces: HashSet<&[u8]> = text.windows(length).collect();
        form.windows(length).any(|piece| pieces.contains(piece))
    })
}

/// The characters that survive changes of case, line breaks and wrong character sets.
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
            // Alone, after one and after two other characters.
            "aHVudGVyJzI=",
            "Omh1bnRlcicy",
            "YTpodW50ZXInMg",
            // A piece.
            "hunter",
        ] {
            assert!(!is_visible(&format!("login of you with {echo} failed"), "hunter'2"), "{echo}");
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
