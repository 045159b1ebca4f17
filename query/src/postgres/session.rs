//! What one connection has said about itself: its settings, the names that it keeps statements under, and the answers that
//! it reads bit by bit.
//!
//! The settings are a closed list. Two of them steer answers; those that drivers send as a matter of course are taken
//! where they ask for what is done anyway, and remembered to be shown. No setting of the engine is among them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use arrow::datatypes::SchemaRef;
use lariat_schema::duration_text;
use parking_lot::Mutex;

use super::failure::Problem;
use super::open::Open;
use crate::ports::relations::{CATALOG, SCHEMA};

/// The version of Postgres whose catalog and words are spoken.
pub(crate) const SERVER_VERSION: &str = "15.0";
/// The same as a number.
const SERVER_VERSION_NUMBER: &str = "150000";
/// Most names of prepared statements, and of portals, on one connection.
const MAX_NAMES: usize = 256;
/// Longest value of a setting that is remembered.
const MAX_VALUE_BYTES: usize = 1_000;

const MIN_COVERAGE: &str = "lariat.min_coverage";
const DEADLINE: &str = "lariat.deadline";
/// Postgres's own word for a deadline: milliseconds, or a duration; zero for none.
const STATEMENT_TIMEOUT: &str = "statement_timeout";

/// Settings that are taken and change nothing, and their values.
const TAKEN: &[(&str, &str)] = &[
    ("application_name", ""),
    ("bytea_output", "hex"),
    ("client_min_messages", "notice"),
    ("datestyle", "ISO, MDY"),
    ("default_transaction_isolation", "read committed"),
    ("default_transaction_read_only", "on"),
    ("extra_float_digits", "1"),
    ("idle_in_transaction_session_timeout", "0"),
    ("intervalstyle", "postgres"),
    ("lock_timeout", "0"),
    ("search_path", SCHEMA),
    ("timezone", "UTC"),
    ("transaction_isolation", "read committed"),
    ("transaction_read_only", "on"),
];

/// Settings that cannot be changed, and their values.
const FIXED: &[(&str, &str)] = &[
    ("client_encoding", "UTF8"),
    ("in_hot_standby", "off"),
    ("integer_datetimes", "on"),
    ("is_superuser", "off"),
    ("max_identifier_length", "63"),
    ("server_encoding", "UTF8"),
    ("server_version", SERVER_VERSION),
    ("server_version_num", SERVER_VERSION_NUMBER),
    ("standard_conforming_strings", "on"),
];

/// One connection.
#[derive(Default)]
pub(crate) struct Session(Mutex<State>);

#[derive(Default)]
struct State {
    user: String,
    min_coverage: Option<f64>,
    deadline: Option<Duration>,
    taken: BTreeMap<&'static str, String>,
    statements: BTreeSet<String>,
    portals: BTreeSet<String>,
    /// Answers of portals and cursors, which share their names, as far as they are read.
    open: BTreeMap<String, Open>,
}

/// What a question of this connection asks for beside its SQL.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Wishes {
    pub(crate) min_coverage: Option<f64>,
    pub(crate) deadline: Option<Duration>,
}

/// What a name is kept for.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Named {
    Statement,
    Portal,
}

