//! What is done for a statement, whichever of the two query protocols brought it.

use std::fmt::Debug;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use futures::Sink;
use pgwire::api::portal::Format;
use pgwire::api::results::FieldInfo;
use pgwire::api::store::PortalStore;
use pgwire::api::{ClientInfo, ClientPortalStore, ConnectionManager, RandomPidSecretKeyGenerator};
use pgwire::error::{PgWireError, PgWireResult};
use pgwire::messages::PgWireBackendMessage;
use pgwire::messages::response::TransactionStatus;

use super::catalog::Catalog;
use super::failure::Problem;
use super::open::Open;
use super::rows;
use super::sending::Reply;
use super::session::{Named, Session, Wishes};
use super::statement::Statement;
use crate::ask::{Parameter, Question};
use crate::ports::Shared;
use crate::ports::tally::Protocol;

/// The service behind every connection.
pub(crate) struct Service {
    pub(crate) shared: Shared,
    /// Who can be cancelled, by the keys that were given out.
    pub(crate) connections: Arc<ConnectionManager>,
    pub(crate) keys: RandomPidSecretKeyGenerator,
    pub(crate) catalog: Catalog,
}

/// The session of a connection.
pub(crate) fn session<C: ClientInfo>(client: &C) -> Arc<Session> {
    client.session_extensions().get_or_insert_with(Session::default)
}

impl Service {
    pub(crate) fn new(shared: Shared) -> Self {
        Self {
            shared,
            connections: Arc::default(),
            keys: RandomPidSecretKeyGenerator::default(),
            catalog: Catalog::default(),
        }
    }

    /// Does what a statement says.
    pub(crate) async fn run<C>(
        &self,
        client: &mut C,
        statement: &Statement,
        parameters: Vec<Parameter>,
    ) -> Result<Reply, Problem>
    where
        C: ClientInfo + ClientPortalStore + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::PortalStore: PortalStore,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        let session = session(client);
        let failed = client.transaction_status() == TransactionStatus::Error;
        if failed && !matches!(statement, Statement::Commit | Statement::Rollback) {
            let message = "the transaction has failed; statements are ignored until its end";
            return Err(Problem::new("25P02", message, Some("ROLLBACK")));
        }
        match statement {
            Statement::Begin | Statement::Commit | Statement::Rollback => {
                Ok(transaction(client, &session, statement, failed))
            }
            Statement::Declare { .. } | Statement::Fetch { .. } | Statement::Close(_) => {
                self.cursor(client, &session, statement, parameters).await
            }
            Statement::Copy { query, form } => {
                Ok(Reply::Copied { open: self.open(client, query, parameters).await?, form: form.clone() })
            }
            Statement::Show { .. } | Statement::Catalog { .. } | Statement::Fleet { .. } => {
                Ok(Reply::Rows(self.open(client, statement, parameters).await?))
            }
            Statement::Nothing(tag) => Ok(Reply::Done((*tag).to_owned())),
            Statement::Set { name, value } => {
                session.set(name, value.as_deref())?;
                Ok(Reply::Done("SET".to_owned()))
            }
            Statement::Reset(tag) => {
                session.reset();
                Ok(Reply::Done((*tag).to_owned()))
            }
            Statement::Deallocate(name) => {
                let names = match name {
                    Some(name) => [name.clone()].into(),
                    None => session.forget_statements(),
                };
                for name in &names {
                    client.portal_store().rm_statement(name);
                    session.forget(Named::Statement, name);
                }
                Ok(Reply::Done("DEALLOCATE".to_owned()))
            }
        }
    }

    /// Does what a statement about a cursor says.
    async fn cursor<C: ClientInfo + Sync>(
        &self,
        client: &C,
        session: &Session,
        statement: &Statement,
        parameters: Vec<Parameter>,
    ) -> Result<Reply, Problem> {
        match statement {
            Statement::Declare { name, holds: false, .. } if client.transaction_status() == TransactionStatus::Idle => {
                let message = format!("the cursor \"{name}\" would end with its transaction, and there is none");
                Err(Problem::new("25P01", message, Some("BEGIN first, or declare it WITH HOLD")))
            }
            Statement::Declare { name, holds, query } => {
                session.declare(name)?;
                let opened = self.open(client, query, parameters).await;
                let mut open = opened.inspect_err(|_| session.forget(Named::Portal, name))?;
                open.holds = *holds;
                session.put(name.clone(), open);
                Ok(Reply::Done("DECLARE CURSOR".to_owned()))
            }
            Statement::Fetch { name, rows, moves } => {
                let open = session.take(name).ok_or_else(|| no_cursor(name))?;
                Ok(Reply::Fetched { name: name.clone(), open, rows: *rows, moves: *moves })
            }
            Statement::Close(name) if session.close(name.as_deref()) => Ok(Reply::Done("CLOSE CURSOR".to_owned())),
            Statement::Close(name) => Err(no_cursor(name.as_deref().unwrap_or_default())),
            _ => Err(no_question()),
        }
    }

    /// Asks what gives rows.
    async fn open<C: ClientInfo>(
        &self,
        client: &C,
        statement: &Statement,
        parameters: Vec<Parameter>,
    ) -> Result<Open, Problem> {
        let session = session(client);
        match statement {
            Statement::Show { name } => {
                let (schema, batch) = shown(&session, name)?;
                Ok(Open::complete(schema, vec![batch]))
            }
            Statement::Catalog { sql } => {
                let (schema, batches) =
                    self.catalog.answer(self.shared.ask.as_ref(), &session, sql, &parameters).await?;
                Ok(Open::complete(schema, batches))
            }
            Statement::Fleet { sql } => {
                let Wishes { min_coverage, deadline } = session.wishes();
                let question = Question { min_coverage, deadline, parameters, ..Question::new(sql) };
                let caller = client.socket_addr().ip();
                Ok(Open::of(self.shared.stream(Protocol::Postgres, Some(caller), question).await?))
            }
            _ => Err(no_question()),
        }
    }

    /// The columns that a statement will give, if it gives any, and the types of its parameters.
    pub(crate) async fn outline(
        &self,
        session: &Session,
        statement: &Statement,
        parameters: Vec<Parameter>,
    ) -> Result<(Option<SchemaRef>, Vec<Option<DataType>>), Problem> {
        match statement {
            Statement::Show { name } => Ok((Some(shown(session, name)?.0), Vec::new())),
            Statement::Catalog { sql } => {
                let outline = self.catalog.outline(self.shared.ask.as_ref(), session, sql, &parameters).await?;
                Ok((Some(outline.schema), outline.parameters))
            }
            Statement::Fleet { sql } => {
                let outline = self.shared.ask.outline(Question { parameters, ..Question::new(sql) }).await?;
                Ok((Some(outline.schema), outline.parameters))
            }
            Statement::Declare { query, .. } | Statement::Copy { query, .. } => {
                let (_, of_parameters) = Box::pin(self.outline(session, query, parameters)).await?;
                Ok((None, of_parameters))
            }
            Statement::Fetch { name, moves: false, .. } => {
                Ok((Some(session.columns(name).ok_or_else(|| no_cursor(name))?), Vec::new()))
            }
            _ => Ok((None, Vec::new())),
        }
    }
}

