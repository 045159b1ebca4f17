//! The words of `COPY … TO STDOUT`, in today's form with options in parentheses and in the older one that psql's `\copy`
//! still sends. Nothing is copied from or to a file: no statement reaches one.

use datafusion::sql::sqlparser::tokenizer::Token;

use super::{Statement, between, name_of, question, upper};
use crate::postgres::copy::{Form, Kind};
use crate::postgres::failure::Problem;

/// `COPY {relation [(columns)] | (query)} TO STDOUT [options]`.
pub(super) fn copy(sql: &str, words: &[Token]) -> Result<Statement, Problem> {
    let end = match words.get(1) {
        Some(Token::LParen) => Some(closing(words, 1).ok_or_else(|| wrong("COPY has a query that does not end"))? + 1),
        _ => None,
    };
    let of = |word: &Token| matches!(upper(word).as_str(), "TO" | "FROM");
    let to = end.or_else(|| words.iter().position(of));
    let is_out = to.is_some_and(|to| {
        let at = |index: usize| words.get(index).map(upper).unwrap_or_default();
        at(to) == "TO" && at(to + 1) == "STDOUT"
    });
    let (Some(to), true) = (to, is_out) else {
        let hint = "COPY (SELECT …) TO STDOUT; psql's \\copy writes a file on your side";
        return Err(Problem::unsupported("COPY is offered to STDOUT only", Some(hint)));
    };
    let sql = match (end, words.iter().position(|word| *word == Token::LParen).filter(|open| *open < to)) {
        (Some(end), _) => between(sql, 2, Some(end - 1)).to_owned(),
        (None, Some(open)) if open > 1 => {
            let close = closing(words, open).ok_or_else(|| wrong("COPY has a list of columns that does not end"))?;
            format!("SELECT {} FROM {}", between(sql, open + 1, Some(close)), between(sql, 1, Some(open)))
        }
        _ => format!("SELECT * FROM {}", between(sql, 1, Some(to))),
    };
    Ok(Statement::Copy { query: Box::new(question(&sql)), form: form(&words[to + 2..])? })
}

/// Where a parenthesis is closed.
fn closing(words: &[Token], open: usize) -> Option<usize> {
    let mut depth = 0_usize;
    words.iter().enumerate().skip(open).find_map(|(index, word)| {
        match word {
            Token::LParen => depth += 1,
            Token::RParen => depth -= 1,
            _ => {}
        }
        (depth == 0).then_some(index)
    })
}

fn form(words: &[Token]) -> Result<Form, Problem> {
    let filler = |word: &&Token| {
        !matches!(word, Token::LParen | Token::RParen | Token::Comma) && !matches!(upper(word).as_str(), "WITH" | "AS")
    };
    let mut words = words.iter().filter(filler).peekable();
    let (mut kind, mut header, mut delimiter, mut null) = (Kind::Text, false, None, None);
    while let Some(word) = words.next() {
        let option = upper(word);
        let mut value = || words.next().map(name_of).ok_or_else(|| wrong(&format!("{option} has no value")));
        match option.as_str() {
            "FORMAT" => kind = kind_of(&value()?)?,
            "TEXT" | "CSV" | "BINARY" => kind = kind_of(&option)?,
            "DELIMITER" => delimiter = Some(value()?),
            "NULL" => null = Some(value()?),
            "ENCODING" if value()?.to_ascii_uppercase().replace('-', "") == "UTF8" => {}
            "HEADER" => {
                let said = |word: &&Token| {
                    matches!(name_of(word).to_ascii_lowercase().as_str(), "true" | "on" | "1" | "false" | "off" | "0")
                };
                let said = words.next_if(said).map(name_of);
                header = said.is_none_or(|said| matches!(said.to_ascii_lowercase().as_str(), "true" | "on" | "1"));
            }
            _ => {
                let hint = "options are FORMAT (text, csv, binary), HEADER, DELIMITER, NULL and ENCODING 'UTF8'";
                return Err(Problem::unsupported(format!("COPY does not offer {}", name_of(word)), Some(hint)));
            }
        }
    }
    Form::new(kind, header, delimiter.as_deref(), null)
}

fn kind_of(name: &str) -> Result<Kind, Problem> {
    match name.to_ascii_uppercase().as_str() {
        "TEXT" => Ok(Kind::Text),
        "CSV" => Ok(Kind::Csv),
        "BINARY" => Ok(Kind::Binary),
        other => Err(Problem::new("22023", format!("there is no format {other}"), Some("text, csv, binary"))),
    }
}

fn wrong(message: &str) -> Problem {
    Problem::new("42601", message, None)
}
