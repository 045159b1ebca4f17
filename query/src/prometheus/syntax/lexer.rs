//! Characters to tokens. Whether a word is a keyword depends on where it stands (`sum` may be a metric), so words stay
//! words here and the parser decides.

use super::parser::SyntaxError;

/// A token and where it starts.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Token {
    /// What it is.
    pub(crate) kind: Kind,
    /// Byte offset.
    pub(crate) start: usize,
}

/// What a token is.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Kind {
    /// A name; with colons it can only be a metric's.
    Word(String),
    /// A number.
    Number(f64),
    /// A duration in seconds.
    Duration(f64),
    /// A text, unquoted.
    Text(String),
    /// A sign.
    Sign(&'static str),
    /// The end.
    End,
}

/// Signs, longer ones before their own beginnings.
const SIGNS: &[&str] = &[
    "==", "!=", "=~", "!~", "<=", ">=", "</", ">/", "=", "<", ">", "+", "-", "*", "/", "%", "^", "(", ")", "{", "}",
    "[", "]", ",", "@", ":",
];

/// Units of durations in milliseconds, longest first.
const UNITS: &[(&str, f64)] = &[
    ("ms", 1.0),
    ("s", 1_000.0),
    ("m", 60_000.0),
    ("h", 3_600_000.0),
    ("d", 86_400_000.0),
    ("w", 604_800_000.0),
    ("y", 31_536_000_000.0),
];

/// All tokens of a query, the last one being [`Kind::End`].
pub(crate) fn tokens(query: &str) -> Result<Vec<Token>, SyntaxError> {
    let mut lexer = Lexer { query, at: 0, brackets: 0 };
    let mut tokens = Vec::new();
    loop {
        let token = lexer.next()?;
        let end = token.kind == Kind::End;
        tokens.push(token);
        if end {
            return Ok(tokens);
        }
    }
}

struct Lexer<'a> {
    query: &'a str,
    at: usize,
    brackets: usize,
}

impl Lexer<'_> {
    fn rest(&self) -> &str {
        &self.query[self.at..]
    }

    fn skip_blank(&mut self) {
        loop {
            let rest = self.rest();
            let blank = rest.len() - rest.trim_start().len();
            self.at += blank;
            if !self.rest().starts_with('#') {
                return;
            }
            self.at += self.rest().find('\n').unwrap_or(self.rest().len());
        }
    }

    fn next(&mut self) -> Result<Token, SyntaxError> {
        self.skip_blank();
        let start = self.at;
        let Some(first) = self.rest().chars().next() else {
            return Ok(Token { kind: Kind::End, start });
        };
        let second = self.rest().chars().nth(1).unwrap_or(' ');
        let kind = if first.is_ascii_digit() || (first == '.' && second.is_ascii_digit()) {
            self.number()?
        } else if first.is_ascii_alphabetic() || first == '_' || (first == ':' && self.brackets == 0) {
            self.word()
        } else if matches!(first, '"' | '\'' | '`') {
            Kind::Text(self.text(first)?)
        } else {
            self.sign()?
        };
        Ok(Token { kind, start })
    }

    fn word(&mut self) -> Kind {
        let colons = self.brackets == 0;
        let rest = self.rest();
        let length =
            rest.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || (c == ':' && colons))).unwrap_or(rest.len());
        let word = rest[..length].to_owned();
        self.at += length;
        Kind::Word(word)
    }

    fn sign(&mut self) -> Result<Kind, SyntaxError> {
        let rest = self.rest();
        let Some(sign) = SIGNS.iter().find(|sign| rest.starts_with(**sign)) else {
            let character = rest.chars().next().unwrap_or(' ');
            return Err(SyntaxError::new(self.at, format!("unexpected character: {character:?}")));
        };
        self.at += sign.len();
        match *sign {
            "[" => self.brackets += 1,
            "]" => self.brackets = self.brackets.saturating_sub(1),
            _ => {}
        }
        Ok(Kind::Sign(sign))
    }

    fn number(&mut self) -> Result<Kind, SyntaxError> {
        let start = self.at;
        let rest = self.rest();
        let bad = || SyntaxError::new(start, format!("bad number or duration syntax: {:?}", first_word(rest)));
        let word_length = first_word(rest).len();
        if let Some(seconds) = duration_seconds(&rest[..word_length]) {
            self.at += word_length;
            return Ok(Kind::Duration(seconds));
        }
        if rest.starts_with("0x") || rest.starts_with("0X") {
            let digits = rest[2..word_length].replace('_', "");
            let value = u64::from_str_radix(&digits, 16).map_err(|_| bad())?;
            self.at += word_length;
            return Ok(Kind::Number(value as f64));
        }
        let mut length = 0;
        let bytes = rest.as_bytes();
        let mut exponent = false;
        while let Some(&byte) = bytes.get(length) {
            let sign_of_exponent = matches!(byte, b'+' | b'-') && exponent && matches!(bytes[length - 1], b'e' | b'E');
            match byte {
                b'0'..=b'9' | b'_' | b'.' => {}
                b'e' | b'E' if !exponent => exponent = true,
                _ if sign_of_exponent => {}
                _ => break,
            }
            length += 1;
        }
        let follows = bytes.get(length).copied().unwrap_or(b' ');
        if follows.is_ascii_alphanumeric() {
            return Err(bad());
        }
        let value = parse_float(&rest[..length]).ok_or_else(bad)?;
        self.at += length;
        Ok(Kind::Number(value))
    }

    fn text(&mut self, quote: char) -> Result<String, SyntaxError> {
        let start = self.at;
        let rest = &self.query[start + 1..];
        let unterminated = || SyntaxError::new(start, "unterminated quoted string");
        if quote == '`' {
            let length = rest.find('`').ok_or_else(|| SyntaxError::new(start, "unterminated raw string"))?;
            self.at += length + 2;
            return Ok(rest[..length].to_owned());
        }
        let mut bytes = Vec::new();
        let mut characters = rest.char_indices();
        while let Some((at, character)) = characters.next() {
            match character {
                _ if character == quote => {
                    self.at += at + 2;
                    return String::from_utf8(bytes).map_err(|_| SyntaxError::new(start, "string is not valid UTF-8"));
                }
                '\n' => return Err(unterminated()),
                '\\' => escape(&mut characters, &mut bytes).map_err(|message| SyntaxError::new(start, message))?,
                _ => bytes.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes()),
            }
        }
        Err(unterminated())
    }
}

