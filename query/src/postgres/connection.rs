//! One connection from its first byte to its last.
//!
//! While a question is being answered the socket is watched: a client that leaves takes its question with it. The
//! library's own loop would notice it when the answer is written. The word to cancel another connection's question is done
//! all the same: who sends it closes at once.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::{SinkExt, StreamExt};
use pgwire::api::cancel::DefaultCancelHandler;
use pgwire::api::{ClientInfo, DefaultClient, NoopHandler, PgWireConnectionState};
use pgwire::error::{ErrorInfo, PgWireError};
use pgwire::messages::response::{GssEncResponse, SslResponse};
use pgwire::messages::{PgWireBackendMessage, PgWireFrontendMessage, SslNegotiationMetaMessage};
use pgwire::tokio::server::{PgWireMessageServerCodec, process_error, process_message};
use tokio::net::TcpStream;
use tokio_util::codec::Framed;
use tokio_util::sync::CancellationToken;

use super::failure::Problem;
use super::frames::{Frames, gone};
use super::handlers::Prepared;
use super::service::Service;
use crate::ports::tally::Turned;

/// Longest time until a session has begun.
const STARTUP_TIMEOUT: Duration = Duration::from_secs(30);

type Socket = Framed<Frames, PgWireMessageServerCodec<Arc<Prepared>>>;

/// Serves a connection to its end; what was wrong with it, if something was.
pub(crate) async fn serve(
    stream: TcpStream,
    peer: SocketAddr,
    service: Arc<Service>,
    stop: CancellationToken,
) -> Option<Turned> {
    let frames = Frames::new(stream);
    let watched = frames.socket();
    let mut socket = Framed::new(frames, PgWireMessageServerCodec::new(DefaultClient::new(peer, false)));
    let starts_until = tokio::time::Instant::now() + STARTUP_TIMEOUT;
    loop {
        let message = tokio::select! {
            biased;
            message = socket.next() => message,
            () = stop.cancelled() => return farewell(&mut socket).await,
            () = tokio::time::sleep_until(starts_until), if is_starting(&socket) => return None,
        };
        let message = match message {
            Some(Ok(PgWireFrontendMessage::Terminate(_))) | None => return None,
            Some(Ok(message)) => message,
            Some(Err(error)) => return malformed(&mut socket, error).await,
        };
        if let PgWireFrontendMessage::SslNegotiation(wanted) = message {
            if negotiate(&mut socket, &wanted).await.is_err() {
                return None;
            }
            continue;
        }
        let outlives = matches!(message, PgWireFrontendMessage::CancelRequest(_));
        let processed = tokio::select! {
            processed = process(&mut socket, message, &service) => processed,
            () = gone(&watched), if !outlives => return None,
        };
        match processed {
            Ok(true) => {}
            Ok(false) => return None,
            Err(error) => return (error.kind() == io::ErrorKind::TimedOut).then_some(Turned::Stalled),
        }
    }
}

fn is_starting(socket: &Socket) -> bool {
    use PgWireConnectionState as State;
    matches!(socket.state(), State::AwaitingSslRequest | State::AwaitingStartup | State::AuthenticationInProgress)
}

/// There is no encryption: the client is told so, and may go on without.
async fn negotiate(socket: &mut Socket, wanted: &SslNegotiationMetaMessage) -> Result<(), io::Error> {
    match wanted {
        SslNegotiationMetaMessage::PostgresSsl(_) => {
            socket.send(PgWireBackendMessage::SslResponse(SslResponse::Refuse)).await
        }
        SslNegotiationMetaMessage::PostgresGss(_) => {
            socket.send(PgWireBackendMessage::GssEncResponse(GssEncResponse::Refuse)).await
        }
        SslNegotiationMetaMessage::None => {
            socket.set_state(PgWireConnectionState::AwaitingStartup);
            Ok(())
        }
    }
}

/// Does what a message says; false if it was the last.
async fn process(
    socket: &mut Socket,
    message: PgWireFrontendMessage,
    service: &Arc<Service>,
) -> Result<bool, io::Error> {
    let (extended, cancels) = (message.is_extended_query(), matches!(message, PgWireFrontendMessage::CancelRequest(_)));
    let cancel = Arc::new(DefaultCancelHandler::new(Arc::clone(&service.connections)));
    let (startup, simple, of_extended) = (Arc::clone(service), Arc::clone(service), Arc::clone(service));
    match process_message(message, socket, startup, simple, of_extended, Arc::new(NoopHandler), cancel).await {
        Ok(()) => Ok(!cancels),
        Err(PgWireError::IoError(error)) => Err(error),
        Err(error) => {
            let last = error.is_fatal();
            process_error(socket, error, extended).await?;
            Ok(!last)
        }
    }
}

/// Tells a client that what it sent is not of the protocol.
async fn malformed(socket: &mut Socket, error: PgWireError) -> Option<Turned> {
    let problem = match &error {
        PgWireError::IoError(error) if error.kind() == io::ErrorKind::InvalidData => {
            Problem::protocol(error.to_string())
        }
        // The connection broke.
        PgWireError::IoError(_) => return None,
        other => Problem::protocol(other.to_string()),
    };
    tell(socket, problem.info("FATAL")).await;
    Some(Turned::Malformed)
}

async fn farewell(socket: &mut Socket) -> Option<Turned> {
    let hint = "connect again, to this or to another query service";
    tell(socket, Problem::new("57P01", "the query service is stopping", Some(hint)).info("FATAL")).await;
    None
}

async fn tell(socket: &mut Socket, info: ErrorInfo) {
    // The client may be gone, and the connection ends either way.
    socket.send(PgWireBackendMessage::ErrorResponse(info.into())).await.ok();
}
