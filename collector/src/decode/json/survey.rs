//! One look over the text of a record before it becomes an object: whether that would take more memory than any honest
//! record, and which of its doubles the parser would not read exactly.
//!
//! A parser of JSON that reads numbers of many digits exactly takes twice the time for all of them. Here those that need
//! it are put into quotes, where protobuf's JSON lets doubles stand too and where the language reads them.

use std::borrow::Cow;

use super::super::wire::MAX_PARTS;
use super::doubles::DOUBLES;

/// Numbers up to this length and without an exponent have so few digits that any parser reads them exactly.
const EXACT_BYTES: usize = 15;

/// The text with its long doubles in quotes; none if it has more parts than any honest record.
pub(super) fn surveyed(text: &str) -> Option<Cow<'_, str>> {
    let bytes = text.as_bytes();
    let mut written = String::new();
    let (mut copied, mut at, mut parts) = (0, 0, 0_usize);
    // The last text, and the last that was a name.
    let (mut last, mut name): (&[u8], &[u8]) = (&[], &[]);
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'"' => {
                let end = end_of_text(bytes, at + 1);
                last = &bytes[at + 1..end];
                at = end;
            }
            b':' => name = last,
            b',' | b'{' | b'[' => parts += 1,
            b'-' | b'0'..=b'9' => {
                let end = at + length_of_number(&bytes[at..]);
                let number = &text[at..end];
                let is_short = number.len() <= EXACT_BYTES && !number.contains(['e', 'E']);
                if !is_short && DOUBLES.iter().any(|double| double.as_bytes() == name) {
                    written.push_str(&text[copied..at]);
                    written.push('"');
                    written.push_str(number);
                    written.push('"');
                    copied = end;
                }
                at = end;
                continue;
            }
            _ => {}
        }
        at += 1;
    }
    if parts > MAX_PARTS {
        return None;
    }
    if copied == 0 {
        return Some(Cow::Borrowed(text));
    }
    written.push_str(&text[copied..]);
    Some(Cow::Owned(written))
}

/// Where the closing quote stands of a text that begins here.
fn end_of_text(bytes: &[u8], mut at: usize) -> usize {
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'"' => return at,
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
    bytes.len()
}

fn length_of_number(bytes: &[u8]) -> usize {
    bytes.iter().position(|byte| !matches!(byte, b'0'..=b'9' | b'-' | b'+' | b'.' | b'e' | b'E')).unwrap_or(bytes.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_of_many_digits_stand_in_quotes_and_nothing_else_changes() {
        for (text, expected) in [
            (r#"{"asDouble":0.30000000000000004}"#, r#"{"asDouble":"0.30000000000000004"}"#),
            (r#"{"asDouble": -1e-300 }"#, r#"{"asDouble": "-1e-300" }"#),
            (r#"{"explicitBounds":[1.5,0.12345678901234567]}"#, r#"{"explicitBounds":[1.5,"0.12345678901234567"]}"#),
        ] {
            assert_eq!(surveyed(text).as_deref(), Some(expected));
        }
        for same in [
            r#"{"asDouble":0.1,"timeUnixNano":1760000000000000000}"#,
            r#"{"asInt":1234567890123456789}"#,
            r#"{"name":"\"sum\": 0.30000000000000004","sum":"0.30000000000000004"}"#,
            r#"{"a\\":"\\","b":1}"#,
            "\"",
            "\"\\",
            "",
        ] {
            assert!(matches!(surveyed(same), Some(Cow::Borrowed(text)) if text == same), "{same}");
        }
    }
}
