//! The words of cursors: `DECLARE`, `FETCH`, `MOVE`, `CLOSE`. A cursor goes forward only: its rows flow by, and going back
//! would mean to keep them all.

use datafusion::sql::sqlparser::tokenizer::Token;

use super::{Statement, between, question, upper};
use crate::postgres::failure::Problem;

const FORWARD_ONLY: &str = "a cursor goes forward only: NEXT, a count, ALL, or FORWARD with one of these";

/// `DECLARE name [NO SCROLL] CURSOR [WITH HOLD] FOR query`.
pub(super) fn declare(sql: &str, words: &[Token]) -> Result<Statement, Problem> {
    let at = |index: usize| words.get(index).map(upper).unwrap_or_default();
    let name = words.get(1).and_then(identifier).ok_or_else(|| wrong("DECLARE wants a name"))?;
    let mut next = 2;
    while at(next) != "CURSOR" {
        next += match (at(next).as_str(), at(next + 1).as_str()) {
            ("NO", "SCROLL") => 2,
            ("INSENSITIVE" | "ASENSITIVE", _) => 1,
            ("SCROLL", _) => return Err(Problem::unsupported("SCROLL is not offered", Some(FORWARD_ONLY))),
            ("BINARY", _) => {
                let hint = "a driver's binary results have it";
                return Err(Problem::unsupported("BINARY is not offered", Some(hint)));
            }
            _ => return Err(wrong("DECLARE wants the word CURSOR after the name")),
        };
    }
    next += 1;
    let holds = match (at(next).as_str(), at(next + 1).as_str()) {
        ("WITH", "HOLD") => Some(true),
        ("WITHOUT", "HOLD") => Some(false),
        _ => None,
    };
    next += holds.map_or(0, |_| 2);
    if at(next) != "FOR" {
        return Err(wrong("DECLARE wants FOR and a query"));
    }
    let query = Box::new(question(between(sql, next + 1, None)));
    Ok(Statement::Declare { name, holds: holds.unwrap_or_default(), query })
}

/// `FETCH` and `MOVE`, `[FORWARD] [count | ALL] [FROM | IN] name`.
pub(super) fn fetch(words: &[Token], moves: bool) -> Result<Statement, Problem> {
    let wants_name = || wrong("FETCH and MOVE want the name of a cursor");
    let (name, rest) = words.split_last().ok_or_else(wants_name)?;
    let name = identifier(name).ok_or_else(wants_name)?;
    let rest = match rest.split_last() {
        Some((last, before)) if matches!(upper(last).as_str(), "FROM" | "IN") => before,
        _ => rest,
    };
    let rest = match rest {
        [first, after @ ..] if upper(first) == "FORWARD" => after,
        all => all,
    };
    let rows = match rest {
        [] => Some(1),
        [one] => match (one, upper(one).as_str()) {
            (_, "NEXT") => Some(1),
            (_, "ALL") => None,
            (Token::Number(digits, _), _) => Some(count(digits)?),
            _ => return Err(backward()),
        },
        _ => return Err(backward()),
    };
    Ok(Statement::Fetch { name, rows, moves })
}

/// `CLOSE name` or `CLOSE ALL`.
pub(super) fn close(words: &[Token]) -> Result<Statement, Problem> {
    match words {
        [all] if upper(all) == "ALL" => Ok(Statement::Close(None)),
        [name] if identifier(name).is_some() => Ok(Statement::Close(identifier(name))),
        _ => Err(wrong("CLOSE wants the name of a cursor, or ALL")),
    }
}

fn count(digits: &str) -> Result<usize, Problem> {
    let count = digits.parse().map_err(|_| wrong("a count of rows is a whole number"))?;
    if count == 0 { Err(backward()) } else { Ok(count) }
}

/// A name; without quotes in small letters, as Postgres reads it.
fn identifier(word: &Token) -> Option<String> {
    match word {
        Token::Word(word) if word.quote_style.is_none() => Some(word.value.to_ascii_lowercase()),
        Token::Word(word) => Some(word.value.clone()),
        _ => None,
    }
}

fn wrong(message: &str) -> Problem {
    Problem::new("42601", message, None)
}

fn backward() -> Problem {
    Problem::new("55000", "a cursor cannot go there", Some(FORWARD_ONLY))
}
