//! A client over a WebSocket, as the tests use it.

use std::net::SocketAddr;
use std::time::Duration;

use futures::{SinkExt, StreamExt};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

/// Nothing that a test waits for takes longer.
const PATIENCE: Duration = Duration::from_secs(30);

pub(super) struct Client(WebSocketStream<MaybeTlsStream<TcpStream>>);

/// Subscribes, as soon as a provider can be subscribed to, and returns the name.
pub(super) async fn subscribe(client: &mut Client, params: &str) -> String {
    let call = format!(r#"{{"jsonrpc":"2.0","id":"s","method":"eth_subscribe","params":{params}}}"#);
    for _ in 0..1_000 {
        client.send(&*call).await;
        loop {
            let reply = client.json().await;
            match reply["result"].as_str() {
                // Something of another subscription.
                _ if reply["id"] != "s" => {}
                Some(name) => return name.to_owned(),
                None if reply["error"]["code"] == -32000 => break,
                None => panic!("{reply}"),
            }
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("no provider gives {params}");
}

impl Client {
    /// Connects; panics where the upgrade is refused.
    pub(super) async fn connect(address: SocketAddr, path: &str) -> Self {
        Self::connect_with(address, path, &[]).await.unwrap_or_else(|(status, body)| panic!("{path}: {status} {body}"))
    }

    /// Connects with a small window, as somebody on a poor line.
    pub(super) async fn connect_narrow(address: SocketAddr, path: &str) -> Self {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4_096).unwrap();
        let stream = MaybeTlsStream::Plain(socket.connect(address).await.unwrap());
        let (stream, _) = tokio_tungstenite::client_async(format!("ws://{address}{path}"), stream).await.unwrap();
        Self(stream)
    }

    /// Connects with headers, or says how the upgrade was refused.
    pub(super) async fn connect_with(
        address: SocketAddr,
        path: &str,
        headers: &[(&'static str, &str)],
    ) -> Result<Self, (u16, String)> {
        let mut request = format!("ws://{address}{path}").into_client_request().unwrap();
        for (name, value) in headers {
            request.headers_mut().insert(*name, value.parse().unwrap());
        }
        match connect_async(request).await {
            Ok((stream, _)) => Ok(Self(stream)),
            Err(Error::Http(response)) => {
                let body = response.body().clone().unwrap_or_default();
                Err((response.status().as_u16(), String::from_utf8(body).unwrap()))
            }
            Err(error) => panic!("{path}: {error}"),
        }
    }

    pub(super) async fn send(&mut self, text: impl Into<String>) {
        self.0.send(Message::text(text.into())).await.unwrap();
    }

    pub(super) async fn send_binary(&mut self, bytes: Vec<u8>) {
        self.0.send(Message::binary(bytes)).await.unwrap();
    }

    async fn message(&mut self) -> Option<Result<Message, Error>> {
        loop {
            match tokio::time::timeout(PATIENCE, self.0.next()).await.expect("a frame within 30 s") {
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                message => return message,
            }
        }
    }

    /// The next frame as it came.
    pub(super) async fn text(&mut self) -> String {
        self.message().await.expect("a frame").unwrap().into_text().unwrap().to_string()
    }

    /// The next frame as JSON.
    pub(super) async fn json(&mut self) -> Value {
        serde_json::from_str(&self.text().await).unwrap()
    }

    pub(super) async fn ask(&mut self, text: impl Into<String>) -> Value {
        self.send(text).await;
        self.json().await
    }

    /// Code and reason of the close that ends the connection, whatever comes before it; none where it just ends.
    pub(super) async fn closed(&mut self) -> Option<(u16, String)> {
        loop {
            match self.message().await {
                Some(Ok(Message::Close(Some(frame)))) => return Some((frame.code.into(), frame.reason.to_string())),
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return None,
            }
        }
    }
}
