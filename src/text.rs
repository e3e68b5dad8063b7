//! Makes text from servers and users safe for logs and terminals.

use std::fmt::Write as _;

/// Writes `?` for each character that could end a line, move the cursor or disguise the text: control characters, line and
/// paragraph separators, invisible characters, and changes of writing direction.
pub fn one_line(text: &str) -> String {
    text.chars().map(|c| if is_printable(c) { c } else { '?' }).collect()
}

/// Escapes these characters in JSON (`\u009b`), whose strings may contain them.
pub fn escape_json(json: &str) -> String {
    let mut escaped = String::with_capacity(json.len());
    for c in json.chars() {
        if is_printable(c) {
            escaped.push(c);
        } else {
            // Every such character is a single UTF-16 unit.
            let _ = write!(escaped, "\\u{:04x}", u32::from(c));
        }
    }
    escaped
}

fn is_printable(c: char) -> bool {
    !matches!(c, '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
        && !c.is_control()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_become_question_marks() {
        assert_eq!(one_line("Zürich, 日本: [31m é"), "Zürich, 日本: [31m é");
        let mischief = "\0\t\r\n\u{1b}\u{7f}\u{85}\u{61c}\u{200b}\u{200c}\u{200d}\u{200e}\u{200f}\u{2028}\u{2029}\u{202a}\u{202b}\
                        \u{202c}\u{202d}\u{202e}\u{2060}\u{2066}\u{2067}\u{2068}\u{2069}\u{feff}";
        assert_eq!(one_line(mischief), "?".repeat(mischief.chars().count()));
    }

    #[test]
    fn escaped_json_has_the_same_value() {
        let json = "{\"Zürich\":\"\\u001b\\\\\u{7f}\u{9b}\u{202e}😀\"}";
        assert_eq!(escape_json(json), "{\"Zürich\":\"\\u001b\\\\\\u007f\\u009b\\u202e😀\"}");
    }
}
