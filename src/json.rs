//! Parses JSON from servers, but refuses text that would take up many times its length in memory.

use miniserde::Deserialize;
use miniserde::json::{self, Object};

/// Maximum number of values in a reply. qBittorrent's preferences, the largest reply that we request, have some 200.
const MAX_VALUES: usize = 8192;

/// Returns `None` if `text` is not a `T`, or has more than 8192 values: 256 KiB full of arrays and objects would take 30 MB.
pub fn parse<T: Deserialize>(text: &str) -> Option<T> {
    // One of these characters precedes every value except the first. Those inside strings count too, so that strings need no
    // parsing.
    if text.bytes().filter(|byte| b"[{,".contains(byte)).count() > MAX_VALUES {
        return None;
    }
    json::from_str(text).ok()
}

/// Returns the object's fields; `None` if `text` is not an object.
pub fn object(text: &str) -> Option<Object> {
    parse(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_only() {
        assert!(object(r#"{"port":1,"ports":[1,2],"more":{}}"#).is_some_and(|fields| fields.len() == 3));
        for other in ["", "[]", "7", "{", "{} x", "\"{}\""] {
            assert!(object(other).is_none(), "{other}");
        }
    }

    #[test]
    fn a_json_bomb_is_not_parsed() {
        let deep = |count| format!(r#"{{"a":{}{}}}"#, "[".repeat(count), "]".repeat(count));
        let broad = |count| format!(r#"{{"a":[{}{{}}]}}"#, "{},".repeat(count / 2 - 1));
        let flat = |count| format!(r#"{{"a":[{}0]}}"#, "0,".repeat(count - 1));
        for bomb in [deep, broad, flat] {
            assert!(object(&bomb(MAX_VALUES - 1)).is_some());
            assert!(object(&bomb(MAX_VALUES + 2)).is_none());
        }
    }
}
