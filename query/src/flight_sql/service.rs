//! The calls of Flight SQL, each as thin as it can be: read the message, ask, tell.

use std::pin::Pin;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::ipc::writer::IpcWriteOptions;
use arrow_flight::decode::FlightRecordBatchStream;
use arrow_flight::encode::FlightDataEncoderBuilder;
use arrow_flight::error::FlightError;
use arrow_flight::flight_service_server::FlightService;
use arrow_flight::sql::server::{FlightSqlService, PeekableFlightDataStream};
use arrow_flight::sql::{
    ActionClosePreparedStatementRequest, ActionCreatePreparedStatementRequest, ActionCreatePreparedStatementResult,
    CommandGetCatalogs, CommandGetDbSchemas, CommandGetSqlInfo, CommandGetTableTypes, CommandGetTables,
    CommandGetXdbcTypeInfo, CommandPreparedStatementQuery, CommandStatementQuery, CommandStatementUpdate,
    DoPutPreparedStatementResult, ProstMessageExt, SqlInfo, TicketStatementQuery,
};
use arrow_flight::{
    Action, CancelFlightInfoRequest, CancelFlightInfoResult, CancelStatus, FlightDescriptor, FlightEndpoint,
    FlightInfo, HandshakeRequest, HandshakeResponse, IpcMessage, SchemaAsIpc,
};
use bytes::Bytes;
use futures::{Stream, StreamExt, TryStreamExt, stream};
use prost::Message;
use tonic::metadata::AsciiMetadataValue;
use tonic::{Request, Response, Status, Streaming};

use super::answer::{messages, told};
use super::credentials::{Wishes, admit, wishes};
use super::failure::{cancelled, read_only, status};
use super::parameters::parameters;
use super::prepared::Statements;
use super::running::Running;
use super::ticket::{Ticket, bounded};
use super::{MAX_MESSAGE_BYTES, catalog};
use crate::ask::{AskError, Parameter, Question};
use crate::ports::Shared;
use crate::ports::relations::Relations;
use crate::ports::tally::{Protocol, Turned};

type FlightTicket = arrow_flight::Ticket;
type Rows = Response<<FlightSql as FlightService>::DoGetStream>;
type Handshake = Pin<Box<dyn Stream<Item = Result<HandshakeResponse, Status>> + Send>>;

/// The service.
pub(crate) struct FlightSql {
    shared: Shared,
    relations: Relations,
    statements: Statements,
    running: Running,
}

impl FlightSql {
    pub(crate) fn new(shared: Shared) -> Self {
        let (statements, running) = (Statements::default(), Running::default());
        Self { shared, relations: Relations::default(), statements, running }
    }

    /// Whether a call may go on; its wishes.
    fn admitted<T>(&self, request: &Request<T>) -> Result<Wishes, Status> {
        if let Err(refused) = admit(&self.shared.access, request.metadata()) {
            self.shared.tally.turned(Protocol::FlightSql, Turned::Unauthenticated);
            return Err(refused);
        }
        wishes(request.metadata())
    }

    async fn columns(&self, sql: &str, parameters: Vec<Parameter>) -> Result<SchemaRef, Status> {
        let outline = self.shared.ask.outline(Question { parameters, ..Question::new(sql) }).await.map_err(status)?;
        Ok(told(&outline.schema))
    }

    /// Asks; the ticket's bytes name the question for who wants to cancel it.
    async fn answer(&self, request: Request<FlightTicket>, question: Question) -> Result<Rows, Status> {
        let caller = request.remote_addr().map(|address| address.ip());
        let run = self.running.begin(request.into_inner().ticket);
        let rows = tokio::select! {
            rows = self.shared.stream(Protocol::FlightSql, caller, question) => rows.map_err(status)?,
            () = run.cancelled.cancelled() => return Err(cancelled()),
        };
        Ok(Response::new(Box::pin(messages(rows, run, Arc::clone(&self.shared.tally)))))
    }
}

/// Where and as what an answer can be fetched. One endpoint without an address, which means here: old clients read only
/// the first and connect to no other.
fn info(request: Request<FlightDescriptor>, schema: &Schema, ticket: Vec<u8>) -> Result<Response<FlightInfo>, Status> {
    let endpoint = FlightEndpoint::new().with_ticket(FlightTicket::new(ticket));
    let info = FlightInfo::new()
        .try_with_schema(schema)
        .map_err(|error| status(AskError::Internal { source: Box::new(error) }))?
        .with_endpoint(endpoint)
        .with_descriptor(request.into_inner());
    Ok(Response::new(info))
}

/// One batch that is made here.
fn rows(batch: Result<RecordBatch, FlightError>) -> Result<Rows, Status> {
    let batch = batch.map_err(|error| status(AskError::Internal { source: Box::new(error) }))?;
    let encoded = FlightDataEncoderBuilder::new().with_schema(batch.schema()).build(stream::iter([Ok(batch)]));
    Ok(Response::new(Box::pin(encoded.map_err(Status::from))))
}

