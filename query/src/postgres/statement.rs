//! What a client's text asks for: the session, the catalog of relations, or the fleet.
//!
//! Words of the session are read as words and not parsed as SQL: there are few of them, each has one form, and none
//! reaches the engine. A question is about the catalog if every relation that it reads is one of the catalog's, or if it
//! reads none; it is then answered here, without asking a node.

use datafusion::sql::sqlparser::dialect::PostgreSqlDialect;
use datafusion::sql::sqlparser::tokenizer::{Location, Token, TokenWithSpan, Tokenizer};

use super::catalog;
use super::copy::Form;
use super::failure::Problem;

mod copied;
mod cursors;

/// Longest text, in bytes; as long as over HTTP.
const MAX_TEXT_BYTES: usize = 256 * 1024;
/// Most statements in one text.
const MAX_STATEMENTS: usize = 100;

/// One statement.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Statement {
    /// A transaction begins, which nothing depends on: there is nothing to write.
    Begin,
    /// It ends well.
    Commit,
    /// It ends badly.
    Rollback,
    /// A word that changes nothing, with its command tag.
    Nothing(&'static str),
    /// A setting; `None` is its default.
    Set { name: String, value: Option<String> },
    /// All settings become their defaults; a tag.
    Reset(&'static str),
    /// The value of a setting.
    Show { name: String },
    /// Prepared statements are forgotten; `None` is all.
    Deallocate(Option<String>),
    /// A cursor over the rows of a question; one that holds outlives its transaction.
    Declare { name: String, holds: bool, query: Box<Statement> },
    /// Rows of a cursor, all of them if there is no number; or only their number.
    Fetch { name: String, rows: Option<usize>, moves: bool },
    /// A cursor is closed; `None` is all.
    Close(Option<String>),
    /// The rows of a question as one text.
    Copy { query: Box<Statement>, form: Form },
    /// A question about the catalog, or about nothing but itself.
    Catalog { sql: String },
    /// A question to the fleet.
    Fleet { sql: String },
}

/// The statements of a text.
pub(crate) fn statements(text: &str) -> Result<Vec<Statement>, Problem> {
    if text.len() > MAX_TEXT_BYTES {
        return Err(Problem::new("54000", format!("the text is longer than {MAX_TEXT_BYTES} bytes"), None));
    }
    let Ok(tokens) = Tokenizer::new(&PostgreSqlDialect {}, text).tokenize_with_location() else {
        // The engine says what is wrong with it.
        return Ok(vec![Statement::Fleet { sql: text.to_owned() }]);
    };
    let pieces = pieces(text, &tokens);
    if pieces.len() > MAX_STATEMENTS {
        return Err(Problem::new("54000", format!("a text has at most {MAX_STATEMENTS} statements"), None));
    }
    pieces.into_iter().map(|(sql, words)| statement(sql, &words)).collect()
}

/// The texts between semicolons that are more than space and comment, and their words.
fn pieces<'a>(text: &'a str, tokens: &[TokenWithSpan]) -> Vec<(&'a str, Vec<Token>)> {
    let mut offsets = Offsets::new(text);
    let (mut found, mut words, mut start) = (Vec::new(), Vec::new(), 0);
    for token in tokens {
        match &token.token {
            Token::SemiColon => {
                let end = offsets.of(token.span.start);
                if !words.is_empty() {
                    found.push((text[start..end].trim(), std::mem::take(&mut words)));
                }
                start = end + 1;
            }
            Token::Whitespace(_) | Token::EOF => {}
            word => words.push(word.clone()),
        }
    }
    if !words.is_empty() {
        found.push((text[start.min(text.len())..].trim(), words));
    }
    found
}

/// Turns places of tokens, which come in order, into offsets.
struct Offsets<'a> {
    rest: std::str::CharIndices<'a>,
    line: u64,
    column: u64,
    end: usize,
}

impl<'a> Offsets<'a> {
    fn new(text: &'a str) -> Self {
        Self { rest: text.char_indices(), line: 1, column: 1, end: text.len() }
    }

    fn of(&mut self, place: Location) -> usize {
        for (offset, character) in self.rest.by_ref() {
            let here = (self.line, self.column) == (place.line, place.column);
            (self.line, self.column) =
                if character == '\n' { (self.line + 1, 1) } else { (self.line, self.column + 1) };
            if here {
                return offset;
            }
        }
        self.end
    }
}

