//! What a question may be: one statement that only reads. Judged on the parsed statement and not on its text, where a
//! comment or a string could hide the word that matters.

use std::collections::{BTreeSet, HashMap};
use std::sync::LazyLock;

use datafusion::sql::parser::{DFParser, Statement};
use datafusion::sql::resolve::resolve_table_references;
use datafusion::sql::sqlparser::ast::Statement as Sql;
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::tokenizer::{Token, Tokenizer};
use lariat_schema::cells::relation;
use lariat_schema::tables::Table;
use lariat_schema::views;

use super::{buckets, parameters};
use crate::ask::{AskError, Parameter, Question};

/// A statement that may run.
#[derive(Debug, Clone)]
pub(crate) struct Parsed {
    /// The statement, without `EXPLAIN`.
    pub(crate) statement: Statement,
    /// Whether its plan is wanted and not its rows.
    pub(crate) explain: bool,
    /// The fleet's tables that it reads, directly or through views.
    pub(crate) tables: Vec<Table>,
    /// Parameters that have no value.
    pub(crate) unbound: usize,
}

const HINT: &str = "one SELECT, WITH, EXPLAIN, SHOW TABLES, SHOW COLUMNS or DESCRIBE";

/// Tables of `information_schema` that say what there is; the others say how the service is set up.
const INFORMATION: [&str; 6] = ["tables", "columns", "views", "schemata", "routines", "parameters"];

/// Longest question, in bytes.
pub(crate) const MAX_BYTES: usize = 256 * 1024;

/// Operators and their like in a question. A tree of so many levels is walked and dropped within the stack of an engine
/// thread ([`lariat_collector::worker::threads::STACK_BYTES`]), also in builds that are not optimised.
const MAX_LINKS: usize = 1_000;

/// Words between expressions.
const LINKING: [Keyword; 19] = [
    Keyword::AND,
    Keyword::OR,
    Keyword::NOT,
    Keyword::XOR,
    Keyword::IS,
    Keyword::IN,
    Keyword::LIKE,
    Keyword::ILIKE,
    Keyword::SIMILAR,
    Keyword::BETWEEN,
    Keyword::UNION,
    Keyword::INTERSECT,
    Keyword::EXCEPT,
    Keyword::JOIN,
    Keyword::CASE,
    Keyword::WHEN,
    Keyword::AT,
    Keyword::COLLATE,
    Keyword::SELECT,
];

fn bad(message: impl Into<String>) -> AskError {
    AskError::BadQuestion { message: message.into(), hint: Some(HINT.to_owned()) }
}

/// Parses, judges and puts the values in.
pub(crate) fn parse(question: &Question) -> Result<Parsed, AskError> {
    let sql = question.sql.as_str();
    is_shallow(sql, MAX_LINKS)?;
    let mut statements =
        DFParser::parse_sql(sql).map_err(|error| bad(format!("this is no SQL: {}", error.strip_backtrace())))?;
    let (Some(statement), None) = (statements.pop_front(), statements.pop_front()) else {
        return Err(bad("exactly one statement can be asked"));
    };
    let (statement, explain) = match statement {
        Statement::Explain(explain) => {
            if explain.options.analyze {
                return Err(bad("EXPLAIN ANALYZE cannot be asked"));
            }
            (*explain.statement, true)
        }
        other => (other, false),
    };
    let mut statement = statement;
    let unbound = bound(&mut statement, explain, &question.parameters)?;
    let mut tables = BTreeSet::new();
    let mut reads_information = false;
    let everything = !matches!(&statement, Statement::Statement(inner) if matches!(inner.as_ref(), Sql::Query(_)));
    let (references, _) = resolve_table_references(&statement, true)
        .map_err(|error| bad(format!("the tables cannot be told: {}", error.strip_backtrace())))?;
    for reference in &references {
        let information = reference.schema() == Some(datafusion::catalog::information_schema::INFORMATION_SCHEMA);
        // SHOW and DESCRIBE look things up there by themselves.
        if information && !everything && !INFORMATION.contains(&reference.table()) {
            return Err(bad(format!("`{reference}` cannot be read")));
        }
        reads_information |= information;
        tables.extend(relation(reference.table()).map(|(table, _)| table));
        tables.extend(UNDER_VIEWS.get(reference.table()).into_iter().flatten());
    }
    if everything || reads_information {
        tables.extend(Table::ALL);
    }
    Ok(Parsed { statement, explain, tables: tables.into_iter().collect(), unbound })
}

/// Puts the values into a statement that only reads, and refuses others. Returns how many parameters are left.
fn bound(statement: &mut Statement, explain: bool, values: &[Parameter]) -> Result<usize, AskError> {
    let Statement::Statement(inner) = statement else { return Err(bad("only reading is possible")) };
    match inner.as_mut() {
        query @ Sql::Query(_) => {
            let unbound = parameters::bind(query, values)?;
            buckets::replace(query);
            Ok(unbound)
        }
        Sql::ShowTables { .. } | Sql::ShowColumns { .. } | Sql::ExplainTable { .. } if !explain => Ok(0),
        _ => Err(bad("only reading is possible")),
    }
}

/// Refuses a text whose tree would be too deep to walk: `1+1+1+…` is as deep as it is long, and a stack that overflows takes
/// the whole service with it. The tokens tell, which are flat.
pub(crate) fn is_shallow(sql: &str, most_links: usize) -> Result<(), AskError> {
    if sql.len() > MAX_BYTES {
        return Err(bad(format!("a question has at most {MAX_BYTES} bytes")));
    }
    // What cannot be taken apart is the parser's to complain about.
    let Ok(tokens) = Tokenizer::new(&GenericDialect {}, sql).tokenize() else { return Ok(()) };
    let links = tokens.iter().filter(|token| is_link(token)).count();
    if links > most_links {
        return Err(bad(format!("a question joins at most {most_links} expressions; write long lists with IN")));
    }
    Ok(())
}

/// Whether a token can put what stands before it one level deeper.
fn is_link(token: &Token) -> bool {
    match token {
        Token::Word(word) => LINKING.contains(&word.keyword),
        Token::Whitespace(_) | Token::Comma | Token::Period | Token::LParen | Token::RParen | Token::SemiColon => false,
        Token::Number(..) | Token::SingleQuotedString(_) | Token::HexStringLiteral(_) | Token::Placeholder(_) => false,
        _ => true,
    }
}

/// The tables under each view.
static UNDER_VIEWS: LazyLock<HashMap<&'static str, Vec<Table>>> =
    LazyLock::new(|| views::ALL.iter().map(|view| (view.name, tables_of(view.sql))).collect());

fn tables_of(sql: &str) -> Vec<Table> {
    let Ok(mut statements) = DFParser::parse_sql(sql) else { return Vec::new() };
    let Some(statement) = statements.pop_front() else { return Vec::new() };
    let Ok((references, _)) = resolve_table_references(&statement, true) else { return Vec::new() };
    references.iter().filter_map(|reference| reference.table().parse().ok()).collect()
}
