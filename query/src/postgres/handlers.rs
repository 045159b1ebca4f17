//! The messages of the protocol: beginning, the simple query protocol, the extended one.

use std::collections::HashMap;
use std::fmt::Debug;
use std::sync::Arc;

use arrow::datatypes::DataType;
use async_trait::async_trait;
use futures::channel::oneshot;
use futures::future::{Either, select};
use futures::{Sink, SinkExt};
use pgwire::api::auth::{
    DefaultServerParameterProvider, ServerParameterProvider, StartupHandler, finish_authentication,
    protocol_negotiation, save_startup_parameters_to_metadata,
};
use pgwire::api::portal::{Format, Portal};
use pgwire::api::query::{ExtendedQueryHandler, SimpleQueryHandler, send_describe_response};
use pgwire::api::results::{DescribePortalResponse, DescribeStatementResponse, FieldFormat, FieldInfo, Response};
use pgwire::api::stmt::{QueryParser, StoredStatement};
use pgwire::api::store::{Entry, PortalStore};
use pgwire::api::{
    ClientInfo, ClientPortalStore, ConnectionGuard, ConnectionHandle, DEFAULT_NAME, PgWireConnectionState,
    PidSecretKeyGenerator, Type,
};
use pgwire::error::{PgWireError, PgWireResult};
use pgwire::messages::extendedquery::{
    Bind, BindComplete, Close, CloseComplete, Describe, Execute, Parse, ParseComplete, PortalSuspended, Sync as PgSync,
    TARGET_TYPE_BYTE_PORTAL, TARGET_TYPE_BYTE_STATEMENT,
};
use pgwire::messages::response::{EmptyQueryResponse, ReadyForQuery, TransactionStatus};
use pgwire::messages::simplequery::Query;
use pgwire::messages::startup::Authentication;
use pgwire::messages::{PgWireBackendMessage, PgWireFrontendMessage};
use tokio::sync::OnceCell;

use super::failure::Problem;
use super::parameters;
use super::sending::{Reply, complete, send, send_rows};
use super::service::{Service, columns, session, wire};
use super::session::{Named, SERVER_VERSION};
use super::statement::{Statement, statements};
use super::types::of;
use crate::ask::Parameter;
use crate::ports::tally::{Protocol, Turned};

/// A prepared statement.
#[derive(Debug)]
pub(crate) struct Prepared {
    statement: Statement,
    /// The types of its parameters as its plan has them, once somebody needed to know.
    inferred: OnceCell<Vec<Option<DataType>>>,
}

/// What every connection begins with.
fn server_parameters() -> DefaultServerParameterProvider {
    let mut parameters = DefaultServerParameterProvider::default();
    parameters.server_version = format!("{SERVER_VERSION} (Lariat {})", env!("CARGO_PKG_VERSION"));
    parameters.is_superuser = false;
    parameters.default_transaction_read_only = true;
    parameters.time_zone = "UTC".to_owned();
    parameters.date_style = "ISO, MDY".to_owned();
    parameters
}

struct Parameters;

impl ServerParameterProvider for Parameters {
    fn server_parameters<C: ClientInfo>(&self, client: &C) -> Option<HashMap<String, String>> {
        server_parameters().server_parameters(client)
    }
}