fn statement(sql: &str, words: &[Token]) -> Result<Statement, Problem> {
    let at = |index: usize| words.get(index).map(upper).unwrap_or_default();
    Ok(match at(0).as_str() {
        "BEGIN" => Statement::Begin,
        "START" if at(1) == "TRANSACTION" => Statement::Begin,
        "COMMIT" | "END" => Statement::Commit,
        "ROLLBACK" if at(1) == "TO" || at(2) == "TO" => Statement::Nothing("ROLLBACK"),
        "ROLLBACK" | "ABORT" => Statement::Rollback,
        "SAVEPOINT" => Statement::Nothing("SAVEPOINT"),
        "RELEASE" => Statement::Nothing("RELEASE"),
        "DISCARD" if at(1) == "ALL" => Statement::Reset("DISCARD ALL"),
        "DISCARD" => Statement::Nothing("DISCARD"),
        "DEALLOCATE" => {
            let name = words.iter().skip(1).map(name_of).find(|name| !name.eq_ignore_ascii_case("prepare"));
            Statement::Deallocate(name.filter(|name| !name.eq_ignore_ascii_case("all")))
        }
        "SET" => set(&words[1..])?,
        "RESET" if at(1) == "ALL" => Statement::Reset("RESET"),
        "RESET" => Statement::Set { name: setting(&words[1..]), value: None },
        "SHOW" if !matches!(at(1).as_str(), "TABLES" | "COLUMNS" | "FULL" | "EXTENDED" | "SCHEMAS") => {
            show(&words[1..])
        }
        "DECLARE" => cursors::declare(sql, words)?,
        "FETCH" => cursors::fetch(&words[1..], false)?,
        "MOVE" => cursors::fetch(&words[1..], true)?,
        "CLOSE" => cursors::close(&words[1..])?,
        "COPY" => copied::copy(sql, words)?,
        "PREPARE" | "EXECUTE" | "LISTEN" | "NOTIFY" | "UNLISTEN" | "LOCK" | "DO" => {
            let hint = "a driver's prepared statements work";
            return Err(Problem::unsupported(format!("{} is not offered", at(0)), Some(hint)));
        }
        _ => question(sql),
    })
}

/// A question, by what answers it.
fn question(sql: &str) -> Statement {
    if catalog::answers(sql) {
        Statement::Catalog { sql: sql.to_owned() }
    } else {
        Statement::Fleet { sql: sql.to_owned() }
    }
}

/// The text of a statement from one of its words to another, or to its end.
fn between(sql: &str, from: usize, to: Option<usize>) -> &str {
    let tokens = Tokenizer::new(&PostgreSqlDialect {}, sql).tokenize_with_location().unwrap_or_default();
    let words = tokens.iter().filter(|token| !matches!(token.token, Token::Whitespace(_) | Token::EOF));
    let mut places = words.map(|word| word.span.start).enumerate();
    let mut offsets = Offsets::new(sql);
    let mut offset = |word: usize| {
        let place = places.find(|(index, _)| *index == word);
        place.map_or(sql.len(), |(_, place)| offsets.of(place))
    };
    let start = offset(from);
    let end = to.map_or(sql.len(), offset);
    sql.get(start..end).unwrap_or_default().trim()
}

/// The rest of `SET`.
fn set(words: &[Token]) -> Result<Statement, Problem> {
    let at = |index: usize| words.get(index).map(upper).unwrap_or_default();
    let words = match at(0).as_str() {
        "SESSION" if matches!(at(1).as_str(), "CHARACTERISTICS") => return Ok(Statement::Nothing("SET")),
        "SESSION" if at(1) == "AUTHORIZATION" => {
            return Err(Problem::unsupported("nobody can be somebody else here", None));
        }
        "TRANSACTION" => return Ok(Statement::Nothing("SET")),
        "SESSION" | "LOCAL" => &words[1..],
        _ => words,
    };
    let at = |index: usize| words.get(index).map(upper).unwrap_or_default();
    let (name, rest) = match (at(0).as_str(), at(1).as_str()) {
        ("TIME", "ZONE") => ("timezone".to_owned(), &words[2..]),
        ("NAMES", _) => ("client_encoding".to_owned(), &words[1..]),
        _ => {
            let end = words.iter().position(|word| *word == Token::Eq || upper(word) == "TO");
            let end = end.ok_or_else(|| Problem::new("42601", "SET wants a name, = or TO, and a value", None))?;
            (setting(&words[..end]), &words[end + 1..])
        }
    };
    if rest.is_empty() {
        return Err(Problem::new("42601", format!("SET {name} has no value"), None));
    }
    let default = rest.len() == 1 && upper(&rest[0]) == "DEFAULT";
    let value: String =
        rest.iter().map(|word| if *word == Token::Comma { ", ".to_owned() } else { name_of(word) }).collect();
    Ok(Statement::Set { name, value: (!default).then_some(value) })
}

