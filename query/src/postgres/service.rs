//! What is done for a statement, whichever of the two query protocols brought it.

use std::fmt::Debug;
use std::net::IpAddr;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use futures::{Sink, SinkExt, stream};
use lariat_schema::coverage::Coverage;
use pgwire::api::portal::Format;
use pgwire::api::results::{FieldInfo, QueryResponse, Response, Tag};
use pgwire::api::store::PortalStore;
use pgwire::api::{ClientInfo, ClientPortalStore, ConnectionManager, RandomPidSecretKeyGenerator};
use pgwire::error::{PgWireError, PgWireResult};
use pgwire::messages::PgWireBackendMessage;
use pgwire::messages::response::TransactionStatus;

use super::catalog::Catalog;
use super::failure::Problem;
use super::rows;
use super::session::{Named, Session, Wishes};
use super::statement::Statement;
use crate::ask::{Answer, Parameter, Question};
use crate::ports::held::NO_ROOM;
use crate::ports::tally::Protocol;
use crate::ports::{Held, Shared, Unasked};

/// The service behind every connection.
pub(crate) struct Service {
    pub(crate) shared: Shared,
    /// Who can be cancelled, by the keys that were given out.
    pub(crate) connections: Arc<ConnectionManager>,
    pub(crate) keys: RandomPidSecretKeyGenerator,
    pub(crate) catalog: Catalog,
}

/// What a statement gives, and in which format.
pub(crate) struct Run<'a> {
    pub(crate) statement: &'a Statement,
    pub(crate) parameters: Vec<Parameter>,
    pub(crate) format: &'a Format,
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
    pub(crate) async fn run<C>(&self, client: &mut C, run: Run<'_>) -> Result<Response, Problem>
    where
        C: ClientInfo + ClientPortalStore + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::PortalStore: PortalStore,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        let session = session(client);
        let failed = client.transaction_status() == TransactionStatus::Error;
        if failed && !matches!(run.statement, Statement::Commit | Statement::Rollback) {
            let message = "the transaction has failed; statements are ignored until its end";
            return Err(Problem::new("25P02", message, Some("ROLLBACK")));
        }
        Ok(match run.statement {
            Statement::Begin => Response::TransactionStart(Tag::new("BEGIN")),
            Statement::Commit if !failed => Response::TransactionEnd(Tag::new("COMMIT")),
            Statement::Commit | Statement::Rollback => Response::TransactionEnd(Tag::new("ROLLBACK")),
            Statement::Nothing(tag) => Response::Execution(Tag::new(tag)),
            Statement::Set { name, value } => {
                session.set(name, value.as_deref())?;
                Response::Execution(Tag::new("SET"))
            }
            Statement::Reset(tag) => {
                session.reset();
                Response::Execution(Tag::new(tag))
            }
            Statement::Deallocate(name) => {
                let names = match name {
                    Some(name) => [name.clone()].into(),
                    None => session.forget_all(Named::Statement),
                };
                for name in &names {
                    client.portal_store().rm_statement(name);
                    session.forget(Named::Statement, name);
                }
                Response::Execution(Tag::new("DEALLOCATE"))
            }
            Statement::Show { name } => {
                let (schema, batch) = shown(&session, name)?;
                rows_of(&schema, vec![batch], None, run.format)?
            }
            Statement::Catalog { sql } => {
                let (schema, batches) =
                    self.catalog.answer(self.shared.ask.as_ref(), &session, sql, &run.parameters).await?;
                rows_of(&schema, batches, None, run.format)?
            }
            Statement::Fleet { sql } => {
                let caller = client.socket_addr().ip();
                let (answer, held) = self.answer(&session, caller, sql, run.parameters).await?;
                for notice in notices(&answer) {
                    // A client that is gone is noticed when its rows are written.
                    client.feed(PgWireBackendMessage::NoticeResponse(notice.info("NOTICE").into())).await.ok();
                }
                rows_of(&answer.schema, answer.batches, Some(held), run.format)?
            }
        })
    }

    async fn answer(
        &self,
        session: &Session,
        caller: IpAddr,
        sql: &str,
        parameters: Vec<Parameter>,
    ) -> Result<(Answer, Held), Problem> {
        let Wishes { min_coverage, deadline } = session.wishes();
        let question = Question { min_coverage, deadline, parameters, ..Question::new(sql) };
        self.shared.answer(Protocol::Postgres, Some(caller), question).await.map_err(|unasked| match unasked {
            Unasked::Failed(error) => error.into(),
            Unasked::NoRoom => Problem::new("53000", NO_ROOM, Some("try again in a second")),
        })
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
            _ => Ok((None, Vec::new())),
        }
    }
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

/// Rows, made one by one as the client takes them; the answer's room is given back after the last.
fn rows_of(
    schema: &Schema,
    batches: Vec<RecordBatch>,
    held: Option<Held>,
    format: &Format,
) -> Result<Response, Problem> {
    let columns = columns(schema, format)?;
    let of_batch = {
        let columns = Arc::clone(&columns);
        move |batch: RecordBatch| {
            let _until_the_last = &held;
            let columns = Arc::clone(&columns);
            (0..batch.num_rows()).map(move |number| {
                rows::row(&batch, number, &columns).map_err(|error| PgWireError::ApiError(Box::new(error)))
            })
        }
    };
    Ok(Response::Query(QueryResponse::new(columns, stream::iter(batches.into_iter().flat_map(of_batch)))))
}

/// The columns of an answer as the protocol tells them.
pub(crate) fn columns(schema: &Schema, format: &Format) -> Result<Arc<Vec<FieldInfo>>, Problem> {
    rows::columns(schema, format).ok_or_else(|| {
        Problem::protocol(format!("the formats that were asked for do not fit {} columns", schema.fields().len()))
    })
}

/// What is told before an answer ends: how much it lacks, and what to know about it.
fn notices(answer: &Answer) -> Vec<Problem> {
    let Coverage { complete, ratio, expected, answered, query_id, .. } = &answer.coverage;
    let hint = format!("SELECT * FROM coverage_of('{query_id}') tells what is missing and why");
    let incomplete = (!complete).then(|| {
        let message = format!("coverage is {ratio:.3}: {answered} of {expected} nodes answered");
        Problem::new("01000", message, Some(&hint))
    });
    let advice = answer.hint.as_ref().map(|hint| Problem::new("01000", hint.clone(), None));
    incomplete.into_iter().chain(advice).collect()
}

/// A result in the words of the library.
pub(crate) fn wire<T>(result: Result<T, Problem>) -> PgWireResult<T> {
    result.map_err(Into::into)
}
