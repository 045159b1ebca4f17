//! What a statement gives, as messages. Rows are written as they come and the client is waited for, so that an answer of
//! any size passes through; what is written is pushed out whenever the next rows are not there yet.

use std::fmt::Debug;

use futures::{FutureExt, Sink, SinkExt};
use pgwire::api::portal::Format;
use pgwire::api::results::{FieldInfo, Tag};
use pgwire::error::{PgWireError, PgWireResult};
use pgwire::messages::PgWireBackendMessage;
use pgwire::messages::copy::{CopyData, CopyDone, CopyOutResponse};
use pgwire::messages::data::RowDescription;

use super::copy::{Form, Kind};
use super::failure::Problem;
use super::open::Open;
use super::rows;
use super::service::{columns, wire};
use super::session::Session;

/// What a statement gives.
pub(crate) enum Reply {
    /// A tag and nothing else.
    Done(String),
    /// Rows.
    Rows(Open),
    /// Rows of a cursor: at most so many, or only their number.
    Fetched { name: String, open: Open, rows: Option<usize>, moves: bool },
    /// Rows as one text.
    Copied { open: Open, form: Form },
}

/// Where rows have got to.
pub(crate) struct Sent {
    pub(crate) rows: usize,
    pub(crate) was_last: bool,
}

/// Sends a whole reply; columns are described where nobody has asked for their description before.
pub(crate) async fn send<C>(
    client: &mut C,
    session: &Session,
    reply: Reply,
    format: &Format,
    describes: bool,
) -> PgWireResult<()>
where
    C: Sink<PgWireBackendMessage> + Unpin + Send,
    C::Error: Debug,
    PgWireError: From<C::Error>,
{
    let tag = match reply {
        Reply::Done(tag) => tag,
        Reply::Rows(mut open) => {
            let columns = wire(columns(&open.schema, format))?;
            if describes {
                describe(client, &columns).await?;
            }
            format!("SELECT {}", send_rows(client, &mut open, &columns, None).await?.rows)
        }
        Reply::Fetched { name, mut open, rows, moves: true } => {
            let moved = pass(&mut open, rows).await?;
            tell(client, open.take_notices()).await?;
            session.put(name, open);
            format!("MOVE {moved}")
        }
        Reply::Fetched { name, mut open, rows, moves: false } => {
            let columns = wire(columns(&open.schema, format))?;
            if describes {
                describe(client, &columns).await?;
            }
            let sent = send_rows(client, &mut open, &columns, rows).await?;
            session.put(name, open);
            format!("FETCH {}", sent.rows)
        }
        Reply::Copied { mut open, form } => format!("COPY {}", send_copy(client, &mut open, &form).await?),
    };
    complete(client, tag).await
}

/// The tag that ends a statement.
pub(crate) async fn complete<C>(client: &mut C, tag: String) -> PgWireResult<()>
where
    C: Sink<PgWireBackendMessage> + Unpin,
    PgWireError: From<C::Error>,
{
    client.feed(PgWireBackendMessage::CommandComplete(Tag::new(&tag).into())).await?;
    Ok(())
}

async fn describe<C>(client: &mut C, columns: &[FieldInfo]) -> PgWireResult<()>
where
    C: Sink<PgWireBackendMessage> + Unpin,
    PgWireError: From<C::Error>,
{
    let description = RowDescription::new(columns.iter().map(Into::into).collect());
    client.feed(PgWireBackendMessage::RowDescription(description)).await?;
    Ok(())
}

