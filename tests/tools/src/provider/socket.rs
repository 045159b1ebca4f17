//! The WebSocket side of a provider: calls as over HTTP, and subscriptions. One task owns the socket; calls and
//! subscriptions run beside it and hand their frames over through one bounded queue, so that a reader who is slow
//! slows its own provider connection and nothing else.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use lariat_schema::vocabulary::Transport;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message as Frame;
use tokio_tungstenite::tungstenite::protocol::Role;

use super::State;
use super::connection::ResetFlag;
use super::respond::{Message, Rendered, respond, result_text};
use super::script::Reply;
use crate::chain::{Domain, derive_bytes, hex_data};

/// Frames that wait for a slow reader before calls and subscriptions wait in turn.
const OUTBOX_FRAMES: usize = 256;
/// Calls and subscriptions of one socket at once; beyond it the socket is not read.
const TASKS_MAX: usize = 512;
/// Time between two pending transactions.
const PENDING_EVERY: Duration = Duration::from_millis(200);

/// What a task wants done with the socket.
enum Output {
    Text(String),
    Reset,
}

struct Socket {
    state: Arc<State>,
    outbox: mpsc::Sender<Output>,
    tasks: JoinSet<()>,
    subscriptions: HashMap<String, AbortHandle>,
    next_subscription: u64,
}

pub(crate) async fn run(state: Arc<State>, upgraded: TokioIo<Upgraded>, reset: ResetFlag) {
    let mut stream = WebSocketStream::from_raw_socket(upgraded, Role::Server, None).await;
    let (outbox, mut outputs) = mpsc::channel(OUTBOX_FRAMES);
    let own = Arc::clone(&state);
    let mut socket =
        Socket { state, outbox, tasks: JoinSet::new(), subscriptions: HashMap::new(), next_subscription: 1 };
    loop {
        tokio::select! {
            () = own.stop.cancelled() => {
                // The other side learns of the end even where the closing frame is not delivered.
                let _ = stream.close(None).await;
                return;
            }
            () = own.taken_down() => {
                reset.raise();
                return;
            }
            Some(_) = socket.tasks.join_next(), if !socket.tasks.is_empty() => {}
            output = outputs.recv() => match output {
                Some(Output::Text(text)) => if stream.send(Frame::text(text)).await.is_err() { return },
                Some(Output::Reset) | None => {
                    reset.raise();
                    return;
                }
            },
            frame = stream.next(), if socket.tasks.len() < TASKS_MAX => {
                let body = match frame {
                    Some(Ok(Frame::Text(text))) => Bytes::from(text),
                    Some(Ok(Frame::Binary(bytes))) => bytes,
                    Some(Ok(Frame::Ping(_) | Frame::Pong(_) | Frame::Frame(_))) => continue,
                    Some(Ok(Frame::Close(_)) | Err(_)) | None => return,
                };
                socket.take(body);
            }
        }
    }
}

impl Socket {
    fn take(&mut self, body: Bytes) {
        let state = Arc::clone(&self.state);
        if state.is_unreachable() {
            self.give(Rendered::Reset, Duration::ZERO);
            return;
        }
        if let Some(Message::Single(call)) = Message::parse(&body)
            && matches!(&*call.method, "eth_subscribe" | "eth_unsubscribe")
        {
            state.account.lock().stats.messages += 1;
            let planned = state.admit(Transport::Ws, &call, &body);
            let rendered = match planned.reply {
                Reply::Simulated if call.method == "eth_subscribe" => self.subscribe(&call.params(), call.id_text()),
                Reply::Simulated => self.unsubscribe(&call.params(), call.id_text()),
                reply => state.single(&call, reply),
            };
            self.give(rendered, planned.delay);
            return;
        }
        let outbox = self.outbox.clone();
        self.tasks.spawn(async move {
            let rendered = respond(&state, Transport::Ws, body).await;
            deliver(rendered, &outbox).await;
        });
    }

    fn give(&mut self, rendered: Rendered, delay: Duration) {
        let outbox = self.outbox.clone();
        self.tasks.spawn(async move {
            tokio::time::sleep(delay).await;
            deliver(rendered, &outbox).await;
        });
    }