/// What an escape stands for, as bytes: `\xc3\xa9` are two escapes and one character.
fn escape(characters: &mut std::str::CharIndices<'_>, bytes: &mut Vec<u8>) -> Result<(), String> {
    let (_, kind) = characters.next().ok_or("escape sequence not terminated")?;
    let mut digits = |count: usize, radix: u32, first: Option<char>| -> Result<u32, String> {
        let mut value = first.map_or(Some(0), |digit| digit.to_digit(radix)).ok_or("unknown escape sequence")?;
        for _ in 0..count {
            let digit = characters.next().and_then(|(_, digit)| digit.to_digit(radix));
            value = value * radix + digit.ok_or("illegal character in escape sequence")?;
        }
        Ok(value)
    };
    let byte = |value: u32| u8::try_from(value).map_err(|_| "escape sequence is no byte".to_owned());
    let simple = match kind {
        'a' => 7,
        'b' => 8,
        'f' => 12,
        'n' => b'\n',
        'r' => b'\r',
        't' => b'\t',
        'v' => 11,
        '\\' | '\'' | '"' => u8::try_from(kind).map_err(|error| error.to_string())?,
        'x' => byte(digits(2, 16, None)?)?,
        '0'..='7' => byte(digits(2, 8, Some(kind))?)?,
        'u' | 'U' => {
            let value = digits(if kind == 'u' { 4 } else { 8 }, 16, None)?;
            let character = char::from_u32(value).ok_or("escape sequence is an invalid Unicode code point")?;
            bytes.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
            return Ok(());
        }
        _ => return Err(format!("unknown escape sequence {kind:?}")),
    };
    bytes.push(simple);
    Ok(())
}

fn first_word(text: &str) -> &str {
    &text[..text.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).unwrap_or(text.len())]
}

/// A float as Prometheus writes it, underscores and infinities included.
pub(crate) fn parse_float(text: &str) -> Option<f64> {
    let plain = text.replace('_', "");
    let (sign, magnitude) = match plain.strip_prefix('-') {
        Some(rest) => (-1.0, rest),
        None => (1.0, plain.strip_prefix('+').unwrap_or(&plain)),
    };
    let value = match magnitude.to_ascii_lowercase().as_str() {
        "inf" => f64::INFINITY,
        "nan" => f64::NAN,
        "" | "infinity" => return None,
        other => match other.strip_prefix("0x") {
            Some(digits) => u64::from_str_radix(digits, 16).ok()? as f64,
            None => other.parse().ok()?,
        },
    };
    Some(sign * value)
}

/// A duration like `1h30m` in seconds; each unit at most once and from long to short.
pub(crate) fn duration_seconds(text: &str) -> Option<f64> {
    let mut rest = text;
    let mut milliseconds = 0.0;
    let mut last = f64::INFINITY;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).filter(|digits| *digits > 0)?;
        let number: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let (unit, factor) = UNITS.iter().find(|(unit, _)| rest.starts_with(unit))?;
        if *factor >= last {
            return None;
        }
        last = *factor;
        milliseconds += number * factor;
        rest = &rest[unit.len()..];
    }
    (last.is_finite()).then_some(milliseconds / 1_000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_count_in_seconds_from_long_units_to_short_ones() {
        assert_eq!(duration_seconds("1h30m"), Some(5_400.0));
        assert_eq!(duration_seconds("1ms"), Some(0.001));
        assert_eq!(duration_seconds("30m1h"), None);
        assert_eq!(duration_seconds("5"), None);
        assert_eq!(duration_seconds(""), None);
    }

    #[test]
    fn escapes_of_bytes_join_to_characters() {
        let kinds: Vec<_> =
            tokens(r#""\xc3\xa9\n" 'it\'s' `\n`"#).unwrap().into_iter().map(|token| token.kind).collect();
        let texts = ["é\n", "it's", "\\n"].map(|text| Kind::Text(text.to_owned()));
        assert_eq!(kinds, [texts.to_vec(), vec![Kind::End]].concat());
    }
}