/// Sends rows, at most so many; what is to be told about them comes after the last.
pub(crate) async fn send_rows<C>(
    client: &mut C,
    open: &mut Open,
    columns: &[FieldInfo],
    most: Option<usize>,
) -> PgWireResult<Sent>
where
    C: Sink<PgWireBackendMessage> + Unpin + Send,
    PgWireError: From<C::Error>,
{
    let mut sent = Sent { rows: 0, was_last: false };
    while most.is_none_or(|most| sent.rows < most) {
        let left = most.map_or(usize::MAX, |most| most - sent.rows);
        let Some(batch) = next(client, open, left).await? else {
            sent.was_last = true;
            break;
        };
        for number in 0..batch.num_rows() {
            let row = rows::row(&batch, number, columns).map_err(|error| PgWireError::ApiError(Box::new(error)))?;
            client.feed(PgWireBackendMessage::DataRow(row)).await?;
        }
        sent.rows += batch.num_rows();
    }
    tell(client, open.take_notices()).await?;
    Ok(sent)
}

/// The next rows. Where they are not there yet, what was written goes out first.
async fn next<C>(client: &mut C, open: &mut Open, most: usize) -> PgWireResult<Option<arrow::array::RecordBatch>>
where
    C: Sink<PgWireBackendMessage> + Unpin,
    PgWireError: From<C::Error>,
{
    let taken = match open.take(most).now_or_never() {
        Some(taken) => taken,
        None => {
            client.flush().await?;
            open.take(most).await
        }
    };
    wire(taken)
}

async fn tell<C>(client: &mut C, notices: Vec<Problem>) -> PgWireResult<()>
where
    C: Sink<PgWireBackendMessage> + Unpin,
    PgWireError: From<C::Error>,
{
    for notice in notices {
        client.feed(PgWireBackendMessage::NoticeResponse(notice.info("NOTICE").into())).await?;
    }
    Ok(())
}

/// Passes over rows.
async fn pass(open: &mut Open, most: Option<usize>) -> PgWireResult<usize> {
    let mut passed = 0;
    while most.is_none_or(|most| passed < most) {
        let left = most.map_or(usize::MAX, |most| most - passed);
        let Some(batch) = wire(open.take(left).await)? else { break };
        passed += batch.num_rows();
    }
    Ok(passed)
}

/// Sends all rows as one text; how many.
async fn send_copy<C>(client: &mut C, open: &mut Open, form: &Form) -> PgWireResult<usize>
where
    C: Sink<PgWireBackendMessage> + Unpin + Send,
    PgWireError: From<C::Error>,
{
    let columns = wire(columns(&open.schema, &form.format()))?;
    let code = i16::from(form.kind == Kind::Binary);
    let count = i16::try_from(columns.len()).unwrap_or(i16::MAX);
    let begin = CopyOutResponse::new(i8::from(form.kind == Kind::Binary), count, vec![code; columns.len()]);
    client.feed(PgWireBackendMessage::CopyOutResponse(begin)).await?;
    let mut head = form.begin(&columns);
    if form.kind != Kind::Binary {
        put(client, std::mem::take(&mut head)).await?;
    }
    let mut sent = 0;
    while let Some(batch) = next(client, open, usize::MAX).await? {
        for number in 0..batch.num_rows() {
            let row = form.row(&batch, number, &columns);
            let row = row.map_err(|error| PgWireError::ApiError(Box::new(error)))?;
            put(client, after(&mut head, row)).await?;
        }
        sent += batch.num_rows();
    }
    put(client, after(&mut head, form.end())).await?;
    client.feed(PgWireBackendMessage::CopyDone(CopyDone::new())).await?;
    tell(client, open.take_notices()).await?;
    Ok(sent)
}

/// A message of a binary copy: its signature stands in the first one, before a row, since that is how Postgres sends it and
/// drivers take a message for a row.
fn after(head: &mut bytes::Bytes, data: bytes::Bytes) -> bytes::Bytes {
    if head.is_empty() { data } else { [std::mem::take(head), data].concat().into() }
}

async fn put<C>(client: &mut C, data: bytes::Bytes) -> PgWireResult<()>
where
    C: Sink<PgWireBackendMessage> + Unpin,
    PgWireError: From<C::Error>,
{
    if !data.is_empty() {
        client.feed(PgWireBackendMessage::CopyData(CopyData::new(data))).await?;
    }
    Ok(())
}
