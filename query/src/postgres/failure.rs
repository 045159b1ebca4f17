//! Errors with the codes of Postgres: one table. A code is what programs act on, so each fault has its own where Postgres
//! has one; coverage below the wanted has a code of Lariat's own, from the classes that the standard leaves free.

use pgwire::error::{ErrorInfo, PgWireError};

use crate::api::ApiError;
use crate::ask::AskError;

/// Coverage is lower than wanted.
pub(crate) const NOT_COVERED: &str = "LC001";

/// An error as the client sees it.
#[derive(Debug)]
pub(crate) struct Problem {
    pub(crate) sqlstate: &'static str,
    pub(crate) message: String,
    pub(crate) hint: Option<String>,
}

impl Problem {
    pub(crate) fn new(sqlstate: &'static str, message: impl Into<String>, hint: Option<&str>) -> Self {
        Self { sqlstate, message: message.into(), hint: hint.map(str::to_owned) }
    }

    /// A value that is not of its type.
    pub(crate) fn value(message: impl Into<String>) -> Self {
        Self::new("22P02", message, None)
    }

    /// What Postgres has and Lariat has not.
    pub(crate) fn unsupported(message: impl Into<String>, hint: Option<&str>) -> Self {
        Self::new("0A000", message, hint)
    }

    /// A message that does not fit what came before it.
    pub(crate) fn protocol(message: impl Into<String>) -> Self {
        Self::new("08P01", message, None)
    }

    pub(crate) fn info(self, severity: &str) -> ErrorInfo {
        let mut info = ErrorInfo::new(severity.to_owned(), self.sqlstate.to_owned(), self.message);
        info.severity_nonlocalized = Some(severity.to_owned());
        info.hint = self.hint;
        info
    }
}

impl From<Problem> for PgWireError {
    fn from(problem: Problem) -> Self {
        Self::UserError(Box::new(problem.info("ERROR")))
    }
}

impl From<AskError> for Problem {
    fn from(error: AskError) -> Self {
        let sqlstate = match &error {
            AskError::BadQuestion { message, .. } => bad_question(message),
            AskError::TooLarge { .. } => "54000",
            AskError::Busy { .. } | AskError::TooMany { .. } => "53000",
            AskError::NotCovered { .. } => NOT_COVERED,
            AskError::Deadline { .. } | AskError::Gone => "57014",
            AskError::Internal { .. } => "XX000",
        };
        let hint = match &error {
            AskError::NotCovered { .. } => {
                Some("SET lariat.min_coverage lower, or try again when nodes are back".to_owned())
            }
            AskError::Deadline { .. } => Some("narrow the question, or SET lariat.deadline higher".to_owned()),
            _ => None,
        };
        let ApiError { message, hint: general, .. } = ApiError::from(error);
        Self { sqlstate, message, hint: hint.or(general) }
    }
}

/// What is wrong with a question, by the engine's words for it: its errors have no finer type.
fn bad_question(message: &str) -> &'static str {
    let lowered = message.to_ascii_lowercase();
    let has = |words: &str| lowered.contains(words);
    match () {
        () if has("this is no sql") => "42601",
        () if has("only reading is possible") || has("exactly one statement") => "25006",
        () if has("table '") && has("not found") => "42P01",
        () if has("no field named") => "42703",
        () if has("invalid function") || has("no function matches") => "42883",
        () if has("divide by zero") => "22012",
        () if has("cast error") || has("parser error") => "22P02",
        () => "42000",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_fault_has_its_code_and_keeps_its_hint() {
        let bad = |message: &str| AskError::BadQuestion { message: message.to_owned(), hint: Some("try".to_owned()) };
        for (error, sqlstate) in [
            (bad("this is no SQL: x"), "42601"),
            (bad("table 'lariat.public.spams' not found"), "42P01"),
            (bad("No field named duration."), "42703"),
            (bad("only reading is possible"), "25006"),
            (bad("something else"), "42000"),
        ] {
            let problem = Problem::from(error);
            assert_eq!((problem.sqlstate, problem.hint.as_deref()), (sqlstate, Some("try")), "{}", problem.message);
        }
        let problem = Problem::from(AskError::Busy { limit: 32 });
        assert_eq!(problem.sqlstate, "53000");
        assert!(problem.hint.is_some());
    }
}
