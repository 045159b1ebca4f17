//! A connection over HTTP/1.1 that is driven by the call which uses it. A connection with a task of its own, as pools
//! usually have them, costs a call four changes between tasks, mostly from one thread to another: request, head, body and
//! the wish for the body each wake the other side. Here the call's task reads and writes the socket itself, and is woken
//! by it alone. Nobody looks at an idle connection; that its provider closed it shows when the next request is put to it,
//! before any of that is written.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use bytes::Bytes;
use futures::task::AtomicWaker;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_rustls::MaybeHttpsStream;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::Instant;

pub(super) type Stream = MaybeHttpsStream<TokioIo<TcpStream>>;
type Body = Full<Bytes>;

/// Turns that connection and call take at most before other tasks have theirs; a small reply takes two.
const TURNS: usize = 4;

/// Why a request got no response.
pub(super) struct Unsent {
    pub(super) error: hyper::Error,
    /// The request, where surely none of it was written.
    pub(super) request: Option<Request<Body>>,
}

/// A connection.
pub(super) struct Lane {
    sender: http1::SendRequest<Body>,
    /// None once it has ended.
    connection: Option<http1::Connection<Stream, Body>>,
    gate: Arc<Gate>,
    waker: Waker,
    /// Since when nobody uses it.
    pub(super) idle_since: Instant,
}

impl Lane {
    /// # Errors
    /// The connection has ended already.
    pub(super) async fn over(stream: Stream) -> hyper::Result<Box<Self>> {
        let (sender, connection) = http1::handshake(stream).await?;
        let gate = Arc::new(Gate::default());
        let waker = Waker::from(gate.clone());
        Ok(Box::new(Self { sender, connection: Some(connection), gate, waker, idle_since: Instant::now() }))
    }

    /// Sends a request and waits for the head of its response.
    pub(super) async fn send(&mut self, request: Request<Body>) -> Result<Response<Incoming>, Unsent> {
        let sent = self.sender.try_send_request(request);
        self.drive(sent).await.map_err(|mut refused| {
            let request = refused.take_message();
            Unsent { error: refused.into_error(), request }
        })
    }

    /// Waits for what only this connection can bring: a response, or its body.
    pub(super) async fn drive<F: Future>(&mut self, future: F) -> F::Output {
        let mut future = pin!(future);
        poll_fn(|cx| self.turn(cx, future.as_mut())).await
    }

    fn turn<F: Future>(&mut self, cx: &Context<'_>, mut future: Pin<&mut F>) -> Poll<F::Output> {
        self.gate.shut(cx.waker());
        for _ in 0..TURNS {
            self.gate.woken.store(false, Ordering::SeqCst);
            if let Some(connection) = &mut self.connection
                && Pin::new(connection).poll(&mut Context::from_waker(&self.waker)).is_ready()
            {
                // Whatever waits for it is told so by its end.
                self.connection = None;
            }
            // It waits for the connection and nothing else, which has just had its turn.
            if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                self.gate.leave();
                return Poll::Ready(output);
            }
            if !self.gate.woken.load(Ordering::SeqCst) {
                break;
            }
        }
        self.gate.open();
        Poll::Pending
    }

    /// True where the next request can use it.
    pub(super) fn is_free(&mut self) -> bool {
        if !self.sender.is_ready()
            && let Some(connection) = &mut self.connection
            && Pin::new(connection).poll(&mut Context::from_waker(Waker::noop())).is_ready()
        {
            self.connection = None;
        }
        self.connection.is_some() && self.sender.is_ready()
    }
}

/// Wakes the call's task, unless it is at work on the connection anyhow: what one of the two does wakes the other, and a
/// task that wakes itself is run once more for nothing.
#[derive(Default)]
struct Gate {
    task: AtomicWaker,
    is_shut: AtomicBool,
    woken: AtomicBool,
}

impl Gate {
    /// From here on the task sees for itself what happens.
    fn shut(&self, task: &Waker) {
        self.task.register(task);
        self.is_shut.store(true, Ordering::SeqCst);
    }

    /// From here on the task is woken, also by what happened since it last looked.
    fn open(&self) {
        self.is_shut.store(false, Ordering::SeqCst);
        if self.woken.load(Ordering::SeqCst) {
            self.task.wake();
        }
    }

    /// From here on nobody is woken.
    fn leave(&self) {
        self.is_shut.store(false, Ordering::SeqCst);
        self.task.take();
    }
}

impl Wake for Gate {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // Either this sees that the gate is open, or whoever opens it sees this.
        self.woken.store(true, Ordering::SeqCst);
        if !self.is_shut.load(Ordering::SeqCst) {
            self.task.wake();
        }
    }
}

#[cfg(test)]
mod tests;
