//! JSON from servers. Text that would take many times its length in memory is not parsed.

use miniserde::Deserialize;
use miniserde::json::{self, Object, Value};

/// The largest reply that we ask for, qBittorrent's preferences, has some 200 values.
const MAX_VALUES: usize = 8192;

/// `None` if `text` is not a `T` or has too many values: a reply of 256 KiB that consists of arrays and objects, nested or in a
/// row, would take 30 MB.
pub fn parse<T: Deserialize>(text: &str) -> Option<T> {
    // One of these precedes each value but the first. Counting those inside strings as well saves a scanner for strings.
    if text.bytes().filter(|byte| b"[{,".contains(byte)).count() > MAX_VALUES {
        return None;
    }
    json::from_str(text).ok()
}

/// The fields of `text`; `None` if it is not an object.
pub fn object(text: &str) -> Option<Object> {
    match parse(text)? {
        Value::Object(fields) => Some(fields),
        _ => None,
    }
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
