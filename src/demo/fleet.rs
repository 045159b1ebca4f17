//! The demo's nodes: each can be killed, stopped and started again under the same name, address and data, as a host can.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use tokio::sync::Mutex;

use crate::cli::Failure;
use crate::listening::Listening;
use crate::processes::node::{Node, Settings};

/// All nodes of the demo, by number.
pub(crate) struct Fleet(Vec<Mutex<Slot>>);

struct Slot {
    settings: Settings,
    node: Option<Node>,
}

/// What became of a request to kill, stop or start a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    Done,
    /// It was so already.
    Already,
    /// There is no node of that number.
    Unknown,
}

impl Fleet {
    /// Starts every node; if one cannot start, those that did are ended.
    pub(crate) async fn start(settings: Vec<Settings>) -> Result<Self, Failure> {
        let mut slots = Vec::new();
        let outcomes = join_all(settings.iter().cloned().map(Node::start)).await;
        let mut failure = None;
        for (settings, outcome) in settings.into_iter().zip(outcomes) {
            match outcome {
                Ok(node) => slots.push(Mutex::new(Slot { settings, node: Some(node) })),
                Err(error) => failure = Some(error),
            }
        }
        let fleet = Self(slots);
        match failure {
            None => Ok(fleet),
            Some(failure) => {
                fleet.shutdown(Duration::from_secs(5)).await;
                Err(failure)
            }
        }
    }

    /// Says where every node listens; each writes its own `listening.json`.
    pub(crate) async fn announce(&self) -> Result<(), Failure> {
        for slot in &self.0 {
            let slot = slot.lock().await;
            if let Some(node) = &slot.node {
                let mut listening = Listening::default();
                node.announce(&mut listening);
                listening.write(&slot.settings.data_dir)?;
            }
        }
        Ok(())
    }

    /// URLs of the proxies.
    pub(crate) async fn proxy_urls(&self) -> Vec<String> {
        let mut urls = Vec::new();
        for slot in &self.0 {
            let slot = slot.lock().await;
            urls.extend(slot.node.as_ref().and_then(Node::proxy_address).map(|address| format!("http://{address}")));
        }
        urls
    }

    /// Addresses of the node APIs.
    pub(crate) async fn node_api_addresses(&self) -> Vec<String> {
        let mut addresses = Vec::new();
        for slot in &self.0 {
            let slot = slot.lock().await;
            addresses.extend(slot.node.as_ref().and_then(Node::node_api_address).map(|address| address.to_string()));
        }
        addresses
    }

    /// Ends a node without farewell.
    pub(crate) async fn kill(&self, number: usize) -> Change {
        let Some(slot) = self.0.get(number) else { return Change::Unknown };
        match slot.lock().await.node.take() {
            Some(node) => {
                // It joins threads that may be writing a file.
                let killed = tokio::task::spawn_blocking(move || node.kill()).await;
                if killed.is_err() {
                    tracing::error!(number, "the node's end panicked");
                }
                Change::Done
            }
            None => Change::Already,
        }
    }

    /// Ends a node cleanly.
    pub(crate) async fn stop(&self, number: usize, deadline: Duration) -> Change {
        let Some(slot) = self.0.get(number) else { return Change::Unknown };
        match slot.lock().await.node.take() {
            Some(node) => {
                node.shutdown(deadline).await;
                Change::Done
            }
            None => Change::Already,
        }
    }

    /// Starts a node that was killed or stopped, with a new boot id.
    pub(crate) async fn revive(&self, number: usize) -> Result<Change, Failure> {
        let Some(slot) = self.0.get(number) else { return Ok(Change::Unknown) };
        let mut slot = slot.lock().await;
        if slot.node.is_some() {
            return Ok(Change::Already);
        }
        let mut settings = slot.settings.clone();
        settings.identity.boot_id = lariat_schema::ids::BootId(uuid::Uuid::new_v4());
        slot.node = Some(Node::start(settings).await?);
        Ok(Change::Done)
    }

    /// Ends all nodes cleanly, at once.
    pub(crate) async fn shutdown(&self, deadline: Duration) {
        join_all((0..self.0.len()).map(|number| self.stop(number, deadline))).await;
    }
}

/// Folder of a node's data.
pub(crate) fn node_dir(data_dir: &Path, number: u16) -> PathBuf {
    data_dir.join(format!("node-{number}"))
}

/// The fleet, shared with the demo's own endpoints.
pub(crate) type SharedFleet = Arc<tokio::sync::OnceCell<Fleet>>;