fn show(words: &[Token]) -> Statement {
    let all: Vec<String> = words.iter().map(upper).collect();
    let name = match all.join(" ").as_str() {
        "TRANSACTION ISOLATION LEVEL" => "transaction_isolation".to_owned(),
        "TIME ZONE" => "timezone".to_owned(),
        "SESSION AUTHORIZATION" => "session_authorization".to_owned(),
        _ => setting(words),
    };
    Statement::Show { name }
}

/// The name of a setting.
fn setting(words: &[Token]) -> String {
    words.iter().map(name_of).collect::<String>().to_ascii_lowercase()
}

/// A word in capitals, if it is one.
fn upper(word: &Token) -> String {
    match word {
        Token::Word(word) if word.quote_style.is_none() => word.value.to_ascii_uppercase(),
        _ => String::new(),
    }
}

/// A word, text or number as what it stands for.
fn name_of(word: &Token) -> String {
    match word {
        Token::Word(word) => word.value.clone(),
        Token::SingleQuotedString(text) | Token::EscapedStringLiteral(text) => text.clone(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::postgres::copy::Kind;
    use proptest::prelude::*;

    fn one(text: &str) -> Statement {
        let mut all = statements(text).unwrap();
        assert_eq!(all.len(), 1, "{text}");
        all.remove(0)
    }

    fn set_to(name: &str, value: &str) -> Statement {
        Statement::Set { name: name.to_owned(), value: Some(value.to_owned()) }
    }

    #[test]
    fn words_of_the_session_are_read_in_their_forms() {
        assert_eq!(one("begin read only"), Statement::Begin);
        assert_eq!(one("ROLLBACK TO SAVEPOINT a"), Statement::Nothing("ROLLBACK"));
        assert_eq!(one("SET lariat.min_coverage = 0.9"), set_to("lariat.min_coverage", "0.9"));
        assert_eq!(one("set session \"lariat.deadline\" to '500ms'"), set_to("lariat.deadline", "500ms"));
        assert_eq!(one("SET DateStyle = ISO, MDY"), set_to("datestyle", "ISO, MDY"));
        assert_eq!(one("SET TIME ZONE 'UTC'"), set_to("timezone", "UTC"));
        assert_eq!(one("RESET lariat.deadline"), Statement::Set { name: "lariat.deadline".to_owned(), value: None });
        assert_eq!(
            one("SHOW transaction isolation level"),
            Statement::Show { name: "transaction_isolation".to_owned() }
        );
        assert_eq!(one("DEALLOCATE PREPARE ALL"), Statement::Deallocate(None));
        assert!(statements("COPY spans TO '/tmp/x'").is_err() && statements("SET x").is_err());
    }

    #[test]
    fn cursors_are_read_in_the_forms_that_clients_send() {
        let fleet = |sql: &str| Box::new(Statement::Fleet { sql: sql.to_owned() });
        let declared =
            |name: &str, holds: bool, sql: &str| Statement::Declare { name: name.to_owned(), holds, query: fleet(sql) };
        // psql's, psycopg's, and one by hand.
        assert_eq!(
            one("DECLARE _psql_cursor NO SCROLL CURSOR FOR\nSELECT 'ö' /* ; */, time FROM spans"),
            declared("_psql_cursor", false, "SELECT 'ö' /* ; */, time FROM spans")
        );
        assert_eq!(
            one("DECLARE \"A b\" CURSOR WITH HOLD FOR SELECT 1 FROM spans"),
            declared("A b", true, "SELECT 1 FROM spans")
        );
        assert!(matches!(one("declare C cursor for select 1"), Statement::Declare { query, .. }
            if *query == Statement::Catalog { sql: "select 1".to_owned() }));
        let fetched = |name: &str, rows: Option<usize>| Statement::Fetch { name: name.to_owned(), rows, moves: false };
        assert_eq!(one("FETCH FORWARD 100 FROM _psql_cursor"), fetched("_psql_cursor", Some(100)));
        assert_eq!(one("FETCH FORWARD ALL FROM \"A b\""), fetched("A b", None));
        assert_eq!(one("fetch C"), fetched("c", Some(1)));
        assert_eq!(one("FETCH NEXT IN c"), fetched("c", Some(1)));
        assert_eq!(one("MOVE 7 FROM c"), Statement::Fetch { name: "c".to_owned(), rows: Some(7), moves: true });
        assert_eq!(
            (one("CLOSE ALL"), one("CLOSE c")),
            (Statement::Close(None), Statement::Close(Some("c".to_owned())))
        );
        for wrong in [
            "FETCH PRIOR FROM c",
            "FETCH -1 FROM c",
            "FETCH 0 FROM c",
            "MOVE ABSOLUTE 3 FROM c",
            "FETCH",
            "CLOSE",
            "DECLARE c",
            "DECLARE c CURSOR",
            "DECLARE c SCROLL CURSOR FOR SELECT 1",
            "DECLARE c BINARY CURSOR FOR SELECT 1",
        ] {
            assert!(statements(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn copies_are_read_in_both_forms_of_their_options() {
        let copied = |text: &str| match one(text) {
            Statement::Copy { query, form } => (*query, form),
            other => panic!("{other:?}"),
        };
        let fleet = |sql: &str| Statement::Fleet { sql: sql.to_owned() };
        let csv = Form::new(Kind::Csv, true, Some(";"), None).unwrap();
        let asked = fleet("SELECT (time), ')' FROM spans");
        for options in [
            "WITH (FORMAT csv, HEADER, DELIMITER ';')",
            "CSV HEADER DELIMITER AS ';'",
            "(DELIMITER ';', FORMAT 'csv', HEADER true)",
        ] {
            let text = format!("COPY (SELECT (time), ')' FROM spans) TO STDOUT {options}");
            assert_eq!(copied(&text), (asked.clone(), csv.clone()), "{options}");
        }
        let plain = Form::new(Kind::Text, false, None, None).unwrap();
        assert_eq!(copied("copy spans to stdout"), (fleet("SELECT * FROM spans"), plain.clone()));
        assert_eq!(
            copied("COPY public.spans (time, name) TO STDOUT"),
            (fleet("SELECT time, name FROM public.spans"), plain)
        );
        for wrong in [
            "COPY spans FROM STDIN",
            "COPY (SELECT 1) TO '/tmp/x'",
            "COPY (SELECT 1) TO PROGRAM 'x'",
            "COPY (SELECT 1 TO STDOUT",
            "COPY (SELECT 1) TO STDOUT (FORMAT xml)",
            "COPY (SELECT 1) TO STDOUT (QUOTE 'x')",
            "COPY",
        ] {
            assert!(statements(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_text_is_split_at_its_semicolons_and_not_at_those_in_strings_and_comments() {
        let fleet = |sql: &str| Statement::Fleet { sql: sql.to_owned() };
        let text = "SELECT 'ä;' FROM spans; -- a; b\n ;; /* ; */ SELECT \";\" FROM logs ;";
        assert_eq!(
            statements(text).unwrap(),
            [fleet("SELECT 'ä;' FROM spans"), fleet("/* ; */ SELECT \";\" FROM logs")]
        );
        assert!(statements("-- ping").unwrap().is_empty() && statements(" ; ;").unwrap().is_empty());
    }

    #[test]
    fn only_what_reads_nothing_but_the_catalog_stays_here() {
        let here = |sql: &str| matches!(one(sql), Statement::Catalog { .. });
        for sql in [
            "SELECT 1",
            "SELECT version()",
            "SELECT * FROM pg_class c, pg_catalog.pg_namespace",
            "select * from information_schema.tables",
        ] {
            assert!(here(sql), "{sql}");
        }
        for sql in [
            "SELECT * FROM spans",
            "SELECT * FROM pg_class, spans",
            "SELECT * FROM coverage('-1h','0s','1m')",
            "SELECT * FROM nope",
            "DROP TABLE pg_class",
            "SELEC 1",
            "EXPLAIN SELECT 1",
        ] {
            assert!(!here(sql), "{sql}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_split_without_losing_its_statements(texts in proptest::collection::vec("[a-zäé '\\n]{1,12}", 1..5)) {
            // Quotes in pairs, or the text does not end.
            let texts: Vec<String> = texts.iter().map(|text| format!("x{}", text.replace('\'', "''"))).collect();
            if let Ok(found) = statements(&texts.join(";")) {
                prop_assert_eq!(found.len(), texts.len());
            }
        }

        #[test]
        fn arbitrary_text_does_not_panic(text in ".{0,200}") {
            let _ = statements(&text);
        }
    }
}