/// Begins or ends a transaction, which nothing but cursors depends on.
fn transaction<C>(client: &mut C, session: &Session, statement: &Statement, failed: bool) -> Reply
where
    C: ClientInfo + ClientPortalStore,
    C::PortalStore: PortalStore,
{
    if *statement == Statement::Begin {
        client.set_transaction_status(TransactionStatus::Transaction);
        return Reply::Done("BEGIN".to_owned());
    }
    client.set_transaction_status(TransactionStatus::Idle);
    client.portal_store().clear_portals();
    session.end_transaction();
    let commits = *statement == Statement::Commit && !failed;
    Reply::Done(if commits { "COMMIT" } else { "ROLLBACK" }.to_owned())
}

fn no_question() -> Problem {
    Problem::new("42601", "this is no question", None)
}

fn no_cursor(name: &str) -> Problem {
    let hint = "a cursor ends with its transaction, unless it was declared WITH HOLD";
    Problem::new("34000", format!("there is no cursor \"{name}\""), Some(hint))
}

/// A setting, or all of them, as rows.
fn shown(session: &Session, name: &str) -> Result<(SchemaRef, RecordBatch), Problem> {
    use arrow::array::{ArrayRef, StringArray};
    let column = |values: Vec<String>| -> ArrayRef { Arc::new(StringArray::from(values)) };
    let batch = if name == "all" {
        let (names, values) = session.all().into_iter().map(|(name, value)| (name.to_owned(), value)).unzip();
        RecordBatch::try_from_iter([("name", column(names)), ("setting", column(values))])
    } else {
        let value = column(vec![session.show(name)?]);
        let schema = Arc::new(Schema::new(vec![Field::new(name, DataType::Utf8, false)]));
        RecordBatch::try_new(schema, vec![value])
    };
    let batch = batch.map_err(|error| Problem::new("XX000", error.to_string(), None))?;
    Ok((batch.schema(), batch))
}

/// The columns of an answer as the protocol tells them.
pub(crate) fn columns(schema: &Schema, format: &Format) -> Result<Arc<Vec<FieldInfo>>, Problem> {
    rows::columns(schema, format).ok_or_else(|| {
        Problem::protocol(format!("the formats that were asked for do not fit {} columns", schema.fields().len()))
    })
}

/// A result in the words of the library.
pub(crate) fn wire<T>(result: Result<T, Problem>) -> PgWireResult<T> {
    result.map_err(Into::into)
}
