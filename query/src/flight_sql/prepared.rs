//! Prepared statements: text and values under a handle. Clients forget to close them, so each is dropped an hour after
//! its last use; and there is a bound on their number and bytes, beyond which preparing is refused.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tonic::Status;
use uuid::Uuid;

use crate::ask::Parameter;

/// Most statements: some for each connection that there may be.
const MAX_STATEMENTS: usize = 1_024;
/// Most bytes of all texts and values.
const MAX_BYTES: usize = 32 * 1024 * 1024;
/// Time after which a statement that nobody uses is dropped.
const IDLE: Duration = Duration::from_secs(3_600);

/// A statement and the values that it was given.
#[derive(Debug, Clone)]
pub(crate) struct Prepared {
    pub(crate) sql: String,
    pub(crate) parameters: Vec<Parameter>,
    bytes: usize,
    used: Instant,
}

/// All statements.
#[derive(Debug, Default)]
pub(crate) struct Statements(Mutex<HashMap<Uuid, Prepared>>);

impl Statements {
    /// Keeps a statement; its handle.
    pub(crate) fn keep(&self, sql: String) -> Result<Uuid, Status> {
        let mut all = self.0.lock();
        let bytes = sql.len();
        room(&mut all, bytes)?;
        let handle = Uuid::new_v4();
        all.insert(handle, Prepared { sql, parameters: Vec::new(), bytes, used: Instant::now() });
        Ok(handle)
    }

    /// Gives a statement its values; `bytes` is about what they take.
    pub(crate) fn bind(&self, handle: &[u8], parameters: Vec<Parameter>, bytes: usize) -> Result<(), Status> {
        let mut all = self.0.lock();
        room(&mut all, bytes)?;
        let prepared = Uuid::from_slice(handle).ok().and_then(|handle| all.get_mut(&handle)).ok_or_else(unknown)?;
        prepared.bytes = prepared.sql.len() + bytes;
        prepared.parameters = parameters;
        prepared.used = Instant::now();
        Ok(())
    }

    /// A statement by its handle.
    pub(crate) fn find(&self, handle: &[u8]) -> Result<Prepared, Status> {
        let mut all = self.0.lock();
        let prepared = Uuid::from_slice(handle).ok().and_then(|handle| all.get_mut(&handle)).ok_or_else(unknown)?;
        prepared.used = Instant::now();
        Ok(prepared.clone())
    }

    /// Forgets a statement, if it is there.
    pub(crate) fn close(&self, handle: &[u8]) {
        if let Ok(handle) = Uuid::from_slice(handle) {
            self.0.lock().remove(&handle);
        }
    }
}

fn room(all: &mut HashMap<Uuid, Prepared>, bytes: usize) -> Result<(), Status> {
    let full = |all: &HashMap<Uuid, Prepared>| {
        all.len() >= MAX_STATEMENTS || all.values().map(|prepared| prepared.bytes).sum::<usize>() + bytes > MAX_BYTES
    };
    if full(all) {
        all.retain(|_, prepared| prepared.used.elapsed() < IDLE);
    }
    if full(all) {
        return Err(Status::resource_exhausted(
            "too many prepared statements are open (close those that are done with)",
        ));
    }
    Ok(())
}

fn unknown() -> Status {
    Status::not_found(
        "there is no such prepared statement (it was closed, not used for an hour, or the service restarted)",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_statement_is_found_until_it_is_closed() {
        let statements = Statements::default();
        let handle = statements.keep("SELECT $1".to_owned()).unwrap();
        statements.bind(handle.as_bytes(), vec![Parameter::Integer(1)], 8).unwrap();
        assert_eq!(statements.find(handle.as_bytes()).unwrap().parameters, [Parameter::Integer(1)]);
        statements.close(handle.as_bytes());
        for handle in [&handle.as_bytes()[..], b"", b"nonsense"] {
            assert_eq!(statements.find(handle).unwrap_err().code(), tonic::Code::NotFound);
        }
    }

    #[test]
    fn more_than_there_is_room_for_is_refused() {
        let statements = Statements::default();
        for _ in 0..MAX_STATEMENTS {
            statements.keep("SELECT 1".to_owned()).unwrap();
        }
        assert_eq!(statements.keep("SELECT 1".to_owned()).unwrap_err().code(), tonic::Code::ResourceExhausted);
        let few = Statements::default();
        let handle = few.keep("SELECT $1".to_owned()).unwrap();
        let refused = few.bind(handle.as_bytes(), Vec::new(), MAX_BYTES).unwrap_err();
        assert_eq!(refused.code(), tonic::Code::ResourceExhausted);
    }
}