impl Session {
    /// Takes what a client says when it begins: its name, and settings by themselves or as `-c name=value`.
    pub(crate) fn begin<'a>(&self, parameters: impl Iterator<Item = (&'a str, &'a str)>) -> Result<(), Problem> {
        for (name, value) in parameters {
            match name {
                "user" => self.0.lock().user = value.to_owned(),
                "database" | "replication" => {}
                "options" => {
                    for (name, value) in options(value) {
                        self.set(&name.to_ascii_lowercase(), Some(value))?;
                    }
                }
                // Drivers send settings of their own here, which are nobody's fault.
                other => match self.set(&other.to_ascii_lowercase(), Some(value)) {
                    Err(problem) if other.starts_with("lariat.") => return Err(problem),
                    _ => {}
                },
            }
        }
        Ok(())
    }

    /// Changes a setting; `None` is its default.
    pub(crate) fn set(&self, name: &str, value: Option<&str>) -> Result<(), Problem> {
        let mut state = self.0.lock();
        let wrong = |what: &str| Problem::new("22023", format!("{name} is {what}"), None);
        match (name, value) {
            (MIN_COVERAGE, value) => {
                let number = value.map(|text| text.parse().ok().filter(|number| (0.0..=1.0).contains(number)));
                state.min_coverage = match number {
                    Some(None) => return Err(wrong("a number from 0 to 1")),
                    other => other.flatten(),
                };
            }
            (DEADLINE, value) => {
                let parsed = value.map(duration_text::parse).transpose();
                state.deadline = parsed.map_err(|error| wrong(&format!("a duration, as 500ms or 2s: {error}")))?;
            }
            (STATEMENT_TIMEOUT, value) => {
                let parsed = value.map(timeout).unwrap_or(Some(Duration::ZERO));
                let timeout = parsed.ok_or_else(|| wrong("milliseconds, or a duration, as 500ms or 2s"))?;
                state.deadline = (!timeout.is_zero()).then_some(timeout);
            }
            ("client_encoding", Some(encoding)) if !is_utf8(encoding) => {
                return Err(Problem::unsupported(format!("{encoding} is not offered"), Some("use UTF8")));
            }
            ("client_encoding", _) => {}
            (name, value) => match TAKEN.iter().find(|(taken, _)| *taken == name) {
                Some((taken, _)) => match value.filter(|value| value.len() <= MAX_VALUE_BYTES) {
                    Some(value) => drop(state.taken.insert(taken, value.to_owned())),
                    None => drop(state.taken.remove(taken)),
                },
                None if FIXED.iter().any(|(fixed, _)| *fixed == name) => {
                    return Err(Problem::new("55P02", format!("{name} cannot be changed"), None));
                }
                None => return Err(unknown(name)),
            },
        }
        Ok(())
    }

    /// All settings become their defaults.
    pub(crate) fn reset(&self) {
        let mut state = self.0.lock();
        (state.min_coverage, state.deadline) = (None, None);
        state.taken.clear();
    }

    /// The value of a setting.
    pub(crate) fn show(&self, name: &str) -> Result<String, Problem> {
        let state = self.0.lock();
        let of = |list: &[(&str, &str)]| list.iter().find(|(of, _)| *of == name).map(|(_, value)| (*value).to_owned());
        Ok(match name {
            MIN_COVERAGE => state.min_coverage.map_or_else(|| "0".to_owned(), |ratio| ratio.to_string()),
            DEADLINE => state.deadline.map_or_else(String::new, |deadline| format!("{}ms", deadline.as_millis())),
            STATEMENT_TIMEOUT => format!("{}", state.deadline.unwrap_or_default().as_millis()),
            "session_authorization" => state.user.clone(),
            _ => {
                let value = state.taken.get(name).cloned().or_else(|| of(TAKEN)).or_else(|| of(FIXED));
                value.ok_or_else(|| unknown(name))?
            }
        })
    }

    /// All settings that can be shown.
    pub(crate) fn all(&self) -> Vec<(&'static str, String)> {
        let names = TAKEN.iter().chain(FIXED).map(|(name, _)| *name).chain([MIN_COVERAGE, DEADLINE, STATEMENT_TIMEOUT]);
        let mut all: Vec<_> = names.filter_map(|name| Some((name, self.show(name).ok()?))).collect();
        all.sort_unstable();
        all
    }

    pub(crate) fn wishes(&self) -> Wishes {
        let state = self.0.lock();
        Wishes { min_coverage: state.min_coverage, deadline: state.deadline }
    }

    /// The name that the client gave; nothing depends on it.
    pub(crate) fn user(&self) -> String {
        let user = self.0.lock().user.clone();
        if user.is_empty() { CATALOG.to_owned() } else { user }
    }

    /// Notes a name, if there is room for it. A portal takes the place of the one that had its name.
    pub(crate) fn keep(&self, named: Named, name: &str) -> Result<(), Problem> {
        let mut state = self.0.lock();
        let names = names(&mut state, named);
        if names.len() >= MAX_NAMES && !names.contains(name) {
            return Err(Problem::new(
                "54000",
                format!("a connection keeps at most {MAX_NAMES} of these"),
                Some("close those that are done with"),
            ));
        }
        names.insert(name.to_owned());
        if matches!(named, Named::Portal) {
            state.open.remove(name);
        }
        Ok(())
    }

    /// Notes the name of a cursor, which nothing else may have.
    pub(crate) fn declare(&self, name: &str) -> Result<(), Problem> {
        if self.0.lock().portals.contains(name) {
            let hint = "CLOSE it first, or take another name";
            return Err(Problem::new("42P03", format!("there is a cursor \"{name}\" already"), Some(hint)));
        }
        self.keep(Named::Portal, name)
    }

    pub(crate) fn forget(&self, named: Named, name: &str) {
        let mut state = self.0.lock();
        names(&mut state, named).remove(name);
        if matches!(named, Named::Portal) {
            state.open.remove(name);
        }
    }

    /// Forgets all statements; which they were.
    pub(crate) fn forget_statements(&self) -> BTreeSet<String> {
        std::mem::take(&mut self.0.lock().statements)
    }

    /// A transaction has ended: only what was declared to outlive it stays.
    pub(crate) fn end_transaction(&self) {
        let mut state = self.0.lock();
        state.open.retain(|_, open| open.holds);
        let State { portals, open, .. } = &mut *state;
        portals.retain(|name| open.contains_key(name));
    }

    /// Takes an answer to read more of it; whoever has read puts it back.
    pub(crate) fn take(&self, name: &str) -> Option<Open> {
        self.0.lock().open.remove(name)
    }

    /// Puts an answer back, or there for the first time.
    pub(crate) fn put(&self, name: String, open: Open) {
        self.0.lock().open.insert(name, open);
    }

    /// The columns of an answer that is being read.
    pub(crate) fn columns(&self, name: &str) -> Option<SchemaRef> {
        self.0.lock().open.get(name).map(|open| open.schema.clone())
    }

    /// Closes a cursor, or all of them; whether there was one.
    pub(crate) fn close(&self, name: Option<&str>) -> bool {
        let mut state = self.0.lock();
        let names: Vec<String> = match name {
            Some(name) => state.open.contains_key(name).then(|| name.to_owned()).into_iter().collect(),
            None => state.open.keys().cloned().collect(),
        };
        for name in &names {
            state.open.remove(name);
            state.portals.remove(name);
        }
        name.is_none() || !names.is_empty()
    }
}

