//! `lariat sql` without a query: a session at a prompt, with history and the commands that users of psql have in their
//! fingers. Reading the line is the library's; what a line means is decided here, by a pure function of what was typed.

use std::path::{Path, PathBuf};

use rustyline::error::ReadlineError;
use rustyline::history::FileHistory;
use rustyline::{Config, Editor};

use super::sql::{Layout, as_table, ask, parameters, print};
use super::{get, progress};
use crate::cli::{Failure, Format, SqlArguments};

/// Lines of history that are kept.
const HISTORY_LINES: usize = 2_000;

const HELP: &str = r"A statement ends with `;` and may take several lines. Ctrl-C ends a question that takes too long.
\d          tables and views
\d NAME     columns of a table
\x          a line per column, on or off
\? or \h    this text
\q          end
";

/// What has been typed so far.
#[derive(Debug, PartialEq, Eq)]
enum Entry {
    /// Nothing.
    Empty,
    /// A statement that has not ended yet.
    Unfinished,
    Statement(String),
    Tables,
    Columns(String),
    Records,
    Help,
    Quit,
    /// A command that there is not.
    Unknown(String),
}

/// Reads what was typed. A `;` ends a statement only outside of quotes and comments.
fn read(typed: &str) -> Entry {
    let trimmed = typed.trim();
    if trimmed.is_empty() {
        return Entry::Empty;
    }
    if let Some(command) = trimmed.strip_prefix('\\') {
        let (name, rest) = command.split_once(char::is_whitespace).unwrap_or((command, ""));
        let rest = rest.trim().trim_end_matches(';');
        return match (name.trim_end_matches(';'), rest) {
            ("d" | "d+" | "dt" | "dv", "") => Entry::Tables,
            ("d" | "d+", table) => Entry::Columns(table.trim_matches('"').to_owned()),
            ("x", "") => Entry::Records,
            ("?" | "h", _) => Entry::Help,
            ("q", _) => Entry::Quit,
            _ => Entry::Unknown(format!("\\{name}")),
        };
    }
    if ["quit", "exit"].contains(&trimmed.trim_end_matches(';').to_ascii_lowercase().as_str()) {
        return Entry::Quit;
    }
    match statement_end(trimmed) {
        Some(0) => Entry::Empty,
        Some(end) => Entry::Statement(trimmed[..end].trim().to_owned()),
        None => Entry::Unfinished,
    }
}

/// Where the first `;` stands that ends a statement, in bytes.
fn statement_end(text: &str) -> Option<usize> {
    let mut within: Option<&str> = None;
    let mut at = 0;
    while at < text.len() {
        let rest = &text[at..];
        let step = rest.chars().next().map_or(1, char::len_utf8);
        match within {
            Some(end) if rest.starts_with(end) => {
                at += end.len();
                within = None;
            }
            Some(_) => at += step,
            None => {
                if rest.starts_with(';') {
                    return Some(at);
                }
                let opened = [("'", "'"), ("\"", "\""), ("--", "\n"), ("/*", "*/")];
                let opened = opened.into_iter().find(|(open, _)| rest.starts_with(open));
                at += opened.map_or(step, |(open, _)| open.len());
                within = opened.map(|(_, close)| close);
            }
        }
    }
    None
}

/// Reads entries until the person ends it.
pub(super) async fn run(arguments: &SqlArguments) -> Result<(), Failure> {
    let broken = |error: ReadlineError| Failure::Failed(format!("cannot read from the terminal: {error}"));
    let config = Config::builder().max_history_size(HISTORY_LINES).map_err(broken)?.auto_add_history(false).build();
    let mut editor: Editor<(), FileHistory> = Editor::with_config(config).map_err(broken)?;
    let history = history_file();
    if let Some(file) = &history {
        // There is none before the first session.
        let _ = editor.load_history(file);
    }
    print(format!("Asking {}. \\? tells the commands, \\q ends.\n", arguments.service.url).as_bytes())?;
    let mut layout = Layout::Automatic;
    let mut typed = String::new();
    loop {
        let prompt = if typed.is_empty() { "lariat> " } else { "     -> " };
        match tokio::task::block_in_place(|| editor.readline(prompt)) {
            Ok(line) => {
                typed.push_str(&line);
                typed.push('\n');
            }
            // Ctrl-C gives up what was typed.
            Err(ReadlineError::Interrupted) => {
                typed.clear();
                continue;
            }
            Err(ReadlineError::Eof) => break,
            Err(error) => return Err(broken(error)),
        }
        let entry = read(&typed);
        if entry == Entry::Unfinished {
            continue;
        }
        let _ = editor.add_history_entry(typed.trim());
        typed.clear();
        if !answer(arguments, entry, &mut layout).await? {
            break;
        }
    }
    if let Some(file) = &history {
        keep(&mut editor, file);
    }
    Ok(())
}

