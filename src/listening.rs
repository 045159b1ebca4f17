//! Says where a process listens: a line on stdout per listener once it accepts, and all of them in `listening.json`, so
//! that scripts that asked for port 0 can find it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;

use lariat_schema::layout::LISTENING_FILE;

use crate::cli::Failure;

/// Collects the listeners of one process.
#[derive(Debug, Default)]
pub(crate) struct Listening(BTreeMap<&'static str, String>);

impl Listening {
    /// Notes a listener of HTTP and says so on stdout.
    pub(crate) fn announce(&mut self, name: &'static str, address: SocketAddr) {
        self.announce_url(name, format!("http://{address}"));
    }

    /// Notes a listener of any protocol and says so on stdout.
    #[allow(clippy::print_stdout, reason = "the contract's line for scripts")]
    pub(crate) fn announce_url(&mut self, name: &'static str, url: String) {
        println!("listening {name} {url}");
        self.0.insert(name, url);
    }

    /// Writes `listening.json`, whole or not at all.
    pub(crate) fn write(&self, data_dir: &Path) -> Result<(), Failure> {
        let path = data_dir.join(LISTENING_FILE);
        let cannot = |error: std::io::Error| {
            Failure::Failed(format!("cannot write {}: {error}; give a writable folder with --data-dir", path.display()))
        };
        std::fs::create_dir_all(data_dir).map_err(cannot)?;
        // A node and a query service may share a folder: each keeps the other's lines.
        let mut all: BTreeMap<String, String> =
            std::fs::read(&path).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
        all.extend(self.0.iter().map(|(name, url)| ((*name).to_owned(), url.clone())));
        let text = serde_json::to_string_pretty(&all).map_err(|error| cannot(error.into()))?;
        let draft = path.with_extension("json.tmp");
        std::fs::write(&draft, text + "\n").map_err(cannot)?;
        std::fs::rename(&draft, &path).map_err(cannot)
    }
}