    fn subscribe(&mut self, params: &Value, id: &str) -> Rendered {
        let state = Arc::clone(&self.state);
        let outbox = self.outbox.clone();
        let subscription = format!("{:#x}", 0x1000_u64.wrapping_add(self.next_subscription));
        let name = subscription.clone();
        let task = match params.get(0).and_then(Value::as_str) {
            Some("newHeads") => self.tasks.spawn(async move {
                follow(&state, &outbox, &name, |state, number| state.chain.header(number)).await;
            }),
            Some("logs") => {
                let filter = params.get(1).and_then(|filter| filter.get("address")).and_then(Value::as_str);
                let address = filter.map(str::to_owned);
                self.tasks.spawn(async move {
                    follow(&state, &outbox, &name, |state, number| state.chain.log(number, address.as_deref())).await;
                })
            }
            Some("newPendingTransactions") => self.tasks.spawn(async move { pending(&state, &outbox, &name).await }),
            _ => {
                let text = format!(
                    r#"{{"jsonrpc":"2.0","id":{id},"error":{{"code":-32602,"message":"no such subscription"}}}}"#
                );
                return Rendered::Message { status: 200, headers: Vec::new(), body: text.into() };
            }
        };
        self.next_subscription += 1;
        let text = result_text(id, &Value::String(subscription.clone()).to_string());
        self.subscriptions.insert(subscription, task);
        Rendered::Message { status: 200, headers: Vec::new(), body: text.into() }
    }

    fn unsubscribe(&mut self, params: &Value, id: &str) -> Rendered {
        let task = params.get(0).and_then(Value::as_str).and_then(|name| self.subscriptions.remove(name));
        if let Some(task) = &task {
            task.abort();
        }
        let text = result_text(id, if task.is_some() { "true" } else { "false" });
        Rendered::Message { status: 200, headers: Vec::new(), body: text.into() }
    }
}

async fn deliver(rendered: Rendered, outbox: &mpsc::Sender<Output>) {
    let output = match rendered {
        Rendered::Message { body, .. } => Output::Text(String::from_utf8_lossy(&body).into_owned()),
        Rendered::Truncated(body) => Output::Text(String::from_utf8_lossy(&body[..body.len() / 2]).into_owned()),
        Rendered::Hang | Rendered::Nothing => return,
        Rendered::Reset => Output::Reset,
    };
    // It fails only when the socket is gone, and then nobody waits for it.
    let _ = outbox.send(output).await;
}

async fn notify(outbox: &mpsc::Sender<Output>, subscription: &str, result: &Value) -> ControlFlow<()> {
    let frame = json!({
        "jsonrpc": "2.0",
        "method": "eth_subscription",
        "params": {"subscription": subscription, "result": result},
    });
    match outbox.send(Output::Text(frame.to_string())).await {
        Ok(()) => ControlFlow::Continue(()),
        Err(_) => ControlFlow::Break(()),
    }
}

/// Sends something of each block as this provider comes to see it.
async fn follow(
    state: &State,
    outbox: &mpsc::Sender<Output>,
    subscription: &str,
    make: impl Fn(&State, u64) -> Value + Send,
) {
    let mut next = state.height() + 1;
    let mut forks = state.chain.forks();
    loop {
        let lag = state.behaviour.read().lag_blocks;
        tokio::select! {
            () = state.chain.reached(next.saturating_add(lag)) => {}
            Ok(()) = forks.changed() => {
                // A fork is announced from its first block on.
                next = forks.borrow_and_update().last().map_or(next, |first| next.min(*first));
                continue;
            }
        }
        if state.height() < next {
            // The lag grew meanwhile.
            continue;
        }
        if state.is_unreachable() {
            let _ = outbox.send(Output::Reset).await;
            return;
        }
        if notify(outbox, subscription, &make(state, next)).await.is_break() {
            return;
        }
        state.announced.fetch_max(next, Ordering::AcqRel);
        next += 1;
    }
}

async fn pending(state: &State, outbox: &mpsc::Sender<Output>, subscription: &str) {
    for number in 0.. {
        tokio::time::sleep(PENDING_EVERY).await;
        let hash = hex_data(&derive_bytes(state.chain.settings().seed, Domain::Pending, number, 1));
        if notify(outbox, subscription, &Value::String(hash)).await.is_break() {
            return;
        }
    }
}