/// Does what an entry says; false ends the session. What goes wrong with a question is shown and the session goes on.
async fn answer(arguments: &SqlArguments, entry: Entry, layout: &mut Layout) -> Result<bool, Failure> {
    let outcome = match entry {
        Entry::Empty | Entry::Unfinished => Ok(()),
        Entry::Quit => return Ok(false),
        Entry::Help => print(HELP.as_bytes()),
        Entry::Records => {
            *layout = if *layout == Layout::Records { Layout::Automatic } else { Layout::Records };
            let now = if *layout == Layout::Records { "a line per column" } else { "tables" };
            print(format!("rows are shown as {now}\n").as_bytes())
        }
        Entry::Unknown(name) => {
            print(format!("there is no command {name}; \\? tells those that there are\n").as_bytes())
        }
        Entry::Tables => {
            let sql = "SELECT table_name AS name, CASE table_type WHEN 'BASE TABLE' THEN 'table' ELSE lower(table_type) END AS kind \
                       FROM information_schema.tables WHERE table_schema = 'public' ORDER BY kind, name";
            question(arguments, sql.to_owned(), *layout).await
        }
        Entry::Columns(table) => {
            // Asked like this, a table that there is not is an error with the nearest name.
            let sql = format!("DESCRIBE \"{}\"", table.replace('"', "\"\""));
            question(arguments, sql, *layout).await
        }
        Entry::Statement(sql) => question(arguments, sql, *layout).await,
    };
    match outcome {
        Ok(()) => Ok(true),
        Err(failure) => print(format!("{failure}\n").as_bytes()).map(|()| true),
    }
}

/// Asks, unless the person gives up: the service ends a question whose client has gone.
async fn question(arguments: &SqlArguments, sql: String, layout: Layout) -> Result<(), Failure> {
    let asked = async {
        if arguments.format != Format::Table {
            return ask(arguments, sql).await;
        }
        let parameters = parameters(arguments, sql);
        let response = progress::shown(get(&arguments.service, "/api/v1/sql", &parameters, None)).await?;
        let text = response.text().await.map_err(|error| Failure::Failed(format!("the answer broke off: {error}")))?;
        print(as_table(&text, layout)?.as_bytes())
    };
    tokio::select! {
        outcome = asked => outcome,
        _ = tokio::signal::ctrl_c() => print(b"given up\n"),
    }
}

/// Where the history of sessions is kept: the user's folder for state, after the XDG base directory specification.
fn history_file() -> Option<PathBuf> {
    let state = std::env::var_os("XDG_STATE_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    let state = state.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".local/state")))?;
    Some(state.join("lariat").join("sql_history"))
}

/// Saves the history; a person who cannot write there has a session all the same.
fn keep(editor: &mut Editor<(), FileHistory>, file: &Path) {
    let saved = file.parent().map_or(Ok(()), std::fs::create_dir_all).map_err(ReadlineError::from);
    if let Err(error) = saved.and_then(|()| editor.save_history(file)) {
        tracing::warn!(%error, file = %file.display(), "the history is not kept");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_statement_ends_at_a_semicolon_outside_of_quotes_and_comments() {
        assert_eq!(read("select 1;"), Entry::Statement("select 1".to_owned()));
        assert_eq!(read("select ';' -- ; no\n from t;\n"), Entry::Statement("select ';' -- ; no\n from t".to_owned()));
        for unfinished in ["select 1", "select ';", "select \"a;b", "select 1 -- ;", "select /* ; ", "select 'it''s;"] {
            assert_eq!(read(unfinished), Entry::Unfinished, "{unfinished}");
        }
        assert_eq!(read("  \n"), Entry::Empty);
        assert_eq!(read(";"), Entry::Empty);
        assert_eq!(read("select 'ß→';"), Entry::Statement("select 'ß→'".to_owned()));
    }

    #[test]
    fn the_commands_of_psql_are_understood() {
        assert_eq!(read(r"\d"), Entry::Tables);
        assert_eq!(read(r"\dt"), Entry::Tables);
        assert_eq!(read(r"\d routing_decisions;"), Entry::Columns("routing_decisions".to_owned()));
        assert_eq!(read(r"\x"), Entry::Records);
        assert_eq!(read(r"\q"), Entry::Quit);
        assert_eq!(read("exit;"), Entry::Quit);
        assert_eq!(read(r"\copy x"), Entry::Unknown(r"\copy".to_owned()));
    }
}