fn schema_bytes(schema: &Schema) -> Result<Bytes, Status> {
    let IpcMessage(bytes) = SchemaAsIpc::new(schema, &IpcWriteOptions::default())
        .try_into()
        .map_err(|error: arrow::error::ArrowError| status(AskError::Internal { source: Box::new(error) }))?;
    Ok(bytes)
}

#[tonic::async_trait]
impl FlightSqlService for FlightSql {
    type FlightService = Self;

    async fn do_handshake(&self, request: Request<Streaming<HandshakeRequest>>) -> Result<Response<Handshake>, Status> {
        let token = admit(&self.shared.access, request.metadata())
            .inspect_err(|_| self.shared.tally.turned(Protocol::FlightSql, Turned::Unauthenticated))?;
        let reply = HandshakeResponse { protocol_version: 0, payload: token.clone().into() };
        let replies: Handshake = Box::pin(stream::iter([Ok(reply)]));
        let mut response = Response::new(replies);
        // A password may hold what no header can; its owner goes on with what was given.
        if let Ok(value) = AsciiMetadataValue::try_from(format!("Bearer {token}")) {
            response.metadata_mut().insert("authorization", value);
        }
        Ok(response)
    }

    async fn get_flight_info_statement(
        &self,
        query: CommandStatementQuery,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<FlightInfo>, Status> {
        let wishes = self.admitted(&request)?;
        bounded(&query.query)?;
        let schema = self.columns(&query.query, Vec::new()).await?;
        let statement_handle = Ticket::new(query.query, wishes).encode()?.into();
        info(request, &schema, TicketStatementQuery { statement_handle }.as_any().encode_to_vec())
    }

    async fn get_flight_info_prepared_statement(
        &self,
        query: CommandPreparedStatementQuery,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<FlightInfo>, Status> {
        self.admitted(&request)?;
        let prepared = self.statements.find(&query.prepared_statement_handle)?;
        let schema = self.columns(&prepared.sql, prepared.parameters).await?;
        info(request, &schema, query.as_any().encode_to_vec())
    }

    async fn get_flight_info_catalogs(
        &self,
        query: CommandGetCatalogs,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<FlightInfo>, Status> {
        self.admitted(&request)?;
        let ticket = query.as_any().encode_to_vec();
        info(request, &query.into_builder().schema(), ticket)
    }

    async fn get_flight_info_schemas(
        &self,
        query: CommandGetDbSchemas,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<FlightInfo>, Status> {
        self.admitted(&request)?;
        let ticket = query.as_any().encode_to_vec();
        info(request, &query.into_builder().schema(), ticket)
    }

    async fn get_flight_info_tables(
        &self,
        query: CommandGetTables,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<FlightInfo>, Status> {
        self.admitted(&request)?;
        let ticket = query.as_any().encode_to_vec();
        info(request, &query.into_builder().schema(), ticket)
    }

    async fn get_flight_info_table_types(
        &self,
        query: CommandGetTableTypes,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<FlightInfo>, Status> {
        self.admitted(&request)?;
        let ticket = query.as_any().encode_to_vec();
        info(request, &query.into_builder().schema(), ticket)
    }

    async fn get_flight_info_sql_info(
        &self,
        query: CommandGetSqlInfo,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<FlightInfo>, Status> {
        self.admitted(&request)?;
        let ticket = query.as_any().encode_to_vec();
        info(request, &catalog::sql_info().map_err(Status::from)?.schema(), ticket)
    }

    async fn get_flight_info_xdbc_type_info(
        &self,
        query: CommandGetXdbcTypeInfo,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<FlightInfo>, Status> {
        self.admitted(&request)?;
        let ticket = query.as_any().encode_to_vec();
        info(request, &catalog::types().map_err(Status::from)?.schema(), ticket)
    }

    async fn do_get_statement(
        &self,
        handle: TicketStatementQuery,
        request: Request<FlightTicket>,
    ) -> Result<Rows, Status> {
        let now = self.admitted(&request)?;
        let ticket = Ticket::decode(&handle.statement_handle)?;
        let Wishes { min_coverage, deadline } = ticket.wishes(now);
        let question = Question { min_coverage, deadline, ..Question::new(ticket.sql) };
        self.answer(request, question).await
    }

    async fn do_get_prepared_statement(
        &self,
        query: CommandPreparedStatementQuery,
        request: Request<FlightTicket>,
    ) -> Result<Rows, Status> {
        let Wishes { min_coverage, deadline } = self.admitted(&request)?;
        let prepared = self.statements.find(&query.prepared_statement_handle)?;
        let parameters = prepared.parameters;
        let question = Question { min_coverage, deadline, parameters, ..Question::new(prepared.sql) };
        self.answer(request, question).await
    }

    async fn do_get_catalogs(&self, query: CommandGetCatalogs, request: Request<FlightTicket>) -> Result<Rows, Status> {
        self.admitted(&request)?;
        rows(catalog::catalogs(query))
    }

    async fn do_get_schemas(&self, query: CommandGetDbSchemas, request: Request<FlightTicket>) -> Result<Rows, Status> {
        self.admitted(&request)?;
        rows(catalog::schemas(query))
    }

    async fn do_get_tables(&self, query: CommandGetTables, request: Request<FlightTicket>) -> Result<Rows, Status> {
        self.admitted(&request)?;
        let relations = self.relations.all(self.shared.ask.as_ref()).await.map_err(status)?;
        rows(catalog::tables(query, &relations))
    }

    async fn do_get_table_types(
        &self,
        query: CommandGetTableTypes,
        request: Request<FlightTicket>,
    ) -> Result<Rows, Status> {
        self.admitted(&request)?;
        rows(catalog::table_types(query))
    }

    async fn do_get_sql_info(&self, query: CommandGetSqlInfo, request: Request<FlightTicket>) -> Result<Rows, Status> {
        self.admitted(&request)?;
        rows(catalog::sql_info().and_then(|info| query.into_builder(&info).build()))
    }

    async fn do_get_xdbc_type_info(
        &self,
        query: CommandGetXdbcTypeInfo,
        request: Request<FlightTicket>,
    ) -> Result<Rows, Status> {
        self.admitted(&request)?;
        rows(catalog::types().and_then(|types| query.into_builder(&types).build()))
    }

    async fn do_put_statement_update(
        &self,
        _: CommandStatementUpdate,
        request: Request<PeekableFlightDataStream>,
    ) -> Result<i64, Status> {
        self.admitted(&request)?;
        Err(read_only())
    }

    async fn do_put_prepared_statement_query(
        &self,
        query: CommandPreparedStatementQuery,
        request: Request<PeekableFlightDataStream>,
    ) -> Result<DoPutPreparedStatementResult, Status> {
        self.admitted(&request)?;
        let mut batches = FlightRecordBatchStream::new_from_flight_data(request.into_inner().map_err(Into::into));
        let (mut read, mut bytes) = (Vec::new(), 0);
        while let Some(batch) = batches.next().await {
            let batch =
                batch.map_err(|error| Status::invalid_argument(format!("the values cannot be read: {error}")))?;
            bytes += batch.get_array_memory_size();
            if bytes > MAX_MESSAGE_BYTES {
                return Err(Status::resource_exhausted(format!("the values exceed {MAX_MESSAGE_BYTES} bytes")));
            }
            read.push(batch);
        }
        self.statements.bind(&query.prepared_statement_handle, parameters(&read)?, bytes)?;
        Ok(DoPutPreparedStatementResult { prepared_statement_handle: Some(query.prepared_statement_handle) })
    }

    async fn do_action_create_prepared_statement(
        &self,
        query: ActionCreatePreparedStatementRequest,
        request: Request<Action>,
    ) -> Result<ActionCreatePreparedStatementResult, Status> {
        self.admitted(&request)?;
        bounded(&query.query)?;
        let outline = self.shared.ask.outline(Question::new(query.query.as_str())).await.map_err(status)?;
        let parameter = |(index, of): (usize, &Option<DataType>)| {
            Field::new(format!("${}", index + 1), of.clone().unwrap_or(DataType::Utf8), true)
        };
        let parameters = Schema::new(outline.parameters.iter().enumerate().map(parameter).collect::<Vec<_>>());
        Ok(ActionCreatePreparedStatementResult {
            prepared_statement_handle: Bytes::copy_from_slice(self.statements.keep(query.query)?.as_bytes()),
            dataset_schema: schema_bytes(&told(&outline.schema))?,
            parameter_schema: schema_bytes(&parameters)?,
        })
    }

    async fn do_action_close_prepared_statement(
        &self,
        query: ActionClosePreparedStatementRequest,
        request: Request<Action>,
    ) -> Result<(), Status> {
        self.admitted(&request)?;
        self.statements.close(&query.prepared_statement_handle);
        Ok(())
    }

    /// `CancelFlightInfo`, which is an action of Flight and none of Flight SQL.
    async fn do_action_fallback(
        &self,
        request: Request<Action>,
    ) -> Result<Response<<Self as FlightService>::DoActionStream>, Status> {
        self.admitted(&request)?;
        let action = request.into_inner();
        if action.r#type != "CancelFlightInfo" {
            return Err(Status::invalid_argument(format!("there is no action `{}`", action.r#type)));
        }
        let asked = CancelFlightInfoRequest::decode(action.body)
            .map_err(|error| Status::invalid_argument(format!("this is no FlightInfo: {error}")))?;
        let endpoints = asked.info.into_iter().flat_map(|info| info.endpoint);
        let mut tickets = endpoints.filter_map(|endpoint| endpoint.ticket);
        let cancelled = tickets.any(|ticket| self.running.cancel(&ticket.ticket));
        let status = if cancelled { CancelStatus::Cancelled } else { CancelStatus::NotCancellable };
        let body = CancelFlightInfoResult::new(status).encode_to_vec().into();
        Ok(Response::new(Box::pin(stream::iter([Ok(arrow_flight::Result { body })]))))
    }

    async fn register_sql_info(&self, _: i32, _: &SqlInfo) {}
}