#[async_trait]
impl StartupHandler for Service {
    async fn on_startup<C>(&self, client: &mut C, message: PgWireFrontendMessage) -> PgWireResult<()>
    where
        C: ClientInfo + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        match message {
            PgWireFrontendMessage::Startup(startup) => {
                protocol_negotiation(client, &startup).await?;
                save_startup_parameters_to_metadata(client, &startup);
                let given = startup.parameters.iter().map(|(name, value)| (name.as_str(), value.as_str()));
                session(client).begin(given).map_err(fatal)?;
                if !self.shared.access.is_open() {
                    client.set_state(PgWireConnectionState::AuthenticationInProgress);
                    let ask = PgWireBackendMessage::Authentication(Authentication::CleartextPassword);
                    client.send(ask).await?;
                    return Ok(());
                }
            }
            PgWireFrontendMessage::PasswordMessageFamily(password) => {
                if !self.shared.access.admits(password.into_password()?.password.as_bytes()) {
                    self.shared.tally.turned(Protocol::Postgres, Turned::Unauthenticated);
                    let hint = "the password is the token of the query service";
                    return Err(fatal(Problem::new("28P01", "the password is wrong", Some(hint))));
                }
            }
            _ => return Err(fatal(Problem::protocol("a session begins with another message"))),
        }
        let (process, key) = self.keys.generate(&*client);
        client.set_pid_and_secret_key(process, key.clone());
        let (handle, guard) = self.connections.register(process, key);
        client.session_extensions().insert::<Arc<ConnectionHandle>>(handle);
        client.session_extensions().insert::<ConnectionGuard>(guard);
        finish_authentication(client, &Parameters).await
    }
}

fn fatal(problem: Problem) -> PgWireError {
    PgWireError::UserError(Box::new(problem.info("FATAL")))
}

#[async_trait]
impl SimpleQueryHandler for Service {
    /// The library's own would have every answer of a text before it sends the first, and could be cancelled until then
    /// only.
    async fn on_query<C>(&self, client: &mut C, query: Query) -> PgWireResult<()>
    where
        C: ClientInfo + ClientPortalStore + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::PortalStore: PortalStore,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        begin(client)?;
        if client.transaction_status() == TransactionStatus::Idle {
            session(client).end_transaction();
        }
        let cancelled = cancelled(client).await;
        unless_cancelled(Box::pin(self.text(client, &query.query)), cancelled).await?;
        client.set_state(PgWireConnectionState::ReadyForQuery);
        let status = client.transaction_status();
        client.send(PgWireBackendMessage::ReadyForQuery(ReadyForQuery::new(status))).await?;
        Ok(())
    }

    async fn do_query<C>(&self, _: &mut C, _: &str) -> PgWireResult<Vec<Response>>
    where
        C: ClientInfo + ClientPortalStore + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::PortalStore: PortalStore,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        wire(Err(unasked()))
    }
}

/// What the library calls for an answer that is whole; here none is.
fn unasked() -> Problem {
    Problem::protocol("answers are sent as they come")
}

/// A statement begins.
fn begin<C: ClientInfo>(client: &mut C) -> PgWireResult<()> {
    if !matches!(client.state(), PgWireConnectionState::ReadyForQuery) {
        return Err(PgWireError::NotReadyForQuery);
    }
    client.set_state(PgWireConnectionState::QueryInProgress);
    Ok(())
}

/// Resolves when somebody with the connection's key wants what is done now to end.
async fn cancelled<C: ClientInfo>(client: &C) -> Option<oneshot::Receiver<()>> {
    // It is kept as the handle that it was registered with.
    let handle = client.session_extensions().get::<Arc<ConnectionHandle>>()?;
    Some(handle.start_query().await)
}

async fn unless_cancelled(
    work: impl Future<Output = PgWireResult<()>> + Unpin,
    cancelled: Option<oneshot::Receiver<()>>,
) -> PgWireResult<()> {
    let Some(cancelled) = cancelled else { return work.await };
    match select(work, cancelled).await {
        Either::Left((ended, _)) => ended,
        Either::Right(_) => Err(PgWireError::QueryCanceled),
    }
}

/// Reads the text of a statement that is to be prepared. Types are asked for later, when their values may be there.
#[derive(Debug)]
pub(crate) struct Parser;

#[async_trait]
impl QueryParser for Parser {
    type Statement = Arc<Prepared>;

