//! topology → bucket → scan → distribute → merge → coverage → APIs.

pub mod membership;

pub mod topology;

mod bucket;

mod scan;

mod distribute;

mod coverage;

pub mod engine;

pub mod ask;

pub mod answer;

pub mod limits;

mod cache;

pub mod api;

pub mod prometheus;

pub mod reports;

pub mod decisions;

pub mod feed;

mod ports;

mod flight_sql;

mod postgres;

pub mod dashboard;

pub mod server;

pub use server::{Config, Query, Settings, StartError, start};
pub use topology::ClusterConfig;