fn names(state: &mut State, named: Named) -> &mut BTreeSet<String> {
    match named {
        Named::Statement => &mut state.statements,
        Named::Portal => &mut state.portals,
    }
}

fn unknown(name: &str) -> Problem {
    let hint = "settings are lariat.min_coverage, lariat.deadline and those that drivers of Postgres send";
    Problem::new("42704", format!("there is no setting `{name}`"), Some(hint))
}

fn is_utf8(encoding: &str) -> bool {
    matches!(encoding.to_ascii_uppercase().replace(['-', '_'], "").as_str(), "UTF8" | "UNICODE" | "SQLASCII")
}

fn timeout(text: &str) -> Option<Duration> {
    text.parse().map(Duration::from_millis).ok().or_else(|| duration_text::parse(text).ok())
}

/// The settings in `-c name=value --name=value`.
fn options(text: &str) -> Vec<(&str, &str)> {
    let words: Vec<&str> = text.split_ascii_whitespace().collect();
    let settings = words.iter().enumerate().filter_map(|(index, word)| {
        let after_flag = index > 0 && words[index - 1] == "-c";
        let setting =
            if after_flag { Some(*word) } else { word.strip_prefix("-c").or_else(|| word.strip_prefix("--")) };
        setting?.split_once('=')
    });
    settings.collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::datatypes::Schema;

    use super::*;

    #[test]
    fn settings_that_steer_answers_are_checked_and_taken() {
        let session = Session::default();
        session.set(MIN_COVERAGE, Some("0.9")).unwrap();
        session.set(DEADLINE, Some("500ms")).unwrap();
        let wishes = Wishes { min_coverage: Some(0.9), deadline: Some(Duration::from_millis(500)) };
        assert_eq!(session.wishes(), wishes);
        session.set(STATEMENT_TIMEOUT, Some("2000")).unwrap();
        assert_eq!(session.show(DEADLINE).unwrap(), "2000ms");
        for (name, value) in
            [(MIN_COVERAGE, "2"), (MIN_COVERAGE, "all"), (DEADLINE, "soon"), ("client_encoding", "LATIN1")]
        {
            assert!(session.set(name, Some(value)).is_err(), "{name} {value}");
        }
        session.set(MIN_COVERAGE, None).unwrap();
        session.reset();
        assert_eq!(session.wishes(), Wishes { min_coverage: None, deadline: None });
    }

    #[test]
    fn no_setting_of_the_engine_can_be_reached() {
        let session = Session::default();
        for name in ["datafusion.execution.batch_size", "server_version", "nonsense"] {
            assert!(session.set(name, Some("1")).is_err(), "{name}");
        }
    }

    #[test]
    fn a_client_can_begin_with_settings() {
        let session = Session::default();
        let options = "-c lariat.min_coverage=0.5 -clariat.deadline=2s --timezone=UTC";
        session.begin([("user", "me"), ("options", options), ("x-driver", "1")].into_iter()).unwrap();
        assert_eq!((session.user().as_str(), session.wishes().min_coverage), ("me", Some(0.5)));
        assert_eq!(session.wishes().deadline, Some(Duration::from_secs(2)));
        assert!(session.begin([("lariat.min_coverage", "7")].into_iter()).is_err());
    }

    #[test]
    fn names_are_bounded_and_can_be_used_again() {
        let session = Session::default();
        for number in 0..MAX_NAMES {
            session.keep(Named::Statement, &number.to_string()).unwrap();
        }
        session.keep(Named::Statement, "0").unwrap();
        assert!(session.keep(Named::Statement, "one more").is_err());
        session.forget(Named::Statement, "0");
        session.keep(Named::Statement, "one more").unwrap();
        assert_eq!(session.forget_statements().len(), MAX_NAMES);
    }
    #[test]
    fn cursors_end_with_their_transaction_unless_they_hold() {
        let session = Session::default();
        let open = |holds| {
            let mut open = Open::complete(Arc::new(Schema::empty()), Vec::new());
            open.holds = holds;
            open
        };
        for (name, holds) in [("ends", false), ("stays", true)] {
            session.declare(name).unwrap();
            session.put(name.to_owned(), open(holds));
            assert!(session.declare(name).is_err(), "a name is one cursor's");
        }
        session.end_transaction();
        assert!(session.take("ends").is_none() && session.columns("stays").is_some());
        session.declare("ends").unwrap();
        assert!(session.close(Some("stays")) && !session.close(Some("stays")) && session.close(None));
        session.declare("stays").unwrap();
    }
}