    async fn parse_sql<C>(&self, _: &C, sql: &str, _: &[Option<Type>]) -> PgWireResult<Option<Arc<Prepared>>>
    where
        C: ClientInfo + Unpin + Send + Sync,
    {
        let mut all = wire(statements(sql))?;
        match (all.pop(), all.is_empty()) {
            (None, _) => Ok(None),
            (Some(statement), true) => Ok(Some(Arc::new(Prepared { statement, inferred: OnceCell::new() }))),
            (Some(_), false) => wire(Err(Problem::new("42601", "several statements cannot be prepared as one", None))),
        }
    }

    fn get_parameter_types(&self, _: &Arc<Prepared>) -> PgWireResult<Vec<Type>> {
        Ok(Vec::new())
    }

    fn get_result_schema(&self, _: &Arc<Prepared>, _: Option<&Format>) -> PgWireResult<Vec<FieldInfo>> {
        Ok(Vec::new())
    }
}

impl Service {
    /// Answers the statements of a text one after the other, up to the first that fails.
    async fn text<C>(&self, client: &mut C, text: &str) -> PgWireResult<()>
    where
        C: ClientInfo + ClientPortalStore + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::PortalStore: PortalStore,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        let session = session(client);
        let statements = wire(statements(text))?;
        if statements.is_empty() {
            client.feed(PgWireBackendMessage::EmptyQueryResponse(EmptyQueryResponse::new())).await?;
        }
        for statement in &statements {
            let reply = wire(self.run(client, statement, Vec::new()).await)?;
            send(client, &session, reply, &Format::UnifiedText, true).await?;
        }
        Ok(())
    }

    /// Executes a portal, from its beginning or from where it was left.
    async fn execute<C>(&self, client: &mut C, name: &str, most: Option<usize>) -> PgWireResult<()>
    where
        C: ClientInfo + ClientPortalStore + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::PortalStore: PortalStore<Statement = Arc<Prepared>>,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        let session = session(client);
        let portal = client.portal_store().get_portal(name);
        let (mut open, format) = match (session.take(name), portal) {
            (Some(open), portal) => {
                let format = portal.and_then(|portal| portal.value().map(|portal| portal.result_column_format.clone()));
                (open, format.unwrap_or_default())
            }
            (None, Some(Entry::Value(portal))) => {
                let parameters = wire(self.values(client, &portal).await)?;
                let statement = &portal.statement.statement.statement;
                match wire(self.run(client, statement, parameters).await)? {
                    Reply::Rows(open) => (open, portal.result_column_format.clone()),
                    reply => return send(client, &session, reply, &portal.result_column_format, false).await,
                }
            }
            (None, Some(Entry::Empty)) => {
                client.feed(PgWireBackendMessage::EmptyQueryResponse(EmptyQueryResponse::new())).await?;
                return Ok(());
            }
            (None, None) => return Err(PgWireError::PortalNotFound(name.to_owned())),
        };
        let columns = wire(columns(&open.schema, &format))?;
        let sent = send_rows(client, &mut open, &columns, most).await?;
        // Also an answer that is read to its end, so that executing its portal again gives no rows.
        session.put(name.to_owned(), open);
        if sent.was_last {
            return complete(client, format!("SELECT {}", sent.rows)).await;
        }
        client.feed(PgWireBackendMessage::PortalSuspended(PortalSuspended::new())).await?;
        Ok(())
    }

    /// The values of a portal.
    async fn values<C: ClientInfo>(
        &self,
        client: &C,
        portal: &Portal<Arc<Prepared>>,
    ) -> Result<Vec<Parameter>, Problem> {
        let (prepared, given) = (&portal.statement.statement, &portal.statement.parameter_types);
        let type_of = |index: usize| given.get(index).and_then(Option::as_ref).filter(|given| **given != Type::UNKNOWN);
        let all_typed = (0..portal.parameters.len()).all(|index| type_of(index).is_some());
        let inferred = if all_typed { &[][..] } else { self.inferred(client, prepared).await? };
        let read = |(index, value): (usize, &Option<bytes::Bytes>)| {
            let format = match &portal.parameter_format {
                Format::UnifiedText => FieldFormat::Text,
                Format::UnifiedBinary => FieldFormat::Binary,
                Format::Individual(codes) => FieldFormat::from(codes.get(index).copied().unwrap_or_default()),
            };
            let inferred = inferred.get(index).and_then(Option::as_ref);
            parameters::read(value.as_deref(), format, type_of(index), inferred)
        };
        portal.parameters.iter().enumerate().map(read).collect()
    }

    async fn inferred<'a, C: ClientInfo>(
        &self,
        client: &C,
        prepared: &'a Prepared,
    ) -> Result<&'a [Option<DataType>], Problem> {
        let session = session(client);
        let infer = || async { Ok::<_, Problem>(self.outline(&session, &prepared.statement, Vec::new()).await?.1) };
        prepared.inferred.get_or_try_init(infer).await.map(Vec::as_slice)
    }
}

