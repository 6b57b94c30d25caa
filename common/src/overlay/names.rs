//! Raw names as text: for people, and for programs.

/// Shows a path to people: bytes that are no text, and control characters, as `\xNN`.
pub fn display(path: &[u8]) -> String {
    let mut text = String::with_capacity(path.len());
    for chunk in path.utf8_chunks() {
        for character in chunk.valid().chars() {
            match character {
                // What moves the cursor or turns the line around is not shown as such.
                c if c.is_control() || is_invisible(c) => {
                    let mut buffer = [0; 4];
                    for byte in c.encode_utf8(&mut buffer).bytes() {
                        text.push_str(&format!("\\x{byte:02x}"));
                    }
                }
                c => text.push(c),
            }
        }
        for byte in chunk.invalid() {
            text.push_str(&format!("\\x{byte:02x}"));
        }
    }
    text
}

/// Tells whether a character changes the direction of the text around it, or is a line separator.
fn is_invisible(c: char) -> bool {
    matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Returns bytes as text, and whether other bytes than UTF-8 (and then `%` too) stand as `%XX`.
pub fn text_of(bytes: &[u8]) -> (String, bool) {
    if let Ok(text) = std::str::from_utf8(bytes) {
        return (text.to_owned(), false);
    }
    let mut text = String::with_capacity(bytes.len() + 8);
    for chunk in bytes.utf8_chunks() {
        text.push_str(&chunk.valid().replace('%', "%25"));
        for byte in chunk.invalid() {
            text.push_str(&format!("%{byte:02X}"));
        }
    }
    (text, true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_would_obey_is_not_shown_as_such() {
        assert_eq!(display(b"a\x1b[2J\n\xff\xc3\xa4"), "a\\x1b[2J\\x0a\\xffä");
        assert_eq!(display("\u{202e}x\u{9b}".as_bytes()), "\\xe2\\x80\\xaex\\xc2\\x9b");
    }

    #[test]
    fn names_that_are_no_text_are_encoded_whole() {
        assert_eq!(text_of("ä%41".as_bytes()), ("ä%41".into(), false));
        assert_eq!(text_of(b"a%\xff\xc3\xa4"), ("a%25%FFä".into(), true));
    }
}
