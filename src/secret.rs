//! The type that keeps secrets out of logs: no `Display`, a `Debug` that says nothing, and the judge of replies that may
//! echo them.

use std::collections::HashSet;
use std::fmt;

use base64::prelude::{BASE64_STANDARD_NO_PAD, Engine};

/// Bytes: PIA's tokens have 128, qBittorrent's sessions 32, and words less.
const TOKEN_LENGTH: usize = 24;
/// Letters and digits of a secret in a row that are an echo of it; of a shorter secret all of them.
const ECHO_LENGTH: usize = 6;
/// Letters and digits. A secret with fewer could not be distinguished from any other text.
const MIN_COMPARABLE: usize = 4;

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

    /// What is compared of it: letters and digits, as it is and in base64. There each begins at another bit, depending on
    /// what stands before it (`user:password`); the characters that belong to its neighbours as well are left out.
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

/// The first `limit` characters of `text`, none where they might give one of `secrets` away, or something that looks like a
/// secret: a server may say one that we do not know yet.
///
/// Nothing is cut out and nothing is decoded, because for both every way to write a character would have to be known. Instead
/// any piece of a secret, in plain text or in base64, and any character with which an escape begins hide it all. As much
/// again as is shown is looked at, for what the limit cuts through.
pub fn safe_excerpt<'a>(text: &'a str, secrets: &[Secret], limit: usize) -> Option<&'a str> {
    let first = |count| text.char_indices().nth(count).map_or(text, |(end, _)| &text[..end]);
    let seen = first(2 * limit);
    let hidden = holds_token(seen) || (!secrets.is_empty() && (holds_escape(seen) || echoes(seen, secrets)));
    (!hidden).then(|| first(limit))
}

/// Whether as many characters are without a space or a sentence's mark as only base64 and hexadecimal have, with escapes or
/// without.
fn holds_token(text: &str) -> bool {
    let between = |c: char| !c.is_ascii_alphanumeric() && !"+/-_=%\\".contains(c);
    text.split(between).any(|run| run.len() >= TOKEN_LENGTH)
}

/// Of a URL or a form, JSON or a program's string, HTML.
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
        // Looked up instead of searched for: a hostile server can make secrets long.
        let pieces: HashSet<&[u8]> = text.windows(length).collect();
        form.windows(length).any(|piece| pieces.contains(piece))
    })
}

/// What survives every change of case, line break and wrong character set.
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
            // Alone, behind one and behind two other characters.
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