#[async_trait]
impl ExtendedQueryHandler for Service {
    type Statement = Arc<Prepared>;
    type QueryParser = Parser;

    fn query_parser(&self) -> Arc<Parser> {
        Arc::new(Parser)
    }

    async fn on_parse<C>(&self, client: &mut C, message: Parse) -> PgWireResult<()>
    where
        C: ClientInfo + ClientPortalStore + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::PortalStore: PortalStore<Statement = Self::Statement>,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        let name = message.name.clone().unwrap_or_else(|| DEFAULT_NAME.to_owned());
        wire(session(client).keep(Named::Statement, &name))?;
        match StoredStatement::parse(client, &message, self.query_parser()).await? {
            Some(statement) => client.portal_store().put_statement(Arc::new(statement)),
            None => client.portal_store().put_empty_statement(&name),
        }
        client.send(PgWireBackendMessage::ParseComplete(ParseComplete::new())).await?;
        Ok(())
    }

    async fn on_bind<C>(&self, client: &mut C, message: Bind) -> PgWireResult<()>
    where
        C: ClientInfo + ClientPortalStore + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::PortalStore: PortalStore<Statement = Self::Statement>,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        let name = message.portal_name.as_deref().unwrap_or(DEFAULT_NAME);
        wire(session(client).keep(Named::Portal, name))?;
        let of = message.statement_name.as_deref().unwrap_or(DEFAULT_NAME);
        match client.portal_store().get_statement(of) {
            Some(Entry::Value(statement)) => {
                client.portal_store().put_portal(Arc::new(Portal::try_new(&message, statement)?));
            }
            Some(Entry::Empty) if message.parameters.is_empty() => client.portal_store().put_empty_portal(name),
            Some(Entry::Empty) => return wire(Err(Problem::protocol("an empty statement has no parameters"))),
            None => return Err(PgWireError::StatementNotFound(of.to_owned())),
        }
        client.send(PgWireBackendMessage::BindComplete(BindComplete::new())).await?;
        Ok(())
    }

    async fn on_close<C>(&self, client: &mut C, message: Close) -> PgWireResult<()>
    where
        C: ClientInfo + ClientPortalStore + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::PortalStore: PortalStore<Statement = Self::Statement>,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        let name = message.name.as_deref().unwrap_or(DEFAULT_NAME);
        match message.target_type {
            TARGET_TYPE_BYTE_STATEMENT => {
                client.portal_store().rm_statement(name);
                session(client).forget(Named::Statement, name);
            }
            TARGET_TYPE_BYTE_PORTAL => {
                client.portal_store().rm_portal(name);
                session(client).forget(Named::Portal, name);
            }
            other => return Err(PgWireError::InvalidTargetType(other)),
        }
        client.send(PgWireBackendMessage::CloseComplete(CloseComplete::new())).await?;
        Ok(())
    }

    /// Portals live until the end of their transaction, which outside of one is here: a portal may hold an answer.
    async fn on_sync<C>(&self, client: &mut C, _: PgSync) -> PgWireResult<()>
    where
        C: ClientInfo + ClientPortalStore + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::PortalStore: PortalStore<Statement = Self::Statement>,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        let status = client.transaction_status();
        if status == TransactionStatus::Idle {
            client.portal_store().clear_portals();
            session(client).end_transaction();
        }
        client.send(PgWireBackendMessage::ReadyForQuery(ReadyForQuery::new(status))).await?;
        Ok(())
    }

    async fn do_describe_statement<C>(
        &self,
        client: &mut C,
        target: &StoredStatement<Self::Statement>,
    ) -> PgWireResult<DescribeStatementResponse>
    where
        C: ClientInfo + ClientPortalStore + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::PortalStore: PortalStore<Statement = Self::Statement>,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        let session = session(client);
        let (schema, inferred) = wire(self.outline(&session, &target.statement.statement, Vec::new()).await)?;
        let given = |index: usize| target.parameter_types.get(index).cloned().flatten();
        let count = inferred.len().max(target.parameter_types.len());
        let types = (0..count).map(|index| {
            let inferred = inferred.get(index).and_then(Option::as_ref).map(of);
            given(index).filter(|given| *given != Type::UNKNOWN).or(inferred).unwrap_or(Type::TEXT)
        });
        let fields = match &schema {
            Some(schema) => wire(columns(schema, &Format::UnifiedText))?.to_vec(),
            None => Vec::new(),
        };
        Ok(DescribeStatementResponse::new(types.collect(), fields))
    }

    async fn do_describe_portal<C>(
        &self,
        client: &mut C,
        target: &Portal<Self::Statement>,
    ) -> PgWireResult<DescribePortalResponse>
    where
        C: ClientInfo + ClientPortalStore + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::PortalStore: PortalStore<Statement = Self::Statement>,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        let session = session(client);
        let parameters = wire(self.values(client, target).await)?;
        let (schema, _) = wire(self.outline(&session, &target.statement.statement.statement, parameters).await)?;
        let fields = match &schema {
            Some(schema) => wire(columns(schema, &target.result_column_format))?.to_vec(),
            None => Vec::new(),
        };
        Ok(DescribePortalResponse::new(fields))
    }

    async fn on_describe<C>(&self, client: &mut C, message: Describe) -> PgWireResult<()>
    where
        C: ClientInfo + ClientPortalStore + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::PortalStore: PortalStore<Statement = Self::Statement>,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        let name = message.name.as_deref().unwrap_or(DEFAULT_NAME);
        let is_bound = client.portal_store().get_portal(name).is_some();
        match session(client).columns(name) {
            // A cursor is a portal that was made by SQL.
            Some(schema) if message.target_type == TARGET_TYPE_BYTE_PORTAL && !is_bound => {
                let fields = wire(columns(&schema, &Format::UnifiedText))?.to_vec();
                send_describe_response(client, &DescribePortalResponse::new(fields)).await
            }
            _ => self._on_describe(client, message).await,
        }
    }

    async fn on_execute<C>(&self, client: &mut C, message: Execute) -> PgWireResult<()>
    where
        C: ClientInfo + ClientPortalStore + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::PortalStore: PortalStore<Statement = Self::Statement>,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        begin(client)?;
        let name = message.name.as_deref().unwrap_or(DEFAULT_NAME);
        let most = usize::try_from(message.max_rows).ok().filter(|most| *most > 0);
        let cancelled = cancelled(client).await;
        unless_cancelled(Box::pin(self.execute(client, name, most)), cancelled).await?;
        client.set_state(PgWireConnectionState::ReadyForQuery);
        Ok(())
    }

    async fn do_query<C>(&self, _: &mut C, _: &Portal<Self::Statement>, _: usize) -> PgWireResult<Response>
    where
        C: ClientInfo + ClientPortalStore + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::PortalStore: PortalStore<Statement = Self::Statement>,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        wire(Err(unasked()))
    }
}
