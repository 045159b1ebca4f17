//! The node's side of a query: it pins what its store holds, executes leaf plans over the pinned rows and tells what
//! that cost.
//!
//! A query comes in three steps. `POST /v1/pin` takes a snapshot of every table that the query reads, so that a table
//! read twice in one query is the same table, and so that liveness and coverage are facts about the very rows that are
//! read. The stage follows over the worker protocol of `datafusion-distributed`; its leaf names the store whose rows it
//! reads, and a node that keeps another store refuses it: "whatever is local" would be a silently wrong answer.
//! `POST /v1/release` ends the query and returns what was read. A pin that nobody releases ends by its deadline.
//!
//! Queries run on threads of their own with a memory pool of their own, and are refused beyond [`pins::MAX_PINS`]:
//! looking at a node costs its routing nothing. A node never reads a file that a plan names, only its own.

pub mod estimates;
pub mod exclusions;
pub mod pins;
pub mod read;
pub mod scan;
pub mod sized;
pub mod sketches;
pub mod threads;
pub mod wire;

mod allow;
mod cells;
mod codec;
mod ids;
mod passing;
mod service;
mod sessions;
pub(crate) mod times;
mod weights;
mod window;

pub use allow::runs_on_nodes;
pub use codec::{MAX_WITHOUT, StoreScanCodec, filter_from, filter_to};
pub use service::{WorkerError, on_threads, register_bucket, routes, with_token};
pub use sessions::{LeafSessions, register_functions};
